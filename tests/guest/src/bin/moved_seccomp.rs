//! Restricted system calls of a process that goes on in another machine: filters of the process, more of one thread,
//! strict mode of another, and what a child then inherits. `moved_seccomp [wait]`. With `listen` somebody listens to its
//! filter, which nobody can move.
//!
//! PROCESS_MODEL.md, Signals and tracing: seccomp: strict and filter.

use belljar_guest_tests::moved::wait_to_be_moved;
use belljar_guest_tests::seccomp::*;
use belljar_guest_tests::*;
use std::ptr::null;
use std::sync::Barrier;

const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const NOTHING: [u64; 6] = [0; 6];

fn getppid() -> i64 {
    call(libc::SYS_getppid, NOTHING)
}

/// A thread in strict mode that waits for a byte and then makes a call that it may not make.
fn strict_thread(pipe: [i32; 2]) {
    std::mem::forget(std::thread::spawn(move || {
        let mut byte = 0_u8;
        let at = &raw mut byte as u64;
        check_eq!(seccomp(libc::SECCOMP_SET_MODE_STRICT, 0, null()), Ok(0));
        call(libc::SYS_read, [pipe[0] as u64, at, 1, 0, 0, 0]);
        call(libc::SYS_getppid, NOTHING);
        // Not reached: the thread is gone, and the process is not.
        fail("strict mode allows getppid");
    }));
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Listens to a filter of its own, and waits.
fn listen() -> ! {
    no_new_privs();
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    check!(install(listener, &rule(libc::SYS_getppid, libc::SECCOMP_RET_USER_NOTIF)).is_ok());
    println!("ready");
    loop {
        // SAFETY: a plain call.
        unsafe { libc::pause() };
    }
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("listen") {
        listen();
    }
    let mut pipe = [0; 2];
    // SAFETY: room for two descriptors.
    ok(unsafe { libc::pipe(pipe.as_mut_ptr()) });
    strict_thread(pipe);
    let strict = || {
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
            .any(|status| status.contains("Seccomp:\t1\n"))
    };
    while !strict() {
        std::thread::yield_now();
    }
    no_new_privs();
    let log = libc::SECCOMP_FILTER_FLAG_LOG;
    check_eq!(install(log, &rule(libc::SYS_getppid, ERRNO | 21)), Ok(0));
    check_eq!(install(0, &rule(libc::SYS_getpgid, ERRNO | 22)), Ok(0));
    let (ready, moved) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            check_eq!(install(0, &rule(libc::SYS_getpgid, ERRNO | 23)), Ok(0));
            ready.wait();
            moved.wait();
            check_eq!([status("Seccomp"), status("Seccomp_filters")], ["2", "3"]);
            check_eq!((getppid(), call(libc::SYS_getpgid, NOTHING)), (-21, -23));
        });
        ready.wait();
        wait_to_be_moved();
        moved.wait();
        check_eq!([status("Seccomp"), status("Seccomp_filters")], ["2", "2"]);
        check_eq!(status("NoNewPrivs"), "1");
        check_eq!((getppid(), call(libc::SYS_getpgid, NOTHING)), (-21, -22));
        check_eq!(in_child(|| i32::from(getppid() != -21)), 0);
        // What others have still counts: the strict thread cannot be given filters.
        let sync = libc::SECCOMP_FILTER_FLAG_TSYNC;
        check!(install(sync, &rule(libc::SYS_getpid, ERRNO)).is_ok_and(|thread| thread > 0));
        check!(strict());
        check_eq!(seccomp(libc::SECCOMP_SET_MODE_STRICT, 0, null()), Err(libc::EINVAL));
    });
    let before = threads();
    // SAFETY: a byte.
    check_eq!(unsafe { libc::write(pipe[1], b"x".as_ptr().cast(), 1) }, 1);
    while threads() == before {
        std::thread::yield_now();
    }
    println!("filters are as they were");
}
