//! Acting on signals: [`get_signal`], which the trap path calls before a thread goes back to EL0, with the stops of a
//! whole process.

use core::sync::atomic::Ordering;

use super::{
    is_unkillable, notify_job_control, recalc_sigpending, set_blocked, wake_up_for_signal,
};
use crate::process::cgroup;
use crate::process::coredump;
use crate::process::exit::{self, do_group_exit};
use crate::process::hold;
use crate::process::ptrace;
use crate::process::wait::cld;
use crate::sched::{self, TaskState};
use crate::signal::hooks;
use crate::signal::{
    Disposition, NSIG, SIGKILL, SIGSTOP, SigAction, SigInfo, SigSet, default_disposition,
};
use crate::task::list;
use crate::task::ptrace::JobControl;
use crate::task::{GroupFlags, SharedSignals, Task, TaskFlags};

/// `SA_RESETHAND`: back to the default once the handler runs.
const SA_RESETHAND: u64 = 0x8000_0000;
/// `SA_NODEFER`: the signal itself is not blocked while the handler runs.
const SA_NODEFER: u64 = 0x4000_0000;

/// The caller's part in the stop of its process, if it has one; true if the stop is complete with it
/// (`task_participate_group_stop`).
pub fn participate(task: &Task, shared: &mut SharedSignals) -> bool {
    if !task.stop_pending.swap(false, Ordering::AcqRel) {
        return false;
    }
    if task.ptrace.jobctl().contains(JobControl::STOP_CONSUME) {
        task.ptrace.clear_jobctl(JobControl::STOP_CONSUME);
        shared.stop_count = shared.stop_count.saturating_sub(1);
    }
    let last = shared.stop_count == 0 && !shared.flags.contains(GroupFlags::STOPPED);
    if last {
        shared.stopping = 0;
        shared.flags.remove(GroupFlags::CONTINUED);
        shared.flags.insert(GroupFlags::STOPPED | GroupFlags::STOP_UNREPORTED);
    }
    last
}

/// Starts or joins a stop of the whole process, and sleeps through it (`do_signal_stop`). False if the caller did not: a
/// traced thread stops for its tracer instead.
fn group_stop(task: &Task, sig: i32) -> bool {
    {
        let list = list::lock();
        let mut shared = task.signal.shared.lock();
        if shared.flags.contains(GroupFlags::EXIT) {
            task.stop_pending.store(false, Ordering::Release);
            return false;
        }
        if !task.stop_pending.load(Ordering::Acquire) {
            if sig == 0 {
                return false;
            }
            if !shared.flags.contains(GroupFlags::STOPPED) {
                shared.exit_code = sig;
            }
            shared.stopping = sig;
            shared.stop_count = 0;
            for thread in task.signal.threads.iter().filter(|t| !t.is_exiting()) {
                let own = core::ptr::eq(thread, task);
                if !own && thread.se.state().contains(TaskState::STOPPED) {
                    continue;
                }
                thread.stop_pending.store(true, Ordering::Release);
                thread.ptrace.set_jobctl(JobControl::STOP_CONSUME);
                thread.ptrace.stop.lock().group_signal = sig;
                shared.stop_count += 1;
                if own {
                    continue;
                }
                if thread.ptrace.is_seized() {
                    ptrace::control::trap_notify(thread);
                } else {
                    wake_up_for_signal(thread, false);
                }
            }
        }
        if task.ptrace.is_traced() {
            task.ptrace.set_jobctl(JobControl::TRAP_STOP);
            return false;
        }
        let last = participate(task, &mut shared);
        // Under the locks that SIGCONT and SIGKILL take too, so that neither is missed.
        task.se.prepare_sleep(TaskState::STOPPED);
        cgroup::note_frozen(&list, task);
        drop(shared);
        if last {
            notify_job_control(&list, task, cld::STOPPED);
        }
    }
    if exit::fatal_pending(task) {
        task.se.cancel_sleep();
    } else {
        sched::schedule();
    }
    true
}

