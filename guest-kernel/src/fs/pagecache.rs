//! Reading and writing files whose content is pages of an [`mm::Mapping`](crate::mm::Mapping): the
//! file operations of tmpfs, memfd and whatever keeps a page cache.
//!
//! Data is copied straight between the page and the caller's memory, with no lock held: a page that
//! is truncated meanwhile lives until the copy is done. Writers of one file go one at a time, under
//! its inode's lock; readers take no lock at all.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;

use super::file::{AT_END, FileOps, Whence, check_size_limit, size_limit};
use super::inode::Inode;
use super::{FMode, File, OpenFlags, UserBuf, verbs};
use crate::addr::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::{Backing, Fault, FrameRef, MappedFile, Mapping, try_arc};
use crate::signal::hooks;
use crate::uapi;

const PAGE: u64 = PAGE_SIZE as u64;

/// Seals that nobody can write through.
pub const WRITE_SEALS: u32 = uapi::F_SEAL_WRITE | uapi::F_SEAL_FUTURE_WRITE;

/// An open file whose inode has pages ([`InodeOps::mapping`](super::InodeOps::mapping)).
pub struct PagedFile;

impl FileOps for PagedFile {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        let inode = &*file.inode;
        let done = read(inode, buf, pos)?;
        if !file.fmode().contains(FMode::NOATIME) {
            inode.touch_read();
        }
        Ok(done)
    }

    fn write(&self, file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        let inode = &*file.inode;
        if buf.is_empty() {
            return Ok(0);
        }
        let _guard = inode.lock.lock();
        if *pos == AT_END || file.flags().contains(OpenFlags::APPEND) {
            *pos = inode.size();
        }
        let limit = inode.sb.max_bytes.min(size_limit());
        if *pos >= limit {
            if limit < inode.sb.max_bytes {
                hooks::send_current(uapi::SIGXFSZ as i32);
            }
            return Err(Errno::EFBIG);
        }
        buf.truncate(usize::try_from(limit - *pos).unwrap_or(usize::MAX));
        verbs::drop_privileges(inode)?;
        let done = write(inode, buf, pos)?;
        inode.touch_modified();
        Ok(done)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        match (whence, file.inode.ops().mapping()) {
            (Whence::Data | Whence::Hole, Some(mapping)) => {
                seek_data(&file.inode, mapping, offset, whence == Whence::Data)
            }
            _ => file.generic_seek(offset, whence),
        }
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result<()> {
        // The pages are all there is.
        Ok(())
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        fallocate(&file.inode, mode, offset, len)
    }

    fn mmap(&self, file: &Ref<File>, writable: bool) -> Result<Arc<dyn Backing>> {
        if let Some(mapping) = file.inode.ops().mapping().filter(|_| writable) {
            mapping.add_writer()?;
        }
        Ok(try_arc(FileBacking { file: file.clone(), writable })?)
    }
}

/// Reads from `pos` on, which moves; holes read as zeros.
fn read(inode: &Inode, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
    let mapping = inode.ops().mapping().ok_or(Errno::EINVAL)?;
    buf.in_pieces(pos, |buf, pos| {
        let left = inode.size().checked_sub(pos).filter(|left| *left > 0)?;
        let offset = pos as usize & PAGE_MASK;
        let n = buf.remaining().min(PAGE_SIZE - offset);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(n);
        let copied = match mapping.get(pos >> PAGE_SHIFT) {
            // SAFETY: `offset + n` lies within the page, which the reference keeps alive.
            Some(page) => unsafe { buf.put_raw(page.as_ptr().add(offset), n) },
            None => buf.put_zeros(n),
        };
        Some((n, copied))
    })
}

/// `EPERM` if seals forbid to write up to `end`.
fn refuse_sealed(inode: &Inode, end: u64) -> Result<()> {
    let seals = inode.ops().seals();
    let grows = seals & uapi::F_SEAL_GROW != 0 && end > inode.size();
    if seals & WRITE_SEALS != 0 || grows { Err(Errno::EPERM) } else { Ok(()) }
}

/// Writes at `pos`, which moves, under the inode's lock. The file grows as bytes arrive.
fn write(inode: &Inode, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
    let mapping = inode.ops().mapping().ok_or(Errno::EINVAL)?;
    buf.in_pieces(pos, |buf, pos| {
        let offset = pos as usize & PAGE_MASK;
        let n = buf.remaining().min(PAGE_SIZE - offset);
        // Memory that cannot be read comes before a file that cannot be written, and takes no page of one that can.
        let page = buf.check_readable().and_then(|()| {
            refuse_sealed(inode, pos + n as u64)?;
            inode.ops().page(inode, pos >> PAGE_SHIFT)
        });
        let copied = page.and_then(|page| {
            // The instruction cache may hold what the page was before.
            page.set_flags(0);
            // SAFETY: `offset + n` lies within the page, which the reference keeps alive. Programs
            // that map the page see bytes as they arrive.
            unsafe { buf.take_raw(page.as_ptr().add(offset), n) }
        });
        let end = pos + *copied.as_ref().unwrap_or(&0) as u64;
        if end > inode.size() && copied.is_ok() {
            mapping.truncate(end);
            inode.set_size(end);
        }
        // Less than asked for is not the end, only nothing is: what the file grew by may be what was missing,
        // if the memory that is read maps it.
        Some((1, copied))
    })
}

