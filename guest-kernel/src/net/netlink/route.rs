//! rtnetlink(7): which request goes where.

use super::message::{Answer, Request};
use super::{address, link, neighbour, nsid, routes, rules};
use crate::errno::{Errno, Result};
use crate::net::inet::stack::Stack;
use crate::net::{NetNs, hooks};
use crate::ns::Cap;

/// Types of messages.
pub mod kind {
    #![allow(missing_docs, reason = "the names are rtnetlink(7)'s")]
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const GETLINK: u16 = 18;
    pub const SETLINK: u16 = 19;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const GETADDR: u16 = 22;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const GETROUTE: u16 = 26;
    pub const NEWNEIGH: u16 = 28;
    pub const DELNEIGH: u16 = 29;
    pub const GETNEIGH: u16 = 30;
    pub const NEWRULE: u16 = 32;
    pub const GETRULE: u16 = 34;
    pub const NEWNSID: u16 = 88;
    pub const GETNSID: u16 = 90;
}

/// Groups that programs hear.
pub mod group {
    #![allow(missing_docs, reason = "the names are rtnetlink(7)'s")]
    pub const LINK: u32 = 1;
    pub const IPV4_IFADDR: u32 = 5;
    pub const IPV4_ROUTE: u32 = 7;
    pub const IPV6_IFADDR: u32 = 9;
    pub const IPV6_ROUTE: u32 = 11;
}

/// Works off a request; an error is told by the caller, and an acknowledgement.
pub fn handle(stack: &Stack, net: &NetNs, request: &Request<'_>, port: u32) -> Result<Answer> {
    let mut answer = Answer::new(request.seq, port, request.is_dump());
    // Of each four types the third asks; the others change something.
    if request.kind % 4 != 2 && !hooks::ns_capable(net, Cap::NetAdmin) {
        return Err(Errno::EPERM);
    }
    match request.kind {
        kind::GETLINK => link::get(stack, request, &mut answer)?,
        kind::NEWLINK | kind::SETLINK => link::new(stack, request)?,
        kind::DELLINK => link::delete(stack, request)?,
        kind::GETADDR => address::get(stack, request, &mut answer)?,
        kind::NEWADDR => address::new(stack, request)?,
        kind::DELADDR => address::delete(stack, request)?,
        kind::GETROUTE => routes::get(stack, request, &mut answer)?,
        kind::NEWROUTE => routes::new(stack, request)?,
        kind::DELROUTE => routes::delete(stack, request)?,
        kind::GETNEIGH => neighbour::get(stack, request, &mut answer)?,
        kind::NEWNEIGH => neighbour::new(stack, request)?,
        kind::DELNEIGH => neighbour::delete(stack, request)?,
        kind::GETRULE if request.is_dump() => rules::get(request, &mut answer),
        kind::GETNSID => nsid::get(stack, request, &mut answer)?,
        kind::NEWNSID => nsid::new(stack, request)?,
        // Tables of things that are not there (queueing disciplines, labels) are empty.
        _ if request.kind % 4 == 2 && request.is_dump() => {}
        _ => return Err(Errno::EOPNOTSUPP),
    }
    if request.is_dump() {
        answer.finish_dump();
    }
    Ok(answer)
}
