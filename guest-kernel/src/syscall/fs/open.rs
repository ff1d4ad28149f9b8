//! open, close, dup, and what makes files without a name.

use super::{Args, SysResult, UserPath, caller, fd_limit, only, start_at};
use crate::errno::{Errno, Result};
use crate::fs::namei::LookupFlags;
use crate::fs::open::{OpenHow, open};
use crate::fs::tmpfs::memfd;
use crate::fs::{Files, OpenFlags};
use crate::mm::UserPtr;
use crate::task;
use crate::uapi;

/// Permission bits that open(2) takes.
const MODE_BITS: u32 = 0o7777;

fn open_at(dirfd: i32, path: u64, how: OpenHow) -> SysResult {
    how.check()?;
    let name = UserPath::read(path)?;
    let absolute = name.bytes().first() == Some(&b'/');
    let scoped = how.resolve.intersects(LookupFlags::BENEATH | LookupFlags::IN_ROOT);
    let start = if absolute && !scoped { None } else { start_at(dirfd)? };
    let files = task::current().files();
    let cloexec = how.flags.contains(OpenFlags::CLOEXEC);
    let reserved = files.reserve(0, fd_limit(), cloexec)?;
    let file = open(caller(), start.as_ref(), name.bytes(), how)?;
    Ok(reserved.install(file) as usize)
}

/// What the flags of open(2) mean: unknown ones are ignored, as ever.
fn flags_of(raw: u32) -> OpenFlags {
    let flags = OpenFlags::from_bits_truncate(raw);
    if flags.contains(OpenFlags::PATH) {
        // Nothing else counts (open(2)).
        let kept =
            OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::PATH | OpenFlags::CLOEXEC;
        return flags & kept;
    }
    // As on every 64-bit system.
    flags | OpenFlags::LARGEFILE
}

/// openat(2).
pub fn sys_openat(a: &mut Args) -> SysResult {
    let flags = flags_of(a.u32(2));
    let makes = flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE_BIT);
    let mode = if makes { a.u32(3) & MODE_BITS } else { 0 };
    open_at(a.fd(0), a.u64(1), OpenHow { flags, mode, resolve: LookupFlags::empty() })
}

/// openat2(2): unknown flags are refused, and `resolve` limits the walk.
pub fn sys_openat2(a: &mut Args) -> SysResult {
    const SIZE: usize = 24;
    let size = a.usize(3);
    if size < SIZE {
        return Err(Errno::EINVAL);
    }
    if size > crate::addr::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    // What a later version of the structure adds must be zero.
    for at in SIZE..size {
        if a.ptr::<u8>(2).add(at).read()? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    let [raw, mode, resolve] = a.ptr::<[u64; 3]>(2).read()?;
    let raw = u32::try_from(raw).map_err(|_| Errno::EINVAL)?;
    OpenFlags::from_bits(raw).ok_or(Errno::EINVAL)?;
    let flags = flags_of(raw);
    let makes = flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE_BIT);
    if mode & !u64::from(MODE_BITS) != 0 || (mode != 0 && !makes) {
        return Err(Errno::EINVAL);
    }
    if raw & uapi::O_PATH != 0 && flags.bits() != raw {
        return Err(Errno::EINVAL);
    }
    let resolve = u32::try_from(resolve).map_err(|_| Errno::EINVAL)?;
    if resolve & uapi::RESOLVE_CACHED != 0 {
        // Whether it would have to wait is not known beforehand; the caller then tries without.
        return Err(Errno::EAGAIN);
    }
    let walk = resolve_flags(resolve)?;
    open_at(a.fd(0), a.u64(1), OpenHow { flags, mode: mode as u32, resolve: walk })
}

fn resolve_flags(resolve: u32) -> Result<LookupFlags> {
    let names = [
        (uapi::RESOLVE_NO_XDEV, LookupFlags::NO_XDEV),
        (uapi::RESOLVE_NO_MAGICLINKS, LookupFlags::NO_MAGICLINKS),
        (uapi::RESOLVE_NO_SYMLINKS, LookupFlags::NO_SYMLINKS),
        (uapi::RESOLVE_BENEATH, LookupFlags::BENEATH),
        (uapi::RESOLVE_IN_ROOT, LookupFlags::IN_ROOT),
    ];
    only(resolve, names.iter().fold(0, |all, (bit, _)| all | bit))?;
    let mut flags = LookupFlags::empty();
    for (bit, flag) in names {
        flags.set(flag, resolve & bit != 0);
    }
    if flags.contains(LookupFlags::BENEATH | LookupFlags::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    Ok(flags)
}

/// close(2).
pub fn sys_close(a: &mut Args) -> SysResult {
    task::current().files().close(a.fd(0))?;
    Ok(0)
}

/// close_range(2): on a copy of the table, if others share it.
const CLOSE_RANGE_UNSHARE: u32 = 1 << 1;
/// close_range(2): mark, do not close.
const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;

/// close_range(2).
pub fn sys_close_range(a: &mut Args) -> SysResult {
    let (first, last, flags) = (a.u32(0) as usize, a.u32(1) as usize, a.u32(2));
    only(flags, CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)?;
    if first > last {
        return Err(Errno::EINVAL);
    }
    let task = task::current();
    if flags & CLOSE_RANGE_UNSHARE != 0 && crate::kref::Ref::ref_count(task.files()) > 1 {
        let own = task.files().try_clone()?;
        drop(task.files.replace(Some(own)));
    }
    let files: &Files = task.files();
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        files.cloexec_range(first, last);
    } else {
        files.close_range(first, last);
    }
    Ok(0)
}

/// dup(2).
pub fn sys_dup(a: &mut Args) -> SysResult {
    let files = task::current().files();
    let file = files.get_any(a.fd(0))?;
    Ok(files.install(file, 0, fd_limit(), false)? as usize)
}

/// dup3(2).
pub fn sys_dup3(a: &mut Args) -> SysResult {
    let (old, new, flags) = (a.fd(0), a.fd(1), a.u32(2));
    only(flags, uapi::O_CLOEXEC)?;
    if old == new {
        return Err(Errno::EINVAL);
    }
    let files = task::current().files();
    let file = files.get_any(old)?;
    let replaced = files.replace(new, file, fd_limit(), flags & uapi::O_CLOEXEC != 0)?;
    if let Some(replaced) = replaced {
        files.close_file(replaced);
    }
    Ok(new as usize)
}

/// memfd_create(2).
pub fn sys_memfd_create(a: &mut Args) -> SysResult {
    const KNOWN: u32 =
        uapi::MFD_CLOEXEC | uapi::MFD_ALLOW_SEALING | uapi::MFD_NOEXEC_SEAL | uapi::MFD_EXEC;
    /// Longest name: `memfd:` and the name fit in `NAME_MAX`.
    const NAME: usize = 249;
    let flags = a.u32(1);
    only(flags, KNOWN)?;
    let name = crate::mm::user::read_cstr(UserPtr::<u8>::new(a.u64(0)).addr(), NAME + 1)
        .map_err(|e| if e == Errno::ENAMETOOLONG { Errno::EINVAL } else { e })?;
    let task = task::current();
    let file = memfd::create(&name, flags & uapi::MFD_ALLOW_SEALING != 0, task.cred())?;
    let cloexec = flags & uapi::MFD_CLOEXEC != 0;
    Ok(task.files().install(file, 0, fd_limit(), cloexec)? as usize)
}
