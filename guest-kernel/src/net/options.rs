//! getsockopt(2) and setsockopt(2): the options of `SOL_SOCKET` (socket(7)).

use core::sync::atomic::Ordering::Relaxed;

use super::common::{Common, flag, state};
use super::hooks;
use super::socket::Socket;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::ns::Cap;
use crate::sched::clock::NSEC_PER_SEC;
use crate::uapi::net as uapi;

/// Level of the socket layer itself.
pub const SOL_SOCKET: u32 = 1;
/// The longest value of an option that is not a list.
pub const OPTION_MAX: usize = 512;

/// The value of an option on its way to the program.
pub struct OptionValue {
    len: usize,
    bytes: [u8; OPTION_MAX],
    /// Bytes that the program has room for.
    pub room: usize,
    /// Where that room is.
    at: UserPtr<u8>,
}

impl OptionValue {
    /// Nothing yet, for a program with so much room at that address.
    pub fn new(room: usize, at: UserPtr<u8>) -> Self {
        Self { len: 0, bytes: [0; OPTION_MAX], room, at }
    }

    /// The `int` that the program has put where it wants the answer.
    pub fn given(&self) -> Result<i32> {
        if self.room < size_of::<i32>() {
            return Err(Errno::EINVAL);
        }
        self.at.cast::<i32>().read()
    }

    /// Sets the value; what exceeds the program's room is cut.
    pub fn set(&mut self, value: &[u8]) -> Result<()> {
        let len = value.len().min(self.room).min(OPTION_MAX);
        self.bytes[..len].copy_from_slice(&value[..len]);
        self.len = len;
        Ok(())
    }

    /// Sets an `int`.
    pub fn set_int(&mut self, value: i32) -> Result<()> {
        self.set(&value.to_ne_bytes())
    }

