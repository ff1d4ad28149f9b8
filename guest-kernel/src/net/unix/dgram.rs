//! Messages between Unix sockets: datagrams and sequenced packets. A message arrives whole or not at
//! all; a receiver's queue holds few, and who sends to a full one waits.

use core::sync::atomic::Ordering::{self, Relaxed};

use super::name;
use super::sock::{Skb, UnixSock};
use super::stream::{extras_for, peek_files, take_files};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::MsgFlags;
use crate::net::common::{SHUT_RECEIVE, SHUT_SEND, flag};
use crate::net::filter::Packet;
use crate::net::message::{RecvMsg, SendMsg, take_bytes};
use crate::wait_channel;

impl UnixSock {
    /// Sends one message.
    pub fn send_message(&self, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.is_connected_kind() {
            message.name = None;
        }
        let its_peer = match message.name {
            Some(address) => name::check(address).map(|()| None)?,
            None => Some(self.peer().ok_or(Errno::ENOTCONN)?),
        };
        if self.common.has(flag::PASSCRED) {
            self.autobind()?;
        }
        let len = message.data.remaining();
        if len > (self.common.sndbuf.load(Relaxed) as usize).saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        self.common.check_error()?;
        if self.common.is_shut(SHUT_SEND) {
            return Err(Errno::EPIPE);
        }
        self.wait_send_room(message)?;
        let mut bytes = take_bytes(message.data, len)?;
        let to_peer = its_peer.is_some();
        // A name is looked up only when there is something to send.
        let mut peer = match (its_peer, message.name) {
            (Some(peer), _) => peer,
            (None, address) => {
                let address = address.ok_or(Errno::ENOTCONN)?;
                name::find(&*self.common.net()?, message.caller, address, self.common.kind)?
            }
        };
        let extras = extras_for(message, self, &peer)?;
        // Who sends does not hear that nothing, or not all, was received.
        match peer.common.filter(&Packet::message(&bytes), 1) {
            None => return Ok(len),
            Some(kept) => bytes.truncate(kept),
        }
        let mut skb = Skb::new(self, bytes, extras)?;
        let wait = self.common.write_patience(message.nonblock, message.flags);
        loop {
            if peer.is_dead() {
                if self.is_connected_kind() {
                    return Err(Errno::EPIPE);
                }
                if to_peer {
                    self.forget_peer(&peer);
                }
                return Err(Errno::ECONNREFUSED);
            }
            if !self.is_connected_kind() && !peer.may_receive_from(self) {
                return Err(Errno::EPERM);
            }
            match peer.enqueue(skb, self.is_bounded_by(&peer)) {
                Ok(()) => return Ok(len),
                Err((Errno::EAGAIN, back)) => skb = back,
                Err((Errno::EPIPE, _)) if peer.is_dead() && !self.is_connected_kind() => {
                    return Err(Errno::ECONNREFUSED);
                }
                Err((error, _)) => return Err(error),
            }
            let room = || {
                peer.wake_when_room(self);
                !peer.is_full() || peer.is_dead() || peer.common.is_shut(SHUT_RECEIVE)
            };
            wait.wait(&self.common.tx_wait, wait_channel!("unix_wait_for_peer"), room)?;
            if to_peer && !self.is_connected_kind() {
                peer = self.peer().unwrap_or(peer);
            }
        }
    }

    /// Whether a full queue of `receiver` stops messages from here: not of a socket that talks to this one alone, nor
    /// its own.
    pub fn is_bounded_by(&self, receiver: &UnixSock) -> bool {
        let to_itself = core::ptr::eq(self, receiver);
        !to_itself && !receiver.peer().is_some_and(|its| core::ptr::eq(&*its, self))
    }

    /// The socket that it was connected to is gone.
    fn forget_peer(&self, peer: &Ref<UnixSock>) {
        let mut state = self.state.lock();
        let old = state.peer.take_if(|there| Ref::ptr_eq(there, peer));
        if old.is_some() {
            self.common.set_state(crate::net::common::state::CLOSE);
            self.common.set_peer_ino(0);
        }
        drop(state);
        if let Some(old) = old {
            self.disconnected_from(&old);
        }
    }

