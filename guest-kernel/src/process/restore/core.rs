//! The front of a process core: its ELF headers and notes, as plain bytes.
//!
//! A core is hostile input. Nothing here allocates by what it claims before that was held against the
//! file's size, everything is checked before it is believed, and nothing of it has an effect: this runs
//! on any host, under its tests and its fuzz target.

use alloc::vec::Vec;

use belljar_abi::corenote::{self, FilePiece, Kind, PT_FILE_PIECE, Table};
use belljar_abi::coreregs::{CORE, LINUX, NT_ARM_TLS, NT_AUXV, NT_FPREGSET, NT_PRSTATUS};
use elf::abi::{EM_AARCH64, ET_CORE, PN_XNUM, PT_LOAD, PT_NOTE};
use elf::endian::AnyEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::parse::ParseAt;
use elf::section::SectionHeader;
use elf::segment::SegmentTable;

use crate::errno::Errno;
use crate::process::elf::{EHDR_SIZE, PHDR_SIZE};

/// Bytes of a section header: the first one counts the segments if the file header cannot.
const SHDR_SIZE: usize = 64;
/// Bytes of a note before its name.
const NHDR_SIZE: usize = 12;
/// Most bytes of headers and notes: a pipe's content is in them.
pub const MAX_HEAD: u64 = 256 << 20;

/// Why a core was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Not a core of an AArch64 process at all.
    NotACore,
    /// Its headers say what cannot be.
    Header(&'static str),
    /// A note of that kind is damaged.
    Note(u32, corenote::Error),
    /// It lacks a note that is needed.
    Lacks(&'static str),
    /// A note that says what cannot be.
    Value {
        /// Which note.
        note: &'static str,
        /// Which of its words.
        word: &'static str,
        /// What it says.
        value: u64,
    },
    /// No memory to read it.
    NoMemory,
}

impl core::fmt::Display for Bad {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::NotACore => f.write_str("is no core of an AArch64 process"),
            Self::Header(what) => write!(f, "its ELF headers are damaged: {what}"),
            Self::Note(kind, error) => write!(f, "note {kind:#x}: {error}"),
            Self::Lacks(note) => {
                write!(f, "it has no note {note}: only what belljar checkpoint writes is resumed")
            }
            Self::Value { note, word, value } => {
                write!(f, "note {note} cannot say {value:#x} as {word}")
            }
            Self::NoMemory => f.write_str("there is not enough memory to read it"),
        }
    }
}

impl Bad {
    /// The error that execve(2) returns for it.
    pub fn errno(self) -> Errno {
        match self {
            Bad::NoMemory => Errno::ENOMEM,
            _ => Errno::ENOEXEC,
        }
    }
}

/// Result of reading a core.
pub type Result<T> = core::result::Result<T, Bad>;

/// A vector with room for `n` items.
pub(super) fn room<T>(n: usize) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(n).map_err(|_| Bad::NoMemory)?;
    Ok(vec)
}

/// A piece of memory whose content the core has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address; the start of a page.
    pub start: u64,
    /// Bytes that stand in the file; whole pages.
    pub len: u64,
    /// Where they stand.
    pub offset: u64,
}

/// Whether a file that begins so is a core.
pub fn is_core(head: &[u8]) -> bool {
    header(head).is_ok()
}

fn header(head: &[u8]) -> Result<FileHeader<AnyEndian>> {
    let (ident, tail) = (head.get(..16), head.get(16..EHDR_SIZE));
    let (Some(ident), Some(tail)) = (ident, tail) else { return Err(Bad::NotACore) };
    let ident = parse_ident::<AnyEndian>(ident).map_err(|_| Bad::NotACore)?;
    if ident.0 != AnyEndian::Little || ident.1 != Class::ELF64 {
        return Err(Bad::NotACore);
    }
    let header = FileHeader::parse_tail(ident, tail).map_err(|_| Bad::NotACore)?;
    if header.e_type != ET_CORE || header.e_machine != EM_AARCH64 {
        return Err(Bad::NotACore);
    }
    Ok(header)
}

