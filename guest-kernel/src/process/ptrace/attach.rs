//! The beginning and the end of tracing.

use core::sync::atomic::Ordering;

use crate::arch::ThreadFlags;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::{Cap, Cred};
use crate::process::access::{AccessMode, may_access};
use crate::process::exit;
use crate::process::ptrace::{control, real_parent_of};
use crate::process::signal;
use crate::sched::{self, TaskState};
use crate::signal::{SIGKILL, SIGSTOP, SigInfo};
use crate::task::list::{self, TaskList};
use crate::task::ptrace::{JobControl, TraceFlags, TraceOptions};
use crate::task::{self, EXIT_ALIVE, EXIT_DEAD, EXIT_ZOMBIE, GroupFlags, Task};

/// PTRACE_TRACEME: the caller's parent traces it.
pub fn traceme() -> Result<()> {
    let task = task::current();
    let cred = task.cred().clone();
    let list = list::lock();
    if task.ptrace.is_traced() {
        return Err(Errno::EPERM);
    }
    let parent = real_parent_of(&list, task).ok_or(Errno::EPERM)?;
    let its = parent.cred.share();
    let no_more =
        Ref::ptr_eq(&its.user_ns, &cred.user_ns) && cred.cap_permitted.is_within(its.cap_permitted);
    if !no_more && !its.ns_capable(&cred.user_ns, Cap::SysPtrace) {
        return Err(Errno::EPERM);
    }
    let mut old = None;
    if !parent.is_exiting() {
        old = link(&list, task, parent, cred);
        task.ptrace.set_flags(TraceFlags::TRACED, TraceOptions::empty());
    }
    drop(list);
    drop(old);
    Ok(())
}

/// PTRACE_ATTACH, and with options PTRACE_SEIZE.
pub fn attach(target: &Task, seize: Option<TraceOptions>) -> Result<()> {
    let caller = task::current();
    if target.is_kthread() || target.same_group(caller) {
        return Err(Errno::EPERM);
    }
    let cred = caller.cred().clone();
    let old = loop {
        // What it may become by exec is decided for a program that nobody traces, or somebody does.
        let signal = &target.signal;
        let free = || signal.execs.load(Ordering::Acquire) == 0;
        crate::wait_event_interruptible!(signal.exec_wait, free())
            .map_err(|_| Errno::ERESTARTNOINTR)?;
        if !may_access(target, AccessMode::RealCreds) {
            return Err(Errno::EPERM);
        }
        let list = list::lock();
        if !free() {
            continue;
        }
        let alive = target.exit_state.load(Ordering::Acquire) == EXIT_ALIVE;
        if !alive || target.ptrace.is_traced() {
            return Err(Errno::EPERM);
        }
        let old = link(&list, target, caller, cred);
        match seize {
            Some(options) => {
                target.ptrace.set_flags(TraceFlags::TRACED | TraceFlags::SEIZED, options);
            }
            None => {
                target.ptrace.set_flags(TraceFlags::TRACED, TraceOptions::empty());
                let _ = signal::send_locked(&list, SigInfo::kernel(SIGSTOP), target, false);
            }
        }
        // One that job control stopped becomes one that is stopped for its tracer.
        if target.se.state().contains(TaskState::STOPPED) {
            target.ptrace.set_jobctl(JobControl::TRAP_STOP | JobControl::TRAPPING);
            target.se.thread.info.set(ThreadFlags::SIGPENDING);
            sched::wake_up(&target.se, TaskState::STOPPED);
        }
        break old;
    };
    drop(old);
    // The tracer does not see that it took a moment.
    let trapping = || target.ptrace.jobctl().contains(JobControl::TRAPPING);
    crate::wait_event!(caller.signal.wait_chldexit, !trapping() || target.is_exiting());
    Ok(())
}

/// PTRACE_DETACH; `sig` is delivered as by PTRACE_CONT.
pub fn detach(target: &Task, sig: i32) {
    let tracer = task::current();
    let list = list::lock();
    // Its exit, or somebody's exec, may have been faster.
    if target.ptrace.is_traced() {
        target.ptrace.stop.lock().code = 0;
        target.ptrace.stop.lock().data = sig;
        if unlink_and_see(&list, tracer, target) {
            exit::release_locked(&list, target);
        }
    }
    drop(list);
    list::drop_released();
}

