//! What regular files hold, as a hash: whoever resumes a process finds the same files, or is told.
//!
//! Files of the guest are pages in its memory. Those of a file stand in a tree with 64 places a node; what
//! has no page is zeros.

use std::collections::HashMap;

use object::elf::ELFMAG;

use super::{Error, Result};
use crate::introspect::{Error as GuestError, Frames, Kernel, Object};
use crate::machine::MAX_MEMORY;
use crate::target::PAGE_SIZE;

/// Places of a node, as a power of two.
const FANOUT_SHIFT: u64 = 6;
/// A place with nothing, with a node, with a page.
const EMPTY: u64 = 0;
const NODE: u64 = 1;
const PAGE: u64 = 2;

/// A file's size and the BLAKE3 of its bytes.
pub(super) type Content = (u64, [u8; 32]);

/// Hashes of files that were asked for already.
pub(super) struct Contents<'k> {
    kernel: &'k Kernel<'k>,
    frames: Frames<'k>,
    known: HashMap<u64, Content>,
}

impl<'k> Contents<'k> {
    /// Knows none yet.
    pub(super) fn new(kernel: &'k Kernel<'k>) -> Result<Self> {
        Ok(Self { kernel, frames: Frames::new(kernel)?, known: HashMap::new() })
    }

    /// What the file whose pages `holder` (an inode, a mapped file) names holds; `None` if it is not made of
    /// pages.
    pub(super) fn of(&mut self, holder: &Object<'k>) -> Result<Option<Content>> {
        let Some(mapping) = holder.ptr("pages")? else { return Ok(None) };
        if let Some(known) = self.known.get(&mapping.addr()) {
            return Ok(Some(*known));
        }
        let content = self.hash(&mapping)?;
        self.known.insert(mapping.addr(), content);
        Ok(Some(content))
    }

    /// The physical address of such a file's first page, if that is in memory and begins an ELF file.
    pub(super) fn elf_header(&self, holder: &Object<'k>) -> Result<Option<u64>> {
        let Some(mapping) = holder.ptr("pages")? else { return Ok(None) };
        let Some(record) = self.page(&mapping, 0)? else { return Ok(None) };
        let Some(phys) = self.frames.phys_of(record) else { return Ok(None) };
        let mut magic = ELFMAG;
        self.kernel.space().ram().read(phys, &mut magic)?;
        Ok((magic == ELFMAG).then_some(phys))
    }

    /// What a file holds, without its holes.
    pub(super) fn runs(&self, mapping: &Object<'k>) -> Result<Vec<Run>> {
        let size = mapping.uint("size")?;
        if size > i64::MAX as u64 {
            return Err(damaged());
        }
        let frames = self.kernel.root().frame_count().min(MAX_MEMORY / PAGE_SIZE);
        // Nodes are in memory, too, four of them in a page at most.
        let mut found =
            Found { size, runs: vec![], pages: frames, nodes: frames.saturating_mul(4) };
        let height = height(mapping)?;
        self.pages_under(&mapping.embedded("tree.root")?, height, 0, &mut found)?;
        Ok(found.runs)
    }

    /// Adds the pages below a place, of which the first may be page `index`.
    fn pages_under(
        &self,
        slot: &Object<'k>,
        height: u64,
        index: u64,
        found: &mut Found,
    ) -> Result<()> {
        let target = slot.uint("target")?;
        match (slot.uint("kind")?, height) {
            (EMPTY, _) => Ok(()),
            (PAGE, 0) => found.add(index, self.frames.phys_of(target).ok_or_else(damaged)?),
            (NODE, 1..) => {
                found.nodes = found.nodes.checked_sub(1).ok_or_else(damaged)?;
                for digit in 0..1_u64 << FANOUT_SHIFT {
                    let index = digit
                        .checked_shl(((height - 1) * FANOUT_SHIFT) as u32)
                        .and_then(|more| index.checked_add(more));
                    let Some(index) = index.filter(|index| *index < found.end()) else { break };
                    self.pages_under(&self.slot(target, digit)?, height - 1, index, found)?;
                }
                Ok(())
            }
            _ => Err(damaged()),
        }
    }

