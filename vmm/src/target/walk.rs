//! The stage-1 walk in software: VMSAv8-64, 4 KiB granule, 48-bit addresses (ARM ARM D8).
//!
//! The walk is one function over plain descriptors, used to read virtual memory, to show a walk entry
//! by entry (`vtop`) and, level by level, to count what a VMA has resident (`maps`).

use std::ops::Range;

use super::{Error, PAGE_SIZE, Ram, read_u64};

/// Levels of a walk: 0 to 3.
pub const LEVELS: usize = 4;
/// Entries in one table.
pub const ENTRIES: u64 = 512;
const OUTPUT_MASK: u64 = 0x0000_ffff_ffff_f000;

/// One descriptor of a stage-1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The raw value.
    pub raw: u64,
    /// The level of the table that it stands in, 0 to 3.
    pub level: usize,
}

/// What a descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing is mapped here.
    Invalid,
    /// The next table's physical address.
    Table(u64),
    /// A block (levels 1, 2) or page (level 3): its physical address.
    Leaf(u64),
}

/// Bytes that one descriptor of a level covers.
pub const fn span(level: usize) -> u64 {
    PAGE_SIZE << (9 * (LEVELS - 1 - level))
}

impl Descriptor {
    /// Decodes the descriptor's type and address.
    pub fn meaning(self) -> Meaning {
        let address = self.raw & OUTPUT_MASK;
        match (self.raw & 0b11, self.level) {
            (0b11, 0..=2) => Meaning::Table(address),
            (0b11, 3) => Meaning::Leaf(address),
            (0b01, 1 | 2) => Meaning::Leaf(address & !(span(self.level) - 1)),
            _ => Meaning::Invalid,
        }
    }

    fn bit(self, n: u32) -> bool {
        self.raw >> n & 1 == 1
    }

    /// Whether a table descriptor forbids writes below it (APTable[1]).
    pub fn table_read_only(self) -> bool {
        self.bit(62)
    }

    /// Whether a leaf forbids writes (AP[2]).
    pub fn leaf_read_only(self) -> bool {
        self.bit(7)
    }

    /// The frame that a page without access keeps: the kernel marks such an entry, which is invalid for
    /// the MMU, in a bit that the MMU leaves to software (`mprotect(PROT_NONE)`).
    pub fn forbidden_page(self) -> Option<u64> {
        let kept = self.level == LEVELS - 1 && self.raw & 1 == 0 && self.bit(58);
        kept.then_some(self.raw & OUTPUT_MASK)
    }

    /// The attributes as words, in the order of the architecture manual's bits from high to low.
    pub fn attributes(self) -> Vec<&'static str> {
        match self.meaning() {
            Meaning::Invalid if self.forbidden_page().is_some() => vec!["prot_none"],
            Meaning::Invalid => vec![],
            Meaning::Table(_) => self.named(&[
                (63, "NSTable"),
                (62, "APTable=ro"),
                (61, "APTable=noEL0"),
                (60, "UXNTable"),
                (59, "PXNTable"),
            ]),
            Meaning::Leaf(_) => {
                let mut words = self.named(&[
                    // Bits for software, as the kernel uses them.
                    (59, "shared"),
                    (57, "cow"),
                    (56, "special"),
                    (55, "dirty"),
                    (54, "UXN"),
                    (53, "PXN"),
                    (52, "contig"),
                    (51, "DBM"),
                    (11, "nG"),
                    (10, "AF"),
                ]);
                words.push(["nsh", "sh=reserved", "osh", "ish"][(self.raw >> 8 & 3) as usize]);
                words.push(if self.bit(7) { "ro" } else { "rw" });
                words.push(if self.bit(6) { "EL0" } else { "EL1" });
                words.push(
                    ["attr0", "attr1", "attr2", "attr3", "attr4", "attr5", "attr6", "attr7"]
                        [(self.raw >> 2 & 7) as usize],
                );
                words
            }
        }
    }

    fn named(self, bits: &[(u32, &'static str)]) -> Vec<&'static str> {
        bits.iter().filter(|(n, _)| self.bit(*n)).map(|(_, name)| *name).collect()
    }
}

/// One step of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Physical address of the table.
    pub table: u64,
    /// Index in the table.
    pub index: u64,
    /// The descriptor found there.
    pub descriptor: Descriptor,
}

/// A whole walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The steps, from level 0.
    pub steps: Vec<Step>,
    /// Where the address lies, if it is mapped.
    pub phys: Option<u64>,
    /// Whether the leaf and every table on the way allow a write.
    pub writable: bool,
}

