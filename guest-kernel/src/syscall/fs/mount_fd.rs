//! The calls that mount through descriptors: open_tree, move_mount, mount_setattr; fsopen, fsconfig,
//! fsmount, fspick.

use super::mount::{fits, is_namespace, namespace, require_admin};
use super::{Args, SysResult, fd_limit, fget, only, place_at};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::context::FsContext;
use crate::fs::detached::{MountChange, open_detached};
use crate::fs::file::PathOnly;
use crate::fs::mntns::Propagation;
use crate::fs::superblock::find_filesystem;
use crate::fs::{FMode, File, MountFlags, OpenFlags};
use crate::kref::Ref;
use crate::mm::{try_box, user};
use crate::{task, uapi};

/// `MOUNT_ATTR_*` of mount_setattr(2) but for those about access times, and the flags that they stand for.
const ATTRIBUTES: [(u32, MountFlags); 6] = [
    (uapi::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
    (uapi::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
    (uapi::MOUNT_ATTR_NODEV, MountFlags::NODEV),
    (uapi::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
    (uapi::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
    (uapi::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
];

/// The flags for attributes, without those about access times; `EINVAL` for what there is not.
fn attributes(raw: u32) -> Result<MountFlags> {
    only(raw, ATTRIBUTES.iter().fold(0, |all, (bit, _)| all | bit))?;
    let given = ATTRIBUTES.iter().filter(|(bit, _)| raw & bit != 0);
    Ok(given.fold(MountFlags::empty(), |all, &(_, flag)| all | flag))
}

/// The flags for one of the ways with access times; `EINVAL` for a value that is none.
fn access_times(raw: u32) -> Result<MountFlags> {
    match raw {
        uapi::MOUNT_ATTR_RELATIME => Ok(MountFlags::RELATIME),
        uapi::MOUNT_ATTR_NOATIME => Ok(MountFlags::NOATIME),
        uapi::MOUNT_ATTR_STRICTATIME => Ok(MountFlags::empty()),
        _ => Err(Errno::EINVAL),
    }
}

fn install(file: Ref<File>, cloexec: bool) -> SysResult {
    Ok(task::current().files().install(file, 0, fd_limit(), cloexec)? as usize)
}

/// open_tree(2).
pub fn sys_open_tree(a: &mut Args) -> SysResult {
    const WALK: u32 = uapi::AT_EMPTY_PATH | uapi::AT_SYMLINK_NOFOLLOW | uapi::AT_NO_AUTOMOUNT;
    let flags = a.u32(2);
    let clone = flags & uapi::OPEN_TREE_CLONE != 0;
    only(flags, WALK | uapi::AT_RECURSIVE | uapi::OPEN_TREE_CLONE | uapi::OPEN_TREE_CLOEXEC)?;
    let recursive = flags & uapi::AT_RECURSIVE != 0;
    if recursive && !clone {
        return Err(Errno::EINVAL);
    }
    if clone {
        require_admin()?;
    }
    let path = place_at(a.fd(0), a.u64(1), flags & WALK)?;
    let file = if clone {
        let ns = namespace();
        open_detached(ns.detached_copy(&path, recursive, is_namespace(&path, ns)?)?)?
    } else {
        File::new(path, OpenFlags::PATH, FMode::PATH, try_box(PathOnly)?)?
    };
    install(file, flags & uapi::OPEN_TREE_CLOEXEC != 0)
}

/// The `AT_*` flags for one of the two paths of move_mount(2).
fn walk_flags(flags: u32, symlinks: u32, empty: u32) -> u32 {
    let nofollow = if flags & symlinks == 0 { uapi::AT_SYMLINK_NOFOLLOW } else { 0 };
    let empty = if flags & empty != 0 { uapi::AT_EMPTY_PATH } else { 0 };
    nofollow | empty
}

/// move_mount(2).
pub fn sys_move_mount(a: &mut Args) -> SysResult {
    require_admin()?;
    let flags = a.u32(4);
    only(flags, uapi::MOVE_MOUNT__MASK & !uapi::MOVE_MOUNT_BENEATH)?;
    let walk = walk_flags(flags, uapi::MOVE_MOUNT_F_SYMLINKS, uapi::MOVE_MOUNT_F_EMPTY_PATH);
    let from = place_at(a.fd(0), a.u64(1), walk)?;
    let walk = walk_flags(flags, uapi::MOVE_MOUNT_T_SYMLINKS, uapi::MOVE_MOUNT_T_EMPTY_PATH);
    let to = place_at(a.fd(2), a.u64(3), walk)?;
    let ns = namespace();
    if flags & uapi::MOVE_MOUNT_SET_GROUP != 0 {
        ns.join_group(&from, &to)?;
    } else {
        ns.move_mount(&from, &to, &|inode| fits(inode, ns))?;
    }
    Ok(0)
}

/// mount_setattr(2).
pub fn sys_mount_setattr(a: &mut Args) -> SysResult {
    const SIZE: usize = 32;
    const WALK: u32 = uapi::AT_EMPTY_PATH | uapi::AT_SYMLINK_NOFOLLOW | uapi::AT_NO_AUTOMOUNT;
    let (flags, size) = (a.u32(2), a.usize(4));
    only(flags, WALK | uapi::AT_RECURSIVE)?;
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < SIZE {
        return Err(Errno::EINVAL);
    }
    require_admin()?;
    // What a later version of the structure adds must be zero.
    for at in SIZE..size {
        if a.ptr::<u8>(3).add(at).read()? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    let [set, clear, propagation, userns_fd] = a.ptr::<[u64; 4]>(3).read()?;
    if set | clear | propagation == 0 {
        return Ok(0);
    }
    let change = mount_change([set, clear, propagation], userns_fd)?;
    let path = place_at(a.fd(0), a.u64(1), flags & WALK)?;
    namespace().set_attributes(&path, &change, flags & uapi::AT_RECURSIVE != 0)?;
    Ok(0)
}

/// What a `struct mount_attr` asks for.
fn mount_change(words: [u64; 3], userns_fd: u64) -> Result<MountChange> {
    let narrow = |word: u64| u32::try_from(word).map_err(|_| Errno::EINVAL);
    let [set, clear, propagation] = [narrow(words[0])?, narrow(words[1])?, narrow(words[2])?];
    let propagation = match propagation {
        0 => None,
        uapi::MS_SHARED => Some(Propagation::Shared),
        uapi::MS_PRIVATE => Some(Propagation::Private),
        uapi::MS_SLAVE => Some(Propagation::Slave),
        uapi::MS_UNBINDABLE => Some(Propagation::Unbindable),
        _ => return Err(Errno::EINVAL),
    };
    const TIMES: u32 = uapi::MOUNT_ATTR__ATIME;
    const IDMAP: u32 = uapi::MOUNT_ATTR_IDMAP;
    let mut change = MountChange {
        set: attributes(set & !(TIMES | IDMAP))?,
        clear: attributes(clear & !(TIMES | IDMAP))?,
        propagation,
    };
    // They are one of several values, so the old one must be cleared as a whole.
    if clear & TIMES == TIMES {
        change.clear |= MountFlags::RELATIME | MountFlags::NOATIME;
        change.set |= access_times(set & TIMES)?;
    } else if (set | clear) & TIMES != 0 {
        return Err(Errno::EINVAL);
    }
    if clear & IDMAP != 0 {
        return Err(Errno::EINVAL);
    }
    if set & IDMAP != 0 {
        // No file system here allows that (`FS_ALLOW_IDMAP`): as with Linux's own of their names.
        fget(i32::try_from(userns_fd).map_err(|_| Errno::EINVAL)?)?;
        return Err(Errno::EINVAL);
    }
    Ok(change)
}

/// fsopen(2).
pub fn sys_fsopen(a: &mut Args) -> SysResult {
    require_admin()?;
    only(a.u32(1), uapi::FSOPEN_CLOEXEC)?;
    let name = text(a.u64(0), PAGE_SIZE)?;
    let cred = task::current().cred().clone();
    let file = FsContext::create(find_filesystem(&name)?, cred)?;
    install(file, a.u32(1) & uapi::FSOPEN_CLOEXEC != 0)
}

/// A string of the caller's; `EINVAL` if it is too long (`strndup_user`).
fn text(addr: u64, max: usize) -> Result<alloc::vec::Vec<u8>> {
    match user::read_cstr(addr, max) {
        Err(Errno::ENAMETOOLONG) => Err(Errno::EINVAL),
        other => other,
    }
}

/// fsconfig(2).
pub fn sys_fsconfig(a: &mut Args) -> SysResult {
    use uapi::fsconfig_command as cmd;
    /// Longest key and value.
    const LONGEST: usize = 256;
    const LARGEST: i32 = 1 << 20;
    let (fd, key, value, aux) = (a.fd(0), a.u64(2), a.u64(3), a.i32(4));
    let (has_key, has_value) = (key != 0, value != 0);
    let number = a.u32(1);
    let is = |command: cmd| number == command as u32;
    let sets_place = is(cmd::FSCONFIG_SET_PATH) || is(cmd::FSCONFIG_SET_PATH_EMPTY);
    let acts = is(cmd::FSCONFIG_CMD_CREATE) || is(cmd::FSCONFIG_CMD_RECONFIGURE);
    let valid = if is(cmd::FSCONFIG_SET_FLAG) {
        has_key && !has_value && aux == 0
    } else if is(cmd::FSCONFIG_SET_STRING) {
        has_key && has_value && aux == 0
    } else if is(cmd::FSCONFIG_SET_BINARY) {
        has_key && has_value && (1..=LARGEST).contains(&aux)
    } else if sets_place {
        has_key && has_value && (aux == uapi::AT_FDCWD || aux >= 0)
    } else if is(cmd::FSCONFIG_SET_FD) {
        has_key && !has_value && aux >= 0
    } else if acts {
        !has_key && !has_value && aux == 0
    } else {
        return Err(Errno::EOPNOTSUPP);
    };
    if fd < 0 || !valid {
        return Err(Errno::EINVAL);
    }
    let file = fget(fd)?;
    let context = file.ops_as::<FsContext>().ok_or(Errno::EINVAL)?;
    if is(cmd::FSCONFIG_CMD_CREATE) {
        context.make(task::current().cred())?;
    } else if is(cmd::FSCONFIG_CMD_RECONFIGURE) {
        context.reconfigure(task::current().cred())?;
    } else {
        let key = text(key, LONGEST)?;
        if is(cmd::FSCONFIG_SET_FLAG) {
            context.set(&key, None)?;
        } else if is(cmd::FSCONFIG_SET_STRING) {
            context.set(&key, Some(&text(value, LONGEST)?))?;
        } else {
            // No file system here has options that are places, descriptors or bytes.
            return Err(Errno::EINVAL);
        }
    }
    Ok(0)
}

/// fsmount(2).
pub fn sys_fsmount(a: &mut Args) -> SysResult {
    require_admin()?;
    let (flags, raw) = (a.u32(1), a.u32(2));
    only(flags, uapi::FSMOUNT_CLOEXEC)?;
    const TIMES: u32 = uapi::MOUNT_ATTR__ATIME;
    let mount_flags = attributes(raw & !TIMES)? | access_times(raw & TIMES)?;
    let file = fget(a.fd(0))?;
    let context = file.ops_as::<FsContext>().ok_or(Errno::EINVAL)?;
    let mount = context.mount(namespace(), mount_flags)?;
    install(open_detached(mount)?, flags & uapi::FSMOUNT_CLOEXEC != 0)
}

/// fspick(2).
pub fn sys_fspick(a: &mut Args) -> SysResult {
    require_admin()?;
    let flags = a.u32(2);
    only(
        flags,
        uapi::FSPICK_CLOEXEC
            | uapi::FSPICK_SYMLINK_NOFOLLOW
            | uapi::FSPICK_NO_AUTOMOUNT
            | uapi::FSPICK_EMPTY_PATH,
    )?;
    let mut walk = 0;
    if flags & uapi::FSPICK_SYMLINK_NOFOLLOW != 0 {
        walk |= uapi::AT_SYMLINK_NOFOLLOW;
    }
    if flags & uapi::FSPICK_EMPTY_PATH != 0 {
        walk |= uapi::AT_EMPTY_PATH;
    }
    let path = place_at(a.fd(0), a.u64(1), walk)?;
    let file = FsContext::pick(&path, task::current().cred().clone())?;
    install(file, flags & uapi::FSPICK_CLOEXEC != 0)
}
