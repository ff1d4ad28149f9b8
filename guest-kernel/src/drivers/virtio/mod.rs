//! Devices of the virtual machine: virtio over MMIO registers (virtio 1.2, 4.2).
//!
//! Every transport that the device tree names is asked what stands behind it, and each device found gets
//! its driver and its interrupt; nothing is polled. Queue and transport come from the crate
//! `virtio-drivers`; [`queue::Queue`] makes them safe against what a device may write.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`hal`], [`queue`] | memory that devices see, and queues that own the requests in them |
//! | [`console`] | ports: the terminal /dev/hvc0, and the one named `org.belljar.control` |
//! | [`control`] | that port, for kernel threads |
//! | [`rng`], [`blk`], [`net`] | entropy, disks, network cards |
//!
//! A machine may be taken out of its devices and put into others: [`quiesce`] resets every device, and
//! [`reinit`] binds the same drivers to the devices that are found then ([`resume`]: to the same). Whoever waits goes on waiting
//! across the two.

pub mod blk;
pub mod console;
pub mod control;
pub mod hal;
pub mod net;
pub mod queue;
pub mod rng;
#[cfg(test)]
mod testing;

use alloc::vec::Vec;
use core::ptr::NonNull;

use virtio_drivers::Error;
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};

use super::fdt;
use super::irq;
use crate::addr::PhysAddr;
use crate::arch::{self, phys_to_virt};
use crate::kwarn;
use crate::net::dev::Place;
use crate::sync::{IrqGuard, IrqLock};

/// A transport of the board.
pub type Mmio = MmioTransport<'static>;

/// The driver of one device.
pub trait Driver: Send + Sync {
    /// The device interrupts. Interrupts are off.
    fn interrupt(&self);
    /// Lets the device finish what it has in hand, within reason, and resets it. May sleep.
    fn quiesce(&self);
    /// Goes on with a fresh device, or with none, whose users then get errors.
    fn reinit(&self, transport: Option<Mmio>);
}

/// A device that has its driver.
#[derive(Clone, Copy)]
struct Bound {
    kind: DeviceType,
    /// Address of its registers.
    registers: u64,
    irq: u32,
    driver: &'static dyn Driver,
}

static BOUND: IrqLock<Vec<Bound>> = IrqLock::new(Vec::new());

/// Transports that a board has at most.
const TRANSPORT_COUNT: usize = 32;
/// All transports of the machine.
static TRANSPORTS: IrqLock<fdt::Few<fdt::Device, TRANSPORT_COUNT>> = IrqLock::new(fdt::Few::new());

/// What stands behind a transport, if anything that a driver of ours is for.
fn probe(device: &fdt::Device) -> Option<Mmio> {
    let header = NonNull::new(phys_to_virt(PhysAddr(device.registers.start)))?.cast();
    // SAFETY: the device tree says that a transport's registers lie there; the linear map covers them,
    // and each is used by one driver, which lets go of its transport before another is made.
    let transport = unsafe { MmioTransport::new(header, device.registers.len() as usize) };
    // An empty transport has device number 0.
    transport.ok()
}

/// Finds all devices and starts their drivers. Boot order calls it once, when interrupts can be
/// registered.
pub fn init(devices: &[fdt::Device]) {
    remember(devices);
    for device in devices {
        let Some(transport) = probe(device) else { continue };
        let kind = transport.device_type();
        let start = match kind {
            DeviceType::Console => console::start,
            DeviceType::EntropySource => rng::start,
            DeviceType::Block => blk::start,
            DeviceType::Network => net::start,
            _ => continue,
        };
        // A device may interrupt as soon as it runs: not before its driver is known.
        let _irqs_off = IrqGuard::new();
        listen(device);
        match start(transport) {
            Ok(driver) => {
                let (registers, irq) = (device.registers.start, device.irq);
                BOUND.lock().push(Bound { kind, registers, irq, driver });
            }
            Err(error) => kwarn!("virtio: {kind:?} at {:#x}: {error}", device.registers.start),
        }
    }
}

fn remember(devices: &[fdt::Device]) {
    let mut transports = TRANSPORTS.lock();
    *transports = fdt::Few::default();
    devices.iter().for_each(|device| transports.push(*device));
}

/// Lets a device's interrupt through. Before the device runs: the edge of one that came earlier would be
/// missed.
fn listen(device: &fdt::Device) {
    irq::register(device.irq, interrupt);
    arch::irq::set_edge_triggered(device.irq, device.edge);
    arch::irq::enable(device.irq);
}

