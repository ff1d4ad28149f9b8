//! A queue of pages, linked through their records, so that a page enters and leaves without memory being
//! allocated: the clean and the dirty pages of a disk.

use crate::addr::PhysAddr;
use crate::mm::Page;
use crate::mm::frame::page_of;

/// Pages, the oldest first. A page is in one queue at most; who owns the queue knows in which.
pub(super) struct Fifo {
    head: u32,
    tail: u32,
    len: usize,
}

fn by_number(pfn: u32) -> &'static Page {
    page_of(PhysAddr::from_pfn(pfn as usize))
}

impl Fifo {
    /// No pages.
    pub const fn new() -> Self {
        Self { head: Page::NONE, tail: Page::NONE, len: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The oldest.
    pub fn front(&self) -> Option<(&'static Page, u32)> {
        (self.head != Page::NONE).then(|| (by_number(self.head), self.head))
    }

    /// Adds the page with this frame number, as the youngest.
    pub fn push(&mut self, pfn: u32) {
        let page = by_number(pfn);
        page.set_next(Page::NONE);
        page.set_prev(self.tail);
        match self.tail {
            Page::NONE => self.head = pfn,
            tail => by_number(tail).set_next(pfn),
        }
        self.tail = pfn;
        self.len += 1;
    }

    /// Takes a page out.
    pub fn remove(&mut self, pfn: u32) {
        let page = by_number(pfn);
        match page.prev() {
            Page::NONE => self.head = page.next(),
            prev => by_number(prev).set_next(page.next()),
        }
        match page.next() {
            Page::NONE => self.tail = page.prev(),
            next => by_number(next).set_prev(page.prev()),
        }
        self.len -= 1;
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) -> Option<(&'static Page, u32)> {
        let (page, pfn) = self.front()?;
        self.remove(pfn);
        Some((page, pfn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::testing::setup;
    use crate::mm::{AllocFlags, FrameRef, alloc_page};

    fn pfn(frame: &FrameRef) -> u32 {
        frame.phys().pfn() as u32
    }

    #[test]
    fn pages_leave_in_order_and_from_anywhere() {
        setup();
        let frames: [FrameRef; 4] = [(); 4].map(|()| alloc_page(AllocFlags::empty()).unwrap());
        let mut fifo = Fifo::new();
        assert!(fifo.pop().is_none());
        frames.iter().for_each(|frame| fifo.push(pfn(frame)));
        fifo.remove(pfn(&frames[1]));
        fifo.remove(pfn(&frames[3]));
        fifo.push(pfn(&frames[1]));
        let order: [u32; 3] = [0, 2, 1].map(|i| pfn(&frames[i]));
        assert_eq!([(); 3].map(|()| fifo.pop().unwrap().1), order);
        assert_eq!((fifo.len(), fifo.pop().is_none()), (0, true));
    }
}
