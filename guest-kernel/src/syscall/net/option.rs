//! getsockopt(2), setsockopt(2).

use super::{Args, Open, SysResult};
use crate::errno::Errno;
use crate::mm::{UserPtr, copy_in, copy_out};
use crate::net::AF_UNIX;
use crate::net::options::{self, OPTION_MAX, OptionValue, SOL_SOCKET};
use crate::uapi::net as uapi;

/// setsockopt(2).
pub fn sys_setsockopt(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    let len = usize::try_from(a.i32(4)).map_err(|_| Errno::EINVAL)?;
    let mut value = [0; OPTION_MAX];
    let value = &mut value[..len.min(OPTION_MAX)];
    copy_in(a.u64(3), value)?;
    options::set(open.socket()?, a.u32(1), a.u32(2), value)?;
    Ok(0)
}

/// `SO_GET_FILTER`: to be got, it has the number of what is to be set.
const SO_GET_FILTER: u32 = uapi::SO_ATTACH_FILTER;

/// getsockopt(2).
pub fn sys_getsockopt(a: &mut Args) -> SysResult {
    let open = Open::get(a.fd(0))?;
    let level = a.u32(1);
    if level != SOL_SOCKET && open.socket()?.common.family == AF_UNIX {
        // It has none, of whatever length.
        return Err(Errno::EOPNOTSUPP);
    }
    let len = UserPtr::<i32>::new(a.u64(4));
    let room = usize::try_from(len.read()?).map_err(|_| Errno::EINVAL)?;
    if level == SOL_SOCKET && a.u32(2) == SO_GET_FILTER {
        // What is counted are instructions, not bytes.
        let program = open.socket()?.common.program();
        let words = program.as_ref().map_or(&[][..], |program| program.words());
        if room > 0 && !words.is_empty() {
            if room < words.len() {
                return Err(Errno::EINVAL);
            }
            for (i, word) in words.iter().enumerate() {
                a.ptr::<u64>(3).add(i).write(*word)?;
            }
        }
        len.write(words.len() as i32)?;
        return Ok(0);
    }
    let mut value = OptionValue::new(room, a.ptr(3));
    options::get(open.socket()?, level, a.u32(2), &mut value)?;
    copy_out(a.u64(3), value.bytes())?;
    len.write(value.bytes().len() as i32)?;
    Ok(0)
}