/// Where the headers and notes end, which is how much of the file is needed to read it; `read` fills a
/// buffer from an offset of the file on, and says if it could.
pub fn head_len(len: u64, mut read: impl FnMut(u64, &mut [u8]) -> bool) -> Result<u64> {
    let mut first = [0; EHDR_SIZE];
    if len < first.len() as u64 || !read(0, &mut first) {
        return Err(Bad::NotACore);
    }
    let header = header(&first)?;
    let mut count = u64::from(header.e_phnum);
    let mut end = EHDR_SIZE as u64;
    if header.e_phnum == PN_XNUM {
        let mut bytes = [0; SHDR_SIZE];
        if !read(header.e_shoff, &mut bytes) {
            return Err(Bad::Header("no section header counts the segments"));
        }
        count = u64::from(section(&bytes)?.sh_info);
        end = end.max(header.e_shoff.saturating_add(SHDR_SIZE as u64));
    }
    let table = header.e_phoff.saturating_add(count * PHDR_SIZE as u64);
    if usize::from(header.e_phentsize) != PHDR_SIZE || count == 0 || table > len.min(MAX_HEAD) {
        return Err(Bad::Header("the table of segments"));
    }
    end = end.max(table);
    let mut bytes = room(count as usize * PHDR_SIZE)?;
    bytes.resize(count as usize * PHDR_SIZE, 0);
    if !read(header.e_phoff, &mut bytes) {
        return Err(Bad::Header("the table of segments"));
    }
    for segment in SegmentTable::new(AnyEndian::Little, Class::ELF64, &bytes) {
        if segment.p_type == PT_NOTE {
            end = end.max(segment.p_offset.saturating_add(segment.p_filesz));
        }
    }
    if end > len.min(MAX_HEAD) {
        return Err(Bad::Header("the notes go beyond the end of the file"));
    }
    Ok(end)
}

fn section(bytes: &[u8; SHDR_SIZE]) -> Result<SectionHeader> {
    SectionHeader::parse_at(AnyEndian::Little, Class::ELF64, &mut 0, bytes)
        .map_err(|_| Bad::Header("the section header that counts the segments"))
}

/// The notes and segments of a core, not understood yet.
#[derive(Default)]
pub struct Core<'a> {
    /// Its memory, by address, none touching another.
    pub segments: Vec<Segment>,
    /// Pieces of files without a name, in the order of their bytes in the core, of which no two have any in common.
    pub pieces: Vec<FilePiece>,
    /// `NT_PRSTATUS`, one a thread.
    pub prstatus: Vec<&'a [u8]>,
    /// `NT_FPREGSET`, one a thread.
    pub fpregset: Vec<&'a [u8]>,
    /// `NT_ARM_TLS`, one a thread.
    pub tls: Vec<&'a [u8]>,
    /// `NT_AUXV`.
    pub auxv: &'a [u8],
    tables: Vec<(u32, Table<'a>)>,
}

