//! Sending signals and choosing who takes them; masks (signal(7)).
//!
//! Sending makes the signal pending for a thread or for the process, and wakes whoever shall take it.
//!
//! | module | what it is about |
//! | --- | --- |
//! | [`notify`] | SIGCHLD: what parents and tracers are told |
//! | [`act`] | what a thread does about its signals on its way back to EL0 |

mod act;
mod notify;

pub use act::{Delivery, dequeue_unblocked, get_signal, participate, signal_delivered};
pub use notify::{notify_job_control, notify_parent, notify_tracer};

use core::sync::atomic::{Ordering, fence};

use crate::arch::ThreadFlags;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::{Cap, Cred, Pid, PidType};
use crate::process::exit;
use crate::process::ptrace;
use crate::process::wait::cld;
use crate::sched::{self, TaskState};
use crate::signal::hooks::{self, Hooks, IoOwner};
use crate::signal::info::{SI_KERNEL, SI_USER};
use crate::signal::{
    Disposition, NSIG, SIGCONT, SIGIO, SIGKILL, SIGSTOP, SigAction, SigInfo, SigSet,
    default_disposition, is_valid,
};
use crate::task::list::{self, TaskList};
use crate::task::ptrace::JobControl;
use crate::task::rlimit::Resource;
use crate::task::{self, GroupFlags, Task};

/// Sends to one thread (`group` false) or to its process. Signal 0 only checks that it exists.
pub fn send(info: SigInfo, target: &Task, group: bool) -> Result<()> {
    let list = list::lock();
    send_locked(&list, info, target, group)
}

/// [`send`] under the task list's lock.
pub fn send_locked(list: &TaskList, info: SigInfo, target: &Task, group: bool) -> Result<()> {
    let sig = info.signo;
    if sig == 0 {
        return Ok(());
    }
    debug_assert!(is_valid(sig));
    let (info, force) = for_namespace(info, target);
    if !prepare(list, sig, target, force) {
        return Ok(());
    }
    if group {
        let mut shared = target.signal.shared.lock();
        let pending = &mut shared.pending;
        if pending.is_coalesced(sig) {
            return Ok(());
        }
        check_queue_limit(&info, pending.queued(), target)?;
        pending.add(info);
        target.signal.publish(&shared);
    } else {
        let mut signals = target.sig.lock();
        if signals.pending.is_coalesced(sig) {
            return Ok(());
        }
        check_queue_limit(&info, signals.pending.queued(), target)?;
        signals.pending.add(info);
    }
    complete(target, sig, group);
    target.signal.signalfd_wait.wake_all();
    Ok(())
}

/// A real-time signal that a program queued is refused when its owner has too many (sigqueue(3)).
fn check_queue_limit(info: &SigInfo, queued: usize, target: &Task) -> Result<()> {
    let limited = info.signo >= crate::signal::SIGRTMIN && (info.code < 0 || info.is_io());
    if limited && queued as u64 >= target.signal.rlimits.soft(Resource::Sigpending) {
        return Err(Errno::EAGAIN);
    }
    Ok(())
}

