//! Policies, priorities and affinity, and that they do what they say.

use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use belljar_guest_tests::{check, check_eq, child, errno, in_child, timespec};
use libc::{MAP_ANONYMOUS, MAP_SHARED, PROT_READ, PROT_WRITE};
use libc::{SCHED_BATCH, SCHED_FIFO, SCHED_IDLE, SCHED_OTHER, SCHED_RR};

fn set(pid: i32, policy: i32, priority: i32) -> i32 {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: a valid parameter.
    if unsafe { libc::sched_setscheduler(pid, policy, &param) } < 0 { errno() } else { 0 }
}

fn policy() -> i32 {
    // SAFETY: a plain call.
    unsafe { libc::sched_getscheduler(0) }
}

fn policies_take_the_priorities_that_they_have() {
    // SAFETY: plain calls.
    unsafe {
        for (policy, min, max) in [(SCHED_FIFO, 1, 99), (SCHED_RR, 1, 99), (SCHED_OTHER, 0, 0)] {
            check_eq!(libc::sched_get_priority_min(policy), min);
            check_eq!(libc::sched_get_priority_max(policy), max);
        }
        check_eq!(libc::sched_get_priority_max(77), -1);
        check_eq!(errno(), libc::EINVAL);
    }
    check_eq!(set(0, SCHED_FIFO, 0), libc::EINVAL);
    check_eq!(set(0, SCHED_OTHER, 1), libc::EINVAL);
    check_eq!(set(0, 77, 0), libc::EINVAL);
    check_eq!(set(-1, SCHED_OTHER, 0), libc::EINVAL);
    check_eq!(set(999_999, SCHED_OTHER, 0), libc::ESRCH);
    for (policy_number, priority) in [(SCHED_BATCH, 0), (SCHED_IDLE, 0), (SCHED_RR, 3)] {
        let status = in_child(|| {
            check_eq!(set(0, policy_number, priority), 0);
            check_eq!(policy(), policy_number);
            let mut param = libc::sched_param { sched_priority: -1 };
            // SAFETY: a valid place.
            check_eq!(unsafe { libc::sched_getparam(0, &mut param) }, 0);
            check_eq!(param.sched_priority, priority);
            0
        });
        check_eq!(status, 0);
    }
}

fn real_time_runs_before_normal() {
    let status = in_child(|| {
        // One CPU for both, whatever the machine has.
        // SAFETY: a valid set.
        unsafe {
            let mut set: libc::cpu_set_t = zeroed();
            libc::CPU_SET(0, &mut set);
            check_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
        }
        let rounds = shared_counter();
        let hog = child(|| {
            loop {
                rounds.fetch_add(1, Relaxed);
            }
        });
        // While this sleeps, the other one begins.
        while rounds.load(Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        check_eq!(set(0, SCHED_FIFO, 10), 0);
        // No system calls in between: this stays on the CPU, through some ticks.
        let before = rounds.load(Relaxed);
        for _ in 0..5_000_000 {
            std::hint::spin_loop();
        }
        check_eq!(rounds.load(Relaxed), before);
        // SAFETY: our own child.
        unsafe {
            libc::kill(hog, libc::SIGKILL);
            libc::waitpid(hog, null_mut(), 0);
        }
        0
    });
    check_eq!(status, 0);
}

/// A counter that children share.
fn shared_counter() -> &'static AtomicU64 {
    let (prot, flags) = (PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    // SAFETY: zeros that stay mapped.
    unsafe {
        let page = libc::mmap(null_mut(), size_of::<AtomicU64>(), prot, flags, -1, 0);
        check!(page != libc::MAP_FAILED);
        &*page.cast()
    }
}

fn nice_values_are_kept_and_inherited() {
    // SAFETY: plain calls.
    unsafe {
        check_eq!(libc::getpriority(libc::PRIO_PROCESS, 0), 0);
        check_eq!(libc::setpriority(libc::PRIO_PROCESS, 0, 5), 0);
        check_eq!(libc::getpriority(libc::PRIO_PROCESS, 0), 5);
        check_eq!(in_child(|| i32::from(libc::getpriority(libc::PRIO_PROCESS, 0) != 5)), 0);
        check_eq!(libc::setpriority(libc::PRIO_PROCESS, 0, 100), 0);
        check_eq!(libc::getpriority(libc::PRIO_PROCESS, 0), 19);
        check_eq!(libc::setpriority(9, 0, 0), -1);
        check_eq!(errno(), libc::EINVAL);
        check_eq!(libc::setpriority(libc::PRIO_PROCESS, 999_999, 0), -1);
        check_eq!(errno(), libc::ESRCH);
        check_eq!(libc::setpriority(libc::PRIO_PROCESS, 0, 0), 0);
    }
}

fn unprivileged_tasks_only_get_nicer() {
    let status = in_child(|| {
        // SAFETY: plain calls.
        unsafe {
            check_eq!(libc::setuid(1000), 0);
            check_eq!(libc::setpriority(libc::PRIO_PROCESS, 0, 3), 0);
            check_eq!(libc::setpriority(libc::PRIO_PROCESS, 0, 2), -1);
            check_eq!(errno(), libc::EACCES);
            check_eq!(set(0, SCHED_FIFO, 1), libc::EPERM);
            check_eq!(libc::setpriority(libc::PRIO_PROCESS, 1, 10), -1);
            check_eq!(errno(), libc::EPERM);
        }
        0
    });
    check_eq!(status, 0);
}

fn affinity_is_kept_and_checked() {
    // SAFETY: valid sets.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        let size = size_of_val(&set);
        check_eq!(libc::sched_getaffinity(0, size, &mut set), 0);
        check!(libc::CPU_COUNT(&set) >= 1);
        check_eq!(libc::sched_setaffinity(0, size, &set), 0);
        libc::CPU_ZERO(&mut set);
        check_eq!(libc::sched_setaffinity(0, size, &set), -1);
        check_eq!(errno(), libc::EINVAL);
        check_eq!(libc::syscall(libc::SYS_sched_getaffinity, 0, 3, &mut set), -1);
        check_eq!(errno(), libc::EINVAL);
        let mut slice = timespec(0.0);
        check_eq!(libc::sched_rr_get_interval(0, &mut slice), 0);
        check_eq!(libc::sched_yield(), 0);
    }
}

fn a_sleeper_is_not_kept_waiting_by_hogs() {
    let hogs: Vec<_> = (0..2)
        .map(|_| {
            child(|| {
                loop {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    for _ in 0..20 {
        // SAFETY: a valid time.
        unsafe { libc::nanosleep(&timespec(0.002), null_mut()) };
    }
    for hog in hogs {
        // SAFETY: our own child.
        unsafe {
            libc::kill(hog, libc::SIGKILL);
            check_eq!(libc::waitpid(hog, null_mut(), 0), hog);
        }
    }
}

fn main() {
    policies_take_the_priorities_that_they_have();
    real_time_runs_before_normal();
    nice_values_are_kept_and_inherited();
    unprivileged_tasks_only_get_nicer();
    affinity_is_kept_and_checked();
    a_sleeper_is_not_kept_waiting_by_hogs();
}
