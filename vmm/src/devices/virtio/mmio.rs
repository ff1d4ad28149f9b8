//! The virtio-mmio transport, version 2 (virtio 1.2, 4.2): the register window of one device.
//!
//! [`transport`] makes the window ([`MmioTransport`], which the bus gives the vCPU's accesses to) and a
//! [`Handle`] for the event loop. Both share one lock around the device and its state; what an interrupt
//! handler touches (InterruptStatus, InterruptACK) and QueueNotify go past it.
//!
//! Status transitions, each refused unless the one before it was made (virtio 1.2, 3.1.1):
//!
//! ```text
//! 0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK      any -> 0 (reset), FAILED
//!      features:      ^ written here  ^ frozen: queues are set up here
//! ```
//!
//! FEATURES_OK stays clear if the driver accepts a feature that was not offered, or not VERSION_1. A
//! broken queue sets DEVICE_NEEDS_RESET: the device then does nothing until it is reset.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS,
    VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY,
    VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW,
    VIRTIO_MMIO_SHM_BASE_HIGH, VIRTIO_MMIO_SHM_BASE_LOW, VIRTIO_MMIO_SHM_LEN_HIGH,
    VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::VirtQueue;
use super::signal::Signal;
use super::{Counters, Driver, Error, EventSet, Layout, Memory, Report, Subscriber, VirtioDevice};
use crate::devices::{Interrupt, MmioDevice};

/// Bytes of one window, configuration space included: what QEMU's `virt` board gives each.
pub const WINDOW: u64 = 0x200;
/// Where in the window an ioeventfd belongs: four bytes wide, for any value.
pub const QUEUE_NOTIFY: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "BJAR".
const VENDOR: u32 = u32::from_le_bytes(*b"BJAR");
/// What the transport itself offers beside the device.
const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// Puts `device` behind a register window.
pub fn transport(
    device: Box<dyn VirtioDevice>,
    memory: Memory,
    line: Arc<dyn Interrupt>,
    report: Report,
) -> io::Result<(MmioTransport, Handle)> {
    let signal = Arc::new(Signal::new(line));
    let layouts = device.queues().iter().map(|&max| reset_layout(max)).collect::<Vec<_>>();
    let queues = layouts.iter().map(|_| None).collect();
    let driver = Driver { queues, memory, signal: signal.clone(), features: 0, again: false };
    let core = Core { device, driver, layouts, status: 0, report };
    let kick = EventFd::new(EFD_NONBLOCK)?;
    let (core, ending) = (Mutex::new(core), AtomicBool::new(false));
    let handle = Handle { shared: Arc::new(Shared { signal, kick, ending, core }) };
    Ok((MmioTransport { handle: handle.clone(), select: Select::default() }, handle))
}

fn reset_layout(max: u16) -> Layout {
    Layout { size: max.into(), ..Layout::default() }
}

struct Shared {
    signal: Arc<Signal>,
    kick: EventFd,
    /// The machine has ended; the device has been told to look at its queues once more.
    ending: AtomicBool,
    core: Mutex<Core>,
}

