//! [`UserBuf`]: a cursor over the memory that a read fills or a write drains: one piece of user
//! memory, several (`readv`), or the kernel's own.
//!
//! It hides which of these it is, so one `read` serves programs and the kernel itself. Data goes
//! straight between the file's memory and the caller's. A fault after some bytes were copied ends the
//! transfer short; only one that copied nothing is `EFAULT`.

use core::marker::PhantomData;

use crate::arch::{self, uaccess};
use crate::errno::{Errno, Result};

/// Most bytes that one call transfers (read(2)).
pub const MAX_RW_COUNT: usize = 0x7fff_f000;
/// Most pieces of one call.
pub const UIO_MAXIOV: usize = 1024;

/// `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct IoVec {
    /// User address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    User,
    /// The kernel's, to be filled.
    Fill,
    /// The kernel's, to be drained.
    Drain,
}

/// A cursor; see the module's documentation.
pub struct UserBuf<'a> {
    base: u64,
    len: usize,
    rest: &'a [IoVec],
    remaining: usize,
    memory: Memory,
    _kernel: PhantomData<&'a mut [u8]>,
}

impl<'a> UserBuf<'a> {
    fn new(base: u64, len: usize, memory: Memory) -> Self {
        Self { base, len, rest: &[], remaining: len, memory, _kernel: PhantomData }
    }

    /// `len` bytes of user memory, cut to what one call transfers; `EFAULT` unless they lie in user
    /// space.
    #[inline]
    pub fn user(base: u64, len: usize) -> Result<Self> {
        if !arch::access_ok(base, len) {
            return Err(Errno::EFAULT);
        }
        Ok(Self::new(base, len.min(MAX_RW_COUNT), Memory::User))
    }

    /// Pieces of user memory. `EINVAL` if their sum overflows a `ssize_t` or there are too many.
    pub fn vectored(iov: &'a [IoVec]) -> Result<Self> {
        if iov.len() > UIO_MAXIOV {
            return Err(Errno::EINVAL);
        }
        let mut sum: usize = 0;
        for piece in iov {
            let len = isize::try_from(piece.len).map_err(|_| Errno::EINVAL)? as usize;
            if !arch::access_ok(piece.base, len) {
                return Err(Errno::EFAULT);
            }
            sum = sum.saturating_add(len);
        }
        if isize::try_from(sum).is_err() {
            return Err(Errno::EINVAL);
        }
        let mut this = Self::new(0, 0, Memory::User);
        this.rest = iov;
        this.remaining = sum.min(MAX_RW_COUNT);
        Ok(this)
    }

    /// Kernel memory that a read fills.
    pub fn into_kernel(buf: &'a mut [u8]) -> Self {
        Self::new(buf.as_mut_ptr() as u64, buf.len(), Memory::Fill)
    }

    /// Kernel memory that a write drains.
    pub fn from_kernel(buf: &'a [u8]) -> Self {
        Self::new(buf.as_ptr() as u64, buf.len(), Memory::Drain)
    }

