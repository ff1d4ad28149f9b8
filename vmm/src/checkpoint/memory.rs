//! Which pages of a process are there, as segments of a core.
//!
//! A range of anonymous memory is one segment: pages that were never touched are zeros, which the core
//! keeps as holes of the file, and what follows the last page is left out (`p_filesz` < `p_memsz`). A range of a
//! file is cut into segments: pages that are in memory, and runs that are not, which have no bytes in
//! the core at all, because zeros would be wrong there: a debugger takes them from the file. That it finds
//! the right one, the headers of an ELF file are in the core in any case (core(5), `coredump_filter` bit 4).

use std::ops::Range;

use belljar_abi::corenote;

use super::content::{Content, Contents};
use super::nameless::{Nameless, is_nameless};
use super::{Error, Result};
use crate::elfcore::{PF_R, PF_W, PF_X, Segment};
use crate::introspect::{Object, Process};
use crate::target::walk::{Mapped, mapped_ranges_in};
use crate::target::{PAGE_SIZE, Ram};

/// Most bytes of one process: several times the largest guest's RAM, since pages may be mapped twice.
pub(super) const MAX_BYTES: u64 = 4 * crate::machine::MAX_MEMORY;
/// Most runs of pages in one range.
const MAX_RUNS: usize = 1 << 22;

/// One range of an address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Vma {
    pub range: Range<u64>,
    /// `VM_*`, the bits as the kernel has them.
    pub flags: u64,
    /// Page of the file at its start.
    pub pgoff: u64,
    /// What is mapped.
    pub file: Option<MappedFile>,
    /// Its pages in memory, by address.
    pub pages: Vec<Mapped>,
}

/// A mapped object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MappedFile {
    pub dev: u64,
    pub ino: u64,
    pub path: Vec<u8>,
    /// What it holds, if it is a regular file and somebody wants to know.
    pub content: Option<Content>,
    /// Where the kernel has its pages; 0 if it is not made of pages.
    pub pages: u64,
}

/// Linux's `VM_*`.
const VM_READ: u64 = 1;
const VM_WRITE: u64 = 2;
const VM_EXEC: u64 = 4;
/// Mapped for all to see changes.
pub(super) const VM_SHARED: u64 = 8;
const VM_DONTDUMP: u64 = 0x400_0000;

/// The ranges of a process with what of them is in memory. `hashed`: and what their files hold.
pub(super) fn vmas<'k>(
    process: &Process<'k>,
    mm: &Object<'k>,
    contents: &mut Contents<'k>,
    nameless: &mut Nameless,
    hashed: bool,
) -> Result<Vec<Vma>> {
    let ram = process.task().kernel().space().ram();
    let pgd = mm.uint("tables.root")?;
    let mut vmas = vec![];
    for vma in mm.array("space.vmas")? {
        let range = vma.uint("start")?..vma.uint("end")?;
        if range.start >= range.end {
            continue;
        }
        let mut pages = mapped_ranges_in(ram, pgd, range.clone(), MAX_RUNS);
        let (flags, pgoff) = (vma.uint("flags")?, vma.uint("pgoff")?);
        let file = match vma.ptr("file")? {
            Some(file) => {
                let absent = pages.first().is_none_or(|first| first.virt != range.start);
                if absent && pgoff == 0 && flags & VM_READ != 0 {
                    let header = contents.elf_header(&file)?;
                    let page =
                        |phys| Mapped { virt: range.start, phys, len: PAGE_SIZE, writable: false };
                    pages.splice(..0, header.map(page));
                }
                let path = file.bytes("path")?;
                // Shared anonymous memory is no file, and what it holds is in the core.
                let named = path != corenote::SHARED_NAME && !is_nameless(&path);
                let content = match hashed && named {
                    true => contents.of(&file)?,
                    false => None,
                };
                let (dev, ino, pages) = (file.uint("dev")?, file.uint("ino")?, file.uint("pages")?);
                if hashed && is_nameless(&path) {
                    nameless.add(&path, &file, false, contents)?;
                }
                Some(MappedFile { dev, ino, path, content, pages })
            }
            None => None,
        };
        vmas.push(Vma { range, flags, pgoff, file, pages });
    }
    Ok(vmas)
}

/// A piece of memory that goes into the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Offset from the start of the data.
    pub offset: u64,
    /// Where it lies.
    pub phys: u64,
    /// Bytes.
    pub len: u64,
}

