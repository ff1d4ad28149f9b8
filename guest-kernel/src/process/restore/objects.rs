//! What several processes of a checkpoint have in common, made once: open files, pipes, mapped files, shared
//! memory, pages that are copied on a write.

use alloc::vec::Vec;

use belljar_abi::corenote;

use super::Failure;
use super::files::verify;
use super::nameless::Nameless;
use super::plan::{Plan, VmaPlan};
use super::sockets::Sockets;
use super::terminals::Ptys;
use crate::addr::PAGE_SHIFT;
use crate::errno::{Errno, Result};
use crate::fs::open::OpenHow;
use crate::fs::{self, Caller, File, OpenFlags};
use crate::kref::Ref;
use crate::mm::{FrameRef, MappedFile, VmFlags, mmap};

/// A map that grows by the end mostly, and reports `ENOMEM`.
pub(super) struct Map<V>(Vec<(u64, V)>);

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Map<V> {
    pub(super) fn get(&self, key: u64) -> Option<&V> {
        let at = self.0.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, key: u64, value: V) -> Result<()> {
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = self.0.partition_point(|(other, _)| *other < key);
        self.0.insert(at, (key, value));
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(u64, V)> {
        self.0.iter()
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let at = self.0.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }
}

/// A file as address spaces map it: which, and for stores to it or not.
struct Mapped {
    path: Vec<u8>,
    writable: bool,
    file: Ref<MappedFile>,
}

/// The ends of a pipe that nobody in the checkpoint had open go when the objects do.
pub(super) struct PipeEnds {
    pub(super) reader: Ref<File>,
    pub(super) writer: Ref<File>,
}

/// Everything in common.
#[derive(Default)]
pub(super) struct Objects {
    pub(super) files: Map<Ref<File>>,
    pub(super) pipes: Map<PipeEnds>,
    pub(super) sockets: Sockets,
    pub(super) ptys: Ptys,
    pub(super) nameless: Nameless,
    /// FIFOs, each held open at both ends.
    pub(super) fifos: Map<Ref<File>>,
    pub(super) pages: Map<FrameRef>,
    /// Shared anonymous memory by its number, and how long it must be.
    memory: Map<(u64, Option<Ref<MappedFile>>)>,
    mapped: Vec<Mapped>,
}

impl Objects {
    /// Notes how long each piece of shared anonymous memory is: one process may have mapped only a part.
    pub(super) fn measure(&mut self, plan: &Plan<'_>) -> Result<()> {
        for vma in plan.vmas.iter().filter(|vma| is_shared_memory(vma)) {
            let pages = (vma.record.end - vma.record.start) >> PAGE_SHIFT;
            let len = vma.record.pgoff.checked_add(pages).filter(|n| *n < 1 << 36);
            let len = len.ok_or(Errno::EINVAL)? << PAGE_SHIFT;
            match self.memory.get_mut(vma.record.ino) {
                Some((longest, _)) => *longest = len.max(*longest),
                None => self.memory.insert(vma.record.ino, (len, None))?,
            }
        }
        Ok(())
    }

    /// What a range maps; `None` for private anonymous memory.
    pub(super) fn mapped(
        &mut self,
        caller: Caller<'_>,
        plan: &Plan<'_>,
        vma: &VmaPlan<'_>,
    ) -> Result<Option<Ref<MappedFile>>, Failure> {
        let failed = |errno| Failure::new(plan, errno, format_args!("its memory: {errno}"));
        if vma.path.is_empty() {
            return Ok(None);
        }
        if vma.path == corenote::SIGRETURN_NAME {
            return Ok(Some(crate::process::sigpage::page()));
        }
        if is_shared_memory(vma) {
            let Some((len, memory)) = self.memory.get_mut(vma.record.ino) else {
                return Err(failed(Errno::EINVAL));
            };
            if memory.is_none() {
                *memory = Some(mmap::shared_memory(*len).map_err(failed)?);
            }
            return Ok(memory.clone());
        }
        let shared = vma.flags.contains(VmFlags::SHARED);
        let writable = shared && vma.flags.contains(VmFlags::MAYWRITE);
        if vma.record.nameless != 0 {
            return self.nameless.mapped(vma.record.nameless, writable).map(Some).map_err(failed);
        }
        let expected = Expected { size: vma.record.size, hash: vma.hash };
        let expected = (!vma.hash.is_empty()).then_some(expected);
        self.file(caller, plan, vma.path, writable, expected).map(Some)
    }

    /// The file at `path` as address spaces map it.
    pub(super) fn file(
        &mut self,
        caller: Caller<'_>,
        plan: &Plan<'_>,
        path: &[u8],
        writable: bool,
        expected: Option<Expected<'_>>,
    ) -> Result<Ref<MappedFile>, Failure> {
        let name = path.escape_ascii();
        let failed = |errno| Failure::new(plan, errno, format_args!("mapped file {name}: {errno}"));
        let known = self.mapped.iter().find(|m| m.path == path && m.writable == writable);
        if let Some(known) = known {
            return Ok(known.file.clone());
        }
        let flags = if writable { OpenFlags::RDWR } else { OpenFlags::empty() };
        let how = OpenHow { flags, ..OpenHow::default() };
        let file = fs::open::open(caller, None, path, how).map_err(failed)?;
        if let Some(expected) = expected {
            verify(&file, &expected)
                .map_err(|what| Failure::new(plan, Errno::ESTALE, format_args!("{name} {what}")))?;
        }
        let file = fs::pagecache::mapped_file(&file, writable).map_err(failed)?;
        let mut own = Vec::new();
        own.try_reserve_exact(path.len()).map_err(|_| failed(Errno::ENOMEM))?;
        own.extend_from_slice(path);
        self.mapped.try_reserve(1).map_err(|_| failed(Errno::ENOMEM))?;
        self.mapped.push(Mapped { path: own, writable, file: file.clone() });
        Ok(file)
    }
}

/// What a file was when the core was made.
pub(super) struct Expected<'a> {
    /// Bytes.
    pub(super) size: u64,
    /// BLAKE3 of them; empty if it is not known.
    pub(super) hash: &'a [u8],
}

/// Memory that processes share without a file.
fn is_shared_memory(vma: &VmaPlan<'_>) -> bool {
    vma.path == corenote::SHARED_NAME
}
