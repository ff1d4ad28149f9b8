//! Neighbours: which Ethernet address an IP address has on a link, asked for by ARP (RFC 826) and, for
//! IPv6, neighbour solicitation (RFC 4861). Packets to one who is being asked for wait, a few of them.

use alloc::vec::Vec;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Repr, IpAddress, IpCidr, IpProtocol,
    Ipv4Address, Ipv6Address, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use super::ip;
use super::stack::Stack;
use crate::errno::{Errno, Result};
use crate::mm::try_vec;
use crate::net::dev::{Mac, NetDevice};
use crate::ordmap::OrdMap;
use crate::sched::clock::{NSEC_PER_SEC, monotonic_ns};

/// Packets that wait for one neighbour (`unres_qlen`).
const WAITING_MAX: usize = 16;
/// Questions before giving up (`mcast_solicit`).
const PROBES: u32 = 3;
/// An answer is believed for so long.
const FRESH_NS: u64 = 60 * NSEC_PER_SEC;
/// Neighbours of a namespace (`gc_thresh3`).
const NEIGHBOURS_MAX: usize = 1024;

/// A neighbour.
#[derive(Default)]
pub struct Neighbour {
    /// Its address, once known.
    pub mac: Option<Mac>,
    /// Added by hand.
    pub permanent: bool,
    updated: u64,
    asked: u64,
    probes: u32,
    waiting: Vec<Vec<u8>>,
}

/// The neighbours on all links, by the device's number.
#[derive(Default)]
pub struct Neighbours {
    by_address: OrdMap<(u32, IpAddress), Neighbour>,
}

/// What to do with a packet.
pub enum Resolved {
    /// Send it there.
    To(Mac),
    /// It waits; ask if true.
    Waits(bool),
}

impl Neighbours {
    /// All of them: device, address, neighbour.
    pub fn iter(&self) -> impl Iterator<Item = (u32, IpAddress, &Neighbour)> {
        self.by_address.iter().map(|(&(index, address), there)| (index, address, there))
    }

    /// The address of a neighbour; `packet` waits for it if it is not known. `EHOSTUNREACH` if nobody
    /// answers.
    fn resolve(
        &mut self,
        index: u32,
        address: IpAddress,
        packet: &mut Vec<u8>,
    ) -> Result<Resolved> {
        let now = monotonic_ns();
        if self.by_address.len() >= NEIGHBOURS_MAX {
            self.by_address.retain(|_, there| there.permanent || now - there.updated < FRESH_NS);
        }
        let there = self
            .by_address
            .get_or_try_insert_with((index, address), Neighbour::default)
            .map_err(|_| Errno::ENOBUFS)?;
        if let Some(mac) = there.mac {
            let stale = !there.permanent && now - there.updated > FRESH_NS;
            if stale && now - there.asked > NSEC_PER_SEC {
                if there.asked > there.updated && there.probes >= PROBES {
                    there.mac = None;
                    there.probes = 0;
                    return Ok(Resolved::Waits(true));
                }
                there.asked = now;
                there.probes += 1;
            }
            return Ok(Resolved::To(mac));
        }
        let ask = there.asked == 0 || now - there.asked >= NSEC_PER_SEC;
        if ask {
            if there.probes >= PROBES {
                // The next one begins to ask again.
                *there = Neighbour::default();
                return Err(Errno::EHOSTUNREACH);
            }
            there.probes += 1;
            there.asked = now;
        }
        if there.waiting.len() < WAITING_MAX && there.waiting.try_reserve(1).is_ok() {
            there.waiting.push(core::mem::take(packet));
        }
        Ok(Resolved::Waits(ask))
    }

