#![allow(missing_docs, reason = "flags have the names of clone(2)")]
//! fork(2), vfork(2), clone(2), clone3(2) and kernel threads: one `copy_process` behind all of them.

use alloc::vec::Vec;
use bitflags::bitflags;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::arch::{self, KernelStackRange, PtRegs};
use crate::cgroup::{Cgroup, Member};
use crate::errno::{Errno, Result};
use crate::fs::{Files, FsStruct};
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::mm::{KernelStack, Mm, UserPtr};
use crate::ns::{Cap, Cred, NsProxy, Pid, PidNs, PidType};
use crate::process::ptrace::{self, Event};
use crate::process::{cgroup, exit, hold};
use crate::sched::{self, Entity};
use crate::signal::{SIGCHLD, Sighand};
use crate::sync::{IrqLock, SpinLock};
use crate::task::rlimit::Resource;
use crate::task::{
    self, EXIT_ALIVE, OwnCell, SignalStruct, Task, TaskFlags, ThreadSignals, VforkDone, list,
};

/// How late timers of programs may be that did not ask for anything else, in ns (`PR_SET_TIMERSLACK`).
const TIMER_SLACK: u64 = 50_000;

bitflags! {
    /// clone(2) flags.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CloneFlags: u64 {
        const NEWTIME = 0x0000_0080;
        const VM = 0x0000_0100;
        const FS = 0x0000_0200;
        const FILES = 0x0000_0400;
        const SIGHAND = 0x0000_0800;
        const PIDFD = 0x0000_1000;
        const PTRACE = 0x0000_2000;
        const VFORK = 0x0000_4000;
        const PARENT = 0x0000_8000;
        const THREAD = 0x0001_0000;
        const NEWNS = 0x0002_0000;
        const SYSVSEM = 0x0004_0000;
        const SETTLS = 0x0008_0000;
        const PARENT_SETTID = 0x0010_0000;
        const CHILD_CLEARTID = 0x0020_0000;
        const DETACHED = 0x0040_0000;
        const UNTRACED = 0x0080_0000;
        const CHILD_SETTID = 0x0100_0000;
        const NEWCGROUP = 0x0200_0000;
        const NEWUTS = 0x0400_0000;
        const NEWIPC = 0x0800_0000;
        const NEWUSER = 0x1000_0000;
        const NEWPID = 0x2000_0000;
        const NEWNET = 0x4000_0000;
        const IO = 0x8000_0000;
        const CLEAR_SIGHAND = 0x1_0000_0000;
        const INTO_CGROUP = 0x2_0000_0000;
        /// A child namespace of any kind.
        const NEW_NAMESPACE = 0x7e02_0080;
    }
}

/// What to make; the fields are those of `struct clone_args` (clone(2)).
#[derive(Clone, Debug)]
pub struct CloneArgs {
    /// Flags.
    pub flags: CloneFlags,
    /// Signal for the parent when the child ends; 0 for none.
    pub exit_signal: i32,
    /// The child's stack pointer; 0 to keep the parent's.
    pub stack: u64,
    /// Thread pointer, with `CLONE_SETTLS`.
    pub tls: u64,
    /// Where to store the child's tid in the parent.
    pub parent_tid: u64,
    /// Where to store and clear the child's tid in the child.
    pub child_tid: u64,
    /// Where to store the pid descriptor.
    pub pidfd: u64,
    /// Numbers for the child, the innermost namespace's first.
    pub set_tid: Vec<u32>,
    /// The control group that the child starts in, with `CLONE_INTO_CGROUP`; else its parent's.
    pub cgroup: Option<Ref<Cgroup>>,
}

impl CloneArgs {
    /// What fork(2) means.
    pub fn fork() -> Self {
        Self {
            flags: CloneFlags::empty(),
            exit_signal: SIGCHLD,
            stack: 0,
            tls: 0,
            parent_tid: 0,
            child_tid: 0,
            pidfd: 0,
            set_tid: Vec::new(),
            cgroup: None,
        }
    }
}

