//! Device numbers, and the registry of character devices.
//!
//! A driver registers a number, a name and what opening it gives; /dev shows a node for each name,
//! and any node of that number, in whichever file system, opens the device.

use alloc::boxed::Box;
use alloc::vec::Vec;

use belljar_abi::layout::{DescribeField, Kind, Tag};

use super::file::{FileOps, OpenFlags};
use super::{Inode, Path};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::Cred;
use crate::sync::SpinLock;

/// A device number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
#[repr(transparent)]
pub struct Dev(u32);

impl Dev {
    const MINOR_BITS: u32 = 20;

    /// The character device that stands for "nothing here" in the upper layer of a union mount. It is no
    /// device: anybody may make one.
    pub const WHITEOUT: Self = Self::new(0, 0);

    /// The number of `major` (12 bits) and `minor` (20 bits).
    pub const fn new(major: u32, minor: u32) -> Self {
        Self((major << Self::MINOR_BITS) | (minor & ((1 << Self::MINOR_BITS) - 1)))
    }

    /// Which driver.
    pub const fn major(self) -> u32 {
        self.0 >> Self::MINOR_BITS
    }

    /// Which of the driver's devices.
    pub const fn minor(self) -> u32 {
        self.0 & ((1 << Self::MINOR_BITS) - 1)
    }

    /// As stat(2) and mknod(2) write it: the low 8 bits of the minor, the major, the rest.
    pub const fn encode(self) -> u32 {
        let minor = self.minor();
        (minor & 0xff) | (self.major() << 8) | ((minor & !0xff) << 12)
    }

    /// The number that a program wrote.
    pub const fn decode(word: u32) -> Self {
        Self::new((word & 0xfff00) >> 8, (word & 0xff) | ((word >> 12) & 0xfff00))
    }
}

impl DescribeField for Dev {
    const KIND: Kind = Kind::plain(Tag::Uint, 4);
}

/// A character device.
pub trait CharDevice: Send + Sync {
    /// Opens the device with this number for whoever has `cred`.
    fn open(
        &self,
        dev: Dev,
        inode: &Ref<Inode>,
        path: &Path,
        flags: OpenFlags,
        cred: &Cred,
    ) -> Result<Box<dyn FileOps>>;
}

/// A registered device.
#[derive(Clone, Copy)]
pub struct CharDevEntry {
    /// Its number.
    pub dev: Dev,
    /// How many minors from there on it serves; a node is shown for the first only.
    pub count: u32,
    /// Name under /dev; empty if no node is to be shown.
    pub name: &'static str,
    /// Permission bits of the node.
    pub mode: u32,
    /// The driver.
    pub ops: &'static dyn CharDevice,
}

static CHRDEVS: SpinLock<Vec<CharDevEntry>> = SpinLock::new(Vec::new());

/// Makes a device known; called at boot.
pub fn register_chrdev(dev: Dev, name: &'static str, mode: u32, ops: &'static dyn CharDevice) {
    register_chrdev_region(CharDevEntry { dev, count: 1, name, mode, ops });
}

/// Makes a driver of several minors known.
pub fn register_chrdev_region(entry: CharDevEntry) {
    CHRDEVS.lock().push(entry);
}

/// The driver of `dev`; `ENXIO` if there is none (open(2)).
pub fn find_chrdev(dev: Dev) -> Result<&'static dyn CharDevice> {
    let known = CHRDEVS.lock();
    let serves = |e: &&CharDevEntry| {
        e.dev.major() == dev.major() && dev.minor().wrapping_sub(e.dev.minor()) < e.count
    };
    known.iter().find(serves).map(|e| e.ops).ok_or(Errno::ENXIO)
}

/// Registered device number `i`, for /dev and /proc/devices.
pub fn chrdev_at(i: usize) -> Option<CharDevEntry> {
    CHRDEVS.lock().get(i).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_encodes_as_makedev_does() {
        assert_eq!(Dev::new(1, 3).encode(), 0x103);
        assert_eq!(Dev::new(136, 0x1ff).encode(), 0x1088ff);
        for dev in [Dev::new(5, 2), Dev::new(0xfff, 0xfffff), Dev::new(136, 300)] {
            assert_eq!(Dev::decode(dev.encode()), dev);
        }
    }
}
