//! Which CPUs there are, and the interrupts that the scheduler sends between them.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::arch::{self, ThreadFlags};
use crate::sync::this_cpu;

/// Inter-processor interrupt: look at NEED_RESCHED on the way out.
pub const IPI_RESCHEDULE: u32 = 0;
/// Inter-processor interrupt: program the timer anew.
pub const IPI_TIMER: u32 = 1;

static ONLINE: AtomicU64 = AtomicU64::new(0);

/// The CPUs that schedule, one bit each.
#[inline]
pub fn online_mask() -> u64 {
    ONLINE.load(Relaxed)
}

/// How many CPUs schedule.
pub fn online_count() -> u32 {
    online_mask().count_ones()
}

/// A CPU joins: its run queue is ready.
pub(super) fn set_online(cpu: usize) {
    ONLINE.fetch_or(1 << cpu, Relaxed);
}

/// Sends an interrupt to all other CPUs that schedule.
pub(super) fn send_to_others(ipi: u32) {
    let mut others = online_mask() & !(1 << this_cpu());
    while others != 0 {
        arch::irq::send_ipi(others.trailing_zeros() as usize, ipi);
        others &= others - 1;
    }
}

/// An inter-processor interrupt of the scheduler's came in; interrupts are off.
pub fn handle_ipi(ipi: u32) {
    match ipi {
        IPI_TIMER => super::timer::reprogram(),
        // The way out of the interrupt does it; the sender set the flag of whoever ran here then,
        // which may have been switched away since: a needless look at the queue is cheap.
        _ => arch::current_thread().info.set(ThreadFlags::NEED_RESCHED),
    }
}
