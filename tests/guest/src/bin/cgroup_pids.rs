//! The pids controller (cgroup-v2.rst, "PID"): what counts, limits at every level, events, and that
//! moving tasks may exceed a limit.
//!
//! PROCESS_MODEL.md, Namespaces: cgroup (v2: pids).

use belljar_guest_tests::cgroups::*;
use belljar_guest_tests::*;

/// Forks a child that ends at once; the error number, or 0.
fn try_fork() -> i32 {
    // SAFETY: the program has one thread.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return errno();
    }
    if pid == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    wait_ok(pid);
    0
}

fn a_limit_makes_fork_fail() {
    let group = Group::new("pids", "pids");
    for (bad, error) in [("-1", libc::EINVAL), ("x", libc::EINVAL), ("4194305", libc::EINVAL)] {
        check_eq!(group.put("pids.max", bad), error, "{bad}");
    }
    check_eq!(group.get("pids.max"), "max");
    let idle = Idle::new(|| {
        check_eq!(try_fork(), libc::EAGAIN);
        check_eq!(try_fork(), libc::EAGAIN);
        0
    });
    group.take(idle.pid);
    check_eq!(group.get("pids.current"), "1");
    group.set("pids.max", "1");
    check_eq!(idle.finish(), 0);
    check_eq!(group.value("pids.events", "max"), 2);
    check_eq!(group.get("pids.current"), "0");
    if group.file("pids.peak").exists() {
        check!(group.get("pids.peak").parse::<u64>().unwrap() >= 1);
    }
}

fn threads_and_zombies_count() {
    let group = Group::new("counted", "pids");
    let idle = Idle::new(|| {
        let current = || get(root().join("counted/pids.current")).parse::<u64>().unwrap();
        check_eq!(std::thread::spawn(current).join().unwrap(), 2);
        // A thread counts until it is gone, a moment after it was joined.
        while current() != 1 {
            std::thread::yield_now();
        }
        // A zombie counts until somebody waits for it.
        let zombie = child(|| 0);
        // SAFETY: `info` is valid for writing.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            ok(libc::waitid(libc::P_PID, zombie as u32, &mut info, libc::WEXITED | libc::WNOWAIT));
        }
        check_eq!(current(), 2);
        wait_ok(zombie);
        check_eq!(current(), 1);
        0
    });
    group.take(idle.pid);
    check_eq!(idle.finish(), 0);
}

fn a_limit_outside_holds_inside() {
    let outer = Group::new("limited", "pids");
    let inner = outer.child("inner");
    outer.set("cgroup.subtree_control", "+pids");
    let (first, second) = (Idle::new(try_fork), Idle::new(try_fork));
    inner.take(first.pid);
    inner.take(second.pid);
    check_eq!(outer.get("pids.current"), "2");
    outer.set("pids.max", "2");
    check_eq!(wait(first_status(first)), libc::EAGAIN << 8);
    // One has gone: now there is room for one.
    check_eq!(second.finish(), 0);
    outer.set("pids.max", "0");
    // Moving in is no fork.
    let third = Idle::new(|| 0);
    inner.take(third.pid);
    check_eq!(inner.get("pids.current"), "1");
    check_eq!(third.finish(), 0);
}

fn first_status(mut idle: Idle) -> i32 {
    idle.go();
    let pid = idle.pid;
    std::mem::forget(idle);
    pid
}

fn main() {
    a_limit_makes_fork_fail();
    threads_and_zombies_count();
    a_limit_outside_holds_inside();
}
