//! Whether the memory file is what the manifest says.
//!
//! A chunk's BLAKE3 is the root of a tree over its stored frames, so any thread can take any [`PIECE`] of it: whoever
//! does a chunk's last one joins what the others found. So all CPUs are at work to the end, however few chunks there
//! are and however unequal they be.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use rustix::thread::sched_getaffinity;

use super::manifest::{CHUNK, Chunk, Manifest};
use super::open::Files;
use super::{Error, KernelImage, Result};
use crate::target::data_ranges;

/// Bytes that are read at a time: enough for the hash to use all lanes of the CPU, and so few that they stay in
/// its cache and cost no page faults worth speaking of.
pub(super) const PIECE: usize = 64 << 10;
/// More threads than this, with the caller's, find no more memory bandwidth.
const MOST_THREADS: usize = 8;

// What the tree of a hash needs: pieces that are whole subtrees.
const _: () = assert!(PIECE.is_power_of_two() && PIECE >= blake3::CHUNK_LEN);

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
    pub(super) fn begin(files: Arc<Files>, known: Option<KernelImage>) -> Self {
        // One CPU is the caller's, who has other things to do first. Where the host does not say, that one is enough.
        let cpus = sched_getaffinity(None).map_or(1, |set| set.count() as usize);
        let pieces: usize = files.manifest.memory.chunks.iter().map(pieces_of).sum();
        let work = Arc::new(Work::new(files, known));
        let helper = |_| {
            let work = Arc::clone(&work);
            crate::thread::named("verify").spawn(move || work.all()).ok()
        };
        let helpers = (1..cpus.min(MOST_THREADS).min(pieces)).filter_map(helper).collect();
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
    known: Option<KernelImage>,
    path: PathBuf,
    next: Mutex<Next>,
}

/// What whoever is free begins next.
#[derive(Default)]
struct Next {
    holes_begun: bool,
    /// Index of the chunk that is begun after the current one.
    chunk: usize,
    /// The chunk of which pieces are left, and the first of those.
    current: Option<(Arc<Parts>, usize)>,
}

/// Something that one thread does.
enum Task {
    /// To look between the stored frames.
    Holes,
    /// To hash that piece of a chunk, or to compare it.
    Piece(Arc<Parts>, usize),
}

impl Work {
    fn new(files: Arc<Files>, known: Option<KernelImage>) -> Self {
        Self { path: files.memory_path(), files, known, next: Mutex::default() }
    }

    fn next(&self) -> Option<Task> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if !next.holes_begun {
            next.holes_begun = true;
            return Some(Task::Holes);
        }
        let (parts, piece) = match next.current.take() {
            Some(current) => current,
            None => {
                let index = next.chunk;
                let chunk = self.files.manifest.memory.chunks.get(index)?;
                next.chunk += 1;
                let known = self.known.as_ref().and_then(|image| image.place_of(chunk));
                (Arc::new(Parts { known, ..Parts::of(index, chunk) }), 0)
            }
        };
        next.current = (piece + 1 < parts.found.len()).then(|| (Arc::clone(&parts), piece + 1));
        Some(Task::Piece(parts, piece))
    }

    /// Does piece by piece until nobody has to begin one any more.
    fn all(&self) -> Result<()> {
        let Files { manifest, memory: file, .. } = &*self.files;
        let (mut buffer, mut same) = (vec![], vec![]);
        while let Some(task) = self.next() {
            let (parts, piece) = match task {
                Task::Holes => {
                    holes_are_empty(file, &self.path, manifest)?;
                    continue;
                }
                Task::Piece(parts, piece) => (parts, piece),
            };
            buffer.resize(PIECE, 0);
            let chunk = &manifest.memory.chunks[parts.chunk];
            let bytes = read_piece(file, chunk, piece, &mut buffer);
            let bytes = bytes.map_err(Error::io("read", &self.path))?;
            let known = self.known.as_ref().zip(parts.known);
            if let Some((image, place)) = known {
                same.resize(PIECE, 0);
                let place = place + (piece * PIECE) as u64;
                if !image.has(place, bytes, &mut same[..bytes.len()]).unwrap_or(false) {
                    // This file is damaged, or the image is not what the hashes beside it are of: once is enough.
                    if parts.left.swap(0, AcqRel) > 0 {
                        let found = hash(file, chunk, &mut buffer);
                        self.compare(chunk, found.map_err(Error::io("read", &self.path))?)?;
                    }
                }
            } else if let Some(found) = parts.add(piece, bytes) {
                self.compare(chunk, found)?;
            }
        }
        Ok(())
    }

    /// Whether a chunk is what was saved.
    fn compare(&self, chunk: &Chunk, found: blake3::Hash) -> Result<()> {
        let wanted = blake3::Hash::from_bytes(chunk.blake3);
        if found == wanted {
            return Ok(());
        }
        Err(Error::Damaged {
            path: self.path.clone(),
            start: chunk.at,
            end: (chunk.at + CHUNK).min(self.files.manifest.board.ram_size),
            found: found.to_hex().to_string(),
            wanted: wanted.to_hex().to_string(),
        })
    }
}

