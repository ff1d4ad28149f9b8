//! socket(2), socketpair(2), bind(2), listen(2), accept(2), connect(2), shutdown(2), getsockname(2).

use super::super::fs::{caller, fd_limit};
use super::{Args, Open, SysResult, read_address, write_address};
use crate::errno::{Errno, Result};
use crate::fs::{File, OpenFlags};
use crate::kref::Ref;
use crate::mm::UserPtr;
use crate::net::common::{SHUT_RECEIVE, SHUT_SEND};
use crate::net::socket::Socket;
use crate::net::{self, MsgFlags};
use crate::task;

/// Bits of the type that are the type (`SOCK_TYPE_MASK`).
const TYPE_MASK: u32 = 0xf;

/// The flags in a type or of accept4(2); `EINVAL` for others.
fn flags_of(raw: u32) -> Result<OpenFlags> {
    let flags = OpenFlags::from_bits_retain(raw);
    if (OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        Ok(flags)
    } else {
        Err(Errno::EINVAL)
    }
}

fn into_file(socket: Socket, flags: OpenFlags) -> Result<Ref<File>> {
    let cred = task::current().cred();
    socket.into_file(flags, cred.fsuid, cred.fsgid)
}

/// socket(2).
pub fn sys_socket(a: &mut Args) -> SysResult {
    let flags = flags_of(a.u32(1) & !TYPE_MASK)?;
    let task = task::current();
    let socket = net::create(&task.nsproxy().net, a.u32(0), a.u32(1) & TYPE_MASK, a.u32(2))?;
    let file = into_file(socket, flags)?;
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    Ok(task.files().install(file, 0, fd_limit(), cloexec)? as usize)
}

/// socketpair(2).
pub fn sys_socketpair(a: &mut Args) -> SysResult {
    let flags = flags_of(a.u32(1) & !TYPE_MASK)?;
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    let task = task::current();
    let files = task.files();
    let first = files.reserve(0, fd_limit(), cloexec)?;
    let second = files.reserve(0, fd_limit(), cloexec)?;
    UserPtr::<[i32; 2]>::new(a.u64(3)).write([first.fd(), second.fd()])?;
    let kind = a.u32(1) & TYPE_MASK;
    let (one, other) = net::pair(&task.nsproxy().net, a.u32(0), kind, a.u32(2))?;
    let (one, other) = (into_file(one, flags)?, into_file(other, flags)?);
    first.install(one);
    second.install(other);
    Ok(0)
}

/// bind(2).
pub fn sys_bind(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    let address = read_address(a.u64(1), a.i32(2))?;
    open.socket()?.protocol.bind(caller(), address.bytes())?;
    Ok(0)
}

/// listen(2).
pub fn sys_listen(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    open.socket()?.protocol.listen(a.i32(1))?;
    Ok(0)
}

/// connect(2).
pub fn sys_connect(a: &mut Args) -> SysResult {
    let open = Open::any(a.fd(0))?;
    let address = read_address(a.u64(1), a.i32(2))?;
    let socket = open.socket()?;
    let wait = socket.common.write_patience(open.0.is_nonblocking(), MsgFlags::empty());
    socket.protocol.connect(caller(), address.bytes(), wait)?;
    Ok(0)
}

fn accept(a: &Args, flags: u32) -> SysResult {
    let open = Open::any(a.fd(0))?;
    let flags = flags_of(flags)?;
    let listener = open.socket()?;
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    let files = task::current().files();
    let place = files.reserve(0, fd_limit(), cloexec)?;
    let wait = listener.common.read_patience(open.0.is_nonblocking(), MsgFlags::empty());
    let socket = listener.protocol.accept(wait)?;
    let name = match a.u64(1) {
        0 => None,
        at => Some((at, socket.protocol.peer_name().or(Err(Errno::ECONNABORTED))?)),
    };
    let file = into_file(socket, flags)?;
    if let Some((at, name)) = name {
        write_address(&name, at, a.ptr(2))?;
    }
    Ok(place.install(file) as usize)
}

/// accept(2).
pub fn sys_accept(a: &mut Args) -> SysResult {
    accept(a, 0)
}

/// accept4(2).
pub fn sys_accept4(a: &mut Args) -> SysResult {
    accept(a, a.u32(3))
}

/// getsockname(2).
pub fn sys_getsockname(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    write_address(&open.socket()?.protocol.local_name()?, a.u64(1), a.ptr(2))?;
    Ok(0)
}

/// getpeername(2).
pub fn sys_getpeername(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    write_address(&open.socket()?.protocol.peer_name()?, a.u64(1), a.ptr(2))?;
    Ok(0)
}

/// shutdown(2).
pub fn sys_shutdown(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    let how = match a.i32(1) {
        0 => SHUT_RECEIVE,
        1 => SHUT_SEND,
        2 => SHUT_RECEIVE | SHUT_SEND,
        _ => return Err(Errno::EINVAL),
    };
    open.socket()?.protocol.shutdown(how)?;
    Ok(0)
}
