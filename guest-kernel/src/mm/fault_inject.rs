//! Failures of allocations on demand (Linux, Documentation/fault-injection/fault-injection.rst,
//! "/proc/<pid>/fail-nth"): a thread says that its n-th allocation from now on is to fail. That is how tests
//! see that no program can end the kernel by having it run out of memory, wherever that happens.
//!
//! What counts is objects of the heap, in system calls, faults and interrupts alike; frames of programs do not.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::arch::{self, ThreadInfo};

/// Somebody asked for a failure once: until then an allocation looks here only.
static USED: AtomicBool = AtomicBool::new(false);

/// The `n`-th allocation of a thread from now on fails; 0 for none.
pub fn set_fail_nth(thread: &ThreadInfo, n: u32) {
    USED.store(true, Relaxed);
    thread.fail_nth.store(n, Relaxed);
}

/// How many more allocations of a thread there are up to the one that fails; 0 if it has failed, or none
/// is to.
pub fn fail_nth(thread: &ThreadInfo) -> u32 {
    thread.fail_nth.load(Relaxed)
}

/// True if the allocation that is being made is to fail.
#[inline]
pub(super) fn should_fail() -> bool {
    USED.load(Relaxed) && count_down()
}

/// Runs `f` with no allocation failing: room for what it allocates was just seen to be there.
pub(super) fn paused<R>(f: impl FnOnce() -> R) -> R {
    let nth = &arch::current_thread().info.fail_nth;
    let left = nth.load(Relaxed);
    nth.store(0, Relaxed);
    let result = f();
    nth.store(left, Relaxed);
    result
}

#[cold]
fn count_down() -> bool {
    let nth = &arch::current_thread().info.fail_nth;
    let n = nth.load(Relaxed);
    nth.store(n.saturating_sub(1), Relaxed);
    n == 1
}
