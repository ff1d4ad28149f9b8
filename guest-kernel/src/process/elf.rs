//! What exec must know of an ELF file (elf(5)): the headers, checked before anything is believed.

use alloc::vec::Vec;

use elf::abi::{
    EM_AARCH64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_GNU_STACK, PT_INTERP, PT_LOAD, PT_PHDR,
};
use elf::endian::AnyEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::segment::{ProgramHeader, SegmentTable};

use crate::addr::{PAGE_SIZE, TASK_SIZE, VirtAddr};
use crate::errno::{Errno, Result};
use crate::fs::PATH_MAX;

/// Bytes of the file header of a 64-bit file.
pub const EHDR_SIZE: usize = 64;
/// Bytes of a program header.
pub const PHDR_SIZE: usize = 56;
/// The program headers of a file that is loaded fit into this (Linux's bound).
const MAX_PHDRS: usize = 65536 / PHDR_SIZE;

/// A segment to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it goes, before the load bias; rounded down to a page.
    pub start: u64,
    /// Where the bytes from the file end.
    pub file_end: u64,
    /// Where it ends; what is beyond `file_end` is zero.
    pub mem_end: u64,
    /// Offset in the file of `start`.
    pub offset: u64,
    /// Readable, writable, executable.
    pub prot: (bool, bool, bool),
}

/// An image that can be loaded.
#[derive(Debug)]
pub struct Image {
    /// True if it may be loaded anywhere (PIE, the dynamic linker).
    pub position_independent: bool,
    /// First instruction, before the load bias.
    pub entry: u64,
    /// Segments, by address.
    pub segments: Vec<Segment>,
    /// Where the file names its interpreter: offset and length.
    pub interp: Option<(u64, usize)>,
    /// Address of the program headers in memory, before the load bias; 0 if they are not loaded.
    pub phdr: u64,
    /// Number of program headers.
    pub phnum: u16,
    /// Bytes of one.
    pub phentsize: u16,
    /// `PT_GNU_STACK` asks for an executable stack.
    pub exec_stack: bool,
    /// Largest alignment that a segment asks for.
    pub align: u64,
}

/// Where the program headers lie in the file: offset and total length. `ENOEXEC` for what is no
/// 64-bit little-endian AArch64 program.
pub fn program_headers(head: &[u8]) -> Result<(u64, usize)> {
    let header = file_header(head)?;
    Ok((header.e_phoff, usize::from(header.e_phnum) * PHDR_SIZE))
}

fn file_header(head: &[u8]) -> Result<FileHeader<AnyEndian>> {
    let ident = head.get(..16).ok_or(Errno::ENOEXEC)?;
    let tail = head.get(16..EHDR_SIZE).ok_or(Errno::ENOEXEC)?;
    let ident = parse_ident::<AnyEndian>(ident).map_err(|_| Errno::ENOEXEC)?;
    if ident.0 != AnyEndian::Little || ident.1 != Class::ELF64 {
        return Err(Errno::ENOEXEC);
    }
    let header = FileHeader::parse_tail(ident, tail).map_err(|_| Errno::ENOEXEC)?;
    let known = header.e_machine == EM_AARCH64 && matches!(header.e_type, ET_EXEC | ET_DYN);
    let sane = usize::from(header.e_phentsize) == PHDR_SIZE
        && (1..=MAX_PHDRS).contains(&usize::from(header.e_phnum));
    if known && sane { Ok(header) } else { Err(Errno::ENOEXEC) }
}

/// Reads the headers; `phdrs` are the bytes that [`program_headers`] named.
pub fn parse(head: &[u8], phdrs: &[u8]) -> Result<Image> {
    let header = file_header(head)?;
    let mut image = Image {
        position_independent: header.e_type == ET_DYN,
        entry: header.e_entry,
        segments: Vec::new(),
        interp: None,
        phdr: 0,
        phnum: header.e_phnum,
        phentsize: header.e_phentsize,
        exec_stack: false,
        align: PAGE_SIZE as u64,
    };
    for ph in SegmentTable::new(AnyEndian::Little, Class::ELF64, phdrs).iter() {
        match ph.p_type {
            PT_LOAD => image.add_segment(&ph, header.e_phoff)?,
            PT_INTERP if image.interp.is_none() => {
                let len = usize::try_from(ph.p_filesz).map_err(|_| Errno::ENOEXEC)?;
                if !(2..=PATH_MAX).contains(&len) {
                    return Err(Errno::ENOEXEC);
                }
                image.interp = Some((ph.p_offset, len));
            }
            PT_GNU_STACK => image.exec_stack = ph.p_flags & PF_X != 0,
            PT_PHDR => image.phdr = ph.p_vaddr,
            _ => {}
        }
    }
    if image.segments.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    Ok(image)
}

