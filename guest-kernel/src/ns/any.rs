//! [`Namespace`]: a namespace of whichever kind, as files and setns(2) handle them.

use crate::errno::{Errno, Result};
use crate::fs::MntNs;
use crate::ipc::IpcNs;
use crate::kref::Ref;
use crate::net::NetNs;
use crate::ns::cgroup::CgroupNs;
use crate::ns::common::{HasCommon, NsCommon};
use crate::ns::pid::PidNs;
use crate::ns::time::TimeNs;
use crate::ns::user::UserNs;
use crate::ns::uts::UtsNs;

/// A namespace of whichever kind.
#[derive(Clone)]
#[allow(missing_docs, reason = "the names are namespaces(7)'s")]
pub enum Namespace {
    Cgroup(Ref<CgroupNs>),
    Ipc(Ref<IpcNs>),
    Mnt(Ref<MntNs>),
    Net(Ref<NetNs>),
    Pid(Ref<PidNs>),
    Time(Ref<TimeNs>),
    User(Ref<UserNs>),
    Uts(Ref<UtsNs>),
}

impl Namespace {
    /// What all kinds have.
    pub fn common(&self) -> &NsCommon {
        match self {
            Self::Cgroup(ns) => ns.common(),
            Self::Ipc(ns) => ns.common(),
            Self::Mnt(ns) => ns.common(),
            Self::Net(ns) => ns.common(),
            Self::Pid(ns) => ns.common(),
            Self::Time(ns) => ns.common(),
            Self::User(ns) => ns.common(),
            Self::Uts(ns) => ns.common(),
        }
    }

    /// Its identity: the inode number of its file.
    pub fn inum(&self) -> u32 {
        self.common().inum
    }

    /// The namespace around it; `EINVAL` for kinds that do not nest.
    pub fn parent(&self) -> Result<Option<Self>> {
        match self {
            Self::Pid(ns) => Ok(ns.parent.clone().map(Self::Pid)),
            Self::User(ns) => Ok(ns.parent().cloned().map(Self::User)),
            _ => Err(Errno::EINVAL),
        }
    }
}
