//! [`commit_creds`]: a task's new credentials take effect; and [`mm_limits`], which depend on them.

use core::sync::atomic::{AtomicI32, Ordering};

use crate::kref::Ref;
use crate::mm::fault::MMAP_MIN_ADDR;
use crate::mm::{Dumpable, MmLimits};
use crate::ns::{Cap, Cred};
use crate::task::Task;
use crate::task::rlimit::{Resource, Rlimits};

/// Who may have the memory of programs with other rights than their callers' (proc(5), `suid_dumpable`).
pub static SUID_DUMPABLE: AtomicI32 = AtomicI32::new(Dumpable::No as i32);

/// See [`SUID_DUMPABLE`].
pub fn suid_dumpable() -> Dumpable {
    Dumpable::from_number(SUID_DUMPABLE.load(Ordering::Relaxed) as u32).unwrap_or(Dumpable::No)
}

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
            mm.set_dumpable(suid_dumpable());
        }
        task.pdeath_signal.store(0, Ordering::Relaxed);
    }
    let changed = |cap| new.capable(cap) != old.capable(cap);
    let other_limits = changed(Cap::IpcLock) || changed(Cap::SysRawio);
    drop(task.cred.replace(new));
    if other_limits && let Some(mm) = task.mm() {
        mm.set_limits(mm_limits(&task.signal.rlimits, task.cred()));
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

/// The limits that memory obeys: the process's resource limits, as far as its privileges don't lift them.
pub fn mm_limits(limits: &Rlimits, cred: &Cred) -> MmLimits {
    let soft = |which| limits.soft(which);
    MmLimits {
        address_space: soft(Resource::As),
        data: soft(Resource::Data),
        stack: soft(Resource::Stack),
        memlock: if cred.capable(Cap::IpcLock) { u64::MAX } else { soft(Resource::Memlock) },
        lowest: if cred.capable(Cap::SysRawio) { 0 } else { MMAP_MIN_ADDR },
    }
}
