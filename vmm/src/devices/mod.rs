//! The devices of the machine that this process builds itself, and the bus they hang on.
//!
//! A device is a register file behind [`MmioDevice`] and raises its line through [`Interrupt`]; it
//! knows neither where it stands nor which interrupt it has, nor that KVM is there. What a guest
//! writes is hostile: whatever the offset, the size and the value, a device answers, and never
//! panics, blocks or allocates by the guest's measure.

mod bus;
#[cfg(any(test, feature = "synthetic"))]
pub mod hostile;
mod pl011;
mod rtc;
pub mod virtio;

pub use bus::{Bus, Overlap};
pub use pl011::Pl011;
pub use rtc::Rtc;

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

/// A level-triggered interrupt line.
pub trait Line: Send + Sync {
    /// Drives the line high (asserted) or low.
    fn set(&self, high: bool);
}

/// Answers a read at `offset` of a file of 32-bit registers, of which the one there holds `value`: its
/// bytes from that offset on, and nothing of its neighbour.
fn answer(value: u32, offset: u64, data: &mut [u8]) {
    data.fill(0);
    let bytes = value.to_le_bytes();
    let from = (offset % 4) as usize;
    data.iter_mut().zip(&bytes[from..]).for_each(|(to, from)| *to = *from);
}

/// What a write puts into a 32-bit register: the first four bytes, the missing ones as 0.
fn value_of(data: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    bytes.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    u32::from_le_bytes(bytes)
}