/// A device on its transport, for the event loop.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// What the driver's notifications signal: to be read by the loop, and to be made an ioeventfd at
    /// [`QUEUE_NOTIFY`], for any value.
    pub fn kick(&self) -> &EventFd {
        &self.shared.kick
    }

    /// What is counted of the device. It outlives the device.
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.signal.counters()
    }

    /// The device's place in an event loop. One for each device.
    pub fn subscriber(&self) -> Subscriber {
        Subscriber::new(self.clone())
    }

    /// For a machine whose CPUs have stopped for good: whether all that the guest gave the device has
    /// reached the host. The loop runs on until it has.
    pub fn is_drained(&self) -> bool {
        if !self.shared.ending.swap(true, Ordering::AcqRel) {
            // What the guest made available last it may not have notified.
            self.wake();
            return false;
        }
        let core = self.lock();
        !core.runs() || !core.device.has_output(&core.driver)
    }

    /// The driver may have made requests available.
    pub(super) fn kicked(&self) {
        self.serve(|device, driver| device.kicked(driver));
    }

    /// Something came at a host-side source.
    pub(super) fn host_ready(&self, source: usize) {
        self.serve(|device, driver| device.host_ready(source, driver));
    }

    /// The host-side descriptors, and what the device waits for now.
    pub(super) fn interests(&self) -> Vec<(std::os::fd::RawFd, EventSet)> {
        let core = self.lock();
        let interest = |source| match core.runs() {
            true => core.device.interest(source, &core.driver),
            false => EventSet::empty(),
        };
        let sources = core.device.sources().into_iter().enumerate();
        sources.map(|(source, fd)| (fd, interest(source))).collect()
    }

    /// Says a line to the user.
    pub(super) fn report(&self, what: &str) {
        let core = self.lock();
        core.report.line(core.device.name(), what);
    }

    fn serve(&self, call: impl FnOnce(&mut dyn VirtioDevice, &mut Driver) -> Result<(), Error>) {
        let mut core = self.lock();
        let core = &mut *core;
        if !core.runs() {
            return;
        }
        if let Err(error) = call(&mut *core.device, &mut core.driver) {
            core.broken(&error);
        }
        if std::mem::take(&mut core.driver.again) {
            self.wake();
        }
    }

    /// Has the loop look at the device again.
    fn wake(&self) {
        // It fails only if the counter is at its end, and then the loop is awake already.
        let _ = self.shared.kick.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.shared.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything behind the lock.
struct Core {
    device: Box<dyn VirtioDevice>,
    driver: Driver,
    layouts: Vec<Layout>,
    status: u32,
    report: Report,
}

impl Core {
    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    /// Whether the device may look at its queues.
    fn runs(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
            && !self.has(VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)
    }

    fn offered(&self) -> u64 {
        self.device.features() | RING_FEATURES
    }

    /// The driver broke a queue: stop until it resets the device (2.1.2).
    fn broken(&mut self, error: &Error) {
        if !self.has(VIRTIO_CONFIG_S_NEEDS_RESET) {
            let what = format_args!("the guest's driver broke a queue: {error}");
            self.report.line(self.device.name(), what);
        }
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        if self.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            self.driver.config_changed();
        }
    }

    fn reset(&mut self) {
        self.status = 0;
        self.driver.features = 0;
        self.driver.again = false;
        self.driver.queues.iter_mut().for_each(|queue| *queue = None);
        let maxima = self.device.queues().iter();
        self.layouts.iter_mut().zip(maxima).for_each(|(at, &max)| *at = reset_layout(max));
        self.driver.signal.clear();
        self.device.reset();
    }

    /// The driver writes Status.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        // Bits stay set until the reset (2.1.1), and each needs the one before it.
        let mut before = true;
        for bit in [
            VIRTIO_CONFIG_S_ACKNOWLEDGE,
            VIRTIO_CONFIG_S_DRIVER,
            VIRTIO_CONFIG_S_FEATURES_OK,
            VIRTIO_CONFIG_S_DRIVER_OK,
        ] {
            if value & bit != 0 && !self.has(bit) && before {
                self.enter(bit);
            }
            before = self.has(bit);
        }
        self.status |= value & VIRTIO_CONFIG_S_FAILED;
    }

    fn enter(&mut self, bit: u32) {
        match bit {
            VIRTIO_CONFIG_S_FEATURES_OK => {
                let accepted = self.driver.features;
                if accepted & !self.offered() != 0 || !self.driver.has(VIRTIO_F_VERSION_1) {
                    return;
                }
            }
            VIRTIO_CONFIG_S_DRIVER_OK => self.device.activate(&mut self.driver),
            _ => {}
        }
        self.status |= bit;
    }

    /// Whether the driver is at the point where it says which features it accepts.
    fn negotiates(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER) && !self.has(VIRTIO_CONFIG_S_FEATURES_OK)
    }

    /// The registers of a queue, if the driver may write them now.
    fn layout(&mut self, queue: u32) -> Option<&mut Layout> {
        let queue = queue as usize;
        let open = self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.ready(queue);
        self.layouts.get_mut(queue).filter(|_| open)
    }

    fn ready(&self, queue: usize) -> bool {
        self.driver.queues.get(queue).is_some_and(Option::is_some)
    }

    fn write_ready(&mut self, queue: u32, value: u32) {
        if value & 1 == 0 {
            // The driver takes its queue back; the next one starts afresh.
            if let Some(slot) = self.driver.queues.get_mut(queue as usize) {
                *slot = None;
            }
            return;
        }
        let Some(&mut layout) = self.layout(queue) else { return };
        let event_idx = self.driver.has(VIRTIO_RING_F_EVENT_IDX);
        let max = self.device.queues()[queue as usize];
        match VirtQueue::new(max, layout, event_idx, &self.driver.memory) {
            Ok(made) => self.driver.queues[queue as usize] = Some(made),
            Err(error) => self.broken(&error),
        }
    }
}

