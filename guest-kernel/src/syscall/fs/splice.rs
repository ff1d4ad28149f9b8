//! Copies from file to file within the kernel: sendfile, copy_file_range, splice, tee, vmsplice.

use alloc::vec::Vec;

use super::rw::Pieces;
use super::{Args, SysResult, fget, only};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::pipe::Pipe;
use crate::fs::pipe::splice::Fate;
use crate::fs::userbuf::MAX_RW_COUNT;
use crate::fs::{FMode, File, OpenFlags, UserBuf, pipe};
use crate::mm::UserPtr;
use crate::uapi;

/// One end of a copy: a file, and where in it; `None` is its own position.
struct End<'a> {
    file: &'a File,
    pos: Option<u64>,
}

impl End<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.read_some(&mut UserBuf::into_kernel(buf))
    }

    fn read_some(&mut self, buf: &mut UserBuf<'_>) -> Result<usize> {
        match &mut self.pos {
            None => self.file.read(buf),
            Some(pos) => {
                let n = self.file.read_at(buf, *pos)?;
                *pos += n as u64;
                Ok(n)
            }
        }
    }

    fn write_some(&mut self, buf: &mut UserBuf<'_>) -> Result<usize> {
        match &mut self.pos {
            None => self.file.write(buf),
            Some(pos) => {
                let n = self.file.write_at(buf, *pos)?;
                *pos += n as u64;
                Ok(n)
            }
        }
    }

    /// Reads up to `len` bytes into a pipe.
    fn fill_pipe(&mut self, pipe: &Pipe, len: usize, nonblock: bool) -> Result<usize> {
        let regular = self.file.inode.is_regular();
        pipe.fill_from(len, nonblock, regular, &mut |room| self.read_some(room))
    }

    /// Writes all of `bytes`, unless an error comes first.
    fn write(&mut self, bytes: &[u8]) -> (usize, Option<Errno>) {
        let mut done = 0;
        while done < bytes.len() {
            match self.write_some(&mut UserBuf::from_kernel(&bytes[done..])) {
                Ok(0) => return (done, Some(Errno::EIO)),
                Ok(n) => done += n,
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

/// Copies up to `len` bytes through a page of the kernel's.
fn copy(from: &mut End<'_>, to: &mut End<'_>, len: usize) -> SysResult {
    let mut page = Vec::new();
    page.try_reserve_exact(PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    page.resize(PAGE_SIZE, 0);
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
    }
    Ok(done)
}

/// A number of bytes; `EINVAL` if it is negative.
fn length(len: usize) -> Result<usize> {
    isize::try_from(len).map_err(|_| Errno::EINVAL)?;
    Ok(len.min(MAX_RW_COUNT))
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

/// sendfile(2). What cannot be read again (a socket, a pipe) goes into a pipe only, where it cannot be lost.
pub fn sys_sendfile(a: &mut Args) -> SysResult {
    let at = a.ptr::<i64>(2);
    if let Some(at) = at.non_null() {
        at.read()?;
    }
    let from = fget(a.fd(1))?;
    if !from.fmode().contains(FMode::READ) {
        return Err(Errno::EBADF);
    }
    let mut source = End { file: &from, pos: offset(at, &from)? };
    let len = length(a.usize(3))?;
    let to = fget(a.fd(0))?;
    check_modes(&from, &to)?;
    let n = match pipe::pipe_of(&to) {
        Some(_) if pipe::pipe_of(&from).is_some() => return Err(Errno::EINVAL),
        Some(pipe) => source.fill_pipe(pipe, len, to.is_nonblocking() || from.is_nonblocking())?,
        None => {
            if to.flags().contains(OpenFlags::APPEND) || !from.fmode().contains(FMode::LSEEK) {
                return Err(Errno::EINVAL);
            }
            copy(&mut source, &mut End { file: &to, pos: None }, len)?
        }
    };
    store(at, source.pos)?;
    Ok(n)
}

/// copy_file_range(2).
pub fn sys_copy_file_range(a: &mut Args) -> SysResult {
    let (from, to) = (fget(a.fd(0))?, fget(a.fd(2))?);
    only(a.u32(5), 0)?;
    if from.inode.is_dir() || to.inode.is_dir() {
        return Err(Errno::EISDIR);
    }
    if !from.inode.is_regular() || !to.inode.is_regular() {
        return Err(Errno::EINVAL);
    }
    check_modes(&from, &to)?;
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
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
    let n = copy(&mut source, &mut target, len)?;
    store(at_from, source.pos)?;
    store(at_to, target.pos)?;
    Ok(n)
}

const SPLICE_KNOWN: u32 =
    uapi::SPLICE_F_MOVE | uapi::SPLICE_F_NONBLOCK | uapi::SPLICE_F_MORE | uapi::SPLICE_F_GIFT;

/// The offset that splice(2) was passed, whatever the file makes of it.
fn any_offset(ptr: UserPtr<i64>) -> Result<Option<i64>> {
    ptr.non_null().map(UserPtr::read).transpose()
}

/// An offset into what is no pipe.
fn place(file: &File, offset: Option<i64>) -> Result<Option<u64>> {
    match offset {
        Some(_) if !file.fmode().contains(FMode::PREAD) => Err(Errno::EINVAL),
        Some(offset) => u64::try_from(offset).map(Some).map_err(|_| Errno::EINVAL),
        None => Ok(None),
    }
}

/// splice(2): one side at least is a pipe.
pub fn sys_splice(a: &mut Args) -> SysResult {
    let len = a.usize(4);
    if len == 0 {
        return Ok(0);
    }
    let flags = a.u32(5);
    only(flags, SPLICE_KNOWN)?;
    let (from, to) = (fget(a.fd(0))?, fget(a.fd(2))?);
    let (at_from, at_to) = (a.ptr::<i64>(1), a.ptr::<i64>(3));
    let (source, target) = (pipe::pipe_of(&from), pipe::pipe_of(&to));
    let has_offset = |ptr: UserPtr<i64>| ptr.non_null().is_some();
    if source.is_some() && has_offset(at_from) || target.is_some() && has_offset(at_to) {
        return Err(Errno::ESPIPE);
    }
    let (from_offset, to_offset) = (any_offset(at_from)?, any_offset(at_to)?);
    check_modes(&from, &to)?;
    let nonblock = flags & uapi::SPLICE_F_NONBLOCK != 0;
    match (source, target) {
        (Some(source), Some(target)) => {
            if core::ptr::eq(&**source, &**target) {
                return Err(Errno::EINVAL);
            }
            let nonblock = nonblock || from.is_nonblocking() || to.is_nonblocking();
            source.pass_to(target, len.min(MAX_RW_COUNT), nonblock, Fate::Moved)
        }
        (Some(source), None) => {
            let mut end = End { file: &to, pos: place(&to, to_offset)? };
            if to.flags().contains(OpenFlags::APPEND) {
                return Err(Errno::EINVAL);
            }
            let nonblock = nonblock || from.is_nonblocking();
            let n =
                source.drain_into(length(len)?, nonblock, &mut |bytes| end.write_some(bytes))?;
            store(at_to, end.pos)?;
            Ok(n)
        }
        (None, Some(target)) => {
            let mut end = End { file: &from, pos: place(&from, from_offset)? };
            let n = end.fill_pipe(target, length(len)?, nonblock || to.is_nonblocking())?;
            store(at_from, end.pos)?;
            Ok(n)
        }
        (None, None) => Err(Errno::EINVAL),
    }
}

/// tee(2): what is in one pipe goes into another and stays.
pub fn sys_tee(a: &mut Args) -> SysResult {
    let flags = a.u32(3);
    only(flags, SPLICE_KNOWN)?;
    let len = a.usize(2);
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (fget(a.fd(0))?, fget(a.fd(1))?);
    check_modes(&from, &to)?;
    match (pipe::pipe_of(&from), pipe::pipe_of(&to)) {
        (Some(source), Some(target)) if !core::ptr::eq(&**source, &**target) => {
            let nonblock = flags & uapi::SPLICE_F_NONBLOCK != 0
                || from.is_nonblocking()
                || to.is_nonblocking();
            source.pass_to(target, len.min(MAX_RW_COUNT), nonblock, Fate::Copied)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// vmsplice(2): the pages are copied, which the caller cannot tell from their being given. Whether it waits is up to
/// the call's flags alone.
pub fn sys_vmsplice(a: &mut Args) -> SysResult {
    let flags = a.u32(3);
    only(flags, SPLICE_KNOWN)?;
    let nonblock = flags & uapi::SPLICE_F_NONBLOCK != 0;
    let file = fget(a.fd(0))?;
    let mode = file.fmode();
    if !mode.intersects(FMode::READ | FMode::WRITE) {
        return Err(Errno::EBADF);
    }
    let pieces = Pieces::read(a.ptr(1), a.usize(2))?;
    let mut buffer = pieces.buffer()?;
    if buffer.is_empty() {
        return Ok(0);
    }
    let pipe = pipe::pipe_of(&file).ok_or(Errno::EBADF)?;
    if mode.contains(FMode::WRITE) {
        pipe.lend(&mut buffer, nonblock)
    } else {
        pipe.read(nonblock, &mut buffer)
    }
}
