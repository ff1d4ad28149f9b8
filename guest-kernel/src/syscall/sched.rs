//! Calls about scheduling: policies, priorities, affinity, yielding.

use super::time::Timespec;
use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::UserPtr;
use crate::ns::{Cap, PidType};
use crate::pod;
use crate::sched::policy::{MAX_NICE, MAX_RT_PRIORITY, MIN_NICE};
use crate::sched::{self, Policy, cpu};
use crate::task::rlimit::Resource;
use crate::task::{self, Task, list};

/// `SCHED_RESET_ON_FORK`, beside the policy.
const RESET_ON_FORK: u32 = 0x4000_0000;
/// `SCHED_FLAG_RESET_ON_FORK`, in `sched_attr`.
const FLAG_RESET_ON_FORK: u64 = 1;
/// Bytes of the first version of `struct sched_attr`.
const ATTR_SIZE_VER0: u32 = 48;

/// `struct sched_attr`, first version.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}
pod!(SchedAttr);

/// The thread that a call names; 0 is the caller.
fn find(pid: i32) -> Result<Ref<Task>> {
    match u32::try_from(pid) {
        Err(_) => Err(Errno::EINVAL),
        Ok(0) => Ok(task::current_ref()),
        Ok(nr) => list::find_thread(nr, task::current().thread_pid.own().ns()).ok_or(Errno::ESRCH),
    }
}

/// As [`find`], for the calls about affinity, to which a negative number is just nobody's.
fn find_for_affinity(pid: i32) -> Result<Ref<Task>> {
    if pid < 0 { Err(Errno::ESRCH) } else { find(pid) }
}

/// True if the caller has CAP_SYS_NICE over a task with credentials `target`.
fn nice_over(target: &crate::kref::Ref<crate::ns::Cred>) -> bool {
    task::current().cred().ns_capable(&target.user_ns, Cap::SysNice)
}

/// True if the caller may change how `target` is scheduled: the same user, or CAP_SYS_NICE.
fn owns(target: &Task) -> bool {
    let cred = task::current().cred();
    target.cred.with(|t| cred.euid == t.uid || cred.euid == t.euid || nice_over(t))
}

/// True if the caller may take more of the machine than limits allow: a user namespace gives no such right.
fn may_exceed() -> bool {
    task::current().cred().capable(Cap::SysNice)
}

/// True if the caller may give `target` that nice value: not below what it has and RLIMIT_NICE allows.
fn may_nice(target: &Task, nice: i32) -> bool {
    let floor = 20 - target.signal.rlimits.soft(Resource::Nice).min(40) as i32;
    nice >= target.se.nice().min(floor) || may_exceed()
}

/// Changes policy and parameters (sched(7), "Privileges and resource limits").
fn set(target: &Task, policy: u32, priority: u32, nice: Option<i32>, reset: bool) -> Result<()> {
    let policy = Policy::from_number(policy).ok_or(Errno::EINVAL)?;
    let max = if policy.is_rt() { 1..=MAX_RT_PRIORITY } else { 0..=0 };
    if !max.contains(&priority) {
        return Err(Errno::EINVAL);
    }
    let se = &target.se;
    let nice = nice.unwrap_or(se.nice()).clamp(MIN_NICE, MAX_NICE);
    if !may_exceed() {
        if !owns(target) || !may_nice(target, nice) || (se.reset_on_fork() && !reset) {
            return Err(Errno::EPERM);
        }
        if policy.is_rt() {
            let limit = target.signal.rlimits.soft(Resource::Rtprio);
            let same = policy == se.policy() || limit > 0;
            if !same || (priority > se.rt_priority() && u64::from(priority) > limit) {
                return Err(Errno::EPERM);
            }
        }
        // Leaving SCHED_IDLE takes the right to the nice value.
        if se.policy() == Policy::Idle && policy != Policy::Idle && !may_nice(target, se.nice() - 1)
        {
            return Err(Errno::EPERM);
        }
    }
    se.set_scheduler(policy, nice, priority)?;
    se.set_reset_on_fork(reset);
    Ok(())
}

fn policy_with_flag(task: &Task) -> u32 {
    task.se.policy() as u32 | if task.se.reset_on_fork() { RESET_ON_FORK } else { 0 }
}

