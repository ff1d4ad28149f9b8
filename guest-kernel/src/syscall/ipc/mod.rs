//! System calls of System V IPC and POSIX message queues.

pub mod mq;
pub mod msg;
pub mod sem;
pub mod shm;

use crate::errno::Result;
use crate::ipc::IpcNs;
use crate::ipc::hooks::{self, Hooks};
use crate::ipc::sysv::abi::Ipc64Perm;
use crate::ipc::sysv::perm::NewOwner;
use crate::ipc::sysv::{Caller, Perm};
use crate::kref::Ref;
use crate::ns::Pid;
use crate::process::signal;
use crate::signal::SigInfo;
use crate::syscall::ids::{self, kgid, kuid};
use crate::task::rlimit::Resource;
use crate::task::{self, Task, list};

/// The caller's process, kept for the duration of a call.
struct Who {
    task: &'static Task,
    ns: Ref<IpcNs>,
    pid: Ref<Pid>,
}

impl Who {
    fn is_current() -> Self {
        let task = task::current();
        Self { task, ns: task.nsproxy().ipc.clone(), pid: task.leader().thread_pid.share() }
    }

    fn caller(&self) -> Caller<'_> {
        Caller { ns: &self.ns, cred: self.task.cred(), pid: &self.pid }
    }

    /// A process's number as the caller sees it; 0 for none.
    fn number_of(&self, pid: Option<&Pid>) -> u32 {
        pid.map_or(0, |pid| pid.nr_in(self.task.thread_pid.own().ns()))
    }
}

/// As programs see it.
fn shown(perm: &Perm) -> Ipc64Perm {
    Ipc64Perm {
        key: perm.key,
        uid: ids::uid(perm.uid),
        gid: ids::gid(perm.gid),
        cuid: ids::uid(perm.cuid),
        cgid: ids::gid(perm.cgid),
        mode: perm.mode,
        seq: perm.id.seq(),
        ..Ipc64Perm::default()
    }
}

/// The part of `IPC_SET` that all kinds have.
fn new_owner(perm: &Ipc64Perm) -> Result<NewOwner> {
    Ok(NewOwner { uid: kuid(perm.uid)?, gid: kgid(perm.gid)?, mode: perm.mode })
}

/// Sends `SI_MESGQ` from the caller.
fn tell(process: &Pid, signo: i32, value: u64) {
    let who = Who::is_current();
    let list = list::lock();
    let Some(target) = list.process_of(process) else { return };
    let sender = who.pid.nr_in(process.ns());
    let info = SigInfo::message(signo, sender, ids::uid(who.task.cred().uid), value);
    // Nobody but the receiver would care.
    let _ = signal::send_locked(&list, info, target, true);
}

/// Tells the IPC floor about the caller; at boot.
pub fn install_hooks() {
    hooks::install(Hooks {
        process: || task::current().leader().thread_pid.share(),
        visible_pid: |pid| pid.nr_in(task::current().thread_pid.own().ns()),
        cred: || task::current().cred().clone(),
        ipc_ns: || task::current().nsproxy().ipc.clone(),
        msgqueue_limit: || task::current().signal.rlimits.soft(Resource::Msgqueue),
        tell,
    });
}
