//! madvise(2), mincore(2), msync(2), mlock(2) and their kin.

use alloc::vec::Vec;

use super::fault::Fault;
use super::mm::{Mm, Space};
use super::vma::{self, VmFlags, Vma};
use crate::addr::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, TASK_SIZE, VirtAddr, page_align_up};
use crate::errno::{Errno, Result};
use crate::sync::RwLockReadGuard;
use crate::uapi;

/// The pages that `addr` and `len` name, for calls that want `addr` aligned and answer `EINVAL`.
fn page_range(addr: u64, len: u64) -> Result<(u64, u64)> {
    let len = page_align_up(len).ok_or(Errno::EINVAL)?;
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    if addr & PAGE_MASK as u64 != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((addr, end))
}

/// The first page and the bytes that mlock(2) and munlock(2) mean. A length that is too long to be rounded
/// up is none: the kernel's sum wraps.
fn lock_range(addr: u64, len: u64) -> (u64, u64) {
    let start = addr & !(PAGE_MASK as u64);
    (start, len.checked_add(addr - start).and_then(page_align_up).unwrap_or(0))
}

/// Up to where ranges cover `start..end` without a gap.
fn covered_end(space: &Space, start: u64, end: u64) -> u64 {
    let mut at = start;
    for vma in &space.vmas[vma::overlapping(&space.vmas, start, end)] {
        if vma.start > at {
            break;
        }
        at = vma.end;
    }
    at.min(end)
}

/// True if ranges cover all of `start..end`.
fn is_covered(space: &Space, start: u64, end: u64) -> bool {
    covered_end(space, start, end) == end
}

impl Space {
    /// Changes flags of the ranges in `start..end`.
    pub(super) fn mark(
        &mut self,
        start: u64,
        end: u64,
        clear: VmFlags,
        set: VmFlags,
    ) -> Result<()> {
        if start < end && !(clear | set).is_empty() {
            let range = vma::carve(&mut self.vmas, start, end)?;
            self.set_flags(range.clone(), |old| (old - clear) | set);
            vma::merge(&mut self.vmas, range);
        }
        Ok(())
    }
}

impl Mm {
    /// madvise(2).
    pub fn madvise(&self, addr: u64, len: u64, advice: u32) -> Result<()> {
        use uapi::*;
        if !matches!(advice, MADV_NORMAL..=MADV_DONTNEED | MADV_FREE..=MADV_DOFORK
            | MADV_MERGEABLE..=MADV_DONTNEED_LOCKED)
        {
            return Err(Errno::EINVAL);
        }
        let (start, end) = page_range(addr, len)?;
        if start == end {
            return Ok(());
        }
        match advice {
            MADV_DONTNEED | MADV_DONTNEED_LOCKED | MADV_FREE => self.discard(start, end, advice),
            MADV_REMOVE => self.remove(start, end),
            MADV_POPULATE_READ | MADV_POPULATE_WRITE => {
                self.populate_advised(start, end, advice == MADV_POPULATE_WRITE)
            }
            MADV_RANDOM => self.mark(start, end, VmFlags::SEQ_READ, VmFlags::RAND_READ),
            MADV_SEQUENTIAL => self.mark(start, end, VmFlags::RAND_READ, VmFlags::SEQ_READ),
            MADV_NORMAL => {
                let reads = VmFlags::SEQ_READ | VmFlags::RAND_READ;
                self.mark(start, end, reads, VmFlags::empty())
            }
            MADV_DONTFORK => self.mark(start, end, VmFlags::empty(), VmFlags::DONTCOPY),
            MADV_DOFORK => self.mark(start, end, VmFlags::DONTCOPY, VmFlags::empty()),
            MADV_DONTDUMP => self.mark(start, end, VmFlags::empty(), VmFlags::DONTDUMP),
            MADV_DODUMP => self.mark(start, end, VmFlags::DONTDUMP, VmFlags::empty()),
            MADV_WIPEONFORK => {
                let only_anonymous = |vma: &Vma| vma.file.is_none();
                self.mark_if(start, end, VmFlags::empty(), VmFlags::WIPEONFORK, only_anonymous)
            }
            MADV_KEEPONFORK => self.mark(start, end, VmFlags::WIPEONFORK, VmFlags::empty()),
            // Nothing is paged out; what is locked could not be.
            MADV_COLD | MADV_PAGEOUT => {
                let evictable = |vma: &Vma| !vma.flags.contains(VmFlags::LOCKED);
                self.mark_if(start, end, VmFlags::empty(), VmFlags::empty(), evictable)
            }
            // Hints about what is not there (huge pages, merging): nothing to do.
            _ => self.mark(start, end, VmFlags::empty(), VmFlags::empty()),
        }
    }

