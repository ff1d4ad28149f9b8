#![allow(missing_docs, reason = "options have the names of wait(2)")]
//! wait4(2), waitid(2): a parent learns what became of its children.

use core::sync::atomic::Ordering;

use bitflags::bitflags;

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::{Pid, PidType};
use crate::process::{exit, ptrace};
use crate::signal::{SIGCHLD, SIGCONT};
use crate::task::list::{self, TaskList};
use crate::task::ptrace::JobControl;
use crate::task::{self, Accounting, EXIT_DEAD, EXIT_ZOMBIE, GroupFlags, Task};
use crate::wait_event_interruptible;

bitflags! {
    /// Options of wait4(2) and waitid(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct WaitOptions: u32 {
        const NOHANG = 0x1;
        /// `WUNTRACED` too.
        const STOPPED = 0x2;
        const EXITED = 0x4;
        const CONTINUED = 0x8;
        const NOWAIT = 0x0100_0000;
        /// `__WNOTHREAD`: children of this thread only.
        const NOTHREAD = 0x2000_0000;
        /// `__WALL`: children of every kind.
        const ALL = 0x4000_0000;
        /// `__WCLONE`: only children that do not signal with SIGCHLD.
        const CLONE = 0x8000_0000;
    }
}

/// `si_code` of SIGCHLD: how a child's state changed.
pub mod cld {
    /// Exited.
    pub const EXITED: i32 = 1;
    /// Killed by a signal.
    pub const KILLED: i32 = 2;
    /// Killed, with a core dump.
    pub const DUMPED: i32 = 3;
    /// Stopped under a tracer.
    pub const TRAPPED: i32 = 4;
    /// Stopped.
    pub const STOPPED: i32 = 5;
    /// Went on.
    pub const CONTINUED: i32 = 6;
}

/// Which children.
pub enum Which {
    /// Any child.
    All,
    /// The child with this pid.
    Pid(Ref<Pid>),
    /// Children in this process group.
    Pgid(Ref<Pid>),
}

/// What was found.
#[derive(Clone, Copy, Default, Debug)]
pub struct WaitResult {
    /// The child's number in the caller's namespace.
    pub pid: u32,
    /// The child's real user id.
    pub uid: u32,
    /// Wait status as wait4(2) returns it.
    pub status: i32,
    /// `si_code`.
    pub cause: i32,
    /// `si_status`.
    pub si_status: i32,
    /// The child's and its waited-for descendants' user time, ns.
    pub utime: u64,
    /// System time, ns.
    pub stime: u64,
    /// Faults without and with reading, voluntary and involuntary switches.
    pub counts: [u64; 4],
    /// Peak resident set, in pages.
    pub maxrss: u64,
}

/// Waits. `Ok(None)`: `WNOHANG`, and no child has changed its state yet.
pub fn do_wait(which: &Which, options: WaitOptions) -> Result<Option<WaitResult>> {
    let task = task::current();
    let mut outcome = scan(task, which, options);
    if matches!(outcome, Ok(None)) && !options.contains(WaitOptions::NOHANG) {
        wait_event_interruptible!(task.signal.wait_chldexit, {
            outcome = scan(task, which, options);
            !matches!(outcome, Ok(None))
        })?;
    }
    list::drop_released();
    outcome
}

/// Looks once at all children that qualify: `ECHILD` if there is none.
fn scan(task: &Task, which: &Which, options: WaitOptions) -> Result<Option<WaitResult>> {
    let list = list::lock();
    let mut any = false;
    for parent in task.signal.threads.iter() {
        if options.contains(WaitOptions::NOTHREAD) && !core::ptr::eq(parent, task) {
            continue;
        }
        let children = parent.children.iter().map(|child| (child, false));
        let tracees = parent.ptrace.tracees.iter().map(|tracee| (tracee, true));
        for (child, tracing) in children.chain(tracees) {
            if !eligible(child, which, options, tracing) {
                continue;
            }
            match consider(&list, task, child, options, tracing) {
                Considered::Found(result) => return Ok(Some(result)),
                Considered::Gone => {}
                Considered::NotYet => any = true,
            }
        }
    }
    if any { Ok(None) } else { Err(Errno::ECHILD) }
}

fn eligible(child: &Task, which: &Which, options: WaitOptions, tracing: bool) -> bool {
    let matches = match which {
        Which::All => true,
        Which::Pid(pid) => child.thread_pid.with(|p| Ref::ptr_eq(p, pid)),
        Which::Pgid(pid) => child.signal.pid(PidType::Pgid).is_some_and(|p| Ref::ptr_eq(&p, pid)),
    };
    if !matches {
        return false;
    }
    // "Clone" children are those that do not send SIGCHLD (wait(2)).
    let clone_child = child.exit_signal.load(Ordering::Relaxed) != SIGCHLD;
    tracing
        || options.contains(WaitOptions::ALL)
        || clone_child == options.contains(WaitOptions::CLONE)
}

enum Considered {
    Found(WaitResult),
    NotYet,
    Gone,
}