/// The segments of a process, the pieces that fill them, and how many bytes of data that makes.
pub(super) fn segments(pid: u32, vmas: &[Vma]) -> Result<(Vec<Segment>, Vec<Piece>, u64)> {
    let (mut segments, mut pieces, mut size) = (vec![], vec![], 0u64);
    for vma in vmas {
        let bit = |vm: u64, pf: u32| if vma.flags & vm != 0 { pf } else { 0 };
        let flags = bit(VM_READ, PF_R) | bit(VM_WRITE, PF_W) | bit(VM_EXEC, PF_X);
        let mut push = |range: Range<u64>, filesz: u64| {
            segments.push(Segment {
                flags,
                vaddr: range.start,
                paddr: 0,
                offset: size,
                filesz,
                memsz: range.end - range.start,
            });
            let at = size;
            size = size.saturating_add(filesz);
            at
        };
        let whole = vma.range.clone();
        if vma.flags & VM_DONTDUMP != 0 {
            push(whole, 0);
        } else if vma.file.is_some() {
            let mut at = whole.start;
            for run in joined(&vma.pages) {
                if run.start > at {
                    push(at..run.start, 0);
                }
                let offset = push(run.clone(), run.end - run.start);
                pieces.extend(pieces_of(&vma.pages, &run, offset));
                at = run.end;
            }
            if at < whole.end {
                push(at..whole.end, 0);
            }
        } else {
            let end = vma.pages.last().map_or(whole.start, |last| last.virt + last.len);
            let offset = push(whole.clone(), end - whole.start);
            pieces.extend(pieces_of(&vma.pages, &whole, offset));
        }
        if size > MAX_BYTES {
            return Err(Error::TooLarge { pid });
        }
    }
    Ok((segments, pieces, size))
}

/// Runs of consecutive addresses, wherever their pages lie.
fn joined(pages: &[Mapped]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = vec![];
    for page in pages {
        match runs.last_mut() {
            Some(last) if last.end == page.virt => last.end += page.len,
            _ => runs.push(page.virt..page.virt + page.len),
        }
    }
    runs
}

/// The pages of `run`, whose first byte stands at `offset`.
fn pieces_of<'a>(
    pages: &'a [Mapped],
    run: &Range<u64>,
    offset: u64,
) -> impl Iterator<Item = Piece> + use<'a> {
    let (start, end) = (run.start, run.end);
    pages.iter().filter(move |p| (start..end).contains(&p.virt)).map(move |p| Piece {
        offset: offset + (p.virt - start),
        phys: p.phys,
        len: p.len,
    })
}

/// Reads bytes of a process's memory that need not all be there: what is absent ends it.
pub(super) fn read_some(ram: &dyn Ram, vmas: &[Vma], range: Range<u64>, most: u64) -> Vec<u8> {
    let mut bytes = vec![];
    let end = range.end.min(range.start.saturating_add(most));
    let mut at = range.start;
    while at < end {
        let pages = vmas.iter().flat_map(|vma| &vma.pages);
        let Some(page) = pages.into_iter().find(|p| at >= p.virt && at - p.virt < p.len) else {
            break;
        };
        let mut piece = vec![0; (page.virt + page.len).min(end).saturating_sub(at) as usize];
        if ram.read(page.phys + (at - page.virt), &mut piece).is_err() {
            break;
        }
        at += piece.len() as u64;
        bytes.extend(piece);
    }
    bytes
}

const _: () = assert!(PAGE_SIZE == 4096, "NT_FILE counts in pages of the guest");

#[cfg(test)]
mod tests {
    use super::*;

    fn page(virt: u64, pages: u64) -> Mapped {
        Mapped { virt, phys: 0x4000_0000 + virt, len: pages * PAGE_SIZE, writable: true }
    }

    #[test]
    fn anonymous_range_is_one_segment_up_to_its_last_page() {
        let vma = Vma {
            range: 0x10000..0x20000,
            flags: VM_READ | VM_WRITE,
            pages: vec![page(0x11000, 1), page(0x13000, 2)],
            ..Vma::default()
        };
        let (segments, pieces, size) = segments(1, &[vma]).unwrap();
        assert_eq!(segments.len(), 1);
        assert_eq!((segments[0].filesz, segments[0].memsz), (0x5000, 0x10000));
        assert_eq!(segments[0].flags, PF_R | PF_W);
        assert_eq!(pieces.iter().map(|p| p.offset).collect::<Vec<_>>(), [0x1000, 0x3000]);
        assert_eq!(size, 0x5000);
    }

    #[test]
    fn file_range_is_cut_where_pages_are_absent() {
        let vma = Vma {
            range: 0x10000..0x16000,
            flags: VM_READ | VM_EXEC,
            file: Some(MappedFile::default()),
            pages: vec![page(0x11000, 1), page(0x12000, 1), page(0x14000, 1)],
            ..Vma::default()
        };
        let (segments, pieces, size) = segments(1, &[vma]).unwrap();
        let shape: Vec<_> = segments.iter().map(|s| (s.vaddr, s.filesz, s.memsz)).collect();
        assert_eq!(
            shape,
            [
                (0x10000, 0, 0x1000),
                (0x11000, 0x2000, 0x2000),
                (0x13000, 0, 0x1000),
                (0x14000, 0x1000, 0x1000),
                (0x15000, 0, 0x1000),
            ]
        );
        assert_eq!((pieces.len(), size), (3, 0x3000));
    }

    #[test]
    fn more_memory_than_any_guest_has_is_refused() {
        let vma = Vma {
            range: 0..1 << 47,
            pages: vec![page((1 << 47) - PAGE_SIZE, 1)],
            ..Vma::default()
        };
        assert!(matches!(segments(7, &[vma]), Err(Error::TooLarge { pid: 7 })));
    }
}
