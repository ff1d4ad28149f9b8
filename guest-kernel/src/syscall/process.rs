//! Calls about processes: clone, exec, exit, wait, ids, groups, sessions, limits, prctl.

use core::sync::atomic::Ordering;

use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::mm::user::read_cstr;
use crate::ns::{Cap, Pid, PidType};
use crate::process::creds::mm_limits;
use crate::process::fork::{CloneArgs, CloneFlags, check_flags, kernel_clone};
use crate::process::wait::{WaitOptions, WaitResult, Which, do_wait};
use crate::process::{exec, exit, jobs};
use crate::procfs::cgroupfs::into_cgroup;
use crate::signal::SigInfo;
use crate::task::rlimit::{RLIM_NLIMITS, Resource, Rlimit, resource};
use crate::task::{self, Accounting, Task, list};

/// clone(2): the raw call of AArch64 (flags, stack, parent_tid, tls, child_tid).
pub fn sys_clone(a: &mut Args) -> SysResult {
    let flags = a.u64(0);
    let args = CloneArgs {
        flags: CloneFlags::from_bits_retain(flags & 0xffff_ff00),
        exit_signal: (flags & 0xff) as i32,
        stack: a.u64(1),
        parent_tid: a.u64(2),
        tls: a.u64(3),
        child_tid: a.u64(4),
        // clone(2) returns the pid descriptor where CLONE_PARENT_SETTID would store the tid.
        pidfd: a.u64(2),
        set_tid: alloc::vec::Vec::new(),
        cgroup: None,
    };
    Ok(kernel_clone(&args, a.regs())? as usize)
}

/// Size of the first version of `struct clone_args`.
const CLONE_ARGS_SIZE_VER0: usize = 64;
/// Size of the version this kernel knows.
const CLONE_ARGS_SIZE_VER2: usize = 88;

/// clone3(2).
pub fn sys_clone3(a: &mut Args) -> SysResult {
    let (addr, size) = (a.u64(0), a.usize(1));
    if size > crate::addr::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(Errno::EINVAL);
    }
    let mut words = [0_u64; CLONE_ARGS_SIZE_VER2 / 8];
    for (i, word) in words.iter_mut().enumerate().take(size / 8) {
        *word = UserPtr::<u64>::new(addr.wrapping_add(i as u64 * 8)).read()?;
    }
    for at in (CLONE_ARGS_SIZE_VER2..size).step_by(8) {
        if UserPtr::<u64>::new(addr.wrapping_add(at as u64)).read()? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    let [
        flags,
        pidfd,
        child_tid,
        parent_tid,
        exit_signal,
        stack,
        stack_size,
        tls,
        set_tid,
        set_tid_size,
        cgroup,
    ] = words;
    let known = CloneFlags::all().bits() & !0xff | CloneFlags::NEWTIME.bits();
    let bad_stack = (stack == 0) != (stack_size == 0);
    if flags & !known != 0
        || flags & CloneFlags::DETACHED.bits() != 0
        || exit_signal > 64
        || bad_stack
    {
        return Err(Errno::EINVAL);
    }
    let flags = CloneFlags::from_bits_retain(flags);
    if flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT) && exit_signal != 0 {
        return Err(Errno::EINVAL);
    }
    let most = u64::from(crate::ns::pid::MAX_PID_NS_LEVEL) + 1;
    if (set_tid == 0) != (set_tid_size == 0) || set_tid_size > most {
        return Err(Errno::EINVAL);
    }
    let cgroup = match flags.contains(CloneFlags::INTO_CGROUP) {
        true if size < CLONE_ARGS_SIZE_VER2 => return Err(Errno::EINVAL),
        true => Some(i32::try_from(cgroup).map_err(|_| Errno::EINVAL)?),
        false => None,
    };
    let set_tid = UserPtr::<u32>::new(set_tid).read_array(set_tid_size as usize)?;
    let mut args = CloneArgs {
        flags,
        exit_signal: exit_signal as i32,
        stack: if stack == 0 { 0 } else { stack.checked_add(stack_size).ok_or(Errno::EINVAL)? },
        tls,
        parent_tid,
        child_tid,
        pidfd,
        set_tid,
        cgroup: None,
    };
    check_flags(&args)?;
    if let Some(fd) = cgroup {
        args.cgroup = Some(into_cgroup(fd, flags.contains(CloneFlags::THREAD))?);
    }
    Ok(kernel_clone(&args, a.regs())? as usize)
}

