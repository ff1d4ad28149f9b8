//! [`NetlinkSock`]: a netlink socket: its port, the groups that it hears, what waits to be read.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::message::{ACK, MIN_TYPE, Request};
use super::{AF_NETLINK, diag, route, u32_at};
use crate::errno::{Errno, Result};
use crate::fs::{Caller, File, PollFlags, PollTable};
use crate::kref::Ref;
use crate::mm::try_collect;
use crate::net::address::{Address, family_of};
use crate::net::common::{Common, Patience, SHUT_RECEIVE, SHUT_SEND, state};
use crate::net::filter::Packet;
use crate::net::inet::queue::{Datagram, Queue};
use crate::net::inet::stack::{Stack, kick};
use crate::net::inet::udp::{ioctl_datagrams, poll_datagrams};
use crate::net::message::{RecvMsg, SendMsg, take_bytes};
use crate::net::options::{OptionValue, int};
use crate::net::socket::{Protocol, Socket};
use crate::net::{MsgFlags, NetNs, SOCK_DGRAM, SOCK_RAW, hooks};
use crate::ns::Cap;

/// `NETLINK_ROUTE`.
const ROUTE: u32 = 0;
/// `NETLINK_SOCK_DIAG`.
const SOCK_DIAG: u32 = 4;
/// `NETLINK_KOBJECT_UEVENT`: devices, of which none come or go.
const KOBJECT_UEVENT: u32 = 15;
/// Protocols have numbers below this.
const MAX_LINKS: u32 = 32;

/// Level of netlink's own options.
const SOL_NETLINK: u32 = 270;
const ADD_MEMBERSHIP: u32 = 1;
const DROP_MEMBERSHIP: u32 = 2;
const LIST_MEMBERSHIPS: u32 = 9;
const CAP_ACK: u32 = 10;

/// A netlink socket.
pub struct NetlinkSock {
    common: Ref<Common>,
    stack: Ref<Stack>,
    /// Its address; 0 before it has one.
    port: AtomicU32,
    /// Groups that it hears, a bit each.
    groups: AtomicU32,
    /// Errors quote the request's header only.
    cap_ack: AtomicU32,
    queue: Queue,
}

/// The netlink sockets of a namespace.
#[derive(Default)]
pub struct NetlinkTable {
    sockets: Vec<Ref<NetlinkSock>>,
}

impl NetlinkTable {
    /// Common part, port and groups of each, for `/proc`.
    pub fn all(&self) -> Result<Vec<(Ref<Common>, u32, u32)>> {
        let row = |sock: &Ref<NetlinkSock>| {
            (sock.common.clone(), sock.port.load(Relaxed), sock.groups.load(Relaxed))
        };
        try_collect(self.sockets.iter().map(row))
    }

    /// True if somebody hears one of `groups`.
    fn hears(&self, groups: u32) -> bool {
        self.sockets.iter().any(|sock| sock.groups.load(Relaxed) & groups != 0)
    }
}

/// A netlink socket to which the kernel sends what is no answer: the cookies of mq_notify(3).
pub struct Listener(Ref<NetlinkSock>);

impl Listener {
    /// The socket behind an open file; `ENOTSOCK` or `EINVAL` if it is no such socket.
    pub fn of(file: &File) -> Result<Self> {
        let socket = file.ops_as::<Socket>().ok_or(Errno::ENOTSOCK)?;
        socket.protocol_as::<NetlinkRef>().map(|sock| Self(sock.0.clone())).ok_or(Errno::EINVAL)
    }

    /// Queues a datagram there; it is lost if there is no room.
    pub fn deliver(&self, bytes: &[u8]) {
        if let Ok(bytes) = crate::mm::try_to_vec(bytes) {
            self.0.push(bytes, 0);
        }
    }
}

/// True if somebody in the namespace hears of `group` of rtnetlink.
pub fn is_heard(stack: &Stack, group: u32) -> bool {
    stack.netlink.lock().hears(1 << (group - 1))
}

/// Tells those who hear `group` of rtnetlink.
pub fn broadcast(stack: &Stack, group: u32, datagrams: &[Vec<u8>]) {
    let bit = 1 << (group - 1);
    let mut receivers = Vec::new();
    {
        let table = stack.netlink.lock();
        let hears = |sock: &&Ref<NetlinkSock>| {
            sock.common.protocol == ROUTE && sock.groups.load(Relaxed) & bit != 0
        };
        for sock in table.sockets.iter().filter(hears) {
            if receivers.try_reserve(1).is_err() {
                sock.common.set_error(Errno::ENOBUFS);
                continue;
            }
            receivers.push(sock.clone());
        }
    }
    for sock in receivers {
        for datagram in datagrams {
            if let Ok(bytes) = crate::mm::try_to_vec(datagram) {
                sock.push(bytes, bit);
            }
        }
    }
}