    /// Notes an answer; returns what waited for it. Unless `create`, only of those who were asked for.
    fn learn(&mut self, index: u32, address: IpAddress, mac: Mac, create: bool) -> Vec<Vec<u8>> {
        let full = self.by_address.len() >= NEIGHBOURS_MAX;
        let key = (index, address);
        if !self.by_address.contains_key(&key) && (!create || full) {
            return Vec::new();
        }
        // Without memory nothing is learned: it will be asked for.
        let there = self.by_address.get_or_try_insert_with(key, Neighbour::default);
        let Ok(there) = there else { return Vec::new() };
        if there.permanent {
            return Vec::new();
        }
        there.mac = Some(mac);
        there.updated = monotonic_ns();
        there.probes = 0;
        core::mem::take(&mut there.waiting)
    }

    /// Adds one by hand.
    pub fn set(&mut self, index: u32, address: IpAddress, mac: Mac) -> Result<()> {
        let new = Neighbour { mac: Some(mac), permanent: true, ..Neighbour::default() };
        self.by_address.try_insert((index, address), new).map(drop)
    }

    /// Takes one off; `ENOENT` if there is none.
    pub fn delete(&mut self, index: u32, address: IpAddress) -> Result<()> {
        self.by_address.remove(&(index, address)).map(|_| ()).ok_or(Errno::ENOENT)
    }

    /// Takes off those on a device that nobody added by hand.
    pub fn forget_learned(&mut self, device: &NetDevice) {
        let index = device.index();
        self.by_address.retain(|key, there| key.0 != index || there.permanent);
    }

    /// Takes off those on a device.
    pub fn forget_device(&mut self, device: &NetDevice) {
        let index = device.index();
        self.by_address.retain(|key, _| key.0 != index);
    }
}

/// The Ethernet address of a group of listeners (RFC 1112, RFC 2464).
fn group_mac(address: IpAddress) -> Mac {
    match address {
        IpAddress::Ipv4(v4) => {
            let [_, b, c, d] = v4.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddress::Ipv6(v6) => {
            let o = v6.octets();
            [0x33, 0x33, o[12], o[13], o[14], o[15]]
        }
    }
}

impl Stack {
    /// Sends an IP packet to `next` on the link of `device`.
    pub fn send_on_link(
        &self,
        device: &NetDevice,
        next: IpAddress,
        mut packet: Vec<u8>,
    ) -> Result<()> {
        let mac = if self.is_broadcast(next) {
            [0xff; 6]
        } else if next.is_multicast() {
            group_mac(next)
        } else {
            let resolved = self.neighbours.lock().resolve(device.index(), next, &mut packet)?;
            match resolved {
                Resolved::To(mac) => mac,
                Resolved::Waits(ask) => {
                    if ask {
                        self.ask_for(device, next);
                    }
                    return Ok(());
                }
            }
        };
        let kind = if matches!(next, IpAddress::Ipv4(_)) { ip::ETH_IPV4 } else { ip::ETH_IPV6 };
        ip::send_frame(self, device, mac, kind, &packet);
        Ok(())
    }

    fn ask_for(&self, device: &NetDevice, address: IpAddress) {
        let mac = EthernetAddress(*device.mac.lock());
        match address {
            IpAddress::Ipv4(target) => {
                let source = device.addresses.lock().iter().find_map(|a| match a.cidr {
                    IpCidr::Ipv4(v4) => Some(v4.address()),
                    IpCidr::Ipv6(_) => None,
                });
                let repr = ArpRepr::EthernetIpv4 {
                    operation: ArpOperation::Request,
                    source_hardware_addr: mac,
                    source_protocol_addr: source.unwrap_or(Ipv4Address::UNSPECIFIED),
                    target_hardware_addr: EthernetAddress([0; 6]),
                    target_protocol_addr: target,
                };
                send_arp(self, device, [0xff; 6], &repr);
            }
            IpAddress::Ipv6(target) => {
                let [.., a, b, c] = target.octets();
                let group = Ipv6Address::new(
                    0xff02,
                    0,
                    0,
                    0,
                    0,
                    1,
                    0xff00 | u16::from(a),
                    u16::from(b) << 8 | u16::from(c),
                );
                let source = device.addresses.lock().iter().find_map(|a| match a.cidr {
                    IpCidr::Ipv6(v6) => Some(v6.address()),
                    IpCidr::Ipv4(_) => None,
                });
                let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
                    target_addr: target,
                    lladdr: Some(RawHardwareAddress::from(mac)),
                });
                if let Some(source) = source {
                    let to = group_mac(IpAddress::Ipv6(group));
                    send_ndisc(self, device, to, source, group, &repr);
                }
            }
        }
    }
}

