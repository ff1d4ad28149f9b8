//! Advisory locks of files.

use std::collections::BTreeSet;

use belljar_abi::corenote::{self, Lock, Writer};

use super::Result;
use crate::introspect::Object;

/// Adds the locks that an open file has, and those that the process took through it; `files` is the process's
/// descriptor table, and `seen` are the inodes whose locks of the process were added.
pub(super) fn add(
    files: &Object<'_>,
    file: &Object<'_>,
    seen: &mut BTreeSet<u64>,
    to: &mut Writer<Lock>,
) -> Result<()> {
    let Some(inode) = file.ptr("inode")? else { return Ok(()) };
    let Some(table) = inode.ptr("locks.addr")? else { return Ok(()) };
    let first = seen.insert(inode.addr());
    for lock in table.array("locks")? {
        let (kind, owner) = (lock.uint("kind")?, lock.uint("owner")?);
        let own = match kind {
            corenote::LOCK_POSIX => first && owner == files.addr(),
            _ => owner == file.addr(),
        };
        if own {
            to.push(Lock {
                file: file.addr(),
                kind,
                exclusive: lock.uint("exclusive")?,
                start: lock.uint("start")?,
                end: lock.uint("end")?,
            });
        }
    }
    Ok(())
}