impl<'a> Core<'a> {
    /// Reads `head`, the start of a core of `len` bytes, up to [`head_len`].
    pub fn read(head: &'a [u8], len: u64) -> Result<Self> {
        let header = header(head)?;
        let at = |offset: u64, len: u64| {
            let start = usize::try_from(offset).ok()?;
            head.get(start..start.checked_add(usize::try_from(len).ok()?)?)
        };
        let mut count = u64::from(header.e_phnum);
        if header.e_phnum == PN_XNUM {
            let bytes = at(header.e_shoff, SHDR_SIZE as u64);
            let bytes = bytes.and_then(|bytes| bytes.first_chunk::<SHDR_SIZE>());
            count = u64::from(section(bytes.ok_or(Bad::Header("too short"))?)?.sh_info);
        }
        let table = at(header.e_phoff, count * PHDR_SIZE as u64);
        let table = table.ok_or(Bad::Header("the table of segments"))?;
        let mut core = Self { segments: room(count as usize)?, ..Self::default() };
        for segment in SegmentTable::new(AnyEndian::Little, Class::ELF64, table) {
            if segment.p_type == PT_NOTE {
                let notes = at(segment.p_offset, segment.p_filesz);
                core.notes(notes.ok_or(Bad::Header("the notes"))?)?;
            } else if segment.p_type == PT_LOAD && segment.p_filesz != 0 {
                let (start, bytes, offset) = (segment.p_vaddr, segment.p_filesz, segment.p_offset);
                let whole = (start | bytes) & crate::addr::PAGE_MASK as u64 == 0;
                let end = start.checked_add(bytes).filter(|end| *end <= crate::addr::TASK_SIZE);
                let in_file = offset.checked_add(bytes).is_some_and(|end| end <= len);
                let last = core.segments.last().map_or(0, |last| last.start + last.len);
                if !whole || end.is_none() || !in_file || start < last || bytes > segment.p_memsz {
                    return Err(Bad::Header("a segment lies where none can"));
                }
                core.segments.push(Segment { start, len: bytes, offset });
            } else if segment.p_type == PT_FILE_PIECE {
                let (start, bytes, offset) = (segment.p_vaddr, segment.p_filesz, segment.p_offset);
                let last = core.pieces.last().map_or(0, |last| last.offset + last.len);
                let end = offset.checked_add(bytes).filter(|end| *end <= len);
                // That none has bytes of another bounds how much there is to write.
                if end.is_none()
                    || offset < last
                    || start.checked_add(bytes).is_none_or(|end| end > i64::MAX as u64)
                {
                    return Err(Bad::Header("a piece of a file lies where none can"));
                }
                let piece = FilePiece { file: segment.p_paddr, start, len: bytes, offset };
                core.pieces.try_reserve(1).map_err(|_| Bad::NoMemory)?;
                core.pieces.push(piece);
            }
        }
        Ok(core)
    }

    fn notes(&mut self, mut bytes: &'a [u8]) -> Result<()> {
        let cut = Bad::Header("a note is cut short");
        while let Some((head, rest)) = bytes.split_first_chunk::<NHDR_SIZE>() {
            let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i]));
            let (name_len, desc_len, kind) = (word(0) as usize, word(4) as usize, word(8));
            // Each part begins at a multiple of four bytes (elf(5)).
            let padded = |len: usize, rest: &'a [u8]| {
                let after = rest.get(len.next_multiple_of(4).min(rest.len())..);
                Some((rest.get(..len)?, after?))
            };
            let (name, rest) = padded(name_len, rest).ok_or(cut)?;
            let (desc, rest) = padded(desc_len, rest).ok_or(cut)?;
            bytes = rest;
            self.note(name.strip_suffix(b"\0").unwrap_or(name), kind, desc)?;
        }
        if bytes.is_empty() { Ok(()) } else { Err(cut) }
    }

    fn note(&mut self, name: &[u8], kind: u32, desc: &'a [u8]) -> Result<()> {
        let list = match (name, kind) {
            (name, NT_PRSTATUS) if name == CORE.as_bytes() => &mut self.prstatus,
            (name, NT_FPREGSET) if name == CORE.as_bytes() => &mut self.fpregset,
            (name, NT_ARM_TLS) if name == LINUX.as_bytes() => &mut self.tls,
            (name, NT_AUXV) if name == CORE.as_bytes() => {
                self.auxv = desc;
                return Ok(());
            }
            (name, _) if name == corenote::OWNER.as_bytes() => {
                let table = Table::parse(desc).map_err(|error| Bad::Note(kind, error))?;
                if self.tables.iter().any(|(other, _)| *other == kind) {
                    return Err(Bad::Header("a note is there twice"));
                }
                self.tables.try_reserve(1).map_err(|_| Bad::NoMemory)?;
                self.tables.push((kind, table));
                return Ok(());
            }
            // Others are for debuggers.
            _ => return Ok(()),
        };
        list.try_reserve(1).map_err(|_| Bad::NoMemory)?;
        list.push(desc);
        Ok(())
    }

    /// The note of a kind.
    pub fn table(&self, kind: Kind) -> Option<Table<'a>> {
        self.tables.iter().find(|(other, _)| *other == kind as u32).map(|(_, table)| *table)
    }
}
