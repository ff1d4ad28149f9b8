//! Routes: where a packet leaves, and with which source address (ip-route(8)).
//!
//! What is local follows from the devices' addresses; the table holds the rest: a route to each
//! address's own network, which comes and goes with the device, and those that administrators add.

use alloc::vec::Vec;

use smoltcp::wire::{IpAddress, IpCidr, Ipv4Address, Ipv4Cidr, Ipv6Cidr};

use super::notify;
use super::stack::Stack;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::try_collect;
use crate::net::dev::{IfAddress, NetDevice};

/// `RTN_UNICAST`.
pub const RTN_UNICAST: u8 = 1;
/// `RTN_BLACKHOLE`.
pub const RTN_BLACKHOLE: u8 = 6;
/// `RTN_UNREACHABLE`.
pub const RTN_UNREACHABLE: u8 = 7;
/// `RTN_PROHIBIT`.
pub const RTN_PROHIBIT: u8 = 8;
/// `RTPROT_KERNEL`.
const RTPROT_KERNEL: u8 = 2;
/// `RT_SCOPE_LINK`.
const SCOPE_LINK: u8 = 253;
/// `RT_TABLE_MAIN`.
pub const RT_TABLE_MAIN: u32 = 254;
/// Priority of IPv6 routes that the kernel makes.
const V6_KERNEL_METRIC: u32 = 256;

/// A route.
#[derive(Clone)]
pub struct Route {
    /// To where.
    pub dst: IpCidr,
    /// Through whom; straight if nobody.
    pub gateway: Option<IpAddress>,
    /// Over which device; none for routes that refuse.
    pub device: Option<Ref<NetDevice>>,
    /// With which source address.
    pub prefsrc: Option<IpAddress>,
    /// The lower the better.
    pub metric: u32,
    /// `RTPROT_*`.
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `RTN_*`.
    pub kind: u8,
    /// `RT_TABLE_*`.
    pub table: u32,
}

/// The routes of a namespace, the most specific first.
#[derive(Default)]
pub struct Routes {
    routes: Vec<Route>,
}

/// The network of an address.
pub fn network_of(cidr: IpCidr) -> IpCidr {
    match cidr {
        IpCidr::Ipv4(v4) => IpCidr::Ipv4(v4.network()),
        IpCidr::Ipv6(v6) => {
            let bits = u128::from(v6.address());
            let mask = u128::MAX.checked_shl(128 - u32::from(v6.prefix_len())).unwrap_or(0);
            IpCidr::Ipv6(Ipv6Cidr::new((bits & mask).into(), v6.prefix_len()))
        }
    }
}

impl Routes {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// Adds a route; `EEXIST` if there is one to the same place with the same metric.
    pub fn add(&mut self, route: Route, replace: bool) -> Result<()> {
        let same = |there: &Route| {
            there.dst == route.dst && there.metric == route.metric && there.table == route.table
        };
        if let Some(at) = self.routes.iter().position(same) {
            if !replace && !matches!(route.dst, IpCidr::Ipv6(_)) {
                return Err(Errno::EEXIST);
            }
            if replace {
                self.routes[at] = route;
                return Ok(());
            }
            let exact = |there: &Route| {
                same(there) && there.gateway == route.gateway && there.same_device(&route)
            };
            if self.routes.iter().any(exact) {
                return Err(Errno::EEXIST);
            }
        }
        self.routes.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let key = (route.dst.prefix_len(), core::cmp::Reverse(route.metric));
        let at = self
            .routes
            .iter()
            .position(|r| (r.dst.prefix_len(), core::cmp::Reverse(r.metric)) < key)
            .unwrap_or(self.routes.len());
        self.routes.insert(at, route);
        Ok(())
    }

    /// A copy of all of them.
    pub fn all(&self) -> Result<Vec<Route>> {
        try_collect(self.routes.iter().cloned())
    }

    /// Takes out the first route that `which` picks; `ESRCH` if there is none.
    pub fn delete(&mut self, which: impl Fn(&Route) -> bool) -> Result<Route> {
        let at = self.routes.iter().position(which).ok_or(Errno::ESRCH)?;
        Ok(self.routes.remove(at))
    }

    /// The route to the network that an address is in.
    pub fn add_connected(&mut self, device: &NetDevice, address: &IfAddress) {
        let v6 = matches!(address.cidr, IpCidr::Ipv6(_));
        let host = address.cidr.prefix_len() == if v6 { 128 } else { 32 };
        if device.is_loopback() && !(v6 && host) || host && address.peer.is_none() && !v6 {
            return;
        }
        let dst = match address.peer {
            Some(IpAddress::Ipv4(peer)) => {
                IpCidr::Ipv4(Ipv4Cidr::new(peer, address.cidr.prefix_len()).network())
            }
            _ => network_of(address.cidr),
        };
        let _ = self.add(
            Route {
                dst,
                gateway: None,
                device: Some(device.to_ref()),
                prefsrc: (!v6).then(|| address.cidr.address()),
                metric: if v6 { V6_KERNEL_METRIC } else { 0 },
                protocol: RTPROT_KERNEL,
                scope: if v6 { 0 } else { SCOPE_LINK },
                kind: RTN_UNICAST,
                table: RT_TABLE_MAIN,
            },
            false,
        );
    }

    /// Takes off the routes over a device.
    pub fn forget_device(&mut self, device: &NetDevice) {
        let over = |route: &Route| {
            route.device.as_ref().is_some_and(|there| core::ptr::eq(&**there, device))
        };
        self.routes.retain(|route| !over(route));
    }

