//! [`MntNs`]: the mounts that a group of tasks sees, and what can be done with them
//! (mount_namespaces(7), mount(2), umount(2), pivot_root(2)).
//!
//! One lock, [`lock_trees`], guards the shape of all trees of all namespaces, because one change can
//! reach many of them. What a change lets go of is dropped after the lock: a mount may be the last to
//! hold a namespace.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use belljar_abi::Described;

use super::mount::{MountLocks, is_under};
use super::propagation::{self, CopyAs, copy_all, copy_tree, cut, is_shared, is_unbindable};
use super::superblock::{MountRequest, find_filesystem};
use super::{Dentry, FileSystem, FsStruct, Inode, Mount, MountFlags, Mutex, Path, SuperBlock};
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::try_collect;
use crate::ns::common::publish;
use crate::ns::{Cap, Cred, HasCommon, NsCommon, UserNs, init_nsproxy};
use crate::sync::{MutexGuard, SpinLock};

/// The mounts that a group of tasks sees.
#[repr(C)]
#[derive(Described)]
pub struct MntNs {
    /// Identity and owner.
    #[described(as = "struct NsCommon")]
    pub common: NsCommon,
    /// Namespaces made later have higher numbers: only they can be bind mounted here, so that none
    /// holds itself.
    pub seq: u64,
    /// The mount at the bottom: the initial root file system.
    root: SpinLock<Option<Ref<Mount>>>,
    /// All mounts in the order in which they came.
    mounts: SpinLock<Array<Ref<Mount>>>,
}

impl HasCommon for MntNs {
    fn common(&self) -> &NsCommon {
        &self.common
    }
}

/// The most mounts in one namespace (/proc/sys/fs/mount-max).
pub const MOUNT_MAX: usize = 100_000;

static NEXT_SEQ: AtomicU64 = AtomicU64::new(1);
static TREES: Mutex<()> = Mutex::new(());

/// The lock of all trees, and what is to be dropped after it.
pub(super) struct Trees {
    // Fields are dropped in this order.
    _lock: MutexGuard<'static, ()>,
    gone: Vec<(Option<Path>, Ref<Mount>)>,
}

pub(super) fn lock_trees() -> Trees {
    Trees { _lock: TREES.lock(), gone: Vec::new() }
}

impl Trees {
    /// Room for that many mounts to be let go of.
    pub(super) fn reserve(&mut self, n: usize) -> Result<()> {
        self.gone.try_reserve(2 * n).map_err(|_| Errno::ENOMEM)
    }

    pub(super) fn let_go(&mut self, place: Option<Path>, mount: Ref<Mount>) {
        self.gone.push((place, mount));
    }
}

/// The mounts that exist from boot.
pub fn init_mnt_ns() -> &'static Ref<MntNs> {
    &init_nsproxy().mnt
}

/// What an unmount asks for (umount(2)).
#[derive(Clone, Copy, Default, Debug)]
pub struct UmountFlags {
    /// Also if it is in use: it leaves the tree at once and goes when nobody uses it.
    pub detach: bool,
    /// Not at the first call, which only marks it (`EAGAIN`).
    pub expire: bool,
}

/// What mount(2) makes of propagation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are mount(2)'s")]
pub enum Propagation {
    Shared,
    Private,
    Slave,
    Unbindable,
}

impl MntNs {
    /// A namespace without any mount.
    pub fn empty(common: NsCommon) -> Result<Ref<Self>> {
        publish(Self {
            common,
            seq: NEXT_SEQ.fetch_add(1, Ordering::Relaxed),
            root: SpinLock::new(None),
            mounts: SpinLock::new(Array::new()),
        })
    }

    /// Puts the first mount at the bottom of an empty namespace.
    pub fn set_bottom(&self, root: Ref<Mount>) -> Result<()> {
        self.remember(&root)?;
        *self.root.lock() = Some(root);
        Ok(())
    }

