//! Whether the memory file is what the manifest says.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use rustix::thread::sched_getaffinity;

use super::manifest::{CHUNK, Chunk, Manifest};
use super::{Error, Result};
use crate::target::data_ranges;

/// Bytes that are read at a time: enough for the hash to use all lanes of the CPU, and so few that they stay in
/// its cache and cost no page faults worth speaking of.
pub(super) const PIECE: usize = 64 << 10;
/// More threads than this find no more memory bandwidth.
const MOST_THREADS: usize = 8;

/// The hash of a chunk's stored frames, read through `buffer`.
pub(super) fn hash(file: &File, chunk: &Chunk, buffer: &mut [u8]) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    for range in chunk.ranges() {
        let mut at = range.start;
        while at < range.end {
            let len = buffer.len().min((range.end - at) as usize);
            file.read_exact_at(&mut buffer[..len], at)?;
            hasher.update(&buffer[..len]);
            at += len as u64;
        }
    }
    Ok(hasher.finalize())
}

/// Reads every stored frame, and whatever else the file holds, on as many CPUs as there are.
pub(super) fn verify(file: &File, path: &Path, manifest: &Manifest) -> Result<()> {
    let next = AtomicUsize::new(0);
    let check_chunks = || {
        let mut buffer = vec![0; PIECE];
        while let Some(chunk) = manifest.memory.chunks.get(next.fetch_add(1, Relaxed)) {
            check(file, path, manifest, chunk, &mut buffer)?;
        }
        Ok(())
    };
    // Where the host does not say, this thread is enough.
    let cpus = sched_getaffinity(None).map_or(1, |set| set.count() as usize);
    let helpers = cpus.min(MOST_THREADS).min(manifest.memory.chunks.len()).saturating_sub(1);
    thread::scope(|scope| {
        let helper = |_| crate::thread::named("verify").spawn_scoped(scope, check_chunks).ok();
        let helpers: Vec<_> = (0..helpers).filter_map(helper).collect();
        let own = check_chunks().and_then(|()| holes_are_empty(file, path, manifest));
        let join = |helper: thread::ScopedJoinHandle<'_, Result<()>>| {
            helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        helpers.into_iter().map(join).fold(own, Result::and)
    })
}

/// Whether a chunk is what was saved.
fn check(
    file: &File,
    path: &Path,
    manifest: &Manifest,
    chunk: &Chunk,
    buffer: &mut [u8],
) -> Result<()> {
    let found = hash(file, chunk, buffer).map_err(Error::io("read", path))?;
    if found.as_bytes() == &chunk.blake3 {
        return Ok(());
    }
    Err(Error::Damaged {
        path: path.to_owned(),
        start: chunk.at,
        end: (chunk.at + CHUNK).min(manifest.board.ram_size),
        found: found.to_hex().to_string(),
        wanted: blake3::Hash::from_bytes(chunk.blake3).to_hex().to_string(),
    })
}

/// Whether there is nothing but zeros between the stored frames. Copying tools fill holes with zeros or
/// punch zeros out, so how the file is laid out on disk says nothing.
fn holes_are_empty(file: &File, path: &Path, manifest: &Manifest) -> Result<()> {
    let mut buffer = vec![];
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
                let len = (end - at).min(PIECE as u64);
                buffer.resize(PIECE, 0);
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
