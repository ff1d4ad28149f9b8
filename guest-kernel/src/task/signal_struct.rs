//! [`SignalStruct`]: what the threads of one process share besides memory and files. The name is
//! Linux's; it holds the group's pids, limits and accounts as well as its pending signals.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use belljar_abi::Described;
use bitflags::bitflags;

use super::rlimit::Rlimits;
use super::timers::ProcessTimers;
use super::{Task, ThreadLink};
use crate::array::Array;
use crate::drivers::tty::Tty;
use crate::errno::Result;
use crate::kref::Ref;
use crate::list::List;
use crate::ns::{Pid, PidType};
use crate::sched::WaitQueue;
use crate::signal::Pending;
use crate::sync::IrqLock;

bitflags! {
    /// What the group is doing as a whole.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct GroupFlags: u32 {
        /// All threads are to exit with `exit_code`.
        const EXIT = 1 << 0;
        /// All threads are stopped.
        const STOPPED = 1 << 1;
        /// It went on after a stop, and no parent has asked about it yet.
        const CONTINUED = 1 << 2;
        /// The stop has not been told to a waiting parent yet.
        const STOP_UNREPORTED = 1 << 3;
        /// SIGKILL and SIGSTOP by accident must not hit it: the reaper of a pid namespace.
        const UNKILLABLE = 1 << 4;
    }
}

belljar_abi::describe_flags!(GroupFlags);

/// The part of a group's state that signals change.
#[repr(C)]
#[derive(Default, Described)]
pub struct SharedSignals {
    /// Sent to the process and not delivered yet.
    pub pending: Pending,
    /// What the group is doing.
    pub flags: GroupFlags,
    /// Wait status of a group that exits, or the signal that stopped it.
    pub exit_code: i32,
    /// The signal of a stop that is under way, 0 if none is.
    pub stopping: i32,
    /// Threads that have yet to stop for it.
    pub stop_count: u32,
}

/// Times and counts of threads that ended, or of children that were waited for.
#[repr(C)]
#[derive(Described, Default)]
#[allow(missing_docs, reason = "the names are getrusage(2)'s, times in nanoseconds")]
pub struct Accounting {
    pub utime: AtomicU64,
    pub stime: AtomicU64,
    pub min_flt: AtomicU64,
    pub maj_flt: AtomicU64,
    pub nvcsw: AtomicU64,
    pub nivcsw: AtomicU64,
    pub maxrss: AtomicU64,
    pub rchar: AtomicU64,
    pub wchar: AtomicU64,
}

/// The controlling terminal of a process, or none.
#[repr(C)]
#[derive(Default, Described)]
pub struct ControllingTty {
    #[described(skip)]
    held: IrqLock<Option<Arc<Tty>>>,
    /// The same, for who looks from outside.
    #[described(as = "ptr Tty")]
    addr: AtomicPtr<Tty>,
}

impl ControllingTty {
    /// The terminal.
    pub fn get(&self) -> Option<Arc<Tty>> {
        self.held.lock().clone()
    }

    /// Sets or takes away the terminal; returns the one before.
    pub fn replace(&self, tty: Option<Arc<Tty>>) -> Option<Arc<Tty>> {
        let mut held = self.held.lock();
        let addr = tty.as_ref().map_or(core::ptr::null(), Arc::as_ptr);
        self.addr.store(addr.cast_mut(), Ordering::Relaxed);
        core::mem::replace(&mut *held, tty)
    }
}

/// A core that one thread of a process writes while the others wait at their ends (core(5)).
#[derive(Default)]
pub struct CoreDump {
    /// The threads that wait; `None` if no core is being written. Changed under [`SignalStruct::shared`], too, so that
    /// who begins to write one knows whom to wait for.
    pub threads: IrqLock<Option<Array<Ref<Task>>>>,
    /// Where the writer waits for them.
    pub arrived: WaitQueue,
    /// Where they wait for the writer.
    pub finished: WaitQueue,
}

impl CoreDump {
    /// True while a core is being written.
    pub fn is_under_way(&self) -> bool {
        self.threads.lock().is_some()
    }

    /// How many threads wait.
    pub fn waiting(&self) -> usize {
        self.threads.lock().as_ref().map_or(0, |threads| threads.len())
    }
}

