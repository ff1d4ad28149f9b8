//! Which socket a segment is for: connections by both ends, listeners by port, and who holds which port.

use alloc::vec::Vec;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::sock::TcpSock;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::common::state;
use crate::net::filter::{FOR_HOST, Packet};
use crate::net::inet::endpoint::{Endpoint, overlap, takes};
use crate::net::inet::ip::{self, Header, Received};
use crate::net::inet::ports::{self, ByPort};
use crate::net::inet::route::Hop;
use crate::net::inet::stack::Stack;
use crate::ordmap::OrdMap;

type Pair = ((IpAddress, u16), (IpAddress, u16));

/// The TCP sockets of a namespace.
#[derive(Default)]
pub struct TcpTable {
    connections: OrdMap<Pair, Ref<TcpSock>>,
    listeners: ByPort<TcpSock>,
    /// Who holds a port: every socket that has one.
    ports: ByPort<TcpSock>,
}

fn pair(local: Endpoint, peer: Endpoint) -> Pair {
    ((local.addr, local.port), (peer.addr, peer.port))
}

impl TcpTable {
    /// Every socket that has a port.
    pub fn all(&self) -> Result<Vec<Ref<TcpSock>>> {
        self.ports.all()
    }

    /// Takes `port` at `addr` for `sock`, or with 0 any free one.
    pub fn take_port(&mut self, sock: &TcpSock, addr: IpAddress, port: u16) -> Result<u16> {
        let conflicts = |there: &Ref<TcpSock>| {
            let theirs = there.names.lock().local.addr;
            let listens = there.common.state() == state::LISTEN;
            overlap(addr, sock.dual(), theirs, there.dual())
                && !ports::may_share(&sock.common, &there.common, listens)
        };
        let port = match port {
            0 => ports::ephemeral(|port| self.ports.of(port).is_empty())?,
            port if self.ports.of(port).iter().any(conflicts) => {
                return Err(Errno::EADDRINUSE);
            }
            port => port,
        };
        self.ports.add(port, sock.to_ref())?;
        Ok(port)
    }

    /// Shares the port of a listener with one of its connections.
    pub fn share_port(&mut self, sock: &TcpSock, port: u16) -> Result<()> {
        self.ports.add(port, sock.to_ref())
    }

    /// Gives a port back.
    pub fn give_port(&mut self, sock: &TcpSock, port: u16) -> Option<Ref<TcpSock>> {
        self.ports.remove(port, sock)
    }

    /// Adds a connection; `EADDRNOTAVAIL` if there is one between the same ends.
    pub fn connect(&mut self, sock: &TcpSock, local: Endpoint, peer: Endpoint) -> Result<()> {
        let key = pair(local, peer);
        if self.connections.contains_key(&key) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        self.connections.try_insert(key, sock.to_ref()).map(drop)
    }

    /// Adds a listener; `EADDRINUSE` if another one has the place and does not share it.
    pub fn listen(&mut self, sock: &TcpSock, local: Endpoint) -> Result<()> {
        let clash = self.listeners.of(local.port).iter().any(|other| {
            let theirs = other.names.lock().local.addr;
            overlap(local.addr, sock.dual(), theirs, other.dual())
                && !ports::may_share(&sock.common, &other.common, true)
        });
        if clash {
            return Err(Errno::EADDRINUSE);
        }
        self.listeners.add(local.port, sock.to_ref())
    }

    /// Takes a listener off.
    pub fn unlisten(&mut self, sock: &TcpSock, port: u16) -> Option<Ref<TcpSock>> {
        self.listeners.remove(port, sock)
    }

    fn disconnect(&mut self, sock: &TcpSock, key: &Pair) -> Option<Ref<TcpSock>> {
        let there = self.connections.get(key)?;
        if core::ptr::eq(&**there, sock) { self.connections.remove(key) } else { None }
    }

    fn connection(&self, local: (IpAddress, u16), peer: (IpAddress, u16)) -> Option<Ref<TcpSock>> {
        self.connections.get(&(local, peer)).cloned()
    }

    fn listener(&self, dst: IpAddress, port: u16) -> Option<Ref<TcpSock>> {
        let there = self.listeners.of(port).iter();
        let fits = there.filter(|sock| takes(sock.names.lock().local.addr, sock.dual(), dst));
        fits.max_by_key(|sock| !sock.names.lock().local.is_any()).cloned()
    }
}

