//! The CPU's debug registers: single steps, break- and watchpoints of EL0. The kernel itself is never stopped by them:
//! MDSCR_EL1.KDE is 0.

use core::arch::asm;

use crate::arch::{DebugKind, DebugRegs, Thread, ThreadFlags};

/// MDSCR_EL1: EL0 has no debug communication channel.
const TDCC: u64 = 1 << 12;
/// MDSCR_EL1: break- and watchpoints count.
const MDE: u64 = 1 << 15;
/// MDSCR_EL1: EL0 runs step by step.
const SS: u64 = 1;

/// What the debugging of a thread needs in the CPU.
pub(super) const DEBUGGED: ThreadFlags = ThreadFlags::SINGLESTEP.union(ThreadFlags::DEBUG_REGS);

/// Makes this CPU's debug registers those of `next`, which is about to run here.
#[cold]
pub(super) fn switch_debug(next: &Thread) {
    let flags = next.info.flags();
    let mut mdscr = TDCC;
    if flags.contains(ThreadFlags::SINGLESTEP) {
        mdscr |= SS;
    }
    if flags.contains(ThreadFlags::DEBUG_REGS) {
        // SAFETY: it does not run yet, and its tracer changes them only while it is stopped.
        if let Some(regs) = unsafe { &*next.debug.get() } {
            load(regs);
            mdscr |= MDE;
        }
    }
    set_mdscr(mdscr);
}

/// Turns single stepping of EL0 off on this CPU.
pub fn stop_single_step() {
    let mdscr: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, mdscr_el1", out(reg) mdscr, options(nostack, nomem)) };
    set_mdscr(mdscr & !SS);
}

fn set_mdscr(mdscr: u64) {
    // SAFETY: debug exceptions stay off at EL1 (KDE = 0).
    unsafe { asm!("msr mdscr_el1, {}", "isb", in(reg) mdscr, options(nostack)) }
}

/// The running thread has no break- or watchpoints any more.
pub fn drop_debug_regs() {
    let thread = super::current_thread();
    if !thread.info.flags().contains(ThreadFlags::DEBUG_REGS) {
        return;
    }
    let irq = super::irq_save();
    thread.info.clear(ThreadFlags::DEBUG_REGS);
    // SAFETY: the running thread's own, and no switch looks at it meanwhile.
    let old = unsafe { (*thread.debug.get()).take() };
    switch_debug(thread);
    super::irq_restore(irq);
    drop(old);
}

/// How many points of a kind this machine's CPUs have.
pub fn debug_slots(kind: DebugKind) -> usize {
    let dfr0: u64;
    // SAFETY: reads an ID register.
    unsafe { asm!("mrs {}, id_aa64dfr0_el1", out(reg) dfr0, options(nostack, nomem)) };
    let field = match kind {
        DebugKind::Break => dfr0 >> 12 & 0xf,
        DebugKind::Watch => dfr0 >> 20 & 0xf,
    };
    field as usize + 1
}

/// The version of the debug architecture (ID_AA64DFR0_EL1.DebugVer).
pub fn debug_version() -> u32 {
    let dfr0: u64;
    // SAFETY: reads an ID register.
    unsafe { asm!("mrs {}, id_aa64dfr0_el1", out(reg) dfr0, options(nostack, nomem)) };
    (dfr0 & 0xf) as u32
}

/// Writes pairs of registers, which have their numbers in their names.
macro_rules! write_pairs {
    ($points:expr, $slots:expr, $value:literal, $control:literal, $($n:literal)*) => {
        $(
            if $n < $slots {
                // SAFETY: the CPU has the registers, and what they hold counts at EL0 only.
                unsafe {
                    asm!(
                        concat!("msr ", $value, $n, "_el1, {}"),
                        concat!("msr ", $control, $n, "_el1, {}"),
                        in(reg) $points[$n].value,
                        in(reg) u64::from($points[$n].control),
                        options(nostack)
                    );
                }
            }
        )*
    };
}

fn load(regs: &DebugRegs) {
    let (breaks, watches) = (debug_slots(DebugKind::Break), debug_slots(DebugKind::Watch));
    write_pairs!(regs.breaks, breaks, "dbgbvr", "dbgbcr", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    write_pairs!(regs.watches, watches, "dbgwvr", "dbgwcr", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}