/// execve(2).
pub fn sys_execve(a: &mut Args) -> SysResult {
    const AT_FDCWD: i32 = -100;
    let path = read_cstr(a.u64(0), crate::fs::PATH_MAX)?;
    let (argv, envp) = (a.u64(1), a.u64(2));
    exec::execve_user(AT_FDCWD, &path, argv, envp, 0, a.regs())
}

/// execveat(2).
pub fn sys_execveat(a: &mut Args) -> SysResult {
    let path = read_cstr(a.u64(1), crate::fs::PATH_MAX)?;
    let (dir, argv, envp, flags) = (a.fd(0), a.u64(2), a.u64(3), a.u32(4));
    exec::execve_user(dir, &path, argv, envp, flags, a.regs())
}

/// exit(2) of one thread.
pub fn sys_exit(a: &mut Args) -> SysResult {
    exit::do_exit((a.i32(0) & 0xff) << 8)
}

/// exit_group(2).
pub fn sys_exit_group(a: &mut Args) -> SysResult {
    exit::do_group_exit((a.i32(0) & 0xff) << 8)
}

const PAGE_KB: u64 = crate::addr::PAGE_SIZE as u64 / 1024;

fn timeval(ns: u64) -> [i64; 2] {
    [(ns / 1_000_000_000) as i64, (ns % 1_000_000_000 / 1000) as i64]
}

/// `struct rusage`, as 18 longs.
fn rusage_words(utime: u64, stime: u64, counts: [u64; 4], maxrss_pages: u64) -> [i64; 18] {
    let mut words = [0; 18];
    [words[0], words[1]] = timeval(utime);
    [words[2], words[3]] = timeval(stime);
    words[4] = (maxrss_pages * PAGE_KB) as i64;
    words[8] = counts[0] as i64;
    words[9] = counts[1] as i64;
    words[16] = counts[2] as i64;
    words[17] = counts[3] as i64;
    words
}

fn write_rusage(addr: u64, r: &WaitResult) -> Result<()> {
    if addr == 0 {
        return Ok(());
    }
    UserPtr::<[i64; 18]>::new(addr).write(rusage_words(r.utime, r.stime, r.counts, r.maxrss))
}

/// wait4(2).
pub fn sys_wait4(a: &mut Args) -> SysResult {
    let (pid, status, options, rusage) = (a.i32(0), a.ptr::<i32>(1), a.u32(2), a.u64(3));
    let options = WaitOptions::from_bits(options).ok_or(Errno::EINVAL)?;
    if options.intersects(WaitOptions::EXITED | WaitOptions::NOWAIT) {
        return Err(Errno::EINVAL);
    }
    let which = match pid {
        i32::MIN => return Err(Errno::ESRCH),
        -1 => Which::All,
        0 => Which::Pgid(own_pgrp()?),
        1.. => Which::Pid(child_pid(pid)?),
        _ => Which::Pgid(child_pid(-pid)?),
    };
    match do_wait(&which, options | WaitOptions::EXITED)? {
        None => Ok(0),
        Some(result) => {
            if !status.is_null() {
                status.write(result.status)?;
            }
            write_rusage(rusage, &result)?;
            Ok(result.pid as usize)
        }
    }
}

fn own_pgrp() -> Result<crate::kref::Ref<Pid>> {
    task::current().signal.pid(PidType::Pgid).ok_or(Errno::ECHILD)
}

/// A number that nobody has names no child.
fn child_pid(nr: i32) -> Result<crate::kref::Ref<Pid>> {
    Pid::find(nr as u32, &task::current().active_pid_ns()).ok_or(Errno::ECHILD)
}

