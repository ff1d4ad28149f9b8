//! The traced side: a tracee's stops (ptrace(2), "Stopped states"), and how it goes on.

use crate::arch::{PtRegs, ThreadFlags};
use crate::ns::PidType;
use crate::process::ptrace::{Event, is_reparented, tracer_of};
use crate::process::signal::{self, notify_job_control, notify_tracer, participate};
use crate::process::wait::cld;
use crate::process::{cgroup, exit};
use crate::sched::{self, TaskState};
use crate::signal::info::SI_USER;
use crate::signal::{SIGKILL, SIGTRAP, SigInfo, SigSet, is_valid};
use crate::task::list;
use crate::task::ptrace::{JobControl, Stop, TraceOptions};
use crate::task::{self, Task};

/// Marks the stops at system calls under `PTRACE_O_TRACESYSGOOD`.
const SYSGOOD: i32 = 0x80;
/// What PTRACE_GETEVENTMSG says at the entry of a system call, and at its exit.
pub const MESSAGE_ENTRY: u64 = 1;
/// See [`MESSAGE_ENTRY`].
pub const MESSAGE_EXIT: u64 = 2;

/// How a tracee was let go on.
struct Resumed {
    /// The signal that its tracer gave it.
    signal: i32,
    /// The information that the stop had, as the tracer left it.
    info: Option<SigInfo>,
}

/// Stands still until the tracer lets the caller go on, or a fatal signal comes (`ptrace_stop`). `None` without a
/// tracer, or if a fatal signal waits already.
fn stop(task: &Task, code: i32, why: i32, message: u64, info: Option<SigInfo>) -> Option<Resumed> {
    const SLEEP: TaskState = TaskState::TRACED.union(TaskState::WAKEKILL);
    {
        let list = list::lock();
        if !task.ptrace.is_traced() || exit::fatal_pending(task) {
            task.ptrace.clear_jobctl(JobControl::TRAP);
            return None;
        }
        let group_done = why == cld::STOPPED && {
            let mut shared = task.signal.shared.lock();
            participate(task, &mut shared)
        };
        {
            let mut stop = task.ptrace.stop.lock();
            let group_signal = stop.group_signal;
            *stop = Stop { stopped: true, code, data: 0, info, message, group_signal };
        }
        let mut done = JobControl::TRAP_STOP | JobControl::TRAPPING;
        if info.is_some_and(|info| info.code >> 8 == Event::Stop as i32) {
            done |= JobControl::TRAP_NOTIFY;
        }
        task.ptrace.clear_jobctl(done);
        // Under the lock that resuming and SIGKILL take too, so that neither is missed.
        task.se.prepare_sleep(SLEEP);
        cgroup::note_frozen(&list, task);
        notify_tracer(&list, task, why);
        if group_done && is_reparented(&list, task) {
            notify_job_control(&list, task, cld::STOPPED);
        }
    }
    loop {
        task.se.prepare_sleep(SLEEP);
        let goes_on = {
            // A tracer that freezes it, and what kills it, come one after the other.
            let _list = list::lock();
            let frozen = task.ptrace.jobctl().contains(JobControl::FROZEN);
            !task.ptrace.is_stopped() || exit::fatal_pending(task) && !frozen
        };
        if goes_on {
            task.se.cancel_sleep();
            break;
        }
        sched::schedule_in(crate::wait_channel!("ptrace_stop"));
    }
    let resumed = {
        let _list = list::lock();
        let mut stop = task.ptrace.stop.lock();
        stop.stopped = false;
        stop.code = 0;
        stop.message = 0;
        Resumed { signal: core::mem::take(&mut stop.data), info: stop.info.take() }
    };
    task.ptrace.clear_jobctl(JobControl::LISTENING);
    cgroup::set_frozen(task, false);
    signal::recalc_sigpending(task);
    Some(resumed)
}

/// Stops with SIGTRAP and an event or a mark above it; returns the signal to go on with (`ptrace_notify`).
fn notify(task: &Task, signo: i32, code: i32, why: i32, message: u64) -> i32 {
    let pid = task.thread_pid.own();
    let uid = task.cred().user_ns.uids().from_kernel_munged(task.cred().uid);
    let info = SigInfo::user(signo, code, pid.nr_in(pid.ns()), uid);
    stop(task, code, why, message, Some(info)).map_or(0, |resumed| resumed.signal)
}

/// Stops for an event that the tracer asked for, with a message for it (`ptrace_event`).
pub fn event(event: Event, message: u64) {
    let task = task::current();
    if event.is_wanted(task) {
        let code = SIGTRAP | (event as i32) << 8;
        notify(task, SIGTRAP, code, cld::TRAPPED, message);
        // The call that it is in may have begun when nobody followed it.
        let info = &task.se.thread.info;
        if info.flags().intersects(ThreadFlags::SYSCALL_TRACE | ThreadFlags::SINGLESTEP) {
            info.set(ThreadFlags::SYSCALL_EXIT);
        }
    }
}

