//! [`Mount`]: a file system's tree (or a part of it) attached at a place.
//!
//! A mount knows its place (parent mount and dentry there) and its children. Both sides are changed
//! together, under the one lock of all mount trees ([`super::mntns`]); each is guarded by the mount's
//! own spin lock for readers. The references between parent and child form a cycle that umount cuts.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use belljar_abi::Described;

use super::mntns::MntNs;
use super::propagation::{self, PeerGroup};
use super::{Dentry, Path, SuperBlock, dentry, notify};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::Link;
use crate::list_link;
use crate::mm::try_to_vec;
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
        /// Symbolic links in it lead nowhere.
        const NOSYMFOLLOW = uapi::MS_NOSYMFOLLOW;
        /// Access times are kept while they are older than the last change; the default of mount(2).
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
        if self.contains(Self::RELATIME) {
            out.write_str(",relatime")?;
        }
        if self.contains(Self::NOSYMFOLLOW) { out.write_str(",nosymfollow") } else { Ok(()) }
    }
}

bitflags::bitflags! {
    /// What a mount's namespace may not undo, because a more privileged one did it
    /// (mount_namespaces(7), "Restrictions on mount namespaces").
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MountLocks: u32 {
        /// It covers something: it cannot be taken away alone.
        const PLACE = 1 << 0;
        /// It stays read-only.
        const RDONLY = 1 << 1;
        /// It stays `nosuid`.
        const NOSUID = 1 << 2;
        /// It stays `nodev`.
        const NODEV = 1 << 3;
        /// It stays `noexec`.
        const NOEXEC = 1 << 4;
        /// Its way with access times stays.
        const ATIME = 1 << 5;
    }
}

const ATIME_FLAGS: MountFlags =
    MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);

/// A mount in its parent's list. While it is there, its dentry counts as a place where something is
/// mounted.
struct Child {
    at: Ref<Dentry>,
    mount: Ref<Mount>,
}

impl Child {
    fn new(at: Ref<Dentry>, mount: Ref<Mount>) -> Self {
        at.add_mount();
        Self { at, mount }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.at.remove_mount();
    }
}

#[repr(C)]
#[derive(Default, Described)]
struct Tree {
    /// Its first word is null if there is none.
    #[described(as = "struct Path")]
    place: Option<Path>,
    #[described(skip)]
    children: Vec<Child>,
}

/// To whom what happens below a mount is told, and from where it is heard.
#[derive(Default)]
pub(super) struct Bonds {
    /// The peer group, if it is shared.
    pub(super) group: Option<Ref<PeerGroup>>,
    /// The group whose slave it is.
    pub(super) master: Option<Ref<PeerGroup>>,
    /// It cannot be bind mounted.
    pub(super) unbindable: bool,
}

const _: () = assert!(
    size_of::<Option<Path>>() == size_of::<Path>(),
    "a reader outside takes an absent place for a place of null pointers"
);

/// A tree attached at a place.
#[repr(C)]
#[derive(Described)]
pub struct Mount {
    /// Its number (`mnt_id` of /proc/PID/mountinfo).
    pub id: u32,
    #[described(skip)]
    flags: AtomicU32,
    /// [`MountLocks`].
    #[described(skip)]
    locks: AtomicU32,
    /// The top of what it shows.
    #[described(as = "ptr Dentry")]
    pub root: Ref<Dentry>,
    /// The file system.
    #[described(skip)]
    pub sb: Ref<SuperBlock>,
    /// What was mounted, as the program named it; copies share it.
    #[described(skip)]
    pub source: Ref<Vec<u8>>,
    /// It has no place in a tree, and never will.
    pseudo: bool,
    /// Files that are open for writing through it. It grows under the file system's lock for that.
    #[described(skip)]
    writers: AtomicU32,
    /// It is the top of a tree that a descriptor holds and that has no place yet (`super::detached`).
    #[described(skip)]
    detached: AtomicBool,
    /// Marked by `MNT_EXPIRE`: the next such call takes it away.
    #[described(skip)]
    expiring: AtomicBool,
    tree: SpinLock<Tree>,
    /// The namespace in whose tree it is; null in none. Changed under the lock of all mount trees.
    #[described(as = "ptr MntNs")]
    ns: AtomicPtr<MntNs>,
    #[described(skip)]
    pub(super) bonds: SpinLock<Bonds>,
    /// On the list of all mounts of its file system, under the lock of that list.
    #[described(skip)]
    pub(super) of_super: Link,
    /// On its peer group's list of members, under the lock of all groups; so is the next.
    #[described(skip)]
    of_group: Link,
    /// On its master's list of slaves.
    #[described(skip)]
    of_master: Link,
}

list_link!(
    /// The mounts of a file system.
    Mount, of_super: SuperLink
);
list_link!(
    /// The members of a peer group.
    Mount, of_group: MemberLink
);
list_link!(
    /// The slaves of a peer group.
    Mount, of_master: SlaveLink
);

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

