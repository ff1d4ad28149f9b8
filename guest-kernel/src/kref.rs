//! [`Ref<T>`]: a reference-counted pointer that points straight at `T`.
//!
//! Unlike `Arc`, whose layout is private, a field of type `Ref<T>` or `Option<Ref<T>>` is, in memory,
//! a plain pointer to a `T` (null for `None`); the count lies just before it. That is what lets a
//! reader outside the machine follow it. There are no weak references; cycles are the owner's to cut.

use alloc::alloc::{Layout, alloc, dealloc};
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering, fence};

use crate::errno::{Errno, Result};

/// A counted reference to a `T` on the kernel heap.
#[repr(transparent)]
pub struct Ref<T> {
    ptr: NonNull<T>,
    _owns: PhantomData<T>,
}

// SAFETY: a `Ref` hands out `&T` only and counts atomically, like `Arc`.
unsafe impl<T: Send + Sync> Send for Ref<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Ref<T> {}

#[repr(C)]
struct Counted<T> {
    count: AtomicUsize,
    value: T,
}

impl<T> Ref<T> {
    const VALUE_OFFSET: usize = core::mem::offset_of!(Counted<T>, value);

    /// Moves `value` to the heap; `ENOMEM` if there is no room.
    pub fn try_new(value: T) -> Result<Self> {
        let layout = Layout::new::<Counted<T>>();
        // SAFETY: the layout has a size: it holds the count at least.
        let raw = unsafe { alloc(layout) }.cast::<Counted<T>>();
        if raw.is_null() {
            return Err(Errno::ENOMEM);
        }
        // SAFETY: `raw` is a fresh allocation of that layout. Field by field: as a whole it would be put together
        // on the stack first.
        unsafe {
            (&raw mut (*raw).count).write(AtomicUsize::new(1));
            (&raw mut (*raw).value).write(value);
            Ok(Self::from_raw((&raw const (*raw).value).cast_mut()))
        }
    }

    fn counted(&self) -> *mut Counted<T> {
        // SAFETY: `ptr` was made from a `Counted` by `try_new`.
        unsafe { self.ptr.as_ptr().byte_sub(Self::VALUE_OFFSET).cast() }
    }

    fn count(&self) -> &AtomicUsize {
        // SAFETY: the allocation lives while a reference does.
        unsafe { &(*self.counted()).count }
    }

    /// How many references there are now; only a hint while others may clone or drop theirs.
    pub fn ref_count(this: &Self) -> usize {
        this.count().load(Ordering::Relaxed)
    }

    /// The pointer; it stays valid while a reference exists.
    pub fn as_ptr(this: &Self) -> *const T {
        this.ptr.as_ptr()
    }

    /// True if both point at the same object.
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        a.ptr == b.ptr
    }

    /// The value itself, if this was the last reference; else the reference is dropped.
    pub fn into_inner(this: Self) -> Option<T> {
        if this.count().fetch_sub(1, Ordering::Release) != 1 {
            core::mem::forget(this);
            return None;
        }
        fence(Ordering::Acquire);
        let counted = this.counted();
        core::mem::forget(this);
        // SAFETY: this was the last reference; the value moves out and its memory is freed once.
        unsafe {
            let value = (&raw const (*counted).value).read();
            dealloc(counted.cast(), Layout::new::<Counted<T>>());
            Some(value)
        }
    }

    /// Gives the reference away as a plain pointer, to be taken back by [`from_raw`](Self::from_raw).
    pub fn into_raw(this: Self) -> *const T {
        let ptr = this.ptr.as_ptr();
        core::mem::forget(this);
        ptr
    }

    /// Takes back a reference.
    ///
    /// # Safety
    /// `ptr` came from [`into_raw`](Self::into_raw) and its reference was not taken back yet.
    pub unsafe fn from_raw(ptr: *const T) -> Self {
        // SAFETY: pointers from `into_raw` are not null.
        Self { ptr: unsafe { NonNull::new_unchecked(ptr.cast_mut()) }, _owns: PhantomData }
    }

    /// Makes one more reference to an object known by `&T`.
    ///
    /// # Safety
    /// `value` lives in a `Ref` whose count is at least one now.
    pub unsafe fn from_ref(value: &T) -> Self {
        // SAFETY: the caller's promise; the extra handle is forgotten, only its clone is kept.
        let this = core::mem::ManuallyDrop::new(unsafe { Self::from_raw(value) });
        Ref::clone(&this)
    }

    /// Makes one more reference unless the last one is already gone: for look-ups in tables that
    /// hold pointers without counting them.
    ///
    /// # Safety
    /// The memory of `value`'s object is not freed while the caller looks (the table's lock is held,
    /// and the object takes itself off the table under that lock before it is freed).
    pub unsafe fn try_from_ref(value: &T) -> Option<Self> {
        // SAFETY: the caller's promise keeps the count readable.
        let this = core::mem::ManuallyDrop::new(unsafe { Self::from_raw(value) });
        let grown = this
            .count()
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n > 0).then_some(n + 1));
        // SAFETY: the count was just raised for this handle.
        grown.ok().map(|_| unsafe { Self::from_raw(value) })
    }
}

impl<T> Clone for Ref<T> {
    fn clone(&self) -> Self {
        self.count().fetch_add(1, Ordering::Relaxed);
        Self { ptr: self.ptr, _owns: PhantomData }
    }
}

impl<T> Drop for Ref<T> {
    fn drop(&mut self) {
        if self.count().fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: this was the last reference.
            unsafe {
                let counted = self.counted();
                core::ptr::drop_in_place(&raw mut (*counted).value);
                dealloc(counted.cast(), Layout::new::<Counted<T>>());
            }
        }
    }
}

impl<T> Deref for Ref<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the object lives while a reference does.
        unsafe { self.ptr.as_ref() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn last_drop_frees_the_value_once() {
        let witness = Arc::new(());
        let a = Ref::try_new(witness.clone()).unwrap();
        let b = a.clone();
        assert_eq!(Ref::ref_count(&a), 2);
        drop(a);
        assert_eq!(Arc::strong_count(&witness), 2);
        drop(b);
        assert_eq!(Arc::strong_count(&witness), 1);
    }

    #[test]
    fn an_option_is_a_plain_pointer_to_the_value() {
        let r = Some(Ref::try_new(0x1234_u64).unwrap());
        assert_eq!(size_of_val(&r), 8);
        // SAFETY: the same size, and the documentation promises this reading.
        let ptr: *const u64 = unsafe { core::mem::transmute_copy(&r) };
        // SAFETY: the reference keeps it alive.
        assert_eq!(unsafe { *ptr }, 0x1234);
    }
}
