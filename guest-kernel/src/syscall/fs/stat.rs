//! stat, statx, statfs, access, and changes of attributes.

use super::{Args, SysResult, UserPath, caller, fget, only, place_as, place_at};
use crate::errno::{Errno, Result};
use crate::fs::inode::Attr;
use crate::fs::namei::{LookupFlags, lookup};
use crate::fs::perm::Access;
use crate::fs::verbs::{self, SetTime};
use crate::fs::{Caller, MountFlags, Path, Timestamp};
use crate::mm::UserPtr;
use crate::ns::cred::SECBIT_NO_SETUID_FIXUP;
use crate::ns::{CapSet, Cred};
use crate::syscall::ids;
use crate::task;
use crate::uapi::{self, Stat};

crate::pod!(Stat, Statx, StatfsBuf);

fn encode(attr: &Attr) -> Stat {
    Stat {
        st_dev: u64::from(attr.dev.encode()),
        st_ino: attr.ino,
        st_mode: attr.mode,
        st_nlink: attr.nlink,
        st_uid: ids::uid(attr.uid),
        st_gid: ids::gid(attr.gid),
        st_rdev: u64::from(attr.rdev.encode()),
        st_size: attr.size as i64,
        st_blksize: attr.blksize as i32,
        st_blocks: attr.blocks as i64,
        st_atime: attr.times.atime.sec,
        st_atime_nsec: u64::from(attr.times.atime.nsec),
        st_mtime: attr.times.mtime.sec,
        st_mtime_nsec: u64::from(attr.times.mtime.nsec),
        st_ctime: attr.times.ctime.sec,
        st_ctime_nsec: u64::from(attr.times.ctime.nsec),
        ..Stat::default()
    }
}

const AT_STAT: u32 = uapi::AT_SYMLINK_NOFOLLOW | uapi::AT_NO_AUTOMOUNT | uapi::AT_EMPTY_PATH;

/// newfstatat(2).
pub fn sys_newfstatat(a: &mut Args) -> SysResult {
    let flags = a.u32(3);
    only(flags, AT_STAT)?;
    let path = place_at(a.fd(0), a.u64(1), flags)?;
    a.ptr::<Stat>(2).write_ref(&encode(&path.inode()?.attr()?))?;
    Ok(0)
}

/// fstat(2).
pub fn sys_fstat(a: &mut Args) -> SysResult {
    let file = task::current().files().get_any(a.fd(0))?;
    a.ptr::<Stat>(1).write_ref(&encode(&file.inode.attr()?))?;
    Ok(0)
}

/// `struct statx_timestamp`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct StatxTime {
    sec: i64,
    nsec: u32,
    pad: i32,
}

impl From<Timestamp> for StatxTime {
    fn from(time: Timestamp) -> Self {
        Self { sec: time.sec, nsec: time.nsec, pad: 0 }
    }
}

/// `struct statx` (statx(2)).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Statx {
    mask: u32,
    blksize: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad1: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    atime: StatxTime,
    btime: StatxTime,
    ctime: StatxTime,
    mtime: StatxTime,
    rdev_major: u32,
    rdev_minor: u32,
    dev_major: u32,
    dev_minor: u32,
    mnt_id: u64,
    spare: [u64; 13],
}

const _: () = assert!(size_of::<Statx>() == 256, "struct statx is 256 bytes");

/// statx(2).
pub fn sys_statx(a: &mut Args) -> SysResult {
    let (flags, mask) = (a.u32(2), a.u32(3));
    only(flags, AT_STAT | uapi::AT_STATX_FORCE_SYNC | uapi::AT_STATX_DONT_SYNC)?;
    let sync = uapi::AT_STATX_FORCE_SYNC | uapi::AT_STATX_DONT_SYNC;
    if mask & uapi::STATX__RESERVED != 0 || flags & sync == sync {
        return Err(Errno::EINVAL);
    }
    let path = place_at(a.fd(0), a.u64(1), flags)?;
    let attr = path.inode()?.attr()?;
    let mount_root = crate::kref::Ref::ptr_eq(&path.dentry, &path.mnt.root);
    let statx = Statx {
        mask: uapi::STATX_BASIC_STATS | uapi::STATX_BTIME | uapi::STATX_MNT_ID,
        blksize: attr.blksize,
        attributes: if mount_root { u64::from(uapi::STATX_ATTR_MOUNT_ROOT) } else { 0 },
        attributes_mask: u64::from(uapi::STATX_ATTR_MOUNT_ROOT),
        nlink: attr.nlink,
        uid: ids::uid(attr.uid),
        gid: ids::gid(attr.gid),
        mode: attr.mode as u16,
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.times.atime.into(),
        btime: attr.times.btime.into(),
        ctime: attr.times.ctime.into(),
        mtime: attr.times.mtime.into(),
        rdev_major: attr.rdev.major(),
        rdev_minor: attr.rdev.minor(),
        dev_major: attr.dev.major(),
        dev_minor: attr.dev.minor(),
        mnt_id: u64::from(path.mnt.id),
        ..Statx::default()
    };
    UserPtr::<Statx>::new(a.u64(4)).write_ref(&statx)?;
    Ok(0)
}

