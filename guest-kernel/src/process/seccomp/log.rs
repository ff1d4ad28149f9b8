//! What is logged of what filters do, in the form of Linux's audit records (/proc/sys/kernel/seccomp/actions_logged).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::arch::PtRegs;
use crate::sched::monotonic_ns;
use crate::seccomp::{AUDIT_ARCH, Action, ActionSet};
use crate::task::Task;

/// So many records are written in one [`INTERVAL`]: programs make them, and the log is everybody's.
const BURST: u32 = 10;
/// Nanoseconds.
const INTERVAL: u64 = 5_000_000_000;

/// Which actions are logged.
static LOGGED: AtomicU32 = AtomicU32::new(ActionSet::ALL_BUT_ALLOW.0);
static SINCE: AtomicU64 = AtomicU64::new(0);
static WRITTEN: AtomicU32 = AtomicU32::new(0);

/// Which actions are logged.
pub fn logged() -> ActionSet {
    ActionSet(LOGGED.load(Ordering::Relaxed))
}

/// Changes which.
pub fn set_logged(actions: ActionSet) {
    LOGGED.store(actions.0, Ordering::Relaxed);
}

/// Logs what was done about the call that the registers ask for, and with which signal, if that action is logged.
/// `requested`: the filter wants it, or the action is one that needs no wish.
pub(super) fn log(task: &Task, regs: &PtRegs, action: Action, sig: i32, requested: bool) {
    if !requested || !logged().has(action) || !has_room() {
        return;
    }
    let cred = task.cred();
    crate::kinfo!(
        "audit: type=1326 uid={} gid={} pid={} comm=\"{}\" sig={sig} arch={AUDIT_ARCH:x} syscall={} compat=0 ip={:#x} code={:#x}",
        cred.uid,
        cred.gid,
        task.tgid(),
        task.comm(),
        regs.syscallno,
        regs.pc,
        action as u32,
    );
}

/// Whether one record more may be written now.
fn has_room() -> bool {
    let now = monotonic_ns();
    let since = SINCE.load(Ordering::Relaxed);
    if now.saturating_sub(since) >= INTERVAL || since == 0 {
        SINCE.store(now, Ordering::Relaxed);
        WRITTEN.store(0, Ordering::Relaxed);
    }
    WRITTEN.fetch_add(1, Ordering::Relaxed) < BURST
}
