//! [`Socket`]: a socket as an open file (socket(7)), and [`Protocol`], what its family makes of it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;

use super::address::Address;
use super::common::{Common, Patience};
use super::message::{RecvMsg, SendMsg};
use super::options::OptionValue;
use super::{MsgFlags, inet};
use crate::errno::{Errno, Result};
use crate::fs::anon::{self, Pseudo};
use crate::fs::{Caller, FMode, File, FileKind, FileOps, OpenFlags, PollFlags, PollTable, UserBuf};
use crate::kref::Ref;
use crate::mm::{Backing, try_box};

/// What a family makes of a socket. Calls that a protocol lacks fail as Linux has them fail.
pub trait Protocol: Any + Send + Sync {
    /// Gives it an address (bind(2)).
    fn bind(&self, _caller: Caller<'_>, _address: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Connects it (connect(2)).
    fn connect(&self, _caller: Caller<'_>, _address: &[u8], _wait: Patience) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Lets others connect (listen(2)).
    fn listen(&self, _backlog: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The next connection (accept(2)).
    fn accept(&self, _wait: Patience) -> Result<Socket> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Its own address (getsockname(2)).
    fn local_name(&self) -> Result<Address>;

    /// The other end's address (getpeername(2)); `ENOTCONN` if there is none.
    fn peer_name(&self) -> Result<Address> {
        Err(Errno::EOPNOTSUPP)
    }

    /// May refuse to send, whatever it is: before addresses and control messages are looked at.
    fn before_send(&self) -> Result<()> {
        Ok(())
    }

    /// Sends (sendmsg(2)).
    fn send(&self, _message: &mut SendMsg<'_, '_>) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Receives (recvmsg(2)); returns the bytes received, or with `MSG_TRUNC` those there were.
    fn receive(&self, _message: &mut RecvMsg<'_, '_>) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Ends one or both directions (shutdown(2)), bits of `SHUT_*` in [`common`](super::common).
    fn shutdown(&self, _how: u32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// What it is ready for.
    fn poll(&self, table: &mut PollTable<'_>) -> PollFlags;

    /// Sets an option that is not the socket layer's.
    fn set_option(&self, _level: u32, _name: u32, _value: &[u8]) -> Result<()> {
        Err(Errno::ENOPROTOOPT)
    }

    /// Gets an option that is not the socket layer's.
    fn get_option(&self, _level: u32, _name: u32, _value: &mut OptionValue) -> Result<()> {
        Err(Errno::ENOPROTOOPT)
    }

    /// An option of the socket layer changed that the protocol may act on.
    fn option_changed(&self, _name: u32) {}

    /// What stands behind a mapping of it (mmap(2)).
    fn mmap(&self) -> Result<Arc<dyn Backing>> {
        Err(Errno::ENODEV)
    }

    /// ioctl(2).
    fn ioctl(&self, _cmd: u32, _arg: u64) -> Result<usize> {
        Err(Errno::ENOTTY)
    }

    /// It is a file now, and its inode has a number.
    fn opened(&self) {}

    /// The last descriptor is gone.
    fn release(&self);
}

/// A socket.
#[repr(C)]
pub struct Socket {
    /// What every socket has.
    pub common: Ref<Common>,
    /// What its family makes of it.
    pub protocol: Box<dyn Protocol>,
    released: bool,
}

impl Socket {
    /// A socket of this protocol.
    pub fn new(common: Ref<Common>, protocol: impl Protocol) -> Result<Self> {
        Ok(Self { common, protocol: try_box(protocol)?, released: false })
    }

    /// The protocol, as a `T`.
    pub fn protocol_as<T: Protocol>(&self) -> Option<&T> {
        (&*self.protocol as &dyn Any).downcast_ref()
    }

    /// Makes an open file of it, owned by `uid` and `gid`. `flags`: only `NONBLOCK` counts.
    pub fn into_file(self, flags: OpenFlags, uid: u32, gid: u32) -> Result<Ref<File>> {
        let place = anon::new_place(Pseudo::Socket, uid, gid)?;
        let common = self.common.clone();
        common.set_ino(place.inode()?.ino);
        self.protocol.opened();
        let flags = (flags & OpenFlags::NONBLOCK) | OpenFlags::RDWR;
        File::new(place, flags, FMode::READ | FMode::WRITE, try_box(self)?)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.released {
            self.released = true;
            self.protocol.release();
        }
    }
}

/// The socket behind an open file; `ENOTSOCK` if there is none.
pub fn socket_of(file: &File) -> Result<&Socket> {
    file.ops_as::<Socket>().ok_or(Errno::ENOTSOCK)
}

impl FileOps for Socket {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let flags = MsgFlags::empty();
        self.protocol.receive(&mut RecvMsg::plain(buf, flags, file.is_nonblocking()))
    }

    fn write(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        // A write to a socket of records is one record (send(2)).
        let flags = match self.common.kind {
            super::SOCK_SEQPACKET => MsgFlags::EOR,
            _ => MsgFlags::empty(),
        };
        self.protocol.before_send()?;
        self.protocol.send(&mut SendMsg::plain(buf, flags, file.is_nonblocking()))
    }

    fn ioctl(&self, _file: &File, cmd: u32, arg: u64) -> Result<usize> {
        match self.protocol.ioctl(cmd, arg) {
            // What the protocol does not know is about interfaces.
            Err(Errno::ENOTTY) => inet::ioctl::ioctl(&*self.common.net()?, cmd, arg),
            result => result,
        }
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        self.common.polled.store(true, core::sync::atomic::Ordering::Relaxed);
        self.protocol.poll(table)
    }

    fn mmap(&self, _file: &Ref<File>, _writable: bool) -> Result<Arc<dyn Backing>> {
        self.protocol.mmap()
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::Socket)
    }

    fn described(&self) -> usize {
        Ref::as_ptr(&self.common) as usize
    }
}
