//! Advisory locks of files: POSIX record locks (fcntl(2)) and whole-file locks (flock(2)).
//!
//! A record lock belongs to a descriptor table (a process), covers a range of bytes, and goes when any
//! descriptor of the file is closed there. An open file description lock (`F_OFD_SETLK`) is the same
//! with an open file as its owner. A flock belongs to an open file and covers all of it; the two kinds
//! do not see each other.
//!
//! Waiters for record locks of processes are listed in one place, so that a ring of processes waiting
//! for each other is found (`EDEADLK`).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use belljar_abi::Described;

use super::File;
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::sched::WaitQueue;
use crate::sync::{Once, SpinLock};
use crate::wait_event_interruptible;

/// Which kind of lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Described)]
#[repr(u32)]
pub enum LockKind {
    /// POSIX record lock.
    Posix = 0,
    /// Record lock of an open file.
    Ofd = 1,
    /// flock(2).
    Flock = 2,
}

impl LockKind {
    /// Kinds that exclude each other.
    fn sees(self, other: Self) -> bool {
        (self == Self::Flock) == (other == Self::Flock)
    }
}

/// A lock, or a request for one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Described)]
#[described(name = "FileLock")]
pub struct Lock {
    /// Which kind.
    pub kind: LockKind,
    /// The descriptor table or open file, by address.
    #[described(as = "hex")]
    pub owner: usize,
    /// The process that took it (`l_pid`).
    pub pid: i32,
    /// Excludes everybody else; otherwise only those who exclude.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte; `u64::MAX` is "to the end, however long the file gets".
    pub end: u64,
}

impl Lock {
    fn same_owner(&self, other: &Self) -> bool {
        self.kind == other.kind && self.owner == other.owner
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn conflicts(&self, other: &Self) -> bool {
        self.kind.sees(other.kind)
            && !self.same_owner(other)
            && self.overlaps(other)
            && (self.exclusive || other.exclusive)
    }
}

/// The locks on one file.
#[repr(C)]
#[derive(Default, Described)]
#[described(name = "FileLocks")]
struct Table {
    locks: SpinLock<Array<Lock>>,
    #[described(skip)]
    released: WaitQueue,
}

/// The locks of one inode; nothing is allocated before the first lock.
#[repr(C)]
#[derive(Described)]
pub struct InodeLocks {
    #[described(skip)]
    table: Once<Box<Table>>,
    /// The same, for who looks from outside; null before the first lock.
    #[described(as = "ptr FileLocks")]
    addr: AtomicPtr<Table>,
}

impl Default for InodeLocks {
    fn default() -> Self {
        Self::new()
    }
}

/// Who waits for whom, for finding rings: (waiter, holder).
static WAITING: SpinLock<Vec<(usize, usize)>> = SpinLock::new(Vec::new());

/// Longest ring of waiters that is looked for.
const MAX_RING: usize = 64;

/// Notes that `waiter` waits for `holder`; `EDEADLK` if `holder` already waits for `waiter`.
fn note_waiting(waiter: usize, holder: usize) -> Result<()> {
    let mut waiting = WAITING.lock();
    let mut at = holder;
    for _ in 0..MAX_RING {
        match waiting.iter().find(|(w, _)| *w == at) {
            Some((_, next)) if *next == waiter => return Err(Errno::EDEADLK),
            Some((_, next)) => at = *next,
            None => break,
        }
    }
    waiting.try_reserve(1).map_err(|_| Errno::ENOLCK)?;
    waiting.push((waiter, holder));
    Ok(())
}

fn forget_waiting(waiter: usize) {
    let mut waiting = WAITING.lock();
    if let Some(at) = waiting.iter().position(|(w, _)| *w == waiter) {
        waiting.swap_remove(at);
    }
}

impl Table {
    /// Takes the lock if nobody is in the way; else says who is. With `None` as `wanted` kind of
    /// access, gives the range back.
    fn try_set(&self, request: &Lock, unlock: bool) -> Result<Option<Lock>> {
        let mut locks = self.locks.lock();
        if !unlock && let Some(holder) = locks.iter().find(|l| request.conflicts(l)) {
            return Ok(Some(*holder));
        }
        // A request splits at most one lock in two, and adds one.
        locks.try_reserve(2).map_err(|_| Errno::ENOLCK)?;
        // From here on nothing needs memory.
        let mut new = *request;
        let mut i = 0;
        while i < locks.len() {
            let old = locks[i];
            if !old.same_owner(request) {
                i += 1;
                continue;
            }
            let touches =
                old.start <= new.end.saturating_add(1) && new.start <= old.end.saturating_add(1);
            if !unlock && old.exclusive == request.exclusive && touches {
                // Neighbours of one kind become one lock.
                new.start = new.start.min(old.start);
                new.end = new.end.max(old.end);
                locks.swap_remove(i);
                continue;
            }
            if !old.overlaps(request) {
                i += 1;
                continue;
            }
            // What the old lock has beyond the request stays.
            locks.swap_remove(i);
            if old.start < request.start {
                locks.try_push(Lock { end: request.start - 1, ..old })?;
            }
            if old.end > request.end {
                locks.try_push(Lock { start: request.end + 1, ..old })?;
            }
        }
        if !unlock {
            locks.try_push(new)?;
        }
        Ok(None)
    }