    /// The top of everything that is mounted on the bottom.
    pub fn root(&self) -> Option<Path> {
        let mnt = self.root.lock().clone()?;
        Some(Path { dentry: mnt.root.clone(), mnt }.follow_mounts())
    }

    /// Mount `i` in the order in which they came, for /proc/mounts.
    pub fn mount_at(&self, i: usize) -> Option<Ref<Mount>> {
        self.mounts.lock().get(i).cloned()
    }

    fn contains(&self, mount: &Mount) -> bool {
        mount.is_in(self)
    }

    fn remember(&self, mount: &Ref<Mount>) -> Result<()> {
        let mut mounts = self.mounts.lock();
        if mounts.len() >= MOUNT_MAX {
            return Err(Errno::ENOSPC);
        }
        mounts.try_push(mount.clone())?;
        mount.set_namespace(self);
        Ok(())
    }

    /// The namespace's reference to a mount, taken back.
    fn forget(&self, mount: &Ref<Mount>) -> Option<Ref<Mount>> {
        let mut mounts = self.mounts.lock();
        let at = mounts.iter().position(|m| Ref::ptr_eq(m, mount))?;
        let gone = mounts.remove(at);
        gone.set_namespace(core::ptr::null());
        Some(gone)
    }

    /// Attaches `mount` at `place`, on top of what is there.
    pub fn attach(&self, mount: &Ref<Mount>, place: &Path) -> Result<()> {
        let mut trees = lock_trees();
        let place = place.clone().follow_mounts();
        if Ref::ptr_eq(&place.mnt.sb, &mount.sb) && Ref::ptr_eq(&place.dentry, &mount.root) {
            return Err(Errno::EBUSY);
        }
        self.graft(&mut trees, mount, place)
    }

    /// A place where something may be mounted, followed to its top.
    fn check_place(&self, place: Path, mount: &Mount) -> Result<Path> {
        let place = place.follow_mounts();
        if !self.contains(&place.mnt) {
            return Err(Errno::EINVAL);
        }
        if place.inode()?.is_dir() != mount.root.require_inode()?.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if place.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        Ok(place)
    }

    /// Attaches the tree of `top`, which is nowhere, at `place`, and copies of it wherever that
    /// propagates to (`attach_recursive_mnt`).
    fn graft(&self, trees: &mut Trees, top: &Ref<Mount>, place: Path) -> Result<()> {
        let place = self.check_place(place, top)?;
        if top.root.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let tree = Mount::subtree(top)?;
        let mut copies = Vec::new();
        if is_shared(&place.mnt) {
            tree.iter().try_for_each(|mount| propagation::make_shared(mount))?;
            copies = propagation::copies_for(&place, top)?;
        }
        trees.reserve(tree.len())?;
        self.adopt(top, place)?;
        for (copy, at) in copies {
            let receiver = at.mnt.clone();
            let Some(ns) = propagation::namespace_of(&receiver) else { continue };
            let covering = at.mnt.child_at(&at.dentry);
            ns.adopt(&copy, at)?;
            if let Some(covering) = covering {
                // What covered the place now covers the copy.
                trees.reserve(1)?;
                if let Some((old, mount)) = Mount::detach(&covering) {
                    trees.let_go(Some(old), mount);
                }
                let on_copy = Path { mnt: copy.clone(), dentry: copy.root.clone() };
                Mount::attach(&covering, on_copy)?;
            }
            if !Ref::ptr_eq(ns.common.user_ns(), self.common.user_ns()) {
                lock_tree(&copy)?;
            }
        }
        Ok(())
    }

    /// Attaches a tree and enters its mounts.
    fn adopt(&self, top: &Ref<Mount>, place: Path) -> Result<()> {
        let tree = Mount::subtree(top)?;
        for (i, mount) in tree.iter().enumerate() {
            if let Err(error) = self.remember(mount) {
                tree[..i].iter().for_each(|mount| drop(self.forget(mount)));
                return Err(error);
            }
        }
        Mount::attach(top, place).inspect_err(|_| {
            tree.iter().for_each(|mount| drop(self.forget(mount)));
        })
    }

