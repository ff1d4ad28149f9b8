//! exit(2), exit_group(2): how a task ends, who is told, and who adopts what it leaves.

use core::sync::atomic::Ordering;

use crate::arch::ThreadFlags;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::UserPtr;
use crate::ns::{Pid, PidNs, PidType};
use crate::process::cgroup;
use crate::process::coredump;
use crate::process::pidfd;
use crate::process::ptrace;
use crate::process::signal::{self, notify_parent};
use crate::process::sysv;
use crate::process::wait::{WaitOptions, Which, cld, do_wait};
use crate::sched::{self, TaskState};
use crate::signal::{SIGCHLD, SIGCONT, SIGHUP, SIGKILL, SigAction, SigInfo, SigSet};
use crate::task::list::{self, TaskList};
use crate::task::{
    self, Accounting, EXIT_DEAD, EXIT_ZOMBIE, GroupFlags, SignalStruct, Task, TaskFlags,
};

/// `SA_NOCLDWAIT` of sigaction(2): children do not become zombies.
const SA_NOCLDWAIT: u64 = 2;

/// True if the task must die before it runs in user mode again.
pub fn fatal_pending(task: &Task) -> bool {
    task.sig.lock().pending.set().has(SIGKILL)
}

/// Ends every thread of the caller's process with this wait status. The first status wins.
pub fn do_group_exit(code: i32) -> ! {
    let task = task::current();
    let code = {
        let mut shared = task.signal.shared.lock();
        if shared.flags.contains(GroupFlags::EXIT) {
            shared.exit_code
        } else {
            shared.flags = shared.flags & GroupFlags::UNKILLABLE | GroupFlags::EXIT;
            shared.exit_code = code;
            drop(shared);
            kill_other_threads(task);
            code
        }
    };
    do_exit(code)
}

/// Sends SIGKILL to every other thread of the group: `zap_other_threads`. Returns how many there are.
pub fn kill_other_threads(task: &Task) -> u32 {
    let list = list::lock();
    let mut others = 0;
    for other in task.signal.threads.iter().filter(|t| !core::ptr::eq(*t, task)) {
        others += 1;
        if !other.is_exiting() {
            other.sig.lock().pending.add(SigInfo::kernel(SIGKILL));
            signal::wake_up_for_signal(other, true);
        }
    }
    drop(list);
    others
}

/// Ends the calling thread. `code` is a wait status: an exit code shifted left by 8, or a signal.
pub fn do_exit(code: i32) -> ! {
    let task = task::current();
    debug_assert!(!task.is_exiting(), "a task exits once");
    coredump::task_exit(task);
    ptrace::stop::exit_event(code);
    task.set_flags(TaskFlags::EXITING);
    exit_signals(task);
    let group_dead = task.signal.live.fetch_sub(1, Ordering::AcqRel) == 1;
    // Whichever of init's threads is the last.
    if group_dead && task.tgid() == 1 {
        crate::process::init::init_exited(task, code);
    }
    task.exit_code.store(code, Ordering::Relaxed);
    if group_dead {
        task.signal.timers.delete_all();
    }
    account(task, group_dead);

    exit_mm(task);
    sysv::exit_sem(task);
    sysv::exit_shm(task);
    exit_files(task);
    exit_fs(task);
    if group_dead && task.signal.leader.load(Ordering::Relaxed) {
        crate::drivers::tty::disassociate_ctty(true);
    }
    drop(task.nsproxy.replace(None));

    exit_child_reaper(task);
    exit_notify(task, group_dead);
    sched::exit_current()
}

/// Signals that only this thread could have handled are passed to its siblings.
fn exit_signals(task: &Task) {
    if task.stop_pending.load(Ordering::Acquire) {
        // A stop of its process does not wait for it.
        let list = list::lock();
        let last = {
            let mut shared = task.signal.shared.lock();
            !shared.flags.contains(GroupFlags::EXIT) && signal::participate(task, &mut shared)
        };
        if last {
            signal::notify_job_control(&list, task, cld::STOPPED);
        }
    }
    if task.signal.live.load(Ordering::Relaxed) > 1 {
        let blocked = task.sig.lock().blocked;
        signal::retarget_shared_pending(task, SigSet(!blocked.0));
    }
}

