//! [`Vma`]: a range of an address space with one backing and one set of rights, and the sorted set of
//! them ([`Vmas`]).
//!
//! Invariants of a set: ranges are whole pages, not empty, sorted and apart; neighbours that could be
//! one (same rights, same file, consecutive offsets) are one. Pure logic: no table is touched here.

use core::ops::Range;

use belljar_abi::{Described, describe_flags};

use super::backing::RangeFile;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::arch::paging::Prot;
use crate::array::Array;
use crate::errno::{Errno, Result};

bitflags::bitflags! {
    /// Rights and properties of a range; the values are Linux's `VM_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct VmFlags: u64 {
        /// May be read.
        const READ = 0x1;
        /// May be written.
        const WRITE = 0x2;
        /// May be executed.
        const EXEC = 0x4;
        /// Stores are seen by all who map it.
        const SHARED = 0x8;
        /// mprotect(2) may grant reads.
        const MAYREAD = 0x10;
        /// mprotect(2) may grant writes.
        const MAYWRITE = 0x20;
        /// mprotect(2) may grant execution.
        const MAYEXEC = 0x40;
        /// Mapped with `MAP_SHARED`.
        const MAYSHARE = 0x80;
        /// Grows towards lower addresses when touched below its start.
        const GROWSDOWN = 0x100;
        /// mlock(2).
        const LOCKED = 0x2000;
        /// madvise(2): read in order.
        const SEQ_READ = 0x8000;
        /// madvise(2): read in no order.
        const RAND_READ = 0x1_0000;
        /// madvise(2): a child of fork does not get it.
        const DONTCOPY = 0x2_0000;
        /// mremap(2) may not enlarge it.
        const DONTEXPAND = 0x4_0000;
        /// mlock(2) with `MLOCK_ONFAULT`.
        const LOCKONFAULT = 0x8_0000;
        /// Counted against what may be committed.
        const ACCOUNT = 0x10_0000;
        /// `MAP_NORESERVE`.
        const NORESERVE = 0x20_0000;
        /// madvise(2): a child of fork gets zeros.
        const WIPEONFORK = 0x200_0000;
        /// madvise(2): not in core dumps.
        const DONTDUMP = 0x400_0000;
    }
}

describe_flags!(VmFlags);

impl VmFlags {
    /// All rights.
    pub const ACCESS: Self = Self::READ.union(Self::WRITE).union(Self::EXEC);
    /// What mprotect(2) may grant.
    pub const MAY: Self = Self::MAYREAD.union(Self::MAYWRITE).union(Self::MAYEXEC);

    /// What a table entry for this range allows, `None` for no access at all. A private page is
    /// writable only once it is the address space's own.
    #[inline]
    pub fn prot(self) -> Option<Prot> {
        if !self.intersects(Self::ACCESS) {
            return None;
        }
        let mut prot = Prot::empty();
        prot.set(Prot::WRITE, self.contains(Self::WRITE));
        prot.set(Prot::EXEC, self.contains(Self::EXEC));
        Some(prot)
    }

    /// Private writable memory, which RLIMIT_DATA and the commit limit count.
    #[inline]
    pub fn is_data(self) -> bool {
        self & (Self::WRITE | Self::SHARED | Self::GROWSDOWN) == Self::WRITE
    }

    /// `PROT_*` bits as rights.
    pub fn from_prot(prot: u32) -> Self {
        // The values agree: PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4.
        Self::from_bits_truncate(u64::from(prot)) & Self::ACCESS
    }
}

/// A range of an address space.
#[repr(C)]
#[derive(Described, Clone)]
pub struct Vma {
    /// First address.
    #[described(as = "hex")]
    pub start: u64,
    /// One past the last address.
    #[described(as = "hex")]
    pub end: u64,
    /// Rights and properties.
    #[described(as = "flags VmFlags")]
    pub flags: VmFlags,
    /// Page of the file at `start`.
    pub pgoff: u64,
    /// What is behind it; `None` for private anonymous memory.
    pub file: Option<RangeFile>,
}

impl Vma {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Never true: a range is not empty.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Pages.
    pub fn pages(&self) -> u64 {
        self.len() >> PAGE_SHIFT
    }

    /// True if the address lies in it.
    #[inline]
    pub fn contains(&self, addr: u64) -> bool {
        self.start <= addr && addr < self.end
    }

    /// The file's page behind an address.
    #[inline]
    pub fn page_index(&self, addr: u64) -> u64 {
        self.pgoff.wrapping_add((addr - self.start) >> PAGE_SHIFT)
    }

    /// Private: stores are the address space's own.
    #[inline]
    pub fn is_private(&self) -> bool {
        !self.flags.contains(VmFlags::SHARED)
    }

    /// Private, with every page in memory at all times.
    pub fn is_locked_private(&self) -> bool {
        let locked = self.flags & (VmFlags::LOCKED | VmFlags::LOCKONFAULT) == VmFlags::LOCKED;
        locked && self.is_private()
    }

    /// True if `next`, which starts where this one ends, could be part of it.
    fn continues(&self, next: &Vma) -> bool {
        self.end == next.start
            && self.flags == next.flags
            && match (&self.file, &next.file) {
                (None, None) => true,
                (Some(a), Some(b)) => {
                    a.same(b) && self.pgoff.wrapping_add(self.pages()) == next.pgoff
                }
                _ => false,
            }
    }

    /// The part from `at` on; `self` keeps the part before.
    fn split_off(&mut self, at: u64) -> Vma {
        let mut tail = self.clone();
        if tail.file.is_some() {
            tail.pgoff = self.page_index(at);
        }
        tail.start = at;
        self.end = at;
        tail
    }
}

