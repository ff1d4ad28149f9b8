//! A gzip stream (RFC 1952) as a [`Source`], decompressed through a window of 32 KiB.

use alloc::boxed::Box;
use alloc::vec::Vec;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, TINFL_LZ_DICT_SIZE, decompress};

use super::cpio::{Broken, Reason, Source};

/// The first bytes of a gzip stream.
pub const MAGIC: [u8; 2] = [0x1f, 0x8b];

const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const TRAILER_LEN: usize = 8;

/// Decompresses; see the module's documentation.
pub struct Gzip<'a> {
    input: &'a [u8],
    state: Box<DecompressorOxide>,
    window: Vec<u8>,
    /// Decompressed bytes that were not consumed: `window[start..end]`.
    start: usize,
    end: usize,
    done: bool,
}

impl<'a> Gzip<'a> {
    /// Reads the header.
    pub fn new(data: &'a [u8]) -> Result<Self, Reason> {
        let input = skip_header(data).ok_or(Reason::BadCompression)?;
        let mut window = Vec::new();
        window.try_reserve_exact(TINFL_LZ_DICT_SIZE).map_err(|_| Reason::BadCompression)?;
        window.resize(TINFL_LZ_DICT_SIZE, 0);
        Ok(Self { input, state: Box::default(), window, start: 0, end: 0, done: false })
    }

    /// What follows the stream, which is read to its end.
    pub fn finish(mut self) -> Result<&'a [u8], Broken> {
        loop {
            let n = self.fill().map_err(|reason| Broken { offset: 0, reason })?.len();
            if n == 0 {
                return Ok(self.input.get(TRAILER_LEN..).unwrap_or_default());
            }
            self.consume(n);
        }
    }
}

fn skip_header(data: &[u8]) -> Option<&[u8]> {
    let (header, mut rest) = data.split_at_checked(10)?;
    if header[..2] != MAGIC || header[2] != 8 {
        return None;
    }
    let flags = header[3];
    if flags & FEXTRA != 0 {
        let (len, after) = rest.split_at_checked(2)?;
        rest = after.get(usize::from(u16::from_le_bytes([len[0], len[1]]))..)?;
    }
    for flag in [FNAME, FCOMMENT] {
        if flags & flag != 0 {
            let end = rest.iter().position(|&b| b == 0)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & FHCRC != 0 { rest.get(2..) } else { Some(rest) }
}

impl Source for Gzip<'_> {
    fn fill(&mut self) -> Result<&[u8], Reason> {
        while self.start == self.end && !self.done {
            let at = if self.end == self.window.len() { 0 } else { self.end };
            let flags = TINFL_FLAG_HAS_MORE_INPUT;
            let (status, taken, made) =
                decompress(&mut self.state, self.input, &mut self.window, at, flags);
            self.input = &self.input[taken..];
            (self.start, self.end) = (at, at + made);
            match status {
                TINFLStatus::Done => self.done = true,
                TINFLStatus::HasMoreOutput => {}
                // All input was there from the start.
                TINFLStatus::NeedsMoreInput => return Err(Reason::Truncated),
                _ => return Err(Reason::BadCompression),
            }
        }
        Ok(&self.window[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
    }
}
