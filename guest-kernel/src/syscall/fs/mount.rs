//! mount, umount2, pivot_root.

use alloc::vec::Vec;

use super::{Args, SysResult, UserPath, caller, only};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::mntns::{Propagation, UmountFlags};
use crate::fs::namei::{LookupFlags, lookup};
use crate::fs::{Inode, MntNs, MountFlags, MountRequest, Path};
use crate::kref::Ref;
use crate::mm::user;
use crate::ns::{Cap, Namespace};
use crate::procfs::nsfs;
use crate::{task, uapi};

/// The mounts that the caller sees.
pub(super) fn namespace() -> &'static Ref<MntNs> {
    &task::current().nsproxy().mnt
}

/// `EPERM` unless the caller may change them.
pub(super) fn require_admin() -> Result<()> {
    let admin = caller().cred.ns_capable(namespace().common.user_ns(), Cap::SysAdmin);
    if admin { Ok(()) } else { Err(Errno::EPERM) }
}

fn directory_or_file(addr: u64, flags: LookupFlags) -> Result<Path> {
    let name = UserPath::read(addr)?;
    lookup(caller(), None, name.bytes(), flags)
}

/// A string argument that may be null.
fn text(addr: u64) -> Result<Vec<u8>> {
    if addr == 0 { Ok(Vec::new()) } else { user::read_cstr(addr, PAGE_SIZE) }
}

/// Options, which end at a page at the latest.
fn options(addr: u64) -> Result<Vec<u8>> {
    match text(addr) {
        Err(Errno::ENAMETOOLONG) => Err(Errno::EINVAL),
        other => other,
    }
}

/// mount(2).
pub fn sys_mount(a: &mut Args) -> SysResult {
    const PROPAGATION: u32 =
        uapi::MS_PRIVATE | uapi::MS_SLAVE | uapi::MS_SHARED | uapi::MS_UNBINDABLE;
    const MAGIC: u64 = 0xc0ed_0000;
    let mut raw = a.u64(3);
    // A magic number of old programs.
    if raw & 0xffff_0000 == MAGIC {
        raw &= 0xffff;
    }
    let raw = raw as u32;
    let place = directory_or_file(a.u64(1), LookupFlags::FOLLOW)?;
    require_admin()?;
    let mut flags = MountFlags::from_bits_truncate(raw);
    // The default, unless something else is asked for (mount(2), `MS_STRICTATIME`).
    let relative = !flags.contains(MountFlags::NOATIME) && raw & uapi::MS_STRICTATIME == 0;
    flags.set(MountFlags::RELATIME, relative);
    let ns = namespace();
    if raw & uapi::MS_REMOUNT != 0 {
        // Nothing said about access times: they stay as they are.
        const ATIME: MountFlags =
            MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);
        if raw & (ATIME.bits() | uapi::MS_STRICTATIME) == 0 {
            flags = (flags - ATIME) | (place.mnt.flags() & ATIME);
        }
        let bind = raw & uapi::MS_BIND != 0;
        ns.remount(&place, flags, &options(a.u64(4))?, bind, caller().cred)?;
    } else if raw & uapi::MS_BIND != 0 {
        let from = directory_or_file(a.u64(0), LookupFlags::FOLLOW)?;
        ns.bind(&from, &place, raw & uapi::MS_REC != 0, is_namespace(&from, ns)?)?;
    } else if raw & PROPAGATION != 0 {
        let how = match raw & !(uapi::MS_REC | uapi::MS_SILENT) {
            uapi::MS_SHARED => Propagation::Shared,
            uapi::MS_PRIVATE => Propagation::Private,
            uapi::MS_SLAVE => Propagation::Slave,
            uapi::MS_UNBINDABLE => Propagation::Unbindable,
            _ => return Err(Errno::EINVAL),
        };
        ns.set_propagation(&place, how, raw & uapi::MS_REC != 0)?;
    } else if raw & uapi::MS_MOVE != 0 {
        let from = directory_or_file(a.u64(0), LookupFlags::FOLLOW)?;
        ns.move_mount(&from, &place, &|inode| fits(inode, ns))?;
    } else {
        let (source, fs_type) = (text(a.u64(0))?, text(a.u64(2))?);
        let data = options(a.u64(4))?;
        let source = if source.is_empty() { &b"none"[..] } else { &source };
        let request = MountRequest { source, data: &data, flags, cred: caller().cred, shows: None };
        ns.mount(&fs_type, &request, &place)?;
    }
    Ok(0)
}

/// True if `place` is the file of a namespace, which can be bound though it is in no tree. A mount
/// namespace must be younger than the one that is to hold it, or they could hold each other.
pub(super) fn is_namespace(place: &Path, into: &MntNs) -> Result<bool> {
    let inode = place.inode()?;
    let is = nsfs::namespace_at(inode).is_some();
    if fits(inode, into) { Ok(is) } else { Err(Errno::EINVAL) }
}

/// False for a mount namespace that is not younger than `into`.
pub(super) fn fits(inode: &Inode, into: &MntNs) -> bool {
    !matches!(nsfs::namespace_at(inode), Some(Namespace::Mnt(ns)) if ns.seq <= into.seq)
}

/// umount2(2).
pub fn sys_umount2(a: &mut Args) -> SysResult {
    let flags = a.u32(1);
    only(flags, uapi::MNT_FORCE | uapi::MNT_DETACH | uapi::MNT_EXPIRE | uapi::UMOUNT_NOFOLLOW)?;
    let expire = flags & uapi::MNT_EXPIRE != 0;
    if expire && flags & (uapi::MNT_FORCE | uapi::MNT_DETACH) != 0 {
        return Err(Errno::EINVAL);
    }
    require_admin()?;
    let follow = flags & uapi::UMOUNT_NOFOLLOW == 0;
    let walk = if follow { LookupFlags::FOLLOW } else { LookupFlags::empty() };
    let place = directory_or_file(a.u64(0), walk)?;
    namespace().umount(&place, UmountFlags { detach: flags & uapi::MNT_DETACH != 0, expire })?;
    Ok(0)
}

/// pivot_root(2).
pub fn sys_pivot_root(a: &mut Args) -> SysResult {
    require_admin()?;
    let walk = LookupFlags::FOLLOW | LookupFlags::DIRECTORY;
    let new_root = directory_or_file(a.u64(0), walk)?;
    let put_old = directory_or_file(a.u64(1), walk)?;
    let fs = caller().fs;
    let old_root = fs.root();
    namespace().pivot_root(&old_root, &new_root, &put_old)?;
    move_roots(&old_root, &new_root)?;
    Ok(0)
}

/// Moves every task whose root or working directory is the old root.
fn move_roots(old: &Path, new: &Path) -> Result<()> {
    let mut all = Vec::new();
    {
        let list = task::list::lock();
        all.try_reserve(list.threads().count()).map_err(|_| Errno::ENOMEM)?;
        all.extend(list.threads().filter_map(|task| task.fs.share()));
    }
    all.iter().for_each(|fs| fs.replace(old, new));
    Ok(())
}
