//! The cpio archive format "newc" (cpio(5)), read from a stream.
//!
//! An entry is a header of hexadecimal numbers in text, a name and data, each padded to four bytes.
//! The last entry is called `TRAILER!!!`; after it, zeros, and maybe another archive. Everything is
//! hostile: every length is checked, and an error says at which offset the archive is broken.

use alloc::vec::Vec;
use core::fmt;

use crate::fs::PATH_MAX;

const HEADER_LEN: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";

/// What is wrong with an archive, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Offset in the (uncompressed) archive.
    pub offset: u64,
    /// What is wrong.
    pub reason: Reason,
}

/// What can be wrong with an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It ends in the middle of an entry.
    Truncated,
    /// There is neither a header nor the end where one should be.
    NoHeader,
    /// A header of another cpio format (`070707`, `070702` is read).
    OtherFormat,
    /// A number in a header is not hexadecimal.
    BadNumber,
    /// A name is empty, too long or not ended by a zero byte.
    BadName,
    /// The compressed data is damaged.
    BadCompression,
    /// Compressed with something other than gzip.
    OtherCompression,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.reason {
            Reason::Truncated => "it ends in the middle of an entry",
            Reason::NoHeader => "there is no cpio header",
            Reason::OtherFormat => "not the newc format (make it with cpio -H newc)",
            Reason::BadNumber => "a header has a number that is not hexadecimal",
            Reason::BadName => "an entry has no proper name",
            Reason::BadCompression => "the gzip data is damaged",
            Reason::OtherCompression => "compressed with something other than gzip",
        };
        write!(f, "{what}, at offset {}", self.offset)
    }
}

/// Bytes that come bit by bit.
pub trait Source {
    /// What is there now; empty at the end. More may come after [`consume`](Self::consume).
    fn fill(&mut self) -> Result<&[u8], Reason>;

    /// Takes `n` of the bytes that [`fill`](Self::fill) showed.
    fn consume(&mut self, n: usize);
}

impl Source for &[u8] {
    fn fill(&mut self) -> Result<&[u8], Reason> {
        Ok(self)
    }

    fn consume(&mut self, n: usize) {
        *self = &self[n..];
    }
}

/// What an entry says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names are cpio(5)'s")]
pub struct Header {
    pub ino: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub mtime: u32,
    pub filesize: u32,
    pub devmajor: u32,
    pub devminor: u32,
    pub rdevmajor: u32,
    pub rdevminor: u32,
}

/// Reads entries one after the other. After each [`next`](Self::next) the data is read with
/// [`data`](Self::data) until that is empty; what is left is skipped.
pub struct Reader<S> {
    source: S,
    offset: u64,
    /// Data of the current entry that was not read.
    left: u64,
    /// Offset within the current archive, for the padding.
    archive_start: u64,
}

impl<S: Source> Reader<S> {
    /// Starts at the beginning of an archive.
    pub fn new(source: S) -> Self {
        Self { source, offset: 0, left: 0, archive_start: 0 }
    }

    /// The rest of the source.
    pub fn into_source(self) -> S {
        self.source
    }

    fn broken(&self, reason: Reason) -> Broken {
        Broken { offset: self.offset, reason }
    }

    fn fill(&mut self) -> Result<&[u8], Broken> {
        let offset = self.offset;
        self.source.fill().map_err(|reason| Broken { offset, reason })
    }

    fn consume(&mut self, n: usize) {
        self.source.consume(n);
        self.offset += n as u64;
    }

    fn read_exact(&mut self, mut to: &mut [u8]) -> Result<(), Broken> {
        while !to.is_empty() {
            let from = self.fill()?;
            if from.is_empty() {
                return Err(self.broken(Reason::Truncated));
            }
            let n = from.len().min(to.len());
            let (head, tail) = to.split_at_mut(n);
            head.copy_from_slice(&from[..n]);
            to = tail;
            self.consume(n);
        }
        Ok(())
    }

    fn skip(&mut self, mut len: u64) -> Result<(), Broken> {
        while len > 0 {
            let there = self.fill()?.len();
            if there == 0 {
                return Err(self.broken(Reason::Truncated));
            }
            let n = usize::try_from(len).unwrap_or(usize::MAX).min(there);
            self.consume(n);
            len -= n as u64;
        }
        Ok(())
    }

    fn skip_padding(&mut self) -> Result<(), Broken> {
        self.skip((self.offset - self.archive_start).wrapping_neg() % 4)
    }

