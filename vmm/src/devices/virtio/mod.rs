//! Virtio devices for the machine that this process builds itself (on QEMU they are QEMU's own).
//!
//! A device is a small state machine behind [`VirtioDevice`]: it sees the requests of its driver as
//! [`Chain`]s of guest memory and its host side as file descriptors, and knows neither registers nor
//! event loops. [`MmioTransport`] is the register window in front of it, [`Subscriber`] what an
//! `event-manager` loop drives; both reach it through one [`Handle`].
//!
//! - [`chain`]: one request, checked. [`queue`]: the rings. [`signal`]: the interrupt.
//! - [`report`]: lines for the user.
//! - [`mmio`]: the registers and the life of a device. [`event`]: its place in the event loop.
//! - [`console`], [`block`], [`rng`], [`net`]: the devices.
//!
//! What holds: whatever the driver writes into registers, rings and buffers, nothing panics, blocks or
//! allocates by the driver's measure. A driver that breaks a queue's rules gets DEVICE_NEEDS_RESET, the
//! user one line, and the device works again after a reset. One call of a device does a bounded amount
//! of work, so no guest can keep the loop from the other devices.

pub mod block;
pub mod chain;
pub mod console;
pub mod event;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod report;
pub mod rng;
pub mod signal;
#[cfg(any(test, feature = "synthetic"))]
pub mod synthetic;
#[cfg(test)]
mod tests;

use std::os::fd::RawFd;

pub use block::Block;
pub use chain::{Buffers, Chain};
pub use console::{Console, Port};
pub use event::Subscriber;
pub use event_manager::EventSet;
pub use mmio::{Handle, MmioTransport, QUEUE_NOTIFY, WINDOW, transport};
pub use net::Net;
pub use queue::{Driver, Layout, Round, Served};
pub use report::Report;
pub use rng::Rng;
pub use signal::Counters;

/// The guest's RAM.
pub type Memory = vm_memory::GuestMemoryMmap<()>;

/// How a driver broke the rules of its queues.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// QueueNum is not usable.
    #[error("queue size {0} is not a power of two from 1 to {1}")]
    Size(u32, u16),
    /// The rings are not in RAM or not aligned.
    #[error(
        "rings outside RAM or not aligned: descriptors at {:#x}, available at {:#x}, used at {:#x}",
        .0.descriptors, .0.available, .0.used
    )]
    Rings(Layout),
    /// The rings hold nonsense.
    #[error("a broken ring: {0}")]
    Ring(String),
    /// A chain of descriptors breaks the rules.
    #[error("the chain at descriptor {head} {what}")]
    Chain {
        /// Its first descriptor.
        head: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// A request lacks its fixed parts.
    #[error("a request without room for its {0}")]
    Request(&'static str),
}

/// A virtio device, without its transport.
///
/// All calls come with the device locked: `kicked` and `host_ready` from the event loop, the others
/// from vCPU threads too. None may wait for anything but a disk.
pub trait VirtioDevice: Send {
    /// Device id (virtio 1.2, chapter 5).
    fn id(&self) -> u32;

    /// What messages to the user call it: "disk /srv/root.img".
    fn name(&self) -> &str;

    /// The device's own feature bits that it offers; the transport adds those of the queues.
    fn features(&self) -> u64;

    /// The largest size of each queue: powers of two.
    fn queues(&self) -> &[u16];

    /// The driver reads configuration space; what lies beyond it is 0. See [`read_config`].
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver says that it is ready.
    fn activate(&mut self, driver: &mut Driver);

    /// The driver may have made requests available, in any of the queues.
    fn kicked(&mut self, driver: &mut Driver) -> Result<(), Error>;

    /// The host-side descriptors, the same for the device's whole life.
    fn sources(&self) -> Vec<RawFd> {
        vec![]
    }

    /// What the device waits for at the source with this index; empty: nothing.
    fn interest(&self, _source: usize, _driver: &Driver) -> EventSet {
        EventSet::empty()
    }

    /// What the device waited for at a source has come.
    fn host_ready(&mut self, _source: usize, _driver: &mut Driver) -> Result<(), Error> {
        Ok(())
    }

    /// Whether output of the guest is still on its way: it must reach the host before the machine goes.
    fn has_output(&self, _driver: &Driver) -> bool {
        false
    }

    /// The driver let go of the device: forget everything it said.
    fn reset(&mut self);
}

/// Reads `data.len()` bytes at `offset` of a configuration space; what lies beyond `config` is 0.
pub fn read_config(config: &[u8], offset: u64, data: &mut [u8]) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(config.len());
    let count = data.len().min(config.len() - from);
    let (inside, beyond) = data.split_at_mut(count);
    inside.copy_from_slice(&config[from..from + count]);
    beyond.fill(0);
}
