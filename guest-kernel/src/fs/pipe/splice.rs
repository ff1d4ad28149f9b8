//! What moves between a pipe and another file without passing through a program: splice(2), tee(2),
//! vmsplice(2). Between two pipes whole pages change hands; elsewhere the bytes are copied once, which a
//! program cannot tell from pages that are lent.
//!
//! Bytes leave a pipe only after they have arrived elsewhere: what a full socket refuses stays.

use alloc::vec::Vec;

use super::{Pipe, PipePage, Ring, Slot};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::UserBuf;
use crate::sched::{TaskState, Wait, WaitChannel};
use crate::signal::{self, SIGPIPE};
use crate::sync::MutexGuard;
use crate::wait_channel;

/// The most that is read at once from what is no regular file.
const READ_MAX: usize = 64 * 1024;

/// Reads into, or writes from, a buffer of the kernel's.
pub type Transfer<'a> = &'a mut dyn FnMut(&mut UserBuf<'_>) -> Result<usize>;

/// What becomes of bytes that go from one pipe to another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They leave the first (splice(2)).
    Moved,
    /// They stay there, too (tee(2)).
    Copied,
}

impl Ring {
    /// Puts a slot behind the last; the ring is not full.
    fn push_slot(&mut self, slot: Slot) {
        let at = self.head & (self.slots.len() - 1);
        self.slots[at] = Some(slot);
        self.head += 1;
    }

    /// A slot of its own with the first `len` bytes of the one at `position`.
    fn copy_of(&mut self, position: usize, len: usize) -> Result<Option<Slot>> {
        let Some(slot) = self.slot(position) else { return Ok(None) };
        let len = len.min(slot.len);
        let mut page = PipePage::try_new()?;
        page.bytes_mut()[..len].copy_from_slice(&slot.page.bytes()[slot.start..slot.start + len]);
        Ok(Some(Slot { page, start: 0, len, packet: slot.packet, merges: false }))
    }

    /// Takes the first slot out.
    fn pop_slot(&mut self) -> Option<Slot> {
        let at = self.tail & (self.slots.len() - 1);
        let slot = self.slots[at].take()?;
        self.tail += 1;
        Some(slot)
    }

    /// Puts up to a page of bytes into a slot that nothing is appended to; the ring is not full.
    fn push_lent(&mut self, from: &mut UserBuf<'_>) -> Result<usize> {
        let n = self.push(from, false)?;
        let last = self.head - 1;
        if let Some(slot) = self.slot(last) {
            slot.merges = false;
        }
        Ok(n)
    }
}

impl Slot {
    /// A page with `len` bytes that nothing is appended to.
    fn lent(page: PipePage, len: usize) -> Self {
        Self { page, start: 0, len, packet: false, merges: false }
    }
}

/// Room in a pipe that is kept for bytes that are still to come: what was taken from a socket cannot be given back, so
/// nothing may stand between it and the pipe, neither another writer nor a signal nor a want of memory. The ring is not
/// locked meanwhile, as its source may be long in coming.
struct Reserved<'a> {
    pipe: &'a Pipe,
    /// A page for each slot.
    pages: Vec<PipePage>,
}

impl Reserved<'_> {
    /// Reads up to `len` bytes from `source` at once, and puts what came where it was to go.
    fn fill(mut self, len: usize, source: Transfer<'_>) -> Result<usize> {
        let slots = self.pages.len();
        let mut bytes = crate::net::message::try_zeroed(len.min(slots * PAGE_SIZE))?;
        let n = source(&mut UserBuf::into_kernel(&mut bytes))?;
        let was_empty = {
            let mut ring = self.pipe.ring.lock();
            let was_empty = ring.is_empty();
            for (chunk, mut page) in bytes[..n].chunks(PAGE_SIZE).zip(self.pages.drain(..)) {
                page.bytes_mut()[..chunk.len()].copy_from_slice(chunk);
                ring.push_slot(Slot::lent(page, chunk.len()));
            }
            ring.reserved -= slots;
            self.pipe.publish(&ring);
            was_empty && !ring.is_empty()
        };
        self.pipe.told_readers(was_empty);
        self.pipe.wake_writers();
        Ok(n)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if self.pages.is_empty() {
            return;
        }
        {
            let mut ring = self.pipe.ring.lock();
            ring.reserved -= self.pages.len();
            self.pipe.publish(&ring);
        }
        self.pipe.wake_writers();
    }
}