impl Mount {
    fn build(
        root: Ref<Dentry>,
        sb: Ref<SuperBlock>,
        source: Ref<Vec<u8>>,
        flags: MountFlags,
        pseudo: bool,
    ) -> Result<Ref<Self>> {
        let mount = Ref::try_new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            flags: AtomicU32::new(flags.bits()),
            locks: AtomicU32::new(0),
            root,
            sb,
            source,
            pseudo,
            writers: AtomicU32::new(0),
            detached: AtomicBool::new(false),
            expiring: AtomicBool::new(false),
            tree: SpinLock::new(Tree::default()),
            ns: AtomicPtr::new(core::ptr::null_mut()),
            bonds: SpinLock::new(Bonds::default()),
            of_super: Link::new(),
            of_group: Link::new(),
            of_master: Link::new(),
        })?;
        mount.sb.mounts.add(&mount);
        Ok(mount)
    }

    /// A mount at no place yet that shows the tree under `root`.
    pub fn new(root: Ref<Dentry>, source: &[u8], flags: MountFlags) -> Result<Ref<Self>> {
        let sb = root.require_inode()?.sb.clone();
        Self::build(root, sb, Ref::try_new(try_to_vec(source)?)?, flags, false)
    }

    /// The kernel's own mount of a file system whose files have no place in a tree.
    pub fn new_pseudo(root: Ref<Dentry>) -> Result<Ref<Self>> {
        let sb = root.require_inode()?.sb.clone();
        let source = Ref::try_new(try_to_vec(sb.fs_type.as_bytes())?)?;
        Self::build(root, sb, source, MountFlags::NOEXEC | MountFlags::NODEV, true)
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

    /// `EPERM` if what is locked does not let it take these flags.
    pub(super) fn check_flags(&self, new: MountFlags) -> Result<()> {
        let locks = self.locks();
        let kept = [
            (MountLocks::RDONLY, MountFlags::RDONLY),
            (MountLocks::NOSUID, MountFlags::NOSUID),
            (MountLocks::NODEV, MountFlags::NODEV),
            (MountLocks::NOEXEC, MountFlags::NOEXEC),
        ];
        let loses = kept.iter().any(|&(lock, flag)| locks.contains(lock) && !new.contains(flag));
        let old = self.flags();
        let atime = locks.contains(MountLocks::ATIME) && (old ^ new).intersects(ATIME_FLAGS);
        if loses || atime {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Changes its flags.
    pub(super) fn set_flags(&self, new: MountFlags) {
        self.flags.store(new.bits(), Ordering::Relaxed);
    }

    /// Changes its flags, unless it would become read-only while files are open for writing through it
    /// (`EBUSY`).
    pub(super) fn change_flags(&self, new: MountFlags) -> Result<()> {
        let _held = self.sb.hold_writers();
        let ends_writing =
            new.contains(MountFlags::RDONLY) && !self.flags().contains(MountFlags::RDONLY);
        if ends_writing && self.has_writers() {
            return Err(Errno::EBUSY);
        }
        self.set_flags(new);
        Ok(())
    }

    /// True if files are open for writing through it.
    pub(super) fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Relaxed) > 0
    }

    /// One more file is to be open for writing through it, until [`put_writer`](Self::put_writer).
    pub(super) fn get_writer(&self) -> Result<()> {
        let _held = self.sb.hold_writers();
        self.want_write()?;
        self.writers.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// One less.
    pub(super) fn put_writer(&self) {
        self.writers.fetch_sub(1, Ordering::Relaxed);
    }

    /// What cannot be undone.
    pub(super) fn locks(&self) -> MountLocks {
        MountLocks::from_bits_retain(self.locks.load(Ordering::Relaxed))
    }

    pub(super) fn set_locks(&self, locks: MountLocks) {
        self.locks.store(locks.bits(), Ordering::Relaxed);
    }

    /// Locks its flags as they are, and with `place` that it is there (`lock_mnt_tree`).
    pub(super) fn lock_down(&self, place: bool) {
        let flags = self.flags();
        let mut locks = self.locks() | MountLocks::ATIME;
        locks.set(MountLocks::RDONLY, flags.contains(MountFlags::RDONLY));
        locks.set(MountLocks::NOSUID, flags.contains(MountFlags::NOSUID));
        locks.set(MountLocks::NODEV, flags.contains(MountFlags::NODEV));
        locks.set(MountLocks::NOEXEC, flags.contains(MountFlags::NOEXEC));
        if place {
            locks.insert(MountLocks::PLACE);
        }
        self.set_locks(locks);
    }

    /// True if it is in the tree of `ns`.
    pub(super) fn is_in(&self, ns: &MntNs) -> bool {
        core::ptr::eq(self.ns.load(Ordering::Relaxed), ns)
    }

    /// The namespace in whose tree it is, for callers that hold the lock of all mount trees.
    pub(super) fn namespace(&self) -> *const MntNs {
        self.ns.load(Ordering::Relaxed)
    }

    pub(super) fn set_namespace(&self, ns: *const MntNs) {
        self.ns.store(ns.cast_mut(), Ordering::Relaxed);
    }

    /// True if it is the top of a detached tree.
    pub fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Relaxed)
    }

    /// Makes it the top of a detached tree, or one no more; true if it was one.
    pub(super) fn set_detached(&self, on: bool) -> bool {
        self.detached.swap(on, Ordering::Relaxed)
    }

    /// Marks it for `MNT_EXPIRE`; true if it was marked already.
    pub(super) fn mark_expiring(&self) -> bool {
        self.expiring.swap(true, Ordering::Relaxed)
    }

    /// For /proc/PID/mountinfo: its peer group, the group it is a slave of, and whether it cannot be
    /// bound.
    pub fn propagation(&self) -> (Option<u32>, Option<u32>, bool) {
        let bonds = self.bonds.lock();
        let id = |group: &Option<Ref<PeerGroup>>| group.as_ref().map(|g| g.id);
        (id(&bonds.group), id(&bonds.master), bonds.unbindable)
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
    pub(super) fn child_at(&self, dentry: &Dentry) -> Option<Ref<Mount>> {
        let tree = self.tree.lock();
        let at = |child: &&Child| core::ptr::eq(&raw const *child.at, dentry);
        tree.children.iter().rfind(at).map(|child| child.mount.clone())
    }

    pub(super) fn attach(this: &Ref<Self>, place: Path) -> Result<()> {
        let parent = place.mnt.clone();
        let mut tree = parent.tree.lock();
        tree.children.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let child = Child::new(place.dentry.clone(), this.clone());
        this.tree.lock().place = Some(place);
        tree.children.push(child);
        Ok(())
    }

    /// Takes it off its place. The references that tie it to the tree are returned, to be dropped
    /// where that may take long.
    pub(super) fn detach(this: &Ref<Self>) -> Option<(Path, Ref<Mount>)> {
        let place = this.tree.lock().place.take()?;
        let mut tree = place.mnt.tree.lock();
        let at = tree.children.iter().position(|c| Ref::ptr_eq(&c.mount, this));
        let child = at.map(|at| tree.children.remove(at));
        drop(tree);
        Some((place, child?.mount.clone()))
    }

    /// Leaves it mounted for whoever still looks at its parent, which has left the tree: it covers what
    /// must not be seen. It no longer holds the parent, so that no cycle stays.
    pub(super) fn stick(this: &Ref<Self>) -> Option<Path> {
        this.tree.lock().place.take()
    }

    /// The end of its namespace: takes it off its parent, and what is mounted on it off it, unless that
    /// covers what must not be seen, as in [`stick`](Self::stick). Returns what ties it to the others, to
    /// be dropped where that may take long.
    pub(super) fn fall_apart(&self) -> impl Sized {
        let mut tree = self.tree.lock();
        let sticks = tree.children.iter().any(|c| c.mount.locks().contains(MountLocks::PLACE));
        let children = if sticks { Vec::new() } else { core::mem::take(&mut tree.children) };
        (tree.place.take(), children)
    }

    /// Makes room for `n` more mounts on it.
    pub(super) fn reserve_children(&self, n: usize) -> Result<()> {
        self.tree.lock().children.try_reserve_exact(n).map_err(|_| Errno::ENOMEM)
    }

    /// How many mounts are on it.
    pub(super) fn child_count(&self) -> usize {
        self.tree.lock().children.len()
    }

    /// Mount `i` of those on it, and where it is.
    pub(super) fn child(&self, i: usize) -> Option<(Ref<Dentry>, Ref<Mount>)> {
        let tree = self.tree.lock();
        tree.children.get(i).map(|child| (child.at.clone(), child.mount.clone()))
    }

    /// The mounts on it, and on those, parents first.
    pub(super) fn subtree(this: &Ref<Self>) -> Result<Vec<Ref<Mount>>> {
        let mut all = Vec::new();
        all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        all.push(this.clone());
        let mut at = 0;
        while let Some(mount) = all.get(at).cloned() {
            let tree = mount.tree.lock();
            all.try_reserve(tree.children.len()).map_err(|_| Errno::ENOMEM)?;
            all.extend(tree.children.iter().map(|child| child.mount.clone()));
            at += 1;
        }
        Ok(all)
    }

    /// Calls `f` with the mounts on it and where they are.
    pub(super) fn any_child(&self, mut f: impl FnMut(&Dentry, &Mount) -> bool) -> bool {
        self.tree.lock().children.iter().any(|child| f(&child.at, &child.mount))
    }

    /// Another mount of the same tree from `root` down, with the same flags and locks; no bonds yet.
    pub(super) fn another(&self, root: Ref<Dentry>) -> Result<Ref<Self>> {
        let copy = Self::build(root, self.sb.clone(), self.source.clone(), self.flags(), false)?;
        copy.set_locks(self.locks());
        Ok(copy)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        propagation::forget(self);
        if self.sb.mounts.remove(self) {
            notify::unmounted(&self.sb);
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
