//! Spin locks. `repr(C)`, so that a reader outside the machine finds the data at a fixed offset.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use super::{IrqGuard, PreemptGuard};

macro_rules! spin_lock {
    ($(#[$doc:meta])* $Lock:ident, $LockGuard:ident, $Guard:ident) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Default)]
        pub struct $Lock<T> {
            locked: AtomicBool,
            data: UnsafeCell<T>,
        }

        // SAFETY: the lock gives one context at a time access to the data.
        unsafe impl<T: Send> Send for $Lock<T> {}
        // SAFETY: as above.
        unsafe impl<T: Send> Sync for $Lock<T> {}

        impl<T> $Lock<T> {
            /// Offset of the data, for the layout note.
            pub const DATA_OFFSET: usize = core::mem::offset_of!(Self, data);

            /// An unlocked lock.
            pub const fn new(data: T) -> Self {
                Self { locked: AtomicBool::new(false), data: UnsafeCell::new(data) }
            }

            /// Takes the lock, spinning while another CPU holds it. Taking it twice deadlocks.
            #[inline]
            pub fn lock(&self) -> $LockGuard<'_, T> {
                let guard = $Guard::new();
                while self
                    .locked
                    .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
                    .is_err()
                {
                    // Only looking leaves the holder its cache line.
                    while self.locked.load(Ordering::Relaxed) {
                        core::hint::spin_loop();
                    }
                }
                $LockGuard { lock: self, _guard: guard, _not_send: PhantomData }
            }

            /// Takes the lock if nobody holds it.
            #[inline]
            pub fn try_lock(&self) -> Option<$LockGuard<'_, T>> {
                let guard = $Guard::new();
                self.locked
                    .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                    .then(|| $LockGuard { lock: self, _guard: guard, _not_send: PhantomData })
            }

            /// True if somebody holds it; only a hint.
            pub fn is_locked(&self) -> bool {
                self.locked.load(Ordering::Relaxed)
            }

            /// The data, for whoever owns the lock itself.
            pub fn get_mut(&mut self) -> &mut T {
                self.data.get_mut()
            }

            /// The data without the lock, for code that holds it by other means.
            pub const fn data_ptr(&self) -> *mut T {
                self.data.get()
            }

            /// Lets go of a lock whose guard was forgotten (a lock carried across `switch_to`).
            ///
            /// # Safety
            /// The caller holds the lock through a guard that was forgotten, and restores
            /// preemption or interrupts itself.
            pub unsafe fn force_unlock(&self) {
                self.locked.store(false, Ordering::Release);
            }
        }

        /// Access to the data while the lock is held.
        pub struct $LockGuard<'a, T> {
            lock: &'a $Lock<T>,
            // Dropped after the lock is let go of (see `Drop`): preemption comes last.
            _guard: $Guard,
            _not_send: PhantomData<*const ()>,
        }

        impl<T> Deref for $LockGuard<'_, T> {
            type Target = T;

            #[inline]
            fn deref(&self) -> &T {
                // SAFETY: the lock is held.
                unsafe { &*self.lock.data.get() }
            }
        }

        impl<T> DerefMut for $LockGuard<'_, T> {
            #[inline]
            fn deref_mut(&mut self) -> &mut T {
                // SAFETY: the lock is held, and the guard is borrowed mutably.
                unsafe { &mut *self.lock.data.get() }
            }
        }

        impl<T> Drop for $LockGuard<'_, T> {
            #[inline]
            fn drop(&mut self) {
                self.lock.locked.store(false, Ordering::Release);
            }
        }
    };
}

spin_lock! {
    /// A spin lock for data that no interrupt handler touches: preemption is off while it is held.
    SpinLock, SpinLockGuard, PreemptGuard
}
spin_lock! {
    /// A spin lock for data that interrupt handlers touch too: interrupts are off while it is held.
    IrqLock, IrqLockGuard, IrqGuard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn try_lock_fails_while_held_and_works_after() {
        let lock = SpinLock::new(1);
        let mut guard = lock.lock();
        *guard += 1;
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert_eq!(*lock.try_lock().unwrap(), 2);
    }

    #[test]
    fn a_held_lock_forbids_preemption() {
        let info = &crate::arch::current_thread().info;
        let before = info.preempt_count();
        let lock = SpinLock::new(());
        let guard = lock.lock();
        assert_eq!(info.preempt_count(), before + 1);
        drop(guard);
        assert_eq!(info.preempt_count(), before);
    }
}