/// A signal to run a handler for.
pub struct Delivery {
    /// The signal.
    pub info: SigInfo,
    /// What to do.
    pub action: SigAction,
}

/// Acts on the caller's pending signals until one wants a handler to run; `None` when there is none.
/// Default actions happen here, so this may not return.
pub fn get_signal(task: &Task) -> Option<Delivery> {
    loop {
        if task.signal.shared.lock().flags.contains(GroupFlags::EXIT) && exit::fatal_pending(task) {
            fatal(task, SigInfo::kernel(SIGKILL));
        }
        if hold::wait_if_held(task) {
            // Also if a fatal signal ended the wait.
            task.hold.store(false, Ordering::Release);
            continue;
        }
        if task.stop_pending.load(Ordering::Acquire) && group_stop(task, 0) {
            continue;
        }
        if ptrace::stop::job_trap(task) {
            continue;
        }
        if cgroup::freezer_trap(task) {
            continue;
        }
        let Some(mut info) = dequeue(task) else {
            recalc_sigpending(task);
            return None;
        };
        let settled = info.signo == SIGKILL || task.sighand.own().get(info.signo).is_immutable();
        if task.ptrace.is_traced() && !settled {
            match ptrace::stop::signal_stop(task, info) {
                Some(left) => info = left,
                None => continue,
            }
        }
        let sig = info.signo;
        let action = {
            let sighand = task.sighand.own();
            let mut actions = sighand.actions.lock();
            let slot = &mut actions[(sig as usize - 1) % NSIG];
            let action = *slot;
            if action.handler > SigAction::SIG_IGN && action.flags & SA_RESETHAND != 0 {
                slot.handler = SigAction::SIG_DFL;
            }
            action
        };
        match action.handler {
            SigAction::SIG_IGN if sig != SIGKILL && sig != SIGSTOP => continue,
            SigAction::SIG_DFL | SigAction::SIG_IGN => {}
            _ => return Some(Delivery { info, action }),
        }
        let disposition = default_disposition(sig);
        if matches!(disposition, Disposition::Ignore | Disposition::Continue) {
            continue;
        }
        // Of what reached a namespace's reaper unhandled only these two count; they came from outside.
        if is_unkillable(task) && sig != SIGKILL && sig != SIGSTOP {
            continue;
        }
        if disposition == Disposition::Stop {
            if sig != SIGSTOP && hooks::current_pgrp_is_orphaned() {
                continue;
            }
            group_stop(task, sig);
            continue;
        }
        fatal(task, info);
    }
}

/// Ends the process for a signal, with a core if it is one that leaves one.
fn fatal(task: &Task, info: SigInfo) -> ! {
    task.set_flags(TaskFlags::SIGNALED);
    if default_disposition(info.signo) == Disposition::Core {
        coredump::do_coredump(task, &info);
    }
    do_group_exit(info.signo)
}

/// Takes the first signal that the mask lets through: this thread's own first, then the process's.
pub fn dequeue_unblocked(task: &Task, blocked: SigSet) -> Option<SigInfo> {
    let own = task.sig.lock().pending.take(blocked);
    own.or_else(|| {
        if SigSet(task.signal.shared_pending.load(Ordering::Acquire)).without(blocked).is_empty() {
            return None;
        }
        let mut shared: crate::sync::IrqLockGuard<'_, SharedSignals> = task.signal.shared.lock();
        let info = shared.pending.take(blocked);
        task.signal.publish(&shared);
        info
    })
}

fn dequeue(task: &Task) -> Option<SigInfo> {
    let blocked = task.sig.lock().blocked;
    dequeue_unblocked(task, blocked)
}

/// The mask while a handler runs, and the end of a mask that a call had installed for its sleep.
pub fn signal_delivered(task: &Task, delivery: &Delivery) {
    let mut mask = {
        let mut signals = task.sig.lock();
        signals.saved_mask.take();
        signals.blocked.or(delivery.action.mask)
    };
    if delivery.action.flags & SA_NODEFER == 0 {
        mask.add(delivery.info.signo);
    }
    set_blocked(task, mask);
}