    fn release(&self, gone: impl Fn(&Lock) -> bool) {
        let any = {
            let mut locks = self.locks.lock();
            let before = locks.len();
            locks.retain(|l| !gone(l));
            locks.len() != before
        };
        if any {
            self.released.wake_all();
        }
    }
}

impl InodeLocks {
    /// No locks.
    pub const fn new() -> Self {
        Self { table: Once::new(), addr: AtomicPtr::new(ptr::null_mut()) }
    }

    fn table(&self) -> &Table {
        match self.table.try_get() {
            Some(table) => table,
            None => {
                let table = self.table.set(Box::default());
                self.addr.store(ptr::from_ref(&**table).cast_mut(), Ordering::Release);
                table
            }
        }
    }

    /// The first lock that is in the way of `request` (`F_GETLK`).
    pub fn test(&self, request: &Lock) -> Option<Lock> {
        let locks = self.table.try_get()?.locks.lock();
        locks.iter().filter(|l| request.conflicts(l)).min_by_key(|l| l.start).copied()
    }

    /// Takes a lock. If somebody is in the way, waits for them, or fails with `EAGAIN`.
    pub fn set(&self, request: &Lock, wait: bool) -> Result<()> {
        let table = self.table();
        loop {
            let Some(holder) = table.try_set(request, false)? else {
                // A shared lock in place of an exclusive one may let others in.
                if !request.exclusive {
                    table.released.wake_all();
                }
                return Ok(());
            };
            if !wait {
                return Err(Errno::EAGAIN);
            }
            let detect = request.kind == LockKind::Posix && holder.kind == LockKind::Posix;
            if detect {
                note_waiting(request.owner, holder.owner)?;
            }
            let free = || !table.locks.lock().contains(&holder);
            let result = wait_event_interruptible!(table.released, free());
            if detect {
                forget_waiting(request.owner);
            }
            result?;
        }
    }

    /// Gives the range of `request` back.
    pub fn unset(&self, request: &Lock) -> Result<()> {
        if let Some(table) = self.table.try_get() {
            table.try_set(request, true)?;
            table.released.wake_all();
        }
        Ok(())
    }

    /// Drops the record locks of a descriptor table.
    #[inline]
    pub fn release_owner(&self, owner: usize) {
        if let Some(table) = self.table.try_get() {
            table.release(|l| l.kind == LockKind::Posix && l.owner == owner);
        }
    }

    /// Drops the locks of an open file.
    #[inline]
    pub fn release_file(&self, file: &File) {
        if let Some(table) = self.table.try_get() {
            let owner = core::ptr::from_ref(file) as usize;
            table.release(|l| l.kind != LockKind::Posix && l.owner == owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owner: usize, exclusive: bool, start: u64, end: u64) -> Lock {
        Lock { kind: LockKind::Posix, owner, pid: 1, exclusive, start, end }
    }

    fn ranges(locks: &InodeLocks, owner: usize) -> Vec<(u64, u64, bool)> {
        let table = locks.table().locks.lock();
        let mut out: Vec<_> = table
            .iter()
            .filter(|l| l.owner == owner)
            .map(|l| (l.start, l.end, l.exclusive))
            .collect();
        out.sort_unstable();
        out
    }

    #[test]
    fn ranges_of_one_owner_merge_split_and_change_kind() {
        let locks = InodeLocks::new();
        locks.set(&lock(1, true, 0, 9), false).unwrap();
        locks.set(&lock(1, true, 10, 19), false).unwrap();
        assert_eq!(ranges(&locks, 1), [(0, 19, true)]);
        locks.set(&lock(1, false, 5, 6), false).unwrap();
        assert_eq!(ranges(&locks, 1), [(0, 4, true), (5, 6, false), (7, 19, true)]);
        locks.unset(&lock(1, true, 8, 100)).unwrap();
        assert_eq!(ranges(&locks, 1), [(0, 4, true), (5, 6, false), (7, 7, true)]);
        locks.unset(&lock(1, true, 0, u64::MAX)).unwrap();
        assert!(ranges(&locks, 1).is_empty());
    }

    #[test]
    fn shared_locks_live_together_and_exclusive_ones_do_not() {
        let locks = InodeLocks::new();
        locks.set(&lock(1, false, 0, 9), false).unwrap();
        locks.set(&lock(2, false, 5, 20), false).unwrap();
        assert_eq!(locks.set(&lock(3, true, 20, 20), false), Err(Errno::EAGAIN));
        assert_eq!(locks.test(&lock(3, true, 0, u64::MAX)).unwrap().owner, 1);
        locks.release_owner(2);
        locks.set(&lock(3, true, 10, 20), false).unwrap();
        assert_eq!(locks.test(&lock(1, false, 0, 9)), None);
    }

    #[test]
    fn flock_and_record_locks_do_not_see_each_other() {
        let locks = InodeLocks::new();
        locks.set(&lock(1, true, 0, u64::MAX), false).unwrap();
        let flock = |owner| Lock { kind: LockKind::Flock, ..lock(owner, true, 0, u64::MAX) };
        locks.set(&flock(2), false).unwrap();
        assert_eq!(locks.set(&flock(3), false), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_ring_of_waiters_is_a_deadlock() {
        note_waiting(101, 102).unwrap();
        note_waiting(102, 103).unwrap();
        assert_eq!(note_waiting(103, 101), Err(Errno::EDEADLK));
        forget_waiting(101);
        note_waiting(103, 101).unwrap();
        forget_waiting(102);
        forget_waiting(103);
    }
}
