//! ioctl(2) on interfaces (netdevice(7)), as `ifconfig` and `route` of old use it: on any Internet socket.

use core::net::Ipv4Addr;

use smoltcp::wire::{IpAddress, IpCidr, Ipv4Cidr};

use super::AF_INET;
use super::route::{RT_TABLE_MAIN, RTN_UNICAST, Route};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::{UserPtr, copy_out};
use crate::net::dev::{IfAddress, NetDevice, device_name, trimmed};
use crate::net::packet::hardware_type;
use crate::net::{IFNAMSIZ, NetNs, hooks};
use crate::ns::Cap;
use linux_raw_sys::ioctl as nr;

/// Bytes of a `struct ifreq`, and where its union starts.
const IFREQ: usize = 40;
const UNION: usize = IFNAMSIZ;
/// Bytes of a `struct rtentry`.
const RTENTRY: usize = 120;
const RTF_GATEWAY: u16 = 2;
const RTF_HOST: u16 = 4;
const RTF_REJECT: u16 = 0x200;
/// Settings of a device of its own (linux/sockios.h).
const SIOCETHTOOL: u32 = 0x8946;

type IfReq = [u8; IFREQ];

fn admin(net: &NetNs) -> Result<()> {
    if hooks::ns_capable(net, Cap::NetAdmin) { Ok(()) } else { Err(Errno::EPERM) }
}

fn int_at(request: &IfReq, at: usize) -> i32 {
    i32::from_ne_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]])
}

/// The IPv4 address in a `struct sockaddr_in`.
fn v4_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7])
}

fn put_v4(request: &mut IfReq, v4: Ipv4Addr) {
    request[UNION..].fill(0);
    request[UNION..UNION + 2].copy_from_slice(&(AF_INET as u16).to_ne_bytes());
    request[UNION + 4..UNION + 8].copy_from_slice(&v4.octets());
}

fn put_int(request: &mut IfReq, value: i32) {
    request[UNION..UNION + 4].copy_from_slice(&value.to_ne_bytes());
}

/// The IPv4 address that a request is about: the one with that label, else the device's first.
fn v4_of(device: &NetDevice, label: &[u8]) -> Option<(IfAddress, Ipv4Cidr)> {
    let addresses = device.addresses.lock();
    let v4 = |a: &IfAddress| match a.cidr {
        IpCidr::Ipv4(v4) => Some((*a, v4)),
        IpCidr::Ipv6(_) => None,
    };
    let labelled = addresses.iter().find(|a| trimmed(&a.label) == label && v4(a).is_some());
    labelled.or_else(|| addresses.iter().find(|a| v4(a).is_some())).and_then(v4)
}

/// Commands that no interface has are `ENOTTY`.
pub fn ioctl(net: &NetNs, cmd: u32, arg: u64) -> Result<usize> {
    match cmd {
        nr::SIOCGIFCONF => list(net, arg),
        nr::SIOCADDRT | nr::SIOCDELRT => change_route(net, cmd, arg),
        nr::SIOCGIFNAME => {
            let mut request = UserPtr::<IfReq>::new(arg).read()?;
            let device = net.stack.by_index(int_at(&request, UNION) as u32);
            request[..IFNAMSIZ].copy_from_slice(&device.ok_or(Errno::ENODEV)?.name());
            UserPtr::<IfReq>::new(arg).write(request)?;
            Ok(0)
        }
        nr::SIOCGIFFLAGS..=nr::SIOCSIFNETMASK
        | nr::SIOCGIFMETRIC
        | nr::SIOCGIFMTU
        | nr::SIOCSIFMTU
        | nr::SIOCGIFHWADDR
        | nr::SIOCSIFHWADDR
        | nr::SIOCSIFNAME
        | nr::SIOCGIFINDEX
        | nr::SIOCGIFMAP
        | nr::SIOCGIFTXQLEN
        | nr::SIOCSIFTXQLEN
        | SIOCETHTOOL => on_device(net, cmd, arg),
        _ => Err(Errno::ENOTTY),
    }
}

fn on_device(net: &NetNs, cmd: u32, arg: u64) -> Result<usize> {
    let mut request = UserPtr::<IfReq>::new(arg).read()?;
    request[IFNAMSIZ - 1] = 0;
    let label: [u8; IFNAMSIZ] = *request.first_chunk().ok_or(Errno::EINVAL)?;
    let label = trimmed(&label);
    // `eth0:1` is an address of eth0.
    let name = label.split(|&b| b == b':').next().unwrap_or_default();
    let device = net.stack.by_name(name).ok_or(Errno::ENODEV)?;
    let answered = get(&device, cmd, label, &mut request)?;
    if answered {
        UserPtr::<IfReq>::new(arg).write(request)?;
    } else {
        admin(net)?;
        set(net, &device, cmd, label, &request)?;
    }
    Ok(0)
}

