//! TCP sockets as a [`Protocol`].

use core::sync::atomic::{AtomicU32, Ordering, Ordering::Relaxed};

use smoltcp::wire::IpAddress;

use super::sock::TcpSock;
use crate::errno::{Errno, Result};
use crate::fs::{Caller, PollFlags, PollTable};
use crate::kref::Ref;
use crate::mm::{UserPtr, try_box};
use crate::net::address::{Address, family_of};
use crate::net::common::{Common, Patience, SHUT_RECEIVE, SHUT_SEND, flag, state};
use crate::net::inet::endpoint::{Endpoint, any};
use crate::net::inet::options::{IP_TOS, SOL_IP};
use crate::net::inet::route::or_loopback;
use crate::net::inet::stack::kick;
use crate::net::inet::{AF_INET6, ip, ports};
use crate::net::message::{RecvMsg, SendMsg};
use crate::net::options::{OptionValue, int};
use crate::net::socket::{Protocol, Socket};
use crate::net::{AF_UNSPEC, NetNs, SOCK_STREAM};
use crate::sched::clock::{Deadline, NSEC_PER_SEC};
use crate::sched::{TaskState, Wait};
use crate::wait_channel;

/// Level of TCP's own options.
const SOL_TCP: u32 = 6;
const TCP_NODELAY: u32 = 1;
const TCP_MAXSEG: u32 = 2;
const TCP_CORK: u32 = 3;
const TCP_KEEPIDLE: u32 = 4;
const TCP_KEEPINTVL: u32 = 5;
const TCP_KEEPCNT: u32 = 6;
const TCP_SYNCNT: u32 = 7;
const TCP_LINGER2: u32 = 8;
const TCP_DEFER_ACCEPT: u32 = 9;
const TCP_INFO: u32 = 11;
const TCP_QUICKACK: u32 = 12;
const TCP_CONGESTION: u32 = 13;
const TCP_USER_TIMEOUT: u32 = 18;

/// `net.ipv4.tcp_wmem` and `tcp_rmem`: what a socket starts with.
const SNDBUF: u32 = 16_384;
const RCVBUF: u32 = 131_072;

/// A TCP socket that a file refers to.
pub struct TcpRef(Ref<TcpSock>);

/// socket(2).
pub fn create(net: &Ref<NetNs>, family: u32) -> Result<Socket> {
    let common = Common::new(net.clone(), family, SOCK_STREAM, u32::from(ip::TCP))?;
    common.sndbuf.store(SNDBUF, Relaxed);
    common.rcvbuf.store(RCVBUF, Relaxed);
    let sock = TcpSock::new(common.clone(), net.stack.clone())?;
    Socket::new(common, TcpRef(sock))
}

impl TcpRef {
    fn take_port(&self, addr: IpAddress, port: u16, scope: u32) -> Result<()> {
        let sock = &self.0;
        let mut table = sock.stack.tcp.lock();
        if sock.names.lock().local.port != 0 {
            return Err(Errno::EINVAL);
        }
        let port = table.take_port(sock, addr, port)?;
        sock.names.lock().local = Endpoint { addr, port, scope };
        drop(table);
        sock.names_changed();
        Ok(())
    }

    /// Makes the connection's first segment.
    fn begin(&self, peer: Endpoint) -> Result<()> {
        let sock = &self.0;
        let dst = or_loopback(peer.addr);
        let peer = Endpoint { addr: dst, ..peer };
        if sock.stack.is_broadcast(dst) || dst.is_multicast() {
            return Err(Errno::ENETUNREACH);
        }
        let mut oif = sock.common.bound_dev.load(Relaxed);
        if oif == 0 {
            oif = peer.scope;
        }
        let hop = sock.stack.route(dst, oif).inspect_err(|_| {
            if let Some(counts) = sock.stack.counters.ip(dst) {
                counts.out_no_routes.count();
            }
        })?;
        let local = sock.names.lock().local;
        let addr = if local.is_any() { hop.src } else { local.addr };
        if addr.version() != dst.version() {
            return Err(Errno::ENETUNREACH);
        }
        if local.port == 0 {
            self.take_port(addr, 0, 0)?;
        }
        let local = {
            let mut names = sock.names.lock();
            names.local.addr = addr;
            names.peer = Some(peer);
            names.local
        };
        sock.names_changed();
        if peer.port == 0 {
            return Err(Errno::ECONNREFUSED);
        }
        let mut core = sock.make_core(local, hop)?;
        core.connect((local.addr, local.port), (peer.addr, peer.port))?;
        sock.stack.tcp.lock().connect(sock, local, peer)?;
        sock.common.shutdown.store(0, Relaxed);
        sock.common.set_flag(flag::DONE, false);
        sock.common.set_state(state::SYN_SENT);
        sock.stack.counters.tcp.active_opens.count();
        *sock.core.lock() = Some(try_box(core)?);
        sock.poll(None);
        Ok(())
    }

