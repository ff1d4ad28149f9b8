//! What changed, for those who listen on rtnetlink's groups.

use smoltcp::wire::IpCidr;

use super::route::Route;
use super::stack::Stack;
use crate::net::dev::{IfAddress, NetDevice};
use crate::net::netlink::message::Answer;
use crate::net::netlink::route::{group, kind};
use crate::net::netlink::sock::{broadcast, is_heard};
use crate::net::netlink::{address, link, routes};

/// Writes an event and sends it, if anybody hears it.
fn tell(stack: &Stack, group: u32, write: impl FnOnce(&mut Answer)) {
    if is_heard(stack, group) {
        let mut answer = Answer::new(0, 0, false);
        write(&mut answer);
        // Without memory to tell, it goes untold.
        if let Ok(datagrams) = answer.into_datagrams() {
            broadcast(stack, group, &datagrams);
        }
    }
}

/// A device came, changed or went.
pub fn link_changed(stack: &Stack, device: &NetDevice, gone: bool) {
    let kind = if gone { kind::DELLINK } else { kind::NEWLINK };
    tell(stack, group::LINK, |answer| link::write(stack, device, kind, answer));
}

/// A device got an address or lost it.
pub fn address_changed(stack: &Stack, device: &NetDevice, which: &IfAddress, gone: bool) {
    let group = match which.cidr {
        IpCidr::Ipv4(_) => group::IPV4_IFADDR,
        IpCidr::Ipv6(_) => group::IPV6_IFADDR,
    };
    let kind = if gone { kind::DELADDR } else { kind::NEWADDR };
    tell(stack, group, |answer| address::write(device, which, kind, answer));
}

/// A route came or went.
pub fn route_changed(stack: &Stack, route: &Route, gone: bool) {
    let group = match route.dst {
        IpCidr::Ipv4(_) => group::IPV4_ROUTE,
        IpCidr::Ipv6(_) => group::IPV6_ROUTE,
    };
    let kind = if gone { kind::DELROUTE } else { kind::NEWROUTE };
    tell(stack, group, |answer| routes::write(route, kind, answer));
}
