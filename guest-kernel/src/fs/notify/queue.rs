//! [`Queue`]: the events that a set of watches has gathered and nobody has read yet.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::Events;
use crate::errno::{Errno, Result};
use crate::mm::try_to_vec;
use crate::uapi;

/// Bytes of `struct inotify_event` without its name; a name with its NULs is a multiple of it.
const HEADER: usize = 16;

/// One event.
#[derive(PartialEq, Eq)]
pub(super) struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Event {
    /// Something happened that the watch `wd` is for.
    pub(super) fn new(wd: i32, events: Events, cookie: u32, name: &[u8]) -> Result<Self> {
        Ok(Self { wd, mask: events.bits(), cookie, name: try_to_vec(name)? })
    }

    /// The watch `wd` is no more.
    pub(super) fn ignored(wd: i32) -> Self {
        Self { wd, mask: uapi::IN_IGNORED, cookie: 0, name: Vec::new() }
    }

    /// Events are lost.
    fn overflow() -> Self {
        Self { wd: -1, mask: uapi::IN_Q_OVERFLOW, cookie: 0, name: Vec::new() }
    }

    fn name_len(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER) }
    }

    /// Bytes that reading it takes.
    pub(super) fn len(&self) -> usize {
        HEADER + self.name_len()
    }

    /// The fixed part, as inotify(7) has it.
    pub(super) fn header(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let words = [self.wd as u32, self.mask, self.cookie, self.name_len() as u32];
        for (at, word) in bytes.chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The name.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// How many NULs follow the name.
    pub(super) fn padding(&self) -> usize {
        self.name_len() - self.name.len()
    }

    /// True if telling both would say nothing more than the first one does.
    fn repeats(&self, last: &Event) -> bool {
        self.mask != uapi::IN_IGNORED
            && (self.wd, self.mask) == (last.wd, last.mask)
            && self.name == last.name
    }
}

/// Events in the order in which they came.
pub(super) struct Queue {
    events: VecDeque<Event>,
    overflowed: bool,
}

impl Queue {
    /// An empty one, with room for the event that says that others are lost.
    pub(super) fn new() -> Result<Self> {
        let mut events = VecDeque::new();
        events.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        Ok(Self { events, overflowed: false })
    }

    /// Adds an event, which there was memory for or not. At `max` events, or without memory, one event tells
    /// that others are lost.
    pub(super) fn push(&mut self, event: Result<Event>, max: usize) {
        if let (Ok(event), Some(last)) = (&event, self.events.back())
            && event.repeats(last)
        {
            return;
        }
        // One place is always left for the event of the other arm.
        match event {
            Ok(event) if self.events.len() < max && self.events.try_reserve(2).is_ok() => {
                self.events.push_back(event);
            }
            _ if !self.overflowed => {
                self.overflowed = true;
                self.events.push_back(Event::overflow());
            }
            _ => {}
        }
    }

    /// The first event, if it takes at most `room` bytes; `EINVAL` if it takes more.
    pub(super) fn pop(&mut self, room: usize) -> Result<Option<Event>> {
        match self.events.front() {
            None => Ok(None),
            Some(first) if first.len() > room => Err(Errno::EINVAL),
            Some(first) => {
                self.overflowed &= first.mask != uapi::IN_Q_OVERFLOW;
                Ok(self.events.pop_front())
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes that reading all of it takes (`FIONREAD`).
    pub(super) fn bytes(&self) -> usize {
        self.events.iter().map(Event::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(wd: i32, name: &[u8]) -> Result<Event> {
        Event::new(wd, Events::MODIFY, 0, name)
    }

    #[test]
    fn what_repeats_the_last_event_is_told_once() {
        let mut queue = Queue::new().unwrap();
        for (wd, name) in [(1, &b"a"[..]), (1, b"a"), (1, b"b"), (2, b"b"), (1, b"a")] {
            queue.push(event(wd, name), 100);
        }
        assert_eq!(queue.bytes(), 4 * 32);
    }

    #[test]
    fn a_full_queue_says_once_that_events_are_lost() {
        let mut queue = Queue::new().unwrap();
        for wd in 0..5 {
            queue.push(event(wd, b""), 2);
        }
        queue.push(Err(Errno::ENOMEM), 2);
        let mut read = Vec::new();
        while let Some(event) = queue.pop(HEADER).unwrap() {
            read.push((event.wd, event.mask));
        }
        assert_eq!(read, [(0, uapi::IN_MODIFY), (1, uapi::IN_MODIFY), (-1, uapi::IN_Q_OVERFLOW)]);
        // Room again: the next loss is told again.
        queue.push(Err(Errno::ENOMEM), 2);
        assert_eq!(queue.bytes(), HEADER);
    }

    #[test]
    fn names_are_padded_to_whole_headers() {
        for (len, takes) in [(0, 16), (1, 32), (15, 32), (16, 48), (255, 272)] {
            let event = event(1, &vec![b'x'; len]).unwrap();
            assert_eq!(event.len(), takes, "name of {len}");
            assert_eq!(HEADER + event.name().len() + event.padding(), takes);
        }
        let mut queue = Queue::new().unwrap();
        queue.push(event(1, b"x"), 9);
        assert_eq!(queue.pop(31).err(), Some(Errno::EINVAL));
        assert!(queue.pop(32).unwrap().is_some());
    }
}
