//! [`Core`]: one connection. smoltcp's interface, made for a single socket and address, turns segments
//! and time into segments; our wire takes them straight to the namespace's IP layer.

use alloc::vec::Vec;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, TcpPacket, TcpSeqNumber};

use crate::drivers::random;
use crate::errno::{Errno, Result};
use crate::net::inet::ip;
use crate::net::inet::route::Hop;
use crate::net::inet::stack::Stack;
use crate::net::message::try_zeroed;
use crate::sched::clock::monotonic_ns;
use crate::sync::SpinLock;

/// The longest segment, headers included, on a link that would take longer ones.
const LONGEST: usize = 16 * 1024 + 40;

/// Where a segment is made if there is no memory for it: it is lost, as segments may be.
static NO_MEMORY: SpinLock<[u8; LONGEST]> = SpinLock::new([0; LONGEST]);

/// A connection.
pub struct Core {
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// How its segments leave.
    hop: Hop,
    sent: Sent,
}

/// Numbers of the segments that were sent.
#[derive(Default)]
struct Sent {
    /// The one behind the last byte.
    until: Option<TcpSeqNumber>,
    /// The last one that was acknowledged.
    acknowledged: Option<TcpSeqNumber>,
}

/// The time as smoltcp counts it.
pub fn now() -> Instant {
    Instant::from_micros((monotonic_ns() / 1000) as i64)
}

/// What the connection is plugged into for the length of one call.
struct Wire<'a> {
    stack: &'a Stack,
    hop: &'a Hop,
    incoming: Option<&'a [u8]>,
    unreachable: bool,
    sent: &'a mut Sent,
}

struct Incoming<'a>(&'a [u8]);

/// What a segment that leaves needs, while the one that came is still held.
struct Answer<'w> {
    stack: &'w Stack,
    hop: &'w Hop,
    unreachable: &'w mut bool,
    sent: &'w mut Sent,
}

impl Answer<'_> {
    /// Counts a segment that leaves.
    fn count(&mut self, packet: &[u8]) {
        let counts = &self.stack.counters.segments;
        let header_len = if packet[0] >> 4 == 4 { ip::IPV4_HEADER } else { ip::IPV6_HEADER };
        let segment = TcpPacket::new_unchecked(&packet[header_len..]);
        if segment.rst() {
            counts.out_rsts.count();
        }
        let len = segment.segment_len();
        let end = segment.seq_number() + len;
        if len > 0 && self.sent.until.is_some_and(|sent| end <= sent) {
            counts.retrans_segs.count();
        } else {
            counts.out_segs.count();
            self.sent.until = Some(end);
        }
        if segment.ack() {
            self.sent.acknowledged = Some(segment.ack_number());
        }
    }
}

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Answer<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        let Ok(mut packet) = try_zeroed(len) else {
            let mut emergency = NO_MEMORY.lock();
            return f(&mut emergency[..len.min(LONGEST)]);
        };
        let result = f(&mut packet);
        self.count(&packet);
        *self.unreachable |= ip::output(self.stack, self.hop, packet).is_err();
        result
    }
}

impl Wire<'_> {
    fn answer(&mut self) -> Answer<'_> {
        let Self { stack, hop, ref mut unreachable, ref mut sent, .. } = *self;
        Answer { stack, hop, unreachable, sent }
    }
}

impl<'a> Device for Wire<'a> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Answer<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Answer<'_>)> {
        let packet = self.incoming.take()?;
        Some((Incoming(packet), self.answer()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Answer<'_>> {
        Some(self.answer())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = (self.hop.device.mtu() as usize).min(LONGEST);
        // What comes in was checked before it came here; what stays in the machine needs no sums.
        capabilities.checksum = ChecksumCapabilities::ignored();
        if !self.hop.local {
            capabilities.checksum.ipv4 = Checksum::Tx;
            capabilities.checksum.tcp = Checksum::Tx;
        }
        capabilities
    }
}

impl Core {
    /// A connection of `local`, whose segments leave over `hop`, with buffers of these sizes.
    pub fn new(
        stack: &Stack,
        local: IpAddress,
        hop: Hop,
        receive: usize,
        send: usize,
    ) -> Result<Self> {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random::random_u64();
        let mut sent = Sent::default();
        let mut wire =
            Wire { stack, hop: &hop, incoming: None, unreachable: false, sent: &mut sent };
        let mut iface = Interface::new(config, &mut wire, now());
        // With an empty prefix every address is on the link: where packets go is not its business.
        iface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(local, 0));
        });
        let mut storage: Vec<SocketStorage<'static>> = Vec::new();
        storage.try_reserve_exact(1).map_err(|_| Errno::ENOBUFS)?;
        storage.push(SocketStorage::EMPTY);
        let buffer = |len| try_zeroed(len).map(SocketBuffer::new).map_err(|_| Errno::ENOBUFS);
        let mut socket = Socket::new(buffer(receive)?, buffer(send)?);
        socket.set_congestion_control(CongestionControl::Reno);
        let mut sockets = SocketSet::new(storage);
        let handle = sockets.add(socket);
        Ok(Self { iface, sockets, handle, hop, sent })
    }

    /// The state machine.
    #[inline]
    pub fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    /// The state machine, to change it.
    #[inline]
    pub fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// The numbers behind the last byte that was sent and the last one that was acknowledged.
    pub fn last_sent(&self) -> Option<(TcpSeqNumber, TcpSeqNumber)> {
        self.sent.until.zip(self.sent.acknowledged)
    }

    /// How its segments leave.
    pub fn hop(&self) -> Hop {
        self.hop.clone()
    }

    /// Begins to connect.
    pub fn connect(&mut self, local: (IpAddress, u16), remote: (IpAddress, u16)) -> Result<()> {
        let socket: &mut Socket<'static> = self.sockets.get_mut(self.handle);
        socket.connect(self.iface.context(), remote, local).map_err(|_| Errno::EADDRNOTAVAIL)
    }

    /// Takes a segment in, if there is one, and sends what is to be sent. False if nobody on the link has the
    /// other side's address.
    pub fn poll(&mut self, stack: &Stack, incoming: Option<&[u8]>) -> bool {
        let sent = &mut self.sent;
        let mut wire = Wire { stack, hop: &self.hop, incoming, unreachable: false, sent };
        self.iface.poll(now(), &mut wire, &mut self.sockets);
        !wire.unreachable
    }

    /// When it wants to be polled again, in ns of CLOCK_MONOTONIC.
    pub fn next_poll(&mut self) -> Option<u64> {
        let at = self.iface.poll_at(now(), &self.sockets)?;
        Some((at.total_micros().max(0) as u64).saturating_mul(1000))
    }
}
