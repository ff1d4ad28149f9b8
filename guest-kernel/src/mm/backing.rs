//! What stands behind a mapping that is not private anonymous memory.
//!
//! [`Backing`] is what a file (or device, or shared memory) offers to be mapped. [`MappedFile`] is one
//! such object as address spaces hold it: with the names that `/proc/PID/maps` and a reader outside
//! the machine show.

use alloc::sync::Arc;
use core::any::Any;

use belljar_abi::Described;

use super::Fault;
use super::frame::FrameRef;
use super::mapping::Mapping;
use crate::array::Array;
use crate::errno::Result;
use crate::kref::Ref;

/// Something whose pages can be mapped.
pub trait Backing: Send + Sync + Any {
    /// The page cache, if pages come from one. Then nothing else needs to be implemented.
    fn mapping(&self) -> Option<&Mapping> {
        None
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

    /// The object itself, for who knows its type (`/proc/PID/exe` looks for the file).
    fn as_any(&self) -> &dyn Any;
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
    #[described(skip)]
    backing: Arc<dyn Backing>,
}

impl MappedFile {
    /// Makes `backing` mappable under these names.
    pub fn new(backing: Arc<dyn Backing>, dev: u64, ino: u64, path: &[u8]) -> Result<Ref<Self>> {
        let mut name = Array::new();
        name.try_reserve(path.len())?;
        for byte in path {
            name.try_push(*byte)?;
        }
        let this = Ref::try_new(Self { dev, ino, path: name, backing })?;
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
