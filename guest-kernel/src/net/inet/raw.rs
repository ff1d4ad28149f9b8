//! Raw sockets (raw(7)) and ping sockets (icmp(7)): they see what the protocols above IP do not ask for.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, checksum};

use super::ancillary::Ancillary;
use super::endpoint::{Endpoint, takes};
use super::ip::{self, Header, Received};
use super::options::{IpOptions, SOL_IPV6};
use super::queue::{Datagram, Queue, stamp_for};
use super::route::or_loopback;
use super::stack::{Stack, kick};
use super::udp::{ioctl_datagrams, poll_datagrams, receive_options};
use super::{AF_INET, AF_INET6, ports};
use crate::errno::{Errno, Result};
use crate::fs::{Caller, PollFlags, PollTable};
use crate::kref::Ref;
use crate::mm::try_collect;
use crate::net::address::{Address, family_of};
use crate::net::common::{Common, Patience, SHUT_RECEIVE, SHUT_SEND, flag, state};
use crate::net::filter::{FOR_HOST, Packet};
use crate::net::message::{RecvMsg, SendMsg, take_bytes};
use crate::net::options::{OptionValue, int};
use crate::net::socket::{Protocol, Socket};
use crate::net::{AF_UNSPEC, MsgFlags, NetNs, SOCK_DGRAM, SOCK_RAW, hooks};
use crate::sync::SpinLock;

/// Protocol of packets whose header the program makes.
const IPPROTO_RAW: u8 = 255;
/// Level of raw sockets' own options.
const SOL_RAW: u32 = 255;
/// Types of ICMP that are not wanted (raw(7)).
const ICMP_FILTER: u32 = 1;
/// Where the checksum of what is sent over IPv6 stands (RFC 3542, section 3.1).
const IPV6_CHECKSUM: u32 = 7;
/// Level of ICMPv6, and its one option: types that are not wanted (RFC 3542, section 3.2).
const SOL_ICMPV6: u32 = 58;
const ICMPV6_FILTER: u32 = 1;
/// Words of a filter: a bit for each type of ICMPv6.
const FILTER_WORDS: usize = 8;
/// Where ICMPv6 has its checksum.
const ICMPV6_CHECKSUM: i32 = 2;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Groups whose members may use ping sockets (`net.ipv4.ping_group_range`): low and high; nobody.
pub static PING_GROUPS: [AtomicU32; 2] = [AtomicU32::new(1), AtomicU32::new(0)];

/// True if the caller may use ping sockets.
pub fn may_ping() -> bool {
    hooks::in_group_range(PING_GROUPS[0].load(Relaxed), PING_GROUPS[1].load(Relaxed))
}

/// A raw or ping socket.
pub struct RawSock {
    /// What every socket has.
    pub common: Ref<Common>,
    stack: Ref<Stack>,
    protocol: u8,
    /// Own address and peer; the port of a ping socket is its echo identifier.
    names: SpinLock<(Endpoint, Option<Endpoint>)>,
    queue: Queue,
    options: IpOptions,
    /// ICMP types that it does not want, a bit each; of IPv4's there are 32.
    filter: [AtomicU32; FILTER_WORDS],
    /// Where the kernel puts a checksum into what is sent over IPv6; negative if nowhere.
    checksum: AtomicI32,
}

/// The raw sockets of a namespace.
#[derive(Default)]
pub struct RawTable {
    sockets: Vec<Ref<RawSock>>,
}

impl RawTable {
    /// All of them.
    pub fn all(&self) -> Result<Vec<Ref<RawSock>>> {
        try_collect(self.sockets.iter().cloned())
    }
}

impl RawSock {
    /// Own address and peer, for `/proc`.
    pub fn endpoints(&self) -> (Endpoint, Option<Endpoint>) {
        *self.names.lock()
    }

    fn is_ping(&self) -> bool {
        self.common.kind == SOCK_DGRAM
    }

    fn wants(&self, received: &Received<'_>) -> bool {
        let header = &received.header;
        let (local, peer) = *self.names.lock();
        let v4 = matches!(header.dst, IpAddress::Ipv4(_));
        let device = self.common.bound_dev.load(Relaxed);
        let payload = received.payload();
        if self.protocol != header.protocol
            || v4 != (self.common.family == AF_INET)
            || !takes(local.addr, false, header.dst) && !header.dst.is_multicast()
            || peer.is_some_and(|peer| peer.addr != header.src)
            || device != 0 && device != received.device
        {
            return false;
        }
        if self.is_ping() {
            let reply = if v4 { ECHO_REPLY } else { ECHO_REPLY_V6 };
            return payload.len() >= 8
                && payload[0] == reply
                && u16::from_be_bytes([payload[4], payload[5]]) == local.port;
        }
        let kind = payload.first().copied().unwrap_or(0);
        match header.protocol {
            ip::ICMP => kind >= 32 || !self.filters(kind),
            ip::ICMPV6 => !self.filters(kind),
            _ => true,
        }
    }

