//! The file of a core: ELF header, program headers, notes, then the memory from the next page on.

use alloc::vec::Vec;

use elf::abi::{
    ELFCLASS64, ELFDATA2LSB, ELFMAGIC, ELFOSABI_NONE, EM_AARCH64, ET_CORE, EV_CURRENT, PF_R, PF_W,
    PF_X, PT_LOAD, PT_NOTE,
};

use super::mappings::{Segment, snapshot};
use super::notes::notes;
use super::{Dump, fatal_pending};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::{FMode, File, UserBuf};
use crate::mm::vma::MAX_MAP_COUNT;
use crate::mm::{VmFlags, try_vec};
use crate::task::Task;

const PAGE: u64 = PAGE_SIZE as u64;
/// Bytes of the ELF header.
const EHDR: usize = 64;
/// Bytes of a program header.
const PHDR: usize = 56;

const _: () = assert!(MAX_MAP_COUNT < 0xffff, "all program headers are counted in the ELF header");

/// Where the bytes go. What is skipped becomes a hole of a file, and zeros in a pipe.
struct Sink<'a> {
    task: &'a Task,
    file: &'a File,
    pos: u64,
    written: u64,
    limit: u64,
    skipped: u64,
}

impl Sink<'_> {
    /// True if that was all: the limit, an error or SIGKILL ends a core where it is.
    fn emit(&mut self, bytes: &[u8]) -> bool {
        let skipped = core::mem::take(&mut self.skipped);
        self.skip_now(skipped) && self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        if self.written + bytes.len() as u64 > self.limit {
            return false;
        }
        let mut done = 0;
        while done < bytes.len() {
            if fatal_pending(self.task) {
                return false;
            }
            let mut rest = UserBuf::from_kernel(&bytes[done..]);
            let moved = if self.file.fmode().contains(FMode::PREAD) {
                self.file.write_at(&mut rest, self.pos)
            } else {
                self.file.write(&mut rest)
            };
            match moved {
                Ok(n @ 1..) => {
                    done += n;
                    self.pos += n as u64;
                    self.written += n as u64;
                }
                _ => return false,
            }
        }
        true
    }

    fn skip_now(&mut self, mut len: u64) -> bool {
        if self.file.fmode().contains(FMode::PREAD) {
            self.pos += len;
            return true;
        }
        const ZEROS: [u8; 256] = [0; 256];
        while len > 0 {
            let n = len.min(ZEROS.len() as u64);
            if !self.write(&ZEROS[..n as usize]) {
                return false;
            }
            len -= n;
        }
        true
    }

    fn skip(&mut self, len: u64) {
        self.skipped += len;
    }

    /// Makes the file as long as what was skipped.
    fn end(&mut self) {
        if let Some(before) = self.skipped.checked_sub(1) {
            self.skipped = before;
            self.emit(&[0]);
        }
    }
}

/// Writes the core into `file`, up to `limit` bytes; true if it was begun.
pub(super) fn core(dump: &Dump<'_>, file: &File, limit: u64) -> bool {
    let Ok((segments, head, mut page)) = prepare(dump) else { return false };
    let mut sink = Sink { task: dump.task, file, pos: 0, written: 0, limit, skipped: 0 };
    if sink.emit(&head) {
        sink.skip(data_start(head.len() as u64) - head.len() as u64);
        let all = segments.iter().all(|segment| memory(dump, segment, &mut page, &mut sink));
        if all || !fatal_pending(dump.task) {
            sink.end();
        }
    }
    true
}

/// Everything that needs memory: what is mapped, what stands before the memory in the file, and a page to copy through.
fn prepare(dump: &Dump<'_>) -> Result<(Vec<Segment>, Vec<u8>, Vec<u8>)> {
    let segments = snapshot(dump)?;
    let notes = notes(dump, &segments)?.0;
    let head = head(&segments, &notes)?;
    Ok((segments, head, try_vec(PAGE_SIZE, 0)?))
}

/// Where the memory begins behind so many bytes.
fn data_start(head: u64) -> u64 {
    head.next_multiple_of(PAGE)
}

