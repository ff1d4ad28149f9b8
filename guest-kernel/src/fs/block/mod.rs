//! Block devices: disks, the requests that their drivers serve, and their nodes /dev/NAME.
//!
//! | module | what it is |
//! | --- | --- |
//! | this one | [`Disk`], [`Bio`], [`Driver`], the list of all disks |
//! | [`cache`] | a disk's pages in memory: reading ahead, writing back |
//! | [`file`] | what an open disk does: read, write, seek, sync, ioctl |
//! | `fifo` | queues of pages |
//!
//! A driver takes a [`Bio`] and returns at once; the bio's end comes in its interrupt. So as many are on
//! their way as the device takes.

pub mod cache;
mod fifo;
pub mod file;
#[cfg(test)]
mod tests;

/// Requests for the tests of drivers.
#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::mm::{AllocFlags, alloc_page};
    use std::sync::{Arc, Mutex as HostMutex};

    /// How a request ended, if it did.
    pub type Ended = Arc<HostMutex<Option<Result<()>>>>;

    /// Not ended.
    pub fn ended() -> Ended {
        Ended::default()
    }

    /// A request whose end is kept.
    pub fn bio(op: Op, sector: u64, bytes: u64, ended: &Ended) -> Box<Bio> {
        struct Nothing;
        impl Driver for Nothing {
            fn submit(&self, _: Box<Bio>) {}
        }
        fn end(bio: Box<Bio>, result: Result<()>) {
            // SAFETY: `bio` below leaked a reference for this.
            let ended = unsafe { Arc::from_raw(bio.done.cast::<HostMutex<Option<Result<()>>>>()) };
            *ended.lock().unwrap() = Some(result);
        }
        static DISK: Disk = Disk::new(
            *b"vdx",
            Dev::new(MAJOR, 0),
            &Nothing,
            Properties {
                size: 0,
                block_size: 512,
                read_only: false,
                can_discard: true,
                can_flush: true,
            },
        );
        let mut bio = Bio::new(&DISK, op, sector, end).unwrap();
        bio.bytes = bytes;
        bio.done = Arc::into_raw(ended.clone()).cast();
        if matches!(op, Op::Read | Op::Write) {
            bio.pages[0] = Some(alloc_page(AllocFlags::ZERO).unwrap());
        }
        bio
    }
}

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::mm::{FrameRef, try_box};
use crate::sched::Completion;
use crate::sync::{Mutex, SpinLock};

use super::Dev;
use cache::Cache;

/// Bytes of a sector: what requests count in, whatever the device's own blocks are.
pub const SECTOR: u64 = 512;
/// The most pages of one request.
pub const MAX_PAGES: usize = 32;
/// Major number of virtio disks: the first of those that are given out as needed.
pub const MAJOR: u32 = 254;
/// Minor numbers of a disk: itself, and partitions.
const MINORS: u32 = 16;
/// Names end at /dev/vdz.
const MAX_DISKS: usize = 26;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fill the pages.
    Read,
    /// Store the pages.
    Write,
    /// Make stored what was written before.
    Flush,
    /// The sectors are not needed any more.
    Discard,
}

/// A request.
pub struct Bio {
    /// What it asks for.
    pub op: Op,
    /// Where it starts, in sectors.
    pub sector: u64,
    /// How many bytes: of the pages, from the start of the first, or of what is discarded.
    pub bytes: u64,
    /// The pages.
    pages: [Option<FrameRef>; MAX_PAGES],
    disk: &'static Disk,
    end: fn(Box<Bio>, Result<()>),
    done: *const Done,
}

// SAFETY: `done` points to what its maker keeps alive and shares only through atomics and locks.
unsafe impl Send for Bio {}

/// What somebody waits for who sleeps until a request has ended.
struct Done {
    completion: Completion,
    result: SpinLock<Result<()>>,
}

impl Bio {
    fn new(
        disk: &'static Disk,
        op: Op,
        sector: u64,
        end: fn(Box<Self>, Result<()>),
    ) -> Result<Box<Self>> {
        let pages = [const { None }; MAX_PAGES];
        try_box(Self { op, sector, bytes: 0, pages, disk, end, done: core::ptr::null() })
    }

    /// The pages.
    pub fn pages(&self) -> impl Iterator<Item = &FrameRef> {
        self.pages.iter().flatten()
    }

    /// Each page's address and how much of it counts.
    pub fn pieces(&self) -> impl Iterator<Item = (*mut u8, usize)> + '_ {
        let bytes = self.bytes as usize;
        self.pages().enumerate().map(move |(i, page)| {
            (page.as_ptr(), bytes.saturating_sub(i * PAGE_SIZE).min(PAGE_SIZE))
        })
    }

    /// The driver is done with it. Interrupts may be off.
    pub fn end(self: Box<Self>, result: Result<()>) {
        (self.end)(self, result);
    }
}

