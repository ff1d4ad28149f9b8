//! The stage-1 tables of an address space, shared between address spaces until one of them writes.
//!
//! # How tables are shared
//!
//! Only the root belongs to one address space for good. Every other table is a frame whose `refcount`
//! counts the entries that lead to it. fork copies the root's entries, raises the counts of the tables
//! behind them and marks the entries *read-only for all below* (APTable[1]) on both sides: its cost
//! does not depend on how much is resident.
//!
//! The rule: **a table whose count is above one is never changed**, except that rights may be taken
//! away. Before any change, [`Tables::leaf`] walks down from the root and makes each table on the way
//! exclusive ([`Tables::own`]):
//!
//! - An entry without the read-only mark leads from an exclusive table to an exclusive one.
//! - With the mark and a count of one, the others are gone: only the mark is dropped. Tables below
//!   may still be shared; their entries carry marks of their own.
//! - With the mark and a higher count, the table is copied. Entries to tables below get the mark, in
//!   the copy *and in the original*; private pages become read-only in both. Then this side's
//!   reference of the original is dropped.
//!
//! # Why this is safe against the other sharers on other CPUs
//!
//! Each address space changes its own tables under its own lock; two sharers hold different locks.
//! A sharer keeps its reference until its copy is finished, so a count of one read by somebody who owns
//! a reference means that he is alone and that all copying is over (the drop is a release, the read
//! an acquire). Two who see a count of two both copy: the later drop frees the original. What copiers
//! write into the original (marks, read-only bits) is the same value whoever writes it, and takes
//! away only what the mark above takes away anyway. Nobody can raise the count of a table from one but
//! its only owner.
//!
//! # Translation caches
//!
//! An entry changes its output address only through an invalid entry and an invalidation of the page
//! being walked for (which covers the entries on the way to it). Rights that grow need no invalidation:
//! a stale entry faults once, and the fault handler invalidates the page. An original is dropped
//! only after that invalidation, so no walker is left in a table that is freed.

use core::ops::Range;

use super::asid::Asid;
use super::frame::{AllocFlags, FrameRef, FreeBatch, PageKind, page_of};
use super::gather::Gather;
use super::memcg::{MemGroup, NoPage, alloc_charged};
use super::table::{Fill, LEAF, copy_table, entries, entries_in, new_table, put_leaf, put_table};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::paging::{AtomicPte, Pte, Table, index, level_shift, level_size, table_at};
use crate::arch::tlb;
use crate::errno::Result;
use crate::kref::Ref;

/// Pages resident, by kind; changed under the tables' lock only.
#[repr(C)]
#[derive(belljar_abi::Described, Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Rss {
    /// Anonymous pages.
    pub anon: i64,
    /// Pages of files.
    pub file: i64,
    /// Shared anonymous and tmpfs pages.
    pub shmem: i64,
}

impl Rss {
    /// All of them.
    pub fn total(&self) -> u64 {
        (self.anon + self.file + self.shmem).max(0) as u64
    }

    fn count(&mut self, pte: Pte, by: i64) {
        if !pte.is_special() {
            self.count_kind(page_of(pte.phys()).kind(), by);
        }
    }

    fn count_kind(&mut self, kind: PageKind, by: i64) {
        match kind {
            PageKind::Shmem => self.shmem += by,
            PageKind::Cache => self.file += by,
            _ => self.anon += by,
        }
    }
}

/// The entry for one page, in a table that is exclusive.
pub struct Leaf<'a> {
    tables: &'a mut Tables,
    table: PhysAddr,
    va: VirtAddr,
}

