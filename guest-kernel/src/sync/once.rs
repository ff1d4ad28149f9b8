//! A cell that is set once, at boot, and read freely afterwards.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};

const EMPTY: u8 = 0;
const SETTING: u8 = 1;
const SET: u8 = 2;

/// A value that boot sets once. Reading it costs one load and one branch.
pub struct Once<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written once before `SET` is published and only shared afterwards.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Once<T> {
    /// An empty cell.
    pub const fn new() -> Self {
        Self { state: AtomicU8::new(EMPTY), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// Sets the value and returns it; the first caller wins, and a later one's value is dropped.
    pub fn set(&self, value: T) -> &T {
        if self.state.compare_exchange(EMPTY, SETTING, Ordering::Acquire, Ordering::Acquire).is_ok()
        {
            // SAFETY: this caller alone moved the state to `SETTING`.
            unsafe { (*self.value.get()).write(value) };
            self.state.store(SET, Ordering::Release);
        }
        loop {
            if let Some(value) = self.try_get() {
                return value;
            }
            core::hint::spin_loop();
        }
    }

    /// The value, if it was set.
    #[inline]
    pub fn try_get(&self) -> Option<&T> {
        // SAFETY: `SET` is published after the value was written.
        (self.state.load(Ordering::Acquire) == SET)
            .then(|| unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// The value; boot order guarantees that it was set before anybody reads it.
    #[inline]
    #[track_caller]
    pub fn get(&self) -> &T {
        self.try_get().expect("set at boot")
    }
}