/// The selector registers.
#[derive(Default)]
struct Select {
    device_features: u32,
    driver_features: u32,
    queue: u32,
}

/// The register window.
pub struct MmioTransport {
    handle: Handle,
    select: Select,
}

impl MmioTransport {
    fn read_register(&self, offset: u32) -> u32 {
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let shared = &self.handle.shared;
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_INTERRUPT_STATUS => shared.signal.status(),
            VIRTIO_MMIO_CONFIG_GENERATION => shared.signal.generation(),
            // No shared memory region exists: its length is -1 (4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => {
                let core = self.handle.lock();
                let queue = self.select.queue as usize;
                match offset {
                    VIRTIO_MMIO_DEVICE_ID => core.device.id(),
                    VIRTIO_MMIO_DEVICE_FEATURES => {
                        half(core.offered(), self.select.device_features)
                    }
                    VIRTIO_MMIO_QUEUE_NUM_MAX => {
                        core.device.queues().get(queue).copied().unwrap_or(0).into()
                    }
                    VIRTIO_MMIO_QUEUE_READY => core.ready(queue).into(),
                    VIRTIO_MMIO_STATUS => core.status,
                    _ => 0,
                }
            }
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        let select = &mut self.select;
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => select.device_features = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => select.driver_features = value,
            VIRTIO_MMIO_QUEUE_SEL => select.queue = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => self.handle.wake(),
            VIRTIO_MMIO_INTERRUPT_ACK => self.handle.shared.signal.acknowledge(value),
            _ => {
                let queue = select.queue;
                let mut core = self.handle.lock();
                match offset {
                    VIRTIO_MMIO_DRIVER_FEATURES if core.negotiates() => {
                        let features = &mut core.driver.features;
                        match select.driver_features {
                            0 => set_low(features, value),
                            1 => set_high(features, value),
                            // Bits that no device offers.
                            _ => {}
                        }
                    }
                    VIRTIO_MMIO_QUEUE_NUM
                    | VIRTIO_MMIO_QUEUE_DESC_LOW
                    | VIRTIO_MMIO_QUEUE_DESC_HIGH
                    | VIRTIO_MMIO_QUEUE_AVAIL_LOW
                    | VIRTIO_MMIO_QUEUE_AVAIL_HIGH
                    | VIRTIO_MMIO_QUEUE_USED_LOW
                    | VIRTIO_MMIO_QUEUE_USED_HIGH => {
                        let Some(layout) = core.layout(queue) else { return };
                        match offset {
                            VIRTIO_MMIO_QUEUE_NUM => layout.size = value,
                            VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut layout.descriptors, value),
                            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut layout.descriptors, value),
                            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut layout.available, value),
                            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut layout.available, value),
                            VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut layout.used, value),
                            _ => set_high(&mut layout.used, value),
                        }
                    }
                    VIRTIO_MMIO_QUEUE_READY => core.write_ready(queue, value),
                    VIRTIO_MMIO_STATUS => {
                        let reset = value == 0;
                        core.write_status(value);
                        drop(core);
                        if reset {
                            self.select = Select::default();
                        }
                        // What the device waits for on the host's side may have changed.
                        self.handle.wake();
                    }
                    _ => {}
                }
            }
        }
    }
}

fn set_low(register: &mut u64, value: u32) {
    *register = *register & !0xffff_ffff | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = *register & 0xffff_ffff | u64::from(value) << 32;
}

impl MmioDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            self.handle.lock().device.read_config(offset, data);
        } else if offset.is_multiple_of(4)
            && let Ok(data) = <&mut [u8; 4]>::try_from(data)
        {
            // 4.2.2.2: control registers are read and written 32 bits at a time.
            *data = self.read_register(offset as u32).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // No device here has configuration that its driver writes.
        if offset < VIRTIO_MMIO_CONFIG.into()
            && offset.is_multiple_of(4)
            && let Ok(data) = <[u8; 4]>::try_from(data)
        {
            self.write_register(offset as u32, u32::from_le_bytes(data));
        }
    }
}
