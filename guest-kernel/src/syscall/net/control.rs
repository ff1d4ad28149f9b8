//! Control messages (cmsg(3)): descriptors and credentials in and out of a `struct msghdr`.

use alloc::vec::Vec;

use super::super::fs::fd_limit;
use super::message::MsgHdr;
use crate::errno::{Errno, Result};
use crate::fs::File;
use crate::kref::Ref;
use crate::mm::{UserPtr, copy_out};
use crate::net::MsgFlags;
use crate::net::filter::OPTMEM_MAX;
use crate::net::hooks::{self, Identity};
use crate::net::message::{ControlBytes, RecvMsg, SCM_MAX_FD, SendMsg};
use crate::net::options::SOL_SOCKET;
use crate::ns::{Cap, Pid};
use crate::syscall::ids;
use crate::task;

const SCM_RIGHTS: u32 = 1;
const SCM_CREDENTIALS: u32 = 2;
/// Bytes of a `struct cmsghdr`.
const HEADER: usize = 16;

fn align(len: usize) -> usize {
    len.next_multiple_of(8)
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Errno::EINVAL)?;
    Ok(u32::from_ne_bytes(*bytes))
}

/// Reads what a program sends along.
pub(super) fn read(header: &MsgHdr, message: &mut SendMsg<'_, '_>) -> Result<()> {
    if header.control == 0 || header.control_len < HEADER as u64 {
        return Ok(());
    }
    if header.control_len > OPTMEM_MAX as u64 {
        return Err(Errno::ENOBUFS);
    }
    let bytes = UserPtr::<u8>::new(header.control).read_array(header.control_len as usize)?;
    let mut rest = &bytes[..];
    while rest.len() >= HEADER {
        let len = usize::try_from(u64::from_ne_bytes(*rest.first_chunk().ok_or(Errno::EINVAL)?))
            .map_err(|_| Errno::EINVAL)?;
        let data = rest.get(HEADER..len).ok_or(Errno::EINVAL)?;
        let (level, kind) = (word(rest, 8)?, word(rest, 12)?);
        match (level, kind) {
            (SOL_SOCKET, SCM_RIGHTS) => rights(data, &mut message.files)?,
            (SOL_SOCKET, SCM_CREDENTIALS) => message.identity = Some(credentials(data)?),
            (SOL_SOCKET, _) => return Err(Errno::EINVAL),
            _ => {
                let data = crate::mm::try_to_vec(data)?;
                message.control.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                message.control.push(ControlBytes { level, kind, data });
            }
        }
        rest = rest.get(align(len)..).unwrap_or_default();
    }
    Ok(())
}

fn rights(data: &[u8], files: &mut Vec<Ref<File>>) -> Result<()> {
    let count = data.len() / size_of::<i32>();
    if files.len() + count > SCM_MAX_FD {
        return Err(Errno::EINVAL);
    }
    files.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
    let table = task::current().files();
    for fd in data.chunks_exact(size_of::<i32>()) {
        files.push(table.get_any(word(fd, 0)? as i32)?);
    }
    Ok(())
}

/// Credentials that the caller may claim (unix(7), `SCM_CREDENTIALS`).
fn credentials(data: &[u8]) -> Result<Identity> {
    if data.len() != 12 {
        return Err(Errno::EINVAL);
    }
    let (nr, uid, gid) = (word(data, 0)?, word(data, 4)?, word(data, 8)?);
    let task = task::current();
    let cred = task.cred();
    let ns = task.active_pid_ns();
    let own = task.nr_of(crate::ns::PidType::Tgid, &ns);
    let (uid, gid) = (ids::kuid(uid)?, ids::kgid(gid)?);
    let may_pid = nr == own || cred.ns_capable(ns.common.user_ns(), Cap::SysAdmin);
    let may_uid = [cred.uid, cred.euid, cred.suid].contains(&uid) || cred.own_capable(Cap::Setuid);
    let may_gid = [cred.gid, cred.egid, cred.sgid].contains(&gid) || cred.own_capable(Cap::Setgid);
    if !may_pid || !may_uid || !may_gid {
        return Err(Errno::EPERM);
    }
    let pid = Pid::find(nr, &ns).ok_or(Errno::ESRCH)?;
    Ok(Identity { pid, uid, gid })
}

