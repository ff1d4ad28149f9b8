//! What a device tells its driver through the transport: "look at the used rings", "the
//! configuration changed". Lock-free, so that a vCPU in its interrupt handler never waits for a device
//! that is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};

use crate::devices::Interrupt;

/// What is counted of a device.
#[derive(Debug, Default)]
pub struct Counters {
    /// It was told to look at its queues, by its driver or by itself.
    pub notifications: AtomicU64,
    /// Requests done.
    pub requests: AtomicU64,
    /// Interrupts raised.
    pub interrupts: AtomicU64,
}

/// The interrupt of one device: its status register, its configuration's generation and its line.
pub struct Signal {
    status: AtomicU32,
    generation: AtomicU32,
    line: Arc<dyn Interrupt>,
    counters: Arc<Counters>,
}

impl Signal {
    /// Nothing to tell yet.
    pub fn new(line: Arc<dyn Interrupt>) -> Self {
        let (status, generation) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { status, generation, line, counters: Arc::default() }
    }

    /// What is counted of the device.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// A request is done; the driver hears of it with [`Signal::used`].
    pub fn done(&self) {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// The device has used buffers.
    pub fn used(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// The device's configuration, or its status, changed by the device's own doing.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    fn raise(&self, bit: u32) {
        // The line is an edge: it is raised even if the bit is set, for a driver that has read the
        // register already and not yet acknowledged it.
        self.status.fetch_or(bit, Ordering::Release);
        self.counters.interrupts.fetch_add(1, Ordering::Relaxed);
        self.line.trigger();
    }

    /// InterruptStatus.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// InterruptACK.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// ConfigGeneration.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// The device was reset: nothing is left to tell.
    pub fn clear(&self) {
        self.status.store(0, Ordering::Release);
    }
}
