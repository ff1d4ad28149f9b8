//! User namespaces (user_namespaces(7)): hierarchical owners of ids and capabilities.

use core::sync::atomic::{AtomicBool, Ordering};

use belljar_abi::Described;

use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::common::{HasCommon, NsCommon, NsKind, publish};
use crate::ns::cred::{Cap, Cred};
use crate::ns::idmap::{Extent, IdMap};
use crate::ns::ucounts::{Counted, Limits};
use crate::sync::{Mutex, Once};

/// Deepest nesting, as in Linux.
pub const MAX_USER_NS_LEVEL: u32 = 32;

/// A user namespace.
#[repr(C)]
#[derive(Described)]
pub struct UserNs {
    /// Identity; its owner is the namespace around this one.
    #[described(as = "struct NsCommon")]
    pub common: NsCommon,
    /// Nesting depth; 0 for the initial one.
    pub level: u32,
    /// Who made it: effective user and group of the creator.
    pub owner_uid: u32,
    /// The creator's effective group.
    pub owner_gid: u32,
    /// setgroups(2) is allowed (user_namespaces(7), "/proc/PID/setgroups").
    setgroups: AtomicBool,
    /// The creator had CAP_SETFCAP: it may map the parent's root.
    creator_could_setfcap: bool,
    #[described(skip)]
    uid_map: Once<IdMap>,
    #[described(skip)]
    gid_map: Once<IdMap>,
    #[described(skip)]
    projid_map: Once<IdMap>,
    /// Limits on what its users make.
    #[described(skip)]
    pub limits: Limits,
}

impl HasCommon for UserNs {
    fn common(&self) -> &NsCommon {
        &self.common
    }
}

/// Which ids a map is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are those of the files in /proc/PID")]
pub enum IdKind {
    Uid,
    Gid,
    Projid,
}

/// Maps are written, and `setgroups` denied, one at a time: each looks at the other.
static STATE: Mutex<()> = Mutex::new(());

static NO_IDS: IdMap = IdMap::EMPTY;

impl UserNs {
    /// The namespace that boot makes.
    pub fn new_initial() -> Result<Ref<Self>> {
        let common = NsCommon::initial(NsKind::User, None);
        let pages = crate::mm::total_pages();
        let ns = Self::build(common, 0, (0, 0), true, pages.max(1 << 14) as u32);
        // As Linux has it: a user's watches, at 1 KiB each, take a hundredth of memory.
        let watches = (pages * 4 / 100).clamp(8192, 1 << 20) as u32;
        ns.limits.set_max(Counted::InotifyInstances, 128);
        ns.limits.set_max(Counted::InotifyWatches, watches);
        for map in [&ns.uid_map, &ns.gid_map, &ns.projid_map] {
            map.set(IdMap::identity()?);
        }
        publish(ns)
    }

    fn build(
        common: NsCommon,
        level: u32,
        (owner_uid, owner_gid): (u32, u32),
        setgroups: bool,
        max: u32,
    ) -> Self {
        Self {
            common,
            level,
            owner_uid,
            owner_gid,
            setgroups: AtomicBool::new(setgroups),
            creator_could_setfcap: false,
            uid_map: Once::new(),
            gid_map: Once::new(),
            projid_map: Once::new(),
            limits: Limits::new(max),
        }
    }

    /// A namespace inside `parent`, made by that user and group. It has no ids yet. `ENOSPC` if it
    /// would be too deep or one too many.
    pub fn new(parent: &Ref<UserNs>, uid: u32, gid: u32, setfcap: bool) -> Result<Ref<Self>> {
        if parent.level > MAX_USER_NS_LEVEL {
            return Err(Errno::ENOSPC);
        }
        let common = NsCommon::new(NsKind::User, parent.clone(), uid)?;
        let setgroups = parent.setgroups.load(Ordering::Relaxed);
        let mut ns = Self::build(common, parent.level + 1, (uid, gid), setgroups, i32::MAX as u32);
        ns.creator_could_setfcap = setfcap;
        publish(ns)
    }

    /// The namespace around it.
    pub fn parent(&self) -> Option<&Ref<UserNs>> {
        self.common.owner()
    }

    /// True if `this` is `ancestor` or lies in it (`in_userns`).
    pub fn is_within(&self, ancestor: &UserNs) -> bool {
        let mut at = self;
        while at.level > ancestor.level {
            match at.parent() {
                Some(parent) => at = parent,
                None => return false,
            }
        }
        core::ptr::eq(at, ancestor)
    }

