//! One translation table: its frame, how many entries it has and where, its copy and its end.
//!
//! What may be done to which table when is [`tables`](super::tables)' business.

use super::frame::{self, AllocFlags, FrameRef, FreeBatch, PageKind, page_of};
use crate::addr::PhysAddr;
use crate::arch::paging::{AtomicPte, ENTRIES, LEVELS, Pte, Table, level_size, table_at};
use crate::errno::Result;

/// The level whose entries are pages.
pub(super) const LEAF: usize = LEVELS - 1;

/// Entries in a group; a table's record has one bit for each group.
pub(super) const GROUP: usize = ENTRIES / 64;

/// How many entries a table has, and in which groups there may be any: kept in its frame's record
/// (`private`, `index`), so that scans of sparse tables are short. The number is exact; a group's bit
/// stays once it is set.
#[derive(Clone, Copy)]
pub(super) struct Fill {
    pub used: u64,
    pub groups: u64,
}

impl Fill {
    pub const EMPTY: Self = Self { used: 0, groups: 0 };

    #[inline]
    pub fn of(table: PhysAddr) -> Self {
        let page = page_of(table);
        Self { used: page.private(), groups: page.index() }
    }

    #[inline]
    pub fn store(self, table: PhysAddr) {
        let page = page_of(table);
        page.set_private(self.used);
        page.set_index(self.groups);
    }

    /// One entry more, at `i`.
    #[inline]
    pub fn add(table: PhysAddr, i: usize) {
        let fill = Self::of(table);
        Self { used: fill.used + 1, groups: fill.groups | 1 << (i / GROUP) }.store(table);
    }

    /// One entry less.
    #[inline]
    pub fn remove(table: PhysAddr) {
        let page = page_of(table);
        page.set_private(page.private() - 1);
    }
}

/// The indices within `first..last` of a table's entries that may be in use.
struct Occupied {
    groups: u64,
    next: usize,
    last: usize,
}

impl Iterator for Occupied {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.next >= self.last {
            return None;
        }
        let group = self.next / GROUP;
        let ahead = self.groups >> group;
        if ahead & 1 == 0 {
            if ahead == 0 {
                return None;
            }
            self.next = (group + ahead.trailing_zeros() as usize) * GROUP;
            if self.next >= self.last {
                return None;
            }
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

/// A new table without entries.
pub(super) fn new_table() -> Result<PhysAddr> {
    let frame = frame::alloc_page_of(PageKind::Table, AllocFlags::ZERO | AllocFlags::USER)?;
    let phys = frame.into_phys();
    Fill::EMPTY.store(phys);
    Ok(phys)
}

/// The entries of a table that may be in use, with their indices.
#[inline]
pub(super) fn entries<'a>(table: PhysAddr) -> impl Iterator<Item = (usize, &'a AtomicPte)> {
    let groups = Fill::of(table).groups;
    // SAFETY: the callers hold a reference of the table, directly or through its parents.
    let table: &'a Table = unsafe { table_at(table) };
    Occupied { groups, next: 0, last: ENTRIES }.map(move |i| (i, &table[i]))
}

/// The entries of a table of `level` at `base` that may be in use and concern `start..end`, each with
/// the first address that it stands for.
#[inline]
pub(super) fn entries_in<'a>(
    table: PhysAddr,
    level: usize,
    base: u64,
    start: u64,
    end: u64,
) -> impl Iterator<Item = (u64, &'a AtomicPte)> {
    let size = level_size(level);
    let span = size * ENTRIES as u64;
    let next = ((start.clamp(base, base + span) - base) / size) as usize;
    let last = (end.clamp(base, base + span) - base).div_ceil(size) as usize;
    let groups = Fill::of(table).groups;
    // SAFETY: the callers hold a reference of the table, directly or through its parents.
    let table: &'a Table = unsafe { table_at(table) };
    Occupied { groups, next, last }.map(move |i| (base + i as u64 * size, &table[i]))
}

/// Drops one reference of the table at `phys`, whose entries are of `level`.
pub(super) fn put_table(phys: PhysAddr, level: usize) {
    if !page_of(phys).put() {
        return;
    }
    let mut batch = FreeBatch::new();
    for (_, entry) in entries(phys) {
        let pte = entry.load();
        if pte.is_empty() {
            continue;
        }
        if level == LEAF {
            put_leaf(pte, &mut batch);
        } else {
            put_table(pte.phys(), level + 1);
        }
    }
    // The count is zero already; make it one again for the handle that frees the frame.
    page_of(phys).set_refcount(1);
    // SAFETY: the last reference, given away when the entry was made.
    drop(unsafe { FrameRef::from_phys(phys) });
}

#[inline]
pub(super) fn put_leaf(pte: Pte, batch: &mut FreeBatch) {
    if !pte.is_special() {
        // SAFETY: the entry held this reference; pages of programs are single frames.
        unsafe { batch.put(pte.phys()) };
    }
}

/// Copies the shared table at `from`, whose entries are of `level`. See the module documentation.
pub(super) fn copy_table(from: PhysAddr, level: usize) -> Result<PhysAddr> {
    let to = new_table()?;
    // SAFETY: the new table is ours.
    let copy = unsafe { table_at(to) };
    let mut fill = Fill::EMPTY;
    for (i, entry) in entries(from) {
        let pte = entry.load();
        if pte.is_empty() {
            continue;
        }
        let shared = if level < LEAF {
            page_of(pte.phys()).get();
            pte.with_table_read_only(true)
        } else {
            if !pte.is_special() {
                page_of(pte.phys()).get();
            }
            if pte.is_shared() { pte } else { pte.read_only().with_cow(true) }
        };
        if shared != pte {
            entry.store(shared);
        }
        copy[i].store(shared);
        fill.used += 1;
        fill.groups |= 1 << (i / GROUP);
    }
    fill.store(to);
    Ok(to)
}