    /// Changes flags of the ranges in `start..end`; `ENOMEM` if there are gaps, after all was done.
    fn mark(&self, start: u64, end: u64, clear: VmFlags, set: VmFlags) -> Result<()> {
        self.mark_if(start, end, clear, set, |_| true)
    }

    /// The same as far as the ranges are such as `may` wants: `EINVAL` for the first that is not.
    fn mark_if(
        &self,
        start: u64,
        end: u64,
        clear: VmFlags,
        set: VmFlags,
        may: impl Fn(&Vma) -> bool,
    ) -> Result<()> {
        self.change(|space, _| {
            let range = vma::overlapping(&space.vmas, start, end);
            let refused = space.vmas[range].iter().find(|vma| !may(vma)).map(|vma| vma.start);
            space.mark(start, refused.unwrap_or(end), clear, set)?;
            match refused {
                Some(_) => Err(Errno::EINVAL),
                None if is_covered(space, start, end) => Ok(()),
                None => Err(Errno::ENOMEM),
            }
        })
    }

    /// Changes flags of the ranges from `start` to the first gap; `ENOMEM` if that comes before `end`.
    fn mark_to_gap(&self, start: u64, end: u64, clear: VmFlags, set: VmFlags) -> Result<()> {
        self.change(|space, _| {
            let to = covered_end(space, start, end);
            space.mark(start, to, clear, set)?;
            if to == end { Ok(()) } else { Err(Errno::ENOMEM) }
        })
    }