impl Image {
    fn add_segment(&mut self, ph: &ProgramHeader, phoff: u64) -> Result<()> {
        let bad = Errno::EINVAL;
        if ph.p_memsz == 0 {
            return Ok(());
        }
        let page_offset = VirtAddr(ph.p_vaddr).page_offset() as u64;
        let congruent = ph.p_offset % PAGE_SIZE as u64 == page_offset;
        let mem_end = ph.p_vaddr.checked_add(ph.p_memsz).ok_or(bad)?;
        if !congruent || ph.p_filesz > ph.p_memsz || mem_end > TASK_SIZE {
            return Err(bad);
        }
        ph.p_offset.checked_add(ph.p_filesz).ok_or(bad)?;
        let segment = Segment {
            start: ph.p_vaddr - page_offset,
            file_end: ph.p_vaddr + ph.p_filesz,
            mem_end,
            offset: ph.p_offset - page_offset,
            prot: (ph.p_flags & PF_R != 0, ph.p_flags & PF_W != 0, ph.p_flags & PF_X != 0),
        };
        // Segments come in order of address (elf(5)); anything else would let one cover another.
        if self.segments.last().is_some_and(|last| last.start > segment.start) {
            return Err(Errno::ENOEXEC);
        }
        // The program headers lie in the segment that covers their place in the file.
        if self.phdr == 0 && ph.p_offset <= phoff && phoff < ph.p_offset + ph.p_filesz {
            self.phdr = phoff - ph.p_offset + ph.p_vaddr;
        }
        if ph.p_align.is_power_of_two() {
            self.align = self.align.max(ph.p_align);
        }
        self.segments.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.segments.push(segment);
        Ok(())
    }

    /// First and one-past-last address, rounded to pages.
    pub fn span(&self) -> (u64, u64) {
        let start = self.segments.first().map_or(0, |s| s.start);
        let end = self.segments.iter().map(|s| s.mem_end).max().unwrap_or(0);
        (start, crate::addr::page_align_up(end).unwrap_or(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(machine: u16, phnum: u16) -> Vec<u8> {
        let mut h = vec![0; EHDR_SIZE];
        h[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
        h[16..18].copy_from_slice(&2_u16.to_le_bytes());
        h[18..20].copy_from_slice(&machine.to_le_bytes());
        h[20..24].copy_from_slice(&1_u32.to_le_bytes());
        h[24..32].copy_from_slice(&0x40_0000_u64.to_le_bytes());
        h[32..40].copy_from_slice(&64_u64.to_le_bytes());
        h[54..56].copy_from_slice(&56_u16.to_le_bytes());
        h[56..58].copy_from_slice(&phnum.to_le_bytes());
        h
    }

    fn load(vaddr: u64, offset: u64, filesz: u64, memsz: u64) -> Vec<u8> {
        let mut p = Vec::new();
        p.extend(1_u32.to_le_bytes());
        p.extend(5_u32.to_le_bytes());
        for v in [offset, vaddr, vaddr, filesz, memsz, 0x1000] {
            p.extend(v.to_le_bytes());
        }
        p
    }

    #[test]
    fn a_plain_segment_is_page_aligned_and_covers_the_headers() {
        let image = parse(&header(183, 1), &load(0x40_0040, 0x40, 0x100, 0x2000)).unwrap();
        let s = image.segments[0];
        assert_eq!(
            (s.start, s.offset, s.file_end, s.mem_end),
            (0x40_0000, 0, 0x40_0140, 0x40_2040)
        );
        assert_eq!(image.phdr, 0x40_0040);
        assert_eq!(image.span(), (0x40_0000, 0x40_3000));
    }

    #[test]
    fn other_machines_are_enoexec() {
        assert_eq!(parse(&header(62, 1), &load(0, 0, 1, 1)).unwrap_err(), Errno::ENOEXEC);
        assert_eq!(program_headers(&[0; 64]).unwrap_err(), Errno::ENOEXEC);
        assert_eq!(program_headers(b"#!/bin/sh\n").unwrap_err(), Errno::ENOEXEC);
    }

    #[test]
    fn segments_that_wrap_or_shrink_are_refused() {
        for (vaddr, offset, filesz, memsz) in [
            (u64::MAX - 0xfff, 0, 0x1000, 0x2000),
            (0x1000, 0, 0x2000, 0x1000),
            (0x1001, 0, 1, 1),
            (TASK_SIZE, 0, 0x1000, 0x1000),
        ] {
            assert!(parse(&header(183, 1), &load(vaddr, offset, filesz, memsz)).is_err());
        }
    }
}
