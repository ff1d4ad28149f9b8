//! [`Text`]: the content of a file, as it is written; [`TextFile`]: a file whose content is a text.

use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::errno::{Errno, Result};
use crate::fs::{File, FileOps, PollFlags, PollTable, UserBuf, Whence};
use crate::sched::WaitQueue;
use crate::sync::Mutex;

/// A growing text.
#[derive(Default)]
pub struct Text {
    bytes: Vec<u8>,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.bytes(s.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl Text {
    /// No text yet.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Appends formatted text; `ENOMEM` if there is no room. Use [`put!`](crate::put).
    pub fn put(&mut self, args: fmt::Arguments<'_>) -> Result<()> {
        self.write_fmt(args).map_err(|_| Errno::ENOMEM)
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.try_reserve(bytes.len()).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Appends bytes with those in `special` as `\ooo`.
    pub fn escaped(&mut self, bytes: &[u8], special: &[u8]) -> Result<()> {
        for &b in bytes {
            if special.contains(&b) {
                crate::put!(self, "\\{b:03o}")?;
            } else {
                self.bytes(&[b])?;
            }
        }
        Ok(())
    }

    /// Appends spaces until the line that began at `start` has `width` bytes.
    pub fn pad_to(&mut self, start: usize, width: usize) -> Result<()> {
        while self.bytes.len() < start + width {
            self.bytes(b" ")?;
        }
        Ok(())
    }

    /// Drops what is beyond `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, out of the text.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// `put!(text, "format", ...)`: appends formatted text.
#[macro_export]
macro_rules! put {
    ($out:expr, $($arg:tt)*) => { $out.put(format_args!($($arg)*)) };
}

/// Where a file's content comes from, and goes to.
pub trait Source: Send + Sync + 'static {
    /// Writes the content.
    fn show(&self, out: &mut Text) -> Result<()>;

    /// Writes the piece of the content that begins at `at`, in the source's own measure, and returns where the next
    /// one does. The first begins at 0, and most contents are one piece: those that may be long are made as they are
    /// read.
    fn show_piece(&self, _at: u64, out: &mut Text) -> Result<Option<u64>> {
        self.show(out).map(|()| None)
    }

    /// Takes what a program wrote.
    fn store(&self, _data: &[u8]) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// How often the content has changed, and who waits until it does, if that can be waited for.
    fn changes(&self) -> Option<(u64, &WaitQueue)> {
        None
    }
}

/// The most that one write may bring.
const MAX_STORE: usize = 4096;

/// The piece of a content that was made last.
#[derive(Default)]
struct Piece {
    text: Vec<u8>,
    /// Where in the file it stands.
    start: u64,
    /// Where the next one begins, for the source.
    next: Option<u64>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.text.len() as u64
    }
}

/// An open file whose content is made when it is read.
pub struct TextFile<S> {
    source: S,
    piece: Mutex<Piece>,
    /// The number of the change that was read last.
    seen: AtomicU64,
}

impl<S: Source> TextFile<S> {
    /// Nothing is made yet.
    pub fn new(source: S) -> Self {
        let seen = AtomicU64::new(source.changes().map_or(0, |(number, _)| number));
        Self { source, piece: Mutex::new(Piece::default()), seen }
    }

    /// Makes the piece that has what stands at `pos`; the last one if nothing does.
    fn find(&self, piece: &mut Piece, pos: u64) -> Result<()> {
        let make = |at| {
            let mut text = Text::new();
            let next = self.source.show_piece(at, &mut text)?;
            Ok::<_, Errno>((text.into_bytes(), next))
        };
        if pos == 0 || pos < piece.start || piece.start == 0 && piece.text.is_empty() {
            if let Some((number, _)) = self.source.changes() {
                self.seen.store(number, Ordering::Relaxed);
            }
            let (text, next) = make(0)?;
            *piece = Piece { text, start: 0, next };
        }
        while pos >= piece.end()
            && let Some(at) = piece.next
        {
            let (text, next) = make(at)?;
            *piece = Piece { text, start: piece.end(), next };
        }
        Ok(())
    }
}

impl<S: Source> FileOps for TextFile<S> {
    fn read(&self, _file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        let mut piece = self.piece.lock();
        let mut done = 0;
        while !buf.is_empty() {
            match self.find(&mut piece, *pos) {
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
                Ok(()) => {}
            }
            let from = usize::try_from(*pos - piece.start).unwrap_or(usize::MAX);
            let rest = &piece.text[from.min(piece.text.len())..];
            if rest.is_empty() {
                break;
            }
            let n = match buf.put(rest) {
                Err(error) if done == 0 => return Err(error),
                other => other.unwrap_or(0),
            };
            *pos += n as u64;
            done += n;
            if n < rest.len() || piece.next.is_none() {
                break;
            }
        }
        Ok(done)
    }

    fn write(&self, _file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        let len = buf.remaining();
        if len > MAX_STORE {
            return Err(Errno::EINVAL);
        }
        let mut data = Vec::new();
        data.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        data.resize(len, 0);
        if buf.take(&mut data)? < len {
            return Err(Errno::EFAULT);
        }
        self.source.store(&data)?;
        *pos += len as u64;
        Ok(len)
    }

    /// A content that changed since it was read last is POLLPRI and POLLERR, as in Linux's sysfs; reading it
    /// from the start ends that.
    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        let mut ready = PollFlags::READABLE | PollFlags::WRITABLE;
        if let Some((_, waiting)) = self.source.changes() {
            table.wait(waiting);
            let seen = self.seen.load(Ordering::Relaxed);
            if self.source.changes().is_some_and(|(number, _)| number != seen) {
                ready |= PollFlags::PRI | PollFlags::ERR;
            }
        }
        ready
    }

    fn is_pollable(&self) -> bool {
        self.source.changes().is_some()
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        let base = match whence {
            Whence::Set => 0,
            Whence::Cur => file.pos(),
            // The length is not known before it is read.
            _ => return Err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).ok_or(Errno::EINVAL)
    }
}

/// A number that a program wrote, with white space around it.
pub fn parse_number(data: &[u8]) -> Result<i64> {
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
    text.parse().map_err(|_| Errno::EINVAL)
}

/// Yes or no as a program wrote it, of which only the beginning counts (`kstrtobool`).
pub fn parse_bool(data: &[u8]) -> Result<bool> {
    match data {
        [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o' | b'O', b'n' | b'N', ..] => Ok(true),
        [b'0' | b'n' | b'N' | b'f' | b'F', ..] | [b'o' | b'O', b'f' | b'F', ..] => Ok(false),
        _ => Err(Errno::EINVAL),
    }
}

/// A number as C writes it: in hexadecimal behind `0x`, in octal behind `0`.
pub fn parse_unsigned(data: &[u8]) -> Result<u32> {
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    u32::from_str_radix(digits, radix).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_padded() {
        let mut text = Text::new();
        text.escaped(b"a b\\", b" \\").unwrap();
        text.pad_to(0, 14).unwrap();
        put!(text, "{:>3}", 7).unwrap();
        assert_eq!(text.as_bytes(), b"a\\040b\\134      7");
    }

    #[test]
    fn numbers_may_have_space_around_them() {
        assert_eq!(parse_number(b" -17\n"), Ok(-17));
        assert_eq!(parse_number(b"1x"), Err(Errno::EINVAL));
        for (text, value) in
            [("1x", true), ("0\n\0", false), ("yes", true), ("On", true), ("off", false)]
        {
            assert_eq!(parse_bool(text.as_bytes()), Ok(value), "{text}");
        }
        for text in ["", " 1", "2", "o", "enable"] {
            assert_eq!(parse_bool(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
    }
}