    /// A connection that failed can be tried again.
    fn reset_names(&self) {
        let mut names = self.0.names.lock();
        names.peer = None;
        if !names.address_bound {
            names.local.addr = any(self.0.common.family);
        }
    }

    fn disconnect(&self) {
        let sock = &self.0;
        sock.connecting.store(false, Relaxed);
        sock.unlisten();
        sock.with_core(|core| core.socket_mut().abort());
        kick();
        super::table::forget_connection(sock);
        *sock.core.lock() = None;
        self.reset_names();
        sock.common.set_state(state::CLOSE);
        sock.common.shutdown.store(0, Relaxed);
        let _ = sock.common.take_error();
        sock.names_changed();
    }

    /// The counter behind an option in seconds or pieces, and its bounds.
    fn number(&self, name: u32) -> Option<(&AtomicU32, core::ops::RangeInclusive<i32>)> {
        let options = &self.0.options;
        Some(match name {
            TCP_KEEPIDLE => (&options.keep_idle, 1..=32767),
            TCP_KEEPINTVL => (&options.keep_interval, 1..=32767),
            TCP_KEEPCNT => (&options.keep_count, 1..=127),
            TCP_SYNCNT => (&options.syn_count, 1..=127),
            TCP_USER_TIMEOUT => (&options.user_timeout, 0..=i32::MAX),
            TCP_MAXSEG => (&options.max_segment, 88..=32767),
            TCP_DEFER_ACCEPT => (&options.defer_accept, 0..=i32::MAX),
            _ => return None,
        })
    }

    /// Waits until all was sent and acknowledged (`SO_LINGER`).
    fn linger(&self) {
        let sock = &self.0;
        let seconds = u64::from(sock.common.linger.load(Relaxed));
        let deadline = Deadline::after(seconds.saturating_mul(NSEC_PER_SEC));
        let how = Wait::new(TaskState::INTERRUPTIBLE, wait_channel!("sk_stream_wait_close"));
        let _ = sock.common.tx_wait.wait_until(how.until(deadline), || {
            !matches!(sock.common.state(), state::FIN_WAIT1 | state::CLOSING | state::LAST_ACK)
        });
    }
}

impl Protocol for TcpRef {
    fn bind(&self, _caller: Caller<'_>, address: &[u8]) -> Result<()> {
        let sock = &self.0;
        let family = sock.common.family;
        let mut wanted = Endpoint::parse_own(family, address)?;
        if family == AF_INET6 && wanted.is_any() {
            wanted.addr = any(family);
        }
        if sock.ip.v6_only.load(Relaxed) && matches!(wanted.addr, IpAddress::Ipv4(_)) {
            return Err(Errno::EINVAL);
        }
        if !wanted.is_any()
            && !sock.ip.free_bind.load(Relaxed)
            && !sock.stack.has_address(wanted.addr)
        {
            return Err(Errno::EADDRNOTAVAIL);
        }
        ports::check_privileged(&*sock.common.net()?, wanted.port)?;
        if sock.common.state() != state::CLOSE {
            return Err(Errno::EINVAL);
        }
        self.take_port(wanted.addr, wanted.port, wanted.scope)?;
        sock.names.lock().address_bound = !wanted.is_any();
        Ok(())
    }