/// Two rings, locked in the order of their addresses.
fn lock_both<'a>(a: &'a Pipe, b: &'a Pipe) -> (MutexGuard<'a, Ring>, MutexGuard<'a, Ring>) {
    if core::ptr::from_ref(a) < core::ptr::from_ref(b) {
        let first = a.ring.lock();
        (first, b.ring.lock())
    } else {
        let first = b.ring.lock();
        (a.ring.lock(), first)
    }
}

/// What a transfer comes to: an error counts only if nothing was moved before.
fn outcome(done: usize, result: Result<()>) -> Result<usize> {
    match result {
        Err(error) if done == 0 => Err(error),
        _ => Ok(done),
    }
}

/// Not exclusive: who is woken here may take nothing, or sleep elsewhere next, and passes no wake-up on.
const fn with_others(channel: &'static WaitChannel) -> Wait {
    Wait::new(TaskState::INTERRUPTIBLE, channel)
}

impl Pipe {
    /// Waits until there is a free slot. `EPIPE`, with its signal, if nobody reads.
    fn await_room(&self, nonblock: bool) -> Result<()> {
        loop {
            if !self.has_readers() {
                signal::hooks::send_current(SIGPIPE);
                return Err(Errno::EPIPE);
            }
            if !self.is_full() {
                return Ok(());
            }
            if nonblock {
                return Err(Errno::EAGAIN);
            }
            let ready = || !self.is_full() || !self.has_readers();
            self.write_wait.wait_until(with_others(wait_channel!("pipe_write")), ready)?;
        }
    }

    /// Waits until there are bytes, or nobody writes any more.
    fn await_bytes(&self, nonblock: bool) -> Result<()> {
        while self.is_empty() && self.has_writers() {
            if nonblock {
                return Err(Errno::EAGAIN);
            }
            let ready = || !self.is_empty() || !self.has_writers();
            self.read_wait.wait_until(with_others(wait_channel!("pipe_read")), ready)?;
        }
        Ok(())
    }

    /// Lets `sink` write up to `len` bytes, slot by slot, and drops what it wrote.
    pub fn drain_into(&self, len: usize, nonblock: bool, sink: Transfer<'_>) -> Result<usize> {
        loop {
            self.await_bytes(nonblock)?;
            let mut done = 0;
            let (was_empty, freed, result) = {
                let mut ring = self.ring.lock();
                let (was_empty, was_full) = (ring.is_empty(), ring.is_full());
                let result = feed(&mut ring, len, &mut done, sink);
                self.publish(&ring);
                (was_empty, was_full && !ring.is_full(), result)
            };
            if freed {
                self.wake_writers();
            }
            // Another reader may have been faster.
            if !was_empty || !self.has_writers() {
                return outcome(done, result);
            }
        }
    }