/// A chunk whose pieces several threads hash.
struct Parts {
    /// Its index.
    chunk: usize,
    /// Where its bytes stand in the kernel's image, if they shall be the same: then its pieces are compared, and hashed
    /// only if one is another.
    known: Option<u64>,
    /// Bytes of its stored frames.
    len: u64,
    /// What was found of each piece.
    found: Vec<OnceLock<ChainingValue>>,
    /// Pieces that are not done.
    left: AtomicUsize,
}

impl Parts {
    fn of(index: usize, chunk: &Chunk) -> Self {
        let pieces = pieces_of(chunk);
        let found = std::iter::repeat_with(OnceLock::new).take(pieces).collect();
        Self {
            chunk: index,
            known: None,
            len: stored_in(chunk),
            found,
            left: AtomicUsize::new(pieces),
        }
    }

    /// Hashes the bytes of one piece; the hash of all if it was the last one that was missing.
    fn add(&self, piece: usize, bytes: &[u8]) -> Option<blake3::Hash> {
        if self.found.len() == 1 {
            return Some(blake3::hash(bytes));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset((piece * PIECE) as u64).update(bytes);
        // Each is hashed once.
        let _ = self.found[piece].set(hasher.finalize_non_root());
        if self.left.fetch_sub(1, AcqRel) > 1 {
            return None;
        }
        let found: Option<Vec<_>> = self.found.iter().map(|value| value.get().copied()).collect();
        let found = found.expect("what was counted was set before");
        let (left, right) = halves(&found, self.len);
        Some(hazmat::merge_subtrees_root(&left, &right, Mode::Hash))
    }
}

/// The values of the two subtrees below the node over `pieces`, two or more of `len` bytes together.
fn halves(pieces: &[ChainingValue], len: u64) -> (ChainingValue, ChainingValue) {
    let at = hazmat::left_subtree_len(len);
    let (left, right) = pieces.split_at((at / PIECE as u64) as usize);
    (value_of(left, at), value_of(right, len - at))
}

/// The value of the node over `pieces`, of `len` bytes together.
fn value_of(pieces: &[ChainingValue], len: u64) -> ChainingValue {
    if let [piece] = pieces {
        return *piece;
    }
    let (left, right) = halves(pieces, len);
    hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
}

/// Bytes of a chunk's stored frames.
fn stored_in(chunk: &Chunk) -> u64 {
    chunk.ranges().map(|range| range.end - range.start).sum()
}

/// How many pieces a chunk has.
fn pieces_of(chunk: &Chunk) -> usize {
    stored_in(chunk).div_ceil(PIECE as u64) as usize
}

/// Reads a piece of a chunk's stored frames.
fn read_piece<'b>(
    file: &File,
    chunk: &Chunk,
    piece: usize,
    buffer: &'b mut [u8],
) -> io::Result<&'b [u8]> {
    let mut skip = (piece * PIECE) as u64;
    let mut have = 0;
    for range in chunk.ranges() {
        let len = range.end - range.start;
        let start = range.start + skip.min(len);
        skip -= skip.min(len);
        let wanted = (PIECE - have).min((range.end - start) as usize);
        file.read_exact_at(&mut buffer[have..have + wanted], start)?;
        have += wanted;
    }
    Ok(&buffer[..have])
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

