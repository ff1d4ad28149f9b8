//! pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2).

use super::fs::{fd_limit, fget};
use super::signal::{check_code, queued_info, send_checked};
use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::fs::File;
use crate::kref::Ref;
use crate::ns::Pid;
use crate::process::access::{AccessMode, may_access};
use crate::process::pidfd;
use crate::process::signal::own_info;
use crate::procfs;
use crate::signal::info::SI_USER;
use crate::task::{self, Task, list};

/// Waiting through the descriptor does not block.
const PIDFD_NONBLOCK: u32 = crate::uapi::O_NONBLOCK;

/// pidfd_open(2).
pub fn sys_pidfd_open(a: &mut Args) -> SysResult {
    let (pid, flags) = (a.i32(0), a.u32(1));
    if flags & !PIDFD_NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let file = pidfd::open_number(pid as u32, flags & PIDFD_NONBLOCK != 0)?;
    Ok(task::current().files().install(file, 0, fd_limit(), true)? as usize)
}

/// The process behind a pid descriptor.
pub fn pid_of(file: &File) -> Result<Ref<Pid>> {
    pidfd::pid_of(file).cloned().ok_or(Errno::EBADF)
}

/// pidfd_send_signal(2); a descriptor of a directory /proc/PID will do too.
pub fn sys_pidfd_send_signal(a: &mut Args) -> SysResult {
    let (sig, info, flags) = (a.i32(1), a.u64(2), a.u32(3));
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let file = task::current().files().get_any(a.fd(0))?;
    let pid = match pidfd::pid_of(&file) {
        Some(pid) => pid.clone(),
        None => procfs::pid::process_of(&file.inode).ok_or(Errno::EBADF)?,
    };
    let caller = task::current();
    let own = caller.thread_pid.own();
    if !pid.ns().is_within(own.ns()) {
        return Err(Errno::EINVAL);
    }
    let info = if info == 0 {
        own_info(sig, SI_USER)
    } else {
        let (info, given) = queued_info(info, sig)?;
        if given != sig {
            return Err(Errno::EINVAL);
        }
        check_code(&info, Ref::ptr_eq(own, &pid))?;
        info
    };
    let list = list::lock();
    let target = list.thread_of(&pid).ok_or(Errno::ESRCH)?;
    send_checked(&list, info, target, true).map(|()| 0)
}

/// pidfd_getfd(2): a descriptor of another process's open file.
pub fn sys_pidfd_getfd(a: &mut Args) -> SysResult {
    if a.u32(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let pid = pid_of(&*fget(a.fd(0))?)?;
    let target = list::lock().thread_of(&pid).map(Task::to_ref).ok_or(Errno::ESRCH)?;
    if !may_access(&target, AccessMode::RealCreds) {
        return Err(Errno::EPERM);
    }
    let files = target.files.share().ok_or(Errno::ESRCH)?;
    let file = files.get_any(a.fd(1))?;
    Ok(task::current().files().install(file, 0, fd_limit(), true)? as usize)
}