/// Adds the thread's times to its group's account.
fn account(task: &Task, group_dead: bool) {
    if let Some(mm) = task.mm()
        && group_dead
    {
        task.signal.dead.maxrss.fetch_max(mm.max_rss() as u64, Ordering::Relaxed);
    }
}

/// Lets go of the memory: robust futexes and `clear_child_tid` first (`mm_release`), a vfork's parent
/// last.
fn exit_mm(task: &Task) {
    mm_release(task);
    if let Some(mm) = task.se.replace_mm(None) {
        mm.put_user();
    }
    complete_vfork(task);
}

/// What must be told through the old memory before exec or exit lets go of it.
pub fn mm_release(task: &Task) {
    let robust = task.robust_list.swap(0, Ordering::Relaxed);
    if robust != 0 {
        let tid = task.pid_nr(task.thread_pid.own().ns());
        crate::ipc::futex::exit_robust_list(robust, tid);
    }
    crate::ipc::futex_pi::exit_pi_state();
    let addr = task.clear_child_tid.swap(0, Ordering::Relaxed);
    // A process that nobody shares memory with has nobody to tell.
    if addr != 0 && task.mm().is_some_and(|mm| mm.users() > 1) {
        let _ = UserPtr::<u32>::new(addr).write(0);
        let _ = crate::ipc::futex::futex_wake_user(addr, 1);
    }
}

/// Wakes the parent of a vfork: its memory is its own again.
pub fn complete_vfork(task: &Task) {
    let done = task.vfork_done.lock().take();
    if let Some(done) = done {
        done.done.store(true, Ordering::Release);
        done.wait.wake_all();
    }
}

fn exit_files(task: &Task) {
    // Dropped with no lock held: closing may sleep.
    drop(task.files.replace(None));
}

fn exit_fs(task: &Task) {
    drop(task.fs.replace(None));
}

/// Hands the children on, then tells the parent; a task that nobody will wait for is released here.
fn exit_notify(task: &Task, group_dead: bool) {
    let (autoreap, filters) = {
        let list = list::lock();
        cgroup::exit(&list, task);
        let filters = task.seccomp.release();
        sched_exit(task);
        forget_original_parent(&list, task);
        if group_dead {
            orphaned_pgrp_by_exit(&list, task.leader());
        }
        // A leader is told about when its last thread is gone; a tracer is told about every thread.
        let alone = task.is_leader() && task.signal.nr_threads.load(Ordering::Relaxed) == 1;
        let autoreap = if task.ptrace.is_traced() {
            let own = alone && !ptrace::is_reparented(&list, task);
            do_notify_parent(&list, task, if own { exit_signal(task) } else { SIGCHLD })
        } else if task.is_leader() {
            alone && do_notify_parent(&list, task, exit_signal(task))
        } else {
            true
        };
        let state = if autoreap { EXIT_DEAD } else { EXIT_ZOMBIE };
        task.exit_state.store(state, Ordering::Release);
        wake_execing(task);
        (autoreap, filters)
    };
    drop(filters);
    if autoreap {
        release_task(task);
    }
}

/// An execing sibling waits for a thread to be gone; under the list's lock.
fn wake_execing(task: &Task) {
    let exec = task.signal.group_exec_task.load(Ordering::Acquire);
    if !exec.is_null() {
        // SAFETY: the task that execs is one of the group's threads, alive under the list's lock.
        sched::wake_up_process(unsafe { &(*exec).se });
    }
}

