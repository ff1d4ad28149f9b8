//! getrandom and file handles.

use super::{Args, SysResult, only, place_at};
use crate::errno::Errno;
use crate::fs::UserBuf;
use crate::fs::dev::mem::read_random;
use crate::uapi;

/// getrandom(2). The generator is seeded at boot, so that nobody ever waits.
pub fn sys_getrandom(a: &mut Args) -> SysResult {
    let flags = a.u32(2);
    only(flags, uapi::GRND_NONBLOCK | uapi::GRND_RANDOM | uapi::GRND_INSECURE)?;
    if flags & (uapi::GRND_RANDOM | uapi::GRND_INSECURE) == uapi::GRND_RANDOM | uapi::GRND_INSECURE
    {
        return Err(Errno::EINVAL);
    }
    read_random(&mut UserBuf::user(a.u64(0), a.usize(1).min(i32::MAX as usize))?)
}

/// name_to_handle_at(2): no file system here has handles.
pub fn sys_name_to_handle_at(a: &mut Args) -> SysResult {
    let flags = a.u32(4);
    only(flags, uapi::AT_SYMLINK_FOLLOW | uapi::AT_EMPTY_PATH)?;
    let nofollow = if flags & uapi::AT_SYMLINK_FOLLOW == 0 { uapi::AT_SYMLINK_NOFOLLOW } else { 0 };
    place_at(a.fd(0), a.u64(1), nofollow | flags & uapi::AT_EMPTY_PATH)?;
    Err(Errno::EOPNOTSUPP)
}
