//! Namespaces and credentials: who a task is, and what it sees.

mod any;
pub mod cgroup;
pub mod common;
pub mod cred;
pub mod idmap;
mod nsproxy;
pub mod pid;
pub mod time;
pub mod ucounts;
pub mod user;
pub mod uts;

pub use any::Namespace;
pub use cgroup::CgroupNs;
pub use common::{HasCommon, NsCommon, NsKind};
pub use cred::{Cap, CapSet, Cred};
pub use idmap::OVERFLOW_ID;
pub use nsproxy::{NsProxy, init_nsproxy};
pub use pid::{Pid, PidMember, PidNs, PidType, init_pid_ns};
pub use time::TimeNs;
pub use user::UserNs;

use crate::errno::Result;

/// Makes the initial namespaces; boot order calls it once, before the first task.
pub fn init() -> Result<()> {
    user::init_user_ns();
    pid::init()?;
    crate::cgroup::init()?;
    crate::net::inet::tcp::sock::init();
    nsproxy::init()
}
