//! Keeping CPU 0's context in memory and going on with it in another machine.
//!
//! Only what a function call keeps is stored: the caller runs in the kernel with interrupts masked, as a
//! thread without a program, so every program's registers are in memory already, and all other system
//! registers have the values that every CPU sets when it starts (`init_cpu`). The CPU that goes on takes the
//! secondary CPUs' way up. All that it reads before its MMU is on is text, so no cache has to be cleaned:
//! whoever carries the memory to another machine sees what this CPU sees.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use super::boot::SecondaryStart;
use super::{current_thread, mmu};
use crate::addr::PhysAddr;

unsafe extern "C" {
    fn cpu_suspend(context: *mut [u64; 11], saved: extern "C" fn()) -> u64;
    fn cpu_resume();
    fn thaw_entry();
}

global_asm!(
    include_str!("suspend.S"),
    thaw_start = sym THAW_START,
    context = sym CONTEXT,
);

/// x19 to x28, and the stack pointer, where x29 and x30 lie.
#[repr(C, align(64))]
struct Context(UnsafeCell<[u64; 11]>);

// SAFETY: only CPU 0 freezes, with interrupts masked.
unsafe impl Sync for Context {}

static CONTEXT: Context = Context(UnsafeCell::new([0; 11]));
static THAW_START: SecondaryStart = SecondaryStart::new();

/// Where a CPU goes on with this memory while [`suspend`] calls its argument.
pub fn thaw_address() -> PhysAddr {
    mmu::virt_to_phys(thaw_entry as *const ())
}

/// Saves this CPU's context and calls `saved`. If that returns, so does this, with `None`. If a CPU of
/// another machine enters the memory as it is during `saved` at [`thaw_address`], this returns there, with
/// the address in that CPU's x0, interrupts masked and no user space.
///
/// # Safety
/// The current thread is a kernel thread on CPU 0, interrupts are masked, and no other CPU runs.
pub unsafe fn suspend(saved: extern "C" fn()) -> Option<PhysAddr> {
    const ORIGINAL: u64 = !0;
    let thread = current_thread();
    THAW_START.set(thread, thread.stack_top(), cpu_resume as *const () as u64);
    // SAFETY: the caller's promise; the context is CPU 0's.
    let outcome = unsafe { cpu_suspend(CONTEXT.0.get(), saved) };
    (outcome != ORIGINAL).then_some(PhysAddr(outcome))
}
