//! mmap(2), munmap(2), mprotect(2), brk(2): changes of the set of ranges.

use alloc::vec::Vec;

use belljar_abi::corenote;

use super::backing::{MappedFile, RangeFile};
use super::fault::{MMAP_MIN_ADDR, STACK_GUARD_GAP, is_own};
use super::frame::{self, PageKind};
use super::mapping::Mapping;
use super::mm::{Mm, Space};
use super::vma::{self, VmFlags, Vma};
use crate::addr::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, TASK_SIZE, page_align_up};
use crate::arch::paging::Prot;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::uapi;

const PAGE: u64 = PAGE_SIZE as u64;

/// What mmap(2) is asked for.
#[derive(Clone)]
pub struct MmapRequest {
    /// Where, or a hint.
    pub addr: u64,
    /// Bytes; rounded up to pages.
    pub len: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`.
    pub flags: u32,
    /// The file, unless `MAP_ANONYMOUS`.
    pub file: Option<Ref<MappedFile>>,
    /// First page of the file.
    pub pgoff: u64,
    /// What mprotect(2) may grant later: from how the file is open. Ignored for anonymous memory.
    pub may: VmFlags,
}

impl MmapRequest {
    /// Rights and properties of the range that comes to be.
    fn vm_flags(&self) -> Result<VmFlags> {
        let may = if self.file.is_some() { self.may & VmFlags::MAY } else { VmFlags::MAY };
        let mut flags = VmFlags::from_prot(self.prot) | may;
        match self.flags & uapi::MAP_TYPE {
            uapi::MAP_PRIVATE => {}
            uapi::MAP_SHARED => flags |= VmFlags::SHARED | VmFlags::MAYSHARE,
            uapi::MAP_SHARED_VALIDATE if self.file.is_some() => {
                flags |= VmFlags::SHARED | VmFlags::MAYSHARE;
            }
            _ => return Err(Errno::EINVAL),
        }
        if self.flags & uapi::MAP_GROWSDOWN != 0 {
            // Only private memory grows.
            if self.file.is_some() || flags.contains(VmFlags::SHARED) {
                return Err(Errno::EINVAL);
            }
            flags |= VmFlags::GROWSDOWN;
        }
        if self.flags & uapi::MAP_NORESERVE != 0 {
            flags |= VmFlags::NORESERVE;
        }
        Ok(flags)
    }
}

/// True if the address starts a page.
fn is_aligned(addr: u64) -> bool {
    addr & PAGE_MASK as u64 == 0
}

/// `PROT_*` bits that exist here.
const PROT_ALL: u32 = uapi::PROT_READ | uapi::PROT_WRITE | uapi::PROT_EXEC | uapi::PROT_SEM;

impl Space {
    /// First address that `vma` keeps others away from.
    fn guarded_start(vma: &Vma) -> u64 {
        if vma.flags.contains(VmFlags::GROWSDOWN) {
            vma.start.saturating_sub(STACK_GUARD_GAP)
        } else {
            vma.start
        }
    }

    /// True if nothing is mapped in `start..end`, nor wants to grow into it.
    fn is_free(&self, start: u64, end: u64) -> bool {
        let i = vma::find(&self.vmas, start);
        self.vmas.get(i).is_none_or(|next| end <= Self::guarded_start(next))
    }

    /// A free place for `len` bytes: at the hint if that is one and not 0.
    pub(super) fn find_near(&mut self, hint: u64, len: u64) -> Result<u64> {
        let at = (hint & !(PAGE - 1)).max(MMAP_MIN_ADDR);
        let fits = at.checked_add(len).is_some_and(|end| end <= TASK_SIZE);
        if hint != 0 && fits && self.is_free(at, at + len) { Ok(at) } else { self.find_free(len) }
    }

    /// The highest free place for `len` bytes below the mmap base, or one above it if need be.
    pub(super) fn find_free(&mut self, len: u64) -> Result<u64> {
        if len > TASK_SIZE - MMAP_MIN_ADDR {
            return Err(Errno::ENOMEM);
        }
        if len <= self.hole_size {
            (self.hole_top, self.hole_size) = (self.mmap_base, 0);
        }
        let top = self.hole_top.min(self.mmap_base);
        if let Some(start) = self.search_down(top, len) {
            self.hole_top = start;
            return Ok(start);
        }
        (self.hole_top, self.hole_size) = (self.mmap_base, 0);
        if let Some(start) = self.search_down(self.mmap_base, len) {
            return Ok(start);
        }
        self.search_down(TASK_SIZE, len).ok_or(Errno::ENOMEM)
    }

    /// The highest free place for `len` bytes that ends at or below `top`.
    fn search_down(&mut self, top: u64, len: u64) -> Option<u64> {
        let mut i = vma::find(&self.vmas, top);
        // Range `i` ends above `top`; it may start below it, or keep others away from there.
        let mut end = self.vmas.get(i).map_or(top, |next| top.min(Self::guarded_start(next)));
        loop {
            let floor = i.checked_sub(1).map_or(MMAP_MIN_ADDR, |below| self.vmas[below].end);
            let hole = end.saturating_sub(floor.max(MMAP_MIN_ADDR));
            if hole >= len {
                return Some(end - len);
            }
            self.hole_size = self.hole_size.max(hole);
            i = i.checked_sub(1)?;
            end = end.min(Self::guarded_start(&self.vmas[i]));
        }
    }

    /// Where a mapping goes, and its length in whole pages, by the rules that do not ask what is behind
    /// it: mmap(2) looks at the file after these.
    fn place(&mut self, request: &MmapRequest) -> Result<(u64, u64)> {
        let MmapRequest { addr, len, flags, pgoff, .. } = *request;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = page_align_up(len).ok_or(Errno::ENOMEM)?;
        if pgoff.checked_add(len >> PAGE_SHIFT).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        if len > TASK_SIZE - MMAP_MIN_ADDR {
            return Err(Errno::ENOMEM);
        }
        let start = if flags & (uapi::MAP_FIXED | uapi::MAP_FIXED_NOREPLACE) != 0 {
            if addr > TASK_SIZE - len {
                return Err(Errno::ENOMEM);
            }
            if !is_aligned(addr) {
                return Err(Errno::EINVAL);
            }
            if addr < self.limits.lowest {
                return Err(Errno::EPERM);
            }
            if flags & uapi::MAP_FIXED_NOREPLACE != 0
                && !vma::overlapping(&self.vmas, addr, addr + len).is_empty()
            {
                return Err(Errno::EEXIST);
            }
            addr
        } else {
            self.find_near(addr, len)?
        };
        let locked = flags & uapi::MAP_LOCKED != 0;
        if locked && self.limits.memlock == 0 {
            return Err(Errno::EPERM);
        }
        if locked || self.def_flags.contains(VmFlags::LOCKED) {
            self.may_lock(len)?;
        }
        Ok((start, len))
    }

    /// Notes that `end` and below became free.
    fn note_hole(&mut self, end: u64) {
        if end > self.hole_top {
            self.hole_top = end.min(self.mmap_base).max(self.hole_top);
        }
    }

    /// `ENOMEM` if `len` more bytes with these flags break a limit.
    pub(super) fn may_expand(&self, flags: VmFlags, len: u64) -> Result<()> {
        let pages = len >> PAGE_SHIFT;
        let over = |used: u64, limit: u64| {
            used.checked_add(pages).is_none_or(|pages| pages > limit >> PAGE_SHIFT)
        };
        let data =
            flags & (VmFlags::WRITE | VmFlags::SHARED | VmFlags::GROWSDOWN) == VmFlags::WRITE;
        if over(self.total_vm, self.limits.address_space)
            || (data && over(self.data_vm, self.limits.data))
        {
            return Err(Errno::ENOMEM);
        }
        // vm.overcommit_memory 0: only what can never be is refused.
        if data && !flags.contains(VmFlags::NORESERVE) && pages > frame::total_frames() as u64 {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// `EAGAIN` if locking `len` more bytes breaks RLIMIT_MEMLOCK.
    pub(super) fn may_lock(&self, len: u64) -> Result<()> {
        let bytes = (self.locked_vm << PAGE_SHIFT).saturating_add(len);
        if bytes > self.limits.memlock { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    /// Adds a range where nothing is.
    pub(super) fn add(&mut self, vma: Vma) -> Result<()> {
        let (flags, pages) = (vma.flags, vma.pages());
        vma::insert(&mut self.vmas, vma)?;
        self.account(flags, pages, 1);
        Ok(())
    }
}

impl Mm {
    /// Runs a change of the ranges. Files that it puts into the vector are let go of after the lock is.
    pub(super) fn change<R>(
        &self,
        f: impl FnOnce(&mut Space, &mut Vec<RangeFile>) -> Result<R>,
    ) -> Result<R> {
        let mut gone = Vec::new();
        let mut space = self.space.write();
        let result = self.seq.write(|| f(&mut space, &mut gone));
        drop(space);
        drop(gone);
        result
    }

    /// Unmaps `start..end`, whatever is there.
    pub(super) fn unmap_range(
        &self,
        space: &mut Space,
        start: u64,
        end: u64,
        gone: &mut Vec<RangeFile>,
    ) -> Result<()> {
        let range = vma::carve(&mut space.vmas, start, end)?;
        if range.is_empty() {
            return Ok(());
        }
        let files = space.vmas[range.clone()].iter().filter(|vma| vma.file.is_some()).count();
        let unmapped = gone
            .try_reserve(files)
            .map_err(|_| Errno::ENOMEM)
            .and_then(|()| self.tables.lock().unmap(self.asid(), start, end));
        if let Err(error) = unmapped {
            vma::merge(&mut space.vmas, range);
            return Err(error);
        }
        for i in range.clone() {
            let vma = &mut space.vmas[i];
            let (flags, pages) = (vma.flags, vma.pages());
            gone.extend(vma.file.take());
            space.account(flags, pages, -1);
        }
        space.vmas.drain(range);
        space.note_hole(end);
        Ok(())
    }

    /// What mmap(2) of a file says before it looks at the file.
    pub fn may_mmap(&self, request: &MmapRequest) -> Result<()> {
        self.space.write().place(request).map(|_| ())
    }

    /// mmap(2); returns the address.
    pub fn mmap(&self, request: MmapRequest) -> Result<u64> {
        let (start, len, populate) = self.change(|space, gone| {
            let (start, len) = space.place(&request)?;
            let end = start + len;
            let mut vm_flags = request.vm_flags()? | space.def_flags;
            let MmapRequest { flags, pgoff, file, .. } = request;
            if flags & uapi::MAP_LOCKED != 0 {
                vm_flags |= VmFlags::LOCKED;
            }
            let pgoff = if file.is_some() { pgoff } else { 0 };
            if let Some(file) = &file {
                file.backing().check_range(pgoff << PAGE_SHIFT, len)?;
            }
            let file = match file {
                None if vm_flags.contains(VmFlags::SHARED) => Some(shared_memory(len)?),
                file => file,
            };
            self.unmap_range(space, start, end, gone)?;
            space.may_expand(vm_flags, len)?;
            let file = file.map(RangeFile::new);
            space.add(Vma { start, end, flags: vm_flags, pgoff, file })?;
            let on_fault = vm_flags.contains(VmFlags::LOCKONFAULT);
            let populate = vm_flags.contains(VmFlags::LOCKED) && !on_fault
                || flags & (uapi::MAP_POPULATE | uapi::MAP_NONBLOCK) == uapi::MAP_POPULATE;
            Ok((start, len, populate))
        })?;
        if populate {
            // Pages that cannot be had now are faulted for later (mmap(2)).
            let _ = self.populate(start, start + len, None);
        }
        Ok(start)
    }

    /// munmap(2).
    pub fn munmap(&self, addr: u64, len: u64) -> Result<()> {
        let len = page_align_up(len).ok_or(Errno::EINVAL)?;
        if !is_aligned(addr) || len == 0 || addr.checked_add(len).is_none_or(|end| end > TASK_SIZE)
        {
            return Err(Errno::EINVAL);
        }
        self.change(|space, gone| self.unmap_range(space, addr, addr + len, gone))
    }

    /// Unmaps what is left of one mmap(2) that went to `addr` (shmdt(2)): the ranges that would lie where
    /// they do had it started there. `whose` says of an object how long such a mapping is, or `None` if it
    /// is not of the kind that is looked for. `EINVAL` if there is none.
    pub fn unmap_object(
        &self,
        addr: u64,
        whose: impl Fn(&MappedFile) -> Option<u64>,
    ) -> Result<()> {
        if !is_aligned(addr) {
            return Err(Errno::EINVAL);
        }
        let belongs = |vma: &Vma| vma.start >= addr && vma.start - addr == vma.pgoff << PAGE_SHIFT;
        self.change(|space, gone| {
            // The object, and where its mapping would end.
            let mut found: Option<(Ref<MappedFile>, u64)> = None;
            let mut at = addr;
            while let Some(vma) = space.vmas.get(vma::find(&space.vmas, at)) {
                let (start, end) = (vma.start, vma.end);
                if found.as_ref().is_some_and(|(_, limit)| end > *limit) {
                    break;
                }
                at = end;
                let Some(file) = vma.file.as_deref().filter(|_| belongs(vma)) else { continue };
                let mine = match &found {
                    Some((first, _)) => Ref::ptr_eq(first, file),
                    None => {
                        let len = whose(file);
                        found = len.map(|len| (file.clone(), addr.saturating_add(len)));
                        found.is_some()
                    }
                };
                if mine {
                    self.unmap_range(space, start, end, gone)?;
                }
            }
            // The last reference is among those that are `gone`.
            found.map(|_| ()).ok_or(Errno::EINVAL)
        })
    }

    /// mprotect(2).
    pub fn mprotect(&self, addr: u64, len: u64, prot: u32) -> Result<()> {
        let grows = prot & (uapi::PROT_GROWSDOWN | uapi::PROT_GROWSUP);
        let prot = prot & !grows;
        if !is_aligned(addr) || grows == uapi::PROT_GROWSDOWN | uapi::PROT_GROWSUP {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let len = page_align_up(len).ok_or(Errno::ENOMEM)?;
        let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
        if prot & !PROT_ALL != 0 {
            return Err(Errno::EINVAL);
        }
        let wanted = VmFlags::from_prot(prot);
        let mut became_writable = false;
        let result = self.change(|space, _| {
            let mut at = addr;
            if grows != 0 {
                // From the range's start, which may lie behind `addr`; nothing grows up here.
                let vma = space.vmas.get(vma::find(&space.vmas, addr)).ok_or(Errno::ENOMEM)?;
                let up = grows == uapi::PROT_GROWSUP;
                if vma.start >= end || (up && vma.start > addr) {
                    return Err(Errno::ENOMEM);
                }
                if up || !vma.flags.contains(VmFlags::GROWSDOWN) {
                    return Err(Errno::EINVAL);
                }
                at = vma.start;
            }
            while at < end {
                let vma = vma::find_containing(&space.vmas, at).ok_or(Errno::ENOMEM)?;
                let stop = vma.end.min(end);
                became_writable |= vma.is_locked_private() && !vma.flags.contains(VmFlags::WRITE);
                self.protect_range(space, at, stop, wanted)?;
                at = stop;
            }
            Ok(())
        });
        if became_writable && wanted.contains(VmFlags::WRITE) {
            self.own_locked_pages(addr, end);
        }
        result
    }

    /// Copies now what locked private memory that may be written shares: nothing is faulted for there later.
    fn own_locked_pages(&self, start: u64, end: u64) {
        let _ = self.walk(start, end, |space, vma, from, to| {
            drop(space);
            if vma.is_locked_private() && vma.flags.contains(VmFlags::WRITE) {
                // Pages that cannot be had now are faulted for later.
                let _ = self.populate(from, to, None);
            }
            Ok(())
        });
    }

    /// Changes the rights of `start..end`, which lies in one range.
    fn protect_range(
        &self,
        space: &mut Space,
        start: u64,
        end: u64,
        wanted: VmFlags,
    ) -> Result<()> {
        let Some(vma) = vma::find_containing(&space.vmas, start) else { return Ok(()) };
        let old = vma.flags;
        let new = (old - VmFlags::ACCESS) | wanted;
        if new == old {
            return Ok(());
        }
        // MAYREAD is 16 times READ, and so on.
        let missing = wanted.bits() & !(old.bits() >> 4);
        if missing & VmFlags::ACCESS.bits() != 0 {
            return Err(Errno::EACCES);
        }
        let private = vma.is_private();
        if new.is_data() && !old.is_data() {
            let pages = (end - start) >> PAGE_SHIFT;
            if space.data_vm + pages > space.limits.data >> PAGE_SHIFT {
                return Err(Errno::ENOMEM);
            }
        }
        let range = vma::carve(&mut space.vmas, start, end)?;
        space.set_flags(range.clone(), |_| new);
        vma::merge(&mut space.vmas, range);
        self.tables.lock().update(self.asid(), start, end, |_, pte| {
            let pte = if pte.is_prot_none() { pte.from_prot_none() } else { pte };
            let Some(mut prot) = new.prot() else { return pte.to_prot_none() };
            let mut cow = false;
            if private && prot.contains(Prot::WRITE) && !is_own(pte) {
                prot.remove(Prot::WRITE);
                cow = true;
            }
            if prot.contains(Prot::EXEC) && !pte.is_user_executable() {
                super::fault::sync_exec_page(pte.phys());
            }
            pte.with_user_prot(prot).with_cow(cow)
        })
    }

    /// brk(2): returns the end of the heap, changed or not.
    pub fn set_brk(&self, end: u64) -> u64 {
        let result = self.change(|space, gone| {
            let current = space.brk;
            if end < space.start_brk {
                return Ok(current);
            }
            let old = page_align_up(current).ok_or(Errno::ENOMEM)?;
            let new = page_align_up(end).filter(|e| *e <= TASK_SIZE).ok_or(Errno::ENOMEM)?;
            if end - space.start_brk > space.limits.data {
                return Ok(current);
            }
            if new < old {
                self.unmap_range(space, new, old, gone)?;
            } else if new > old {
                let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::MAY | space.def_flags;
                // A page stays free above, as between any two things that grow.
                if !space.is_free(old, new.saturating_add(PAGE)) {
                    return Ok(current);
                }
                space.may_expand(flags, new - old)?;
                if flags.contains(VmFlags::LOCKED) {
                    space.may_lock(new - old)?;
                }
                space.add(Vma { start: old, end: new, flags, pgoff: 0, file: None })?;
            }
            space.brk = end;
            Ok(end)
        });
        result.unwrap_or_else(|_| self.space.read().brk)
    }

    /// Where the heap starts: for exec.
    pub fn set_start_brk(&self, start: u64) {
        let mut space = self.space.write();
        (space.start_brk, space.brk) = (start, start);
    }

    /// Maps a stack that ends at `top` and may grow down: for exec.
    pub fn map_stack(&self, top: u64, len: u64, exec: bool) -> Result<()> {
        let start = top.checked_sub(len).filter(|s| is_aligned(*s)).ok_or(Errno::ENOMEM)?;
        if !is_aligned(top) || len == 0 || top > TASK_SIZE {
            return Err(Errno::EINVAL);
        }
        let mut flags = VmFlags::READ | VmFlags::WRITE | VmFlags::MAY | VmFlags::GROWSDOWN;
        flags.set(VmFlags::EXEC, exec);
        self.change(|space, _| {
            if !space.is_free(start, top) {
                return Err(Errno::ENOMEM);
            }
            space.may_expand(flags, len)?;
            space.add(Vma { start, end: top, flags, pgoff: 0, file: None })
        })
    }
}

/// Memory for `MAP_SHARED | MAP_ANONYMOUS`: an unnamed file of zeros.
pub fn shared_memory(len: u64) -> Result<Ref<MappedFile>> {
    let mapping = super::try_arc(Mapping::new(PageKind::Shmem))?;
    mapping.truncate(len);
    MappedFile::new(mapping, 1, next_ino(), corenote::SHARED_NAME)
}

fn next_ino() -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
