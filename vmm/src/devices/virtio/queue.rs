//! A split virtqueue as a device serves it (virtio 1.2, 2.7), and what the driver set up as a whole.
//!
//! Rings and descriptors are read through the `virtio-queue` crate; here is what every device does with
//! them: one bounded round of requests at a time, notifications off meanwhile, one interrupt at the
//! end if the driver wants it. A ring or chain that breaks the rules is an [`Error`], after which the
//! transport stops the device until its driver resets it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::signal::Signal;
use super::{Chain, Error, Memory};

/// Where the driver put a queue: the transport's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Entries.
    pub size: u32,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring ("driver area").
    pub available: u64,
    /// Guest physical address of the used ring ("device area").
    pub used: u64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It is done, and so many bytes were written into its writable part.
    Done(u32),
    /// The host's side cannot take or give anything now: the request stays where it is.
    Later,
}

/// Why a round of requests ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// No request is left; the driver notifies when it has another.
    Drained,
    /// A request waits for the host's side.
    Stalled,
}

/// One queue that the driver has made ready.
pub struct VirtQueue(Queue);

impl VirtQueue {
    /// Checks what the driver wrote into the registers.
    pub fn new(max: u16, layout: Layout, event_idx: bool, memory: &Memory) -> Result<Self, Error> {
        let rings = || Error::Rings(layout);
        let mut queue = Queue::new(max).map_err(|_| rings())?;
        let size = u16::try_from(layout.size).map_err(|_| Error::Size(layout.size, max))?;
        queue.try_set_size(size).map_err(|_| Error::Size(layout.size, max))?;
        queue
            .try_set_desc_table_address(GuestAddress(layout.descriptors))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(layout.available)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(layout.used)))
            .map_err(|_| rings())?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        match queue.is_valid(memory) {
            true => Ok(Self(queue)),
            false => Err(rings()),
        }
    }

    /// Whether the driver has made a request available that was not served yet.
    fn has_available(&self, memory: &Memory) -> bool {
        let index = self.0.avail_idx(memory, Ordering::Acquire);
        index.is_ok_and(|index| index.0 != self.0.next_avail())
    }

    /// The next request.
    fn pop<'m>(&mut self, memory: &'m Memory) -> Result<Option<Chain<'m>>, Error> {
        let mut heads = self.0.iter(memory).map_err(|e| Error::Ring(e.to_string()))?;
        heads.next().map(|descriptors| Chain::walk(memory, descriptors)).transpose()
    }

    /// Serves one round; says how it ended, or `None` if requests are left for the next round.
    fn serve<'m>(
        &mut self,
        memory: &'m Memory,
        signal: &Signal,
        handle: &mut dyn FnMut(&mut Chain<'m>) -> Result<Served, Error>,
    ) -> Result<Option<Round>, Error> {
        let ring = |e: virtio_queue::Error| Error::Ring(e.to_string());
        let mut used = false;
        let mut left = self.0.size();
        self.0.disable_notification(memory).map_err(ring)?;
        let end = loop {
            // A driver that adds requests as fast as they are served gets no more than its share.
            if left == 0 {
                break None;
            }
            let Some(mut chain) = self.pop(memory)? else {
                match self.0.enable_notification(memory).map_err(ring)? {
                    true => continue,
                    false => break Some(Round::Drained),
                }
            };
            left -= 1;
            match handle(&mut chain)? {
                Served::Done(written) => {
                    self.0.add_used(memory, chain.head, written).map_err(ring)?;
                    signal.done();
                    used = true;
                }
                Served::Later => {
                    self.0.go_to_previous_position();
                    break Some(Round::Stalled);
                }
            }
        };
        if used && self.wants_interrupt(memory).map_err(ring)? {
            signal.used();
        }
        Ok(end)
    }

    fn wants_interrupt(&mut self, memory: &Memory) -> Result<bool, virtio_queue::Error> {
        // 2.7.7: without the event index it is the available ring's flag that says so.
        Ok(self.0.needs_notification(memory)?
            && (self.0.event_idx_enabled()
                || memory
                    .load::<u16>(GuestAddress(self.0.avail_ring()), Ordering::Relaxed)
                    .map_err(virtio_queue::Error::GuestMemory)
                    .map(u16::from_le)?
                    & VRING_AVAIL_F_NO_INTERRUPT as u16
                    == 0))
    }
}

/// What the driver has set up: its queues, the features that both sides speak, and how to tell it.
pub struct Driver {
    pub(super) queues: Vec<Option<VirtQueue>>,
    pub(super) memory: Memory,
    pub(super) signal: Arc<Signal>,
    pub(super) features: u64,
    /// A round ended with requests left: the device wants to be called again.
    pub(super) again: bool,
}

impl Driver {
    /// Whether both sides speak the feature with this bit number.
    pub fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// Whether a request waits in `queue`.
    pub fn waits(&self, queue: usize) -> bool {
        let queue = self.queues.get(queue).and_then(Option::as_ref);
        queue.is_some_and(|queue| queue.has_available(&self.memory))
    }

    /// Hands one round of the requests of `queue` to `handle`. A queue that the driver did not set up
    /// has none.
    pub fn serve(
        &mut self,
        queue: usize,
        mut handle: impl FnMut(&mut Chain<'_>) -> Result<Served, Error>,
    ) -> Result<Round, Error> {
        let Self { queues, memory, signal, again, .. } = self;
        let Some(queue) = queues.get_mut(queue).and_then(Option::as_mut) else {
            return Ok(Round::Drained);
        };
        let end = queue.serve(memory, signal, &mut |chain| handle(chain))?;
        *again |= end.is_none();
        Ok(end.unwrap_or(Round::Drained))
    }

    /// Tells the driver that the device's configuration changed.
    pub fn config_changed(&self) {
        self.signal.config_changed();
    }
}
