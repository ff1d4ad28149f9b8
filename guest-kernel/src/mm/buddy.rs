//! The buddy allocator: free frames in blocks of 2^order, split and merged in O(orders).
//!
//! Pure logic over an array of [`Page`] records; it never touches the frames themselves. A block's
//! buddy differs from it in one bit of the record number, so a block never merges across a
//! [`CHUNK`] boundary: records of chunks that were never fed are never read.
//!
//! Invariant: the record of a free block's first frame has kind `Free` and the block's order; the
//! other records of the block have another kind or are stale heads, never `Free` heads. For that,
//! `take` resets the kind of what it hands out and a merge resets the upper half's head.

use super::page::{Page, PageKind};

/// The largest block has 2^MAX_ORDER frames: 4 MiB.
pub const MAX_ORDER: usize = 10;
/// Frames in the largest block.
pub const CHUNK: usize = 1 << MAX_ORDER;

/// Free blocks by order. Record numbers are relative to `records`.
pub struct Buddy {
    records: *const Page,
    len: usize,
    heads: [u32; MAX_ORDER + 1],
    free: usize,
}

// SAFETY: the records are shared atomics; the lists are guarded by whoever owns the `Buddy`.
unsafe impl Send for Buddy {}

impl Buddy {
    /// No records, nothing free.
    pub const fn new() -> Self {
        Self { records: core::ptr::null(), len: 0, heads: [Page::NONE; MAX_ORDER + 1], free: 0 }
    }

    /// Uses these records from now on.
    ///
    /// # Safety
    /// `records` points at `len` records that live for ever and are cleared before their chunk is fed.
    pub unsafe fn set_records(&mut self, records: *const Page, len: usize) {
        (self.records, self.len) = (records, len);
    }

    /// Frames on the free lists.
    pub fn free_frames(&self) -> usize {
        self.free
    }

    #[inline]
    fn record(&self, i: u32) -> &Page {
        assert!((i as usize) < self.len, "a frame number within RAM");
        // SAFETY: `i` is within the array, by the assertion and `set_records`.
        unsafe { &*self.records.add(i as usize) }
    }

    fn push(&mut self, i: u32, order: usize) {
        let page = self.record(i);
        let head = self.heads[order];
        page.set_kind(PageKind::Free);
        page.set_order(order as u8);
        page.set_refcount(0);
        page.set_prev(Page::NONE);
        page.set_next(head);
        if head != Page::NONE {
            self.record(head).set_prev(i);
        }
        self.heads[order] = i;
    }

    fn unlink(&mut self, i: u32, order: usize) {
        let page = self.record(i);
        let (next, prev) = (page.next(), page.prev());
        page.set_kind(PageKind::Reserved);
        if next != Page::NONE {
            self.record(next).set_prev(prev);
        }
        if prev != Page::NONE {
            self.record(prev).set_next(next);
        } else {
            self.heads[order] = next;
        }
    }

    /// Takes a block of 2^order frames off the lists.
    pub fn take(&mut self, order: usize) -> Option<u32> {
        let found = (order..=MAX_ORDER).find(|&o| self.heads[o] != Page::NONE)?;
        let i = self.heads[found];
        self.unlink(i, found);
        // Give back the upper halves.
        for o in (order..found).rev() {
            self.push(i + (1 << o), o);
        }
        self.record(i).set_order(order as u8);
        self.free -= 1 << order;
        Some(i)
    }

    /// Gives back a block; it merges with its buddy as far as that is free.
    pub fn give(&mut self, mut i: u32, order: usize) {
        self.free += 1 << order;
        self.record(i).set_kind(PageKind::Reserved);
        let mut o = order;
        while o < MAX_ORDER {
            let buddy = i ^ (1 << o);
            if buddy as usize >= self.len {
                break;
            }
            let page = self.record(buddy);
            if page.kind() != PageKind::Free || usize::from(page.order()) != o {
                break;
            }
            self.unlink(buddy, o);
            i &= !(1 << o);
            o += 1;
        }
        self.push(i, o);
    }

    /// Gives a run of frames in the largest aligned blocks. All lie in one chunk.
    pub fn give_run(&mut self, mut start: usize, end: usize) {
        while start < end {
            let align = (start.trailing_zeros() as usize).min(MAX_ORDER);
            let fit = (end - start).ilog2() as usize;
            let order = align.min(fit);
            self.give(start as u32, order);
            start += 1 << order;
        }
    }

    /// Free blocks of each order, for /proc/buddyinfo and tests.
    pub fn blocks(&self) -> [usize; MAX_ORDER + 1] {
        core::array::from_fn(|order| {
            let mut count = 0;
            let mut i = self.heads[order];
            while i != Page::NONE {
                count += 1;
                i = self.record(i).next();
            }
            count
        })
    }
}

impl Default for Buddy {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A buddy over `frames` records, all of them free.
    fn fed(frames: usize) -> Buddy {
        // SAFETY: all-zero bytes are a valid record.
        let records: Vec<Page> = (0..frames).map(|_| unsafe { core::mem::zeroed() }).collect();
        let records: &'static [Page] = records.leak();
        let mut buddy = Buddy::new();
        // SAFETY: leaked and zeroed.
        unsafe { buddy.set_records(records.as_ptr(), frames) };
        for start in (0..frames).step_by(CHUNK) {
            buddy.give_run(start, frames.min(start + CHUNK));
        }
        buddy
    }

    #[test]
    fn give_run_of_odd_length_is_all_usable() {
        let mut buddy = fed(CHUNK + 13);
        assert_eq!(buddy.free_frames(), CHUNK + 13);
        let mut seen = std::collections::HashSet::new();
        while let Some(i) = buddy.take(0) {
            assert!(seen.insert(i));
        }
        assert_eq!(seen.len(), CHUNK + 13);
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_merge_back(ops in prop::collection::vec((0..=6_usize, any::<u16>()), 1..300)) {
            let frames = 2 * CHUNK;
            let mut buddy = fed(frames);
            let whole = buddy.blocks();
            let mut owner = vec![false; frames];
            let mut held: Vec<(u32, usize)> = vec![];
            for (order, pick) in ops {
                if pick % 3 == 0 && !held.is_empty() {
                    let (i, order) = held.swap_remove(usize::from(pick) % held.len());
                    owner[i as usize..(i as usize) + (1 << order)].fill(false);
                    buddy.give(i, order);
                } else if let Some(i) = buddy.take(order) {
                    prop_assert_eq!(i as usize % (1 << order), 0);
                    let block = &mut owner[i as usize..(i as usize) + (1 << order)];
                    prop_assert!(!block.contains(&true), "a frame was handed out twice");
                    block.fill(true);
                    held.push((i, order));
                }
                prop_assert_eq!(buddy.free_frames(), owner.iter().filter(|o| !**o).count());
            }
            for (i, order) in held { buddy.give(i, order); }
            prop_assert_eq!(buddy.blocks(), whole);
        }
    }
}