/// The end of execve(2): an event, or the SIGTRAP of those who did not ask for one.
pub fn exec_event(former: u64) {
    let task = task::current();
    if Event::Exec.is_wanted(task) {
        event(Event::Exec, former);
    } else if task.ptrace.is_traced() && !task.ptrace.is_seized() {
        let _ = signal::send(SigInfo::user(SIGTRAP, SI_USER, own_number(task), 0), task, false);
    }
}

fn own_number(task: &Task) -> u32 {
    let pid = task.thread_pid.own();
    pid.nr_in(pid.ns())
}

/// The number of a task as the caller's tracer sees it; 0 without a tracer.
pub fn number_for_tracer(task: &Task) -> u64 {
    let list = list::lock();
    tracer_of(&list, task::current())
        .map_or(0, |tracer| u64::from(task.pid_nr(&tracer.active_pid_ns())))
}

/// The caller exits, with this wait status.
pub fn exit_event(code: i32) {
    let task = task::current();
    if Event::Exit.is_wanted(task) {
        // What kills it was taken; another SIGKILL would end the stop.
        task.sig.lock().pending.flush(SigSet::of(&[SIGKILL]));
        event(Event::Exit, code as u32 as u64);
    }
}

/// The stop for a signal that is about to be delivered: the tracer sees it first. Returns what is left to deliver
/// (`ptrace_signal`).
pub fn signal_stop(task: &Task, info: SigInfo) -> Option<SigInfo> {
    let Some(resumed) = stop(task, info.signo, cld::TRAPPED, 0, Some(info)) else {
        return Some(info);
    };
    let sig = resumed.signal;
    if !is_valid(sig) {
        return None;
    }
    let kept = resumed.info.filter(|info| info.signo == sig);
    let info = kept.unwrap_or_else(|| {
        let list = list::lock();
        let ns = task.active_pid_ns();
        let (pid, uid) = tracer_of(&list, task).map_or((0, 0), |tracer| {
            (tracer.nr_of(PidType::Tgid, &ns), tracer.cred.with(|c| c.uid))
        });
        SigInfo::user(sig, SI_USER, pid, task.cred().user_ns.uids().from_kernel_munged(uid))
    });
    // One that is blocked by now waits again.
    if task.sig.lock().blocked.has(sig) || exit::fatal_pending(task) {
        task.sig.lock().pending.add(info);
        return None;
    }
    Some(info)
}

/// Stops that its tracer asked for, or that its process is in (`do_jobctl_trap`); true if it was one.
pub fn job_trap(task: &Task) -> bool {
    if !task.ptrace.jobctl().intersects(JobControl::TRAP) {
        return false;
    }
    let signal = task.ptrace.stop.lock().group_signal;
    if task.ptrace.is_seized() {
        let in_stop = {
            let shared = task.signal.shared.lock();
            shared.stop_count > 0 || shared.flags.contains(task::GroupFlags::STOPPED)
        };
        let sig = if in_stop && signal != 0 { signal } else { SIGTRAP };
        notify(task, sig, sig | (Event::Stop as i32) << 8, cld::STOPPED, 0);
    } else {
        let _ = stop(task, signal, cld::STOPPED, 0, None);
    }
    true
}

/// Stops at the entry of a system call, which may be none ([`PtRegs::NO_SYSCALL`]) afterwards. AArch64 tells entry and
/// exit apart by `x7`.
pub fn syscall_entry(task: &Task, regs: &mut PtRegs) {
    if report_syscall(task, regs, 0, MESSAGE_ENTRY) {
        regs.syscallno = PtRegs::NO_SYSCALL;
    }
}

/// Stops at the exit of a system call; after a step onto it, as any other step does.
pub fn syscall_exit(task: &Task, regs: &mut PtRegs) {
    task.se.thread.info.clear(ThreadFlags::SYSCALL_EXIT);
    let flags = task.se.thread.info.flags();
    if flags.contains(ThreadFlags::SINGLESTEP) {
        signal::force(SigInfo::user(SIGTRAP, SI_USER, 0, 0));
    } else if flags.contains(ThreadFlags::SYSCALL_TRACE) {
        report_syscall(task, regs, 1, MESSAGE_EXIT);
    }
}

/// A step led into a signal handler: the stop is at its first instruction.
pub fn handler_step(task: &Task) {
    if task.se.thread.info.flags().contains(ThreadFlags::SINGLESTEP) {
        notify(task, SIGTRAP, SIGTRAP, cld::TRAPPED, 0);
    }
}

fn report_syscall(task: &Task, regs: &mut PtRegs, direction: u64, message: u64) -> bool {
    if !task.ptrace.is_traced() {
        return false;
    }
    let x7 = core::mem::replace(&mut regs.x[7], direction);
    regs.expose();
    let good = task.ptrace.options().contains(TraceOptions::TRACESYSGOOD);
    let code = SIGTRAP | if good { SYSGOOD } else { 0 };
    let sig = notify(task, SIGTRAP, code, cld::TRAPPED, message);
    regs.x[7] = x7;
    if is_valid(sig) {
        let _ = signal::send(SigInfo::kernel(sig), task, false);
    }
    exit::fatal_pending(task)
}