/// Ranges sorted by address.
pub type Vmas = Array<Vma>;

/// The largest number of ranges in an address space (`vm.max_map_count`).
pub const MAX_MAP_COUNT: usize = 65530;

/// Index of the first range that ends after `addr`.
#[inline]
pub fn find(vmas: &[Vma], addr: u64) -> usize {
    vmas.partition_point(|vma| vma.end <= addr)
}

/// The range that holds `addr`.
pub fn find_containing(vmas: &[Vma], addr: u64) -> Option<&Vma> {
    vmas.get(find(vmas, addr)).filter(|vma| vma.start <= addr)
}

/// Indices of the ranges that overlap `start..end`.
pub fn overlapping(vmas: &[Vma], start: u64, end: u64) -> Range<usize> {
    let first = find(vmas, start);
    let last = first + vmas[first..].partition_point(|vma| vma.start < end);
    first..last
}

/// Makes sure that `n` more ranges fit: `ENOMEM` at the limit or without memory. Afterwards `n`
/// insertions cannot fail.
pub fn reserve(vmas: &mut Vmas, n: usize) -> Result<()> {
    if vmas.len() + n > MAX_MAP_COUNT {
        return Err(Errno::ENOMEM);
    }
    vmas.try_reserve(n)
}

/// Splits ranges so that none crosses the borders of `start..end`; returns the indices inside.
pub fn carve(vmas: &mut Vmas, start: u64, end: u64) -> Result<Range<usize>> {
    let range = overlapping(vmas, start, end);
    let split_first =
        range.start < vmas.len() && vmas[range.start].start < start && !range.is_empty();
    let split_last = !range.is_empty() && vmas[range.end - 1].end > end;
    if !split_first && !split_last {
        return Ok(range);
    }
    reserve(vmas, usize::from(split_first) + usize::from(split_last))?;
    let mut range = range;
    if split_last {
        let tail = vmas[range.end - 1].split_off(end);
        vmas.try_insert(range.end, tail)?;
    }
    if split_first {
        let tail = vmas[range.start].split_off(start);
        vmas.try_insert(range.start + 1, tail)?;
        range = range.start + 1..range.end + 1;
    }
    Ok(range)
}

/// Joins neighbours among `range` and the one before and after it where they could be one.
pub fn merge(vmas: &mut Vmas, range: Range<usize>) {
    let first = range.start.max(1);
    let mut i = (range.end + 1).min(vmas.len());
    while i > first {
        i -= 1;
        if vmas[i - 1].continues(&vmas[i]) {
            vmas[i - 1].end = vmas[i].end;
            vmas.remove(i);
        }
    }
}

/// Inserts a range where nothing is, and merges it. `ENOMEM` at the limit or without memory.
pub fn insert(vmas: &mut Vmas, vma: Vma) -> Result<()> {
    debug_assert!(vma.start < vma.end && vma.start.is_multiple_of(PAGE_SIZE as u64));
    let at = find(vmas, vma.start);
    debug_assert!(vmas.get(at).is_none_or(|next| vma.end <= next.start), "nothing is there");
    // The usual cases grow a neighbour in place.
    if at > 0 && vmas[at - 1].continues(&vma) {
        vmas[at - 1].end = vma.end;
        merge(vmas, at..at);
        return Ok(());
    }
    if vmas.get(at).is_some_and(|next| vma.continues(next)) {
        let next = &mut vmas[at];
        next.start = vma.start;
        next.pgoff = vma.pgoff;
        return Ok(());
    }
    if vmas.len() >= MAX_MAP_COUNT {
        return Err(Errno::ENOMEM);
    }
    vmas.try_insert(at, vma)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = PAGE_SIZE as u64;

    fn vma(start: u64, end: u64, flags: u64) -> Vma {
        let flags = VmFlags::from_bits_truncate(flags);
        Vma { start: start * PAGE, end: end * PAGE, flags, pgoff: 0, file: None }
    }

    fn check(vmas: &Vmas, model: &[Option<u64>]) {
        for pair in vmas.windows(2) {
            assert!(pair[0].end <= pair[1].start);
            assert!(!pair[0].continues(&pair[1]), "neighbours that could be one are one");
        }
        for (page, flags) in model.iter().enumerate() {
            let found = find_containing(vmas, page as u64 * PAGE);
            assert_eq!(found.map(|v| v.flags.bits()), *flags, "page {page}");
        }
    }

    proptest! {
        #[test]
        fn sets_agree_with_an_array_of_pages(
            ops in prop::collection::vec((0..3_u8, 0..64_u64, 1..20_u64, 0..4_u64), 1..120)
        ) {
            let mut vmas = Vmas::new();
            let mut model = [None; 84];
            for (op, start, len, flags) in ops {
                let end = start + len;
                let slice = &mut model[start as usize..end as usize];
                let range = carve(&mut vmas, start * PAGE, end * PAGE).unwrap();
                match op {
                    0 => {
                        vmas.drain(range);
                        insert(&mut vmas, vma(start, end, flags)).unwrap();
                        slice.fill(Some(flags));
                    }
                    1 => {
                        vmas.drain(range);
                        slice.fill(None);
                    }
                    _ => {
                        for v in &mut vmas[range.clone()] {
                            v.flags = VmFlags::from_bits_truncate(flags);
                        }
                        merge(&mut vmas, range);
                        slice.iter_mut().flatten().for_each(|f| *f = flags);
                    }
                }
                check(&vmas, &model);
            }
        }
    }
}
