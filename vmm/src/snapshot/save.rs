//! Writes a snapshot.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::manifest::{
    Board, CHUNK, Chunk, Cpu, Disk, Kernel, MANIFEST, MEMORY, Manifest, Memory, Source, TaskRow,
    Tasks, Thaw,
};
use super::partial::Partial;
use super::{Error, Result};
use crate::introspect::{self, FreeFrames, Request};
use crate::target::{PAGE_SIZE, Ram};

/// What the caller knows and RAM does not say.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Where the snapshot comes from.
    pub source: Source,
    /// Number of CPUs.
    pub cpus: u32,
    /// What its network cards were connected to.
    pub networks: Vec<String>,
    /// What programs were told of the CPU.
    pub cpu: Cpu,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Where a frozen kernel goes on.
    pub thaw: Option<Thaw>,
}

/// What was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Bytes of RAM.
    pub ram: u64,
    /// Bytes of the frames that are stored.
    pub stored: u64,
}

/// A snapshot that is being written. Dropped before [`Save::finish`], it leaves nothing behind.
pub struct Save {
    partial: Partial,
    memory: File,
}

/// A snapshot whose memory was copied, but not hashed and synced yet.
pub struct Copied {
    save: Save,
    manifest: Manifest,
}

impl Save {
    /// Starts a snapshot that shall be the folder `dir`, a new one or one that replaces the snapshot
    /// there.
    pub fn begin(dir: &Path) -> Result<Self> {
        let partial = Partial::create(dir, MANIFEST)?;
        let memory = partial.create_file(MEMORY)?;
        Ok(Self { partial, memory })
    }

    /// Copies what `ram` holds. The guest stands still meanwhile; afterwards it may run on.
    pub fn copy(self, ram: &dyn Ram, facts: &Facts) -> Result<Copied> {
        let taken = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let range = match ram.ranges().as_slice() {
            [range] => range.clone(),
            ranges => {
                return Err(Error::Ram { what: format!("it has {} ranges", ranges.len()) });
            }
        };
        let size = range.end - range.start;
        if !range.start.is_multiple_of(PAGE_SIZE) || !size.is_multiple_of(PAGE_SIZE) {
            return Err(Error::Ram { what: format!("{range:#x?} are no whole pages") });
        }
        let kernel = introspect::Kernel::open(ram, true)?;
        let populated = ram.populated();
        let free = FreeFrames::read(&kernel, &populated)?;
        let root = kernel.root();
        let mut manifest = Manifest {
            writer: concat!("belljar ", env!("CARGO_PKG_VERSION")).to_owned(),
            taken_ns: u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX),
            source: facts.source.clone(),
            kernel: Kernel {
                build_id: root.build_id().iter().map(|b| format!("{b:02x}")).collect(),
                root_page: root.phys(),
                root_version: root.version(),
                layout_version: root.layout_version(),
            },
            board: Board {
                name: "virt".to_owned(),
                ram_base: range.start,
                ram_size: size,
                cpus: facts.cpus,
                networks: facts.networks.clone(),
            },
            cpu: facts.cpu.clone(),
            disks: facts.disks.clone(),
            thaw: facts.thaw.clone(),
            tasks: tasks(&kernel)?,
            memory: Memory { stored: 0, chunk: CHUNK, chunks: vec![] },
        };
        let path = self.partial.file(MEMORY);
        self.memory.set_len(size).map_err(|e| self.write_error(e, &path, 0))?;
        let mut buffer = vec![0; CHUNK as usize];
        let mut parts = populated.into_iter().peekable();
        for at in (0..size).step_by(CHUNK as usize) {
            let chunk = range.start + at..range.start + size.min(at + CHUNK);
            while parts.next_if(|part| part.end <= chunk.start).is_some() {}
            if parts.peek().is_none_or(|part| part.start >= chunk.end) {
                continue;
            }
            let frames = self.copy_chunk(ram, &free, &chunk, at, &mut buffer)?;
            if !frames.is_empty() {
                let count: u64 = frames.iter().map(|(_, count)| u64::from(*count)).sum();
                manifest.memory.stored += count * PAGE_SIZE;
                manifest.memory.chunks.push(Chunk { at, frames, blake3: [0; 32] });
            }
        }
        Ok(Copied { save: self, manifest })
    }

    /// Writes the frames of one chunk that are in use and hold anything, and says which.
    fn copy_chunk(
        &self,
        ram: &dyn Ram,
        free: &FreeFrames,
        chunk: &Range<u64>,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<Vec<(u32, u32)>> {
        const ZERO: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
        let bytes = &mut buffer[..(chunk.end - chunk.start) as usize];
        ram.read(chunk.start, bytes)?;
        let mut runs: Vec<(u32, u32)> = vec![];
        for (i, frame) in bytes.chunks_exact(PAGE_SIZE as usize).enumerate() {
            if free.contains(chunk.start + i as u64 * PAGE_SIZE) || frame == ZERO {
                continue;
            }
            match runs.last_mut() {
                Some((first, count)) if *first + *count == i as u32 => *count += 1,
                _ => runs.push((i as u32, 1)),
            }
        }
        let path = self.partial.file(MEMORY);
        for (first, count) in &runs {
            let start = *first as usize * PAGE_SIZE as usize;
            let run = &bytes[start..start + *count as usize * PAGE_SIZE as usize];
            self.memory
                .write_all_at(run, at + start as u64)
                .map_err(|e| self.write_error(e, &path, run.len() as u64))?;
        }
        Ok(runs)
    }

    fn write_error(&self, cause: io::Error, path: &Path, needed: u64) -> Error {
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { dir: self.partial.target().to_owned(), needed }
            }
            _ => Error::io("write", path)(cause),
        }
    }
}

