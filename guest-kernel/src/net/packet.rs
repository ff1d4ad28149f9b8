//! Packet sockets (packet(7)): frames as devices send and receive them.

mod ring;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use self::ring::{Request, Ring, Version};

use super::address::{Address, family_of};
use super::common::{Common, SHUT_RECEIVE, SHUT_SEND};
use super::dev::{Mac, NetDevice};
use super::filter::Packet;
use super::inet::ip::ETH_HEADER;
use super::inet::queue::{Datagram, Queue, stamp_for};
use super::inet::stack::{Stack, kick};
use super::inet::udp::{ioctl_datagrams, poll_datagrams};
use super::message::{RecvMsg, SendMsg, take_bytes};

use super::options::{OptionValue, int};
use super::socket::{Protocol, Socket};
use super::{MsgFlags, NetNs, SOCK_DGRAM, SOCK_RAW, hooks};
use crate::errno::{Errno, Result};
use crate::fs::{Caller, PollFlags, PollTable};
use crate::kref::Ref;
use crate::mm::{Backing, try_collect, try_to_vec};
use crate::ns::Cap;
use crate::sched::clock::realtime_ns;
use crate::sched::{TaskState, current};
use crate::sync::SpinLock;

/// `AF_PACKET`.
pub const AF_PACKET: u32 = 17;
/// Protocol that stands for all.
const ETH_P_ALL: u16 = 3;
/// Level of packet sockets' own options, and these.
const SOL_PACKET: u32 = 263;
const PACKET_ADD_MEMBERSHIP: u32 = 1;
const PACKET_DROP_MEMBERSHIP: u32 = 2;
const PACKET_RX_RING: u32 = 5;
const PACKET_STATISTICS: u32 = 6;
const PACKET_VERSION: u32 = 10;
const PACKET_HDRLEN: u32 = 11;
const PACKET_RESERVE: u32 = 12;
/// Bytes of a `struct packet_mreq`.
const PACKET_MREQ: usize = 16;
/// Bytes of a `struct sockaddr_ll`, and those up to its hardware address.
const SOCKADDR_LL: usize = 20;
const SOCKADDR_LL_HEAD: usize = 12;

/// A packet socket.
pub struct PacketSock {
    common: Ref<Common>,
    stack: Ref<Stack>,
    /// Protocol in host order; 0 receives nothing.
    protocol: AtomicU32,
    /// Device; 0 is all.
    device: AtomicU32,
    queue: Queue,
    /// Where what comes goes in place of the queue.
    ring: SpinLock<Option<Arc<Ring>>>,
    /// Of a ring that is to come: see [`Version`], and the bytes that the program keeps for itself.
    version: AtomicU32,
    reserve: AtomicU32,
    /// Packets since somebody asked, lost ones too.
    packets: AtomicU32,
}

/// The packet sockets of a namespace.
#[derive(Default)]
pub struct PacketTable {
    sockets: Vec<Ref<PacketSock>>,
}

impl PacketTable {
    /// True if somebody listens.
    pub fn has_taps(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// Common part, protocol and device of each, for `/proc`.
    pub fn all(&self) -> Result<Vec<(Ref<Common>, u32, u32)>> {
        let row = |sock: &Ref<PacketSock>| {
            (sock.common.clone(), sock.protocol.load(Relaxed), sock.device.load(Relaxed))
        };
        try_collect(self.sockets.iter().map(row))
    }
}

impl PacketSock {
    fn ring(&self) -> Option<Arc<Ring>> {
        self.ring.lock().clone()
    }

