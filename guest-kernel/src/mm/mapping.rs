//! [`Mapping`]: the pages of a file, by index: the page cache, and all that tmpfs and shared anonymous
//! memory are made of.
//!
//! A page in the tree holds one reference of its frame. Reading and writing go through the tree and so
//! do mappings, which makes all views of a file one. Truncation first takes pages off the tree, then
//! off every address space that maps the file; `generation` lets a fault that fetched a page before
//! notice that it is too late to map it.

use alloc::boxed::Box;
use core::any::Any;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use belljar_abi::Described;

use super::backing::Backing;
use super::frame::{AllocFlags, FrameRef, PageKind};
use super::memcg::alloc_for_caller;
use super::{Fault, try_box};
use crate::addr::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};
use crate::errno::{Errno, Result};
use crate::sync::SpinLock;
use crate::uapi;

const FANOUT_SHIFT: u32 = 6;
const FANOUT: usize = 1 << FANOUT_SHIFT;

/// A place in the tree. Its form is fixed, for who looks from outside: see [`SlotForm`].
#[repr(u64)]
enum Slot {
    Empty = 0,
    Node(Box<PageNode>) = 1,
    Page(FrameRef) = 2,
}

/// What a [`Slot`] is to a reader outside the machine.
#[repr(C)]
#[derive(Described)]
struct SlotForm {
    #[described(as = "uint")]
    kind: u64,
    #[described(as = "hex")]
    target: u64,
}

const _: () = assert!(
    size_of::<Slot>() == size_of::<SlotForm>() && size_of::<Box<PageNode>>() == 8,
    "a reader outside finds the kind of a slot, then what it leads to"
);

#[repr(C)]
#[derive(Described)]
struct PageNode {
    used: usize,
    #[described(as = "array struct SlotForm")]
    slots: [Slot; FANOUT],
}

impl PageNode {
    fn try_new() -> Result<Box<Self>> {
        try_box(Self { used: 0, slots: [const { Slot::Empty }; FANOUT] })
    }
}

/// A radix tree of pages. `height` levels of nodes stand over the pages; none if only page 0 can be.
#[repr(C)]
#[derive(Described)]
struct PageTree {
    height: u32,
    #[described(as = "struct SlotForm")]
    root: Slot,
    pages: u64,
}

/// Pages that a tree of this height can hold, less one.
fn last_index(height: u32) -> u64 {
    1_u64.checked_shl(height * FANOUT_SHIFT).map_or(u64::MAX, |n| n - 1)
}

fn digit(index: u64, height: u32) -> usize {
    (index >> ((height - 1) * FANOUT_SHIFT)) as usize % FANOUT
}

impl PageTree {
    const fn new() -> Self {
        Self { height: 0, root: Slot::Empty, pages: 0 }
    }

    fn get(&self, index: u64) -> Option<&FrameRef> {
        if index > last_index(self.height) {
            return None;
        }
        let (mut slot, mut height) = (&self.root, self.height);
        loop {
            match slot {
                Slot::Empty => return None,
                Slot::Page(frame) => return Some(frame),
                Slot::Node(node) => slot = &node.slots[digit(index, height)],
            }
            height -= 1;
        }
    }

    /// Puts a page where none is.
    fn insert(&mut self, index: u64, frame: FrameRef) -> Result<()> {
        while index > last_index(self.height) {
            if !matches!(self.root, Slot::Empty) {
                let mut node = PageNode::try_new()?;
                node.slots[0] = core::mem::replace(&mut self.root, Slot::Empty);
                node.used = 1;
                self.root = Slot::Node(node);
            }
            self.height += 1;
        }
        let (mut slot, mut height) = (&mut self.root, self.height);
        let mut used: Option<&mut usize> = None;
        while height > 0 {
            if matches!(slot, Slot::Empty) {
                *slot = Slot::Node(PageNode::try_new()?);
                if let Some(used) = used.take() {
                    *used += 1;
                }
            }
            let Slot::Node(node) = slot else { unreachable!("pages are at height 0") };
            used = Some(&mut node.used);
            slot = &mut node.slots[digit(index, height)];
            height -= 1;
        }
        debug_assert!(matches!(slot, Slot::Empty), "there is no page yet");
        *slot = Slot::Page(frame);
        if let Some(used) = used {
            *used += 1;
        }
        self.pages += 1;
        Ok(())
    }