    /// It has another peer than `old`, or none: what came from there is lost, which `old` hears of.
    pub fn disconnected_from(&self, old: &UnixSock) {
        let (queue, blocked) = {
            let mut state = self.state.lock();
            self.queued.store(0, Ordering::Release);
            self.common.rx_queued.store(0, Relaxed);
            (core::mem::take(&mut state.queue), core::mem::take(&mut state.blocked))
        };
        for sock in blocked {
            sock.common.wake_writers();
        }
        let was_mutual = old.peer().is_some_and(|its| core::ptr::eq(&*its, self));
        if !queue.is_empty() && was_mutual && !old.is_dead() {
            old.common.set_error(Errno::ECONNRESET);
            old.common.wake_all();
        }
        super::scm::discard(queue);
    }

    /// The message that `SO_PEEK_OFF` points into, or the first, and how many of its bytes come before. With an
    /// offset, an empty one that was looked at (`peeked`) is passed over.
    fn find_peeked(&self) -> Option<(Ref<Skb>, usize)> {
        let Some(mut skip) = self.common.peek_offset() else {
            return self.peek(0).map(|skb| (skb, 0));
        };
        let mut at = 0;
        loop {
            let skb = self.peek(at)?;
            let len = skb.data.len();
            if skip < len || skip == 0 && !skb.peeked.load(Relaxed) {
                return Some((skb, skip));
            }
            skip -= len;
            at += 1;
        }
    }

    /// Looks at a message.
    fn peek_message(&self) -> Option<(Ref<Skb>, usize)> {
        let (skb, skip) = self.find_peeked()?;
        if self.common.peek_offset().is_some() {
            skb.peeked.store(skb.data.is_empty(), Relaxed);
        }
        Some((skb, skip))
    }

    /// Receives one message.
    pub fn receive_message(&self, message: &mut RecvMsg<'_, '_>) -> Result<usize> {
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.is_connected_kind() && !self.is_established() {
            return Err(Errno::ENOTCONN);
        }
        let wait = self.common.read_patience(message.nonblock, message.flags);
        let peeks = message.flags.contains(MsgFlags::PEEK);
        let is_there = || match peeks {
            true => self.find_peeked().is_some(),
            false => self.queued.load(Ordering::Acquire) > 0,
        };
        let (skb, skip) = loop {
            // An error comes before what arrived earlier.
            self.common.check_error()?;
            let found =
                if peeks { self.peek_message() } else { self.dequeue().map(|skb| (skb, 0)) };
            if let Some(found) = found {
                break found;
            }
            if self.common.is_shut(SHUT_RECEIVE) {
                // One that came before the end, and after the look.
                if is_there() {
                    continue;
                }
                // End of file. Who looks for datagrams without waiting is only told that there are none.
                let waits = self.is_connected_kind() || !wait.nonblock;
                return if waits { Ok(0) } else { Err(Errno::EAGAIN) };
            }
            let come =
                || is_there() || self.common.has_error() || self.common.is_shut(SHUT_RECEIVE);
            wait.wait(&self.common.rx_wait, wait_channel!("unix_dgram_read"), come)?;
        };
        let address = skb.sender.address();
        if address.bytes().len() > 2 {
            message.name = Some(address);
        }
        let len = skb.data.len() - skip;
        let room = message.data.remaining();
        if len > room {
            message.out_flags |= MsgFlags::TRUNC;
        }
        let n = message.data.put(&skb.data[skip..skip + len.min(room)])?;
        if n < len.min(room) {
            return Err(Errno::EFAULT);
        }
        self.common.peeked(if peeks { n as isize } else { -(skb.data.len() as isize) });
        message.identity = skb.identity();
        message.pass_identity = self.common.has(flag::PASSCRED);
        message.files = if peeks { peek_files(&skb)? } else { take_files(&skb) };
        Ok(if message.flags.contains(MsgFlags::TRUNC) { len } else { n })
    }
}
