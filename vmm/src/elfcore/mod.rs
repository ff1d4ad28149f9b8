//! ELF core files, of a machine or of a process: headers, notes and segments, written and read.
//!
//! What the notes and segments mean is the business of those who make them ([`crate::dump`],
//! [`crate::checkpoint`]) and read them ([`crate::target::VmCore`]). Layout of a file: ELF header, program headers, one
//! section header if there are too many segments to count in the ELF header (`PN_XNUM`, elf(5)), the
//! notes, then on a page boundary what the segments hold.

mod read;
pub mod regs;
mod write;

pub use read::{Error, Parsed, parse};
pub use write::{Core, fill_sparse};

/// Bytes of a page; segments begin on one.
const PAGE_SIZE: u64 = 4096;

/// A `PT_LOAD` segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// `PF_*`.
    pub flags: u32,
    /// Where it is mapped.
    pub vaddr: u64,
    /// Where it lies; 0 in cores of processes.
    pub paddr: u64,
    /// Where its bytes stand in the file. While a core is made: from the start of the data.
    pub offset: u64,
    /// Bytes in the file.
    pub filesz: u64,
    /// Bytes in memory; what the file does not hold is zeros, or unchanged in the mapped file.
    pub memsz: u64,
}

/// `PF_X`.
pub const PF_X: u32 = 1;
/// `PF_W`.
pub const PF_W: u32 = 2;
/// `PF_R`.
pub const PF_R: u32 = 4;

/// A note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whose it is, without the NUL.
    pub name: String,
    /// Which one of theirs.
    pub kind: u32,
    /// What it says.
    pub desc: Vec<u8>,
}

impl Note {
    /// A note of that owner and kind.
    pub fn new(name: &str, kind: u32, desc: impl Into<Vec<u8>>) -> Self {
        Self { name: name.to_owned(), kind, desc: desc.into() }
    }
}