    /// Bytes left.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// True if nothing is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    /// Cuts what is left to `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.remaining = self.remaining.min(len);
    }

    /// Runs `copy(address, offset, len)` on pieces of up to `len` bytes in all; it returns how many
    /// bytes it did not copy.
    #[inline]
    fn transfer(
        &mut self,
        len: usize,
        mut copy: impl FnMut(u64, usize, usize) -> usize,
    ) -> Result<usize> {
        let len = len.min(self.remaining);
        let mut done = 0;
        while done < len {
            if self.len == 0 {
                let Some((piece, rest)) = self.rest.split_first() else { break };
                (self.base, self.len, self.rest) = (piece.base, piece.len as usize, rest);
                continue;
            }
            let n = self.len.min(len - done);
            let copied = n - copy(self.base, done, n);
            self.base += copied as u64;
            self.len -= copied;
            self.remaining -= copied;
            done += copied;
            if copied < n {
                break;
            }
        }
        if done == 0 && len != 0 { Err(Errno::EFAULT) } else { Ok(done) }
    }

    /// Moves the bytes piece by piece, from `pos` of a file on, which moves along. `piece` says how many it
    /// wanted to move and how many it did, or `None` at the end. An error counts only if nothing was moved
    /// before (read(2), write(2)).
    pub fn in_pieces(
        &mut self,
        pos: &mut u64,
        mut piece: impl FnMut(&mut Self, u64) -> Option<(usize, Result<usize>)>,
    ) -> Result<usize> {
        let mut done = 0;
        while !self.is_empty() {
            let Some((wanted, moved)) = piece(self, *pos) else { break };
            match moved {
                Ok(moved) => {
                    *pos += moved as u64;
                    done += moved;
                    if moved < wanted {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Puts `data` into the buffer, as much as there is room for; returns how much.
    #[inline]
    pub fn put(&mut self, data: &[u8]) -> Result<usize> {
        let memory = self.memory;
        self.transfer(data.len(), |addr, at, n| match memory {
            // SAFETY: `data` holds `at + n` bytes: `transfer` stays within the length given.
            Memory::User => unsafe { uaccess::copy_to_user(addr, data.as_ptr().add(at), n) },
            Memory::Fill => {
                // SAFETY: `into_kernel` borrowed this memory mutably for the cursor's life.
                unsafe { (addr as *mut u8).copy_from_nonoverlapping(data.as_ptr().add(at), n) };
                0
            }
            Memory::Drain => n,
        })
    }

    /// Puts `len` zero bytes into the buffer, as far as there is room.
    pub fn put_zeros(&mut self, len: usize) -> Result<usize> {
        let memory = self.memory;
        self.transfer(len, |addr, _, n| match memory {
            Memory::User => uaccess::clear_user(addr, n),
            Memory::Fill => {
                // SAFETY: as in `put`.
                unsafe { (addr as *mut u8).write_bytes(0, n) };
                0
            }
            Memory::Drain => n,
        })
    }

    /// Takes bytes out of the buffer into `data`, as many as there are; returns how many.
    #[inline]
    pub fn take(&mut self, data: &mut [u8]) -> Result<usize> {
        // SAFETY: a slice is valid for writes of its length.
        unsafe { self.take_raw(data.as_mut_ptr(), data.len()) }
    }

    /// [`take`](Self::take) into memory that others may look at meanwhile, such as a page of a file.
    ///
    /// # Safety
    /// `to` is valid for writes of `len` bytes.
    #[inline]
    pub unsafe fn take_raw(&mut self, to: *mut u8, len: usize) -> Result<usize> {
        let memory = self.memory;
        self.transfer(len, |addr, at, n| match memory {
            // SAFETY: the caller's promise; `transfer` stays within `len`.
            Memory::User => unsafe { uaccess::copy_from_user(to.add(at), addr, n) },
            // SAFETY: the same, and `from_kernel` borrowed the source for the cursor's life.
            Memory::Drain => unsafe {
                to.add(at).copy_from_nonoverlapping(addr as *const u8, n);
                0
            },
            Memory::Fill => n,
        })
    }

    /// [`put`](Self::put) from memory that others may change meanwhile, such as a page of a file.
    ///
    /// # Safety
    /// `from` is valid for reads of `len` bytes.
    #[inline]
    pub unsafe fn put_raw(&mut self, from: *const u8, len: usize) -> Result<usize> {
        let memory = self.memory;
        self.transfer(len, |addr, at, n| match memory {
            // SAFETY: the caller's promise; `transfer` stays within `len`.
            Memory::User => unsafe { uaccess::copy_to_user(addr, from.add(at), n) },
            // SAFETY: the same, and `into_kernel` borrowed the target for the cursor's life.
            Memory::Fill => unsafe {
                (addr as *mut u8).copy_from_nonoverlapping(from.add(at), n);
                0
            },
            Memory::Drain => n,
        })
    }

    /// `EFAULT` if not even the next byte can be read.
    pub fn check_readable(&self) -> Result<()> {
        Self { _kernel: PhantomData, ..*self }.take(&mut [0]).map(drop)
    }

    /// Skips `len` bytes as if they had been transferred.
    pub fn skip(&mut self, len: usize) -> Result<usize> {
        self.transfer(len, |_, _, _| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_memory_is_filled_and_drained_piece_by_piece() {
        let mut room = [0u8; 8];
        let mut buf = UserBuf::into_kernel(&mut room);
        assert_eq!(buf.put(b"abc").unwrap(), 3);
        assert_eq!(buf.put_zeros(1).unwrap(), 1);
        assert_eq!(buf.put(b"defgh").unwrap(), 4);
        assert_eq!(buf.put(b"x").unwrap(), 0);
        assert_eq!(&room, b"abc\0defg");

        let mut buf = UserBuf::from_kernel(&room);
        let mut out = [0; 5];
        assert_eq!(buf.take(&mut out).unwrap(), 5);
        assert_eq!(buf.remaining(), 3);
        assert_eq!(buf.put(b"z"), Err(Errno::EFAULT), "a source is not written to");
    }

    #[test]
    fn pieces_that_are_too_many_or_too_long_are_refused() {
        let half = IoVec { base: 0, len: 1 << 62 };
        assert_eq!(UserBuf::vectored(&[half]).err(), Some(Errno::EFAULT));
        let huge = IoVec { base: 0, len: u64::MAX };
        assert_eq!(UserBuf::vectored(&[huge]).err(), Some(Errno::EINVAL));
        let many = [IoVec::default(); UIO_MAXIOV + 1];
        assert_eq!(UserBuf::vectored(&many).err(), Some(Errno::EINVAL));
    }
}
