//! One request of a driver: a chain of descriptors, checked whole, as two lists of guest memory.
//!
//! A [`Chain`] exists only if the driver kept the rules of the virtio 1.2 specification (2.7.5 and
//! 2.7.7): every descriptor exists, the chain ends, what the device may write comes after what it may
//! read, and every byte is RAM. The memory stays the guest's: it may change at any moment, so each byte
//! is read once and what was read is what is checked. No reference to it is ever made.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, Permissions, VolatileSlice};

use super::{Error, Memory};

/// The most descriptors of one chain: what one vectored system call takes (UIO_MAXIOV), and what QEMU
/// allows. Linux's drivers stay far below.
pub const MAX_SEGMENTS: usize = 1024;

/// One request.
pub struct Chain<'m> {
    pub(super) head: u16,
    /// What the driver gives.
    pub readable: Buffers<'m>,
    /// Where the driver wants its answer.
    pub writable: Buffers<'m>,
}

impl<'m> Chain<'m> {
    /// Reads the whole chain of descriptors.
    pub(super) fn walk(
        memory: &'m Memory,
        descriptors: DescriptorChain<&'m Memory>,
    ) -> Result<Self, Error> {
        let head = descriptors.head_index();
        let bad = |what| Error::Chain { head, what };
        let mut chain = Self { head, readable: Buffers::default(), writable: Buffers::default() };
        let (mut count, mut goes_on, mut writing) = (0, true, false);
        for descriptor in descriptors {
            count += 1;
            if count > MAX_SEGMENTS {
                return Err(bad("is longer than 1024 descriptors"));
            }
            goes_on = descriptor.has_next();
            if writing && !descriptor.is_write_only() {
                return Err(bad("has a buffer to read after one to write"));
            }
            writing = descriptor.is_write_only();
            let (buffers, access) = match writing {
                true => (&mut chain.writable, Permissions::Write),
                false => (&mut chain.readable, Permissions::Read),
            };
            let slices = memory.get_slices(descriptor.addr(), descriptor.len() as usize, access);
            for slice in slices.map_err(|_| bad("points outside RAM"))? {
                let slice = slice.map_err(|_| bad("points outside RAM"))?;
                buffers.length += slice.len();
                buffers.slices.push(slice);
            }
        }
        // The iterator stops early at a descriptor that does not exist and at a loop; the last one that
        // it gave then still promised another.
        match goes_on {
            true => Err(bad("does not end, or leads to a descriptor that does not exist")),
            false => Ok(chain),
        }
    }
}

/// Guest memory in pieces, consumed from the front.
#[derive(Default)]
pub struct Buffers<'m> {
    slices: Vec<VolatileSlice<'m>>,
    /// The first slice that is not used up.
    first: usize,
    length: usize,
}

impl<'m> Buffers<'m> {
    /// How many bytes are left.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Passes over up to `count` bytes.
    pub fn skip(&mut self, count: usize) {
        let mut count = count.min(self.length);
        self.length -= count;
        while count > 0
            && let Some(slice) = self.slices.get_mut(self.first)
        {
            match slice.offset(count) {
                Ok(rest) if !rest.is_empty() => {
                    *slice = rest;
                    return;
                }
                _ => {
                    count -= count.min(slice.len());
                    self.first += 1;
                }
            }
        }
    }

    /// Takes the last `count` bytes off the end; `None` if there are fewer.
    pub fn split_end(&mut self, count: usize) -> Option<Buffers<'m>> {
        let keep = self.length.checked_sub(count)?;
        let mut end = Buffers::default();
        let mut before = 0;
        for at in self.first..self.slices.len() {
            let slice = self.slices[at];
            let cut = keep.saturating_sub(before).min(slice.len());
            before += slice.len();
            if cut == slice.len() {
                continue;
            }
            // `cut` is below the slice's length, so both halves exist.
            let (kept, taken) = slice.split_at(cut).ok()?;
            self.slices[at] = kept;
            end.slices.push(taken);
        }
        end.length = count;
        self.length = keep;
        Some(end)
    }

    /// Copies from the guest into `bytes` and consumes; less only if no more is left.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len()
            && let Some(slice) = self.slices.get(self.first)
        {
            let count = slice.copy_to(&mut bytes[done..]);
            done += count;
            self.advance(count);
        }
        done
    }

    /// Copies `bytes` to the guest and consumes; less only if no more room is left.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len()
            && let Some(slice) = self.slices.get(self.first)
        {
            let count = slice.len().min(bytes.len() - done);
            slice.copy_from(&bytes[done..done + count]);
            done += count;
            self.advance(count);
        }
        done
    }

    /// Reads exactly `N` bytes from the guest.
    pub fn read_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.read(&mut bytes) == N).then_some(bytes)
    }

    /// Passes over `count` bytes of the first slice; an empty one is dropped.
    fn advance(&mut self, count: usize) {
        match self.slices.get(self.first).is_some_and(VolatileSlice::is_empty) {
            true => self.first += 1,
            false => self.skip(count),
        }
    }

    /// Up to `limit` bytes from the front as a vector for a system call.
    fn vector(&self, limit: usize) -> Vec<libc::iovec> {
        let mut left = limit;
        let mut vector = Vec::with_capacity(self.slices.len() - self.first);
        for slice in &self.slices[self.first..] {
            if left == 0 || vector.len() == MAX_SEGMENTS {
                break;
            }
            let length = slice.len().min(left);
            left -= length;
            let base = slice.ptr_guard_mut().as_ptr().cast();
            vector.push(libc::iovec { iov_base: base, iov_len: length });
        }
        vector
    }

    /// `preadv`: up to `limit` bytes of `file` from `offset` straight into guest memory; consumed.
    pub fn read_from(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        limit: usize,
    ) -> io::Result<usize> {
        let vector = self.vector(limit);
        // SAFETY: each entry lies within one slice of guest RAM, which stays mapped for 'm and which
        // nothing in this process holds a reference to; the kernel checks the descriptor.
        self.consumed(|| unsafe {
            libc::preadv(file.as_raw_fd(), vector.as_ptr(), vector.len() as i32, offset as i64)
        })
    }

    /// `pwritev`: up to `limit` bytes straight from guest memory into `file` at `offset`; consumed.
    pub fn write_to(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        limit: usize,
    ) -> io::Result<usize> {
        let vector = self.vector(limit);
        // SAFETY: as in `read_from`; the kernel copies out of guest RAM.
        self.consumed(|| unsafe {
            libc::pwritev(file.as_raw_fd(), vector.as_ptr(), vector.len() as i32, offset as i64)
        })
    }

    /// `readv`: what a stream or a packet device has, straight into guest memory; consumed.
    pub fn receive(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        let vector = self.vector(usize::MAX);
        // SAFETY: as in `read_from`.
        self.consumed(|| unsafe {
            libc::readv(from.as_raw_fd(), vector.as_ptr(), vector.len() as i32)
        })
    }

    /// `writev`: what is left, straight from guest memory; what was taken is consumed.
    pub fn send(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let vector = self.vector(usize::MAX);
        // SAFETY: as in `write_to`.
        self.consumed(|| unsafe {
            libc::writev(to.as_raw_fd(), vector.as_ptr(), vector.len() as i32)
        })
    }

    /// Makes the call, again if a signal interrupts it, and passes over what it did.
    fn consumed(&mut self, mut call: impl FnMut() -> isize) -> io::Result<usize> {
        loop {
            match usize::try_from(call()) {
                Ok(count) => {
                    self.skip(count);
                    return Ok(count);
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}
