//! Process groups and sessions (setpgid(2), setsid(2)): what a shell's job control is made of.

use core::sync::atomic::Ordering;

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::{Pid, PidType};
use crate::task::{self, Task, list};

/// setpgid(2): moves the process `pid` (0: the caller) into the group `pgid` (0: one of its own).
pub fn setpgid(pid: i32, pgid: i32) -> Result<()> {
    // Without a group's number it is the process's own.
    if pgid < 0 || (pgid == 0 && pid < 0) {
        return Err(Errno::EINVAL);
    }
    if pid < 0 {
        return Err(Errno::ESRCH);
    }
    let caller = task::current();
    let ns = caller.active_pid_ns();
    let target_pid = match pid as u32 {
        0 => caller.signal.pid(PidType::Tgid),
        nr => Pid::find(nr, &ns),
    }
    .ok_or(Errno::ESRCH)?;
    let list = list::lock();
    let target = list.process_of(&target_pid).ok_or(Errno::ESRCH)?;
    let own = target.same_group(caller);
    let child = {
        let parent = target.real_parent.load(Ordering::Relaxed);
        // SAFETY: a parent is alive under the list's lock.
        !parent.is_null() && unsafe { (*parent).same_group(caller) }
    };
    if !own && !child {
        return Err(Errno::ESRCH);
    }
    let session = |t: &Task| t.signal.pid(PidType::Sid);
    if child && !own {
        if !same(session(target), session(caller)) {
            return Err(Errno::EPERM);
        }
        if target.signal.did_exec.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
    }
    if target.signal.leader.load(Ordering::Relaxed) {
        return Err(Errno::EPERM);
    }
    let group = match pgid as u32 {
        0 => target_pid.clone(),
        nr => Pid::find(nr, &ns).ok_or(Errno::EPERM)?,
    };
    if !Ref::ptr_eq(&group, &target_pid) {
        // An existing group, in the caller's session.
        let member = list.members(&group, PidType::Pgid).next().ok_or(Errno::EPERM)?;
        if !same(session(member), session(caller)) {
            return Err(Errno::EPERM);
        }
    }
    let old = if same(target.signal.pid(PidType::Pgid), Some(group.clone())) {
        None
    } else {
        list.change_pid(target, PidType::Pgid, group)
    };
    drop(list);
    drop(old);
    Ok(())
}

fn same(a: Option<Ref<Pid>>, b: Option<Ref<Pid>>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if Ref::ptr_eq(&a, &b))
}

/// getpgid(2), getsid(2): the group or session of process `pid` (0: the caller).
pub fn get(kind: PidType, pid: i32) -> Result<u32> {
    let caller = task::current();
    let ns = caller.active_pid_ns();
    if pid == 0 {
        return Ok(caller.nr_of(kind, &ns));
    }
    let nr = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let target = list::find_thread(nr, &ns).ok_or(Errno::ESRCH)?;
    Ok(target.nr_of(kind, &ns))
}

/// setsid(2): a new session and a new group, without a controlling terminal.
pub fn setsid() -> Result<u32> {
    let caller = task::current();
    let tgid = caller.signal.pid(PidType::Tgid).ok_or(Errno::ESRCH)?;
    let list = list::lock();
    let leader = caller.leader();
    // Neither a session leader nor the id of a group that exists may start one.
    if leader.signal.leader.load(Ordering::Relaxed)
        || list.members(&tgid, PidType::Pgid).next().is_some()
    {
        return Err(Errno::EPERM);
    }
    let old_group = list.change_pid(leader, PidType::Pgid, tgid.clone());
    let old_session = list.change_pid(leader, PidType::Sid, tgid.clone());
    leader.signal.leader.store(true, Ordering::Relaxed);
    let tty = leader.signal.tty.replace(None);
    drop(list);
    drop((old_group, old_session, tty));
    Ok(tgid.nr_in(caller.thread_pid.own().ns()))
}
