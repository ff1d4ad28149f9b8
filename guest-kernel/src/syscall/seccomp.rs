//! seccomp(2), and what prctl(2) has of it.

use super::{Args, SysResult};
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::process::seccomp::attach::{self, FilterFlags};
use crate::process::seccomp::notify;
use crate::seccomp::Action;
use crate::task::{self, SeccompMode};

const SET_MODE_STRICT: u32 = 0;
const SET_MODE_FILTER: u32 = 1;
const GET_ACTION_AVAIL: u32 = 2;
const GET_NOTIF_SIZES: u32 = 3;

/// seccomp(2).
pub fn sys_seccomp(a: &mut Args) -> SysResult {
    let (operation, flags, args) = (a.u32(0), a.u32(1), a.u64(2));
    let no_flags = || if flags == 0 { Ok(()) } else { Err(Errno::EINVAL) };
    match operation {
        SET_MODE_STRICT => {
            no_flags()?;
            if args != 0 {
                return Err(Errno::EINVAL);
            }
            attach::set_mode_strict().map(|()| 0)
        }
        SET_MODE_FILTER => set_filter(FilterFlags::checked(flags)?, args),
        GET_ACTION_AVAIL => {
            no_flags()?;
            let action = UserPtr::<u32>::new(args).read()?;
            Action::from_number(action).map(|_| 0).ok_or(Errno::EOPNOTSUPP)
        }
        GET_NOTIF_SIZES => {
            no_flags()?;
            notify::write_sizes(args).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// prctl(2) `PR_SET_SECCOMP`.
pub fn prctl_set(mode: u64, args: u64) -> SysResult {
    match mode {
        m if m == SeccompMode::Strict as u64 => attach::set_mode_strict().map(|()| 0),
        m if m == SeccompMode::Filter as u64 => set_filter(FilterFlags::empty(), args),
        _ => Err(Errno::EINVAL),
    }
}

/// prctl(2) `PR_GET_SECCOMP`.
pub fn prctl_get() -> SysResult {
    Ok(task::current().seccomp.mode() as usize)
}

fn set_filter(flags: FilterFlags, program: u64) -> SysResult {
    let (len, at) = read_program(program)?;
    if len == 0 || len > crate::bpf::MAX_INSNS {
        return Err(Errno::EINVAL);
    }
    attach::may_install()?;
    attach::set_mode_filter(flags, read_insns(len, at)?)
}

/// `struct sock_fprog`: how many instructions, and where.
pub(super) fn read_program(program: u64) -> Result<(usize, u64)> {
    let [len, at] = UserPtr::<[u64; 2]>::new(program).read()?;
    Ok((usize::from(len as u16), at))
}

/// The instructions of a program; `EINVAL` if they are nowhere.
pub(super) fn read_insns(len: usize, at: u64) -> Result<Array<u64>> {
    if at == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Array::from(UserPtr::<u64>::new(at).read_array(len)?))
}
