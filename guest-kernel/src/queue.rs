//! [`Queue<T>`]: an array that things are put into at one end and taken out of at the other.
//!
//! Its items lie one after the other, as a reader outside the machine follows those of an [`Array`]: pointer and length
//! stand first, in that order. Taking the first one out moves the pointer, and nothing else; the room before it is used
//! again once it is as large as what is left, so that an item is moved once on average. Growth reports `ENOMEM`.
//!
//! [`Array`]: crate::array::Array

use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use crate::errno::{Errno, Result};

/// A queue: `{ptr, len}` of the items, then what room there is in all, and how much of it lies before them.
#[repr(C)]
pub struct Queue<T> {
    ptr: *mut T,
    len: usize,
    cap: usize,
    before: usize,
}

// SAFETY: it owns its items, like `Vec`.
unsafe impl<T: Send> Send for Queue<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Queue<T> {}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Queue<T> {
    /// An empty queue; nothing is allocated.
    pub const fn new() -> Self {
        Self { ptr: core::ptr::dangling_mut(), len: 0, cap: 0, before: 0 }
    }

    /// Runs `f` on the items as a `Vec`, which begins where the room does.
    fn with_vec<R>(&mut self, f: impl FnOnce(&mut Vec<T>) -> R) -> R {
        // SAFETY: `before` items were taken out of the start of the room, which the others then move to; the parts are
        // those of a `Vec` that was taken apart below (or of an empty one), and a panic in `f` aborts.
        let vec = unsafe {
            let start = self.ptr.sub(self.before);
            core::ptr::copy(self.ptr, start, self.len);
            Vec::from_raw_parts(start, self.len, self.cap)
        };
        let mut vec = ManuallyDrop::new(vec);
        let result = f(&mut vec);
        (self.ptr, self.len, self.cap) = (vec.as_mut_ptr(), vec.len(), vec.capacity());
        self.before = 0;
        result
    }

    /// Puts an item behind the last; `ENOMEM`, with the queue as it was, if there is no room.
    pub fn try_push(&mut self, item: T) -> Result<()> {
        if self.before + self.len == self.cap {
            let grows = self.before < self.len || self.cap == 0;
            let more = self.len + 1;
            self.with_vec(|vec| if grows { vec.try_reserve(more) } else { Ok(()) })
                .map_err(|_| Errno::ENOMEM)?;
        }
        // SAFETY: there is room behind the last item.
        unsafe { self.ptr.add(self.len).write(item) };
        self.len += 1;
        Ok(())
    }

    /// Takes the first item out.
    pub fn pop_front(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        // SAFETY: the first item, which is not looked at again.
        let item = unsafe { self.ptr.read() };
        // SAFETY: the next one, or the end of the room.
        self.ptr = unsafe { self.ptr.add(1) };
        (self.len, self.before) = (self.len - 1, self.before + 1);
        Some(item)
    }

    /// Keeps the items that `keep` says.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.with_vec(|vec| vec.retain(keep));
    }
}

impl<T> Deref for Queue<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `ptr` holds `len` items (dangling only when `len` is zero).
        unsafe { core::slice::from_raw_parts(self.ptr, self.len) }
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        self.with_vec(|vec| drop(core::mem::take(vec)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::rc::Rc;

    proptest! {
        #[test]
        fn it_holds_what_a_deque_holds(calls in prop::collection::vec(0_u8..8, 0..400)) {
            let (mut queue, mut deque) = (Queue::new(), VecDeque::new());
            let counted = Rc::new(());
            for (i, call) in calls.into_iter().enumerate() {
                match call {
                    0..4 => {
                        queue.try_push((i, counted.clone())).unwrap();
                        deque.push_back(i);
                    }
                    7 if i % 5 == 0 => {
                        queue.retain(|(i, _)| i % 3 != 0);
                        deque.retain(|i| i % 3 != 0);
                    }
                    _ => prop_assert_eq!(queue.pop_front().map(|(i, _)| i), deque.pop_front()),
                }
                prop_assert!(queue.iter().map(|(i, _)| i).eq(&deque));
                prop_assert_eq!(Rc::strong_count(&counted), deque.len() + 1);
            }
            drop(queue);
            prop_assert_eq!(Rc::strong_count(&counted), 1);
        }
    }

    #[test]
    fn what_stays_in_it_is_not_moved_for_each_that_leaves() {
        let mut queue = Queue::new();
        for i in 0..1000 {
            queue.try_push(i).unwrap();
        }
        let second = core::ptr::from_ref(&queue[1]);
        assert_eq!(queue.pop_front(), Some(0));
        assert!(core::ptr::eq(&raw const queue[0], second));
        // In steady use the room does not grow.
        let room = queue.cap;
        for i in 0..100_000 {
            queue.try_push(i).unwrap();
            queue.pop_front();
        }
        assert!(queue.cap <= 2 * room + 2, "{} of {room}", queue.cap);
    }
}
