//! The machine: the only place with assembly, system registers and page-table bits.
//!
//! `arch/aarch64` is the real one. `arch/host` is the same interface over a `Vec<u8>` of "RAM", so
//! that every floor above runs under `cargo test` on any host. Nothing outside this folder may ask
//! which of the two it is.
//!
//! # The interface
//!
//! | what | names |
//! | --- | --- |
//! | CPU | [`current_thread`], [`irq_save`], [`irq_restore`], [`irqs_enabled`], [`irq_enable`], [`irq_disable`], [`wait_for_interrupt`], [`cpu_relax`], [`cpu_count`], [`cpu_on`], [`cpu_off`], [`cpu_is_off`], [`power_off`], [`reset`], [`hwcaps`], [`cache_registers`] |
//! | threads | [`switch_to`], [`call_on_stack`], [`setup_kernel_thread`], [`setup_user_thread`], [`save_user_state`], [`note_thread_pointer`], [`replace_user_state`], [`fp_state`], [`set_fp_state`], [`backtrace`] |
//! | tables | [`paging`], [`phys_to_virt`], [`virt_to_phys`], [`kernel_root`], [`activate_user`], [`deactivate_user`], [`tlb`] |
//! | user memory | [`uaccess`] |
//! | pages | [`clear_page`], [`copy_page`], [`sync_icache`] |
//! | freezing | [`suspend`], [`thaw_address`], [`map_devices`] |
//! | devices | [`mmio_read`], [`mmio_write`] |
//! | time | [`counter`], [`counter_frequency`], [`set_timer`], [`stop_timer`] |
//! | interrupts | [`irq`] |
//! | exceptions | [`exception`], and the entry points that `trap` defines |

mod debug;
pub mod exception;
pub mod paging;
mod thread;

#[cfg(target_os = "none")]
mod aarch64;
#[cfg(target_os = "none")]
pub use aarch64::*;

#[cfg(not(target_os = "none"))]
mod host;
#[cfg(not(target_os = "none"))]
pub use host::*;

pub use debug::{DebugKind, DebugPoint, DebugRegs, MAX_SLOTS as MAX_DEBUG_SLOTS};
pub use thread::{CpuContext, FpState, KernelStackRange, PtRegs, Thread, ThreadFlags, ThreadInfo};

/// Bytes of a kernel stack.
pub const KERNEL_STACK_SIZE: usize = 16 << 10;
/// A kernel stack starts at a multiple of this, which is twice its size: every valid stack pointer
/// below its top then has the bit of weight [`KERNEL_STACK_SIZE`] clear, and one that ran into the guard
/// area below has it set. Exception entry looks at that bit before it pushes anything.
pub const KERNEL_STACK_ALIGN: usize = 2 * KERNEL_STACK_SIZE;
/// CPUs that the kernel has room for.
pub const MAX_CPUS: usize = 32;
/// Where kernel mappings that are not linear may lie (kernel stacks, vmalloc).
pub const VMALLOC_START: u64 = 0xffff_8000_0000_0000;
/// One past the end of that area.
pub const VMALLOC_END: u64 = 0xffff_8080_0000_0000;

/// True where the kernel's tables translate, so that memory can be mapped at chosen kernel addresses.
/// Tests on a host reach RAM through the linear map only.
pub const KERNEL_TABLES_TRANSLATE: bool = cfg!(target_os = "none");

/// Access to user memory failed for good: there is no mapping, or it forbids the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserFault;

/// Removes the tag that EL0 may keep in the top byte of an address (TCR_EL1.TBI0).
#[inline]
pub const fn untagged(addr: u64) -> u64 {
    // Bit 55 selects the half of the address space; it fills the top byte.
    ((addr << 8) as i64 >> 8) as u64
}

/// True if `len` bytes at `addr` lie in user space as a whole, whatever is mapped there.
#[inline]
pub const fn access_ok(addr: u64, len: usize) -> bool {
    match untagged(addr).checked_add(len as u64) {
        Some(end) => end <= crate::addr::TASK_SIZE,
        None => false,
    }
}
