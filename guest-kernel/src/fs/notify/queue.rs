//! [`Queue`]: the events that a set of watches has gathered and nobody has read yet.
//!
//! How many there are is up to whoever does things to the watched files, so they lie, as inotify(7) has them
//! read, one after the other in pages that the last of the machine's memory is not taken for. A page is taken
//! without the queue's lock: [`Queue::push`] says that it needs one, and is called again with it.

use alloc::collections::VecDeque;

use super::Events;
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::NAME_MAX;
use crate::mm::FrameRef;
use crate::uapi;

/// Bytes of `struct inotify_event` without its name; a name with its NULs is a multiple of it.
const HEADER: usize = 16;
/// Bytes of the longest event.
const LONGEST: usize = HEADER + (NAME_MAX + 1).next_multiple_of(HEADER);

/// One event.
#[derive(Clone, Copy)]
pub(super) struct Event<'a> {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: &'a [u8],
}

impl<'a> Event<'a> {
    /// Events are lost.
    const OVERFLOW: Event<'static> =
        Event { wd: -1, mask: uapi::IN_Q_OVERFLOW, cookie: 0, name: b"" };

    /// Something happened that the watch `wd` is for. Of a name that no directory has, what fits is told.
    pub(super) fn new(wd: i32, events: Events, cookie: u32, name: &'a [u8]) -> Self {
        Self { wd, mask: events.bits(), cookie, name: &name[..name.len().min(NAME_MAX)] }
    }

    /// The watch `wd` is no more.
    pub(super) fn ignored(wd: i32) -> Self {
        Self { wd, mask: uapi::IN_IGNORED, cookie: 0, name: b"" }
    }

    fn name_len(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER) }
    }

    /// As it is read.
    fn record(&self) -> Record {
        let mut bytes = [0; LONGEST];
        let words = [self.wd as u32, self.mask, self.cookie, self.name_len() as u32];
        for (at, word) in bytes.chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[HEADER..HEADER + self.name.len()].copy_from_slice(self.name);
        Record { bytes, len: HEADER + self.name_len() }
    }
}

/// An event as a program reads it (`struct inotify_event`).
pub(super) struct Record {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Record {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn word(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.bytes[at..at + 4]);
        u32::from_ne_bytes(word)
    }

    fn mask(&self) -> u32 {
        self.word(4)
    }

    /// True if telling both would say nothing more than the first one does.
    fn repeats(&self, last: &Record) -> bool {
        let same = |part: core::ops::Range<usize>| self.bytes[part.clone()] == last.bytes[part];
        // All but the cookie.
        self.mask() != uapi::IN_IGNORED
            && self.len == last.len
            && same(0..8)
            && same(HEADER..self.len)
    }
}

/// A page of events; none crosses its end.
struct Block {
    page: FrameRef,
    /// Behind its last one.
    end: usize,
}

impl Block {
    fn new(page: FrameRef) -> Self {
        Self { page, end: 0 }
    }

    /// The event that begins at `at`.
    fn record(&self, at: usize) -> Record {
        let mut record = Record { bytes: [0; LONGEST], len: HEADER };
        self.page.read(at, &mut record.bytes[..HEADER]);
        record.len = (HEADER + record.word(12) as usize).min(LONGEST);
        self.page.read(at, &mut record.bytes[..record.len]);
        record
    }
}

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pushed {
    /// It, or that events are lost, is there to be read.
    Told,
    /// That is known already.
    Known,
    /// It needs a page more: to be tried again with one, or with the news that there is none.
    NeedsPage,
}

/// Events in the order in which they came.
pub(super) struct Queue {
    /// Never empty; only the one block of an empty queue is.
    blocks: VecDeque<Block>,
    /// Where the first event begins in the first block.
    start: usize,
    /// Where the last event begins in the last block.
    last: usize,
    /// How many there are, and how many may be.
    len: usize,
    max: usize,
    /// Bytes that reading all of it takes.
    bytes: usize,
    overflowed: bool,
}

