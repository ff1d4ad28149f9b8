//! Who watches what: [`Watches`] of an inode, [`Watched`] of a file system.
//!
//! Whoever has something to tell goes through the watches of an inode one by one, without a lock, in the order
//! in which they were made: [`Watches::next`]. So telling may allocate, and let go of the last reference of
//! whatever it holds.

use core::cmp::Reverse;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::Events;
use super::inotify::Watch;
use crate::array::Array;
use crate::errno::Result;
use crate::kref::Ref;
use crate::ordmap::OrdMap;
use crate::sync::SpinLock;

/// All watches that there are.
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// True if anybody watches anything.
#[inline]
pub(super) fn anybody_watches() -> bool {
    WATCHES.load(Ordering::Relaxed) != 0
}

/// The watches of an inode.
#[derive(Default)]
pub struct Watches {
    /// The events that any of them is for. None while there is no watch.
    interest: AtomicU32,
    /// In the order of their serial numbers.
    list: SpinLock<Array<Ref<Watch>>>,
}

impl Watches {
    /// None.
    pub const fn new() -> Self {
        Self { interest: AtomicU32::new(0), list: SpinLock::new(Array::new()) }
    }

    #[inline]
    fn interest(&self) -> Events {
        Events::from_bits_truncate(self.interest.load(Ordering::Relaxed))
    }

    /// True if there is none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.interest().is_empty()
    }

    /// True if one of them is for one of `events`; that it happened to a directory is none by itself.
    #[inline]
    pub(super) fn want(&self, events: Events) -> bool {
        self.interest().intersects(events - Events::ISDIR)
    }

    /// The one that `which` picks.
    pub(super) fn find(&self, which: impl Fn(&Watch) -> bool) -> Option<Ref<Watch>> {
        self.list.lock().iter().find(|watch| which(watch)).cloned()
    }

    /// Adds one. Of two sets that begin to watch the inode at the same time, the one whose watch was made first may come
    /// second.
    pub(super) fn add(&self, watch: Ref<Watch>) -> Result<()> {
        let mut list = self.list.lock();
        let at = list.partition_point(|other| other.serial() < watch.serial());
        list.try_insert(at, watch)?;
        self.count(&list);
        drop(list);
        WATCHES.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes one off, if it is there.
    pub(super) fn remove(&self, watch: &Watch) {
        let mut list = self.list.lock();
        let Ok(at) = list.binary_search_by_key(&watch.serial(), |other| other.serial()) else {
            return;
        };
        let removed = list.remove(at);
        self.count(&list);
        drop(list);
        WATCHES.fetch_sub(1, Ordering::Relaxed);
        drop(removed);
    }

    /// Takes one off, whichever.
    pub(super) fn pop(&self) -> Option<Ref<Watch>> {
        let mut list = self.list.lock();
        let removed = list.pop()?;
        self.count(&list);
        WATCHES.fetch_sub(1, Ordering::Relaxed);
        Some(removed)
    }

    /// The one that was made next after the one with the number `serial`.
    pub(super) fn next(&self, serial: u64) -> Option<Ref<Watch>> {
        let list = self.list.lock();
        list.get(list.partition_point(|watch| watch.serial() <= serial)).cloned()
    }

    /// One of them is for other events than before.
    pub(super) fn changed(&self) {
        self.count(&self.list.lock());
    }

    fn count(&self, list: &[Ref<Watch>]) {
        let interest = list.iter().fold(Events::empty(), |all, watch| all | watch.events());
        self.interest.store(interest.bits(), Ordering::Release);
    }
}

/// An inode's number, the highest first, and a watch's.
type Key = (Reverse<u64>, u64);

/// The watches of all inodes of a file system.
#[derive(Default)]
pub struct Watched {
    watches: SpinLock<OrdMap<Key, Ref<Watch>>>,
    len: AtomicUsize,
}

fn key_of(watch: &Watch) -> Key {
    (Reverse(watch.inode().ino), watch.serial())
}

impl Watched {
    /// True if nothing of it is watched.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }

    /// Adds one.
    pub(super) fn add(&self, watch: &Ref<Watch>) -> Result<()> {
        let mut watches = self.watches.lock();
        watches.try_insert(key_of(watch), watch.clone())?;
        self.len.store(watches.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes one off, if it is there.
    pub(super) fn remove(&self, watch: &Watch) {
        let mut watches = self.watches.lock();
        let removed = watches.remove(&key_of(watch));
        self.len.store(watches.len(), Ordering::Relaxed);
        drop(watches);
        drop(removed);
    }

    /// One of the inode that was made last, as its number says.
    pub(super) fn newest(&self) -> Option<Ref<Watch>> {
        self.watches.lock().first_key_value().map(|(_, watch)| watch.clone())
    }

    /// That of the inode `ino` which was made next after the one with the number `serial`. Where inodes come and go
    /// with the cache, several may have had that number.
    pub(super) fn next(&self, ino: u64, serial: u64) -> Option<Ref<Watch>> {
        let from = (Reverse(ino), serial.checked_add(1)?);
        let watches = self.watches.lock();
        let (key, watch) = watches.range_from(&from).next()?;
        (key.0 == Reverse(ino)).then(|| watch.clone())
    }
}
