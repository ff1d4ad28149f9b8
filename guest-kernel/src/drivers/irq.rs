//! Who handles which interrupt.
//!
//! Handlers run with interrupts masked, on the CPU that took the interrupt. They are registered at boot
//! and stay.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::fdt::Gic;
use crate::addr::PhysAddr;
use crate::arch;

/// Handles an interrupt, given its number.
pub type Handler = fn(u32);

/// Interrupts that can have a handler: the board's devices all lie below.
const COUNT: usize = 288;

static HANDLERS: [AtomicUsize; COUNT] = [const { AtomicUsize::new(0) }; COUNT];

/// Sets the handler of an interrupt; it still has to be let through (`arch::irq::enable`).
pub fn register(irq: u32, handler: Handler) {
    HANDLERS[irq as usize].store(handler as usize, Ordering::Release);
}

/// Sets the interrupt controller up, this CPU's interface with it, and lets the timer's interrupt through.
/// Everything else is off.
pub fn init(gic: &Gic) {
    match gic {
        Gic::V3 { distributor, redistributors } => {
            arch::irq::init_v3(PhysAddr(distributor.start), redistributors.range());
        }
        Gic::V2 { distributor, cpu } => {
            arch::irq::init_v2(PhysAddr(distributor.start), PhysAddr(cpu.start));
        }
    }
    arch::irq::enable(arch::TIMER_IRQ);
}

/// Handles all pending interrupts. Called by the interrupt entry.
#[inline]
pub fn handle_pending() {
    while let Some(acknowledged) = arch::irq::acknowledge() {
        let irq = arch::irq::number(acknowledged);
        let handler = HANDLERS.get(irq as usize).map_or(0, |h| h.load(Ordering::Acquire));
        if handler == 0 {
            arch::irq::disable(irq);
            crate::kwarn!("irq {irq}: nobody handles it");
        } else {
            // SAFETY: only `register` stores here, functions of this type.
            let handler: Handler = unsafe { core::mem::transmute(handler) };
            handler(irq);
        }
        arch::irq::end(acknowledged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_handler_is_stored() {
        fn handler(_: u32) {}
        register(33, handler);
        assert_eq!(HANDLERS[33].load(Ordering::Relaxed), handler as *const () as usize);
    }
}
