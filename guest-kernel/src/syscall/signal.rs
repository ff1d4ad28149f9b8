//! Calls about signals: kill(2) and its kin, sigaction(2), sigprocmask(2), sigsuspend(2),
//! sigtimedwait(2), sigaltstack(2), sigreturn(2).

use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::mm::{UserPtr, copy_in, copy_out};
use crate::ns::{Pid, PidType};
use crate::process::signal::own_info;
use crate::process::{sigframe, signal as deliver};
use crate::sched::{self, Deadline, TaskState};
use crate::signal::info::{SI_TKILL, SI_USER};
use crate::signal::{SIGKILL, SIGSTOP, SigAction, SigInfo, SigSet, is_valid};
use crate::task::{self, AltStack, Task, list};
use crate::wait_channel;

/// `sigset_t` of the kernel's interface is 8 bytes; other sizes are `EINVAL`.
fn check_size(size: usize) -> Result<()> {
    if size == size_of::<SigSet>() { Ok(()) } else { Err(Errno::EINVAL) }
}

fn read_set(addr: u64) -> Result<SigSet> {
    Ok(SigSet(UserPtr::<u64>::new(addr).read()?))
}

pub(super) fn send_checked(
    list: &list::TaskList,
    info: SigInfo,
    target: &Task,
    group: bool,
) -> Result<()> {
    // Only who is there can be sent a wrong signal.
    if info.signo != 0 && !is_valid(info.signo) {
        return Err(Errno::EINVAL);
    }
    if !deliver::may_send(task::current(), &info, target) {
        return Err(Errno::EPERM);
    }
    deliver::send_locked(list, info, target, group)
}

/// kill(2).
pub fn sys_kill(a: &mut Args) -> SysResult {
    let (pid, sig) = (a.i32(0), a.i32(1));
    kill_something(pid, own_info(sig, SI_USER)).map(|()| 0)
}

fn kill_something(pid: i32, info: SigInfo) -> Result<()> {
    let caller = task::current();
    let ns = caller.active_pid_ns();
    if pid > 0 {
        let target = Pid::find(pid as u32, &ns).ok_or(Errno::ESRCH)?;
        let list = list::lock();
        let target = list.thread_of(&target).ok_or(Errno::ESRCH)?;
        return send_checked(&list, info, target, true);
    }
    if pid == i32::MIN {
        return Err(Errno::ESRCH);
    }
    let mut result = Err(Errno::ESRCH);
    let mut note = |sent: Result<()>| {
        if !matches!(result, Ok(())) {
            result = match (result, sent) {
                (_, Ok(())) => Ok(()),
                // One refusal outweighs nobody being there.
                (_, Err(e)) => Err(e),
            };
        }
    };
    if pid == -1 {
        let list = list::lock();
        for process in list.processes() {
            let nr = process.nr_of(PidType::Tgid, &ns);
            if nr > 1 && !process.same_group(caller) {
                note(send_checked(&list, info, process, true));
            }
        }
        return result;
    }
    let pgrp = match pid {
        0 => caller.signal.pid(PidType::Pgid),
        nr => Pid::find(-nr as u32, &ns),
    }
    .ok_or(Errno::ESRCH)?;
    let list = list::lock();
    for member in list.members(&pgrp, PidType::Pgid) {
        note(send_checked(&list, info, member, true));
    }
    result
}

fn send_to_thread(tgid: Option<i32>, tid: i32, info: SigInfo) -> Result<()> {
    if tid <= 0 || tgid.is_some_and(|t| t <= 0) {
        return Err(Errno::EINVAL);
    }
    let ns = task::current().active_pid_ns();
    let pid = Pid::find(tid as u32, &ns).ok_or(Errno::ESRCH)?;
    let list = list::lock();
    let target = list.thread_of(&pid).ok_or(Errno::ESRCH)?;
    if tgid.is_some_and(|tgid| target.nr_of(PidType::Tgid, &ns) != tgid as u32) {
        return Err(Errno::ESRCH);
    }
    send_checked(&list, info, target, false)
}

/// tkill(2).
pub fn sys_tkill(a: &mut Args) -> SysResult {
    send_to_thread(None, a.i32(0), own_info(a.i32(1), SI_TKILL)).map(|()| 0)
}

/// tgkill(2).
pub fn sys_tgkill(a: &mut Args) -> SysResult {
    send_to_thread(Some(a.i32(0)), a.i32(1), own_info(a.i32(2), SI_TKILL)).map(|()| 0)
}

