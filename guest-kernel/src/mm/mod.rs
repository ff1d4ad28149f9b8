//! Memory: frames, the kernel heap, kernel stacks, address spaces and the way to user memory.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`page`], [`buddy`], [`frame`] | one record a frame, free blocks, and [`FrameRef`], the counted handle |
//! | [`heap`], [`kstack`] | what the kernel itself lives on |
//! | [`user`] | checked copies from and to the current program |
//!
//! Allocation never panics where a program decides how much is allocated: see [`AllocFlags::USER`].

pub mod buddy;
pub mod frame;
pub mod heap;
pub mod kstack;
pub mod page;
pub mod user;

use alloc::boxed::Box;
use core::alloc::Layout;

pub use frame::{AllocFlags, FrameRef, Page, PageKind, alloc_page, alloc_page_of, alloc_pages};
pub use frame::{free_reserved, init};
pub use kstack::KernelStack;
pub use user::{IoDst, IoSrc, Pod, UserPtr, UserSlice};

use crate::errno::{Errno, Result};

/// An address space. To be written.
#[derive(belljar_abi::Described)]
#[repr(C)]
pub struct Mm(u32);

impl Mm {
    /// Makes its tables those of user space on this CPU.
    pub fn activate(&self) {}
}

/// `Box::new` that reports `ENOMEM`.
pub fn try_box<T>(value: T) -> Result<Box<T>> {
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        return Ok(Box::new(value));
    }
    // SAFETY: the layout has a size.
    let raw = unsafe { alloc::alloc::alloc(layout) }.cast::<T>();
    if raw.is_null() {
        return Err(Errno::ENOMEM);
    }
    // SAFETY: a fresh allocation of that layout, which is how `Box` allocates.
    unsafe {
        raw.write(value);
        Ok(Box::from_raw(raw))
    }
}

/// Gives back what caches of this floor hold without need.
fn reclaim() {
    kstack::shrink();
}

/// The test machine's memory.
#[cfg(test)]
pub mod testing {
    use std::sync::Once;

    use super::frame;
    use crate::addr::{PAGE_SIZE, PhysAddr};
    use crate::arch;

    /// Hands the host machine's RAM to the frame allocator, once.
    pub fn setup() {
        static INIT: Once = Once::new();
        INIT.call_once(|| {
            let start = arch::RAM_BASE;
            let end = PhysAddr(start.0 + arch::RAM_SIZE as u64);
            let root = arch::kernel_root();
            let reserved =
                [start..PhysAddr(start.0 + 0x3456), root..PhysAddr(root.0 + PAGE_SIZE as u64)];
            // SAFETY: the test machine's RAM is used by nobody else.
            unsafe { frame::init(&[start..end], &reserved) };
        });
    }
}
