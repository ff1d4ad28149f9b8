//! Starting the program that takes a core: as root, at init's root, in the machine's first namespaces.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{HELPER_LIMIT, init_fs};
use crate::errno::{Errno, Result};
use crate::fs::File;
use crate::kref::Ref;
use crate::mm::try_arc;
use crate::process::{exec, kthread};
use crate::sched::Completion;
use crate::sync::SpinLock;
use crate::task;
use crate::task::rlimit::{Resource, Rlimit};

/// Whether the program could be started.
struct Start {
    outcome: SpinLock<Option<Result<()>>>,
    done: Completion,
}

/// Runs the program `argv[0]` with these arguments and that standard input. Returns when it is there, or cannot be.
pub(super) fn run(argv: Vec<Vec<u8>>, stdin: Ref<File>) -> Result<()> {
    let start = try_arc(Start { outcome: SpinLock::new(None), done: Completion::new() })?;
    let told: Arc<Start> = start.clone();
    kthread::kthread_run("coredump", move |_| {
        let outcome = become_program(&argv, stdin);
        *told.outcome.lock() = Some(outcome);
        told.done.complete();
        0
    })?;
    // What it takes to start may have to come from the very process that dumps.
    start.done.wait_killable(crate::wait_channel!())?;
    let outcome = start.outcome.lock().take();
    outcome.unwrap_or(Err(Errno::EINTR))
}

/// Makes a program of the kernel thread that calls it.
fn become_program(argv: &[Vec<u8>], stdin: Ref<File>) -> Result<()> {
    let task = task::current();
    let limit = Rlimit { soft: HELPER_LIMIT, hard: HELPER_LIMIT };
    task.signal.rlimits.set(Resource::Core, limit);
    drop(task.fs.replace(Some(init_fs()?)));
    task.files().install(stdin, 0, 1, false)?;
    exec::exec_init(argv.first().ok_or(Errno::ENOENT)?, argv, &[])
}
