//! Networking: sockets, and the network namespaces that they live in.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`address`], [`message`] | addresses and messages as system calls carry them |
//! | [`common`] | [`Common`](common::Common): what every socket has, whatever its protocol |
//! | [`socket`], [`options`] | [`Socket`](socket::Socket): a socket as a file, its options |
//! | [`unix`] | Unix sockets |
//! | [`dev`] | network interfaces |
//! | [`filter`] | programs that say what a socket receives |
//! | [`inet`] | TCP, UDP, ICMP over IPv4 and IPv6 |
//! | [`packet`] | packet sockets |
//! | [`netlink`] | rtnetlink and sock_diag |
//! | [`namespace`] | [`NetNs`]: what one network namespace holds |
//! | [`hooks`] | what the floors above know of the caller |
//!
//! Locks here are spin locks that no interrupt takes; a softirq may, since it runs on nobody who holds
//! one (`sched::softirq`). What may sleep (user memory, waiting) does so without them.

pub mod address;
pub mod common;
pub mod dev;
pub mod filter;
pub mod hooks;
pub mod inet;
pub mod message;
pub mod namespace;
pub mod netlink;
pub mod options;
pub mod packet;
pub mod socket;
pub mod unix;

pub use message::MsgFlags;
pub use namespace::NetNs;

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use socket::Socket;

pub use crate::uapi::SIGPIPE as SIGPIPE_NUMBER;
pub use crate::uapi::net::{AF_UNIX, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM};

/// A peer that is gone (signal(7)).
pub(crate) const SIGPIPE: i32 = SIGPIPE_NUMBER as i32;
/// `AF_UNSPEC`.
pub const AF_UNSPEC: u32 = 0;
/// Families have numbers below this.
const AF_MAX: u32 = 46;
/// Types have numbers below this.
const SOCK_MAX: u32 = 11;
/// Bytes of an interface's name, its NUL included.
pub const IFNAMSIZ: usize = 16;

fn check(family: u32, kind: u32) -> Result<()> {
    if family >= AF_MAX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if kind >= SOCK_MAX {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// socket(2).
pub fn create(net: &Ref<NetNs>, family: u32, kind: u32, protocol: u32) -> Result<Socket> {
    check(family, kind)?;
    match family {
        AF_UNIX => unix::create(net, kind, protocol),
        inet::AF_INET | inet::AF_INET6 => inet::create(net, family, kind, protocol),
        netlink::AF_NETLINK => netlink::create(net, kind, protocol),
        packet::AF_PACKET => packet::create(net, kind, protocol),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// socketpair(2).
pub fn pair(net: &Ref<NetNs>, family: u32, kind: u32, protocol: u32) -> Result<(Socket, Socket)> {
    check(family, kind)?;
    match family {
        AF_UNIX => unix::pair(net, kind, protocol),
        // Linux makes both sockets before it finds that they cannot be joined.
        _ => create(net, family, kind, protocol).and(Err(Errno::EOPNOTSUPP)),
    }
}
