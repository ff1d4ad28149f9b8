//! What the floors above know of the caller and sockets must ask: the process floor installs it at boot.

use belljar_abi::Described;

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::NetNs;
use crate::ns::{Cap, Cred, Pid, PidNs};
use crate::sync::Once;

/// Who sends, or made, something (`SCM_CREDENTIALS`, `SO_PEERCRED`).
#[repr(C)]
#[derive(Clone, Described)]
pub struct Identity {
    /// The process.
    pub pid: Ref<Pid>,
    /// Its effective user, or the one it claims.
    pub uid: u32,
    /// Its effective group, or the one it claims.
    pub gid: u32,
}

const _: () = assert!(
    size_of::<Option<Identity>>() == size_of::<Identity>(),
    "a reader outside takes one without a process for none"
);

impl Identity {
    /// True if both are the same process and ids.
    pub fn same(&self, other: &Self) -> bool {
        Ref::ptr_eq(&self.pid, &other.pid) && self.uid == other.uid && self.gid == other.gid
    }
}

/// What the process floor provides.
pub struct Hooks {
    /// The calling process, with real ids (`SCM_CREDENTIALS` of one who states none).
    pub real_identity: fn() -> Identity,
    /// The calling process, with effective ids (`SO_PEERCRED`).
    pub identity: fn() -> Identity,
    /// The credentials of the caller.
    pub cred: fn() -> Ref<Cred>,
    /// The pid namespace in which the caller sees numbers.
    pub pid_ns: fn() -> Ref<PidNs>,
    /// The network namespace of the caller.
    pub net_ns: fn() -> Ref<NetNs>,
    /// The network namespace behind one of the caller's descriptors; `EINVAL` if it is none.
    pub net_by_fd: fn(i32) -> Result<Ref<NetNs>>,
    /// The network namespace of a process; `ESRCH` if there is none.
    pub net_by_pid: fn(u32) -> Result<Ref<NetNs>>,
    /// `RLIMIT_NOFILE` of the caller.
    pub nofile: fn() -> u64,
}

static HOOKS: Once<Hooks> = Once::new();

/// Installs the process floor's functions.
pub fn install(hooks: Hooks) {
    HOOKS.set(hooks);
}

/// The calling process and its real ids; `None` without a process floor (host tests).
pub fn real_identity() -> Option<Identity> {
    HOOKS.try_get().map(|h| (h.real_identity)())
}

/// The calling process and its effective ids.
pub fn identity() -> Option<Identity> {
    HOOKS.try_get().map(|h| (h.identity)())
}

/// True if the caller has `cap` in the initial namespaces.
pub fn capable(cap: Cap) -> bool {
    HOOKS.try_get().is_none_or(|h| (h.cred)().capable(cap))
}

/// True if the caller has `cap` over `net`.
pub fn ns_capable(net: &NetNs, cap: Cap) -> bool {
    HOOKS.try_get().is_none_or(|h| net.capable(&(h.cred)(), cap))
}

/// A user and a group as the caller's user namespace calls them.
pub fn visible_ids(uid: u32, gid: u32) -> (u32, u32) {
    HOOKS.try_get().map_or((uid, gid), |h| {
        let ns = (h.cred)().user_ns.clone();
        (ns.uids().from_kernel_munged(uid), ns.gids().from_kernel_munged(gid))
    })
}

/// The caller's user.
pub fn uid() -> u32 {
    HOOKS.try_get().map_or(0, |h| (h.cred)().uid)
}

/// The caller's groups and group.
pub fn in_group_range(low: u32, high: u32) -> bool {
    HOOKS.try_get().is_some_and(|h| {
        let cred = (h.cred)();
        let inside = |gid: u32| (low..=high).contains(&gid);
        inside(cred.egid) || cred.groups.iter().any(|&gid| inside(gid))
    })
}

/// The number that the caller sees for a process; 0 if it does not see it.
pub fn visible_pid(pid: &Pid) -> u32 {
    HOOKS.try_get().map_or(0, |h| pid.nr_in(&(h.pid_ns)()))
}

/// The caller's network namespace.
pub fn net_ns() -> Result<Ref<NetNs>> {
    HOOKS.try_get().map(|h| (h.net_ns)()).ok_or(Errno::ENOSYS)
}

/// The network namespace behind one of the caller's descriptors.
pub fn net_by_fd(fd: i32) -> Result<Ref<NetNs>> {
    HOOKS.try_get().ok_or(Errno::ENOSYS).and_then(|h| (h.net_by_fd)(fd))
}

/// The network namespace of a process.
pub fn net_by_pid(pid: u32) -> Result<Ref<NetNs>> {
    HOOKS.try_get().ok_or(Errno::ENOSYS).and_then(|h| (h.net_by_pid)(pid))
}

/// `RLIMIT_NOFILE` of the caller.
pub fn nofile() -> u64 {
    HOOKS.try_get().map_or(u64::MAX, |h| (h.nofile)())
}
