//! Advisory locks of files: taken again, or somebody else has them now.

use belljar_abi::corenote;

use super::Failure;
use super::objects::Objects;
use super::plan::Plan;
use crate::errno::Errno;
use crate::fs::Files;
use crate::fs::locks::{Lock, LockKind};
use crate::kref::Ref;

/// Takes the locks of a process. They go with its descriptors if something fails later.
#[inline(never)]
pub(super) fn take(plan: &Plan<'_>, files: &Files, objects: &Objects) -> Result<(), Failure> {
    for lock in &plan.locks {
        let path = plan.file(lock.file).map_or(&b""[..], |file| file.path).escape_ascii();
        let failed = |errno| Failure::new(plan, errno, format_args!("its lock of {path}: {errno}"));
        let file = objects.files.get(lock.file).ok_or_else(|| failed(Errno::EBADF))?;
        let pid = plan.pid() as i32;
        let own = Ref::as_ptr(file) as usize;
        let (kind, owner, pid) = match lock.kind {
            corenote::LOCK_POSIX => (LockKind::Posix, files.lock_owner(), pid),
            corenote::LOCK_OFD => (LockKind::Ofd, own, -1),
            _ => (LockKind::Flock, own, pid),
        };
        let exclusive = lock.exclusive != 0;
        let request = Lock { kind, owner, pid, exclusive, start: lock.start, end: lock.end };
        file.inode.locks.set(&request, false).map_err(failed)?;
    }
    Ok(())
}