/// Walks the tables at `pgd` for `virt` (its low 48 bits).
pub fn walk(ram: &dyn Ram, pgd: u64, virt: u64) -> Result<Walk, Error> {
    let mut walk = Walk { steps: Vec::with_capacity(LEVELS), phys: None, writable: true };
    let mut table = pgd & OUTPUT_MASK;
    for level in 0..LEVELS {
        let index = virt / span(level) % ENTRIES;
        let descriptor = Descriptor { raw: read_u64(ram, table + index * 8)?, level };
        walk.steps.push(Step { table, index, descriptor });
        match descriptor.meaning() {
            Meaning::Invalid => break,
            Meaning::Table(next) => {
                walk.writable &= !descriptor.table_read_only();
                table = next;
            }
            Meaning::Leaf(address) => {
                walk.writable &= !descriptor.leaf_read_only();
                walk.phys = Some(address + virt % span(level));
                break;
            }
        }
    }
    walk.writable &= walk.phys.is_some();
    Ok(walk)
}

/// A run of addresses that one set of tables maps to consecutive memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its first virtual address.
    pub virt: u64,
    /// Its first physical address.
    pub phys: u64,
    /// Bytes.
    pub len: u64,
    /// Whether its leaves allow a write.
    pub writable: bool,
}

/// Everything that the tables at `pgd` map, in ascending order; `half` are the upper bits of its
/// addresses. Tables that lead in circles or out of RAM end it early, and so do `most` runs.
pub fn mapped_ranges(ram: &dyn Ram, pgd: u64, half: u64, most: usize) -> Vec<Mapped> {
    let mut visit = Visit::new(ram, 0..u64::MAX, half, most);
    visit.table(pgd & OUTPUT_MASK, 0, 0);
    visit.found
}

/// The same for the addresses in `range` of the lower half, pages without access included.
pub fn mapped_ranges_in(ram: &dyn Ram, pgd: u64, range: Range<u64>, most: usize) -> Vec<Mapped> {
    let mut visit = Visit::new(ram, range, 0, most);
    visit.table(pgd & OUTPUT_MASK, 0, 0);
    visit.found
}

/// A walk over everything that some tables map.
struct Visit<'r> {
    ram: &'r dyn Ram,
    range: Range<u64>,
    half: u64,
    found: Vec<Mapped>,
    most: usize,
    tables_left: u32,
}

impl<'r> Visit<'r> {
    fn new(ram: &'r dyn Ram, range: Range<u64>, half: u64, most: usize) -> Self {
        /// Tables that are visited: far more than one address space of a real guest has.
        const MAX_TABLES: u32 = 1 << 18;
        Self { ram, range, half, found: vec![], most, tables_left: MAX_TABLES }
    }

    /// One table, whose first entry maps `base` of its half.
    fn table(&mut self, table: u64, level: usize, base: u64) {
        let mut entries = [0; PAGE_SIZE as usize];
        if self.tables_left == 0 || self.ram.read(table, &mut entries).is_err() {
            return;
        }
        self.tables_left -= 1;
        let span = span(level);
        let first = self.range.start.saturating_sub(base) / span;
        let last = self.range.end.saturating_sub(base).div_ceil(span).min(ENTRIES);
        for index in first..last {
            if self.found.len() >= self.most {
                return;
            }
            let at = index as usize * 8;
            let raw = u64::from_le_bytes(entries[at..at + 8].try_into().expect("eight bytes"));
            let descriptor = Descriptor { raw, level };
            let here = base + index * span;
            match descriptor.meaning() {
                Meaning::Invalid => {
                    if let Some(phys) = descriptor.forbidden_page() {
                        self.leaf(here, phys, span, false);
                    }
                }
                Meaning::Table(next) => self.table(next, level + 1, here),
                Meaning::Leaf(phys) => {
                    self.leaf(here, phys, span, !descriptor.leaf_read_only());
                }
            }
        }
    }

