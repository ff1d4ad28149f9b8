//! mremap(2): moving and resizing a mapping together with its pages.

use super::asid::Asid;
use super::mm::{Mm, Space};
use super::tables::Tables;
use super::vma::{self, VmFlags, Vma};
use crate::addr::{PAGE_MASK, PAGE_SIZE, TASK_SIZE, VirtAddr, page_align_up};
use crate::arch::tlb;
use crate::errno::{Errno, Result};
use crate::uapi::{MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE};

impl Mm {
    /// mremap(2); returns the new address.
    pub fn mremap(
        &self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64> {
        let known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
        let may_move = flags & MREMAP_MAYMOVE != 0;
        let fixed = flags & MREMAP_FIXED != 0;
        let keep = flags & MREMAP_DONTUNMAP != 0;
        if flags & !known != 0
            || ((fixed || keep) && !may_move)
            || (keep && old_len != new_len)
            || old & PAGE_MASK as u64 != 0
        {
            return Err(Errno::EINVAL);
        }
        // A length that is too long to be rounded up is none (the kernel's sum wraps).
        let old_len = page_align_up(old_len).unwrap_or(0);
        let new_len = page_align_up(new_len).unwrap_or(0);
        if new_len == 0 {
            return Err(Errno::EINVAL);
        }
        let (addr, locked) = self.change(|space, gone| {
            vma::find_containing(&space.vmas, old).ok_or(Errno::EFAULT)?;
            let old_top = old.checked_add(old_len).filter(|end| *end <= TASK_SIZE);
            if fixed || keep {
                let new_end = new.checked_add(new_len).filter(|end| *end <= TASK_SIZE);
                let new_end = new_end.filter(|_| new & PAGE_MASK as u64 == 0);
                let new_end = new_end.ok_or(Errno::EINVAL)?;
                // An old end that wraps lies below everything.
                if old.wrapping_add(old_len) > new && new_end > old {
                    return Err(Errno::EINVAL);
                }
            }
            if fixed {
                self.unmap_range(space, new, new + new_len, gone)?;
            }
            if new_len < old_len {
                let old_top = old_top.ok_or(Errno::EINVAL)?;
                self.unmap_range(space, old + new_len, old_top, gone)?;
            }
            if new_len <= old_len && !fixed && !keep {
                return Ok((old, false));
            }
            let old_len = old_len.min(new_len);
            let vma = Self::remappable(space, old, old_len, new_len)?;
            let locked = vma.flags.contains(VmFlags::LOCKED);
            let growth = new_len - old_len;
            if fixed && new < space.limits.lowest {
                return Err(Errno::EPERM);
            }
            if growth > 0 && locked {
                space.may_lock(growth)?;
            }
            space.may_expand(vma.flags, if keep { new_len } else { growth })?;
            // Room right behind it?
            let old_end = old + old_len;
            if !fixed
                && !keep
                && old_len > 0
                && vma.end == old_end
                && old_end.checked_add(growth).is_some_and(|end| end <= TASK_SIZE)
                && vma::overlapping(&space.vmas, old_end, old_end + growth).is_empty()
            {
                let pgoff = if vma.file.is_some() { vma.page_index(old_end) } else { 0 };
                space.add(Vma { start: old_end, end: old_end + growth, pgoff, ..vma })?;
                return Ok((old, locked));
            }
            if !may_move {
                return Err(Errno::ENOMEM);
            }
            let hint = if keep { new } else { 0 };
            let to = if fixed { new } else { space.find_near(hint, new_len)? };
            self.move_range(space, &vma, old, old_len, to, new_len)?;
            if keep {
                // What stays is empty, and not locked.
                let locks = VmFlags::LOCKED | VmFlags::LOCKONFAULT;
                space.mark(old, old_end, locks, VmFlags::empty())?;
            } else if old_len > 0 {
                self.unmap_range(space, old, old_end, gone)?;
            }
            Ok((to, locked))
        })?;
        if locked {
            let _ = self.populate(addr, addr + new_len, None);
        }
        Ok(addr)
    }

    /// The range that holds `old..old + len`, if it may be remapped to `new_len` bytes.
    fn remappable(space: &Space, old: u64, len: u64, new_len: u64) -> Result<Vma> {
        let vma = vma::find_containing(&space.vmas, old).ok_or(Errno::EFAULT)?;
        // Length 0 asks for a second mapping of shared memory (mremap(2), BUGS).
        if len == 0 && vma.is_private() {
            return Err(Errno::EINVAL);
        }
        if len > vma.end - old || (new_len > len && vma.flags.contains(VmFlags::DONTEXPAND)) {
            return Err(Errno::EFAULT);
        }
        Ok(vma.clone())
    }

    /// Makes a range at `to` like the part of `vma` at `from`, and moves its pages there.
    fn move_range(
        &self,
        space: &mut Space,
        vma: &Vma,
        from: u64,
        len: u64,
        to: u64,
        new_len: u64,
    ) -> Result<()> {
        // The split that unmapping the old place may need, and the new range.
        vma::reserve(&mut space.vmas, 3)?;
        let pgoff = if vma.file.is_some() { vma.page_index(from) } else { 0 };
        let moved = Vma { start: to, end: to + new_len, pgoff, ..vma.clone() };
        let mut tables = self.tables.lock();
        let mut result = Ok(());
        let mut at = 0;
        while at < len {
            let Some(va) = tables.next_present(from + at, from + len) else { break };
            at = va.0 - from;
            result = move_page(&mut tables, self.asid(), from + at, to + at);
            if result.is_err() {
                break;
            }
            at += PAGE_SIZE as u64;
        }
        if result.is_err() {
            // Back again: the tables there are still in place and exclusive, so this cannot fail.
            let mut back = 0;
            while let Some(va) = tables.next_present(to + back, to + at) {
                back = va.0 - to;
                let _ = move_page(&mut tables, self.asid(), to + back, from + back);
                back += PAGE_SIZE as u64;
            }
        }
        tlb::flush_asid(|| self.asid().get());
        drop(tables);
        result?;
        space.add(moved)
    }
}

/// Moves one entry. The caller invalidates.
fn move_page(tables: &mut Tables, asid: &Asid, from: u64, to: u64) -> Result<()> {
    // Both tables first: taking the entry is what must not fail half-way.
    tables.leaf(asid, VirtAddr(to))?;
    let pte = tables.leaf(asid, VirtAddr(from))?.take();
    tables.leaf(asid, VirtAddr(to))?.fill(pte);
    Ok(())
}
