//! Sleeping and timers: nanosleep and its restarts, interval timers, POSIX timers, timer files, CPU time.

use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

use belljar_guest_tests::{
    check, check_eq, child, errno, handle, in_child, seconds, timespec, timeval,
};
use libc::{CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME, CLOCK_THREAD_CPUTIME_ID};

static COUNT: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicI32 = AtomicI32::new(0);
static OVERRUN: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(_: i32, info: *mut libc::siginfo_t) {
    // SAFETY: the kernel hands over a whole siginfo_t: timer number, overrun and value lie behind
    // the header.
    let words = unsafe { std::slice::from_raw_parts(info.cast::<i32>(), 8) };
    OVERRUN.fetch_add(words[5], SeqCst);
    VALUE.store(words[6], SeqCst);
    COUNT.fetch_add(1, SeqCst);
}

fn set_itimer(which: i32, value: f64, interval: f64) {
    let new = libc::itimerval { it_interval: timeval(interval), it_value: timeval(value) };
    // SAFETY: a valid setting.
    check_eq!(unsafe { libc::syscall(libc::SYS_setitimer, which, &new, 0) }, 0);
}

fn nanosleep(time: f64) -> (i32, f64) {
    let mut left = timespec(0.0);
    // SAFETY: both places are valid.
    let result = unsafe { libc::nanosleep(&timespec(time), &mut left) };
    (if result < 0 { errno() } else { 0 }, left.tv_sec as f64 + left.tv_nsec as f64 / 1e9)
}

fn sleeps_end_early_for_a_handler_only() {
    handle(libc::SIGALRM, 0, on_signal);
    // Again and again: the first may ring before the sleep has begun.
    set_itimer(libc::ITIMER_REAL, 0.02, 0.02);
    let (error, left) = nanosleep(5.0);
    check_eq!(error, libc::EINTR);
    check!(left > 1.0 && left < 5.0);
    // SAFETY: no handler is called.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_IGN) };
    set_itimer(libc::ITIMER_REAL, 0.02, 0.0);
    let start = seconds(CLOCK_MONOTONIC);
    check_eq!(nanosleep(0.06).0, 0);
    check!(seconds(CLOCK_MONOTONIC) - start >= 0.06);
    let bad = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    // SAFETY: a valid place.
    check_eq!(unsafe { libc::nanosleep(&bad, null_mut()) }, -1);
    check_eq!(errno(), libc::EINVAL);
    // SAFETY: plain calls.
    unsafe {
        let until = timespec(seconds(CLOCK_MONOTONIC) + 0.01);
        check_eq!(
            libc::clock_nanosleep(CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &until, null_mut()),
            0
        );
        check!(seconds(CLOCK_MONOTONIC) >= until.tv_sec as f64 + until.tv_nsec as f64 / 1e9);
        let short = timespec(0.001);
        check_eq!(
            libc::clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID + 100, 0, &short, null_mut()),
            libc::EINVAL
        );
        check_eq!(
            libc::clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &short, null_mut()),
            libc::EINVAL
        );
    }
}

fn a_stop_does_not_cut_a_sleep_short() {
    let child = child(|| {
        let start = seconds(CLOCK_MONOTONIC);
        let slept = nanosleep(0.2).0 == 0 && seconds(CLOCK_MONOTONIC) - start >= 0.2;
        i32::from(!slept)
    });
    nanosleep(0.05);
    let mut status = 0;
    // SAFETY: plain calls about our own child.
    unsafe {
        libc::kill(child, libc::SIGSTOP);
        check_eq!(libc::waitpid(child, &mut status, libc::WUNTRACED), child);
        check!(libc::WIFSTOPPED(status));
        libc::kill(child, libc::SIGCONT);
        check_eq!(libc::waitpid(child, &mut status, 0), child);
    }
    check_eq!(status, 0);
}

fn interval_timers_ring() {
    handle(libc::SIGALRM, 0, on_signal);
    COUNT.store(0, SeqCst);
    set_itimer(libc::ITIMER_REAL, 0.005, 0.005);
    while COUNT.load(SeqCst) < 5 {
        // SAFETY: a plain call.
        unsafe { libc::pause() };
    }
    set_itimer(libc::ITIMER_REAL, 0.0, 0.0);
    // SAFETY: plain calls.
    unsafe {
        check_eq!(libc::alarm(100), 0);
        check!(libc::alarm(0) >= 99);
    }
    handle(libc::SIGVTALRM, 0, on_signal);
    COUNT.store(0, SeqCst);
    set_itimer(libc::ITIMER_VIRTUAL, 0.02, 0.02);
    let start = seconds(CLOCK_PROCESS_CPUTIME_ID);
    while COUNT.load(SeqCst) < 3 {
        std::hint::spin_loop();
    }
    check!(seconds(CLOCK_PROCESS_CPUTIME_ID) - start > 0.03);
    set_itimer(libc::ITIMER_VIRTUAL, 0.0, 0.0);
}

struct Timer(libc::timer_t);

