//! Bytes over a TCP connection. They go through the kernel's own memory on their way between the program
//! and the connection's buffers, which are touched under a spin lock.

use super::sock::TcpSock;
use crate::errno::{Errno, Result};
use crate::net::common::{SHUT_RECEIVE, SHUT_SEND, flag, state};
use crate::net::inet::stack::kick;
use crate::net::message::{RecvMsg, SendMsg, take_bytes, try_zeroed};
use crate::net::{MsgFlags, SIGPIPE};
use crate::signal;
use crate::wait_channel;
use core::sync::atomic::Ordering::Relaxed;

/// Bytes that are copied at a time.
const CHUNK: usize = 16 * 1024;
/// Bytes that need no memory of their own on the way to the program.
const FEW: usize = 512;

impl TcpSock {
    /// Room in the send buffer.
    fn send_room(&self) -> usize {
        let core = self.core.lock();
        core.as_ref().map_or(0, |core| {
            let socket = core.socket();
            if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 }
        })
    }

    /// True if pollers may write: at least a third is free (`sk_stream_is_writable`).
    pub fn is_writable(&self) -> bool {
        let core = self.core.lock();
        core.as_ref().is_none_or(|core| {
            let socket = core.socket();
            socket.send_capacity() - socket.send_queue() >= socket.send_queue() / 2
        })
    }

    /// Why nothing can be sent, if so.
    fn check_send(&self) -> Result<()> {
        self.common.check_error()?;
        if self.common.is_shut(SHUT_SEND) {
            return Err(Errno::EPIPE);
        }
        match self.common.state() {
            state::CLOSE | state::LISTEN => Err(Errno::EPIPE),
            _ => Ok(()),
        }
    }

    /// Sends.
    pub fn send_bytes(&self, message: &mut SendMsg<'_, '_>) -> Result<usize> {
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let wait = self.common.write_patience(message.nonblock, message.flags);
        let mut sent = 0;
        let result = loop {
            if let Err(error) = self.check_send() {
                break Err(error);
            }
            if message.data.is_empty() {
                break Ok(());
            }
            let room = self.send_room();
            if room == 0 {
                let ready = || self.send_room() > 0 || self.check_ended();
                let queue = &self.common.tx_wait;
                if let Err(error) = wait.wait(queue, wait_channel!("sk_stream_wait_memory"), ready)
                {
                    break Err(error);
                }
                continue;
            }
            let len = message.data.remaining().min(room).min(CHUNK);
            let bytes = match take_bytes(message.data, len) {
                Ok(bytes) => bytes,
                Err(error) => break Err(error),
            };
            match self.push(&bytes, &wait) {
                Ok(()) => sent += len,
                Err((done, error)) => {
                    sent += done;
                    break Err(error);
                }
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

    fn check_ended(&self) -> bool {
        self.common.has_error() || self.common.is_shut(SHUT_SEND)
    }

    /// Puts bytes into the send buffer; waits if somebody else took the room meanwhile.
    fn push(
        &self,
        mut bytes: &[u8],
        wait: &crate::net::common::Patience,
    ) -> Result<(), (usize, Errno)> {
        let mut done = 0;
        loop {
            let put = self.with_core(|core| core.socket_mut().send_slice(bytes).unwrap_or(0));
            kick();
            let n = put.unwrap_or(0);
            done += n;
            bytes = &bytes[n..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.check_send().map_err(|error| (done, error))?;
            let ready = || self.send_room() > 0 || self.check_ended();
            let channel = wait_channel!("sk_stream_wait_memory");
            wait.wait(&self.common.tx_wait, channel, ready).map_err(|error| (done, error))?;
        }
    }

    /// Bytes that can be read.
    fn readable(&self) -> usize {
        self.core.lock().as_ref().map_or(0, |core| core.socket().recv_queue())
    }

    /// Receives.
    pub fn receive_bytes(&self, message: &mut RecvMsg<'_, '_>) -> Result<usize> {
        match self.common.state() {
            state::LISTEN => return Err(Errno::ENOTCONN),
            state::CLOSE if self.core.lock().is_none() => {
                self.common.check_error()?;
                return Err(Errno::ENOTCONN);
            }
            _ => {}
        }
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EINVAL);
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
        let peeks = message.flags.contains(MsgFlags::PEEK);
        let mut done = 0;
        let result = loop {
            let read = {
                let _guard = self.reading.lock();
                self.read_some(message, if peeks { done } else { 0 })
            };
            match read {
                Ok(n) => done += n,
                Err(error) => break Err(error),
            }
            let full = message.data.is_empty() && (wanted > 0 || self.readable() > 0);
            if done >= target || full {
                break Ok(());
            }
            let skipped = if peeks { done } else { 0 };
            if self.readable() > skipped {
                continue;
            }
            // Who was told the end hears of no error.
            if !self.common.has(flag::DONE)
                && let Err(error) = self.common.check_error()
            {
                break Err(error);
            }
            if self.common.is_shut(SHUT_RECEIVE) {
                if self.readable() > skipped {
                    continue;
                }
                break Ok(());
            }
            let come = || {
                self.readable() > skipped
                    || self.common.has_error()
                    || self.common.is_shut(SHUT_RECEIVE)
            };
            let channel = wait_channel!("wait_woken");
            if let Err(error) = wait.wait(&self.common.rx_wait, channel, come) {
                break Err(error);
            }
        };
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    /// Copies what is there to the program, from `skip` bytes on if it only looks.
    fn read_some(&self, message: &mut RecvMsg<'_, '_>, skip: usize) -> Result<usize> {
        let peeks = message.flags.contains(MsgFlags::PEEK);
        // MSG_TRUNC of TCP throws bytes away (tcp(7)).
        let discards = message.flags.contains(MsgFlags::TRUNC);
        let mut few = [0; FEW];
        let mut done = 0;
        loop {
            let len = self.readable().saturating_sub(skip + if peeks { done } else { 0 });
            let len = len.min(message.data.remaining()).min(CHUNK);
            if len == 0 {
                break;
            }
            let copied = if discards {
                message.data.skip(len)?
            } else if skip == 0 && !peeks && len <= FEW {
                let len = self.look(&mut few[..len]);
                message.data.put(&few[..len])?
            } else {
                let from = skip + if peeks { done } else { 0 };
                let mut bytes = try_zeroed(from + len)?;
                let got = self.look(&mut bytes);
                message.data.put(&bytes[from.min(got)..got])?
            };
            if !peeks {
                self.consume(copied);
            }
            done += copied;
            if copied < len {
                break;
            }
        }
        Ok(done)
    }

    /// Copies the first bytes of the receive buffer, and leaves them there.
    fn look(&self, into: &mut [u8]) -> usize {
        let mut core = self.core.lock();
        core.as_mut().map_or(0, |core| core.socket_mut().peek_slice(into).unwrap_or(0))
    }

    /// Takes bytes out of the receive buffer; the other side may hear that there is room.
    fn consume(&self, len: usize) {
        self.with_core(|core| {
            let mut left = len;
            while left > 0 {
                let take = |bytes: &mut [u8]| {
                    let n = bytes.len().min(left);
                    (n, n)
                };
                match core.socket_mut().recv(take) {
                    Ok(n @ 1..) => left -= n,
                    _ => break,
                }
            }
        });
        kick();
    }
}