    fn leaf(&mut self, base: u64, phys: u64, span: u64, writable: bool) {
        let start = base.max(self.range.start);
        let end = (base + span).min(self.range.end);
        let leaf = Mapped {
            virt: self.half | start,
            phys: phys + (start - base),
            len: end.saturating_sub(start),
            writable,
        };
        match self.found.last_mut() {
            Some(last)
                if last.virt.wrapping_add(last.len) == leaf.virt
                    && last.phys + last.len == leaf.phys
                    && last.writable == leaf.writable =>
            {
                last.len += leaf.len;
            }
            _ => self.found.push(leaf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::SliceRam;
    use proptest::prelude::*;

    const BASE: u64 = 0x4000_0000;

    /// Four tables in a row, one entry each: level n's entry 1 points at the next table.
    fn tables() -> Vec<u8> {
        let mut bytes = vec![0; 5 * 4096];
        let mut set = |table: usize, value: u64| {
            bytes[table * 4096 + 8..][..8].copy_from_slice(&value.to_le_bytes());
        };
        set(0, (BASE + 0x1000) | 3);
        set(1, (BASE + 0x2000) | 3 | (1 << 62));
        set(2, (BASE + 0x3000) | 3);
        set(3, (BASE + 0x4000) | 3 | (1 << 10) | (1 << 6) | (3 << 8));
        bytes
    }

    const VIRT: u64 = span(0) + span(1) + span(2) + span(3) + 0x123;

    #[test]
    fn walk_reaches_the_page_and_inherits_read_only() {
        let bytes = tables();
        let walk = walk(&SliceRam { base: BASE, bytes: &bytes }, BASE, VIRT).unwrap();
        assert_eq!(walk.phys, Some(BASE + 0x4123));
        assert_eq!(walk.steps.len(), 4);
        assert!(!walk.writable, "APTable[1] at level 1 forbids writes");
        assert_eq!(walk.steps[1].descriptor.attributes(), ["APTable=ro"]);
        assert_eq!(walk.steps[3].descriptor.attributes(), ["AF", "ish", "rw", "EL0", "attr0"]);
    }

    #[test]
    fn walk_of_an_absent_entry_stops() {
        let bytes = tables();
        let ram = SliceRam { base: BASE, bytes: &bytes };
        let walk = walk(&ram, BASE, VIRT + span(1)).unwrap();
        assert_eq!((walk.steps.len(), walk.phys, walk.writable), (2, None, false));
    }

    #[test]
    fn mapped_ranges_joins_what_is_consecutive() {
        let mut bytes = tables();
        let second = 3 * 4096 + 16;
        bytes[second..second + 8].copy_from_slice(&((BASE + 0x5000) | 3).to_le_bytes());
        let ram = SliceRam { base: BASE, bytes: &bytes };
        let half = 0xffff << 48;
        let wanted = Mapped {
            virt: half | (VIRT - 0x123),
            phys: BASE + 0x4000,
            len: 0x2000,
            writable: true,
        };
        assert_eq!(mapped_ranges(&ram, BASE, half, 10), [wanted]);
        assert_eq!(mapped_ranges(&ram, BASE, half, 0), []);
        assert_eq!(mapped_ranges(&ram, 0, half, 10), []);
    }

    #[test]
    fn block_covers_its_span() {
        let mut bytes = tables();
        bytes[2 * 4096 + 8..][..8].copy_from_slice(&(0x8020_0000u64 | 1).to_le_bytes());
        let ram = SliceRam { base: BASE, bytes: &bytes };
        assert_eq!(walk(&ram, BASE, VIRT).unwrap().phys, Some(0x8020_0000 + VIRT % span(2)));
    }

    #[test]
    fn block_at_level_0_and_reserved_at_level_3_are_invalid() {
        for level in [0, 3] {
            assert_eq!(Descriptor { raw: 0x1001, level }.meaning(), Meaning::Invalid);
        }
    }

    proptest! {
        #[test]
        fn walk_of_any_tables_is_bounded(
            words in prop::collection::vec(any::<u64>(), 512 * 3), pgd: u64, virt: u64,
        ) {
            let bytes: Vec<u8> = words
                .iter()
                // Half of the entries point back into the tables: loops are common.
                .map(|w| if w & 4 == 0 { (w & 0x2fff) | BASE | 3 } else { *w })
                .flat_map(u64::to_le_bytes)
                .collect();
            let ram = SliceRam { base: BASE, bytes: &bytes };
            for pgd in [pgd, BASE, BASE + 0x1000] {
                if let Ok(walk) = walk(&ram, pgd, virt) {
                    prop_assert!(walk.steps.len() <= LEVELS);
                }
            }
        }
    }
}