    /// Removes the pages with `first <= index <= last` below a slot whose first page is `base`.
    fn remove(slot: &mut Slot, height: u32, base: u64, first: u64, last: u64) -> u64 {
        let end = base.saturating_add(last_index(height));
        if base > last || end < first {
            return 0;
        }
        match slot {
            Slot::Empty => 0,
            Slot::Page(_) => {
                *slot = Slot::Empty;
                1
            }
            Slot::Node(node) => {
                let step = last_index(height - 1).saturating_add(1);
                let mut removed = 0;
                for i in 0..FANOUT {
                    let Some(child) = step.checked_mul(i as u64).and_then(|d| base.checked_add(d))
                    else {
                        break;
                    };
                    if matches!(node.slots[i], Slot::Empty) {
                        continue;
                    }
                    removed += Self::remove(&mut node.slots[i], height - 1, child, first, last);
                    if matches!(node.slots[i], Slot::Empty) {
                        node.used -= 1;
                    }
                }
                if node.used == 0 {
                    *slot = Slot::Empty;
                }
                removed
            }
        }
    }

    /// The first page at `index` or after it, below a slot whose first page is `base`.
    fn next(slot: &Slot, height: u32, base: u64, index: u64) -> Option<u64> {
        if base.saturating_add(last_index(height)) < index {
            return None;
        }
        match slot {
            Slot::Empty => None,
            Slot::Page(_) => Some(base),
            Slot::Node(node) => {
                let step = last_index(height - 1).saturating_add(1);
                node.slots.iter().enumerate().find_map(|(i, slot)| {
                    let child = step.checked_mul(i as u64)?.checked_add(base)?;
                    Self::next(slot, height - 1, child, index)
                })
            }
        }
    }

    /// Calls `f` with the pages `first..=last` below a slot whose first page is `base`, in order.
    fn visit(
        slot: &Slot,
        height: u32,
        base: u64,
        first: u64,
        last: u64,
        f: &mut impl FnMut(u64, &FrameRef),
    ) {
        match slot {
            Slot::Empty => {}
            Slot::Page(frame) => {
                if first <= base && base <= last {
                    f(base, frame);
                }
            }
            Slot::Node(node) => {
                let shift = (height - 1) * FANOUT_SHIFT;
                let end = base.saturating_add(last_index(height));
                if last < base || end < first {
                    return;
                }
                let from = (first.max(base) - base) >> shift;
                let to = (last.min(end) - base) >> shift;
                for i in from..=to {
                    let slot = &node.slots[i as usize % FANOUT];
                    Self::visit(slot, height - 1, base + (i << shift), first, last, f);
                }
            }
        }
    }

    fn remove_range(&mut self, first: u64, last: u64) {
        self.pages -= Self::remove(&mut self.root, self.height, 0, first, last);
        if matches!(self.root, Slot::Empty) {
            self.height = 0;
        }
    }
}

/// The pages of one file.
#[repr(C)]
#[derive(Described)]
pub struct Mapping {
    tree: SpinLock<PageTree>,
    size: AtomicU64,
    generation: AtomicU64,
    mappers: AtomicU32,
    /// Mappings through which the file may be written to; -1 when there may be none any more.
    #[described(skip)]
    writers: AtomicI32,
    /// What may no longer be done to the file (fcntl(2), "File Sealing"): `F_SEAL_*`.
    seals: AtomicU32,
    #[described(skip)]
    kind: PageKind,
}

