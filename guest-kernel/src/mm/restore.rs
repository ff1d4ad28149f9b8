//! An address space as it was: ranges put back exactly, pages that several have in common.
//!
//! For the loader of process cores, on an address space that nobody runs in yet. What comes in is checked
//! like what mmap(2) is asked for.

use core::sync::atomic::Ordering;

use super::backing::{MappedFile, RangeFile};
use super::fault::{MMAP_MIN_ADDR, page_entry};
use super::frame::{FrameRef, PageKind, page_of};
use super::mm::Mm;
use super::vma::{self, VmFlags, Vma};
use crate::addr::{PAGE_MASK, TASK_SIZE, VirtAddr};
use crate::errno::{Errno, Result};
use crate::kref::Ref;

/// Where things are in an address space: what exec notes for a new program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places {
    /// Start of the heap.
    pub start_brk: u64,
    /// End of the heap.
    pub brk: u64,
    /// Mappings are placed below this.
    pub mmap_base: u64,
    /// The ten of [`MmLayout`](super::MmLayout), in its order.
    pub layout: [u64; 10],
}

impl Mm {
    /// Puts a range back. `EINVAL` for one that cannot be, `EEXIST` where something is.
    pub fn restore_range(
        &self,
        range: core::ops::Range<u64>,
        flags: VmFlags,
        pgoff: u64,
        file: Option<Ref<MappedFile>>,
    ) -> Result<()> {
        let (start, end) = (range.start, range.end);
        let whole = (start | end) & PAGE_MASK as u64 == 0;
        let shared = flags.contains(VmFlags::SHARED);
        let fits = shared == flags.contains(VmFlags::MAYSHARE)
            && !(shared && file.is_none())
            && !(file.is_some() && flags.contains(VmFlags::GROWSDOWN))
            // What it has, mprotect(2) may grant: MAYREAD is 16 times READ, and so on.
            && flags.bits() & VmFlags::ACCESS.bits() & !(flags.bits() >> 4) == 0;
        if !whole || start >= end || start < MMAP_MIN_ADDR || end > TASK_SIZE || !fits {
            return Err(Errno::EINVAL);
        }
        let pgoff = if file.is_some() { pgoff } else { 0 };
        let file = file.map(RangeFile::new);
        let vma = Vma { start, end, flags, pgoff, file };
        if pgoff.checked_add(vma.pages()).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        self.change(|space, _| {
            if !vma::overlapping(&space.vmas, start, end).is_empty() {
                return Err(Errno::EEXIST);
            }
            space.may_expand(flags, end - start)?;
            space.add(vma)
        })
    }

    /// Notes where things are.
    pub fn restore_places(&self, places: &Places) -> Result<()> {
        let Places { start_brk, brk, mmap_base, layout } = *places;
        if start_brk > brk || brk > TASK_SIZE || mmap_base > TASK_SIZE {
            return Err(Errno::EINVAL);
        }
        self.set_mmap_base(mmap_base & !(PAGE_MASK as u64));
        let mut space = self.space.write();
        (space.start_brk, space.brk) = (start_brk, brk);
        drop(space);
        for (to, from) in self.layout.all().into_iter().zip(layout) {
            to.store(from, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The private page at `addr`, for another address space to have too: whoever writes it first gets a
    /// copy. `None` if there is no such page.
    pub fn lend_page(&self, addr: u64) -> Result<Option<FrameRef>> {
        let space = self.space.read();
        let Some(vma) = vma::find_containing(&space.vmas, addr) else { return Ok(None) };
        let mut tables = self.tables.lock();
        let mut leaf = tables.leaf(self.asid(), VirtAddr(addr).page())?;
        let pte = leaf.load();
        let own = pte.is_present() && !pte.is_special() && vma.is_private();
        if !own || page_of(pte.phys()).kind() != PageKind::Anon {
            return Ok(None);
        }
        leaf.update(page_entry(vma, pte.phys(), false).with_dirty(true));
        // SAFETY: the entry holds a reference, and the tables' lock keeps it there.
        Ok(Some(unsafe { FrameRef::share(pte.phys()) }))
    }

    /// Maps a page that [`lend_page`](Self::lend_page) gave at `addr`, in place of what is there.
    pub fn borrow_page(&self, addr: u64, page: FrameRef) -> Result<()> {
        let space = self.space.read();
        let vma = vma::find_containing(&space.vmas, addr).ok_or(Errno::EFAULT)?;
        let mut tables = self.tables.lock();
        let mut leaf = tables.leaf(self.asid(), VirtAddr(addr).page())?;
        if !vma.is_private() {
            return Err(Errno::EINVAL);
        }
        let new = page_entry(vma, page.into_phys(), false).with_dirty(true);
        if leaf.load().is_empty() {
            leaf.fill(new);
        } else {
            leaf.replace(self.asid(), new);
        }
        tables.note_peak();
        Ok(())
    }
}
