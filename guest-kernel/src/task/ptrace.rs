//! [`Ptrace`]: what a task knows of its tracer, and of those that it traces itself (ptrace(2)).
//!
//! Who traces whom changes under the task list's lock. A traced task's `parent` is its tracer, and its `real_parent` who
//! made it.

use core::sync::atomic::{AtomicU32, Ordering};

use belljar_abi::Described;
use bitflags::bitflags;

use super::Task;
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::list_link;
use crate::ns::Cred;
use crate::signal::SigInfo;
use crate::sync::IrqLock;

bitflags! {
    /// How a task is traced; no bit is set if it is not.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct TraceFlags: u32 {
        /// It is traced.
        const TRACED = 1 << 0;
        /// By PTRACE_SEIZE: it stops only when it is asked to, and reports stops of its process as what they are.
        const SEIZED = 1 << 1;
    }
}

bitflags! {
    /// `PTRACE_O_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct TraceOptions: u32 {
        /// Stops at system calls are marked.
        const TRACESYSGOOD = 1 << 0;
        /// Event: fork(2).
        const TRACEFORK = 1 << 1;
        /// Event: vfork(2).
        const TRACEVFORK = 1 << 2;
        /// Event: clone(2) of any other kind.
        const TRACECLONE = 1 << 3;
        /// Event: execve(2).
        const TRACEEXEC = 1 << 4;
        /// Event: the child of a vfork(2) let go of the memory.
        const TRACEVFORKDONE = 1 << 5;
        /// Event: it is about to exit.
        const TRACEEXIT = 1 << 6;
        /// Event: a seccomp filter asks the tracer.
        const TRACESECCOMP = 1 << 7;
        /// It ends with its tracer.
        const EXITKILL = 1 << 20;
        /// Its filters of system calls rest while it is traced.
        const SUSPEND_SECCOMP = 1 << 21;
    }
}

bitflags! {
    /// What a task is to do for its tracer, or does, besides what is in [`Stop`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct JobControl: u32 {
        /// Its part in the stop of its process that is under way counts.
        const STOP_CONSUME = 1 << 0;
        /// It is to stop for its tracer.
        const TRAP_STOP = 1 << 1;
        /// It is to tell its tracer that the stop of its process began or ended.
        const TRAP_NOTIFY = 1 << 2;
        /// Its tracer waits until the stop of job control that it was found in is one of tracing.
        const TRAPPING = 1 << 3;
        /// It stays stopped with its process, without standing still for its tracer (PTRACE_LISTEN).
        const LISTENING = 1 << 4;
        /// Its tracer looks at its registers: not even SIGKILL wakes it before that is done.
        const FROZEN = 1 << 5;
    }
}

belljar_abi::describe_flags!(TraceFlags);
belljar_abi::describe_flags!(TraceOptions);
belljar_abi::describe_flags!(JobControl);

impl JobControl {
    /// A stop that is to come.
    pub const TRAP: Self = Self::TRAP_STOP.union(Self::TRAP_NOTIFY);
}

/// A stop for the tracer.
#[derive(Default)]
pub struct Stop {
    /// It stands still.
    pub stopped: bool,
    /// What wait(2) reports: a signal, with an event above it. 0 once it was reported.
    pub code: i32,
    /// The signal to go on with.
    pub data: i32,
    /// Where the stop is one that has it: PTRACE_GETSIGINFO.
    pub info: Option<SigInfo>,
    /// PTRACE_GETEVENTMSG.
    pub message: u64,
    /// The signal of the last stop of its process.
    pub group_signal: i32,
}

impl Stop {
    /// The signal that it stopped for, and that its tracer went without having seen, is delivered after all.
    pub fn deliver_unseen(&mut self) {
        if self.code != 0 && self.info.is_some_and(|i| i.signo == self.code && i.code != self.code)
        {
            self.data = self.code;
        }
    }
}

/// A task's part in tracing.
#[repr(C)]
#[derive(Default, Described)]
pub struct Ptrace {
    #[described(as = "flags TraceFlags")]
    flags: AtomicU32,
    #[described(as = "flags TraceOptions")]
    options: AtomicU32,
    #[described(as = "flags JobControl")]
    jobctl: AtomicU32,
    /// The tasks that this one traces.
    pub tracees: List<Task, TraceeLink>,
    /// Link on the tracer's `tracees`.
    pub link: Link,
    /// The stop.
    #[described(skip)]
    pub stop: IrqLock<Stop>,
    /// The credentials of the tracer when tracing began: what it may have the task become by exec. They stay when tracing
    /// ends, under a lock in which they cannot be dropped.
    #[described(skip)]
    pub tracer_cred: IrqLock<Option<Ref<Cred>>>,
}

list_link!(
    /// The tasks that a task traces.
    Task, ptrace.link: TraceeLink
);

impl Ptrace {
    /// How it is traced.
    #[inline]
    pub fn flags(&self) -> TraceFlags {
        TraceFlags::from_bits_retain(self.flags.load(Ordering::Acquire))
    }

    /// True if it is traced.
    #[inline]
    pub fn is_traced(&self) -> bool {
        !self.flags().is_empty()
    }

    /// True if it is traced by PTRACE_SEIZE.
    pub fn is_seized(&self) -> bool {
        self.flags().contains(TraceFlags::SEIZED)
    }

    /// Its options.
    pub fn options(&self) -> TraceOptions {
        TraceOptions::from_bits_retain(self.options.load(Ordering::Acquire))
    }

    /// Replaces its options.
    pub fn set_options(&self, options: TraceOptions) {
        self.options.store(options.bits(), Ordering::Release);
    }

    /// Tracing begins, or ends with no flags; under the task list's lock.
    pub fn set_flags(&self, flags: TraceFlags, options: TraceOptions) {
        self.set_options(options);
        self.flags.store(flags.bits(), Ordering::Release);
    }

    /// What it is to do.
    #[inline]
    pub fn jobctl(&self) -> JobControl {
        JobControl::from_bits_retain(self.jobctl.load(Ordering::Acquire))
    }

    /// Adds to what it is to do.
    pub fn set_jobctl(&self, bits: JobControl) {
        self.jobctl.fetch_or(bits.bits(), Ordering::AcqRel);
    }

    /// Takes from what it is to do.
    pub fn clear_jobctl(&self, bits: JobControl) {
        self.jobctl.fetch_and(!bits.bits(), Ordering::AcqRel);
    }

    /// True while it stands still for its tracer.
    pub fn is_stopped(&self) -> bool {
        self.stop.lock().stopped
    }
}
