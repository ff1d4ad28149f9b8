//! inotify(7): making sets of watches, and changing what they watch.

use super::{Args, SysResult, UserPath, caller, fd_limit, fget, only};
use crate::errno::{Errno, Result};
use crate::fs::namei::{LookupFlags, lookup};
use crate::fs::notify::inotify::{self, Inotify};
use crate::fs::perm::{self, Access};
use crate::fs::{File, OpenFlags};
use crate::task;
use crate::uapi;

/// inotify_init1(2).
pub fn sys_inotify_init1(a: &mut Args) -> SysResult {
    let raw = a.u32(0);
    only(raw, uapi::IN_CLOEXEC | uapi::IN_NONBLOCK)?;
    let flags = OpenFlags::from_bits_truncate(raw);
    let task = task::current();
    let file = inotify::new_file(task.cred(), flags)?;
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    Ok(task.files().install(file, 0, fd_limit(), cloexec)? as usize)
}

/// The set that a file is; `EINVAL` if it is none.
fn set_of(file: &File) -> Result<&Inotify> {
    file.ops_as::<Inotify>().ok_or(Errno::EINVAL)
}

/// inotify_add_watch(2).
pub fn sys_inotify_add_watch(a: &mut Args) -> SysResult {
    let mask = a.u32(2);
    inotify::check_mask(mask)?;
    let file = fget(a.fd(0))?;
    if mask & uapi::IN_MASK_ADD != 0 && mask & uapi::IN_MASK_CREATE != 0 {
        return Err(Errno::EINVAL);
    }
    let set = set_of(&file)?;
    let mut flags = LookupFlags::empty();
    flags.set(LookupFlags::FOLLOW, mask & uapi::IN_DONT_FOLLOW == 0);
    flags.set(LookupFlags::DIRECTORY, mask & uapi::IN_ONLYDIR != 0);
    let caller = caller();
    let path = lookup(caller, None, UserPath::read(a.u64(1))?.bytes(), flags)?;
    let inode = path.inode()?;
    perm::permission(inode, Access::READ, caller.cred)?;
    Ok(set.watch(inode, mask, caller.cred)? as usize)
}

/// inotify_rm_watch(2).
pub fn sys_inotify_rm_watch(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    set_of(&file)?.unwatch(a.i32(1))?;
    Ok(0)
}
