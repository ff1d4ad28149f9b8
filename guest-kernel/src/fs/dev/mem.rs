//! /dev/null, /dev/zero, /dev/full, /dev/random and /dev/urandom.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::drivers::random;
use crate::errno::{Errno, Result};
use crate::fs::chrdev::{CharDevice, Dev, register_chrdev};
use crate::fs::file::{FMode, File, FileOps, OpenFlags, Whence};
use crate::fs::{Inode, Path, UserBuf};
use crate::kref::Ref;
use crate::mm::{Backing, Mapping, PageKind, try_arc, try_box};
use crate::ns::Cred;

/// Major number of the memory devices.
pub(super) const MEM_MAJOR: u32 = 1;

/// Which memory device, by its minor number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MemDevice {
    Null,
    Zero,
    Full,
    Random,
}

struct Mem;

pub(super) fn register() {
    let devices = [(3, "null"), (5, "zero"), (7, "full"), (8, "random"), (9, "urandom")];
    for (minor, name) in devices {
        register_chrdev(Dev::new(MEM_MAJOR, minor), name, 0o666, &Mem);
    }
}

impl CharDevice for Mem {
    fn open(
        &self,
        dev: Dev,
        _: &Ref<Inode>,
        _: &Path,
        _: OpenFlags,
        _: &Cred,
    ) -> Result<Box<dyn FileOps>> {
        let device = match dev.minor() {
            3 => MemDevice::Null,
            5 => MemDevice::Zero,
            7 => MemDevice::Full,
            8 | 9 => MemDevice::Random,
            _ => return Err(Errno::ENXIO),
        };
        Ok(try_box(device)?)
    }
}

/// Fills what is left of `buf` with random bytes.
pub fn read_random(buf: &mut UserBuf<'_>) -> Result<usize> {
    let mut chunk = [0; 256];
    buf.in_pieces(&mut 0, |buf, _| {
        let n = buf.remaining().min(chunk.len());
        random::fill(&mut chunk[..n]);
        Some((n, buf.put(&chunk[..n])))
    })
}

/// Stirs what is left of `buf` into the generator.
fn write_random(buf: &mut UserBuf<'_>) -> Result<usize> {
    let mut chunk = [0; 256];
    let mut done = 0;
    while !buf.is_empty() {
        let n = buf.take(&mut chunk)?;
        random::mix(&chunk[..n]);
        done += n;
    }
    Ok(done)
}

/// True if `file` is /dev/zero. A shared mapping of it is memory without a file.
pub fn is_zero(file: &File) -> bool {
    file.ops_as() == Some(&MemDevice::Zero)
}

impl FileOps for MemDevice {
    fn read(&self, _file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        match self {
            Self::Null => Ok(0),
            Self::Zero | Self::Full => buf.put_zeros(buf.remaining()),
            Self::Random => read_random(buf),
        }
    }

    fn write(&self, _file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        match self {
            Self::Null | Self::Zero => buf.skip(buf.remaining()),
            Self::Full => Err(Errno::ENOSPC),
            Self::Random => write_random(buf),
        }
    }

    fn seek(&self, _file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        Ok(0)
    }

    fn mmap(&self, _file: &Ref<File>, _writable: bool) -> Result<Arc<dyn Backing>> {
        if *self != Self::Zero {
            return Err(Errno::ENODEV);
        }
        // Every mapping is memory of its own, as long as anybody may want it.
        let mapping = Mapping::new(PageKind::Shmem);
        mapping.truncate(i64::MAX as u64);
        Ok(try_arc(mapping)?)
    }

    fn abilities(&self) -> FMode {
        FMode::POSITIONLESS
    }
}
