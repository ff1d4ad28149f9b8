//! Frames of RAM: who owns which, and [`FrameRef`], the counted handle of one.
//!
//! Above the [`Buddy`](super::buddy::Buddy) stand per-CPU lists of single frames, so that the usual
//! allocation takes no shared lock. Below it lies RAM that was never touched: it is fed to the buddy
//! one [`CHUNK`] at a time, which keeps boot independent of the size of RAM.
//!
//! Programs may not take the last frames: allocations with [`AllocFlags::USER`] fail at a watermark,
//! and what is left below it serves the kernel heap, so that handling the shortage has memory to
//! work with.

use core::ops::{Deref, Range};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::buddy::{Buddy, CHUNK, MAX_ORDER};
use super::memcg;
pub use super::page::{Page, PageKind};
use super::ranges::Ranges;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PhysAddr};
use crate::arch;
use crate::errno::{Errno, Result};
use crate::sync::IrqLock;

bitflags::bitflags! {
    /// How to allocate.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AllocFlags: u32 {
        /// Fill with zeros.
        const ZERO = 1 << 0;
        /// For something whose amount programs decide: stop at the watermark.
        const USER = 1 << 1;
    }
}

const HOT_CAPACITY: usize = 64;
const HOT_BATCH: usize = 32;
/// CPUs share a list when there are more of them; each list has its lock.
const HOT_LISTS: usize = 8;

/// Record of frame number 0, were there one: `RECORDS + pfn` is the record of `pfn`.
static RECORDS: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());
static BASE_PFN: AtomicUsize = AtomicUsize::new(0);
static TOTAL: AtomicUsize = AtomicUsize::new(0);
static WATERMARK: AtomicUsize = AtomicUsize::new(0);
static POOL: IrqLock<Pool> = IrqLock::new(Pool::new());
static HOT: [IrqLock<Hot>; HOT_LISTS] = [const { IrqLock::new(Hot::new()) }; HOT_LISTS];

/// The shared part: the buddy, and what was not fed to it yet.
struct Pool {
    buddy: Buddy,
    /// Records of all frames, from `BASE_PFN`.
    frames: usize,
    /// One bit a chunk: its records are valid and its usable frames were fed.
    fed: *mut u64,
    next_chunk: usize,
    /// Usable frames in chunks that were not fed.
    fresh: usize,
    ram: Ranges,
    reserved: Ranges,
}

// SAFETY: `fed` points at boot memory that only the pool uses.
unsafe impl Send for Pool {}

impl Pool {
    const fn new() -> Self {
        Self {
            buddy: Buddy::new(),
            frames: 0,
            fed: core::ptr::null_mut(),
            next_chunk: 0,
            fresh: 0,
            ram: Ranges::new(),
            reserved: Ranges::new(),
        }
    }

    /// Makes a chunk's records valid and its usable frames free.
    fn feed(&mut self, chunk: usize) {
        let (word, bit) = (chunk / 64, 1_u64 << (chunk % 64));
        // SAFETY: `fed` has a bit for every chunk below `frames`.
        let word = unsafe { &mut *self.fed.add(word) };
        if *word & bit != 0 {
            return;
        }
        *word |= bit;
        let (start, end) = (chunk * CHUNK, ((chunk + 1) * CHUNK).min(self.frames));
        let base = BASE_PFN.load(Ordering::Relaxed);
        // SAFETY: the records of the chunk; nobody used them before.
        unsafe {
            core::ptr::write_bytes(record_ptr(base + start), 0, end - start);
        }
        let Self { buddy, reserved, ram, fresh, .. } = self;
        reserved.usable(ram, start, end, |s, e| {
            *fresh -= e - s;
            buddy.give_run(s, e);
        });
    }

    fn feed_next(&mut self) -> bool {
        while self.next_chunk * CHUNK < self.frames {
            let before = self.fresh;
            self.feed(self.next_chunk);
            self.next_chunk += 1;
            if self.fresh != before {
                return true;
            }
        }
        false
    }

    fn free(&self) -> usize {
        self.buddy.free_frames() + self.fresh
    }

    fn take(&mut self, order: usize, flags: AllocFlags) -> Option<u32> {
        if flags.contains(AllocFlags::USER)
            && self.free() < WATERMARK.load(Ordering::Relaxed) + (1 << order)
        {
            return None;
        }
        loop {
            if let Some(i) = self.buddy.take(order) {
                return Some(i);
            }
            if !self.feed_next() {
                return None;
            }
        }
    }
}

