//! seccomp: strict mode, how it is entered and left only by ending, and what is refused about modes.
//!
//! PROCESS_MODEL.md, Signals and tracing: seccomp: strict and filter.

use belljar_guest_tests::seccomp::*;
use belljar_guest_tests::*;
use std::ptr::null;
use std::sync::atomic::{AtomicU64, Ordering};

const STRICT: u32 = libc::SECCOMP_SET_MODE_STRICT;

fn exit_thread(code: u64) -> ! {
    call(libc::SYS_exit, [code, 0, 0, 0, 0, 0]);
    loop {
        std::hint::spin_loop();
    }
}

fn read_write_exit_and_sigreturn_are_allowed() {
    static HANDLED: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: i32, _: *mut libc::siginfo_t) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    let (mut to_parent, mut to_child) = ([0; 2], [0; 2]);
    // SAFETY: both have room for two.
    unsafe {
        check_eq!(libc::pipe(to_parent.as_mut_ptr()), 0);
        check_eq!(libc::pipe(to_child.as_mut_ptr()), 0);
    }
    let pid = child(|| {
        handle(libc::SIGUSR1, libc::SA_RESTART, handler);
        check_eq!(seccomp(STRICT, 0, null()), Ok(0));
        let mut byte = 7_u8;
        let at = &raw mut byte as u64;
        let written = call(libc::SYS_write, [to_parent[1] as u64, at, 1, 0, 0, 0]);
        let read = call(libc::SYS_read, [to_child[0] as u64, at, 1, 0, 0, 0]);
        // The handler came back by rt_sigreturn.
        let handled = HANDLED.load(Ordering::Relaxed);
        exit_thread(u64::from((written, read, handled) != (1, 1, 1)));
    });
    let mut byte = 0_u8;
    // SAFETY: `byte` has room for one.
    unsafe {
        check_eq!(libc::read(to_parent[0], (&raw mut byte).cast(), 1), 1);
        check_eq!(libc::kill(pid, libc::SIGUSR1), 0);
        check_eq!(libc::write(to_child[1], (&raw const byte).cast(), 1), 1);
    }
    check_eq!(wait(pid), 0);
}

/// The wait status of a child that makes `number` in strict mode.
fn in_strict_mode(number: i64) -> i32 {
    in_child(|| {
        check_eq!(seccomp(STRICT, 0, null()), Ok(0));
        call(number, [0; 6]);
        exit_thread(3)
    })
}

fn anything_else_kills() {
    for number in [libc::SYS_getpid, libc::SYS_exit_group, libc::SYS_seccomp, libc::SYS_prctl, 9999]
    {
        check_eq!(in_strict_mode(number), libc::SIGKILL, "system call {number}");
    }
    // -1 is a call like any other.
    check_eq!(in_strict_mode(-1), libc::SIGKILL);
}

/// Only the thread that is in strict mode goes.
fn one_thread_goes() {
    let status = in_child(|| {
        std::mem::forget(std::thread::spawn(|| {
            check_eq!(seccomp(STRICT, 0, null()), Ok(0));
            call(libc::SYS_getpid, [0; 6]);
        }));
        while status("Threads") != "1" {
            std::thread::yield_now();
        }
        check_eq!(status("Seccomp"), "0");
        5
    });
    check_eq!(status, 5 << 8);
}

