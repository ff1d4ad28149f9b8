//! What the introspection engine reads: the physical memory of a guest, and addresses in it.
//!
//! [`Ram`] is the small trait that every source of memory implements: a live machine, the memory file
//! of a snapshot, a core.
//! [`walk`] is the stage-1 translation done in software, and [`Space`] reads virtual memory through it.
//! The guest is hostile input: a read outside RAM is an error, never a panic, and a walk has at most
//! four steps whatever the tables say.

mod core;
mod holes;
mod pagemap;
mod process;
mod ram;
mod space;
pub mod walk;

pub use core::{CoreError, VmCore};
pub use holes::data_ranges;
pub use process::ProcessRam;
pub use ram::{PrivateRam, RawRam, SliceRam};
pub use space::Space;

use std::ops::Range;

/// Bytes in a page; the kernel uses the 4 KiB granule.
pub const PAGE_SIZE: u64 = 4096;

/// Why guest memory could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A physical address that is no RAM.
    #[error("physical address {phys:#x} ({len} bytes) is outside the guest's RAM")]
    OutsideRam {
        /// The address.
        phys: u64,
        /// Bytes asked for.
        len: usize,
    },
    /// A virtual address that the guest's page tables do not map.
    #[error("virtual address {virt:#x} is not mapped")]
    Unmapped {
        /// The address.
        virt: u64,
    },
    /// The file or mapping behind the RAM failed.
    #[error("cannot read the guest's memory at {phys:#x}: {cause}")]
    Io {
        /// The physical address.
        phys: u64,
        /// What the host said.
        cause: String,
    },
}

/// The physical memory of a guest.
pub trait Ram: Send + Sync {
    /// The guest physical ranges that are RAM, in ascending order.
    fn ranges(&self) -> Vec<Range<u64>>;

    /// Fills `buf` from `phys` on, completely or not at all.
    fn read(&self, phys: u64, buf: &mut [u8]) -> Result<(), Error>;

    /// The parts of RAM outside which every byte is 0, in ascending order: all of it unless the source
    /// knows better. What copies RAM need not look anywhere else.
    fn populated(&self) -> Vec<Range<u64>> {
        self.ranges()
    }
}

/// The physical memory of a machine that is there.
pub trait LiveRam: Ram {
    /// Stores `bytes` from `phys` on: for the few words that the guest expects from outside.
    fn write(&self, phys: u64, bytes: &[u8]) -> Result<(), Error>;
}

impl<R: Ram + ?Sized> Ram for &R {
    fn ranges(&self) -> Vec<Range<u64>> {
        (**self).ranges()
    }

    fn read(&self, phys: u64, buf: &mut [u8]) -> Result<(), Error> {
        (**self).read(phys, buf)
    }

    fn populated(&self) -> Vec<Range<u64>> {
        (**self).populated()
    }
}

/// A little-endian word of physical memory.
pub fn read_u64(ram: &dyn Ram, phys: u64) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    ram.read(phys, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