    /// Mounts a new file system (mount(2) without `MS_BIND`, `MS_MOVE`, `MS_REMOUNT`).
    pub fn mount(&self, fs_type: &[u8], request: &MountRequest<'_>, place: &Path) -> Result<()> {
        let fs = find_filesystem(fs_type)?;
        let shows = fs.shows();
        let request = MountRequest { shows: shows.as_ref(), ..*request };
        let root = Self::new_super(fs, request.cred, &request)?;
        self.attach(&self.new_mount(fs, root, request.source, request.flags)?, place)
    }

    /// Makes a file system, or finds the one there is; its root. `EPERM` if `cred`, who makes it now, may not
    /// mount that type.
    pub fn new_super(
        fs: &dyn FileSystem,
        cred: &Cred,
        request: &MountRequest<'_>,
    ) -> Result<Ref<Dentry>> {
        let may = if fs.allows_user_ns() {
            cred.ns_capable(request.owner(), Cap::SysAdmin)
        } else {
            cred.capable(Cap::SysAdmin)
        };
        if !may {
            return Err(Errno::EPERM);
        }
        let root = fs.mount(request)?;
        let sb = &root.require_inode()?.sb;
        // One that is mounted elsewhere already stays as it is there.
        if sb.mounts.is_empty() {
            sb.set_read_only(request.flags.contains(MountFlags::RDONLY));
        }
        Ok(root)
    }

    /// A mount, at no place yet, of the file system with this root. `EPERM` if it would reveal what this
    /// namespace does not see.
    pub fn new_mount(
        &self,
        fs: &dyn FileSystem,
        root: Ref<Dentry>,
        source: &[u8],
        flags: MountFlags,
    ) -> Result<Ref<Mount>> {
        let mount = Mount::new(root, source, flags)?;
        if fs.shows_the_machine() && self.common.user_ns().level > 0 && !self.sees_already(&mount) {
            return Err(Errno::EPERM);
        }
        Ok(mount)
    }

    /// True if a file system of the same type can be seen whole in this namespace already, so that one
    /// more mount reveals nothing; its locks hold for the new one (`mnt_already_visible`).
    fn sees_already(&self, new: &Mount) -> bool {
        let _trees = lock_trees();
        let mounts = self.mounts.lock();
        mounts.iter().any(|old| {
            let whole = old.sb.fs_type == new.sb.fs_type && old.root.parent().is_none();
            let locks = old.locks();
            let hides = old.any_child(|at, child| {
                let empty = at.inode().is_some_and(|inode| inode.nlink() <= 2 && inode.size() == 0);
                child.locks().contains(MountLocks::PLACE) && !empty
            });
            let read_only =
                locks.contains(MountLocks::RDONLY) && !new.flags().contains(MountFlags::RDONLY);
            if !whole || hides || read_only {
                return false;
            }
            new.set_locks(locks & (MountLocks::RDONLY | MountLocks::ATIME));
            true
        })
    }

    /// Shows the tree at `from` at `place` too (`MS_BIND`), with what is mounted in it if `recursive`.
    /// `foreign` allows a `from` that is in no tree: a namespace's file.
    pub fn bind(&self, from: &Path, place: &Path, recursive: bool, foreign: bool) -> Result<()> {
        let mut trees = lock_trees();
        let copy = self.copy_to_bind(from, recursive, foreign)?;
        self.graft(&mut trees, &copy, place.clone()).inspect_err(|_| cut(&copy))
    }

    /// What [`bind`](Self::bind) would mount, without a place (open_tree(2), `OPEN_TREE_CLONE`).
    pub fn detached_copy(&self, from: &Path, recursive: bool, foreign: bool) -> Result<Ref<Mount>> {
        let _trees = lock_trees();
        self.copy_to_bind(from, recursive, foreign)
    }