    fn filters(&self, kind: u8) -> bool {
        self.filter[usize::from(kind / 32)].load(Relaxed) & (1 << (kind % 32)) != 0
    }

    /// `ICMPV6_FILTER`: as much of the bitmap as the program gave.
    fn set_filter_v6(&self, value: &[u8]) -> Result<()> {
        if self.protocol != ip::ICMPV6 {
            return Err(Errno::EOPNOTSUPP);
        }
        for (word, bytes) in self.filter.iter().zip(value.chunks_exact(4)) {
            word.store(bytes.first_chunk().copied().map_or(0, u32::from_ne_bytes), Relaxed);
        }
        Ok(())
    }

    /// `IPV6_CHECKSUM`: ICMPv6 has its own place, which the level of IPv6 leaves alone.
    fn set_checksum(&self, level: u32, value: &[u8]) -> Result<()> {
        let offset = int(value)?;
        if self.protocol == ip::ICMPV6 && level == SOL_IPV6 || offset > 0 && offset % 2 != 0 {
            return Err(Errno::EINVAL);
        }
        self.checksum.store(offset.max(-1), Relaxed);
        Ok(())
    }

    /// True if `level` and `name` are the option about the checksum, which IPv6 alone has.
    fn is_checksum_option(&self, level: u32, name: u32) -> bool {
        let v6 = self.common.family == AF_INET6 && !self.is_ping();
        v6 && matches!(level, SOL_RAW | SOL_IPV6) && name == IPV6_CHECKSUM
    }

    /// True if they are the filter of ICMPv6.
    fn is_filter_v6(&self, level: u32, name: u32) -> bool {
        let v6 = self.common.family == AF_INET6 && !self.is_ping();
        v6 && (level, name) == (SOL_ICMPV6, ICMPV6_FILTER)
    }
}

/// A raw socket that a file refers to.
pub struct RawRef(Ref<RawSock>);

/// socket(2).
pub fn create(net: &Ref<NetNs>, family: u32, kind: u32, protocol: u8) -> Result<Socket> {
    let common = Common::new(net.clone(), family, kind, u32::from(protocol))?;
    let sock = Ref::try_new(RawSock {
        common: common.clone(),
        stack: net.stack.clone(),
        protocol,
        names: SpinLock::new((Endpoint::any(family), None)),
        queue: Queue::default(),
        options: IpOptions::default(),
        filter: [const { AtomicU32::new(0) }; FILTER_WORDS],
        checksum: AtomicI32::new(if protocol == ip::ICMPV6 { ICMPV6_CHECKSUM } else { -1 }),
    })?;
    sock.options.header_included.store(protocol == IPPROTO_RAW, Relaxed);
    if kind == SOCK_RAW {
        let mut table = net.stack.raw.lock();
        table.sockets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        table.sockets.push(sock.clone());
    }
    Socket::new(common, RawRef(sock))
}

impl RawRef {
    /// Gives a ping socket an identifier.
    fn bind_ping(&self, wanted: u16) -> Result<()> {
        let sock = &self.0;
        if !sock.is_ping() || sock.names.lock().0.port != 0 {
            return Ok(());
        }
        let mut table = sock.stack.raw.lock();
        let taken = |id: u16| {
            table.sockets.iter().any(|there| {
                there.is_ping()
                    && there.protocol == sock.protocol
                    && there.names.lock().0.port == id
            })
        };
        let id = match wanted {
            0 => ports::ephemeral(|id| !taken(id))?,
            id if taken(id) => return Err(Errno::EADDRINUSE),
            id => id,
        };
        table.sockets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        table.sockets.push(sock.clone());
        sock.names.lock().0.port = id;
        Ok(())
    }

    fn names_changed(&self) {
        let (local, peer) = *self.0.names.lock();
        let common = &self.0.common;
        common.set_local(local.encode(common.family).bytes());
        match peer {
            Some(peer) => common.set_peer(peer.encode(common.family).bytes()),
            None => common.set_peer(&[]),
        }
    }
}

