//! TLB maintenance on a host: every walk reads the tables, so nothing is stale.

use crate::addr::VirtAddr;

/// Bits of an ASID.
pub fn asid_bits() -> u32 {
    16
}

/// Forgets everything about one address space, on all CPUs.
pub fn flush_asid(_asid: impl FnOnce() -> u16) {}

/// Forgets one page of an address space, and the table entries on the way to it.
pub fn flush_page(_asid: impl FnOnce() -> u16, _va: VirtAddr) {}

/// Forgets some pages of an address space.
pub fn flush_range(_asid: impl FnOnce() -> u16, _start: VirtAddr, _end: VirtAddr) {}

/// Forgets everything about user space on all CPUs.
pub fn flush_all() {}

/// Forgets some pages of kernel space.
pub fn flush_kernel_range(_start: VirtAddr, _end: VirtAddr) {}
