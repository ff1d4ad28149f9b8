//! The noun: a [`Task`] is one schedulable context, threads included. It ties one scheduler entity to
//! its memory, files, signals, namespaces, ids, credentials and limits. What happens to tasks (fork,
//! exec, exit, wait) stands in [`crate::process`].
//!
//! # Lifetime
//!
//! A task is counted ([`Ref`]). One reference belongs to the task list and the pid hash, from
//! [`list::link_new`] to `release_task`; one belongs to the scheduler, until the dead task was switched
//! away for the last time. Pointers between relatives (`parent`, `group_leader`, the lists) are not
//! counted; they are valid under the task list's lock.
//!
//! # Locks, outermost first
//!
//! [`list::TaskList`] (family, thread groups, pid members, exit states) → `SignalStruct::shared` →
//! `Sighand::actions` → `Task::sig`. All may be taken from interrupts.

pub mod list;
mod own;
pub mod ptrace;
pub mod rlimit;
pub mod seccomp;
mod signal_struct;
pub mod timers;

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use belljar_abi::Described;
use bitflags::bitflags;

pub use own::OwnCell;
pub use seccomp::{Seccomp, SeccompMode};
pub use signal_struct::{Accounting, ControllingTty, GroupFlags, SharedSignals, SignalStruct};

use self::ptrace::Ptrace;
use crate::arch;
use crate::cgroup::Member;
use crate::errno::Result;
use crate::fs::{Files, FsStruct};
use crate::ipc::sysv::sem::UndoList;
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::list_link;
use crate::mm::{KernelStack, Mm};
use crate::ns::pid::{PID_TYPES, PidMember};
use crate::ns::{Cred, NsProxy, Pid, PidNs, PidType, UserNs};
use crate::sched::restart::RestartBlock;
use crate::sched::{Entity, WaitQueue};
use crate::signal::{Pending, SigSet, Sighand};
use crate::sync::{IrqLock, SpinLock};

/// Bytes of a task's name, NUL included.
pub const TASK_COMM_LEN: usize = 16;

bitflags! {
    /// Per-task flags, with Linux's values where /proc/PID/stat shows them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TaskFlags: u32 {
        /// An idle task.
        const IDLE = 0x0000_0002;
        /// On its way out.
        const EXITING = 0x0000_0004;
        /// On its way out, and no part of a core any more (`PF_POSTCOREDUMP`).
        const POSTCOREDUMP = 0x0000_0008;
        /// Forked and has not exec'ed yet.
        const FORKNOEXEC = 0x0000_0040;
        /// Superuser rights were used.
        const SUPERPRIV = 0x0000_0100;
        /// Writes its process's core.
        const DUMPCORE = 0x0000_0200;
        /// Killed by a signal.
        const SIGNALED = 0x0000_0400;
        /// A kernel thread.
        const KTHREAD = 0x0020_0000;
    }
}

belljar_abi::describe_flags!(TaskFlags);

/// `exit_state`: alive.
pub const EXIT_ALIVE: u32 = 0;
/// `exit_state`: gone without a trace but for the last switch.
pub const EXIT_DEAD: u32 = 16;
/// `exit_state`: dead, waiting for its parent.
pub const EXIT_ZOMBIE: u32 = 32;

/// Signals of one thread; the group's are in [`SignalStruct`].
#[repr(C)]
#[derive(Default, Described)]
pub struct ThreadSignals {
    /// Sent to this thread and not delivered yet.
    pub pending: Pending,
    /// Held back.
    pub blocked: SigSet,
    /// The mask to restore once a signal was delivered or the call returns (`sigsuspend`, `ppoll`).
    pub saved_mask: SavedMask,
    /// The signals that `rt_sigtimedwait` waits for, though blocked.
    pub waiting_for: SigSet,
}

/// A mask that is kept for later, or none.
#[repr(C)]
#[derive(Default, Described)]
pub struct SavedMask {
    /// There is one.
    is_set: bool,
    /// Which.
    mask: SigSet,
}

impl SavedMask {
    /// The mask, if there is one.
    pub fn get(&self) -> Option<SigSet> {
        self.is_set.then_some(self.mask)
    }

    /// Keeps `mask` unless one is kept already.
    pub fn set_once(&mut self, mask: SigSet) {
        if !self.is_set {
            *self = Self { is_set: true, mask };
        }
    }

    /// The mask, if there is one; then there is none any more.
    pub fn take(&mut self) -> Option<SigSet> {
        let mask = self.get();
        self.is_set = false;
        mask
    }
}