/// A namespace's reaper ends: another thread of its process takes its place, or, if there is none, the
/// namespace ends with it (`find_child_reaper`).
fn exit_child_reaper(task: &Task) {
    let pid = task.thread_pid.share();
    let ns = pid.ns();
    let me = core::ptr::from_ref(task).cast_mut().cast();
    {
        let _list = list::lock();
        if ns.child_reaper.load(Ordering::Acquire) != me {
            return;
        }
        let other =
            task.signal.threads.iter().find(|t| !t.is_exiting() && !core::ptr::eq(*t, task));
        if let Some(other) = other {
            let other = core::ptr::from_ref(other).cast_mut().cast();
            ns.child_reaper.store(other, Ordering::Release);
            return;
        }
        ns.dying.store(true, Ordering::Release);
    }
    zap_pid_ns(task, ns);
}

/// Kills everybody in the namespace whose reaper `task` is, and waits until they are gone
/// (`zap_pid_ns_processes`; pid_namespaces(7)).
fn zap_pid_ns(task: &Task, ns: &PidNs) {
    // Children that are handed to us from now on become no zombies.
    let ignore = SigAction { handler: SigAction::SIG_IGN, ..SigAction::default() };
    task.sighand.own().actions.lock()[SIGCHLD as usize - 1] = ignore;
    let mut from = 2;
    while let Some(pid) = Pid::find_from(from, ns) {
        from = pid.nr_in(ns) + 1;
        let list = list::lock();
        if let Some(victim) = list.thread_of(&pid).filter(|t| !t.same_group(task)) {
            let _ = signal::send_locked(&list, SigInfo::kernel(SIGKILL), victim, true);
        }
    }
    let children = WaitOptions::ALL | WaitOptions::EXITED;
    loop {
        // Our own death is no reason to stop waiting.
        task.se.thread.info.clear(ThreadFlags::SIGPENDING);
        if let Err(Errno::ECHILD) = do_wait(&Which::All, children) {
            break;
        }
    }
    // Those who came by setns(2) have parents outside, who wait for them.
    let own = if task.is_leader() { 1 } else { 2 };
    crate::wait_event!(ns.empty_wait, ns.nr_tasks.load(Ordering::Acquire) <= own);
    let reboot = ns.reboot.load(Ordering::Relaxed);
    if reboot != 0 {
        let mut shared = task.signal.shared.lock();
        shared.flags.insert(GroupFlags::EXIT);
        shared.exit_code = reboot;
    }
}

/// What is left of the task's share of the CPU goes back to who forked it, or for a thread to its
/// process's leader; under the list's lock.
fn sched_exit(task: &Task) {
    let heir = if task.is_leader() { &task.real_parent } else { &task.group_leader };
    // SAFETY: null, or alive under the list's lock: parents hand their children on before they go,
    // and a leader stays until its threads are gone.
    if let Some(heir) = unsafe { heir.load(Ordering::Relaxed).as_ref() } {
        sched::sched_exit(&heir.se);
    }
}

/// What a task's parent is sent when it ends; not positive for nothing.
pub fn exit_signal(task: &Task) -> i32 {
    task.exit_signal.load(Ordering::Relaxed)
}

/// True if the children of a process become no zombies.
pub fn ignores_children(parent: &Task) -> bool {
    let action = parent.sighand.with(|s| s.get(SIGCHLD));
    action.handler == SigAction::SIG_IGN || action.flags & SA_NOCLDWAIT != 0
}

/// Tells the parent, or the tracer, that `task`, or with it its group, ended; true if it does not want to know, so that
/// no zombie stays (`SIG_IGN` for SIGCHLD, or `SA_NOCLDWAIT`).
pub fn do_notify_parent(list: &TaskList, task: &Task, sig: i32) -> bool {
    pidfd::notify(task);
    let parent_ptr = task.parent.load(Ordering::Relaxed);
    if parent_ptr.is_null() {
        return true;
    }
    // SAFETY: a parent is alive under the list's lock: it hands its children on before it goes.
    let parent = unsafe { &*parent_ptr };
    let mut autoreap = false;
    let mut send = crate::signal::is_valid(sig);
    // A tracer always wants to know.
    if sig == SIGCHLD && !task.ptrace.is_traced() {
        let action = parent.sighand.with(|s| s.get(SIGCHLD));
        if action.handler == SigAction::SIG_IGN || action.flags & SA_NOCLDWAIT != 0 {
            autoreap = true;
            send = action.handler != SigAction::SIG_IGN;
        }
    }
    notify_parent(list, task, parent, send.then_some(sig));
    autoreap
}

