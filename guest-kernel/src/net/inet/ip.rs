//! IP itself: building packets and sending them off, taking them in and handing them to who waits for
//! them; ICMP echo and errors (RFC 791, RFC 8200, RFC 792, RFC 4443).

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

use super::route::Hop;
use super::stack::Stack;
use super::{fragment, neighbour, raw, tcp, udp};
use crate::errno::{Errno, Result};
use crate::mm::{try_collect, try_to_vec};
use crate::net::dev::{Mac, NetDevice};

/// EtherType of IPv4.
pub const ETH_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETH_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETH_IPV6: u16 = 0x86dd;

/// Hops that a packet may make unless its sender says otherwise.
pub const DEFAULT_TTL: u8 = 64;

/// Bytes of an Ethernet header.
pub const ETH_HEADER: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_HEADER: usize = 40;

/// `IPPROTO_ICMP`.
pub const ICMP: u8 = 1;
/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;
/// `IPPROTO_ICMPV6`.
pub const ICMPV6: u8 = 58;

/// What goes into a packet's header.
#[derive(Clone, Copy)]
pub struct Header {
    /// From.
    pub src: IpAddress,
    /// To; of the same version.
    pub dst: IpAddress,
    /// What it carries.
    pub protocol: u8,
    /// Hops that it may make.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
}

/// A packet that is being received.
pub struct Received<'a> {
    /// What its header says.
    pub header: Header,
    /// All of it.
    pub packet: &'a [u8],
    /// Bytes of its header.
    pub header_len: usize,
    /// The number of the device that it came over.
    pub device: u32,
    /// Sums need not be checked: it never left this machine.
    pub trusted: bool,
}

impl Received<'_> {
    /// What it carries.
    pub fn payload(&self) -> &[u8] {
        &self.packet[self.header_len..]
    }

    /// Its protocol's number in a link header.
    pub fn protocol(&self) -> u16 {
        if matches!(self.header.dst, IpAddress::Ipv4(_)) { ETH_IPV4 } else { ETH_IPV6 }
    }
}

/// Bytes of the header for an address of this version.
pub fn header_len(address: IpAddress) -> usize {
    if matches!(address, IpAddress::Ipv4(_)) { IPV4_HEADER } else { IPV6_HEADER }
}

/// Bytes of the header of a packet; `None` if it is none.
pub fn header_len_of(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => Some(usize::from(packet[0] & 0xf) * 4),
        6 => Some(IPV6_HEADER),
        _ => None,
    }
}