/// The alternate signal stack (sigaltstack(2)).
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, Described)]
pub struct AltStack {
    /// Lowest address.
    #[described(as = "hex")]
    pub sp: u64,
    /// Bytes; 0 if there is none.
    pub size: u64,
    /// `SS_*`.
    pub flags: u32,
}

/// The completion of a vfork: the parent sleeps until the child execs or exits.
#[derive(Default)]
pub struct VforkDone {
    /// True once the child let go of the parent's memory.
    pub done: AtomicBool,
    /// Where the parent sleeps.
    pub wait: WaitQueue,
}

/// One schedulable context.
#[repr(C)]
#[derive(Described)]
pub struct Task {
    /// The scheduler's part, and in it the machine's; first, so that one pointer finds all three.
    pub se: Entity,
    /// Number in the initial pid namespace.
    pub pid: AtomicU32,
    /// Number of the thread group's leader, in the initial namespace.
    pub tgid: AtomicU32,
    /// [`TaskFlags`].
    #[described(as = "flags TaskFlags")]
    pub flags: AtomicU32,
    /// [`EXIT_ALIVE`], [`EXIT_ZOMBIE`] or [`EXIT_DEAD`]; changed under the task list's lock.
    pub exit_state: AtomicU32,
    /// Wait status: `code << 8`, or the signal (with 0x80 for a core).
    pub exit_code: AtomicI32,
    /// Sent to the parent when the group ends; -1 for a thread that is no leader.
    pub exit_signal: AtomicI32,
    /// Sent to this task when its parent ends (prctl(2) `PR_SET_PDEATHSIG`).
    pub pdeath_signal: AtomicI32,
    /// Name, NUL-padded.
    #[described(as = "chars")]
    pub comm: IrqLock<[u8; TASK_COMM_LEN]>,
    /// Link on the list of all thread group leaders.
    pub tasks: Link,
    /// Link on the group's list of threads.
    pub thread_node: Link,
    /// Children, of any thread of ours (`real_parent` is this task).
    pub children: List<Task, SiblingLink>,
    /// Link on the parent's `children`.
    pub sibling: Link,
    /// Who gets SIGCHLD: the tracer if there is one, else `real_parent`.
    #[described(as = "ptr Task")]
    pub parent: AtomicPtr<Task>,
    /// Its tracer, and those whom it traces.
    #[described(as = "struct Ptrace")]
    pub ptrace: Ptrace,
    /// Who created us, or adopted us.
    #[described(as = "ptr Task")]
    pub real_parent: AtomicPtr<Task>,
    /// The thread group's leader.
    #[described(as = "ptr Task")]
    pub group_leader: AtomicPtr<Task>,
    /// This thread's pid.
    pub thread_pid: OwnCell<Ref<Pid>>,
    /// Places on our pids' lists of members, by [`PidType`].
    #[described(skip)]
    pub pid_links: [PidMember; PID_TYPES],
    /// Credentials.
    pub cred: OwnCell<Ref<Cred>>,
    /// The user namespace that its memory belongs to: the one in which it last exec'ed. Who may not look into its
    /// memory for what the program is, needs a capability there.
    #[described(skip)]
    pub mm_user_ns: OwnCell<Ref<UserNs>>,
    /// Set once exec grants it nothing any more (prctl(2) `PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: AtomicBool,
    /// How its system calls are restricted.
    #[described(as = "struct Seccomp")]
    pub seccomp: Seccomp,
    /// Root, working directory, umask.
    pub fs: OwnCell<Option<Ref<FsStruct>>>,
    /// Open files.
    pub files: OwnCell<Option<Ref<Files>>>,
    /// Namespaces.
    pub nsproxy: OwnCell<Option<Ref<NsProxy>>>,
    /// What semaphores get back when it ends.
    #[described(skip)]
    pub sysvsem: OwnCell<Option<Ref<UndoList>>>,
    /// What the thread group shares.
    pub signal: Ref<SignalStruct>,
    /// Signal dispositions.
    pub sighand: OwnCell<Ref<Sighand>>,
    /// This thread's signals.
    pub sig: IrqLock<ThreadSignals>,
    /// Alternate signal stack; the task's own.
    pub altstack: UnsafeCell<AltStack>,
    /// How an interrupted call goes on; the task's own.
    pub restart: UnsafeCell<RestartBlock>,
    /// Where to store our tid when we first run (`CLONE_CHILD_SETTID`).
    #[described(as = "hex")]
    pub set_child_tid: AtomicU64,
    /// Where to store 0 and wake a futex when we exit (`CLONE_CHILD_CLEARTID`).
    #[described(as = "hex")]
    pub clear_child_tid: AtomicU64,
    /// Head of the list of robust futexes.
    #[described(as = "hex")]
    pub robust_list: AtomicU64,
    /// Whom to tell once our mm is let go of.
    #[described(skip)]
    pub vfork_done: SpinLock<Option<Ref<VforkDone>>>,
    /// Creation, in nanoseconds of CLOCK_MONOTONIC.
    pub start_time: AtomicU64,
    /// Creation, in nanoseconds of CLOCK_BOOTTIME.
    pub start_boottime: AtomicU64,
    /// Page faults that needed no reading.
    pub min_flt: AtomicU64,
    /// Page faults that did.
    pub maj_flt: AtomicU64,
    /// Bytes read by system calls.
    pub rchar: AtomicU64,
    /// Bytes written by system calls.
    pub wchar: AtomicU64,
    /// System calls made.
    pub syscalls: AtomicU64,
    /// execution domain (personality(2)).
    pub personality: AtomicU32,
    /// How urgent its disk I/O is (ioprio_set(2)); 0 if it does not say. Disks here take requests in their
    /// order; a program sees what it set.
    pub io_priority: AtomicU32,
    /// How late its timers may be, and what that is after a return to the default, in ns (prctl(2),
    /// `PR_SET_TIMERSLACK`). Timers are exact here; a program sees what it set.
    pub timer_slack: AtomicU64,
    /// See `timer_slack`.
    pub default_timer_slack: AtomicU64,
    /// Set while a stop of the group waits for this thread to take part.
    pub stop_pending: AtomicBool,
    /// Set while it is to stand still for who takes it out ([`crate::process::hold`]).
    pub hold: AtomicBool,
    /// For `RLIMIT_RTTIME`.
    #[described(skip)]
    pub rt_watch: timers::RealTimeWatch,
    /// Set once the task was killed for want of memory.
    pub oom_victim: AtomicBool,
    /// Its place in its control group.
    #[described(as = "struct Member")]
    pub cgroup: Member,
    /// The kernel stack; freed with the task. A boot stack is nobody's.
    #[described(skip)]
    pub stack: Option<KernelStack>,
}

