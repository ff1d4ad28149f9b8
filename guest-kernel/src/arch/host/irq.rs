//! The interrupt controller on a host: there is none.

/// Lets an interrupt through.
pub fn enable(_irq: u32) {}

/// Stops an interrupt.
pub fn disable(_irq: u32) {}

/// Sets up the interface of a secondary CPU.
pub fn init_cpu() -> bool {
    true
}

/// Takes the pending interrupt of the highest priority.
pub fn acknowledge() -> Option<u32> {
    None
}

/// The number of the interrupt that was acknowledged.
pub fn number(acknowledged: u32) -> u32 {
    acknowledged
}

/// Ends what [`acknowledge`] returned.
pub fn end(_irq: u32) {}

/// Interrupts another CPU.
pub fn send_ipi(_cpu: usize, _number: u32) {}
