//! [`Gather`]: what was unmapped, kept until no TLB can lead to it any more.

use core::mem::MaybeUninit;

use super::asid::Asid;
use super::frame::FreeBatch;
use super::table::{put_leaf, put_table};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::paging::Pte;
use crate::arch::tlb;

/// What is to be freed once no TLB can lead to it any more.
#[derive(Clone, Copy)]
enum Garbage {
    Leaf(Pte),
    Table(PhysAddr, usize),
}

/// What is collected before it is freed.
const ROOM: usize = 64;

/// Collects what was unmapped and frees it after the invalidation.
pub(super) struct Gather<'a> {
    asid: &'a Asid,
    /// What must be invalidated: the span of all that was unmapped.
    low: u64,
    high: u64,
    len: usize,
    /// The first `len` are there.
    items: [MaybeUninit<Garbage>; ROOM],
}

impl<'a> Gather<'a> {
    #[inline]
    pub fn new(asid: &'a Asid) -> Self {
        let items = [const { MaybeUninit::uninit() }; ROOM];
        Self { asid, low: u64::MAX, high: 0, len: 0, items }
    }

    #[inline]
    fn push(&mut self, at: u64, len: u64, item: Garbage) {
        if self.len == ROOM {
            self.flush();
        }
        (self.low, self.high) = (self.low.min(at), self.high.max(at + len));
        self.items[self.len].write(item);
        self.len += 1;
    }

    /// The page at `at` was taken out of its entry.
    #[inline]
    pub fn leaf(&mut self, at: u64, pte: Pte) {
        self.push(at, PAGE_SIZE as u64, Garbage::Leaf(pte));
    }

    /// A table of `level` that stands for `at..at + len` was taken out with all that it holds.
    pub fn full_table(&mut self, at: u64, len: u64, table: PhysAddr, level: usize) {
        self.push(at, len, Garbage::Table(table, level));
    }

    /// A table without entries was taken out: one page's invalidation covers the entry that led to it.
    pub fn empty_table(&mut self, at: u64, table: PhysAddr, level: usize) {
        self.push(at, PAGE_SIZE as u64, Garbage::Table(table, level));
    }

    fn flush(&mut self) {
        if self.len == 0 {
            return;
        }
        tlb::flush_range(|| self.asid.get(), VirtAddr(self.low), VirtAddr(self.high));
        let mut batch = FreeBatch::new();
        for item in &self.items[..self.len] {
            // SAFETY: the first `len` were written by `push`.
            match unsafe { item.assume_init() } {
                Garbage::Leaf(pte) => put_leaf(pte, &mut batch),
                Garbage::Table(phys, level) => put_table(phys, level),
            }
        }
        (self.low, self.high, self.len) = (u64::MAX, 0, 0);
    }
}

impl Drop for Gather<'_> {
    #[inline]
    fn drop(&mut self) {
        self.flush();
    }
}