    fn connect(&self, _caller: Caller<'_>, address: &[u8], wait: Patience) -> Result<()> {
        let sock = &self.0;
        if u32::from(family_of(address)?) == AF_UNSPEC {
            self.disconnect();
            return Ok(());
        }
        let peer = Endpoint::parse(sock.common.family, address)?;
        match sock.common.state() {
            // The outcome of an earlier attempt is told first.
            state::CLOSE if sock.connecting.swap(false, Relaxed) => {
                self.reset_names();
                return Err(sock.common.take_error().unwrap_or(Errno::ECONNABORTED));
            }
            state::CLOSE => {
                sock.common.check_error()?;
                drop(sock.core.lock().take());
                if let Err(error) = self.begin(peer) {
                    self.reset_names();
                    return Err(error);
                }
                kick();
                // Even if the answer is there already, as on loopback, it is told at the next call.
                if wait.nonblock {
                    sock.connecting.store(true, Relaxed);
                    return Err(Errno::EINPROGRESS);
                }
            }
            state::SYN_SENT if wait.nonblock => return Err(Errno::EALREADY),
            state::SYN_SENT => {}
            // The first to ask after a connection was made without waiting hears of it.
            _ if sock.connecting.swap(false, Relaxed) => return Ok(()),
            _ => return Err(Errno::EISCONN),
        }
        let pending = || matches!(sock.common.state(), state::SYN_SENT | state::SYN_RECV);
        if pending() {
            let channel = wait_channel!("inet_wait_for_connect");
            sock.connecting.store(true, Relaxed);
            wait.wait(&sock.common.tx_wait, channel, || !pending())
                .map_err(|error| if error == Errno::EAGAIN { Errno::EINPROGRESS } else { error })?;
        }
        sock.connecting.store(false, Relaxed);
        if sock.common.state() == state::CLOSE {
            let error = sock.common.take_error().unwrap_or(Errno::ECONNABORTED);
            self.reset_names();
            return Err(error);
        }
        Ok(())
    }

    fn listen(&self, backlog: i32) -> Result<()> {
        let sock = &self.0;
        match sock.common.state() {
            state::LISTEN => {}
            state::CLOSE => {
                if sock.names.lock().local.port == 0 {
                    self.take_port(any(sock.common.family), 0, 0)?;
                }
            }
            _ => return Err(Errno::EINVAL),
        }
        sock.listen(backlog)
    }

    fn accept(&self, wait: Patience) -> Result<Socket> {
        let child = self.0.accept(wait)?;
        Socket::new(child.common.clone(), TcpRef(child))
    }

    fn local_name(&self) -> Result<Address> {
        Ok(self.0.names.lock().local.encode(self.0.common.family))
    }

    fn peer_name(&self) -> Result<Address> {
        if matches!(self.0.common.state(), state::CLOSE | state::LISTEN | state::SYN_SENT) {
            return Err(Errno::ENOTCONN);
        }
        let peer = self.0.names.lock().peer.ok_or(Errno::ENOTCONN)?;
        Ok(peer.encode(self.0.common.family))
    }

    fn send(&self, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        let sock = &self.0;
        if sock.common.state() == state::SYN_SENT {
            let wait = sock.common.write_patience(message.nonblock, message.flags);
            let pending = || sock.common.state() != state::SYN_SENT;
            wait.wait(&sock.common.tx_wait, wait_channel!("sk_stream_wait_connect"), pending)?;
        }
        sock.send_bytes(message)
    }

    fn receive(&self, message: &mut RecvMsg<'_, '_>) -> Result<usize> {
        self.0.receive_bytes(message)
    }

