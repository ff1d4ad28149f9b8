//! Which memory goes into a core (core(5), "Controlling which mappings are written").

use alloc::vec::Vec;

use super::Dump;
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::pagecache::FileBacking;
use crate::mm::frame::page_of;
use crate::mm::{Mm, PageKind, RangeFile, VmFlags, Vma};

/// Bits of `coredump_filter` that mean something.
pub const FILTER_BITS: u32 = 0x1ff;
/// Private memory that belongs to no file, or no more.
const ANON_PRIVATE: u32 = 1 << 0;
/// Shared memory that belongs to no file.
const ANON_SHARED: u32 = 1 << 1;
/// Files that are mapped privately.
const MAPPED_PRIVATE: u32 = 1 << 2;
/// Files that are mapped shared.
const MAPPED_SHARED: u32 = 1 << 3;
/// The first page of ELF files: a debugger finds by it what is mapped there.
const ELF_HEADERS: u32 = 1 << 4;

/// A mapping as the core has it.
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) flags: VmFlags,
    /// Page of the file at its start.
    pub(super) pgoff: u64,
    /// How many bytes from its start are in the core.
    pub(super) dumped: u64,
    /// What is mapped.
    pub(super) file: Option<RangeFile>,
}

/// The mappings of the process, in order.
pub(super) fn snapshot(dump: &Dump<'_>) -> Result<Vec<Segment>> {
    let filter = dump.mm.dump_filter.load(core::sync::atomic::Ordering::Relaxed);
    let mut segments = Vec::new();
    {
        let space = dump.mm.space.read();
        segments.try_reserve_exact(space.vmas.len()).map_err(|_| Errno::ENOMEM)?;
        for vma in space.vmas.iter() {
            segments.push(Segment {
                start: vma.start,
                end: vma.end,
                flags: vma.flags,
                pgoff: vma.pgoff,
                dumped: dumped(dump.mm, vma, filter),
                file: vma.file.clone(),
            });
        }
    }
    // Without the lock of the mappings, as reading a file takes it.
    for segment in segments.iter_mut().filter(|s| s.dumped == MAYBE_HEADER) {
        let mut magic = [0; 4];
        let read = dump.mm.read_remote(segment.start, &mut magic);
        let elf = read == magic.len() && magic == *b"\x7fELF";
        segment.dumped = if elf { PAGE_SIZE as u64 } else { 0 };
    }
    Ok(segments)
}

/// The first page, if an ELF file begins there.
const MAYBE_HEADER: u64 = u64::MAX;

/// How many bytes of a mapping go into the core (`vma_dump_size`).
fn dumped(mm: &Mm, vma: &Vma, filter: u32) -> u64 {
    let wants = |bit| filter & bit != 0;
    let whole = vma.end - vma.start;
    let when = |yes| if yes { whole } else { 0 };
    let backing =
        vma.file.as_ref().and_then(|f| f.backing().as_any().downcast_ref::<FileBacking>());
    let inode = backing.map(|backing| &backing.file.inode);
    // What the kernel itself maps into every program has a name in brackets.
    if vma.file.as_ref().is_some_and(|file| file.path.first() == Some(&b'[')) {
        return whole;
    }
    if vma.flags.contains(VmFlags::DONTDUMP) {
        return 0;
    }
    // What can never be written to is as good as private.
    if !vma.is_private() && vma.flags.contains(VmFlags::MAYWRITE) {
        let linked = inode.is_some_and(|inode| inode.nlink() > 0);
        return when(wants(if linked { MAPPED_SHARED } else { ANON_SHARED }));
    }
    if wants(ANON_PRIVATE) && has_own_pages(mm, vma) {
        return whole;
    }
    if vma.file.is_none() {
        return 0;
    }
    if wants(MAPPED_PRIVATE) {
        return whole;
    }
    if wants(ELF_HEADERS) && vma.pgoff == 0 && vma.flags.contains(VmFlags::READ) {
        let runs = inode.is_some_and(|inode| inode.mode() & 0o111 != 0);
        return if runs { PAGE_SIZE as u64 } else { MAYBE_HEADER };
    }
    0
}

/// True if the process wrote to the mapping: it has pages of its own there.
fn has_own_pages(mm: &Mm, vma: &Vma) -> bool {
    let mut at = vma.start;
    while at < vma.end {
        let tables = mm.tables.lock();
        let Some(page) = tables.next_present(at, vma.end) else { return false };
        let pte = tables.lookup(page);
        if !pte.is_special() && page_of(pte.phys()).kind() == PageKind::Anon {
            return true;
        }
        at = page.0 + PAGE_SIZE as u64;
    }
    false
}
