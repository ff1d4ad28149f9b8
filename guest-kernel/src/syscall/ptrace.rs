//! Calls that look into other processes: process_vm_readv(2), process_vm_writev(2).

use super::fs::rw::Pieces;
use super::{Args, SysResult};
use crate::errno::Errno;
use crate::fs::userbuf::UIO_MAXIOV;
use crate::process::ptrace::vm::{Direction, process_vm_rw};

fn vm_rw(a: &mut Args, direction: Direction) -> SysResult {
    let remote_len = a.usize(4);
    if a.u64(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let local = Pieces::read(a.ptr(1), a.usize(2))?;
    let mut local = local.buffer()?;
    if local.is_empty() {
        return Ok(0);
    }
    if remote_len > UIO_MAXIOV {
        return Err(Errno::EINVAL);
    }
    let remote = Pieces::read(a.ptr(3), remote_len)?;
    process_vm_rw(a.i32(0), &mut local, remote.as_slice(), direction)
}

/// process_vm_readv(2).
pub fn sys_process_vm_readv(a: &mut Args) -> SysResult {
    vm_rw(a, Direction::Read)
}

/// process_vm_writev(2).
pub fn sys_process_vm_writev(a: &mut Args) -> SysResult {
    vm_rw(a, Direction::Write)
}
