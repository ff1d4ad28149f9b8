//! Interfaces over rtnetlink: `ip link`.

use super::message::{Answer, Attributes, CREATE, EXCL, Request};
use super::route::kind;
use super::{nsid, u32_at};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::dev::{Kind, Mac, NetDevice, Stats, device_name, random_mac, trimmed};
use crate::net::inet::stack::Stack;
use crate::net::packet::hardware_type;
use crate::net::{IFNAMSIZ, NetNs, hooks};
use core::sync::atomic::Ordering::Relaxed;

/// Bytes of a `struct ifinfomsg`.
const IFINFO: usize = 16;
/// MTU of Ethernet.
const ETH_MTU: u32 = 1500;

const ADDRESS: u16 = 1;
const BROADCAST: u16 = 2;
const IFNAME: u16 = 3;
const MTU: u16 = 4;
const LINK: u16 = 5;
const QDISC: u16 = 6;
const STATS: u16 = 7;
const TXQLEN: u16 = 13;
const OPERSTATE: u16 = 16;
const LINKMODE: u16 = 17;
const LINKINFO: u16 = 18;
const NET_NS_PID: u16 = 19;
const STATS64: u16 = 23;
const GROUP: u16 = 27;
const NET_NS_FD: u16 = 28;
const PROMISCUITY: u16 = 30;
const NUM_TX_QUEUES: u16 = 31;
const NUM_RX_QUEUES: u16 = 32;
const CARRIER: u16 = 33;
const LINK_NETNSID: u16 = 37;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;

/// `RFC 2863` states of an interface.
pub fn operstate(device: &NetDevice) -> u8 {
    const UNKNOWN: u8 = 0;
    const DOWN: u8 = 2;
    const LOWER_LAYER_DOWN: u8 = 3;
    const UP: u8 = 6;
    match (device.is_up(), device.has_carrier()) {
        (true, _) if device.is_loopback() => UNKNOWN,
        (true, true) => UP,
        (true, false) => LOWER_LAYER_DOWN,
        (false, _) => DOWN,
    }
}

/// Receive and transmit counters in the order of `struct rtnl_link_stats64`.
fn counters(stats: &Stats) -> [u64; 24] {
    let mut words = [0; 24];
    let n = |counter: &core::sync::atomic::AtomicU64| counter.load(Relaxed);
    words[0] = n(&stats.rx_packets);
    words[1] = n(&stats.tx_packets);
    words[2] = n(&stats.rx_bytes);
    words[3] = n(&stats.tx_bytes);
    words[6] = n(&stats.rx_dropped);
    words[7] = n(&stats.tx_dropped);
    words[8] = n(&stats.multicast);
    words
}

/// Writes one interface.
pub fn write(stack: &Stack, device: &NetDevice, kind: u16, answer: &mut Answer) {
    let mut fixed = [0; IFINFO];
    fixed[2..4].copy_from_slice(&hardware_type(device).to_ne_bytes());
    fixed[4..8].copy_from_slice(&device.index().to_ne_bytes());
    fixed[8..12].copy_from_slice(&device.flags().to_ne_bytes());
    answer.begin(kind, &fixed);
    answer.text(IFNAME, trimmed(&device.name()));
    answer.number(TXQLEN, 1000);
    answer.attribute(OPERSTATE, &[operstate(device)]);
    answer.attribute(LINKMODE, &[0]);
    answer.number(MTU, device.mtu());
    answer.number(GROUP, 0);
    answer.number(PROMISCUITY, 0);
    answer.number(NUM_TX_QUEUES, 1);
    answer.number(NUM_RX_QUEUES, 1);
    answer.attribute(CARRIER, &[u8::from(device.has_carrier())]);
    answer.text(QDISC, if device.is_up() { b"noqueue" } else { b"noop" });
    let mac = *device.mac.lock();
    answer.attribute(ADDRESS, &mac);
    let all = if device.is_loopback() { [0; 6] } else { [0xff; 6] };
    answer.attribute(BROADCAST, &all);
    let words = counters(&device.stats);
    let mut wide = [0; 24 * 8];
    let mut narrow = [0; 24 * 4];
    for (i, word) in words.iter().enumerate() {
        wide[i * 8..i * 8 + 8].copy_from_slice(&word.to_ne_bytes());
        narrow[i * 4..i * 4 + 4].copy_from_slice(&(*word as u32).to_ne_bytes());
    }
    answer.attribute(STATS64, &wide);
    answer.attribute(STATS, &narrow);
    if let Some(peer) = device.veth_peer() {
        answer.number(LINK, peer.index());
        if let Some(home) = peer.home().filter(|home| !core::ptr::eq(&**home, stack))
            && let Ok(id) = nsid::number_of(stack, &home)
        {
            answer.number(LINK_NETNSID, id as u32);
        }
    }
    if matches!(device.kind, Kind::Veth(_)) {
        answer.nest(LINKINFO, |info| info.text(INFO_KIND, b"veth"));
    }
    answer.end();
}

