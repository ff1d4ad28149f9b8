//! The MMIO bus: which device answers at which guest physical address.
//!
//! It is built once, before the guest runs, and then shared by the vCPU threads: only the device that
//! is asked is locked. An access that no device covers whole reads as 0, is dropped if it writes, and
//! is counted.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::MmioDevice;

/// Two devices that want the same addresses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device at {new:#x} overlaps the one at {old:#x}")]
pub struct Overlap {
    /// Start of the later one.
    pub new: u64,
    /// Start of the one that was there.
    pub old: u64,
}

struct Slot {
    range: Range<u64>,
    device: Arc<Mutex<dyn MmioDevice>>,
}

/// The devices by address.
#[derive(Default)]
pub struct Bus {
    /// Sorted by address, disjoint.
    slots: Vec<Slot>,
    unclaimed: Arc<AtomicU64>,
}

impl Bus {
    /// Puts `device` at `range`.
    pub fn attach(
        &mut self,
        range: Range<u64>,
        device: Arc<Mutex<dyn MmioDevice>>,
    ) -> Result<(), Overlap> {
        let at = self.slots.partition_point(|slot| slot.range.start < range.start);
        let before = at.checked_sub(1).and_then(|before| self.slots.get(before));
        let near = [before, self.slots.get(at)].into_iter().flatten();
        for Slot { range: old, .. } in near {
            if old.start < range.end && range.start < old.end {
                return Err(Overlap { new: range.start, old: old.start });
            }
        }
        self.slots.insert(at, Slot { range, device });
        Ok(())
    }

    /// The guest reads at `address`.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0);
        self.access(address, data.len(), |device, offset| device.read(offset, data));
    }

    /// The guest writes at `address`.
    pub fn write(&self, address: u64, data: &[u8]) {
        self.access(address, data.len(), |device, offset| device.write(offset, data));
    }

    /// Counts the accesses that no device answered. It outlives the bus.
    pub fn unclaimed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.unclaimed)
    }

    fn access(&self, address: u64, length: usize, act: impl FnOnce(&mut dyn MmioDevice, u64)) {
        let after = self.slots.partition_point(|slot| slot.range.start <= address);
        let slot = after.checked_sub(1).and_then(|at| self.slots.get(at));
        let end = address.checked_add(length as u64);
        match slot.filter(|slot| end.is_some_and(|end| end <= slot.range.end)) {
            Some(slot) => {
                // Devices do not panic; if one did, its registers are still only registers.
                let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
                act(&mut *device, address - slot.range.start);
            }
            None => {
                self.unclaimed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as the offset, and remembers what was written.
    #[derive(Default)]
    struct Echo(Vec<(u64, Vec<u8>)>);

    impl MmioDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn bus() -> (Bus, Arc<Mutex<Echo>>) {
        let mut bus = Bus::default();
        let high = Arc::new(Mutex::new(Echo::default()));
        bus.attach(0x3000..0x4000, high.clone()).unwrap();
        bus.attach(0x1000..0x1200, Arc::new(Mutex::new(Echo::default()))).unwrap();
        bus.attach(0x1200..0x1400, Arc::new(Mutex::new(Echo::default()))).unwrap();
        (bus, high)
    }

    #[test]
    fn access_goes_to_the_device_that_covers_it() {
        let (bus, high) = bus();
        let mut data = [0xff; 4];
        bus.read(0x1204, &mut data);
        assert_eq!(data, [4; 4]);
        bus.write(0x3ff8, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(high.lock().unwrap().0, [(0xff8, vec![1, 2, 3, 4, 5, 6, 7, 8])]);
        assert_eq!(bus.unclaimed().load(Ordering::Relaxed), 0);
    }

    #[test]
    fn access_outside_or_across_an_edge_reads_as_zero_and_is_counted() {
        let (bus, high) = bus();
        for address in [0, 0xfff, 0x11ff, 0x13fd, 0x1400, 0x2ffe, 0x3ffd, 0x4000, u64::MAX] {
            let mut data = [0xff; 4];
            bus.read(address, &mut data);
            assert_eq!(data, [0; 4], "{address:#x}");
            bus.write(address, &data);
        }
        assert_eq!(bus.unclaimed().load(Ordering::Relaxed), 18);
        assert!(high.lock().unwrap().0.is_empty());
    }

    #[test]
    fn attach_refuses_an_overlap() {
        let (mut bus, _) = bus();
        for range in [0x0..0x1001, 0x1100..0x1101, 0x13ff..0x2000, 0x2000..0x5000] {
            let echo = Arc::new(Mutex::new(Echo::default()));
            assert!(bus.attach(range.clone(), echo).is_err(), "{range:x?}");
        }
        assert!(bus.attach(0x1400..0x3000, Arc::new(Mutex::new(Echo::default()))).is_ok());
    }
}
