//! Timers and clocks of a process that goes on in another machine: what is left of a timer, what it does when it
//! rings, what was missed, and how much CPU time was used. `moved_timers [wait]`.

use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use belljar_guest_tests::moved::wait_to_be_moved;
use belljar_guest_tests::{check, check_eq, err, in_child, ok, seconds, timespec, timeval};
use libc::{
    CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME,
    CLOCK_THREAD_CPUTIME_ID, SIGRTMIN,
};

/// When a timer rings, as far as looking at clock and timer can tell.
#[derive(Clone, Copy, Debug)]
struct Due(f64, f64);

impl Due {
    fn of(clock: i32, left: impl Fn() -> f64) -> Self {
        let (before, left, after) = (seconds(clock), left(), seconds(clock));
        // A clock that counts microseconds may round.
        Self(before + left - 1e-4, after + left + 1e-4)
    }

    fn is_same_as(self, other: Self) -> bool {
        self.0 <= other.1 && other.0 <= self.1
    }
}

fn itimer(which: i32) -> (f64, f64) {
    // SAFETY: an all-zero setting is valid, and the place is.
    let now = unsafe {
        let mut now: libc::itimerval = zeroed();
        ok(libc::syscall(libc::SYS_getitimer, which, &raw mut now) as i32);
        now
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    (seconds(now.it_value), seconds(now.it_interval))
}

fn set_itimer(which: i32, value: f64, interval: f64) {
    let new = libc::itimerval { it_interval: timeval(interval), it_value: timeval(value) };
    // SAFETY: a valid setting.
    ok(unsafe { libc::syscall(libc::SYS_setitimer, which, &new, 0) } as i32);
}

/// A timer by its number, without the C library's.
struct Timer(i32);

impl Timer {
    fn new(clock: i32, notify: i32, signal: i32, value: usize, tid: i32) -> Self {
        // SAFETY: all-zero structures are valid, and the places are.
        unsafe {
            let mut event: libc::sigevent = zeroed();
            event.sigev_notify = notify;
            event.sigev_signo = signal;
            event.sigev_value.sival_ptr = value as *mut libc::c_void;
            event.sigev_notify_thread_id = tid;
            let mut id = 0;
            ok(libc::syscall(libc::SYS_timer_create, clock, &event, &raw mut id) as i32);
            Self(id)
        }
    }

    fn set(&self, flags: i32, value: f64, interval: f64) {
        let new = libc::itimerspec { it_interval: timespec(interval), it_value: timespec(value) };
        // SAFETY: a valid setting.
        ok(unsafe { libc::syscall(libc::SYS_timer_settime, self.0, flags, &new, 0) } as i32);
    }

    fn get(&self) -> (f64, f64) {
        let seconds = |time: libc::timespec| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
        // SAFETY: a valid place.
        unsafe {
            let mut now: libc::itimerspec = zeroed();
            ok(libc::syscall(libc::SYS_timer_gettime, self.0, &raw mut now) as i32);
            (seconds(now.it_value), seconds(now.it_interval))
        }
    }

    fn due(&self, clock: i32) -> Due {
        Due::of(clock, || self.get().0)
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: the set is initialised first.
    unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&mut set);
        signals.iter().for_each(|signal| ok_void(libc::sigaddset(&mut set, *signal)));
        set
    }
}

fn ok_void(result: i32) {
    ok(result);
}

/// Waits for a signal; its value and its overrun.
fn take(signal: i32) -> (usize, i32) {
    // SAFETY: valid places; a timer's number, overrun and value lie behind the header of siginfo_t.
    unsafe {
        let mut info: libc::siginfo_t = zeroed();
        check_eq!(libc::sigwaitinfo(&set_of(&[signal]), &mut info), signal);
        let words = std::slice::from_raw_parts((&raw const info).cast::<i32>(), 8);
        (words[6] as usize, words[5])
    }
}

fn burn(clock: i32, amount: f64) {
    let end = seconds(clock) + amount;
    while seconds(clock) < end {
        std::hint::spin_loop();
    }
}

fn children_time() -> f64 {
    // SAFETY: an all-zero place is valid.
    unsafe {
        let mut usage: libc::rusage = zeroed();
        ok(libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage));
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    }
}

static RINGS: AtomicU32 = AtomicU32::new(0);
static TID: AtomicU32 = AtomicU32::new(0);