/// A CPU's free single frames, and its share of the counts by kind.
struct Hot {
    len: usize,
    frames: [u32; HOT_CAPACITY],
    counts: [i64; PageKind::COUNT],
}

impl Hot {
    const fn new() -> Self {
        Self { len: 0, frames: [0; HOT_CAPACITY], counts: [0; PageKind::COUNT] }
    }

    #[cold]
    fn refill(&mut self, flags: AllocFlags) -> bool {
        let mut pool = POOL.lock();
        // One block split by hand is cheaper than as many blocks of one; its frames go out in order.
        if let Some(first) = pool.take(HOT_BATCH.ilog2() as usize, flags) {
            for (slot, i) in self.frames.iter_mut().zip((first..first + HOT_BATCH as u32).rev()) {
                *slot = i;
            }
            self.len = HOT_BATCH;
            return true;
        }
        while self.len < HOT_BATCH {
            let Some(i) = pool.take(0, flags) else { break };
            self.frames[self.len] = i;
            self.len += 1;
        }
        self.len > 0
    }

    #[cold]
    fn drain(&mut self, keep: usize) {
        let mut pool = POOL.lock();
        while self.len > keep {
            self.len -= 1;
            pool.buddy.give(self.frames[self.len], 0);
        }
    }
}

#[inline]
fn hot() -> &'static IrqLock<Hot> {
    &HOT[arch::current_thread().info.cpu() % HOT_LISTS]
}

#[inline]
fn record_ptr(pfn: usize) -> *mut Page {
    RECORDS.load(Ordering::Relaxed).wrapping_add(pfn)
}

/// Takes over RAM. `ram` are the memory ranges, `reserved` what in them must not be handed out
/// (image, device tree, initrd). Only a few records are written, however large RAM is.
///
/// # Safety
/// Called once; the ranges are real RAM in the linear map, and nothing but `reserved` is in use.
pub unsafe fn init(ram: &[Range<PhysAddr>], reserved: &[Range<PhysAddr>]) {
    let lowest = ram.iter().map(|r| r.start.pfn()).min().expect("there is RAM");
    let highest = ram.iter().map(|r| r.end.pfn()).max().expect("there is RAM");
    let base = lowest & !(CHUNK - 1);
    let frames = highest - base;
    let mut pool = POOL.lock();
    for r in ram {
        // Whole frames only: rounded inwards.
        pool.ram.add(PhysAddr(r.start.0 + PAGE_SIZE as u64 - 1).pfn() - base, r.end.pfn() - base);
    }
    for r in reserved.iter().filter(|r| r.start < r.end && r.end.pfn() >= base) {
        let end = PhysAddr(r.end.0 + PAGE_SIZE as u64 - 1).pfn();
        pool.reserved.add(r.start.pfn().saturating_sub(base), end - base);
    }
    // The records, then the bits of the chunks, in the first hole that takes them.
    let chunks = frames.div_ceil(CHUNK);
    let record_bytes = frames * size_of::<Page>();
    let own_frames = (record_bytes + chunks.div_ceil(64) * 8).div_ceil(PAGE_SIZE);
    let mut hole = None;
    pool.reserved.usable(&pool.ram, 0, frames, |s, e| {
        if hole.is_none() && e - s >= own_frames {
            hole = Some(s);
        }
    });
    let hole = hole.expect("RAM has room for the frame records");
    pool.reserved.add(hole, hole + own_frames);
    let mut usable = 0;
    pool.reserved.usable(&pool.ram, 0, frames, |s, e| usable += e - s);
    pool.fresh = usable;
    pool.frames = frames;

    let records = arch::phys_to_virt(PhysAddr::from_pfn(base + hole)).cast::<Page>();
    RECORDS.store(records.wrapping_sub(base), Ordering::Relaxed);
    BASE_PFN.store(base, Ordering::Relaxed);
    TOTAL.store(usable, Ordering::Relaxed);
    WATERMARK.store((usable / 64).clamp(128, 4096), Ordering::Relaxed);
    pool.fed = records.wrapping_byte_add(record_bytes).cast::<u64>();
    // SAFETY: the hole was just reserved for this and has room for both.
    unsafe {
        core::ptr::write_bytes(pool.fed, 0, chunks.div_ceil(64));
        pool.buddy.set_records(records, frames);
    }
}

