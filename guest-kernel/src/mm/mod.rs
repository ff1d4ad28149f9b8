//! Memory: frames, the kernel heap, kernel stacks, address spaces and the way to user memory.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`page`], [`buddy`], [`frame`] | one record a frame, free blocks, and [`FrameRef`], the counted handle |
//! | [`heap`], [`kstack`] | what the kernel itself lives on |
//! | [`fault_inject`] | allocations that fail on demand |
//! | [`user`] | checked copies from and to the current program |
//! | [`meminfo`](self::meminfo) | how memory is used |
//! | [`mapping`], [`backing`] | the pages of a file, and what can be mapped |
//! | [`vma`], `table`, [`tables`], `gather`, [`asid`] | ranges, translation tables and their sharing, address space identifiers |
//! | [`mm`](self::mm) | [`Mm`], the address space: fork, exit, access from outside |
//! | [`fault`], [`oom`] | demand paging and copy-on-write, and what happens when memory ends |
//! | [`mmap`], [`mremap`], [`madvise`] | changes of an address space |
//!
//! Allocation never panics where a program decides how much is allocated: see [`AllocFlags::USER`].

pub mod asid;
pub mod backing;
pub mod buddy;
pub mod fault;
pub mod fault_inject;
pub mod frame;
mod gather;
pub mod heap;
pub mod kstack;
pub mod madvise;
pub mod mapping;
pub mod memcg;
pub mod meminfo;
#[allow(clippy::module_inception, reason = "it is the address space that names the floor")]
pub mod mm;
pub mod mmap;
pub mod mremap;
pub mod oom;
pub mod page;
mod ranges;
pub mod remap;
pub mod restore;
mod table;
pub mod tables;
pub mod user;
pub mod vma;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;

pub use asid::leave as leave_user_space;
pub use backing::{Backing, MappedFile, RangeFile};
pub use fault::{Access, Fault};
pub use frame::{AllocFlags, FrameRef, Page, PageKind, alloc_page, alloc_page_of, alloc_pages};
pub use frame::{free_reserved, init, total_frames as total_pages};
pub use kstack::KernelStack;
pub use mapping::Mapping;
pub use memcg::{MemGroup, alloc_for_caller, try_alloc_for_caller};
pub use meminfo::{MemInfo, meminfo};
pub use mm::{
    DEFAULT_DUMP_FILTER, Dumpable, Mm, MmLayout, MmLimits, RemoteBuf, RemoteRights, Space,
};
pub use mmap::MmapRequest;
pub use user::{Pod, UserPtr, copy_in, copy_out};
pub use vma::{VmFlags, Vma};

use crate::errno::{Errno, Result};
use crate::sync::Once;

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

/// `Arc::new` that reports `ENOMEM` when there is no room. Stable Rust has no fallible `Arc`: the room is
/// looked for just before it is taken, so that only another CPU's demand can come between.
pub fn try_arc<T>(value: T) -> Result<Arc<T>> {
    // `Arc` allocates its two counts and the value in one piece.
    drop(try_box(core::mem::MaybeUninit::<(u64, u64, T)>::uninit())?);
    Ok(fault_inject::paused(|| Arc::new(value)))
}

/// A copy of a slice as an `Arc`, as [`try_arc`] does it.
pub fn try_arc_slice<T: Copy>(items: &[T]) -> Result<Arc<[T]>> {
    let counts = size_of::<(usize, usize)>().div_ceil(size_of::<T>().max(1));
    let mut room = Vec::<T>::new();
    room.try_reserve_exact(items.len() + counts).map_err(|_| Errno::ENOMEM)?;
    drop(room);
    Ok(fault_inject::paused(|| Arc::from(items)))
}

/// `Iterator::collect` that reports `ENOMEM`.
pub fn try_collect<T>(items: impl Iterator<Item = T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve(items.size_hint().0).map_err(|_| Errno::ENOMEM)?;
    for item in items {
        all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        all.push(item);
    }
    Ok(all)
}

/// A copy of a slice on the heap; `ENOMEM` if there is no room.
pub fn try_to_vec<T: Copy>(items: &[T]) -> Result<Vec<T>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(items.len()).map_err(|_| Errno::ENOMEM)?;
    copy.extend_from_slice(items);
    Ok(copy)
}

/// `vec![value; n]` that reports `ENOMEM`.
pub fn try_vec<T: Clone>(n: usize, value: T) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(n).map_err(|_| Errno::ENOMEM)?;
    vec.resize(n, value);
    Ok(vec)
}

/// Gives up cached pages of later floors; says how many.
pub type Shrinker = fn() -> usize;

static SHRINKER: Once<Shrinker> = Once::new();

/// Sets who gives up cached pages when memory is short. It may be called wherever spin locks may be taken.
pub fn set_shrinker(shrinker: Shrinker) {
    SHRINKER.set(shrinker);
}

/// Gives back what caches hold without need.
fn reclaim() {
    kstack::shrink();
    if let Some(shrink) = SHRINKER.try_get() {
        shrink();
    }
}

#[cfg(test)]
mod tests;

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
            // Made once and never freed: not to be counted in any test.
            super::fault::zero_page().unwrap();
        });
    }
}
