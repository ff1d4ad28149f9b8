//! What of a snapshot need not be hashed: the chunks that hold what the kernel here begins with.
//!
//! A third and more of an idle guest's stored frames are its kernel's text, which nobody changes. Beside the `Image`
//! of a home stands `Image.blake3` with the BLAKE3 of each whole [`CHUNK`] of it, in hexadecimal digits, one a line. A
//! chunk of a snapshot that shall have the same hash at the same place shall have the same bytes, and comparing takes
//! a small part of the time of hashing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::manifest::{CHUNK, Chunk};
use crate::machine::{KERNEL_BASE, RAM_BASE};
use crate::target::PAGE_SIZE;

/// What comes after the name of an `Image` in the name of the file with its hashes.
pub const SUFFIX: &str = ".blake3";

/// A kernel's `Image` and the hashes of its chunks.
#[derive(Debug)]
pub struct KernelImage {
    file: File,
    chunks: Vec<blake3::Hash>,
}

impl KernelImage {
    /// Opens the `Image` at `path`; `None` if its hashes cannot be had, without which there is nothing to gain.
    pub fn open(path: &Path) -> Option<Self> {
        let mut hashes = path.as_os_str().to_owned();
        hashes.push(SUFFIX);
        let hashes = std::fs::read_to_string(hashes).ok()?;
        let chunks = hashes.lines().map(|line| blake3::Hash::from_hex(line).ok());
        Some(Self { chunks: chunks.collect::<Option<_>>()?, file: File::open(path).ok()? })
    }

    /// Where in this file the bytes stand that `chunk`, all of which is stored, shall have by its hash.
    pub(super) fn place_of(&self, chunk: &Chunk) -> Option<u64> {
        let place = chunk.at.checked_sub(KERNEL_BASE - RAM_BASE)?;
        let hash = self.chunks.get(usize::try_from(place / CHUNK).ok()?)?;
        let whole = [(0, (CHUNK / PAGE_SIZE) as u32)];
        let same = *hash == blake3::Hash::from_bytes(chunk.blake3);
        (same && place.is_multiple_of(CHUNK) && chunk.frames == whole).then_some(place)
    }

    /// Whether `bytes` stand at `place` in this file, read through `buffer`, which is as long.
    pub(super) fn has(&self, place: u64, bytes: &[u8], buffer: &mut [u8]) -> io::Result<bool> {
        match self.file.read_exact_at(buffer, place) {
            Ok(()) => Ok(buffer == bytes),
            // Cut short.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }
}
