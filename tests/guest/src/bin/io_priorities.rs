//! ioprio_set(2), ioprio_get(2): what is set is kept, inherited and compared; who may set what.

use belljar_guest_tests::{check_eq, child, err, errno, ok, wait_ok};

const PROCESS: i32 = 1;
const GROUP: i32 = 2;
const USER: i32 = 3;
const REAL_TIME: i32 = 1 << 13;
const BEST_EFFORT: i32 = 2 << 13;
const IDLE: i32 = 3 << 13;

fn set(which: i32, who: i32, priority: i32) -> i64 {
    // SAFETY: a plain call.
    unsafe { libc::syscall(libc::SYS_ioprio_set, which, who, priority) }
}

fn get(which: i32, who: i32) -> i64 {
    // SAFETY: a plain call.
    unsafe { libc::syscall(libc::SYS_ioprio_get, which, who) }
}

fn main() {
    // Nothing was set; a group's is what its members' nice values say.
    check_eq!(ok(get(PROCESS, 0)), 0);
    // SAFETY: a plain call.
    ok(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) });
    check_eq!(ok(get(GROUP, 0)), i64::from(BEST_EFFORT | 6));

    ok(set(PROCESS, 0, BEST_EFFORT | 3));
    check_eq!(ok(get(PROCESS, 0)), i64::from(BEST_EFFORT | 3));
    // A child has it too, and changes only its own.
    let me = std::process::id() as i32;
    // SAFETY: a plain call.
    let group = unsafe { libc::getpgrp() };
    wait_ok(child(|| {
        check_eq!(ok(get(PROCESS, 0)), i64::from(BEST_EFFORT | 3));
        ok(set(PROCESS, 0, IDLE));
        check_eq!(ok(get(PROCESS, 0)), i64::from(IDLE));
        // The most urgent of the two.
        check_eq!(ok(get(GROUP, group)), i64::from(BEST_EFFORT | 3));
        0
    }));
    check_eq!(ok(get(PROCESS, me)), i64::from(BEST_EFFORT | 3));
    ok(set(GROUP, 0, REAL_TIME | 7));
    check_eq!(ok(get(PROCESS, 0)), i64::from(REAL_TIME | 7));
    ok(set(PROCESS, 0, 0));

    for priority in [1, 7, 4 << 13, -1] {
        check_eq!(set(PROCESS, 0, priority), -1, "{priority:x}");
        check_eq!(errno(), libc::EINVAL, "{priority:x}");
    }
    for which in [0, 4, -1] {
        check_eq!(err(set(which, 0, IDLE)), libc::EINVAL, "{which}");
        check_eq!(err(get(which, 0)), libc::EINVAL, "{which}");
    }
    let nobody = 4_000_000;
    for which in [PROCESS, GROUP, USER] {
        check_eq!(err(set(which, nobody, IDLE)), libc::ESRCH, "{which}");
        check_eq!(err(get(which, nobody)), libc::ESRCH, "{which}");
    }

    wait_ok(child(|| {
        // SAFETY: a plain call.
        ok(unsafe { libc::setuid(1000) });
        ok(set(PROCESS, 0, BEST_EFFORT));
        ok(set(PROCESS, 0, IDLE));
        check_eq!(err(set(PROCESS, 0, REAL_TIME)), libc::EPERM);
        check_eq!(err(set(PROCESS, 1, BEST_EFFORT)), libc::EPERM);
        0
    }));
}
