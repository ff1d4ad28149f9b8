//! Sequence counts: odd while a writer is at work.
//!
//! A reader outside the machine stops the CPUs, looks at the count and knows from an odd one that it
//! stopped the machine in the middle of a change; it then lets the machine run on and tries again.

use core::sync::atomic::{AtomicU32, Ordering, fence};

/// A sequence count. Writers are kept apart by the lock of what it guards.
#[repr(transparent)]
#[derive(Default)]
pub struct SeqCount(AtomicU32);

impl SeqCount {
    /// An even count: nobody writes.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Runs a change with the count odd. Changes nest: only the outermost one counts.
    #[inline]
    pub fn write<R>(&self, change: impl FnOnce() -> R) -> R {
        let before = self.0.load(Ordering::Relaxed);
        if before & 1 == 1 {
            return change();
        }
        self.0.store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let result = change();
        self.0.store(before.wrapping_add(2), Ordering::Release);
        result
    }

    /// Begins a change that another place [ends](Self::end), as when it spans a context switch.
    #[inline]
    pub fn begin(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Ends what [`begin`](Self::begin) began.
    #[inline]
    pub fn end(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// The count; odd while a change is under way.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}
