//! Namespaces and credentials: who a task is, and what it sees.

pub mod cred;
mod nsproxy;
pub mod pid;
pub mod user;
pub mod uts;

use core::sync::atomic::{AtomicU32, Ordering};

pub use cred::{Cap, CapSet, Cred};
pub use nsproxy::{NsProxy, PlainNs, init_nsproxy};
pub use pid::{Pid, PidMember, PidNs, PidType, init_pid_ns};
pub use user::UserNs;

use crate::errno::Result;

/// The first inode number of namespace files; Linux starts its dynamic ones here too.
static NEXT_INUM: AtomicU32 = AtomicU32::new(0xf000_0000);

/// A fresh inode number for a namespace.
pub(crate) fn new_inum() -> u32 {
    NEXT_INUM.fetch_add(1, Ordering::Relaxed)
}

/// Makes the initial namespaces; boot order calls it once, before the first task.
pub fn init() -> Result<()> {
    user::init()?;
    pid::init()?;
    nsproxy::init()
}