list_link!(
    /// All thread group leaders.
    Task, tasks: TasksLink
);
list_link!(
    /// The threads of a group.
    Task, thread_node: ThreadLink
);
list_link!(
    /// The children of a task.
    Task, sibling: SiblingLink
);

// SAFETY: what is not atomic lies behind a lock, or belongs to the task itself (field docs).
unsafe impl Send for Task {}
// SAFETY: as above.
unsafe impl Sync for Task {}

const _: () = assert!(core::mem::offset_of!(Task, se) == 0, "`current` casts Thread to Task");

/// The task that runs on this CPU.
#[inline]
pub fn current() -> &'static Task {
    // SAFETY: every thread that runs once the task floor is up is the first field of an entity that
    // is the first field of a task; it lives while it runs.
    unsafe { &*ptr::from_ref(arch::current_thread()).cast::<Task>() }
}

/// One more reference to the task that runs on this CPU.
pub fn current_ref() -> Ref<Task> {
    current().to_ref()
}

impl Task {
    /// The task around a scheduler entity.
    pub fn of(entity: &Entity) -> &Task {
        // SAFETY: entities exist only as the first field of a task.
        unsafe { &*ptr::from_ref(entity).cast::<Task>() }
    }

    /// One more reference.
    pub fn to_ref(&self) -> Ref<Task> {
        // SAFETY: tasks are made by `Ref::try_new` only, and `&self` shows that it lives.
        unsafe { Ref::from_ref(self) }
    }

