//! The PL031 real-time clock (Arm DDI 0224): seconds since 1970.

use core::ptr::read_volatile;

use super::fdt::Device;
use crate::addr::PhysAddr;
use crate::arch::phys_to_virt;

/// Seconds since 1970.
pub fn read_seconds(device: &Device) -> u64 {
    let data_register = phys_to_virt(PhysAddr(device.registers.start));
    // SAFETY: a register of the clock, which the linear map covers.
    u64::from(unsafe { read_volatile(data_register.cast::<u32>()) })
}
