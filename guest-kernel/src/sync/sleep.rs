//! Locks that sleep: [`Mutex`] and [`RwLock`], one word each beside their data.
//!
//! Taking and letting go of a free lock is one atomic instruction and calls nothing. Only contention
//! calls the scheduler, through two functions that it defines (`park`, `unpark`): it keeps the waiters,
//! hashed by the word's address. So a floor below the scheduler (memory) may use these locks, and so
//! may boot and host tests.
//!
//! They are for code that may sleep: not in interrupts, not while a spin lock is held.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

unsafe extern "Rust" {
    /// Sleeps until `unpark` of the same word and kind, unless `word` is not `expected`.
    safe fn park(word: &AtomicU32, expected: u32, kind: u32);
    /// Wakes up to `n` sleepers of the word and kind; clears `flag` in the word if no such sleeper is
    /// left. Says how many it woke.
    safe fn unpark(word: &AtomicU32, kind: u32, n: usize, flag: u32) -> usize;
}

const LOCKED: u32 = 1;
const WAITERS: u32 = 2;

/// A lock that sleeps: one holder at a time.
#[repr(C)]
#[derive(Default)]
pub struct Mutex<T> {
    word: AtomicU32,
    data: UnsafeCell<T>,
}

// SAFETY: the lock gives one context at a time access to the data.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// Offset of the data, for the layout note.
    pub const DATA_OFFSET: usize = core::mem::offset_of!(Self, data);

    /// An unlocked lock.
    pub const fn new(data: T) -> Self {
        Self { word: AtomicU32::new(0), data: UnsafeCell::new(data) }
    }

    /// Takes the lock, sleeping while another holds it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if self.word.compare_exchange(0, LOCKED, Acquire, Relaxed).is_err() {
            self.lock_contended();
        }
        MutexGuard { lock: self, _not_send: PhantomData }
    }

    #[cold]
    fn lock_contended(&self) {
        loop {
            let word = self.word.load(Relaxed);
            if word & LOCKED == 0 {
                if self.word.compare_exchange(word, word | LOCKED, Acquire, Relaxed).is_ok() {
                    return;
                }
            } else if word & WAITERS != 0
                || self.word.compare_exchange(word, word | WAITERS, Relaxed, Relaxed).is_ok()
            {
                park(&self.word, LOCKED | WAITERS, 0);
            }
        }
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let free = |word: u32| (word & LOCKED == 0).then_some(word | LOCKED);
        let taken = self.word.fetch_update(Acquire, Relaxed, free).is_ok();
        taken.then(|| MutexGuard { lock: self, _not_send: PhantomData })
    }

    /// True if somebody holds it; only a hint.
    pub fn is_locked(&self) -> bool {
        self.word.load(Relaxed) & LOCKED != 0
    }

    /// The data, for whoever owns the lock itself.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    /// The data out of the lock.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }

    #[inline]
    fn unlock(&self) {
        if self.word.fetch_and(!LOCKED, Release) & WAITERS != 0 {
            unpark(&self.word, 0, 1, WAITERS);
        }
    }
}

/// Access to the data of a [`Mutex`] while it is held.
pub struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
    _not_send: PhantomData<*const ()>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.unlock();
    }
}

const WRITER: u32 = 1;
const WRITERS_WAIT: u32 = 2;
const READERS_WAIT: u32 = 4;
const READER: u32 = 8;
const KIND_WRITER: u32 = 1;
const KIND_READER: u32 = 2;

/// A lock that sleeps: many readers or one writer. A waiting writer keeps new readers out, so a reader
/// must not take it a second time.
#[repr(C)]
#[derive(Default)]
pub struct RwLock<T> {
    word: AtomicU32,
    data: UnsafeCell<T>,
}

