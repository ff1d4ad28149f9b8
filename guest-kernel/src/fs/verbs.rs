//! What names and attributes can undergo: make, link, remove, move, change mode, owner, times, length.
//!
//! Each verb finds the directory, locks it, looks the name up, checks, has the file system do it and
//! brings the dentry cache up to date, in that order. Errors come in the order in which Linux gives
//! them where programs are known to care.

use super::dentry;
use super::inode::{InodeFlags, NewNode, NodeKind, RenameOp, SetAttr};
use super::mntns::{detach_mounts, is_local_mountpoint};
use super::namei::{self, LastKind, Parent, lookup_locked};
use super::notify::{self, Events};
use super::open::WriteAccess;
use super::perm::{self, Access, may_create, may_delete};
use super::{Caller, Dentry, Dev, Inode, Path, Timestamp};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::{Cap, Cred};
use crate::uapi;

/// Bits of a mode that are not the type.
const PERMISSION_BITS: u32 = 0o7777;
/// A program with both runs as its file's group.
const RUNS_AS_GROUP: u32 = uapi::S_ISGID | uapi::S_IXGRP;

/// The node to make in `dir`: owner, and group from the directory if that has its set-group-id bit.
pub fn new_node<'a>(caller: Caller<'_>, dir: &Inode, mode: u32, kind: NodeKind<'a>) -> NewNode<'a> {
    let cred = caller.cred;
    let mut mode = mode;
    let mut gid = cred.fsgid;
    if dir.mode() & uapi::S_ISGID != 0 {
        gid = dir.gid();
        if mode & uapi::S_IFMT == uapi::S_IFDIR {
            mode |= uapi::S_ISGID;
        } else if mode & RUNS_AS_GROUP == RUNS_AS_GROUP
            && !cred.in_group(gid)
            && !perm::capable_over(dir, cred, Cap::Fsetid)
        {
            mode &= !uapi::S_ISGID;
        }
    }
    NewNode { mode, uid: cred.fsuid, gid, kind }
}

/// Makes `name` in `dir`, whose inode is locked; `absent` is its dentry. Returns the new inode's
/// dentry.
pub fn create_locked(
    caller: Caller<'_>,
    dir: &Path,
    absent: Ref<Dentry>,
    name: &[u8],
    mode: u32,
    kind: NodeKind<'_>,
) -> Result<Ref<Dentry>> {
    let dir_inode = dir.inode()?;
    dir.mnt.want_write()?;
    may_create(dir_inode, caller.cred)?;
    if let NodeKind::Device(dev) = kind {
        let whiteout = mode & uapi::S_IFMT == uapi::S_IFCHR && dev == Dev::WHITEOUT;
        if !whiteout && !caller.cred.capable(Cap::Mknod) {
            return Err(Errno::EPERM);
        }
    }
    let new = new_node(caller, dir_inode, mode, kind);
    let inode = dir_inode.ops().create(dir_inode, name, &new)?;
    absent.instantiate(inode.clone());
    notify::entry(dir_inode, name, &inode, Events::CREATE);
    Ok(absent)
}

fn make(
    caller: Caller<'_>,
    start: Option<&Path>,
    name: &[u8],
    mode: u32,
    kind: NodeKind<'_>,
) -> Result<Path> {
    let parent = namei::parent(caller, start, name)?;
    if parent.kind != LastKind::Name {
        return Err(Errno::EEXIST);
    }
    let dir_inode = parent.inode()?;
    let _guard = dir_inode.lock.lock();
    let found = lookup_locked(&parent.dir.dentry, parent.name)?;
    if found.inode().is_some() {
        return Err(Errno::EEXIST);
    }
    if parent.slash && mode & uapi::S_IFMT != uapi::S_IFDIR {
        return Err(Errno::ENOENT);
    }
    let dentry = create_locked(caller, &parent.dir, found, parent.name, mode, kind)?;
    Ok(Path { mnt: parent.dir.mnt.clone(), dentry })
}

