//! One port of a console device: a ring of output that the device reads in place, and buffers of input.

use alloc::collections::VecDeque;

use virtio_drivers::Error;
use virtio_drivers::transport::Transport;

use crate::addr::PAGE_SIZE;
use crate::drivers::virtio::queue::{Broken, Chain, Queue, Request};
use crate::errno::{Errno, Result};
use crate::mm::{AllocFlags, FrameRef, PageKind, alloc_page, alloc_pages};

/// log2 of the pages of the output ring.
const RING_ORDER: usize = 3;
/// Bytes of the output ring.
pub const RING: usize = PAGE_SIZE << RING_ORDER;
/// Pieces of output that the device can have at a time.
const PIECES: usize = 16;
/// Buffers of input, a page each.
const BUFFERS: usize = 4;

/// A piece of the output ring that the device has.
struct Piece {
    /// Where it starts in the stream of all output.
    start: usize,
    memory: *const u8,
    len: usize,
}

// SAFETY: it points into the ring of a port, which lives as long as the queue and is not written there
// before the piece came back.
unsafe impl Send for Piece {}

// SAFETY: see `Send`; the memory is the same each time.
unsafe impl Request<1> for Piece {
    fn chain(&self) -> Chain<1> {
        Chain::new().read(self.memory, self.len)
    }
}

/// A page that the device fills.
struct Buffer(FrameRef);

// SAFETY: the frame is the buffer's own.
unsafe impl Request<1> for Buffer {
    fn chain(&self) -> Chain<1> {
        Chain::new().write(self.0.as_ptr(), PAGE_SIZE)
    }
}

/// A buffer with input.
struct Input {
    buffer: Buffer,
    len: usize,
    taken: usize,
}

struct Queues {
    input: Queue<Buffer, 1, BUFFERS>,
    output: Queue<Piece, 1, PIECES>,
}

/// A port. Positions in the stream of output are counted without wrapping.
pub struct Port {
    /// The device's number for it.
    pub number: usize,
    queues: Option<Queues>,
    ring: FrameRef,
    /// How much was put into the ring.
    queued: usize,
    /// How much of it the device was offered.
    offered: usize,
    /// How much of that the device is done with.
    taken: usize,
    /// Input that was received and not taken, the oldest first: more than one only after a change of
    /// devices.
    input: VecDeque<Input>,
    /// The device has this port.
    pub present: bool,
    /// We want input of this port.
    pub open: bool,
    /// The other side has the port open.
    pub host_open: bool,
}

impl Port {
    /// A port without a device.
    pub fn try_new(number: usize) -> Result<Self> {
        let mut input = VecDeque::new();
        input.try_reserve_exact(2 * BUFFERS).map_err(|_| Errno::ENOMEM)?;
        Ok(Self {
            number,
            queues: None,
            ring: alloc_pages(RING_ORDER, PageKind::Kernel, AllocFlags::empty())?,
            queued: 0,
            offered: 0,
            taken: 0,
            input,
            present: false,
            open: false,
            host_open: false,
        })
    }

    /// Sets the port's queues up in a device that is not running yet.
    pub fn connect<T: Transport>(
        &mut self,
        transport: &mut T,
        input: u16,
        output: u16,
    ) -> Result<(), Error> {
        let mut queues =
            Queues { input: Queue::new(transport, input)?, output: Queue::new(transport, output)? };
        for _ in 0..BUFFERS {
            let page = alloc_page(AllocFlags::ZERO).map_err(|_| Error::DmaError)?;
            if queues.input.add(Buffer(page)).is_err() {
                break;
            }
        }
        queues.output.set_interrupts(false);
        self.queues = Some(queues);
        Ok(())
    }

    /// Tells a device that runs now of what waits for it.
    pub fn go<T: Transport>(&mut self, transport: &mut T) -> Result<(), Broken> {
        if let Some(queues) = &mut self.queues {
            queues.input.notify(transport);
        }
        self.start(transport)
    }

    /// Becomes the device's port that `other` was, and the other way round; each keeps its own bytes.
    /// False if this port is there already, or the device has output of either in hand.
    pub fn take_over(&mut self, other: &mut Self) -> bool {
        let busy = |port: &Self| port.offered != port.taken;
        if self.present || busy(self) || busy(other) {
            return false;
        }
        core::mem::swap(&mut self.number, &mut other.number);
        core::mem::swap(&mut self.queues, &mut other.queues);
        core::mem::swap(&mut self.present, &mut other.present);
        core::mem::swap(&mut self.host_open, &mut other.host_open);
        true
    }