/// `struct statfs` of the generic ABI.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct StatfsBuf {
    kind: i64,
    bsize: i64,
    blocks: u64,
    bfree: u64,
    bavail: u64,
    files: u64,
    ffree: u64,
    fsid: [i32; 2],
    namelen: i64,
    frsize: i64,
    flags: i64,
    spare: [i64; 4],
}

const _: () = assert!(size_of::<StatfsBuf>() == 120, "struct statfs is 120 bytes");

/// `ST_*` of statfs(2), which the headers keep to themselves.
fn statfs_flags(path: &Path) -> i64 {
    const ST_VALID: i64 = 0x20;
    let mount = path.mnt.flags();
    let bits = [
        (path.mnt.is_read_only(), 1),
        (mount.contains(MountFlags::NOSUID), 2),
        (mount.contains(MountFlags::NODEV), 4),
        (mount.contains(MountFlags::NOEXEC), 8),
        (mount.contains(MountFlags::NOATIME), 0x400),
        (mount.contains(MountFlags::NODIRATIME), 0x800),
        (!mount.contains(MountFlags::NOATIME), 0x1000),
        (mount.contains(MountFlags::NOSYMFOLLOW), 0x2000),
    ];
    bits.iter().filter(|(on, _)| *on).fold(ST_VALID, |all, (_, bit)| all | bit)
}

fn statfs(path: &Path, to: UserPtr<StatfsBuf>) -> SysResult {
    let sb = &path.mnt.sb;
    let stat = sb.ops.statfs(sb)?;
    to.write_ref(&StatfsBuf {
        kind: sb.magic as i64,
        bsize: stat.bsize as i64,
        blocks: stat.blocks,
        bfree: stat.bfree,
        bavail: stat.bavail,
        files: stat.files,
        ffree: stat.ffree,
        fsid: [sb.dev.encode() as i32, 0],
        namelen: crate::fs::NAME_MAX as i64,
        frsize: stat.bsize as i64,
        flags: statfs_flags(path),
        spare: [0; 4],
    })?;
    Ok(0)
}

/// statfs(2).
pub fn sys_statfs(a: &mut Args) -> SysResult {
    let name = UserPath::read(a.u64(0))?;
    statfs(&lookup(caller(), None, name.bytes(), LookupFlags::FOLLOW)?, a.ptr(1))
}

/// fstatfs(2).
pub fn sys_fstatfs(a: &mut Args) -> SysResult {
    let file = task::current().files().get_any(a.fd(0))?;
    statfs(&file.path, a.ptr(1))
}

/// The caller's credentials with the real ids in place of the effective ones, as access(2) asks.
fn real_cred(cred: &Cred) -> Result<Cred> {
    let mut real = cred.try_clone()?;
    real.fsuid = cred.uid;
    real.fsgid = cred.gid;
    if cred.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
        let root = cred.user_ns.root_uid() == Some(cred.uid);
        real.cap_effective = if root { cred.cap_permitted } else { CapSet::EMPTY };
    }
    Ok(real)
}

fn access(dirfd: i32, path: u64, mode: u32, flags: u32) -> SysResult {
    only(flags, uapi::AT_EACCESS | uapi::AT_SYMLINK_NOFOLLOW | uapi::AT_EMPTY_PATH)?;
    let wanted = Access::from_bits(mode).ok_or(Errno::EINVAL)?;
    let caller = caller();
    let real;
    let cred = if flags & uapi::AT_EACCESS != 0 {
        caller.cred
    } else {
        real = real_cred(caller.cred)?;
        &real
    };
    // The walk is made with these ids too.
    let caller = Caller { cred, ..caller };
    verbs::access(caller, &place_as(caller, dirfd, path, flags)?, wanted)?;
    Ok(0)
}

