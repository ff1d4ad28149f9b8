//! Device registers, read and written with plain loads and stores.
//!
//! A compiler may turn a volatile access into one that also updates its base register, or into one of a
//! pair. A hypervisor that has to emulate the device gets no syndrome for those (ESR_EL2.ISS, ISV = 0)
//! and must give up, so registers are only ever touched here.

use core::arch::asm;

use super::phys_to_virt;
use crate::addr::PhysAddr;

/// Reads the 32-bit register at `register`.
///
/// # Safety
/// There is a device's register, and its driver is ready for what reading it does.
#[inline]
pub unsafe fn mmio_read(register: PhysAddr) -> u32 {
    let value;
    // SAFETY: the linear map covers every device; the rest is the caller's promise.
    unsafe {
        asm!("ldr {:w}, [{}]", out(reg) value, in(reg) phys_to_virt(register),
            options(nostack, preserves_flags));
    }
    value
}

/// Writes the 32-bit register at `register`.
///
/// # Safety
/// There is a device's register, and what the device then does to memory is in order.
#[inline]
pub unsafe fn mmio_write(register: PhysAddr, value: u32) {
    // SAFETY: as above.
    unsafe {
        asm!("str {:w}, [{}]", in(reg) value, in(reg) phys_to_virt(register),
            options(nostack, preserves_flags));
    }
}