impl<'a> Leaf<'a> {
    fn entry(&self) -> &'a AtomicPte {
        // SAFETY: the table is reachable from the root, and the tables' lock is held.
        let table: &'a Table = unsafe { table_at(self.table) };
        &table[index(self.va, LEAF)]
    }

    /// The entry now.
    #[inline]
    pub fn load(&self) -> Pte {
        self.entry().load()
    }

    /// A frame for an anonymous page here, on the account of the address space's group.
    #[inline]
    pub fn new_page(&self, flags: AllocFlags) -> core::result::Result<FrameRef, NoPage> {
        alloc_charged(self.tables.group.as_ref(), PageKind::Anon, flags | AllocFlags::USER)
    }

    /// Fills an empty entry; it takes over the reference that the caller gave away.
    #[inline]
    pub fn fill(&mut self, pte: Pte) {
        debug_assert!(self.load().is_empty());
        self.tables.rss.count(pte, 1);
        Fill::add(self.table, index(self.va, LEAF));
        self.entry().store(pte);
    }

    /// Changes rights or software bits of a present entry. The caller invalidates if need be.
    #[inline]
    pub fn update(&mut self, pte: Pte) {
        debug_assert_eq!(self.load().phys(), pte.phys());
        self.entry().store(pte);
    }

    /// Puts another frame in place of the present one, whose reference is dropped.
    pub fn replace(&mut self, asid: &Asid, pte: Pte) {
        let old = self.entry().swap(Pte::EMPTY);
        tlb::flush_page(|| asid.get(), self.va);
        self.tables.rss.count(old, -1);
        self.tables.rss.count(pte, 1);
        self.entry().store(pte);
        put_leaf(old, &mut FreeBatch::new());
    }

    /// Takes the entry out; the caller invalidates and owns the reference.
    pub fn take(&mut self) -> Pte {
        let old = self.entry().swap(Pte::EMPTY);
        if !old.is_empty() {
            self.tables.rss.count(old, -1);
            // An empty table stays; unmapping its range or the end of the address space frees it.
            Fill::remove(self.table);
        }
        old
    }

    /// Lets `f` change the present entries of `start..end`, which the same table holds: rights and
    /// software bits only. Rights that grow need no invalidation.
    #[inline]
    pub fn update_near(&mut self, start: u64, end: u64, mut f: impl FnMut(Pte) -> Pte) {
        // SAFETY: as for `entry`.
        let table: &Table = unsafe { table_at(self.table) };
        let first = index(VirtAddr(start), LEAF);
        let last = index(VirtAddr(end - 1), LEAF);
        for entry in table.get(first..=last).unwrap_or_default() {
            let pte = entry.load();
            if pte.is_present() {
                let new = f(pte);
                if new != pte {
                    entry.store(new);
                }
            }
        }
    }

    /// Fills the entry of `at`, which the same table holds, if it is empty.
    #[inline]
    pub fn fill_near(&mut self, at: u64, make: impl FnOnce() -> Pte) {
        debug_assert_eq!(at >> level_shift(LEAF - 1), self.va.0 >> level_shift(LEAF - 1));
        let i = index(VirtAddr(at), LEAF);
        // SAFETY: as for `entry`.
        let entry = &unsafe { table_at(self.table) }[i];
        if entry.load().is_empty() {
            let pte = make();
            self.tables.rss.count(pte, 1);
            Fill::add(self.table, i);
            entry.store(pte);
        }
    }
}

/// The tables of one address space.
#[repr(C)]
#[derive(belljar_abi::Described)]
pub struct Tables {
    /// The root table.
    pub root: PhysAddr,
    /// Resident pages.
    pub rss: Rss,
    /// The largest sum of `rss` so far.
    pub hiwater_rss: u64,
    /// Whose account new pages go on; none if it is nobody's.
    #[described(skip)]
    pub group: Option<Ref<MemGroup>>,
}

impl Tables {
    /// A root without entries.
    pub fn new() -> Result<Self> {
        Ok(Self { root: new_table()?, rss: Rss::default(), hiwater_rss: 0, group: None })
    }

    /// Tables that share all that these have. The caller invalidates its whole ASID, since stores
    /// that were allowed are not any more.
    pub fn fork(&mut self) -> Result<Self> {
        let root = copy_table(self.root, 0)?;
        let group = self.group.clone();
        Ok(Self { root, rss: self.rss, hiwater_rss: self.rss.total(), group })
    }

