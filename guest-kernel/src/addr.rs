//! Addresses have types: physical, kernel virtual and user virtual ones cannot be mixed up.
//!
//! The kernel maps all of RAM and the board's devices linearly: kernel virtual = physical +
//! [`LINEAR_OFFSET`]. The same offset is published in the root page.

use core::fmt;

/// log2 of the page size.
pub const PAGE_SHIFT: usize = 12;
/// Bytes in a page; stage-1 tables use the 4 KiB granule.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// The bits of an address below the page.
pub const PAGE_MASK: usize = PAGE_SIZE - 1;
/// Kernel virtual minus physical, for everything in the linear map.
pub const LINEAR_OFFSET: u64 = 0xffff_0000_0000_0000;
/// One past the highest user address: 48-bit TTBR0 space.
pub const TASK_SIZE: u64 = 1 << 48;

/// A physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PhysAddr(pub u64);

/// A virtual address, user or kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct VirtAddr(pub u64);

impl PhysAddr {
    /// The page frame number.
    pub const fn pfn(self) -> usize {
        (self.0 >> PAGE_SHIFT) as usize
    }

    /// The first address of a page frame.
    pub const fn from_pfn(pfn: usize) -> Self {
        Self((pfn as u64) << PAGE_SHIFT)
    }
}

impl VirtAddr {
    /// Rounded down to its page.
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_MASK as u64))
    }

    /// Offset within its page.
    pub const fn page_offset(self) -> usize {
        self.0 as usize & PAGE_MASK
    }

    /// True if an EL0 program may own this address.
    pub const fn is_user(self) -> bool {
        self.0 < TASK_SIZE
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phys {:#x}", self.0)
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Rounds a length up to whole pages; `None` on overflow.
pub const fn page_align_up(len: u64) -> Option<u64> {
    match len.checked_add(PAGE_MASK as u64) {
        Some(v) => Some(v & !(PAGE_MASK as u64)),
        None => None,
    }
}