/// Gives the children of a task that exits to another thread of its process, to the nearest subreaper,
/// or to the reaper of its pid namespace.
fn forget_original_parent(list: &TaskList, father: &Task) {
    ptrace::attach::exit_ptrace(list, father);
    if father.children.is_empty() {
        return;
    }
    let reaper = find_new_reaper(list, father);
    while let Some(child) = father.children.first() {
        list.reparent(child, reaper);
        let sig = child.pdeath_signal.load(Ordering::Relaxed);
        if sig != 0 {
            let _ = signal::send_locked(list, SigInfo::kernel(sig), child, true);
        }
        if core::ptr::eq(&raw const *child.signal, &raw const *father.signal) {
            continue;
        }
        if !reaper.same_group(father) {
            child.exit_signal.store(SIGCHLD, Ordering::Relaxed);
        }
        let zombie = child.exit_state.load(Ordering::Relaxed) == EXIT_ZOMBIE;
        let alone = child.signal.nr_threads.load(Ordering::Relaxed) == 1;
        let traced = child.ptrace.is_traced();
        if zombie && alone && !traced && !reaper.same_group(father) {
            if do_notify_parent(list, child, exit_signal(child)) {
                child.exit_state.store(EXIT_DEAD, Ordering::Release);
                release_locked(list, child);
            }
        } else if !reaper.same_group(father) {
            orphaned_pgrp_by_reparent(list, child, father);
        }
    }
}

/// Who adopts the children of `father`.
fn find_new_reaper<'a>(list: &'a TaskList, father: &'a Task) -> &'a Task {
    if let Some(sibling) =
        father.signal.threads.iter().find(|t| !t.is_exiting() && !core::ptr::eq(*t, father))
    {
        return sibling;
    }
    let ns = father.active_pid_ns();
    let reaper = ns.child_reaper.load(Ordering::Acquire).cast::<Task>();
    // SAFETY: a namespace's reaper outlives its other tasks: its own end ends them first.
    let reaper: &Task = unsafe { &*reaper };
    let level = ns.level;
    if father.signal.has_child_subreaper.load(Ordering::Relaxed) {
        let mut at = father.real_parent.load(Ordering::Relaxed);
        while !at.is_null() && !core::ptr::eq(at, reaper) {
            // SAFETY: ancestors are alive under the list's lock.
            let ancestor = unsafe { &*at };
            // A subreaper outside the namespace adopts nobody inside.
            if ancestor.pid() == 0 || ancestor.thread_pid.with(|pid| pid.level) != level {
                break;
            }
            if ancestor.signal.is_child_subreaper.load(Ordering::Relaxed)
                && let Some(t) = ancestor.signal.threads.iter().find(|t| !t.is_exiting())
            {
                return t;
            }
            at = ancestor.real_parent.load(Ordering::Relaxed);
        }
    }
    let _ = list;
    reaper
}

/// True if no member of the process group has a parent outside the group but inside the session
/// (POSIX: orphaned process group), not counting `ignored`.
pub fn is_orphaned_pgrp(list: &TaskList, pgrp: &Pid, ignored: Option<&Task>) -> bool {
    !list.members(pgrp, PidType::Pgid).any(|member| {
        if ignored.is_some_and(|i| core::ptr::eq(i, member))
            || member.exit_state.load(Ordering::Relaxed) != 0
                && member.signal.live.load(Ordering::Relaxed) == 0
        {
            return false;
        }
        let parent = member.real_parent.load(Ordering::Relaxed);
        if parent.is_null() {
            return false;
        }
        // SAFETY: a parent is alive under the list's lock.
        let parent = unsafe { &*parent };
        // Unlike Linux, init counts: it is a shell with job control where that is all there is.
        parent.pid() > 0
            && !same_pid(&parent.signal, &member.signal, PidType::Pgid)
            && same_pid(&parent.signal, &member.signal, PidType::Sid)
    })
}

