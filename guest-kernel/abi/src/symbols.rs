//! The kernel's symbol table as it travels in the payload: what the kernel itself and the VMM use to
//! name a code address.
//!
//! ```text
//! 0   magic  4 bytes
//! 4   u32    number n of symbols
//! 8   u32    end of the last symbol, as an offset from the link base
//! 12  u32 × n      offset of each symbol from the link base (`__image_start`), ascending
//! …   u32 × (n+1)  where each name starts in the text behind; the last one is where the text ends
//! …   text   the demangled names, one after the other
//! ```
//!
//! Offsets rather than addresses, so the table holds wherever the kernel runs.

use crate::payload::u32_at;

/// Marks a symbol table.
pub const MAGIC: [u8; 4] = *b"BJSY";
const HEADER_LEN: usize = 12;

/// A checked view of a symbol table.
#[derive(Clone, Copy, Debug)]
pub struct Symbols<'a> {
    offsets: &'a [u8],
    names: &'a [u8],
    text: &'a [u8],
    end: u32,
}

/// A symbol that covers some address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Demangled name.
    pub name: &'a str,
    /// Start of the symbol, in bytes from the link base.
    pub start: u32,
}

impl<'a> Symbols<'a> {
    /// Checks the bounds of the table in `bytes`; `None` if it is not one.
    pub fn read(bytes: &'a [u8]) -> Option<Symbols<'a>> {
        (bytes.get(..4)? == MAGIC).then_some(())?;
        let count = u32_at(bytes, 4)? as usize;
        let end = u32_at(bytes, 8)?;
        let names_at = HEADER_LEN.checked_add(count.checked_mul(4)?)?;
        let text_at = names_at.checked_add(count.checked_add(1)?.checked_mul(4)?)?;
        Some(Symbols {
            offsets: bytes.get(HEADER_LEN..names_at)?,
            names: bytes.get(names_at..text_at)?,
            text: bytes.get(text_at..)?,
            end,
        })
    }

    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.offsets.len() / 4
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The symbol with this index in address order.
    pub fn get(&self, index: usize) -> Option<Symbol<'a>> {
        let start = u32_at(self.offsets, index.checked_mul(4)?)?;
        let from = u32_at(self.names, index * 4)? as usize;
        let to = u32_at(self.names, index * 4 + 4)? as usize;
        let name = core::str::from_utf8(self.text.get(from..to)?).ok()?;
        Some(Symbol { name, start })
    }

    /// The symbol that covers `offset` bytes from the link base.
    pub fn lookup(&self, offset: u32) -> Option<Symbol<'a>> {
        if offset >= self.end {
            return None;
        }
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if u32_at(self.offsets, middle * 4)? <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.get(low.checked_sub(1)?)
    }
}

#[cfg(any(feature = "alloc", test))]
pub use writer::encode;

#[cfg(any(feature = "alloc", test))]
mod writer {
    use super::MAGIC;
    use alloc::{string::String, vec::Vec};

    /// Encodes symbols given as (offset from the link base, name) in any order. Where two share an
    /// offset the first one stands. `end` is where the last symbol ends.
    pub fn encode(mut symbols: Vec<(u32, String)>, end: u32) -> Vec<u8> {
        symbols.sort_by_key(|(offset, _)| *offset);
        symbols.dedup_by_key(|(offset, _)| *offset);
        let mut bytes = Vec::from(MAGIC);
        bytes.extend((symbols.len() as u32).to_le_bytes());
        bytes.extend(end.to_le_bytes());
        for (offset, _) in &symbols {
            bytes.extend(offset.to_le_bytes());
        }
        let mut at = 0u32;
        bytes.extend(at.to_le_bytes());
        for (_, name) in &symbols {
            at += name.len() as u32;
            bytes.extend(at.to_le_bytes());
        }
        symbols.iter().for_each(|(_, name)| bytes.extend(name.as_bytes()));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<u8> {
        let names = [(0x100, "start"), (0x80, "vectors"), (0x200, "kmain"), (0x200, "alias")];
        encode(names.map(|(offset, name)| (offset, name.to_string())).to_vec(), 0x300)
    }

    #[test]
    fn lookup_finds_the_covering_symbol() {
        let bytes = table();
        let symbols = Symbols::read(&bytes).unwrap();
        let name = |offset| symbols.lookup(offset).map(|symbol| (symbol.name, symbol.start));
        assert_eq!(symbols.len(), 3);
        assert_eq!(name(0x7f), None);
        assert_eq!(name(0x80), Some(("vectors", 0x80)));
        assert_eq!(name(0x1ff), Some(("start", 0x100)));
        assert_eq!(name(0x2ff), Some(("kmain", 0x200)));
        assert_eq!(name(0x300), None);
    }

    #[test]
    fn read_of_damaged_table_never_panics() {
        let good = table();
        for at in 0..good.len() {
            for value in [0, 1, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                for len in [at, bad.len()] {
                    if let Some(symbols) = Symbols::read(&bad[..len]) {
                        let _ = (symbols.lookup(0), symbols.lookup(0x123), symbols.get(usize::MAX));
                    }
                }
            }
        }
    }

    #[test]
    fn empty_table_finds_nothing() {
        let bytes = encode(Vec::new(), 0);
        let symbols = Symbols::read(&bytes).unwrap();
        assert!(symbols.is_empty() && symbols.lookup(0).is_none());
    }
}