    fn cell(&self, kind: IdKind) -> &Once<IdMap> {
        match kind {
            IdKind::Uid => &self.uid_map,
            IdKind::Gid => &self.gid_map,
            IdKind::Projid => &self.projid_map,
        }
    }

    /// A map; empty as long as nothing was written.
    pub fn ids(&self, kind: IdKind) -> &IdMap {
        self.cell(kind).try_get().unwrap_or(&NO_IDS)
    }

    /// Its user ids.
    pub fn uids(&self) -> &IdMap {
        self.ids(IdKind::Uid)
    }

    /// Its group ids.
    pub fn gids(&self) -> &IdMap {
        self.ids(IdKind::Gid)
    }

    /// The kernel's id of its superuser, if it has one.
    pub fn root_uid(&self) -> Option<u32> {
        if self.level == 0 { Some(0) } else { self.uids().to_kernel(0) }
    }

    /// True if an inode of this owner and group is one of its own: privileges over it count.
    pub fn has_ids(&self, uid: u32, gid: u32) -> bool {
        self.level == 0
            || self.uids().from_kernel(uid).is_some() && self.gids().from_kernel(gid).is_some()
    }

    /// True if setgroups(2) is allowed in it at all.
    pub fn allows_setgroups(&self) -> bool {
        !self.gids().is_empty() && self.setgroups.load(Ordering::Relaxed)
    }

    /// What /proc/PID/setgroups shows.
    pub fn setgroups_setting(&self) -> bool {
        self.setgroups.load(Ordering::Relaxed)
    }