/// What serves the requests of a disk.
pub trait Driver: Send + Sync {
    /// Starts a request, which ends by [`Bio::end`]. May sleep for room in the device's queue.
    fn submit(&self, bio: Box<Bio>);
}

/// A disk.
pub struct Disk {
    name: [u8; 3],
    /// Its number.
    pub dev: Dev,
    /// Its size in bytes, a multiple of [`SECTOR`].
    pub size: u64,
    /// Bytes of its own blocks.
    pub block_size: u32,
    /// The device knows what discarding is.
    pub can_discard: bool,
    /// The device has a cache of its own, which must be flushed.
    pub can_flush: bool,
    read_only: AtomicBool,
    driver: &'static dyn Driver,
    cache: Cache,
    opens: Mutex<u32>,
}

/// What a driver says of its disk.
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    /// Bytes, a multiple of [`SECTOR`].
    pub size: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// It cannot be written.
    pub read_only: bool,
    /// See [`Disk::can_discard`].
    pub can_discard: bool,
    /// See [`Disk::can_flush`].
    pub can_flush: bool,
}

static DISKS: SpinLock<Vec<&'static Disk>> = SpinLock::new(Vec::new());

/// Makes a disk known as /dev/vda, /dev/vdb and so on; boot does it before /dev is first mounted.
pub fn register(driver: &'static dyn Driver, has: Properties) -> Result<&'static Disk> {
    let mut disks = DISKS.lock();
    let index = disks.len();
    if index >= MAX_DISKS {
        return Err(Errno::ENOSPC);
    }
    disks.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    let name = [b'v', b'd', b'a' + index as u8];
    let dev = Dev::new(MAJOR, index as u32 * MINORS);
    let disk: &'static Disk = Box::leak(try_box(Disk::new(name, dev, driver, has))?);
    crate::mm::set_shrinker(cache::shrink_all);
    disks.push(disk);
    Ok(disk)
}

/// Disk number `i`.
pub fn disk_at(i: usize) -> Option<&'static Disk> {
    DISKS.lock().get(i).copied()
}

/// All disks.
pub fn disks() -> impl Iterator<Item = &'static Disk> {
    (0..).map_while(disk_at)
}

/// The disk of a number; `ENXIO` if there is none (open(2)).
pub fn find(dev: Dev) -> Result<&'static Disk> {
    disks().find(|disk| disk.dev == dev).ok_or(Errno::ENXIO)
}

/// Writes everything back (sync(2)).
pub fn sync_all() {
    for disk in disks() {
        // Who asked for data to be stored learns of errors from fsync(2).
        let _ = disk.sync();
    }
}

impl Disk {
    const fn new(name: [u8; 3], dev: Dev, driver: &'static dyn Driver, has: Properties) -> Self {
        Self {
            name,
            dev,
            size: has.size,
            block_size: has.block_size,
            can_discard: has.can_discard,
            can_flush: has.can_flush,
            read_only: AtomicBool::new(has.read_only),
            driver,
            cache: Cache::new(),
            opens: Mutex::new(0),
        }
    }

    /// Its name under /dev.
    pub fn name(&self) -> &str {
        core::str::from_utf8(&self.name).unwrap_or("")
    }

    /// True if it must not be written.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Starts a request and sleeps until it has ended.
    fn run(&'static self, op: Op, sector: u64, bytes: u64) -> Result<()> {
        fn end(bio: Box<Bio>, result: Result<()>) {
            // SAFETY: `run` waits for the completion, and does not return before.
            let done = unsafe { &*bio.done };
            *done.result.lock() = result;
            drop(bio);
            done.completion.complete();
        }
        let done = Done { completion: Completion::new(), result: SpinLock::new(Ok(())) };
        let mut bio = Bio::new(self, op, sector, end)?;
        bio.bytes = bytes;
        bio.done = &raw const done;
        self.driver.submit(bio);
        done.completion.wait();
        *done.result.lock()
    }

    /// Writes back what was changed and has the device store it.
    pub fn sync(&'static self) -> Result<()> {
        self.write_back_all()?;
        if self.can_flush { self.run(Op::Flush, 0, 0) } else { Ok(()) }
    }

    /// Tells the device that bytes are not needed any more; what is read there afterwards is undefined.
    pub fn discard(&'static self, start: u64, len: u64) -> Result<()> {
        /// What one request may be, so that none takes long.
        const STEP: u64 = 32 << 20;
        if !self.can_discard {
            return Err(Errno::EOPNOTSUPP);
        }
        self.write_back_all()?;
        let end = start + len;
        let mut at = start;
        while at < end {
            let bytes = (end - at).min(STEP);
            self.run(Op::Discard, at / SECTOR, bytes)?;
            at += bytes;
        }
        self.forget(start, end);
        Ok(())
    }
}