/// mkdir(2).
pub fn mkdir(caller: Caller<'_>, start: Option<&Path>, name: &[u8], mode: u32) -> Result<Path> {
    let bits = mode & (0o777 | uapi::S_ISVTX) & !caller.fs.umask();
    make(caller, start, name, uapi::S_IFDIR | bits, NodeKind::Plain)
}

/// mknod(2).
pub fn mknod(
    caller: Caller<'_>,
    start: Option<&Path>,
    name: &[u8],
    mode: u32,
    dev: Dev,
) -> Result<Path> {
    let bits = mode & PERMISSION_BITS & !caller.fs.umask();
    let kind = match mode & uapi::S_IFMT {
        0 | uapi::S_IFREG => {
            return make(caller, start, name, uapi::S_IFREG | bits, NodeKind::Plain);
        }
        uapi::S_IFIFO | uapi::S_IFSOCK => NodeKind::Plain,
        uapi::S_IFCHR | uapi::S_IFBLK => NodeKind::Device(dev),
        _ => return Err(Errno::EINVAL),
    };
    make(caller, start, name, (mode & uapi::S_IFMT) | bits, kind)
}

/// symlink(2).
pub fn symlink(
    caller: Caller<'_>,
    target: &[u8],
    start: Option<&Path>,
    name: &[u8],
) -> Result<Path> {
    make(caller, start, name, uapi::S_IFLNK | 0o777, NodeKind::Symlink(target))
}

/// link(2): one more name for what is at `old`.
pub fn link(caller: Caller<'_>, old: &Path, start: Option<&Path>, name: &[u8]) -> Result<()> {
    let parent = namei::parent(caller, start, name)?;
    if parent.kind != LastKind::Name {
        return Err(Errno::EEXIST);
    }
    let dir_inode = parent.inode()?;
    let _guard = dir_inode.lock.lock();
    let found = lookup_locked(&parent.dir.dentry, parent.name)?;
    if found.inode().is_some() {
        return Err(Errno::EEXIST);
    }
    if parent.slash {
        return Err(Errno::ENOENT);
    }
    if !Ref::ptr_eq(&old.mnt, &parent.dir.mnt) {
        return Err(Errno::EXDEV);
    }
    parent.dir.mnt.want_write()?;
    let inode = old.inode()?;
    if !may_link(inode, caller) {
        return Err(Errno::EPERM);
    }
    may_create(dir_inode, caller.cred)?;
    if inode.is_dir() {
        return Err(Errno::EPERM);
    }
    if inode.nlink() == 0 && !inode.flags().contains(InodeFlags::LINKABLE) {
        return Err(Errno::ENOENT);
    }
    dir_inode.ops().link(dir_inode, parent.name, inode)?;
    inode.clear_flags(InodeFlags::LINKABLE);
    found.instantiate(inode.clone());
    notify::inode(inode, Events::ATTRIB);
    notify::entry(dir_inode, parent.name, inode, Events::CREATE);
    Ok(())
}

/// Who does not own a file may give it another name only if they could read and write it and it is no
/// privileged program: else they could keep one that its owner believes gone (protected_hardlinks of
/// proc(5)).
fn may_link(inode: &Inode, caller: Caller<'_>) -> bool {
    let mode = inode.mode();
    let runs_as_group = mode & RUNS_AS_GROUP == RUNS_AS_GROUP;
    let plain = inode.is_regular() && mode & uapi::S_ISUID == 0 && !runs_as_group;
    let both = Access::READ | Access::WRITE;
    perm::owner_or_capable(inode, caller.cred)
        || (plain && perm::permission(inode, both, caller.cred).is_ok())
}

/// Looks up the name to remove; its directory is locked.
fn victim(parent: &Parent<'_>) -> Result<(Ref<Dentry>, Ref<Inode>)> {
    let dentry = lookup_locked(&parent.dir.dentry, parent.name)?;
    let inode = dentry.require_inode()?.clone();
    Ok((dentry, inode))
}

