//! The block device (virtio 1.2, 5.2) over a file or a block device of the host.
//!
//! Requests are served in order, in the event loop, straight between the file and guest memory. What
//! the host cannot do the guest sees as an I/O error of that request, and the user as one line that
//! names the file; the device goes on. A file that shrank under the guest is such an error for what is
//! no longer there; a write makes the file grow again, up to the size that the guest was told.

mod request;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::{Driver, Error as QueueError, Report, VirtioDevice, read_config};

/// Bytes of a sector: the unit of capacity and addresses, whatever the file's own block size (5.2.4).
const SECTOR: u64 = 512;
const QUEUES: [u16; 1] = [128];
/// Buffers of one request: the queue without header and status.
const MAX_SEGMENTS: u32 = QUEUES[0] as u32 - 2;
/// The most sectors that one range of a discard or of a writing of zeros has: what it costs the host at
/// the worst, when a file system must write the zeros, stays in the order of a large write.
const MAX_RANGE: u32 = (64 << 20) / SECTOR as u32;
/// The most ranges of one such request.
const MAX_RANGES: u32 = 32;

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host does not say how large it is, or does not lock it.
    #[error("the disk {} cannot be used: {cause}", .path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// Somebody else writes to it, or reads what we would write.
    #[error(
        "the disk {} is in use by another virtual machine: stop that one, or give both the disk \
         read-only",
        .0.display()
    )]
    Busy(PathBuf),
    /// Not one sector.
    #[error("the disk {} has {size} bytes, less than one sector of 512: make it larger (truncate -s 1G)", .path.display())]
    Small {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
}

/// The device.
pub struct Block {
    file: File,
    name: String,
    read_only: bool,
    /// In sectors; fixed for the device's life.
    capacity: u64,
    /// The driver flushes when it wants its writes to be on disk; else each write is (5.2.6.2).
    write_back: bool,
    report: Report,
    /// The kind of the last failure that the user was told about: the same is told once.
    told: Option<io::ErrorKind>,
}

impl Block {
    /// A disk over `file`, open for reading and, unless `read_only`, for writing; `path` is what messages
    /// call it. It is locked against other users that would collide with this one.
    pub fn new(
        mut file: File,
        path: &Path,
        read_only: bool,
        report: Report,
    ) -> Result<Self, Error> {
        let failed = |cause| Error::Host { path: path.to_owned(), cause };
        let lock = match read_only {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        flock(&file, lock).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => Error::Busy(path.to_owned()),
            error => failed(error.into()),
        })?;
        // The end of a block device is its size too, which its metadata does not say.
        let size = io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(failed)?;
        if size < SECTOR {
            return Err(Error::Small { path: path.to_owned(), size });
        }
        let name = format!("disk {}", path.display());
        let capacity = size / SECTOR;
        Ok(Self { file, name, read_only, capacity, write_back: false, report, told: None })
    }

    /// Puts another file in the place of this one: for what a real file cannot be made to do.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) {
        self.file = file;
    }

    /// Configuration space (5.2.4): the fields of the features that are offered, the others 0.
    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        let mut put = |at: usize, value: u32| {
            config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(0, self.capacity as u32);
        put(4, (self.capacity >> 32) as u32);
        put(12, MAX_SEGMENTS);
        put(20, SECTOR as u32);
        put(36, MAX_RANGE); // max_discard_sectors
        put(40, MAX_RANGES); // max_discard_seg
        put(44, 1); // discard_sector_alignment
        put(48, MAX_RANGE); // max_write_zeroes_sectors
        put(52, MAX_RANGES); // max_write_zeroes_seg
        put(56, 1); // write_zeroes_may_unmap
        config
    }

    /// Tells the user about a failure of the host, once for a run of the same kind.
    fn tell(&mut self, what: &str, sector: u64, error: &io::Error) {
        if self.told.replace(error.kind()) == Some(error.kind()) {
            return;
        }
        let mend = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "; free space on the host and let the guest try again"
            }
            _ => "",
        };
        let what = format_args!("{what} at sector {sector} failed: {error}{mend}");
        self.report.line(&self.name, what);
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        let common = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_FLUSH;
        match self.read_only {
            true => common | 1 << VIRTIO_BLK_F_RO,
            false => common | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES,
        }
    }

    fn queues(&self) -> &[u16] {
        &QUEUES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.config(), offset, data);
    }

    fn activate(&mut self, driver: &mut Driver) {
        self.write_back = driver.has(VIRTIO_BLK_F_FLUSH);
    }

    fn kicked(&mut self, driver: &mut Driver) -> Result<(), QueueError> {
        driver.serve(0, |chain| self.request(chain)).map(drop)
    }

    fn reset(&mut self) {
        self.write_back = false;
    }
}
