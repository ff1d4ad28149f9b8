//! Waits that a signal would end for good (signal(7)): none ends but by its time while no signal comes. Short ones, so
//! that each thread is as often on its way into a wait, or out of it, as in it; and some that last.
//! `short_waits [for-ever]`.

use std::mem::{size_of, zeroed};
use std::ptr::{null, null_mut};
use std::thread;
use std::time::{Duration, Instant};

use belljar_guest_tests::{check_eq, err, ok, timespec, timeval};
use libc::{EAGAIN, SIGUSR1};

/// How long the waits of one round last, in seconds.
const WAITS: [f64; 6] = [1e-6, 2e-5, 5e-5, 2e-6, 1e-4, 0.02];

fn sigtimedwait(seconds: f64) {
    // SAFETY: the set is initialised first, and the places are valid.
    unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGUSR1);
        let result = libc::sigtimedwait(&set, null_mut(), &timespec(seconds));
        check_eq!(err(result), EAGAIN, "sigtimedwait");
    }
}

fn epoll(set: i32, seconds: f64) {
    // SAFETY: a valid place for one event, and no mask.
    unsafe {
        let mut event: libc::epoll_event = zeroed();
        let (event, time) = (&raw mut event, timespec(seconds));
        let none = null::<libc::sigset_t>();
        let size = size_of::<u64>();
        let count = libc::syscall(libc::SYS_epoll_pwait2, set, event, 1, &time, none, size);
        check_eq!(ok(count), 0, "epoll_pwait2");
    }
}

fn semtimedop(set: i32, seconds: f64) {
    let take = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
    // SAFETY: one operation, and a valid time.
    let result =
        unsafe { libc::syscall(libc::SYS_semtimedop, set, &raw const take, 1, &timespec(seconds)) };
    check_eq!(err(result), EAGAIN, "semtimedop");
}

fn receive(socket: i32, seconds: f64) {
    let timeout = timeval(seconds.max(1e-5));
    let size = size_of::<libc::timeval>() as u32;
    let mut byte = 0_u8;
    // SAFETY: a valid time, and a valid place for one byte.
    unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
        ok(libc::setsockopt(socket, level, option, (&raw const timeout).cast(), size));
        let result = libc::recv(socket, (&raw mut byte).cast(), 1, 0);
        check_eq!(err(result as i64), EAGAIN, "recv with SO_RCVTIMEO");
    }
}

fn main() {
    let end = match std::env::args().nth(1).as_deref() {
        Some("for-ever") => None,
        _ => Some(Instant::now() + Duration::from_millis(300)),
    };
    let mut sockets = [0; 2];
    // SAFETY: plain calls, and a valid place for two descriptors.
    let (epoll_set, semaphores) = unsafe {
        ok(libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, sockets.as_mut_ptr()));
        (ok(libc::epoll_create1(0)), ok(libc::semget(libc::IPC_PRIVATE, 1, 0o600)))
    };
    let waits: [Box<dyn Fn(f64) + Send>; 4] = [
        Box::new(sigtimedwait),
        Box::new(move |seconds| epoll(epoll_set, seconds)),
        Box::new(move |seconds| semtimedop(semaphores, seconds)),
        Box::new(move |seconds| receive(sockets[0], seconds)),
    ];
    let threads = waits.map(|wait| {
        thread::spawn(move || {
            while end.is_none_or(|end| Instant::now() < end) {
                WAITS.into_iter().for_each(&wait);
            }
        })
    });
    println!("ready");
    for thread in threads {
        thread.join().unwrap();
    }
    // SAFETY: a plain call.
    ok(unsafe { libc::semctl(semaphores, 0, libc::IPC_RMID) });
}
