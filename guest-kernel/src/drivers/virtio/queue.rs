//! A virtqueue that owns the requests in it (virtio 1.2, 2.7).
//!
//! Whatever the device writes into the used ring, only requests that were put in come out, each once:
//! an identifier that names none, or a length beyond the request's buffers, makes the queue
//! [`Broken`], and its device is given up. Neither can make the driver touch memory that it did not offer.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;

use virtio_drivers::Error;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use super::hal::Hal;
use crate::mm::try_box;

/// The device broke the rules of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Memory that a request offers, at most `PARTS` pieces: first what the device reads, then what it writes.
pub struct Chain<const PARTS: usize> {
    parts: [NonNull<[u8]>; PARTS],
    reads: usize,
    len: usize,
}

impl<const PARTS: usize> Default for Chain<PARTS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const PARTS: usize> Chain<PARTS> {
    /// Nothing yet.
    pub const fn new() -> Self {
        let none = NonNull::slice_from_raw_parts(NonNull::dangling(), 0);
        Self { parts: [none; PARTS], reads: 0, len: 0 }
    }

    /// Adds memory that the device reads; before any that it writes. Empty pieces are left out.
    ///
    /// # Panics
    /// Beyond `PARTS` pieces, which is the driver's mistake.
    pub fn read(mut self, start: *const u8, len: usize) -> Self {
        debug_assert!(self.reads == self.len, "what is read comes first");
        self.push(start.cast_mut(), len);
        self.reads = self.len;
        self
    }

    /// Adds memory that the device writes.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn write(mut self, start: *mut u8, len: usize) -> Self {
        self.push(start, len);
        self
    }

    fn push(&mut self, start: *mut u8, len: usize) {
        if let (Some(start), true) = (NonNull::new(start), len > 0) {
            self.parts[self.len] = NonNull::slice_from_raw_parts(start, len);
            self.len += 1;
        }
    }

    fn writable(&self) -> usize {
        self.parts[self.reads..self.len].iter().map(|part| part.len()).sum()
    }

    /// Calls `f` with the pieces as the crate wants them.
    ///
    /// # Safety
    /// The pieces are memory of the request that nobody else accesses during the call.
    unsafe fn with<R>(
        &self,
        f: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> R,
    ) -> R {
        let mut reads: [&[u8]; PARTS] = [&[]; PARTS];
        let mut writes: [&mut [u8]; PARTS] = core::array::from_fn(|_| <&mut [u8]>::default());
        for (slot, part) in reads.iter_mut().zip(&self.parts[..self.reads]) {
            // SAFETY: the caller's promise.
            *slot = unsafe { part.as_ref() };
        }
        let written = &self.parts[self.reads..self.len];
        for (slot, part) in writes.iter_mut().zip(written) {
            // SAFETY: as above.
            *slot = unsafe { &mut *part.as_ptr() };
        }
        f(&reads[..self.reads], &mut writes[..written.len()])
    }
}

/// Something that a device works on.
///
/// # Safety
/// [`chain`](Self::chain) always names the same memory of the linear map, at least one byte, which stays
/// valid and untouched by others for as long as the request is in a queue, wherever the request itself is
/// moved to.
pub unsafe trait Request<const PARTS: usize>: Send {
    /// Its memory.
    fn chain(&self) -> Chain<PARTS>;
}

/// A queue of `SIZE` descriptors whose requests are `R`, of at most `PARTS` pieces each.
pub struct Queue<R, const PARTS: usize, const SIZE: usize> {
    ring: Box<VirtQueue<Hal, SIZE>>,
    live: Vec<Option<R>>,
    index: u16,
    notify_sent: bool,
}

impl<R: Request<PARTS>, const PARTS: usize, const SIZE: usize> Queue<R, PARTS, SIZE> {
    /// Sets queue `index` of a device up. Not inlined: rings are built on the stack, one at a time.
    #[inline(never)]
    pub fn new<T: Transport>(transport: &mut T, index: u16) -> Result<Self, Error> {
        let mut live = Vec::new();
        live.try_reserve_exact(SIZE).map_err(|_| Error::DmaError)?;
        live.resize_with(SIZE, || None);
        let ring = VirtQueue::new(transport, index, false, false)?;
        let ring = try_box(ring).map_err(|_| Error::DmaError)?;
        Ok(Self { ring, live, index, notify_sent: true })
    }

    /// Offers a request to the device, or returns it if the queue is full. The device learns of it by
    /// [`notify`](Self::notify).
    pub fn add(&mut self, request: R) -> Result<(), R> {
        let chain = request.chain();
        // SAFETY: `Request`'s promise; the request is kept in `live` until it comes back.
        let token = unsafe { chain.with(|reads, writes| self.ring.add(reads, writes)) };
        match token {
            Ok(token) => {
                self.live[usize::from(token)] = Some(request);
                Ok(())
            }
            Err(_) => Err(request),
        }
    }

    /// Tells the device that requests were added, unless it asked not to be told.
    pub fn notify<T: Transport>(&mut self, transport: &mut T) {
        if self.ring.should_notify() {
            transport.notify(self.index);
        }
    }

    /// Asks for interrupts when requests come back, or for none; true if that is new to the device, which
    /// may interrupt all the same.
    pub fn set_interrupts(&mut self, on: bool) -> bool {
        let changes = self.notify_sent != on;
        if changes {
            self.notify_sent = on;
            self.ring.set_dev_notify(on);
            // What came back before the device saw this does not interrupt: the caller looks again.
            core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        }
        changes
    }

    /// Takes a request that the device is done with, and how many bytes it wrote.
    pub fn pop(&mut self) -> Result<Option<(R, usize)>, Broken> {
        let Some(token) = self.ring.peek_used() else { return Ok(None) };
        let request = self.live.get_mut(usize::from(token)).and_then(Option::take).ok_or(Broken)?;
        let chain = request.chain();
        // SAFETY: the same memory as in `add`.
        let popped =
            unsafe { chain.with(|reads, writes| self.ring.pop_used(token, reads, writes)) };
        match popped {
            Ok(len) if len as usize <= chain.writable() => Ok(Some((request, len as usize))),
            _ => {
                // It comes out with the others when the device is given up.
                self.live[usize::from(token)] = Some(request);
                Err(Broken)
            }
        }
    }

    /// The requests that the device has.
    pub fn live(&self) -> impl Iterator<Item = &R> {
        self.live.iter().flatten()
    }

    /// Takes all requests back, after the device was reset.
    pub fn take_live(&mut self) -> impl Iterator<Item = R> + '_ {
        self.live.iter_mut().filter_map(Option::take)
    }

    /// Descriptors that are free.
    pub fn free(&self) -> usize {
        self.ring.available_desc()
    }
}
