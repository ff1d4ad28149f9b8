//! [`commit_creds`]: a task's new credentials take effect.

use core::sync::atomic::Ordering;

use super::exec::mm_limits;
use crate::kref::Ref;
use crate::ns::{Cap, Cred};
use crate::task::Task;

/// Installs credentials. Whoever changes ids, or gets capabilities, holds secrets from before that its
/// new peers must not read: until it execs, only privileged tasks may look into it (prctl(2),
/// `PR_SET_DUMPABLE`). The caller is the task itself.
pub fn commit_creds(task: &Task, new: Ref<Cred>) {
    let old = task.cred();
    let other_ids = [
        (old.euid, new.euid),
        (old.egid, new.egid),
        (old.fsuid, new.fsuid),
        (old.fsgid, new.fsgid),
    ]
    .iter()
    .any(|(old, new)| old != new);
    if other_ids || !gains_nothing(old, &new) {
        if let Some(mm) = task.mm() {
            mm.set_dumpable(false);
        }
        task.pdeath_signal.store(0, Ordering::Relaxed);
    }
    let lifts_limits = |cred: &Cred| cred.capable(Cap::IpcLock);
    let limits_change = lifts_limits(old) != lifts_limits(&new);
    drop(task.cred.replace(new));
    if limits_change && let Some(mm) = task.mm() {
        // RLIMIT_MEMLOCK binds from now on, or no more (mlock(2)).
        mm.set_limits(mm_limits(task));
    }
}

/// True if `new` can do no more than `old`: fewer capabilities in the same user namespace, or any in one
/// that `old` made.
fn gains_nothing(old: &Cred, new: &Cred) -> bool {
    if Ref::ptr_eq(&old.user_ns, &new.user_ns) {
        return new.cap_permitted.is_within(old.cap_permitted);
    }
    let mut at = &new.user_ns;
    while let Some(parent) = at.parent() {
        if Ref::ptr_eq(parent, &old.user_ns) && at.owner_uid == old.euid {
            return true;
        }
        at = parent;
    }
    false
}
