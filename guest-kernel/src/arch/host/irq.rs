//! The interrupt controller on a host: there is none.

use crate::addr::PhysAddr;

/// There is no GICv3 to set up.
pub fn init_v3(_distributor: PhysAddr, _redistributors: core::ops::Range<u64>) {}

/// There is no GICv2 to set up.
pub fn init_v2(_distributor: PhysAddr, _cpu_interface: PhysAddr) {}

/// Lets an interrupt through.
pub fn enable(_irq: u32) {}

/// Says whether an interrupt is an edge.
pub fn set_edge_triggered(_irq: u32, _edge: bool) {}

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
