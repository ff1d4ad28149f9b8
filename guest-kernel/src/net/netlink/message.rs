//! Messages (`struct nlmsghdr`) and attributes (`struct nlattr`): reading hostile ones, writing our own.

use alloc::vec::Vec;

use super::u32_at;
use crate::errno::{Errno, Result};

/// Bytes of a message's header.
pub const HEADER: usize = 16;
/// Bytes of an attribute's header.
const ATTRIBUTE: usize = 4;
/// The type of an attribute without its flags.
const TYPE_MASK: u16 = 0x3fff;

/// `NLM_F_MULTI`.
pub const MULTI: u16 = 2;
/// `NLM_F_ACK`.
pub const ACK: u16 = 4;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;

/// `NLMSG_ERROR`.
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`.
pub const DONE: u16 = 3;
/// Types below are netlink's own.
pub const MIN_TYPE: u16 = 16;

/// A message that a program sent.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Type.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The number that answers repeat.
    pub seq: u32,
    /// All of it, its header too.
    pub bytes: &'a [u8],
}

impl<'a> Request<'a> {
    /// The first message in `bytes`, and what follows it; `None` if there is no whole one.
    pub fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let len = u32_at(bytes, 0) as usize;
        if len < HEADER || bytes.len() < len {
            return None;
        }
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let request =
            Self { kind: half(4), flags: half(6), seq: u32_at(bytes, 8), bytes: &bytes[..len] };
        Some((request, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
    }

    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER..]
    }

    /// The fixed part of `len` bytes; `EINVAL` if it is not there.
    pub fn fixed(&self, len: usize) -> Result<&'a [u8]> {
        self.payload().get(..len).ok_or(Errno::EINVAL)
    }

    /// The attributes behind a fixed part of `len` bytes.
    pub fn attributes(&self, len: usize) -> Attributes<'a> {
        Attributes(self.payload().get(len.next_multiple_of(4)..).unwrap_or_default())
    }

    /// True if the whole table is asked for.
    pub fn is_dump(&self) -> bool {
        self.flags & DUMP == DUMP
    }
}

/// Attributes, one behind the other.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.0;
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let data = bytes.get(ATTRIBUTE..len)?;
        self.0 = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, data))
    }
}

impl<'a> Attributes<'a> {
    /// The last attribute of a type.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.filter(|(there, _)| *there == kind).last().map(|(_, data)| data)
    }

    /// The last attribute of a type as a number.
    pub fn number(self, kind: u16) -> Option<u32> {
        self.get(kind).filter(|data| data.len() >= 4).map(|data| u32_at(data, 0))
    }

    /// The last attribute of a type as a text, without its NUL.
    pub fn text(self, kind: u16) -> Option<&'a [u8]> {
        self.get(kind).map(|data| data.split(|&b| b == 0).next().unwrap_or_default())
    }
}

/// Messages that are being written, in datagrams of at most a page.
pub struct Answer {
    /// Datagrams that are done.
    pub done: Vec<Vec<u8>>,
    current: Vec<u8>,
    start: usize,
    seq: u32,
    port: u32,
    flags: u16,
    /// There was no memory for all of it: it is good for nothing.
    failed: bool,
}

/// The longest datagram, if one message does not exceed it.
const PAGE: usize = 4096;

impl Answer {
    /// Answers to a request with this number by a socket with this port.
    pub fn new(seq: u32, port: u32, multi: bool) -> Self {
        let flags = if multi { MULTI } else { 0 };
        Self { done: Vec::new(), current: Vec::new(), start: 0, seq, port, flags, failed: false }
    }

    /// Begins a message with this fixed part.
    pub fn begin(&mut self, kind: u16, fixed: &[u8]) {
        self.start = self.current.len();
        self.append(&[0; 4]);
        self.append(&kind.to_ne_bytes());
        self.append(&self.flags.to_ne_bytes());
        self.append(&self.seq.to_ne_bytes());
        self.append(&self.port.to_ne_bytes());
        self.append(fixed);
        self.pad();
    }

    fn append(&mut self, bytes: &[u8]) {
        self.failed |= self.current.try_reserve(bytes.len()).is_err();
        if !self.failed {
            self.current.extend_from_slice(bytes);
        }
    }

    fn pad(&mut self) {
        let len = self.current.len();
        self.append(&[0; 3][..len.next_multiple_of(4) - len]);
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, data: &[u8]) {
        let len = (ATTRIBUTE + data.len()) as u16;
        self.append(&len.to_ne_bytes());
        self.append(&kind.to_ne_bytes());
        self.append(data);
        self.pad();
    }

    /// Adds a number.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Adds a text with its NUL.
    pub fn text(&mut self, kind: u16, text: &[u8]) {
        let len = (ATTRIBUTE + text.len() + 1) as u16;
        self.append(&len.to_ne_bytes());
        self.append(&kind.to_ne_bytes());
        self.append(text);
        self.append(&[0]);
        self.pad();
    }

    /// Adds an attribute that holds those that `f` adds.
    pub fn nest(&mut self, kind: u16, f: impl FnOnce(&mut Self)) {
        let at = self.current.len();
        self.attribute(kind, &[]);
        f(self);
        let len = (self.current.len() - at) as u16;
        if !self.failed {
            self.current[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        }
    }

    /// Ends the message. The datagram goes before it, if both together exceed a page.
    pub fn end(&mut self) {
        if self.failed {
            return;
        }
        let len = (self.current.len() - self.start) as u32;
        self.current[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
        if self.current.len() > PAGE && self.start > 0 {
            let mut last = Vec::new();
            let room = self
                .done
                .try_reserve(1)
                .and_then(|()| last.try_reserve(self.current.len() - self.start));
            if room.is_err() {
                self.failed = true;
                return;
            }
            last.extend_from_slice(&self.current[self.start..]);
            self.current.truncate(self.start);
            self.done.push(core::mem::replace(&mut self.current, last));
        }
    }

    /// The end of a dump.
    pub fn finish_dump(&mut self) {
        self.begin(DONE, &0_i32.to_ne_bytes());
        self.end();
    }

    /// An error, or with `None` an acknowledgement, of `request`.
    pub fn error(&mut self, request: &Request<'_>, error: Option<Errno>, cap: bool) {
        let number = error.map_or(0, |error| -error.number());
        let about = if error.is_some() && !cap { request.bytes } else { &request.bytes[..HEADER] };
        let flags = core::mem::replace(&mut self.flags, 0);
        self.begin(ERROR, &number.to_ne_bytes());
        self.flags = flags;
        self.append(about);
        self.pad();
        self.end();
    }

    /// All datagrams; `ENOBUFS` if there was no memory for one.
    pub fn into_datagrams(mut self) -> Result<Vec<Vec<u8>>> {
        if self.failed || self.done.try_reserve(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut answer = Answer::new(7, 42, true);
        answer.begin(16, &[1; 16]);
        answer.number(4, 1500);
        answer.nest(18, |inner| inner.text(1, b"veth"));
        answer.end();
        answer.finish_dump();
        let datagrams = answer.into_datagrams().unwrap();
        assert_eq!(datagrams.len(), 1);
        let (first, rest) = Request::first(&datagrams[0]).unwrap();
        assert_eq!((first.kind, first.flags, first.seq), (16, MULTI, 7));
        let attributes = first.attributes(16);
        assert_eq!(attributes.number(4), Some(1500));
        assert_eq!(Attributes(attributes.get(18).unwrap()).text(1), Some(&b"veth"[..]));
        let (last, rest) = Request::first(rest).unwrap();
        assert_eq!((last.kind, rest.len()), (DONE, 0));
    }

    #[test]
    fn no_bytes_make_reading_panic() {
        let mut random = 1_u32;
        let mut bytes = [0_u8; 64];
        for _ in 0..20_000 {
            for byte in &mut bytes {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (random >> 24) as u8 & 0x3f;
            }
            bytes[1..4].fill(0);
            if let Some((request, _)) = Request::first(&bytes) {
                let _ = request.fixed(16);
                request.attributes(16).for_each(|(_, data)| Attributes(data).for_each(|_| ()));
            }
        }
    }

    #[test]
    fn long_answers_are_cut_at_pages() {
        let mut answer = Answer::new(0, 0, true);
        for _ in 0..100 {
            answer.begin(16, &[0; 200]);
            answer.end();
        }
        let datagrams = answer.into_datagrams().unwrap();
        assert!(datagrams.len() > 1 && datagrams.iter().all(|d| d.len() <= PAGE));
        assert_eq!(datagrams.iter().map(Vec::len).sum::<usize>(), 100 * 216);
    }
}
