//! Kernel stacks: each in a slot of its own in the vmalloc area, with an unmapped guard below it.
//!
//! A slot is [`KERNEL_STACK_ALIGN`] bytes: the lower half is the stack, the upper half is never mapped,
//! so an overflow runs into the unmapped half of the slot below instead of somebody else's memory. Freed stacks stay mapped in a
//! small cache: the next fork takes one without touching a page table.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::frame::{self, AllocFlags, FrameRef, PageKind};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::paging::{self, LEVELS, MemoryType, Prot, Pte, table_at};
use crate::arch::{
    self, KERNEL_STACK_ALIGN, KERNEL_STACK_SIZE, KernelStackRange, VMALLOC_END, VMALLOC_START,
};
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::sync::SpinLock;

const CACHE: usize = 32;
const PAGES: usize = KERNEL_STACK_SIZE / PAGE_SIZE;
const SLOTS: usize = (VMALLOC_END - VMALLOC_START) as usize / KERNEL_STACK_ALIGN;

static STACKS: SpinLock<Stacks> = SpinLock::new(Stacks::new());
/// Stacks in use, for /proc/meminfo.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

struct Stacks {
    /// Free stacks that are still mapped.
    cached: [u64; CACHE],
    len: usize,
    /// Bases of slots that were used before and are unmapped now.
    unmapped: Array<u64>,
    next_slot: usize,
}

impl Stacks {
    const fn new() -> Self {
        Self { cached: [0; CACHE], len: 0, unmapped: Array::new(), next_slot: 0 }
    }

    fn map_new(&mut self) -> Result<u64> {
        let base = match self.unmapped.pop() {
            Some(base) => base,
            None if self.next_slot < SLOTS => {
                self.next_slot += 1;
                VMALLOC_START + ((self.next_slot - 1) * KERNEL_STACK_ALIGN) as u64
            }
            None => return Err(Errno::ENOMEM),
        };
        for page in 0..PAGES {
            if let Err(error) = map_page(VirtAddr(base + (page * PAGE_SIZE) as u64)) {
                unmap(base, page);
                let _ = self.unmapped.try_push(base);
                return Err(error);
            }
        }
        arch::sync_tables();
        Ok(base)
    }
}

/// The entry of `va` in the kernel's tables; tables on the way are made and stay for ever.
fn kernel_slot(va: VirtAddr) -> Result<&'static paging::AtomicPte> {
    let mut phys = arch::kernel_root();
    for level in 0..LEVELS - 1 {
        // SAFETY: kernel tables are never freed.
        let entry = &unsafe { table_at(phys) }[paging::index(va, level)];
        let mut pte = entry.load();
        if pte.is_empty() {
            let table = frame::alloc_page_of(PageKind::Kernel, AllocFlags::ZERO)?;
            pte = Pte::table(table.into_phys());
            entry.store(pte);
        }
        phys = pte.phys();
    }
    // SAFETY: as above.
    Ok(&unsafe { table_at(phys) }[paging::index(va, LEVELS - 1)])
}

fn map_page(va: VirtAddr) -> Result<()> {
    let slot = kernel_slot(va)?;
    let frame = frame::alloc_page_of(PageKind::Stack, AllocFlags::USER)?;
    slot.store(Pte::kernel_page(frame.into_phys(), Prot::WRITE, MemoryType::Normal));
    Ok(())
}

/// Unmaps the first `pages` pages of a stack and frees their frames.
fn unmap(base: u64, pages: usize) {
    let mut frames = [PhysAddr(0); PAGES];
    for (page, frame) in frames.iter_mut().enumerate().take(pages) {
        // The tables exist, so this cannot fail.
        if let Ok(slot) = kernel_slot(VirtAddr(base + (page * PAGE_SIZE) as u64)) {
            *frame = slot.swap(Pte::EMPTY).phys();
        }
    }
    let end = VirtAddr(base + (pages * PAGE_SIZE) as u64);
    arch::tlb::flush_kernel_range(VirtAddr(base), end);
    for frame in frames.into_iter().take(pages) {
        // SAFETY: `map_page` gave it away, and no CPU can reach it any more.
        drop(unsafe { FrameRef::from_phys(frame) });
    }
}

/// A kernel stack; dropping it gives it back.
pub struct KernelStack {
    base: u64,
}

impl KernelStack {
    /// Takes a stack from the cache or maps a new one.
    pub fn alloc() -> Result<Self> {
        let mut stacks = STACKS.lock();
        let base = if stacks.len > 0 {
            stacks.len -= 1;
            stacks.cached[stacks.len]
        } else if arch::KERNEL_TABLES_TRANSLATE {
            stacks.map_new()?
        } else {
            let block = frame::alloc_pages(
                KERNEL_STACK_SIZE.ilog2() as usize - PAGE_SIZE.ilog2() as usize,
                PageKind::Stack,
                AllocFlags::empty(),
            )?;
            arch::phys_to_virt(block.into_phys()) as u64
        };
        IN_USE.fetch_add(1, Ordering::Relaxed);
        Ok(Self { base })
    }

    /// Where it lies.
    pub fn range(&self) -> KernelStackRange {
        KernelStackRange { base: self.base, size: KERNEL_STACK_SIZE as u64 }
    }

    /// One past its highest address.
    pub fn top(&self) -> u64 {
        self.base + KERNEL_STACK_SIZE as u64
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        IN_USE.fetch_sub(1, Ordering::Relaxed);
        let mut stacks = STACKS.lock();
        if stacks.len < CACHE {
            let len = stacks.len;
            stacks.cached[len] = self.base;
            stacks.len = len + 1;
            return;
        }
        release(&mut stacks, self.base);
    }
}

fn release(stacks: &mut Stacks, base: u64) {
    if arch::KERNEL_TABLES_TRANSLATE {
        unmap(base, PAGES);
        // Without room to note the slot its addresses are lost; there are plenty.
        let _ = stacks.unmapped.try_push(base);
    } else {
        // SAFETY: `alloc` gave the block away.
        drop(unsafe { FrameRef::from_phys(arch::virt_to_phys(base as *const u8)) });
    }
}

/// Gives cached stacks back to the frame allocator.
pub(super) fn shrink() {
    let mut stacks = STACKS.lock();
    while stacks.len > 0 {
        stacks.len -= 1;
        let base = stacks.cached[stacks.len];
        release(&mut stacks, base);
    }
}

/// Bytes of kernel stacks in use.
pub fn bytes_in_use() -> usize {
    IN_USE.load(Ordering::Relaxed) * KERNEL_STACK_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::testing;

    #[test]
    fn stacks_are_distinct_and_reused() {
        testing::setup();
        let a = KernelStack::alloc().unwrap();
        let b = KernelStack::alloc().unwrap();
        assert_ne!(a.top(), b.top());
        assert_eq!(a.range().base + KERNEL_STACK_SIZE as u64, a.top());
        let top = b.top() as *mut u64;
        // SAFETY: the topmost word of a stack that is ours.
        unsafe { top.sub(1).write(7) };
    }
}
