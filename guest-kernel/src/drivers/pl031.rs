//! The PL031 real-time clock (Arm DDI 0224): seconds since 1970.

use core::sync::atomic::{AtomicU64, Ordering};

use super::fdt::Device;
use crate::addr::PhysAddr;
use crate::arch;

/// Where its registers are; 0 while the machine has none.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Notes the machine's clock, if it has one: at boot, and when another machine goes on.
pub fn init(device: Option<&Device>) {
    BASE.store(device.map_or(0, |device| device.registers.start), Ordering::Relaxed);
}

/// Seconds since 1970; `None` if the machine has no such clock.
pub fn read_seconds() -> Option<u64> {
    let base = BASE.load(Ordering::Relaxed);
    if base == 0 {
        return None;
    }
    // SAFETY: a register of the clock, which touches no memory.
    Some(unsafe { arch::mmio_read(PhysAddr(base)) }.into())
}
