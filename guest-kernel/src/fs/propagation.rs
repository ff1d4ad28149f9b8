//! Propagation of mounts (mount_namespaces(7), "Shared subtrees"): what is mounted or unmounted below a
//! shared mount is mounted or unmounted below all its peers and their slaves as well.
//!
//! Peers form a [`PeerGroup`]. All members of a group have the same master group, if any. Groups list
//! their members and slaves without holding them; a mount takes itself off as it leaves or goes. Who
//! changes or follows bonds holds the lock of all mount trees; `GROUPS` guards the lists themselves.

use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use super::mntns::{MntNs, Propagation};
use super::mount::{MemberLink, SlaveLink};
use super::{Dentry, Mount, Path};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::{Linked, List};
use crate::sync::SpinLock;

/// Mounts that tell each other everything.
pub struct PeerGroup {
    /// Its number in /proc/PID/mountinfo.
    pub id: u32,
    /// Both under `GROUPS`.
    members: List<Mount, MemberLink>,
    slaves: List<Mount, SlaveLink>,
}

/// Guards every list of members and slaves, and so the mounts that are on them.
static GROUPS: SpinLock<()> = SpinLock::new(());
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// References to what a list holds now.
fn collect<Tag>(list: &List<Mount, Tag>) -> Result<Vec<Ref<Mount>>>
where
    Mount: Linked<Tag>,
{
    let _groups = GROUPS.lock();
    let mut all = Vec::new();
    all.try_reserve_exact(list.iter().count()).map_err(|_| Errno::ENOMEM)?;
    // SAFETY: the lock is held (see there).
    all.extend(list.iter().filter_map(|mount| unsafe { Ref::try_from_ref(mount) }));
    Ok(all)
}

impl PeerGroup {
    fn new() -> Result<Ref<Self>> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ref::try_new(Self { id, members: List::new(), slaves: List::new() })
    }

    fn members(&self) -> Result<Vec<Ref<Mount>>> {
        collect(&self.members)
    }

    fn slaves(&self) -> Result<Vec<Ref<Mount>>> {
        collect(&self.slaves)
    }

    /// Makes a mount that is in no group a member.
    fn join(this: Ref<Self>, mount: &Mount) {
        let _groups = GROUPS.lock();
        // SAFETY: the lists' lock is held; a mount takes itself off as it goes.
        unsafe { this.members.push_back(mount) };
        mount.bonds.lock().group = Some(this);
    }
}

/// How the copy of a mount is bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CopyAs {
    /// Like the original: its peer, and of the same master.
    Peer,
    /// As a slave of the original if that is shared, else like it.
    SlaveIfShared,
    /// As a slave of the original.
    Slave,
    /// As a slave of the original that is shared itself.
    SharedSlave,
}

/// Binds a fresh copy.
pub(super) fn bind_copy(copy: &Mount, original: &Mount, how: CopyAs) -> Result<()> {
    let (group, master) = {
        let bonds = original.bonds.lock();
        if bonds.unbindable {
            copy.bonds.lock().unbindable = true;
        }
        (bonds.group.clone(), bonds.master.clone())
    };
    let slave = matches!(how, CopyAs::Slave | CopyAs::SharedSlave)
        || how == CopyAs::SlaveIfShared && group.is_some();
    if slave {
        set_master(copy, group.or(master));
        if how == CopyAs::SharedSlave {
            make_shared(copy)?;
        }
        return Ok(());
    }
    set_master(copy, master);
    if let Some(group) = group {
        PeerGroup::join(group, copy);
    }
    Ok(())
}

fn set_master(mount: &Mount, master: Option<Ref<PeerGroup>>) {
    let Some(master) = master else { return };
    let _groups = GROUPS.lock();
    // SAFETY: as in `join`.
    unsafe { master.slaves.push_back(mount) };
    mount.bonds.lock().master = Some(master);
}

/// Makes a mount shared; it becomes a group of its own unless it is in one.
pub(super) fn make_shared(mount: &Mount) -> Result<()> {
    if is_shared(mount) {
        return Ok(());
    }
    PeerGroup::join(PeerGroup::new()?, mount);
    mount.bonds.lock().unbindable = false;
    Ok(())
}

/// Makes a mount a slave of the group that it leaves. If nobody is left there, it stays its master's.
pub(super) fn make_slave(mount: &Mount) {
    let Some(group) = mount.bonds.lock().group.clone() else { return };
    leave_group(mount);
    let alone = {
        let _groups = GROUPS.lock();
        group.members.is_empty()
    };
    if !alone {
        leave_master(mount);
        set_master(mount, Some(group));
    }
}

