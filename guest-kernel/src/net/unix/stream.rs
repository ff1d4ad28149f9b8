//! Bytes over a Unix stream. Each write is queued as it came: control data stays with the bytes that it
//! was sent with, and a read does not go on past files or into bytes of somebody else.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::{self, Relaxed};

use super::scm::InFlight;
use super::sock::{Extras, Skb, UnixSock};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::common::{SHUT_RECEIVE, SHUT_SEND, flag};
use crate::net::hooks::{self, Identity};
use crate::net::message::{RecvMsg, SendMsg, take_bytes};
use crate::net::{MsgFlags, SIGPIPE};
use crate::signal;
use crate::sync::SpinLock;
use crate::wait_channel;

/// The most that one piece holds.
const PIECE_MAX: usize = 32 * 1024;

/// What travels with a message; nothing, usually.
pub fn extras_for(
    message: &mut SendMsg<'_, '_>,
    sender: &UnixSock,
    peer: &UnixSock,
) -> Result<Option<Ref<Extras>>> {
    let files = core::mem::take(&mut message.files);
    // Nobody knows yet what whoever accepts the connection will want.
    let wanted = || {
        sender.common.has(flag::PASSCRED)
            || peer.common.has(flag::PASSCRED)
            || peer.common.ino() == 0
    };
    let identity = match &message.identity {
        Some(identity) => Some(identity.clone()),
        None if wanted() => hooks::real_identity(),
        None => None,
    };
    if files.is_empty() && identity.is_none() {
        return Ok(None);
    }
    let files = if files.is_empty() { None } else { Some(Ref::try_new(InFlight::new(files)?)?) };
    Ok(Some(Ref::try_new(Extras { identity, files: SpinLock::new(files) })?))
}

