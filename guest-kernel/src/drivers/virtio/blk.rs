//! The block device (virtio 1.2, 5.2) under a disk of [`block`](crate::fs::block).
//!
//! Requests go to the device as they come, up to a queue full of them, and end in its interrupt.

use alloc::boxed::Box;

use virtio_drivers::Error;
use virtio_drivers::transport::Transport;

use super::queue::{Broken, Chain, Queue, Request};
use super::{Driver, Features, Mmio, negotiate, reset};
use crate::errno::{Errno, Result};
use crate::fs::block::{self, Bio, MAX_PAGES, Op, Properties, SECTOR};
use crate::mm::{AllocFlags, FrameRef, alloc_page, try_box};
use crate::sched::WaitQueue;
use crate::sched::clock::Deadline;
use crate::sync::IrqLock;
use crate::{kerr, wait_event, wait_event_timeout};

/// Descriptors of the queue.
const SIZE: usize = 128;
/// Pieces of the longest request: header, pages, status.
const PARTS: usize = MAX_PAGES + 2;
/// Requests that the device can have at a time.
const REQUESTS: usize = 32;
/// How long the device may take for what it has in hand when it is to be quiet, in ns. What it was asked
/// and did not answer is asked of the next.
const PATIENCE: u64 = 10 * 1_000_000_000;

// Kinds of requests, and how they end (5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;
/// What a status is before the device wrote one.
const STATUS_NONE: u8 = 0xff;

/// What frames a request in memory: header, range of a discard, status. Each has 64 bytes of one page.
#[derive(Clone, Copy)]
struct Frame(*mut u8);

const FRAME: usize = 64;
const HEADER: usize = 16;
const RANGE: usize = 16;

// SAFETY: it points into the page of the device's frames, and each frame is one piece of it.
unsafe impl Send for Frame {}

impl Frame {
    fn header(self) -> *mut u8 {
        self.0
    }

    fn range(self) -> *mut u8 {
        // SAFETY: within the frame.
        unsafe { self.0.add(HEADER) }
    }

    fn status(self) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.0.add(HEADER + RANGE) }
    }

    /// Writes what the device reads.
    fn fill(self, bio: &Bio) {
        let (kind, sector) = match bio.op {
            Op::Read => (IN, bio.sector),
            Op::Write => (OUT, bio.sector),
            Op::Flush => (FLUSH, 0),
            Op::Discard => (DISCARD, 0),
        };
        let mut bytes = [0; HEADER + RANGE + 1];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&sector.to_le_bytes());
        bytes[16..24].copy_from_slice(&bio.sector.to_le_bytes());
        bytes[24..28].copy_from_slice(&((bio.bytes / SECTOR) as u32).to_le_bytes());
        bytes[32] = STATUS_NONE;
        // SAFETY: the frame is the caller's while the device does not have it.
        unsafe { self.0.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

/// A request that the device may have.
struct Transfer {
    frame: Frame,
    bio: Box<Bio>,
}

// SAFETY: the frame is the transfer's own and the pages are the bio's; nobody touches either while the
// device has them.
unsafe impl Request<PARTS> for Transfer {
    fn chain(&self) -> Chain<PARTS> {
        let mut chain = Chain::new().read(self.frame.header(), HEADER);
        for (start, len) in self.bio.pieces() {
            chain = match self.bio.op {
                Op::Write => chain.read(start, len),
                _ => chain.write(start, len),
            };
        }
        if self.bio.op == Op::Discard {
            chain = chain.read(self.frame.range(), RANGE);
        }
        chain.write(self.frame.status(), 1)
    }
}

impl Transfer {
    /// How it ended.
    fn result(&self) -> Result<()> {
        // SAFETY: the device is done with it.
        match unsafe { self.frame.status().read_volatile() } {
            STATUS_OK => Ok(()),
            STATUS_UNSUPPORTED => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EIO),
        }
    }
}

type Requests = Queue<Transfer, PARTS, SIZE>;

/// A request that has ended, and how.
type End = (Box<Bio>, Result<()>);