    /// `MADV_DONTNEED`: the pages go, the ranges stay. `MADV_FREE` may do it at any time: so at once.
    fn discard(&self, start: u64, end: u64, advice: u32) -> Result<()> {
        let space = self.space.write();
        for vma in &space.vmas[vma::overlapping(&space.vmas, start, end)] {
            let free = advice == uapi::MADV_FREE;
            if (vma.flags.contains(VmFlags::LOCKED) && advice != uapi::MADV_DONTNEED_LOCKED)
                || (free && (vma.file.is_some() || !vma.is_private()))
            {
                return Err(Errno::EINVAL);
            }
            let (from, to) = (vma.start.max(start), vma.end.min(end));
            self.seq.write(|| self.tables.lock().unmap(self.asid(), from, to))?;
        }
        if is_covered(&space, start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Calls `f` with the ranges of `start..end` one by one, as they are when it is their turn, and the part of each
    /// that is meant; `f` may give up the lock. `ENOMEM` if there are gaps, after all was done.
    pub(super) fn walk(
        &self,
        start: u64,
        end: u64,
        mut f: impl FnMut(RwLockReadGuard<'_, Space>, &Vma, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let (mut at, mut gap) = (start, false);
        while at < end {
            let space = self.space.read();
            let Some(vma) = space.vmas.get(vma::find(&space.vmas, at)).cloned() else {
                return Err(Errno::ENOMEM);
            };
            let (from, to) = (vma.start.max(at), vma.end.min(end));
            gap |= from > at;
            if from < to {
                f(space, &vma, from, to)?;
            }
            at = to.max(from);
        }
        if gap { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE`.
    fn populate_advised(&self, start: u64, end: u64, write: bool) -> Result<()> {
        let needed = if write { VmFlags::WRITE } else { VmFlags::READ };
        self.walk(start, end, |space, vma, from, to| {
            drop(space);
            if !vma.flags.contains(needed) {
                return Err(Errno::EINVAL);
            }
            self.populate(from, to, Some(write)).map_err(|fault| match fault {
                Fault::MapErr | Fault::Oom => Errno::ENOMEM,
                Fault::AccErr => Errno::EINVAL,
                Fault::BusErr => Errno::EFAULT,
            })
        })
    }

    /// `MADV_REMOVE`: makes a hole in the file behind shared mappings of what may be written to, now or not.
    fn remove(&self, start: u64, end: u64) -> Result<()> {
        self.walk(start, end, |space, vma, from, to| {
            if vma.flags.contains(VmFlags::LOCKED) {
                return Err(Errno::EINVAL);
            }
            let file = vma.file.as_ref().ok_or(Errno::EINVAL)?;
            if !vma.flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE) {
                return Err(Errno::EACCES);
            }
            let first = vma.page_index(from) << PAGE_SHIFT;
            // The hole unmaps pages everywhere, which takes this lock.
            drop(space);
            file.backing().punch_hole(first, to - from)
        })
    }

    /// mincore(2): one byte a page, 1 if it is in memory, up to the first gap. `ENOMEM` if that is at once.
    pub fn mincore(&self, addr: u64, len: u64) -> Result<Vec<u8>> {
        let (start, end) = page_range(addr, len)?;
        let space = self.space.read();
        let end = covered_end(&space, start, end);
        if end == start {
            return Err(Errno::ENOMEM);
        }
        let mut pages = Vec::new();
        let count = ((end - start) >> PAGE_SHIFT) as usize;
        pages.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        pages.resize(count, 0);
        for vma in &space.vmas[vma::overlapping(&space.vmas, start, end)] {
            let (from, to) = (vma.start.max(start), vma.end.min(end));
            if let Some(mapping) = vma.file.as_ref().and_then(|file| file.mapping()) {
                let (first, last) = (vma.page_index(from), vma.page_index(to - 1));
                let base = ((from - start) >> PAGE_SHIFT) as usize;
                mapping.for_each(first, last, |i, page| {
                    pages[base + (i - first) as usize] = u8::from(!page.is_reserved());
                });
            }
            self.tables.lock().visit(from, to, |va, _| {
                pages[((va.0 - start) >> PAGE_SHIFT) as usize] = 1;
            });
        }
        Ok(pages)
    }

    /// msync(2).
    pub fn msync(&self, addr: u64, len: u64, flags: u32) -> Result<()> {
        use uapi::{MS_ASYNC, MS_INVALIDATE, MS_SYNC};
        if flags & !(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0
            || flags & (MS_ASYNC | MS_SYNC) == MS_ASYNC | MS_SYNC
            || addr & PAGE_MASK as u64 != 0
        {
            return Err(Errno::EINVAL);
        }
        // A length that is too long to be rounded up is as good as none (the kernel's sum wraps).
        let len = page_align_up(len).unwrap_or(0);
        let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
        self.walk(addr, end, |space, vma, from, to| {
            if flags & MS_INVALIDATE != 0 && vma.flags.contains(VmFlags::LOCKED) {
                return Err(Errno::EBUSY);
            }
            drop(space);
            match &vma.file {
                Some(file) if !vma.is_private() && flags & MS_SYNC != 0 => {
                    file.backing().sync(vma.page_index(from), vma.page_index(to - 1))
                }
                _ => Ok(()),
            }
        })
    }

    /// mlock(2) and mlock2(2).
    pub fn mlock(&self, addr: u64, len: u64, on_fault: bool) -> Result<()> {
        let (start, len) = lock_range(addr, len);
        {
            let space = self.space.read();
            if space.limits.memlock == 0 {
                return Err(Errno::EPERM);
            }
            let end = start.saturating_add(len);
            let already: u64 = space.vmas[vma::overlapping(&space.vmas, start, end)]
                .iter()
                .filter(|vma| vma.flags.contains(VmFlags::LOCKED))
                .map(|vma| vma.end.min(end) - vma.start.max(start))
                .sum();
            space.may_lock(len - already).map_err(|_| Errno::ENOMEM)?;
        }
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        let mut set = VmFlags::LOCKED;
        set.set(VmFlags::LOCKONFAULT, on_fault);
        self.mark_to_gap(start, end, VmFlags::LOCKONFAULT - set, set)?;
        if !on_fault {
            self.populate(start, end, None).map_err(|fault| match fault {
                Fault::Oom => Errno::EAGAIN,
                _ => Errno::ENOMEM,
            })?;
        }
        Ok(())
    }

    /// munlock(2).
    pub fn munlock(&self, addr: u64, len: u64) -> Result<()> {
        let (start, len) = lock_range(addr, len);
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        self.mark_to_gap(start, end, VmFlags::LOCKED | VmFlags::LOCKONFAULT, VmFlags::empty())
    }

    /// mlockall(2).
    pub fn mlockall(&self, flags: u32) -> Result<()> {
        use uapi::{MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT};
        if flags == 0
            || flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0
            || flags == MCL_ONFAULT
        {
            return Err(Errno::EINVAL);
        }
        let mut set = VmFlags::LOCKED;
        set.set(VmFlags::LOCKONFAULT, flags & MCL_ONFAULT != 0);
        {
            let mut space = self.space.write();
            if space.limits.memlock == 0 {
                return Err(Errno::EPERM);
            }
            let bytes = space.total_vm << PAGE_SHIFT;
            if flags & MCL_CURRENT != 0 && bytes > space.limits.memlock {
                return Err(Errno::ENOMEM);
            }
            space.def_flags = if flags & MCL_FUTURE != 0 { set } else { VmFlags::empty() };
        }
        if flags & MCL_CURRENT != 0 {
            // Gaps between ranges are no error here.
            match self.mark(0, TASK_SIZE, VmFlags::LOCKONFAULT - set, set) {
                Ok(()) | Err(Errno::ENOMEM) => {}
                Err(error) => return Err(error),
            }
            if flags & MCL_ONFAULT == 0 {
                self.populate_all();
            }
        }
        Ok(())
    }

    fn populate_all(&self) {
        let mut at = 0;
        loop {
            let (start, end) = {
                let space = self.space.read();
                match space.vmas.get(vma::find(&space.vmas, at)) {
                    Some(vma) => (vma.start.max(at), vma.end),
                    None => return,
                }
            };
            let _ = self.populate(start, end, None);
            at = end;
        }
    }

    /// munlockall(2).
    pub fn munlockall(&self) -> Result<()> {
        self.space.write().def_flags = VmFlags::empty();
        let locks = VmFlags::LOCKED | VmFlags::LOCKONFAULT;
        match self.mark(0, TASK_SIZE, locks, VmFlags::empty()) {
            Ok(()) | Err(Errno::ENOMEM) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// True if the page at `va` is present: for tests and /proc.
    pub fn is_resident(&self, va: VirtAddr) -> bool {
        self.tables.lock().lookup(va).is_present()
    }

    /// Present pages of a range, and those of them that only this table entry maps.
    pub fn count_resident(&self, start: u64, end: u64) -> (u64, u64) {
        let (mut present, mut private) = (0, 0);
        self.tables.lock().visit(start, end, |_, pte| {
            present += 1;
            private += u64::from(super::fault::is_own(pte));
        });
        (present * PAGE_SIZE as u64, private * PAGE_SIZE as u64)
    }
}
