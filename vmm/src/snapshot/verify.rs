//! Whether the memory file is what the manifest says.

use std::cmp::Reverse;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use rustix::thread::sched_getaffinity;

use super::manifest::{CHUNK, Chunk, Manifest};
use super::open::Files;
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

/// The check of a memory file under way: every stored frame is read, and whatever else the file holds, on as many
/// CPUs as there are.
#[must_use = "nothing is known before `finish`"]
pub struct Verification {
    work: Arc<Work>,
    helpers: Vec<JoinHandle<Result<()>>>,
}

impl Verification {
    /// Starts the threads, which leave the caller free to do other things, also to fork a child that until its exec
    /// only makes system calls, as QEMU's does.
    pub(super) fn begin(files: Arc<Files>) -> Self {
        // Where the host does not say, the caller's thread is enough.
        let cpus = sched_getaffinity(None).map_or(0, |set| set.count() as usize);
        let work = Arc::new(Work::new(files));
        let helper = |_| {
            let work = Arc::clone(&work);
            crate::thread::named("verify").spawn(move || work.all()).ok()
        };
        let helpers =
            (0..cpus.min(MOST_THREADS).min(work.order.len())).filter_map(helper).collect();
        Self { work, helpers }
    }

    /// Does what is left, and says whether the memory file is what the manifest says.
    pub fn finish(self) -> Result<()> {
        let join = |helper: JoinHandle<Result<()>>| {
            helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let own = self.work.all();
        self.helpers.into_iter().map(join).fold(own, Result::and)
    }
}

/// What is to be done, and how far it is.
struct Work {
    files: Arc<Files>,
    path: PathBuf,
    /// Indices of the chunks, the largest first: no thread is left with one when the others have nothing more to do.
    order: Vec<usize>,
    next: AtomicUsize,
}

impl Work {
    fn new(files: Arc<Files>) -> Self {
        let chunks = &files.manifest.memory.chunks;
        let stored = |chunk: &Chunk| chunk.frames.iter().map(|(_, count)| u64::from(*count)).sum();
        let sizes: Vec<u64> = chunks.iter().map(stored).collect();
        let mut order: Vec<_> = (0..chunks.len()).collect();
        order.sort_by_key(|index| Reverse(sizes[*index]));
        Self { path: files.memory_path(), files, order, next: AtomicUsize::new(0) }
    }

    /// Does piece by piece until nobody has to begin one any more.
    fn all(&self) -> Result<()> {
        let Files { manifest, memory: file, .. } = &*self.files;
        let mut buffer = vec![];
        loop {
            match self.next.fetch_add(1, Relaxed).checked_sub(1) {
                None => holes_are_empty(file, &self.path, manifest)?,
                Some(next) => {
                    let Some(index) = self.order.get(next) else { return Ok(()) };
                    buffer.resize(PIECE, 0);
                    check(
                        file,
                        &self.path,
                        manifest,
                        &manifest.memory.chunks[*index],
                        &mut buffer,
                    )?;
                }
            }
        }
    }
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