/// sched_setscheduler(2).
pub fn sys_sched_setscheduler(a: &mut Args) -> SysResult {
    let policy = a.u32(1);
    if policy as i32 <= -1 {
        return Err(Errno::EINVAL);
    }
    let param = a.ptr::<i32>(2).non_null().ok_or(Errno::EINVAL)?.read()?;
    let target = find(a.i32(0))?;
    set(&target, policy & !RESET_ON_FORK, param as u32, None, policy & RESET_ON_FORK != 0)?;
    Ok(0)
}

/// sched_getscheduler(2).
pub fn sys_sched_getscheduler(a: &mut Args) -> SysResult {
    Ok(policy_with_flag(&*find(a.i32(0))?) as usize)
}

/// sched_setparam(2).
pub fn sys_sched_setparam(a: &mut Args) -> SysResult {
    let param = a.ptr::<i32>(1).non_null().ok_or(Errno::EINVAL)?.read()?;
    let target = find(a.i32(0))?;
    set(&target, target.se.policy() as u32, param as u32, None, target.se.reset_on_fork())?;
    Ok(0)
}

/// sched_getparam(2).
pub fn sys_sched_getparam(a: &mut Args) -> SysResult {
    let to = a.ptr::<u32>(1).non_null().ok_or(Errno::EINVAL)?;
    to.write(find(a.i32(0))?.se.rt_priority())?;
    Ok(0)
}

