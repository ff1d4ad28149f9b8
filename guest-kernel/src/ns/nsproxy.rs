//! [`NsProxy`]: the set of namespaces that a task uses, one of each kind (namespaces(7)).
//!
//! The pid namespace in it is the one that the task's *children* get; its own is that of its pid. The
//! user namespace hangs on the credentials. A proxy is never changed: `unshare` and `setns` install a
//! new one.

use belljar_abi::Described;

use crate::errno::Result;
use crate::fs::MntNs;
use crate::kref::Ref;
use crate::net::NetNs;
use crate::ns::pid::{PidNs, init_pid_ns};
use crate::ns::user::{UserNs, init_user_ns};
use crate::ns::uts::{UtsNames, UtsNs, uts_name};
use crate::sync::Once;

/// A namespace of a kind that so far only exists as the initial one: it has an identity and an owner.
#[repr(C)]
#[derive(Described)]
pub struct PlainNs {
    /// Inode number of its /proc/PID/ns file.
    pub inum: u32,
    /// The user namespace that owns it.
    pub user_ns: Ref<UserNs>,
}

impl PlainNs {
    fn new(user_ns: Ref<UserNs>) -> Result<Ref<Self>> {
        Ref::try_new(Self { inum: super::new_inum(), user_ns })
    }
}

/// The namespaces that a task uses.
#[repr(C)]
#[derive(Described)]
pub struct NsProxy {
    /// Host name.
    pub uts: Ref<UtsNs>,
    /// System V and POSIX IPC.
    pub ipc: Ref<PlainNs>,
    /// Mounts.
    pub mnt: Ref<MntNs>,
    /// The pid namespace of children to come.
    pub pid_for_children: Ref<PidNs>,
    /// Network.
    pub net: Ref<NetNs>,
    /// Clock offsets.
    pub time: Ref<PlainNs>,
    /// Control group root.
    pub cgroup: Ref<PlainNs>,
}

static INIT_NSPROXY: Once<Ref<NsProxy>> = Once::new();

/// The set that exists from boot and that init uses.
pub fn init_nsproxy() -> &'static Ref<NsProxy> {
    INIT_NSPROXY.get()
}

pub(super) fn init() -> Result<()> {
    let user = init_user_ns();
    let names = UtsNames { nodename: uts_name(b"belljar")?, domainname: uts_name(b"(none)")? };
    INIT_NSPROXY.set(Ref::try_new(NsProxy {
        uts: UtsNs::new(names, user.clone())?,
        ipc: PlainNs::new(user.clone())?,
        // The root file system is mounted later.
        mnt: MntNs::empty(user.clone())?,
        pid_for_children: init_pid_ns().clone(),
        net: NetNs::new(user.clone())?,
        time: PlainNs::new(user.clone())?,
        cgroup: PlainNs::new(user.clone())?,
    })?);
    Ok(())
}
