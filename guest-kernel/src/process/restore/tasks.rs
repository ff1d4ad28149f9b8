//! The tasks of a checkpoint: numbers, relations, registers; and the moment when they go on.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::numbers::{Membership, Numbers};
use super::plan::{Plan, ThreadPlan, ZombiePlan};
use super::state::{Parts, blockable, pending, set_cpu_time, set_limits};
use super::terminals::Ptys;
use super::{Failure, alone, timers};
use crate::arch::{self, PtRegs, ThreadFlags};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::KernelStack;
use crate::ns::time::WallClock;
use crate::ns::{NsProxy, Pid, PidType, init_pid_ns};
use crate::process::cgroup;
use crate::process::creds::commit_creds;
use crate::process::exit;
use crate::process::fork::{self, new_task};
use crate::sched::{self, ClockBase, CpuRecord, CpuTime, Policy, RestartBlock};
use crate::signal::SIGSTOP;
use crate::task::list::{self, TaskList};
use crate::task::ptrace::JobControl;
use crate::task::{AltStack, EXIT_ZOMBIE, SignalStruct, Task, TaskFlags};

/// The tasks of a process that does not run yet.
pub(super) struct Made {
    pub(super) leader: Ref<Task>,
    threads: Vec<Ref<Task>>,
    membership: Membership,
    zombies: Vec<Zombie>,
}

/// A child that has ended.
struct Zombie {
    task: Ref<Task>,
    membership: Membership,
}

impl Made {
    /// The group called `nr` in the checkpoint, if the process of `plan` or a child of it that has ended is in it, in
    /// the session `sid`.
    pub(super) fn group_in(&self, plan: &Plan<'_>, nr: u64, sid: &Ref<Pid>) -> Option<Ref<Pid>> {
        let zombies = plan.zombies.iter().zip(&self.zombies);
        core::iter::once((plan.process.pgid, &self.membership))
            .chain(zombies.map(|(plan, zombie)| (plan.record.pgid, &zombie.membership)))
            .find(|(pgid, of)| *pgid == nr && Ref::ptr_eq(&of.sid, sid))
            .map(|(_, of)| of.pgid.clone())
    }
}

