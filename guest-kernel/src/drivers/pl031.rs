//! The PL031 real-time clock (Arm DDI 0224): seconds since 1970.

use core::ptr::read_volatile;
use core::sync::atomic::{AtomicU64, Ordering};

use super::fdt::Device;
use crate::addr::PhysAddr;
use crate::arch::phys_to_virt;

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
    let data_register = phys_to_virt(PhysAddr(base));
    // SAFETY: a register of the clock, which the linear map covers.
    Some(u64::from(unsafe { read_volatile(data_register.cast::<u32>()) }))
}
