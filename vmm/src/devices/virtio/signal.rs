//! What a device tells its driver through the transport: "look at the used rings", "the
//! configuration changed". Lock-free, so that a vCPU in its interrupt handler never waits for a device
//! that is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};

use crate::devices::Interrupt;

/// The interrupt of one device: its status register, its configuration's generation and its line.
pub struct Signal {
    status: AtomicU32,
    generation: AtomicU32,
    line: Arc<dyn Interrupt>,
}

impl Signal {
    /// Nothing to tell yet.
    pub fn new(line: Arc<dyn Interrupt>) -> Self {
        Self { status: AtomicU32::new(0), generation: AtomicU32::new(0), line }
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
