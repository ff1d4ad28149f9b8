//! /proc/meminfo and /proc/vmstat.

use super::text::Text;
use crate::addr::PAGE_SIZE;
use crate::errno::Result;
use crate::fs::SuperBlock;
use crate::mm::frame::{self, PageKind};
use crate::mm::heap::{KERNEL_HEAP, Usage};
use crate::put;

/// Pages as kB.
const fn kb(pages: usize) -> usize {
    pages * (PAGE_SIZE / 1024)
}

/// /proc/meminfo.
pub fn meminfo(_: &SuperBlock, out: &mut Text) -> Result<()> {
    let of = frame::frames_of;
    let cached = of(PageKind::Cache) + of(PageKind::Shmem);
    let (anon, shmem) = (of(PageKind::Anon), of(PageKind::Shmem));
    let total = frame::total_frames();
    let free = frame::free_frames();
    let available = frame::available_frames() + of(PageKind::Cache);
    let rows = [
        ("MemTotal", kb(total)),
        ("MemFree", kb(free)),
        ("MemAvailable", kb(available)),
        ("Buffers", 0),
        ("Cached", kb(cached)),
        ("SwapCached", 0),
        ("Active", kb(anon + cached)),
        ("Inactive", 0),
        ("Active(anon)", kb(anon + shmem)),
        ("Inactive(anon)", 0),
        ("Active(file)", kb(of(PageKind::Cache))),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", kb(anon)),
        ("Mapped", kb(of(PageKind::Cache))),
        ("Shmem", kb(shmem)),
        ("KReclaimable", 0),
        ("Slab", kb(of(PageKind::Slab))),
        ("SReclaimable", 0),
        ("SUnreclaim", kb(of(PageKind::Slab))),
        ("KernelStack", kb(of(PageKind::Stack))),
        ("PageTables", kb(of(PageKind::Table))),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", kb(total / 2)),
        ("Committed_AS", kb(anon + shmem)),
        ("VmallocTotal", 0),
        ("VmallocUsed", kb(of(PageKind::Stack))),
        ("VmallocChunk", 0),
        ("Percpu", 0),
    ];
    for (name, value) in rows {
        let name = Label(name);
        put!(out, "{name}{value:8} kB\n")?;
    }
    Ok(())
}

/// `Name:` in a column of sixteen.
struct Label(&'static str);

impl core::fmt::Display for Label {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let pad = 15_usize.saturating_sub(self.0.len());
        write!(f, "{}:{:pad$}", self.0, "")
    }
}

/// /proc/vmstat: the counts that this kernel keeps.
pub fn vmstat(_: &SuperBlock, out: &mut Text) -> Result<()> {
    let of = frame::frames_of;
    let rows = [
        ("nr_free_pages", frame::free_frames()),
        ("nr_anon_pages", of(PageKind::Anon)),
        ("nr_file_pages", of(PageKind::Cache) + of(PageKind::Shmem)),
        ("nr_shmem", of(PageKind::Shmem)),
        ("nr_page_table_pages", of(PageKind::Table)),
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", 0),
        ("pswpout", 0),
    ];
    for (name, value) in rows {
        put!(out, "{name} {value}\n")?;
    }
    Ok(())
}

/// /proc/slabinfo (slabinfo(5)): the sizes of objects that the kernel's heap has, and how many of each are in use.
pub fn slabinfo(_: &SuperBlock, out: &mut Text) -> Result<()> {
    out.bytes(b"slabinfo - version: 2.1\n")?;
    out.bytes(b"# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>")?;
    out.bytes(b" : tunables <limit> <batchcount> <sharedfactor>")?;
    out.bytes(b" : slabdata <active_slabs> <num_slabs> <sharedavail>\n")?;
    for Usage { size, objects, frames } in KERNEL_HEAP.usage() {
        let mut name = Text::new();
        put!(name, "kmalloc-{size}")?;
        name.pad_to(0, 17)?;
        out.bytes(name.as_bytes())?;
        let each = PAGE_SIZE / size;
        put!(out, " {objects:6} {:6} {size:6} {each:4} {:4}", frames * each, 1)?;
        put!(out, " : tunables    0    0    0 : slabdata {frames:6} {frames:6}      0\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fill_the_column_that_parsers_expect() {
        let line = |name, value: usize| format!("{}{value:8} kB", Label(name));
        assert_eq!(line("MemTotal", 1_994_280), "MemTotal:        1994280 kB");
        assert_eq!(line("Inactive(anon)", 28), "Inactive(anon):       28 kB");
    }
}