/// The connection of a socket is over: nothing finds it any more, and its port is free unless the program
/// gave it.
pub fn forget_connection(sock: &TcpSock) {
    let names = *sock.names.lock();
    let dead = sock.common.has(crate::net::common::flag::DEAD);
    let mut gone = (None, None);
    {
        let mut table = sock.stack.tcp.lock();
        if let Some(peer) = names.peer {
            gone.0 = table.disconnect(sock, &pair(names.local, peer));
        }
        if dead {
            gone.1 = table.give_port(sock, names.local.port);
        }
    }
    drop(gone);
    sock.disarm();
}

/// A namespace goes: connections that nobody holds any more end here.
pub fn close_all(stack: &Stack) {
    let table = core::mem::take(&mut *stack.tcp.lock());
    for sock in table.connections.values() {
        sock.disarm();
    }
    drop(table);
}

/// A segment came.
pub fn input(stack: &Stack, received: &Received<'_>, segment: &TcpPacket<&[u8]>) {
    let header = &received.header;
    let local = (header.dst, segment.dst_port());
    let peer = (header.src, segment.src_port());
    let connection = stack.tcp.lock().connection(local, peer);
    let packet = Packet {
        bytes: segment.as_ref(),
        protocol: received.protocol(),
        device: received.device,
        kind: FOR_HOST,
    };
    let begins = segment.syn() && !segment.ack() && !segment.rst();
    let listener = if begins { stack.tcp.lock().listener(local.0, local.1) } else { None };
    // What is left of an old connection does not stand in the way of a new one, if somebody waits for one.
    let connection = connection.filter(|sock| listener.is_none() || !sock.give_way_to(segment));
    if let Some(sock) = connection {
        if sock.common.filter(&packet, 1).is_none() {
            return;
        }
        sock.poll(Some(received.packet));
        return;
    }
    if let Some(listener) = listener {
        if listener.common.filter(&packet, 1).is_some() {
            listener.handle_syn(received, local, peer);
        }
        return;
    }
    if !segment.rst() {
        send_reset(stack, received, segment);
    }
}

/// Answers a segment that is for nobody (RFC 9293, 3.10.7.1).
fn send_reset(stack: &Stack, received: &Received<'_>, segment: &TcpPacket<&[u8]>) {
    let (from, to) = (received.header.dst, received.header.src);
    let Ok(hop) = stack.route(to, 0) else { return };
    let (seq_number, ack_number) = if segment.ack() {
        (segment.ack_number(), None)
    } else {
        (TcpSeqNumber(0), Some(segment.seq_number() + segment.segment_len()))
    };
    let local = Endpoint::new(from, segment.dst_port());
    let peer = Endpoint::new(to, segment.src_port());
    send(stack, &hop, (local, peer), TcpControl::Rst, seq_number, ack_number);
}

/// Sends a segment without data, from the first end to the second.
pub fn send(
    stack: &Stack,
    hop: &Hop,
    (local, peer): (Endpoint, Endpoint),
    control: TcpControl,
    seq_number: TcpSeqNumber,
    ack_number: Option<TcpSeqNumber>,
) {
    let Ok(packet) = packet(local, peer, control, seq_number, ack_number) else { return };
    stack.counters.segments.out_segs.count();
    if control == TcpControl::Rst {
        stack.counters.segments.out_rsts.count();
    }
    let _ = ip::output(stack, hop, packet);
}

/// A packet with a segment without data, from the first end to the second.
pub(super) fn packet(
    local: Endpoint,
    peer: Endpoint,
    control: TcpControl,
    seq_number: TcpSeqNumber,
    ack_number: Option<TcpSeqNumber>,
) -> Result<Vec<u8>> {
    let repr = TcpRepr {
        src_port: local.port,
        dst_port: peer.port,
        control,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (src, dst) = (local.addr, peer.addr);
    let header = Header { src, dst, protocol: ip::TCP, ttl: ip::DEFAULT_TTL, tos: 0 };
    let mut packet = ip::build(&header, 0, &[&[0; 20]])?;
    let mut tcp = TcpPacket::new_unchecked(&mut packet[ip::header_len(dst)..]);
    repr.emit(&mut tcp, &src, &dst, &ChecksumCapabilities::default());
    Ok(packet)
}

/// An ICMP error came for a segment that went from `local` to `peer`.
pub fn report(stack: &Stack, local: (IpAddress, u16), peer: (IpAddress, u16), error: Errno) {
    let Some(sock) = stack.tcp.lock().connection(local, peer) else { return };
    // Only an attempt to connect ends by it; a connection that stands goes on (RFC 1122, 4.2.3.9).
    if sock.common.state() == state::SYN_SENT {
        sock.common.set_error(error);
        sock.with_core(|core| core.socket_mut().abort());
    }
}
