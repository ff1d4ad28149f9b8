//! The pages of a disk that are in memory.
//!
//! A page is found by its index in the tree of a [`Mapping`]. Its state stands in its record's flags:
//!
//! | flag | what holds |
//! | --- | --- |
//! | `READING` | the device fills it |
//! | `UPTODATE` | it holds what the disk does, or newer |
//! | `FAILED` | reading it failed; the next reader tries again |
//! | `CLEAN` | it is on the list of clean pages, and may be given up |
//! | `DIRTY` | it is newer than the disk, and on the list of dirty pages |
//! | `WRITING` | the device stores it |
//!
//! State and lists change under one lock, which ends of requests take in interrupts. Data is copied
//! without it: whoever copies holds a reference, and a page with more than the tree's stays.
//!
//! Dirty pages are written back some seconds after the first of them came, by the thread that
//! [`write_back_thread`] is; at once when there are many, by whoever makes more; and by
//! [`Disk::sync`]. Pages are given up, the oldest first, when memory is short.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::fifo::Fifo;
use super::{Bio, Disk, MAX_PAGES, Op, SECTOR, disks};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::errno::{Errno, Result};
use crate::fs::UserBuf;
use crate::mm::frame::available_frames;
use crate::mm::memcg::{Protection, is_protected};
use crate::mm::{
    AllocFlags, FrameRef, Mapping, Page, PageKind, alloc_for_caller, try_alloc_for_caller,
};
use crate::sched::WaitQueue;
use crate::sched::clock::Deadline;
use crate::sync::IrqLock;
use crate::{wait_event, wait_event_killable, wait_event_timeout};

const READING: u16 = 1 << 8;
const UPTODATE: u16 = 1 << 9;
const FAILED: u16 = 1 << 10;
const CLEAN: u16 = 1 << 11;
const DIRTY: u16 = 1 << 12;
const WRITING: u16 = 1 << 13;

const PAGE: u64 = PAGE_SIZE as u64;
/// How old a dirty page gets before it is written back, in ns.
const DIRTY_AGE: u64 = 5 * 1_000_000_000;
/// Clean pages that are given up at a time.
const SHRINK_BATCH: usize = 64;
/// So many pages may always be dirty.
const MIN_DIRTY: usize = 2 * MAX_PAGES;

/// See the module.
pub(super) struct Cache {
    mapping: Mapping,
    lists: IrqLock<Lists>,
    /// A request has ended.
    changed: WaitQueue,
    /// Requests that store pages and have not ended.
    writes: AtomicUsize,
    /// Storing a page failed, and nobody was told yet.
    failed: AtomicBool,
    /// Where the last read ended: one that goes on there is worth reading ahead for.
    next_read: core::sync::atomic::AtomicU64,
}

struct Lists {
    clean: Fifo,
    dirty: Fifo,
}

/// There are dirty pages.
static DIRTIED: WaitQueue = WaitQueue::new();

fn pfn(frame: &FrameRef) -> u32 {
    frame.phys().pfn() as u32
}

/// Changes a page's flags; the lists' lock is held.
fn change(page: &Page, clear: u16, set: u16) {
    page.set_flags(page.flags() & !clear | set);
}

impl Cache {
    pub(super) const fn new() -> Self {
        Self {
            mapping: Mapping::new(PageKind::Cache),
            lists: IrqLock::new(Lists { clean: Fifo::new(), dirty: Fifo::new() }),
            changed: WaitQueue::new(),
            writes: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            next_read: core::sync::atomic::AtomicU64::new(0),
        }
    }

    fn dirty_pages(&self) -> usize {
        self.lists.lock().dirty.len()
    }

    /// The most dirty pages before writers have to write back themselves, and as many that may be on their way: an
    /// eighth of the memory that pages may be in. What is neither can be given up at once for somebody who
    /// cannot wait for the disk.
    fn dirty_limit(&self) -> usize {
        let pages = {
            let lists = self.lists.lock();
            lists.clean.len() + lists.dirty.len()
        };
        ((available_frames() + pages) / 8).max(MIN_DIRTY)
    }

    /// Gives `wanted` clean pages up, the oldest first, as far as there are any; says how many.
    pub(super) fn shrink(&self, wanted: usize, protection: Protection) -> usize {
        let mut freed = 0;
        for _ in 0..wanted {
            let oldest = {
                let mut lists = self.lists.lock();
                lists.clean.pop().map(|(page, pfn)| {
                    change(page, CLEAN, 0);
                    (page, pfn, page.index())
                })
            };
            let Some((page, pfn, index)) = oldest else { break };
            let may = |page: &FrameRef| {
                page.flags() & (DIRTY | WRITING | READING) == 0 && !is_protected(page, protection)
            };
            if self.mapping.evict(index, may) {
                freed += 1;
                continue;
            }
            // Somebody has a hand on it, or it is kept for its group.
            let mut lists = self.lists.lock();
            if page.flags() & (DIRTY | WRITING | READING | CLEAN) == 0 {
                change(page, 0, CLEAN);
                lists.clean.push(pfn);
            }
        }
        freed
    }

