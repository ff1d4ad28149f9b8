//! Names for kernel code addresses.
//!
//! The symbol table travels with the kernel (`belljar_abi::symbols`, in the payload behind the image),
//! so every RAM image has it. Source lines come from the kernel's ELF with DWARF, if one with the same
//! build id is at hand; nothing needs them.

use std::path::Path;

use belljar_abi::image::{HEADER_LEN, Header};
use belljar_abi::payload::{self, RECORD_LEN};
use belljar_abi::symbols;
use object::Object as _;

use super::root::Root;
use crate::target::Ram;

/// Most bytes of a symbol table that are read.
const MAX_TABLE: u64 = 16 << 20;

/// The kernel's symbols, copied out of the guest.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    table: Vec<u8>,
    base: u64,
}

/// A code address by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The function.
    pub symbol: String,
    /// Bytes from its start.
    pub offset: u64,
}

impl Symbols {
    /// Reads the table behind the kernel image; an empty one if there is none.
    pub fn read(ram: &dyn Ram, root: &Root) -> Self {
        Self { table: read_table(ram, root).unwrap_or_default(), base: root.image_virt() }
    }

    /// The function that covers a kernel virtual address.
    pub fn lookup(&self, addr: u64) -> Option<Location> {
        let offset = u32::try_from(addr.checked_sub(self.base)?).ok()?;
        let symbol = symbols::Symbols::read(&self.table)?.lookup(offset)?;
        Some(Location { symbol: symbol.name.to_owned(), offset: (offset - symbol.start).into() })
    }
}

/// The symbol record of the payload, found through the root page or the Image header.
fn read_table(ram: &dyn Ram, root: &Root) -> Option<Vec<u8>> {
    let start = match root.payload_phys() {
        0 => {
            let mut header = [0; HEADER_LEN];
            ram.read(root.image_phys(), &mut header).ok()?;
            let payload = Header::read(&header).ok()?.payload;
            root.image_phys().checked_add(payload).filter(|_| payload != 0)?
        }
        phys => phys,
    };
    let mut header = [0; payload::HEADER_LEN];
    ram.read(start, &mut header).ok()?;
    let total = payload::stated_len(&header)?;
    let count = u32::from_le_bytes(*header[8..].first_chunk()?);
    for i in 0..u64::from(count).min(payload::MAX_RECORDS as u64) {
        let mut record = [0; RECORD_LEN];
        ram.read(
            start.checked_add((payload::HEADER_LEN + i as usize * RECORD_LEN) as u64)?,
            &mut record,
        )
        .ok()?;
        let kind = u32::from_le_bytes(*record.first_chunk()?);
        let offset = u64::from_le_bytes(*record[8..].first_chunk()?);
        let len = u64::from_le_bytes(*record[16..].first_chunk()?);
        if kind == payload::SYMBOLS {
            if len > MAX_TABLE || offset.checked_add(len)? > total {
                return None;
            }
            let mut table = vec![0; len as usize];
            ram.read(start.checked_add(offset)?, &mut table).ok()?;
            return Some(table);
        }
    }
    None
}

/// Source lines of the kernel, from its ELF file.
pub struct SourceMap {
    loader: addr2line::Loader,
}

impl SourceMap {
    /// Opens the kernel's ELF if it is the build that runs; `None` if it is another one or unreadable.
    pub fn open(path: &Path, build_id: &[u8]) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let file = object::File::parse(&*bytes).ok()?;
        let same = !build_id.is_empty() && file.build_id().ok()? == Some(build_id);
        same.then(|| addr2line::Loader::new(path).ok().map(|loader| Self { loader }))?
    }

    /// The functions that the instruction at `addr` belongs to, those inlined into others first.
    pub fn frames(&self, addr: u64) -> Vec<SourceFrame> {
        let mut frames = vec![];
        let Ok(mut found) = self.loader.find_frames(addr) else { return frames };
        while let Ok(Some(frame)) = found.next() {
            let function = frame.function.as_ref().and_then(|f| f.demangle().ok());
            let line =
                frame.location.and_then(|l| Some(format!("{}:{}", shorten(l.file?), l.line?)));
            frames.push(SourceFrame { function: function.map_or("?".into(), Into::into), line });
        }
        frames
    }
}

/// One function of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFrame {
    /// Its name.
    pub function: String,
    /// `file:line`.
    pub line: Option<String>,
}

/// The part of a path below the kernel's or the compiler's source folder: it says enough, and says the
/// same on every machine.
fn shorten(file: &str) -> &str {
    ["guest-kernel/", "rust/library/", "registry/src/"]
        .iter()
        .find_map(|folder| file.rsplit_once(folder))
        .map_or(file, |(_, rest)| rest)
}
