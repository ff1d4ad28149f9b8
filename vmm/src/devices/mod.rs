//! The devices of the machine that this process builds itself, and the bus they hang on.
//!
//! A device is a register file behind [`MmioDevice`] and raises its line through [`Interrupt`]; it
//! knows neither where it stands nor which interrupt it has, nor that KVM is there. What a guest
//! writes is hostile: whatever the offset, the size and the value, a device answers, and never
//! panics, blocks or allocates by the guest's measure.

mod bus;
pub mod virtio;

pub use bus::{Bus, Overlap};

/// A register file in the guest's physical address space.
pub trait MmioDevice: Send {
    /// The guest reads `data.len()` bytes (1 to 8) at `offset`; what no register stands behind is 0.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` (1 to 8 bytes) at `offset`; what no register stands behind is ignored.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// An edge-triggered interrupt line: each call is one edge.
pub trait Interrupt: Send + Sync {
    /// Raises the interrupt once.
    fn trigger(&self);
}