fn modes_are_entered_once() {
    // SAFETY: plain calls.
    unsafe {
        check_eq!(libc::prctl(libc::PR_GET_SECCOMP), 0);
        check_eq!(libc::prctl(libc::PR_SET_SECCOMP, 0, 0, 0, 0), -1);
        check_eq!(errno(), libc::EINVAL);
        check_eq!(libc::prctl(libc::PR_SET_SECCOMP, 3, 0, 0, 0), -1);
        check_eq!(errno(), libc::EINVAL);
    }
    let byte = 0_u8;
    check_eq!(seccomp(STRICT, 1, null()), Err(libc::EINVAL));
    check_eq!(seccomp(STRICT, 0, (&raw const byte).cast()), Err(libc::EINVAL));
    check_eq!(seccomp(9, 0, null()), Err(libc::EINVAL));
    check_eq!(
        in_child(|| {
            no_new_privs();
            check_eq!(install(0, &rules(&[], libc::SECCOMP_RET_ALLOW)), Ok(0));
            // SAFETY: a plain call.
            check_eq!(unsafe { libc::prctl(libc::PR_GET_SECCOMP) }, 2);
            check_eq!(seccomp(STRICT, 0, null()), Err(libc::EINVAL));
            // SAFETY: a plain call.
            check_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, 1, 0, 0, 0) }, -1);
            0
        }),
        0
    );
    // By prctl(2) too.
    check_eq!(
        in_child(|| {
            // SAFETY: a plain call.
            check_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, 1, 77, 0, 0) }, 0);
            call(libc::SYS_getppid, [0; 6]);
            0
        }),
        libc::SIGKILL
    );
}

/// What lies in /proc/sys, and what a kernel says it can.
fn what_there_is() {
    let actions = "kill_process kill_thread trap errno user_notif trace log allow\n";
    let dir = "/proc/sys/kernel/seccomp";
    let avail = std::fs::read_to_string(format!("{dir}/actions_avail")).unwrap();
    check_eq!(avail, actions);
    let logged = format!("{dir}/actions_logged");
    let before = std::fs::read_to_string(&logged).unwrap();
    check_eq!(before, "kill_process kill_thread trap errno user_notif trace log\n");
    let write = |text: &str| {
        std::fs::write(&logged, text).err().and_then(|error| error.raw_os_error()).unwrap_or(0)
    };
    check_eq!(write("trap log\n"), 0);
    check_eq!(std::fs::read_to_string(&logged).unwrap(), "trap log\n");
    check_eq!(write("log kill_process"), 0);
    check_eq!(std::fs::read_to_string(&logged).unwrap(), "kill_process log\n");
    check_eq!(write("allow\n"), libc::EINVAL);
    check_eq!(write("nothing\n"), libc::EINVAL);
    check_eq!(std::fs::read_to_string(&logged).unwrap(), "kill_process log\n");
    check_eq!(write(&before), 0);

    let avail = |action: u32, flags| {
        seccomp(libc::SECCOMP_GET_ACTION_AVAIL, flags, (&raw const action).cast())
    };
    for action in [
        libc::SECCOMP_RET_KILL_PROCESS,
        libc::SECCOMP_RET_KILL_THREAD,
        libc::SECCOMP_RET_TRAP,
        libc::SECCOMP_RET_ERRNO,
        libc::SECCOMP_RET_USER_NOTIF,
        libc::SECCOMP_RET_TRACE,
        libc::SECCOMP_RET_LOG,
        libc::SECCOMP_RET_ALLOW,
    ] {
        check_eq!(avail(action, 0), Ok(0), "{action:#x}");
    }
    check_eq!(avail(0x1234_0000, 0), Err(libc::EOPNOTSUPP));
    check_eq!(avail(libc::SECCOMP_RET_ERRNO | 1, 0), Err(libc::EOPNOTSUPP));
    check_eq!(avail(libc::SECCOMP_RET_ERRNO, 1), Err(libc::EINVAL));
    check_eq!(seccomp(libc::SECCOMP_GET_ACTION_AVAIL, 0, null()), Err(libc::EFAULT));
    let mut sizes = [0_u16; 3];
    check_eq!(seccomp(libc::SECCOMP_GET_NOTIF_SIZES, 0, sizes.as_mut_ptr().cast()), Ok(0));
    check_eq!(sizes, [80, 24, 64]);
    check_eq!(seccomp(libc::SECCOMP_GET_NOTIF_SIZES, 1, sizes.as_ptr().cast()), Err(libc::EINVAL));
    check_eq!(seccomp(libc::SECCOMP_GET_NOTIF_SIZES, 0, null()), Err(libc::EFAULT));
}

fn main() {
    modes_are_entered_once();
    read_write_exit_and_sigreturn_are_allowed();
    anything_else_kills();
    one_thread_goes();
    what_there_is();
}
