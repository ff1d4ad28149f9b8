//! unshare(2) and setns(2).

use super::fs::fget;
use super::{Args, SysResult};
use crate::errno::Errno;
use crate::process::{namespaces, pidfd};
use crate::procfs::nsfs;
use crate::task::{Task, list};

/// unshare(2).
pub fn sys_unshare(a: &mut Args) -> SysResult {
    namespaces::unshare(a.u64(0)).map(|()| 0)
}

/// setns(2): by a namespace's file, or those of a process by its pid descriptor.
pub fn sys_setns(a: &mut Args) -> SysResult {
    let (file, flags) = (fget(a.fd(0))?, a.u32(1));
    if let Some(ns) = nsfs::namespace_of(&file) {
        if flags != 0 && flags != ns.common().kind().flag() {
            return Err(Errno::EINVAL);
        }
        return namespaces::setns(core::slice::from_ref(ns)).map(|()| 0);
    }
    let pid = pidfd::pid_of(&file).ok_or(Errno::EINVAL)?;
    if flags == 0 {
        return Err(Errno::EINVAL);
    }
    let target = list::lock().thread_of(pid).map(Task::to_ref).ok_or(Errno::ESRCH)?;
    namespaces::setns(&namespaces::of_task(&target, flags)?).map(|()| 0)
}
