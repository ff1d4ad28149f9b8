//! The kernel heap: size classes over single frames, whole blocks of frames above them.
//!
//! A frame of kind `Slab` holds objects of one class. Its record keeps the state (`private`: how many
//! objects are in use, how many were carved, where the free list starts) and the free list runs
//! through the free objects themselves, so an allocation touches one lock, one record and one object.
//! Frames with room are linked, by record, in their class's list; full ones are on none.
//!
//! Works in any context, interrupts included. Exhaustion is a null pointer; what is fallible in the
//! kernel turns that into `ENOMEM`.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use super::fault_inject;
use super::frame::{self, AllocFlags, FrameRef, Page, PageKind, page_of};
use crate::addr::{PAGE_MASK, PAGE_SIZE, PhysAddr};
use crate::arch;
use crate::sync::IrqLock;

const SIZES: [usize; 14] = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1344, 2048];
const LARGEST: usize = 2048;

/// The smallest class for a size, by size in units of 16 bytes.
const CLASS_OF: [u8; LARGEST / 16 + 1] = {
    let mut table = [0; LARGEST / 16 + 1];
    let mut i = 0;
    while i < table.len() {
        let mut class = 0;
        while SIZES[class] < i * 16 {
            class += 1;
        }
        table[i] = class as u8;
        i += 1;
    }
    table
};

/// End of a frame's free list.
const NO_OBJECT: u16 = u16::MAX;

/// What `Page::private` says about a slab frame.
#[derive(Clone, Copy)]
struct Slab {
    in_use: u16,
    carved: u16,
    /// Offset of the first free object that was used before.
    free: u16,
}

impl Slab {
    fn of(page: &Page) -> Self {
        let bits = page.private();
        Self { in_use: bits as u16, carved: (bits >> 16) as u16, free: (bits >> 32) as u16 }
    }

    fn store(self, page: &Page) {
        page.set_private(
            u64::from(self.in_use) | u64::from(self.carved) << 16 | u64::from(self.free) << 32,
        );
    }
}

/// One class: the list of its frames that have room, by frame number.
struct Class {
    head: u32,
    /// All of its frames.
    frames: u32,
    /// Objects in use.
    objects: u32,
}

/// What there is of one class.
pub struct Usage {
    /// Bytes of an object.
    pub size: usize,
    /// Objects in use.
    pub objects: usize,
    /// Frames.
    pub frames: usize,
}

/// The kernel's own heap: all that it allocates on the bare machine.
#[cfg_attr(target_os = "none", global_allocator)]
pub static KERNEL_HEAP: Heap = Heap::new();

/// A heap; tests make their own.
pub struct Heap {
    classes: [IrqLock<Class>; SIZES.len()],
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

fn by_number(pfn: u32) -> &'static Page {
    page_of(PhysAddr::from_pfn(pfn as usize))
}

impl Class {
    fn link(&mut self, pfn: u32) {
        let page = by_number(pfn);
        page.set_prev(Page::NONE);
        page.set_next(self.head);
        if self.head != Page::NONE {
            by_number(self.head).set_prev(pfn);
        }
        self.head = pfn;
    }

    fn unlink(&mut self, pfn: u32) {
        let page = by_number(pfn);
        if page.next() != Page::NONE {
            by_number(page.next()).set_prev(page.prev());
        }
        if page.prev() != Page::NONE {
            by_number(page.prev()).set_next(page.next());
        } else {
            self.head = page.next();
        }
    }
}

/// The class that serves a layout, if one does.
#[inline]
fn class_of(layout: &Layout) -> Option<usize> {
    if layout.size() > LARGEST || layout.align() > LARGEST {
        return None;
    }
    let mut class = usize::from(CLASS_OF[layout.size().div_ceil(16)]);
    // Objects start at multiples of their size.
    while SIZES[class] & (layout.align() - 1) != 0 {
        class += 1;
    }
    Some(class)
}