impl Protocol for RawRef {
    fn bind(&self, _caller: Caller<'_>, address: &[u8]) -> Result<()> {
        let sock = &self.0;
        let wanted = Endpoint::parse(sock.common.family, address)?;
        let group = sock.stack.is_broadcast(wanted.addr) || wanted.addr.is_multicast();
        if !wanted.is_any() && !group && !sock.stack.has_address(wanted.addr) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        self.bind_ping(wanted.port)?;
        sock.names.lock().0.addr = wanted.addr;
        self.names_changed();
        Ok(())
    }

    fn connect(&self, _caller: Caller<'_>, address: &[u8], _wait: Patience) -> Result<()> {
        let sock = &self.0;
        if u32::from(family_of(address)?) == AF_UNSPEC {
            sock.names.lock().1 = None;
            sock.common.set_state(state::CLOSE);
        } else {
            let mut peer = Endpoint::parse(sock.common.family, address)?;
            peer.addr = or_loopback(peer.addr);
            let hop = sock.stack.route(peer.addr, sock.common.bound_dev.load(Relaxed))?;
            self.bind_ping(0)?;
            let mut names = sock.names.lock();
            if names.0.is_any() {
                names.0.addr = hop.src;
            }
            names.1 = Some(peer);
            sock.common.set_state(state::ESTABLISHED);
        }
        self.names_changed();
        Ok(())
    }

    fn local_name(&self) -> Result<Address> {
        Ok(self.0.names.lock().0.encode(self.0.common.family))
    }

    fn peer_name(&self) -> Result<Address> {
        let peer = self.0.names.lock().1.ok_or(Errno::ENOTCONN)?;
        Ok(peer.encode(self.0.common.family))
    }

    fn send(&self, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        let sock = &self.0;
        let len = message.data.remaining();
        if len > usize::from(u16::MAX) {
            return Err(Errno::EMSGSIZE);
        }
        sock.common.check_error()?;
        let to = match message.name {
            Some(name) => Endpoint::parse(sock.common.family, name)?,
            None => sock.names.lock().1.ok_or(Errno::EDESTADDRREQ)?,
        };
        let dst = or_loopback(to.addr);
        let own = Ancillary::of(&message.control, dst, &sock.stack)?;
        let oif = match sock.common.bound_dev.load(Relaxed) {
            0 => own.device,
            bound => bound,
        };
        let hop = sock.stack.route(dst, oif)?;
        if sock.stack.is_broadcast(dst) && !sock.common.has(flag::BROADCAST) {
            return Err(Errno::EACCES);
        }
        let mut data = take_bytes(message.data, len)?;
        let local = sock.names.lock().0;
        let bound = if local.is_any() { hop.src } else { local.addr };
        let src = own.src.unwrap_or(bound);
        let id = sock.stack.next_id.fetch_add(1, Relaxed);
        let packet = if sock.options.header_included.load(Relaxed) {
            complete_header(&mut data, src, id)?;
            data
        } else {
            if sock.is_ping() {
                self.bind_ping(0)?;
                fill_echo(&mut data, sock.protocol, sock.names.lock().0.port)?;
            }
            if let (Ok(offset), IpAddress::Ipv6(_)) =
                (usize::try_from(sock.checksum.load(Relaxed)), dst)
            {
                fill_checksum(&mut data, offset, sock.protocol, src, dst)?;
            }
            let header = Header {
                src,
                dst,
                protocol: sock.protocol,
                ttl: own.hops(&sock.options, dst),
                tos: own.tos(&sock.options),
            };
            ip::build(&header, id, &[&data])?
        };
        ip::output(&sock.stack, &hop, packet)?;
        kick();
        Ok(len)
    }

    fn receive(&self, message: &mut RecvMsg<'_, '_>) -> Result<usize> {
        let sock = &self.0;
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let received = sock.queue.receive(&sock.common, message)?;
        let Some((datagram, n)) = received else { return Ok(0) };
        receive_options(&sock.options, message, &datagram)?;
        Ok(n)
    }