    /// Marks a page that was written.
    fn mark_dirty(&self, frame: &FrameRef) {
        let first = {
            let mut lists = self.lists.lock();
            if frame.flags() & CLEAN != 0 {
                lists.clean.remove(pfn(frame));
            }
            let was_dirty = frame.flags() & DIRTY != 0;
            change(frame, CLEAN | FAILED, UPTODATE | DIRTY);
            if !was_dirty {
                lists.dirty.push(pfn(frame));
            }
            !was_dirty && lists.dirty.len() == 1
        };
        if first {
            DIRTIED.wake_all();
        }
    }

    /// Ends a request that filled pages.
    fn end_read(bio: Box<Bio>, result: Result<()>) {
        let cache = &bio.disk.cache;
        {
            let mut lists = cache.lists.lock();
            for frame in bio.pages() {
                change(frame, READING, if result.is_ok() { UPTODATE } else { FAILED });
                if frame.flags() & (CLEAN | DIRTY) == 0 {
                    change(frame, 0, CLEAN);
                    lists.clean.push(pfn(frame));
                }
            }
        }
        cache.changed.wake_all();
    }

    /// Ends a request that stored pages.
    fn end_write(bio: Box<Bio>, result: Result<()>) {
        let cache = &bio.disk.cache;
        {
            let mut lists = cache.lists.lock();
            for frame in bio.pages() {
                change(frame, WRITING, 0);
                if frame.flags() & (CLEAN | DIRTY) == 0 {
                    change(frame, 0, CLEAN);
                    lists.clean.push(pfn(frame));
                }
            }
        }
        if result.is_err() {
            cache.failed.store(true, Ordering::Release);
        }
        cache.writes.fetch_sub(1, Ordering::AcqRel);
        cache.changed.wake_all();
    }
}

/// Gives clean pages of all disks up, because memory is short; any context that may take spin locks.
pub fn shrink_all() -> usize {
    let shrink = |protection| disks().map(|disk| disk.cache.shrink(SHRINK_BATCH, protection)).sum();
    match shrink(Protection::Low) {
        0 => shrink(Protection::Min),
        freed => freed,
    }
}

impl Disk {
    /// A new page, for which others may have to go.
    fn new_page(&'static self) -> Result<FrameRef> {
        let allocate = || alloc_for_caller(PageKind::Cache, AllocFlags::USER);
        loop {
            match allocate() {
                Err(Errno::ENOMEM) if shrink_all() > 0 => {}
                Err(Errno::ENOMEM) if self.cache.dirty_pages() > 0 => {
                    self.write_back_all()?;
                    if shrink_all() == 0 {
                        return Err(Errno::ENOMEM);
                    }
                }
                result => return result,
            }
        }
    }

    /// How many bytes of page `index` the disk has.
    fn page_len(&self, index: u64) -> u64 {
        self.size.saturating_sub(index << PAGE_SHIFT).min(PAGE)
    }

    /// Starts filling the page at `index`, which is not in memory or could not be read before, and up to
    /// `ahead` behind it that are not there.
    fn start_read(&'static self, index: u64, ahead: usize) -> Result<()> {
        let sector = index << PAGE_SHIFT >> 9;
        let mut bio = Bio::new(self, Op::Read, sector, Cache::end_read)?;
        for i in 0..MAX_PAGES.min(1 + ahead) {
            let at = index + i as u64;
            let len = self.page_len(at);
            if len == 0 {
                break;
            }
            let frame = match (self.cache.mapping.get(at), i) {
                (Some(frame), 0) => frame,
                (Some(_), _) => break,
                (None, 0) => self.cache.mapping.insert(at, self.new_page()?)?,
                // What is read ahead is not worth giving anything up for.
                (None, _) => match try_alloc_for_caller(PageKind::Cache, AllocFlags::USER)
                    .and_then(|frame| self.cache.mapping.insert(at, frame))
                {
                    Ok(frame) => frame,
                    Err(_) => break,
                },
            };
            {
                let mut lists = self.cache.lists.lock();
                if frame.flags() & (READING | UPTODATE) != 0 {
                    // Somebody was faster.
                    break;
                }
                if frame.flags() & CLEAN != 0 {
                    lists.clean.remove(pfn(&frame));
                }
                change(&frame, CLEAN | FAILED, READING);
            }
            bio.pages[i] = Some(frame);
            bio.bytes += len;
        }
        if bio.bytes > 0 {
            self.driver.submit(bio);
        }
        Ok(())
    }

