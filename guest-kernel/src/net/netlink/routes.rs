//! Routes over rtnetlink: `ip route`.

use core::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{IpAddress, IpCidr};

use super::address::{address_in, cidr, family_of, with_bytes};
use super::message::{Answer, Attributes, CREATE, REPLACE, Request};
use super::route::kind;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::dev::NetDevice;
use crate::net::inet::route::{RT_TABLE_MAIN, RTN_UNICAST, Route};
use crate::net::inet::stack::Stack;
use crate::net::inet::{AF_INET, AF_INET6};

/// Bytes of a `struct rtmsg`.
const RTMSG: usize = 12;
const DST: u16 = 1;
const OIF: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
const PREFSRC: u16 = 7;
const TABLE: u16 = 15;
const PREF: u16 = 20;
/// `RT_TABLE_LOCAL`.
pub const RT_TABLE_LOCAL: u32 = 255;
/// `RTN_LOCAL`.
const RTN_LOCAL: u8 = 2;
/// `RTN_BROADCAST`.
const RTN_BROADCAST: u8 = 3;
/// Priority of IPv6 routes that say none.
const V6_METRIC: u32 = 1024;

/// `RTM_F_CLONED`: not a line of the table, but what one means for an address.
const RTM_F_CLONED: u32 = 0x200;

/// Writes one route.
pub fn write(route: &Route, kind: u16, answer: &mut Answer) {
    write_flagged(route, kind, 0, answer);
}

fn write_flagged(route: &Route, kind: u16, flags: u32, answer: &mut Answer) {
    let family = family_of(route.dst.address());
    let table = if route.table < 256 { route.table as u8 } else { 252 };
    let mut fixed = [0; RTMSG];
    fixed[0] = family as u8;
    fixed[1] = route.dst.prefix_len();
    fixed[4..8].copy_from_slice(&[table, route.protocol, route.scope, route.kind]);
    fixed[8..].copy_from_slice(&flags.to_ne_bytes());
    answer.begin(kind, &fixed);
    answer.number(TABLE, route.table);
    if route.dst.prefix_len() != 0 {
        with_bytes(route.dst.address(), |bytes| answer.attribute(DST, bytes));
    }
    if route.metric != 0 {
        answer.number(PRIORITY, route.metric);
    }
    if let Some(src) = route.prefsrc {
        with_bytes(src, |bytes| answer.attribute(PREFSRC, bytes));
    }
    if let Some(gateway) = route.gateway {
        with_bytes(gateway, |bytes| answer.attribute(GATEWAY, bytes));
    }
    if let Some(device) = &route.device {
        answer.number(OIF, device.index());
    }
    if family == AF_INET6 {
        answer.attribute(PREF, &[0]);
    }
    answer.end();
}

/// What follows from the devices' addresses: the table `local`.
fn local_routes(stack: &Stack, f: &mut dyn FnMut(&Route)) {
    let make = |device: &Ref<NetDevice>, dst: IpCidr, src: IpAddress, kind: u8, scope: u8| {
        let v6 = matches!(src, IpAddress::Ipv6(_));
        Route {
            dst,
            gateway: None,
            device: Some(device.clone()),
            prefsrc: (!v6).then_some(src),
            metric: 0,
            protocol: 2,
            scope: if v6 { 0 } else { scope },
            kind,
            table: RT_TABLE_LOCAL,
        }
    };
    for device in stack.all_devices().iter().filter(|device| device.is_up()) {
        for address in device.all_addresses() {
            let own = address.cidr.address();
            let host = if matches!(own, IpAddress::Ipv4(_)) { 32 } else { 128 };
            if device.is_loopback() && host == 32 {
                let net = crate::net::inet::route::network_of(address.cidr);
                f(&make(device, net, own, RTN_LOCAL, 254));
            }
            f(&make(device, IpCidr::new(own, host), own, RTN_LOCAL, 254));
            if let Some(broadcast) = address.broadcast {
                f(&make(device, IpCidr::new(broadcast, 32), own, RTN_BROADCAST, 253));
            }
        }
    }
}