/// The information that a program queues with a signal, and the number that it wrote there itself.
pub(super) fn queued_info(addr: u64, sig: i32) -> Result<(SigInfo, i32)> {
    let mut bytes = [0; SigInfo::USER_SIZE];
    copy_in(addr, &mut bytes)?;
    let mut info = SigInfo::from_user(&bytes);
    let given = core::mem::replace(&mut info.signo, sig);
    Ok((info, given))
}

/// `EPERM` for a code that is not the caller's to queue: nobody but the kernel may look like the kernel, nor
/// like kill(2), to others.
pub(super) fn check_code(info: &SigInfo, to_self: bool) -> Result<()> {
    let is_faked = info.code >= 0 || info.code == SI_TKILL;
    if is_faked && !to_self { Err(Errno::EPERM) } else { Ok(()) }
}

/// rt_sigqueueinfo(2).
pub fn sys_rt_sigqueueinfo(a: &mut Args) -> SysResult {
    let task = task::current();
    let (pid, sig) = (a.i32(0), a.i32(1));
    let to_self = pid > 0 && pid as u32 == task.nr_of(PidType::Tgid, task.thread_pid.own().ns());
    let (info, _) = queued_info(a.u64(2), sig)?;
    check_code(&info, to_self)?;
    if pid <= 0 {
        return Err(Errno::ESRCH);
    }
    kill_something(pid, info).map(|()| 0)
}

/// rt_tgsigqueueinfo(2).
pub fn sys_rt_tgsigqueueinfo(a: &mut Args) -> SysResult {
    let task = task::current();
    let (tgid, tid, sig) = (a.i32(0), a.i32(1), a.i32(2));
    let pid = task.thread_pid.own();
    let to_self = tid > 0 && tid as u32 == pid.nr_in(pid.ns());
    let (info, _) = queued_info(a.u64(3), sig)?;
    if tgid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    check_code(&info, to_self)?;
    send_to_thread(Some(tgid), tid, info).map(|()| 0)
}

/// rt_sigaction(2).
pub fn sys_rt_sigaction(a: &mut Args) -> SysResult {
    let (sig, new, old) = (a.i32(0), a.u64(1), a.u64(2));
    check_size(a.usize(3))?;
    if !is_valid(sig) {
        return Err(Errno::EINVAL);
    }
    let new = if new == 0 { None } else { Some(UserPtr::<[u64; 4]>::new(new).read()?) };
    if new.is_some() && (sig == SIGKILL || sig == SIGSTOP) {
        return Err(Errno::EINVAL);
    }
    let task = task::current();
    let sighand = task.sighand.own();
    let before = sighand.get(sig);
    if let Some([handler, flags, restorer, mask]) = new {
        let mask = SigSet(mask).without(SigSet::UNBLOCKABLE);
        let flags = flags & SigAction::PROGRAM_FLAGS;
        let mut actions = sighand.actions.lock();
        let action = &mut actions[sig as usize - 1];
        if action.is_immutable() {
            return Err(Errno::EINVAL);
        }
        *action = SigAction { handler, flags, restorer, mask };
        drop(actions);
        if handler <= SigAction::SIG_IGN && sighand.ignores(sig) {
            deliver::flush_ignored(task, sig);
        }
    }
    if old != 0 {
        let words = [before.handler, before.flags, before.restorer, before.mask.0];
        UserPtr::<[u64; 4]>::new(old).write(words)?;
    }
    Ok(0)
}