impl Copied {
    /// What will be saved.
    pub fn saved(&self) -> Saved {
        Saved { ram: self.manifest.board.ram_size, stored: self.manifest.memory.stored }
    }

    /// Hashes and syncs what was copied, and moves the snapshot into its place.
    pub fn finish(self) -> Result<Saved> {
        let saved = self.saved();
        let Self { save, mut manifest } = self;
        let path = save.partial.file(MEMORY);
        let mut buffer = vec![0; super::verify::PIECE];
        for chunk in &mut manifest.memory.chunks {
            chunk.blake3 = super::verify::hash(&save.memory, chunk, &mut buffer)
                .map_err(Error::io("read", &path))?
                .into();
        }
        let full = |e| save.write_error(e, &path, 0);
        save.memory.sync_all().map_err(full)?;
        let text = manifest.to_text().map_err(|e| full(e.into()))?;
        save.partial.write_file(MANIFEST, &text).map_err(|e| match e {
            Error::Io { cause, path, .. } => save.write_error(cause, &path, 0),
            other => other,
        })?;
        save.partial.commit()?;
        Ok(saved)
    }
}

/// Saves `ram` as the folder `dir`, all in one: for a guest that stands still anyway.
pub fn save(ram: &dyn Ram, facts: &Facts, dir: &Path) -> Result<Saved> {
    Save::begin(dir)?.copy(ram, facts)?.finish()
}

/// The programs that a guest runs.
fn tasks(kernel: &introspect::Kernel<'_>) -> Result<Tasks> {
    let answer = introspect::view(kernel, &Request::Ps, None)?;
    let uint = |row: &crate::render::Row, key: &str| row.get(key).and_then(|v| v.as_u64());
    let programs = answer.rows.iter().filter(|row| uint(row, "vsz").is_some_and(|vsz| vsz > 0));
    let programs = programs.take(Tasks::MAX_ROWS).map(|row| TaskRow {
        pid: uint(row, "pid").unwrap_or_default(),
        ppid: uint(row, "ppid"),
        threads: uint(row, "threads").unwrap_or_default(),
        rss: uint(row, "rss").unwrap_or_default(),
        comm: row.get("comm").and_then(|v| v.as_str()).unwrap_or_default().to_owned(),
    });
    Ok(Tasks { count: answer.rows.len() as u64, programs: programs.collect() })
}
