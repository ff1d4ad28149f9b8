//! Credentials (credentials(7), capabilities(7)): user and group ids, supplementary groups,
//! capability sets, and the user namespace in which they count. A [`Cred`] is never changed once it is
//! shared: changing an id makes a new one.
//!
//! Ids are the kernel's, that is those of the initial user namespace; the namespace's maps translate
//! them at the border to user space.

use belljar_abi::Described;

use crate::array::Array;
use crate::errno::Result;
use crate::kref::Ref;
use crate::ns::user::{UserNs, init_user_ns};

/// Securebits (capabilities(7)): user id 0 has no capabilities for its own sake.
pub const SECBIT_NOROOT: u32 = 1 << 0;
/// Securebits: changing user ids leaves the capability sets alone.
pub const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
/// Securebits: permitted capabilities survive giving up all root ids.
pub const SECBIT_KEEP_CAPS: u32 = 1 << 4;
/// Securebits: no ambient capabilities can be raised.
pub const SECBIT_NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
/// Securebits: all that are no locks; the lock of each is the bit above it.
pub const SECURE_ALL_BITS: u32 =
    SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS | SECBIT_NO_CAP_AMBIENT_RAISE;
/// Securebits: the locks.
pub const SECURE_ALL_LOCKS: u32 = SECURE_ALL_BITS << 1;

/// A capability, by its number in linux/capability.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are capabilities(7)'s")]
pub enum Cap {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    Fsetid = 4,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    Setpcap = 8,
    LinuxImmutable = 9,
    NetBindService = 10,
    NetBroadcast = 11,
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    IpcOwner = 15,
    SysModule = 16,
    SysRawio = 17,
    SysChroot = 18,
    SysPtrace = 19,
    SysPacct = 20,
    SysAdmin = 21,
    SysBoot = 22,
    SysNice = 23,
    SysResource = 24,
    SysTime = 25,
    SysTtyConfig = 26,
    Mknod = 27,
    Lease = 28,
    AuditWrite = 29,
    AuditControl = 30,
    Setfcap = 31,
    MacOverride = 32,
    MacAdmin = 33,
    Syslog = 34,
    WakeAlarm = 35,
    BlockSuspend = 36,
    AuditRead = 37,
    Perfmon = 38,
    Bpf = 39,
    CheckpointRestore = 40,
}

/// A set of capabilities, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct CapSet(pub u64);

impl CapSet {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// All that exist.
    pub const FULL: Self = Self((1 << (Cap::CheckpointRestore as u64 + 1)) - 1);
    /// Those about files, which follow the file system's user id (setfsuid(2)).
    pub const FS: Self = Self(
        1 << Cap::Chown as u64
            | 1 << Cap::Mknod as u64
            | 1 << Cap::DacOverride as u64
            | 1 << Cap::DacReadSearch as u64
            | 1 << Cap::Fowner as u64
            | 1 << Cap::Fsetid as u64
            | 1 << Cap::LinuxImmutable as u64
            | 1 << Cap::MacOverride as u64,
    );

    /// True if `cap` is in the set.
    pub const fn has(self, cap: Cap) -> bool {
        self.0 & (1 << cap as u64) != 0
    }

    /// The capabilities of both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The capabilities of either.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The capabilities that `other` lacks.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// True if `other` has all of them.
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

/// Who a task is.
#[repr(C)]
#[derive(Described)]
#[allow(missing_docs, reason = "the names are credentials(7)'s")]
pub struct Cred {
    pub uid: u32,
    pub gid: u32,
    pub euid: u32,
    pub egid: u32,
    pub suid: u32,
    pub sgid: u32,
    pub fsuid: u32,
    pub fsgid: u32,
    pub securebits: u32,
    pub cap_inheritable: CapSet,
    pub cap_permitted: CapSet,
    pub cap_effective: CapSet,
    pub cap_bounding: CapSet,
    pub cap_ambient: CapSet,
    pub groups: Array<u32>,
    pub user_ns: Ref<UserNs>,
}

impl Cred {
    /// The superuser's, as init has it.
    pub fn root() -> Self {
        Self::root_of(init_user_ns())
    }

    /// User 0 of the kernel with all capabilities in `user_ns`.
    pub fn root_of(user_ns: &Ref<UserNs>) -> Self {
        Self {
            uid: 0,
            gid: 0,
            euid: 0,
            egid: 0,
            suid: 0,
            sgid: 0,
            fsuid: 0,
            fsgid: 0,
            securebits: 0,
            cap_inheritable: CapSet::EMPTY,
            cap_permitted: CapSet::FULL,
            cap_effective: CapSet::FULL,
            cap_bounding: CapSet::FULL,
            cap_ambient: CapSet::EMPTY,
            groups: Array::new(),
            user_ns: user_ns.clone(),
        }
    }