    /// The next entry: its header, with its name in `name`. `None` at the end of the source, or
    /// after an archive that something else follows.
    pub fn next(&mut self, name: &mut Vec<u8>) -> Result<Option<Header>, Broken> {
        self.skip(self.left)?;
        self.left = 0;
        loop {
            // Padding of the data before. At the very end of a file it may be missing.
            let padding = (self.offset - self.archive_start).wrapping_neg() % 4;
            for _ in 0..padding {
                if self.fill()?.is_empty() {
                    return Ok(None);
                }
                self.consume(1);
            }
            match self.fill()?.first() {
                None => return Ok(None),
                Some(0) => {
                    self.consume(1);
                    continue;
                }
                Some(_) => {}
            }
            let at = self.offset;
            match self.entry(name) {
                Ok(Some(header)) => {
                    self.left = u64::from(header.filesize);
                    return Ok(Some(header));
                }
                // The end of this archive; another may follow.
                Ok(None) => {
                    self.skip_zeros()?;
                    if self.fill()?.first() != Some(&b'0') {
                        return Ok(None);
                    }
                    self.archive_start = self.offset;
                }
                Err(broken) => {
                    let offset =
                        if broken.reason == Reason::Truncated { broken.offset } else { at };
                    return Err(Broken { offset, ..broken });
                }
            }
        }
    }

    fn skip_zeros(&mut self) -> Result<(), Broken> {
        loop {
            let there = self.fill()?;
            let zeros = there.iter().take_while(|&&b| b == 0).count();
            if zeros == 0 {
                return Ok(());
            }
            self.consume(zeros);
        }
    }

    fn entry(&mut self, name: &mut Vec<u8>) -> Result<Option<Header>, Broken> {
        let mut text = [0; HEADER_LEN];
        if self.fill()?.first() != Some(&b'0') {
            return Err(self.broken(Reason::NoHeader));
        }
        self.read_exact(&mut text)?;
        match &text[..6] {
            b"070701" | b"070702" => {}
            [b'0', b'7', b'0', b'7', b'0', _] => return Err(self.broken(Reason::OtherFormat)),
            _ => return Err(self.broken(Reason::NoHeader)),
        }
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(text[6..].chunks_exact(8)) {
            *field = hex(digits).ok_or_else(|| self.broken(Reason::BadNumber))?;
        }
        let [
            ino,
            mode,
            uid,
            gid,
            nlink,
            mtime,
            filesize,
            devmajor,
            devminor,
            rdevmajor,
            rdevminor,
            namesize,
            _check,
        ] = fields;
        let namesize = namesize as usize;
        if !(2..=PATH_MAX).contains(&namesize) {
            return Err(self.broken(Reason::BadName));
        }
        name.clear();
        name.resize(namesize, 0);
        self.read_exact(name)?;
        if name.pop() != Some(0) {
            return Err(self.broken(Reason::BadName));
        }
        // A name ends at its first zero byte, as C programs read it.
        if let Some(end) = name.iter().position(|&b| b == 0) {
            name.truncate(end);
        }
        if name.is_empty() {
            return Err(self.broken(Reason::BadName));
        }
        if name == TRAILER {
            return Ok(None);
        }
        self.skip_padding()?;
        Ok(Some(Header {
            ino,
            mode,
            uid,
            gid,
            nlink,
            mtime,
            filesize,
            devmajor,
            devminor,
            rdevmajor,
            rdevminor,
        }))
    }

    /// Some of the current entry's data, which counts as read; empty when there is no more.
    pub fn data(&mut self) -> Result<Data<'_, S>, Broken> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let there = self.fill()?.len();
        if there == 0 && left > 0 {
            return Err(self.broken(Reason::Truncated));
        }
        let len = there.min(left);
        Ok(Data { reader: self, len })
    }
}

/// A piece of an entry's data; consumed when dropped.
pub struct Data<'a, S: Source> {
    reader: &'a mut Reader<S>,
    len: usize,
}

impl<S: Source> Data<'_, S> {
    /// The bytes; empty at the end of the entry.
    pub fn bytes(&mut self) -> &[u8] {
        // The source showed at least that much when the piece was made.
        self.reader.source.fill().ok().and_then(|b| b.get(..self.len)).unwrap_or_default()
    }
}

impl<S: Source> Drop for Data<'_, S> {
    fn drop(&mut self) {
        self.reader.consume(self.len);
        self.reader.left -= self.len as u64;
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |n, &digit| {
        let value = (digit as char).to_digit(16)?;
        Some((n << 4) | value)
    })
}