#[cfg(test)]
mod tests {
    use super::super::known::SUFFIX;
    use super::super::{Facts, Snapshot, Trust, save};
    use super::*;
    use crate::introspect::synthetic::Guest;
    use crate::machine::{KERNEL_BASE, RAM_BASE};
    use crate::target::PAGE_SIZE;

    #[test]
    fn what_the_kernel_image_has_is_compared_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Image");
        let at = KERNEL_BASE - RAM_BASE;
        let bytes = vec![7; CHUNK as usize];
        let memory = tempfile::tempfile().unwrap();
        memory.write_all_at(&bytes, at).unwrap();
        let guest = Guest::new();
        let saved = dir.path().join("snapshot");
        let facts = Facts { cpus: 1, ..Facts::default() };
        save(&guest.target(), &facts, &saved).unwrap();
        let manifest = Snapshot::open(&saved, Trust::Trust).unwrap().manifest().clone();
        let chunk = |hash: blake3::Hash| {
            let frames = vec![(0, (CHUNK / PAGE_SIZE) as u32)];
            Chunk { at, frames, blake3: hash.into() }
        };
        let verify = |image: &[u8], hash: blake3::Hash, wanted: blake3::Hash| {
            std::fs::write(&path, image).unwrap();
            let name = format!("{}{SUFFIX}", path.display());
            std::fs::write(name, format!("{}\n", hash.to_hex())).unwrap();
            let known = KernelImage::open(&path);
            assert!(known.is_some());
            let mut manifest = manifest.clone();
            manifest.memory.chunks = vec![chunk(wanted)];
            manifest.board.ram_size = at + CHUNK;
            let memory = memory.try_clone().unwrap();
            let files = Files { dir: dir.path().to_owned(), manifest, memory };
            Verification::begin(Arc::new(files), known).finish()
        };
        let (right, other) = (blake3::hash(&bytes), blake3::hash(b"other"));
        verify(&bytes, right, right).unwrap();
        // Nobody hashed it, or this would be damage.
        verify(&bytes, other, other).unwrap();
        // An image that changed after it was hashed, is cut short, or another one.
        verify(&vec![8; CHUNK as usize], right, right).unwrap();
        verify(&bytes[..1000], right, right).unwrap();
        verify(&bytes, other, right).unwrap();
        // Damage.
        memory.write_all_at(b"x", at + CHUNK / 2).unwrap();
        let damaged = |result: Result<()>| assert!(matches!(result, Err(Error::Damaged { .. })));
        damaged(verify(&bytes, right, right));
        damaged(verify(&bytes, other, right));
    }

    #[test]
    fn pieces_in_any_order_give_the_hash_of_the_whole() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> =
            (0..CHUNK as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        let frames = (CHUNK / PAGE_SIZE) as u32;
        for runs in [
            vec![(3, 1)],
            vec![(0, 16)],
            vec![(0, 17)],
            vec![(1, 15), (20, 1), (30, 2)],
            vec![(0, 48)],
            vec![(2, 100), (200, 31), (300, 200)],
            vec![(0, frames - 1)],
            vec![(0, frames)],
            (0..frames / 2).map(|n| (2 * n, 1)).collect(),
        ] {
            let chunk = Chunk { at: 0, frames: runs, blake3: [0; 32] };
            let stored: Vec<u8> = chunk
                .ranges()
                .flat_map(|range| &bytes[range.start as usize..range.end as usize])
                .copied()
                .collect();
            let whole = blake3::hash(&stored);
            let mut buffer = vec![0; PIECE];
            assert_eq!(hash(&file, &chunk, &mut buffer).unwrap(), whole);
            let parts = Parts::of(0, &chunk);
            let pieces = parts.found.len();
            for piece in (0..pieces).rev() {
                let bytes = read_piece(&file, &chunk, piece, &mut buffer).unwrap();
                let found = parts.add(piece, bytes);
                assert_eq!(found, (piece == 0).then_some(whole), "{:?}", chunk.frames);
            }
        }
    }
}
