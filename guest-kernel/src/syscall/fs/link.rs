//! Names: mkdir, mknod, link, symlink, readlink, unlink, rename.

use super::{Args, SysResult, UserPath, caller, only, place_at, start_at};
use crate::errno::{Errno, Result};
use crate::fs::verbs::{self, RenameFlags};
use crate::fs::{Dev, Path, namei};
use crate::mm::UserPtr;
use crate::ns::Cap;
use crate::uapi;

/// A path and where it starts.
fn name_at(dirfd: i32, path: u64) -> Result<(Option<Path>, UserPath)> {
    let name = UserPath::read(path)?;
    let absolute = name.bytes().first() == Some(&b'/');
    let start = if absolute { None } else { start_at(dirfd)? };
    Ok((start, name))
}

/// mknodat(2).
pub fn sys_mknodat(a: &mut Args) -> SysResult {
    match a.u32(2) & uapi::S_IFMT {
        0 | uapi::S_IFREG | uapi::S_IFCHR | uapi::S_IFBLK | uapi::S_IFIFO | uapi::S_IFSOCK => {}
        uapi::S_IFDIR => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    }
    let (start, name) = name_at(a.fd(0), a.u64(1))?;
    let dev = Dev::decode(a.u32(3));
    verbs::mknod(caller(), start.as_ref(), name.bytes(), a.u32(2), dev)?;
    Ok(0)
}

/// mkdirat(2).
pub fn sys_mkdirat(a: &mut Args) -> SysResult {
    let (start, name) = name_at(a.fd(0), a.u64(1))?;
    verbs::mkdir(caller(), start.as_ref(), name.bytes(), a.u32(2))?;
    Ok(0)
}

/// unlinkat(2).
pub fn sys_unlinkat(a: &mut Args) -> SysResult {
    let flags = a.u32(2);
    only(flags, uapi::AT_REMOVEDIR)?;
    let (start, name) = name_at(a.fd(0), a.u64(1))?;
    if flags & uapi::AT_REMOVEDIR != 0 {
        verbs::rmdir(caller(), start.as_ref(), name.bytes())?;
    } else {
        verbs::unlink(caller(), start.as_ref(), name.bytes())?;
    }
    Ok(0)
}

/// symlinkat(2).
pub fn sys_symlinkat(a: &mut Args) -> SysResult {
    let target = UserPath::read(a.u64(0))?;
    let (start, name) = name_at(a.fd(1), a.u64(2))?;
    verbs::symlink(caller(), target.bytes(), start.as_ref(), name.bytes())?;
    Ok(0)
}

/// linkat(2).
pub fn sys_linkat(a: &mut Args) -> SysResult {
    let flags = a.u32(4);
    only(flags, uapi::AT_SYMLINK_FOLLOW | uapi::AT_EMPTY_PATH)?;
    let caller = caller();
    if flags & uapi::AT_EMPTY_PATH != 0 && !caller.cred.capable(Cap::DacReadSearch) {
        return Err(Errno::ENOENT);
    }
    let follow = if flags & uapi::AT_SYMLINK_FOLLOW != 0 { 0 } else { uapi::AT_SYMLINK_NOFOLLOW };
    let old = place_at(a.fd(0), a.u64(1), follow | flags & uapi::AT_EMPTY_PATH)?;
    let (start, name) = name_at(a.fd(2), a.u64(3))?;
    verbs::link(caller, &old, start.as_ref(), name.bytes())?;
    Ok(0)
}

fn rename(a: &Args, flags: RenameFlags) -> SysResult {
    let caller = caller();
    // All of the old name comes first, also what is wrong with it.
    let (start, old_name) = name_at(a.fd(0), a.u64(1))?;
    let old = namei::parent(caller, start.as_ref(), old_name.bytes())?;
    let (start, new_name) = name_at(a.fd(2), a.u64(3))?;
    let new = namei::parent(caller, start.as_ref(), new_name.bytes())?;
    verbs::rename(caller, &old, &new, flags)?;
    Ok(0)
}

/// renameat(2).
pub fn sys_renameat(a: &mut Args) -> SysResult {
    rename(a, RenameFlags::empty())
}

/// renameat2(2).
pub fn sys_renameat2(a: &mut Args) -> SysResult {
    rename(a, RenameFlags::of(a.u32(4))?)
}

/// readlinkat(2).
pub fn sys_readlinkat(a: &mut Args) -> SysResult {
    let room = usize::try_from(a.i32(3)).ok().filter(|&n| n > 0).ok_or(Errno::EINVAL)?;
    // An empty path names the link that the descriptor was opened as.
    let flags = uapi::AT_SYMLINK_NOFOLLOW | uapi::AT_EMPTY_PATH;
    let path = place_at(a.fd(0), a.u64(1), flags)?;
    let inode = path.inode()?;
    if !inode.is_symlink() {
        let empty = UserPtr::<u8>::new(a.u64(1)).read()? == 0;
        return Err(if empty { Errno::ENOENT } else { Errno::EINVAL });
    }
    let text = inode.ops().readlink(inode, caller().cred)?;
    inode.touch_read();
    let n = text.len().min(room);
    crate::mm::copy_out(a.u64(2), &text[..n])?;
    Ok(n)
}
