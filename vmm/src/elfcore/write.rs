//! Writes a core file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use belljar_abi::corenote::{FilePiece, PT_FILE_PIECE};
use object::endian::LittleEndian as LE;
use object::pod::bytes_of;
use object::{U16, U32, U64, elf};

use super::{Note, PAGE_SIZE, Segment};

/// Where the segments' bytes begin is a multiple of this: the largest page that a reader may have.
const ALIGN: u64 = 64 << 10;
const EHDR: usize = size_of::<elf::FileHeader64<LE>>();
const PHDR: usize = size_of::<elf::ProgramHeader64<LE>>();
const SHDR: usize = size_of::<elf::SectionHeader64<LE>>();
/// `e_phnum` of a file whose number of segments stands elsewhere.
const PN_XNUM: usize = 0xffff;

/// What goes into a core file beside the bytes of the segments.
#[derive(Clone, Debug, Default)]
pub struct Core {
    /// The notes, in order.
    pub notes: Vec<Note>,
    /// The segments; offsets count from [`Core::data_start`].
    pub segments: Vec<Segment>,
    /// Pieces of files; offsets likewise.
    pub pieces: Vec<FilePiece>,
}

impl Core {
    /// Where in the file the bytes of the segments begin.
    pub fn data_start(&self) -> u64 {
        ((self.notes_at() + self.note_bytes()) as u64).next_multiple_of(ALIGN)
    }

    fn headers(&self) -> usize {
        self.segments.len() + self.pieces.len() + 1
    }

    fn sections(&self) -> usize {
        usize::from(self.headers() >= PN_XNUM)
    }

    fn notes_at(&self) -> usize {
        EHDR + self.headers() * PHDR + self.sections() * SHDR
    }

    fn note_bytes(&self) -> usize {
        self.notes
            .iter()
            .map(|n| 12 + (n.name.len() + 1).next_multiple_of(4) + n.desc.len().next_multiple_of(4))
            .sum()
    }