/// rt_sigprocmask(2).
pub fn sys_rt_sigprocmask(a: &mut Args) -> SysResult {
    let (how, new, old) = (a.i32(0), a.u64(1), a.u64(2));
    check_size(a.usize(3))?;
    let task = task::current();
    let before = task.sig.lock().blocked;
    if new != 0 {
        let set = read_set(new)?;
        let mask = match how {
            0 => before.or(set),
            1 => before.without(set),
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        deliver::set_blocked(task, mask);
    }
    if old != 0 {
        UserPtr::<u64>::new(old).write(before.0)?;
    }
    Ok(0)
}

/// rt_sigpending(2).
pub fn sys_rt_sigpending(a: &mut Args) -> SysResult {
    let size = a.usize(1);
    if size > size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let task = task::current();
    let shared = task.signal.shared.lock().pending.set();
    let pending = {
        let signals = task.sig.lock();
        signals.pending.set().or(shared).and(signals.blocked)
    };
    copy_out(a.u64(0), &pending.0.to_le_bytes()[..size])?;
    Ok(0)
}

/// rt_sigsuspend(2).
pub fn sys_rt_sigsuspend(a: &mut Args) -> SysResult {
    check_size(a.usize(1))?;
    let mask = read_set(a.u64(0))?;
    let task = task::current();
    deliver::set_mask_for_call(task, mask);
    loop {
        task.se.prepare_sleep(TaskState::INTERRUPTIBLE);
        if task.se.signal_pending() {
            task.se.cancel_sleep();
            return Err(Errno::ERESTARTNOHAND);
        }
        sched::schedule();
    }
}

/// rt_sigtimedwait(2).
pub fn sys_rt_sigtimedwait(a: &mut Args) -> SysResult {
    check_size(a.usize(3))?;
    let set = read_set(a.u64(0))?.without(SigSet::UNBLOCKABLE);
    let (info_addr, timeout) = (a.u64(1), a.u64(2));
    let deadline = if timeout == 0 {
        Deadline::NEVER
    } else {
        let [sec, nsec] = UserPtr::<[i64; 2]>::new(timeout).read()?;
        if sec < 0 || !(0..1_000_000_000).contains(&nsec) {
            return Err(Errno::EINVAL);
        }
        let ns = (sec as u64).saturating_mul(1_000_000_000).saturating_add(nsec as u64);
        Deadline::after(ns)
    };
    let task = task::current();
    let others = SigSet(!set.0);
    let found = loop {
        task.sig.lock().waiting_for = set;
        task.se.prepare_sleep(TaskState::UNRESTARTED);
        if let Some(info) = deliver::dequeue_unblocked(task, others) {
            task.se.cancel_sleep();
            break Ok(info);
        }
        let late = deadline.has_passed();
        if late || task.se.sleep_ends(TaskState::UNRESTARTED) {
            task.se.cancel_sleep();
            break Err(if late { Errno::EAGAIN } else { Errno::EINTR });
        }
        sched::schedule_timeout(deadline, wait_channel!("sigtimedwait"));
    };
    task.sig.lock().waiting_for = SigSet::EMPTY;
    deliver::recalc_sigpending(task);
    let info = found?;
    if info_addr != 0 {
        copy_out(info_addr, &info.to_user())?;
    }
    Ok(info.signo as usize)
}

/// sigaltstack(2).
pub fn sys_sigaltstack(a: &mut Args) -> SysResult {
    const MINSIGSTKSZ: u64 = 5120;
    let (new, old) = (a.u64(0), a.u64(1));
    let sp = a.regs().sp;
    let task = task::current();
    // SAFETY: the alternate stack is the calling task's own.
    let stack = unsafe { &mut *task.altstack.get() };
    let before = *stack;
    let on_stack = sigframe::on_altstack(stack, sp);
    if new != 0 {
        let [ss_sp, flags, size] = UserPtr::<[u64; 3]>::new(new).read()?;
        let flags = flags as u32;
        if on_stack {
            return Err(Errno::EPERM);
        }
        match flags & !sigframe::SS_AUTODISARM {
            sigframe::SS_DISABLE => *stack = AltStack { flags, ..AltStack::default() },
            0 | sigframe::SS_ONSTACK => {
                if size < MINSIGSTKSZ {
                    return Err(Errno::ENOMEM);
                }
                *stack = AltStack { sp: ss_sp, size, flags: flags & sigframe::SS_AUTODISARM };
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    if old != 0 {
        let state = match (before.size, on_stack) {
            (0, _) => sigframe::SS_DISABLE,
            (_, true) => sigframe::SS_ONSTACK,
            (_, false) => 0,
        };
        let flags = u64::from(state | before.flags & sigframe::SS_AUTODISARM);
        UserPtr::<[u64; 3]>::new(old).write([before.sp, flags, before.size])?;
    }
    Ok(0)
}

/// rt_sigreturn(2). A frame that cannot be read is SIGSEGV.
pub fn sys_rt_sigreturn(a: &mut Args) -> SysResult {
    let task = task::current();
    let regs = a.regs();
    // An interrupted sleep is not gone on with any more.
    task.set_restart(Default::default());
    if sigframe::restore(task, regs).is_err() {
        let sp = regs.sp;
        regs.syscallno = crate::arch::PtRegs::NO_SYSCALL;
        deliver::force(SigInfo::fault(crate::signal::SIGSEGV, 1, sp));
        return Ok(regs.x[0] as usize);
    }
    // x0 is what the frame says.
    Ok(regs.x[0] as usize)
}
