//! [`Mount`]: a file system's tree (or a part of it) attached at a place; [`MntNs`]: the mounts that a
//! group of tasks sees (mount_namespaces(7)).
//!
//! A mount knows its place (parent mount and dentry there) and its children. Both sides are changed
//! together, under the namespace's `lock`; each is guarded by the mount's own spin lock for readers.
//! The references between parent and child form a cycle that umount cuts.
//!
//! All mounts are private: nothing propagates between namespaces.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use belljar_abi::Described;

use super::dentry;
use super::superblock::{MountRequest, find_filesystem};
use super::{Dentry, FsStruct, Mutex, Path, SuperBlock};
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::user::UserNs;
use crate::ns::{init_nsproxy, new_inum};
use crate::sync::SpinLock;
use crate::uapi;

bitflags::bitflags! {
    /// Flags of a mount; the bits are mount(2)'s.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MountFlags: u32 {
        /// Nobody may write through this mount.
        const RDONLY = uapi::MS_RDONLY;
        /// Set-user-id bits have no effect.
        const NOSUID = uapi::MS_NOSUID;
        /// Device nodes cannot be opened.
        const NODEV = uapi::MS_NODEV;
        /// Nothing can be executed.
        const NOEXEC = uapi::MS_NOEXEC;
        /// Access times are not kept.
        const NOATIME = uapi::MS_NOATIME;
        /// Nor those of directories.
        const NODIRATIME = uapi::MS_NODIRATIME;
        /// Access times are kept while they are older than the last change; the default.
        const RELATIME = uapi::MS_RELATIME;
    }
}

impl MountFlags {
    /// As /proc/mounts shows them.
    pub fn show(self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        out.write_str(if self.contains(Self::RDONLY) { "ro" } else { "rw" })?;
        let names = [
            (Self::NOSUID, ",nosuid"),
            (Self::NODEV, ",nodev"),
            (Self::NOEXEC, ",noexec"),
            (Self::NOATIME, ",noatime"),
            (Self::NODIRATIME, ",nodiratime"),
        ];
        for (flag, name) in names {
            if self.contains(flag) {
                out.write_str(name)?;
            }
        }
        if !self.contains(Self::NOATIME) { out.write_str(",relatime") } else { Ok(()) }
    }
}

#[derive(Default)]
struct Tree {
    place: Option<Path>,
    children: Vec<Ref<Mount>>,
}

/// A tree attached at a place.
#[repr(C)]
#[derive(Described)]
pub struct Mount {
    /// Its number (`mnt_id` of /proc/PID/mountinfo).
    pub id: u32,
    #[described(skip)]
    flags: AtomicU32,
    /// The top of what it shows.
    #[described(as = "ptr Dentry")]
    pub root: Ref<Dentry>,
    /// The file system.
    #[described(skip)]
    pub sb: Ref<SuperBlock>,
    /// What was mounted, as the program named it.
    #[described(skip)]
    pub source: Box<[u8]>,
    /// It has no place in a tree, and never will.
    pseudo: bool,
    /// Marked by `MNT_EXPIRE`: the next such call takes it away.
    #[described(skip)]
    expiring: AtomicBool,
    #[described(skip)]
    tree: SpinLock<Tree>,
}

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

