//! Who may look into whom (ptrace(2), "Ptrace access mode checking"): asked by /proc, pidfds, setns(2)
//! and others before they show or hand over what is a task's own.

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::Mm;
use crate::ns::{Cap, Cred};
use crate::task::{self, Task};

/// Which of the caller's ids and capabilities count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessMode {
    /// The file system's ids and effective capabilities (`PTRACE_MODE_FSCREDS`): for files of /proc.
    FsCreds,
    /// The real ids and permitted capabilities (`PTRACE_MODE_REALCREDS`): for system calls.
    RealCreds,
}

/// True if the caller may look into `target`: it is its own process, or one of the same user with no
/// capability that the caller lacks, or the caller has CAP_SYS_PTRACE over it.
pub fn may_access(target: &Task, mode: AccessMode) -> bool {
    may_access_memory(target, target.se.get_mm().as_deref(), mode)
}

/// The memory of `target`, for a caller that may look into it: `EACCES` if it may not, `ESRCH` if there is none.
/// What is returned is what was checked, also if the target execs a program with other rights meanwhile.
pub fn mm_access(target: &Task, mode: AccessMode) -> Result<Ref<Mm>> {
    let mm = target.se.get_mm().ok_or(Errno::ESRCH)?;
    let own = task::current().mm().is_some_and(|own| Ref::ptr_eq(own, &mm));
    if own || may_access_memory(target, Some(&mm), mode) { Ok(mm) } else { Err(Errno::EACCES) }
}

/// `mm` was the target's before its credentials are looked at: exec closes the new memory, if need be, before it
/// takes the new credentials on.
fn may_access_memory(target: &Task, mm: Option<&Mm>, mode: AccessMode) -> bool {
    let caller = task::current();
    if caller.same_group(target) {
        return true;
    }
    let its = target.cred.share();
    let open = mm.is_none_or(Mm::is_dumpable);
    allows(caller.cred(), &its, mode)
        && (open || caller.cred().ns_capable(&target.mm_user_ns.share(), Cap::SysPtrace))
}

fn allows(caller: &Cred, target: &Cred, mode: AccessMode) -> bool {
    let (uid, gid, caps) = match mode {
        AccessMode::FsCreds => (caller.fsuid, caller.fsgid, caller.cap_effective),
        AccessMode::RealCreds => (caller.uid, caller.gid, caller.cap_permitted),
    };
    let same = [target.uid, target.euid, target.suid].iter().all(|&id| id == uid)
        && [target.gid, target.egid, target.sgid].iter().all(|&id| id == gid);
    let no_more =
        Ref::ptr_eq(&caller.user_ns, &target.user_ns) && target.cap_permitted.is_within(caps);
    same && no_more || caller.ns_capable(&target.user_ns, Cap::SysPtrace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ns::{CapSet, UserNs};

    #[test]
    fn a_namespace_is_closed_to_those_inside_and_open_to_its_maker() {
        let outer = UserNs::new_initial().unwrap();
        let inner = UserNs::new(&outer, 1000, 1000, false).unwrap();
        let mut user = Cred::root_of(&outer);
        for id in [&mut user.uid, &mut user.euid, &mut user.suid, &mut user.fsuid] {
            *id = 1000;
        }
        (user.cap_effective, user.cap_permitted) = (CapSet::EMPTY, CapSet::EMPTY);
        let mut inside = user.try_clone().unwrap();
        inside.enter_user_ns(&inner);
        for mode in [AccessMode::FsCreds, AccessMode::RealCreds] {
            let root = Cred::root_of(&outer);
            assert!(allows(&user, &user, mode) == (user.gid == user.fsgid));
            assert!(!allows(&inside, &user, mode), "upwards, though of the same user");
            assert!(allows(&user, &inside, mode), "the maker has all capabilities inside");
            assert!(!allows(&inside, &root, mode));
            assert!(allows(&root, &inside, mode));
        }
    }
}