impl Queue {
    /// An empty one for at most `max` events, with its first page.
    pub(super) fn new(page: FrameRef, max: usize) -> Result<Self> {
        let mut blocks = VecDeque::new();
        blocks.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        blocks.push_back(Block::new(page));
        Ok(Self { blocks, start: 0, last: 0, len: 0, max, bytes: 0, overflowed: false })
    }

    /// Adds an event. When there are as many as may be, or no memory, one event tells that others are lost.
    /// `page` is none at first; who is told that it [needs one](Pushed::NeedsPage) calls again with what came
    /// of asking. What is left in it was not needed after all.
    pub(super) fn push(
        &mut self,
        event: &Event<'_>,
        page: &mut Option<Result<FrameRef>>,
    ) -> Pushed {
        let record = event.record();
        if self.len > 0
            && let Some(block) = self.blocks.back()
            && record.repeats(&block.record(self.last))
        {
            return Pushed::Known;
        }
        if self.len < self.max {
            // Room is always left for the event that tells of loss.
            if self.room() >= record.len + HEADER {
                return self.put(&record);
            }
            match page.take() {
                None => return Pushed::NeedsPage,
                Some(Ok(page)) if self.blocks.try_reserve(1).is_ok() => {
                    self.blocks.push_back(Block::new(page));
                    return self.put(&record);
                }
                Some(_) => {}
            }
        }
        if self.overflowed {
            return Pushed::Known;
        }
        self.overflowed = true;
        self.put(&Event::OVERFLOW.record())
    }

    /// Bytes that the last block has room for.
    fn room(&self) -> usize {
        self.blocks.back().map_or(0, |block| PAGE_SIZE - block.end)
    }

    fn put(&mut self, record: &Record) -> Pushed {
        if let Some(block) = self.blocks.back_mut() {
            block.page.write(block.end, record.bytes());
            self.last = block.end;
            block.end += record.len;
            self.len += 1;
            self.bytes += record.len;
        }
        Pushed::Told
    }

    /// The first event, if it takes at most `room` bytes; `EINVAL` if it takes more.
    pub(super) fn pop(&mut self, room: usize) -> Result<Option<Record>> {
        if self.len == 0 {
            return Ok(None);
        }
        let only = self.blocks.len() == 1;
        let Some(block) = self.blocks.front_mut() else { return Ok(None) };
        let record = block.record(self.start);
        if record.len > room {
            return Err(Errno::EINVAL);
        }
        self.overflowed &= record.mask() != uapi::IN_Q_OVERFLOW;
        self.start += record.len;
        self.len -= 1;
        self.bytes -= record.len;
        if self.start == block.end {
            self.start = 0;
            // One page is kept for what comes next.
            block.end = 0;
            if !only {
                self.blocks.pop_front();
            }
        }
        Ok(Some(record))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that reading all of it takes (`FIONREAD`).
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::{AllocFlags, PageKind, alloc_page_of, testing};

    fn page() -> Result<FrameRef> {
        alloc_page_of(PageKind::Kernel, AllocFlags::USER)
    }

    fn queue(max: usize) -> Queue {
        testing::setup();
        Queue::new(page().unwrap(), max).unwrap()
    }

    fn event(wd: i32, name: &[u8]) -> Event<'_> {
        Event::new(wd, Events::MODIFY, 0, name)
    }

    /// Adds an event, for which there are as many pages as it takes.
    fn push(queue: &mut Queue, event: &Event<'_>) -> Pushed {
        match queue.push(event, &mut None) {
            Pushed::NeedsPage => queue.push(event, &mut Some(page())),
            pushed => pushed,
        }
    }

    fn read(queue: &mut Queue) -> Vec<(i32, u32)> {
        let mut all = Vec::new();
        while let Some(record) = queue.pop(LONGEST).unwrap() {
            all.push((record.word(0) as i32, record.mask()));
        }
        all
    }

