//! Copies from file to file within the kernel: sendfile, copy_file_range, splice, vmsplice.

use alloc::vec::Vec;

use super::{Args, SysResult, fget, only};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::userbuf::MAX_RW_COUNT;
use crate::fs::{FMode, File, UserBuf, pipe};
use crate::mm::UserPtr;
use crate::uapi;

/// One end of a copy: a file, and where in it; `None` is its own position.
struct End<'a> {
    file: &'a File,
    pos: Option<u64>,
}

impl End<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut buf = UserBuf::into_kernel(buf);
        match &mut self.pos {
            None => self.file.read(&mut buf),
            Some(pos) => {
                let n = self.file.read_at(&mut buf, *pos)?;
                *pos += n as u64;
                Ok(n)
            }
        }
    }

    /// Writes all of `bytes`, unless an error comes first.
    fn write(&mut self, bytes: &[u8]) -> (usize, Option<Errno>) {
        let mut done = 0;
        while done < bytes.len() {
            let mut buf = UserBuf::from_kernel(&bytes[done..]);
            let result = match self.pos {
                None => self.file.write(&mut buf),
                Some(pos) => self.file.write_at(&mut buf, pos),
            };
            match result {
                Ok(0) => return (done, Some(Errno::EIO)),
                Ok(n) => {
                    done += n;
                    self.pos = self.pos.map(|pos| pos + n as u64);
                }
                Err(error) => return (done, Some(error)),
            }
        }
        (done, None)
    }

    /// Steps back over bytes that were read and could not be written, where there is a way back.
    fn give_back(&mut self, n: usize) {
        match &mut self.pos {
            Some(pos) => *pos -= n as u64,
            None if self.file.fmode().contains(FMode::POSITION) => {
                self.file.set_pos(self.file.pos() - n as u64);
            }
            None => {}
        }
    }
}

/// Copies up to `len` bytes through a page of the kernel's. With `once`, stops after what one read
/// gave, as from a pipe.
fn copy(from: &mut End<'_>, to: &mut End<'_>, len: usize, once: bool) -> SysResult {
    let mut page = Vec::new();
    page.try_reserve_exact(PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    page.resize(PAGE_SIZE, 0);
    let len = len.min(MAX_RW_COUNT);
    let mut done = 0;
    while done < len {
        let want = (len - done).min(PAGE_SIZE);
        let n = match from.read(&mut page[..want]) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        let (written, error) = to.write(&page[..n]);
        done += written;
        if let Some(error) = error {
            from.give_back(n - written);
            if done == 0 {
                return Err(error);
            }
            break;
        }
        if once && n < want {
            break;
        }
    }
    Ok(done)
}

/// The offset that a call may pass by pointer.
fn offset(ptr: UserPtr<i64>, file: &File) -> Result<Option<u64>> {
    let Some(ptr) = ptr.non_null() else { return Ok(None) };
    if !file.fmode().contains(FMode::PREAD) {
        return Err(Errno::ESPIPE);
    }
    u64::try_from(ptr.read()?).map(Some).map_err(|_| Errno::EINVAL)
}

fn store(ptr: UserPtr<i64>, pos: Option<u64>) -> Result<()> {
    match (ptr.non_null(), pos) {
        (Some(ptr), Some(pos)) => ptr.write(pos as i64),
        _ => Ok(()),
    }
}

fn check_modes(from: &File, to: &File) -> Result<()> {
    if !from.fmode().contains(FMode::READ) || !to.fmode().contains(FMode::WRITE) {
        return Err(Errno::EBADF);
    }
    Ok(())
}

/// sendfile(2).
pub fn sys_sendfile(a: &mut Args) -> SysResult {
    let (to, from) = (fget(a.fd(0))?, fget(a.fd(1))?);
    check_modes(&from, &to)?;
    let at = a.ptr::<i64>(2);
    if to.flags().contains(crate::fs::OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let mut source = End { file: &from, pos: offset(at, &from)? };
    let mut target = End { file: &to, pos: None };
    let n = copy(&mut source, &mut target, a.usize(3), !from.inode.is_regular())?;
    store(at, source.pos)?;
    Ok(n)
}

/// copy_file_range(2).
pub fn sys_copy_file_range(a: &mut Args) -> SysResult {
    let (from, to) = (fget(a.fd(0))?, fget(a.fd(2))?);
    only(a.u32(5), 0)?;
    check_modes(&from, &to)?;
    if to.flags().contains(crate::fs::OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    for file in [&from, &to] {
        if file.inode.is_dir() {
            return Err(Errno::EISDIR);
        }
        if !file.inode.is_regular() {
            return Err(Errno::EINVAL);
        }
    }
    let (at_from, at_to) = (a.ptr::<i64>(1), a.ptr::<i64>(3));
    let len = a.usize(4).min(MAX_RW_COUNT);
    let mut source = End { file: &from, pos: offset(at_from, &from)? };
    let mut target = End { file: &to, pos: offset(at_to, &to)? };
    if crate::kref::Ref::ptr_eq(&from.inode, &to.inode) {
        let start = source.pos.unwrap_or(from.pos());
        let there = target.pos.unwrap_or(to.pos());
        let len = len as u64;
        if start < there.saturating_add(len) && there < start.saturating_add(len) {
            return Err(Errno::EINVAL);
        }
    }
    let n = copy(&mut source, &mut target, len, false)?;
    store(at_from, source.pos)?;
    store(at_to, target.pos)?;
    Ok(n)
}

const SPLICE_KNOWN: u32 =
    uapi::SPLICE_F_MOVE | uapi::SPLICE_F_NONBLOCK | uapi::SPLICE_F_MORE | uapi::SPLICE_F_GIFT;

/// splice(2): one side at least is a pipe.
pub fn sys_splice(a: &mut Args) -> SysResult {
    only(a.u32(5), SPLICE_KNOWN)?;
    if a.usize(4) == 0 {
        return Ok(0);
    }
    let (from, to) = (fget(a.fd(0))?, fget(a.fd(2))?);
    check_modes(&from, &to)?;
    if pipe::pipe_of(&from).is_none() && pipe::pipe_of(&to).is_none() {
        return Err(Errno::EINVAL);
    }
    let (at_from, at_to) = (a.ptr::<i64>(1), a.ptr::<i64>(3));
    let mut source = End { file: &from, pos: offset(at_from, &from)? };
    let mut target = End { file: &to, pos: offset(at_to, &to)? };
    let n = copy(&mut source, &mut target, a.usize(4), true)?;
    store(at_from, source.pos)?;
    store(at_to, target.pos)?;
    Ok(n)
}

/// vmsplice(2): the pages are copied, which the caller cannot tell from their being given.
pub fn sys_vmsplice(a: &mut Args) -> SysResult {
    only(a.u32(3), SPLICE_KNOWN)?;
    let file = fget(a.fd(0))?;
    if pipe::pipe_of(&file).is_none() {
        return Err(Errno::EBADF);
    }
    if file.fmode().contains(FMode::WRITE) {
        super::rw::sys_writev(a)
    } else {
        super::rw::sys_readv(a)
    }
}