impl Mount {
    fn build(
        root: Ref<Dentry>,
        source: &[u8],
        flags: MountFlags,
        pseudo: bool,
    ) -> Result<Ref<Self>> {
        let sb = root.require_inode()?.sb.clone();
        let mount = Ref::try_new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            flags: AtomicU32::new(flags.bits()),
            root,
            sb,
            source: source.into(),
            pseudo,
            expiring: AtomicBool::new(false),
            tree: SpinLock::new(Tree::default()),
        })?;
        mount.sb.mounts.fetch_add(1, Ordering::Relaxed);
        Ok(mount)
    }

    /// A mount at no place yet that shows the tree under `root`.
    pub fn new(root: Ref<Dentry>, source: &[u8], flags: MountFlags) -> Result<Ref<Self>> {
        Self::build(root, source, flags, false)
    }

    /// The kernel's own mount of a file system whose files have no place in a tree.
    pub fn new_pseudo(root: Ref<Dentry>) -> Result<Ref<Self>> {
        Self::build(root, b"none", MountFlags::NOEXEC | MountFlags::NODEV, true)
    }

    /// True if its files have no place in a tree (pipes, sockets, anonymous inodes).
    pub fn is_pseudo(&self) -> bool {
        self.pseudo
    }

    /// Its flags.
    #[inline]
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// True if nothing may be written through it; `sb` may forbid it as well.
    pub fn is_read_only(&self) -> bool {
        self.flags().contains(MountFlags::RDONLY) || self.sb.is_read_only()
    }

    /// Checks that the file system may be changed through this mount.
    #[inline]
    pub fn want_write(&self) -> Result<()> {
        if self.is_read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Where it is attached; `None` for the root of a namespace, and after umount.
    pub fn place(&self) -> Option<Path> {
        self.tree.lock().place.clone()
    }

    /// What is mounted at `dentry` of this mount.
    fn child_at(&self, dentry: &Dentry) -> Option<Ref<Mount>> {
        let tree = self.tree.lock();
        let at = |child: &&Ref<Mount>| {
            let place = &child.tree.lock().place;
            place.as_ref().is_some_and(|p| core::ptr::eq(&*p.dentry, dentry))
        };
        tree.children.iter().rfind(at).cloned()
    }

    fn attach(this: &Ref<Self>, place: Path) -> Result<()> {
        let parent = place.mnt.clone();
        let mut tree = parent.tree.lock();
        tree.children.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        place.dentry.add_mount();
        this.tree.lock().place = Some(place);
        tree.children.push(this.clone());
        Ok(())
    }

    /// Takes it off its place. The references that tie it to the tree are returned, to be dropped
    /// where that may take long.
    fn detach(this: &Ref<Self>) -> Option<(Path, Ref<Mount>)> {
        let place = this.tree.lock().place.take()?;
        place.dentry.remove_mount();
        let mut tree = place.mnt.tree.lock();
        let at = tree.children.iter().position(|c| Ref::ptr_eq(c, this));
        let child = at.map(|at| tree.children.remove(at));
        drop(tree);
        Some((place, child?))
    }

    /// The mounts on it, and on those, parents first.
    fn subtree(this: &Ref<Self>) -> Result<Vec<Ref<Mount>>> {
        let mut all = Vec::new();
        all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        all.push(this.clone());
        let mut at = 0;
        while let Some(mount) = all.get(at).cloned() {
            let tree = mount.tree.lock();
            all.try_reserve(tree.children.len()).map_err(|_| Errno::ENOMEM)?;
            all.extend(tree.children.iter().cloned());
            at += 1;
        }
        Ok(all)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.sb.mounts.fetch_sub(1, Ordering::Relaxed) == 1 {
            dentry::forget_super(&self.sb);
        }
    }
}

impl Path {
    /// The place itself, or, if something is mounted on it, the root of what is on top.
    #[inline]
    pub fn follow_mounts(mut self) -> Self {
        while self.dentry.is_mountpoint() {
            match self.mnt.child_at(&self.dentry) {
                Some(child) => self = Path { dentry: child.root.clone(), mnt: child },
                None => break,
            }
        }
        self
    }
}

