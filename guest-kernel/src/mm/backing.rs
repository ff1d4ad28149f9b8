//! What stands behind a mapping that is not private anonymous memory.
//!
//! [`Backing`] is what a file (or device, or shared memory) offers to be mapped. [`MappedFile`] is one
//! such object as address spaces hold it: with the names that `/proc/PID/maps` and a reader outside
//! the machine show.

use alloc::sync::Arc;
use core::any::Any;
use core::ops::Deref;
use core::sync::atomic::AtomicPtr;

use belljar_abi::Described;

use super::Fault;
use super::frame::FrameRef;
use super::mapping::Mapping;
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;

/// Something whose pages can be mapped.
pub trait Backing: Send + Sync + Any {
    /// The page cache, if pages come from one. Then nothing else needs to be implemented.
    fn mapping(&self) -> Option<&Mapping> {
        None
    }

    /// Whether `len` bytes from `start` on may be mapped at once.
    fn check_range(&self, _start: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// The page at `index`, brought in if need be; may sleep. `write`: a shared mapping will write it.
    /// [`Fault::BusErr`] beyond the end.
    fn page(&self, index: u64, write: bool) -> Result<FrameRef, Fault> {
        match self.mapping() {
            Some(mapping) => mapping.fault(index, write),
            None => Err(Fault::BusErr),
        }
    }

    /// Writes back what was changed through shared mappings (msync, MS_SYNC).
    fn sync(&self, _first: u64, _last: u64) -> Result<()> {
        Ok(())
    }

    /// Makes a range of the object a hole (madvise, MADV_REMOVE); may sleep.
    fn punch_hole(&self, start: u64, len: u64) -> Result<()> {
        let mapping = self.mapping().ok_or(Errno::EOPNOTSUPP)?;
        mapping.punch_hole(start, start.checked_add(len).ok_or(Errno::EFBIG)?);
        Ok(())
    }

    /// True if it is told of each range that comes to map it ([`opened`](Self::opened)) or ceases to
    /// ([`closed`](Self::closed)): parts of a split one and copies by fork(2) count.
    fn counts_ranges(&self) -> bool {
        false
    }

    /// One more range maps it. Runs under the locks of an address space: it may not sleep.
    fn opened(&self) {}

    /// One range less maps it. The last range's end is told with no lock held.
    fn closed(&self) {}

    /// The object itself, for who knows its type (`/proc/PID/exe` looks for the file).
    fn as_any(&self) -> &dyn Any;
}

/// Where pages are, as an address that nobody follows but who looks from outside.
pub fn pages_of(mapping: Option<&Mapping>) -> *mut Mapping {
    mapping.map_or(core::ptr::null_mut(), |mapping| core::ptr::from_ref(mapping).cast_mut())
}

/// A mappable object and its names. All mappings made by one mmap(2), and their copies and pieces,
/// share one.
#[repr(C)]
#[derive(Described)]
pub struct MappedFile {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Path when it was mapped, or a name in brackets.
    #[described(as = "vec uint")]
    pub path: Array<u8>,
    /// Its pages, for who looks from outside; null if it is not made of pages.
    #[described(as = "ptr Mapping")]
    pages: AtomicPtr<Mapping>,
    #[described(skip)]
    backing: Arc<dyn Backing>,
    /// What [`Backing::counts_ranges`] said.
    #[described(skip)]
    counts_ranges: bool,
}

/// A mappable object as one range holds it: objects that count their ranges are told.
#[repr(transparent)]
pub struct RangeFile(Ref<MappedFile>);

impl RangeFile {
    /// For a new range.
    pub fn new(file: Ref<MappedFile>) -> Self {
        if file.counts_ranges {
            file.backing.opened();
        }
        Self(file)
    }

    /// True if both are of one mmap(2).
    pub fn same(&self, other: &Self) -> bool {
        Ref::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for RangeFile {
    type Target = Ref<MappedFile>;

    fn deref(&self) -> &Ref<MappedFile> {
        &self.0
    }
}

impl Clone for RangeFile {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Drop for RangeFile {
    fn drop(&mut self) {
        if self.0.counts_ranges {
            self.0.backing.closed();
        }
    }
}

impl MappedFile {
    /// Makes `backing` mappable under these names.
    pub fn new(backing: Arc<dyn Backing>, dev: u64, ino: u64, path: &[u8]) -> Result<Ref<Self>> {
        let mut name = Array::new();
        name.try_reserve(path.len())?;
        for byte in path {
            name.try_push(*byte)?;
        }
        let pages = AtomicPtr::new(pages_of(backing.mapping()));
        let counts_ranges = backing.counts_ranges();
        let this = Ref::try_new(Self { dev, ino, path: name, pages, backing, counts_ranges })?;
        if let Some(mapping) = this.backing.mapping() {
            mapping.add_mapper();
        }
        Ok(this)
    }

    /// The object.
    pub fn backing(&self) -> &Arc<dyn Backing> {
        &self.backing
    }

    /// Its page cache.
    pub fn mapping(&self) -> Option<&Mapping> {
        self.backing.mapping()
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if let Some(mapping) = self.backing.mapping() {
            mapping.remove_mapper();
        }
    }
}
