//! /proc/PID/smaps and smaps_rollup: what each mapping has in memory, and with how many it shares that.
//!
//! Address spaces share translation tables after a fork, so who maps a page is counted in two places: the entries that
//! map it in the page's record, and the holders of the tables on the way to an entry in those tables' records. Of the
//! way that is walked both are known; other entries of the page are taken to stand in tables of one address space each.

use super::memory::{NAME_COLUMN, map_line};
use crate::addr::PAGE_SIZE;
use crate::errno::Result;
use crate::mm::frame::page_of;
use crate::mm::vma::{VmFlags, Vma};
use crate::mm::{Mm, PageKind};
use crate::procfs::text::Text;
use crate::put;

/// A share of a page is counted in so small parts, as Linux does: sums of rounded shares stay near the truth.
const SHARE: u64 = 1 << 12;
const PAGE: u64 = PAGE_SIZE as u64;

/// What mappings have in memory, in bytes; shares in bytes times [`SHARE`].
#[derive(Clone, Copy, Default)]
struct Resident {
    rss: u64,
    share: u64,
    share_dirty: u64,
    share_anon: u64,
    share_file: u64,
    share_shmem: u64,
    share_locked: u64,
    shared_clean: u64,
    shared_dirty: u64,
    private_clean: u64,
    private_dirty: u64,
    anonymous: u64,
}

impl Resident {
    /// Adds what a mapping has.
    fn add(&mut self, mm: &Mm, vma: &Vma) {
        let before = self.share;
        mm.tables.lock().visit_shared(vma.start, vma.end, |_, pte, sharers| {
            // The page of zeros is nobody's.
            if pte.is_special() {
                return;
            }
            let page = page_of(pte.phys());
            let kind = page.kind();
            // A page of a file is held by the file, too.
            let entries = match kind {
                PageKind::Anon => page.refcount(),
                _ => page.refcount().saturating_sub(1),
            };
            let holders = u64::from(entries.saturating_sub(1)) + sharers;
            let dirty = pte.is_dirty() || kind != PageKind::Cache;
            let share = PAGE * SHARE / holders.max(1);
            self.rss += PAGE;
            self.share += share;
            match kind {
                PageKind::Anon => {
                    self.anonymous += PAGE;
                    self.share_anon += share;
                }
                PageKind::Shmem => self.share_shmem += share,
                _ => self.share_file += share,
            }
            if dirty {
                self.share_dirty += share;
            }
            *match (holders > 1, dirty) {
                (true, true) => &mut self.shared_dirty,
                (true, false) => &mut self.shared_clean,
                (false, true) => &mut self.private_dirty,
                (false, false) => &mut self.private_clean,
            } += PAGE;
        });
        if vma.flags.contains(VmFlags::LOCKED) {
            self.share_locked += self.share - before;
        }
    }

    /// The lines; the sums of all mappings have three more.
    fn show(&self, out: &mut Text, is_sum: bool) -> Result<()> {
        line(out, "Rss", self.rss)?;
        line(out, "Pss", self.share / SHARE)?;
        line(out, "Pss_Dirty", self.share_dirty / SHARE)?;
        if is_sum {
            line(out, "Pss_Anon", self.share_anon / SHARE)?;
            line(out, "Pss_File", self.share_file / SHARE)?;
            line(out, "Pss_Shmem", self.share_shmem / SHARE)?;
        }
        line(out, "Shared_Clean", self.shared_clean)?;
        line(out, "Shared_Dirty", self.shared_dirty)?;
        line(out, "Private_Clean", self.private_clean)?;
        line(out, "Private_Dirty", self.private_dirty)?;
        // Who looked at a page last is not recorded.
        line(out, "Referenced", self.rss)?;
        line(out, "Anonymous", self.anonymous)?;
        // There are neither huge pages nor swap, and what is not needed is given back at once.
        for title in [
            "LazyFree",
            "AnonHugePages",
            "ShmemPmdMapped",
            "FilePmdMapped",
            "Shared_Hugetlb",
            "Private_Hugetlb",
            "Swap",
            "SwapPss",
        ] {
            line(out, title, 0)?;
        }
        line(out, "Locked", self.share_locked / SHARE)
    }
}

/// One line: a number of bytes, in KiB.
fn line(out: &mut Text, title: &str, bytes: u64) -> Result<()> {
    let pad = 15_usize.saturating_sub(title.len());
    put!(out, "{title}:{:pad$}{:8} kB\n", "", bytes / 1024)
}

/// The flags that a mapping may have, by the names that Linux gives them.
const FLAGS: [(VmFlags, &str); 19] = [
    (VmFlags::READ, "rd"),
    (VmFlags::WRITE, "wr"),
    (VmFlags::EXEC, "ex"),
    (VmFlags::SHARED, "sh"),
    (VmFlags::MAYREAD, "mr"),
    (VmFlags::MAYWRITE, "mw"),
    (VmFlags::MAYEXEC, "me"),
    (VmFlags::MAYSHARE, "ms"),
    (VmFlags::GROWSDOWN, "gd"),
    (VmFlags::LOCKED, "lo"),
    (VmFlags::SEQ_READ, "sr"),
    (VmFlags::RAND_READ, "rr"),
    (VmFlags::DONTCOPY, "dc"),
    (VmFlags::DONTEXPAND, "de"),
    (VmFlags::LOCKONFAULT, "lf"),
    (VmFlags::ACCOUNT, "ac"),
    (VmFlags::NORESERVE, "nr"),
    (VmFlags::WIPEONFORK, "wf"),
    (VmFlags::DONTDUMP, "dd"),
];

/// /proc/PID/smaps, of one mapping.
pub(super) fn smaps(mm: &Mm, vma: &Vma, name: &[u8], out: &mut Text) -> Result<()> {
    map_line(out, vma, name)?;
    line(out, "Size", vma.end - vma.start)?;
    line(out, "KernelPageSize", PAGE)?;
    line(out, "MMUPageSize", PAGE)?;
    let mut resident = Resident::default();
    resident.add(mm, vma);
    resident.show(out, false)?;
    out.bytes(b"THPeligible:           0\nVmFlags: ")?;
    for (_, name) in FLAGS.iter().filter(|(flag, _)| vma.flags.contains(*flag)) {
        put!(out, "{name} ")?;
    }
    out.bytes(b"\n")
}

/// /proc/PID/smaps_rollup: the sums of what smaps shows.
pub(super) fn smaps_rollup(mm: &Mm, out: &mut Text) -> Result<()> {
    let space = mm.space.read();
    let start = space.vmas.first().map_or(0, |vma| vma.start);
    let end = space.vmas.last().map_or(0, |vma| vma.end);
    let at = out.len();
    put!(out, "{start:08x}-{end:08x} ---p 00000000 00:00 0 ")?;
    out.pad_to(at, NAME_COLUMN)?;
    out.bytes(b"[rollup]\n")?;
    let mut resident = Resident::default();
    for vma in &*space.vmas {
        resident.add(mm, vma);
    }
    resident.show(out, true)
}