    /// `EBUSY` once there is a ring, whose form cannot change.
    fn before_ring(&self) -> Result<()> {
        if self.ring.lock().is_some() { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// `PACKET_RX_RING`: makes the ring, or with no blocks ends it.
    fn set_ring(&self, request: Request) -> Result<()> {
        if request.block_nr == 0 {
            if request.frame_nr != 0 {
                return Err(Errno::EINVAL);
            }
            let mut ring = self.ring.lock();
            if ring.as_ref().is_some_and(|ring| ring.is_mapped()) {
                return Err(Errno::EBUSY);
            }
            let old = ring.take();
            drop(ring);
            drop(old);
            return Ok(());
        }
        self.before_ring()?;
        let version = Version::from_number(self.version.load(Relaxed) as i32)?;
        let killed = || current().signal_pending_state(TaskState::KILLABLE);
        let new = Ring::new(request, version, self.reserve.load(Relaxed), killed)?;
        let mut ring = self.ring.lock();
        if ring.is_some() {
            return Err(Errno::EBUSY);
        }
        *ring = Some(new);
        drop(ring);
        self.queue.clear(&self.common);
        Ok(())
    }

    /// `PACKET_ADD_MEMBERSHIP` and its opposite: a device shows all that it gets, whoever asks for it.
    fn change_membership(&self, value: &[u8]) -> Result<()> {
        let request: &[u8; PACKET_MREQ] = value.first_chunk().ok_or(Errno::EINVAL)?;
        let [a, b, c, d, _, _, len, ..] = *request;
        let device = u32::from_ne_bytes([a, b, c, d]);
        self.stack.by_index(device).ok_or(Errno::ENODEV)?;
        if usize::from(len) > size_of::<Mac>() { Err(Errno::EINVAL) } else { Ok(()) }
    }
}

/// A packet socket that a file refers to.
pub struct PacketRef(Ref<PacketSock>);

/// socket(2). The protocol is in network order.
pub fn create(net: &Ref<NetNs>, kind: u32, protocol: u32) -> Result<Socket> {
    if !hooks::ns_capable(net, Cap::NetRaw) {
        return Err(Errno::EPERM);
    }
    if !matches!(kind, SOCK_RAW | SOCK_DGRAM) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    let common = Common::new(net.clone(), AF_PACKET, kind, protocol)?;
    let sock = Ref::try_new(PacketSock {
        common: common.clone(),
        stack: net.stack.clone(),
        protocol: AtomicU32::new(u32::from(u16::from_be(protocol as u16))),
        device: AtomicU32::new(0),
        queue: Queue::default(),
        ring: SpinLock::new(None),
        version: AtomicU32::new(0),
        reserve: AtomicU32::new(0),
        packets: AtomicU32::new(0),
    })?;
    let mut table = net.stack.packet.lock();
    table.sockets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    table.sockets.push(sock.clone());
    drop(table);
    Socket::new(common, PacketRef(sock))
}

/// A `struct sockaddr_ll`.
fn link_address(protocol: u16, device: &NetDevice, kind: u8, mac: &[u8]) -> Address {
    let mut bytes = [0; SOCKADDR_LL];
    bytes[..2].copy_from_slice(&(AF_PACKET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&protocol.to_be_bytes());
    bytes[4..8].copy_from_slice(&device.index().to_ne_bytes());
    bytes[8..10].copy_from_slice(&hardware_type(device).to_ne_bytes());
    (bytes[10], bytes[11]) = (kind, 6);
    let len = mac.len().min(6);
    bytes[12..12 + len].copy_from_slice(&mac[..len]);
    Address::new(&bytes).unwrap_or(Address::EMPTY)
}

/// `ARPHRD_*`.
pub fn hardware_type(device: &NetDevice) -> u16 {
    const ETHER: u16 = 1;
    const LOOPBACK: u16 = 772;
    if device.is_loopback() { LOOPBACK } else { ETHER }
}

/// A frame leaves or came: everybody who listens gets a copy.
pub fn tap(stack: &Stack, device: &NetDevice, frame: &[u8], outgoing: bool) {
    let receivers: Vec<_> = {
        let table = stack.packet.lock();
        if table.sockets.is_empty() || frame.len() < ETH_HEADER {
            return;
        }
        let kind = u16::from_be_bytes([frame[12], frame[13]]);
        let wants = |sock: &&Ref<PacketSock>| {
            let protocol = sock.protocol.load(Relaxed) as u16;
            let bound = sock.device.load(Relaxed);
            // What leaves is shown to those who see all alone.
            (protocol == ETH_P_ALL || protocol == kind && !outgoing)
                && (bound == 0 || bound == device.index())
        };
        try_collect(table.sockets.iter().filter(wants).cloned()).unwrap_or_default()
    };
    for sock in receivers {
        let start = if sock.common.kind == SOCK_DGRAM { ETH_HEADER } else { 0 };
        let seen = &frame[start..];
        let protocol = u16::from_be_bytes([frame[12], frame[13]]);
        let own = *device.mac.lock();
        let kind = packet_kind(frame, &own, outgoing, device.is_loopback());
        let packet = Packet { bytes: seen, protocol, device: device.index(), kind };
        let Some(kept) = sock.common.filter(&packet, 1) else { continue };
        let from = link_address(protocol, device, kind, &frame[6..12]);
        sock.packets.fetch_add(1, Relaxed);
        if let Some(ring) = sock.ring() {
            let (link, time) = (ETH_HEADER - start, realtime_ns());
            let losing = sock.queue.dropped.load(Relaxed) > 0;
            let (kept, len) = (&seen[..kept], seen.len());
            let packet = ring::Packet { kept, len, link, from: &from, time, losing };
            if !ring.put(&packet) {
                sock.queue.dropped.fetch_add(1, Relaxed);
            }
            sock.common.wake_readers();
            continue;
        }
        let Ok(bytes) = try_to_vec(&seen[..kept]) else { continue };
        let datagram = Datagram {
            bytes,
            start: 0,
            from,
            to: None,
            device: device.index(),
            ttl: 0,
            tos: 0,
            time: stamp_for(&sock.common),
        };
        sock.queue.push(&sock.common, datagram);
    }
}

/// `PACKET_*`: for whom a frame is.
fn packet_kind(frame: &[u8], own: &Mac, outgoing: bool, loopback: bool) -> u8 {
    match &frame[..6] {
        _ if outgoing => 4,
        _ if loopback => 0,
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => 1,
        [first, ..] if first & 1 != 0 => 2,
        to if to == own => 0,
        _ => 3,
    }
}

impl Protocol for PacketRef {
    fn bind(&self, _caller: Caller<'_>, address: &[u8]) -> Result<()> {
        let sock = &self.0;
        if address.len() < SOCKADDR_LL || u32::from(family_of(address)?) != AF_PACKET {
            return Err(Errno::EINVAL);
        }
        let index = u32::from_ne_bytes([address[4], address[5], address[6], address[7]]);
        if index != 0 && sock.stack.by_index(index).is_none() {
            return Err(Errno::ENODEV);
        }
        let protocol = u16::from_be_bytes([address[2], address[3]]);
        if protocol != 0 {
            sock.protocol.store(u32::from(protocol), Relaxed);
        }
        sock.device.store(index, Relaxed);
        sock.common.set_local(address);
        Ok(())
    }

    fn local_name(&self) -> Result<Address> {
        let sock = &self.0;
        let protocol = sock.protocol.load(Relaxed) as u16;
        match sock.stack.by_index(sock.device.load(Relaxed)) {
            Some(device) => {
                let mac = *device.mac.lock();
                Ok(link_address(protocol, &device, 0, &mac))
            }
            None => {
                let mut bytes = [0; SOCKADDR_LL_HEAD];
                bytes[..2].copy_from_slice(&(AF_PACKET as u16).to_ne_bytes());
                bytes[2..4].copy_from_slice(&protocol.to_be_bytes());
                Address::new(&bytes)
            }
        }
    }

    fn send(&self, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        let sock = &self.0;
        let len = message.data.remaining();
        let name = message.name.unwrap_or_default();
        if !name.is_empty() && name.len() < SOCKADDR_LL_HEAD {
            return Err(Errno::EINVAL);
        }
        let index = match name.get(4..8) {
            Some(bytes) => u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            None => sock.device.load(Relaxed),
        };
        let device = sock.stack.by_index(index).ok_or(Errno::ENXIO)?;
        if !device.is_up() {
            return Err(Errno::ENETDOWN);
        }
        let raw = sock.common.kind == SOCK_RAW;
        let most = device.mtu() as usize + if raw { ETH_HEADER } else { 0 };
        if len > most {
            return Err(Errno::EMSGSIZE);
        }
        let data = take_bytes(message.data, len)?;
        if raw {
            if len < ETH_HEADER {
                return Err(Errno::EINVAL);
            }
            if device.is_loopback() {
                sock.stack.enqueue_packet(try_to_vec(&data[ETH_HEADER..])?);
            } else {
                tap(&sock.stack, &device, &data, true);
                device.transmit(data);
            }
        } else {
            let protocol = match name.get(2..4) {
                Some(bytes) => u16::from_be_bytes([bytes[0], bytes[1]]),
                None => sock.protocol.load(Relaxed) as u16,
            };
            let to = name.get(12..18).and_then(|mac| mac.try_into().ok()).unwrap_or([0xff; 6]);
            if device.is_loopback() {
                sock.stack.enqueue_packet(data);
            } else {
                super::inet::ip::send_frame(&sock.stack, &device, to, protocol, &data);
            }
        }
        kick();
        Ok(len)
    }

    fn receive(&self, message: &mut RecvMsg<'_, '_>) -> Result<usize> {
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EINVAL);
        }
        Ok(self.0.queue.receive(&self.0.common, message)?.map_or(0, |(_, n)| n))
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollFlags {
        let ready = poll_datagrams(&self.0.common, &self.0.queue, table);
        match self.0.ring() {
            Some(ring) if ring.is_readable() => ready | PollFlags::READABLE,
            // Nobody reads what was on its way to the queue when the ring was made.
            Some(_) => ready - PollFlags::READABLE,
            None => ready,
        }
    }

    fn mmap(&self) -> Result<Arc<dyn Backing>> {
        Ok(self.0.ring().ok_or(Errno::EINVAL)?)
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        let sock = &self.0;
        match (level, name) {
            (SOL_PACKET, PACKET_ADD_MEMBERSHIP | PACKET_DROP_MEMBERSHIP) => {
                sock.change_membership(value)
            }
            (SOL_PACKET, PACKET_RX_RING) => sock.set_ring(Request::parse(value)?),
            (SOL_PACKET, PACKET_VERSION) => {
                let version = Version::from_number(int(value)?)?;
                sock.before_ring()?;
                sock.version.store(version as u32, Relaxed);
                Ok(())
            }
            (SOL_PACKET, PACKET_RESERVE) => {
                let reserve = u32::try_from(int(value)?).map_err(|_| Errno::EINVAL)?;
                sock.before_ring()?;
                sock.reserve.store(reserve, Relaxed);
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn get_option(&self, level: u32, name: u32, value: &mut OptionValue) -> Result<()> {
        let sock = &self.0;
        match (level, name) {
            (SOL_PACKET, PACKET_STATISTICS) => {
                let packets = sock.packets.swap(0, Relaxed);
                let dropped = sock.queue.dropped.swap(0, Relaxed) as u32;
                let mut bytes = [0; 8];
                bytes[..4].copy_from_slice(&packets.to_ne_bytes());
                bytes[4..].copy_from_slice(&dropped.to_ne_bytes());
                value.set(&bytes)
            }
            (SOL_PACKET, PACKET_VERSION) => value.set_int(sock.version.load(Relaxed) as i32),
            (SOL_PACKET, PACKET_RESERVE) => value.set_int(sock.reserve.load(Relaxed) as i32),
            // Of the version that the program names where it wants the answer.
            (SOL_PACKET, PACKET_HDRLEN) => {
                value.set_int(Version::from_number(value.given()?)?.header_len())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn ioctl(&self, cmd: u32, arg: u64) -> Result<usize> {
        ioctl_datagrams(&self.0.common, &self.0.queue, cmd, arg)
    }

    fn release(&self) {
        let sock = &self.0;
        sock.stack.packet.lock().sockets.retain(|there| !Ref::ptr_eq(there, sock));
        sock.common.shutdown.store(SHUT_RECEIVE | SHUT_SEND, Relaxed);
        sock.queue.clear(&sock.common);
        // Who is about to put a packet in holds it that long; a mapping holds it as long as it is one.
        let ring = sock.ring.lock().take();
        drop(ring);
    }
}
