//! remap_file_pages(2): other pages of an object in a part of its shared mapping. As in Linux since 4.0 that part becomes
//! a mapping of its own.

use super::mm::{Mm, Space};
use super::vma::{self, VmFlags, Vma};
use crate::addr::{PAGE_MASK, PAGE_SHIFT, TASK_SIZE};
use crate::errno::{Errno, Result};

/// What the part keeps of the mapping's flags.
const KEPT: VmFlags = VmFlags::ACCESS
    .union(VmFlags::MAY)
    .union(VmFlags::SHARED)
    .union(VmFlags::MAYSHARE)
    .union(VmFlags::LOCKED);

impl Mm {
    /// Maps the object's pages from `pgoff` on at `start`, for `len` bytes (both are rounded down to pages); makes them
    /// present if `populate` says so. `EINVAL` unless all of that is one shared mapping.
    pub fn remap_file_pages(&self, start: u64, len: u64, pgoff: u64, populate: bool) -> Result<()> {
        let (start, len) = (start & !(PAGE_MASK as u64), len & !(PAGE_MASK as u64));
        let end = start.checked_add(len).filter(|end| len > 0 && *end <= TASK_SIZE);
        let end = end.ok_or(Errno::EINVAL)?;
        pgoff.checked_add(len >> PAGE_SHIFT).ok_or(Errno::EINVAL)?;
        self.change(|space, gone| {
            let mapping = shared_mapping(space, start, end).ok_or(Errno::EINVAL)?;
            let (flags, file) = (mapping.flags & KEPT, mapping.file.clone());
            let offset = pgoff.checked_mul(1 << PAGE_SHIFT).ok_or(Errno::EOVERFLOW)?;
            file.as_ref().map_or(Ok(()), |file| file.backing().check_range(offset, len))?;
            self.unmap_range(space, start, end, gone)?;
            space.add(Vma { start, end, flags, pgoff, file })
        })?;
        if populate {
            // Pages that cannot be had now are faulted for later, as with mmap(2).
            let _ = self.populate(start, end, None);
        }
        Ok(())
    }
}

/// The first of the ranges that are `start..end`, if they follow each other, show one object and are alike.
fn shared_mapping(space: &Space, start: u64, end: u64) -> Option<&Vma> {
    let first = vma::find_containing(&space.vmas, start)?;
    let file = first.file.as_ref()?;
    if !first.flags.contains(VmFlags::SHARED) {
        return None;
    }
    let mut at = first.end;
    for vma in &space.vmas[vma::overlapping(&space.vmas, first.end, end.max(first.end))] {
        let same = vma.file.as_ref().is_some_and(|other| other.same(file));
        if vma.start != at || vma.flags != first.flags || !same {
            return None;
        }
        at = vma.end;
    }
    (at >= end).then_some(first)
}