// SAFETY: the lock gives one writer, or any number of readers, access to the data.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: as above; readers on several CPUs share `&T`.
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    /// Offset of the data, for the layout note.
    pub const DATA_OFFSET: usize = core::mem::offset_of!(Self, data);

    /// An unlocked lock.
    pub const fn new(data: T) -> Self {
        Self { word: AtomicU32::new(0), data: UnsafeCell::new(data) }
    }

    /// Takes the lock for reading.
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let word = self.word.load(Relaxed);
        if word & (WRITER | WRITERS_WAIT) != 0
            || self.word.compare_exchange(word, word + READER, Acquire, Relaxed).is_err()
        {
            self.read_contended();
        }
        RwLockReadGuard { lock: self, _not_send: PhantomData }
    }

    #[cold]
    fn read_contended(&self) {
        loop {
            let word = self.word.load(Relaxed);
            if word & (WRITER | WRITERS_WAIT) == 0 {
                if self.word.compare_exchange(word, word + READER, Acquire, Relaxed).is_ok() {
                    return;
                }
            } else if word & READERS_WAIT != 0
                || self.word.compare_exchange(word, word | READERS_WAIT, Relaxed, Relaxed).is_ok()
            {
                park(&self.word, word | READERS_WAIT, KIND_READER);
            }
        }
    }

    /// Takes the lock for reading if no writer holds it or waits.
    #[inline]
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        let free = |word: u32| (word & (WRITER | WRITERS_WAIT) == 0).then_some(word + READER);
        let taken = self.word.fetch_update(Acquire, Relaxed, free).is_ok();
        taken.then(|| RwLockReadGuard { lock: self, _not_send: PhantomData })
    }

    /// Takes the lock for writing.
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        if self.word.compare_exchange(0, WRITER, Acquire, Relaxed).is_err() {
            self.write_contended();
        }
        RwLockWriteGuard { lock: self, _not_send: PhantomData }
    }

    #[cold]
    fn write_contended(&self) {
        loop {
            let word = self.word.load(Relaxed);
            if word & WRITER == 0 && word < READER {
                if self.word.compare_exchange(word, word | WRITER, Acquire, Relaxed).is_ok() {
                    return;
                }
            } else if word & WRITERS_WAIT != 0
                || self.word.compare_exchange(word, word | WRITERS_WAIT, Relaxed, Relaxed).is_ok()
            {
                park(&self.word, word | WRITERS_WAIT, KIND_WRITER);
            }
        }
    }

    /// Takes the lock for writing if nobody holds it.
    #[inline]
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        let free = |word: u32| (word & WRITER == 0 && word < READER).then_some(word | WRITER);
        let taken = self.word.fetch_update(Acquire, Relaxed, free).is_ok();
        taken.then(|| RwLockWriteGuard { lock: self, _not_send: PhantomData })
    }

    /// True if a writer holds it; only a hint.
    pub fn is_write_locked(&self) -> bool {
        self.word.load(Relaxed) & WRITER != 0
    }

    /// The data, for whoever owns the lock itself.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    /// The data without the lock, for code that holds it by other means.
    pub const fn data_ptr(&self) -> *mut T {
        self.data.get()
    }

    #[inline]
    fn unlock_read(&self) {
        let word = self.word.fetch_sub(READER, Release) - READER;
        if word < READER && word & (WRITERS_WAIT | READERS_WAIT) != 0 {
            self.wake(word);
        }
    }

    #[inline]
    fn unlock_write(&self) {
        let word = self.word.fetch_and(!WRITER, Release);
        if word & (WRITERS_WAIT | READERS_WAIT) != 0 {
            self.wake(word);
        }
    }

    /// The lock became free: a writer goes first, else all readers go.
    #[cold]
    fn wake(&self, word: u32) {
        if word & WRITERS_WAIT == 0 || unpark(&self.word, KIND_WRITER, 1, WRITERS_WAIT) == 0 {
            unpark(&self.word, KIND_READER, usize::MAX, READERS_WAIT);
        }
    }
}

/// Access to the data of an [`RwLock`] while it is held for reading.
pub struct RwLockReadGuard<'a, T> {
    lock: &'a RwLock<T>,
    _not_send: PhantomData<*const ()>,
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held for reading.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.unlock_read();
    }
}

/// Access to the data of an [`RwLock`] while it is held for writing.
pub struct RwLockWriteGuard<'a, T> {
    lock: &'a RwLock<T>,
    _not_send: PhantomData<*const ()>,
}

impl<'a, T> RwLockWriteGuard<'a, T> {
    /// Goes on as a reader without letting a writer in between.
    pub fn downgrade(this: Self) -> RwLockReadGuard<'a, T> {
        let lock = this.lock;
        core::mem::forget(this);
        let word = lock.word.fetch_add(READER - WRITER, Release);
        if word & (WRITERS_WAIT | READERS_WAIT) == READERS_WAIT {
            unpark(&lock.word, KIND_READER, usize::MAX, READERS_WAIT);
        }
        RwLockReadGuard { lock, _not_send: PhantomData }
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held for writing.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held for writing, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.unlock_write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn a_mutex_keeps_threads_apart() {
        let lock = Arc::new(Mutex::new((0_u64, 0_u64)));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let lock = lock.clone();
                thread::spawn(move || {
                    for _ in 0..2000 {
                        let mut guard = lock.lock();
                        guard.0 += 1;
                        if guard.0.is_multiple_of(16) {
                            thread::yield_now();
                        }
                        guard.1 += 1;
                        assert_eq!(guard.0, guard.1);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*lock.lock(), (8000, 8000));
        assert_eq!(lock.word.load(Relaxed), 0, "no waiter bit is left behind");
    }

    #[test]
    fn a_rwlock_keeps_writers_from_everybody() {
        let lock = Arc::new(RwLock::new((0_u64, 0_u64)));
        let threads: Vec<_> = (0..6)
            .map(|i| {
                let lock = lock.clone();
                thread::spawn(move || {
                    for n in 0..1000 {
                        if i < 2 {
                            let mut guard = lock.write();
                            guard.0 += 1;
                            if n % 8 == 0 {
                                thread::yield_now();
                            }
                            guard.1 += 1;
                            if n % 5 == 0 {
                                let guard = RwLockWriteGuard::downgrade(guard);
                                assert_eq!(guard.0, guard.1);
                            }
                        } else {
                            let guard = lock.read();
                            assert_eq!(guard.0, guard.1);
                            if n % 8 == 0 {
                                thread::yield_now();
                            }
                            assert_eq!(guard.0, guard.1);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*lock.read(), (2000, 2000));
        assert_eq!(lock.word.load(Relaxed), 0, "no waiter bit is left behind");
    }

    #[test]
    fn try_variants_take_what_is_free_only() {
        let lock = RwLock::new(1);
        let reader = lock.read();
        assert!(lock.try_read().is_some() && lock.try_write().is_none());
        drop(reader);
        let writer = lock.try_write().unwrap();
        assert!(lock.try_read().is_none());
        drop(RwLockWriteGuard::downgrade(writer));
        assert!(lock.try_write().is_some());
        let mutex = Mutex::new(());
        let guard = mutex.lock();
        assert!(mutex.try_lock().is_none());
        drop(guard);
        assert!(mutex.try_lock().is_some());
    }
}