/// faccessat(2).
pub fn sys_faccessat(a: &mut Args) -> SysResult {
    access(a.fd(0), a.u64(1), a.u32(2), 0)
}

/// faccessat2(2).
pub fn sys_faccessat2(a: &mut Args) -> SysResult {
    access(a.fd(0), a.u64(1), a.u32(2), a.u32(3))
}

/// fchmod(2).
pub fn sys_fchmod(a: &mut Args) -> SysResult {
    verbs::chmod(caller(), &fget(a.fd(0))?.path, a.u32(1))?;
    Ok(0)
}

/// fchmodat(2), the system call: without flags.
pub fn sys_fchmodat(a: &mut Args) -> SysResult {
    verbs::chmod(caller(), &place_at(a.fd(0), a.u64(1), 0)?, a.u32(2))?;
    Ok(0)
}

/// fchmodat2(2).
pub fn sys_fchmodat2(a: &mut Args) -> SysResult {
    let flags = a.u32(3);
    only(flags, uapi::AT_SYMLINK_NOFOLLOW | uapi::AT_EMPTY_PATH)?;
    verbs::chmod(caller(), &place_at(a.fd(0), a.u64(1), flags)?, a.u32(2))?;
    Ok(0)
}

/// Ids for chown(2); -1 leaves one as it is.
fn owner(a: &Args, first: usize) -> Result<(Option<u32>, Option<u32>)> {
    let given = |raw: u32| (raw != u32::MAX).then_some(raw);
    let uid = given(a.u32(first)).map(ids::kuid).transpose()?;
    Ok((uid, given(a.u32(first + 1)).map(ids::kgid).transpose()?))
}

/// fchown(2).
pub fn sys_fchown(a: &mut Args) -> SysResult {
    let (uid, gid) = owner(a, 1)?;
    verbs::chown(caller(), &fget(a.fd(0))?.path, uid, gid)?;
    Ok(0)
}

/// fchownat(2).
pub fn sys_fchownat(a: &mut Args) -> SysResult {
    let flags = a.u32(4);
    only(flags, uapi::AT_SYMLINK_NOFOLLOW | uapi::AT_EMPTY_PATH)?;
    let path = place_at(a.fd(0), a.u64(1), flags)?;
    let (uid, gid) = owner(a, 2)?;
    verbs::chown(caller(), &path, uid, gid)?;
    Ok(0)
}

fn set_time([sec, nsec]: [i64; 2]) -> Result<SetTime> {
    Ok(match u32::try_from(nsec).map_err(|_| Errno::EINVAL)? {
        uapi::UTIME_NOW => SetTime::Now,
        uapi::UTIME_OMIT => SetTime::Omit,
        nsec @ 0..1_000_000_000 => SetTime::To(Timestamp { sec, nsec }),
        _ => return Err(Errno::EINVAL),
    })
}

/// utimensat(2).
pub fn sys_utimensat(a: &mut Args) -> SysResult {
    let flags = a.u32(3);
    const NOW: [i64; 2] = [0, uapi::UTIME_NOW as i64];
    const OMIT: i64 = uapi::UTIME_OMIT as i64;
    let times = a.ptr::<[[i64; 2]; 2]>(2).non_null();
    let [atime, mtime] = times.map_or(Ok([NOW; 2]), |times| times.read())?;
    if atime[1] == OMIT && mtime[1] == OMIT {
        // Nothing to do, so nothing else is looked at.
        return Ok(0);
    }
    only(flags, uapi::AT_SYMLINK_NOFOLLOW | uapi::AT_EMPTY_PATH)?;
    let path = if a.u64(1) == 0 && a.fd(0) != uapi::AT_FDCWD {
        // futimens(3).
        only(flags, 0)?;
        fget(a.fd(0))?.path.clone()
    } else {
        place_at(a.fd(0), a.u64(1), flags)?
    };
    verbs::set_times(caller(), &path, set_time(atime)?, set_time(mtime)?)?;
    Ok(0)
}