    /// The page at `index` with what the disk holds there.
    fn read_page(&'static self, index: u64, ahead: usize) -> Result<FrameRef> {
        let mut tried = false;
        loop {
            if let Some(frame) = self.cache.mapping.get(index) {
                let flags = frame.flags();
                if flags & UPTODATE != 0 {
                    return Ok(frame);
                }
                if flags & READING != 0 {
                    wait_event_killable!(self.cache.changed, frame.flags() & READING == 0)?;
                    continue;
                }
                if flags & FAILED != 0 && tried {
                    return Err(Errno::EIO);
                }
            }
            self.start_read(index, ahead)?;
            tried = true;
        }
    }

    /// The page at a position, where in it that is, and how much of `len` bytes lies there; `None` at the
    /// disk's end.
    fn piece_at(&self, pos: u64, len: usize) -> Option<(u64, usize, usize)> {
        let (index, offset) = (pos >> PAGE_SHIFT, (pos & (PAGE - 1)) as usize);
        (pos < self.size).then(|| (index, offset, len.min(self.page_len(index) as usize - offset)))
    }

    /// Copies from the disk, from `pos` on, which moves.
    pub(super) fn read(&'static self, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        buf.in_pieces(pos, |buf, pos| {
            let (index, offset, n) = self.piece_at(pos, buf.remaining())?;
            let sequential = self.cache.next_read.load(Ordering::Relaxed) == index;
            let wanted = (offset + buf.remaining()).div_ceil(PAGE_SIZE) - 1;
            let ahead = if sequential { MAX_PAGES } else { wanted };
            let copied = self.read_page(index, ahead).and_then(|frame| {
                // SAFETY: `offset + n` lies within the page, which the reference keeps alive.
                unsafe { buf.put_raw(frame.as_ptr().add(offset), n) }
            });
            self.cache.next_read.store(index + 1, Ordering::Relaxed);
            Some((n, copied))
        })
    }

    /// Copies to the disk's pages, from `pos` on, which moves. One writer at a time.
    pub(super) fn write(&'static self, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        buf.in_pieces(pos, |buf, pos| {
            let (index, offset, n) = self.piece_at(pos, buf.remaining())?;
            let copied = self.write_page(index, offset, n, buf);
            let dirty = self.cache.dirty_pages();
            if dirty > MIN_DIRTY && dirty > self.cache.dirty_limit() {
                // Without memory for requests, the next new page stops the writer.
                let _ = self.write_back(2 * MAX_PAGES);
            }
            Some((n, copied))
        })
    }

    fn write_page(
        &'static self,
        index: u64,
        offset: usize,
        n: usize,
        buf: &mut UserBuf<'_>,
    ) -> Result<usize> {
        // A page that is replaced as a whole need not be read; but one that is in memory is used.
        let whole = n as u64 == self.page_len(index);
        let frame = match self.cache.mapping.get(index) {
            Some(frame) if frame.flags() & UPTODATE != 0 => frame,
            None if whole => {
                let frame = self.new_page()?;
                // SAFETY: the page is this writer's own; a whole page is within it.
                let copied = unsafe { buf.take_raw(frame.as_ptr(), n) }?;
                if copied == n {
                    frame.zero(n..PAGE_SIZE);
                    let there = self.cache.mapping.insert(index, frame.clone())?;
                    if there.phys() == frame.phys() {
                        self.cache.mark_dirty(&frame);
                        return Ok(n);
                    }
                }
                // Not all could be copied, or somebody read the page meanwhile.
                let there = self.read_page(index, 0)?;
                let mut chunk = [0; 512];
                for at in (0..copied).step_by(chunk.len()) {
                    let part = chunk.len().min(copied - at);
                    frame.read(at, &mut chunk[..part]);
                    there.write(at, &chunk[..part]);
                }
                self.cache.mark_dirty(&there);
                return Ok(copied);
            }
            _ => self.read_page(index, 0)?,
        };
        // SAFETY: `offset + n` lies within the page, which the reference keeps alive.
        let copied = unsafe { buf.take_raw(frame.as_ptr().add(offset), n) };
        // Whatever arrived is there now, also before a fault.
        self.cache.mark_dirty(&frame);
        copied
    }

    /// Starts storing the oldest dirty pages, in runs of neighbours, about `wanted` of them. Waits while
    /// very many are on their way.
    fn write_back(&'static self, wanted: usize) -> Result<()> {
        /// Requests that one disk's pages may be in.
        const MAX_WRITES: usize = 32;
        let most = (self.cache.dirty_limit() / MAX_PAGES).clamp(1, MAX_WRITES);
        let mut started = 0;
        while started < wanted {
            let busy = || self.cache.writes.load(Ordering::Acquire) >= most;
            wait_event!(self.cache.changed, !busy());
            // Without memory for a request nothing is taken off the list.
            let mut bio = Bio::new(self, Op::Write, 0, Cache::end_write)?;
            let mut indexes = [0; MAX_PAGES];
            let count = self.take_dirty(&mut indexes);
            if count == 0 {
                break;
            }
            bio.sector = indexes[0] << PAGE_SHIFT >> 9;
            for (slot, index) in bio.pages.iter_mut().zip(&indexes[..count]) {
                // Marked as being stored, so it is still there.
                *slot = self.cache.mapping.get(*index);
                bio.bytes += self.page_len(*index);
            }
            self.cache.writes.fetch_add(1, Ordering::AcqRel);
            self.driver.submit(bio);
            started += count;
        }
        Ok(())
    }

    /// Takes a run of dirty pages off the list and marks them as being stored. A page that is being stored
    /// already has to wait for that.
    fn take_dirty(&self, indexes: &mut [u64; MAX_PAGES]) -> usize {
        let mut count = 0;
        loop {
            let mut lists = self.cache.lists.lock();
            match lists.dirty.front() {
                Some((page, _)) if page.flags() & WRITING != 0 && count == 0 => {
                    drop(lists);
                    wait_event!(self.cache.changed, page.flags() & WRITING == 0);
                }
                Some((page, pfn))
                    if page.flags() & WRITING == 0
                        && count < MAX_PAGES
                        && (count == 0 || page.index() == indexes[count - 1] + 1) =>
                {
                    lists.dirty.remove(pfn);
                    change(page, DIRTY, WRITING);
                    indexes[count] = page.index();
                    count += 1;
                }
                _ => return count,
            }
        }
    }

    /// Stores every page that is dirty now; `EIO` if one could not be, since this was last asked.
    pub(super) fn write_back_all(&'static self) -> Result<()> {
        let mut left = self.cache.dirty_pages();
        while left > 0 {
            let part = left.min(MAX_PAGES);
            self.write_back(part)?;
            left = left.saturating_sub(part).min(self.cache.dirty_pages());
        }
        wait_event!(self.cache.changed, self.cache.writes.load(Ordering::Acquire) == 0);
        match self.cache.failed.swap(false, Ordering::AcqRel) {
            true => Err(Errno::EIO),
            false => Ok(()),
        }
    }

    /// Gives up the clean pages of `start..end`, as far as they lie in it, so that the next reader asks
    /// the device.
    pub(super) fn forget(&self, start: u64, end: u64) {
        let mut index = start >> PAGE_SHIFT;
        while let Some(at) =
            self.cache.mapping.next_page(index).filter(|at| *at << PAGE_SHIFT < end)
        {
            index = at + 1;
            let Some(frame) = self.cache.mapping.get(at) else { continue };
            let clean = {
                let mut lists = self.cache.lists.lock();
                let clean = frame.flags() & CLEAN != 0;
                if clean {
                    lists.clean.remove(pfn(&frame));
                    change(&frame, CLEAN | UPTODATE, 0);
                }
                clean
            };
            drop(frame);
            if clean {
                // One that somebody holds stays as a page that has to be read.
                self.cache.mapping.evict(at, |page| page.flags() & (DIRTY | READING) == 0);
            }
        }
    }
}

/// Writes dirty pages back when they are old enough, until `stop` says so: what the thread `writeback` does.
pub fn write_back_thread(stop: impl Fn() -> bool) {
    let any_dirty = || disks().any(|disk| disk.cache.dirty_pages() > 0);
    while !stop() {
        // No signal ends either sleep: kernel threads block all.
        let _ = crate::wait_event_interruptible!(DIRTIED, stop() || any_dirty());
        let _ = wait_event_timeout!(DIRTIED, stop(), Deadline::after(DIRTY_AGE));
        for disk in disks() {
            if disk.cache.dirty_pages() > 0 {
                // Errors wait for who asks for data to be stored.
                let _ = disk.write_back(disk.cache.dirty_pages());
            }
        }
    }
}

const _: () = assert!(PAGE.is_multiple_of(SECTOR), "a page is whole sectors");