/// Combinations that make no sense are refused with Linux's errno (clone(2), ERRORS), before anything that the arguments
/// refer to is looked at.
pub fn check_flags(args: &CloneArgs) -> Result<()> {
    let flags = args.flags;
    let has = |f| flags.contains(f);
    let sharing = has(CloneFlags::NEWNS) && has(CloneFlags::FS)
        || has(CloneFlags::NEWUSER) && has(CloneFlags::FS)
        || has(CloneFlags::THREAD) && !has(CloneFlags::SIGHAND)
        || has(CloneFlags::SIGHAND) && !has(CloneFlags::VM)
        || has(CloneFlags::SIGHAND) && has(CloneFlags::CLEAR_SIGHAND)
        || has(CloneFlags::THREAD) && flags.intersects(CloneFlags::NEWUSER | CloneFlags::NEWPID)
        || has(CloneFlags::PIDFD) && flags.intersects(CloneFlags::DETACHED | CloneFlags::THREAD)
        // Two answers to one place; for clone(2) both always are.
        || has(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) && args.pidfd == args.parent_tid;
    // clone(2) takes any number for the signal; what is none is not sent.
    if sharing {
        return Err(Errno::EINVAL);
    }
    // A sibling of a namespace's reaper would have no parent inside it.
    if has(CloneFlags::PARENT)
        && task::current().signal.shared.lock().flags.contains(task::GroupFlags::UNKILLABLE)
    {
        return Err(Errno::EINVAL);
    }
    // A thread lives in its process's pid namespace and with its clocks.
    let task = task::current();
    let proxy = task.nsproxy();
    let other_pids = has(CloneFlags::NEWUSER)
        || has(CloneFlags::NEWPID)
        || !Ref::ptr_eq(task.thread_pid.own().ns(), &proxy.pid_for_children);
    if has(CloneFlags::THREAD) && other_pids
        || flags.intersects(CloneFlags::THREAD | CloneFlags::VM)
            && (has(CloneFlags::NEWTIME) || !Ref::ptr_eq(&proxy.time, &proxy.time_for_children))
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Makes a child, starts it, and returns its number as the caller sees it. With `CLONE_VFORK` the
/// caller sleeps until the child lets go of its memory.
pub fn kernel_clone(args: &CloneArgs, regs: &PtRegs) -> Result<u32> {
    let parent = task::current();
    let event = trace_event(args).filter(|event| event.is_wanted(parent));
    let traced = event.is_some() || args.flags.contains(CloneFlags::PTRACE);
    let Made { task: child, pidfd } = copy_process(args, regs, traced)?;
    let nr = child.pid_nr(parent.thread_pid.own().ns());
    let message = event.map_or(0, |_| ptrace::stop::number_for_tracer(&child));
    if let Some((slot, file)) = pidfd {
        slot.install(file);
    }
    if args.flags.contains(CloneFlags::PARENT_SETTID) {
        // The child exists by now: a bad address is the caller's loss, as in Linux.
        let _ = UserPtr::<u32>::new(args.parent_tid).write(nr);
    }
    let vfork = if args.flags.contains(CloneFlags::VFORK) {
        let done = Ref::try_new(VforkDone::default());
        match done {
            Ok(done) => {
                *child.vfork_done.lock() = Some(done.clone());
                Some(done)
            }
            Err(_) => None,
        }
    } else {
        None
    };
    start(&child);
    if let Some(event) = event {
        ptrace::stop::event(event, message);
    }
    if let Some(done) = vfork {
        // Waiting here counts as frozen: the child, which may be, cannot let go.
        cgroup::set_frozen(parent, true);
        // A fatal signal ends the wait; the child then runs on alone.
        let waited = crate::wait_event_killable!(done.wait, done.done.load(Ordering::Acquire));
        cgroup::set_frozen(parent, false);
        if waited.is_ok() && Event::VforkDone.is_wanted(parent) {
            ptrace::stop::event(Event::VforkDone, ptrace::stop::number_for_tracer(&child));
        }
    }
    Ok(nr)
}

/// What a tracer may want to know about it.
fn trace_event(args: &CloneArgs) -> Option<Event> {
    if args.flags.contains(CloneFlags::UNTRACED) {
        None
    } else if args.flags.contains(CloneFlags::VFORK) {
        Some(Event::Vfork)
    } else if args.exit_signal == SIGCHLD {
        Some(Event::Fork)
    } else {
        Some(Event::Clone)
    }
}

/// Hands a new task to the scheduler, which holds one reference until the task is dead.
pub fn start(child: &Ref<Task>) {
    let raw = Ref::into_raw(child.clone());
    // SAFETY: the reference just given away keeps the task alive; `put_entity` takes it back.
    sched::wake_up_new(unsafe { &(*raw).se });
}

/// Makes a copy of the current task, shared or not part by part as the flags say. The child is on the
/// task list and does not run yet.
fn copy_process(args: &CloneArgs, regs: &PtRegs, traced: bool) -> Result<Made> {
    check_flags(args)?;
    let parent = task::current();
    let flags = args.flags;
    check_nproc(parent)?;

    let cred = copy_creds(flags, parent)?;
    let files = copy_files(flags, parent)?;
    let fs = copy_fs(flags, parent)?;
    let sighand = copy_sighand(flags, parent)?;
    let signal = copy_signal(flags, parent)?;
    let mm = copy_mm(flags, parent)?;
    let nsproxy = copy_namespaces(flags, parent, &cred, &fs)?;
    let pid = alloc_pid(args, &nsproxy.pid_for_children, &cred)?;
    let pidfd = if flags.contains(CloneFlags::PIDFD) {
        let limit = parent.signal.rlimits.soft(Resource::Nofile) as usize;
        let slot = parent.files().reserve(0, limit, true)?;
        UserPtr::<i32>::new(args.pidfd).write(slot.fd())?;
        Some((slot, crate::process::pidfd::open(pid.clone(), false)?))
    } else {
        None
    };
    let stack = KernelStack::alloc()?;
    let stack_range = stack.range();

    let child = new_task(pid, cred, files, fs, nsproxy, signal, sighand, Some(stack))?;
    child.set_flags(TaskFlags::FORKNOEXEC);
    drop(child.mm_user_ns.replace(parent.mm_user_ns.own().clone()));
    *child.comm.lock() = parent.comm().0;
    copy_semundo(flags, parent, &child)?;
    copy_thread(args, regs, &child, stack_range);
    // SAFETY: nobody else knows the child yet.
    unsafe { child.se.set_mm(Some(mm)) };
    sched::sched_fork(&child.se);
    copy_signal_mask(flags, parent, &child);
    if flags.contains(CloneFlags::CHILD_SETTID) {
        child.set_child_tid.store(args.child_tid, Ordering::Relaxed);
    }
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        child.clear_child_tid.store(args.child_tid, Ordering::Relaxed);
    }
    child.personality.store(parent.personality.load(Ordering::Relaxed), Ordering::Relaxed);
    child.io_priority.store(parent.io_priority.load(Ordering::Relaxed), Ordering::Relaxed);
    let slack = parent.timer_slack.load(Ordering::Relaxed);
    child.timer_slack.store(slack, Ordering::Relaxed);
    child.default_timer_slack.store(slack, Ordering::Relaxed);

    enter(args, parent, &child, traced)?;
    if !flags.contains(CloneFlags::VM) && crate::cgroup::count() > 1 {
        cgroup::sync_memory(&child);
    }
    Ok(Made { task: child, pidfd })
}

