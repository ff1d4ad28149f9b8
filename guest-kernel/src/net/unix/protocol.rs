//! Unix sockets as a [`Protocol`].

use core::sync::atomic::Ordering;

use super::sock::UnixSock;
use crate::errno::{Errno, Result};
use crate::fs::{Caller, File, PollFlags, PollTable};
use crate::kref::Ref;
use crate::mm::UserPtr;
use crate::net::address::{Address, family_of};
use crate::net::common::{Common, Patience, SHUT_RECEIVE, SHUT_SEND, flag, state};
use crate::net::hooks;
use crate::net::message::{RecvMsg, SendMsg};
use crate::net::options::OptionValue;
use crate::net::socket::{Protocol, Socket, socket_of};
use crate::net::{AF_UNIX, NetNs, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM};
use crate::uapi::net as uapi;

/// Whether the next byte is an urgent one.
const SIOCATMARK: u32 = 0x8905;

/// A Unix socket that a file refers to.
pub struct UnixProtocol {
    sock: Ref<UnixSock>,
}

/// The Unix socket behind an open file.
pub fn unix_of(file: &File) -> Option<&Ref<UnixSock>> {
    let socket = socket_of(file).ok()?;
    Some(&socket.protocol_as::<UnixProtocol>()?.sock)
}

/// A socket of its own for one end.
pub(super) fn wrap(sock: Ref<UnixSock>) -> Result<Socket> {
    Socket::new(sock.common.clone(), UnixProtocol { sock })
}