/// log2 of the frames that a large layout takes.
fn order_of(layout: &Layout) -> usize {
    let bytes = layout.size().max(layout.align()).max(1);
    bytes.div_ceil(PAGE_SIZE).next_power_of_two().trailing_zeros() as usize
}

impl Heap {
    /// A heap without frames.
    pub const fn new() -> Self {
        const NONE: Class = Class { head: Page::NONE, frames: 0, objects: 0 };
        Self { classes: [const { IrqLock::new(NONE) }; SIZES.len()] }
    }

    /// What there is of each class.
    pub fn usage(&self) -> impl Iterator<Item = Usage> {
        SIZES.iter().zip(&self.classes).map(|(&size, class)| {
            let class = class.lock();
            Usage { size, objects: class.objects as usize, frames: class.frames as usize }
        })
    }

    #[inline]
    fn alloc_small(&self, class: usize) -> *mut u8 {
        let size = SIZES[class];
        let mut list = self.classes[class].lock();
        if list.head == Page::NONE {
            let Ok(frame) = frame::alloc_page_of(PageKind::Slab, AllocFlags::empty()) else {
                return ptr::null_mut();
            };
            Slab { in_use: 0, carved: 0, free: NO_OBJECT }.store(&frame);
            list.link(frame.into_phys().pfn() as u32);
            list.frames += 1;
        }
        list.objects += 1;
        let pfn = list.head;
        let page = by_number(pfn);
        let base = arch::phys_to_virt(PhysAddr::from_pfn(pfn as usize));
        let mut slab = Slab::of(page);
        let object = if slab.free != NO_OBJECT {
            // SAFETY: the free list holds offsets of free objects of this frame.
            let object = unsafe { base.add(usize::from(slab.free)) };
            // SAFETY: a free object starts with the offset of the next.
            slab.free = unsafe { object.cast::<u16>().read() };
            object
        } else {
            slab.carved += 1;
            // SAFETY: a frame on the list has room: a free object or one to carve.
            unsafe { base.add((usize::from(slab.carved) - 1) * size) }
        };
        slab.in_use += 1;
        slab.store(page);
        if usize::from(slab.in_use) == PAGE_SIZE / size {
            list.unlink(pfn);
        }
        object
    }

    #[inline]
    fn free_small(&self, class: usize, object: *mut u8) {
        let phys = arch::virt_to_phys(object);
        let (page, pfn) = (page_of(phys), phys.pfn() as u32);
        debug_assert_eq!(page.kind(), PageKind::Slab, "freed to where it came from");
        let mut list = self.classes[class].lock();
        list.objects -= 1;
        let mut slab = Slab::of(page);
        let was_full = usize::from(slab.in_use) == PAGE_SIZE / SIZES[class];
        // SAFETY: the object is free now and at least 16 bytes long.
        unsafe { object.cast::<u16>().write(slab.free) };
        slab.free = (phys.0 as usize & PAGE_MASK) as u16;
        slab.in_use -= 1;
        slab.store(page);
        if was_full {
            list.link(pfn);
        }
        // One empty frame may stay, so that a single object going back and forth costs no frame.
        if slab.in_use == 0 && (page.next() != Page::NONE || page.prev() != Page::NONE) {
            list.unlink(pfn);
            list.frames -= 1;
            drop(list);
            // SAFETY: given away by `into_phys` in `alloc_small`; no object of it is left.
            drop(unsafe { FrameRef::from_phys(PhysAddr::from_pfn(pfn as usize)) });
        }
    }
}

