//! process_vm_readv(2), process_vm_writev(2): copies between the caller's memory and that of a process that it may
//! look into.

use crate::addr::PAGE_SIZE;
use crate::arch::untagged;
use crate::errno::{Errno, Result};
use crate::fs::UserBuf;
use crate::fs::userbuf::IoVec;
use crate::kref::Ref;
use crate::mm::{Mm, RemoteBuf, RemoteRights, try_vec};
use crate::ns::Pid;
use crate::process::access::{AccessMode, mm_access};
use crate::task::{self, Task, list};

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the other process to the caller.
    Read,
    /// From the caller to the other process.
    Write,
}

/// Copies between `local` and the pieces `remote` of the process `pid` until one of them is used up, and says how
/// many bytes. An error counts only if nothing was copied before it.
pub fn process_vm_rw(
    pid: i32,
    local: &mut UserBuf<'_>,
    remote: &[IoVec],
    direction: Direction,
) -> Result<usize> {
    if local.is_empty() || remote.iter().all(|piece| piece.len == 0) {
        return Ok(0);
    }
    let mm = memory_of(pid)?;
    let mut bounce = try_vec(PAGE_SIZE, 0)?;
    let copied = mm.visit(|mm| {
        let mut done = 0;
        for piece in remote {
            let end = done + piece.len.min(local.remaining() as u64) as usize;
            let start = done;
            while done < end {
                let at = untagged(piece.base.wrapping_add((done - start) as u64));
                // Pages of the other side are whole: where one is missing, the one before was copied.
                let in_page = PAGE_SIZE - (at as usize & (PAGE_SIZE - 1));
                let chunk = &mut bounce[..in_page.min(end - done)];
                match copy(mm, at, local, chunk, direction) {
                    Ok(n) => done += n,
                    Err(errno) => return if done > 0 { Ok(done) } else { Err(errno) },
                }
            }
        }
        Ok(done)
    });
    // Its last user may have gone: there is nothing to read.
    copied.unwrap_or(Err(Errno::ESRCH))
}

/// Copies all of `chunk`, which lies in one page of the other process, or says why not.
fn copy(
    mm: &Mm,
    at: u64,
    local: &mut UserBuf<'_>,
    chunk: &mut [u8],
    direction: Direction,
) -> Result<usize> {
    let want = chunk.len();
    match direction {
        Direction::Read => {
            let got = mm.access_remote(at, RemoteBuf::Read(chunk), RemoteRights::Own);
            if got == 0 {
                return Err(Errno::EFAULT);
            }
            local.put(&chunk[..got])
        }
        Direction::Write => {
            let taken = local.take(&mut chunk[..want])?;
            match mm.access_remote(at, RemoteBuf::Write(&chunk[..taken]), RemoteRights::Own) {
                0 => Err(Errno::EFAULT),
                n => Ok(n),
            }
        }
    }
}

/// The memory of a process that the caller may look into.
fn memory_of(pid: i32) -> Result<Ref<Mm>> {
    let nr = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let pid = Pid::find(nr, task::current().thread_pid.own().ns()).ok_or(Errno::ESRCH)?;
    let target = list::lock().thread_of(&pid).map(Task::to_ref).ok_or(Errno::ESRCH)?;
    mm_access(&target, AccessMode::RealCreds).map_err(|errno| match errno {
        Errno::EACCES => Errno::EPERM,
        errno => errno,
    })
}