fn make(net: &Ref<NetNs>, kind: u32, protocol: u32) -> Result<Ref<UnixSock>> {
    if protocol != 0 && protocol != AF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let kind = match kind {
        SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET => kind,
        // "Believe it or not BSD has AF_UNIX, SOCK_RAW": it is a datagram socket.
        SOCK_RAW => SOCK_DGRAM,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    UnixSock::new(Common::new(net.clone(), AF_UNIX, kind, protocol)?)
}

/// socket(2).
pub fn create(net: &Ref<NetNs>, kind: u32, protocol: u32) -> Result<Socket> {
    wrap(make(net, kind, protocol)?)
}

/// socketpair(2).
pub fn pair(net: &Ref<NetNs>, kind: u32, protocol: u32) -> Result<(Socket, Socket)> {
    let a = wrap(make(net, kind, protocol)?)?;
    let b = wrap(make(net, kind, protocol)?)?;
    if let (Some(a), Some(b)) = (a.protocol_as::<UnixProtocol>(), b.protocol_as::<UnixProtocol>()) {
        UnixSock::join(&a.sock, &b.sock);
    }
    Ok((a, b))
}

impl Protocol for UnixProtocol {
    fn bind(&self, caller: Caller<'_>, address: &[u8]) -> Result<()> {
        self.sock.bind(caller, address)
    }

    fn connect(&self, caller: Caller<'_>, address: &[u8], wait: Patience) -> Result<()> {
        if family_of(address)? != 0 || self.sock.is_connected_kind() {
            super::name::parse(address)?;
        }
        if self.sock.is_connected_kind() {
            self.sock.connect_stream(caller, address, wait)
        } else {
            self.sock.connect_dgram(caller, address)
        }
    }

    fn listen(&self, backlog: i32) -> Result<()> {
        self.sock.listen(backlog)
    }

    fn accept(&self, wait: Patience) -> Result<Socket> {
        let sock = self.sock.accept(wait)?;
        for flag in [flag::PASSCRED, flag::PASSSEC] {
            sock.common.set_flag(flag, self.sock.common.has(flag));
        }
        wrap(sock)
    }

    fn local_name(&self) -> Result<Address> {
        let common = &self.sock.common;
        let own = self.sock.address();
        // A connection has its listener's name.
        let inherited = common.local();
        Ok(if own.bytes().len() <= 2 && inherited.bytes().len() > 2 { inherited } else { own })
    }

    fn peer_name(&self) -> Result<Address> {
        let peer = self.sock.peer().ok_or(Errno::ENOTCONN)?;
        let own = peer.address();
        let inherited = peer.common.local();
        Ok(if own.bytes().len() <= 2 && inherited.bytes().len() > 2 { inherited } else { own })
    }

    fn before_send(&self) -> Result<()> {
        let sock = &self.sock;
        if sock.is_connected_kind() && !sock.is_stream() {
            sock.common.check_error()?;
            if !sock.is_established() {
                return Err(Errno::ENOTCONN);
            }
        }
        Ok(())
    }

    fn send(&self, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        if self.sock.is_stream() {
            self.sock.send_stream(message)
        } else {
            self.sock.send_message(message)
        }
    }

    fn receive(&self, message: &mut RecvMsg<'_, '_>) -> Result<usize> {
        if self.sock.is_stream() {
            self.sock.receive_stream(message)
        } else {
            self.sock.receive_message(message)
        }
    }

    fn shutdown(&self, how: u32) -> Result<()> {
        let sock = &self.sock;
        if sock.is_connected_kind()
            && let Some(peer) = sock.peer()
        {
            let mut there = 0;
            if how & SHUT_RECEIVE != 0 {
                there |= SHUT_SEND;
            }
            if how & SHUT_SEND != 0 {
                there |= SHUT_RECEIVE;
            }
            peer.shut(there);
        }
        sock.shut(how);
        Ok(())
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollFlags {
        let sock = &self.sock;
        let common = &sock.common;
        table.wait(&common.rx_wait);
        table.wait(&common.tx_wait);
        let mut ready = PollFlags::empty();
        if common.has_error() {
            ready |= PollFlags::ERR;
        }
        let shut = common.shutdown.load(Ordering::Acquire);
        if shut == SHUT_RECEIVE | SHUT_SEND {
            ready |= PollFlags::HUP;
        }
        if shut & SHUT_RECEIVE != 0 {
            ready |= PollFlags::RDHUP | PollFlags::READABLE;
        }
        if common.state() == state::LISTEN {
            if !sock.state.lock().pending.is_empty() {
                ready |= PollFlags::READABLE;
            }
            return ready;
        }
        if sock.queued.load(Ordering::Acquire) > 0 {
            ready |= PollFlags::READABLE;
        }
        if sock.is_connected_kind() && common.state() == state::CLOSE {
            ready |= PollFlags::HUP;
        }
        if sock.is_writable() && self.peer_has_room() {
            ready |= PollFlags::WRITABLE | PollFlags::WRBAND;
        }
        ready
    }

    fn set_option(&self, _level: u32, _name: u32, _value: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn get_option(&self, level: u32, name: u32, value: &mut OptionValue) -> Result<()> {
        if level != crate::net::options::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        match name {
            uapi::SO_PEERCRED => {
                let identity = self.sock.state.lock().peer_identity.clone();
                let (pid, uid, gid) = identity.map_or((0, !0, !0), |identity| {
                    let (uid, gid) = hooks::visible_ids(identity.uid, identity.gid);
                    (hooks::visible_pid(&identity.pid), uid, gid)
                });
                let mut bytes = [0; 12];
                bytes[..4].copy_from_slice(&pid.to_ne_bytes());
                bytes[4..8].copy_from_slice(&uid.to_ne_bytes());
                bytes[8..].copy_from_slice(&gid.to_ne_bytes());
                value.set(&bytes)
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn ioctl(&self, cmd: u32, arg: u64) -> Result<usize> {
        let common = &self.sock.common;
        let n = match cmd {
            linux_raw_sys::ioctl::FIONREAD => {
                if common.state() == state::LISTEN {
                    return Err(Errno::EINVAL);
                }
                if self.sock.is_connected_kind() {
                    common.rx_queued.load(Ordering::Relaxed)
                } else {
                    self.sock.peek(0).map_or(0, |skb| skb.unread())
                }
            }
            // There are no urgent bytes, so that nothing is at their mark.
            SIOCATMARK if self.sock.is_stream() => 0,
            SIOCATMARK => return Err(Errno::EOPNOTSUPP),
            linux_raw_sys::ioctl::TIOCOUTQ => common.tx_queued.load(Ordering::Relaxed),
            _ => return Err(Errno::ENOTTY),
        };
        UserPtr::<i32>::new(arg).write(n as i32)?;
        Ok(0)
    }

    fn opened(&self) {
        if let Some(peer) = self.sock.peer() {
            peer.common.set_peer_ino(self.sock.common.ino());
            self.sock.common.set_peer_ino(peer.common.ino());
        }
    }

    fn release(&self) {
        self.sock.release();
    }
}

impl UnixProtocol {
    /// False if it sends messages to one whose queue is full; then it is woken when there is room.
    fn peer_has_room(&self) -> bool {
        if self.sock.is_stream() {
            return true;
        }
        let Some(peer) = self.sock.peer() else { return true };
        if !self.sock.is_bounded_by(&peer) || !peer.is_full() || peer.is_dead() {
            return true;
        }
        peer.wake_when_room(&self.sock);
        !peer.is_full()
    }
}
