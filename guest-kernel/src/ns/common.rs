//! [`NsCommon`]: what namespaces of every kind have in common: identity, owner, and their place on the
//! list of all namespaces, which is what an observer outside walks.
//!
//! It is the first field of each kind's structure, so that the address of one is the address of the
//! other. The list holds no references: a namespace takes itself off as it goes.

use core::sync::atomic::{AtomicU32, Ordering};

use belljar_abi::Described;

use crate::errno::Result;
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::list_link;
use crate::ns::ucounts::{Charge, Counted};
use crate::ns::user::UserNs;
use crate::sync::IrqLock;
use crate::uapi::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME,
    CLONE_NEWUSER, CLONE_NEWUTS,
};

/// The kinds of namespaces(7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Described)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are namespaces(7)'s")]
pub enum NsKind {
    User = 0,
    Pid = 1,
    Uts = 2,
    Ipc = 3,
    Net = 4,
    Mnt = 5,
    Cgroup = 6,
    Time = 7,
}

/// How many kinds there are.
pub const NS_KINDS: usize = 8;

impl NsKind {
    /// All of them.
    pub const ALL: [Self; NS_KINDS] = [
        Self::User,
        Self::Pid,
        Self::Uts,
        Self::Ipc,
        Self::Net,
        Self::Mnt,
        Self::Cgroup,
        Self::Time,
    ];

    /// Its name in /proc/PID/ns.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Pid => "pid",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::Net => "net",
            Self::Mnt => "mnt",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }

    /// Its flag of clone(2).
    pub const fn flag(self) -> u32 {
        match self {
            Self::User => CLONE_NEWUSER,
            Self::Pid => CLONE_NEWPID,
            Self::Uts => CLONE_NEWUTS,
            Self::Ipc => CLONE_NEWIPC,
            Self::Net => CLONE_NEWNET,
            Self::Mnt => CLONE_NEWNS,
            Self::Cgroup => CLONE_NEWCGROUP,
            Self::Time => CLONE_NEWTIME,
        }
    }

    /// The inode number of the initial namespace, where Linux fixes it (linux/proc_ns.h): programs
    /// tell by it whether they are in a container.
    const fn initial_inum(self) -> Option<u32> {
        match self {
            Self::Ipc => Some(0xefff_ffff),
            Self::Uts => Some(0xefff_fffe),
            Self::User => Some(0xefff_fffd),
            Self::Pid => Some(0xefff_fffc),
            Self::Cgroup => Some(0xefff_fffb),
            Self::Time => Some(0xefff_fffa),
            Self::Net | Self::Mnt => None,
        }
    }
}

/// The first inode number of namespace files; Linux starts its dynamic ones here too.
static NEXT_INUM: AtomicU32 = AtomicU32::new(FIRST_INUM);
const FIRST_INUM: u32 = 0xf000_0000;

fn new_inum() -> u32 {
    // After 2^28 namespaces the numbers start again, above those of the initial ones.
    NEXT_INUM.fetch_add(1, Ordering::Relaxed) | FIRST_INUM
}

/// What every namespace has.
#[repr(C)]
#[derive(Described)]
pub struct NsCommon {
    /// Which kind of namespace it lies in.
    #[described(as = "enum NsKind")]
    kind: NsKind,
    /// Inode number of its /proc/PID/ns file: its identity.
    pub inum: u32,
    /// The user namespace that owns it; of a user namespace, the one around it. `None` for the initial
    /// user namespace alone.
    #[described(as = "ptr UserNs")]
    owner: Option<Ref<UserNs>>,
    /// Link on the list of all namespaces.
    all: Link,
    /// Its creator's count of such namespaces.
    #[described(skip)]
    charge: Option<Charge>,
}

list_link!(
    /// All namespaces.
    NsCommon, all: AllLink
);

/// All namespaces, in the order in which they came.
#[repr(C)]
pub struct Registry {
    all: List<NsCommon, AllLink>,
}

static REGISTRY: IrqLock<Registry> = IrqLock::new(Registry { all: List::new() });

/// Address of the list's head, for the root page.
pub fn registry_address() -> usize {
    REGISTRY.data_ptr() as usize
}

impl NsCommon {
    /// Of a namespace that boot makes.
    pub fn initial(kind: NsKind, owner: Option<Ref<UserNs>>) -> Self {
        let inum = kind.initial_inum().unwrap_or_else(new_inum);
        Self { kind, inum, owner, all: Link::new(), charge: None }
    }

    /// Of a namespace that the user `uid` makes and `owner` will own. `ENOSPC` if the user has as many
    /// as may be (namespaces(7), /proc/sys/user).
    pub fn new(kind: NsKind, owner: Ref<UserNs>, uid: u32) -> Result<Self> {
        let charge = Charge::new(&owner, uid, Counted::Namespace(kind))?;
        Ok(Self {
            kind,
            inum: new_inum(),
            owner: Some(owner),
            all: Link::new(),
            charge: Some(charge),
        })
    }

    /// The kind.
    pub fn kind(&self) -> NsKind {
        self.kind
    }

    /// The user namespace that owns it. The initial one owns itself.
    pub fn user_ns(&self) -> &Ref<UserNs> {
        self.owner.as_ref().unwrap_or_else(|| super::user::init_user_ns())
    }

    /// The owner, or `None` for the initial user namespace.
    pub fn owner(&self) -> Option<&Ref<UserNs>> {
        self.owner.as_ref()
    }

    /// The charge on the creator.
    pub(super) fn charge(&self) -> Option<&Charge> {
        self.charge.as_ref()
    }
}

impl Drop for NsCommon {
    fn drop(&mut self) {
        if self.all.is_linked() {
            let _registry = REGISTRY.lock();
            // SAFETY: the registry's lock is held.
            unsafe { self.all.unlink() };
        }
    }
}

/// A kind's structure.
pub trait HasCommon {
    /// Its common part.
    fn common(&self) -> &NsCommon;
}

/// Puts a namespace where it stays and enters it into the list.
pub fn publish<T: HasCommon>(value: T) -> Result<Ref<T>> {
    let ns = Ref::try_new(value)?;
    enlist(ns.common());
    Ok(ns)
}

fn enlist(common: &NsCommon) {
    let registry = REGISTRY.lock();
    // SAFETY: the registry's lock is held; the namespace lies in a `Ref`, so it stays at its address
    // until `Drop` takes it off.
    unsafe { registry.all.push_back(common) };
}

/// True if there is a namespace of that kind with that inode number.
pub fn exists(kind: NsKind, inum: u32) -> bool {
    REGISTRY.lock().all.iter().any(|ns| ns.kind == kind && ns.inum == inum)
}

/// How many namespaces of a kind there are, for tests and statistics.
pub fn count(kind: NsKind) -> usize {
    REGISTRY.lock().all.iter().filter(|ns| ns.kind == kind).count()
}
