//! Tracing (ptrace(2)): one process looks into another and controls it.
//!
//! | file | what |
//! | --- | --- |
//! | [`attach`] | beginning and ending it: `TRACEME`, `ATTACH`, `SEIZE`, `DETACH`, a tracer's end |
//! | [`stop`] | the traced side: where it stops, and what it does about how it is let go on |
//! | [`control`] | the tracer's side: a tracee that stands still, letting it go on, `INTERRUPT`, `LISTEN` |
//! | [`siginfo`] | what a tracer asks and changes about signals |
//! | [`regset`] | registers, in sets |
//! | [`syscall_info`] | the system call that a tracee stopped at |
//! | [`vm`] | `process_vm_readv`, `process_vm_writev` |
//!
//! What a task keeps about it is [`task::ptrace::Ptrace`](crate::task::ptrace::Ptrace). All of it changes under the task
//! list's lock, as do the wake-ups that end a stop, so that a stop and its end never miss each other.

pub mod attach;
pub mod control;
pub mod regset;
pub mod siginfo;
pub mod stop;
pub mod syscall_info;
pub mod vm;

use crate::task::Task;
use crate::task::list::TaskList;
use crate::task::ptrace::TraceOptions;

/// `PTRACE_EVENT_*`: why a tracee that reports SIGTRAP stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are ptrace(2)'s")]
pub enum Event {
    Fork = 1,
    Vfork = 2,
    Clone = 3,
    Exec = 4,
    VforkDone = 5,
    Exit = 6,
    Seccomp = 7,
    Stop = 128,
}

impl Event {
    /// The option that asks for it.
    const fn option(self) -> TraceOptions {
        match self {
            Self::Fork => TraceOptions::TRACEFORK,
            Self::Vfork => TraceOptions::TRACEVFORK,
            Self::Clone => TraceOptions::TRACECLONE,
            Self::Exec => TraceOptions::TRACEEXEC,
            Self::VforkDone => TraceOptions::TRACEVFORKDONE,
            Self::Exit => TraceOptions::TRACEEXIT,
            Self::Seccomp => TraceOptions::TRACESECCOMP,
            Self::Stop => TraceOptions::empty(),
        }
    }

    /// True if the tracer of `task` wants to know.
    pub fn is_wanted(self, task: &Task) -> bool {
        task.ptrace.is_traced() && task.ptrace.options().contains(self.option())
    }
}

/// The tracer of a traced task.
pub fn tracer_of<'a>(_list: &'a TaskList, task: &'a Task) -> Option<&'a Task> {
    let parent = task.parent.load(core::sync::atomic::Ordering::Relaxed);
    if !task.ptrace.is_traced() {
        return None;
    }
    // SAFETY: null, or alive under the list's lock: a tracer lets go of whom it traces before it goes.
    unsafe { parent.as_ref() }
}

/// The parent of the task's process, whoever traces it; `None` for task 0.
pub fn real_parent_of<'a>(_list: &'a TaskList, task: &'a Task) -> Option<&'a Task> {
    let parent = task.real_parent.load(core::sync::atomic::Ordering::Relaxed);
    // SAFETY: null, or alive under the list's lock.
    unsafe { parent.as_ref() }
}

/// True if somebody else than its parent's process traces the task (`ptrace_reparented`).
pub fn is_reparented(list: &TaskList, task: &Task) -> bool {
    match (tracer_of(list, task), real_parent_of(list, task)) {
        (Some(tracer), Some(parent)) => !tracer.same_group(parent),
        (tracer, _) => tracer.is_some(),
    }
}