fn same_pid(a: &SignalStruct, b: &SignalStruct, kind: PidType) -> bool {
    match (a.pid(kind), b.pid(kind)) {
        (Some(a), Some(b)) => Ref::ptr_eq(&a, &b),
        (None, None) => true,
        _ => false,
    }
}

fn has_stopped_jobs(list: &TaskList, pgrp: &Pid) -> bool {
    list.members(pgrp, PidType::Pgid)
        .any(|t| t.signal.shared.lock().flags.contains(GroupFlags::STOPPED))
}

/// A process group that becomes orphaned with stopped members gets SIGHUP and SIGCONT.
fn hang_up_if_orphaned(list: &TaskList, pgrp: &Pid, ignored: Option<&Task>) {
    if has_stopped_jobs(list, pgrp) && is_orphaned_pgrp(list, pgrp, ignored) {
        let _ = signal::send_pgrp_locked(list, pgrp, SigInfo::kernel(SIGHUP));
        let _ = signal::send_pgrp_locked(list, pgrp, SigInfo::kernel(SIGCONT));
    }
}

/// Our own exit may orphan our group: our parent was its tie to the session.
fn orphaned_pgrp_by_exit(list: &TaskList, task: &Task) {
    let parent = task.real_parent.load(Ordering::Relaxed);
    if parent.is_null() {
        return;
    }
    // SAFETY: a parent is alive under the list's lock.
    let parent = unsafe { &*parent };
    if !same_pid(&parent.signal, &task.signal, PidType::Pgid)
        && same_pid(&parent.signal, &task.signal, PidType::Sid)
        && let Some(pgrp) = task.signal.pid(PidType::Pgid)
    {
        hang_up_if_orphaned(list, &pgrp, Some(task));
    }
}

/// A child's group may have been tied to the session by the parent that just left it.
fn orphaned_pgrp_by_reparent(list: &TaskList, child: &Task, father: &Task) {
    if !same_pid(&father.signal, &child.signal, PidType::Pgid)
        && same_pid(&father.signal, &child.signal, PidType::Sid)
        && let Some(pgrp) = child.signal.pid(PidType::Pgid)
    {
        hang_up_if_orphaned(list, &pgrp, None);
    }
}

/// Takes a dead task off every list and drops the list's reference. A group leader that waited for its
/// last thread is told about now.
pub fn release_task(task: &Task) {
    let list = list::lock();
    release_locked(&list, task);
    drop(list);
    list::drop_released();
}

/// [`release_task`] under the list's lock.
pub fn release_locked(list: &TaskList, task: &Task) {
    let leader = task.leader();
    ptrace::attach::unlink(list, task);
    add_times(&task.signal.dead, task);
    let group_pids = task.is_leader().then(|| {
        [PidType::Tgid, PidType::Pgid, PidType::Sid].map(|kind| task.signal.set_pid(kind, None))
    });
    list.unlink(task);
    cgroup::release(list, task);
    wake_execing(task);
    if !core::ptr::eq(leader, task)
        && leader.signal.nr_threads.load(Ordering::Relaxed) == 1
        && leader.exit_state.load(Ordering::Relaxed) == EXIT_ZOMBIE
        && do_notify_parent(list, leader, exit_signal(leader))
    {
        leader.exit_state.store(EXIT_DEAD, Ordering::Release);
        release_locked(list, leader);
    }
    drop(group_pids);
    // SAFETY: the list's reference, taken in `copy_process`; the task is off the list now. Whoever
    // still runs or looks at it holds its own.
    unsafe { list.put(task) };
}

fn add_times(to: &Accounting, task: &Task) {
    let add = |counter: &core::sync::atomic::AtomicU64, n: u64| {
        counter.fetch_add(n, Ordering::Relaxed);
    };
    let time = task.se.cpu_time();
    let (nvcsw, nivcsw) = task.se.context_switches();
    add(&to.utime, time.user);
    add(&to.stime, time.system);
    add(&to.nvcsw, nvcsw);
    add(&to.nivcsw, nivcsw);
    add(&to.min_flt, task.min_flt.load(Ordering::Relaxed));
    add(&to.maj_flt, task.maj_flt.load(Ordering::Relaxed));
    add(&to.rchar, task.rchar.load(Ordering::Relaxed));
    add(&to.wchar, task.wchar.load(Ordering::Relaxed));
}