/// Cuts all bonds of a mount.
pub(super) fn make_private(mount: &Mount) {
    let bound = {
        let mut bonds = mount.bonds.lock();
        bonds.unbindable = false;
        bonds.group.is_some() || bonds.master.is_some()
    };
    if bound {
        leave_group(mount);
        leave_master(mount);
    }
}

/// Cuts all bonds of a mount and forbids to bind it.
pub(super) fn make_unbindable(mount: &Mount) {
    make_private(mount);
    mount.bonds.lock().unbindable = true;
}

/// Makes a mount what mount(2) asks for.
pub(super) fn set(mount: &Mount, how: Propagation) -> Result<()> {
    match how {
        Propagation::Shared => make_shared(mount)?,
        Propagation::Private => make_private(mount),
        Propagation::Slave => make_slave(mount),
        Propagation::Unbindable => make_unbindable(mount),
    }
    Ok(())
}

/// A mount goes: nobody may find it any more.
pub(super) fn forget(mount: &mut Mount) {
    let bonds = mount.bonds.get_mut();
    if bonds.group.is_some() || bonds.master.is_some() {
        leave_group(mount);
        leave_master(mount);
    }
}

fn leave_master(mount: &Mount) {
    let master = mount.bonds.lock().master.take();
    if let Some(master) = master {
        let _groups = GROUPS.lock();
        // SAFETY: the lists' lock is held.
        unsafe { master.slaves.remove(mount) };
    }
}

/// Takes a mount out of its group. The slaves of a group that nobody is left in become those of its
/// master.
fn leave_group(mount: &Mount) {
    let (group, master) = {
        let mut bonds = mount.bonds.lock();
        (bonds.group.take(), bonds.master.clone())
    };
    let Some(group) = group else { return };
    let _groups = GROUPS.lock();
    // SAFETY: the lists' lock is held.
    unsafe { group.members.remove(mount) };
    if !group.members.is_empty() {
        return;
    }
    // SAFETY: as above.
    while let Some(slave) = unsafe { group.slaves.pop_front() } {
        if let Some(master) = &master {
            // SAFETY: as in `join`.
            unsafe { master.slaves.push_back(slave) };
        }
        slave.bonds.lock().master = master.clone();
    }
}

/// True if it is shared.
pub(super) fn is_shared(mount: &Mount) -> bool {
    mount.bonds.lock().group.is_some()
}

/// True if it cannot be bind mounted.
pub(super) fn is_unbindable(mount: &Mount) -> bool {
    mount.bonds.lock().unbindable
}

/// Calls `f` with every mount that hears what happens below `from`, itself not included, and the mount
/// closest to it that `f` returned something for: a copy's original. Peers come before slaves.
fn for_each_receiver<T: Clone>(
    from: &Mount,
    own: T,
    mut f: impl FnMut(&Ref<Mount>, &T, CopyAs) -> Result<Option<T>>,
) -> Result<()> {
    let Some(group) = from.bonds.lock().group.clone() else { return Ok(()) };
    let mut pending: Vec<(Ref<PeerGroup>, T)> = Vec::new();
    for member in group.members()?.iter().filter(|m| !ptr::eq(Ref::as_ptr(m), from)) {
        f(member, &own, CopyAs::Peer)?;
    }
    pending.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    pending.push((group, own));
    while let Some((group, source)) = pending.pop() {
        let mut seen: Vec<Ref<PeerGroup>> = Vec::new();
        for slave in group.slaves()? {
            let Some(inner) = slave.bonds.lock().group.clone() else {
                f(&slave, &source, CopyAs::Slave)?;
                continue;
            };
            if seen.iter().any(|g| Ref::ptr_eq(g, &inner)) {
                continue;
            }
            let mut nearest = source.clone();
            let mut first = true;
            for member in inner.members()? {
                let how = if first { CopyAs::SharedSlave } else { CopyAs::Peer };
                if let Some(made) = f(&member, &nearest, how)? {
                    nearest = made;
                    first = false;
                }
            }
            seen.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            pending.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            seen.push(inner.clone());
            pending.push((inner, nearest));
        }
    }
    Ok(())
}