/// Where control messages go, and how much room is left.
struct Writer {
    at: u64,
    room: usize,
    used: u64,
}

impl Writer {
    /// Puts one message; false, and cut, if there is not enough room.
    fn put(&mut self, level: u32, kind: u32, data: &[u8]) -> Result<bool> {
        if self.room < HEADER {
            return Ok(false);
        }
        let whole = HEADER + data.len();
        let len = whole.min(self.room);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&(len as u64).to_ne_bytes());
        header[8..12].copy_from_slice(&level.to_ne_bytes());
        header[12..].copy_from_slice(&kind.to_ne_bytes());
        copy_out(self.at, &header)?;
        copy_out(self.at + HEADER as u64, &data[..len - HEADER])?;
        let step = align(len).min(self.room);
        self.at += step as u64;
        self.room -= step;
        self.used += step as u64;
        Ok(len == whole)
    }
}

/// Writes what was received along with a message; returns how many bytes were used.
pub(super) fn write(
    header: &MsgHdr,
    message: &mut RecvMsg<'_, '_>,
    flags: MsgFlags,
) -> Result<u64> {
    let room = usize::try_from(header.control_len).unwrap_or(usize::MAX);
    let room = if header.control == 0 { 0 } else { room };
    let mut out = Writer { at: header.control, room, used: 0 };
    let mut whole = true;
    for control in &message.control {
        whole &= out.put(control.level, control.kind, &control.data)?;
    }
    if message.pass_identity {
        /// Of a user or group that has no number here.
        const OVERFLOW: u32 = 65534;
        let (pid, uid, gid) = match &message.identity {
            Some(identity) => {
                (hooks::visible_pid(&identity.pid), ids::uid(identity.uid), ids::gid(identity.gid))
            }
            None if message.is_end => (0, 0, 0),
            None => (0, OVERFLOW, OVERFLOW),
        };
        let mut data = [0; 12];
        data[..4].copy_from_slice(&pid.to_ne_bytes());
        data[4..8].copy_from_slice(&uid.to_ne_bytes());
        data[8..].copy_from_slice(&gid.to_ne_bytes());
        whole &= out.put(SOL_SOCKET, SCM_CREDENTIALS, &data)?;
    }
    if !message.files.is_empty() {
        whole &= put_files(&mut out, core::mem::take(&mut message.files), flags)?;
    }
    if !whole {
        message.out_flags |= MsgFlags::CTRUNC;
    }
    Ok(out.used)
}

/// Gives the caller descriptors of as many files as there is room for; false if some were left out.
fn put_files(out: &mut Writer, files: Vec<Ref<File>>, flags: MsgFlags) -> Result<bool> {
    if out.room < HEADER + size_of::<i32>() {
        return Ok(false);
    }
    let cloexec = flags.contains(MsgFlags::CMSG_CLOEXEC);
    let fits = (out.room - HEADER) / size_of::<i32>();
    let table = task::current().files();
    let whole = files.len();
    let mut numbers: Vec<u8> = Vec::new();
    numbers.try_reserve(whole * size_of::<i32>()).map_err(|_| Errno::ENOMEM)?;
    for file in files.into_iter().take(fits) {
        match table.install(file, 0, fd_limit(), cloexec) {
            Ok(fd) => numbers.extend_from_slice(&fd.to_ne_bytes()),
            Err(_) => break,
        }
    }
    if numbers.is_empty() {
        return Ok(false);
    }
    let given = numbers.len() / size_of::<i32>();
    Ok(out.put(SOL_SOCKET, SCM_RIGHTS, &numbers)? && given == whole)
}