    /// A copy of the tree at `from`. The caller holds the lock of all trees.
    fn copy_to_bind(&self, from: &Path, recursive: bool, foreign: bool) -> Result<Ref<Mount>> {
        let known = self.contains(&from.mnt) || foreign && from.mnt.is_pseudo();
        if !known || is_unbindable(&from.mnt) {
            return Err(Errno::EINVAL);
        }
        let copy = if recursive {
            copy_tree(&from.mnt, &from.dentry, CopyAs::Peer, false)?
        } else {
            // Without what hides parts of it, those would be seen.
            let hides = from.mnt.any_child(|at, child| {
                child.locks().contains(MountLocks::PLACE) && at.is_below(&from.dentry)
            });
            if hides {
                return Err(Errno::EINVAL);
            }
            let flags = if from.mnt.is_pseudo() { MountFlags::empty() } else { from.mnt.flags() };
            let copy = from.mnt.another(from.dentry.clone())?;
            copy.set_flags(flags);
            propagation::bind_copy(&copy, &from.mnt, CopyAs::Peer)?;
            copy
        };
        copy.set_locks(copy.locks().difference(MountLocks::PLACE));
        Ok(copy)
    }

    /// Moves a mount, or gives a detached tree a place (mount(2), `MS_MOVE`; move_mount(2)). `ELOOP` if the
    /// tree holds something that may not be in this namespace, of which `fits` tells.
    pub fn move_mount(
        &self,
        from: &Path,
        place: &Path,
        fits: &dyn Fn(&Inode) -> bool,
    ) -> Result<()> {
        let mut trees = lock_trees();
        let mount = &from.mnt;
        let detached = mount.is_detached();
        if !Ref::ptr_eq(&from.dentry, &mount.root) || !detached && !self.contains(mount) {
            return Err(Errno::EINVAL);
        }
        let old_place = mount.place();
        let may_leave = old_place.as_ref().map_or(detached, |old| !is_shared(&old.mnt));
        if !may_leave || mount.locks().contains(MountLocks::PLACE) {
            return Err(Errno::EINVAL);
        }
        // A directory on a file or the reverse is another error here than for a new mount.
        let place = self.check_place(place.clone(), mount).map_err(|error| match error {
            Errno::ENOTDIR => Errno::EINVAL,
            other => other,
        })?;
        let tree = Mount::subtree(mount)?;
        if is_shared(&place.mnt) && tree.iter().any(|m| is_unbindable(m)) {
            return Err(Errno::EINVAL);
        }
        if tree.iter().any(|m| Ref::ptr_eq(m, &place.mnt)) {
            return Err(Errno::ELOOP);
        }
        if tree.iter().any(|m| m.root.inode().is_some_and(|inode| !fits(inode))) {
            return Err(Errno::ELOOP);
        }
        let Some(old_place) = old_place else {
            self.graft(&mut trees, mount, place)?;
            mount.set_detached(false);
            return Ok(());
        };
        trees.reserve(2 * tree.len())?;
        if let Some((old, mount)) = Mount::detach(mount) {
            trees.let_go(Some(old), mount);
        }
        for mount in &tree {
            if let Some(gone) = self.forget(mount) {
                trees.let_go(None, gone);
            }
        }
        self.graft(&mut trees, mount, place).or_else(|error| {
            // Back to where it was; the memory for that was just given back.
            self.adopt(mount, old_place)?;
            Err(error)
        })
    }

    /// Changes how a mount, or with `recursive` all mounts on it too, tells and hears of changes.
    pub fn set_propagation(&self, at: &Path, how: Propagation, recursive: bool) -> Result<()> {
        let _trees = lock_trees();
        if !Ref::ptr_eq(&at.dentry, &at.mnt.root) || !self.contains(&at.mnt) {
            return Err(Errno::EINVAL);
        }
        let tree = match recursive {
            true => Mount::subtree(&at.mnt)?,
            false => try_collect(core::iter::once(at.mnt.clone()))?,
        };
        tree.iter().try_for_each(|mount| propagation::set(mount, how))
    }

