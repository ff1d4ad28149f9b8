//! User memory on a host: reached by walking the activated tables. Where the walk fails, the fault
//! handler set by [`set_fault_handler`] may mend it, as the abort handler does on the bare machine.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use super::mem::{active_user, phys_to_virt};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::paging::{LEVELS, Prot, index, table_at};
use crate::arch::{UserFault, access_ok, untagged};

/// Mends a fault at an address (the flag says whether it was a store); false if it cannot.
pub type FaultHandler = fn(VirtAddr, bool) -> bool;

thread_local! {
    static HANDLER: Cell<Option<FaultHandler>> = const { Cell::new(None) };
}

/// Sets who mends faults on this host thread.
pub fn set_fault_handler(handler: FaultHandler) {
    HANDLER.set(Some(handler));
}

/// Where the host sees a user address, if EL0 may access it so.
fn walk(va: VirtAddr, prot: Prot) -> Option<*mut u8> {
    let (mut phys, _) = active_user()?;
    for level in 0..LEVELS {
        // SAFETY: activated tables live while they are active.
        let pte = unsafe { table_at(phys) }[index(va, level)].load();
        let forbids = |read_only| read_only && prot.contains(Prot::WRITE);
        if !pte.is_valid() || (pte.is_table(level) && forbids(pte.is_table_read_only())) {
            return None;
        }
        phys = pte.phys();
        if level == LEVELS - 1 {
            let allowed = pte.is_user() && !forbids(!pte.is_writable());
            return allowed.then(|| phys_to_virt(phys).wrapping_add(va.page_offset()));
        }
    }
    None
}

fn reach(addr: u64, prot: Prot) -> Option<*mut u8> {
    let va = VirtAddr(untagged(addr));
    loop {
        if let Some(ptr) = walk(va, prot) {
            return Some(ptr);
        }
        if !HANDLER.get()?(va, prot.contains(Prot::WRITE)) {
            return None;
        }
    }
}

/// Runs `step` on each page-bounded piece; returns the bytes that were not reached.
fn pieces(addr: u64, len: usize, prot: Prot, mut step: impl FnMut(*mut u8, usize, usize)) -> usize {
    if !access_ok(addr, len) {
        return len;
    }
    let mut done = 0;
    while done < len {
        let at = addr + done as u64;
        let n = (len - done).min(PAGE_SIZE - VirtAddr(at).page_offset());
        let Some(ptr) = reach(at, prot) else { break };
        step(ptr, done, n);
        done += n;
    }
    len - done
}

/// Copies from user memory; returns how many bytes were *not* copied.
///
/// # Safety
/// `dst` is valid for writes of `len` bytes.
pub unsafe fn copy_from_user(dst: *mut u8, src: u64, len: usize) -> usize {
    // SAFETY: `walk` found the page, and the caller vouches for `dst`.
    pieces(src, len, Prot::empty(), |ptr, at, n| unsafe { dst.add(at).copy_from(ptr, n) })
}

/// Copies to user memory; returns how many bytes were *not* copied.
///
/// # Safety
/// `src` is valid for reads of `len` bytes.
pub unsafe fn copy_to_user(dst: u64, src: *const u8, len: usize) -> usize {
    // SAFETY: `walk` found the page, and the caller vouches for `src`.
    pieces(dst, len, Prot::WRITE, |ptr, at, n| unsafe { ptr.copy_from(src.add(at), n) })
}

/// Writes zeros to user memory; returns how many bytes were *not* written.
pub fn clear_user(dst: u64, len: usize) -> usize {
    // SAFETY: `walk` found the page.
    pieces(dst, len, Prot::WRITE, |ptr, _, n| unsafe { ptr.write_bytes(0, n) })
}

/// Copies a string without its NUL, at most `len` bytes; returns the bytes before the NUL, or `len`
/// if there is none among them.
///
/// # Safety
/// `dst` is valid for writes of `len` bytes.
pub unsafe fn strncpy_from_user(dst: *mut u8, src: u64, len: usize) -> Result<usize, UserFault> {
    for i in 0..len {
        // SAFETY: the caller vouches for `dst`.
        unsafe {
            if copy_from_user(dst.add(i), src + i as u64, 1) != 0 {
                return Err(UserFault);
            }
            if *dst.add(i) == 0 {
                return Ok(i);
            }
        }
    }
    Ok(len)
}

fn word(addr: u64, prot: Prot) -> Result<&'static AtomicU32, UserFault> {
    if !addr.is_multiple_of(4) || !access_ok(addr, 4) {
        return Err(UserFault);
    }
    let ptr = reach(addr, prot).ok_or(UserFault)?;
    // SAFETY: an aligned word of the test machine's RAM, which lives for ever.
    Ok(unsafe { AtomicU32::from_ptr(ptr.cast()) })
}

/// Reads an aligned word.
pub fn load_user_u32(addr: u64) -> Result<u32, UserFault> {
    Ok(word(addr, Prot::empty())?.load(Ordering::SeqCst))
}

/// Replaces an aligned word if it is `old`; returns what it was.
pub fn cmpxchg_user_u32(addr: u64, old: u32, new: u32) -> Result<u32, UserFault> {
    let word = word(addr, Prot::WRITE)?;
    let result = word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
    Ok(result.unwrap_or_else(|now| now))
}
