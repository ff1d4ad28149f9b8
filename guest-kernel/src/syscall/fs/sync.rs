//! sync, fsync and advice. Files are in memory: only disks have something to be written back to.

use super::{Args, SysResult, fget, only};
use crate::errno::Errno;
use crate::fs::{FMode, block};
use crate::task;
use crate::uapi;

/// sync(2).
pub fn sys_sync(_a: &mut Args) -> SysResult {
    block::sync_all();
    Ok(0)
}

/// syncfs(2).
pub fn sys_syncfs(a: &mut Args) -> SysResult {
    fget(a.fd(0))?;
    Ok(0)
}

/// fsync(2).
pub fn sys_fsync(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    file.ops().fsync(&file, false)?;
    Ok(0)
}

/// fdatasync(2).
pub fn sys_fdatasync(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    file.ops().fsync(&file, true)?;
    Ok(0)
}

/// sync_file_range(2).
pub fn sys_sync_file_range(a: &mut Args) -> SysResult {
    const KNOWN: u32 = uapi::SYNC_FILE_RANGE_WAIT_BEFORE
        | uapi::SYNC_FILE_RANGE_WRITE
        | uapi::SYNC_FILE_RANGE_WAIT_AFTER;
    let file = fget(a.fd(0))?;
    only(a.u32(3), KNOWN)?;
    if a.i64(1) < 0 || a.i64(2) < 0 || a.i64(1).checked_add(a.i64(2)).is_none() {
        return Err(Errno::EINVAL);
    }
    match file.inode.file_type() {
        uapi::S_IFREG | uapi::S_IFBLK | uapi::S_IFDIR | uapi::S_IFLNK => Ok(0),
        _ => Err(Errno::ESPIPE),
    }
}

/// fadvise64(2).
pub fn sys_fadvise64(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    if file.inode.file_type() == uapi::S_IFIFO {
        return Err(Errno::ESPIPE);
    }
    if a.i64(2) < 0 || a.u32(3) > uapi::POSIX_FADV_NOREUSE {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

/// readahead(2).
pub fn sys_readahead(a: &mut Args) -> SysResult {
    let file = task::current().files().get(a.fd(0))?;
    if !file.fmode().contains(FMode::READ) {
        return Err(Errno::EBADF);
    }
    if !file.inode.is_regular() {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}