/// `RTM_GETROUTE`: the table, or the way to one address.
pub fn get(stack: &Stack, request: &Request<'_>, answer: &mut Answer) -> Result<()> {
    let attributes = request.attributes(RTMSG);
    let family = u32::from(request.payload().first().copied().unwrap_or(0));
    if request.is_dump() {
        let fixed = request.payload().get(..RTMSG).unwrap_or_default();
        let table =
            attributes.number(TABLE).unwrap_or(u32::from(fixed.get(4).copied().unwrap_or(0)));
        let oif = attributes.number(OIF).unwrap_or(0);
        let mut show = |route: &Route| {
            let over = route.device.as_ref().map_or(0, |device| device.index());
            if (family == 0 || family == family_of(route.dst.address()))
                && (table == 0 || table == route.table)
                && (oif == 0 || oif == over)
            {
                write(route, kind::NEWROUTE, answer);
            }
        };
        let routes = stack.routes.lock().all()?;
        routes.iter().for_each(&mut show);
        local_routes(stack, &mut show);
        return Ok(());
    }
    let dst = address_in(family, attributes.get(DST).ok_or(Errno::EINVAL)?)?;
    let hop = stack.route(dst, attributes.number(OIF).unwrap_or(0))?;
    let route = Route {
        dst: IpCidr::new(dst, if family == AF_INET { 32 } else { 128 }),
        gateway: (hop.next != dst).then_some(hop.next),
        device: Some(hop.device.clone()),
        prefsrc: Some(hop.src),
        metric: 0,
        protocol: 0,
        scope: 0,
        kind: if hop.local { RTN_LOCAL } else { RTN_UNICAST },
        table: if hop.local { RT_TABLE_LOCAL } else { RT_TABLE_MAIN },
    };
    write_flagged(&route, kind::NEWROUTE, RTM_F_CLONED, answer);
    Ok(())
}

/// A route as a request describes it; what it does not say is `None`.
struct Wanted {
    dst: IpCidr,
    gateway: Option<IpAddress>,
    oif: Option<u32>,
    prefsrc: Option<IpAddress>,
    metric: Option<u32>,
    table: u32,
    protocol: u8,
    scope: u8,
    kind: u8,
}

fn read(request: &Request<'_>) -> Result<Wanted> {
    let fixed = request.fixed(RTMSG)?;
    let attributes = request.attributes(RTMSG);
    let family = u32::from(fixed[0]);
    let get = |attributes: Attributes<'_>, kind| {
        attributes.get(kind).map(|bytes| address_in(family, bytes)).transpose()
    };
    let any: IpAddress = match family {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Err(Errno::EOPNOTSUPP),
    };
    let dst = cidr(get(attributes, DST)?.unwrap_or(any), fixed[1])?;
    if crate::net::inet::route::network_of(dst) != dst {
        return Err(Errno::EINVAL);
    }
    let table = attributes.number(TABLE).unwrap_or(u32::from(fixed[4]));
    Ok(Wanted {
        dst,
        gateway: get(attributes, GATEWAY)?,
        oif: attributes.number(OIF),
        prefsrc: get(attributes, PREFSRC)?,
        metric: attributes.number(PRIORITY),
        table: if table == 0 { RT_TABLE_MAIN } else { table },
        protocol: fixed[5],
        scope: fixed[6],
        kind: fixed[7],
    })
}

/// `RTM_NEWROUTE`.
pub fn new(stack: &Stack, request: &Request<'_>) -> Result<()> {
    let wanted = read(request)?;
    let mut device = match wanted.oif {
        Some(index) => Some(stack.by_index(index).ok_or(Errno::ENODEV)?),
        None => None,
    };
    let v6 = matches!(wanted.dst, IpCidr::Ipv6(_));
    if let Some(gateway) = wanted.gateway {
        // A gateway is somebody on a link.
        device = Some(stack.link_to(gateway, wanted.oif.unwrap_or(0))?);
    }
    if wanted.kind == RTN_UNICAST {
        let there = device.as_ref().ok_or(if v6 { Errno::ENODEV } else { Errno::EINVAL })?;
        if !there.is_up() {
            return Err(Errno::ENETDOWN);
        }
    }
    if let Some(src) = wanted.prefsrc
        && !stack.has_address(src)
    {
        return Err(Errno::EINVAL);
    }
    let route = Route {
        dst: wanted.dst,
        gateway: wanted.gateway,
        device,
        prefsrc: wanted.prefsrc,
        metric: wanted.metric.unwrap_or(if v6 { V6_METRIC } else { 0 }),
        protocol: wanted.protocol,
        scope: wanted.scope,
        kind: wanted.kind,
        table: wanted.table,
    };
    if request.flags & (CREATE | REPLACE) == 0 {
        return Err(Errno::ENOENT);
    }
    stack.add_route(route, request.flags & REPLACE != 0)
}

/// `RTM_DELROUTE`.
pub fn delete(stack: &Stack, request: &Request<'_>) -> Result<()> {
    let wanted = read(request)?;
    stack.delete_route(|route| {
        let over = route.device.as_ref().map(|device| device.index());
        route.dst == wanted.dst
            && route.table == wanted.table
            && (wanted.gateway.is_none() || wanted.gateway == route.gateway)
            && (wanted.oif.is_none() || wanted.oif == over)
            && wanted.metric.is_none_or(|metric| metric == route.metric)
            && (wanted.protocol == 0 || wanted.protocol == route.protocol)
            && (wanted.kind == 0 || wanted.kind == route.kind)
    })
}
