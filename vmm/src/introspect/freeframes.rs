//! Which frames the guest's kernel does not use, by its own frame table.
//!
//! A free block of the buddy allocator is a record of kind `Free` with the block's order, at a frame
//! number that is a multiple of its size; single free frames on a CPU's list are `Hot`. Records of RAM
//! that the kernel never touched are as RAM began, zeros, which count as in use: their frames are zeros
//! too and cost nothing. What is said here is a hint to leave frames out of a copy. A kernel that lies
//! harms nobody but itself.

use std::ops::Range;

use super::{Error, Kernel, Result};

/// Frames in the largest block that is believed, 2^10 as in the kernel.
const BLOCK: u64 = 1 << 10;
/// Most frames that are looked at: the board's RAM.
const MAX_FRAMES: u64 = crate::machine::MAX_MEMORY >> 12;

/// The free frames of a guest.
#[derive(Clone, Debug)]
pub struct FreeFrames {
    base: u64,
    bits: Vec<u64>,
}

impl FreeFrames {
    /// Reads the frame table for the frames in `ranges` (physical addresses); all others count as used.
    pub fn read(kernel: &Kernel<'_>, ranges: &[Range<u64>]) -> Result<Self> {
        let root = kernel.root();
        let page = kernel.note().get("Page")?;
        let offset = |name: &str| {
            page.field(name)
                .map(|f| f.offset as usize)
                .ok_or_else(|| Error::NoField { owner: "Page".into(), field: name.into() })
        };
        let (kind_at, order_at) = (offset("kind")?, offset("order")?);
        let kinds = kernel.note().get("PageKind")?;
        let is = |kind: u8, name: &str| kinds.value_name(kind.into()) == Some(name);
        let count = root.frame_count().min(MAX_FRAMES);
        let base = root.frame_base_pfn();
        let mut free = Self { base, bits: vec![0; count.div_ceil(64) as usize] };
        let size = page.size as usize;
        if size > 4096 {
            return Err(Error::Damaged { what: "the frame table".into() });
        }
        let mut records = vec![0; size * BLOCK as usize];
        let mut next = 0;
        for range in ranges {
            let first = (range.start >> 12).saturating_sub(base) / BLOCK;
            let last = (range.end.div_ceil(4096)).saturating_sub(base).min(count).div_ceil(BLOCK);
            for block in first.max(next)..last {
                next = block + 1;
                let start = block * BLOCK;
                let frames = (count - start).min(BLOCK) as usize;
                let records = &mut records[..frames * size];
                let addr = root.frame_table().wrapping_add(start.wrapping_mul(page.size));
                kernel.space().read(addr, records)?;
                let mut i = 0;
                while i < frames {
                    let record = &records[i * size..][..size];
                    let order = u32::from(record[order_at]);
                    let block = 1usize.checked_shl(order).filter(|n| *n as u64 <= BLOCK);
                    let run = match (record[kind_at], block) {
                        (kind, Some(n)) if is(kind, "Free") && i % n == 0 => n,
                        (kind, _) if is(kind, "Hot") => 1,
                        _ => 0,
                    };
                    for frame in i..(i + run).min(frames) {
                        let at = start as usize + frame;
                        free.bits[at / 64] |= 1 << (at % 64);
                    }
                    i += run.max(1);
                }
            }
        }
        Ok(free)
    }

    /// Whether the frame at a physical address is free.
    pub fn contains(&self, phys: u64) -> bool {
        let Some(index) = (phys >> 12).checked_sub(self.base) else { return false };
        let word = self.bits.get((index / 64) as usize);
        word.is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}