/// A child, or with `tracing` a tracee, of the caller's process (`wait_consider_task`).
fn consider(
    list: &TaskList,
    parent: &Task,
    child: &Task,
    options: WaitOptions,
    tracing: bool,
) -> Considered {
    let peek = options.contains(WaitOptions::NOWAIT);
    // Its parent's process traces it: it is told about it as a tracer.
    let tracing = tracing || child.ptrace.is_traced() && !ptrace::is_reparented(list, child);
    let mut not_yet = Considered::NotYet;
    match child.exit_state.load(Ordering::Acquire) {
        EXIT_DEAD => return Considered::Gone,
        EXIT_ZOMBIE => {
            // A leader whose threads still run is not dead yet, and one that is traced is so to its tracer first.
            let threads = child.signal.nr_threads.load(Ordering::Relaxed) > 1;
            let dead = !(child.is_leader() && threads);
            if dead && (tracing || !child.ptrace.is_traced()) {
                // It will neither stop nor continue any more.
                if !options.contains(WaitOptions::EXITED) {
                    return Considered::Gone;
                }
                return Considered::Found(reap(list, parent, child, peek));
            }
            if tracing && !options.intersects(WaitOptions::CONTINUED | WaitOptions::EXITED) {
                not_yet = Considered::Gone;
            }
        }
        _ => {}
    }
    if tracing
        && !child.ptrace.jobctl().contains(JobControl::LISTENING)
        && let Some(code) = stop_code(child, peek)
    {
        return Considered::Found(WaitResult {
            status: code << 8 | 0x7f,
            cause: cld::TRAPPED,
            si_status: code,
            ..describe(parent, child)
        });
    }
    let mut shared = child.signal.shared.lock();
    if !tracing
        && options.contains(WaitOptions::STOPPED)
        && shared.flags.contains(GroupFlags::STOPPED | GroupFlags::STOP_UNREPORTED)
    {
        let sig = shared.exit_code;
        if !peek {
            shared.flags.remove(GroupFlags::STOP_UNREPORTED);
        }
        drop(shared);
        return Considered::Found(WaitResult {
            status: sig << 8 | 0x7f,
            cause: cld::STOPPED,
            si_status: sig,
            ..describe(parent, child)
        });
    }
    if options.contains(WaitOptions::CONTINUED) && shared.flags.contains(GroupFlags::CONTINUED) {
        if !peek {
            shared.flags.remove(GroupFlags::CONTINUED);
        }
        drop(shared);
        return Considered::Found(WaitResult {
            status: 0xffff,
            cause: cld::CONTINUED,
            si_status: SIGCONT,
            ..describe(parent, child)
        });
    }
    drop(shared);
    not_yet
}

/// What a tracee stopped for, if that was not reported yet.
fn stop_code(tracee: &Task, peek: bool) -> Option<i32> {
    let mut stop = tracee.ptrace.stop.lock();
    let code = stop.code;
    if !stop.stopped || code == 0 {
        return None;
    }
    if !peek {
        stop.code = 0;
    }
    Some(code)
}

fn describe(parent: &Task, child: &Task) -> WaitResult {
    WaitResult {
        pid: child.pid_nr(parent.thread_pid.own().ns()),
        uid: parent.cred().user_ns.uids().from_kernel_munged(child.cred.with(|c| c.uid)),
        ..usage(child)
    }
}

/// What the child and its waited-for descendants used.
fn usage(child: &Task) -> WaitResult {
    let time = child.se.cpu_time();
    let (mut utime, mut stime) = (time.user, time.system);
    let (nvcsw, nivcsw) = child.se.context_switches();
    let mut counts = [
        child.min_flt.load(Ordering::Relaxed),
        child.maj_flt.load(Ordering::Relaxed),
        nvcsw,
        nivcsw,
    ];
    let mut maxrss = 0;
    for account in [&child.signal.dead, &child.signal.children] {
        utime += account.utime.load(Ordering::Relaxed);
        stime += account.stime.load(Ordering::Relaxed);
        for (count, more) in counts.iter_mut().zip([
            &account.min_flt,
            &account.maj_flt,
            &account.nvcsw,
            &account.nivcsw,
        ]) {
            *count += more.load(Ordering::Relaxed);
        }
        maxrss = maxrss.max(account.maxrss.load(Ordering::Relaxed));
    }
    WaitResult { utime, stime, counts, maxrss, ..Default::default() }
}

/// Reports a zombie and, unless the caller only peeks, releases it.
fn reap(list: &TaskList, parent: &Task, child: &Task, peek: bool) -> WaitResult {
    let status = {
        let shared = child.signal.shared.lock();
        if shared.flags.contains(GroupFlags::EXIT) {
            shared.exit_code
        } else {
            child.exit_code.load(Ordering::Relaxed)
        }
    };
    let (cause, si_status) = cause_of(status);
    let result = WaitResult { status, cause, si_status, ..describe(parent, child) };
    if !peek {
        if child.is_leader() && ptrace::is_reparented(list, child) {
            // Its parent has yet to hear of it.
            ptrace::attach::unlink(list, child);
            if !exit::do_notify_parent(list, child, exit::exit_signal(child)) {
                return result;
            }
        } else if child.is_leader() {
            add(&parent.signal.children, &result);
        }
        child.exit_state.store(EXIT_DEAD, Ordering::Release);
        exit::release_locked(list, child);
    }
    result
}

/// `si_code` and `si_status` for a wait status of a task that ended.
pub fn cause_of(status: i32) -> (i32, i32) {
    if status & 0x7f == 0 {
        (cld::EXITED, status >> 8 & 0xff)
    } else if status & 0x80 != 0 {
        (cld::DUMPED, status & 0x7f)
    } else {
        (cld::KILLED, status & 0x7f)
    }
}

fn add(to: &Accounting, result: &WaitResult) {
    to.utime.fetch_add(result.utime, Ordering::Relaxed);
    to.stime.fetch_add(result.stime, Ordering::Relaxed);
    let counters = [&to.min_flt, &to.maj_flt, &to.nvcsw, &to.nivcsw];
    for (counter, n) in counters.iter().zip(result.counts) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
    to.maxrss.fetch_max(result.maxrss, Ordering::Relaxed);
}