/// Side effects of sending, and whether the signal is worth queueing at all (`prepare_signal`).
fn prepare(list: &TaskList, sig: i32, target: &Task, force: bool) -> bool {
    let signal = &target.signal;
    if SigSet::STOP.has(sig) {
        // A stop signal takes back any SIGCONT that was not delivered.
        flush_group(list, target, SigSet::CONT);
    } else if sig == SIGCONT {
        flush_group(list, target, SigSet::STOP);
        let mut shared = signal.shared.lock();
        shared.stop_count = 0;
        let was_stopped = shared.flags.contains(GroupFlags::STOPPED);
        if was_stopped {
            shared.flags.remove(GroupFlags::STOPPED | GroupFlags::STOP_UNREPORTED);
            shared.flags.insert(GroupFlags::CONTINUED);
            shared.exit_code = 0;
        }
        shared.stopping = 0;
        drop(shared);
        for thread in signal.threads.iter() {
            thread.stop_pending.store(false, Ordering::Release);
            thread.ptrace.clear_jobctl(JobControl::STOP_CONSUME);
            if thread.ptrace.is_seized() {
                ptrace::control::trap_notify(thread);
            } else {
                sched::wake_up(&thread.se, TaskState::STOPPED);
            }
        }
        if was_stopped {
            notify_job_control(list, target, cld::CONTINUED);
            if ptrace::is_reparented(list, target.leader()) {
                notify_tracer(list, target.leader(), cld::CONTINUED);
            }
        }
    }
    if signal.shared.lock().flags.contains(GroupFlags::EXIT) {
        // Dying anyway; only a SIGKILL for a thread that still sleeps could matter.
        return sig == SIGKILL;
    }
    !is_ignored(target, sig, force)
}

/// A signal that the caller sends; `code` is `SI_USER` or `SI_TKILL`.
pub fn own_info(sig: i32, code: i32) -> SigInfo {
    let task = task::current();
    let cred = task.cred();
    let pid = task.nr_of(PidType::Tgid, task.thread_pid.own().ns());
    SigInfo::user(sig, code, pid, cred.user_ns.uids().from_kernel_munged(cred.uid))
}

/// The signal as the target's namespaces see its sender, and whether it reaches a namespace's reaper:
/// what the kernel or somebody outside the namespace sends does (pid_namespaces(7)).
fn for_namespace(mut info: SigInfo, target: &Task) -> (SigInfo, bool) {
    if !info.is_from_user() {
        // The kernel's own word alone, not what its timers and files send for programs.
        return (info, info.code == SI_KERNEL);
    }
    let sender = task::current();
    let ns = target.active_pid_ns();
    let outside = sender.pid_nr(&ns) == 0;
    if info.has_sender() {
        let pid = if outside { 0 } else { info.pid() };
        let own = sender.cred().user_ns.clone();
        let uid = target.cred.with(|cred| {
            if Ref::ptr_eq(&own, &cred.user_ns) {
                return info.uid();
            }
            let kernel = own.uids().to_kernel(info.uid()).unwrap_or(u32::MAX);
            cred.user_ns.uids().from_kernel_munged(kernel)
        });
        info.set_sender(pid, uid);
    }
    (info, outside)
}

/// True if nobody would notice the signal: it is ignored and not blocked.
fn is_ignored(target: &Task, sig: i32, force: bool) -> bool {
    // A tracer may want to know.
    if target.ptrace.is_traced() && sig != SIGKILL {
        return false;
    }
    if sig == SIGKILL || sig == SIGSTOP {
        return is_unkillable(target) && !(force && may_be_forced(target));
    }
    let blocked = {
        let signals = target.sig.lock();
        signals.blocked.has(sig) || signals.waiting_for.has(sig)
    };
    if blocked {
        return false;
    }
    if target.sighand.with(|s| s.ignores(sig)) {
        return true;
    }
    // A namespace's reaper is only hit by what it handles.
    is_unkillable(target) && target.sighand.with(|s| s.get(sig).handler == SigAction::SIG_DFL)
}

/// True unless even a signal from outside passes by: kernel threads, and init itself, around whose
/// namespace there is nobody.
fn may_be_forced(target: &Task) -> bool {
    !target.is_kthread() && target.pid() != 1
}

/// True for the reaper of a pid namespace and for kernel threads: signals they don't handle pass by.
fn is_unkillable(target: &Task) -> bool {
    target.is_kthread() || target.signal.shared.lock().flags.contains(GroupFlags::UNKILLABLE)
}

fn flush_group(_list: &TaskList, target: &Task, set: SigSet) {
    {
        let mut shared = target.signal.shared.lock();
        shared.pending.flush(set);
        target.signal.publish(&shared);
    }
    for thread in target.signal.threads.iter() {
        thread.sig.lock().pending.flush(set);
    }
}

