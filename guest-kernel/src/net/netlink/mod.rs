//! Netlink sockets (netlink(7)): asking the kernel about its network, changing it, and hearing of changes.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`message`] | messages and attributes, read and written |
//! | [`sock`] | [`NetlinkSock`](sock::NetlinkSock): port, groups, queue |
//! | [`route`] | rtnetlink(7): which request goes where, and acknowledgements |
//! | [`link`], [`address`], [`routes`], [`rules`], [`neighbour`], [`nsid`] | its objects |
//! | [`diag`] | sock_diag(7): sockets, as `ss` shows them |
//!
//! A request is answered while it is sent: all of a dump lies in the queue when `send` returns, in
//! messages of at most a page.

pub mod address;
pub mod diag;
pub mod link;
pub mod message;
pub mod neighbour;
pub mod nsid;
pub mod route;
pub mod routes;
pub mod rules;
pub mod sock;

pub use sock::{Listener, create};

/// `AF_NETLINK`.
pub const AF_NETLINK: u32 = 16;

/// A number of four bytes in a structure; 0 beyond its end.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |word| u32::from_ne_bytes(*word))
}
