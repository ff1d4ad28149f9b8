//! UDP (udp(7)).

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use smoltcp::wire::{IpAddress, UdpPacket};

use super::AF_INET6;
use super::ancillary::{Ancillary, IPV6_HOPLIMIT};
use super::endpoint::{Endpoint, any, overlap, takes};
use super::ip::{self, Header, Received};
use super::options::{IP_TOS, IP_TTL, IPV6_TCLASS, IpOptions, SOL_IP, SOL_IPV6};
use super::ports::{self, ByPort};
use super::queue::{Datagram, Queue, packet_info, stamp_for};
use super::route::or_loopback;
use super::stack::{Stack, kick};
use crate::errno::{Errno, Result};
use crate::fs::{Caller, PollFlags, PollTable};
use crate::kref::Ref;
use crate::mm::{UserPtr, try_collect};
use crate::net::address::{Address, family_of};
use crate::net::common::{Common, Patience, SHUT_RECEIVE, SHUT_SEND, flag, state};
use crate::net::filter::{FOR_HOST, Packet};
use crate::net::message::{RecvMsg, SendMsg, take_bytes};
use crate::net::options::OptionValue;
use crate::net::socket::{Protocol, Socket};
use crate::net::{AF_UNSPEC, MsgFlags, NetNs, SOCK_DGRAM};
use crate::sync::SpinLock;

/// Bytes of a header.
const HEADER: usize = 8;
/// Level of UDP's own options.
const SOL_UDP: u32 = 17;

#[derive(Clone, Copy)]
struct State {
    /// Its address, or any.
    local: Endpoint,
    /// The address was given by bind(2), not found by connect(2).
    address_bound: bool,
    /// So was its port.
    port_bound: bool,
    peer: Option<Endpoint>,
}

impl State {
    /// True if its peer, which has any port if it was connected to port 0, is who is at `from`.
    fn is_connected_to(&self, from: (IpAddress, u16)) -> bool {
        self.peer.is_some_and(|peer| peer.addr == from.0 && (peer.port == 0 || peer.port == from.1))
    }
}

/// A UDP socket.
pub struct UdpSock {
    /// What every socket has.
    pub common: Ref<Common>,
    stack: Ref<Stack>,
    state: SpinLock<State>,
    /// What came.
    pub queue: Queue,
    options: IpOptions,
}

/// The UDP sockets of a namespace, by port.
#[derive(Default)]
pub struct UdpTable {
    ports: ByPort<UdpSock>,
}

impl UdpTable {
    /// All sockets that have a port.
    pub fn all(&self) -> Result<Vec<Ref<UdpSock>>> {
        self.ports.all()
    }
}

impl UdpSock {
    fn dual(&self) -> bool {
        self.common.family == AF_INET6 && !self.options.v6_only.load(Relaxed)
    }

    /// Its own and its peer's address, for `/proc`.
    pub fn endpoints(&self) -> (Endpoint, Option<Endpoint>) {
        let state = self.state.lock();
        (state.local, state.peer)
    }

    fn names_changed(&self) {
        let state = *self.state.lock();
        self.common.set_local(state.local.encode(self.common.family).bytes());
        match state.peer {
            Some(peer) => self.common.set_peer(peer.encode(self.common.family).bytes()),
            None => self.common.set_peer(&[]),
        }
    }

    /// Takes a port, or with 0 any free one; under the table's lock.
    fn take_port(this: &UdpRef, table: &mut UdpTable, addr: IpAddress, port: u16) -> Result<u16> {
        let conflicts = |port: u16| {
            table.ports.of(port).iter().any(|other| {
                let theirs = other.state.lock().local.addr;
                let device = |c: &Common| c.bound_dev.load(Relaxed);
                let (a, b) = (device(&this.common), device(&other.common));
                (a == b || a == 0 || b == 0)
                    && overlap(addr, this.dual(), theirs, other.dual())
                    && !ports::may_share(&this.common, &other.common, false)
            })
        };
        let port = match port {
            0 => ports::ephemeral(|port| table.ports.of(port).is_empty())?,
            port if conflicts(port) => return Err(Errno::EADDRINUSE),
            port => port,
        };
        table.ports.add(port, this.0.clone())?;
        Ok(port)
    }
}

/// A UDP socket that a file refers to.
pub struct UdpRef(Ref<UdpSock>);

impl core::ops::Deref for UdpRef {
    type Target = UdpSock;

    fn deref(&self) -> &UdpSock {
        &self.0
    }
}

/// socket(2).
pub fn create(net: &Ref<NetNs>, family: u32) -> Result<Socket> {
    let common = Common::new(net.clone(), family, SOCK_DGRAM, u32::from(ip::UDP))?;
    let sock = Ref::try_new(UdpSock {
        common: common.clone(),
        stack: net.stack.clone(),
        state: SpinLock::new(State {
            local: Endpoint::any(family),
            address_bound: false,
            port_bound: false,
            peer: None,
        }),
        queue: Queue::default(),
        options: IpOptions::default(),
    })?;
    Socket::new(common, UdpRef(sock))
}

