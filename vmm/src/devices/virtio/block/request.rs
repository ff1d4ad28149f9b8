//! One request to a disk: its header, what it asks for, its status.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::{Block, MAX_RANGE, MAX_RANGES, QueueError, SECTOR};
use crate::devices::virtio::{Chain, Served};

/// The most bytes that one request moves; more than any Linux driver asks for at once. It bounds how
/// long one request keeps the loop.
const MAX_DATA: usize = 64 << 20;
/// Zeros for a file system that cannot make them itself.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// How a request failed.
enum Failure {
    /// The driver asked for what cannot be: outside the disk, not whole sectors, a write to a disk that
    /// is read-only.
    Refused,
    /// The device does not do that.
    Unsupported,
    /// The host could not.
    Host(&'static str, u64, io::Error),
}

/// A range of a discard or of a writing of zeros.
struct Range {
    sector: u64,
    sectors: u32,
    unmap: bool,
}

impl Block {
    /// Serves one request (5.2.6): header, data, and one byte of status at the very end.
    pub(super) fn request(&mut self, chain: &mut Chain<'_>) -> Result<Served, QueueError> {
        let header = chain.readable.read_array::<16>().ok_or(QueueError::Request("header"))?;
        let mut status = chain.writable.split_end(1).ok_or(QueueError::Request("status"))?;
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap_or_default());
        let sector = u64::from_le_bytes(header[8..].try_into().unwrap_or_default());
        let room = chain.writable.len();
        let result = match kind {
            VIRTIO_BLK_T_IN => self.read(chain, sector),
            VIRTIO_BLK_T_OUT => self.write(chain, sector),
            VIRTIO_BLK_T_FLUSH => self.flush(),
            VIRTIO_BLK_T_GET_ID => self.id_string(chain),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
                self.ranges(chain, kind == VIRTIO_BLK_T_DISCARD)
            }
            _ => Err(Failure::Unsupported),
        };
        let code = match result {
            Ok(()) => {
                self.told = None;
                VIRTIO_BLK_S_OK
            }
            Err(Failure::Unsupported) => VIRTIO_BLK_S_UNSUPP,
            Err(Failure::Refused) => VIRTIO_BLK_S_IOERR,
            Err(Failure::Host(what, sector, error)) => {
                self.tell(what, sector, &error);
                VIRTIO_BLK_S_IOERR
            }
        };
        status.write(&[code as u8]);
        // 2.7.8.2: no more than was written from the start on. The status is the last byte, so it only
        // counts if nothing before it was left out.
        let written = room - chain.writable.len();
        let whole = usize::from(chain.writable.is_empty());
        Ok(Served::Done((written + whole) as u32))
    }

    /// The byte offset of `length` bytes at `sector`, if they are whole sectors of this disk.
    fn place(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(length / SECTOR);
        match length.is_multiple_of(SECTOR) && end.is_some_and(|end| end <= self.capacity) {
            true => Ok(sector * SECTOR),
            false => Err(Failure::Refused),
        }
    }

    fn read(&self, chain: &mut Chain<'_>, sector: u64) -> Result<(), Failure> {
        let data = &mut chain.writable;
        let mut offset = self.place(sector, data.len() as u64)?;
        if data.len() > MAX_DATA {
            return Err(Failure::Refused);
        }
        while !data.is_empty() {
            let failed = |error| Failure::Host("a read", offset / SECTOR, error);
            match data.read_from(self.file.as_fd(), offset, MAX_DATA).map_err(failed)? {
                0 => return Err(failed(io::Error::other("the file is shorter than it was"))),
                count => offset += count as u64,
            }
        }
        Ok(())
    }

    fn write(&self, chain: &mut Chain<'_>, sector: u64) -> Result<(), Failure> {
        let data = &mut chain.readable;
        let mut offset = self.place(sector, data.len() as u64)?;
        if self.read_only || data.len() > MAX_DATA {
            return Err(Failure::Refused);
        }
        while !data.is_empty() {
            let failed = |error| Failure::Host("a write", offset / SECTOR, error);
            match data.write_to(self.file.as_fd(), offset, MAX_DATA).map_err(failed)? {
                0 => return Err(failed(io::ErrorKind::WriteZero.into())),
                count => offset += count as u64,
            }
        }
        self.written()
    }

    /// After a write: if the driver does not flush by itself, the write is only done once it is on disk.
    fn written(&self) -> Result<(), Failure> {
        match self.write_back {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn flush(&self) -> Result<(), Failure> {
        match self.read_only {
            true => Ok(()),
            false => self.file.sync_data().map_err(|error| Failure::Host("a flush", 0, error)),
        }
    }

    /// The disk's name for the guest's /sys (5.2.6: twenty bytes, padded with NUL).
    fn id_string(&self, chain: &mut Chain<'_>) -> Result<(), Failure> {
        let name = self.name.rsplit('/').next().unwrap_or(&self.name).as_bytes();
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        let length = name.len().min(id.len());
        id[..length].copy_from_slice(&name[..length]);
        match chain.writable.write(&id) == id.len() {
            true => Ok(()),
            false => Err(Failure::Refused),
        }
    }

    /// Discards or writes zeros to a list of ranges, once all of them are known to be right.
    fn ranges(&self, chain: &mut Chain<'_>, discard: bool) -> Result<(), Failure> {
        let data = &mut chain.readable;
        if self.read_only || data.is_empty() || !data.len().is_multiple_of(16) {
            return Err(Failure::Refused);
        }
        if data.len() / 16 > MAX_RANGES as usize {
            return Err(Failure::Refused);
        }
        let mut ranges = Vec::with_capacity(data.len() / 16);
        while let Some(range) = data.read_array::<16>() {
            ranges.push(self.range(range, discard)?);
        }
        for range in &ranges {
            let failed = |error| {
                let what = if discard { "a discard" } else { "a writing of zeros" };
                Failure::Host(what, range.sector, error)
            };
            let (offset, length) = (range.sector * SECTOR, u64::from(range.sectors) * SECTOR);
            match discard {
                true => self.discard(offset, length).map_err(failed)?,
                false => self.zero(offset, length, range.unmap).map_err(failed)?,
            }
        }
        self.written()
    }

    fn range(&self, bytes: [u8; 16], discard: bool) -> Result<Range, Failure> {
        let sector = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default());
        let sectors = u32::from_le_bytes(bytes[8..12].try_into().unwrap_or_default());
        let flags = u32::from_le_bytes(bytes[12..].try_into().unwrap_or_default());
        // 5.2.6.2: unknown flags, and "unmap" where it means nothing, are not supported.
        let known = if discard { 0 } else { VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP };
        if flags & !known != 0 {
            return Err(Failure::Unsupported);
        }
        if sectors > MAX_RANGE {
            return Err(Failure::Refused);
        }
        self.place(sector, u64::from(sectors) * SECTOR)?;
        Ok(Range { sector, sectors, unmap: flags != 0 })
    }

    /// Gives the space back to the host. A file system that cannot is no error: a discard is a hint.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        match self.punch(offset, length) {
            Err(error) if unsupported(&error) => Ok(()),
            result => result,
        }
    }

    /// Makes the range read as zeros; with `unmap` it need not keep its space.
    fn zero(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let made = match unmap {
            true => self.punch(offset, length),
            false => Err(rustix::io::Errno::OPNOTSUPP.into()),
        };
        let made = match made {
            Err(error) if unsupported(&error) && length > 0 => {
                let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                fallocate(&self.file, flags, offset, length).map_err(io::Error::from)
            }
            made => made,
        };
        match made {
            Err(error) if unsupported(&error) => self.write_zeros(offset, length),
            made => made,
        }
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        // fallocate(2) refuses a length of nothing.
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, offset, length)?)
    }

    fn write_zeros(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let count = ZEROS.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            std::os::unix::fs::FileExt::write_all_at(&self.file, &ZEROS[..count], offset)?;
            offset += count as u64;
            length -= count as u64;
        }
        Ok(())
    }
}

/// Whether the file system lacks the operation, as opposed to having failed at it.
fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV))
}