    /// Changes flags of the mount at `at` (`MS_REMOUNT`); without `bind` the file system's options and
    /// its being read-only change as well, which its owner alone may do.
    pub fn remount(
        &self,
        at: &Path,
        flags: MountFlags,
        data: &[u8],
        bind: bool,
        cred: &Cred,
    ) -> Result<()> {
        let _trees = lock_trees();
        if !Ref::ptr_eq(&at.dentry, &at.mnt.root) || !self.contains(&at.mnt) {
            return Err(Errno::EINVAL);
        }
        at.mnt.check_flags(flags)?;
        if bind {
            return at.mnt.change_flags(flags);
        }
        let sb = &at.mnt.sb;
        if !cred.ns_capable(&sb.user_ns, Cap::SysAdmin) {
            return Err(Errno::EPERM);
        }
        sb.reconfigure(data, flags.contains(MountFlags::RDONLY))?;
        at.mnt.set_flags(flags);
        Ok(())
    }

    /// Takes the mount at `at` away (umount2(2)), and its counterparts wherever that propagates to.
    pub fn umount(&self, at: &Path, flags: UmountFlags) -> Result<()> {
        let mut trees = lock_trees();
        let mount = &at.mnt;
        if !Ref::ptr_eq(&at.dentry, &mount.root)
            || !self.contains(mount)
            || mount.locks().contains(MountLocks::PLACE)
        {
            return Err(Errno::EINVAL);
        }
        // The bottom stays.
        mount.place().ok_or(Errno::EINVAL)?;
        let tree = Mount::subtree(mount)?;
        // Held by: its namespace's list, its parent's, `tree`, and the caller's path.
        const IDLE: usize = 4;
        if !flags.detach && (tree.len() > 1 || Ref::ref_count(mount) > IDLE) {
            return Err(Errno::EBUSY);
        }
        if flags.expire && !mount.mark_expiring() {
            return Err(Errno::EAGAIN);
        }
        if !flags.detach {
            // Its namespace's list, its parent's, and `counterparts`.
            let busy = |m: &Ref<Mount>| Ref::ref_count(m) > IDLE - 1 && !m.any_child(|_, _| true);
            if propagation::counterparts(mount)?.iter().any(busy) {
                return Err(Errno::EBUSY);
            }
        }
        take_away(&mut trees, tree)
    }

    /// Makes `new_root` the root of everything and puts the old root at `put_old` (pivot_root(2)).
    /// `old_root` is the caller's root. The tasks' roots and directories are the caller's to move.
    pub fn pivot_root(&self, old_root: &Path, new_root: &Path, put_old: &Path) -> Result<()> {
        let mut trees = lock_trees();
        if !new_root.inode()?.is_dir() || !put_old.inode()?.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let parent_shared =
            |mount: &Mount| mount.place().is_some_and(|place| is_shared(&place.mnt));
        if is_shared(&put_old.mnt)
            || parent_shared(&new_root.mnt)
            || parent_shared(&old_root.mnt)
            || !self.contains(&old_root.mnt)
            || !self.contains(&new_root.mnt)
            || new_root.mnt.locks().contains(MountLocks::PLACE)
        {
            return Err(Errno::EINVAL);
        }
        if new_root.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        if Ref::ptr_eq(&new_root.mnt, &old_root.mnt) || Ref::ptr_eq(&put_old.mnt, &old_root.mnt) {
            return Err(Errno::EBUSY);
        }
        let tops = Ref::ptr_eq(&new_root.dentry, &new_root.mnt.root)
            && Ref::ptr_eq(&old_root.dentry, &old_root.mnt.root);
        if !tops || !is_under(put_old, new_root) || !is_under(new_root, old_root) {
            return Err(Errno::EINVAL);
        }
        // The bottom of a namespace cannot be moved: nothing would hold it.
        let (Some(above), Some(_)) = (old_root.mnt.place(), new_root.mnt.place()) else {
            return Err(Errno::EINVAL);
        };
        trees.reserve(2)?;
        for mount in [&new_root.mnt, &old_root.mnt] {
            if let Some((place, mount)) = Mount::detach(mount) {
                trees.let_go(Some(place), mount);
            }
        }
        // Whatever the old root covered is covered by the new one from now on.
        let locks = (old_root.mnt.locks(), new_root.mnt.locks());
        if locks.0.contains(MountLocks::PLACE) {
            new_root.mnt.set_locks(locks.1 | MountLocks::PLACE);
            old_root.mnt.set_locks(locks.0.difference(MountLocks::PLACE));
        }
        Mount::attach(&old_root.mnt, put_old.clone())?;
        Mount::attach(&new_root.mnt, above)
    }