/// What the threads of a process share.
#[repr(C)]
#[derive(Described)]
pub struct SignalStruct {
    /// The threads; guarded by the task list's lock.
    pub threads: List<Task, ThreadLink>,
    /// Threads on that list.
    pub nr_threads: AtomicU32,
    /// Threads that have not begun to exit.
    pub live: AtomicU32,
    /// Group, process group and session, by [`PidType`].
    #[described(as = "array ptr Pid")]
    pids: [IrqLock<Option<Ref<Pid>>>; 4],
    /// True for the leader of a session.
    pub leader: AtomicBool,
    /// Set by prctl(2): adopts orphaned descendants.
    pub is_child_subreaper: AtomicBool,
    /// True if an ancestor may be a subreaper.
    pub has_child_subreaper: AtomicBool,
    /// True once the process has exec'ed (setpgid(2) refuses children that have).
    pub did_exec: AtomicBool,
    /// Bias of the OOM killer, -1000 to 1000.
    pub oom_score_adj: AtomicI32,
    /// Thread that execs while its siblings are made to leave; null otherwise.
    #[described(skip)]
    pub group_exec_task: AtomicPtr<Task>,
    /// Threads between deciding what a new program may, and being it; raised under the task list's lock.
    pub execs: AtomicU32,
    /// Where who wants to trace one of them waits.
    #[described(skip)]
    pub exec_wait: WaitQueue,
    /// Pending signals and group state.
    pub shared: IrqLock<SharedSignals>,
    /// Bits of `shared.pending`, for a look without the lock.
    pub shared_pending: AtomicU64,
    /// Where the group's threads wait for children.
    #[described(skip)]
    pub wait_chldexit: WaitQueue,
    /// Who waits for signals through a signalfd.
    #[described(as = "opaque")]
    pub signalfd_wait: WaitQueue,
    /// The core that is being written.
    #[described(skip)]
    pub core_dump: CoreDump,
    /// The controlling terminal.
    pub tty: ControllingTty,
    /// Resource limits.
    pub rlimits: Rlimits,
    /// Timers.
    pub timers: ProcessTimers,
    /// Of threads that ended.
    pub dead: Accounting,
    /// Of children that were waited for.
    pub children: Accounting,
}

impl SignalStruct {
    /// For a new process with these limits.
    pub fn new(rlimits: Rlimits) -> Result<Ref<Self>> {
        Ref::try_new(Self {
            threads: List::new(),
            nr_threads: AtomicU32::new(0),
            live: AtomicU32::new(1),
            pids: [const { IrqLock::new(None) }; 4],
            leader: AtomicBool::new(false),
            is_child_subreaper: AtomicBool::new(false),
            has_child_subreaper: AtomicBool::new(false),
            did_exec: AtomicBool::new(false),
            oom_score_adj: AtomicI32::new(0),
            group_exec_task: AtomicPtr::new(core::ptr::null_mut()),
            execs: AtomicU32::new(0),
            exec_wait: WaitQueue::new(),
            shared: IrqLock::new(SharedSignals::default()),
            shared_pending: AtomicU64::new(0),
            wait_chldexit: WaitQueue::new(),
            signalfd_wait: WaitQueue::new(),
            core_dump: CoreDump::default(),
            tty: ControllingTty::default(),
            rlimits,
            timers: ProcessTimers::default(),
            dead: Accounting::default(),
            children: Accounting::default(),
        })
    }

    /// How many threads there are.
    pub fn nr_threads(&self) -> usize {
        self.nr_threads.load(Ordering::Relaxed) as usize
    }

    /// The group's pid of a kind other than [`PidType::Pid`].
    pub fn pid(&self, kind: PidType) -> Option<Ref<Pid>> {
        self.pids[kind as usize].lock().clone()
    }

    /// Sets a pid; under the task list's lock. The old one is returned so that it is dropped without
    /// the lock of this field.
    pub fn set_pid(&self, kind: PidType, pid: Option<Ref<Pid>>) -> Option<Ref<Pid>> {
        core::mem::replace(&mut *self.pids[kind as usize].lock(), pid)
    }

    /// Publishes the bits of the shared pending set; `shared` is locked by the caller.
    pub fn publish(&self, shared: &SharedSignals) {
        self.shared_pending.store(shared.pending.set().0, Ordering::Release);
    }
}