/// unlink(2).
pub fn unlink(caller: Caller<'_>, start: Option<&Path>, name: &[u8]) -> Result<()> {
    let parent = namei::parent(caller, start, name)?;
    if parent.kind != LastKind::Name {
        return Err(Errno::EISDIR);
    }
    let dir_inode = parent.inode()?;
    // Declared before the guard, so that what the name kept alive goes after the lock.
    let (dentry, inode);
    parent.dir.mnt.want_write()?;
    let guard = dir_inode.lock.lock();
    (dentry, inode) = victim(&parent)?;
    if parent.slash {
        return Err(if inode.is_dir() { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    may_delete(dir_inode, &inode, caller.cred)?;
    if inode.is_dir() {
        return Err(Errno::EISDIR);
    }
    if is_local_mountpoint(&dentry, &parent.dir.mnt)? {
        return Err(Errno::EBUSY);
    }
    dir_inode.ops().unlink(dir_inode, parent.name, &inode)?;
    notify::inode(&inode, Events::ATTRIB);
    removed(&parent, &dentry, &inode)?;
    drop(guard);
    forget_mounts(&dentry, &inode);
    Ok(())
}

/// Brings the cache up to date with a name that was removed, and tells who watches.
fn removed(parent: &Parent<'_>, dentry: &Ref<Dentry>, inode: &Inode) -> Result<()> {
    dentry::unhash(dentry);
    if inode.nlink() == 0 && Ref::ref_count(dentry) == 1 {
        // Nobody has it open: it is gone before its name is.
        notify::forgotten(inode);
    }
    notify::entry(parent.inode()?, parent.name, inode, Events::DELETE);
    Ok(())
}

/// Ends what other namespaces have mounted on a removed name. Without the memory for that it stays where
/// only they can see it.
fn forget_mounts(removed: &Dentry, inode: &Inode) {
    let _ = detach_mounts(removed, &inode.sb);
}

/// rmdir(2).
pub fn rmdir(caller: Caller<'_>, start: Option<&Path>, name: &[u8]) -> Result<()> {
    let parent = namei::parent(caller, start, name)?;
    match parent.kind {
        LastKind::Name => {}
        LastKind::Dot => return Err(Errno::EINVAL),
        LastKind::DotDot => return Err(Errno::ENOTEMPTY),
        LastKind::Nothing => return Err(Errno::EBUSY),
    }
    let dir_inode = parent.inode()?;
    let (dentry, inode);
    parent.dir.mnt.want_write()?;
    let guard = dir_inode.lock.lock();
    (dentry, inode) = victim(&parent)?;
    may_delete(dir_inode, &inode, caller.cred)?;
    if !inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    if is_local_mountpoint(&dentry, &parent.dir.mnt)? {
        return Err(Errno::EBUSY);
    }
    let inner = inode.lock.lock();
    dir_inode.ops().rmdir(dir_inode, parent.name, &inode)?;
    inode.set_flags(InodeFlags::DEAD);
    removed(&parent, &dentry, &inode)?;
    drop((inner, guard));
    forget_mounts(&dentry, &inode);
    Ok(())
}

bitflags::bitflags! {
    /// Flags of renameat2(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RenameFlags: u32 {
        /// Fail if the new name is there.
        const NOREPLACE = uapi::RENAME_NOREPLACE;
        /// The two names change places.
        const EXCHANGE = uapi::RENAME_EXCHANGE;
        /// Leave a whiteout behind.
        const WHITEOUT = uapi::RENAME_WHITEOUT;
    }
}

impl RenameFlags {
    /// Flags as renameat2(2) gets them.
    pub fn of(raw: u32) -> Result<Self> {
        let flags = Self::from_bits(raw).ok_or(Errno::EINVAL)?;
        let alone = !flags.contains(Self::EXCHANGE) || flags == Self::EXCHANGE;
        if alone { Ok(flags) } else { Err(Errno::EINVAL) }
    }
}

/// rename(2), renameat2(2).
pub fn rename(
    caller: Caller<'_>,
    old: &Parent<'_>,
    new: &Parent<'_>,
    flags: RenameFlags,
) -> Result<()> {
    if let Some((removed, inode)) = rename_unlocked(caller, old, new, flags)? {
        forget_mounts(&removed, &inode);
    }
    Ok(())
}

/// A name that gave way to another, and what it named.
type Replaced = Option<(Ref<Dentry>, Ref<Inode>)>;

fn rename_unlocked(
    caller: Caller<'_>,
    old: &Parent<'_>,
    new: &Parent<'_>,
    flags: RenameFlags,
) -> Result<Replaced> {
    if !Ref::ptr_eq(&old.dir.mnt, &new.dir.mnt) {
        return Err(Errno::EXDEV);
    }
    if old.kind != LastKind::Name {
        return Err(Errno::EBUSY);
    }
    if new.kind != LastKind::Name {
        let noreplace = flags.contains(RenameFlags::NOREPLACE);
        return Err(if noreplace { Errno::EEXIST } else { Errno::EBUSY });
    }
    old.dir.mnt.want_write()?;
    let (old_dir, new_dir) = (old.inode()?, new.inode()?);
    if Ref::ptr_eq(old_dir, new_dir) {
        let _guard = old_dir.lock.lock();
        return rename_locked(caller, old, new, flags);
    }
    // The tree keeps its shape while directories may move, so "below" means something.
    let _tree = old_dir.sb.rename_lock.lock();
    let new_first = old.dir.dentry.is_below(&new.dir.dentry);
    let old_first = new.dir.dentry.is_below(&old.dir.dentry);
    let by_address = Ref::as_ptr(old_dir) < Ref::as_ptr(new_dir);
    if old_first || (!new_first && by_address) {
        let _first = old_dir.lock.lock();
        let _second = new_dir.lock.lock();
        rename_locked(caller, old, new, flags)
    } else {
        let _first = new_dir.lock.lock();
        let _second = old_dir.lock.lock();
        rename_locked(caller, old, new, flags)
    }
}

fn rename_locked(
    caller: Caller<'_>,
    old: &Parent<'_>,
    new: &Parent<'_>,
    flags: RenameFlags,
) -> Result<Replaced> {
    let exchange = flags.contains(RenameFlags::EXCHANGE);
    let (dentry, inode) = victim(old)?;
    let target = lookup_locked(&new.dir.dentry, new.name)?;
    let target_inode = target.inode();
    if flags.contains(RenameFlags::NOREPLACE) && target_inode.is_some() {
        return Err(Errno::EEXIST);
    }
    if exchange {
        let there = target.require_inode()?;
        if new.slash && !there.is_dir() {
            return Err(Errno::ENOTDIR);
        }
    }
    if !inode.is_dir() && (old.slash || (new.slash && !exchange)) {
        return Err(Errno::ENOTDIR);
    }
    if new.dir.dentry.is_below(&dentry) {
        return Err(Errno::EINVAL);
    }
    if old.dir.dentry.is_below(&target) {
        return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
    }
    if target_inode.is_some_and(|t| Ref::ptr_eq(t, &inode)) {
        // Two names of one file: both stay (rename(2)).
        return Ok(None);
    }
    let (old_dir, new_dir) = (old.inode()?, new.inode()?);
    let cross = !Ref::ptr_eq(old_dir, new_dir);
    may_delete(old_dir, &inode, caller.cred)?;
    match target_inode {
        None => may_create(new_dir, caller.cred)?,
        Some(there) => {
            may_delete(new_dir, there, caller.cred)?;
            if !exchange && inode.is_dir() != there.is_dir() {
                return Err(if there.is_dir() { Errno::EISDIR } else { Errno::ENOTDIR });
            }
        }
    }
    if cross {
        // A directory's `..` changes.
        if inode.is_dir() {
            perm::permission(&inode, Access::WRITE, caller.cred)?;
        }
        if let Some(there) = target_inode.filter(|t| exchange && t.is_dir()) {
            perm::permission(there, Access::WRITE, caller.cred)?;
        }
    }
    if is_local_mountpoint(&dentry, &old.dir.mnt)? || is_local_mountpoint(&target, &new.dir.mnt)? {
        return Err(Errno::EBUSY);
    }
    let replaced = target_inode.filter(|t| !exchange && t.is_dir());
    let _inner = replaced.map(|t| t.lock.lock());
    let whiteout = new_node(caller, old_dir, uapi::S_IFCHR, NodeKind::Device(Dev::WHITEOUT));
    new_dir.ops().rename(&RenameOp {
        old_dir,
        old_name: old.name,
        inode: &inode,
        new_dir,
        new_name: new.name,
        target: target_inode,
        exchange,
        whiteout: flags.contains(RenameFlags::WHITEOUT).then_some(&whiteout),
    })?;
    if let Some(gone) = replaced {
        gone.set_flags(InodeFlags::DEAD);
    }
    if dentry::rename(&dentry, &new.dir.dentry, &target, exchange).is_err() {
        // No memory for the new name. The file system has it; the cache will ask there.
        dentry::unhash(&dentry);
        dentry::unhash(&target);
    }
    tell_of_move(old, new, &inode, target_inode, exchange)?;
    let gone = target_inode.filter(|_| !exchange).cloned();
    Ok(gone.map(|inode| (target.clone(), inode)))
}

/// Tells who watches of a name that was moved, and of the one that was there before.
fn tell_of_move(
    old: &Parent<'_>,
    new: &Parent<'_>,
    inode: &Inode,
    target: Option<&Ref<Inode>>,
    exchange: bool,
) -> Result<()> {
    let (from, to) = ((&**old.inode()?, old.name), (&**new.inode()?, new.name));
    notify::moved(from, to, inode);
    if let Some(replaced) = target.filter(|_| !exchange) {
        notify::inode(replaced, Events::ATTRIB);
    }
    notify::inode(inode, Events::MOVE_SELF);
    if let Some(other) = target.filter(|_| exchange) {
        notify::moved(to, from, other);
        notify::inode(other, Events::MOVE_SELF);
    }
    Ok(())
}

/// Applies a change of the attributes of the inode at `path` that was permitted, and tells who watches.
fn change_attributes(path: &Path, inode: &Inode, change: &SetAttr) -> Result<()> {
    inode.apply(change)?;
    let owner_or_mode = change.mode.is_some() || change.uid.is_some() || change.gid.is_some();
    let events = match (change.atime, change.mtime) {
        _ if owner_or_mode => Events::ATTRIB,
        (Some(_), Some(_)) => Events::ATTRIB,
        (Some(_), None) => Events::ACCESS,
        (None, Some(_)) => Events::MODIFY,
        (None, None) => return Ok(()),
    };
    notify::place(path, events);
    Ok(())
}

/// chmod(2) on the inode at `path`.
pub fn chmod(caller: Caller<'_>, path: &Path, mode: u32) -> Result<()> {
    path.mnt.want_write()?;
    let inode = path.inode()?;
    let _guard = inode.lock.lock();
    if inode.is_symlink() {
        return Err(Errno::EOPNOTSUPP);
    }
    if !perm::owner_or_capable(inode, caller.cred) {
        return Err(Errno::EPERM);
    }
    let mut mode = mode & PERMISSION_BITS;
    if !keeps_sgid(inode, caller.cred) {
        mode &= !uapi::S_ISGID;
    }
    change_attributes(path, inode, &SetAttr { mode: Some(mode), ..SetAttr::default() })
}

/// chown(2) on the inode at `path`; `None` leaves an id as it is.
pub fn chown(caller: Caller<'_>, path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    path.mnt.want_write()?;
    let inode = path.inode()?;
    let cred = caller.cred;
    let _guard = inode.lock.lock();
    let owner = cred.fsuid == inode.uid();
    let uid_ok = uid.is_none_or(|uid| owner && uid == inode.uid());
    let gid_ok = gid.is_none_or(|gid| owner && (cred.in_group(gid) || gid == inode.gid()));
    let permitted = uid_ok && gid_ok || perm::capable_over(inode, cred, Cap::Chown);
    if !permitted {
        return Err(Errno::EPERM);
    }
    let mut change = SetAttr { uid, gid, ..SetAttr::default() };
    if !inode.is_dir() {
        change.mode = without_set_id(inode, cred);
    }
    change_attributes(path, inode, &change)
}

/// The permission bits that `inode` is left with when `cred` writes to it or gives it away, if it loses
/// any: whoever changes a program takes its privileges off. Set-group-id without execution by the group
/// was a lock and no privilege; a member of the group may leave it.
pub fn without_set_id(inode: &Inode, cred: &Cred) -> Option<u32> {
    let mode = inode.mode();
    let mut clear = mode & uapi::S_ISUID;
    if mode & uapi::S_ISGID != 0 && (mode & uapi::S_IXGRP != 0 || !keeps_sgid(inode, cred)) {
        clear |= uapi::S_ISGID;
    }
    (clear != 0).then_some(mode & PERMISSION_BITS & !clear)
}

/// Whether `cred` may leave or set the set-group-id bit of `inode`.
fn keeps_sgid(inode: &Inode, cred: &Cred) -> bool {
    cred.in_group(inode.gid()) || perm::capable_over(inode, cred, Cap::Fsetid)
}

/// Takes set-id bits off a file that is written to without `CAP_FSETID`.
#[inline]
pub fn drop_privileges(inode: &Inode) -> Result<()> {
    if inode.mode() & (uapi::S_ISUID | uapi::S_ISGID) == 0 {
        return Ok(());
    }
    match super::file::without_set_id(inode) {
        Some(mode) => inode.apply(&SetAttr { mode: Some(mode), ..SetAttr::default() }),
        None => Ok(()),
    }
}

/// A time for utimensat(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// Leave it.
    Omit,
    /// Set it to now.
    Now,
    /// Set it to this.
    To(Timestamp),
}

/// utimensat(2) on the inode at `path`.
pub fn set_times(caller: Caller<'_>, path: &Path, atime: SetTime, mtime: SetTime) -> Result<()> {
    if atime == SetTime::Omit && mtime == SetTime::Omit {
        return Ok(());
    }
    path.mnt.want_write()?;
    let inode = path.inode()?;
    let _guard = inode.lock.lock();
    if !perm::owner_or_capable(inode, caller.cred) {
        // Anybody who may write may touch; only the owner may set times freely.
        if atime != SetTime::Now || mtime != SetTime::Now {
            return Err(Errno::EPERM);
        }
        perm::permission(inode, Access::WRITE, caller.cred)?;
    }
    let now = Timestamp::now();
    let pick = |time| match time {
        SetTime::Omit => None,
        SetTime::Now => Some(now),
        SetTime::To(time) => Some(time),
    };
    let change = SetAttr { atime: pick(atime), mtime: pick(mtime), ..SetAttr::default() };
    change_attributes(path, inode, &change)
}

/// Sets the length of the regular file `inode`, whose writing was permitted.
pub fn set_length(inode: &Inode, size: u64) -> Result<()> {
    if size > inode.sb.max_bytes {
        return Err(Errno::EFBIG);
    }
    let _guard = inode.lock.lock();
    inode.ops().truncate(inode, size)?;
    drop_privileges(inode)?;
    inode.touch_modified();
    Ok(())
}

/// truncate(2).
pub fn truncate(caller: Caller<'_>, path: &Path, size: u64) -> Result<()> {
    let inode = path.inode()?;
    if inode.is_dir() {
        return Err(Errno::EISDIR);
    }
    if !inode.is_regular() {
        return Err(Errno::EINVAL);
    }
    path.mnt.want_write()?;
    perm::permission(inode, Access::WRITE, caller.cred)?;
    let _access = WriteAccess::get(path)?;
    super::file::check_size_limit(inode.size(), size)?;
    set_length(inode, size)?;
    notify::place(path, Events::MODIFY);
    Ok(())
}

/// access(2) with `caller`'s credentials, which the handler has set as the flags ask.
pub fn access(caller: Caller<'_>, path: &Path, access: Access) -> Result<()> {
    let inode = path.inode()?;
    if access.contains(Access::EXEC)
        && inode.is_regular()
        && path.mnt.flags().contains(super::MountFlags::NOEXEC)
    {
        return Err(Errno::EACCES);
    }
    if access.is_empty() {
        return Ok(());
    }
    perm::permission(inode, access, caller.cred)?;
    if access.contains(Access::WRITE) && perm::writes_to_disk(inode) {
        path.mnt.want_write()?;
    }
    Ok(())
}