    /// A copy of the namespace for `CLONE_NEWNS`; root and working directory of `fs` move along. In
    /// another user namespace shared mounts become slaves, and what is mounted cannot be taken apart
    /// (mount_namespaces(7), "Restrictions on mount namespaces").
    pub fn try_clone(&self, common: NsCommon, fs: &FsStruct) -> Result<Ref<Self>> {
        let copy = Self::empty(common)?;
        let _trees = lock_trees();
        let bottom = self.root.lock().clone().ok_or(Errno::EINVAL)?;
        let weaker = !Ref::ptr_eq(self.common.user_ns(), copy.common.user_ns());
        let how = if weaker { CopyAs::SlaveIfShared } else { CopyAs::Peer };
        let mut pairs: Vec<(Ref<Mount>, Ref<Mount>)> = Vec::new();
        let mut mounts = Array::new();
        copy_all(&bottom, &bottom.root, how, true, &mut pairs)
            .and_then(|()| mounts.try_reserve(pairs.len()))
            .inspect_err(|_| pairs.iter().for_each(|(_, copy)| drop(Mount::detach(copy))))?;
        for (i, (_, mount)) in pairs.iter().enumerate() {
            if weaker {
                mount.lock_down(i > 0);
            }
            mount.set_namespace(&raw const *copy);
            mounts.try_push(mount.clone())?;
        }
        *copy.mounts.lock() = mounts;
        let (root, cwd) = (fs.root(), fs.cwd());
        for (old, new) in &pairs {
            if Ref::ptr_eq(&root.mnt, old) {
                fs.set_root(Path { mnt: new.clone(), dentry: root.dentry.clone() });
            }
            if Ref::ptr_eq(&cwd.mnt, old) {
                fs.set_cwd(Path { mnt: new.clone(), dentry: cwd.dentry.clone() });
            }
        }
        *copy.root.lock() = pairs.first().map(|(_, new)| new.clone());
        drop(pairs);
        Ok(copy)
    }

    /// True if programs of `cred`'s user namespace may have set-id bits from `mount` count: it is part
    /// of the tree of a namespace, and the file system is theirs or of a namespace around theirs
    /// (`mnt_may_suid`).
    pub fn may_suid(&self, mount: &Mount, user_ns: &UserNs) -> bool {
        !mount.flags().contains(MountFlags::NOSUID)
            && self.contains(mount)
            && user_ns.is_within(&mount.sb.user_ns)
    }
}

impl Drop for MntNs {
    fn drop(&mut self) {
        let Some(bottom) = self.root.get_mut().take() else { return };
        let mounts = core::mem::take(self.mounts.get_mut());
        {
            let _trees = lock_trees();
            for mount in mounts.iter() {
                mount.set_namespace(core::ptr::null());
                propagation::make_private(mount);
            }
        }
        // Cuts the cycles between parents and children; what is let go of is dropped without the lock.
        for mount in mounts.iter() {
            let ties = {
                let _trees = lock_trees();
                mount.fall_apart()
            };
            drop(ties);
        }
        drop((bottom, mounts));
    }
}

/// Locks a tree that comes from a more privileged namespace, but for its top's place.
fn lock_tree(top: &Ref<Mount>) -> Result<()> {
    for (i, mount) in Mount::subtree(top)?.iter().enumerate() {
        mount.lock_down(i > 0);
    }
    Ok(())
}

