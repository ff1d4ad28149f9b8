//! [`MountList`]: all mounts of one file system, whichever namespaces they are in. It finds what is mounted
//! on a name that is about to be removed.

use alloc::vec::Vec;

use super::mount::SuperLink;
use super::{Dentry, Mount};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::List;
use crate::sync::SpinLock;

/// The mounts of a file system. A mount takes itself off as it goes.
#[derive(Default)]
pub(super) struct MountList(SpinLock<Listed>);

#[derive(Default)]
struct Listed {
    mounts: List<Mount, SuperLink>,
    count: usize,
}

impl MountList {
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().mounts.is_empty()
    }

    /// True for some mount of the file system. `f` is called with the list locked.
    pub(super) fn any(&self, f: impl FnMut(&Mount) -> bool) -> bool {
        self.0.lock().mounts.iter().any(f)
    }

    pub(super) fn add(&self, mount: &Ref<Mount>) {
        let mut list = self.0.lock();
        // SAFETY: the list's lock is held; the mount lies in a `Ref` and takes itself off as it goes.
        unsafe { list.mounts.push_back(mount) };
        list.count += 1;
    }

    /// Takes a mount off that goes, or that never came for want of memory; true if there is no other one.
    pub(super) fn remove(&self, mount: &Mount) -> bool {
        let mut list = self.0.lock();
        if mount.of_super.is_linked() {
            // SAFETY: the list's lock is held.
            unsafe { list.mounts.remove(mount) };
            list.count -= 1;
        }
        list.count == 0
    }

    /// The mounts on `dentry`, a name in this file system.
    pub(super) fn mounted_on(&self, dentry: &Dentry) -> Result<Vec<Ref<Mount>>> {
        let mut parents = Vec::new();
        {
            let list = self.0.lock();
            parents.try_reserve_exact(list.count).map_err(|_| Errno::ENOMEM)?;
            // SAFETY: the list's lock is held.
            parents.extend(list.mounts.iter().filter_map(|m| unsafe { Ref::try_from_ref(m) }));
        }
        let mut mounted = Vec::new();
        for child in parents.iter().filter_map(|parent| parent.child_at(dentry)) {
            mounted.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            mounted.push(child);
        }
        Ok(mounted)
    }
}