/// Answers a question; false if it is none.
fn get(device: &NetDevice, cmd: u32, label: &[u8], request: &mut IfReq) -> Result<bool> {
    let v4 = || v4_of(device, label).ok_or(Errno::EADDRNOTAVAIL);
    match cmd {
        nr::SIOCGIFFLAGS => {
            request[UNION..UNION + 2].copy_from_slice(&(device.flags() as u16).to_ne_bytes());
        }
        nr::SIOCGIFADDR => put_v4(request, v4()?.1.address()),
        nr::SIOCGIFNETMASK => put_v4(request, v4()?.1.netmask()),
        nr::SIOCGIFBRDADDR => {
            let broadcast = match v4()?.0.broadcast {
                Some(IpAddress::Ipv4(v4)) => v4,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            put_v4(request, broadcast);
        }
        nr::SIOCGIFDSTADDR => {
            let (address, cidr) = v4()?;
            let peer = match address.peer {
                Some(IpAddress::Ipv4(peer)) => peer,
                _ => cidr.address(),
            };
            put_v4(request, peer);
        }
        nr::SIOCGIFMETRIC => put_int(request, 0),
        nr::SIOCGIFMTU => put_int(request, device.mtu() as i32),
        nr::SIOCGIFINDEX => put_int(request, device.index() as i32),
        nr::SIOCGIFTXQLEN => put_int(request, 1000),
        nr::SIOCGIFMAP => request[UNION..].fill(0),
        // No device here has settings of its own (ethtool(8)).
        SIOCETHTOOL => return Err(Errno::EOPNOTSUPP),
        nr::SIOCGIFHWADDR => {
            request[UNION..].fill(0);
            request[UNION..UNION + 2].copy_from_slice(&hardware_type(device).to_ne_bytes());
            request[UNION + 2..UNION + 8].copy_from_slice(&*device.mac.lock());
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn set(
    net: &NetNs,
    device: &Ref<NetDevice>,
    cmd: u32,
    label: &[u8],
    request: &IfReq,
) -> Result<()> {
    let stack = &net.stack;
    match cmd {
        nr::SIOCSIFFLAGS => {
            let flags = u32::from(u16::from_ne_bytes([request[UNION], request[UNION + 1]]));
            stack.set_flags(device, flags, !0);
            Ok(())
        }
        nr::SIOCSIFMTU => {
            let mtu = int_at(request, UNION);
            device.set_mtu(u32::try_from(mtu).map_err(|_| Errno::EINVAL)?)
        }
        nr::SIOCSIFHWADDR => {
            let mac = request[UNION + 2..UNION + 8].try_into().map_err(|_| Errno::EINVAL)?;
            if device.is_loopback() {
                return Err(Errno::EOPNOTSUPP);
            }
            *device.mac.lock() = mac;
            Ok(())
        }
        nr::SIOCSIFNAME => {
            let name: &[u8; IFNAMSIZ] = request[UNION..].first_chunk().ok_or(Errno::EINVAL)?;
            stack.rename(device, device_name(trimmed(name))?)
        }
        nr::SIOCSIFADDR => set_address(net, device, label, v4_at(request, UNION)),
        nr::SIOCSIFNETMASK => {
            let (mut address, v4) = v4_of(device, label).ok_or(Errno::EADDRNOTAVAIL)?;
            let mask = u32::from(v4_at(request, UNION));
            if mask.leading_ones() + mask.trailing_zeros() != 32 && mask != 0 {
                return Err(Errno::EINVAL);
            }
            let cidr = Ipv4Cidr::new(v4.address(), mask.leading_ones() as u8);
            stack.delete_address(device, address.cidr)?;
            address.cidr = IpCidr::Ipv4(cidr);
            address.broadcast = broadcast_of(device, cidr);
            stack.add_address(device, address)
        }
        nr::SIOCSIFBRDADDR => {
            let broadcast = v4_at(request, UNION);
            let mut addresses = device.addresses.lock();
            let own = |a: &&mut IfAddress| matches!(a.cidr, IpCidr::Ipv4(_));
            let address = addresses.iter_mut().find(own).ok_or(Errno::EADDRNOTAVAIL)?;
            address.broadcast = Some(broadcast.into());
            Ok(())
        }
        nr::SIOCSIFTXQLEN | nr::SIOCSIFDSTADDR => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// The broadcast address that follows from an address.
pub fn broadcast_of(device: &NetDevice, cidr: Ipv4Cidr) -> Option<IpAddress> {
    if device.is_loopback() || cidr.prefix_len() >= 31 {
        return None;
    }
    let host = u32::MAX.checked_shr(u32::from(cidr.prefix_len())).unwrap_or(0);
    Some(Ipv4Addr::from(u32::from(cidr.address()) | host).into())
}

/// The length of the network part of an address by its class (RFC 791).
pub fn class_prefix(v4: Ipv4Addr) -> u8 {
    match v4.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

/// Replaces a device's address by one with the mask of its class.
fn set_address(net: &NetNs, device: &NetDevice, label: &[u8], v4: Ipv4Addr) -> Result<()> {
    if let Some((old, _)) = v4_of(device, label)
        && trimmed(&old.label) == label
    {
        net.stack.delete_address(device, old.cidr)?;
    }
    if v4.is_unspecified() {
        return Ok(());
    }
    let cidr = Ipv4Cidr::new(v4, class_prefix(v4));
    let mut address = IfAddress::new(device, IpCidr::Ipv4(cidr));
    address.broadcast = broadcast_of(device, cidr);
    let mut padded = [0; IFNAMSIZ];
    padded[..label.len()].copy_from_slice(label);
    address.label = padded;
    net.stack.add_address(device, address)?;
    // As Linux does: an address brings the device up.
    if !label.contains(&b':') {
        net.stack.set_flags(device, crate::net::dev::IFF_UP, crate::net::dev::IFF_UP);
    }
    Ok(())
}

/// `SIOCGIFCONF`: the IPv4 addresses.
fn list(net: &NetNs, arg: u64) -> Result<usize> {
    let room = UserPtr::<i32>::new(arg).read()?;
    let into = UserPtr::<u64>::new(arg + 8).read()?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let mut used = 0;
    for device in net.stack.all_devices() {
        for address in device.all_addresses() {
            let IpCidr::Ipv4(v4) = address.cidr else { continue };
            if into != 0 {
                if used + IFREQ > room {
                    break;
                }
                let mut request = [0; IFREQ];
                request[..IFNAMSIZ].copy_from_slice(&address.label);
                put_v4(&mut request, v4.address());
                copy_out(into + used as u64, &request)?;
            }
            used += IFREQ;
        }
    }
    UserPtr::<i32>::new(arg).write(used as i32)?;
    Ok(0)
}

/// `SIOCADDRT`, `SIOCDELRT`.
fn change_route(net: &NetNs, cmd: u32, arg: u64) -> Result<usize> {
    admin(net)?;
    let entry = UserPtr::<[u8; RTENTRY]>::new(arg).read()?;
    let (dst, gateway, mask) = (v4_at(&entry, 8), v4_at(&entry, 24), v4_at(&entry, 40));
    let flags = u16::from_ne_bytes([entry[56], entry[57]]);
    let metric = i16::from_ne_bytes([entry[80], entry[81]]);
    let name = entry[88..96].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    let mut device = None;
    if name != 0 {
        let mut text = [0; IFNAMSIZ];
        let len = crate::mm::user::copy_cstr(&mut text, name)?.ok_or(Errno::ENODEV)?;
        device = Some(net.stack.by_name(&text[..len]).ok_or(Errno::ENODEV)?);
    }
    let prefix = if flags & RTF_HOST != 0 { 32 } else { u32::from(mask).leading_ones() as u8 };
    let cidr = Ipv4Cidr::new(dst, prefix);
    if cidr.network() != cidr {
        return Err(Errno::EINVAL);
    }
    let via: Option<IpAddress> = (flags & RTF_GATEWAY != 0).then(|| gateway.into());
    if cmd == nr::SIOCDELRT {
        return net
            .stack
            .delete_route(|route| {
                let same_device = match (&device, &route.device) {
                    (Some(wanted), Some(there)) => Ref::ptr_eq(wanted, there),
                    (Some(_), None) => false,
                    (None, _) => true,
                };
                route.dst == IpCidr::Ipv4(cidr)
                    && same_device
                    && (via.is_none() || route.gateway == via)
            })
            .map(|()| 0);
    }
    if device.is_none()
        && let Some(via) = via
    {
        device = Some(net.stack.link_to(via, 0)?);
    }
    let rejects = flags & RTF_REJECT != 0;
    if device.is_none() && !rejects {
        return Err(Errno::ENODEV);
    }
    if device.as_ref().is_some_and(|device| !device.is_up()) {
        return Err(Errno::ENETDOWN);
    }
    let route = Route {
        dst: IpCidr::Ipv4(cidr),
        gateway: via,
        device,
        prefsrc: None,
        metric: (i32::from(metric) - 1).max(0) as u32,
        protocol: 3,
        scope: if via.is_some() { 0 } else { 253 },
        kind: if rejects { super::route::RTN_UNREACHABLE } else { RTN_UNICAST },
        table: RT_TABLE_MAIN,
    };
    net.stack.add_route(route, false).map(|()| 0)
}