    /// Notes the peak; called where pages may have been added.
    #[inline]
    pub fn note_peak(&mut self) {
        self.hiwater_rss = self.hiwater_rss.max(self.rss.total());
    }

    /// The entry for `va` as the MMU sees it: with the rights that the entries above leave.
    #[inline]
    pub fn lookup(&self, va: VirtAddr) -> Pte {
        let (mut phys, mut read_only) = (self.root, false);
        for level in 0..LEAF {
            // SAFETY: reachable from the root, and the tables' lock is held.
            let pte = unsafe { table_at(phys) }[index(va, level)].load();
            if pte.is_empty() {
                return Pte::EMPTY;
            }
            read_only |= pte.is_table_read_only();
            phys = pte.phys();
        }
        // SAFETY: as above.
        let pte = unsafe { table_at(phys) }[index(va, LEAF)].load();
        if read_only && !pte.is_empty() { pte.read_only() } else { pte }
    }

    /// Makes the table behind `entry` (of `level`, on the way to `va`) exclusive.
    #[inline]
    fn own(entry: &AtomicPte, level: usize, asid: &Asid, va: VirtAddr) -> Result<PhysAddr> {
        let pte = entry.load();
        if !pte.is_table_read_only() {
            return Ok(pte.phys());
        }
        Self::unshare(entry, pte, level, asid, va)
    }

    #[cold]
    fn unshare(
        entry: &AtomicPte,
        pte: Pte,
        level: usize,
        asid: &Asid,
        va: VirtAddr,
    ) -> Result<PhysAddr> {
        let original = pte.phys();
        if page_of(original).refcount() == 1 {
            entry.store(pte.with_table_read_only(false));
            return Ok(original);
        }
        let copy = copy_table(original, level + 1)?;
        entry.store(Pte::EMPTY);
        tlb::flush_page(|| asid.get(), va);
        entry.store(Pte::table(copy));
        put_table(original, level + 1);
        Ok(copy)
    }

