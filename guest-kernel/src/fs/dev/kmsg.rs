//! /dev/kmsg: the kernel log, one record a read (Linux, Documentation/ABI/testing/dev-kmsg).

use alloc::boxed::Box;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use super::mem::MEM_MAJOR;
use crate::drivers::klog::{self, Facility, LINE, Span, byte};
use crate::errno::{Errno, Result};
use crate::fs::chrdev::{CharDevice, Dev, register_chrdev};
use crate::fs::file::{FMode, File, FileOps, OpenFlags, Whence};
use crate::fs::{Inode, Path, PollFlags, PollTable, UserBuf};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::ns::Cred;
use crate::sync::SpinLock;
use crate::wait_event_interruptible;

/// The most that is written at once.
const LONGEST: usize = 992;
/// The level of what a program writes without one.
const DEFAULT_LEVEL: u8 = 4;

struct Kmsg;

pub(super) fn register() {
    register_chrdev(Dev::new(MEM_MAJOR, 11), "kmsg", 0o644, &Kmsg);
}

impl CharDevice for Kmsg {
    fn open(
        &self,
        _: Dev,
        _: &Ref<Inode>,
        _: &Path,
        flags: OpenFlags,
        cred: &Cred,
    ) -> Result<Box<dyn FileOps>> {
        if flags.reads() && !cred.may_read_log() {
            return Err(Errno::EPERM);
        }
        Ok(try_box(OpenKmsg { at: SpinLock::new(At::or_later(0)) })?)
    }
}

struct OpenKmsg {
    /// The next record to read.
    at: SpinLock<At>,
}

/// A record of the log, or its end.
#[derive(Clone, Copy)]
struct At {
    /// Where it begins, counted over all that was ever logged.
    place: u64,
    number: u64,
}

impl At {
    /// The first record from a place on that is still there.
    fn or_later(mut place: u64) -> Self {
        loop {
            place = klog::span(place).start;
            if let Some(number) = klog::number_at(place) {
                return Self { place, number };
            }
        }
    }
}

impl OpenKmsg {
    /// Where it is in the log; `EPIPE`, once, if what was there has been overwritten.
    fn at(&self) -> Result<At> {
        let at = *self.at.lock();
        if klog::span(at.place).start == at.place {
            return Ok(at);
        }
        *self.at.lock() = At::or_later(at.place);
        Err(Errno::EPIPE)
    }
}

/// A line of the log.
struct Record {
    text: [u8; LINE],
    len: usize,
    /// Where the next one begins.
    next: u64,
}

/// The whole record at a place, if it is there.
fn record_at(place: u64) -> Option<Record> {
    let Span { start, end } = klog::span(place);
    let mut record = Record { text: [0; LINE], len: 0, next: start };
    while record.next < end {
        let b = byte(record.next);
        record.next += 1;
        if b == b'\n' {
            return Some(record);
        }
        *record.text.get_mut(record.len)? = b;
        record.len += 1;
    }
    None
}

impl Record {
    /// `<6>[    1.234567] text` as (6, microseconds, text).
    fn parse(&self) -> Option<(u32, u64, &[u8])> {
        let line = &self.text[..self.len];
        let part = |from: usize, end: u8| {
            let len = line.get(from..)?.iter().position(|&b| b == end)?;
            Some((core::str::from_utf8(&line[from..from + len]).ok()?, from + len + 1))
        };
        let (priority, behind) = part(1, b'>')?;
        let (stamp, behind) = part(behind + 1, b']')?;
        let (secs, micros) = stamp.trim().split_once('.')?;
        let micros = secs.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
        Some((priority.parse().ok()?, micros, line.get(behind + 1..)?))
    }
}

/// Text in a fixed buffer, in which every byte of a record may take four.
struct Line {
    text: [u8; 4 * LINE],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let n = s.len().min(self.text.len() - self.len);
        self.text[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

impl Line {
    /// The record `number` as it is read.
    fn of(record: &Record, number: u64) -> Self {
        let (priority, micros, text) =
            record.parse().unwrap_or((u32::from(DEFAULT_LEVEL), 0, &record.text[..record.len]));
        let mut line = Self { text: [0; 4 * LINE], len: 0 };
        // It holds any record.
        let _ = write!(line, "{priority},{number},{micros},-;");
        for &byte in text {
            let _ = match byte {
                b' '..=b'~' if byte != b'\\' => line.write_char(byte.into()),
                _ => write!(line, "\\x{byte:02x}"),
            };
        }
        let _ = line.write_char('\n');
        line
    }
}

impl FileOps for OpenKmsg {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let (at, record) = loop {
            let seen = klog::head();
            let at = self.at()?;
            if let Some(record) = record_at(at.place) {
                break (at, record);
            }
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            wait_event_interruptible!(klog::READERS, klog::head() != seen)?;
        };
        let line = Line::of(&record, at.number);
        if buf.remaining() < line.len {
            return Err(Errno::EINVAL);
        }
        let done = buf.put(&line.text[..line.len])?;
        *self.at.lock() = At { place: record.next, number: at.number + 1 };
        Ok(done)
    }

    fn write(&self, _file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let len = buf.remaining();
        if len > LONGEST {
            return Err(Errno::EINVAL);
        }
        let mut text = [0; LONGEST];
        let n = buf.take(&mut text)?;
        let (facility, level, text) = priority_of(&text[..n]);
        for line in text.strip_suffix(b"\n").unwrap_or(text).split(|&b| b == b'\n') {
            klog::log_for(facility, level, format_args!("{}", Bytes(line)));
        }
        Ok(len)
    }

    fn seek(&self, _file: &File, offset: i64, whence: Whence) -> Result<u64> {
        if offset != 0 {
            return Err(Errno::ESPIPE);
        }
        let place = match whence {
            Whence::Set => 0,
            Whence::Data => klog::CLEARED.load(Ordering::Relaxed),
            Whence::End => klog::head(),
            _ => return Err(Errno::EINVAL),
        };
        let at = At::or_later(place);
        *self.at.lock() = at;
        Ok(0)
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        table.wait(&klog::READERS);
        let place = self.at.lock().place;
        let Span { start, end } = klog::span(place);
        if start != place {
            PollFlags::READABLE | PollFlags::ERR | PollFlags::PRI
        } else if start < end {
            PollFlags::READABLE
        } else {
            PollFlags::empty()
        }
    }

    fn abilities(&self) -> FMode {
        FMode::LSEEK
    }
}

/// What a program writes, without the priority (`<30>`) that may stand in front of it. Nobody but the kernel speaks for
/// the kernel.
fn priority_of(text: &[u8]) -> (Facility, u8, &[u8]) {
    let parsed = || {
        let end = text.iter().position(|&b| b == b'>')?;
        let number = core::str::from_utf8(text.strip_prefix(b"<")?.get(..end - 1)?).ok()?;
        let priority: u32 = number.parse().ok()?;
        let facility = match (priority >> 3) as u8 {
            0 => Facility::USER,
            facility => Facility(facility),
        };
        Some((facility, (priority & 7) as u8, &text[end + 1..]))
    };
    parsed().unwrap_or((Facility::USER, DEFAULT_LEVEL, text))
}

/// Bytes as they are, but for what is no text.
struct Bytes<'a>(&'a [u8]);

impl core::fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.utf8_chunks().try_for_each(|chunk| {
            f.write_str(chunk.valid())?;
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
        })
    }
}