/// Copies the tree of `top` for everybody who hears of a mount at `place`: the copies' tops, and where
/// each belongs (`propagate_mnt`). The tree's mounts are shared already.
pub(super) fn copies_for(place: &Path, top: &Ref<Mount>) -> Result<Vec<(Ref<Mount>, Path)>> {
    let mut copies: Vec<(Ref<Mount>, Path)> = Vec::new();
    let told = for_each_receiver(&place.mnt, top.clone(), |receiver, original, how| {
        let reaches = !receiver.namespace().is_null() && place.dentry.is_below(&receiver.root);
        if !reaches {
            return Ok(None);
        }
        let copy = copy_tree(original, &original.root, how, true)?;
        copy.set_locks(copy.locks().difference(super::mount::MountLocks::PLACE));
        copies.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = Path { mnt: receiver.clone(), dentry: place.dentry.clone() };
        copies.push((copy.clone(), at));
        Ok(Some(copy))
    });
    if told.is_err() {
        copies.iter().for_each(|(copy, _)| cut(copy));
    }
    told.map(|()| copies)
}

/// Cuts the ties within a tree that was never attached.
pub(super) fn cut(top: &Ref<Mount>) {
    if let Ok(tree) = Mount::subtree(top) {
        tree.iter().for_each(|mount| drop(Mount::detach(mount)));
    }
}

/// Whoever hears of `mount` being taken away: the mounts at the same place below its parent's peers and
/// slaves (`propagate_umount`).
pub(super) fn counterparts(mount: &Mount) -> Result<Vec<Ref<Mount>>> {
    let mut found: Vec<Ref<Mount>> = Vec::new();
    let Some(place) = mount.place() else { return Ok(found) };
    for_each_receiver(&place.mnt, (), |receiver, (), _| {
        if let Some(child) = receiver.child_at(&place.dentry) {
            found.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            found.push(child);
        }
        Ok(Some(()))
    })?;
    Ok(found)
}

/// Copies `mount` from `top` down with everything mounted there; the copies are attached to each
/// other, the first one to nothing. Mounts that cannot be bound are left out, with what is on them,
/// unless `unbindable` says otherwise.
pub(super) fn copy_tree(
    mount: &Ref<Mount>,
    top: &Ref<Dentry>,
    how: CopyAs,
    unbindable: bool,
) -> Result<Ref<Mount>> {
    let mut pairs: Vec<(Ref<Mount>, Ref<Mount>)> = Vec::new();
    let copied = copy_all(mount, top, how, unbindable, &mut pairs);
    if copied.is_err() {
        // Nobody else knows the copies: cutting the ties frees them.
        pairs.iter().for_each(|(_, copy)| drop(Mount::detach(copy)));
    }
    copied?;
    pairs.first().map(|(_, copy)| copy.clone()).ok_or(Errno::EINVAL)
}

/// [`copy_tree`] that tells which mount became which.
pub(super) fn copy_all(
    mount: &Ref<Mount>,
    top: &Ref<Dentry>,
    how: CopyAs,
    unbindable: bool,
    pairs: &mut Vec<(Ref<Mount>, Ref<Mount>)>,
) -> Result<()> {
    let whole = Ref::ptr_eq(top, &mount.root);
    let copy = mount.another(top.clone())?;
    bind_copy(&copy, mount, how)?;
    pairs.try_reserve(1 + mount.child_count()).map_err(|_| Errno::ENOMEM)?;
    pairs.push((mount.clone(), copy));
    let mut parent = 0;
    while parent < pairs.len() {
        let n = pairs[parent].0.child_count();
        if n > 0 {
            pairs.try_reserve(n).map_err(|_| Errno::ENOMEM)?;
            pairs[parent].1.reserve_children(n)?;
        }
        for i in 0..n {
            let Some((dentry, mount)) = pairs[parent].0.child(i) else { break };
            if parent == 0 && !whole && !dentry.is_below(top) {
                continue;
            }
            if !unbindable && is_unbindable(&mount) {
                if mount.locks().contains(super::mount::MountLocks::PLACE) {
                    // What it hides must stay hidden.
                    return Err(Errno::EPERM);
                }
                continue;
            }
            let copy = mount.another(mount.root.clone())?;
            bind_copy(&copy, &mount, how)?;
            Mount::attach(&copy, Path { mnt: pairs[parent].1.clone(), dentry })?;
            pairs.push((mount, copy));
        }
        parent += 1;
    }
    Ok(())
}

/// The namespace that a mount's tree belongs to, as the lock of all mount trees keeps it.
pub(super) fn namespace_of(mount: &Mount) -> Option<&MntNs> {
    // SAFETY: a namespace takes its mounts out under that lock before it goes.
    unsafe { mount.namespace().as_ref() }
}