/// True if `task` would take `sig` now (`wants_signal`).
fn wants(task: &Task, sig: i32) -> bool {
    if task.is_exiting() || task.sig.lock().blocked.has(sig) {
        return false;
    }
    if sig == SIGKILL {
        return true;
    }
    if task.se.state().intersects(TaskState::STOPPED | TaskState::TRACED) {
        return false;
    }
    task.se.is_current() || !task.se.thread.info.flags().contains(ThreadFlags::SIGPENDING)
}

/// Finds a thread to take a signal that was just made pending and wakes it (`complete_signal`).
fn complete(target: &Task, sig: i32, group: bool) {
    let taker = if wants(target, sig) {
        target
    } else if !group {
        // Its own thread blocks it: it will find it when it unblocks.
        let waits = target.sig.lock().waiting_for.has(sig);
        if waits {
            wake_up_for_signal(target, false);
        }
        return;
    } else if let Some(thread) = target.signal.threads.iter().find(|t| wants(t, sig)) {
        thread
    } else {
        for thread in target.signal.threads.iter() {
            if thread.sig.lock().waiting_for.has(sig) {
                wake_up_for_signal(thread, false);
                break;
            }
        }
        return;
    };
    let action = taker.sighand.with(|s| s.get(sig));
    let default = action.handler == SigAction::SIG_DFL;
    let fatal = sig == SIGKILL || default && default_disposition(sig) == Disposition::Terminate;
    let killed = sig == SIGKILL || !is_unkillable(taker);
    // What a tracer may take away, or change, ends nobody yet.
    let certain = sig == SIGKILL || !taker.ptrace.is_traced();
    if fatal && killed && certain {
        let mut shared = taker.signal.shared.lock();
        // What ends the writing of a core is what the process dies of.
        if !shared.flags.contains(GroupFlags::EXIT) || taker.signal.core_dump.is_under_way() {
            shared.flags = shared.flags & GroupFlags::UNKILLABLE | GroupFlags::EXIT;
            shared.exit_code = sig;
            shared.stop_count = 0;
            shared.stopping = 0;
        }
        drop(shared);
        for thread in taker.signal.threads.iter() {
            thread.stop_pending.store(false, Ordering::Release);
            thread.sig.lock().pending.add(SigInfo::kernel(SIGKILL));
            wake_up_for_signal(thread, true);
        }
        return;
    }
    wake_up_for_signal(taker, sig == SIGKILL);
}

/// Tells a thread that a signal waits, and wakes it from a sleep that signals end
/// (`signal_wake_up`); a fatal one also ends stops and killable sleeps.
pub fn wake_up_for_signal(task: &Task, fatal: bool) {
    task.se.thread.info.set(ThreadFlags::SIGPENDING);
    let frozen = task.ptrace.jobctl().contains(JobControl::FROZEN);
    let states = if fatal && !frozen {
        TaskState::INTERRUPTIBLE | TaskState::STOPPED | TaskState::TRACED | TaskState::WAKEKILL
    } else {
        TaskState::INTERRUPTIBLE
    };
    if !sched::wake_up(&task.se, states) {
        // It may be running on another CPU: make it look.
        sched::kick(&task.se);
    }
}

/// Sets or clears the thread's own note that a signal waits (`recalc_sigpending`).
pub fn recalc_sigpending(task: &Task) {
    recalc(task, task.hold.load(Ordering::Acquire));
}

/// The same as if the thread were not held, which it sees on its way to EL0 anyway. Whether the note is set.
pub fn recalc_unless_held(task: &Task) -> bool {
    task.se.thread.info.set(ThreadFlags::NOTIFY_RESUME);
    recalc(task, false)
}

