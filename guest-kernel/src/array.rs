//! [`Array<T>`]: a growable array whose memory layout is fixed: pointer, length, capacity.
//!
//! It is `Vec` with a promise about its fields, for structures that a reader outside the machine
//! follows, and with growth that reports `ENOMEM`.

use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};

use crate::errno::{Errno, Result};

/// A growable array: `{ptr, len, cap}` in that order.
#[repr(C)]
pub struct Array<T> {
    ptr: *mut T,
    len: usize,
    cap: usize,
}

// SAFETY: it owns its items, like `Vec`.
unsafe impl<T: Send> Send for Array<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Array<T> {}

impl<T> Default for Array<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Array<T> {
    /// An empty array; nothing is allocated.
    pub const fn new() -> Self {
        Self { ptr: core::ptr::dangling_mut(), len: 0, cap: 0 }
    }

    /// Runs `f` on the array as a `Vec`.
    fn with_vec<R>(&mut self, f: impl FnOnce(&mut Vec<T>) -> R) -> R {
        // SAFETY: the fields came from a `Vec` (or are those of an empty one); they are replaced
        // below, and a panic in `f` aborts.
        let vec = unsafe { Vec::from_raw_parts(self.ptr, self.len, self.cap) };
        let mut vec = ManuallyDrop::new(vec);
        let result = f(&mut vec);
        (self.ptr, self.len, self.cap) = (vec.as_mut_ptr(), vec.len(), vec.capacity());
        result
    }

    /// Makes room for `n` more items.
    pub fn try_reserve(&mut self, n: usize) -> Result<()> {
        self.with_vec(|v| v.try_reserve(n)).map_err(|_| Errno::ENOMEM)
    }

    /// Appends an item.
    pub fn try_push(&mut self, item: T) -> Result<()> {
        self.try_reserve(1)?;
        self.with_vec(|v| v.push(item));
        Ok(())
    }

    /// Inserts an item before `index`.
    pub fn try_insert(&mut self, index: usize, item: T) -> Result<()> {
        self.try_reserve(1)?;
        self.with_vec(|v| v.insert(index, item));
        Ok(())
    }

    /// Removes and returns the item at `index`, keeping the order.
    pub fn remove(&mut self, index: usize) -> T {
        self.with_vec(|v| v.remove(index))
    }

    /// Removes and returns the item at `index`; the last one takes its place.
    pub fn swap_remove(&mut self, index: usize) -> T {
        self.with_vec(|v| v.swap_remove(index))
    }

    /// Keeps the items that `keep` says.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.with_vec(|v| v.retain(keep));
    }

    /// Removes the items in `range`.
    pub fn drain(&mut self, range: core::ops::Range<usize>) {
        self.with_vec(|v| {
            v.drain(range);
        });
    }

    /// Removes and returns the first item.
    pub fn pop_front(&mut self) -> Option<T> {
        if self.is_empty() { None } else { Some(self.remove(0)) }
    }

    /// Removes and returns the last item.
    pub fn pop(&mut self) -> Option<T> {
        self.with_vec(Vec::pop)
    }

    /// Drops all items.
    pub fn clear(&mut self) {
        self.with_vec(Vec::clear);
    }

    /// Grows with copies of what `make` returns, or shrinks, to `len` items.
    pub fn try_resize_with(&mut self, len: usize, make: impl FnMut() -> T) -> Result<()> {
        self.try_reserve(len.saturating_sub(self.len))?;
        self.with_vec(|v| v.resize_with(len, make));
        Ok(())
    }
}

impl<T> From<Vec<T>> for Array<T> {
    fn from(items: Vec<T>) -> Self {
        let mut items = ManuallyDrop::new(items);
        Self { ptr: items.as_mut_ptr(), len: items.len(), cap: items.capacity() }
    }
}

impl<T: Clone> Array<T> {
    /// A copy of the array.
    pub fn try_clone(&self) -> Result<Self> {
        let mut copy = Self::new();
        copy.try_reserve(self.len)?;
        copy.with_vec(|v| v.extend_from_slice(self));
        Ok(copy)
    }
}

impl<T> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `ptr` holds `len` items (dangling only when `len` is zero).
        unsafe { core::slice::from_raw_parts(self.ptr, self.len) }
    }
}

impl<T> DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and `self` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.ptr, self.len) }
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        // SAFETY: the fields came from a `Vec`; this is the last use.
        drop(unsafe { Vec::from_raw_parts(self.ptr, self.len, self.cap) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_inserts_and_removes_like_a_vec() {
        let mut a = Array::new();
        for i in 0..10 {
            a.try_push(i).unwrap();
        }
        a.try_insert(3, 99).unwrap();
        assert_eq!(a.remove(0), 0);
        a.drain(5..9);
        assert_eq!(&*a, [1, 2, 99, 3, 4, 9]);
        assert_eq!(&*a.try_clone().unwrap(), &*a);
        assert_eq!(a.pop(), Some(9));
    }
}