    #[test]
    fn what_repeats_the_last_event_is_told_once() {
        let mut queue = queue(100);
        for (wd, name) in [(1, &b"a"[..]), (1, b"a"), (1, b"b"), (2, b"b"), (1, b"a")] {
            push(&mut queue, &event(wd, name));
        }
        assert_eq!(queue.bytes(), 4 * 32);
        assert_eq!(push(&mut queue, &event(1, b"a")), Pushed::Known);
        // Not so the end of a watch.
        assert_eq!(push(&mut queue, &Event::ignored(1)), Pushed::Told);
        assert_eq!(push(&mut queue, &Event::ignored(1)), Pushed::Told);
    }

    #[test]
    fn a_full_queue_says_once_that_events_are_lost() {
        let mut queue = queue(2);
        for wd in 0..5 {
            push(&mut queue, &event(wd, b""));
        }
        let lost = (-1, uapi::IN_Q_OVERFLOW);
        assert_eq!(read(&mut queue), [(0, uapi::IN_MODIFY), (1, uapi::IN_MODIFY), lost]);
        // Room again: the next loss is told again.
        for wd in 0..3 {
            push(&mut queue, &event(wd, b""));
        }
        assert_eq!(read(&mut queue)[2..], [lost]);
    }

    #[test]
    fn without_a_page_events_are_lost_and_that_is_told() {
        let mut queue = queue(100_000);
        let mut told = 0;
        let mut wd = 0;
        while queue.push(&event(wd, b"a name"), &mut None) == Pushed::Told {
            (told, wd) = (told + 1, wd + 1);
        }
        assert_eq!(told, (PAGE_SIZE - HEADER) / 32);
        let mut none = Some(Err(Errno::ENOMEM));
        assert_eq!(queue.push(&event(wd, b"a name"), &mut none), Pushed::Told);
        none = Some(Err(Errno::ENOMEM));
        assert_eq!(queue.push(&event(wd, b"a name"), &mut none), Pushed::Known);
        // With one again, what comes next stands behind that.
        assert_eq!(push(&mut queue, &event(7, b"a name")), Pushed::Told);
        let read = read(&mut queue);
        assert_eq!(read[told..], [(-1, uapi::IN_Q_OVERFLOW), (7, uapi::IN_MODIFY)]);
    }

    #[test]
    fn what_is_read_gives_its_pages_back() {
        let before = crate::mm::frame::NET.get();
        let mut queue = queue(100_000);
        let name = [b'x'; NAME_MAX];
        for round in 0..3 {
            for wd in 0..1000 {
                assert_eq!(push(&mut queue, &event(wd, &name)), Pushed::Told);
            }
            assert_eq!(queue.blocks.len(), 1000_usize.div_ceil(PAGE_SIZE / LONGEST));
            let wds: Vec<_> = read(&mut queue).into_iter().map(|(wd, _)| wd).collect();
            assert_eq!(wds, Vec::from_iter(0..1000), "round {round}");
            assert_eq!((queue.blocks.len(), queue.bytes()), (1, 0));
        }
        drop(queue);
        assert_eq!(crate::mm::frame::NET.get(), before);
    }

    #[test]
    fn names_are_padded_to_whole_headers() {
        for (len, takes) in [(0, 16), (1, 32), (15, 32), (16, 48), (255, 272)] {
            let name = vec![b'x'; len];
            let record = event(1, &name).record();
            assert_eq!(record.bytes().len(), takes, "name of {len}");
            assert_eq!(record.word(12) as usize, takes - HEADER);
            assert_eq!(record.bytes[HEADER..HEADER + len], name);
        }
        let mut queue = queue(9);
        push(&mut queue, &event(1, b"x"));
        assert_eq!(queue.pop(31).err(), Some(Errno::EINVAL));
        assert!(queue.pop(32).unwrap().is_some());
    }
}