fn send_arp(stack: &Stack, device: &NetDevice, to: Mac, repr: &ArpRepr) {
    let Ok(mut bytes) = try_vec(repr.buffer_len(), 0) else { return };
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    ip::send_frame(stack, device, to, ip::ETH_ARP, &bytes);
}

fn send_ndisc(
    stack: &Stack,
    device: &NetDevice,
    to: Mac,
    src: Ipv6Address,
    dst: Ipv6Address,
    repr: &Icmpv6Repr<'_>,
) {
    let Ok(mut payload) = try_vec(repr.buffer_len(), 0) else { return };
    let mut packet = smoltcp::wire::Icmpv6Packet::new_unchecked(&mut payload);
    repr.emit(&src, &dst, &mut packet, &ChecksumCapabilities::default());
    let header = ip::Header {
        src: src.into(),
        dst: dst.into(),
        protocol: IpProtocol::Icmpv6.into(),
        ttl: 255,
        tos: 0,
    };
    if let Ok(packet) = ip::build(&header, 0, &[&payload]) {
        ip::send_frame(stack, device, to, ip::ETH_IPV6, &packet);
    }
}

/// Sends what waited for a neighbour that answered.
fn release(stack: &Stack, device: &NetDevice, mac: Mac, waiting: Vec<Vec<u8>>) {
    for packet in waiting {
        let kind =
            if packet.first().is_some_and(|b| b >> 4 == 4) { ip::ETH_IPV4 } else { ip::ETH_IPV6 };
        ip::send_frame(stack, device, mac, kind, &packet);
    }
}

/// An ARP packet came.
pub fn input_arp(stack: &Stack, device: &NetDevice, bytes: &[u8]) {
    let Ok(packet) = ArpPacket::new_checked(bytes) else { return };
    let Ok(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return;
    };
    let mac = source_hardware_addr.0;
    let mine = stack.is_local(target_protocol_addr.into()) && !target_protocol_addr.is_loopback();
    if !source_protocol_addr.is_unspecified() {
        let create = mine && operation == ArpOperation::Request;
        let mut neighbours = stack.neighbours.lock();
        let waiting = neighbours.learn(device.index(), source_protocol_addr.into(), mac, create);
        drop(neighbours);
        release(stack, device, mac, waiting);
    }
    if operation == ArpOperation::Request && mine {
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(*device.mac.lock()),
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        send_arp(stack, device, mac, &repr);
    }
}

/// A neighbour discovery message came, from `src`.
pub fn input_ndisc(
    stack: &Stack,
    device: &NetDevice,
    src: Ipv6Address,
    dst: Ipv6Address,
    repr: &NdiscRepr<'_>,
) {
    let mac_of =
        |lladdr: Option<RawHardwareAddress>| -> Option<Mac> { lladdr?.as_bytes().try_into().ok() };
    match *repr {
        NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
            if !stack.is_local(target_addr.into()) {
                return;
            }
            let Some(mac) = mac_of(lladdr) else { return };
            let waiting = stack.neighbours.lock().learn(device.index(), src.into(), mac, true);
            release(stack, device, mac, waiting);
            let own = EthernetAddress(*device.mac.lock());
            let answer = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
                target_addr,
                lladdr: Some(RawHardwareAddress::from(own)),
            });
            send_ndisc(stack, device, mac, target_addr, src, &answer);
        }
        NdiscRepr::NeighborAdvert { target_addr, lladdr, .. } => {
            let Some(mac) = mac_of(lladdr) else { return };
            let waiting =
                stack.neighbours.lock().learn(device.index(), target_addr.into(), mac, false);
            release(stack, device, mac, waiting);
        }
        _ => {}
    }
    let _ = dst;
}
