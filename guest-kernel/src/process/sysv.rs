//! What fork, exit and unshare do about System V IPC: undo lists of semaphores, and shared memory that
//! goes with its maker.

use crate::errno::Result;
use crate::ipc::sysv::sem::{self, UndoList};
use crate::kref::Ref;
use crate::task::Task;

/// The undo list of the caller, which is made when it is first needed.
pub fn undo_list(task: &Task) -> Result<Ref<UndoList>> {
    if let Some(list) = task.sysvsem.own() {
        return Ok(list.clone());
    }
    let list = UndoList::new()?;
    task.sysvsem.replace(Some(list.clone()));
    Ok(list)
}

/// The caller lets go of its undo list: its operations are undone unless others share the list.
pub fn exit_sem(task: &Task) {
    if let Some(list) = task.sysvsem.replace(None) {
        sem::leave(list, &task.leader().thread_pid.share());
    }
}

/// The caller ends, or leaves its IPC namespace: with `shm_rmid_forced` set there, what it made and
/// nobody is attached to goes.
pub fn exit_shm(task: &Task) {
    let segments = &task.nsproxy().ipc.shm;
    segments.thread_exits(task.thread_pid.own());
}
