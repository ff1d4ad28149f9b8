//! Files that wait for events, of a process that goes on in another machine: timerfd, signalfd, eventfd, and the epoll
//! sets that watch them, level- and edge-triggered, fired once, nested. `moved_events [wait]`.

use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use belljar_guest_tests::moved::wait_to_be_moved;
use belljar_guest_tests::{check, check_eq, errno, ok, seconds, timespec};
use libc::{CLOCK_MONOTONIC, CLOCK_REALTIME, EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLOUT, SIGUSR1};

fn read_u64(fd: i32) -> Option<u64> {
    let mut value = 0_u64;
    // SAFETY: a valid place.
    match unsafe { libc::read(fd, (&raw mut value).cast(), 8) } {
        8 => Some(value),
        _ => {
            check_eq!(errno(), libc::EAGAIN);
            None
        }
    }
}

fn write_u64(fd: i32, value: u64) {
    // SAFETY: a valid place.
    check_eq!(unsafe { libc::write(fd, (&raw const value).cast(), 8) }, 8);
}

fn timerfd(clock: i32, flags: i32, value: f64, interval: f64) -> i32 {
    let new = libc::itimerspec { it_interval: timespec(interval), it_value: timespec(value) };
    // SAFETY: a valid setting.
    unsafe {
        let fd = ok(libc::timerfd_create(clock, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC));
        ok(libc::timerfd_settime(fd, flags, &new, null_mut()));
        fd
    }
}

fn left(fd: i32) -> (f64, f64) {
    // SAFETY: a valid place.
    let now = unsafe {
        let mut now: libc::itimerspec = zeroed();
        ok(libc::timerfd_gettime(fd, &mut now));
        now
    };
    let seconds = |time: libc::timespec| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    (seconds(now.it_value), seconds(now.it_interval))
}

fn eventfd(count: u32, flags: i32) -> i32 {
    // SAFETY: a plain call.
    ok(unsafe { libc::eventfd(count, flags | libc::EFD_NONBLOCK) })
}

struct Set(i32);

impl Set {
    fn new() -> Self {
        // SAFETY: a plain call.
        Self(ok(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }))
    }

    fn ctl(&self, op: i32, fd: i32, events: i32, data: u64) {
        let mut event = libc::epoll_event { events: events as u32, u64: data };
        // SAFETY: a valid event.
        ok(unsafe { libc::epoll_ctl(self.0, op, fd, &mut event) });
    }

    fn add(&self, fd: i32, events: i32, data: u64) {
        self.ctl(libc::EPOLL_CTL_ADD, fd, events, data);
    }

    /// The data and events of what is ready, by data.
    fn ready(&self) -> Vec<(u64, i32)> {
        // SAFETY: valid places.
        let (n, events) = unsafe {
            let mut events: [libc::epoll_event; 16] = zeroed();
            (ok(libc::epoll_wait(self.0, events.as_mut_ptr(), 16, 0)), events)
        };
        let mut ready: Vec<_> =
            events[..n as usize].iter().map(|event| (event.u64, event.events as i32)).collect();
        ready.sort_unstable();
        ready
    }
}

fn take_signal(fd: i32) -> Option<u32> {
    // SAFETY: a valid place.
    unsafe {
        let mut info: libc::signalfd_siginfo = zeroed();
        match libc::read(fd, (&raw mut info).cast(), size_of_val(&info)) {
            128 => Some(info.ssi_signo),
            _ => {
                check_eq!(errno(), libc::EAGAIN);
                None
            }
        }
    }
}

static WOKEN: AtomicBool = AtomicBool::new(false);