/// A packet with this header, IPv4 number and pieces of payload.
pub fn build(header: &Header, id: u16, pieces: &[&[u8]]) -> Result<Vec<u8>> {
    let payload: usize = pieces.iter().map(|piece| piece.len()).sum();
    let start = header_len(header.dst);
    let total = start + payload;
    let mut packet = crate::net::message::try_zeroed(total)?;
    match (header.src, header.dst) {
        (IpAddress::Ipv4(src), IpAddress::Ipv4(dst)) => {
            if total > usize::from(u16::MAX) {
                return Err(Errno::EMSGSIZE);
            }
            let mut ip = Ipv4Packet::new_unchecked(&mut packet[..]);
            ip.set_version(4);
            ip.set_header_len(IPV4_HEADER as u8);
            ip.set_dscp(header.tos >> 2);
            ip.set_ecn(header.tos & 3);
            ip.set_total_len(total as u16);
            ip.set_ident(id);
            ip.clear_flags();
            ip.set_hop_limit(header.ttl);
            ip.set_next_header(IpProtocol::from(header.protocol));
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
            ip.fill_checksum();
        }
        (IpAddress::Ipv6(src), IpAddress::Ipv6(dst)) => {
            if payload > usize::from(u16::MAX) {
                return Err(Errno::EMSGSIZE);
            }
            let mut ip = Ipv6Packet::new_unchecked(&mut packet[..]);
            ip.set_version(6);
            ip.set_traffic_class(header.tos);
            ip.set_payload_len(payload as u16);
            ip.set_next_header(IpProtocol::from(header.protocol));
            ip.set_hop_limit(header.ttl);
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
        }
        _ => return Err(Errno::EINVAL),
    }
    let mut at = start;
    for piece in pieces {
        packet[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    Ok(packet)
}

/// Sends a packet off. `EHOSTUNREACH` if nobody on the link has the address. Call
/// [`kick`](super::stack::kick) afterwards, without locks.
pub fn output(stack: &Stack, hop: &Hop, packet: Vec<u8>) -> Result<()> {
    stack.counters.note_output(&packet);
    if hop.local {
        stack.enqueue_packet(packet);
        return Ok(());
    }
    let mtu = hop.device.mtu() as usize;
    if packet.len() > mtu {
        let counts = stack.counters.ip(hop.next);
        let pieces = fragment::split(&packet, mtu);
        if let Some(counts) = counts {
            match &pieces {
                Ok(pieces) => {
                    counts.frag_oks.count();
                    counts.frag_creates.add(pieces.len());
                }
                Err(_) => counts.frag_fails.count(),
            }
        }
        for piece in pieces? {
            stack.send_on_link(&hop.device, hop.next, piece)?;
        }
        return Ok(());
    }
    let to_all = stack.is_broadcast(hop.next) || hop.next.is_multicast();
    let copy = if to_all { try_to_vec(&packet).ok() } else { None };
    stack.send_on_link(&hop.device, hop.next, packet)?;
    if let Some(copy) = copy {
        // What is said to all is heard here too.
        stack.enqueue_packet(copy);
    }
    Ok(())
}

/// Sends an Ethernet frame, and shows it to packet sockets.
pub fn send_frame(stack: &Stack, device: &NetDevice, to: Mac, kind: u16, payload: &[u8]) {
    let mut frame = Vec::new();
    if frame.try_reserve_exact(ETH_HEADER + payload.len()).is_err() {
        device.stats.tx_dropped.fetch_add(1, Relaxed);
        return;
    }
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&*device.mac.lock());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(payload);
    crate::net::packet::tap(stack, device, &frame, true);
    device.transmit(frame);
}

/// A frame came over a device.
pub fn input_frame(stack: &Stack, device: &NetDevice, frame: Vec<u8>) {
    let Some((head, payload)) = frame.split_at_checked(ETH_HEADER) else { return };
    crate::net::packet::tap(stack, device, &frame, false);
    let to_group = head[0] & 1 != 0;
    if !to_group && head[..6] != *device.mac.lock() {
        return;
    }
    match u16::from_be_bytes([head[12], head[13]]) {
        ETH_ARP => neighbour::input_arp(stack, device, payload),
        ETH_IPV4 | ETH_IPV6 => input(stack, device, payload, false),
        _ => {}
    }
}

/// A packet came over loopback.
pub fn input_loopback(stack: &Stack, packet: Vec<u8>) {
    if let Some(lo) = stack.loopback() {
        if stack.packet.lock().has_taps() {
            let v4 = packet.first().is_some_and(|b| b >> 4 == 4);
            let kind = (if v4 { ETH_IPV4 } else { ETH_IPV6 }).to_be_bytes();
            let bytes = [0; 12].into_iter().chain(kind).chain(packet.iter().copied());
            if let Ok(frame) = try_collect(bytes) {
                // It left here, too: who listens sees it twice, and is told which is which.
                for outgoing in [true, false] {
                    crate::net::packet::tap(stack, &lo, &frame, outgoing);
                }
            }
        }
        input(stack, &lo, &packet, true);
    }
}

fn input(stack: &Stack, device: &NetDevice, packet: &[u8], trusted: bool) {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => input_v4(stack, device, packet, trusted),
        Some(6) => input_v6(stack, device, packet, trusted),
        _ => {}
    }
}

fn input_v4(stack: &Stack, device: &NetDevice, packet: &[u8], trusted: bool) {
    let counts = &stack.counters.ip;
    counts.in_receives.count();
    let Ok(ip) = Ipv4Packet::new_checked(packet) else { return counts.in_hdr_errors.count() };
    if ip.version() != 4 || !(trusted || ip.verify_checksum()) {
        return counts.in_hdr_errors.count();
    }
    let packet = &packet[..usize::from(ip.total_len())];
    let header_len = usize::from(ip.header_len());
    let header = Header {
        src: ip.src_addr().into(),
        dst: ip.dst_addr().into(),
        protocol: ip.next_header().into(),
        ttl: ip.hop_limit(),
        tos: ip.dscp() << 2 | ip.ecn(),
    };
    // Loopback addresses never come over a wire (RFC 1122, 3.2.1.3).
    let outside = !device.is_loopback();
    if outside && (ip.src_addr().is_loopback() || ip.dst_addr().is_loopback()) {
        return counts.in_addr_errors.count();
    }
    let to_all = stack.is_broadcast(header.dst) || header.dst.is_multicast();
    if !to_all && !stack.is_local(header.dst) {
        return counts.in_addr_errors.count();
    }
    if ip.more_frags() || ip.frag_offset() != 0 {
        counts.reasm_reqds.count();
        let whole = stack.fragments.lock().add(&ip, counts);
        if whole.is_err() {
            counts.reasm_fails.count();
        }
        if let Ok(Some(whole)) = whole {
            counts.reasm_oks.count();
            let header_len = IPV4_HEADER;
            deliver(
                stack,
                device,
                &Received { header, packet: &whole, header_len, device: device.index(), trusted },
                to_all,
            );
        }
        return;
    }
    let received = Received { header, packet, header_len, device: device.index(), trusted };
    deliver(stack, device, &received, to_all);
}