/// The device that a request is about: by number, else by name.
fn find(stack: &Stack, request: &Request<'_>) -> Result<Option<Ref<NetDevice>>> {
    let index = u32_at(request.fixed(IFINFO)?, 4);
    if index != 0 {
        return stack.by_index(index).map(Some).ok_or(Errno::ENODEV);
    }
    match request.attributes(IFINFO).text(IFNAME) {
        Some(name) => Ok(stack.by_name(name)),
        None => Ok(None),
    }
}

/// `RTM_GETLINK`.
pub fn get(stack: &Stack, request: &Request<'_>, answer: &mut Answer) -> Result<()> {
    if request.is_dump() {
        let wanted = Attributes(request.attributes(IFINFO).get(LINKINFO).unwrap_or_default());
        let wanted = wanted.text(INFO_KIND);
        for device in stack.all_devices() {
            let is_veth = matches!(device.kind, Kind::Veth(_));
            if wanted.is_none_or(|kind| kind == b"veth" && is_veth) {
                write(stack, &device, kind::NEWLINK, answer);
            }
        }
        return Ok(());
    }
    let device = find(stack, request)?.ok_or(Errno::ENODEV)?;
    write(stack, &device, kind::NEWLINK, answer);
    Ok(())
}

/// The namespace that attributes name.
fn namespace(attributes: Attributes<'_>) -> Result<Option<Ref<NetNs>>> {
    if let Some(fd) = attributes.number(NET_NS_FD) {
        return hooks::net_by_fd(fd as i32).map(Some);
    }
    if let Some(pid) = attributes.number(NET_NS_PID) {
        return hooks::net_by_pid(pid).map(Some);
    }
    Ok(None)
}

fn mac_of(attributes: Attributes<'_>) -> Result<Option<Mac>> {
    match attributes.get(ADDRESS) {
        None => Ok(None),
        Some(bytes) => {
            let mac: Mac = bytes.try_into().map_err(|_| Errno::EINVAL)?;
            if mac[0] & 1 != 0 || mac == [0; 6] { Err(Errno::EADDRNOTAVAIL) } else { Ok(Some(mac)) }
        }
    }
}

/// `RTM_NEWLINK`, `RTM_SETLINK`: makes or changes an interface.
pub fn new(stack: &Stack, request: &Request<'_>) -> Result<()> {
    let attributes = request.attributes(IFINFO);
    match find(stack, request)? {
        Some(_) if request.kind == kind::NEWLINK && request.flags & EXCL != 0 => Err(Errno::EEXIST),
        Some(device) => change(stack, &device, request),
        None if request.kind == kind::SETLINK || request.flags & CREATE == 0 => Err(Errno::ENODEV),
        None => create(stack, request, attributes),
    }
}

