//! The entropy device (virtio 1.2, 5.4): it seeds the random number generator at boot, after a change of
//! machines and every few minutes, and is /dev/hwrng.
//!
//! One request is in flight at a time: for the generator, or for a reader, who takes its turn.

use alloc::boxed::Box;

use virtio_drivers::Error;
use virtio_drivers::transport::Transport;

use super::queue::{Broken, Chain, Queue, Request};
use super::{Driver, Features, Mmio, negotiate, reset};
use crate::drivers::random;
use crate::errno::{Errno, Result};
use crate::fs::{
    CharDevice, Dev, FMode, File, FileOps, Inode, OpenFlags, Path, UserBuf, register_chrdev,
};
use crate::kref::Ref;
use crate::mm::{AllocFlags, FrameRef, alloc_page, try_box};
use crate::ns::Cred;
use crate::sched::WaitQueue;
use crate::sched::workqueue::{DelayedWork, Work};
use crate::sync::{IrqLock, Mutex, Once};
use crate::{kerr, wait_event_killable};

/// Bytes that are asked for at a time.
const WANTED: usize = 64;
/// How long the generator goes without a new seed, in ns.
const RESEED_EVERY: u64 = 300 * 1_000_000_000;
/// /dev/hwrng (Linux, admin-guide/devices.txt).
const HWRNG: Dev = Dev::new(10, 183);

/// The memory of the one request.
struct Fill(FrameRef);

// SAFETY: the frame is the request's own, and the same each time.
unsafe impl Request<1> for Fill {
    fn chain(&self) -> Chain<1> {
        Chain::new().write(self.0.as_ptr(), WANTED)
    }
}

/// What becomes of the bytes that were asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Generator,
    Reader,
}

/// Where the one request is.
enum Stage {
    /// Nobody asked.
    Idle(Fill),
    /// The device has it.
    Asked(For),
    /// So many bytes came for the reader.
    Came(Fill, usize),
    /// It went with a device that broke the rules.
    Lost,
}

struct State<T> {
    device: Option<(T, Queue<Fill, 1, 1>)>,
    stage: Stage,
    /// The generator wants a seed when the request is free.
    seed_wanted: bool,
}

/// An entropy device.
pub struct Rng<T> {
    state: IrqLock<State<T>>,
    changed: WaitQueue,
    readers: Mutex<()>,
}

impl<T: Transport> State<T> {
    fn setup(&mut self, mut transport: T) -> Result<(), Error> {
        negotiate(&mut transport, Features::VERSION_1)?;
        let queue = Queue::new(&mut transport, 0)?;
        transport.finish_init();
        self.device = Some((transport, queue));
        self.seed_wanted = true;
        self.go_on();
        Ok(())
    }

    /// Asks the device, if it is free.
    fn ask(&mut self, whom: For) {
        let Some((transport, queue)) = &mut self.device else { return };
        self.stage = match core::mem::replace(&mut self.stage, Stage::Lost) {
            Stage::Idle(fill) => match queue.add(fill) {
                Ok(()) => {
                    queue.notify(transport);
                    Stage::Asked(whom)
                }
                Err(fill) => Stage::Idle(fill),
            },
            other => other,
        };
    }

    fn go_on(&mut self) {
        if self.seed_wanted {
            // What came for a reader who is gone is not kept from the generator.
            self.stage = match core::mem::replace(&mut self.stage, Stage::Lost) {
                Stage::Came(fill, _) => Stage::Idle(fill),
                other => other,
            };
            self.ask(For::Generator);
            self.seed_wanted = !matches!(self.stage, Stage::Asked(For::Generator));
        }
    }

