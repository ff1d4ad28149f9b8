//! TLB maintenance. Every call first waits until the table entries stored before it are visible, and
//! returns when no CPU uses what was forgotten (ARM ARM, D8.13).
//!
//! An address space's identifier is asked for only after that wait: another CPU may give it one just then,
//! and either its table walks see the new entries, or what they brought in is forgotten here.

use core::arch::asm;

use crate::addr::{PAGE_SIZE, VirtAddr};

/// More pages than this are not worth forgetting one by one.
const MOST_PAGES: u64 = 64;

#[inline]
fn before() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) }
}

#[inline]
fn after() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) }
}

/// The operand of the operations by address.
#[inline]
fn operand(asid: u16, va: VirtAddr) -> u64 {
    u64::from(asid) << 48 | (va.0 >> 12 & ((1 << 44) - 1))
}

/// Bits of an ASID.
pub fn asid_bits() -> u32 {
    let mmfr0: u64;
    // SAFETY: only reads.
    unsafe {
        asm!("mrs {}, id_aa64mmfr0_el1", out(reg) mmfr0, options(nomem, nostack, preserves_flags));
    }
    if mmfr0 >> 4 & 0xf == 2 { 16 } else { 8 }
}

/// Forgets everything about one address space, on all CPUs.
#[inline]
pub fn flush_asid(asid: impl FnOnce() -> u16) {
    before();
    let asid = asid();
    // SAFETY: forgetting is always allowed.
    unsafe { asm!("tlbi aside1is, {}", in(reg) u64::from(asid) << 48, options(nostack)) }
    after();
}

/// Forgets one page of an address space, and the table entries on the way to it.
#[inline]
pub fn flush_page(asid: impl FnOnce() -> u16, va: VirtAddr) {
    before();
    let asid = asid();
    // SAFETY: forgetting is always allowed.
    unsafe { asm!("tlbi vae1is, {}", in(reg) operand(asid, va), options(nostack)) }
    after();
}

/// Forgets some pages of an address space, and the table entries on the way to them.
pub fn flush_range(asid: impl FnOnce() -> u16, start: VirtAddr, end: VirtAddr) {
    if end.0.saturating_sub(start.0) > MOST_PAGES * PAGE_SIZE as u64 {
        return flush_asid(asid);
    }
    before();
    let asid = asid();
    for va in (start.0..end.0).step_by(PAGE_SIZE) {
        // SAFETY: forgetting is always allowed.
        unsafe { asm!("tlbi vae1is, {}", in(reg) operand(asid, VirtAddr(va)), options(nostack)) }
    }
    after();
}

/// Forgets everything, on all CPUs.
pub fn flush_all() {
    before();
    // SAFETY: forgetting is always allowed.
    unsafe { asm!("tlbi vmalle1is", options(nostack)) }
    after();
}

/// Forgets some pages of kernel space, on all CPUs.
pub fn flush_kernel_range(start: VirtAddr, end: VirtAddr) {
    if end.0.saturating_sub(start.0) > MOST_PAGES * PAGE_SIZE as u64 {
        return flush_all();
    }
    before();
    for va in (start.0..end.0).step_by(PAGE_SIZE) {
        // SAFETY: forgetting is always allowed.
        unsafe { asm!("tlbi vaae1is, {}", in(reg) operand(0, VirtAddr(va)), options(nostack)) }
    }
    after();
}