/// Frees memory that `init` was told to reserve (the initrd, once it was unpacked). Only whole frames
/// of the range are freed.
///
/// # Safety
/// Nobody uses the range any more, and it is freed once.
pub unsafe fn free_reserved(range: Range<PhysAddr>) {
    let base = BASE_PFN.load(Ordering::Relaxed);
    let start = PhysAddr(range.start.0 + PAGE_SIZE as u64 - 1).pfn().saturating_sub(base);
    let mut pool = POOL.lock();
    let end = range.end.pfn().saturating_sub(base).min(pool.frames);
    let mut at = start;
    while at < end {
        let chunk = at / CHUNK;
        pool.feed(chunk);
        let stop = end.min((chunk + 1) * CHUNK);
        pool.buddy.give_run(at, stop);
        at = stop;
    }
    TOTAL.fetch_add(end.saturating_sub(start), Ordering::Relaxed);
}

/// The record of a frame that this allocator handed out.
#[inline]
pub fn page_of(phys: PhysAddr) -> &'static Page {
    // SAFETY: frames that were handed out have valid records, which live for ever. A frame outside
    // RAM can only come from a corrupted table, and the check costs more than it finds here.
    unsafe { &*record_ptr(phys.pfn()) }
}

/// A counted handle of a frame, or of a block of 2^order frames. The last one to go frees it.
#[repr(transparent)]
pub struct FrameRef(NonNull<Page>);

// SAFETY: it hands out `&Page` (atomics) only and counts atomically.
unsafe impl Send for FrameRef {}
// SAFETY: as above.
unsafe impl Sync for FrameRef {}

impl FrameRef {
    /// The frame's physical address.
    #[inline]
    pub fn phys(&self) -> PhysAddr {
        let offset = self.0.as_ptr() as usize - RECORDS.load(Ordering::Relaxed) as usize;
        PhysAddr::from_pfn(offset / size_of::<Page>())
    }

    /// Where the kernel sees the frame.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        arch::phys_to_virt(self.phys())
    }

    /// Gives the reference away, to be kept in a table entry.
    #[inline]
    pub fn into_phys(self) -> PhysAddr {
        let phys = self.phys();
        core::mem::forget(self);
        phys
    }

    /// Takes back a reference.
    ///
    /// # Safety
    /// The reference was given away by [`into_phys`](Self::into_phys) and not taken back yet.
    #[inline]
    pub unsafe fn from_phys(phys: PhysAddr) -> Self {
        Self(NonNull::from(page_of(phys)))
    }

    /// One more reference to the frame at `phys`.
    ///
    /// # Safety
    /// Somebody holds a reference now and does not let go of it meanwhile.
    #[inline]
    pub unsafe fn share(phys: PhysAddr) -> Self {
        let page = page_of(phys);
        page.get();
        Self(NonNull::from(page))
    }

    /// Bytes of the block.
    pub fn size(&self) -> usize {
        PAGE_SIZE << self.order()
    }

    /// Copies out of the frame. `offset` and the length must lie within the block.
    pub fn read(&self, offset: usize, buf: &mut [u8]) {
        assert!(offset <= self.size() && buf.len() <= self.size() - offset, "within the frame");
        // SAFETY: within the block. Programs may write at the same time; then the bytes are any mix
        // of old and new, which is all that shared memory promises.
        unsafe {
            core::ptr::copy_nonoverlapping(self.as_ptr().add(offset), buf.as_mut_ptr(), buf.len());
        }
    }

    /// Copies into the frame. `offset` and the length must lie within the block.
    pub fn write(&self, offset: usize, buf: &[u8]) {
        assert!(offset <= self.size() && buf.len() <= self.size() - offset, "within the frame");
        // SAFETY: as for `read`.
        unsafe {
            core::ptr::copy_nonoverlapping(buf.as_ptr(), self.as_ptr().add(offset), buf.len());
        }
    }

    /// Fills part of the frame with zeros.
    pub fn zero(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.size(), "within the frame");
        // SAFETY: as for `read`.
        unsafe { core::ptr::write_bytes(self.as_ptr().add(range.start), 0, range.len()) };
    }
}

impl Clone for FrameRef {
    #[inline]
    fn clone(&self) -> Self {
        self.get();
        Self(self.0)
    }
}