/// A child, and the descriptor for its parent with the file that goes there.
struct Made {
    task: Ref<Task>,
    pidfd: Option<(crate::fs::files::Reserved<'static>, Ref<crate::fs::File>)>,
}

/// The child's numbers; those that clone3(2)'s `set_tid` chooses must be allowed in their namespaces.
fn alloc_pid(args: &CloneArgs, ns: &Ref<PidNs>, cred: &Cred) -> Result<Ref<Pid>> {
    if args.set_tid.len() > ns.level as usize + 1 {
        return Err(Errno::EINVAL);
    }
    let mut at = Some(ns);
    for &nr in &args.set_tid {
        let Some(ns) = at else { return Err(Errno::EINVAL) };
        let reaper = !ns.child_reaper.load(Ordering::Acquire).is_null();
        if nr == 0 || nr >= crate::ns::pid::pid_max() || nr != 1 && !reaper {
            return Err(Errno::EINVAL);
        }
        let owner = ns.common.user_ns();
        if !cred.ns_capable(owner, Cap::CheckpointRestore) && !cred.ns_capable(owner, Cap::SysAdmin)
        {
            return Err(Errno::EPERM);
        }
        at = ns.parent.as_ref();
    }
    Pid::alloc(ns, &args.set_tid)
}

/// Puts the child on the task list, in its group, under its parent.
fn enter(args: &CloneArgs, parent: &Task, child: &Ref<Task>, traced: bool) -> Result<()> {
    let flags = args.flags;
    let child_ptr = Ref::as_ptr(child).cast_mut();
    let thread = flags.contains(CloneFlags::THREAD);
    let list = list::lock();
    let pid = child.thread_pid.own();
    // The namespace's reaper may have gone meanwhile: whom it did not see it did not kill.
    if pid.ns().dying.load(Ordering::Acquire) {
        return Err(Errno::ENOMEM);
    }
    // A signal that was sent to the whole group meanwhile must reach the child too: the caller
    // handles it and forks again.
    if parent.se.thread.info.flags().contains(arch::ThreadFlags::SIGPENDING)
        && signal_pending_for_fork(parent)
    {
        return Err(Errno::ERESTARTNOINTR);
    }
    // The last step that can fail.
    cgroup::fork(&list, parent, child, args.cgroup.as_deref())?;
    copy_seccomp(&list, parent, child);
    let real_parent = if flags.intersects(CloneFlags::PARENT | CloneFlags::THREAD) {
        child.exit_signal.store(
            if thread { -1 } else { parent.exit_signal.load(Ordering::Relaxed) },
            Ordering::Relaxed,
        );
        parent.real_parent.load(Ordering::Relaxed)
    } else {
        child.exit_signal.store(args.exit_signal, Ordering::Relaxed);
        core::ptr::from_ref(parent).cast_mut()
    };
    child.real_parent.store(real_parent, Ordering::Relaxed);
    child.parent.store(real_parent, Ordering::Relaxed);
    if thread {
        child.group_leader.store(parent.group_leader.load(Ordering::Relaxed), Ordering::Relaxed);
        child.tgid.store(parent.tgid(), Ordering::Relaxed);
        child.signal.live.fetch_add(1, Ordering::Relaxed);
    } else {
        child.group_leader.store(child_ptr, Ordering::Relaxed);
        child.tgid.store(child.pid(), Ordering::Relaxed);
        let signal = &child.signal;
        let _ = signal.set_pid(PidType::Tgid, Some(child.thread_pid.share()));
        for kind in [PidType::Pgid, PidType::Sid] {
            let _ = signal.set_pid(kind, parent.signal.pid(kind));
        }
        let _ = signal.tty.replace(parent.signal.tty.get());
        let subreaper = parent.signal.has_child_subreaper.load(Ordering::Relaxed)
            || parent.signal.is_child_subreaper.load(Ordering::Relaxed);
        signal.has_child_subreaper.store(subreaper, Ordering::Relaxed);
    }
    if !thread && pid.nr_in(pid.ns()) == 1 {
        // The first of a namespace adopts its orphans and is protected from what happens in it.
        pid.ns().child_reaper.store(child_ptr.cast(), Ordering::Release);
        child.signal.shared.lock().flags.insert(task::GroupFlags::UNKILLABLE);
    }
    // The list's own reference; `release_task` takes it back.
    core::mem::forget(child.clone());
    list.link_new(child);
    if traced {
        ptrace::attach::init_child(&list, parent, child);
    }
    Ok(())
}

/// The child is restricted as its parent is, which no other thread can change while it is not on the list.
fn copy_seccomp(_list: &list::TaskList, parent: &Task, child: &Task) {
    child.no_new_privs.store(parent.has_no_new_privs(), Ordering::Relaxed);
    if parent.seccomp.mode() != task::SeccompMode::Disabled {
        child.seccomp.inherit(&parent.seccomp);
        child.se.thread.info.set(arch::ThreadFlags::SECCOMP);
    }
}

/// True if a signal other than one to this thread alone waits: fork(2) must not lose it.
fn signal_pending_for_fork(parent: &Task) -> bool {
    let blocked = parent.sig.lock().blocked;
    let shared = crate::signal::SigSet(parent.signal.shared_pending.load(Ordering::Acquire));
    !shared.without(blocked).is_empty() || exit::fatal_pending(parent)
}

/// `EAGAIN` if the user has as many tasks as RLIMIT_NPROC allows (root may exceed it).
fn check_nproc(parent: &Task) -> Result<()> {
    let cred = parent.cred();
    let limit = parent.signal.rlimits.soft(Resource::Nproc);
    if u64::from(list::NR_THREADS.load(Ordering::Relaxed)) >= u64::from(max_threads()) {
        return Err(Errno::EAGAIN);
    }
    // A user namespace gives no right to exceed it.
    if cred.uid == 0 || cred.capable(Cap::SysResource) || cred.capable(Cap::SysAdmin) {
        return Ok(());
    }
    let list = list::lock();
    let mine = list.threads().filter(|t| t.cred.with(|c| c.uid == cred.uid)).count() as u64;
    if mine >= limit { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// Threads that fit: at most an eighth of memory goes into their stacks (/proc/sys/kernel/threads-max).
pub fn max_threads() -> u32 {
    let pages = crate::mm::total_pages() as u64;
    let per_thread = (arch::KERNEL_STACK_SIZE / crate::addr::PAGE_SIZE) as u64;
    u32::try_from(pages / (8 * per_thread)).unwrap_or(u32::MAX).max(64)
}

/// With `CLONE_NEWUSER` the child has all capabilities in a user namespace of its own.
fn copy_creds(flags: CloneFlags, parent: &Task) -> Result<Ref<Cred>> {
    let old = parent.cred();
    if !flags.contains(CloneFlags::NEWUSER) {
        return Ok(old.clone());
    }
    let ns = super::namespaces::create_user_ns(parent)?;
    old.with(|cred| cred.enter_user_ns(&ns))
}

fn copy_files(flags: CloneFlags, parent: &Task) -> Result<Ref<Files>> {
    if flags.contains(CloneFlags::FILES) {
        Ok(parent.files().clone())
    } else {
        parent.files().try_clone()
    }
}

fn copy_fs(flags: CloneFlags, parent: &Task) -> Result<Ref<FsStruct>> {
    if flags.contains(CloneFlags::FS) { Ok(parent.fs().clone()) } else { parent.fs().try_clone() }
}

fn copy_sighand(flags: CloneFlags, parent: &Task) -> Result<Ref<Sighand>> {
    if flags.contains(CloneFlags::SIGHAND) {
        return Ok(parent.sighand.own().clone());
    }
    let copy = parent.sighand.own().try_clone()?;
    if flags.contains(CloneFlags::CLEAR_SIGHAND) {
        copy.clear();
    }
    Ok(copy)
}

fn copy_signal(flags: CloneFlags, parent: &Task) -> Result<Ref<SignalStruct>> {
    if flags.contains(CloneFlags::THREAD) {
        return Ok(parent.signal.clone());
    }
    let signal = SignalStruct::new(parent.signal.rlimits.copy())?;
    signal
        .oom_score_adj
        .store(parent.signal.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
    Ok(signal)
}

fn copy_mm(flags: CloneFlags, parent: &Task) -> Result<Ref<Mm>> {
    let mm = parent.mm().ok_or(Errno::EINVAL)?;
    if flags.contains(CloneFlags::VM) { Ok(mm.share()) } else { mm.fork() }
}

/// With `CLONE_SYSVSEM` both undo together, once both have ended.
fn copy_semundo(flags: CloneFlags, parent: &Task, child: &Task) -> Result<()> {
    if flags.contains(CloneFlags::SYSVSEM) {
        child.sysvsem.replace(Some(super::sysv::undo_list(parent)?));
    }
    Ok(())
}

fn copy_namespaces(
    flags: CloneFlags,
    parent: &Task,
    cred: &Cred,
    fs: &FsStruct,
) -> Result<Ref<NsProxy>> {
    let old = parent.nsproxy();
    let kinds = flags.bits() as u32 & super::namespaces::PROXY_KINDS;
    if kinds == 0 {
        return if flags.contains(CloneFlags::VM) {
            Ok(old.clone())
        } else {
            NsProxy::for_child(old)
        };
    }
    if !cred.own_capable(Cap::SysAdmin) {
        return Err(Errno::EPERM);
    }
    // Undo of System V semaphores belongs to the old namespace.
    if flags.contains(CloneFlags::NEWIPC | CloneFlags::SYSVSEM) {
        return Err(Errno::EINVAL);
    }
    let group = cgroup::of(parent);
    let new = old.with_new(kinds, cred, parent.thread_pid.own().ns(), fs, &group)?;
    if flags.contains(CloneFlags::VM) { Ok(new) } else { NsProxy::for_child(&new) }
}

/// The child returns 0 from the same call, on its own stack and thread pointer if given.
fn copy_thread(args: &CloneArgs, regs: &PtRegs, child: &Task, stack_range: KernelStackRange) {
    let mut child_regs = *regs;
    child_regs.x[0] = 0;
    if args.stack != 0 {
        child_regs.sp = args.stack;
    }
    let own = &task::current().se.thread;
    let inherited = own.info.flags() & arch::ThreadFlags::FORCED_SNAPSHOT;
    child.se.thread.info.set(inherited);
    arch::save_user_state(own);
    // SAFETY: the parent is the caller; the child does not run yet.
    unsafe {
        *child.se.thread.fp.get() = *own.fp.get();
        let tls = args.flags.contains(CloneFlags::SETTLS).then_some(args.tls);
        *child.se.thread.tpidr_el0.get() = tls.unwrap_or(*own.tpidr_el0.get());
        arch::setup_user_thread(&child.se.thread, stack_range, &child_regs, child_started);
    }
}

/// The signal mask is inherited, pending signals are not; a new thread keeps no alternate stack, nor
/// does a child that shares memory without being a vfork.
fn copy_signal_mask(flags: CloneFlags, parent: &Task, child: &Task) {
    child.sig.lock().blocked = parent.sig.lock().blocked;
    let shares_vm = flags.contains(CloneFlags::VM) && !flags.contains(CloneFlags::VFORK);
    if !shares_vm {
        // SAFETY: the parent is the caller; the child does not run yet.
        unsafe { *child.altstack.get() = *parent.altstack.get() };
    }
}

/// What the scheduler asks of tasks.
pub static TASK_OPS: sched::EntityOps = sched::EntityOps {
    put: task::put_entity,
    fatal_signal_pending: |entity| exit::fatal_pending(Task::of(entity)),
    put_hold_aside: |entity| hold::put_aside(Task::of(entity)),
    tick: super::timers::tick,
};

/// A task with nothing but what is given.
#[allow(
    clippy::too_many_arguments,
    reason = "one argument for each part of a task, named in order"
)]
pub(super) fn new_task(
    pid: Ref<Pid>,
    cred: Ref<Cred>,
    files: Ref<Files>,
    fs: Ref<FsStruct>,
    nsproxy: Ref<NsProxy>,
    signal: Ref<SignalStruct>,
    sighand: Ref<Sighand>,
    stack: Option<KernelStack>,
) -> Result<Ref<Task>> {
    let nr = pid.global();
    let now = sched::monotonic_ns();
    Ref::try_new(Task {
        se: Entity::new(&TASK_OPS),
        pid: AtomicU32::new(nr),
        tgid: AtomicU32::new(nr),
        flags: AtomicU32::new(0),
        exit_state: AtomicU32::new(EXIT_ALIVE),
        exit_code: AtomicI32::new(0),
        exit_signal: AtomicI32::new(SIGCHLD),
        pdeath_signal: AtomicI32::new(0),
        comm: IrqLock::new([0; task::TASK_COMM_LEN]),
        tasks: Link::new(),
        thread_node: Link::new(),
        children: List::new(),
        sibling: Link::new(),
        parent: AtomicPtr::new(core::ptr::null_mut()),
        real_parent: AtomicPtr::new(core::ptr::null_mut()),
        ptrace: Default::default(),
        group_leader: AtomicPtr::new(core::ptr::null_mut()),
        thread_pid: OwnCell::new(pid),
        pid_links: Default::default(),
        mm_user_ns: OwnCell::new(cred.user_ns.clone()),
        cred: OwnCell::new(cred),
        no_new_privs: AtomicBool::new(false),
        seccomp: Default::default(),
        fs: OwnCell::new(Some(fs)),
        files: OwnCell::new(Some(files)),
        nsproxy: OwnCell::new(Some(nsproxy)),
        sysvsem: OwnCell::new(None),
        signal,
        sighand: OwnCell::new(sighand),
        sig: IrqLock::new(ThreadSignals::default()),
        altstack: UnsafeCell::default(),
        restart: UnsafeCell::default(),
        set_child_tid: AtomicU64::new(0),
        clear_child_tid: AtomicU64::new(0),
        robust_list: AtomicU64::new(0),
        vfork_done: SpinLock::new(None),
        start_time: AtomicU64::new(now),
        start_boottime: AtomicU64::new(now),
        min_flt: AtomicU64::new(0),
        maj_flt: AtomicU64::new(0),
        rchar: AtomicU64::new(0),
        wchar: AtomicU64::new(0),
        syscalls: AtomicU64::new(0),
        personality: AtomicU32::new(0),
        io_priority: AtomicU32::new(0),
        timer_slack: AtomicU64::new(TIMER_SLACK),
        default_timer_slack: AtomicU64::new(TIMER_SLACK),
        stop_pending: AtomicBool::new(false),
        hold: AtomicBool::new(false),
        rt_watch: Default::default(),
        oom_victim: AtomicBool::new(false),
        cgroup: Member::new(),
        stack,
    })
}

/// First thing that a child runs, once the scheduler let it: `CLONE_CHILD_SETTID`.
extern "C" fn child_started(_: usize) {
    let task = task::current();
    let addr = task.set_child_tid.load(Ordering::Relaxed);
    if addr != 0 {
        let nr = task.pid_nr(task.thread_pid.own().ns());
        let _ = UserPtr::<u32>::new(addr).write(nr);
    }
}

/// Makes a kernel thread that runs `f(arg)` in kernel mode; it does not run before
/// [`start`]. Its parent is `parent` (kthreadd, or task 0 for tasks 1 and 2).
pub fn kernel_thread(
    f: extern "C" fn(usize),
    arg: usize,
    name: &[u8],
    parent: &Task,
) -> Result<Ref<Task>> {
    let creator = task::current();
    let signal = SignalStruct::new(creator.signal.rlimits.copy())?;
    let pid = Pid::alloc(crate::ns::init_pid_ns(), &[])?;
    let stack = KernelStack::alloc()?;
    let stack_range = stack.range();
    let child = new_task(
        pid,
        creator.cred.share(),
        creator.files.share().ok_or(Errno::EINVAL)?.try_clone()?,
        creator.fs.share().ok_or(Errno::EINVAL)?.try_clone()?,
        crate::ns::init_nsproxy().clone(),
        signal,
        Sighand::new()?,
        Some(stack),
    )?;
    child.set_comm(name);
    child.set_flags(TaskFlags::KTHREAD);
    // SAFETY: the child does not run yet, and its stack is set.
    unsafe { arch::setup_kernel_thread(&child.se.thread, stack_range, f, arg) };
    sched::sched_fork(&child.se);
    child.sig.lock().blocked = crate::signal::SigSet::FULL;
    let ptr = Ref::as_ptr(&child).cast_mut();
    let list = list::lock();
    let parent_ptr = core::ptr::from_ref(parent).cast_mut();
    child.real_parent.store(parent_ptr, Ordering::Relaxed);
    child.parent.store(parent_ptr, Ordering::Relaxed);
    child.group_leader.store(ptr, Ordering::Relaxed);
    let _ = child.signal.set_pid(PidType::Tgid, Some(child.thread_pid.share()));
    for kind in [PidType::Pgid, PidType::Sid] {
        let _ = child.signal.set_pid(kind, parent.signal.pid(kind));
    }
    cgroup::fork(&list, parent, &child, Some(crate::cgroup::root()))?;
    core::mem::forget(child.clone());
    list.link_new(&child);
    drop(list);
    Ok(child)
}