/// `SEEK_DATA` and `SEEK_HOLE`: pages are data, unless they were only allocated in advance.
fn seek_data(inode: &Inode, mapping: &Mapping, offset: i64, data: bool) -> Result<u64> {
    let size = inode.size();
    let at = u64::try_from(offset).ok().filter(|&at| at < size).ok_or(Errno::ENXIO)?;
    let last = (size - 1) >> PAGE_SHIFT;
    let mut index = at >> PAGE_SHIFT;
    while index <= last {
        if data {
            match mapping.next_data(index) {
                Some(found) if found <= last => return Ok(at.max(found << PAGE_SHIFT)),
                _ => return Err(Errno::ENXIO),
            }
        }
        if !mapping.has_data(index) {
            return Ok(at.max(index << PAGE_SHIFT));
        }
        index += 1;
    }
    Ok(size)
}

/// fallocate(2): default, `FALLOC_FL_KEEP_SIZE`, `FALLOC_FL_PUNCH_HOLE`, as Linux's tmpfs.
fn fallocate(inode: &Inode, mode: u32, offset: u64, len: u64) -> Result<()> {
    const KNOWN: u32 = uapi::FALLOC_FL_KEEP_SIZE | uapi::FALLOC_FL_PUNCH_HOLE;
    let mapping = inode.ops().mapping().ok_or(Errno::EOPNOTSUPP)?;
    let keep = mode & uapi::FALLOC_FL_KEEP_SIZE != 0;
    let punch = mode & uapi::FALLOC_FL_PUNCH_HOLE != 0;
    if mode & !KNOWN != 0 || (punch && !keep) {
        return Err(Errno::EOPNOTSUPP);
    }
    let end =
        offset.checked_add(len).filter(|&end| end <= inode.sb.max_bytes).ok_or(Errno::EFBIG)?;
    let _guard = inode.lock.lock();
    verbs::drop_privileges(inode)?;
    if punch {
        if inode.ops().seals() & WRITE_SEALS != 0 {
            return Err(Errno::EPERM);
        }
        inode.ops().punch_hole(inode, offset, end)?;
    } else {
        // Also without a new size (tmpfs looks at both before it looks at that flag).
        check_size_limit(inode.size(), end)?;
        if inode.ops().seals() & uapi::F_SEAL_GROW != 0 && end > inode.size() {
            return Err(Errno::EPERM);
        }
        allocate(inode, mapping, offset >> PAGE_SHIFT, end.div_ceil(PAGE))?;
        if !keep && end > inode.size() {
            mapping.truncate(end);
            inode.set_size(end);
        }
    }
    inode.touch_modified();
    Ok(())
}

/// Makes the pages `first..end` exist: all of them, or, if there is no room, none that was not there.
fn allocate(inode: &Inode, mapping: &Mapping, first: u64, end: u64) -> Result<()> {
    let mut made: Vec<Range<u64>> = Vec::new();
    for index in first..end {
        if mapping.get(index).is_some() {
            continue;
        }
        let result = made
            .try_reserve(1)
            .map_err(|_| Errno::ENOMEM)
            .and_then(|()| inode.ops().reserve_page(inode, index));
        if let Err(error) = result {
            for run in made {
                inode.ops().punch_hole(inode, run.start << PAGE_SHIFT, run.end << PAGE_SHIFT)?;
            }
            return Err(error);
        }
        match made.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => made.push(index..index + 1),
        }
    }
    Ok(())
}

/// `file` as mmap(2) and execve(2) map it, with its names. `ENODEV` if it cannot be mapped, `EPERM` if it
/// is sealed and the mapping is to be `writable`.
pub fn mapped_file(file: &Ref<File>, writable: bool) -> Result<Ref<MappedFile>> {
    let backing = file.ops().mmap(file, writable)?;
    let dev = u64::from(file.inode.dev.encode());
    // Nearly all paths are short; the stack has no room for all of them.
    let mut short = [0; 256];
    match file.path.text(&mut short) {
        Ok(path) => MappedFile::new(backing, dev, file.inode.ino, path),
        Err(_) => MappedFile::new(backing, dev, file.inode.ino, &file.path.to_vec()?),
    }
}

/// A file as address spaces hold it.
pub struct FileBacking {
    /// Keeps the file open, as POSIX wants, also after its descriptor is closed.
    pub file: Ref<File>,
    /// It counts as a writer of the pages.
    writable: bool,
}

impl Drop for FileBacking {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping().filter(|_| self.writable) {
            mapping.remove_writer();
        }
    }
}

impl Backing for FileBacking {
    fn mapping(&self) -> Option<&Mapping> {
        self.file.inode.ops().mapping()
    }

    fn page(&self, index: u64, _write: bool) -> Result<FrameRef, Fault> {
        let inode = &*self.file.inode;
        if index >= inode.size().div_ceil(PAGE) {
            return Err(Fault::BusErr);
        }
        match inode.ops().page(inode, index) {
            Ok(page) => Ok(page),
            Err(Errno::ENOMEM) => Err(Fault::Oom),
            Err(_) => Err(Fault::BusErr),
        }
    }

    fn punch_hole(&self, start: u64, len: u64) -> Result<()> {
        let mode = uapi::FALLOC_FL_KEEP_SIZE | uapi::FALLOC_FL_PUNCH_HOLE;
        self.file.ops().fallocate(&self.file, mode, start, len)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
