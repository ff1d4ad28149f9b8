//! Which CPUs there are, and the interrupts that are sent between them.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch;
use crate::sync::this_cpu;

/// Inter-processor interrupt: look at NEED_RESCHED, or at a signal, on the way out.
pub const IPI_RESCHEDULE: u32 = 0;
/// Inter-processor interrupt: program the timer anew.
pub const IPI_TIMER: u32 = 1;
/// Inter-processor interrupt: call what [`super::call`] queued.
pub const IPI_CALL: u32 = 2;
/// Inter-processor interrupt: the machine ends; this CPU stops for good.
pub const IPI_STOP: u32 = 3;

static ONLINE: AtomicU64 = AtomicU64::new(0);

/// The CPUs of a mask, lowest first.
pub fn each(mut mask: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let cpu = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(cpu)
    })
}

/// The CPUs that the machine has and the kernel can use, one bit each.
pub fn possible_mask() -> u64 {
    match arch::cpu_count() {
        64.. => !0,
        cpus => (1 << cpus) - 1,
    }
}

/// The CPUs that schedule, one bit each.
#[inline]
pub fn online_mask() -> u64 {
    ONLINE.load(Ordering::Acquire)
}

/// True if a CPU schedules.
#[inline]
pub fn is_online(cpu: usize) -> bool {
    online_mask() & (1 << cpu) != 0
}

/// How many CPUs schedule.
pub fn online_count() -> u32 {
    online_mask().count_ones()
}

/// A CPU joins: its run queue is ready.
pub(super) fn set_online(cpu: usize) {
    ONLINE.fetch_or(1 << cpu, Ordering::AcqRel);
}

/// A CPU leaves; the lock of its run queue is held.
pub(super) fn set_offline(cpu: usize) {
    ONLINE.fetch_and(!(1 << cpu), Ordering::AcqRel);
}

/// Sends an interrupt to the CPUs of `mask` that schedule, this one left out. Preemption is off.
pub fn send_to(mask: u64, ipi: u32) {
    for cpu in each(mask & online_mask() & !(1 << this_cpu())) {
        arch::irq::send_ipi(cpu, ipi);
    }
}

/// Sends an interrupt to all other CPUs that schedule. Preemption is off.
pub fn send_to_others(ipi: u32) {
    send_to(!0, ipi);
}

/// An inter-processor interrupt of the scheduler's came in; interrupts are off.
pub fn handle_ipi(ipi: u32) {
    match ipi {
        IPI_TIMER => super::timer::reprogram(),
        IPI_CALL => super::call::handle(),
        // The way out of the interrupt does it: the sender set the flag, under the run queue's lock.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpus_of_a_mask_come_in_order() {
        assert_eq!(each(0).count(), 0);
        assert_eq!(each(1 << 63 | 0b101).collect::<Vec<_>>(), [0, 2, 63]);
        assert_eq!(possible_mask(), 1, "a host is one CPU");
    }
}