fn main() {
    let periodic = timerfd(CLOCK_MONOTONIC, 0, 0.01, 0.01);
    let once = timerfd(CLOCK_MONOTONIC, 0, 500.0, 0.0);
    let wall = seconds(CLOCK_REALTIME) + 5e5;
    let absolute = timerfd(CLOCK_REALTIME, libc::TFD_TIMER_ABSTIME, wall, 3.0);
    let unset = timerfd(CLOCK_REALTIME, 0, 0.0, 0.0);
    // It has rung when the machine is left.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let due = |clock, fd| (seconds(clock) + left(fd).0, left(fd).0 + seconds(clock));
    let once_due = due(CLOCK_MONOTONIC, once);

    // SAFETY: the set is initialised first.
    let signals = unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGUSR1);
        ok(libc::pthread_sigmask(libc::SIG_BLOCK, &set, null_mut()));
        ok(libc::signalfd(-1, &set, libc::SFD_NONBLOCK))
    };
    let (level, edge, fired, later) = (eventfd(5, 0), eventfd(1, 0), eventfd(1, 0), eventfd(0, 0));
    let semaphore = eventfd(2, libc::EFD_SEMAPHORE);
    let (set, inner) = (Set::new(), Set::new());
    set.add(level, EPOLLIN, 0x1111_2222_3333_4444);
    set.add(edge, EPOLLIN | EPOLLET, 2);
    set.add(fired, EPOLLIN | EPOLLONESHOT, 3);
    set.add(later, EPOLLIN, 4);
    set.add(signals, EPOLLIN, 5);
    inner.add(semaphore, EPOLLIN | EPOLLOUT, 6);
    set.add(inner.0, EPOLLIN, 7);
    // Edge and oneshot are told now, and not again.
    let told: Vec<u64> = set.ready().into_iter().map(|(data, _)| data).collect();
    check_eq!(told, [2, 3, 7, 0x1111_2222_3333_4444]);
    // Ready since then, and not told yet.
    let fresh = eventfd(1, 0);
    set.add(fresh, EPOLLIN | EPOLLET, 8);

    // A thread that sleeps in epoll_wait(2) meanwhile.
    let (waits, wakes) = (Set::new(), eventfd(0, 0));
    waits.add(wakes, EPOLLIN, 9);
    let sleeper = waits.0;
    let thread = std::thread::spawn(move || {
        // SAFETY: a valid place.
        unsafe {
            let mut event: libc::epoll_event = zeroed();
            check_eq!(libc::epoll_wait(sleeper, &mut event, 1, -1), 1);
            check_eq!({ event.u64 }, 9);
        }
        WOKEN.store(true, SeqCst);
    });

    wait_to_be_moved();

    // It rang many times, and rings on.
    check!(read_u64(periodic).is_some_and(|count| count >= 1));
    while read_u64(periodic).is_none() {}
    check_eq!(left(periodic).1, 0.01);
    let now = due(CLOCK_MONOTONIC, once);
    check!(now.0 - 60.0 <= once_due.1 && once_due.0 <= now.1 + 60.0, "{now:?} {once_due:?}");
    check_eq!((left(once).1, read_u64(once)), (0.0, None));
    let (value, interval) = left(absolute);
    check!(value > 4e5 && value <= 5e5 && interval == 3.0, "{value} {interval}");
    check_eq!(left(unset), (0.0, 0.0));

    check_eq!(set.ready(), [(7, EPOLLIN), (8, EPOLLIN), (0x1111_2222_3333_4444, EPOLLIN)]);
    check_eq!(set.ready(), [(7, EPOLLIN), (0x1111_2222_3333_4444, EPOLLIN)]);
    check_eq!(inner.ready(), [(6, EPOLLIN | EPOLLOUT)]);
    // A new edge is told, what fired once is not until it is armed again.
    write_u64(edge, 1);
    write_u64(fired, 1);
    write_u64(later, 1);
    check_eq!(read_u64(level), Some(5));
    check_eq!(set.ready(), [(2, EPOLLIN), (4, EPOLLIN), (7, EPOLLIN)]);
    set.ctl(libc::EPOLL_CTL_MOD, fired, EPOLLIN | EPOLLONESHOT, 33);
    check_eq!(set.ready(), [(4, EPOLLIN), (7, EPOLLIN), (33, EPOLLIN)]);
    check_eq!((read_u64(semaphore), read_u64(semaphore)), (Some(1), Some(1)));
    check_eq!(read_u64(semaphore), None);
    check_eq!(set.ready(), [(4, EPOLLIN), (7, EPOLLIN)]);
    set.ctl(libc::EPOLL_CTL_DEL, inner.0, 0, 0);
    check_eq!(take_signal(signals), None);
    // SAFETY: a plain call.
    ok(unsafe { libc::kill(libc::getpid(), SIGUSR1) });
    check_eq!(set.ready(), [(4, EPOLLIN), (5, EPOLLIN)]);
    check_eq!((take_signal(signals), take_signal(signals)), (Some(SIGUSR1 as u32), None));
    check!(!WOKEN.load(SeqCst));
    write_u64(wakes, 1);
    thread.join().unwrap();
    println!("events are as they were");
}