/// Makes every other thread of the caller's process leave, so that exec has the process to itself; a
/// caller that is not the leader takes the leader's place and number. `de_thread`.
pub fn de_thread(task: &Task) -> Result<()> {
    let signal = &task.signal;
    if signal.nr_threads.load(Ordering::Relaxed) == 1 {
        return Ok(());
    }
    {
        let shared = signal.shared.lock();
        if shared.flags.contains(GroupFlags::EXIT)
            || !signal.group_exec_task.load(Ordering::Acquire).is_null()
        {
            // Somebody else ends or execs the group: a fatal signal is on its way to us.
            return Err(crate::errno::Errno::EAGAIN);
        }
        signal.group_exec_task.store(core::ptr::from_ref(task).cast_mut(), Ordering::Release);
    }
    kill_other_threads(task);
    let leader_only = || {
        let _list = list::lock();
        let count = signal.nr_threads.load(Ordering::Relaxed);
        let leader = task.leader();
        count == 1
            || count == 2
                && !core::ptr::eq(leader, task)
                && leader.exit_state.load(Ordering::Acquire) == EXIT_ZOMBIE
    };
    // Only the others' ends wake us; they are on their way, but for those whose tracer has yet to ask about them.
    loop {
        task.se.prepare_sleep(TaskState::KILLABLE);
        if leader_only() {
            task.se.cancel_sleep();
            break;
        }
        if fatal_pending(task) {
            task.se.cancel_sleep();
            signal.group_exec_task.store(core::ptr::null_mut(), Ordering::Release);
            return Err(Errno::EAGAIN);
        }
        sched::schedule();
    }
    if !task.is_leader() {
        become_leader(task);
    }
    signal.group_exec_task.store(core::ptr::null_mut(), Ordering::Release);
    Ok(())
}

/// The caller takes over the number, relations and list places of its dead leader.
fn become_leader(task: &Task) {
    let list = list::lock();
    let leader = task.leader();
    let leader_ref = leader.to_ref();
    let me = core::ptr::from_ref(task).cast_mut();
    let (old_pid, leader_pid) = (task.thread_pid.share(), leader.thread_pid.share());
    crate::task::list::TASK_LIST_SEQ.write(|| {
        let parent = leader.real_parent.load(Ordering::Relaxed);
        list.exchange_leader(leader, task, &leader_pid);
        leader.thread_pid.replace(old_pid);
        task.thread_pid.replace(leader_pid);
        leader.pid.store(task.pid(), Ordering::Relaxed);
        task.pid.store(task.tgid(), Ordering::Relaxed);
        task.exit_signal.store(SIGCHLD, Ordering::Relaxed);
        leader.exit_signal.store(-1, Ordering::Relaxed);
        task.real_parent.store(parent, Ordering::Relaxed);
        if !task.ptrace.is_traced() {
            task.parent.store(parent, Ordering::Relaxed);
        }
        task.start_time.store(leader.start_time.load(Ordering::Relaxed), Ordering::Relaxed);
        for thread in task.signal.threads.iter() {
            thread.group_leader.store(me, Ordering::Release);
        }
        // The number of a namespace's reaper comes with its duties.
        let ns = task.active_pid_ns();
        let old: *mut Task = core::ptr::from_ref(leader).cast_mut();
        let _ = ns.child_reaper.compare_exchange(
            old.cast(),
            me.cast(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    });
    // The old leader is an ordinary dead thread now. Its tracer, if it had one, waits for nobody any more.
    if let Some(tracer) = ptrace::tracer_of(&list, leader) {
        tracer.signal.wait_chldexit.wake_all();
    }
    leader.exit_state.store(EXIT_DEAD, Ordering::Release);
    release_locked(&list, &leader_ref);
    drop(list);
    list::drop_released();
}
