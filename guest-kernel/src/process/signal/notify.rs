//! SIGCHLD: what parents and tracers are told of a task's end, stops and going on.

use core::sync::atomic::Ordering;

use super::send_locked;
use crate::process::ptrace;
use crate::process::wait::cld;
use crate::signal::{SIGCHLD, SIGCONT, SigAction, SigInfo};
use crate::task::list::TaskList;
use crate::task::{GroupFlags, Task};

/// `SA_NOCLDSTOP`: no SIGCHLD for stops.
const SA_NOCLDSTOP: u64 = 1;

/// Tells the parent that a child ended: SIGCHLD (or what clone asked for), and the wait queue.
pub fn notify_parent(list: &TaskList, child: &Task, parent: &Task, sig: Option<i32>) {
    if let Some(sig) = sig {
        let status = {
            let shared = child.signal.shared.lock();
            if shared.flags.contains(GroupFlags::EXIT) {
                shared.exit_code
            } else {
                child.exit_code.load(Ordering::Relaxed)
            }
        };
        let (cause, value) = crate::process::wait::cause_of(status);
        let mut info = child_info(child, parent, cause, value);
        info.signo = sig;
        let _ = send_locked(list, info, parent, true);
    }
    parent.signal.wait_chldexit.wake_all();
}

fn child_info(child: &Task, parent: &Task, cause: i32, status: i32) -> SigInfo {
    const TICK_NS: u64 = 10_000_000;
    let ns = parent.active_pid_ns();
    let time = child.se.cpu_time();
    let dead = &child.signal.dead;
    SigInfo::child(
        cause,
        child.pid_nr(&ns),
        parent.cred.share().user_ns.uids().from_kernel_munged(child.cred.with(|c| c.uid)),
        status,
        (time.user + dead.utime.load(Ordering::Relaxed)) / TICK_NS,
        (time.system + dead.stime.load(Ordering::Relaxed)) / TICK_NS,
    )
}

/// Tells the parent that a child's process stopped or went on.
pub fn notify_job_control(list: &TaskList, child: &Task, cause: i32) {
    let leader = child.leader();
    let Some(parent) = ptrace::real_parent_of(list, leader) else { return };
    let status = match cause {
        cld::CONTINUED => SIGCONT,
        _ => leader.signal.shared.lock().exit_code & 0x7f,
    };
    notify_stop(list, leader, parent, cause, status);
}

/// Tells the tracer that a tracee stopped for it, or that its process stopped or went on.
pub fn notify_tracer(list: &TaskList, tracee: &Task, cause: i32) {
    let Some(tracer) = ptrace::tracer_of(list, tracee) else { return };
    let status = match cause {
        cld::CONTINUED => SIGCONT,
        cld::STOPPED => tracee.signal.shared.lock().exit_code & 0x7f,
        _ => tracee.ptrace.stop.lock().code & 0x7f,
    };
    notify_stop(list, tracee, tracer, cause, status);
}

fn notify_stop(list: &TaskList, child: &Task, parent: &Task, cause: i32, status: i32) {
    let action = parent.sighand.with(|s| s.get(SIGCHLD));
    if action.handler != SigAction::SIG_IGN && action.flags & SA_NOCLDSTOP == 0 {
        let _ = send_locked(list, child_info(child, parent, cause, status), parent, true);
    }
    parent.signal.wait_chldexit.wake_all();
}
