//! Messages: what sendmsg(2) and recvmsg(2) carry besides the bytes, in the kernel's own terms. The
//! system calls translate from and to `struct msghdr` and its control messages.

use alloc::vec::Vec;

use super::address::Address;
use super::hooks::Identity;
use crate::errno::{Errno, Result};
use crate::fs::{Caller, File, UserBuf};
use crate::kref::Ref;
use crate::mm::try_to_vec;

bitflags::bitflags! {
    /// Flags of send(2) and recv(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MsgFlags: u32 {
        /// Out of band.
        const OOB = 0x1;
        /// Look only.
        const PEEK = 0x2;
        /// Not through a gateway.
        const DONTROUTE = 0x4;
        /// Control data was cut.
        const CTRUNC = 0x8;
        /// The message was cut; or: tell its whole length.
        const TRUNC = 0x20;
        /// Do not wait.
        const DONTWAIT = 0x40;
        /// End of a record.
        const EOR = 0x80;
        /// Wait for all bytes.
        const WAITALL = 0x100;
        /// The neighbour is known to be there.
        const CONFIRM = 0x800;
        /// From the error queue.
        const ERRQUEUE = 0x2000;
        /// No `SIGPIPE`.
        const NOSIGNAL = 0x4000;
        /// More follows.
        const MORE = 0x8000;
        /// recvmmsg(2): wait for the first message only.
        const WAITFORONE = 0x10000;
        /// Zero copy.
        const ZEROCOPY = 0x400_0000;
        /// TCP fast open.
        const FASTOPEN = 0x2000_0000;
        /// Received descriptors are closed on exec.
        const CMSG_CLOEXEC = 0x4000_0000;
    }
}

/// Most descriptors in one message (`SCM_MAX_FD`).
pub const SCM_MAX_FD: usize = 253;

/// A control message that is no more than its bytes.
pub struct ControlBytes {
    /// Level.
    pub level: u32,
    /// Type.
    pub kind: u32,
    /// Content.
    pub data: Vec<u8>,
}

/// A message to send.
pub struct SendMsg<'a, 'b> {
    /// Its bytes.
    pub data: &'a mut UserBuf<'b>,
    /// To where, if the caller says so.
    pub name: Option<&'a [u8]>,
    /// How.
    pub flags: MsgFlags,
    /// Never wait.
    pub nonblock: bool,
    /// Who asks, for names that are paths. There is none for write(2), which names nobody.
    pub caller: Option<Caller<'a>>,
    /// Who claims to send it.
    pub identity: Option<Identity>,
    /// Files that travel with it.
    pub files: Vec<Ref<File>>,
    /// Other control messages.
    pub control: Vec<ControlBytes>,
}

impl<'a, 'b> SendMsg<'a, 'b> {
    /// Plain bytes.
    #[inline]
    pub fn plain(data: &'a mut UserBuf<'b>, flags: MsgFlags, nonblock: bool) -> Self {
        Self {
            data,
            name: None,
            flags,
            nonblock,
            caller: None,
            identity: None,
            files: Vec::new(),
            control: Vec::new(),
        }
    }
}

/// Room for a message, and what was received besides its bytes.
pub struct RecvMsg<'a, 'b> {
    /// Where its bytes go.
    pub data: &'a mut UserBuf<'b>,
    /// How.
    pub flags: MsgFlags,
    /// Never wait.
    pub nonblock: bool,
    /// The caller wants control messages.
    pub wants_control: bool,
    /// From where.
    pub name: Option<Address>,
    /// `MSG_*` flags for the caller.
    pub out_flags: MsgFlags,
    /// Who sent it.
    pub identity: Option<Identity>,
    /// The socket has `SO_PASSCRED`: the caller gets credentials even if nobody gave any.
    pub pass_identity: bool,
    /// Nothing was received, so that nobody sent it: ids are 0, as Linux has it.
    pub is_end: bool,
    /// Files that came with it.
    pub files: Vec<Ref<File>>,
    /// Other control messages.
    pub control: Vec<ControlBytes>,
}

impl<'a, 'b> RecvMsg<'a, 'b> {
    /// Plain bytes.
    #[inline]
    pub fn plain(data: &'a mut UserBuf<'b>, flags: MsgFlags, nonblock: bool) -> Self {
        Self {
            data,
            flags,
            nonblock,
            wants_control: false,
            name: None,
            out_flags: MsgFlags::empty(),
            identity: None,
            pass_identity: false,
            is_end: false,
            files: Vec::new(),
            control: Vec::new(),
        }
    }

    /// Adds a control message, if the caller wants any.
    pub fn add_control(&mut self, level: u32, kind: u32, data: &[u8]) -> Result<()> {
        if self.wants_control {
            let data = try_to_vec(data)?;
            self.control.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.control.push(ControlBytes { level, kind, data });
        }
        Ok(())
    }
}

/// `len` zero bytes on the heap.
pub fn try_zeroed(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// The next `len` bytes that a program sends, on the heap; `EFAULT` unless all can be read.
pub fn take_bytes(from: &mut UserBuf<'_>, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::<u8>::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    // SAFETY: room for `len` bytes was just reserved.
    if len > 0 && unsafe { from.take_raw(bytes.as_mut_ptr(), len) }? < len {
        return Err(Errno::EFAULT);
    }
    // SAFETY: all of them were written.
    unsafe { bytes.set_len(len) };
    Ok(bytes)
}