fn main() {
    let [periodic, for_thread, on_cpu, on_thread_cpu] = [1, 2, 3, 4].map(|n| SIGRTMIN() + n);
    let all = set_of(&[periodic, for_thread, on_cpu, on_thread_cpu, libc::SIGALRM]);
    // SAFETY: a valid set.
    ok(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &all, null_mut()) });
    std::thread::spawn(move || {
        // SAFETY: a plain call.
        TID.store(unsafe { libc::gettid() } as u32, SeqCst);
        loop {
            check_eq!(take(for_thread).0, 55);
            RINGS.fetch_add(1, SeqCst);
        }
    });
    while TID.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    let tid = TID.load(SeqCst) as i32;

    burn(CLOCK_PROCESS_CPUTIME_ID, 0.3);
    in_child(|| {
        burn(CLOCK_PROCESS_CPUTIME_ID, 0.1);
        0
    });
    set_itimer(libc::ITIMER_REAL, 900.0, 7.0);
    set_itimer(libc::ITIMER_VIRTUAL, 800.0, 6.0);
    set_itimer(libc::ITIMER_PROF, 700.0, 0.0);
    let (signal, none) = (libc::SIGEV_SIGNAL, libc::SIGEV_NONE);
    let gone = Timer::new(CLOCK_MONOTONIC, none, 0, 0, 0);
    let rings = Timer::new(CLOCK_MONOTONIC, signal, periodic, 77, 0);
    let absolute = Timer::new(CLOCK_REALTIME, signal, periodic, 1, 0);
    let relative = Timer::new(CLOCK_REALTIME, signal, periodic, 1, 0);
    let read_only = Timer::new(CLOCK_BOOTTIME, none, 0, 0, 0);
    let to_thread = Timer::new(CLOCK_MONOTONIC, libc::SIGEV_THREAD_ID, for_thread, 55, tid);
    let cpu = Timer::new(CLOCK_PROCESS_CPUTIME_ID, signal, on_cpu, 33, 0);
    let thread_cpu = Timer::new(CLOCK_THREAD_CPUTIME_ID, signal, on_thread_cpu, 44, 0);
    let idle = Timer::new(CLOCK_MONOTONIC, signal, periodic, 1, 0);
    // SAFETY: a number.
    ok(unsafe { libc::syscall(libc::SYS_timer_delete, gone.0) } as i32);
    let wall = seconds(CLOCK_REALTIME) + 5e5;
    absolute.set(libc::TIMER_ABSTIME, wall, 0.0);
    relative.set(0, 600.0, 5.0);
    read_only.set(0, 500.0, 0.0);
    to_thread.set(0, 0.01, 0.01);
    let cpu_end = seconds(CLOCK_PROCESS_CPUTIME_ID) + 0.4;
    cpu.set(libc::TIMER_ABSTIME, cpu_end, 0.0);
    let thread_end = seconds(CLOCK_THREAD_CPUTIME_ID) + 0.5;
    thread_cpu.set(libc::TIMER_ABSTIME, thread_end, 0.0);
    // Its signal waits, and stands for more than one expiration.
    rings.set(0, 0.001, 0.001);
    std::thread::sleep(std::time::Duration::from_millis(20));

    let real_due = Due::of(CLOCK_MONOTONIC, || itimer(libc::ITIMER_REAL).0);
    let relative_due = relative.due(CLOCK_MONOTONIC);
    let read_only_due = read_only.due(CLOCK_BOOTTIME);
    let used = (seconds(CLOCK_PROCESS_CPUTIME_ID), seconds(CLOCK_THREAD_CPUTIME_ID));
    let children = children_time();
    let rung = RINGS.load(SeqCst);

    wait_to_be_moved();

    check!(seconds(CLOCK_PROCESS_CPUTIME_ID) >= used.0, "CPU time went back from {}", used.0);
    check!(seconds(CLOCK_THREAD_CPUTIME_ID) >= used.1);
    check_eq!(children_time(), children);
    let real_now = Due::of(CLOCK_MONOTONIC, || itimer(libc::ITIMER_REAL).0);
    check!(real_now.is_same_as(real_due), "{real_now:?} is not {real_due:?}");
    check_eq!(itimer(libc::ITIMER_REAL).1, 7.0);
    let (value, interval) = itimer(libc::ITIMER_VIRTUAL);
    check!(value > 700.0 && value <= 800.02 && interval == 6.0, "{value} {interval}");
    let (value, interval) = itimer(libc::ITIMER_PROF);
    check!(value > 600.0 && value <= 700.02 && interval == 0.0, "{value} {interval}");
    // SAFETY: a place that is not written.
    let now = unsafe { libc::syscall(libc::SYS_timer_gettime, gone.0, 8) };
    check_eq!((err(now), idle.get()), (libc::EINVAL, (0.0, 0.0)));
    let due = absolute.due(CLOCK_REALTIME);
    check!(due.is_same_as(Due(wall - 1e-3, wall + 1e-3)), "{due:?} is not {wall}");
    let due = relative.due(CLOCK_MONOTONIC);
    check!(due.is_same_as(relative_due), "{due:?} is not {relative_due:?}");
    check_eq!(relative.get().1, 5.0);
    let due = read_only.due(CLOCK_BOOTTIME);
    check!(due.is_same_as(read_only_due), "{due:?} is not {read_only_due:?}");
    // The one that rang rings on, and what was missed is told.
    let (value, overrun) = take(periodic);
    check_eq!(value, 77);
    check!(overrun > 0);
    check_eq!(rings.get().1, 0.001);
    check_eq!(take(periodic).0, 77);
    while RINGS.load(SeqCst) < rung + 3 {
        std::thread::yield_now();
    }
    // CPU time counts on from what was used.
    burn(CLOCK_PROCESS_CPUTIME_ID, 0.5);
    check_eq!(take(on_cpu).0, 33);
    check!(seconds(CLOCK_PROCESS_CPUTIME_ID) >= cpu_end);
    burn(CLOCK_THREAD_CPUTIME_ID, 0.5);
    check_eq!(take(on_thread_cpu).0, 44);
    check!(seconds(CLOCK_THREAD_CPUTIME_ID) >= thread_end);
    println!("timers are as they were");
}
