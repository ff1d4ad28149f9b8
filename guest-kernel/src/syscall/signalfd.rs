//! signalfd4(2).

use super::{Args, SysResult};
use crate::errno::Errno;
use crate::fs::OpenFlags;
use crate::mm::UserPtr;
use crate::process::signalfd::{self, SignalFd};
use crate::signal::SigSet;
use crate::task;
use crate::task::rlimit::Resource;

/// signalfd4(2): descriptor to change or -1, mask, its size, flags.
pub fn sys_signalfd4(a: &mut Args) -> SysResult {
    let (fd, raw) = (a.fd(0), a.u32(3));
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    if raw & !allowed.bits() != 0 || a.usize(2) != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let mask = SigSet(UserPtr::<u64>::new(a.u64(1)).read()?);
    let task = task::current();
    if fd != -1 {
        let file = task.files().get(fd)?;
        file.ops_as::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
        // More may be ready than before.
        task.signal.signalfd_wait.wake_all();
        return Ok(fd as usize);
    }
    let flags = OpenFlags::from_bits_truncate(raw);
    let file = signalfd::new_file(mask, flags | OpenFlags::RDWR)?;
    let limit = task.signal.rlimits.soft(Resource::Nofile) as usize;
    Ok(task.files().install(file, 0, limit, flags.contains(OpenFlags::CLOEXEC))? as usize)
}
