//! madvise(2), mincore(2), msync(2), mlock(2) and their kin.

use alloc::vec::Vec;

use super::fault::Fault;
use super::mm::{Mm, Space};
use super::vma::{self, VmFlags};
use crate::addr::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, TASK_SIZE, VirtAddr, page_align_up};
use crate::errno::{Errno, Result};
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

/// True if ranges cover all of `start..end`.
fn is_covered(space: &Space, start: u64, end: u64) -> bool {
    let mut at = start;
    for vma in &space.vmas[vma::overlapping(&space.vmas, start, end)] {
        if vma.start > at {
            return false;
        }
        at = vma.end;
    }
    at >= end
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
                let result = self.populate(start, end, Some(advice == MADV_POPULATE_WRITE));
                result.map_err(|fault| match fault {
                    Fault::MapErr | Fault::Oom => Errno::ENOMEM,
                    Fault::AccErr => Errno::EINVAL,
                    Fault::BusErr => Errno::EFAULT,
                })
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
                let space = self.space.read();
                let range = vma::overlapping(&space.vmas, start, end);
                if space.vmas[range].iter().any(|vma| vma.file.is_some()) {
                    return Err(Errno::EINVAL);
                }
                drop(space);
                self.mark(start, end, VmFlags::empty(), VmFlags::WIPEONFORK)
            }
            MADV_KEEPONFORK => self.mark(start, end, VmFlags::WIPEONFORK, VmFlags::empty()),
            // Hints about what is not there (huge pages, merging, swap): nothing to do.
            _ => self.mark(start, end, VmFlags::empty(), VmFlags::empty()),
        }
    }

    /// Changes flags of the ranges in `start..end`; `ENOMEM` if there are gaps, after all was done.
    fn mark(&self, start: u64, end: u64, clear: VmFlags, set: VmFlags) -> Result<()> {
        self.change(|space, _| {
            if !(clear | set).is_empty() {
                let range = vma::carve(&mut space.vmas, start, end)?;
                space.set_flags(range.clone(), |old| (old - clear) | set);
                vma::merge(&mut space.vmas, range);
            }
            if is_covered(space, start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
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

    /// `MADV_REMOVE`: makes a hole in the file behind shared mappings.
    fn remove(&self, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            let space = self.space.read();
            let vma = vma::find_containing(&space.vmas, at).ok_or(Errno::ENOMEM)?;
            let stop = vma.end.min(end);
            let file = vma.file.as_deref().cloned().ok_or(Errno::EINVAL)?;
            if vma.flags.contains(VmFlags::LOCKED) {
                return Err(Errno::EINVAL);
            }
            if !vma.flags.contains(VmFlags::SHARED | VmFlags::WRITE) {
                return Err(Errno::EACCES);
            }
            let first = vma.page_index(at) << PAGE_SHIFT;
            // The hole unmaps pages everywhere, which takes this lock.
            drop(space);
            let mapping = file.mapping().ok_or(Errno::EOPNOTSUPP)?;
            mapping.punch_hole(first, first + (stop - at));
            at = stop;
        }
        Ok(())
    }

    /// mincore(2): one byte a page, 1 if it is in memory.
    pub fn mincore(&self, addr: u64, len: u64) -> Result<Vec<u8>> {
        let (start, end) = page_range(addr, len)?;
        if end > TASK_SIZE {
            return Err(Errno::ENOMEM);
        }
        let space = self.space.read();
        if !is_covered(&space, start, end) {
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
                mapping.for_each(first, last, |i, _| pages[base + (i - first) as usize] = 1);
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
        let len = page_align_up(len).ok_or(Errno::ENOMEM)?;
        let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
        let mut at = addr;
        let mut gap = false;
        while at < end {
            let space = self.space.read();
            let i = vma::find(&space.vmas, at);
            let Some(vma) = space.vmas.get(i).filter(|vma| vma.start < end) else {
                return Err(Errno::ENOMEM);
            };
            gap |= vma.start > at;
            if flags & MS_INVALIDATE != 0 && vma.flags.contains(VmFlags::LOCKED) {
                return Err(Errno::EBUSY);
            }
            let (from, to) = (vma.start.max(at), vma.end.min(end));
            let synced = !vma.is_private() && flags & MS_SYNC != 0;
            let file = vma.file.as_deref().filter(|_| synced).cloned();
            let (first, last) = (vma.page_index(from), vma.page_index(to - 1));
            drop(space);
            if let Some(file) = file {
                file.backing().sync(first, last)?;
            }
            at = to;
        }
        if gap { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// mlock(2) and mlock2(2).
    pub fn mlock(&self, addr: u64, len: u64, on_fault: bool) -> Result<()> {
        let start = addr & !(PAGE_MASK as u64);
        let len = len.checked_add(addr - start).and_then(page_align_up).ok_or(Errno::ENOMEM)?;
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        if end > TASK_SIZE {
            return Err(Errno::ENOMEM);
        }
        if len == 0 {
            return Ok(());
        }
        {
            let space = self.space.read();
            if space.limits.memlock == 0 {
                return Err(Errno::EPERM);
            }
            let new: u64 = space.vmas[vma::overlapping(&space.vmas, start, end)]
                .iter()
                .filter(|vma| !vma.flags.contains(VmFlags::LOCKED))
                .map(|vma| vma.end.min(end) - vma.start.max(start))
                .sum();
            space.may_lock(new).map_err(|_| Errno::ENOMEM)?;
        }
        let mut set = VmFlags::LOCKED;
        set.set(VmFlags::LOCKONFAULT, on_fault);
        self.mark(start, end, VmFlags::LOCKONFAULT - set, set)?;
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
        let start = addr & !(PAGE_MASK as u64);
        let len = len.checked_add(addr - start).and_then(page_align_up).ok_or(Errno::ENOMEM)?;
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        self.mark(start, end, VmFlags::LOCKED | VmFlags::LOCKONFAULT, VmFlags::empty())
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