/// A tracer exits: those that it traced go on without, or end with it.
pub fn exit_ptrace(list: &TaskList, tracer: &Task) {
    while let Some(tracee) = tracer.ptrace.tracees.first() {
        if tracee.ptrace.options().contains(TraceOptions::EXITKILL) {
            let _ = signal::send_locked(list, SigInfo::kernel(SIGKILL), tracee, true);
        }
        if unlink_and_see(list, tracer, tracee) {
            exit::release_locked(list, tracee);
        }
    }
}

/// A child of a tracee is traced like its parent, if the tracer asked for that (`ptrace_init_task`); it does not run yet.
pub fn init_child(list: &TaskList, parent: &Task, child: &Task) {
    let Some(tracer) = super::tracer_of(list, parent) else { return };
    let Some(cred) = parent.ptrace.tracer_cred.lock().clone() else { return };
    // It had no tracer before.
    let _ = link(list, child, tracer, cred);
    child.ptrace.set_flags(parent.ptrace.flags(), parent.ptrace.options());
    if child.ptrace.is_seized() {
        child.ptrace.set_jobctl(JobControl::TRAP_STOP);
    } else {
        child.sig.lock().pending.add(SigInfo::user(SIGSTOP, 0, 0, 0));
    }
    child.se.thread.info.set(ThreadFlags::SIGPENDING);
}

/// The former tracer's credentials are returned, to be dropped without the list's lock.
fn link(_list: &TaskList, tracee: &Task, tracer: &Task, cred: Ref<Cred>) -> Option<Ref<Cred>> {
    list::TASK_LIST_SEQ.write(|| {
        // SAFETY: the list's lock is held; a tracer lets go of its tracees before it goes, a tracee leaves with
        // `release_locked`.
        unsafe { tracer.ptrace.tracees.push_back(tracee) };
        tracee.parent.store(core::ptr::from_ref(tracer).cast_mut(), Ordering::Release);
    });
    tracee.ptrace.tracer_cred.lock().replace(cred)
}

/// Ends the tracing of a task (`__ptrace_unlink`): it goes on, or joins the stop that its process is in.
pub fn unlink(_list: &TaskList, tracee: &Task) {
    if !tracee.ptrace.is_traced() {
        return;
    }
    list::TASK_LIST_SEQ.write(|| {
        // SAFETY: the list's lock is held.
        unsafe { tracee.ptrace.link.unlink() };
        let parent = tracee.real_parent.load(Ordering::Relaxed);
        tracee.parent.store(parent, Ordering::Release);
    });
    control::clear_tracing(tracee);
    tracee.ptrace.set_flags(TraceFlags::empty(), TraceOptions::empty());
    tracee.ptrace.clear_jobctl(JobControl::TRAP | JobControl::TRAPPING);
    let in_stop = {
        let shared = tracee.signal.shared.lock();
        shared.flags.contains(GroupFlags::STOPPED) || shared.stop_count > 0
    };
    if in_stop && !tracee.is_exiting() {
        tracee.stop_pending.store(true, Ordering::Release);
        let mut stop = tracee.ptrace.stop.lock();
        if stop.group_signal == 0 {
            stop.group_signal = SIGSTOP;
        }
    }
    if tracee.stop_pending.load(Ordering::Acquire) || tracee.ptrace.is_stopped() {
        tracee.ptrace.stop.lock().deliver_unseen();
        control::wake_from_stop(tracee);
    }
}

/// [`unlink`]; true if the task is dead and nobody is left to ask about it, so that it is to be released.
fn unlink_and_see(list: &TaskList, tracer: &Task, tracee: &Task) -> bool {
    unlink(list, tracee);
    if tracee.exit_state.load(Ordering::Acquire) != EXIT_ZOMBIE {
        return false;
    }
    let mut dead = !tracee.is_leader();
    if !dead && tracee.signal.nr_threads.load(Ordering::Relaxed) == 1 {
        match real_parent_of(list, tracee) {
            Some(parent) if parent.same_group(tracer) => dead = exit::ignores_children(tracer),
            _ => dead = exit::do_notify_parent(list, tracee, exit::exit_signal(tracee)),
        }
    }
    if dead {
        tracee.exit_state.store(EXIT_DEAD, Ordering::Release);
    }
    dead
}