    /// A copy to change.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { groups: self.groups.try_clone()?, user_ns: self.user_ns.clone(), ..*self })
    }

    /// A changed copy: what `set*id` calls install.
    pub fn with(&self, change: impl FnOnce(&mut Self)) -> Result<Ref<Self>> {
        let mut new = self.try_clone()?;
        change(&mut new);
        Ref::try_new(new)
    }

    /// Enters a user namespace, new or not: all capabilities there, none elsewhere (`set_cred_user_ns`).
    pub fn enter_user_ns(&mut self, ns: &Ref<UserNs>) {
        self.securebits = 0;
        self.cap_inheritable = CapSet::EMPTY;
        self.cap_permitted = CapSet::FULL;
        self.cap_effective = CapSet::FULL;
        self.cap_bounding = CapSet::FULL;
        self.cap_ambient = CapSet::EMPTY;
        self.user_ns = ns.clone();
    }

    /// True if the kernel's log may be read: with kernel.dmesg_restrict, as Debian sets it, nothing of it is everybody's.
    pub fn may_read_log(&self) -> bool {
        self.capable(Cap::Syslog) || self.capable(Cap::SysAdmin)
    }

    /// True if `cap` is effective over the whole machine: in the initial user namespace.
    pub fn capable(&self, cap: Cap) -> bool {
        self.user_ns.level == 0 && self.cap_effective.has(cap)
    }

    /// True if `cap` is effective in the user namespace that these credentials are of.
    pub fn own_capable(&self, cap: Cap) -> bool {
        self.cap_effective.has(cap)
    }

    /// True if `cap` counts for what `ns` owns: it is effective in `ns` or in a namespace around it, or
    /// these credentials are the creator's of one on the way (capabilities in user_namespaces(7)).
    pub fn ns_capable(&self, ns: &UserNs, cap: Cap) -> bool {
        let own: *const UserNs = Ref::as_ptr(&self.user_ns);
        let mut at = ns;
        loop {
            if core::ptr::eq(at, own) {
                return self.cap_effective.has(cap);
            }
            if at.level <= self.user_ns.level {
                return false;
            }
            let Some(parent) = at.parent() else { return false };
            if Ref::as_ptr(parent) == own && at.owner_uid == self.euid {
                return true;
            }
            at = parent;
        }
    }

    /// True if `new` may be set in place of `securebits`: locked bits stay as they are, and locks stay
    /// (capabilities(7), "The securebits flags").
    pub fn may_set_securebits(&self, new: u32) -> bool {
        let old = self.securebits;
        let locked = (old & SECURE_ALL_LOCKS) >> 1;
        locked & (old ^ new) == 0
            && old & SECURE_ALL_LOCKS & !new == 0
            && new & !(SECURE_ALL_BITS | SECURE_ALL_LOCKS) == 0
            && self.own_capable(Cap::Setpcap)
    }

    /// True if `gid` is the file-system group or a supplementary one.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// What the capability sets become when the user ids change (capabilities(7), "Effect of user ID
    /// changes on capabilities").
    pub fn fix_caps_after_setuid(&mut self, old: &Self) {
        if self.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
            return;
        }
        let root = old.user_ns.root_uid();
        let is_root = |uid: u32| root == Some(uid);
        let any_root = |c: &Self| is_root(c.uid) || is_root(c.euid) || is_root(c.suid);
        if any_root(old) && !any_root(self) {
            if self.securebits & SECBIT_KEEP_CAPS == 0 {
                self.cap_permitted = CapSet::EMPTY;
                self.cap_effective = CapSet::EMPTY;
            }
            self.cap_ambient = CapSet::EMPTY;
        }
        if is_root(old.euid) && !is_root(self.euid) {
            self.cap_effective = CapSet::EMPTY;
        } else if !is_root(old.euid) && is_root(self.euid) {
            self.cap_effective = self.cap_permitted;
        }
    }

    /// The same for setfsuid(2), which touches what is about files.
    pub fn fix_caps_after_setfsuid(&mut self, old: &Self) {
        if self.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
            return;
        }
        let root = old.user_ns.root_uid();
        match (root == Some(old.fsuid), root == Some(self.fsuid)) {
            (true, false) => self.cap_effective = self.cap_effective.without(CapSet::FS),
            (false, true) => {
                self.cap_effective = self.cap_effective.or(self.cap_permitted.and(CapSet::FS));
            }
            _ => {}
        }
    }
}
