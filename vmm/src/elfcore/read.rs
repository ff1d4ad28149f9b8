//! Reads the headers and notes of a core file, whoever wrote it: every number in it is doubted.

use object::Endianness;
use object::elf::{EM_AARCH64, ET_CORE, FileHeader64, PT_LOAD, PT_NOTE};
use object::read::ReadRef;
use object::read::elf::{FileHeader, ProgramHeader};

use super::{Note, Segment};

/// Most bytes of notes that are read.
const MAX_NOTES: u64 = 256 << 20;
const LE: Endianness = Endianness::Little;

/// Why a file is no core that can be used. The texts say what the file is or lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No ELF file at all, or a part of one.
    #[error("it is no ELF file: {0}")]
    NotElf(object::read::Error),
    /// A program, a library, a core of another machine.
    #[error("it is an ELF file but no core of an AArch64 machine")]
    NotACore,
    /// Headers or notes that are not whole.
    #[error("its {what} is damaged: {cause}")]
    Damaged {
        /// Which part.
        what: &'static str,
        /// In which way.
        cause: object::read::Error,
    },
    /// A segment whose bytes are not in the file.
    #[error(
        "segment {index} holds {filesz:#x} bytes at {offset:#x}, but the file ends at {len:#x}: it is cut short"
    )]
    CutShort {
        /// Number of the segment, from 0.
        index: usize,
        /// Its place in the file.
        offset: u64,
        /// Its bytes.
        filesz: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// A segment that contradicts itself.
    #[error(
        "segment {index} ({filesz:#x} bytes in the file, {memsz:#x} at {vaddr:#x}) contradicts itself"
    )]
    BadSegment {
        /// Number of the segment, from 0.
        index: usize,
        /// Bytes in the file.
        filesz: u64,
        /// Bytes in memory.
        memsz: u64,
        /// Where.
        vaddr: u64,
    },
    /// More notes than anybody writes.
    #[error("its notes have more than {MAX_NOTES} bytes")]
    TooManyNotes,
}

/// The headers and notes of a core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The segments, in the order of the file.
    pub segments: Vec<Segment>,
    /// The notes, in the order of the file.
    pub notes: Vec<Note>,
}

impl Parsed {
    /// The notes of one owner and kind.
    pub fn notes<'a>(&'a self, name: &'a str, kind: u32) -> impl Iterator<Item = &'a [u8]> {
        let wanted = move |note: &&Note| note.name == name && note.kind == kind;
        self.notes.iter().filter(wanted).map(|note| note.desc.as_slice())
    }
}

/// Reads the headers and notes of `data`. Every segment returned lies within the file, and neither its
/// addresses nor its offsets wrap.
pub fn parse<'data, R: ReadRef<'data>>(data: R) -> Result<Parsed, Error> {
    let len = data.len().unwrap_or(0);
    let header = FileHeader64::<Endianness>::parse(data).map_err(Error::NotElf)?;
    if header.endian() != Ok(LE)
        || header.e_type(LE) != ET_CORE
        || header.e_machine(LE) != EM_AARCH64
    {
        return Err(Error::NotACore);
    }
    let damaged = |what| move |cause| Error::Damaged { what, cause };
    let headers = header.program_headers(LE, data).map_err(damaged("table of program headers"))?;
    let mut parsed = Parsed::default();
    let mut note_bytes = 0u64;
    for header in headers {
        let segment = Segment {
            flags: header.p_flags(LE).0,
            vaddr: header.p_vaddr(LE),
            paddr: header.p_paddr(LE),
            offset: header.p_offset(LE),
            filesz: header.p_filesz(LE),
            memsz: header.p_memsz(LE),
        };
        let index = parsed.segments.len();
        if header.p_type(LE) == PT_NOTE {
            note_bytes = note_bytes.saturating_add(segment.filesz);
            if note_bytes > MAX_NOTES {
                return Err(Error::TooManyNotes);
            }
            let notes = header.notes(LE, data).map_err(damaged("table of notes"))?;
            let Some(mut notes) = notes else { continue };
            while let Some(note) = notes.next().map_err(damaged("table of notes"))? {
                let name = String::from_utf8_lossy(note.name()).into_owned();
                parsed.notes.push(Note {
                    name,
                    kind: note.n_type(LE).0,
                    desc: note.desc().to_vec(),
                });
            }
        } else if header.p_type(LE) == PT_LOAD {
            let Segment { vaddr, paddr, offset, filesz, memsz, .. } = segment;
            if filesz > memsz
                || vaddr.checked_add(memsz).is_none()
                || paddr.checked_add(memsz).is_none()
            {
                return Err(Error::BadSegment { index, filesz, memsz, vaddr });
            }
            if offset.checked_add(filesz).is_none_or(|end| end > len) {
                return Err(Error::CutShort { index, offset, filesz, len });
            }
            parsed.segments.push(segment);
        }
    }
    Ok(parsed)
}
