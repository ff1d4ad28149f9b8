//! read, write and their vectored and positioned kin; lseek, truncate, fallocate.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{Args, SysResult, UserPath, caller, fget};
use crate::errno::{Errno, Result};
use crate::fs::file::check_size_limit;
use crate::fs::namei::{LookupFlags, lookup};
use crate::fs::notify::{self, Events};
use crate::fs::userbuf::{IoVec, UIO_MAXIOV, UserBuf};
use crate::fs::{FMode, File, Whence, verbs};
use crate::mm::UserPtr;
use crate::{task, uapi};

crate::pod!(IoVec);

/// Adds to a counter that only this task writes.
#[inline]
fn count(counter: &AtomicU64, n: usize) {
    counter.store(counter.load(Ordering::Relaxed) + n as u64, Ordering::Relaxed);
}

#[inline]
fn count_read(result: SysResult) -> SysResult {
    if let Ok(n) = result {
        count(&task::current().rchar, n);
    }
    result
}

#[inline]
fn count_written(result: SysResult) -> SysResult {
    if let Ok(n) = result {
        count(&task::current().wchar, n);
    }
    result
}

/// read(2).
pub fn sys_read(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    count_read(file.read(&mut UserBuf::user(a.u64(1), a.usize(2))?))
}

/// write(2).
pub fn sys_write(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    count_written(file.write(&mut UserBuf::user(a.u64(1), a.usize(2))?))
}

fn position(pos: i64) -> Result<u64> {
    u64::try_from(pos).map_err(|_| Errno::EINVAL)
}

/// pread64(2).
pub fn sys_pread64(a: &mut Args) -> SysResult {
    let pos = position(a.i64(3))?;
    let file = fget(a.fd(0))?;
    count_read(file.read_at(&mut UserBuf::user(a.u64(1), a.usize(2))?, pos))
}

/// pwrite64(2).
pub fn sys_pwrite64(a: &mut Args) -> SysResult {
    let pos = position(a.i64(3))?;
    let file = fget(a.fd(0))?;
    count_written(file.write_at(&mut UserBuf::user(a.u64(1), a.usize(2))?, pos))
}

/// The pieces of a vectored call: few lie on the stack.
pub struct Pieces {
    few: [IoVec; Self::FEW],
    len: usize,
    many: Vec<IoVec>,
}

impl Pieces {
    const FEW: usize = 8;

    /// Reads them from the program's memory.
    pub fn read(from: UserPtr<IoVec>, len: usize) -> Result<Self> {
        if len > UIO_MAXIOV {
            return Err(Errno::EINVAL);
        }
        let mut this = Self { few: [IoVec::default(); Self::FEW], len, many: Vec::new() };
        if len > Self::FEW {
            this.many = from.read_array(len)?;
        } else {
            for (i, piece) in this.few[..len].iter_mut().enumerate() {
                *piece = from.add(i).read()?;
            }
        }
        Ok(this)
    }

    /// A cursor over what they name.
    pub fn buffer(&self) -> Result<UserBuf<'_>> {
        UserBuf::vectored(self.as_slice())
    }

    /// All of them, unchecked.
    pub fn as_slice(&self) -> &[IoVec] {
        if self.len > Self::FEW { &self.many } else { &self.few[..self.len] }
    }
}

fn pieces(a: &Args) -> Result<Pieces> {
    Pieces::read(a.ptr(1), a.usize(2))
}

/// readv(2).
pub fn sys_readv(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    let pieces = pieces(a)?;
    let mut buffer = pieces.buffer()?;
    // Unlike read(2), it does not ask the file for nothing.
    if buffer.is_empty() && file.fmode().contains(FMode::READ) {
        return Ok(0);
    }
    count_read(file.read(&mut buffer))
}

/// writev(2).
pub fn sys_writev(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    let pieces = pieces(a)?;
    let mut buffer = pieces.buffer()?;
    if buffer.is_empty() && file.fmode().contains(FMode::WRITE) {
        return Ok(0);
    }
    count_written(file.write(&mut buffer))
}

/// preadv(2).
pub fn sys_preadv(a: &mut Args) -> SysResult {
    let pos = position(a.i64(3))?;
    let file = fget(a.fd(0))?;
    count_read(file.read_at(&mut pieces(a)?.buffer()?, pos))
}