    /// Everything before [`Core::data_start`].
    pub fn head(&self) -> Vec<u8> {
        let count = self.headers();
        let extended = self.sections() == 1;
        let mut out = vec![];
        let header = elf::FileHeader64::<LE> {
            e_ident: elf::Ident {
                magic: elf::ELFMAG,
                class: elf::ELFCLASS64,
                data: elf::ELFDATA2LSB,
                version: elf::EV_CURRENT,
                os_abi: elf::ELFOSABI_NONE,
                abi_version: 0,
                padding: [0; 7],
            },
            e_type: U16::new(LE, elf::ET_CORE),
            e_machine: U16::new(LE, elf::EM_AARCH64),
            e_version: U32::new(LE, 1),
            e_entry: U64::new(LE, 0),
            e_phoff: U64::new(LE, EHDR as u64),
            e_shoff: U64::new(LE, if extended { (EHDR + count * PHDR) as u64 } else { 0 }),
            e_flags: U32::new(LE, elf::FileFlags(0)),
            e_ehsize: U16::new(LE, EHDR as u16),
            e_phentsize: U16::new(LE, PHDR as u16),
            e_phnum: U16::new(LE, count.min(PN_XNUM) as u16),
            e_shentsize: U16::new(LE, if extended { SHDR as u16 } else { 0 }),
            e_shnum: U16::new(LE, u16::from(extended)),
            e_shstrndx: U16::new(LE, elf::SymbolSection(0)),
        };
        out.extend(bytes_of(&header));
        let phdr = |kind: elf::ProgramType, s: &Segment, align: u64| elf::ProgramHeader64::<LE> {
            p_type: U32::new(LE, kind),
            p_flags: U32::new(LE, elf::ProgramFlags(s.flags)),
            p_offset: U64::new(LE, s.offset),
            p_vaddr: U64::new(LE, s.vaddr),
            p_paddr: U64::new(LE, s.paddr),
            p_filesz: U64::new(LE, s.filesz),
            p_memsz: U64::new(LE, s.memsz),
            p_align: U64::new(LE, align),
        };
        let notes = Segment {
            offset: self.notes_at() as u64,
            filesz: self.note_bytes() as u64,
            ..Segment::default()
        };
        out.extend(bytes_of(&phdr(elf::PT_NOTE, &notes, 4)));
        let start = self.data_start();
        for segment in &self.segments {
            let moved = Segment { offset: start + segment.offset, ..*segment };
            out.extend(bytes_of(&phdr(elf::PT_LOAD, &moved, PAGE_SIZE)));
        }
        for piece in &self.pieces {
            let segment = Segment {
                vaddr: piece.start,
                paddr: piece.file,
                offset: start + piece.offset,
                filesz: piece.len,
                memsz: piece.len,
                ..Segment::default()
            };
            out.extend(bytes_of(&phdr(elf::ProgramType(PT_FILE_PIECE), &segment, PAGE_SIZE)));
        }
        if extended {
            let section = elf::SectionHeader64::<LE> {
                sh_name: U32::new(LE, 0),
                sh_type: U32::new(LE, elf::SHT_NULL),
                sh_flags: U64::new(LE, elf::SectionFlags(0)),
                sh_addr: U64::new(LE, 0),
                sh_offset: U64::new(LE, 0),
                sh_size: U64::new(LE, 1),
                sh_link: U32::new(LE, 0),
                sh_info: U32::new(LE, count as u32),
                sh_addralign: U64::new(LE, 0),
                sh_entsize: U64::new(LE, 0),
            };
            out.extend(bytes_of(&section));
        }
        for note in &self.notes {
            let name_len = note.name.len() + 1;
            for word in [name_len as u32, note.desc.len() as u32, note.kind] {
                out.extend(word.to_le_bytes());
            }
            out.extend(note.name.as_bytes());
            out.resize(out.len() + (name_len.next_multiple_of(4) - note.name.len()), 0);
            out.extend(&note.desc);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out.resize(start as usize, 0);
        out
    }
}

/// Writes `bytes` at `offset` of a new file, whole pages of zeros left out as holes.
pub fn fill_sparse(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    const ZERO: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
    let page = PAGE_SIZE as usize;
    let mut at = 0;
    while at < bytes.len() {
        let is_zero = |from: usize| {
            let piece = &bytes[from..bytes.len().min(from + page)];
            piece == &ZERO[..piece.len()]
        };
        let mut end = at;
        while end < bytes.len() && !is_zero(end) {
            end = bytes.len().min(end + page);
        }
        if end > at {
            file.write_all_at(&bytes[at..end], offset + at as u64)?;
        }
        at = end + page;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Parsed, parse};
    use super::*;

    fn core(count: u64) -> Core {
        let segment = |i: u64| Segment {
            flags: 4,
            vaddr: i * PAGE_SIZE,
            offset: 0,
            filesz: 0,
            memsz: PAGE_SIZE,
            ..Segment::default()
        };
        Core {
            notes: vec![Note::new("X", 5, *b"odd")],
            segments: (0..count).map(segment).collect(),
            pieces: vec![],
        }
    }

    fn read_back(core: &Core) -> Parsed {
        let head = core.head();
        assert_eq!(head.len() as u64, core.data_start());
        parse(head.as_slice()).unwrap()
    }

    #[test]
    fn segments_and_notes_are_read_back_however_many_they_are() {
        // 65534 segments and the notes are the first number that the ELF header cannot hold.
        for count in [0, 1, 65_533, 65_534, 65_535, 70_000] {
            let core = core(count);
            let parsed = read_back(&core);
            assert_eq!(parsed.segments.len() as u64, count);
            assert_eq!(parsed.notes, core.notes);
            let last = parsed.segments.last().map(|s| s.vaddr);
            assert_eq!(last, count.checked_sub(1).map(|i| i * PAGE_SIZE));
        }
        assert_eq!(core(70_000).head()[56..58], [0xff, 0xff]);
    }

    #[test]
    fn fill_sparse_leaves_pages_of_zeros_out() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(5 * PAGE_SIZE).unwrap();
        file.write_all_at(&[9; 5 * PAGE_SIZE as usize], 0).unwrap();
        let mut bytes = vec![0; 4 * PAGE_SIZE as usize + 10];
        bytes[PAGE_SIZE as usize] = 1;
        bytes[4 * PAGE_SIZE as usize] = 2;
        fill_sparse(&file, 0, &bytes).unwrap();
        let at = |page: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, page * PAGE_SIZE).unwrap();
            byte[0]
        };
        assert_eq!([0, 1, 2, 3, 4].map(at), [9, 1, 9, 9, 2]);
    }
}
