//! Whether the memory file is what the manifest says.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::manifest::{CHUNK, Chunk, Manifest};
use super::{Error, Result};
use crate::target::data_ranges;

/// The hash of a chunk's stored frames. `buffer` holds a chunk.
pub(super) fn hash(file: &File, chunk: &Chunk, buffer: &mut [u8]) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    for range in chunk.ranges() {
        let bytes = &mut buffer[..(range.end - range.start) as usize];
        file.read_exact_at(bytes, range.start)?;
        hasher.update(bytes);
    }
    Ok(hasher.finalize())
}

/// Reads every stored frame, and whatever else the file holds.
pub(super) fn verify(file: &File, path: &Path, manifest: &Manifest) -> Result<()> {
    let mut buffer = vec![0; CHUNK as usize];
    for chunk in &manifest.memory.chunks {
        let found = hash(file, chunk, &mut buffer).map_err(Error::io("read", path))?;
        if found.as_bytes() != &chunk.blake3 {
            let wanted = blake3::Hash::from_bytes(chunk.blake3).to_hex().to_string();
            return Err(Error::Damaged {
                path: path.to_owned(),
                start: chunk.at,
                end: (chunk.at + CHUNK).min(manifest.board.ram_size),
                found: found.to_hex().to_string(),
                wanted,
            });
        }
    }
    holes_are_empty(file, path, manifest, &mut buffer)
}

/// Whether there is nothing but zeros between the stored frames. Copying tools fill holes with zeros or
/// punch zeros out, so how the file is laid out on disk says nothing.
fn holes_are_empty(file: &File, path: &Path, manifest: &Manifest, buffer: &mut [u8]) -> Result<()> {
    let size = manifest.board.ram_size;
    let data = data_ranges(file, 0, size);
    let mut data = data.iter().peekable();
    let stored = manifest.memory.chunks.iter().flat_map(Chunk::ranges);
    let mut hole_start = 0;
    for next in stored.chain(std::iter::once(size..size)) {
        let hole = hole_start..next.start;
        hole_start = next.end;
        while data.next_if(|part| part.end <= hole.start).is_some() {}
        for part in data.clone().take_while(|part| part.start < hole.end) {
            let mut at = part.start.max(hole.start);
            let end = part.end.min(hole.end);
            while at < end {
                let len = (end - at).min(CHUNK);
                let bytes = &mut buffer[..len as usize];
                file.read_exact_at(bytes, at).map_err(Error::io("read", path))?;
                if let Some(found) = bytes.iter().position(|byte| *byte != 0) {
                    let offset = at + found as u64;
                    return Err(Error::DataInHole { path: path.to_owned(), offset });
                }
                at += len;
            }
        }
    }
    Ok(())
}