impl Deref for FrameRef {
    type Target = Page;

    #[inline]
    fn deref(&self) -> &Page {
        // SAFETY: records live for ever.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for FrameRef {
    #[inline]
    fn drop(&mut self) {
        if self.put() {
            memcg::release(self);
            free(self);
        }
    }
}

/// Gives back a block whose last reference is gone.
fn free(page: &Page) {
    let i = (core::ptr::from_ref(page) as usize - record_ptr(0) as usize) / size_of::<Page>();
    let i = (i - BASE_PFN.load(Ordering::Relaxed)) as u32;
    let (kind, order) = (page.kind(), usize::from(page.order()));
    #[cfg(test)]
    NET.set(NET.get() - (1 << order));
    debug_assert!(!matches!(kind, PageKind::Free | PageKind::Hot), "a frame is freed once");
    let mut hot = hot().lock();
    hot.counts[kind as usize] -= 1 << order;
    if order > 0 {
        drop(hot);
        POOL.lock().buddy.give(i, order);
        return;
    }
    page.set_kind(PageKind::Hot);
    if hot.len == HOT_CAPACITY {
        hot.drain(HOT_CAPACITY - HOT_BATCH);
    }
    let len = hot.len;
    hot.frames[len] = i;
    hot.len = len + 1;
}

/// Drops many references of single frames, and gives those that were the last back together: one lock
/// for a whole batch.
pub struct FreeBatch {
    len: usize,
    frames: [core::mem::MaybeUninit<u32>; Self::ROOM],
}

impl FreeBatch {
    const ROOM: usize = 32;

    /// An empty batch.
    #[inline]
    pub fn new() -> Self {
        Self { len: 0, frames: [const { core::mem::MaybeUninit::uninit() }; Self::ROOM] }
    }

    /// Drops one reference of the frame at `phys`.
    ///
    /// # Safety
    /// As for [`FrameRef::from_phys`]; the frame was allocated alone, not in a block.
    #[inline]
    pub unsafe fn put(&mut self, phys: PhysAddr) {
        let page = page_of(phys);
        if page.put() {
            debug_assert_eq!(page.order(), 0, "a single frame");
            memcg::release(page);
            if self.len == Self::ROOM {
                self.flush();
            }
            self.frames[self.len].write((phys.pfn() - BASE_PFN.load(Ordering::Relaxed)) as u32);
            self.len += 1;
        }
    }

