//! Addresses of interfaces over rtnetlink: `ip addr`.

use core::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{IpAddress, IpCidr};

use super::message::{Answer, Attributes, EXCL, REPLACE, Request};
use super::route::kind;
use super::u32_at;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::IFNAMSIZ;
use crate::net::dev::{IfAddress, NetDevice, trimmed};
use crate::net::inet::ioctl::broadcast_of;
use crate::net::inet::stack::Stack;
use crate::net::inet::{AF_INET, AF_INET6};

/// Bytes of a `struct ifaddrmsg`.
const IFADDR: usize = 8;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const LABEL: u16 = 3;
const BROADCAST: u16 = 4;
const CACHEINFO: u16 = 6;
const FLAGS: u16 = 8;
/// `IFA_F_PERMANENT`.
const PERMANENT: u32 = 0x80;

/// The family of an address.
pub fn family_of(address: IpAddress) -> u32 {
    match address {
        IpAddress::Ipv4(_) => AF_INET,
        IpAddress::Ipv6(_) => AF_INET6,
    }
}

/// Runs `f` on the bytes of an address.
pub fn with_bytes<R>(address: IpAddress, f: impl FnOnce(&[u8]) -> R) -> R {
    match address {
        IpAddress::Ipv4(v4) => f(&v4.octets()),
        IpAddress::Ipv6(v6) => f(&v6.octets()),
    }
}

/// An address of a family from an attribute; `EINVAL` if it has another length.
pub fn address_in(family: u32, bytes: &[u8]) -> Result<IpAddress> {
    match family {
        AF_INET => {
            let octets: [u8; 4] = bytes.try_into().map_err(|_| Errno::EINVAL)?;
            Ok(Ipv4Addr::from(octets).into())
        }
        AF_INET6 => {
            let octets: [u8; 16] = bytes.try_into().map_err(|_| Errno::EINVAL)?;
            Ok(Ipv6Addr::from(octets).into())
        }
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// A prefix; `EINVAL` if it is too long.
pub fn cidr(address: IpAddress, len: u8) -> Result<IpCidr> {
    let most = if matches!(address, IpAddress::Ipv4(_)) { 32 } else { 128 };
    if len > most { Err(Errno::EINVAL) } else { Ok(IpCidr::new(address, len)) }
}

/// Writes one address.
pub fn write(device: &NetDevice, address: &IfAddress, kind: u16, answer: &mut Answer) {
    let local = address.cidr.address();
    let family = family_of(local);
    let mut fixed = [0; IFADDR];
    fixed[0] = family as u8;
    fixed[1] = address.cidr.prefix_len();
    fixed[2] = PERMANENT as u8;
    fixed[3] = address.scope;
    fixed[4..].copy_from_slice(&device.index().to_ne_bytes());
    answer.begin(kind, &fixed);
    with_bytes(address.peer.unwrap_or(local), |bytes| answer.attribute(ADDRESS, bytes));
    if family == AF_INET {
        with_bytes(local, |bytes| answer.attribute(LOCAL, bytes));
        if let Some(broadcast) = address.broadcast {
            with_bytes(broadcast, |bytes| answer.attribute(BROADCAST, bytes));
        }
        answer.text(LABEL, trimmed(&address.label));
    }
    answer.number(FLAGS, PERMANENT);
    // Preferred and valid for ever; made and changed at times nobody kept.
    let mut cache = [0xff; 16];
    cache[8..].fill(0);
    answer.attribute(CACHEINFO, &cache);
    answer.end();
}

/// `RTM_GETADDR`.
pub fn get(stack: &Stack, request: &Request<'_>, answer: &mut Answer) -> Result<()> {
    let family = u32::from(request.payload().first().copied().unwrap_or(0));
    let index = if request.payload().len() >= IFADDR { u32_at(request.payload(), 4) } else { 0 };
    for device in stack.all_devices() {
        if index != 0 && device.index() != index {
            continue;
        }
        for address in device.all_addresses() {
            if family == 0 || family == family_of(address.cidr.address()) {
                write(&device, &address, kind::NEWADDR, answer);
            }
        }
    }
    Ok(())
}

fn read(stack: &Stack, request: &Request<'_>) -> Result<(Ref<NetDevice>, IfAddress)> {
    let fixed = request.fixed(IFADDR)?;
    let attributes = request.attributes(IFADDR);
    let family = u32::from(fixed[0]);
    let device = stack.by_index(u32_at(fixed, 4)).ok_or(Errno::ENODEV)?;
    let get = |attributes: Attributes<'_>, kind| {
        attributes.get(kind).map(|bytes| address_in(family, bytes)).transpose()
    };
    let address = get(attributes, ADDRESS)?;
    let local = get(attributes, LOCAL)?.or(address).ok_or(Errno::EINVAL)?;
    if local.is_multicast() || local.is_unspecified() {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let mut result = IfAddress::new(&device, cidr(local, fixed[1])?);
    result.peer = address.filter(|&address| address != local);
    result.scope = fixed[3];
    result.broadcast = get(attributes, BROADCAST)?;
    if let Some(label) = attributes.text(LABEL) {
        let mut padded = [0; IFNAMSIZ];
        padded.get_mut(..label.len()).ok_or(Errno::ERANGE)?.copy_from_slice(label);
        result.label = padded;
    }
    Ok((device, result))
}

/// `RTM_NEWADDR`.
pub fn new(stack: &Stack, request: &Request<'_>) -> Result<()> {
    let (device, mut address) = read(stack, request)?;
    if let (None, IpCidr::Ipv4(v4)) = (address.broadcast, address.cidr) {
        // Packets to all of the network are known as such, whether or not it is shown.
        address.broadcast = broadcast_of(&device, v4).filter(|_| address.peer.is_none());
    }
    match stack.add_address(&device, address) {
        Err(Errno::EEXIST) if request.flags & REPLACE != 0 && request.flags & EXCL == 0 => Ok(()),
        result => result,
    }
}

/// `RTM_DELADDR`.
pub fn delete(stack: &Stack, request: &Request<'_>) -> Result<()> {
    let (device, address) = read(stack, request)?;
    stack.delete_address(&device, address.cidr)
}