struct State<T> {
    device: Option<(T, Box<Requests>)>,
    /// Frames that no request uses: the first `free` of them.
    frames: [Frame; REQUESTS],
    free: usize,
    /// Nobody may ask for anything now: the devices are to be quiet.
    quiet: bool,
    /// The disk is gone for good.
    gone: bool,
    _page: FrameRef,
}

/// A block device.
pub struct Block<T> {
    state: IrqLock<State<T>>,
    /// A request ended, or the device came or went.
    changed: WaitQueue,
}

/// Wants of the device.
fn wanted() -> Features {
    Features::VERSION_1
        | Features::BLOCK_READ_ONLY
        | Features::BLOCK_SIZE
        | Features::BLOCK_FLUSH
        | Features::BLOCK_DISCARD
}

impl<T: Transport> State<T> {
    /// Starts a device; what it says of its disk.
    fn setup(&mut self, mut transport: T) -> core::result::Result<Properties, Error> {
        let has = negotiate(&mut transport, wanted())?;
        let config = |at| transport.read_config_space::<u32>(at);
        let sectors = u64::from(config(0)?) | u64::from(config(4)?) << 32;
        let size = sectors.checked_mul(SECTOR).filter(|size| *size <= i64::MAX as u64);
        let block_size = match has.contains(Features::BLOCK_SIZE) {
            true => config(20)?,
            false => SECTOR as u32,
        };
        let properties = Properties {
            size: size.ok_or(Error::InvalidParam)?,
            // Whatever a device says, the cache works with pages, and requests with sectors.
            block_size: match block_size {
                512 | 1024 | 2048 | 4096 => block_size,
                _ => SECTOR as u32,
            },
            read_only: has.contains(Features::BLOCK_READ_ONLY),
            can_discard: has.contains(Features::BLOCK_DISCARD),
            can_flush: has.contains(Features::BLOCK_FLUSH),
        };
        let queue = try_box(Queue::new(&mut transport, 0)?).map_err(|_| Error::DmaError)?;
        transport.finish_init();
        self.device = Some((transport, queue));
        (self.quiet, self.gone) = (false, false);
        Ok(properties)
    }

    /// Gives a request to the device, or back if there is no room for it.
    fn offer(&mut self, bio: Box<Bio>) -> core::result::Result<(), Box<Bio>> {
        let Some((transport, queue)) = self.device.as_mut().filter(|_| !self.quiet) else {
            return Err(bio);
        };
        if self.free == 0 {
            return Err(bio);
        }
        let frame = self.frames[self.free - 1];
        frame.fill(&bio);
        match queue.add(Transfer { frame, bio }) {
            Ok(()) => {
                self.free -= 1;
                queue.notify(transport);
                Ok(())
            }
            Err(transfer) => Err(transfer.bio),
        }
    }

    fn take_back(&mut self, transfer: Transfer) -> Box<Bio> {
        self.frames[self.free] = transfer.frame;
        self.free += 1;
        transfer.bio
    }

    /// A request that the device is done with, and how it ended.
    fn next_end(&mut self) -> core::result::Result<Option<End>, Broken> {
        let Some((_, queue)) = &mut self.device else { return Ok(None) };
        let Some((transfer, _)) = queue.pop()? else { return Ok(None) };
        let result = transfer.result();
        Ok(Some((self.take_back(transfer), result)))
    }

    fn in_flight(&self) -> usize {
        REQUESTS - self.free
    }
}

impl<T: Transport> Block<T> {
    /// Starts a device.
    pub fn try_new(transport: T) -> core::result::Result<(Box<Self>, Properties), Error> {
        let no_memory = |_| Error::DmaError;
        let page = alloc_page(AllocFlags::ZERO).map_err(no_memory)?;
        // SAFETY: within the page: see the assertion below.
        let frames = core::array::from_fn(|i| Frame(unsafe { page.as_ptr().add(i * FRAME) }));
        let state =
            State { device: None, frames, free: REQUESTS, quiet: false, gone: false, _page: page };
        let block = Self { state: IrqLock::new(state), changed: WaitQueue::new() };
        let block = try_box(block).map_err(no_memory)?;
        let properties = block.state.lock().setup(transport)?;
        Ok((block, properties))
    }