/// The mounts that a group of tasks sees.
#[repr(C)]
#[derive(Described)]
pub struct MntNs {
    /// Inode number of its /proc/PID/ns file.
    pub inum: u32,
    /// The user namespace that owns it.
    pub user_ns: Ref<UserNs>,
    /// Changes of the tree go one at a time.
    #[described(skip)]
    lock: Mutex<()>,
    /// The mount at the bottom: the initial root file system.
    root: SpinLock<Option<Ref<Mount>>>,
    /// All mounts in the order in which they came.
    mounts: SpinLock<Array<Ref<Mount>>>,
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

impl MntNs {
    /// A namespace without any mount.
    pub fn empty(user_ns: Ref<UserNs>) -> Result<Ref<Self>> {
        Ref::try_new(Self {
            inum: new_inum(),
            user_ns,
            lock: Mutex::new(()),
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

    fn contains(&self, mount: &Ref<Mount>) -> bool {
        self.mounts.lock().iter().any(|m| Ref::ptr_eq(m, mount))
    }

    fn remember(&self, mount: &Ref<Mount>) -> Result<()> {
        self.mounts.lock().try_push(mount.clone())
    }

    fn forget(&self, mount: &Ref<Mount>) {
        let mut mounts = self.mounts.lock();
        let at = mounts.iter().position(|m| Ref::ptr_eq(m, mount));
        let gone = at.map(|at| mounts.remove(at));
        drop(mounts);
        drop(gone);
    }

    /// Attaches `mount` at `place`, on top of what is there.
    pub fn attach(&self, mount: &Ref<Mount>, place: &Path) -> Result<()> {
        let _guard = self.lock.lock();
        self.attach_locked(mount, place)
    }

    fn attach_locked(&self, mount: &Ref<Mount>, place: &Path) -> Result<()> {
        let place = place.clone().follow_mounts();
        if !self.contains(&place.mnt) {
            return Err(Errno::EINVAL);
        }
        if place.inode()?.is_dir() != mount.root.require_inode()?.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if place.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        self.remember(mount)?;
        Mount::attach(mount, place).inspect_err(|_| self.forget(mount))
    }

    /// Mounts a new file system (mount(2) without `MS_BIND`, `MS_MOVE`, `MS_REMOUNT`).
    pub fn mount(&self, fs_type: &[u8], request: &MountRequest<'_>, place: &Path) -> Result<()> {
        let root = find_filesystem(fs_type)?.mount(request)?;
        let mount = Mount::new(root, request.source, request.flags)?;
        self.attach(&mount, place)
    }

    /// Shows the tree at `from` at `place` too (`MS_BIND`), with what is mounted in it if `recursive`.
    pub fn bind(&self, from: &Path, place: &Path, recursive: bool) -> Result<()> {
        let _guard = self.lock.lock();
        if !self.contains(&from.mnt) {
            return Err(Errno::EINVAL);
        }
        let copy = if recursive {
            copy_tree(&from.mnt, &from.dentry)?
        } else {
            let copy = Mount::new(from.dentry.clone(), &from.mnt.source, from.mnt.flags())?;
            Vec::from([copy])
        };
        let Some(top) = copy.first() else { return Err(Errno::EINVAL) };
        self.attach_locked(top, place)?;
        for mount in &copy[1..] {
            self.remember(mount)?;
        }
        Ok(())
    }

    /// Moves a mount (`MS_MOVE`).
    pub fn move_mount(&self, from: &Path, place: &Path) -> Result<()> {
        let _guard = self.lock.lock();
        let mount = &from.mnt;
        if !Ref::ptr_eq(&from.dentry, &mount.root) || !self.contains(mount) {
            return Err(Errno::EINVAL);
        }
        let place = place.clone().follow_mounts();
        let inside = Mount::subtree(mount)?.iter().any(|m| Ref::ptr_eq(m, &place.mnt));
        if inside {
            return Err(Errno::ELOOP);
        }
        if !self.contains(&place.mnt) {
            return Err(Errno::EINVAL);
        }
        if place.inode()?.is_dir() != mount.root.require_inode()?.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let old = Mount::detach(mount).ok_or(Errno::EINVAL)?;
        Mount::attach(mount, place)?;
        drop(old);
        Ok(())
    }

    /// Changes flags of the mount at `at` (`MS_REMOUNT`); without `bind` the file system's options and
    /// its being read-only change as well.
    pub fn remount(&self, at: &Path, flags: MountFlags, data: &[u8], bind: bool) -> Result<()> {
        let _guard = self.lock.lock();
        if !Ref::ptr_eq(&at.dentry, &at.mnt.root) || !self.contains(&at.mnt) {
            return Err(Errno::EINVAL);
        }
        if !bind {
            at.mnt.sb.ops.remount(&at.mnt.sb, data)?;
            at.mnt.sb.set_read_only(flags.contains(MountFlags::RDONLY));
        }
        at.mnt.flags.store(flags.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes the mount at `at` away (umount2(2)).
    pub fn umount(&self, at: &Path, flags: UmountFlags) -> Result<()> {
        let _guard = self.lock.lock();
        let mount = &at.mnt;
        if !Ref::ptr_eq(&at.dentry, &mount.root) || !self.contains(mount) {
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
        if flags.expire && !mount.expiring.swap(true, Ordering::Relaxed) {
            return Err(Errno::EAGAIN);
        }
        for mount in tree.iter().rev() {
            self.forget(mount);
            drop(Mount::detach(mount));
        }
        Ok(())
    }

    /// Makes `new_root` the root of everything and puts the old root at `put_old` (pivot_root(2)).
    /// `old_root` is the caller's root. The tasks' roots and directories are the caller's to move.
    pub fn pivot_root(&self, old_root: &Path, new_root: &Path, put_old: &Path) -> Result<()> {
        let _guard = self.lock.lock();
        if new_root.inode()?.file_type() != put_old.inode()?.file_type()
            || !new_root.inode()?.is_dir()
        {
            return Err(Errno::ENOTDIR);
        }
        if !self.contains(&new_root.mnt) || !self.contains(&put_old.mnt) {
            return Err(Errno::EINVAL);
        }
        let on_old = Ref::ptr_eq(&new_root.mnt, &old_root.mnt);
        if on_old || Ref::ptr_eq(&put_old.mnt, &old_root.mnt) && !is_under(put_old, new_root) {
            return Err(Errno::EBUSY);
        }
        let tops = Ref::ptr_eq(&new_root.dentry, &new_root.mnt.root)
            && Ref::ptr_eq(&old_root.dentry, &old_root.mnt.root);
        if !tops || !is_under(put_old, new_root) {
            return Err(Errno::EINVAL);
        }
        // The bottom of a namespace cannot be moved: nothing would hold it.
        let (Some(above), Some(_)) = (old_root.mnt.place(), new_root.mnt.place()) else {
            return Err(Errno::EINVAL);
        };
        let old_new = Mount::detach(&new_root.mnt);
        let old_old = Mount::detach(&old_root.mnt);
        Mount::attach(&old_root.mnt, put_old.clone())?;
        Mount::attach(&new_root.mnt, above)?;
        drop((old_new, old_old));
        Ok(())
    }

    /// A copy of the namespace for `CLONE_NEWNS`; root and working directory of `fs` move along.
    pub fn try_clone(&self, fs: &FsStruct) -> Result<Ref<Self>> {
        let _guard = self.lock.lock();
        let bottom = self.root.lock().clone().ok_or(Errno::EINVAL)?;
        let old = Mount::subtree(&bottom)?;
        let new = copy_tree(&bottom, &bottom.root)?;
        let top = new.first().cloned().ok_or(Errno::EINVAL)?;
        let (root, cwd) = (fs.root(), fs.cwd());
        for (old, new) in old.iter().zip(&new) {
            if Ref::ptr_eq(&root.mnt, old) {
                fs.set_root(Path { mnt: new.clone(), dentry: root.dentry.clone() });
            }
            if Ref::ptr_eq(&cwd.mnt, old) {
                fs.set_cwd(Path { mnt: new.clone(), dentry: cwd.dentry.clone() });
            }
        }
        let copy = Self::empty(self.user_ns.clone())?;
        copy.set_bottom(top)?;
        for mount in &new[1..] {
            copy.remember(mount)?;
        }
        Ok(copy)
    }
}

impl Drop for MntNs {
    fn drop(&mut self) {
        // Cuts the cycles between parents and children.
        for mount in self.mounts.get_mut().iter() {
            drop(Mount::detach(mount));
        }
    }
}

/// True if `path` is `top` or lies below it, through mounts.
pub fn is_under(path: &Path, top: &Path) -> bool {
    let mut at = path.clone();
    loop {
        if Ref::ptr_eq(&at.mnt, &top.mnt) && at.dentry.is_below(&top.dentry) {
            return true;
        }
        match at.mnt.place() {
            Some(place) => at = place,
            None => return false,
        }
    }
}

/// Copies `mount` from `top` down with everything mounted there; the copies are attached to each
/// other, the first one to nothing.
fn copy_tree(mount: &Ref<Mount>, top: &Ref<Dentry>) -> Result<Vec<Ref<Mount>>> {
    let old = Mount::subtree(mount)?;
    let mut new: Vec<Ref<Mount>> = Vec::new();
    let mut copied: Vec<Ref<Mount>> = Vec::new();
    new.try_reserve(old.len()).map_err(|_| Errno::ENOMEM)?;
    copied.try_reserve(old.len()).map_err(|_| Errno::ENOMEM)?;
    for (i, mount) in old.iter().enumerate() {
        if i == 0 {
            new.push(Mount::new(top.clone(), &mount.source, mount.flags())?);
            copied.push(mount.clone());
            continue;
        }
        let Some(place) = mount.place() else { continue };
        let Some(parent) = copied.iter().position(|m| Ref::ptr_eq(m, &place.mnt)) else { continue };
        if parent == 0 && !place.dentry.is_below(top) {
            continue;
        }
        let copy = Mount::new(mount.root.clone(), &mount.source, mount.flags())?;
        Mount::attach(&copy, Path { mnt: new[parent].clone(), dentry: place.dentry })?;
        new.push(copy);
        copied.push(mount.clone());
    }
    Ok(new)
}
