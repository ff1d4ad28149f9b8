//! Secure computing (seccomp(2)): what a task does about a system call before it is made.
//!
//! | file | what |
//! | --- | --- |
//! | [`attach`] | entering a mode: strict, or a filter more |
//! | [`notify`] | asking who listens, and the descriptor that he listens through |
//! | [`log`] | what is logged |
//!
//! The trap path calls [`secure_computing`] for tasks with [`ThreadFlags::SECCOMP`](crate::arch::ThreadFlags), after the
//! tracer's stop at the call. Tasks without it pay nothing.

pub mod attach;
pub mod log;
pub mod notify;

use crate::arch::PtRegs;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::Cap;
use crate::process::exit;
use crate::process::ptrace::{Event, stop};
use crate::process::signal;
use crate::seccomp::{AUDIT_ARCH, Action, RET_DATA, SeccompData, SeccompFilter, Verdict};
use crate::signal::{SIGKILL, SIGSYS, SigInfo};
use crate::task::ptrace::TraceOptions;
use crate::task::{self, SeccompMode, Task};

/// What strict mode allows: read, write, exit, rt_sigreturn.
const STRICT: [i32; 4] = [63, 64, 93, 139];
/// The largest error that a call can return.
const MAX_ERRNO: u32 = 4095;

/// Whether the caller's system call is to be made. If not, the registers hold what it returns.
#[inline(never)]
pub fn secure_computing(regs: &mut PtRegs) -> bool {
    let task = task::current();
    if is_suspended(task) {
        return true;
    }
    match task.seccomp.mode() {
        SeccompMode::Disabled => true,
        SeccompMode::Strict => STRICT.contains(&regs.syscallno) || strict_kill(task, regs),
        SeccompMode::Filter => {
            task.seccomp.always_allows(regs.syscallno) || filtered(task, regs, false)
        }
        SeccompMode::Dead => exit::do_exit(SIGKILL),
    }
}

/// Whether its tracer has its filters rest.
fn is_suspended(task: &Task) -> bool {
    task.ptrace.is_traced() && task.ptrace.options().contains(TraceOptions::SUSPEND_SECCOMP)
}

/// Whether the caller may have another's filters rest (`PTRACE_O_SUSPEND_SECCOMP`).
pub fn may_suspend() -> bool {
    let task = task::current();
    let restricted = task.seccomp.mode() != SeccompMode::Disabled || is_suspended(task);
    task.cred().capable(Cap::SysAdmin) && !restricted
}

fn strict_kill(task: &Task, regs: &PtRegs) -> ! {
    task.seccomp.set_mode(SeccompMode::Dead);
    log::log(task, regs, Action::KillThread, SIGKILL, true);
    exit::do_exit(SIGKILL)
}

/// What the filters say is done. `again`: the tracer has been asked already.
fn filtered(task: &Task, regs: &mut PtRegs, again: bool) -> bool {
    let data = SeccompData::of(regs);
    let Some(filter) = task.seccomp.filter() else {
        return kill(task, regs, Action::KillProcess, 0);
    };
    let Verdict { word, filter: by } = SeccompFilter::run(filter, &data);
    let action = Action::of(word);
    let value = word & RET_DATA;
    match action {
        Action::Allow => return true,
        Action::Log => {
            log::log(task, regs, action, 0, true);
            return true;
        }
        Action::KillProcess | Action::KillThread => {
            // It may not come back to drop it.
            drop(by);
            return kill(task, regs, action, value);
        }
        Action::Errno => regs.x[0] = -i64::from(value.min(MAX_ERRNO)) as u64,
        Action::Trap => {
            regs.x[0] = regs.orig_x0;
            signal::force(refusal(regs, value));
        }
        Action::Trace if again => return true,
        Action::Trace => {
            if !Event::Seccomp.is_wanted(task) {
                regs.x[0] = Errno::ENOSYS.to_ret();
            } else if trace(task, regs, value) {
                // The tracer may have made another call of it.
                return filtered(task, regs, true);
            }
        }
        Action::UserNotif => {
            if by.as_ref().is_some_and(|filter| notify::ask(task, regs, filter, data)) {
                return true;
            }
        }
    }
    log::log(task, regs, action, 0, by.is_some_and(|filter| filter.is_logging()));
    false
}

/// The stop for the tracer; true if the call is still to be made.
fn trace(task: &Task, regs: &mut PtRegs, value: u32) -> bool {
    regs.expose();
    stop::event(Event::Seccomp, u64::from(value));
    regs.expose();
    !exit::fatal_pending(task) && regs.syscallno >= 0
}

/// SIGSYS about the call.
fn refusal(regs: &PtRegs, value: u32) -> SigInfo {
    SigInfo::sys(regs.pc, regs.syscallno, AUDIT_ARCH, value as i32)
}

/// The thread ends, or, if it is the last one or `action` says so, the process does, as by SIGSYS.
fn kill(task: &Task, regs: &mut PtRegs, action: Action, value: u32) -> bool {
    task.seccomp.set_mode(SeccompMode::Dead);
    log::log(task, regs, action, SIGSYS, true);
    if action == Action::KillThread
        && task.signal.live.load(core::sync::atomic::Ordering::Acquire) > 1
    {
        exit::do_exit(SIGSYS);
    }
    regs.x[0] = regs.orig_x0;
    signal::force_exit(refusal(regs, value));
    false
}

/// The last filter of a tracee, for who may see filters (ptrace(2), PTRACE_SECCOMP_GET_FILTER): `EACCES` for others.
pub fn shown_filter(tracee: &Task) -> Result<Ref<SeccompFilter>> {
    let task = task::current();
    if !task.cred().capable(Cap::SysAdmin) || task.seccomp.mode() != SeccompMode::Disabled {
        return Err(Errno::EACCES);
    }
    let filter = tracee.seccomp.filter();
    filter.filter(|_| tracee.seccomp.mode() == SeccompMode::Filter).ok_or(Errno::EINVAL)
}