// SAFETY: every object lies in a frame of its own class (or is a whole block), is aligned to its
// class's size, and is handed out once until it is freed.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fault_inject::should_fail() {
            return ptr::null_mut();
        }
        match class_of(&layout) {
            Some(class) => self.alloc_small(class),
            None => {
                match frame::alloc_pages(order_of(&layout), PageKind::Kernel, AllocFlags::empty()) {
                    Ok(block) => arch::phys_to_virt(block.into_phys()),
                    Err(_) => ptr::null_mut(),
                }
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        match class_of(&layout) {
            Some(class) => self.free_small(class, object),
            // SAFETY: given away by `into_phys` in `alloc`.
            None => drop(unsafe { FrameRef::from_phys(arch::virt_to_phys(object)) }),
        }
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises a size that does not overflow when rounded up to the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let in_place = match (class_of(&layout), class_of(&new)) {
            (Some(a), Some(b)) => a == b,
            (None, None) => order_of(&layout) == order_of(&new),
            _ => false,
        };
        if in_place {
            return object;
        }
        // SAFETY: the caller's promises, passed on.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(object, moved, layout.size().min(new_size));
                self.dealloc(object, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::testing;
    use proptest::prelude::*;

    #[test]
    fn classes_fit_size_and_alignment() {
        for size in 1..=LARGEST {
            for align in [1, 8, 64, 512, 2048] {
                let class = class_of(&Layout::from_size_align(size, align).unwrap()).unwrap();
                assert!(SIZES[class] >= size && SIZES[class].is_multiple_of(align));
            }
        }
        assert!(class_of(&Layout::from_size_align(8, 4096).unwrap()).is_none());
        assert_eq!(order_of(&Layout::from_size_align(5000, 8).unwrap()), 1);
        assert_eq!(order_of(&Layout::from_size_align(8, 16384).unwrap()), 2);
    }

    proptest! {
        #[test]
        fn objects_keep_their_bytes_and_frames_come_back(
            ops in prop::collection::vec((1..6000_usize, 0..8_u32, any::<u16>()), 1..200),
        ) {
            testing::setup();
            let net = frame::NET.get();
            let heap = Heap::new();
            let mut held: Vec<(*mut u8, Layout, u8)> = vec![];
            let check = |&(p, layout, byte): &(*mut u8, Layout, u8)| {
                // SAFETY: a live object of that layout.
                let bytes = unsafe { core::slice::from_raw_parts(p, layout.size()) };
                assert!(bytes.iter().all(|b| *b == byte), "somebody wrote into an object");
            };
            for (n, (size, align, pick)) in ops.into_iter().enumerate() {
                if pick % 3 == 0 && !held.is_empty() {
                    let object = held.swap_remove(usize::from(pick) % held.len());
                    check(&object);
                    // SAFETY: allocated below with that layout.
                    unsafe { heap.dealloc(object.0, object.1) };
                } else if pick % 7 == 0 && !held.is_empty() {
                    let i = usize::from(pick) % held.len();
                    let (p, layout, byte) = held[i];
                    // SAFETY: a live object of that layout.
                    let q = unsafe { heap.realloc(p, layout, size) };
                    let keep = size.min(layout.size());
                    let layout = Layout::from_size_align(size, layout.align()).unwrap();
                    check(&(q, Layout::from_size_align(keep, 1).unwrap(), byte));
                    // SAFETY: as above.
                    unsafe { q.write_bytes(byte, size) };
                    held[i] = (q, layout, byte);
                } else {
                    let layout = Layout::from_size_align(size, 1 << align).unwrap();
                    // SAFETY: the layout has a size.
                    let p = unsafe { heap.alloc(layout) };
                    prop_assert!(!p.is_null() && (p as usize).is_multiple_of(layout.align()));
                    let byte = n as u8;
                    // SAFETY: a fresh object of that size.
                    unsafe { p.write_bytes(byte, size) };
                    held.push((p, layout, byte));
                }
            }
            for object in held {
                check(&object);
                // SAFETY: allocated above with that layout.
                unsafe { heap.dealloc(object.0, object.1) };
            }
            for class in heap.usage() {
                prop_assert!(class.objects == 0 && class.frames <= 1, "{}", class.size);
            }
            // At most one empty frame a class stays.
            prop_assert!(frame::NET.get() - net <= SIZES.len() as isize);
        }
    }
}