/// sched_setattr(2).
pub fn sys_sched_setattr(a: &mut Args) -> SysResult {
    let from = a.ptr::<SchedAttr>(1).non_null().ok_or(Errno::EINVAL)?;
    if a.u32(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let size = match from.cast::<u32>().read()? {
        0 => ATTR_SIZE_VER0,
        size => size,
    };
    if size < ATTR_SIZE_VER0 || size as usize > crate::addr::PAGE_SIZE {
        return too_big(from);
    }
    for at in (ATTR_SIZE_VER0..size).step_by(4) {
        if from.byte_add(at as usize).cast::<u32>().read()? != 0 {
            return too_big(from);
        }
    }
    let attr = from.read()?;
    let target = find(a.i32(0))?;
    if attr.flags & !FLAG_RESET_ON_FORK != 0 {
        return Err(Errno::EINVAL);
    }
    let reset = attr.flags & FLAG_RESET_ON_FORK != 0;
    let nice = matches!(attr.policy, 0 | 3).then_some(attr.nice);
    set(&target, attr.policy, attr.priority, nice, reset)?;
    Ok(0)
}

/// Tells the caller how large a `sched_attr` this kernel takes.
fn too_big(attr: UserPtr<SchedAttr>) -> SysResult {
    attr.cast::<u32>().write(ATTR_SIZE_VER0)?;
    Err(Errno::E2BIG)
}

/// sched_getattr(2).
pub fn sys_sched_getattr(a: &mut Args) -> SysResult {
    let to = a.ptr::<SchedAttr>(1).non_null().ok_or(Errno::EINVAL)?;
    let size = a.u32(2);
    if size < ATTR_SIZE_VER0 || size as usize > crate::addr::PAGE_SIZE || a.u32(3) != 0 {
        return Err(Errno::EINVAL);
    }
    let target = find(a.i32(0))?;
    let se = &target.se;
    to.write(SchedAttr {
        size: ATTR_SIZE_VER0,
        policy: se.policy() as u32,
        flags: if se.reset_on_fork() { FLAG_RESET_ON_FORK } else { 0 },
        nice: if se.policy().is_rt() { 0 } else { se.nice() },
        priority: se.rt_priority(),
        ..Default::default()
    })?;
    Ok(0)
}

/// sched_setaffinity(2).
pub fn sys_sched_setaffinity(a: &mut Args) -> SysResult {
    let len = a.usize(1).min(8);
    let mut bytes = [0; 8];
    crate::mm::user::copy_in(a.u64(2), &mut bytes[..len])?;
    let target = find_for_affinity(a.i32(0))?;
    if !owns(&target) {
        return Err(Errno::EPERM);
    }
    target.se.set_cpus_allowed(u64::from_le_bytes(bytes) & cpu::online_mask())?;
    Ok(0)
}

/// sched_getaffinity(2): returns the bytes written.
pub fn sys_sched_getaffinity(a: &mut Args) -> SysResult {
    let len = a.usize(1);
    if !len.is_multiple_of(8) || len == 0 {
        return Err(Errno::EINVAL);
    }
    let mask = find_for_affinity(a.i32(0))?.se.cpus_allowed() & cpu::online_mask();
    a.ptr::<u64>(2).write(mask)?;
    Ok(8)
}

/// sched_yield(2).
pub fn sys_sched_yield(_: &mut Args) -> SysResult {
    sched::yield_now();
    Ok(0)
}

/// The range of priorities of a policy.
fn priorities(policy: u32) -> Result<(usize, usize)> {
    const SCHED_DEADLINE: u32 = 6;
    match Policy::from_number(policy) {
        Some(policy) if policy.is_rt() => Ok((1, MAX_RT_PRIORITY as usize)),
        Some(_) => Ok((0, 0)),
        None if policy == SCHED_DEADLINE => Ok((0, 0)),
        None => Err(Errno::EINVAL),
    }
}

/// sched_get_priority_max(2).
pub fn sys_sched_get_priority_max(a: &mut Args) -> SysResult {
    Ok(priorities(a.u32(0))?.1)
}

/// sched_get_priority_min(2).
pub fn sys_sched_get_priority_min(a: &mut Args) -> SysResult {
    Ok(priorities(a.u32(0))?.0)
}

/// sched_rr_get_interval(2).
pub fn sys_sched_rr_get_interval(a: &mut Args) -> SysResult {
    let slice = find(a.i32(0))?.se.slice_ns();
    a.ptr::<Timespec>(1).write(Timespec::from_ns(slice))?;
    Ok(0)
}

/// Calls `f` for each process that `which` and `who` name; `ESRCH` if there is none.
pub(super) fn for_each(which: u32, who: i32, mut f: impl FnMut(&Task)) -> Result<()> {
    const PRIO_PROCESS: u32 = 0;
    const PRIO_PGRP: u32 = 1;
    const PRIO_USER: u32 = 2;
    let me = task::current();
    let mut found = false;
    match which {
        PRIO_PROCESS => {
            let target = find(who).map_err(|_| Errno::ESRCH)?;
            found = true;
            f(&target);
        }
        PRIO_PGRP => {
            let group = match u32::try_from(who).map_err(|_| Errno::ESRCH)? {
                0 => me.signal.pid(PidType::Pgid),
                nr => crate::ns::Pid::find(nr, me.thread_pid.own().ns()),
            };
            let group = group.ok_or(Errno::ESRCH)?;
            let list = list::lock();
            for leader in list.members(&group, PidType::Pgid) {
                for thread in leader.signal.threads.iter() {
                    found = true;
                    f(thread);
                }
            }
        }
        PRIO_USER => {
            let uid = if who == 0 { me.cred().uid } else { who as u32 };
            let list = list::lock();
            for thread in list.threads().filter(|t| t.cred.with(|c| c.uid) == uid && t.pid() != 0) {
                found = true;
                f(thread);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    if found { Ok(()) } else { Err(Errno::ESRCH) }
}

/// setpriority(2).
pub fn sys_setpriority(a: &mut Args) -> SysResult {
    let nice = a.i32(2).clamp(MIN_NICE, MAX_NICE);
    const PRIO_PGRP: u32 = 1;
    let which = a.u32(0);
    let mut result = Ok(0);
    // The last error counts; Linux looks at the members of a group from the youngest to the oldest.
    let fail = |result: &mut SysResult, error| {
        if which != PRIO_PGRP || result.is_ok() {
            *result = Err(error);
        }
    };
    for_each(which, a.i32(1), |target| {
        let cred = task::current().cred();
        let same = target.cred.with(|t| cred.uid == t.uid || cred.euid == t.uid || nice_over(t));
        if !same {
            fail(&mut result, Errno::EPERM);
        } else if nice < target.se.nice() && !may_nice(target, nice) {
            fail(&mut result, Errno::EACCES);
        } else {
            target.se.set_nice(nice);
        }
    })?;
    result
}

/// getpriority(2): the best nice value found, as 20 - nice so that it is never negative.
pub fn sys_getpriority(a: &mut Args) -> SysResult {
    let mut best = 0;
    for_each(a.u32(0), a.i32(1), |target| best = best.max(20 - target.se.nice()))?;
    Ok(best as usize)
}