impl Mapping {
    /// No pages, size 0; pages count as `kind` (`Cache` or `Shmem`).
    pub const fn new(kind: PageKind) -> Self {
        Self {
            tree: SpinLock::new(PageTree::new()),
            size: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            mappers: AtomicU32::new(0),
            writers: AtomicI32::new(0),
            seals: AtomicU32::new(uapi::F_SEAL_SEAL),
            kind,
        }
    }

    /// The file's seals. A new one has `F_SEAL_SEAL`, as every file but memfds that allow sealing.
    #[inline]
    pub fn seals(&self) -> u32 {
        self.seals.load(Ordering::Relaxed)
    }

    /// Replaces the seals.
    pub fn set_seals(&self, seals: u32) {
        self.seals.store(seals, Ordering::Relaxed);
    }

    /// Bytes of the file.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Pages in memory.
    pub fn resident_pages(&self) -> u64 {
        self.tree.lock().pages
    }

    /// Counts truncations.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn add_mapper(&self) {
        self.mappers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_mapper(&self) {
        self.mappers.fetch_sub(1, Ordering::Relaxed);
    }

    /// One more mapping will write to the file; `EPERM` if none may.
    pub fn add_writer(&self) -> Result<()> {
        let more = |n| if n < 0 { None } else { Some(n + 1) };
        let result = self.writers.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more);
        result.map(|_| ()).map_err(|_| Errno::EPERM)
    }

    /// One mapping less writes to the file.
    pub fn remove_writer(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// No mapping may write to the file from now on; `EBUSY` if one may already.
    pub fn deny_writers(&self) -> Result<()> {
        match self.writers.compare_exchange(0, -1, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) | Err(-1) => Ok(()),
            Err(_) => Err(Errno::EBUSY),
        }
    }

    /// True if an address space maps the file (or did a moment ago).
    pub fn is_mapped(&self) -> bool {
        self.mappers.load(Ordering::Acquire) > 0
    }

    /// The page at `index`, if it is in memory.
    #[inline]
    pub fn get(&self, index: u64) -> Option<FrameRef> {
        self.tree.lock().get(index).cloned()
    }

    /// The index of the first page in memory at `index` or after it.
    pub fn next_page(&self, index: u64) -> Option<u64> {
        let tree = self.tree.lock();
        PageTree::next(&tree.root, tree.height, 0, index)
    }

    /// The index of the first page with data at `index` or after it.
    pub fn next_data(&self, mut index: u64) -> Option<u64> {
        loop {
            let found = self.next_page(index)?;
            if self.has_data(found) {
                return Some(found);
            }
            index = found + 1;
        }
    }

    /// True if the page at `index` is in memory and holds data.
    pub fn has_data(&self, index: u64) -> bool {
        self.tree.lock().get(index).is_some_and(|page| !page.is_reserved())
    }

    /// Calls `f` with the pages in memory among `first..=last`. `f` runs under the tree's spin lock.
    pub fn for_each(&self, first: u64, last: u64, mut f: impl FnMut(u64, &FrameRef)) {
        let tree = self.tree.lock();
        PageTree::visit(&tree.root, tree.height, 0, first, last, &mut f);
    }

    /// The page at `index`; a page of zeros comes into being where there is none.
    pub fn get_or_zero(&self, index: u64) -> Result<FrameRef> {
        if let Some(frame) = self.get(index) {
            return Ok(frame);
        }
        let frame = alloc_for_caller(self.kind, AllocFlags::ZERO | AllocFlags::USER)?;
        self.insert(index, frame)
    }

    /// Puts a page that was filled elsewhere; if one is there already, that one stays. Returns which
    /// one is there now.
    pub fn insert(&self, index: u64, frame: FrameRef) -> Result<FrameRef> {
        let mut tree = self.tree.lock();
        if let Some(there) = tree.get(index) {
            return Ok(there.clone());
        }
        frame.set_index(index);
        tree.insert(index, frame.clone())?;
        Ok(frame)
    }

    /// Takes the page at `index` out if nobody else holds it and `may` agrees; false if it stays.
    pub fn evict(&self, index: u64, may: impl FnOnce(&FrameRef) -> bool) -> bool {
        let mut tree = self.tree.lock();
        // Nobody gets another reference while the tree is locked.
        let goes = tree.get(index).is_some_and(|frame| frame.refcount() == 1 && may(frame));
        if goes {
            tree.remove_range(index, index);
        }
        goes
    }

    /// A page for a mapping: within the size, else [`Fault::BusErr`].
    pub fn fault(&self, index: u64, _write: bool) -> Result<FrameRef, Fault> {
        if index >= self.size().div_ceil(PAGE_SIZE as u64) {
            return Err(Fault::BusErr);
        }
        self.get_or_zero(index).map_err(|_| Fault::Oom)
    }

    /// Reads into kernel memory until `buf` is full or the file ends. Holes read as zeros and stay
    /// holes.
    pub fn read(&self, pos: u64, buf: &mut [u8]) -> usize {
        let left = self.size().saturating_sub(pos);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < len {
            let at = pos + done as u64;
            let offset = at as usize & PAGE_MASK;
            let n = (len - done).min(PAGE_SIZE - offset);
            let part = &mut buf[done..done + n];
            match self.get(at >> PAGE_SHIFT) {
                Some(frame) => frame.read(offset, part),
                None => part.fill(0),
            }
            done += n;
        }
        len
    }

    /// Writes from kernel memory, growing the file. The caller keeps writers and truncation apart.
    pub fn write(&self, pos: u64, buf: &[u8]) -> Result<()> {
        if pos.checked_add(buf.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Errno::EFBIG);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = pos + done as u64;
            let offset = at as usize & PAGE_MASK;
            let n = (buf.len() - done).min(PAGE_SIZE - offset);
            let frame = self.get_or_zero(at >> PAGE_SHIFT)?;
            frame.write(offset, &buf[done..done + n]);
            // The instruction cache may hold what the page was before.
            frame.set_flags(0);
            done += n;
            self.size.fetch_max(pos + done as u64, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Sets the size. Pages beyond it are gone, also from address spaces, and the rest of the last
    /// page is zero. May sleep.
    pub fn truncate(&self, size: u64) {
        let old = self.size.swap(size, Ordering::AcqRel);
        // At the same size there may be pages behind the end, allocated in advance.
        if size > old || self.resident_pages() == 0 {
            return;
        }
        self.punch_pages(size.div_ceil(PAGE_SIZE as u64), u64::MAX);
        let offset = size as usize & PAGE_MASK;
        if offset > 0
            && let Some(frame) = self.get(size >> PAGE_SHIFT)
        {
            frame.zero(offset..PAGE_SIZE);
        }
    }

    /// Makes `start..end` a hole, without changing the size. May sleep.
    pub fn punch_hole(&self, start: u64, end: u64) {
        let zero = |at: u64, to: usize| {
            if let Some(frame) = self.get(at >> PAGE_SHIFT) {
                frame.zero(at as usize & PAGE_MASK..to);
            }
        };
        let page = PAGE_SIZE as u64;
        let (first, last) = (start.div_ceil(page), end / page);
        if first > last {
            // Within one page.
            zero(start, end as usize & PAGE_MASK);
            return;
        }
        if !start.is_multiple_of(page) {
            zero(start, PAGE_SIZE);
        }
        if !end.is_multiple_of(page) {
            zero(end & !(page - 1), end as usize & PAGE_MASK);
        }
        if first < last {
            self.punch_pages(first, last - 1);
        }
    }

    fn punch_pages(&self, first: u64, last: u64) {
        self.tree.lock().remove_range(first, last);
        // After the pages are off the tree: a fault that found one before sees the new count, one
        // that comes later finds none.
        self.generation.fetch_add(1, Ordering::AcqRel);
        if self.is_mapped() {
            super::mm::unmap_mapping(self, first, last);
        }
    }
}

impl Backing for Mapping {
    fn mapping(&self) -> Option<&Mapping> {
        Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