    /// Flags.
    pub fn flags(&self) -> TaskFlags {
        TaskFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets flags.
    pub fn set_flags(&self, flags: TaskFlags) {
        self.flags.fetch_or(flags.bits(), Ordering::Relaxed);
    }

    /// Clears flags.
    pub fn clear_flags(&self, flags: TaskFlags) {
        self.flags.fetch_and(!flags.bits(), Ordering::Relaxed);
    }

    /// True for a kernel thread.
    pub fn is_kthread(&self) -> bool {
        self.flags().contains(TaskFlags::KTHREAD)
    }

    /// Number in the initial namespace.
    #[inline]
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// The group's number in the initial namespace.
    #[inline]
    pub fn tgid(&self) -> u32 {
        self.tgid.load(Ordering::Relaxed)
    }

    /// True for the leader of its thread group.
    pub fn is_leader(&self) -> bool {
        ptr::eq(self.group_leader.load(Ordering::Relaxed), self)
    }

    /// The group's leader. Valid under the task list's lock, or for the caller's own group.
    pub fn leader(&self) -> &Task {
        // SAFETY: see above; a leader outlives its threads.
        unsafe { &*self.group_leader.load(Ordering::Acquire) }
    }

    /// True if both are threads of one process.
    pub fn same_group(&self, other: &Task) -> bool {
        Ref::ptr_eq(&self.signal, &other.signal)
    }

    /// The pid namespace that the task lives in: that of its own pid.
    pub fn active_pid_ns(&self) -> Ref<PidNs> {
        self.thread_pid.share().ns().clone()
    }

    /// The task's number as `ns` sees it; 0 if it does not.
    pub fn pid_nr(&self, ns: &PidNs) -> u32 {
        self.thread_pid.with(|pid| pid.nr_in(ns))
    }

    /// The number of the group, process group or session as `ns` sees it; 0 if it does not.
    pub fn nr_of(&self, kind: PidType, ns: &PidNs) -> u32 {
        match kind {
            PidType::Pid => self.pid_nr(ns),
            kind => self.signal.pid(kind).map_or(0, |pid| pid.nr_in(ns)),
        }
    }

    /// Open files. The caller is the task itself.
    #[inline]
    pub fn files(&self) -> &Ref<Files> {
        self.files.own().as_ref().expect("a running program has files")
    }

    /// Root and working directory. The caller is the task itself.
    #[inline]
    pub fn fs(&self) -> &Ref<FsStruct> {
        self.fs.own().as_ref().expect("a running program has a root")
    }

    /// Credentials. The caller is the task itself.
    #[inline]
    pub fn cred(&self) -> &Ref<Cred> {
        self.cred.own()
    }

    /// Namespaces. The caller is the task itself.
    #[inline]
    pub fn nsproxy(&self) -> &Ref<NsProxy> {
        self.nsproxy.own().as_ref().expect("a running program has namespaces")
    }

    /// Memory of a program; `None` for a kernel thread. The caller is the task itself.
    #[inline]
    pub fn mm(&self) -> Option<&Ref<Mm>> {
        self.se.mm()
    }

    /// The name up to its NUL.
    pub fn comm(&self) -> Comm {
        Comm(*self.comm.lock())
    }

    /// Sets the name, cut to 15 bytes.
    pub fn set_comm(&self, name: &[u8]) {
        let mut comm = [0; TASK_COMM_LEN];
        let len = name.len().min(TASK_COMM_LEN - 1);
        comm[..len].copy_from_slice(&name[..len]);
        *self.comm.lock() = comm;
    }

    /// Says how the call that is under way goes on if it is interrupted; returns what was said before. The
    /// caller is the task itself.
    pub fn set_restart(&self, block: RestartBlock) -> RestartBlock {
        debug_assert!(self.se.is_current());
        // SAFETY: the block is the current task's own.
        unsafe { core::mem::replace(&mut *self.restart.get(), block) }
    }

    /// True if exec grants it nothing.
    pub fn has_no_new_privs(&self) -> bool {
        self.no_new_privs.load(Ordering::Relaxed)
    }

    /// exec grants it nothing from now on.
    pub fn set_no_new_privs(&self) {
        self.no_new_privs.store(true, Ordering::Relaxed);
    }

    /// True once `do_exit` began.
    pub fn is_exiting(&self) -> bool {
        self.flags().contains(TaskFlags::EXITING)
    }
}

/// A task's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Comm(pub [u8; TASK_COMM_LEN]);

impl Comm {
    /// The bytes before the NUL.
    pub fn as_bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(TASK_COMM_LEN);
        &self.0[..len]
    }
}

impl core::fmt::Display for Comm {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for &b in self.as_bytes() {
            let c = if (0x20..0x7f).contains(&b) { b as char } else { '?' };
            core::fmt::Write::write_char(f, c)?;
        }
        Ok(())
    }
}

/// Drops the scheduler's reference to a dead task; the scheduler calls it through its entity's
/// operations after the last switch away.
pub fn put_entity(entity: &Entity) {
    // SAFETY: the scheduler's reference was made by `into_raw` when the task was first woken.
    drop(unsafe { Ref::from_raw(Task::of(entity)) });
    list::drop_released();
}

/// The caller's memory; `EINVAL` for a kernel thread.
pub fn current_mm() -> Result<&'static Ref<Mm>> {
    current().mm().ok_or(crate::errno::Errno::EINVAL)
}
