//! [`OwnCell`]: a value that only its own task replaces.
//!
//! The task itself reads it without a lock or a count, which keeps every system call short. Anybody
//! else looks at it, or takes a reference to it, under the cell's lock. That is taken with the task list
//! locked, which interrupts lock too, so it keeps them off.

use core::cell::UnsafeCell;
use core::ptr;

use belljar_abi::layout::{DescribeField, Kind};

use crate::sync::IrqLock;

/// A value that only its own task replaces.
#[repr(C)]
pub struct OwnCell<T> {
    value: UnsafeCell<T>,
    lock: IrqLock<()>,
}

// SAFETY: others read under the lock, and the owner replaces under the lock (module documentation).
unsafe impl<T: Send + Sync> Sync for OwnCell<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for OwnCell<T> {}

impl<T> OwnCell<T> {
    /// A cell.
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), lock: IrqLock::new(()) }
    }

    /// The value, for the owning task itself. The borrow must end before the owner replaces it; what
    /// must live across that (exec, unshare, exit) is cloned first.
    #[inline]
    pub fn own(&self) -> &T {
        // SAFETY: only the owner replaces the value, and it is the one who reads (see above).
        unsafe { &*self.value.get() }
    }

    /// Looks at the value from any task.
    pub fn with<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        let _lock = self.lock.lock();
        // SAFETY: the lock keeps the owner from replacing it.
        f(unsafe { &*self.value.get() })
    }

    /// Replaces the value and returns the old one. The caller is the owner (or the task does not run
    /// yet, or no longer), and holds no borrow from [`own`](Self::own).
    pub fn replace(&self, value: T) -> T {
        let _lock = self.lock.lock();
        // SAFETY: readers are kept out by the lock; the owner holds no borrow.
        unsafe { ptr::replace(self.value.get(), value) }
    }
}

impl<T: Clone> OwnCell<T> {
    /// A clone of the value, from any task.
    pub fn share(&self) -> T {
        self.with(T::clone)
    }
}

impl<T: DescribeField> DescribeField for OwnCell<T> {
    const KIND: Kind = T::KIND;
    const DELTA: usize = T::DELTA;
}