    /// Gives a request to the device; sleeps for room.
    fn ask(&self, bio: Box<Bio>) {
        let mut waiting = Some(bio);
        wait_event!(self.changed, {
            let mut state = self.state.lock();
            if state.gone {
                true
            } else if let Some(bio) = waiting.take() {
                waiting = state.offer(bio).err();
                waiting.is_none()
            } else {
                true
            }
        });
        if let Some(bio) = waiting {
            bio.end(Err(Errno::EIO));
        }
    }

    /// Ends the requests that the device is done with.
    fn service(&self) {
        if let Some((transport, _)) = &mut self.state.lock().device {
            transport.ack_interrupt();
        }
        loop {
            let end = self.state.lock().next_end();
            match end {
                Ok(None) => break,
                Ok(Some((bio, result))) => bio.end(result),
                Err(Broken) => {
                    kerr!("virtio block: the device broke the rules of its queue; it is given up");
                    self.give_up();
                    break;
                }
            }
        }
        self.changed.wake_all();
    }

    /// The device is no more: what it was asked fails.
    fn give_up(&self) {
        let mut queue = {
            let mut state = self.state.lock();
            state.gone = true;
            let Some((mut transport, queue)) = state.device.take() else { return };
            reset(&mut transport);
            queue
        };
        for transfer in queue.take_live() {
            let bio = self.state.lock().take_back(transfer);
            bio.end(Err(Errno::EIO));
        }
    }

    /// Waits for what the device has in hand and resets it; what it did not end in time stays with
    /// its queue for [`resume`](Self::resume).
    fn stop(&self) -> Option<Box<Requests>> {
        self.state.lock().quiet = true;
        let is_idle = || self.state.lock().in_flight() == 0;
        let _ = wait_event_timeout!(self.changed, is_idle(), Deadline::after(PATIENCE));
        let (mut transport, queue) = self.state.lock().device.take()?;
        reset(&mut transport);
        Some(queue)
    }

    /// Asks a device that was just started what the one before did not answer: reading and writing twice
    /// does no harm.
    fn resume(&self, left: &mut Requests) {
        for transfer in left.take_live() {
            let bio = self.state.lock().take_back(transfer);
            if let Err(bio) = self.state.lock().offer(bio) {
                bio.end(Err(Errno::EIO));
            }
        }
    }
}

const _: () = assert!(REQUESTS * FRAME <= crate::addr::PAGE_SIZE && HEADER + RANGE < FRAME);

/// A device of the board, and what the last one left undone.
pub struct Disk {
    block: Box<Block<Mmio>>,
    left: IrqLock<Option<Box<Requests>>>,
    size: u64,
}

/// Starts the driver of a block device.
pub(super) fn start(transport: Mmio) -> core::result::Result<&'static dyn Driver, Error> {
    let (block, properties) = Block::try_new(transport)?;
    let disk = Disk { block, left: IrqLock::new(None), size: properties.size };
    let disk: &'static Disk = Box::leak(try_box(disk).map_err(|_| Error::DmaError)?);
    block::register(disk, properties).map_err(|_| Error::Unsupported)?;
    Ok(disk)
}

impl block::Driver for Disk {
    fn submit(&self, bio: Box<Bio>) {
        self.block.ask(bio);
    }
}

impl Driver for Disk {
    fn interrupt(&self) {
        self.block.service();
    }

    fn quiesce(&self) {
        let left = self.block.stop();
        *self.left.lock() = left;
    }