    /// The entry for `va`, ready to be changed; tables on the way are made and unshared.
    #[inline]
    pub fn leaf(&mut self, asid: &Asid, va: VirtAddr) -> Result<Leaf<'_>> {
        let mut phys = self.root;
        for level in 0..LEAF {
            let i = index(va, level);
            // SAFETY: reachable from the root, and the tables' lock is held.
            let entry = &unsafe { table_at(phys) }[i];
            phys = if entry.load().is_empty() {
                let table = new_table()?;
                Fill::add(phys, i);
                entry.store(Pte::table(table));
                table
            } else {
                Self::own(entry, level, asid, va)?
            };
        }
        Ok(Leaf { tables: self, table: phys, va })
    }

    /// Makes the tables that exist on the way to `va` exclusive, so that unmapping up to there cannot
    /// fail.
    fn own_path(&mut self, asid: &Asid, va: VirtAddr) -> Result<()> {
        let mut phys = self.root;
        for level in 0..LEAF {
            // SAFETY: reachable from the root, and the tables' lock is held.
            let entry = &unsafe { table_at(phys) }[index(va, level)];
            if entry.load().is_empty() {
                break;
            }
            phys = Self::own(entry, level, asid, va)?;
        }
        Ok(())
    }

    /// Unmaps `start..end`. Fails, before anything is unmapped, only if a table at the border is
    /// shared and there is no memory for its copy.
    pub fn unmap(&mut self, asid: &Asid, start: u64, end: u64) -> Result<()> {
        self.own_path(asid, VirtAddr(start))?;
        self.own_path(asid, VirtAddr(end - 1))?;
        let mut gather = Gather::new(asid);
        self.unmap_level(self.root, 0, 0, start, end, &mut gather);
        Ok(())
    }

    /// Unmaps below `table`, an exclusive table of `level` whose first address is `base`.
    fn unmap_level(
        &mut self,
        table: PhysAddr,
        level: usize,
        base: u64,
        start: u64,
        end: u64,
        gather: &mut Gather<'_>,
    ) {
        for (at, entry) in entries_in(table, level, base, start, end) {
            let pte = entry.load();
            if pte.is_empty() {
                continue;
            }
            if level == LEAF {
                self.rss.count(pte, -1);
                entry.store(Pte::EMPTY);
                Fill::remove(table);
                gather.leaf(at, pte);
                continue;
            }
            let (below, size) = (pte.phys(), level_size(level));
            if start <= at && at + size <= end {
                self.discount(below, level + 1);
                entry.store(Pte::EMPTY);
                Fill::remove(table);
                gather.full_table(at, size, below, level + 1);
                continue;
            }
            // A table at the border: exclusive, by `own_path`.
            self.unmap_level(below, level + 1, at, start, end, gather);
            if Fill::of(below).used == 0 {
                entry.store(Pte::EMPTY);
                Fill::remove(table);
                gather.empty_table(at, below, level + 1);
            }
        }
    }

    /// Takes the pages below a table, shared or not, off the counts.
    fn discount(&mut self, table: PhysAddr, level: usize) {
        for (_, entry) in entries(table) {
            let pte = entry.load();
            if pte.is_empty() {
                continue;
            }
            if level == LEAF {
                self.rss.count(pte, -1);
            } else {
                self.discount(pte.phys(), level + 1);
            }
        }
    }

    /// Lets `f` change the entries of all present pages in `start..end`: rights and software bits
    /// only. Invalidates the range afterwards.
    pub fn update(
        &mut self,
        asid: &Asid,
        start: u64,
        end: u64,
        mut f: impl FnMut(VirtAddr, Pte) -> Pte,
    ) -> Result<()> {
        let mut changed = false;
        let mut at = start;
        let mut result = Ok(());
        while let Some(va) = self.next_present(at, end) {
            match self.leaf(asid, va) {
                Ok(mut leaf) => {
                    let pte = leaf.load();
                    let new = f(va, pte);
                    if new != pte {
                        leaf.update(new);
                        changed = true;
                    }
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            at = va.0 + PAGE_SIZE as u64;
        }
        if changed {
            tlb::flush_range(|| asid.get(), VirtAddr(start), VirtAddr(end));
        }
        result
    }

    /// The first page at or after `start` that is present.
    pub fn next_present(&self, start: u64, end: u64) -> Option<VirtAddr> {
        Self::next_present_in(self.root, 0, 0, start, end)
    }

    fn next_present_in(
        table: PhysAddr,
        level: usize,
        base: u64,
        start: u64,
        end: u64,
    ) -> Option<VirtAddr> {
        for (at, entry) in entries_in(table, level, base, start, end) {
            let pte = entry.load();
            if pte.is_empty() {
                continue;
            }
            if level == LEAF {
                return Some(VirtAddr(at));
            }
            let found = Self::next_present_in(pte.phys(), level + 1, at, start, end);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Visits the present pages of `start..end` with the rights that the MMU sees.
    pub fn visit(&self, start: u64, end: u64, mut f: impl FnMut(VirtAddr, Pte)) {
        Self::visit_in(self.root, 0, 0, false, start..end, &mut f);
    }

    fn visit_in(
        table: PhysAddr,
        level: usize,
        base: u64,
        read_only: bool,
        range: Range<u64>,
        f: &mut impl FnMut(VirtAddr, Pte),
    ) {
        for (at, entry) in entries_in(table, level, base, range.start, range.end) {
            let pte = entry.load();
            if pte.is_empty() {
                continue;
            }
            if level == LEAF {
                f(VirtAddr(at), if read_only { pte.read_only() } else { pte });
            } else {
                let read_only = read_only || pte.is_table_read_only();
                Self::visit_in(pte.phys(), level + 1, at, read_only, range.clone(), f);
            }
        }
    }

    /// Visits the present pages of `start..end`, each with its address and the number of address spaces that share the
    /// entry.
    pub fn visit_shared(&self, start: u64, end: u64, mut f: impl FnMut(u64, Pte, u64)) {
        Self::visit_shared_in(self.root, 0, 0, 1, start..end, &mut f);
    }

    fn visit_shared_in(
        table: PhysAddr,
        level: usize,
        base: u64,
        sharers: u64,
        range: Range<u64>,
        f: &mut impl FnMut(u64, Pte, u64),
    ) {
        for (at, entry) in entries_in(table, level, base, range.start, range.end) {
            let pte = entry.load();
            if pte.is_empty() {
                continue;
            }
            if level == LEAF {
                f(at, pte, sharers);
            } else {
                let holders = u64::from(page_of(pte.phys()).refcount());
                let sharers = sharers.saturating_mul(holders.max(1));
                Self::visit_shared_in(pte.phys(), level + 1, at, sharers, range.clone(), f);
            }
        }
    }

    /// Makes the MMU see nothing any more, while the references stay: first half of the end.
    pub fn invalidate_all(&mut self) {
        for (_, entry) in entries(self.root) {
            let pte = entry.load();
            if !pte.is_empty() {
                entry.store(pte.to_prot_none());
            }
        }
    }

    /// Lets go of everything but the root, which becomes empty: second half of the end, after no CPU
    /// can translate through these tables any more. A table that others share costs one step.
    pub fn release_all(&mut self) {
        for (_, entry) in entries(self.root) {
            let pte = entry.swap(Pte::EMPTY);
            if !pte.is_empty() {
                put_table(pte.phys(), 1);
            }
        }
        Fill::EMPTY.store(self.root);
        self.rss = Rss::default();
    }

    /// How many table frames can be reached, shared ones included.
    pub fn count_tables(&self) -> usize {
        fn count(table: PhysAddr, level: usize) -> usize {
            if level == LEAF {
                return 1;
            }
            entries(table)
                .map(|(_, e)| e.load())
                .filter(|p| !p.is_empty())
                .map(|p| count(p.phys(), level + 1))
                .sum::<usize>()
                + 1
        }
        count(self.root, 0)
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        put_table(self.root, 0);
    }
}

#[cfg(test)]
impl Tables {
    /// Asserts what the module documentation promises, and the counts.
    pub fn check(&self) {
        let mut counted = Rss::default();
        self.visit(0, crate::addr::TASK_SIZE, |_, pte| counted.count(pte, 1));
        assert_eq!(counted, self.rss, "resident pages are counted");
        Self::check_table(self.root, 0, true);
    }

    /// `exclusive`: no entry above has the read-only mark.
    fn check_table(table: PhysAddr, level: usize, exclusive: bool) {
        assert!(!exclusive || page_of(table).refcount() == 1, "no mark, so nobody shares it");
        let fill = Fill::of(table);
        // SAFETY: reachable from the root.
        let entries = unsafe { table_at(table) };
        let mut used = 0;
        for (i, entry) in entries.iter().enumerate() {
            let pte = entry.load();
            if pte.is_empty() {
                continue;
            }
            used += 1;
            assert!(fill.groups >> (i / super::table::GROUP) & 1 == 1, "the group is marked");
            if level < LEAF {
                Self::check_table(pte.phys(), level + 1, exclusive && !pte.is_table_read_only());
            } else {
                let page = page_of(pte.phys());
                assert!(pte.is_special() || page.refcount() > 0);
                let may_store =
                    exclusive && pte.is_writable() && !pte.is_shared() && pte.is_valid();
                assert!(
                    !may_store || page.refcount() == 1,
                    "a private writable page is mapped once"
                );
            }
        }
        assert_eq!(used, fill.used, "entries are counted");
    }
}
