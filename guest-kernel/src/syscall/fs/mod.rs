//! System calls on files.

pub mod dir;
pub mod fcntl;
pub mod inotify;
pub mod ioctl;
pub mod link;
pub mod mount;
pub mod mount_fd;
pub mod open;
pub mod owner;
pub mod rw;
pub mod special;
pub mod splice;
pub mod stat;
pub mod sync;
pub mod xattr;

use alloc::vec::Vec;

use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::fs::namei::{self, LookupFlags};
use crate::fs::{Caller, File, PATH_MAX, Path};
use crate::kref::Ref;
use crate::mm::user;
use crate::task::{self, rlimit::Resource};
use crate::uapi;

/// Who asks: the current task.
#[inline]
pub fn caller() -> Caller<'static> {
    let task = task::current();
    Caller { fs: task.fs(), cred: task.cred() }
}

/// The open file behind a descriptor.
#[inline]
pub fn fget(fd: i32) -> Result<Ref<File>> {
    task::current().files().get(fd)
}

/// Where a relative path starts: at a descriptor's place, or (`None`) in the working directory.
pub fn start_at(dirfd: i32) -> Result<Option<Path>> {
    if dirfd == uapi::AT_FDCWD {
        return Ok(None);
    }
    Ok(Some(task::current().files().get_any(dirfd)?.path.clone()))
}

/// `RLIMIT_NOFILE`.
pub fn fd_limit() -> usize {
    let limit = task::current().signal.rlimits.soft(Resource::Nofile);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Names up to this length need no allocation.
const SHORT: usize = 128;

/// A path from the program's memory.
pub struct UserPath {
    short: [u8; SHORT],
    len: usize,
    long: Option<Vec<u8>>,
}

impl UserPath {
    /// Reads it; `ENAMETOOLONG` if it is too long, `ENOENT` if it is empty.
    #[inline]
    pub fn read(addr: u64) -> Result<Self> {
        let this = Self::read_or_empty(addr)?;
        if this.bytes().is_empty() { Err(Errno::ENOENT) } else { Ok(this) }
    }

    /// [`read`](Self::read) for calls to which an empty path means something (`AT_EMPTY_PATH`).
    #[inline]
    pub fn read_or_empty(addr: u64) -> Result<Self> {
        let mut this = Self { short: [0; SHORT], len: 0, long: None };
        match user::copy_cstr(&mut this.short, addr)? {
            Some(len) => this.len = len,
            None => this.long = Some(user::read_cstr(addr, PATH_MAX)?),
        }
        Ok(this)
    }

    /// The path.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.long {
            None => &self.short[..self.len.min(SHORT)],
            Some(long) => long,
        }
    }
}

/// The place that a `*at` call names: `dirfd`, a path, `AT_SYMLINK_NOFOLLOW` and `AT_EMPTY_PATH` in
/// `flags`.
pub fn place_at(dirfd: i32, path: u64, flags: u32) -> Result<Path> {
    place_as(caller(), dirfd, path, flags)
}

/// [`place_at`] with the rights of `caller`.
pub fn place_as(caller: Caller<'_>, dirfd: i32, path: u64, flags: u32) -> Result<Path> {
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & uapi::AT_SYMLINK_NOFOLLOW == 0);
    lookup.set(LookupFlags::EMPTY, flags & uapi::AT_EMPTY_PATH != 0);
    let empty_too = lookup.contains(LookupFlags::EMPTY);
    let name = if empty_too { UserPath::read_or_empty(path) } else { UserPath::read(path) }?;
    if name.bytes().first() == Some(&b'/') {
        return namei::lookup(caller, None, name.bytes(), lookup);
    }
    let start = start_at(dirfd)?;
    if name.bytes().is_empty()
        && let Some(start) = start
    {
        return Ok(start);
    }
    namei::lookup(caller, start.as_ref(), name.bytes(), lookup)
}

/// Refuses flags that the call does not know.
fn only(flags: u32, known: u32) -> Result<()> {
    if flags & !known == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}