impl UdpRef {
    fn bind_to(&self, addr: IpAddress, port: u16, scope: u32) -> Result<()> {
        let mut table = self.stack.udp.lock();
        if self.state.lock().local.port != 0 {
            return Err(Errno::EINVAL);
        }
        let port = UdpSock::take_port(self, &mut table, addr, port)?;
        self.state.lock().local = Endpoint { addr, port, scope };
        drop(table);
        self.names_changed();
        Ok(())
    }

    /// Gives it a port if it has none.
    fn autobind(&self) -> Result<()> {
        if self.state.lock().local.port == 0 {
            match self.bind_to(any(self.common.family), 0, 0) {
                Err(Errno::EINVAL) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Gives back a port that it did not ask for, as it is connected to nobody any more.
    fn give_back_port(&self) {
        let mut table = self.stack.udp.lock();
        let mut state = self.state.lock();
        if state.port_bound || state.local.port == 0 {
            return;
        }
        let port = core::mem::take(&mut state.local.port);
        drop(state);
        let gone = table.ports.remove(port, &self.0);
        drop(table);
        drop(gone);
    }

    fn send_datagram(&self, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        self.autobind()?;
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = message.data.remaining();
        if len > usize::from(u16::MAX) {
            return Err(Errno::EMSGSIZE);
        }
        let family = self.common.family;
        let to = match message.name {
            Some(name) => {
                let to = Endpoint::parse_lenient(family, name)?;
                if to.port == 0 {
                    return Err(Errno::EINVAL);
                }
                to
            }
            None => self.state.lock().peer.ok_or(Errno::EDESTADDRREQ)?,
        };
        if self.options.v6_only.load(Relaxed) && matches!(to.addr, IpAddress::Ipv4(_)) {
            return Err(Errno::ENETUNREACH);
        }
        let dst = or_loopback(to.addr);
        let local = self.state.lock().local;
        let own = Ancillary::of(&message.control, dst, &self.stack)?;
        let mut oif = self.common.bound_dev.load(Relaxed);
        if oif == 0 {
            oif = if own.device != 0 { own.device } else { to.scope };
        }
        if oif == 0 && dst.is_multicast() {
            oif = self.options.multicast_if.load(Relaxed);
        }
        let counters = &self.stack.counters;
        let hop = self.stack.route(dst, oif).inspect_err(|_| {
            if let Some(counts) = counters.ip(dst) {
                counts.out_no_routes.count();
            }
        })?;
        if self.stack.is_broadcast(dst) && !self.common.has(flag::BROADCAST) {
            return Err(Errno::EACCES);
        }
        let bound = if local.is_any() { hop.src } else { local.addr };
        let src = own.src.unwrap_or(bound);
        if src.version() != dst.version() {
            return Err(Errno::ENETUNREACH);
        }
        let (ttl, tos) = (own.hops(&self.options, dst), own.tos(&self.options));
        let header = Header { src, dst, protocol: ip::UDP, ttl, tos };
        if len > usize::from(u16::MAX) - HEADER - ip::IPV4_HEADER {
            return Err(Errno::EMSGSIZE);
        }
        self.common.check_error()?;
        if self.common.is_shut(SHUT_SEND) {
            return Err(Errno::EPIPE);
        }
        let data = take_bytes(message.data, len)?;
        let id = self.stack.next_id.fetch_add(1, Relaxed);
        let mut packet = ip::build(&header, id, &[&[0; HEADER], &data])?;
        let mut udp = UdpPacket::new_unchecked(&mut packet[ip::header_len(dst)..]);
        udp.set_src_port(local.port);
        udp.set_dst_port(to.port);
        udp.set_len((HEADER + len) as u16);
        if !hop.local {
            udp.fill_checksum(&src, &dst);
        }
        ip::output(&self.stack, &hop, packet)?;
        if let Some(counts) = counters.udp(dst) {
            counts.out_datagrams.count();
        }
        kick();
        Ok(len)
    }
}

impl Protocol for UdpRef {
    fn bind(&self, _caller: Caller<'_>, address: &[u8]) -> Result<()> {
        let family = self.common.family;
        let mut wanted = Endpoint::parse_own(family, address)?;
        if family == AF_INET6 && wanted.is_any() {
            wanted.addr = any(family);
        }
        let special = self.stack.is_broadcast(wanted.addr) || wanted.addr.is_multicast();
        if !wanted.is_any()
            && !special
            && !self.options.free_bind.load(Relaxed)
            && !self.stack.has_address(wanted.addr)
        {
            return Err(Errno::EADDRNOTAVAIL);
        }
        ports::check_privileged(&*self.common.net()?, wanted.port)?;
        self.bind_to(wanted.addr, wanted.port, wanted.scope)?;
        let mut state = self.state.lock();
        state.address_bound = !wanted.is_any();
        state.port_bound = wanted.port != 0;
        Ok(())
    }

    fn connect(&self, _caller: Caller<'_>, address: &[u8], _wait: Patience) -> Result<()> {
        let family = self.common.family;
        if u32::from(family_of(address)?) == AF_UNSPEC {
            self.give_back_port();
            let mut state = self.state.lock();
            state.peer = None;
            if !state.address_bound {
                state.local.addr = any(family);
            }
            drop(state);
            self.common.set_state(state::CLOSE);
            self.names_changed();
            return Ok(());
        }
        self.autobind()?;
        let mut peer = Endpoint::parse(family, address)?;
        peer.addr = or_loopback(peer.addr);
        let hop = self.stack.route(peer.addr, self.common.bound_dev.load(Relaxed))?;
        if self.stack.is_broadcast(peer.addr) && !self.common.has(flag::BROADCAST) {
            return Err(Errno::EACCES);
        }
        {
            let mut state = self.state.lock();
            if state.local.is_any() {
                state.local.addr = hop.src;
            }
            state.peer = Some(peer);
        }
        self.common.set_state(state::ESTABLISHED);
        self.names_changed();
        Ok(())
    }

    fn local_name(&self) -> Result<Address> {
        Ok(self.state.lock().local.encode(self.common.family))
    }

    fn peer_name(&self) -> Result<Address> {
        let peer = self.state.lock().peer.filter(|peer| peer.port != 0);
        let peer = peer.ok_or(Errno::ENOTCONN)?;
        Ok(peer.encode(self.common.family))
    }

    fn send(&self, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        self.send_datagram(message)
    }

    fn receive(&self, message: &mut RecvMsg<'_, '_>) -> Result<usize> {
        let received = self.queue.receive(&self.common, message)?;
        let Some((datagram, n)) = received else { return Ok(0) };
        // As on Linux, one counts when it is read.
        if let Some(to) = datagram.to
            && let Some(counts) = self.stack.counters.udp(to.addr)
            && !message.flags.contains(MsgFlags::PEEK)
        {
            counts.in_datagrams.count();
        }
        receive_options(&self.options, message, &datagram)?;
        Ok(n)
    }

    fn shutdown(&self, how: u32) -> Result<()> {
        // As on Linux, who waits is woken even if it is not connected.
        self.common.shutdown.fetch_or(how, Relaxed);
        self.common.wake_all();
        // One that is connected to port 0 is connected, though its peer has no name.
        self.state.lock().peer.map(drop).ok_or(Errno::ENOTCONN)
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollFlags {
        poll_datagrams(&self.common, &self.queue, table)
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level == SOL_UDP {
            // Corking and segmentation offload are not there.
            return Err(Errno::ENOPROTOOPT);
        }
        let bound = self.state.lock().local.port != 0;
        self.options.set(level, name, value, bound)
    }

    fn get_option(&self, level: u32, name: u32, value: &mut OptionValue) -> Result<()> {
        self.options.get(level, name, value)
    }

    fn ioctl(&self, cmd: u32, arg: u64) -> Result<usize> {
        ioctl_datagrams(&self.common, &self.queue, cmd, arg)
    }

    fn release(&self) {
        let local = self.state.lock().local;
        if local.port != 0 {
            let gone = self.stack.udp.lock().ports.remove(local.port, self);
            drop(gone);
        }
        self.common.shutdown.store(SHUT_RECEIVE | SHUT_SEND, Relaxed);
        self.queue.clear(&self.common);
    }
}

/// The control messages that a socket asked for.
pub fn receive_options(
    options: &IpOptions,
    message: &mut RecvMsg<'_, '_>,
    datagram: &Datagram,
) -> Result<()> {
    if options.packet_info.load(Relaxed) {
        packet_info(message, datagram)?;
    }
    let v4 = matches!(datagram.to.map(|to| to.addr), Some(IpAddress::Ipv4(_)));
    if options.receive_ttl.load(Relaxed) {
        let (level, name) = if v4 { (SOL_IP, IP_TTL) } else { (SOL_IPV6, IPV6_HOPLIMIT) };
        message.add_control(level, name, &i32::from(datagram.ttl).to_ne_bytes())?;
    }
    if options.receive_tos.load(Relaxed) {
        if v4 {
            message.add_control(SOL_IP, IP_TOS, &[datagram.tos])?;
        } else {
            let class = i32::from(datagram.tos).to_ne_bytes();
            message.add_control(SOL_IPV6, IPV6_TCLASS, &class)?;
        }
    }
    Ok(())
}

/// What a datagram socket is ready for.
pub fn poll_datagrams(common: &Common, queue: &Queue, table: &mut PollTable<'_>) -> PollFlags {
    table.wait(&common.rx_wait);
    table.wait(&common.tx_wait);
    let mut ready = PollFlags::WRITABLE | PollFlags::WRBAND;
    if common.has_error() {
        ready |= PollFlags::ERR;
    }
    if common.is_shut(SHUT_RECEIVE) {
        ready |= PollFlags::RDHUP | PollFlags::READABLE;
        if common.is_shut(SHUT_SEND) {
            ready |= PollFlags::HUP;
        }
    }
    if !queue.is_empty() {
        ready |= PollFlags::READABLE;
    }
    ready
}

/// ioctl(2) of datagram sockets.
pub fn ioctl_datagrams(common: &Common, queue: &Queue, cmd: u32, arg: u64) -> Result<usize> {
    let n = match cmd {
        linux_raw_sys::ioctl::FIONREAD => queue.first_len(),
        linux_raw_sys::ioctl::TIOCOUTQ => common.tx_queued.load(Relaxed),
        _ => return Err(Errno::ENOTTY),
    };
    UserPtr::<i32>::new(arg).write(n as i32)?;
    Ok(0)
}

/// A datagram came; false if nobody has the port. One for all (`to_all`) goes to everybody who has.
pub fn input(stack: &Stack, received: &Received<'_>, udp: &UdpPacket<&[u8]>, to_all: bool) -> bool {
    let header = &received.header;
    let (from, port) = (Endpoint::new(header.src, udp.src_port()), udp.dst_port());
    let receivers = {
        let table = stack.udp.lock();
        let there = table.ports.of(port);
        let matching = there.iter().filter_map(|sock| {
            let state = *sock.state.lock();
            let device = sock.common.bound_dev.load(Relaxed);
            if !takes(state.local.addr, sock.dual(), header.dst)
                || device != 0 && device != received.device
                || state.peer.is_some() && !state.is_connected_to((from.addr, from.port))
            {
                return None;
            }
            // The more it is bound to, the better it fits.
            let score = u32::from(state.peer.is_some()) * 4
                + u32::from(!state.local.is_any()) * 2
                + u32::from(device != 0);
            Some((score, sock))
        });
        let mut receivers = Vec::new();
        if to_all {
            // Whom there is no memory for gets nothing: datagrams may be lost.
            receivers = try_collect(matching.map(|(_, sock)| sock.clone())).unwrap_or_default();
        } else if let Some((_, sock)) = matching.max_by_key(|(score, _)| *score) {
            receivers = try_collect(core::iter::once(sock.clone())).unwrap_or_default();
        }
        receivers
    };
    let counts = stack.counters.udp(header.dst);
    for sock in &receivers {
        // A filter sees the header, too, which stays if anything does.
        let (whole, headers) = (udp.as_ref(), udp.len() as usize - udp.payload().len());
        let packet = Packet {
            bytes: whole.get(..udp.len() as usize).unwrap_or(whole),
            protocol: received.protocol(),
            device: received.device,
            kind: FOR_HOST,
        };
        let Some(kept) = sock.common.filter(&packet, headers) else {
            if let Some(counts) = counts {
                counts.in_errors.count();
            }
            continue;
        };
        let Ok(bytes) = crate::mm::try_to_vec(&udp.payload()[..kept - headers]) else {
            if let Some(counts) = counts {
                counts.in_errors.count();
                counts.mem_errors.count();
            }
            continue;
        };
        let datagram = Datagram {
            bytes,
            start: 0,
            from: from.encode(sock.common.family),
            to: Some(Endpoint::new(header.dst, port)),
            device: received.device,
            ttl: header.ttl,
            tos: header.tos,
            time: stamp_for(&sock.common),
        };
        if !sock.queue.push(&sock.common, datagram)
            && let Some(counts) = counts
        {
            counts.in_errors.count();
            counts.rcvbuf_errors.count();
        }
    }
    !receivers.is_empty()
}

/// An error came back for a datagram that went from `local` to `remote`.
pub fn report(stack: &Stack, local: (IpAddress, u16), remote: (IpAddress, u16), error: Errno) {
    let sock = {
        let table = stack.udp.lock();
        let there = table.ports.of(local.1).iter();
        there
            .filter(|sock| {
                let state = *sock.state.lock();
                takes(state.local.addr, sock.dual(), local.0)
                    && (state.is_connected_to(remote)
                        || state.peer.is_none() && sock.options.receive_errors.load(Relaxed))
            })
            .max_by_key(|sock| sock.state.lock().peer.is_some())
            .cloned()
    };
    if let Some(sock) = sock {
        sock.common.set_error(error);
    }
}
