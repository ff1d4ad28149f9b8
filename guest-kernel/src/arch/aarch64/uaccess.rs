//! The one way to user memory. Every access is made with no more than the rights of EL0 and may fault: the abort
//! handler mends the fault (and the access is tried again) or sends it to its fix-up, which ends the
//! copy early.

use core::arch::global_asm;

use super::cpu::{UserAccess, current_thread};
use crate::arch::{PtRegs, UserFault, access_ok, untagged};

global_asm!(include_str!("uaccess.S"));

unsafe extern "C" {
    fn __copy_wide(dst: *mut u8, src: *const u8, len: usize) -> usize;
    fn __copy_from_user(dst: *mut u8, src: u64, len: usize) -> usize;
    fn __copy_to_user(dst: u64, src: *const u8, len: usize) -> usize;
    fn __clear_user(dst: u64, len: usize) -> usize;
    fn __strncpy_from_user(dst: *mut u8, src: u64, len: usize) -> isize;
    fn __load_user_u32(addr: u64) -> i64;
    fn __cmpxchg_user_u32(addr: u64, old: u32, new: u32) -> i64;
    /// The code that may access user memory.
    static __uaccess_start: [u32; 0];
    static __uaccess_end: [u32; 0];
    /// The exception table, from the linker script.
    static __ex_table_start: [Fixup; 0];
    static __ex_table_end: [Fixup; 0];
}

/// An instruction that may fault, and where to go on if it does: both relative to their own place.
#[repr(C)]
struct Fixup {
    instruction: i32,
    target: i32,
}

impl Fixup {
    fn resolve(field: &i32) -> u64 {
        (core::ptr::from_ref(field) as u64).wrapping_add_signed(i64::from(*field))
    }
}

/// Sends an EL1 exception at a guarded instruction to its fix-up. False if there is none: then it is the
/// kernel's own fault.
pub fn fixup_exception(regs: &mut PtRegs) -> bool {
    let start = (&raw const __ex_table_start).cast::<Fixup>();
    let end = (&raw const __ex_table_end).cast::<Fixup>();
    let len = (end as usize - start as usize) / size_of::<Fixup>();
    // SAFETY: the section holds the entries that `guarded` put there and nothing else.
    let table = unsafe { core::slice::from_raw_parts(start, len) };
    // A few dozen entries, and only accesses that fail for good come here.
    match table.iter().find(|entry| Fixup::resolve(&entry.instruction) == regs.pc) {
        Some(entry) => {
            regs.pc = Fixup::resolve(&entry.target);
            true
        }
        None => false,
    }
}

/// True if the code at `pc` is what accesses user memory. A fault of any other kernel code is a bug, also at a
/// user address.
#[inline]
pub fn is_user_access(pc: u64) -> bool {
    (&raw const __uaccess_start as u64..&raw const __uaccess_end as u64).contains(&pc)
}

/// From this length on the vector registers pay off.
const WIDE: usize = 256;
const WIDE_BLOCK: usize = 128;

/// Copies whole blocks to or from user memory through the vector registers, as far as it gets; returns the
/// bytes copied. What is left, also where a block faulted, is for the exact copy.
///
/// # Safety
/// One of the two is user space for `len` bytes, the other valid for them.
#[inline]
unsafe fn copy_wide(dst: *mut u8, src: *const u8, len: usize) -> usize {
    // Only a thread of a program has its vector registers switched with it.
    // SAFETY: the running thread's own cell.
    if len < WIDE || !unsafe { *current_thread().is_user.get() } {
        return 0;
    }
    let len = len & !(WIDE_BLOCK - 1);
    let _access = UserAccess::new();
    // SAFETY: the caller's promise; the user's side is guarded.
    len - unsafe { __copy_wide(dst, src, len) }
}

/// Copies from user memory; returns how many bytes were *not* copied.
///
/// # Safety
/// `dst` is valid for writes of `len` bytes.
#[inline]
pub unsafe fn copy_from_user(dst: *mut u8, src: u64, len: usize) -> usize {
    if !access_ok(src, len) {
        return len;
    }
    // SAFETY: the caller vouches for `dst`; `src` is user space and guarded.
    unsafe {
        let done = copy_wide(dst, src as *const u8, len);
        __copy_from_user(dst.add(done), src + done as u64, len - done)
    }
}

/// Copies to user memory; returns how many bytes were *not* copied.
///
/// # Safety
/// `src` is valid for reads of `len` bytes.
#[inline]
pub unsafe fn copy_to_user(dst: u64, src: *const u8, len: usize) -> usize {
    if !access_ok(dst, len) {
        return len;
    }
    // SAFETY: the caller vouches for `src`; `dst` is user space and guarded.
    unsafe {
        let done = copy_wide(dst as *mut u8, src, len);
        __copy_to_user(dst + done as u64, src.add(done), len - done)
    }
}

/// Writes zeros to user memory; returns how many bytes were *not* written.
#[inline]
pub fn clear_user(dst: u64, len: usize) -> usize {
    if !access_ok(dst, len) {
        return len;
    }
    // SAFETY: `dst` is user space and guarded.
    unsafe { __clear_user(dst, len) }
}

/// Copies a string without its NUL, at most `len` bytes; returns the bytes before the NUL, or `len`
/// if there is none among them. What lies behind the string in `dst` may be overwritten.
///
/// # Safety
/// `dst` is valid for writes of `len` bytes.
pub unsafe fn strncpy_from_user(dst: *mut u8, src: u64, len: usize) -> Result<usize, UserFault> {
    // A string may end before the address space does, although `len` reaches beyond it.
    let room = crate::addr::TASK_SIZE.saturating_sub(untagged(src));
    let len = len.min(usize::try_from(room).unwrap_or(usize::MAX));
    if room == 0 {
        return Err(UserFault);
    }
    // SAFETY: the caller vouches for `dst`; `src` is user space and guarded.
    let copied = unsafe { __strncpy_from_user(dst, src, len) };
    usize::try_from(copied).map_err(|_| UserFault)
}

/// Reads an aligned word.
#[inline]
pub fn load_user_u32(addr: u64) -> Result<u32, UserFault> {
    if !access_ok(addr, 4) || !addr.is_multiple_of(4) {
        return Err(UserFault);
    }
    // SAFETY: `addr` is user space and guarded.
    u32::try_from(unsafe { __load_user_u32(addr) }).map_err(|_| UserFault)
}

/// Replaces an aligned word if it is `old`; returns what it was.
#[inline]
pub fn cmpxchg_user_u32(addr: u64, old: u32, new: u32) -> Result<u32, UserFault> {
    if !access_ok(addr, 4) || !addr.is_multiple_of(4) {
        return Err(UserFault);
    }
    let _access = UserAccess::new();
    // SAFETY: `addr` is user space and guarded.
    u32::try_from(unsafe { __cmpxchg_user_u32(untagged(addr), old, new) }).map_err(|_| UserFault)
}