fn interrupt(irq: u32) {
    let driver = BOUND.lock().iter().find(|bound| bound.irq == irq).map(|bound| bound.driver);
    if let Some(driver) = driver {
        driver.interrupt();
    }
}

/// Where the device of a driver is; `None` before it is known.
fn place_of(driver: &dyn Driver) -> Option<Place> {
    let is_its = |bound: &Bound| core::ptr::addr_eq(bound.driver, driver);
    let bound = BOUND.lock();
    let number = bound.iter().position(is_its)?;
    Some(Place { registers: bound[number].registers, number })
}

/// Where the network card at `number`, or the first one behind, is.
pub fn next_card(number: usize) -> Option<Place> {
    let bound = BOUND.lock();
    let mut cards = bound.iter().enumerate().skip(number);
    let (number, card) = cards.find(|(_, bound)| bound.kind == DeviceType::Network)?;
    Some(Place { registers: card.registers, number })
}

/// Lets every device finish what it has in hand and resets it: from here on no device touches memory or
/// interrupts. Called by a task, with interrupts on; whoever makes requests meanwhile waits.
pub fn quiesce() {
    for i in 0.. {
        let Some(bound) = BOUND.lock().get(i).copied() else { break };
        bound.driver.quiesce();
        arch::irq::disable(bound.irq);
    }
}

/// Goes on after [`quiesce`] with the same devices.
pub fn resume() {
    let devices = *TRANSPORTS.lock();
    reinit(devices.as_slice());
}

/// Goes on after [`quiesce`] with the devices that are there now: drivers and devices are matched by kind
/// and, within a kind, by the order of the tree. The interrupt controller is up; interrupts may be masked.
pub fn reinit(devices: &[fdt::Device]) {
    remember(devices);
    let mut found = [None; TRANSPORT_COUNT];
    for (slot, device) in found.iter_mut().zip(devices) {
        *slot = probe(device).map(|transport| transport.device_type());
    }
    for i in 0.. {
        let Some(Bound { kind, driver, .. }) = BOUND.lock().get(i).copied() else { break };
        let fresh = devices.iter().zip(&mut found).find(|(_, slot)| **slot == Some(kind));
        let _irqs_off = IrqGuard::new();
        let transport = fresh.and_then(|(device, slot)| {
            *slot = None;
            {
                let bound = &mut BOUND.lock()[i];
                (bound.registers, bound.irq) = (device.registers.start, device.irq);
            }
            listen(device);
            probe(device)
        });
        driver.reinit(transport);
    }
}

/// Resets a device and waits until it is (virtio 1.2, 4.2.2.1).
fn reset<T: Transport>(transport: &mut T) {
    transport.set_status(DeviceStatus::empty());
    while !transport.get_status().is_empty() {
        arch::cpu_relax();
    }
}

/// Agrees on features (virtio 1.2, 3.1.1, steps 1 to 6).
fn negotiate<T: Transport>(transport: &mut T, wanted: Features) -> Result<Features, Error> {
    let agreed = transport.begin_init(wanted);
    match transport.get_status().contains(DeviceStatus::FEATURES_OK) {
        true => Ok(agreed),
        false => Err(Error::Unsupported),
    }
}

bitflags::bitflags! {
    /// Feature bits: those of all devices, and those of each kind that a driver here uses. Bits of
    /// different kinds overlap.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Console: the configuration holds the terminal's size.
        const CONSOLE_SIZE = 1 << 0;
        /// Console: several ports, and the control queues.
        const CONSOLE_MULTIPORT = 1 << 1;
        /// Network: the configuration holds the largest packet.
        const NET_MTU = 1 << 3;
        /// Network: the configuration holds the card's address.
        const NET_MAC = 1 << 5;
        /// Network: the configuration says whether there is a link.
        const NET_STATUS = 1 << 16;
        /// Block: it cannot be written.
        const BLOCK_READ_ONLY = 1 << 5;
        /// Block: the configuration holds the size of its blocks.
        const BLOCK_SIZE = 1 << 6;
        /// Block: it has a cache that can be flushed.
        const BLOCK_FLUSH = 1 << 9;
        /// Block: it can be told what is not needed.
        const BLOCK_DISCARD = 1 << 13;
        /// The device follows the standard.
        const VERSION_1 = 1 << 32;
    }
}