/// Moves what covers `mount` as a whole, and is not taken away with it, to where the first of `set` below
/// it was.
fn uncover(trees: &mut Trees, mount: &Mount, set: &[Ref<Mount>]) -> Result<()> {
    let taken = |mount: &Ref<Mount>| set.iter().any(|m| Ref::ptr_eq(m, mount));
    let Some(cover) = mount.child_at(&mount.root).filter(|cover| !taken(cover)) else {
        return Ok(());
    };
    let mut place = mount.place();
    while let Some(at) = place.take_if(|at| taken(&at.mnt)) {
        place = at.mnt.place();
    }
    let Some(place) = place else { return Ok(()) };
    if let Some((old, cover)) = Mount::detach(&cover) {
        trees.let_go(Some(old), cover);
    }
    Mount::attach(&cover, place)
}

/// True if something is mounted on `dentry` in the namespace of `seen`, the mount that shows it there: the
/// name must then stay. What other namespaces have mounted there keeps nobody from removing it.
pub(super) fn is_local_mountpoint(dentry: &Dentry, seen: &Mount) -> Result<bool> {
    if !dentry.is_mountpoint() {
        return Ok(false);
    }
    let _trees = lock_trees();
    let mounted = seen.sb.mounts.mounted_on(dentry)?;
    Ok(mounted.iter().any(|mount| core::ptr::eq(mount.namespace(), seen.namespace())))
}

/// Takes away what other namespaces have mounted on a name that was removed (`detach_mounts`).
pub(super) fn detach_mounts(dentry: &Dentry, sb: &SuperBlock) -> Result<()> {
    if !dentry.is_mountpoint() {
        return Ok(());
    }
    let mut trees = lock_trees();
    for mount in sb.mounts.mounted_on(dentry)? {
        remove_all(&mut trees, &Mount::subtree(&mount)?)?;
    }
    Ok(())
}

/// Takes a tree away with everything that hears of it (`umount_tree`).
fn take_away(trees: &mut Trees, tree: Vec<Ref<Mount>>) -> Result<()> {
    let mut set = tree;
    let asked = set.len();
    for i in 0..asked {
        for other in propagation::counterparts(&set[i])? {
            // A locked mount goes only with its parent.
            let locked = other.locks().contains(MountLocks::PLACE)
                && !other.place().is_some_and(|p| set.iter().any(|m| Ref::ptr_eq(m, &p.mnt)));
            if !locked && !set.iter().any(|m| Ref::ptr_eq(m, &other)) {
                set.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                set.push(other);
            }
        }
    }
    // A counterpart with something else on it stays, unless that covers it as a whole: children come
    // after parents, so from the end.
    let mut i = set.len();
    while i > asked {
        i -= 1;
        let stays = set[i].any_child(|at, child| {
            !core::ptr::eq(at, &raw const *set[i].root)
                && !set.iter().any(|m| core::ptr::eq(&raw const **m, child))
        });
        if stays {
            set.remove(i);
        }
    }
    trees.reserve(set.len())?;
    for mount in &set[asked..] {
        uncover(trees, mount, &set)?;
    }
    remove_all(trees, &set)
}

/// Takes mounts out of their namespaces and off their places; in `set`, parents come first.
fn remove_all(trees: &mut Trees, set: &[Ref<Mount>]) -> Result<()> {
    trees.reserve(2 * set.len())?;
    for mount in set.iter().rev() {
        if let Some(ns) = propagation::namespace_of(mount)
            && let Some(gone) = ns.forget(mount)
        {
            trees.let_go(None, gone);
        }
        propagation::make_private(mount);
        let with_parent = mount.place().is_some_and(|p| set.iter().any(|m| Ref::ptr_eq(m, &p.mnt)));
        if with_parent && mount.locks().contains(MountLocks::PLACE) {
            if let Some(place) = Mount::stick(mount) {
                trees.let_go(Some(place), mount.clone());
            }
        } else if let Some((place, mount)) = Mount::detach(mount) {
            trees.let_go(Some(place), mount);
        }
    }
    Ok(())
}
