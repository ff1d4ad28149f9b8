//! cgroup.freeze and cgroup.kill (cgroup-v2.rst, "Core Interface Files"): frozen processes do nothing,
//! also those that sleep, are stopped, wait for a vfork or come later; they can be killed and moved out;
//! killing takes everything below.
//!
//! PROCESS_MODEL.md, Namespaces: cgroup (v2: freezer).

use belljar_guest_tests::cgroups::*;
use belljar_guest_tests::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter in memory that children share.
fn counter() -> &'static AtomicU64 {
    let page = map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a page of zeros that is never unmapped.
    unsafe { &*page.cast::<AtomicU64>() }
}

fn moves_on(counter: &AtomicU64) {
    let before = counter.load(Ordering::SeqCst);
    while counter.load(Ordering::SeqCst) == before {
        std::thread::yield_now();
    }
}

/// The same number after others had every chance to change it.
fn stands_still(counter: &AtomicU64) {
    let before = counter.load(Ordering::SeqCst);
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    check_eq!(counter.load(Ordering::SeqCst), before);
}

fn count_up(counter: &AtomicU64) -> i32 {
    loop {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

fn freeze(group: &Group) {
    group.set("cgroup.freeze", "1");
    group.wait_for("cgroup.events", "frozen", 1);
}

fn thaw(group: &Group) {
    group.set("cgroup.freeze", "0");
    group.wait_for("cgroup.events", "frozen", 0);
}

extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t) {
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) };
}

fn a_frozen_process_stands_still() {
    let group = Group::new("frozen", "");
    for bad in ["2", "-1"] {
        check_eq!(group.put("cgroup.freeze", bad), libc::ERANGE);
    }
    check_eq!(group.put("cgroup.freeze", "x"), libc::EINVAL);
    let counter = counter();
    let mut idle = Idle::new(|| {
        handle(libc::SIGUSR1, 0, on_signal);
        count_up(counter)
    });
    group.take(idle.pid);
    idle.go();
    moves_on(counter);
    freeze(&group);
    check_eq!(group.get("cgroup.freeze"), "1");
    stands_still(counter);
    thaw(&group);
    moves_on(counter);
    // No handler runs while it is frozen, but what ends it does.
    freeze(&group);
    // SAFETY: plain calls, of a child.
    unsafe {
        ok(libc::kill(idle.pid, libc::SIGUSR1));
        stands_still(counter);
        check_eq!(libc::waitpid(idle.pid, std::ptr::null_mut(), libc::WNOHANG), 0);
        ok(libc::kill(idle.pid, libc::SIGTERM));
    }
    check_eq!(wait(idle.pid) & 0x7f, libc::SIGTERM);
}

fn a_call_goes_on_after_thawing() {
    let group = Group::new("asleep", "");
    let mut idle = Idle::new(|| {
        // SAFETY: a sleep of its own.
        let end = unsafe {
            let time = timespec(0.2);
            let mut left = timespec(0.0);
            libc::nanosleep(&time, &mut left)
        };
        i32::from(end != 0)
    });
    group.take(idle.pid);
    idle.go();
    std::thread::sleep(std::time::Duration::from_millis(20));
    freeze(&group);
    std::thread::sleep(std::time::Duration::from_millis(20));
    thaw(&group);
    check_eq!(wait(idle.pid), 0);
    // Reading from a pipe, too: `Idle` itself waits so.
    let idle = Idle::new(|| 7);
    group.take(idle.pid);
    freeze(&group);
    thaw(&group);
    check_eq!(idle.finish(), 7 << 8);
}

fn who_comes_later_is_frozen_and_who_leaves_is_not() {
    let outer = Group::new("around", "");
    freeze(&outer);
    let inner = outer.child("inner");
    check_eq!(inner.get("cgroup.freeze"), "0");
    inner.wait_for("cgroup.events", "frozen", 1);
    let counter = counter();
    let mut idle = Idle::new(|| count_up(counter));
    inner.take(idle.pid);
    idle.go();
    inner.wait_for("cgroup.events", "frozen", 1);
    outer.wait_for("cgroup.events", "frozen", 1);
    stands_still(counter);
    // Thawing inside changes nothing while it is frozen around.
    inner.set("cgroup.freeze", "1");
    inner.set("cgroup.freeze", "0");
    stands_still(counter);
    check_eq!(put(root().join("cgroup.procs"), &idle.pid.to_string()), 0);
    moves_on(counter);
    // SAFETY: a child.
    ok(unsafe { libc::kill(idle.pid, libc::SIGKILL) });
    wait(idle.pid);
}

fn a_stopped_process_counts_as_frozen() {
    let group = Group::new("stopped", "");
    let idle = Idle::new(|| 0);
    group.take(idle.pid);
    // SAFETY: plain calls, of a child.
    unsafe {
        ok(libc::kill(idle.pid, libc::SIGSTOP));
        check_eq!(ok(libc::waitpid(idle.pid, std::ptr::null_mut(), libc::WUNTRACED)), idle.pid);
    }
    freeze(&group);
    thaw(&group);
    // SAFETY: as above.
    ok(unsafe { libc::kill(idle.pid, libc::SIGCONT) });
    check_eq!(idle.finish(), 0);
}

fn killing_takes_all_below_and_those_that_fork() {
    let outer = Group::new("killed", "");
    let inner = outer.child("inner");
    check_eq!(outer.put("cgroup.kill", "0"), libc::ERANGE);
    let mut forker = Idle::new(|| {
        loop {
            // SAFETY: children that end at once, or are killed.
            unsafe {
                if libc::fork() == 0 {
                    libc::_exit(0);
                }
                libc::waitpid(-1, std::ptr::null_mut(), 0);
            }
        }
    });
    let frozen = Idle::new(|| 0);
    outer.take(forker.pid);
    forker.go();
    inner.take(frozen.pid);
    freeze(&inner);
    outer.set("cgroup.kill", "1");
    check_eq!(wait(forker.pid) & 0x7f, libc::SIGKILL);
    check_eq!(wait(frozen.pid) & 0x7f, libc::SIGKILL);
    outer.wait_for("cgroup.events", "populated", 0);
}

fn a_threaded_group_cannot_be_killed() {
    let domain = Group::new("whole", "");
    let part = domain.child("part");
    part.set("cgroup.type", "threaded");
    check_eq!(part.put("cgroup.kill", "1"), libc::EOPNOTSUPP);
}

fn main() {
    a_frozen_process_stands_still();
    a_call_goes_on_after_thawing();
    who_comes_later_is_frozen_and_who_leaves_is_not();
    a_stopped_process_counts_as_frozen();
    killing_takes_all_below_and_those_that_fork();
    a_threaded_group_cannot_be_killed();
}