impl Timer {
    fn new(clock: i32) -> Self {
        handle(libc::SIGUSR1, 0, on_signal);
        // SAFETY: all-zero structures are valid.
        unsafe {
            let mut event: libc::sigevent = zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = libc::SIGUSR1;
            event.sigev_value.sival_ptr = 77 as *mut libc::c_void;
            let mut timer = zeroed();
            check_eq!(libc::timer_create(clock, &mut event, &mut timer), 0);
            Self(timer)
        }
    }

    fn set(&self, value: f64, interval: f64) {
        let new = libc::itimerspec { it_interval: timespec(interval), it_value: timespec(value) };
        // SAFETY: a valid timer and setting.
        check_eq!(unsafe { libc::timer_settime(self.0, 0, &new, null_mut()) }, 0);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: it was made.
        check_eq!(unsafe { libc::timer_delete(self.0) }, 0);
    }
}

fn posix_timers_ring_and_count_overruns() {
    let timer = Timer::new(CLOCK_MONOTONIC);
    COUNT.store(0, SeqCst);
    timer.set(0.002, 0.002);
    while COUNT.load(SeqCst) < 10 {
        // SAFETY: a plain call.
        unsafe { libc::pause() };
    }
    check_eq!(VALUE.load(SeqCst), 77);
    timer.set(0.0, 0.0);
    drop(timer);

    // While its signal is blocked a timer counts instead of queueing.
    let timer = Timer::new(CLOCK_REALTIME);
    // SAFETY: all-zero sets are initialised first.
    unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::sigprocmask(libc::SIG_BLOCK, &set, null_mut());
        timer.set(0.001, 0.001);
        nanosleep(0.03);
        timer.set(0.0, 0.0);
        COUNT.store(0, SeqCst);
        OVERRUN.store(0, SeqCst);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, null_mut());
        // Linux takes back the signal of a timer that was stopped, or delivers it: once at most.
        check!(COUNT.load(SeqCst) <= 1);
    }
    drop(timer);

    let timer = Timer::new(CLOCK_THREAD_CPUTIME_ID);
    COUNT.store(0, SeqCst);
    timer.set(0.03, 0.0);
    let start = seconds(CLOCK_THREAD_CPUTIME_ID);
    while COUNT.load(SeqCst) == 0 {
        std::hint::spin_loop();
    }
    check!(seconds(CLOCK_THREAD_CPUTIME_ID) - start >= 0.02);
    drop(timer);
    // SAFETY: a number that no timer has.
    check_eq!(unsafe { libc::syscall(libc::SYS_timer_delete, 12345) }, -1);
    check_eq!(errno(), libc::EINVAL);
}

fn timer_files_are_read_and_polled() {
    // SAFETY: plain calls on a descriptor of our own.
    unsafe {
        let fd = libc::timerfd_create(CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC);
        check!(fd >= 0);
        let mut count = 0_u64;
        let mut read = || libc::read(fd, (&raw mut count).cast(), 8);
        check_eq!(read(), -1);
        check_eq!(errno(), libc::EAGAIN);
        let new = libc::itimerspec { it_interval: timespec(0.01), it_value: timespec(0.01) };
        check_eq!(libc::timerfd_settime(fd, 0, &new, null_mut()), 0);
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        check_eq!(libc::poll(&mut poll, 1, 5000), 1);
        check_eq!(poll.revents, libc::POLLIN);
        nanosleep(0.035);
        check_eq!(read(), 8);
        check!(count >= 3);
        let mut now: libc::itimerspec = zeroed();
        check_eq!(libc::timerfd_gettime(fd, &mut now), 0);
        check!(now.it_value.tv_nsec > 0 && now.it_value.tv_nsec <= 10_000_000);
        check_eq!(libc::close(fd), 0);
    }
}

fn cpu_time_is_limited_and_told() {
    let start = seconds(CLOCK_PROCESS_CPUTIME_ID);
    nanosleep(0.05);
    check!(seconds(CLOCK_PROCESS_CPUTIME_ID) - start < 0.045);
    let status = in_child(|| {
        let limit = libc::rlimit { rlim_cur: 1, rlim_max: 2 };
        // SAFETY: a valid limit.
        check_eq!(unsafe { libc::setrlimit(libc::RLIMIT_CPU, &limit) }, 0);
        loop {
            std::hint::spin_loop();
        }
    });
    check!(libc::WIFSIGNALED(status));
    check_eq!(libc::WTERMSIG(status), libc::SIGXCPU);
    // SAFETY: valid places.
    unsafe {
        let mut usage: libc::rusage = zeroed();
        check_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage), 0);
        check!(
            usage.ru_utime.tv_sec + usage.ru_stime.tv_sec >= 1 || usage.ru_utime.tv_usec > 900_000
        );
        let mut clock = 0;
        check_eq!(libc::clock_getcpuclockid(libc::getpid(), &mut clock), 0);
        check!(seconds(clock) > 0.0);
    }
}

fn main() {
    sleeps_end_early_for_a_handler_only();
    a_stop_does_not_cut_a_sleep_short();
    interval_timers_ring();
    posix_timers_ring_and_count_overruns();
    timer_files_are_read_and_polled();
    cpu_time_is_limited_and_told();
}
