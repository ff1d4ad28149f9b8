//! What terminals ask of tasks, and vhangup(2).

use core::sync::atomic::Ordering;

use super::{Args, SysResult};
use crate::drivers::tty::job;
use crate::errno::Errno;
use crate::ns::{Cap, Pid, PidType};
use crate::task::rlimit::Resource;
use crate::task::{self, list};

/// Lets terminals find and change the caller's session, groups and controlling terminal; boot order
/// calls it once.
pub fn install_hooks() {
    job::install(job::Hooks {
        session: || task::current().signal.pid(PidType::Sid),
        pgrp: || task::current().signal.pid(PidType::Pgid),
        is_session_leader: || task::current().signal.leader.load(Ordering::Relaxed),
        controlling_tty: || task::current().signal.tty.get(),
        set_controlling_tty: |tty| {
            let old = task::current().signal.tty.replace(tty);
            drop(old);
        },
        clear_session_tty,
        find_pgrp: |number| {
            let pgrp = Pid::find(number, &task::current().active_pid_ns())?;
            let list = list::lock();
            // A process that leads no group yet may be named too.
            let member = list.members(&pgrp, PidType::Pgid).next().or(list.thread_of(&pgrp));
            let session = member.and_then(|task| task.signal.pid(PidType::Sid));
            drop(list);
            Some((pgrp, session))
        },
        number: |pid| pid.nr_in(&task::current().active_pid_ns()),
        is_admin: || task::current().cred().capable(Cap::SysAdmin),
        install_file: |file, cloexec| {
            let task = task::current();
            let limit = task.signal.rlimits.soft(Resource::Nofile) as usize;
            task.files().install(file, 0, limit, cloexec)
        },
        file_ids: || {
            let cred = task::current().cred();
            (cred.fsuid, cred.fsgid)
        },
    });
}

fn clear_session_tty(session: &Pid) {
    let list = list::lock();
    for process in list.members(session, PidType::Sid) {
        // The terminal that is being given up is held by the caller, so this drops no last reference.
        let old = process.signal.tty.replace(None);
        drop(old);
    }
}

/// vhangup(2).
pub fn sys_vhangup(_: &mut Args) -> SysResult {
    if !task::current().cred().capable(Cap::SysTtyConfig) {
        return Err(Errno::EPERM);
    }
    if let Some(tty) = job::controlling_tty() {
        tty.hang_up(false);
    }
    Ok(0)
}
