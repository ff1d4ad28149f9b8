//! The generic timer: the virtual counter, and the virtual timer of each CPU as a one-shot alarm.

use core::arch::asm;

/// The timer's private interrupt (PPI 11).
pub const TIMER_IRQ: u32 = 27;

/// The counter now. It runs at [`counter_frequency`] on all CPUs alike and never goes back.
#[inline]
pub fn counter() -> u64 {
    let value;
    // SAFETY: only reads. The barrier keeps the read from being made early (ARM ARM, D11.2.2).
    unsafe {
        asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Ticks of the counter in a second.
pub fn counter_frequency() -> u64 {
    let value;
    // SAFETY: only reads.
    unsafe {
        asm!("mrs {}, cntfrq_el0", out(reg) value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Lets this CPU's timer interrupt when the counter reaches `deadline`; at once if it has.
#[inline]
pub fn set_timer(deadline: u64) {
    // SAFETY: the interrupt is the kernel's own.
    unsafe {
        asm!(
            "msr cntv_cval_el0, {}",
            "msr cntv_ctl_el0, {}",
            "isb",
            in(reg) deadline,
            in(reg) 1_u64,
            options(nostack)
        );
    }
}

/// Turns this CPU's timer off.
#[inline]
pub fn stop_timer() {
    // SAFETY: as above.
    unsafe { asm!("msr cntv_ctl_el0, {}", "isb", in(reg) 0_u64, options(nostack)) }
}
