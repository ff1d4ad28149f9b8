//! What regular files hold, as a hash: whoever resumes a process finds the same files, or is told.
//!
//! Files of the guest are pages in its memory. Those of a file stand in a tree with 64 places a node; what
//! has no page is zeros.

use std::collections::HashMap;

use object::elf::ELFMAG;

use super::Result;
use crate::introspect::{Error, Frames, Kernel, Object};
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

    fn hash(&self, mapping: &Object<'k>) -> Result<Content> {
        /// No file is larger, holes included.
        const MAX_SIZE: u64 = 4 * crate::machine::MAX_MEMORY;
        let damaged = || Error::Damaged { what: "the pages of a file".into() };
        let size = mapping.uint("size")?;
        if size > MAX_SIZE {
            return Err(damaged().into());
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
        let damaged = || Error::Damaged { what: "the pages of a file".into() };
        let mut height = mapping.uint("tree.height")?;
        // More than any index has digits.
        if height > 64 / FANOUT_SHIFT + 1 {
            return Err(damaged().into());
        }
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
                    let node = Object::new(self.kernel, "PageNode", target)?;
                    let size = self.kernel.note().get("SlotForm")?.size;
                    let at = node.addr_of("slots")?.wrapping_add(digit.wrapping_mul(size));
                    slot = Object::new(self.kernel, "SlotForm", at)?;
                }
                _ => return Err(damaged().into()),
            }
        }
    }
}
