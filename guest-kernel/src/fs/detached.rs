//! Trees of mounts that have no place yet: copies that open_tree(2) makes, and what fsmount(2) makes of a
//! new file system.
//!
//! A descriptor holds the tree until move_mount(2) gives it a place. Without that, the tree is taken apart
//! when the descriptor's file is closed; whoever still has a file in it open sees it as it was.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::file::{FMode, FileOps, OpenFlags};
use super::mntns::{Propagation, lock_trees};
use super::mount::MountLocks;
use super::propagation;
use super::{File, MntNs, Mount, MountFlags, Path};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::try_collect;

/// What a descriptor does that holds a detached tree: nothing but letting go of it.
struct TreeFile {
    top: Ref<Mount>,
}

impl FileOps for TreeFile {
    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn release(&self, _file: &File) {
        dissolve(&self.top);
    }
}

/// A file that holds the tree of `top`, which is nowhere; to programs it is one opened with `O_PATH`.
pub fn open_detached(top: Ref<Mount>) -> Result<Ref<File>> {
    let path = Path { dentry: top.root.clone(), mnt: top.clone() };
    let ops = Box::new(TreeFile { top: top.clone() });
    match File::new(path, OpenFlags::PATH, FMode::PATH, ops) {
        Ok(file) => {
            top.set_detached(true);
            Ok(file)
        }
        Err(error) => {
            propagation::cut(&top);
            Err(error)
        }
    }
}

/// Takes a tree apart that is still detached. Mounts on it stay visible to who looks from inside.
fn dissolve(top: &Ref<Mount>) {
    let mut trees = lock_trees();
    if !top.set_detached(false) {
        return;
    }
    let Ok(tree) = Mount::subtree(top) else { return };
    if trees.reserve(tree.len()).is_err() {
        return;
    }
    for mount in tree.iter().rev() {
        propagation::make_private(mount);
        if let Some(place) = Mount::stick(mount) {
            trees.let_go(Some(place), mount.clone());
        }
    }
}

/// How mount_setattr(2) changes mounts.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountChange {
    /// Flags that go.
    pub clear: MountFlags,
    /// Flags that come.
    pub set: MountFlags,
    /// How they are to tell and hear of changes, if that is to be different.
    pub propagation: Option<Propagation>,
}

impl MntNs {
    /// Makes the mount at `to`, a private one, hear and tell what the one at `from` does
    /// (`MOVE_MOUNT_SET_GROUP` of move_mount(2)). Both show the same file system, `to` no more of it.
    pub fn join_group(&self, from: &Path, to: &Path) -> Result<()> {
        let _trees = lock_trees();
        let valid = |path: &Path| Ref::ptr_eq(&path.dentry, &path.mnt.root) && path.mnt.is_in(self);
        let bound = |mount: &Mount| {
            let (group, master, _) = mount.propagation();
            group.is_some() || master.is_some()
        };
        let hides = from.mnt.any_child(|at, child| {
            child.locks().contains(MountLocks::PLACE) && at.is_below(&to.dentry)
        });
        if !valid(from)
            || !valid(to)
            || !Ref::ptr_eq(&from.mnt.sb, &to.mnt.sb)
            || !to.dentry.is_below(&from.dentry)
            || hides
            || bound(&to.mnt)
            || !bound(&from.mnt)
        {
            return Err(Errno::EINVAL);
        }
        propagation::bind_copy(&to.mnt, &from.mnt, propagation::CopyAs::Peer)
    }

    /// Changes the mount at `at`, or with `recursive` all mounts on it too (mount_setattr(2)): all or none.
    /// `EPERM` if one of them has a flag that is locked, `EBUSY` if one would become read-only while files
    /// are open for writing through it.
    pub fn set_attributes(&self, at: &Path, change: &MountChange, recursive: bool) -> Result<()> {
        let _trees = lock_trees();
        let known = at.mnt.is_in(self) || at.mnt.is_detached();
        if !Ref::ptr_eq(&at.dentry, &at.mnt.root) || !known {
            return Err(Errno::EINVAL);
        }
        let tree = match recursive {
            true => Mount::subtree(&at.mnt)?,
            false => try_collect(core::iter::once(at.mnt.clone()))?,
        };
        let changed = |mount: &Mount| (mount.flags() - change.clear) | change.set;
        tree.iter().try_for_each(|mount| mount.check_flags(changed(mount)))?;
        let mut before = Vec::new();
        before.try_reserve_exact(tree.len()).map_err(|_| Errno::ENOMEM)?;
        for mount in &tree {
            before.push(mount.flags());
            if let Err(error) = mount.change_flags(changed(mount)) {
                tree.iter().zip(before).for_each(|(mount, flags)| mount.set_flags(flags));
                return Err(error);
            }
        }
        if let Some(how) = change.propagation {
            tree.iter().try_for_each(|mount| propagation::set(mount, how))?;
        }
        Ok(())
    }
}
