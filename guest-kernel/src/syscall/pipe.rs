//! pipe2(2).

use super::{Args, SysResult};
use crate::errno::Errno;
use crate::fs::{OpenFlags, pipe};
use crate::mm::UserPtr;
use crate::task;
use crate::task::rlimit::Resource;

/// pipe2(2): where to store the two descriptors, flags.
pub fn sys_pipe2(a: &mut Args) -> SysResult {
    let raw = a.u32(1);
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT;
    if raw & !allowed.bits() != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = OpenFlags::from_bits_truncate(raw);
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    let task = task::current();
    let cred = task.cred();
    let (reader, writer) = pipe::create(flags, cred)?;
    let files = task.files();
    let limit = task.signal.rlimits.soft(Resource::Nofile) as usize;
    // Both places are reserved, and told to the program, before either shows a file: a failure
    // leaves nothing behind.
    let read_end = files.reserve(0, limit, cloexec)?;
    let write_end = files.reserve(0, limit, cloexec)?;
    UserPtr::<[i32; 2]>::new(a.u64(0)).write([read_end.fd(), write_end.fd()])?;
    read_end.install(reader);
    write_end.install(writer);
    Ok(0)
}