/// waitid(2).
pub fn sys_waitid(a: &mut Args) -> SysResult {
    const P_ALL: i32 = 0;
    const P_PID: i32 = 1;
    const P_PGID: i32 = 2;
    const P_PIDFD: i32 = 3;
    let (kind, id, info, options, rusage) = (a.i32(0), a.i32(1), a.u64(2), a.u32(3), a.u64(4));
    let options = WaitOptions::from_bits(options).ok_or(Errno::EINVAL)?;
    if !options.intersects(WaitOptions::EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED) {
        return Err(Errno::EINVAL);
    }
    let mut nonblocking = false;
    let which = match kind {
        P_ALL => Which::All,
        P_PID if id > 0 => Which::Pid(child_pid(id)?),
        P_PGID if id > 0 => Which::Pgid(child_pid(id)?),
        P_PGID if id == 0 => Which::Pgid(own_pgrp()?),
        P_PIDFD if id >= 0 => {
            let file = super::fs::fget(id)?;
            nonblocking = file.is_nonblocking();
            Which::Pid(super::pidfd::pid_of(&file)?)
        }
        _ => return Err(Errno::EINVAL),
    };
    let how = if nonblocking { options | WaitOptions::NOHANG } else { options };
    let found = do_wait(&which, how)?;
    if found.is_none() && nonblocking && !options.contains(WaitOptions::NOHANG) {
        return Err(Errno::EAGAIN);
    }
    if info != 0 {
        let bytes = match &found {
            // No child yet: si_pid and si_signo are zero.
            None => [0; SigInfo::USER_SIZE],
            Some(r) => SigInfo::child(r.cause, r.pid, r.uid, r.si_status, 0, 0).to_user(),
        };
        // waitid fills the fields up to si_status only.
        crate::mm::copy_out(info, &bytes[..32])?;
    }
    if let Some(result) = &found {
        write_rusage(rusage, result)?;
    }
    Ok(0)
}

/// getpid(2).
pub fn sys_getpid(_: &mut Args) -> SysResult {
    let task = task::current();
    let ns = task.thread_pid.own().ns();
    // In the initial namespace, where most run, the number is at hand.
    if ns.level == 0 {
        Ok(task.tgid() as usize)
    } else {
        Ok(task.nr_of(PidType::Tgid, ns) as usize)
    }
}

/// gettid(2).
pub fn sys_gettid(_: &mut Args) -> SysResult {
    let task = task::current();
    let pid = task.thread_pid.own();
    Ok(pid.nr_in(pid.ns()) as usize)
}

/// getppid(2): the real parent's process; 0 if the caller's namespace does not see it.
pub fn sys_getppid(_: &mut Args) -> SysResult {
    let task = task::current();
    let ns = task.thread_pid.own().ns();
    let _list = list::lock();
    let parent = task.leader().real_parent.load(Ordering::Acquire);
    if parent.is_null() {
        return Ok(0);
    }
    // SAFETY: a parent is alive under the list's lock.
    let parent = unsafe { &*parent };
    // In the initial namespace, where most run, the number is at hand.
    let nr = if ns.level == 0 { parent.tgid() } else { parent.nr_of(PidType::Tgid, ns) };
    Ok(nr as usize)
}

/// setpgid(2).
pub fn sys_setpgid(a: &mut Args) -> SysResult {
    jobs::setpgid(a.i32(0), a.i32(1)).map(|()| 0)
}

/// getpgid(2).
pub fn sys_getpgid(a: &mut Args) -> SysResult {
    Ok(jobs::get(PidType::Pgid, a.i32(0))? as usize)
}

/// getsid(2).
pub fn sys_getsid(a: &mut Args) -> SysResult {
    Ok(jobs::get(PidType::Sid, a.i32(0))? as usize)
}

/// setsid(2).
pub fn sys_setsid(_: &mut Args) -> SysResult {
    Ok(jobs::setsid()? as usize)
}

/// set_tid_address(2).
pub fn sys_set_tid_address(a: &mut Args) -> SysResult {
    task::current().clear_child_tid.store(a.u64(0), Ordering::Relaxed);
    sys_gettid(a)
}

fn limit_target(pid: i32) -> Result<crate::kref::Ref<Task>> {
    if pid == 0 {
        return Ok(task::current_ref());
    }
    let caller = task::current();
    let nr = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let target = list::find_thread(nr, &caller.active_pid_ns()).ok_or(Errno::ESRCH)?;
    let cred = caller.cred();
    let same = target.same_group(caller)
        || target.cred.with(|t| {
            cred.ns_capable(&t.user_ns, Cap::SysResource)
                || [t.uid, t.euid, t.suid].iter().all(|&u| u == cred.uid)
                    && [t.gid, t.egid, t.sgid].iter().all(|&g| g == cred.gid)
        });
    if same { Ok(target) } else { Err(Errno::EPERM) }
}

