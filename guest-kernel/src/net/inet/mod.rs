//! The Internet families: TCP, UDP, ICMP over IPv4 and IPv6.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`stack`] | [`Stack`]: the IP part of a namespace, and its backlog |
//! | [`route`], [`neighbour`], [`fragment`] | where packets go, to whom on a link, and in how many pieces |
//! | [`ip`] | packets out and in, ICMP |
//! | [`endpoint`], [`ports`] | addresses with ports, and who may have which |
//! | [`queue`] | what datagram sockets hold until it is read |
//! | [`udp`], [`raw`] | datagram sockets |
//! | [`tcp`] | connections: smoltcp's state machine in our own tables |
//! | [`options`], [`ancillary`] | options of IP, of a socket and of one datagram |
//! | [`counters`] | what was sent and received, for /proc/net/snmp |
//! | [`notify`] | telling rtnetlink what changed |
//! | [`ipconfig`] | an interface set up by the kernel command line |
//! | [`show`] | /proc/net |
//!
//! smoltcp gives the wire formats and the TCP state machine. Each TCP socket has a smoltcp interface of its
//! own with exactly one socket in it: packets find it through our tables, so a packet costs the
//! same however many sockets there are, and no lock is shared between connections.

pub mod ancillary;
pub mod counters;
pub mod endpoint;
pub mod fragment;
pub mod ioctl;
pub mod ip;
pub mod ipconfig;
pub mod neighbour;
pub mod notify;
pub mod options;
pub mod ports;
pub mod queue;
pub mod raw;
pub mod route;
pub mod show;
pub mod stack;
pub mod tcp;
pub mod udp;

use super::hooks;
use super::socket::Socket;
use super::{NetNs, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::Cap;

/// `AF_INET`.
pub const AF_INET: u32 = 2;
/// `AF_INET6`.
pub const AF_INET6: u32 = 10;

/// True of the two families.
pub fn is_inet(family: u32) -> bool {
    matches!(family, AF_INET | AF_INET6)
}

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_RAW: u32 = 255;
const IPPROTO_MAX: u32 = 263;

/// socket(2) for `AF_INET` and `AF_INET6`.
pub fn create(net: &Ref<NetNs>, family: u32, kind: u32, protocol: u32) -> Result<Socket> {
    if protocol >= IPPROTO_MAX {
        return Err(Errno::EINVAL);
    }
    let icmp = if family == AF_INET { ip::ICMP } else { ip::ICMPV6 };
    match (kind, protocol) {
        (SOCK_STREAM, 0 | IPPROTO_TCP) => tcp::protocol::create(net, family),
        (SOCK_DGRAM, 0 | IPPROTO_UDP) => udp::create(net, family),
        (SOCK_DGRAM, protocol) if protocol == u32::from(icmp) => {
            if !raw::may_ping() {
                return Err(Errno::EACCES);
            }
            raw::create(net, family, SOCK_DGRAM, icmp)
        }
        (SOCK_RAW, 0) => Err(Errno::EPROTONOSUPPORT),
        (SOCK_RAW, 1..=IPPROTO_RAW) => {
            if !hooks::ns_capable(net, Cap::NetRaw) {
                return Err(Errno::EPERM);
            }
            raw::create(net, family, SOCK_RAW, protocol as u8)
        }
        (SOCK_STREAM | SOCK_DGRAM, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}