fn input_v6(stack: &Stack, device: &NetDevice, packet: &[u8], trusted: bool) {
    let Ok(ip) = Ipv6Packet::new_checked(packet) else { return };
    if ip.version() != 6 {
        return;
    }
    let packet = &packet[..ip.total_len()];
    let header = Header {
        src: ip.src_addr().into(),
        dst: ip.dst_addr().into(),
        protocol: ip.next_header().into(),
        ttl: ip.hop_limit(),
        tos: ip.traffic_class(),
    };
    let to_all = header.dst.is_multicast();
    if !to_all && !stack.is_local(header.dst) {
        return;
    }
    let received =
        Received { header, packet, header_len: IPV6_HEADER, device: device.index(), trusted };
    deliver(stack, device, &received, to_all);
}

/// Hands a packet for this machine to who waits for it.
fn deliver(stack: &Stack, device: &NetDevice, received: &Received<'_>, to_all: bool) {
    let header = &received.header;
    let counts = stack.counters.ip(header.dst);
    let taken = raw::input(stack, received);
    let known = matches!(header.protocol, TCP | UDP | ICMP | ICMPV6);
    if let Some(counts) = counts {
        if taken || known {
            counts.in_delivers.count();
        } else {
            counts.in_unknown_protos.count();
        }
    }
    match header.protocol {
        TCP => input_tcp(stack, received, to_all),
        UDP => input_udp(stack, received, to_all),
        ICMP => input_icmp(stack, received, to_all),
        ICMPV6 => input_icmpv6(stack, device, received),
        _ if !taken && !to_all => send_error(stack, received, Unreachable::Protocol),
        _ => {}
    }
}

fn input_tcp(stack: &Stack, received: &Received<'_>, to_all: bool) {
    let header = &received.header;
    let counts = &stack.counters.segments;
    // Said to all, it is for nobody.
    if to_all {
        return;
    }
    counts.in_segs.count();
    let Ok(segment) = TcpPacket::new_checked(received.payload()) else {
        return counts.in_errs.count();
    };
    if !received.trusted && !segment.verify_checksum(&header.src, &header.dst) {
        counts.in_csum_errors.count();
        return counts.in_errs.count();
    }
    tcp::table::input(stack, received, &segment);
}