fn change_limit(target: &Task, which: Resource, new: Rlimit) -> Result<()> {
    if new.soft > new.hard {
        return Err(Errno::EINVAL);
    }
    let old = target.signal.rlimits.get(which);
    if new.hard > old.hard && !task::current().cred().capable(Cap::SysResource) {
        return Err(Errno::EPERM);
    }
    // Linux's bound on descriptors, /proc/sys/fs/nr_open.
    if which == Resource::Nofile && new.hard > 1 << 20 {
        return Err(Errno::EPERM);
    }
    target.signal.rlimits.set(which, new);
    if let Some(mm) = target.se.get_mm() {
        mm.set_limits(target.cred.with(|cred| mm_limits(&target.signal.rlimits, cred)));
    }
    Ok(())
}

/// getrlimit(2).
pub fn sys_getrlimit(a: &mut Args) -> SysResult {
    let limit = task::current().signal.rlimits.get(resource(a.u32(0))?);
    a.ptr::<[u64; 2]>(1).write([limit.soft, limit.hard])?;
    Ok(0)
}

/// setrlimit(2).
pub fn sys_setrlimit(a: &mut Args) -> SysResult {
    let which = resource(a.u32(0))?;
    let [soft, hard] = a.ptr::<[u64; 2]>(1).read()?;
    change_limit(task::current(), which, Rlimit { soft, hard }).map(|()| 0)
}

/// prlimit(2).
pub fn sys_prlimit64(a: &mut Args) -> SysResult {
    debug_assert_eq!(Resource::ALL.len(), RLIM_NLIMITS);
    let (new, old) = (a.ptr::<[u64; 2]>(2), a.ptr::<[u64; 2]>(3));
    let new = if new.is_null() { None } else { Some(new.read()?) };
    let target = limit_target(a.i32(0))?;
    let which = resource(a.u32(1))?;
    let before = target.signal.rlimits.get(which);
    if let Some([soft, hard]) = new {
        change_limit(&target, which, Rlimit { soft, hard })?;
    }
    if !old.is_null() {
        old.write([before.soft, before.hard])?;
    }
    Ok(0)
}

/// getrusage(2).
pub fn sys_getrusage(a: &mut Args) -> SysResult {
    const RUSAGE_SELF: i32 = 0;
    const RUSAGE_CHILDREN: i32 = -1;
    const RUSAGE_THREAD: i32 = 1;
    let task = task::current();
    let mut sum = [0_u64; 6];
    let mut maxrss = 0;
    let add_account = |sum: &mut [u64; 6], account: &Accounting| {
        let fields = [
            &account.utime,
            &account.stime,
            &account.min_flt,
            &account.maj_flt,
            &account.nvcsw,
            &account.nivcsw,
        ];
        for (s, f) in sum.iter_mut().zip(fields) {
            *s += f.load(Ordering::Relaxed);
        }
    };
    let add_thread = |sum: &mut [u64; 6], t: &Task| {
        let time = t.se.cpu_time();
        let (nvcsw, nivcsw) = t.se.context_switches();
        let flt = (t.min_flt.load(Ordering::Relaxed), t.maj_flt.load(Ordering::Relaxed));
        for (s, v) in sum.iter_mut().zip([time.user, time.system, flt.0, flt.1, nvcsw, nivcsw]) {
            *s += v;
        }
    };
    match a.i32(0) {
        RUSAGE_THREAD => add_thread(&mut sum, task),
        RUSAGE_SELF => {
            add_account(&mut sum, &task.signal.dead);
            let list = list::lock();
            for thread in task.signal.threads.iter() {
                add_thread(&mut sum, thread);
            }
            drop(list);
        }
        RUSAGE_CHILDREN => {
            add_account(&mut sum, &task.signal.children);
            maxrss = task.signal.children.maxrss.load(Ordering::Relaxed);
        }
        _ => return Err(Errno::EINVAL),
    }
    if a.i32(0) != RUSAGE_CHILDREN {
        maxrss = task.mm().map_or(0, |mm| mm.max_rss() as u64);
    }
    let words = rusage_words(sum[0], sum[1], [sum[2], sum[3], sum[4], sum[5]], maxrss);
    a.ptr::<[i64; 18]>(1).write(words)?;
    Ok(0)
}

/// personality(2): only the query and Linux itself.
pub fn sys_personality(a: &mut Args) -> SysResult {
    let task = task::current();
    let old = task.personality.load(Ordering::Relaxed);
    let new = a.u32(0);
    if new != u32::MAX {
        task.personality.store(new, Ordering::Relaxed);
    }
    Ok(old as usize)
}
