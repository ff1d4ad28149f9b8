//! A pairing heap whose nodes lie in what it orders: insert and look at the first in O(1), remove any
//! in O(log n) amortised, no allocation.
//!
//! A node knows its first child, its next sibling, and `back`: its previous sibling, or its parent for
//! a first child. Nothing recurses, so a degenerate heap costs time but no stack.

use core::cell::Cell;
use core::ptr;

/// A node; null links mean "alone or not queued" (the owner knows which).
#[repr(C)]
pub struct HeapNode {
    child: Cell<*const HeapNode>,
    next: Cell<*const HeapNode>,
    back: Cell<*const HeapNode>,
    key: Cell<u64>,
}

impl Default for HeapNode {
    fn default() -> Self {
        Self::new()
    }
}

impl HeapNode {
    /// A node that is in no heap.
    pub const fn new() -> Self {
        Self {
            child: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
            back: Cell::new(ptr::null()),
            key: Cell::new(0),
        }
    }

    /// The key that it was inserted with.
    pub fn key(&self) -> u64 {
        self.key.get()
    }
}

/// A heap: the node with the smallest key is at the root.
#[repr(C)]
pub struct Heap {
    root: Cell<*const HeapNode>,
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

/// # Safety
/// Both are roots of live trees that nobody else touches.
unsafe fn meld(a: *const HeapNode, b: *const HeapNode) -> *const HeapNode {
    if a.is_null() {
        return b;
    }
    if b.is_null() {
        return a;
    }
    // SAFETY: the caller's promise.
    let (a_ref, b_ref) = unsafe { (&*a, &*b) };
    // On equal keys `a` stays on top: what was queued first rings first, as a rule.
    let (top, under) =
        if b_ref.key.get() < a_ref.key.get() { (b_ref, a_ref) } else { (a_ref, b_ref) };
    under.next.set(top.child.get());
    under.back.set(top);
    if !top.child.get().is_null() {
        // SAFETY: a child of a live node is alive.
        unsafe { &*top.child.get() }.back.set(under);
    }
    top.child.set(under);
    top.next.set(ptr::null());
    top.back.set(ptr::null());
    top
}

/// Melds a list of siblings into one tree: in pairs from the left, the pairs from the right.
///
/// # Safety
/// `first` starts a list of live siblings that nobody else touches.
unsafe fn meld_siblings(first: *const HeapNode) -> *const HeapNode {
    let mut pairs: *const HeapNode = ptr::null();
    let mut at = first;
    while !at.is_null() {
        // SAFETY: siblings are alive; each is detached before it is melded.
        unsafe {
            let a = at;
            let b = (*a).next.get();
            at = if b.is_null() { ptr::null() } else { (*b).next.get() };
            (*a).next.set(ptr::null());
            (*a).back.set(ptr::null());
            if !b.is_null() {
                (*b).next.set(ptr::null());
                (*b).back.set(ptr::null());
            }
            let pair = meld(a, b);
            // A stack through `next`: the last pair comes out first.
            (*pair).next.set(pairs);
            pairs = pair;
        }
    }
    let mut root: *const HeapNode = ptr::null();
    while !pairs.is_null() {
        // SAFETY: as above.
        unsafe {
            let pair = pairs;
            pairs = (*pair).next.get();
            (*pair).next.set(ptr::null());
            root = meld(pair, root);
        }
    }
    root
}

impl Heap {
    /// An empty heap.
    pub const fn new() -> Self {
        Self { root: Cell::new(ptr::null()) }
    }

    /// The node with the smallest key.
    #[inline]
    pub fn first(&self) -> *const HeapNode {
        self.root.get()
    }

    /// The smallest key; `u64::MAX` if the heap is empty.
    #[inline]
    pub fn first_key(&self) -> u64 {
        // SAFETY: nodes in the heap are alive.
        unsafe { self.root.get().as_ref() }.map_or(u64::MAX, HeapNode::key)
    }

    /// Inserts `node`.
    ///
    /// # Safety
    /// The heap's lock is held; the node is in no heap and stays alive and in place until it is removed.
    pub unsafe fn insert(&self, node: &HeapNode, key: u64) {
        node.key.set(key);
        node.child.set(ptr::null());
        node.next.set(ptr::null());
        node.back.set(ptr::null());
        // SAFETY: the caller's promise.
        self.root.set(unsafe { meld(self.root.get(), node) });
    }

    /// Removes `node`.
    ///
    /// # Safety
    /// The heap's lock is held, and the node is in this heap.
    pub unsafe fn remove(&self, node: &HeapNode) {
        // SAFETY: neighbours and children of a node in the heap are alive.
        unsafe {
            let children = meld_siblings(node.child.get());
            if ptr::eq(self.root.get(), node) {
                self.root.set(children);
            } else {
                let (back, next) = (&*node.back.get(), node.next.get());
                if ptr::eq(back.child.get(), node) {
                    back.child.set(next);
                } else {
                    back.next.set(next);
                }
                if !next.is_null() {
                    (*next).back.set(back);
                }
                self.root.set(meld(self.root.get(), children));
            }
        }
        node.child.set(ptr::null());
        node.next.set(ptr::null());
        node.back.set(ptr::null());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is inserted and removed, the first key is the model's smallest, down to empty.
        #[test]
        fn the_first_is_the_smallest(ops in prop::collection::vec((0..40_usize, 0..100_u64), 0..400)) {
            let nodes: Vec<_> = (0..40).map(|_| HeapNode::new()).collect();
            let heap = Heap::new();
            let mut model: [Option<u64>; 40] = [None; 40];
            for (i, key) in ops {
                // SAFETY: one thread; `model` says what is in the heap.
                unsafe {
                    if model[i].take().is_some() {
                        heap.remove(&nodes[i]);
                    } else {
                        heap.insert(&nodes[i], key);
                        model[i] = Some(key);
                    }
                }
                prop_assert_eq!(heap.first_key(), model.iter().flatten().min().copied().unwrap_or(u64::MAX));
            }
            let mut left: Vec<u64> = model.iter().flatten().copied().collect();
            left.sort_unstable();
            for key in left {
                let first = heap.first();
                prop_assert!(!first.is_null());
                // SAFETY: it is in the heap.
                unsafe {
                    prop_assert_eq!((*first).key(), key);
                    heap.remove(&*first);
                }
            }
            prop_assert!(heap.first().is_null());
        }
    }
}
