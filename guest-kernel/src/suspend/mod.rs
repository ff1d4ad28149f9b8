//! Freezing the machine into its memory, and going on from there: this machine itself, or another one that
//! is started with the same memory.
//!
//! | file | what |
//! | --- | --- |
//! | [`control`] | the thread `suspend`, which talks to the VMM; snapshots that programs ask for |
//! | [`forced`] | snapshots at random moments, to test the others |
//! | `incoming` | cores that the VMM hands over, of processes that go on here |
//! | [`freeze`](mod@freeze) | everything comes to rest, CPU 0's context goes into memory, the wait for what comes |
//! | `shown` | what programs were shown of the CPU's caches |
//! | [`thaw`] | another machine: CPU, interrupts, clocks, drivers from the device tree found there |
//!
//! What holds while the root page says `frozen`: all CPUs but CPU 0 are off, every task is switched out with
//! its registers in memory, no device works for us, and CPU 0 only looks at the root page's `release`. So
//! memory is all there is to keep.
//!
//! # What time it is afterwards
//!
//! CLOCK_MONOTONIC and CLOCK_BOOTTIME of a copy go on where they stopped: a machine does not see that it was
//! frozen, as one that a host suspends does not, so sleeps and intervals are as long as they would have been.
//! CLOCK_REALTIME goes on by as much as the RTC did. For the original, time never stopped.

pub mod control;
pub mod forced;
mod freeze;
mod incoming;
mod shown;
mod thaw;

use core::sync::atomic::Ordering;

pub use freeze::{Role, freeze, role};

use crate::sched::WaitQueue;

/// Bytes at the start of RAM that the kernel never keeps anything in: where a machine without a boot loader
/// (QEMU without `-kernel`, our own on KVM) puts the device tree of a copy.
pub const TREE_ROOM: u64 = 2 << 20;

/// Who waits until this memory was thawed.
static THAWED: WaitQueue = WaitQueue::new();

/// Who waits until [`generation`] grows.
pub const fn thawed() -> &'static WaitQueue {
    &THAWED
}

/// How many times this memory was thawed.
pub fn generation() -> u64 {
    crate::introspect::ROOT.generation.load(Ordering::Relaxed)
}