    fn reinit(&self, transport: Option<Mmio>) {
        let started = transport.map(|transport| self.block.state.lock().setup(transport));
        let left = self.left.lock().take();
        match started {
            Some(Ok(found)) if found.size >= self.size => {}
            Some(Err(error)) => kerr!("virtio block: {error}"),
            Some(Ok(found)) => {
                kerr!("virtio block: the disk has {} bytes instead of {}", found.size, self.size);
                self.block.give_up();
            }
            None => kerr!("virtio block: the disk is gone"),
        }
        let gone = self.block.state.lock().device.is_none();
        self.block.state.lock().gone = gone;
        if let Some(mut left) = left {
            self.block.resume(&mut left);
        }
        self.block.changed.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::virtio::testing::{Device, Fake};
    use crate::fs::block::testing::{Ended, bio, ended};
    use crate::mm::testing::setup;
    use std::sync::{Arc, Mutex};
    use virtio_drivers::transport::DeviceType;

    fn started() -> (Arc<Mutex<Device>>, Box<Block<Fake>>) {
        setup();
        let features = Features::VERSION_1 | Features::BLOCK_FLUSH | Features::BLOCK_DISCARD;
        let mut config = vec![0; 64];
        config[..8].copy_from_slice(&8_u64.to_le_bytes());
        let device = Arc::new(Mutex::new(Device::new(features.bits(), config)));
        let (block, has) = Block::try_new(Fake(device.clone(), DeviceType::Block)).unwrap();
        assert_eq!(
            (has.size, has.block_size, has.can_flush, has.read_only),
            (4096, 512, true, false)
        );
        (device, block)
    }

    #[test]
    fn several_requests_are_in_flight_and_end_in_any_order() {
        let (device, block) = started();
        let ended: [Ended; 3] = [(); 3].map(|()| ended());
        for (i, (op, end)) in [Op::Read, Op::Write, Op::Discard].iter().zip(&ended).enumerate() {
            block.ask(bio(*op, i as u64, 512, end));
        }
        let mut device_side = device.lock().unwrap();
        let offers = [(); 3].map(|()| device_side.take(0).unwrap());
        assert_eq!(offers[0].read[..9], [0; 9]);
        assert_eq!((offers[1].read[0], offers[1].read[8], offers[1].read.len()), (1, 1, 16 + 512));
        assert_eq!((offers[2].read[0], offers[2].read[16], offers[2].read[24]), (11, 2, 1));
        device_side.give(0, &offers[2], &[STATUS_UNSUPPORTED]);
        device_side.give(0, &offers[1], &[1]);
        device_side.give(0, &offers[0], &[&[5; 512][..], &[STATUS_OK]].concat());
        drop(device_side);
        block.service();
        let results = ended.map(|end| end.lock().unwrap().take());
        assert_eq!(results, [Some(Ok(())), Some(Err(Errno::EIO)), Some(Err(Errno::EOPNOTSUPP))]);
    }

    #[test]
    fn a_device_that_breaks_the_rules_fails_what_it_was_asked() {
        for (id, len) in [(64, 1), (127, 0), (0, 100_000), (0xffff, 1)] {
            let (device, block) = started();
            let end = ended();
            block.ask(bio(Op::Flush, 0, 0, &end));
            device.lock().unwrap().give_raw(0, id, len);
            block.service();
            assert_eq!(*end.lock().unwrap(), Some(Err(Errno::EIO)));
            let end = ended();
            block.ask(bio(Op::Read, 0, 512, &end));
            assert_eq!(*end.lock().unwrap(), Some(Err(Errno::EIO)));
        }
    }

    #[test]
    fn a_status_that_was_never_written_is_an_error() {
        let (device, block) = started();
        let end = ended();
        block.ask(bio(Op::Flush, 0, 0, &end));
        let offer = device.lock().unwrap().take(0).unwrap();
        device.lock().unwrap().give(0, &offer, &[]);
        block.service();
        assert_eq!(*end.lock().unwrap(), Some(Err(Errno::EIO)));
    }

    #[test]
    fn what_one_device_did_not_answer_is_asked_of_the_next() {
        let (device, block) = started();
        let end = ended();
        block.ask(bio(Op::Write, 3, 512, &end));
        assert!(device.lock().unwrap().take(0).is_some());
        block.state.lock().quiet = true;
        let mut left = block.state.lock().device.take().map(|(_, queue)| queue).unwrap();
        let mut config = vec![0; 64];
        config[0] = 8;
        let second = Arc::new(Mutex::new(Device::new(Features::VERSION_1.bits(), config)));
        block.state.lock().setup(Fake(second.clone(), DeviceType::Block)).unwrap();
        block.resume(&mut left);
        let offer = second.lock().unwrap().take(0).unwrap();
        assert_eq!((offer.read[0], offer.read[8]), (1, 3));
        second.lock().unwrap().give(0, &offer, &[STATUS_OK]);
        block.service();
        assert_eq!(*end.lock().unwrap(), Some(Ok(())));
    }
}