    fn shutdown(&self, how: u32) -> Result<()> {
        let sock = &self.0;
        match sock.common.state() {
            state::CLOSE | state::TIME_WAIT => return Err(Errno::ENOTCONN),
            state::LISTEN => {
                if how & SHUT_RECEIVE != 0 {
                    sock.unlisten();
                }
                return Ok(());
            }
            _ => {}
        }
        sock.common.shutdown.fetch_or(how, Ordering::AcqRel);
        if how & SHUT_SEND != 0 {
            sock.with_core(|core| core.socket_mut().close());
            kick();
        }
        sock.common.wake_all();
        Ok(())
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollFlags {
        let sock = &self.0;
        let common = &sock.common;
        table.wait(&common.rx_wait);
        table.wait(&common.tx_wait);
        let state = common.state();
        if state == state::LISTEN {
            return if sock.has_ready() { PollFlags::READABLE } else { PollFlags::empty() };
        }
        let mut ready = PollFlags::empty();
        if common.has_error() {
            ready |= PollFlags::ERR;
        }
        let shut = common.shutdown.load(Ordering::Acquire);
        if shut == SHUT_RECEIVE | SHUT_SEND || state == state::CLOSE {
            ready |= PollFlags::HUP;
        }
        if shut & SHUT_RECEIVE != 0 {
            ready |= PollFlags::READABLE | PollFlags::RDHUP;
        }
        if !matches!(state, state::SYN_SENT | state::SYN_RECV) {
            let low = common.rcvlowat.load(Relaxed) as usize;
            if common.rx_queued.load(Relaxed) >= low {
                ready |= PollFlags::READABLE;
            }
            if shut & SHUT_SEND != 0 || sock.is_writable() {
                ready |= PollFlags::WRITABLE;
            }
        }
        ready
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        let sock = &self.0;
        if level != SOL_TCP {
            let bound = sock.names.lock().local.port != 0;
            if (level, name) == (SOL_IP, IP_TOS) {
                // The lowest two bits are congestion control's (RFC 3168).
                let tos = value.first().copied().ok_or(Errno::EINVAL)? & !3;
                return sock.ip.set(level, name, &[tos], bound);
            }
            return sock.ip.set(level, name, value, bound);
        }
        if name == TCP_CONGESTION {
            let known = value.split(|&b| b == 0).next() == Some(b"reno");
            return if known { Ok(()) } else { Err(Errno::ENOENT) };
        }
        let n = int(value)?;
        if let Some((number, bounds)) = self.number(name) {
            if !bounds.contains(&n) {
                return Err(Errno::EINVAL);
            }
            number.store(n as u32, Relaxed);
        } else {
            match name {
                TCP_NODELAY => sock.options.nodelay.store(n != 0, Relaxed),
                TCP_CORK => sock.options.cork.store(n != 0, Relaxed),
                TCP_LINGER2 | TCP_QUICKACK => {}
                _ => return Err(Errno::ENOPROTOOPT),
            }
        }
        sock.with_core(|core| sock.apply_options(core));
        kick();
        Ok(())
    }

    fn get_option(&self, level: u32, name: u32, value: &mut OptionValue) -> Result<()> {
        let sock = &self.0;
        if level != SOL_TCP {
            return sock.ip.get(level, name, value);
        }
        if name == TCP_MAXSEG {
            /// What is taken for granted before the other side has spoken (RFC 9293, 3.7.1).
            const DEFAULT: i32 = 536;
            let set = sock.options.max_segment.load(Relaxed) as i32;
            return value.set_int(if set == 0 { DEFAULT } else { set });
        }
        if let Some((number, _)) = self.number(name) {
            return value.set_int(number.load(Relaxed) as i32);
        }
        match name {
            TCP_NODELAY => value.set_bool(sock.options.nodelay.load(Relaxed)),
            TCP_CORK => value.set_bool(sock.options.cork.load(Relaxed)),
            TCP_LINGER2 => value.set_int(60),
            TCP_QUICKACK => value.set_int(1),
            TCP_CONGESTION => value.set(b"reno\0\0\0\0\0\0\0\0\0\0\0\0"),
            TCP_INFO => {
                // State first; what is not counted is 0.
                let mut info = [0; 232];
                info[0] = sock.common.state() as u8;
                value.set(&info)
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn option_changed(&self, _name: u32) {
        self.0.with_core(|core| self.0.apply_options(core));
        kick();
    }

    fn ioctl(&self, cmd: u32, arg: u64) -> Result<usize> {
        const SIOCATMARK: u32 = 0x8905;
        let common = &self.0.common;
        let n = match cmd {
            linux_raw_sys::ioctl::FIONREAD if common.state() == state::LISTEN => {
                return Err(Errno::EINVAL);
            }
            linux_raw_sys::ioctl::FIONREAD => common.rx_queued.load(Relaxed),
            linux_raw_sys::ioctl::TIOCOUTQ => common.tx_queued.load(Relaxed),
            SIOCATMARK => 0,
            _ => return Err(Errno::ENOTTY),
        };
        UserPtr::<i32>::new(arg).write(n as i32)?;
        Ok(0)
    }

    fn release(&self) {
        let sock = &self.0;
        sock.unlisten();
        sock.common.set_flag(flag::DEAD, true);
        let lingers = sock.common.has(flag::LINGER);
        let at_once = lingers && sock.common.linger.load(Relaxed) == 0;
        let open = sock.with_core(|core| {
            let socket = core.socket_mut();
            // Data that nobody reads is lost: the other side hears of it (RFC 2525, 2.17).
            if at_once || socket.recv_queue() > 0 {
                socket.abort();
            } else {
                socket.close();
            }
        });
        kick();
        if open.is_some() && lingers && !at_once {
            self.linger();
        }
        if sock.common.state() == state::CLOSE {
            super::table::forget_connection(sock);
        }
        sock.leave_net_if_over();
        sock.shrink();
    }
}
