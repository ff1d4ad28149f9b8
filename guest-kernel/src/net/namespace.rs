//! [`NetNs`]: a network namespace (network_namespaces(7)): interfaces, addresses, routes, sockets and
//! the names of abstract Unix sockets.
//!
//! It lives while a task, an open namespace file or a socket holds it.

use belljar_abi::Described;

use super::unix;
use crate::errno::Result;
use crate::kref::Ref;
use crate::ns::{Cap, Cred, UserNs};

/// A network namespace.
#[repr(C)]
#[derive(Described)]
pub struct NetNs {
    /// Inode number of its /proc/PID/ns file.
    pub inum: u32,
    /// The user namespace that owns it.
    pub user_ns: Ref<UserNs>,
    /// Unix sockets and their abstract names.
    #[described(skip)]
    pub unix: unix::Names,
}

impl NetNs {
    /// A fresh namespace that `user_ns` owns.
    pub fn new(user_ns: Ref<UserNs>) -> Result<Ref<Self>> {
        Ref::try_new(Self { inum: crate::ns::new_inum(), user_ns, unix: unix::Names::new() })
    }

    /// True if `cred` has `cap` over this namespace.
    pub fn capable(&self, cred: &Cred, cap: Cap) -> bool {
        cred.capable(cap)
    }

    /// The index of an interface.
    pub fn index_of(&self, _name: &[u8]) -> Option<u32> {
        None
    }

    /// The name of an interface.
    pub fn name_of(&self, _index: u32) -> Option<[u8; super::IFNAMSIZ]> {
        None
    }
}