/// pwritev(2).
pub fn sys_pwritev(a: &mut Args) -> SysResult {
    let pos = position(a.i64(3))?;
    let file = fget(a.fd(0))?;
    count_written(file.write_at(&mut pieces(a)?.buffer()?, pos))
}

/// Checks `RWF_*`. All data is in memory, so that what they ask for beyond the ordinary is so already.
fn check_rwf(flags: u32) -> Result<()> {
    const KNOWN: u32 = uapi::RWF_HIPRI | uapi::RWF_DSYNC | uapi::RWF_SYNC | uapi::RWF_NOWAIT;
    if flags & !KNOWN == 0 { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

/// preadv2(2).
pub fn sys_preadv2(a: &mut Args) -> SysResult {
    check_rwf(a.u32(5))?;
    if a.i64(3) == -1 { sys_readv(a) } else { sys_preadv(a) }
}

/// pwritev2(2).
pub fn sys_pwritev2(a: &mut Args) -> SysResult {
    let flags = a.u32(5);
    check_rwf(flags & !uapi::RWF_APPEND)?;
    if flags & uapi::RWF_APPEND != 0 {
        let file = fget(a.fd(0))?;
        return count_written(file.append(&mut pieces(a)?.buffer()?, a.i64(3) == -1));
    }
    if a.i64(3) == -1 { sys_writev(a) } else { sys_pwritev(a) }
}

/// lseek(2).
pub fn sys_lseek(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    let whence = Whence::from_number(a.u32(2))?;
    Ok(file.seek(a.i64(1), whence)? as usize)
}

/// truncate(2).
pub fn sys_truncate(a: &mut Args) -> SysResult {
    let size = position(a.i64(1))?;
    let name = UserPath::read(a.u64(0))?;
    let path = lookup(caller(), None, name.bytes(), LookupFlags::FOLLOW)?;
    verbs::truncate(caller(), &path, size)?;
    Ok(0)
}

fn writable_regular(file: &File) -> Result<()> {
    if !file.inode.is_regular() || !file.fmode().contains(FMode::WRITE) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// ftruncate(2).
pub fn sys_ftruncate(a: &mut Args) -> SysResult {
    let size = position(a.i64(1))?;
    let file = fget(a.fd(0))?;
    writable_regular(&file)?;
    check_size_limit(file.inode.size(), size)?;
    verbs::set_length(&file.inode, size)?;
    notify::file(&file, Events::MODIFY);
    Ok(0)
}

/// Refuses modes that no file system could have.
fn check_fallocate_mode(mode: u32) -> Result<()> {
    const KEEP_SIZE: u32 = uapi::FALLOC_FL_KEEP_SIZE;
    const PUNCH_HOLE: u32 = uapi::FALLOC_FL_PUNCH_HOLE;
    const MOVES: u32 = uapi::FALLOC_FL_COLLAPSE_RANGE | uapi::FALLOC_FL_INSERT_RANGE;
    const UNSHARE: u32 = uapi::FALLOC_FL_UNSHARE_RANGE;
    const KNOWN: u32 = KEEP_SIZE | PUNCH_HOLE | MOVES | UNSHARE | uapi::FALLOC_FL_ZERO_RANGE;
    let punches = mode & PUNCH_HOLE != 0;
    if mode & !KNOWN != 0
        || punches && (mode & KEEP_SIZE == 0 || mode & uapi::FALLOC_FL_ZERO_RANGE != 0)
    {
        return Err(Errno::EOPNOTSUPP);
    }
    let alone = mode & MOVES == 0 || mode.count_ones() == 1;
    let unshares = mode & UNSHARE == 0 || mode & !(UNSHARE | KEEP_SIZE) == 0;
    if alone && unshares { Ok(()) } else { Err(Errno::EINVAL) }
}

/// fallocate(2).
pub fn sys_fallocate(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    let (offset, len) = (position(a.i64(2))?, position(a.i64(3))?);
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let mode = a.u32(1);
    check_fallocate_mode(mode)?;
    if !file.fmode().contains(FMode::WRITE) {
        return Err(Errno::EBADF);
    }
    match file.inode.file_type() {
        uapi::S_IFREG => file.ops().fallocate(&file, mode, offset, len)?,
        uapi::S_IFIFO => return Err(Errno::ESPIPE),
        uapi::S_IFDIR => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    }
    notify::file(&file, Events::MODIFY);
    Ok(0)
}