    fn flush(&mut self) {
        if self.len == 0 {
            return;
        }
        #[cfg(test)]
        NET.set(NET.get() - self.len as isize);
        let base = BASE_PFN.load(Ordering::Relaxed);
        let mut hot = hot().lock();
        if hot.len + self.len > HOT_CAPACITY {
            hot.drain(HOT_CAPACITY - HOT_BATCH);
        }
        for frame in &self.frames[..self.len] {
            // SAFETY: the first `len` were written by `put`.
            let i = unsafe { frame.assume_init() };
            let page = page_of(PhysAddr::from_pfn(base + i as usize));
            hot.counts[page.kind() as usize] -= 1;
            page.set_kind(PageKind::Hot);
            let len = hot.len;
            hot.frames[len % HOT_CAPACITY] = i;
            hot.len = len + 1;
        }
        self.len = 0;
    }
}

impl Default for FreeBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FreeBatch {
    #[inline]
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
thread_local! {
    /// Frames that this thread took and did not give back: tests compare it.
    pub static NET: core::cell::Cell<isize> = const { core::cell::Cell::new(0) };
}

#[inline]
fn hand_out(i: u32, order: usize, kind: PageKind, flags: AllocFlags) -> FrameRef {
    #[cfg(test)]
    NET.set(NET.get() + (1 << order));
    let record = record_ptr(BASE_PFN.load(Ordering::Relaxed) + i as usize);
    // SAFETY: the allocator hands out frames with valid records only.
    let page = unsafe { NonNull::new_unchecked(record) };
    let frame = FrameRef(page);
    frame.set_kind(kind);
    frame.set_order(order as u8);
    frame.set_flags(0);
    frame.set_private(0);
    frame.set_refcount(1);
    if flags.contains(AllocFlags::ZERO) {
        for n in 0..1 << order {
            // SAFETY: a frame of the block, known to nobody else yet.
            unsafe { arch::clear_page(frame.as_ptr().add(n << PAGE_SHIFT)) };
        }
    }
    frame
}

/// Takes one frame for a given use. Never sleeps; `ENOMEM` if there is none (see [`AllocFlags::USER`]).
#[inline]
pub fn alloc_page_of(kind: PageKind, flags: AllocFlags) -> Result<FrameRef> {
    let i = {
        let mut hot = hot().lock();
        if hot.len == 0 && !hot.refill(flags) {
            drop(hot);
            return alloc_slow(0, kind, flags);
        }
        hot.len -= 1;
        hot.counts[kind as usize] += 1;
        hot.frames[hot.len % HOT_CAPACITY]
    };
    Ok(hand_out(i, 0, kind, flags))
}

/// Takes one frame: anonymous memory with [`AllocFlags::USER`], else the kernel's.
pub fn alloc_page(flags: AllocFlags) -> Result<FrameRef> {
    let user = flags.contains(AllocFlags::USER);
    alloc_page_of(if user { PageKind::Anon } else { PageKind::Kernel }, flags)
}

/// Takes 2^order neighbouring frames, aligned to their size.
pub fn alloc_pages(order: usize, kind: PageKind, flags: AllocFlags) -> Result<FrameRef> {
    if order == 0 {
        return alloc_page_of(kind, flags);
    }
    if order > MAX_ORDER {
        return Err(Errno::ENOMEM);
    }
    let taken = POOL.lock().take(order, flags);
    let Some(i) = taken else { return alloc_slow(order, kind, flags) };
    hot().lock().counts[kind as usize] += 1 << order;
    Ok(hand_out(i, order, kind, flags))
}

/// Gathers what lies about in caches and tries again.
#[cold]
fn alloc_slow(order: usize, kind: PageKind, flags: AllocFlags) -> Result<FrameRef> {
    if flags.contains(AllocFlags::USER) {
        super::reclaim();
    }
    // Also what was given up just now lies there.
    for list in &HOT {
        list.lock().drain(0);
    }
    let i = POOL.lock().take(order, flags).ok_or(Errno::ENOMEM)?;
    hot().lock().counts[kind as usize] += 1 << order;
    Ok(hand_out(i, order, kind, flags))
}

/// Frames of RAM that the allocator owns.
pub fn total_frames() -> usize {
    TOTAL.load(Ordering::Relaxed)
}

/// Free frames, those on the CPUs' lists included.
pub fn free_frames() -> usize {
    HOT.iter().map(|hot| hot.lock().len).sum::<usize>() + POOL.lock().free()
}

/// Frames that programs can still get.
pub fn available_frames() -> usize {
    free_frames().saturating_sub(WATERMARK.load(Ordering::Relaxed))
}

/// Frames in use for `kind`.
pub fn frames_of(kind: PageKind) -> usize {
    HOT.iter().map(|hot| hot.lock().counts[kind as usize]).sum::<i64>().max(0) as usize
}

/// For the root page: address of the first record, number of records, first frame number.
pub fn record_table() -> (u64, u64, u64) {
    let base = BASE_PFN.load(Ordering::Relaxed);
    (record_ptr(base) as u64, POOL.lock().frames as u64, base as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::testing;

    #[test]
    fn frames_are_counted_and_come_back() {
        testing::setup();
        let net = NET.get();
        let frame = alloc_page(AllocFlags::ZERO | AllocFlags::USER).unwrap();
        assert_eq!(frame.kind(), PageKind::Anon);
        let mut buf = [1_u8; 16];
        frame.read(4080, &mut buf);
        assert_eq!(buf, [0; 16]);
        let second = frame.clone();
        assert_eq!(frame.refcount(), 2);
        drop(frame);
        second.write(0, b"x");
        let phys = second.into_phys();
        // SAFETY: given away on the line above.
        let second = unsafe { FrameRef::from_phys(phys) };
        assert_eq!(NET.get(), net + 1);
        drop(second);
        assert_eq!(NET.get(), net);
    }

    #[test]
    fn blocks_are_aligned() {
        testing::setup();
        let block = alloc_pages(3, PageKind::Kernel, AllocFlags::empty()).unwrap();
        assert_eq!(block.phys().pfn() % 8, 0);
        assert_eq!(block.size(), 8 * PAGE_SIZE);
        assert!(alloc_pages(MAX_ORDER + 1, PageKind::Kernel, AllocFlags::empty()).is_err());
    }
}
