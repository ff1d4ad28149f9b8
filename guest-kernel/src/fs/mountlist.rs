//! [`MountList`]: all mounts of one file system, whichever namespaces they are in. It finds what is mounted
//! on a name that is about to be removed.

use alloc::vec::Vec;
use core::ptr;

use super::{Dentry, Mount};
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::sync::SpinLock;

struct MountPtr(*const Mount);
// SAFETY: it is followed under the list's lock only, under which a mount takes itself off before it goes.
unsafe impl Send for MountPtr {}

/// The mounts of a file system.
#[derive(Default)]
pub(super) struct MountList(SpinLock<Array<MountPtr>>);

impl MountList {
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    pub(super) fn add(&self, mount: &Ref<Mount>) -> Result<()> {
        self.0.lock().try_push(MountPtr(Ref::as_ptr(mount)))
    }

    /// Takes a mount off that goes; true if it was the last one.
    pub(super) fn remove(&self, mount: &Mount) -> bool {
        let mut list = self.0.lock();
        let at = list.iter().position(|there| ptr::eq(there.0, mount));
        if let Some(at) = at {
            list.remove(at);
        }
        at.is_some() && list.is_empty()
    }

    /// The mounts on `dentry`, a name in this file system.
    pub(super) fn mounted_on(&self, dentry: &Dentry) -> Result<Vec<Ref<Mount>>> {
        let mut parents = Vec::new();
        {
            let list = self.0.lock();
            parents.try_reserve_exact(list.len()).map_err(|_| Errno::ENOMEM)?;
            // SAFETY: the list's lock is held.
            parents.extend(list.iter().filter_map(|m| unsafe { Ref::try_from_ref(&*m.0) }));
        }
        let mut mounted = Vec::new();
        for child in parents.iter().filter_map(|parent| parent.child_at(dentry)) {
            mounted.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            mounted.push(child);
        }
        Ok(mounted)
    }
}