/// Makes all tasks, links them and lets them go on.
#[inline(never)]
pub(super) fn start(
    caller: &'static Task,
    plans: &[Plan<'_>],
    mut parts: Vec<Parts>,
    mut numbers: Numbers,
    ptys: &Ptys,
    become_root: Option<&mut PtRegs>,
) -> Result<Ref<Task>, Failure> {
    let becomes = become_root.is_some();
    let root = &plans[0];
    let no_memory = |plan| Failure::new(plan, Errno::ENOMEM, format_args!("its tasks: ENOMEM"));
    let outside = adopter(caller);
    let mut made: Vec<Made> = Vec::new();
    made.try_reserve_exact(plans.len()).map_err(|_| no_memory(root))?;
    for (index, plan) in plans.iter().enumerate() {
        let failed = |errno| Failure::new(plan, errno, format_args!("its tasks: {errno}"));
        let own = becomes && index == 0;
        made.push(make(outside, plan, &parts[index], &mut numbers, own).map_err(failed)?);
    }
    // From here on nothing fails.
    if becomes {
        alone(caller)?;
    }
    if let Some(regs) = become_root {
        commit(caller, root, &mut parts[0], regs);
    }
    {
        let list = list::lock();
        for (index, (plan, tasks)) in plans.iter().zip(&made).enumerate() {
            let parent = plans[..index].iter().position(|p| p.process.pid == plan.process.ppid);
            let parent = parent.map_or(outside, |at| &*made[at].leader);
            enter(&list, plan, tasks, parent, becomes && index == 0);
        }
    }
    let leader = made[0].leader.clone();
    ptys.settle(plans, &made);
    for (index, tasks) in made.iter().enumerate() {
        parts[index].mm_used = true;
        timers::start(&tasks.leader);
        let first = usize::from(becomes && index == 0);
        for task in &tasks.threads[first..] {
            fork::start(task);
        }
    }
    Ok(leader)
}

/// Whose children the processes are, in whose groups those are that belong to none of their own: the caller, or
/// init if that is a kernel thread, which waits for nobody.
fn adopter(caller: &'static Task) -> &'static Task {
    let init = init_pid_ns().child_reaper.load(Ordering::Acquire).cast::<Task>();
    if !caller.is_kthread() || caller.pid() == 1 || init.is_null() {
        return caller;
    }
    // SAFETY: init is there as long as the machine runs.
    unsafe { &*init }
}

/// The tasks of one process; with `own` the first one is the caller.
fn make(
    caller: &Task,
    plan: &Plan<'_>,
    parts: &Parts,
    numbers: &mut Numbers,
    own: bool,
) -> Result<Made> {
    let process = &plan.process;
    let own_pid = numbers.get(process.pid).ok_or(Errno::ESRCH)?;
    let membership = numbers.membership(caller, &own_pid, process.pgid, process.sid)?;
    let mut threads = Vec::new();
    threads.try_reserve_exact(plan.threads.len()).map_err(|_| Errno::ENOMEM)?;
    for thread in &plan.threads {
        if own && threads.is_empty() {
            threads.push(caller.to_ref());
            continue;
        }
        let pid = numbers.get(thread.record.tid).ok_or(Errno::ESRCH)?;
        let stack = KernelStack::alloc()?;
        let range = stack.range();
        let signal = if own { &caller.signal } else { &parts.signal };
        let task = new_task(
            pid,
            parts.cred.clone(),
            parts.files.clone(),
            parts.fs.clone(),
            parts.proxy.clone(),
            signal.clone(),
            parts.sighand.clone(),
            Some(stack),
        )?;
        // SAFETY: nobody else knows the task yet; its stack is its own.
        unsafe {
            task.se.set_mm(Some(parts.mm.clone()));
            *task.se.thread.fp.get() = thread.fp;
            *task.se.thread.tpidr_el0.get() = thread.tls;
            *task.altstack.get() = altstack(thread);
            *task.restart.get() = restart(thread, &parts.proxy);
            arch::setup_user_thread(&task.se.thread, range, &thread.regs, went_on);
        }
        sched::sched_fork(&task.se);
        describe(&task, plan, thread);
        if caller.has_no_new_privs() {
            task.set_no_new_privs();
        }
        parts.filters.apply(&task, plan, thread);
        threads.push(task);
    }
    let mut zombies = Vec::new();
    zombies.try_reserve_exact(plan.zombies.len()).map_err(|_| Errno::ENOMEM)?;
    for zombie in &plan.zombies {
        zombies.push(make_zombie(caller, zombie, parts, numbers)?);
    }
    Ok(Made { leader: threads[0].clone(), threads, membership, zombies })
}

/// A task that has nothing but an end to tell of.
fn make_zombie(
    caller: &Task,
    zombie: &ZombiePlan<'_>,
    parts: &Parts,
    numbers: &mut Numbers,
) -> Result<Zombie> {
    let record = &zombie.record;
    let pid = numbers.get(record.pid).ok_or(Errno::ESRCH)?;
    let membership = numbers.membership(caller, &pid, record.pgid, record.sid)?;
    let mut cred = parts.cred.try_clone()?;
    (cred.uid, cred.gid) = (record.uid as u32, record.gid as u32);
    let signal = SignalStruct::new(parts.signal.rlimits.copy())?;
    signal.live.store(0, Ordering::Relaxed);
    signal.dead.utime.store(record.utime, Ordering::Relaxed);
    signal.dead.stime.store(record.stime, Ordering::Relaxed);
    let task = new_task(
        pid,
        Ref::try_new(cred)?,
        parts.files.clone(),
        parts.fs.clone(),
        parts.proxy.clone(),
        signal,
        parts.sighand.clone(),
        None,
    )?;
    // What a task lets go of when it ends.
    drop(task.files.replace(None));
    drop(task.fs.replace(None));
    drop(task.nsproxy.replace(None));
    task.set_comm(zombie.comm);
    task.set_flags(TaskFlags::EXITING);
    task.exit_code.store(record.status as i32, Ordering::Relaxed);
    task.exit_signal.store(record.exit_signal as i32, Ordering::Relaxed);
    task.exit_state.store(EXIT_ZOMBIE, Ordering::Relaxed);
    Ok(Zombie { task, membership })
}

/// The first thing that a resumed thread runs.
extern "C" fn went_on(_: usize) {}

fn altstack(thread: &ThreadPlan<'_>) -> AltStack {
    let record = &thread.record;
    AltStack {
        sp: record.altstack_sp,
        size: record.altstack_size,
        flags: record.altstack_flags as u32,
    }
}

/// How an interrupted call goes on, by the machine's clocks.
fn restart(thread: &ThreadPlan<'_>, proxy: &NsProxy) -> RestartBlock {
    let mut block = thread.restart;
    if block.clock == ClockBase::Monotonic {
        block.deadline = proxy.time.to_machine(WallClock::MONOTONIC, block.deadline);
    }
    block
}

/// What a task has beside registers.
fn describe(task: &Task, plan: &Plan<'_>, thread: &ThreadPlan<'_>) {
    let record = &thread.record;
    task.set_comm(thread.comm);
    task.se.resume_cpu_time(&CpuRecord {
        sum: record.cpu_ns,
        sampled: CpuTime { user: record.user_sampled, system: record.system_sampled },
        shown: CpuTime { user: record.utime, system: record.stime },
    });
    task.clear_child_tid.store(record.clear_child_tid, Ordering::Relaxed);
    task.robust_list.store(record.robust_list, Ordering::Relaxed);
    task.pdeath_signal.store(record.pdeath_signal as i32, Ordering::Relaxed);
    task.personality.store(record.personality as u32, Ordering::Relaxed);
    {
        let mut signals = task.sig.lock();
        signals.blocked = blockable(record.blocked);
        if record.has_saved_mask != 0 {
            signals.saved_mask.set_once(blockable(record.saved_mask));
        }
        for info in pending(plan, record.tid) {
            signals.pending.add(info);
        }
    }
    // What is to be done on the way to EL0 is found there: signals, and the call to go on with.
    task.se.thread.info.set(ThreadFlags::SIGPENDING);
    let policy = Policy::from_number(record.policy as u32).unwrap_or(Policy::Normal);
    let nice = record.nice as i64 as i32;
    // A priority that does not fit the policy leaves an ordinary task.
    if task.se.set_scheduler(policy, nice, record.rt_priority as u32).is_err() {
        task.se.set_nice(nice);
    }
    // CPUs that this machine lacks are no restriction.
    let _ = task.se.set_cpus_allowed(record.cpus_allowed);
}

/// The point of no return for a caller that becomes the first process: it lets go of its own program.
fn commit(task: &Task, plan: &Plan<'_>, parts: &mut Parts, regs: &mut PtRegs) {
    let thread = &plan.threads[0];
    exit::mm_release(task);
    parts.mm_used = true;
    let old = task.se.replace_mm(Some(parts.mm.clone()));
    if let Some(old) = old {
        old.put_user();
    }
    exit::complete_vfork(task);
    drop(task.files.replace(Some(parts.files.clone())));
    drop(task.fs.replace(Some(parts.fs.clone())));
    drop(task.nsproxy.replace(Some(parts.proxy.clone())));
    drop(task.sighand.replace(parts.sighand.clone()));
    commit_creds(task, parts.cred.clone());
    let signal = &task.signal;
    signal.timers.delete_all();
    timers::take_over(&signal.timers, &parts.signal.timers);
    let _ = set_limits(&signal.rlimits, plan);
    set_cpu_time(signal, plan);
    signal.did_exec.store(true, Ordering::Relaxed);
    let adj = plan.process.oom_score_adj as i64 as i32;
    signal.oom_score_adj.store(adj, Ordering::Relaxed);
    signal.is_child_subreaper.store(plan.process.subreaper != 0, Ordering::Relaxed);
    task.set_child_tid.store(0, Ordering::Relaxed);
    task.set_restart(restart(thread, &parts.proxy));
    // SAFETY: it belongs to the calling task itself.
    unsafe { *task.altstack.get() = altstack(thread) };
    task.clear_flags(TaskFlags::FORKNOEXEC | TaskFlags::KTHREAD);
    describe(task, plan, thread);
    parts.filters.apply(task, plan, thread);
    arch::replace_user_state(&thread.fp, thread.tls);
    *regs = thread.regs;
}

/// Puts the leader of a process on the task list.
fn link(list: &TaskList, leader: &Ref<Task>, parent: &Task, of: &Membership) {
    let parent = core::ptr::from_ref(parent).cast_mut();
    leader.real_parent.store(parent, Ordering::Relaxed);
    leader.parent.store(parent, Ordering::Relaxed);
    leader.group_leader.store(Ref::as_ptr(leader).cast_mut(), Ordering::Relaxed);
    leader.tgid.store(leader.pid(), Ordering::Relaxed);
    let _ = leader.signal.set_pid(PidType::Tgid, Some(leader.thread_pid.share()));
    let _ = leader.signal.set_pid(PidType::Pgid, Some(of.pgid.clone()));
    let _ = leader.signal.set_pid(PidType::Sid, Some(of.sid.clone()));
    // The list's own reference; `release_task` takes it back.
    core::mem::forget(leader.clone());
    list.link_new(leader);
}

/// Puts a process on the task list, under its parent; `own`: its leader is there already.
fn enter(list: &TaskList, plan: &Plan<'_>, made: &Made, parent: &Task, own: bool) {
    let leader = &made.leader;
    let leader_ptr = Ref::as_ptr(leader).cast_mut();
    let signal = &leader.signal;
    if !own {
        leader.exit_signal.store(plan.process.exit_signal as i32, Ordering::Relaxed);
        let sid = &made.membership.sid;
        let leads =
            plan.process.session_leader != 0 && Ref::ptr_eq(sid, &leader.thread_pid.share());
        signal.leader.store(leads, Ordering::Relaxed);
        let subreaper = parent.signal.has_child_subreaper.load(Ordering::Relaxed)
            || parent.signal.is_child_subreaper.load(Ordering::Relaxed);
        signal.has_child_subreaper.store(subreaper, Ordering::Relaxed);
        let same_session =
            parent.signal.pid(PidType::Sid).is_some_and(|theirs| Ref::ptr_eq(&theirs, sid));
        if same_session {
            let _ = signal.tty.replace(parent.signal.tty.get());
        }
        cgroup::adopt(list, parent, leader);
        link(list, leader, parent, &made.membership);
    }
    for zombie in &made.zombies {
        link(list, &zombie.task, leader, &zombie.membership);
    }
    for thread in &made.threads[1..] {
        let real_parent = leader.real_parent.load(Ordering::Relaxed);
        thread.real_parent.store(real_parent, Ordering::Relaxed);
        thread.parent.store(real_parent, Ordering::Relaxed);
        thread.group_leader.store(leader_ptr, Ordering::Relaxed);
        thread.tgid.store(leader.pid(), Ordering::Relaxed);
        thread.exit_signal.store(-1, Ordering::Relaxed);
        signal.live.fetch_add(1, Ordering::Relaxed);
        // As above.
        core::mem::forget(thread.clone());
        cgroup::adopt(list, leader, thread);
        list.link_new(thread);
    }
    // The address space has one user a thread; the first is who built it.
    for _ in &made.threads[1..] {
        if let Some(mm) = leader.se.get_mm() {
            drop(mm.share());
        }
    }
    let mut shared = signal.shared.lock();
    for info in pending(plan, 0) {
        shared.pending.add(info);
    }
    signal.publish(&shared);
    if plan.process.stopped != 0 {
        // The threads stop on their way to EL0, and the last one to do so tells the parent.
        shared.stopping = SIGSTOP;
        shared.exit_code = SIGSTOP;
        shared.stop_count = made.threads.len() as u32;
        for thread in &made.threads {
            thread.stop_pending.store(true, Ordering::Release);
            thread.ptrace.set_jobctl(JobControl::STOP_CONSUME);
        }
    }
}
