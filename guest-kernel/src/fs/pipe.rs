//! Pipes and FIFOs.

use alloc::boxed::Box;

use super::{FileOps, Inode, OpenFlags, Path};
use crate::errno::{Errno, Result};
use crate::kref::Ref;

/// Opens a FIFO by its name (fifo(7)).
pub fn open_fifo(_inode: &Ref<Inode>, _path: &Path, _flags: OpenFlags) -> Result<Box<dyn FileOps>> {
    Err(Errno::ENXIO)
}
