//! [`Gather`]: what was unmapped, kept until no TLB can lead to it any more.

use super::table::{put_leaf, put_table};
use crate::addr::{PhysAddr, VirtAddr};
use crate::arch::paging::Pte;
use crate::arch::tlb;

/// What is to be freed once no TLB can lead to it any more.
pub(super) enum Garbage {
    Leaf(Pte),
    Table(PhysAddr, usize),
}

/// Collects what was unmapped and frees it after the invalidation.
pub(super) struct Gather {
    asid: u16,
    range: (u64, u64),
    items: [Option<Garbage>; Self::ROOM],
    len: usize,
}

impl Gather {
    const ROOM: usize = 64;

    pub fn new(asid: u16, start: u64, end: u64) -> Self {
        Self { asid, range: (start, end), items: [const { None }; Self::ROOM], len: 0 }
    }

    pub fn push(&mut self, item: Garbage) {
        if self.len == Self::ROOM {
            self.flush();
        }
        self.items[self.len] = Some(item);
        self.len += 1;
    }

    fn flush(&mut self) {
        if self.len == 0 {
            return;
        }
        tlb::flush_range(self.asid, VirtAddr(self.range.0), VirtAddr(self.range.1));
        for item in &mut self.items[..self.len] {
            match item.take() {
                Some(Garbage::Leaf(pte)) => put_leaf(pte),
                Some(Garbage::Table(phys, level)) => put_table(phys, level),
                None => {}
            }
        }
        self.len = 0;
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        self.flush();
    }
}
