//! Credentials (credentials(7), capabilities(7)): user and group ids, supplementary groups,
//! capability sets. A [`Cred`] is never changed once it is shared: changing an id makes a new one.

use belljar_abi::Described;

use crate::array::Array;
use crate::errno::Result;
use crate::kref::Ref;

/// securebits(7): changing user ids leaves the capability sets alone.
pub const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
/// securebits: permitted capabilities survive giving up all root ids.
pub const SECBIT_KEEP_CAPS: u32 = 1 << 4;

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
    pub no_new_privs: bool,
    pub cap_inheritable: CapSet,
    pub cap_permitted: CapSet,
    pub cap_effective: CapSet,
    pub cap_bounding: CapSet,
    pub cap_ambient: CapSet,
    pub groups: Array<u32>,
}

impl Cred {
    /// The superuser's, as init has it.
    pub const fn root() -> Self {
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
            no_new_privs: false,
            cap_inheritable: CapSet::EMPTY,
            cap_permitted: CapSet::FULL,
            cap_effective: CapSet::FULL,
            cap_bounding: CapSet::FULL,
            cap_ambient: CapSet::EMPTY,
            groups: Array::new(),
        }
    }

    /// A copy to change.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { groups: self.groups.try_clone()?, ..*self })
    }

    /// A changed copy: what `set*id` calls install.
    pub fn with(&self, change: impl FnOnce(&mut Self)) -> Result<Ref<Self>> {
        let mut new = self.try_clone()?;
        change(&mut new);
        Ref::try_new(new)
    }

    /// True if `cap` is effective.
    pub fn capable(&self, cap: Cap) -> bool {
        self.cap_effective.has(cap)
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
        let had_root = old.uid == 0 || old.euid == 0 || old.suid == 0;
        let has_root = self.uid == 0 || self.euid == 0 || self.suid == 0;
        if had_root && !has_root && self.securebits & SECBIT_KEEP_CAPS == 0 {
            self.cap_permitted = CapSet::EMPTY;
            self.cap_effective = CapSet::EMPTY;
            self.cap_ambient = CapSet::EMPTY;
        }
        if old.euid == 0 && self.euid != 0 {
            self.cap_effective = CapSet::EMPTY;
        } else if old.euid != 0 && self.euid == 0 {
            self.cap_effective = self.cap_permitted;
        }
    }
}
