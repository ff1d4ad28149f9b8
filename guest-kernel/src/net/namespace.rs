//! [`NetNs`]: a network namespace (network_namespaces(7)): interfaces, addresses, routes, sockets and
//! the names of abstract Unix sockets.
//!
//! It lives while a task, an open namespace file or a socket holds it.

use core::sync::atomic::AtomicUsize;

use belljar_abi::Described;

use super::inet::stack::Stack;
use super::unix;
use crate::errno::Result;
use crate::kref::Ref;
use crate::ns::common::publish;
use crate::ns::{Cap, Cred, HasCommon, NsCommon};

/// A network namespace.
#[repr(C)]
#[derive(Described)]
pub struct NetNs {
    /// Identity and owner.
    #[described(as = "struct NsCommon")]
    pub common: NsCommon,
    /// Unix sockets and their abstract names.
    #[described(skip)]
    pub unix: unix::Names,
    /// Interfaces, addresses, routes and Internet sockets.
    #[described(skip)]
    pub stack: Ref<Stack>,
    /// How many sockets hold it.
    #[described(skip)]
    pub sockets: SocketCounts,
}

/// How many sockets of a namespace there are, in use or not yet.
#[derive(Default)]
pub struct SocketCounts {
    /// Of every family.
    pub all: AtomicUsize,
    /// Those of TCP.
    pub tcp: AtomicUsize,
}

impl Drop for NetNs {
    fn drop(&mut self) {
        self.stack.close();
    }
}

impl HasCommon for NetNs {
    fn common(&self) -> &NsCommon {
        &self.common
    }
}

impl NetNs {
    /// A fresh namespace.
    pub fn new(common: NsCommon) -> Result<Ref<Self>> {
        let stack = Stack::new(common.inum)?;
        let sockets = SocketCounts::default();
        publish(Self { common, unix: unix::Names::new(), stack, sockets })
    }

    /// True if `cred` has `cap` over this namespace.
    pub fn capable(&self, cred: &Cred, cap: Cap) -> bool {
        cred.ns_capable(self.common.user_ns(), cap)
    }

    /// The index of an interface.
    pub fn index_of(&self, name: &[u8]) -> Option<u32> {
        self.stack.by_name(name).map(|device| device.index())
    }

    /// The name of an interface.
    pub fn name_of(&self, index: u32) -> Option<[u8; super::IFNAMSIZ]> {
        self.stack.by_index(index).map(|device| device.name())
    }
}
