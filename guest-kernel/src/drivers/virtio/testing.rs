//! A device made by hand for tests: it sees what a driver puts into its queues, and may answer anything.

use std::sync::{Arc, Mutex};
use std::vec::Vec;

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr as DeviceAddr, Result};

use crate::addr::PhysAddr;
use crate::arch::phys_to_virt;

/// Descriptor flags (virtio 1.2, 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;

#[derive(Clone, Copy, Default)]
struct Ring {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    seen: u16,
}

/// The device's side.
#[derive(Default)]
#[allow(missing_docs, reason = "named as in the standard")]
pub struct Device {
    pub features: u64,
    pub accepted: u64,
    pub config: Vec<u8>,
    pub status: u32,
    pub notified: Vec<u16>,
    rings: Vec<Ring>,
}

/// One buffer that the driver offered.
#[derive(Debug, PartialEq, Eq)]
pub struct Offer {
    head: u16,
    /// What the driver put into it.
    pub read: Vec<u8>,
    write: Vec<(u64, u32)>,
}

fn get<T: Copy>(at: u64) -> T {
    // SAFETY: the driver says that its ring or buffer lies there, in the test machine's RAM.
    unsafe { phys_to_virt(PhysAddr(at)).cast::<T>().read_unaligned() }
}

fn set<T>(at: u64, value: T) {
    // SAFETY: as above.
    unsafe { phys_to_virt(PhysAddr(at)).cast::<T>().write_unaligned(value) }
}

impl Device {
    /// A device with these features and this configuration.
    pub fn new(features: u64, config: Vec<u8>) -> Self {
        Self { features, config, ..Self::default() }
    }

    /// Takes the next buffer of a queue.
    pub fn take(&mut self, queue: usize) -> Option<Offer> {
        let ring = self.rings.get_mut(queue)?;
        if ring.size == 0 || get::<u16>(ring.available + 2) == ring.seen {
            return None;
        }
        let head = get::<u16>(ring.available + 4 + u64::from(ring.seen % ring.size) * 2);
        ring.seen = ring.seen.wrapping_add(1);
        let mut offer = Offer { head, read: Vec::new(), write: Vec::new() };
        let mut index = head;
        loop {
            let at = ring.descriptors + u64::from(index) * 16;
            let (addr, len): (u64, u32) = (get(at), get(at + 8));
            let flags = get::<u16>(at + 12);
            match flags & WRITE {
                0 => offer.read.extend((0..u64::from(len)).map(|i| get::<u8>(addr + i))),
                _ => offer.write.push((addr, len)),
            }
            if flags & NEXT == 0 {
                return Some(offer);
            }
            index = get(at + 14);
        }
    }

    /// Gives a buffer back with `bytes` in it.
    pub fn give(&mut self, queue: usize, offer: &Offer, bytes: &[u8]) {
        let mut bytes = bytes.iter();
        let mut written = 0;
        for (addr, len) in &offer.write {
            for (i, byte) in (0..u64::from(*len)).zip(bytes.by_ref()) {
                set(addr + i, *byte);
                written += 1;
            }
        }
        self.give_raw(queue, u32::from(offer.head), written);
    }

    /// Puts anything into the used ring.
    pub fn give_raw(&mut self, queue: usize, id: u32, len: u32) {
        let ring = &self.rings[queue];
        let index = get::<u16>(ring.used + 2);
        let at = ring.used + 4 + u64::from(index % ring.size) * 8;
        set(at, id);
        set(at + 4, len);
        set(ring.used + 2, index.wrapping_add(1));
    }

    /// Whether the driver wants no interrupts for a queue.
    pub fn is_quiet(&self, queue: usize) -> bool {
        get::<u16>(self.rings[queue].available) & 1 != 0
    }
}

/// The transport to it.
pub struct Fake(pub Arc<Mutex<Device>>, pub DeviceType);

impl Fake {
    fn device(&self) -> std::sync::MutexGuard<'_, Device> {
        self.0.lock().unwrap()
    }
}

impl Transport for Fake {
    fn device_type(&self) -> DeviceType {
        self.1
    }
    fn read_device_features(&mut self) -> u64 {
        self.device().features
    }
    fn write_driver_features(&mut self, features: u64) {
        self.device().accepted = features;
    }
    fn max_queue_size(&mut self, _: u16) -> u32 {
        256
    }
    fn notify(&mut self, queue: u16) {
        self.device().notified.push(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.device().status)
    }
    fn set_status(&mut self, status: DeviceStatus) {
        let mut device = self.device();
        device.status = status.bits();
        if status.is_empty() {
            device.rings.clear();
        }
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, queue: u16, size: u32, d: DeviceAddr, a: DeviceAddr, u: DeviceAddr) {
        let mut device = self.device();
        let at = usize::from(queue);
        if device.rings.len() <= at {
            device.rings.resize(at + 1, Ring::default());
        }
        let size = size as u16;
        device.rings[at] = Ring { size, descriptors: d, available: a, used: u, seen: 0 };
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, _: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::QUEUE_INTERRUPT
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        offset: usize,
    ) -> Result<T> {
        let device = self.device();
        let bytes = device.config.get(offset..offset + size_of::<T>());
        bytes
            .and_then(|bytes| T::read_from_bytes(bytes).ok())
            .ok_or(virtio_drivers::Error::ConfigSpaceTooSmall)
    }
    fn write_config_space<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &mut self,
        _: usize,
        _: T,
    ) -> Result<()> {
        Ok(())
    }
}
