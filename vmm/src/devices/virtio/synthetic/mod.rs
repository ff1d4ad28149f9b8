//! A made-up guest in front of a device, for tests and the fuzzer: a driver that can keep every rule or
//! break any, and a real event loop behind the device.

pub mod fuzz;
pub mod ring;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, SubscriberOps};
use virtio_bindings::{virtio_config, virtio_mmio};
use vm_memory::{Bytes, GuestAddress};

use super::{Handle, Memory, MmioTransport, Report, Subscriber, VirtioDevice, transport};
use crate::devices::{Interrupt, MmioDevice};
pub use ring::{Buffer, Ring};

/// Where the guest's RAM starts, and how much it is.
pub const BASE: u64 = 0x4000_0000;
/// See [`BASE`].
pub const SIZE: usize = 4 << 20;
/// Where buffers may lie: behind the rings.
pub const DATA: u64 = BASE + 0x10_0000;

/// Counts its edges.
#[derive(Default)]
pub struct Line(AtomicU32);

impl Interrupt for Line {
    fn trigger(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A guest with one device.
pub struct Guest {
    /// Its RAM.
    pub memory: Memory,
    /// The device's register window.
    pub mmio: MmioTransport,
    /// The device itself.
    pub handle: Handle,
    /// Its interrupt.
    pub line: Arc<Line>,
    said: Arc<Mutex<Vec<String>>>,
    events: EventManager<Subscriber>,
    queues: Vec<u16>,
}

impl Guest {
    /// A guest whose device is what `make` makes.
    pub fn new(make: impl FnOnce(Report) -> Box<dyn VirtioDevice>) -> Self {
        let memory = Memory::from_ranges(&[(GuestAddress(BASE), SIZE)]).expect("memory");
        let line = Arc::new(Line::default());
        let said = Arc::new(Mutex::new(vec![]));
        let ear = said.clone();
        let report = Report::new(move |line: &str| ear.lock().unwrap().push(line.to_owned()));
        let device = make(report.clone());
        let queues = device.queues().to_vec();
        let (mmio, handle) =
            transport(device, memory.clone(), line.clone(), report).expect("a transport");
        let mut events = EventManager::new().expect("an event loop");
        events.add_subscriber(handle.subscriber());
        Self { memory, mmio, handle, line, said, events, queues }
    }

    /// Reads a control register.
    pub fn read(&mut self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.mmio.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a control register.
    pub fn write(&mut self, register: u32, value: u32) {
        self.mmio.write(register.into(), &value.to_le_bytes());
    }

    /// Sets bits of the status register beside those that are set; says what it then holds.
    pub fn advance(&mut self, bits: u32) -> u32 {
        let status = self.read(virtio_mmio::VIRTIO_MMIO_STATUS);
        self.write(virtio_mmio::VIRTIO_MMIO_STATUS, status | bits);
        self.read(virtio_mmio::VIRTIO_MMIO_STATUS)
    }

    /// What the device offers.
    pub fn offered(&mut self) -> u64 {
        let mut half = |select| {
            self.write(virtio_mmio::VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
            u64::from(self.read(virtio_mmio::VIRTIO_MMIO_DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// Resets the device and negotiates `features`; says whether it agreed.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.write(virtio_mmio::VIRTIO_MMIO_STATUS, 0);
        self.advance(virtio_config::VIRTIO_CONFIG_S_ACKNOWLEDGE);
        self.advance(virtio_config::VIRTIO_CONFIG_S_DRIVER);
        for (select, half) in [features as u32, (features >> 32) as u32].into_iter().enumerate() {
            self.write(virtio_mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select as u32);
            self.write(virtio_mmio::VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
        let agreed = virtio_config::VIRTIO_CONFIG_S_FEATURES_OK;
        self.advance(agreed) & agreed != 0
    }

    /// Brings the device up as its driver does, with all that it offers except `without`, and every
    /// queue of up to `size` entries.
    pub fn start(&mut self, without: u64, size: u16) -> Vec<Ring> {
        let features = self.offered() & !without;
        assert!(self.negotiate(features), "the device takes what it offered");
        let event_idx = features & 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX != 0;
        let sizes = self.queues.clone();
        let rings = sizes.into_iter().enumerate().map(|(queue, max)| {
            let ring = Ring::new(queue, size.min(max), event_idx, &self.memory);
            self.set_up(&ring);
            assert_eq!(self.read(virtio_mmio::VIRTIO_MMIO_QUEUE_READY), 1, "queue {queue}");
            ring
        });
        let rings = rings.collect();
        self.advance(virtio_config::VIRTIO_CONFIG_S_DRIVER_OK);
        self.turn();
        rings
    }

    /// Writes a queue's registers and makes it ready.
    pub fn set_up(&mut self, ring: &Ring) {
        self.write(virtio_mmio::VIRTIO_MMIO_QUEUE_SEL, ring.queue as u32);
        self.write(virtio_mmio::VIRTIO_MMIO_QUEUE_NUM, ring.size.into());
        for (low, address) in [
            (virtio_mmio::VIRTIO_MMIO_QUEUE_DESC_LOW, ring.descriptors()),
            (virtio_mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW, ring.available()),
            (virtio_mmio::VIRTIO_MMIO_QUEUE_USED_LOW, ring.used_ring()),
        ] {
            self.write(low, address as u32);
            self.write(low + 4, (address >> 32) as u32);
        }
        self.write(virtio_mmio::VIRTIO_MMIO_QUEUE_READY, 1);
    }

    /// Notifies the device, as a driver does after it made requests available, and lets it work.
    pub fn kick(&mut self, ring: &Ring) {
        self.write(virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY, ring.queue as u32);
        self.turn();
    }

    /// Runs the event loop until it has nothing to do; says how many events there were.
    ///
    /// # Panics
    ///
    /// If the loop never comes to rest: that is what a wedged VMM looks like.
    pub fn turn(&mut self) -> usize {
        let mut total = 0;
        for _ in 0..10_000 {
            match self.events.run_with_timeout(0).expect("the event loop") {
                0 => return total,
                count => total += count,
            }
        }
        panic!("the event loop does not come to rest");
    }

    /// How often the interrupt was raised since the last call.
    pub fn edges(&self) -> u32 {
        self.line.0.swap(0, Ordering::SeqCst)
    }

    /// What the user was told since the last call.
    pub fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.said.lock().unwrap())
    }

    /// Whether the device asks to be reset.
    pub fn needs_reset(&mut self) -> bool {
        let status = self.read(virtio_mmio::VIRTIO_MMIO_STATUS);
        status & virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET != 0
    }

    /// Puts bytes into the guest's memory.
    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).expect("RAM");
    }

    /// Gets bytes from the guest's memory.
    pub fn get(&self, address: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).expect("RAM");
        bytes
    }
}