    /// Lets go of the queues of a device that was reset; the next one may call the port `number`. What
    /// the device had not taken yet is offered again to the next; what it had handed over can still be
    /// taken.
    pub fn disconnect(&mut self, number: usize) {
        self.number = number;
        if let Some(mut queues) = self.queues.take() {
            while self.input.len() < self.input.capacity()
                && let Ok(Some((buffer, len))) = queues.input.pop()
            {
                if len > 0 {
                    self.input.push_back(Input { buffer, len, taken: 0 });
                }
            }
        }
        self.offered = self.taken;
        (self.present, self.host_open) = (false, false);
    }

    /// Bytes that fit into the ring.
    pub fn room(&self) -> usize {
        RING - (self.queued - self.taken)
    }

    /// Bytes that the device has not taken.
    pub fn pending(&self) -> usize {
        self.queued - self.taken
    }

    /// Copies into the ring what fits, and says how much that was.
    pub fn queue(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room());
        let at = self.queued % RING;
        let first = n.min(RING - at);
        self.ring.write(at, &bytes[..first]);
        self.ring.write(0, &bytes[first..n]);
        self.queued += n;
        n
    }

    /// Offers the device what was queued. Output for a port that is not there waits; what finds no
    /// descriptor goes out when pieces come back.
    pub fn start<T: Transport>(&mut self, transport: &mut T) -> Result<(), Broken> {
        if !self.present {
            return Ok(());
        }
        let before = self.offered;
        while !self.offer() {
            // The device may be done with pieces that nobody took back, because it does not interrupt.
            if self.collect()? {
                continue;
            }
            self.set_output_interrupts(true);
            if !self.collect()? {
                break;
            }
        }
        if self.offered != before
            && let Some(queues) = &mut self.queues
        {
            queues.output.notify(transport);
        }
        Ok(())
    }

    /// Offers what was queued as far as there are descriptors; true if that was all.
    fn offer(&mut self) -> bool {
        let Some(queues) = &mut self.queues else { return true };
        while self.offered < self.queued {
            let at = self.offered % RING;
            let len = (self.queued - self.offered).min(RING - at);
            // SAFETY: within the ring.
            let memory = unsafe { self.ring.as_ptr().add(at).cast_const() };
            if queues.output.add(Piece { start: self.offered, memory, len }).is_err() {
                return false;
            }
            self.offered += len;
        }
        true
    }

    /// Takes back the pieces that the device is done with; true if there were any.
    fn collect(&mut self) -> Result<bool, Broken> {
        let Some(queues) = &mut self.queues else { return Ok(false) };
        let mut any = false;
        while queues.output.pop()?.is_some() {
            any = true;
        }
        if any {
            let oldest = queues.output.live().map(|piece| piece.start).min();
            self.taken = oldest.unwrap_or(self.offered);
        }
        Ok(any)
    }

    /// Takes back what the device is done with, and offers what had no descriptor before. True if
    /// anything came back.
    pub fn reclaim<T: Transport>(&mut self, transport: &mut T) -> Result<bool, Broken> {
        let any = self.collect()?;
        if any {
            self.start(transport)?;
        }
        Ok(any)
    }

    /// Asks for an interrupt when the device takes output, or for none.
    pub fn set_output_interrupts(&mut self, on: bool) {
        if let Some(queues) = &mut self.queues {
            queues.output.set_interrupts(on);
        }
    }

    /// Takes input; 0 if there is none.
    pub fn take<T: Transport>(
        &mut self,
        transport: &mut T,
        buf: &mut [u8],
    ) -> Result<usize, Broken> {
        if !self.fetch(transport)? {
            return Ok(0);
        }
        let Some(input) = self.input.front_mut() else { return Ok(0) };
        let n = buf.len().min(input.len - input.taken);
        input.buffer.0.read(input.taken, &mut buf[..n]);
        input.taken += n;
        if input.taken == input.len
            && let (Some(input), Some(queues)) = (self.input.pop_front(), &mut self.queues)
        {
            give_back(&mut queues.input, input.buffer, transport);
        }
        Ok(n)
    }

    /// True if there is input.
    pub fn fetch<T: Transport>(&mut self, transport: &mut T) -> Result<bool, Broken> {
        let Some(queues) = &mut self.queues else { return Ok(!self.input.is_empty()) };
        while self.input.is_empty() {
            match queues.input.pop()? {
                None => return Ok(false),
                Some((buffer, 0)) => give_back(&mut queues.input, buffer, transport),
                Some((buffer, len)) => self.input.push_back(Input { buffer, len, taken: 0 }),
            }
        }
        Ok(true)
    }
}

fn give_back<T: Transport>(
    queue: &mut Queue<Buffer, 1, BUFFERS>,
    buffer: Buffer,
    transport: &mut T,
) {
    // After a change of devices there may be one more buffer than the queue has room for.
    if queue.add(buffer).is_ok() {
        queue.notify(transport);
    }
}