    /// Writes /proc/PID/setgroups: it can be denied until there is a group map, and stays so.
    pub fn set_setgroups(&self, allow: bool) -> Result<()> {
        let _state = STATE.lock();
        if allow {
            return if self.setgroups_setting() { Ok(()) } else { Err(Errno::EPERM) };
        }
        if !self.gids().is_empty() {
            return Err(Errno::EPERM);
        }
        self.setgroups.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Writes a map, once. `opener` opened the file, `writer` writes (user_namespaces(7), "Defining
    /// user and group ID mappings").
    pub fn write_map(
        &self,
        kind: IdKind,
        mut extents: Array<Extent>,
        opener: &Cred,
        writer: &Cred,
    ) -> Result<()> {
        let parent = self.parent().ok_or(Errno::EPERM)?;
        let from = &*opener.user_ns;
        if !core::ptr::eq(from, self) && !core::ptr::eq(from, &raw const **parent) {
            return Err(Errno::EPERM);
        }
        let _state = STATE.lock();
        if !self.ids(kind).is_empty() {
            return Err(Errno::EPERM);
        }
        if kind != IdKind::Projid && !opener.ns_capable(self, Cap::SysAdmin) {
            return Err(Errno::EPERM);
        }
        if !self.may_map(kind, &extents, parent, opener, writer) {
            return Err(Errno::EPERM);
        }
        for extent in extents.iter_mut() {
            let lower = parent.ids(kind).range_to_kernel(extent.lower, extent.count);
            extent.lower = lower.ok_or(Errno::EPERM)?;
        }
        self.cell(kind).set(IdMap::new(extents)?);
        Ok(())
    }

    fn may_map(
        &self,
        kind: IdKind,
        extents: &[Extent],
        parent: &UserNs,
        opener: &Cred,
        writer: &Cred,
    ) -> bool {
        let cap = match kind {
            IdKind::Uid => Cap::Setuid,
            IdKind::Gid => Cap::Setgid,
            IdKind::Projid => return true,
        };
        if kind == IdKind::Uid && extents.iter().any(|e| e.lower == 0) {
            // The parent's root could write file capabilities there.
            let may = if core::ptr::eq(&raw const *opener.user_ns, self) {
                self.creator_could_setfcap
            } else {
                opener.ns_capable(parent, Cap::Setfcap)
            };
            if !may {
                return false;
            }
        }
        // Without privileges: the creator may map its own id, and no other.
        if let [only] = extents
            && only.count == 1
            && self.owner_uid == opener.euid
        {
            let own = match kind {
                IdKind::Uid => parent.uids().to_kernel(only.lower) == Some(opener.euid),
                _ => {
                    !self.setgroups_setting()
                        && parent.gids().to_kernel(only.lower) == Some(opener.egid)
                }
            };
            if own {
                return true;
            }
        }
        writer.ns_capable(parent, cap) && opener.ns_capable(parent, cap)
    }
}

static INIT_USER_NS: Once<Ref<UserNs>> = Once::new();

/// The initial user namespace; the first caller, at boot, makes it.
pub fn init_user_ns() -> &'static Ref<UserNs> {
    INIT_USER_NS.try_get().unwrap_or_else(|| {
        INIT_USER_NS.set(UserNs::new_initial().expect("memory is there before namespaces"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ns::idmap::parse_extents;

    fn user(ns: &Ref<UserNs>, id: u32) -> Cred {
        let mut cred = Cred::root_of(ns);
        (cred.uid, cred.euid, cred.gid, cred.egid) = (id, id, id, id);
        if ns.level == 0 {
            cred.cap_effective = crate::ns::CapSet::EMPTY;
        }
        cred
    }

    fn write(ns: &UserNs, kind: IdKind, text: &str, cred: &Cred) -> Result<()> {
        ns.write_map(kind, parse_extents(text.as_bytes())?, cred, cred)
    }

    #[test]
    fn a_user_without_privileges_may_map_only_itself_and_once() {
        let outer = UserNs::new_initial().unwrap();
        let inner = UserNs::new(&outer, 1000, 1000, false).unwrap();
        let inside = user(&inner, 1000);
        assert_eq!(write(&inner, IdKind::Uid, "0 0 1", &inside), Err(Errno::EPERM));
        assert_eq!(write(&inner, IdKind::Uid, "0 1001 1", &inside), Err(Errno::EPERM));
        assert_eq!(write(&inner, IdKind::Uid, "0 1000 2", &inside), Err(Errno::EPERM));
        assert_eq!(write(&inner, IdKind::Uid, "0 1000 1", &inside), Ok(()));
        assert_eq!(write(&inner, IdKind::Uid, "0 1000 1", &inside), Err(Errno::EPERM));
        assert_eq!(inner.root_uid(), Some(1000));
        // Groups need setgroups denied first.
        assert_eq!(write(&inner, IdKind::Gid, "0 1000 1", &inside), Err(Errno::EPERM));
        inner.set_setgroups(false).unwrap();
        assert_eq!(write(&inner, IdKind::Gid, "0 1000 1", &inside), Ok(()));
        assert!(!inner.allows_setgroups());
        assert_eq!(inner.set_setgroups(true), Err(Errno::EPERM));
    }

    #[test]
    fn maps_of_maps_lead_to_kernel_ids() {
        let outer = UserNs::new_initial().unwrap();
        let root = Cred::root_of(&outer);
        let middle = UserNs::new(&outer, 0, 0, true).unwrap();
        write(&middle, IdKind::Uid, "0 100000 65536", &root).unwrap();
        let inner = UserNs::new(&middle, 100000, 100000, true).unwrap();
        let middle_root = Cred { uid: 100000, euid: 100000, ..Cred::root_of(&middle) };
        assert_eq!(write(&inner, IdKind::Uid, "0 70000 1", &middle_root), Err(Errno::EPERM));
        write(&inner, IdKind::Uid, "0 1000 10", &middle_root).unwrap();
        assert_eq!(inner.uids().to_kernel(3), Some(101003));
        assert_eq!(inner.uids().from_kernel(101003), Some(3));
    }

    #[test]
    fn capabilities_count_in_and_below_their_namespace() {
        let outer = UserNs::new_initial().unwrap();
        let inner = UserNs::new(&outer, 1000, 1000, false).unwrap();
        let leaf = UserNs::new(&inner, 1000, 1000, false).unwrap();
        let root = Cred::root_of(&outer);
        let inside = user(&inner, 1000);
        assert!(root.ns_capable(&leaf, Cap::SysAdmin));
        assert!(inside.ns_capable(&inner, Cap::SysAdmin));
        assert!(inside.ns_capable(&leaf, Cap::SysAdmin));
        assert!(!inside.ns_capable(&outer, Cap::SysAdmin));
        // The creator is privileged over what it made, others are not.
        assert!(user(&outer, 1000).ns_capable(&inner, Cap::SysAdmin));
        assert!(!user(&outer, 1001).ns_capable(&inner, Cap::SysAdmin));
    }

    #[test]
    fn nesting_ends_at_the_level_of_linux() {
        let mut ns = UserNs::new_initial().unwrap();
        for _ in 0..=MAX_USER_NS_LEVEL {
            ns = UserNs::new(&ns, 0, 0, true).unwrap();
        }
        assert_eq!(UserNs::new(&ns, 0, 0, true).err(), Some(Errno::ENOSPC));
    }
}