    /// Sets an `int` that is 0 or 1.
    pub fn set_bool(&mut self, value: bool) -> Result<()> {
        self.set_int(i32::from(value))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// An option's value as an `int`; `EINVAL` if it is too short.
pub fn int(value: &[u8]) -> Result<i32> {
    value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(Errno::EINVAL)
}

/// A pair of longs: a `struct timeval`.
fn timeval(value: &[u8]) -> Result<u64> {
    let (sec, rest) = value.split_first_chunk().ok_or(Errno::EINVAL)?;
    let usec = rest.first_chunk().ok_or(Errno::EINVAL)?;
    let (sec, usec) = (i64::from_ne_bytes(*sec), i64::from_ne_bytes(*usec));
    if !(0..1_000_000).contains(&usec) {
        return Err(Errno::EDOM);
    }
    if sec < 0 {
        // As Linux has it: at once.
        return Ok(1);
    }
    Ok((sec as u64).saturating_mul(NSEC_PER_SEC).saturating_add(usec as u64 * 1000))
}

fn set_timeval(value: &mut OptionValue, ns: u64) -> Result<()> {
    let mut bytes = [0; 16];
    let sec = (ns / NSEC_PER_SEC) as i64;
    let usec = (ns % NSEC_PER_SEC / 1000) as i64;
    bytes[..8].copy_from_slice(&sec.to_ne_bytes());
    bytes[8..].copy_from_slice(&usec.to_ne_bytes());
    value.set(&bytes)
}

/// The flag of an option that is on or off.
fn flag_of(name: u32) -> Option<u32> {
    Some(match name {
        uapi::SO_DEBUG => flag::DEBUG,
        uapi::SO_REUSEADDR => flag::REUSEADDR,
        uapi::SO_REUSEPORT => flag::REUSEPORT,
        uapi::SO_KEEPALIVE => flag::KEEPALIVE,
        uapi::SO_BROADCAST => flag::BROADCAST,
        uapi::SO_PASSCRED => flag::PASSCRED,
        uapi::SO_OOBINLINE => flag::OOBINLINE,
        uapi::SO_DONTROUTE => flag::DONTROUTE,
        uapi::SO_TIMESTAMP_OLD => flag::TIMESTAMP,
        uapi::SO_TIMESTAMPNS_OLD => flag::TIMESTAMPNS,
        uapi::SO_NO_CHECK => flag::NO_CHECK,
        uapi::SO_PASSSEC => flag::PASSSEC,
        uapi::SO_RXQ_OVFL => flag::RXQ_OVFL,
        uapi::SO_SELECT_ERR_QUEUE => flag::SELECT_ERR_QUEUE,
        _ => return None,
    })
}

/// setsockopt(2) at any level.
pub fn set(socket: &Socket, level: u32, name: u32, value: &[u8]) -> Result<()> {
    if level != SOL_SOCKET {
        return socket.protocol.set_option(level, name, value);
    }
    let common = &*socket.common;
    set_common(common, name, value)?;
    socket.protocol.option_changed(name);
    Ok(())
}

fn set_common(common: &Common, name: u32, value: &[u8]) -> Result<()> {
    if name == uapi::SO_BINDTODEVICE {
        return bind_to_device(common, value);
    }
    let number = int(value)?;
    match name {
        uapi::SO_ATTACH_FILTER => return common.attach_filter(value),
        uapi::SO_DETACH_FILTER => return common.detach_filter(),
        uapi::SO_LOCK_FILTER => return common.lock_filter(number != 0),
        _ => {}
    }
    let unsigned = number.max(0) as u32;
    if let Some(flag) = flag_of(name) {
        if name == uapi::SO_DEBUG && number != 0 && !hooks::capable(Cap::NetAdmin) {
            return Err(Errno::EACCES);
        }
        if name == uapi::SO_REUSEPORT && number != 0 && !super::inet::is_inet(common.family) {
            return Err(Errno::EOPNOTSUPP);
        }
        common.set_flag(flag, number != 0);
        return Ok(());
    }
    match name {
        uapi::SO_SNDBUF => common.set_sndbuf(number as u32, false),
        uapi::SO_RCVBUF => common.set_rcvbuf(number as u32, false),
        uapi::SO_SNDBUFFORCE | uapi::SO_RCVBUFFORCE => {
            if !hooks::ns_capable(&*common.net()?, Cap::NetAdmin) {
                return Err(Errno::EPERM);
            }
            match name {
                uapi::SO_SNDBUFFORCE => common.set_sndbuf(unsigned, true),
                _ => common.set_rcvbuf(unsigned, true),
            }
        }
        uapi::SO_LINGER => {
            let seconds = value.get(4..).and_then(|rest| rest.first_chunk());
            let seconds = i32::from_ne_bytes(*seconds.ok_or(Errno::EINVAL)?);
            common.set_flag(flag::LINGER, number != 0);
            if number != 0 {
                common.linger.store(seconds as u32, Relaxed);
            }
        }
        uapi::SO_RCVLOWAT => {
            let low = if number < 0 { i32::MAX as u32 } else { unsigned.max(1) };
            common.rcvlowat.store(low, Relaxed);
        }
        uapi::SO_RCVTIMEO_OLD => common.rcvtimeo.store(timeval(value)?, Relaxed),
        uapi::SO_SNDTIMEO_OLD => common.sndtimeo.store(timeval(value)?, Relaxed),
        uapi::SO_PRIORITY => {
            if !(0..=6).contains(&number) && !hooks::ns_capable(&*common.net()?, Cap::NetAdmin) {
                return Err(Errno::EPERM);
            }
            common.priority.store(number as u32, Relaxed);
        }
        uapi::SO_MARK => {
            if !hooks::ns_capable(&*common.net()?, Cap::NetAdmin)
                && !hooks::ns_capable(&*common.net()?, Cap::NetRaw)
            {
                return Err(Errno::EPERM);
            }
            common.mark.store(number as u32, Relaxed);
        }
        uapi::SO_PEEK_OFF if peeks_at_offset(common) => common.peek_off.store(number, Relaxed),
        uapi::SO_PEEK_OFF => return Err(Errno::EOPNOTSUPP),
        uapi::SO_TYPE | uapi::SO_PROTOCOL | uapi::SO_DOMAIN | uapi::SO_ERROR => {
            return Err(Errno::ENOPROTOOPT);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// True of sockets that know `SO_PEEK_OFF`: Unix ones and those of datagrams.
fn peeks_at_offset(common: &Common) -> bool {
    common.family == super::AF_UNIX || common.protocol == u32::from(super::inet::ip::UDP)
}

/// `SO_BINDTODEVICE`: an interface's name, or nothing to undo it.
fn bind_to_device(common: &Common, value: &[u8]) -> Result<()> {
    let name = value.split(|&b| b == 0).next().unwrap_or_default();
    let index =
        if name.is_empty() { 0 } else { common.net()?.index_of(name).ok_or(Errno::ENODEV)? };
    let bound = common.bound_dev.load(Relaxed);
    if bound != 0 && bound != index && !hooks::ns_capable(&*common.net()?, Cap::NetRaw) {
        return Err(Errno::EPERM);
    }
    common.bound_dev.store(index, Relaxed);
    Ok(())
}

/// getsockopt(2) at any level.
pub fn get(socket: &Socket, level: u32, name: u32, value: &mut OptionValue) -> Result<()> {
    if level != SOL_SOCKET {
        return socket.protocol.get_option(level, name, value);
    }
    let common = &*socket.common;
    if let Some(flag) = flag_of(name) {
        return value.set_bool(common.has(flag));
    }
    match name {
        uapi::SO_TYPE => value.set_int(common.kind as i32),
        uapi::SO_DOMAIN => value.set_int(common.family as i32),
        uapi::SO_PROTOCOL => value.set_int(common.protocol as i32),
        uapi::SO_ACCEPTCONN => value.set_bool(common.state() == state::LISTEN),
        uapi::SO_ERROR => value.set_int(common.take_error().map_or(0, Errno::number)),
        uapi::SO_SNDBUF => value.set_int(common.sndbuf.load(Relaxed) as i32),
        uapi::SO_RCVBUF => value.set_int(common.rcvbuf.load(Relaxed) as i32),
        uapi::SO_LINGER => {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&i32::from(common.has(flag::LINGER)).to_ne_bytes());
            bytes[4..].copy_from_slice(&common.linger.load(Relaxed).to_ne_bytes());
            value.set(&bytes)
        }
        uapi::SO_RCVLOWAT => value.set_int(common.rcvlowat.load(Relaxed) as i32),
        uapi::SO_SNDLOWAT => value.set_int(1),
        uapi::SO_RCVTIMEO_OLD => set_timeval(value, common.rcvtimeo.load(Relaxed)),
        uapi::SO_SNDTIMEO_OLD => set_timeval(value, common.sndtimeo.load(Relaxed)),
        uapi::SO_PRIORITY => value.set_int(common.priority.load(Relaxed) as i32),
        uapi::SO_MARK => value.set_int(common.mark.load(Relaxed) as i32),
        uapi::SO_BINDTODEVICE => {
            let index = common.bound_dev.load(Relaxed);
            match common.net()?.name_of(index) {
                Some(name) if index != 0 => {
                    if value.room < super::IFNAMSIZ {
                        return Err(Errno::EINVAL);
                    }
                    let end = name.iter().position(|&b| b == 0).map_or(name.len(), |at| at + 1);
                    value.set(&name[..end])
                }
                _ => value.set(&[]),
            }
        }
        uapi::SO_COOKIE => {
            if value.room < 8 {
                return Err(Errno::EINVAL);
            }
            value.set(&cookie(common).to_ne_bytes())
        }
        uapi::SO_PEEK_OFF if peeks_at_offset(common) => {
            value.set_int(common.peek_off.load(Relaxed))
        }
        uapi::SO_PEEK_OFF => Err(Errno::EOPNOTSUPP),
        uapi::SO_LOCK_FILTER => value.set_bool(common.has(flag::LOCK_FILTER)),
        uapi::SO_BPF_EXTENSIONS => value.set_int(super::filter::EXTENSIONS),
        uapi::SO_BSDCOMPAT => value.set_int(0),
        uapi::SO_INCOMING_CPU => value.set_int(-1),
        uapi::SO_MEMINFO => {
            let mut words = [0_u32; 9];
            words[0] = common.rx_queued.load(Relaxed) as u32;
            words[1] = common.rcvbuf.load(Relaxed);
            words[2] = common.tx_queued.load(Relaxed) as u32;
            words[3] = common.sndbuf.load(Relaxed);
            let mut bytes = [0; 36];
            for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
            value.set(&bytes)
        }
        uapi::SO_PEERCRED => {
            // Families without: nobody.
            let mut bytes = [0xff; 12];
            bytes[..4].copy_from_slice(&0_u32.to_ne_bytes());
            match socket.protocol.get_option(level, name, value) {
                Err(Errno::ENOPROTOOPT) => value.set(&bytes),
                result => result,
            }
        }
        _ => socket.protocol.get_option(level, name, value),
    }
}

/// The number that names a socket for ever (`SO_COOKIE`).
pub fn cookie(common: &Common) -> u64 {
    use core::sync::atomic::AtomicU64;
    static NEXT: AtomicU64 = AtomicU64::new(1);
    match common.cookie.load(Relaxed) {
        0 => {
            let fresh = NEXT.fetch_add(1, Relaxed);
            match common.cookie.compare_exchange(0, fresh, Relaxed, Relaxed) {
                Ok(_) => fresh,
                Err(there) => there,
            }
        }
        there => there,
    }
}