/// Headers and notes.
fn head(segments: &[Segment], notes: &[u8]) -> Result<Vec<u8>> {
    let count = segments.len() + 1;
    let notes_at = EHDR + count * PHDR;
    let size = notes_at + notes.len();
    let mut head = Vec::new();
    head.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    put_elf_header(&mut head, count as u16);
    put_program_header(&mut head, PT_NOTE, 0, [notes_at as u64, 0, notes.len() as u64, 0], 4);
    let mut at = data_start(size as u64);
    for segment in segments {
        let bit = |vm, pf| if segment.flags.contains(vm) { pf } else { 0 };
        let flags = bit(VmFlags::READ, PF_R) | bit(VmFlags::WRITE, PF_W) | bit(VmFlags::EXEC, PF_X);
        let place = [at, segment.start, segment.dumped, segment.end - segment.start];
        put_program_header(&mut head, PT_LOAD, flags, place, PAGE);
        at += segment.dumped;
    }
    head.extend_from_slice(notes);
    Ok(head)
}

/// `Elf64_Ehdr` of a core with so many program headers behind it. There is room for it.
fn put_elf_header(head: &mut Vec<u8>, count: u16) {
    head.extend_from_slice(&ELFMAGIC);
    head.extend_from_slice(&[ELFCLASS64, ELFDATA2LSB, EV_CURRENT, ELFOSABI_NONE]);
    head.extend_from_slice(&[0; 8]);
    head.extend_from_slice(&ET_CORE.to_le_bytes());
    head.extend_from_slice(&EM_AARCH64.to_le_bytes());
    head.extend_from_slice(&u32::from(EV_CURRENT).to_le_bytes());
    // Entry, program headers, section headers.
    for word in [0, EHDR as u64, 0] {
        head.extend_from_slice(&word.to_le_bytes());
    }
    head.extend_from_slice(&[0; 4]);
    for half in [EHDR as u16, PHDR as u16, count, 0, 0, 0] {
        head.extend_from_slice(&half.to_le_bytes());
    }
}

/// `Elf64_Phdr`; `place` is its offset, address, bytes in the file and in memory. There is room for it.
fn put_program_header(head: &mut Vec<u8>, kind: u32, flags: u32, place: [u64; 4], align: u64) {
    let [offset, address, in_file, in_memory] = place;
    head.extend_from_slice(&kind.to_le_bytes());
    head.extend_from_slice(&flags.to_le_bytes());
    for word in [offset, address, 0, in_file, in_memory, align] {
        head.extend_from_slice(&word.to_le_bytes());
    }
}

/// Copies what the core has of a mapping; false if that was the end. Pages that nobody touched are skipped, and what
/// cannot be read of a file.
fn memory(dump: &Dump<'_>, segment: &Segment, page: &mut [u8], sink: &mut Sink<'_>) -> bool {
    let end = segment.start + segment.dumped;
    let mut at = segment.start;
    while at < end {
        if segment.file.is_none() {
            let next = next_page(dump, at, end);
            sink.skip(next - at);
            at = next;
            if at == end {
                break;
            }
        }
        if fatal_pending(dump.task) {
            return false;
        }
        if dump.mm.read_remote(at, page) == page.len() {
            if !sink.emit(page) {
                return false;
            }
        } else {
            sink.skip(PAGE);
        }
        at += PAGE;
    }
    true
}

/// The next page of anonymous memory that holds something.
fn next_page(dump: &Dump<'_>, mut at: u64, end: u64) -> u64 {
    while at < end {
        let tables = dump.mm.tables.lock();
        let Some(page) = tables.next_present(at, end) else { return end };
        if !tables.lookup(page).is_special() {
            return page.0;
        }
        at = page.0 + PAGE;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_that_of_a_core() {
        let flags = VmFlags::READ | VmFlags::WRITE;
        let segment =
            Segment { start: 0x10000, end: 0x13000, flags, pgoff: 0, dumped: 0x2000, file: None };
        let head = head(&[segment], &[1; 20]).unwrap();
        assert_eq!(head.len(), EHDR + 2 * PHDR + 20);
        let ident = elf::file::parse_ident::<elf::endian::AnyEndian>(&head[..16]).unwrap();
        let header = elf::file::FileHeader::parse_tail(ident, &head[16..EHDR]).unwrap();
        assert_eq!((header.e_type, header.e_machine, header.e_phnum), (ET_CORE, EM_AARCH64, 2));
        let load = &head[EHDR + PHDR..EHDR + 2 * PHDR];
        assert_eq!(load[..8], [1, 0, 0, 0, 6, 0, 0, 0]);
        assert_eq!(load[8..16], 4096_u64.to_le_bytes(), "on the next page");
        assert_eq!(load[32..40], 0x2000_u64.to_le_bytes());
    }
}
