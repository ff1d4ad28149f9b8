//! send(2) and recv(2) in all their forms.

use super::super::fs::{caller, rw::Pieces};
use super::control;
use super::{Args, Open, SysResult, read_address, write_address};
use crate::errno::{Errno, Result};
use crate::fs::UserBuf;
use crate::fs::userbuf::UIO_MAXIOV;
use crate::mm::UserPtr;
use crate::net::MsgFlags;
use crate::net::address::ADDRESS_MAX;
use crate::net::message::{RecvMsg, SendMsg};
use crate::sched::clock::{Deadline, NSEC_PER_SEC};

/// `struct msghdr` of 64-bit machines.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct MsgHdr {
    name: u64,
    name_len: i32,
    pad1: u32,
    iov: u64,
    iov_len: u64,
    pub control: u64,
    pub control_len: u64,
    flags: u32,
    pad2: u32,
}
crate::pod!(MsgHdr);

/// `struct mmsghdr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MMsgHdr {
    header: MsgHdr,
    len: u32,
    pad: u32,
}
crate::pod!(MMsgHdr);

const LEN_OFFSET: usize = core::mem::offset_of!(MMsgHdr, len);
const NAME_LEN_OFFSET: usize = core::mem::offset_of!(MsgHdr, name_len);
const CONTROL_LEN_OFFSET: usize = core::mem::offset_of!(MsgHdr, control_len);
const FLAGS_OFFSET: usize = core::mem::offset_of!(MsgHdr, flags);

/// sendto(2).
pub fn sys_sendto(a: &mut Args) -> SysResult {
    let mut data = UserBuf::user(a.u64(1), a.usize(2))?;
    let open = Open::get(a.fd(0))?;
    let address = match a.u64(4) {
        0 => None,
        at => Some(read_address(at, a.i32(5))?),
    };
    let flags = MsgFlags::from_bits_retain(a.u32(3));
    let mut message = SendMsg::plain(&mut data, flags, open.0.is_nonblocking());
    message.name = address.as_ref().map(|address| address.bytes());
    message.caller = Some(caller());
    let protocol = &open.socket()?.protocol;
    protocol.before_send()?;
    protocol.send(&mut message)
}

/// recvfrom(2).
pub fn sys_recvfrom(a: &mut Args) -> SysResult {
    let mut data = UserBuf::user(a.u64(1), a.usize(2))?;
    let open = Open::get(a.fd(0))?;
    let flags = MsgFlags::from_bits_retain(a.u32(3));
    let mut message = RecvMsg::plain(&mut data, flags, open.0.is_nonblocking());
    let n = open.socket()?.protocol.receive(&mut message)?;
    if a.u64(4) != 0 {
        let none = crate::net::address::Address::EMPTY;
        write_address(message.name.as_ref().unwrap_or(&none), a.u64(4), a.ptr(5))?;
    }
    Ok(n)
}

fn pieces(header: &MsgHdr) -> Result<Pieces> {
    if header.iov_len > UIO_MAXIOV as u64 {
        return Err(Errno::EMSGSIZE);
    }
    Pieces::read(UserPtr::new(header.iov), header.iov_len as usize)
}

fn send(open: &Open, header: &MsgHdr, flags: MsgFlags) -> SysResult {
    let address = match header.name {
        0 => None,
        _ if header.name_len == 0 => None,
        at => {
            let len = usize::try_from(header.name_len).map_err(|_| Errno::EINVAL)?;
            Some(read_address(at, len.min(ADDRESS_MAX) as i32)?)
        }
    };
    let pieces = pieces(header)?;
    let mut data = pieces.buffer()?;
    let mut message = SendMsg::plain(&mut data, flags, open.0.is_nonblocking());
    message.name = address.as_ref().map(|address| address.bytes());
    message.caller = Some(caller());
    let protocol = &open.socket()?.protocol;
    protocol.before_send()?;
    control::read(header, &mut message)?;
    protocol.send(&mut message)
}

/// sendmsg(2).
pub fn sys_sendmsg(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    let header = a.ptr::<MsgHdr>(1).read()?;
    send(&open, &header, MsgFlags::from_bits_retain(a.u32(2)))
}

/// sendmmsg(2).
pub fn sys_sendmmsg(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    let flags = MsgFlags::from_bits_retain(a.u32(3));
    let count = a.usize(2).min(UIO_MAXIOV);
    let mut sent = 0;
    while sent < count {
        let at = a.ptr::<MMsgHdr>(1).add(sent);
        let one = at.cast::<MsgHdr>().read().and_then(|header| send(&open, &header, flags));
        let stored = one.and_then(|n| at.byte_add(LEN_OFFSET).cast::<u32>().write(n as u32));
        if let Err(error) = stored {
            return if sent == 0 { Err(error) } else { Ok(sent) };
        }
        sent += 1;
    }
    Ok(sent)
}

/// Receives one message, and tells the program all about it in the header at `at`.
fn receive(open: &Open, at: UserPtr<MsgHdr>, flags: MsgFlags) -> SysResult {
    let header = at.read()?;
    if header.name != 0 && header.name_len < 0 {
        return Err(Errno::EINVAL);
    }
    let pieces = pieces(&header)?;
    let mut data = pieces.buffer()?;
    let mut message = RecvMsg::plain(&mut data, flags, open.0.is_nonblocking());
    message.wants_control = header.control != 0;
    let n = open.socket()?.protocol.receive(&mut message)?;
    if header.name != 0 {
        let none = crate::net::address::Address::EMPTY;
        let name = message.name.as_ref().unwrap_or(&none);
        write_address(name, header.name, at.byte_add(NAME_LEN_OFFSET).cast())?;
    }
    let used = control::write(&header, &mut message, flags)?;
    let cloexec = flags & MsgFlags::CMSG_CLOEXEC;
    at.byte_add(FLAGS_OFFSET).cast::<u32>().write((message.out_flags | cloexec).bits())?;
    at.byte_add(CONTROL_LEN_OFFSET).cast::<u64>().write(used)?;
    Ok(n)
}

/// recvmsg(2).
pub fn sys_recvmsg(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    receive(&open, a.ptr(1), MsgFlags::from_bits_retain(a.u32(2)))
}

/// recvmmsg(2).
pub fn sys_recvmmsg(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    let mut flags = MsgFlags::from_bits_retain(a.u32(3));
    let count = a.usize(2).min(UIO_MAXIOV);
    let deadline = match a.ptr::<[i64; 2]>(4).non_null() {
        None => Deadline::NEVER,
        Some(timeout) => {
            let [sec, nsec] = timeout.read()?;
            if sec < 0 || !(0..NSEC_PER_SEC as i64).contains(&nsec) {
                return Err(Errno::EINVAL);
            }
            let sec = (sec as u64).saturating_mul(NSEC_PER_SEC);
            Deadline::after(sec.saturating_add(nsec as u64))
        }
    };
    open.socket()?.common.check_error()?;
    let mut got = 0;
    while got < count {
        let at = a.ptr::<MMsgHdr>(1).add(got);
        let one = receive(&open, at.cast(), flags & !MsgFlags::WAITFORONE);
        let stored = one.and_then(|n| at.byte_add(LEN_OFFSET).cast::<u32>().write(n as u32));
        if let Err(error) = stored {
            return if got == 0 { Err(error) } else { Ok(got) };
        }
        got += 1;
        if flags.contains(MsgFlags::WAITFORONE) {
            flags |= MsgFlags::DONTWAIT;
        }
        if deadline.has_passed() {
            break;
        }
    }
    Ok(got)
}
