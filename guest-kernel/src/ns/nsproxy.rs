//! [`NsProxy`]: the set of namespaces that a task uses, one of each kind (namespaces(7)).
//!
//! The pid namespace in it is the one that the task's *children* get; its own is that of its pid. The
//! user namespace hangs on the credentials. A proxy is never changed: `unshare` and `setns` install a
//! new one.

use belljar_abi::Described;

use crate::cgroup::Cgroup;
use crate::errno::{Errno, Result};
use crate::fs::{FsStruct, MntNs};
use crate::ipc::IpcNs;
use crate::kref::Ref;
use crate::net::NetNs;
use crate::ns::cgroup::CgroupNs;
use crate::ns::common::{NsCommon, NsKind};
use crate::ns::cred::Cred;
use crate::ns::pid::{PidNs, init_pid_ns};
use crate::ns::time::{OffsetClock, TimeNs};
use crate::ns::user::init_user_ns;
use crate::ns::uts::{UtsNames, UtsNs, uts_name};
use crate::sync::Once;

/// The namespaces that a task uses.
#[repr(C)]
#[derive(Described)]
pub struct NsProxy {
    /// Host name.
    pub uts: Ref<UtsNs>,
    /// System V and POSIX IPC.
    pub ipc: Ref<IpcNs>,
    /// Mounts.
    pub mnt: Ref<MntNs>,
    /// The pid namespace of children to come.
    pub pid_for_children: Ref<PidNs>,
    /// Network.
    pub net: Ref<NetNs>,
    /// Clock offsets.
    pub time: Ref<TimeNs>,
    /// The clock offsets of children to come.
    pub time_for_children: Ref<TimeNs>,
    /// Control group root.
    pub cgroup: Ref<CgroupNs>,
}

impl NsProxy {
    /// A copy to change.
    pub fn duplicate(&self) -> Self {
        Self {
            uts: self.uts.clone(),
            ipc: self.ipc.clone(),
            mnt: self.mnt.clone(),
            pid_for_children: self.pid_for_children.clone(),
            net: self.net.clone(),
            time: self.time.clone(),
            time_for_children: self.time_for_children.clone(),
            cgroup: self.cgroup.clone(),
        }
    }

    /// The set with a new namespace for each `CLONE_NEW*` in `flags` (`create_new_namespaces`). `cred`
    /// owns them; the roots in `fs` move into a new mount namespace, and `group` is what a new cgroup
    /// namespace sees as the root. `active` is the pid namespace that
    /// the caller itself lives in.
    pub fn with_new(
        &self,
        flags: u32,
        cred: &Cred,
        active: &Ref<PidNs>,
        fs: &FsStruct,
        group: &Ref<Cgroup>,
    ) -> Result<Ref<Self>> {
        let mut new = self.duplicate();
        let wants = |kind: NsKind| flags & kind.flag() != 0;
        let common = |kind| NsCommon::new(kind, cred.user_ns.clone(), cred.euid);
        if wants(NsKind::Mnt) {
            new.mnt = self.mnt.try_clone(common(NsKind::Mnt)?, fs)?;
        }
        if wants(NsKind::Uts) {
            let names = *self.uts.names.lock();
            new.uts = UtsNs::new(common(NsKind::Uts)?, names)?;
        }
        if wants(NsKind::Ipc) {
            new.ipc = IpcNs::new(common(NsKind::Ipc)?)?;
        }
        if wants(NsKind::Pid) {
            let outer = &self.pid_for_children;
            // One that was prepared for children already cannot be nested into, and the user namespace
            // must lie in its owner (pid_namespaces(7)).
            if !Ref::ptr_eq(active, outer) || !cred.user_ns.is_within(outer.common.user_ns()) {
                return Err(Errno::EINVAL);
            }
            new.pid_for_children = PidNs::new(common(NsKind::Pid)?, Some(outer.clone()))?;
        }
        if wants(NsKind::Cgroup) {
            new.cgroup = CgroupNs::new(common(NsKind::Cgroup)?, group.clone())?;
        }
        if wants(NsKind::Net) {
            new.net = NetNs::new(common(NsKind::Net)?)?;
        }
        if wants(NsKind::Time) {
            new.time_for_children = TimeNs::new(common(NsKind::Time)?, &self.time_for_children)?;
        }
        Ref::try_new(new)
    }

    /// The set with clocks that are `ns` ahead of the machine's, for tasks and their children alike.
    pub fn with_clocks(&self, cred: &Cred, ns: i64) -> Result<Ref<Self>> {
        let common = NsCommon::new(NsKind::Time, cred.user_ns.clone(), cred.euid)?;
        let time = TimeNs::new(common, &self.time)?;
        for clock in [OffsetClock::Monotonic, OffsetClock::Boottime] {
            time.set_offset(clock, ns)?;
        }
        time.freeze();
        Ref::try_new(Self { time: time.clone(), time_for_children: time, ..self.duplicate() })
    }

    /// What a child gets: its clocks are those that were prepared for children.
    pub fn for_child(this: &Ref<Self>) -> Result<Ref<Self>> {
        if Ref::ptr_eq(&this.time, &this.time_for_children) {
            return Ok(this.clone());
        }
        let time = this.time_for_children.clone();
        time.freeze();
        Ref::try_new(Self { time, ..this.duplicate() })
    }
}

static INIT_NSPROXY: Once<Ref<NsProxy>> = Once::new();

/// The set that exists from boot and that init uses.
pub fn init_nsproxy() -> &'static Ref<NsProxy> {
    INIT_NSPROXY.get()
}

pub(super) fn init() -> Result<()> {
    let common = |kind| NsCommon::initial(kind, Some(init_user_ns().clone()));
    let names = UtsNames { nodename: uts_name(b"belljar")?, domainname: uts_name(b"(none)")? };
    let time = TimeNs::initial(common(NsKind::Time))?;
    INIT_NSPROXY.set(Ref::try_new(NsProxy {
        uts: UtsNs::new(common(NsKind::Uts), names)?,
        ipc: IpcNs::new(common(NsKind::Ipc))?,
        // The root file system is mounted later.
        mnt: MntNs::empty(common(NsKind::Mnt))?,
        pid_for_children: init_pid_ns().clone(),
        net: NetNs::new(common(NsKind::Net))?,
        time: time.clone(),
        time_for_children: time,
        cgroup: CgroupNs::new(common(NsKind::Cgroup), crate::cgroup::root().clone())?,
    })?);
    Ok(())
}
