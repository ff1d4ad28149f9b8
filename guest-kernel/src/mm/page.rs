//! [`Page`]: the record that the kernel keeps for every frame of RAM.
//!
//! Records form one array, indexed by frame number ([`super::frame`]). A record of a chunk of RAM that
//! was never handed out holds garbage: `frame` clears a chunk's records when it first uses the chunk,
//! so that boot does not pay for RAM that nobody needs.
//!
//! `refcount` counts who holds the frame: every table entry that maps it, every page-cache slot, every
//! [`FrameRef`](super::FrameRef). A page table's frame is counted by the entries that point at it,
//! which is how address spaces share tables.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use belljar_abi::Described;

/// What a frame is used for.
#[derive(Described, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageKind {
    /// Not the allocator's: firmware tables, the kernel image, holes.
    Reserved = 0,
    /// On a free list of the buddy allocator, or part of such a block.
    Free = 1,
    /// On a CPU's list of free frames.
    Hot = 2,
    /// Whatever the kernel keeps for itself.
    Kernel = 3,
    /// Split into small objects by the kernel heap.
    Slab = 4,
    /// A kernel stack.
    Stack = 5,
    /// A table of user address translations.
    Table = 6,
    /// Anonymous memory of programs.
    Anon = 7,
    /// A page of a file.
    Cache = 8,
    /// Shared anonymous memory or a page of a tmpfs file.
    Shmem = 9,
    /// The page of zeros that anonymous memory reads before it is written.
    Zero = 10,
}

impl PageKind {
    /// How many kinds there are.
    pub const COUNT: usize = 11;
    const ALL: [PageKind; Self::COUNT] = [
        Self::Reserved,
        Self::Free,
        Self::Hot,
        Self::Kernel,
        Self::Slab,
        Self::Stack,
        Self::Table,
        Self::Anon,
        Self::Cache,
        Self::Shmem,
        Self::Zero,
    ];
}

/// [`Page::flags`] of a file's page that was allocated in advance: it holds no data yet, and is a hole
/// to who looks for data (lseek(2), mincore(2)).
pub const RESERVED: u16 = 1 << 1;

/// The record of one frame.
#[repr(C)]
#[derive(Described)]
pub struct Page {
    #[described(as = "uint")]
    refcount: AtomicU32,
    #[described(as = "enum PageKind")]
    kind: AtomicU8,
    /// log2 of the block that starts here, in frames.
    #[described(as = "uint")]
    order: AtomicU8,
    #[described(as = "uint")]
    flags: AtomicU16,
    /// Neighbours on a free list or slab list: record numbers, [`Page::NONE`] at the ends.
    #[described(as = "uint")]
    next: AtomicU32,
    #[described(as = "uint")]
    prev: AtomicU32,
    /// A slab's free list; a table's number of entries in use; of a page of a program or file the group
    /// that it is charged to, 0 for none.
    #[described(as = "hex")]
    private: AtomicU64,
    /// A page-cache page's index in its file.
    #[described(as = "uint")]
    index: AtomicU64,
}

const _: () = assert!(size_of::<Page>() == 32, "one frame costs 32 bytes of record");

macro_rules! field {
    ($($(#[$doc:meta])* $get:ident, $set:ident: $ty:ty;)*) => {
        $(
            $(#[$doc])*
            #[inline]
            pub fn $get(&self) -> $ty {
                self.$get.load(Ordering::Relaxed)
            }

            /// Sets it; the frame's owner or the allocator only.
            #[inline]
            pub fn $set(&self, value: $ty) {
                self.$get.store(value, Ordering::Relaxed);
            }
        )*
    };
}

impl Page {
    /// No neighbour.
    pub const NONE: u32 = u32::MAX;

    field! {
        /// log2 of the block that starts here, in frames.
        order, set_order: u8;
        /// Flags that the owner defines.
        flags, set_flags: u16;
        /// The next record on the list.
        next, set_next: u32;
        /// The previous record on the list.
        prev, set_prev: u32;
        /// What the owner keeps here.
        private, set_private: u64;
        /// Index in the file.
        index, set_index: u64;
    }

    /// What the frame is used for.
    #[inline]
    pub fn kind(&self) -> PageKind {
        let kind = usize::from(self.kind.load(Ordering::Relaxed));
        PageKind::ALL.get(kind).copied().unwrap_or(PageKind::Reserved)
    }

    /// Sets the kind; the allocator's to call.
    #[inline]
    pub fn set_kind(&self, kind: PageKind) {
        self.kind.store(kind as u8, Ordering::Relaxed);
    }

    /// True if it was only allocated in advance.
    #[inline]
    pub fn is_reserved(&self) -> bool {
        self.flags() & RESERVED != 0
    }

    /// How many hold the frame. When it is one and the holder is the caller, nobody can raise it.
    #[inline]
    pub fn refcount(&self) -> u32 {
        self.refcount.load(Ordering::Acquire)
    }

    /// Sets the count of a frame that nobody else knows.
    #[inline]
    pub fn set_refcount(&self, count: u32) {
        self.refcount.store(count, Ordering::Relaxed);
    }

    /// One holder more.
    #[inline]
    pub fn get(&self) {
        self.refcount.fetch_add(1, Ordering::Relaxed);
    }

    /// One holder less; true if it was the last, who then sees all that the others did.
    #[inline]
    #[must_use]
    pub fn put(&self) -> bool {
        // The count can only be one if the caller is the last holder, and then nobody races.
        if self.refcount.load(Ordering::Acquire) == 1 {
            self.refcount.store(0, Ordering::Relaxed);
            return true;
        }
        self.refcount.fetch_sub(1, Ordering::AcqRel) == 1
    }
}
