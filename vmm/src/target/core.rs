//! The memory in an ELF core of a whole machine: one that `belljar dump` wrote, or any other whose
//! segments say which physical addresses they hold (QEMU's `dump-guest-memory`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::read::ReadCache;

use super::{Error, Ram, data_ranges};
use crate::elfcore::{self, Parsed, Segment, regs};

/// Why a file cannot serve as a machine's core.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// It cannot be read.
    #[error("cannot read {}: {cause}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// It is something else.
    #[error("{} is no core of a machine: {cause}", .path.display())]
    NotACore {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: elfcore::Error,
    },
    /// It holds no memory, as the core of a process does not either.
    #[error("{} holds no physical memory: is it the core of a process?", .path.display())]
    NoMemory {
        /// The file.
        path: PathBuf,
    },
}

/// A core's memory.
#[derive(Debug)]
pub struct VmCore {
    file: File,
    /// By physical address, not overlapping.
    segments: Vec<Segment>,
    cpus: Vec<(regs::General, regs::FpSimd)>,
}

impl VmCore {
    /// Opens the core in the file `path`.
    pub fn open(path: &Path) -> Result<Self, CoreError> {
        let failed = |cause| CoreError::Io { path: path.to_owned(), cause };
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let parsed = elfcore::parse(&ReadCache::new(&file))
            .map_err(|cause| CoreError::NotACore { path: path.to_owned(), cause })?;
        let general = parsed.notes(regs::CORE, regs::NT_PRSTATUS).filter_map(regs::General::read);
        let fp = parsed.notes(regs::CORE, regs::NT_FPREGSET).filter_map(regs::FpSimd::read);
        let cpus = general.zip(fp).collect();
        let segments = Self::physical(parsed);
        match segments.is_empty() {
            true => Err(CoreError::NoMemory { path: path.to_owned() }),
            false => Ok(Self { file, segments, cpus }),
        }
    }

    /// The registers of every CPU, in their order.
    pub fn cpus(&self) -> &[(regs::General, regs::FpSimd)] {
        &self.cpus
    }

    /// The segments that hold physical memory, each byte once: what is mapped at several virtual addresses
    /// has several segments.
    fn physical(parsed: Parsed) -> Vec<Segment> {
        let mut segments: Vec<Segment> =
            parsed.segments.into_iter().filter(|s| s.paddr != 0 && s.filesz > 0).collect();
        segments.sort_by_key(|s| (s.paddr, std::cmp::Reverse(s.filesz)));
        let mut end = 0;
        segments.retain(|s| {
            let is_new = s.paddr >= end;
            if is_new {
                end = s.paddr + s.filesz;
            }
            is_new
        });
        segments
    }
}

impl Ram for VmCore {
    fn ranges(&self) -> Vec<Range<u64>> {
        self.segments.iter().map(|s| s.paddr..s.paddr + s.filesz).collect()
    }

    fn read(&self, phys: u64, buf: &mut [u8]) -> Result<(), Error> {
        let outside = Error::OutsideRam { phys, len: buf.len() };
        let (mut at, mut rest) = (phys, buf);
        while !rest.is_empty() {
            let next = self.segments.partition_point(|s| s.paddr <= at);
            let segment = next.checked_sub(1).map(|i| self.segments[i]).ok_or(outside.clone())?;
            let skip = at - segment.paddr;
            let there =
                segment.filesz.checked_sub(skip).filter(|n| *n > 0).ok_or(outside.clone())?;
            let (now, later) = rest.split_at_mut(rest.len().min(there as usize));
            self.file
                .read_exact_at(now, segment.offset + skip)
                .map_err(|e| Error::Io { phys: at, cause: e.to_string() })?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn populated(&self) -> Vec<Range<u64>> {
        let populated = |s: &Segment| {
            let paddr = s.paddr;
            let ranges = data_ranges(&self.file, s.offset, s.filesz);
            ranges.into_iter().map(move |r| paddr + r.start..paddr + r.end)
        };
        self.segments.iter().flat_map(populated).collect()
    }
}
