//! Guards that forbid preemption or interrupts while they live.

use crate::arch;

unsafe extern "Rust" {
    /// Gives up the CPU at a preemption point; the scheduler defines it. This is the one call from
    /// here to a later floor: dropping the last guard *is* a preemption point of a preemptible kernel.
    safe fn preempt_schedule();
}

/// Preemption is off while this lives.
pub struct PreemptGuard(());

impl PreemptGuard {
    /// Turns preemption off on this CPU.
    #[inline]
    pub fn new() -> Self {
        arch::current_thread().info.preempt_disable();
        Self(())
    }
}

impl Default for PreemptGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PreemptGuard {
    #[inline]
    fn drop(&mut self) {
        let info = &arch::current_thread().info;
        if info.preempt_enable() && info.need_resched() && arch::irqs_enabled() {
            preempt_schedule();
        }
    }
}

/// Interrupts (and so preemption) are off on this CPU while this lives.
pub struct IrqGuard(arch::IrqState);

impl IrqGuard {
    /// Masks interrupts.
    #[inline]
    pub fn new() -> Self {
        Self(arch::irq_save())
    }
}

impl Default for IrqGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for IrqGuard {
    #[inline]
    fn drop(&mut self) {
        arch::irq_restore(self.0);
        let info = &arch::current_thread().info;
        if info.need_resched() && info.preempt_count() == 0 && arch::irqs_enabled() {
            preempt_schedule();
        }
    }
}