    fn shutdown(&self, how: u32) -> Result<()> {
        if self.0.names.lock().1.is_none() {
            return Err(Errno::ENOTCONN);
        }
        self.0.common.shutdown.fetch_or(how, Relaxed);
        self.0.common.wake_all();
        Ok(())
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollFlags {
        poll_datagrams(&self.0.common, &self.0.queue, table)
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if (level, name) == (SOL_RAW, ICMP_FILTER) {
            let bits = value.first_chunk().ok_or(Errno::EINVAL)?;
            self.0.filter[0].store(u32::from_ne_bytes(*bits), Relaxed);
            return Ok(());
        }
        if self.0.is_filter_v6(level, name) {
            return self.0.set_filter_v6(value);
        }
        if self.0.is_checksum_option(level, name) {
            return self.0.set_checksum(level, value);
        }
        self.0.options.set(level, name, value, false)
    }

    fn get_option(&self, level: u32, name: u32, value: &mut OptionValue) -> Result<()> {
        if (level, name) == (SOL_RAW, ICMP_FILTER) {
            return value.set_int(self.0.filter[0].load(Relaxed) as i32);
        }
        if self.0.is_filter_v6(level, name) {
            let mut bytes = [0; 4 * FILTER_WORDS];
            for (bytes, word) in bytes.chunks_exact_mut(4).zip(&self.0.filter) {
                bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
            }
            return value.set(&bytes);
        }
        if self.0.is_checksum_option(level, name) {
            return value.set_int(self.0.checksum.load(Relaxed));
        }
        self.0.options.get(level, name, value)
    }

    fn ioctl(&self, cmd: u32, arg: u64) -> Result<usize> {
        ioctl_datagrams(&self.0.common, &self.0.queue, cmd, arg)
    }

    fn release(&self) {
        let sock = &self.0;
        sock.stack.raw.lock().sockets.retain(|there| !Ref::ptr_eq(there, sock));
        sock.common.shutdown.store(SHUT_RECEIVE | SHUT_SEND, Relaxed);
        sock.queue.clear(&sock.common);
    }
}

/// What the kernel fills in of a header that a program made (raw(7)).
fn complete_header(packet: &mut [u8], src: IpAddress, id: u16) -> Result<()> {
    let len = packet.len();
    if len < ip::IPV4_HEADER || usize::from(packet[0] & 0xf) * 4 > len {
        return Err(Errno::EINVAL);
    }
    if packet[0] >> 4 != 4 {
        return Ok(());
    }
    let mut header = Ipv4Packet::new_unchecked(packet);
    if header.header_len() < ip::IPV4_HEADER as u8 {
        return Err(Errno::EINVAL);
    }
    header.set_total_len(len as u16);
    if header.ident() == 0 {
        header.set_ident(id);
    }
    if let IpAddress::Ipv4(src) = src
        && header.src_addr().is_unspecified()
    {
        header.set_src_addr(src);
    }
    header.fill_checksum();
    Ok(())
}

/// Puts the checksum of IPv6 at `offset`; `EINVAL` if the data ends before.
fn fill_checksum(
    data: &mut [u8],
    offset: usize,
    protocol: u8,
    src: IpAddress,
    dst: IpAddress,
) -> Result<()> {
    let len = data.len() as u32;
    data.get_mut(offset..offset + 2).ok_or(Errno::EINVAL)?.fill(0);
    let pseudo = checksum::pseudo_header(&src, &dst, IpProtocol::from(protocol), len);
    let sum = !checksum::combine(&[pseudo, checksum::data(data)]);
    data[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// An echo request of a ping socket: only that may be sent, and the identifier is the socket's.
fn fill_echo(data: &mut [u8], protocol: u8, id: u16) -> Result<()> {
    let request = if protocol == ip::ICMP { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    if data.len() < 8 || data[0] != request || data[1] != 0 {
        return Err(Errno::EINVAL);
    }
    data[4..6].copy_from_slice(&id.to_be_bytes());
    data[2..4].fill(0);
    if protocol == ip::ICMP {
        let sum = !checksum::data(data);
        data[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// A packet came: everybody who wants it gets a copy. True if somebody did.
pub fn input(stack: &Stack, received: &Received<'_>) -> bool {
    let receivers: Vec<_> = {
        let table = stack.raw.lock();
        if table.sockets.is_empty() {
            return false;
        }
        let wanting = table.sockets.iter().filter(|sock| sock.wants(received));
        try_collect(wanting.cloned()).unwrap_or_default()
    };
    for sock in &receivers {
        // Raw IPv4 sockets see the header; the others do not.
        let whole = sock.common.family == AF_INET && !sock.is_ping();
        let bytes = if whole { received.packet } else { received.payload() };
        let protocol = received.protocol();
        let packet = Packet { bytes, protocol, device: received.device, kind: FOR_HOST };
        let Some(kept) = sock.common.filter(&packet, 1) else { continue };
        let Ok(bytes) = crate::mm::try_to_vec(&bytes[..kept]) else { continue };
        let datagram = Datagram {
            bytes,
            start: 0,
            from: Endpoint::new(received.header.src, 0).encode(sock.common.family),
            to: Some(Endpoint::new(received.header.dst, 0)),
            device: received.device,
            ttl: received.header.ttl,
            tos: received.header.tos,
            time: stamp_for(&sock.common),
        };
        sock.queue.push(&sock.common, datagram);
    }
    !receivers.is_empty()
}