fn recalc(task: &Task, held: bool) -> bool {
    let signals = task.sig.lock();
    // Who makes something due stores that first, and then sets the note: it is there after this in any case.
    task.se.thread.info.clear(ThreadFlags::SIGPENDING);
    fence(Ordering::SeqCst);
    let shared = SigSet(task.signal.shared_pending.load(Ordering::Acquire));
    let any = signals.pending.set().or(shared).without(signals.blocked);
    let due = !any.is_empty()
        || task.stop_pending.load(Ordering::Acquire)
        || held
        || task.ptrace.jobctl().intersects(JobControl::TRAP)
        || task.cgroup.is_to_freeze();
    if due {
        task.se.thread.info.set(ThreadFlags::SIGPENDING);
    }
    due
}

/// Changes the caller's mask; signals that become blocked and wait for the whole process are passed to
/// a thread that takes them (`set_current_blocked`).
pub fn set_blocked(task: &Task, mask: SigSet) {
    let mask = mask.without(SigSet::UNBLOCKABLE);
    let newly = {
        let mut signals = task.sig.lock();
        let newly = mask.without(signals.blocked);
        signals.blocked = mask;
        newly
    };
    if !newly.is_empty() {
        retarget_shared_pending(task, newly);
    }
    recalc_sigpending(task);
}

/// Wakes other threads for shared signals of `set` that this thread will not take after all.
pub fn retarget_shared_pending(task: &Task, set: SigSet) {
    let waiting = SigSet(task.signal.shared_pending.load(Ordering::Acquire)).and(set);
    if waiting.is_empty() || task.signal.nr_threads.load(Ordering::Relaxed) <= 1 {
        return;
    }
    let list = list::lock();
    for thread in task.signal.threads.iter() {
        if core::ptr::eq(thread, task) || thread.is_exiting() {
            continue;
        }
        if !waiting.without(thread.sig.lock().blocked).is_empty() {
            wake_up_for_signal(thread, false);
        }
    }
    drop(list);
}

/// Sends to every member of a process group; `ESRCH` if there is none.
pub fn send_pgrp(pgrp: &Pid, info: SigInfo) -> Result<()> {
    let list = list::lock();
    send_pgrp_locked(&list, pgrp, info)
}

/// [`send_pgrp`] under the task list's lock.
pub fn send_pgrp_locked(list: &TaskList, pgrp: &Pid, info: SigInfo) -> Result<()> {
    let mut result = Err(Errno::ESRCH);
    for member in list.members(pgrp, PidType::Pgid) {
        let sent = send_locked(list, info, member, true);
        if result.is_err() {
            result = sent;
        }
    }
    result
}

/// A fault of the program itself: the signal cannot be put off. If the program blocks or ignores it, it
/// gets the default, which ends it (`force_sig_info`).
pub fn force(info: SigInfo) {
    force_as(info, false);
}

/// As [`force`], but the process ends for it, whatever it would do about the signal and whoever traces it.
pub fn force_exit(info: SigInfo) {
    force_as(info, true);
}

fn force_as(info: SigInfo, exit: bool) {
    let task = task::current();
    let sig = info.signo;
    {
        let mut signals = task.sig.lock();
        let blocked = signals.blocked.has(sig);
        let sighand = task.sighand.own();
        let mut actions = sighand.actions.lock();
        let action = &mut actions[(sig as usize - 1) % NSIG];
        if blocked || exit || action.handler == SigAction::SIG_IGN {
            action.handler = SigAction::SIG_DFL;
            signals.blocked.remove(sig);
        }
        if exit {
            action.flags |= SigAction::IMMUTABLE;
        }
        if action.handler == SigAction::SIG_DFL && (exit || !task.ptrace.is_traced()) {
            // Even a namespace's reaper does not survive its own fault.
            drop(actions);
            task.signal.shared.lock().flags.remove(GroupFlags::UNKILLABLE);
        }
        signals.pending.add(info);
    }
    task.se.thread.info.set(ThreadFlags::SIGPENDING);
}