    /// Takes off the routes that an address brought, or that use it.
    pub fn forget_address(&mut self, device: &NetDevice, address: &IfAddress) {
        let network = network_of(address.cidr);
        let own = address.cidr.address();
        self.routes.retain(|route| {
            let over = route.device.as_ref().is_some_and(|d| core::ptr::eq(&**d, device));
            let brought = over && route.protocol == RTPROT_KERNEL && route.dst == network;
            !brought && route.prefsrc != Some(own)
        });
    }

    /// The best route to `dst` over `oif`, if that is not 0.
    fn find(&self, dst: IpAddress, oif: u32) -> Option<&Route> {
        self.routes.iter().find(|route| {
            let over = route.device.as_ref().map_or(0, |device| device.index());
            route.dst.contains_addr(&dst) && (oif == 0 || over == oif)
        })
    }
}

impl Route {
    fn same_device(&self, other: &Self) -> bool {
        match (&self.device, &other.device) {
            (Some(a), Some(b)) => Ref::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

/// How a packet leaves.
#[derive(Clone)]
pub struct Hop {
    /// Over which device.
    pub device: Ref<NetDevice>,
    /// To whom on its link.
    pub next: IpAddress,
    /// With which source address, if the socket has none.
    pub src: IpAddress,
    /// It ends here.
    pub local: bool,
}

/// The address that stands for this machine where none was given.
pub fn or_loopback(dst: IpAddress) -> IpAddress {
    match dst {
        IpAddress::Ipv4(v4) if v4.is_unspecified() => Ipv4Address::LOCALHOST.into(),
        IpAddress::Ipv6(v6) if v6.is_unspecified() => core::net::Ipv6Addr::LOCALHOST.into(),
        _ => dst,
    }
}

impl Stack {
    /// How a packet to `dst` leaves; `ENETUNREACH` if there is no way.
    pub fn route(&self, dst: IpAddress, oif: u32) -> Result<Hop> {
        if self.is_local(dst) {
            let device = self.loopback().ok_or(Errno::ENETUNREACH)?;
            if !device.is_up() {
                return Err(Errno::ENETUNREACH);
            }
            return Ok(Hop { device, next: dst, src: dst, local: true });
        }
        let (device, gateway, prefsrc) = self.find_route(dst, oif)?;
        let next = gateway.unwrap_or(dst);
        let src = match prefsrc {
            Some(src) => src,
            None => self.source_for(&device, next).unwrap_or(match dst {
                IpAddress::Ipv4(_) => IpAddress::Ipv4(Ipv4Address::UNSPECIFIED),
                IpAddress::Ipv6(_) => IpAddress::Ipv6(core::net::Ipv6Addr::UNSPECIFIED),
            }),
        };
        let local = device.is_loopback();
        Ok(Hop { device, next, src, local })
    }

    /// The device on whose link a gateway is; `ENETUNREACH` if it is on none, `EINVAL` if it is this
    /// machine.
    pub fn link_to(&self, gateway: IpAddress, oif: u32) -> Result<Ref<NetDevice>> {
        if self.is_local(gateway) {
            return Err(Errno::EINVAL);
        }
        let routes = self.routes.lock();
        let route = routes.find(gateway, oif).filter(|route| route.gateway.is_none());
        route.and_then(|route| route.device.clone()).ok_or(Errno::ENETUNREACH)
    }

    #[allow(clippy::type_complexity, reason = "what a route says, taken apart once")]
    fn find_route(
        &self,
        dst: IpAddress,
        oif: u32,
    ) -> Result<(Ref<NetDevice>, Option<IpAddress>, Option<IpAddress>)> {
        let routes = self.routes.lock();
        if let Some(route) = routes.find(dst, oif) {
            let device = match (route.kind, &route.device) {
                (RTN_UNREACHABLE, _) => return Err(Errno::EHOSTUNREACH),
                (RTN_BLACKHOLE, _) => return Err(Errno::EINVAL),
                (RTN_PROHIBIT, _) => return Err(Errno::EACCES),
                (_, Some(device)) => device.clone(),
                (_, None) => return Err(Errno::ENETUNREACH),
            };
            return Ok((device, route.gateway, route.prefsrc));
        }
        drop(routes);
        // A socket bound to a device reaches its link without a route.
        match self.by_index(oif) {
            Some(device) if oif != 0 && device.is_up() => Ok((device, None, None)),
            _ => Err(Errno::ENETUNREACH),
        }
    }

    /// A source address of a device: one in the network of `next`, or its first of that family.
    fn source_for(&self, device: &NetDevice, next: IpAddress) -> Option<IpAddress> {
        let pick = |device: &NetDevice| {
            let addresses = device.addresses.lock();
            let family = |a: &&IfAddress| a.cidr.address().version() == next.version();
            let near = addresses.iter().filter(family).find(|a| a.cidr.contains_addr(&next));
            let any = || addresses.iter().filter(family).min_by_key(|a| a.scope);
            near.or_else(any).map(|a| a.cidr.address())
        };
        pick(device).or_else(|| {
            let devices = self.devices.lock();
            devices.iter().filter(|d| d.is_up() && !d.is_loopback()).find_map(|d| pick(d))
        })
    }

    /// Adds a route and tells who listens.
    pub fn add_route(&self, route: Route, replace: bool) -> Result<()> {
        self.routes.lock().add(route.clone(), replace)?;
        notify::route_changed(self, &route, false);
        Ok(())
    }

    /// Takes a route off and tells who listens.
    pub fn delete_route(&self, which: impl Fn(&Route) -> bool) -> Result<()> {
        let route = self.routes.lock().delete(which)?;
        notify::route_changed(self, &route, true);
        Ok(())
    }
}