/// A `struct sockaddr_nl`.
fn address(port: u32, groups: u32) -> Address {
    let mut bytes = [0; 12];
    bytes[..2].copy_from_slice(&(AF_NETLINK as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&port.to_ne_bytes());
    bytes[8..].copy_from_slice(&groups.to_ne_bytes());
    Address::new(&bytes).unwrap_or(Address::EMPTY)
}

/// A netlink socket that a file refers to.
pub struct NetlinkRef(Ref<NetlinkSock>);

/// socket(2).
pub fn create(net: &Ref<NetNs>, kind: u32, protocol: u32) -> Result<Socket> {
    if !matches!(kind, SOCK_RAW | SOCK_DGRAM) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if protocol >= MAX_LINKS || !matches!(protocol, ROUTE | SOCK_DIAG | KOBJECT_UEVENT) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let common = Common::new(net.clone(), AF_NETLINK, kind, protocol)?;
    let sock = Ref::try_new(NetlinkSock {
        common: common.clone(),
        stack: net.stack.clone(),
        port: AtomicU32::new(0),
        groups: AtomicU32::new(0),
        cap_ack: AtomicU32::new(0),
        queue: Queue::default(),
    })?;
    let mut table = net.stack.netlink.lock();
    table.sockets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    table.sockets.push(sock.clone());
    drop(table);
    Socket::new(common, NetlinkRef(sock))
}

impl NetlinkSock {
    fn push(&self, mut bytes: Vec<u8>, groups: u32) {
        match self.common.filter(&Packet::message(&bytes), 1) {
            None => return,
            Some(kept) => bytes.truncate(kept),
        }
        let before = self.queue.dropped.load(Relaxed);
        let datagram = Datagram {
            bytes,
            start: 0,
            from: address(0, groups),
            to: None,
            device: 0,
            ttl: 0,
            tos: 0,
            time: 0,
        };
        self.queue.push(&self.common, datagram);
        if self.queue.dropped.load(Relaxed) != before {
            self.common.set_error(Errno::ENOBUFS);
        }
    }

    /// Gives it a port: the one asked for, or the caller's number, or else any.
    fn bind_port(&self, wanted: u32) -> Result<()> {
        if self.port.load(Relaxed) != 0 {
            return Ok(());
        }
        let table = self.stack.netlink.lock();
        let taken = |port: u32| {
            table.sockets.iter().any(|there| {
                there.common.protocol == self.common.protocol && there.port.load(Relaxed) == port
            })
        };
        let port = match wanted {
            0 => {
                let own = hooks::identity().map_or(1, |who| hooks::visible_pid(&who.pid));
                // As Linux does: negative numbers, if the caller's own is taken.
                let others = (4097_u32..).map(|n| n.wrapping_neg());
                core::iter::once(own).chain(others).find(|&port| port != 0 && !taken(port))
            }
            port if taken(port) => return Err(Errno::EADDRINUSE),
            port => Some(port),
        };
        self.port.store(port.ok_or(Errno::EADDRINUSE)?, Relaxed);
        drop(table);
        let own = address(self.port.load(Relaxed), self.groups.load(Relaxed));
        self.common.set_local(own.bytes());
        Ok(())
    }

    /// Works off the requests in a datagram.
    fn handle(&self, mut bytes: &[u8]) {
        while let Some((request, rest)) = Request::first(bytes) {
            if request.kind >= MIN_TYPE && request.flags & 1 != 0 {
                self.handle_one(&request);
            } else if request.flags & ACK != 0 {
                self.acknowledge(&request, None);
            }
            bytes = rest;
        }
    }

    fn handle_one(&self, request: &Request<'_>) {
        let port = self.port.load(Relaxed);
        let result = match self.common.protocol {
            ROUTE => {
                self.common.net().and_then(|net| route::handle(&self.stack, &net, request, port))
            }
            SOCK_DIAG => self.common.net().and_then(|net| diag::handle(&net, request, port)),
            _ => Err(Errno::EOPNOTSUPP),
        };
        match result.and_then(|answer| answer.into_datagrams()) {
            Ok(datagrams) => {
                let dump = request.is_dump();
                for datagram in datagrams {
                    self.push(datagram, 0);
                }
                if request.flags & ACK != 0 && !dump {
                    self.acknowledge(request, None);
                }
            }
            Err(error) => self.acknowledge(request, Some(error)),
        }
    }

    fn acknowledge(&self, request: &Request<'_>, error: Option<Errno>) {
        let mut answer = super::message::Answer::new(request.seq, self.port.load(Relaxed), false);
        answer.error(request, error, self.cap_ack.load(Relaxed) != 0);
        match answer.into_datagrams() {
            Ok(datagrams) => datagrams.into_iter().for_each(|datagram| self.push(datagram, 0)),
            Err(error) => self.common.set_error(error),
        }
    }
}

impl Protocol for NetlinkRef {
    fn bind(&self, _caller: Caller<'_>, name: &[u8]) -> Result<()> {
        let sock = &self.0;
        if name.len() < 12 || u32::from(family_of(name)?) != AF_NETLINK {
            return Err(Errno::EINVAL);
        }
        let (port, groups) = (u32_at(name, 4), u32_at(name, 8));
        let own = sock.port.load(Relaxed);
        if own != 0 && own != port {
            return Err(Errno::EINVAL);
        }
        sock.groups.store(groups, Relaxed);
        sock.bind_port(port)?;
        sock.common.set_local(address(sock.port.load(Relaxed), groups).bytes());
        Ok(())
    }

    fn connect(&self, _caller: Caller<'_>, name: &[u8], _wait: Patience) -> Result<()> {
        let sock = &self.0;
        match u32::from(family_of(name)?) {
            0 => sock.common.set_state(state::CLOSE),
            AF_NETLINK if name.len() >= 12 => {
                if u32_at(name, 4) != 0 {
                    return Err(Errno::ECONNREFUSED);
                }
                sock.bind_port(0)?;
                sock.common.set_state(state::ESTABLISHED);
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn local_name(&self) -> Result<Address> {
        Ok(address(self.0.port.load(Relaxed), self.0.groups.load(Relaxed)))
    }

    fn peer_name(&self) -> Result<Address> {
        Ok(address(0, 0))
    }

    fn send(&self, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        let sock = &self.0;
        let len = message.data.remaining();
        if let Some(name) = message.name {
            if name.len() < 12 || u32::from(family_of(name)?) != AF_NETLINK {
                return Err(Errno::EINVAL);
            }
            if u32_at(name, 4) != 0 || u32_at(name, 8) != 0 {
                // To other programs, who do not talk to each other this way here.
                let may = hooks::ns_capable(&*sock.common.net()?, Cap::NetAdmin);
                return Err(if may { Errno::ECONNREFUSED } else { Errno::EPERM });
            }
        }
        if len > (sock.common.sndbuf.load(Relaxed) as usize).saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        sock.bind_port(0)?;
        let bytes = take_bytes(message.data, len)?;
        sock.handle(&bytes);
        kick();
        Ok(len)
    }

    fn receive(&self, message: &mut RecvMsg<'_, '_>) -> Result<usize> {
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(self.0.queue.receive(&self.0.common, message)?.map_or(0, |(_, n)| n))
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollFlags {
        poll_datagrams(&self.0.common, &self.0.queue, table)
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        let sock = &self.0;
        if level != SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        let n = int(value)?;
        match name {
            ADD_MEMBERSHIP | DROP_MEMBERSHIP => {
                if n < 1 {
                    return Err(Errno::EINVAL);
                }
                // Groups beyond the first word are never spoken to.
                let bit = if n <= 32 { 1 << (n - 1) } else { 0 };
                if name == ADD_MEMBERSHIP {
                    sock.groups.fetch_or(bit, Relaxed);
                } else {
                    sock.groups.fetch_and(!bit, Relaxed);
                }
            }
            CAP_ACK => sock.cap_ack.store(u32::from(n != 0), Relaxed),
            // Packet information, broadcast errors, extended acknowledgements, strict checks: accepted.
            3..=5 | 8 | 11 | 12 => {}
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn get_option(&self, level: u32, name: u32, value: &mut OptionValue) -> Result<()> {
        if (level, name) == (SOL_NETLINK, LIST_MEMBERSHIPS) {
            return value.set_int(self.0.groups.load(Relaxed) as i32);
        }
        Err(Errno::ENOPROTOOPT)
    }

    fn ioctl(&self, cmd: u32, arg: u64) -> Result<usize> {
        ioctl_datagrams(&self.0.common, &self.0.queue, cmd, arg)
    }

    fn release(&self) {
        let sock = &self.0;
        sock.stack.netlink.lock().sockets.retain(|there| !Ref::ptr_eq(there, sock));
        sock.common.shutdown.store(SHUT_RECEIVE | SHUT_SEND, Relaxed);
        sock.queue.clear(&sock.common);
    }
}