/// Who may send to whom (kill(2)): the same user, CAP_KILL, or SIGCONT within a session.
pub fn may_send(sender: &Task, info: &SigInfo, target: &Task) -> bool {
    if sender.same_group(target) {
        return true;
    }
    let cred: &Cred = sender.cred();
    let allowed = target.cred.with(|t| {
        cred.euid == t.suid
            || cred.euid == t.uid
            || cred.uid == t.suid
            || cred.uid == t.uid
            || cred.ns_capable(&t.user_ns, Cap::Kill)
    });
    if allowed {
        return true;
    }
    info.signo == SIGCONT
        && match (sender.signal.pid(PidType::Sid), target.signal.pid(PidType::Sid)) {
            (Some(a), Some(b)) => Ref::ptr_eq(&a, &b),
            _ => false,
        }
}

/// The mask that a handler's frame must restore: the one saved by a call such as `sigsuspend`, else the
/// current one (`sigmask_to_save`).
pub fn mask_to_save(task: &Task) -> SigSet {
    let signals = task.sig.lock();
    signals.saved_mask.get().unwrap_or(signals.blocked)
}

/// No handler ran: the mask that a call had replaced comes back (`restore_saved_sigmask`).
pub fn restore_saved_mask(task: &Task) {
    let saved = task.sig.lock().saved_mask.take();
    if let Some(mask) = saved {
        set_blocked(task, mask);
    }
}

/// Installs a mask for the length of a call; it comes back when the call returns, or when the handler
/// that ends it does (`set_user_sigmask`).
pub fn set_mask_for_call(task: &Task, mask: SigSet) {
    {
        let mut signals = task.sig.lock();
        let blocked = signals.blocked;
        signals.saved_mask.set_once(blocked);
    }
    set_blocked(task, mask);
}

/// Forgets signals that a new disposition ignores (`do_sigaction`).
pub fn flush_ignored(task: &Task, sig: i32) {
    let list = list::lock();
    flush_group(&list, task, SigSet::of(&[sig]));
}

/// Says to a file's owner that I/O is possible (`send_sigio`). One who has too many signals waiting is told no more
/// than that.
fn send_io(owner: &IoOwner, info: SigInfo) {
    let Some(pid) = &owner.pid else { return };
    let list = list::lock();
    let tell = |target: &Task| {
        let allowed = target.cred.with(|cred| {
            let users = [cred.suid, cred.uid];
            owner.euid == 0 || users.contains(&owner.euid) || users.contains(&owner.uid)
        });
        let group = owner.kind != PidType::Pid;
        if allowed && send_locked(&list, info, target, group).is_err() {
            let _ = send_locked(&list, SigInfo::kernel(SIGIO), target, group);
        }
    };
    match owner.kind {
        PidType::Pid | PidType::Tgid => list.thread_of(pid).into_iter().for_each(tell),
        kind => list.members(pid, kind).for_each(tell),
    }
}

/// What lower floors call to raise signals.
pub fn install_hooks() {
    hooks::install(Hooks {
        send_current: |sig| {
            let _ = send(own_info(sig, SI_USER), task::current(), false);
        },
        send_pgrp,
        send_session_leader: |session, info| {
            let list = list::lock();
            let leader = list
                .members(session, PidType::Sid)
                .find(|t| t.signal.leader.load(Ordering::Relaxed))
                .ok_or(Errno::ESRCH)?;
            send_locked(&list, info, leader, true)
        },
        send_io,
        current_blocks_or_ignores: |sig| {
            let task = task::current();
            let blocked = task.sig.lock().blocked.has(sig);
            blocked || task.sighand.own().get(sig).handler == SigAction::SIG_IGN
        },
        current_pgrp_is_orphaned: || {
            let list = list::lock();
            task::current()
                .signal
                .pid(PidType::Pgid)
                .is_none_or(|pgrp| exit::is_orphaned_pgrp(&list, &pgrp, None))
        },
    });
}