    fn hash(&self, mapping: &Object<'k>) -> Result<Content> {
        /// No file is larger, holes included.
        const MAX_SIZE: u64 = 4 * MAX_MEMORY;
        let size = mapping.uint("size")?;
        if size > MAX_SIZE {
            return Err(damaged());
        }
        let mut hasher = blake3::Hasher::new();
        let mut page = [0; PAGE_SIZE as usize];
        let mut at = 0;
        while at < size {
            let n = (size - at).min(PAGE_SIZE) as usize;
            match self.page(mapping, at / PAGE_SIZE)? {
                Some(record) => {
                    let phys = self.frames.phys_of(record).ok_or_else(damaged)?;
                    self.kernel.space().ram().read(phys, &mut page)?;
                }
                None => page.fill(0),
            }
            hasher.update(&page[..n]);
            at += n as u64;
        }
        Ok((size, *hasher.finalize().as_bytes()))
    }

    /// The record of the frame of page `index`; `None` for a hole.
    fn page(&self, mapping: &Object<'k>, index: u64) -> Result<Option<u64>> {
        let mut height = height(mapping)?;
        let digits = height * FANOUT_SHIFT;
        if digits < u64::from(u64::BITS) && index >> digits != 0 {
            return Ok(None);
        }
        let mut slot = mapping.embedded("tree.root")?;
        loop {
            let target = slot.uint("target")?;
            match (slot.uint("kind")?, height) {
                (EMPTY, _) => return Ok(None),
                (PAGE, 0) => return Ok(Some(target)),
                (NODE, 1..) => {
                    height -= 1;
                    let digit = index >> (height * FANOUT_SHIFT) & ((1 << FANOUT_SHIFT) - 1);
                    slot = self.slot(target, digit)?;
                }
                _ => return Err(damaged()),
            }
        }
    }

    /// A place of a node.
    fn slot(&self, node: u64, digit: u64) -> Result<Object<'k>> {
        let node = Object::new(self.kernel, "PageNode", node)?;
        let size = self.kernel.note().get("SlotForm")?.size;
        let at = node.addr_of("slots")?.wrapping_add(digit.wrapping_mul(size));
        Ok(Object::new(self.kernel, "SlotForm", at)?)
    }
}

fn damaged() -> Error {
    GuestError::Damaged { what: "the pages of a file".into() }.into()
}

/// How many nodes stand above a file's pages.
fn height(mapping: &Object<'_>) -> Result<u64> {
    let height = mapping.uint("tree.height")?;
    // More than any index has digits.
    if height > 64 / FANOUT_SHIFT + 1 { Err(damaged()) } else { Ok(height) }
}

/// Consecutive bytes of a file that are consecutive in memory, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where in the file.
    pub start: u64,
    /// Where in memory.
    pub phys: u64,
    /// How many.
    pub len: u64,
}

/// What was found of a file so far.
struct Found {
    /// Bytes of the file.
    size: u64,
    runs: Vec<Run>,
    /// How many pages and nodes there may be yet: more than memory has are none.
    pages: u64,
    nodes: u64,
}

impl Found {
    /// No page of the file has this index or a higher one: what lies there was only allocated in advance.
    fn end(&self) -> u64 {
        self.size.div_ceil(PAGE_SIZE)
    }

    fn add(&mut self, index: u64, phys: u64) -> Result<()> {
        if index >= self.end() {
            return Ok(());
        }
        self.pages = self.pages.checked_sub(1).ok_or_else(damaged)?;
        let start = index * PAGE_SIZE;
        // The last page ends with the file.
        let len = (self.size - start).min(PAGE_SIZE);
        match self.runs.last_mut() {
            Some(last)
                if last.start + last.len == start
                    && last.phys.checked_add(last.len) == Some(phys) =>
            {
                last.len += len;
            }
            _ => self.runs.push(Run { start, phys, len }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_make_runs_that_end_with_the_file() {
        let mut found = Found { size: 4 * PAGE_SIZE + 5, runs: vec![], pages: 5, nodes: 0 };
        for (index, phys) in [(0, 0x4000), (1, 0x5000), (3, 0x6000), (4, 0x7000), (5, 0x8000)] {
            found.add(index, phys).unwrap();
        }
        let runs = [
            Run { start: 0, phys: 0x4000, len: 2 * PAGE_SIZE },
            Run { start: 3 * PAGE_SIZE, phys: 0x6000, len: PAGE_SIZE + 5 },
        ];
        assert_eq!(found.runs, runs);
        found.add(2, u64::MAX - 0xfff).unwrap();
        assert!(found.add(2, 0).is_err(), "more pages than memory has");
    }
}