    /// Fills free slots with up to `len` bytes from `source`. `regular`: it is a regular file, which is read page
    /// by page and never waits for long.
    pub fn fill_from(
        &self,
        len: usize,
        nonblock: bool,
        regular: bool,
        source: Transfer<'_>,
    ) -> Result<usize> {
        if !regular {
            let len = len.min(READ_MAX);
            return self.reserve(len, nonblock)?.fill(len, source);
        }
        self.supply(nonblock, |ring, done| {
            while *done < len && !ring.is_full() {
                let mut page = PipePage::try_new()?;
                let want = (len - *done).min(PAGE_SIZE);
                let n = source(&mut UserBuf::into_kernel(&mut page.bytes_mut()[..want]))?;
                if n > 0 {
                    ring.push_slot(Slot::lent(page, n));
                }
                *done += n;
                if n < want {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Lends the pipe as many of the bytes as there is room for (vmsplice(2)).
    pub fn lend(&self, bytes: &mut UserBuf<'_>, nonblock: bool) -> Result<usize> {
        self.supply(nonblock, |ring, done| {
            while !bytes.is_empty() && !ring.is_full() {
                *done += ring.push_lent(bytes)?;
            }
            Ok(())
        })
    }

    /// Lets `work` put bytes into the ring, which has room, and counts them in its second argument.
    fn supply(
        &self,
        nonblock: bool,
        mut work: impl FnMut(&mut Ring, &mut usize) -> Result<()>,
    ) -> Result<usize> {
        loop {
            self.await_room(nonblock)?;
            let mut done = 0;
            let (was_full, was_empty, result) = {
                let mut ring = self.ring.lock();
                let (was_full, was_empty) = (ring.is_full(), ring.is_empty());
                // Another writer may have been faster.
                let result = if was_full { Ok(()) } else { work(&mut ring, &mut done) };
                self.publish(&ring);
                (was_full, was_empty && !ring.is_empty(), result)
            };
            self.told_readers(was_empty);
            if !was_full {
                return outcome(done, result);
            }
        }
    }

    /// Waits for room and keeps as much of it as `len` bytes take, or all there is, with pages for them.
    fn reserve(&self, len: usize, nonblock: bool) -> Result<Reserved<'_>> {
        let mut reserved = Reserved { pipe: self, pages: Vec::new() };
        self.supply(nonblock, |ring, _| {
            let n = len.div_ceil(PAGE_SIZE).min(ring.slots.len() - ring.taken());
            reserved.pages.try_reserve_exact(n).map_err(|_| Errno::ENOMEM)?;
            for _ in 0..n {
                reserved.pages.push(PipePage::try_new()?);
                ring.reserved += 1;
            }
            Ok(())
        })?;
        Ok(reserved)
    }

    /// Wakes readers if there was nothing before, or if somebody watches every change.
    fn told_readers(&self, was_empty: bool) {
        if was_empty || self.polled.load(core::sync::atomic::Ordering::Relaxed) {
            self.wake_readers();
        }
    }

    /// Lets up to `len` bytes go on to another pipe. Borders of packets are kept.
    pub fn pass_to(&self, to: &Pipe, len: usize, nonblock: bool, fate: Fate) -> Result<usize> {
        loop {
            self.await_bytes(nonblock)?;
            to.await_room(nonblock)?;
            let mut done = 0;
            let (freed, was_empty, ended, result) = {
                let (mut source, mut target) = lock_both(self, to);
                let (was_full, was_empty) = (source.is_full(), target.is_empty());
                let stuck = source.is_empty() && self.has_writers() || target.is_full();
                let result = pass(&mut source, &mut target, len, &mut done, fate);
                self.publish(&source);
                to.publish(&target);
                let freed = was_full && !source.is_full();
                (freed, was_empty && !target.is_empty(), !stuck, result)
            };
            if freed {
                self.wake_writers();
            }
            to.told_readers(was_empty);
            if ended || result.is_err() {
                return outcome(done, result);
            }
        }
    }
}

fn feed(ring: &mut Ring, len: usize, done: &mut usize, sink: Transfer<'_>) -> Result<()> {
    while *done < len {
        let tail = ring.tail;
        let Some(slot) = ring.slot(tail) else { break };
        let want = slot.len.min(len - *done);
        let bytes = &slot.page.bytes()[slot.start..slot.start + want];
        let n = sink(&mut UserBuf::from_kernel(bytes))?;
        if n == 0 {
            break;
        }
        slot.start += n;
        slot.len -= n;
        *done += n;
        if slot.len == 0 {
            let page = ring.pop_slot().map(|slot| slot.page);
            ring.spare = ring.spare.take().or(page);
        }
    }
    Ok(())
}

fn pass(
    source: &mut Ring,
    target: &mut Ring,
    len: usize,
    done: &mut usize,
    fate: Fate,
) -> Result<()> {
    let mut at = source.tail;
    while *done < len && at != source.head && !target.is_full() {
        let left = len - *done;
        let whole = source.slot(at).is_some_and(|slot| slot.len <= left);
        let slot = if fate == Fate::Moved && whole {
            source.pop_slot()
        } else {
            source.copy_of(at, left)?
        };
        let Some(slot) = slot else { break };
        if fate == Fate::Moved
            && !whole
            && let Some(rest) = source.slot(at)
        {
            rest.start += slot.len;
            rest.len -= slot.len;
        }
        *done += slot.len;
        target.push_slot(slot);
        at += 1;
    }
    Ok(())
}
