//! Caches, whole pages and the kernel's `memcpy` family.

use core::arch::{asm, global_asm};

use crate::sync::PreemptGuard;

global_asm!(include_str!("mem.S"));

unsafe extern "C" {
    fn __clear_page(page: *mut u8);
    fn __copy_page(to: *mut u8, from: *const u8);
}

/// Fills a page with zeros.
///
/// # Safety
/// `page` is the start of a page that the caller owns.
#[inline]
pub unsafe fn clear_page(page: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { __clear_page(page) }
}

/// Copies a page.
///
/// # Safety
/// Both are starts of pages, `to` is the caller's own.
#[inline]
pub unsafe fn copy_page(to: *mut u8, from: *const u8) {
    // A kernel thread's FP/SIMD registers are not switched, and the copy uses some.
    let _guard = PreemptGuard::new();
    // SAFETY: the caller's promise.
    unsafe { __copy_page(to, from) }
}

fn ctr() -> u64 {
    let ctr;
    // SAFETY: only reads.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) }
    ctr
}

/// Bytes of the smallest data cache line.
fn data_line() -> usize {
    4 << (ctr() >> 16 & 0xf)
}

fn lines(start: *const u8, len: usize, line: usize) -> impl Iterator<Item = usize> {
    let start = start as usize;
    (start & !(line - 1)..start + len).step_by(line)
}

/// Makes stored instructions visible to fetches, by EL0 and on every CPU (ARM ARM, B2.4.4).
pub fn sync_icache(start: *const u8, len: usize) {
    const IDC: u64 = 1 << 28;
    const DIC: u64 = 1 << 29;
    let ctr = ctr();
    if ctr & IDC == 0 {
        for line in lines(start, len, data_line()) {
            // SAFETY: cleaning changes no data; the range is mapped.
            unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) }
        }
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) }
    if ctr & DIC == 0 {
        for line in lines(start, len, 4 << (ctr & 0xf)) {
            // SAFETY: instructions are fetched again, nothing else changes.
            unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) }
        }
        // SAFETY: a barrier.
        unsafe { asm!("dsb ish", options(nostack, preserves_flags)) }
    }
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
}

/// Writes data back so far that a CPU with its caches off reads it.
pub(super) fn clean_to_memory(start: *const u8, len: usize) {
    for line in lines(start, len, data_line()) {
        // SAFETY: cleaning changes no data; the range is mapped.
        unsafe { asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags)) }
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
}