impl UnixSock {
    /// Sends over a connection.
    pub fn send_stream(&self, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if message.name.is_some() {
            let connected = self.is_established();
            return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let Some(peer) = self.peer() else { return Err(Errno::ENOTCONN) };
        let mut sent = 0;
        let result = loop {
            if self.common.is_shut(SHUT_SEND) {
                break Err(Errno::EPIPE);
            }
            if message.data.is_empty() {
                break Ok(());
            }
            match self.send_piece(&peer, message) {
                Ok(n) => sent += n,
                Err(error) => break Err(error),
            }
        };
        match result {
            Err(error) if sent == 0 => {
                if error == Errno::EPIPE && !message.flags.contains(MsgFlags::NOSIGNAL) {
                    signal::hooks::send_current(SIGPIPE);
                }
                Err(error)
            }
            _ => Ok(sent),
        }
    }

    fn send_piece(&self, peer: &Ref<UnixSock>, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        self.common.check_error()?;
        self.wait_send_room(message)?;
        if peer.is_dead() || peer.common.is_shut(SHUT_RECEIVE) {
            return Err(Errno::EPIPE);
        }
        let half = (self.common.sndbuf.load(Relaxed) as usize / 2).saturating_sub(64).max(1);
        let len = message.data.remaining().min(half).min(PIECE_MAX);
        let extras = extras_for(message, self, peer)?;
        let data = take_bytes(message.data, len)?;
        let skb = Skb::new(self, data, extras)?;
        peer.enqueue(skb, false).map_err(|(error, _)| error)?;
        Ok(len)
    }

    /// Sleeps until another message may be charged to it.
    pub fn wait_send_room(&self, message: &SendMsg<'_, '_>) -> Result<()> {
        if self.has_send_room() {
            return Ok(());
        }
        let wait = self.common.write_patience(message.nonblock, message.flags);
        let ready = || self.has_send_room() || self.common.is_shut(SHUT_SEND);
        wait.wait(&self.common.tx_wait, wait_channel!("sock_alloc_send"), ready)?;
        if self.common.is_shut(SHUT_SEND) { Err(Errno::EPIPE) } else { Ok(()) }
    }

    /// Receives from a connection.
    pub fn receive_stream(&self, message: &mut RecvMsg<'_, '_>) -> Result<usize> {
        if !self.is_established() {
            return Err(Errno::EINVAL);
        }
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let wanted = message.data.remaining();
        let target = if message.flags.contains(MsgFlags::WAITALL) {
            wanted
        } else {
            (self.common.rcvlowat.load(Relaxed) as usize).min(wanted)
        };
        // Even who asks for nothing waits for something.
        let target = target.max(1);
        let wait = self.common.read_patience(message.nonblock, message.flags);
        let mut reader = Reader::default();
        if message.flags.contains(MsgFlags::PEEK) {
            reader.skip = self.common.peek_offset().unwrap_or(0);
        }
        let result = loop {
            let guard = self.reading.lock();
            let ended = self.read_queue(message, &mut reader);
            drop(guard);
            match ended {
                Err(error) => break Err(error),
                Ok(true) => break Ok(()),
                Ok(false) => {}
            }
            if reader.done >= target {
                break Ok(());
            }
            if let Err(error) = self.common.check_error() {
                break Err(error);
            }
            if self.common.is_shut(SHUT_RECEIVE) {
                if self.queued.load(Ordering::Acquire) > reader.peeked {
                    continue;
                }
                break Ok(());
            }
            let peeked = reader.peeked;
            let come = || {
                self.queued.load(Ordering::Acquire) > peeked
                    || self.common.has_error()
                    || self.common.is_shut(SHUT_RECEIVE)
            };
            let channel = wait_channel!("unix_stream_read");
            if let Err(error) = wait.wait(&self.common.rx_wait, channel, come) {
                break Err(error);
            }
        };
        // Somebody else may read what is left.
        if self.queued.load(Ordering::Acquire) > 0 && self.common.rx_wait.has_waiters() {
            self.common.wake_readers();
        }
        message.identity = reader.identity;
        message.pass_identity = self.common.has(flag::PASSCRED);
        message.is_end = !reader.started;
        match result {
            Err(error) if reader.done == 0 => Err(error),
            _ => Ok(reader.done),
        }
    }

    /// Reads what is queued, as far as it may be read in one go; true if the call ends here.
    fn read_queue(&self, message: &mut RecvMsg<'_, '_>, reader: &mut Reader) -> Result<bool> {
        let peeks = message.flags.contains(MsgFlags::PEEK);
        while let Some(skb) = self.peek(reader.peeked) {
            // Credentials tell who sent all of it.
            if reader.skip > 0 && reader.skip >= skb.unread() {
                reader.skip -= skb.unread();
                reader.peeked += 1;
                continue;
            }
            if reader.started
                && self.common.has(flag::PASSCRED)
                && !reader.fits(skb.identity().as_ref())
            {
                return Ok(true);
            }
            if !reader.started {
                reader.started = true;
                reader.identity = skb.identity();
                let address = skb.sender.address();
                if address.bytes().len() > 2 {
                    message.name = Some(address);
                }
            }
            let from = skb.read.load(Relaxed) + core::mem::take(&mut reader.skip);
            let room = message.data.remaining();
            let n = message.data.put(&skb.data[from..])?;
            reader.done += n;
            self.common.peeked(if peeks { n as isize } else { -(n as isize) });
            if peeks {
                if skb.has_files() {
                    message.files = peek_files(&skb)?;
                    return Ok(true);
                }
                reader.peeked += 1;
                if n == room {
                    return Ok(true);
                }
                continue;
            }
            skb.read.store(from + n, Relaxed);
            self.common.rx_queued.fetch_sub(n.min(self.common.rx_queued.load(Relaxed)), Relaxed);
            let files = take_files(&skb);
            let had_files = !files.is_empty();
            if had_files {
                message.files = files;
            }
            if skb.unread() > 0 {
                return Ok(true);
            }
            drop(self.dequeue());
            if had_files || n == room {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// How far a read has come.
#[derive(Default)]
struct Reader {
    done: usize,
    started: bool,
    identity: Option<Identity>,
    /// Messages that were only looked at.
    peeked: usize,
    /// Bytes that `SO_PEEK_OFF` leaves out.
    skip: usize,
}

impl Reader {
    fn fits(&self, identity: Option<&Identity>) -> bool {
        match (&self.identity, identity) {
            (Some(a), Some(b)) => a.same(b),
            (None, None) => true,
            _ => false,
        }
    }
}

/// The files of a message, received.
pub fn take_files(skb: &Skb) -> Vec<Ref<crate::fs::File>> {
    let files = skb.extras.as_ref().and_then(|extras| extras.files.lock().take());
    files.and_then(Ref::into_inner).map_or(Vec::new(), InFlight::receive)
}

/// The files of a message, which go on their way all the same.
pub fn peek_files(skb: &Skb) -> Result<Vec<Ref<crate::fs::File>>> {
    let Some(extras) = &skb.extras else { return Ok(Vec::new()) };
    let files = extras.files.lock();
    let Some(files) = &*files else { return Ok(Vec::new()) };
    let mut copies = Vec::new();
    copies.try_reserve_exact(files.files().len()).map_err(|_| Errno::ENOMEM)?;
    copies.extend(files.files().iter().cloned());
    Ok(copies)
}