    fn service(&mut self) {
        let Some((transport, queue)) = &mut self.device else { return };
        transport.ack_interrupt();
        match (queue.pop(), &self.stage) {
            (Ok(None), _) => {}
            (Ok(Some((fill, len))), Stage::Asked(For::Reader)) => {
                self.stage = Stage::Came(fill, len);
            }
            (Ok(Some((fill, len))), _) => {
                let mut bytes = [0; WANTED];
                fill.0.read(0, &mut bytes[..len]);
                fill.0.zero(0..len);
                random::seed_with(&bytes[..len]);
                self.stage = Stage::Idle(fill);
                self.go_on();
            }
            (Err(Broken), _) => {
                kerr!("virtio rng: the device broke the rules of its queue; it is given up");
                reset(transport);
                self.device = None;
                self.stage = Stage::Lost;
            }
        }
    }

    /// Takes the request back from a device that is no more; it is made again for the next.
    fn disconnect(&mut self) {
        if let Some((mut transport, mut queue)) = self.device.take() {
            reset(&mut transport);
            if let Stage::Asked(whom) = self.stage
                && let Some(fill) = queue.take_live().next()
            {
                self.stage = Stage::Idle(fill);
                self.seed_wanted |= whom == For::Generator;
            }
        }
    }
}

impl<T: Transport> Rng<T> {
    /// Starts a device, and asks it for a first seed.
    pub fn try_new(transport: T) -> Result<Box<Self>, Error> {
        let no_memory = |_| Error::DmaError;
        let page = alloc_page(AllocFlags::ZERO).map_err(no_memory)?;
        let stage = Stage::Idle(Fill(page));
        let rng = try_box(Self {
            state: IrqLock::new(State { device: None, stage, seed_wanted: false }),
            changed: WaitQueue::new(),
            readers: Mutex::new(()),
        });
        let rng = rng.map_err(no_memory)?;
        rng.state.lock().setup(transport)?;
        Ok(rng)
    }

    /// Asks for a new seed of the generator.
    pub fn reseed(&self) {
        let mut state = self.state.lock();
        state.seed_wanted = true;
        state.go_on();
    }

    /// Reads bytes of the device into `buf`; sleeps until it has some. `ENODEV` if it is gone.
    fn read(&self, buf: &mut [u8; WANTED]) -> Result<usize> {
        let _turn = self.readers.lock();
        loop {
            if let Some(result) = self.try_read(buf) {
                return result;
            }
            let is_asked = || matches!(self.state.lock().stage, Stage::Asked(_));
            wait_event_killable!(self.changed, !is_asked())?;
        }
    }

    /// One step of [`read`](Self::read): takes what came, or asks.
    fn try_read(&self, buf: &mut [u8; WANTED]) -> Option<Result<usize>> {
        let mut state = self.state.lock();
        match core::mem::replace(&mut state.stage, Stage::Lost) {
            Stage::Came(fill, len) => {
                fill.0.read(0, &mut buf[..len]);
                fill.0.zero(0..len);
                state.stage = Stage::Idle(fill);
                state.go_on();
                // A device with nothing to give is asked again.
                if len > 0 {
                    return Some(Ok(len));
                }
            }
            Stage::Lost => return Some(Err(Errno::ENODEV)),
            other => state.stage = other,
        }
        state.ask(For::Reader);
        None
    }
}

static DEVICE: Once<&'static Rng<Mmio>> = Once::new();
static RESEED: DelayedWork = DelayedWork::new(reseed_and_again);

fn reseed_and_again(_: &Work) {
    if let Some(device) = DEVICE.try_get() {
        device.reseed();
        RESEED.schedule(RESEED_EVERY);
    }
}

/// Starts the driver of the first entropy device.
pub(super) fn start(transport: Mmio) -> Result<&'static dyn Driver, Error> {
    if DEVICE.try_get().is_some() {
        return Err(Error::AlreadyUsed);
    }
    let device = *DEVICE.set(Box::leak(Rng::try_new(transport)?));
    register_chrdev(HWRNG, "hwrng", 0o600, &Node);
    RESEED.schedule(RESEED_EVERY);
    Ok(device)
}