fn create(stack: &Stack, request: &Request<'_>, attributes: Attributes<'_>) -> Result<()> {
    let info = Attributes(attributes.get(LINKINFO).ok_or(Errno::EOPNOTSUPP)?);
    if info.text(INFO_KIND) != Some(b"veth") {
        return Err(Errno::EOPNOTSUPP);
    }
    let data = Attributes(info.get(INFO_DATA).unwrap_or_default());
    let peer_info = data.get(VETH_PEER).unwrap_or_default();
    let peer = Attributes(peer_info.get(IFINFO..).unwrap_or_default());
    let own_net = namespace(attributes)?;
    let own_home = own_net.as_ref().map_or(stack, |net| &*net.stack);
    let peer_net = namespace(peer)?;
    let peer_home = peer_net.as_ref().map_or(stack, |net| &*net.stack);
    let name_of = |attributes: Attributes<'_>, home: &Stack| match attributes.text(IFNAME) {
        Some(name) if !name.contains(&b'%') => device_name(name),
        Some(pattern) => home.free_name(pattern),
        None => home.free_name(b"veth%d"),
    };
    // The peer's name is taken first, as on Linux: a pair without names is veth0 and veth1.
    let peer_name = name_of(peer, peer_home)?;
    if peer_home.by_name(trimmed(&peer_name)).is_some() {
        return Err(Errno::EEXIST);
    }
    let own_name = match name_of(attributes, own_home)? {
        name if name == peer_name && core::ptr::eq(own_home, peer_home) => {
            match attributes.text(IFNAME) {
                Some(_) => return Err(Errno::EEXIST),
                None => own_home.free_name(b"veth1")?,
            }
        }
        name => name,
    };
    let macs =
        [mac_of(attributes)?.unwrap_or_else(random_mac), mac_of(peer)?.unwrap_or_else(random_mac)];
    let mtu = attributes.number(MTU).unwrap_or(ETH_MTU);
    let [own, other] = NetDevice::veth_pair([own_name, peer_name], macs, mtu)?;
    own.set_mtu(mtu)?;
    other.set_mtu(peer.number(MTU).unwrap_or(mtu))?;
    let (own_index, peer_index) = (u32_at(request.payload(), 4), u32_at(peer_info, 4));
    peer_home.add_device(&other, peer_index)?;
    if let Err(error) = own_home.add_device(&own, own_index) {
        peer_home.delete_device(&other)?;
        return Err(error);
    }
    let flags = |fixed: &[u8]| (u32_at(fixed, 8), u32_at(fixed, 12));
    let (set, mask) = flags(request.payload());
    own_home.set_flags(&own, set, mask);
    let (set, mask) = flags(peer_info);
    peer_home.set_flags(&other, set, mask);
    Ok(())
}

fn change(stack: &Stack, device: &Ref<NetDevice>, request: &Request<'_>) -> Result<()> {
    let attributes = request.attributes(IFINFO);
    let fixed = request.fixed(IFINFO)?;
    let by_index = u32_at(fixed, 4) != 0;
    let new_name = match attributes.text(IFNAME) {
        Some(name) if by_index && name != trimmed(&device.name()) => Some(device_name(name)?),
        _ => None,
    };
    if let Some(net) = namespace(attributes)? {
        stack.move_device(device, &net.stack, new_name)?;
        return adjust(&net.stack, device, attributes, fixed);
    }
    if let Some(name) = new_name {
        stack.rename(device, name)?;
    }
    adjust(stack, device, attributes, fixed)
}

fn adjust(
    stack: &Stack,
    device: &Ref<NetDevice>,
    attributes: Attributes<'_>,
    fixed: &[u8],
) -> Result<()> {
    if let Some(mac) = mac_of(attributes)? {
        if device.is_loopback() {
            return Err(Errno::EOPNOTSUPP);
        }
        *device.mac.lock() = mac;
    }
    if let Some(mtu) = attributes.number(MTU) {
        device.set_mtu(mtu)?;
    }
    let (set, mask) = (u32_at(fixed, 8), u32_at(fixed, 12));
    // A mask of 0 stands for all, if there are flags.
    let mask = if mask == 0 && set != 0 { !0 } else { mask };
    stack.set_flags(device, set, mask);
    Ok(())
}

/// `RTM_DELLINK`.
pub fn delete(stack: &Stack, request: &Request<'_>) -> Result<()> {
    let device = find(stack, request)?.ok_or(Errno::ENODEV)?;
    stack.delete_device(&device)
}

const _: () = assert!(IFNAMSIZ == 16, "IFLA_IFNAME is at most 16 bytes");