fn input_udp(stack: &Stack, received: &Received<'_>, to_all: bool) {
    let header = &received.header;
    let counts = stack.counters.udp(header.dst);
    let Ok(datagram) = UdpPacket::new_checked(received.payload()) else {
        return counts.map_or((), |counts| counts.in_errors.count());
    };
    if !received.trusted && !datagram.verify_checksum(&header.src, &header.dst) {
        if let Some(counts) = counts {
            counts.in_csum_errors.count();
            counts.in_errors.count();
        }
        return;
    }
    if udp::input(stack, received, &datagram, to_all) {
        return;
    }
    if let Some(counts) = counts {
        if to_all {
            counts.ignored_multi.count();
        } else {
            counts.no_ports.count();
        }
    }
    if !to_all {
        send_error(stack, received, Unreachable::Port);
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    !smoltcp::wire::checksum::data(bytes)
}

fn input_icmp(stack: &Stack, received: &Received<'_>, to_all: bool) {
    const ECHO_REPLY: u8 = 0;
    const UNREACHABLE: u8 = 3;
    const ECHO_REQUEST: u8 = 8;
    let payload = received.payload();
    let counters = &stack.counters;
    let &[kind, code, _, _, _, _, _, _, ..] = payload else {
        return counters.icmp.in_errors.count();
    };
    if !received.trusted && checksum(payload) != 0 {
        counters.icmp.in_csum_errors.count();
        return counters.icmp.in_errors.count();
    }
    counters.icmp_in.count(kind);
    match kind {
        ECHO_REQUEST => {
            let Ok(mut answer) = try_to_vec(payload) else { return };
            answer[0] = ECHO_REPLY;
            answer[2..4].fill(0);
            let sum = checksum(&answer);
            answer[2..4].copy_from_slice(&sum.to_be_bytes());
            reply(stack, received, ICMP, &answer, to_all);
        }
        UNREACHABLE => {
            let error = match code {
                0 => Errno::ENETUNREACH,
                1 => Errno::EHOSTUNREACH,
                2 => Errno::ENOPROTOOPT,
                3 => Errno::ECONNREFUSED,
                4 => Errno::EMSGSIZE,
                _ => Errno::EHOSTUNREACH,
            };
            // What it is about lies behind the eight bytes of its head.
            let about = &payload[8..];
            if let Ok(ip) = Ipv4Packet::new_checked(about)
                .or_else(|_| Ok::<_, ()>(Ipv4Packet::new_unchecked(about)))
                && about.len() >= IPV4_HEADER + 4
                && about.len() >= usize::from(ip.header_len()) + 4
            {
                let ports = &about[usize::from(ip.header_len())..];
                let (src, dst) = (ip.src_addr().into(), ip.dst_addr().into());
                report(stack, ip.next_header().into(), src, dst, ports, error);
            }
        }
        _ => {}
    }
}

/// Tells the socket that sent from `src` to `dst` of an error; `ports` are the first bytes of its payload.
fn report(stack: &Stack, protocol: u8, src: IpAddress, dst: IpAddress, ports: &[u8], error: Errno) {
    let &[a, b, c, d, ..] = ports else { return };
    let local = (src, u16::from_be_bytes([a, b]));
    let remote = (dst, u16::from_be_bytes([c, d]));
    match protocol {
        UDP => udp::report(stack, local, remote, error),
        TCP => tcp::table::report(stack, local, remote, error),
        _ => {}
    }
}

fn input_icmpv6(stack: &Stack, device: &NetDevice, received: &Received<'_>) {
    let (IpAddress::Ipv6(src), IpAddress::Ipv6(dst)) = (received.header.src, received.header.dst)
    else {
        return;
    };
    let payload = received.payload();
    let Ok(packet) = Icmpv6Packet::new_checked(payload) else { return };
    let capabilities = if received.trusted {
        ChecksumCapabilities::ignored()
    } else {
        ChecksumCapabilities::default()
    };
    let Ok(repr) = Icmpv6Repr::parse(&src, &dst, &packet, &capabilities) else { return };
    match repr {
        Icmpv6Repr::EchoRequest { ident, seq_no, data } => {
            let answer = Icmpv6Repr::EchoReply { ident, seq_no, data };
            let Ok(mut bytes) = crate::net::message::try_zeroed(answer.buffer_len()) else {
                return;
            };
            let mut packet = Icmpv6Packet::new_unchecked(&mut bytes);
            answer.emit(&dst, &src, &mut packet, &ChecksumCapabilities::default());
            reply(stack, received, ICMPV6, &bytes, dst.is_multicast());
        }
        Icmpv6Repr::DstUnreachable { header, data, .. } => {
            let (src, dst) = (header.src_addr.into(), header.dst_addr.into());
            report(stack, header.next_header.into(), src, dst, data, Errno::ECONNREFUSED);
        }
        Icmpv6Repr::Ndisc(ndisc) if received.header.ttl == 255 => {
            neighbour::input_ndisc(stack, device, src, dst, &ndisc);
        }
        _ => {}
    }
}

/// Answers a packet with one of the same protocol.
fn reply(stack: &Stack, received: &Received<'_>, protocol: u8, payload: &[u8], to_all: bool) {
    let Ok(hop) = stack.route(received.header.src, 0) else { return };
    let src = if to_all { hop.src } else { received.header.dst };
    let header = Header { src, dst: received.header.src, protocol, ttl: DEFAULT_TTL, tos: 0 };
    let id = stack.next_id.fetch_add(1, Relaxed);
    if let Ok(packet) = build(&header, id, &[payload]) {
        let _ = output(stack, &hop, packet);
    }
}

/// Why a packet could not be delivered.
#[derive(Clone, Copy, PartialEq)]
pub enum Unreachable {
    /// Nobody has the port.
    Port,
    /// Nobody knows the protocol.
    Protocol,
}

/// Tells the sender that its packet reached nobody (RFC 792; RFC 4443, 3.1).
fn send_error(stack: &Stack, received: &Received<'_>, why: Unreachable) {
    /// A packet with an error stays below the smallest MTU of its version.
    const MOST: [usize; 2] = [576 - IPV4_HEADER - 8, 1280 - IPV6_HEADER - 8];
    let v4 = matches!(received.header.dst, IpAddress::Ipv4(_));
    let (kind, code, protocol) = match (v4, why) {
        (true, Unreachable::Port) => (3, 3, ICMP),
        (true, Unreachable::Protocol) => (3, 2, ICMP),
        (false, Unreachable::Port) => (1, 4, ICMPV6),
        (false, Unreachable::Protocol) => return,
    };
    let about = &received.packet[..received.packet.len().min(MOST[usize::from(!v4)])];
    let head = [kind, code, 0, 0, 0, 0, 0, 0];
    let Ok(mut bytes) = try_collect(head.into_iter().chain(about.iter().copied())) else { return };
    match (received.header.src, received.header.dst) {
        (IpAddress::Ipv6(src), IpAddress::Ipv6(dst)) => {
            Icmpv6Packet::new_unchecked(&mut bytes).fill_checksum(&dst, &src);
        }
        _ => {
            let sum = checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        }
    }
    reply(stack, received, protocol, &bytes, false);
}