impl Driver for Rng<Mmio> {
    fn interrupt(&self) {
        self.state.lock().service();
        self.changed.wake_all();
    }

    fn quiesce(&self) {
        self.state.lock().disconnect();
    }

    fn reinit(&self, transport: Option<Mmio>) {
        if let Some(transport) = transport
            && let Err(error) = self.state.lock().setup(transport)
        {
            kerr!("virtio rng: {error}");
        }
        self.changed.wake_all();
    }
}

/// /dev/hwrng.
struct Node;

impl CharDevice for Node {
    fn open(
        &self,
        _: Dev,
        _: &Ref<Inode>,
        _: &Path,
        flags: OpenFlags,
        _: &Cred,
    ) -> Result<Box<dyn FileOps>> {
        // As on Linux, it is for reading.
        if flags.writes() {
            return Err(Errno::EINVAL);
        }
        Ok(try_box(Node)?)
    }
}

impl FileOps for Node {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let device = DEVICE.try_get().ok_or(Errno::ENODEV)?;
        let mut done = 0;
        let mut bytes = [0; WANTED];
        while !buf.is_empty() {
            let came = match file.is_nonblocking() {
                true => device.try_read(&mut bytes).unwrap_or(Err(Errno::EAGAIN)),
                false => device.read(&mut bytes),
            };
            let put = came.and_then(|n| buf.put(&bytes[..n.min(buf.remaining())]));
            match put {
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::virtio::testing::{Device, Fake};
    use crate::mm::testing::setup;
    use std::sync::{Arc, Mutex as StdMutex};
    use virtio_drivers::transport::DeviceType;

    fn started() -> (Arc<StdMutex<Device>>, Box<Rng<Fake>>) {
        setup();
        let device = Device::new(Features::VERSION_1.bits(), vec![]);
        let device = Arc::new(StdMutex::new(device));
        let rng = Rng::try_new(Fake(device.clone(), DeviceType::EntropySource)).unwrap();
        (device, rng)
    }

    #[test]
    fn the_first_bytes_seed_the_generator_and_later_ones_are_the_readers() {
        let (device, rng) = started();
        let mut bytes = [0; WANTED];
        assert!(rng.try_read(&mut bytes).is_none(), "the seed comes first");
        let offer = device.lock().unwrap().take(0).unwrap();
        device.lock().unwrap().give(0, &offer, &[1; WANTED]);
        rng.state.lock().service();
        assert!(rng.try_read(&mut bytes).is_none(), "not the generator's bytes");
        let offer = device.lock().unwrap().take(0).unwrap();
        device.lock().unwrap().give(0, &offer, &[2; 10]);
        rng.state.lock().service();
        assert_eq!(rng.try_read(&mut bytes), Some(Ok(10)));
        assert_eq!(bytes[..11], [[2; 10].as_slice(), &[0]].concat());
    }

    #[test]
    fn a_device_that_breaks_the_rules_is_given_up() {
        for (id, len) in [(0, WANTED as u32 + 1), (1, 1), (9, 0)] {
            let (device, rng) = started();
            device.lock().unwrap().give_raw(0, id, len);
            rng.state.lock().service();
            assert_eq!(rng.try_read(&mut [0; WANTED]), Some(Err(Errno::ENODEV)));
            assert_eq!(device.lock().unwrap().status, 0);
        }
    }

    #[test]
    fn a_request_is_made_again_of_the_next_device() {
        let (first, rng) = started();
        assert!(first.lock().unwrap().take(0).is_some());
        rng.state.lock().disconnect();
        assert_eq!(first.lock().unwrap().status, 0);
        let second = Arc::new(StdMutex::new(Device::new(Features::VERSION_1.bits(), vec![])));
        let transport = Fake(second.clone(), DeviceType::EntropySource);
        rng.state.lock().setup(transport).unwrap();
        assert!(second.lock().unwrap().take(0).is_some());
    }
}
