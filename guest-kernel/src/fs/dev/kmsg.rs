//! /dev/kmsg: the kernel log, one record a read (Linux, Documentation/ABI/testing/dev-kmsg).

use alloc::boxed::Box;
use core::fmt::Write;

use super::mem::MEM_MAJOR;
use crate::drivers::klog::{self, Span, byte};
use crate::errno::{Errno, Result};
use crate::fs::chrdev::{CharDevice, Dev, register_chrdev};
use crate::fs::file::{FMode, File, FileOps, OpenFlags, Whence};
use crate::fs::{Inode, Path, PollFlags, PollTable, UserBuf};
use crate::kinfo;
use crate::kref::Ref;
use crate::mm::try_box;
use crate::sync::SpinLock;
use crate::wait_event_interruptible;

/// Longest record that is read or written.
const RECORD: usize = 512;

struct Kmsg;

pub(super) fn register() {
    register_chrdev(Dev::new(MEM_MAJOR, 11), "kmsg", 0o644, &Kmsg);
}

impl CharDevice for Kmsg {
    fn open(&self, _: Dev, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(try_box(OpenKmsg { at: SpinLock::new(klog::span(0).start) })?)
    }
}

struct OpenKmsg {
    /// The offset of the next record to read, counted over all that was ever logged.
    at: SpinLock<u64>,
}

impl OpenKmsg {
    /// Where it is in the log; `EPIPE`, once, if what was there has been overwritten.
    fn place(&self) -> Result<u64> {
        let mut at = self.at.lock();
        let there = klog::span(*at).start;
        if core::mem::replace(&mut *at, there) == there { Ok(there) } else { Err(Errno::EPIPE) }
    }
}

/// A line of the log.
struct Record {
    text: [u8; RECORD],
    len: usize,
    start: u64,
    next: u64,
}

/// The first whole record from `at` on; one that was overwritten meanwhile is skipped.
fn record_at(at: u64) -> Option<Record> {
    let Span { start, end } = klog::span(at);
    let mut record = Record { text: [0; RECORD], len: 0, start, next: start };
    while record.next < end {
        let b = byte(record.next);
        record.next += 1;
        if b == b'\n' {
            return Some(record);
        }
        if record.len < RECORD {
            record.text[record.len] = b;
            record.len += 1;
        }
    }
    None
}

impl Record {
    /// `<6>[    1.234567] text` as (6, microseconds, text).
    fn parse(&self) -> (u32, u64, &[u8]) {
        let line = &self.text[..self.len];
        let parsed = || {
            let level = (*line.get(1)? as char).to_digit(10)?;
            let close = line.iter().position(|&b| b == b']')?;
            let stamp = core::str::from_utf8(line.get(4..close)?).ok()?.trim();
            let (secs, micros) = stamp.split_once('.')?;
            let micros = secs.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
            Some((level, micros, line.get(close + 2..)?))
        };
        parsed().unwrap_or((6, 0, line))
    }
}

/// Text in a fixed buffer.
struct Line {
    text: [u8; RECORD + 64],
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

impl FileOps for OpenKmsg {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let record = loop {
            let seen = klog::head();
            if let Some(record) = record_at(self.place()?) {
                break record;
            }
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            wait_event_interruptible!(klog::READERS, klog::head() != seen)?;
        };
        let (level, micros, text) = record.parse();
        let mut line = Line { text: [0; RECORD + 64], len: 0 };
        let _ = write!(line, "{level},{},{micros},-;", record.start);
        let n = text.len().min(line.text.len() - line.len - 1);
        line.text[line.len..line.len + n].copy_from_slice(&text[..n]);
        line.text[line.len + n] = b'\n';
        let len = line.len + n + 1;
        if buf.remaining() < len {
            return Err(Errno::EINVAL);
        }
        let done = buf.put(&line.text[..len])?;
        *self.at.lock() = record.next;
        Ok(done)
    }

    fn write(&self, _file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let len = buf.remaining();
        let mut text = [0; RECORD];
        let n = buf.take(&mut text)?;
        let text = text[..n].split(|&b| b == b'\n').next().unwrap_or_default();
        // A level in front is the writer's wish; what programs write is information.
        let body = match text.iter().position(|&b| b == b'>') {
            Some(end) if text[0] == b'<' && text[1..end].iter().all(u8::is_ascii_digit) => {
                &text[end + 1..]
            }
            _ => text,
        };
        kinfo!("{}", body.escape_ascii());
        Ok(len)
    }

    fn seek(&self, _file: &File, offset: i64, whence: Whence) -> Result<u64> {
        if offset != 0 {
            return Err(Errno::ESPIPE);
        }
        *self.at.lock() = match whence {
            Whence::Set | Whence::Data => klog::span(0).start,
            Whence::End => klog::head(),
            _ => return Err(Errno::EINVAL),
        };
        Ok(0)
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        table.wait(&klog::READERS);
        let at = *self.at.lock();
        match record_at(at) {
            Some(record) if record.start != at => {
                PollFlags::READABLE | PollFlags::ERR | PollFlags::PRI
            }
            Some(_) => PollFlags::READABLE,
            None => PollFlags::empty(),
        }
    }

    fn abilities(&self) -> FMode {
        FMode::LSEEK
    }
}
