//! fcntl and flock.

use super::{Args, SysResult, fd_limit, fget, owner};
use crate::errno::{Errno, Result};
use crate::fs::locks::{Lock, LockKind};
use crate::fs::tmpfs::memfd;
use crate::fs::{FMode, File, OpenFlags, fasync, perm, pipe};
use crate::kref::Ref;
use crate::mm::UserPtr;
use crate::task;
use crate::uapi::{self, S_IFIFO};

/// `struct flock` of 64-bit systems.
#[repr(C)]
#[derive(Clone, Copy)]
struct Flock {
    kind: i16,
    whence: i16,
    pad: i32,
    start: i64,
    len: i64,
    pid: i32,
    pad2: i32,
}

crate::pod!(Flock);

const RDLCK: i16 = uapi::F_RDLCK as i16;
const WRLCK: i16 = uapi::F_WRLCK as i16;
const UNLCK: i16 = uapi::F_UNLCK as i16;

/// fcntl(2).
pub fn sys_fcntl(a: &mut Args) -> SysResult {
    let (fd, cmd, arg) = (a.fd(0), a.u32(1), a.u64(2));
    let files = task::current().files();
    let file = files.get_any(fd)?;
    match cmd {
        uapi::F_DUPFD | uapi::F_DUPFD_CLOEXEC => {
            let limit = fd_limit();
            let min = usize::try_from(arg as i32).ok().filter(|&min| min < limit);
            let cloexec = cmd == uapi::F_DUPFD_CLOEXEC;
            return Ok(files.install(file, min.ok_or(Errno::EINVAL)?, limit, cloexec)? as usize);
        }
        uapi::F_GETFD => return Ok(usize::from(files.cloexec(fd)?)),
        uapi::F_SETFD => {
            files.set_cloexec(fd, arg as u32 & uapi::FD_CLOEXEC != 0)?;
            return Ok(0);
        }
        uapi::F_GETFL => return Ok(file.flags().bits() as usize),
        _ => {}
    }
    // Everything else needs more than a place.
    if file.fmode().contains(FMode::PATH) {
        return Err(Errno::EBADF);
    }
    match cmd {
        uapi::F_SETFL => set_flags(&file, fd, OpenFlags::from_bits_truncate(arg as u32)),
        uapi::F_GETLK | uapi::F_OFD_GETLK => get_lock(&file, cmd, UserPtr::new(arg)),
        uapi::F_SETLK | uapi::F_SETLKW | uapi::F_OFD_SETLK | uapi::F_OFD_SETLKW => {
            set_lock(&file, cmd, UserPtr::new(arg))
        }
        uapi::F_GETOWN => Ok(owner::get(&file) as isize as usize),
        uapi::F_SETOWN => owner::set(&file, arg as i32),
        uapi::F_GETOWN_EX => owner::get_ex(&file, UserPtr::new(arg)),
        uapi::F_SETOWN_EX => owner::set_ex(&file, UserPtr::new(arg)),
        uapi::F_GETSIG => Ok(file.fasync().signal() as usize),
        uapi::F_SETSIG => {
            let signal = u32::try_from(arg).ok().filter(|&s| s <= uapi::_NSIG);
            file.fasync().set_signal(signal.ok_or(Errno::EINVAL)?);
            Ok(0)
        }
        uapi::F_GETLEASE => Ok(UNLCK as usize),
        uapi::F_GETPIPE_SZ => Ok(pipe::pipe_of(&file).ok_or(Errno::EBADF)?.capacity()),
        uapi::F_SETPIPE_SZ => {
            let pipe = pipe::pipe_of(&file).ok_or(Errno::EBADF)?;
            pipe.set_capacity(arg as u32 as usize, task::current().cred())
        }
        uapi::F_GET_SEALS => Ok(memfd::seals(&file)? as usize),
        uapi::F_ADD_SEALS => {
            memfd::add_seals(&file, arg as u32)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn set_flags(file: &File, fd: i32, new: OpenFlags) -> SysResult {
    let gains = new - file.flags();
    let cred = task::current().cred();
    if gains.contains(OpenFlags::NOATIME) && !perm::owner_or_capable(&file.inode, cred) {
        return Err(Errno::EPERM);
    }
    // O_DIRECT makes packets of what goes through a pipe.
    let is_pipe = file.inode.file_type() == S_IFIFO;
    if new.contains(OpenFlags::DIRECT) && !is_pipe && !file.takes_direct() {
        return Err(Errno::EINVAL);
    }
    if (file.flags() ^ new).contains(OpenFlags::ASYNC) && fasync::is_supported(file) {
        owner::set_async(file, fd, new.contains(OpenFlags::ASYNC))?;
    }
    file.set_flags(new);
    Ok(0)
}

/// A record lock as the program describes it; true in the second place for unlocking.
fn decode(file: &Ref<File>, cmd: u32, flock: &Flock) -> Result<(Lock, bool)> {
    let base = match flock.whence as u16 as u32 {
        uapi::SEEK_SET => 0,
        uapi::SEEK_CUR => file.pos() as i64,
        uapi::SEEK_END => file.inode.size() as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(flock.start).ok_or(Errno::EOVERFLOW)?;
    // A negative length counts back from the start; none is "to the end".
    let (first, last) = match flock.len {
        0 => (start, i64::MAX),
        len if len > 0 => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        len => (start.checked_add(len).ok_or(Errno::EINVAL)?, start - 1),
    };
    let start = u64::try_from(first).map_err(|_| Errno::EINVAL)?;
    let end = if last == i64::MAX { u64::MAX } else { last as u64 };
    let ofd = matches!(cmd, uapi::F_OFD_GETLK | uapi::F_OFD_SETLK | uapi::F_OFD_SETLKW);
    if ofd && flock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let task = task::current();
    let (exclusive, unlock) = match flock.kind {
        RDLCK => (false, false),
        WRLCK => (true, false),
        UNLCK => (false, true),
        _ => return Err(Errno::EINVAL),
    };
    let (kind, owner, pid) = if ofd {
        (LockKind::Ofd, Ref::as_ptr(file) as usize, -1)
    } else {
        (LockKind::Posix, task.files().lock_owner(), task.tgid() as i32)
    };
    Ok((Lock { kind, owner, pid, exclusive, start, end }, unlock))
}

fn get_lock(file: &Ref<File>, cmd: u32, ptr: UserPtr<Flock>) -> SysResult {
    let mut flock = ptr.read()?;
    let (request, unlock) = decode(file, cmd, &flock)?;
    if unlock {
        return Err(Errno::EINVAL);
    }
    match file.inode.locks.test(&request) {
        None => flock.kind = UNLCK,
        Some(holder) => {
            flock.kind = if holder.exclusive { WRLCK } else { RDLCK };
            flock.whence = uapi::SEEK_SET as i16;
            flock.start = holder.start as i64;
            flock.len =
                if holder.end == u64::MAX { 0 } else { (holder.end - holder.start + 1) as i64 };
            flock.pid = holder.pid;
        }
    }
    ptr.write(flock)?;
    Ok(0)
}

fn set_lock(file: &Ref<File>, cmd: u32, ptr: UserPtr<Flock>) -> SysResult {
    let (request, unlock) = decode(file, cmd, &ptr.read()?)?;
    if unlock {
        file.inode.locks.unset(&request)?;
        return Ok(0);
    }
    let needs = if request.exclusive { FMode::WRITE } else { FMode::READ };
    if !file.fmode().contains(needs) {
        return Err(Errno::EBADF);
    }
    let wait = matches!(cmd, uapi::F_SETLKW | uapi::F_OFD_SETLKW);
    file.inode.locks.set(&request, wait)?;
    Ok(0)
}

/// flock(2).
pub fn sys_flock(a: &mut Args) -> SysResult {
    let op = a.u32(1);
    if op & uapi::LOCK_MAND != 0 {
        // Mandatory locks are gone from Linux; asking for one does nothing.
        return Ok(0);
    }
    let kind = op & !uapi::LOCK_NB;
    if !matches!(kind, uapi::LOCK_UN | uapi::LOCK_SH | uapi::LOCK_EX) {
        return Err(Errno::EINVAL);
    }
    let file = fget(a.fd(0))?;
    let request = Lock {
        kind: LockKind::Flock,
        owner: Ref::as_ptr(&file) as usize,
        pid: task::current().tgid() as i32,
        exclusive: kind == uapi::LOCK_EX,
        start: 0,
        end: u64::MAX,
    };
    if kind == uapi::LOCK_UN {
        file.inode.locks.unset(&request)?;
        return Ok(0);
    }
    if !file.fmode().intersects(FMode::READ | FMode::WRITE) {
        return Err(Errno::EBADF);
    }
    file.inode.locks.set(&request, op & uapi::LOCK_NB == 0)?;
    Ok(0)
}
