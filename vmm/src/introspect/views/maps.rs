//! `belljar maps`: the mappings of a process, and what each of them has in memory.
//!
//! What is resident is counted in the page tables, not taken from the kernel's counters. The kernel
//! shares page tables between processes after a fork, so a page is held by others too if its own
//! frame, or any table on the way to it, has more than one holder.

use std::ops::Range;

use serde::Serialize;

use super::super::{Error, Kernel, Object, Result, optional};
use super::frames::Frames;
use super::hex;
use super::process::Process;
use crate::render::{Column, Consistency, Kind, Schema, Shape};
use crate::target::walk::{Descriptor, ENTRIES, Meaning, span};
use crate::target::{PAGE_SIZE, Ram};

pub(super) static SCHEMA: Schema = Schema {
    name: "belljar.maps.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("start", "START", Kind::Hex),
        Column::new("end", "END", Kind::Hex),
        Column::new("perms", "PERM", Kind::Text),
        Column::new("offset", "OFFSET", Kind::Hex),
        Column::new("size", "SIZE", Kind::KiB),
        Column::new("rss", "RSS", Kind::KiB),
        Column::new("shared", "SHARED", Kind::KiB),
        Column::new("cow", "COW", Kind::KiB),
        Column::new("dev", "DEV", Kind::Int),
        Column::new("inode", "INODE", Kind::Int),
        Column::new("name", "NAME", Kind::Text),
    ],
};

#[derive(Serialize)]
pub(super) struct Mapping {
    start: String,
    end: String,
    /// As in proc_pid_maps(5): `rwxp`, `s` for shared.
    perms: String,
    /// Bytes into the file.
    offset: u64,
    size: u64,
    /// Bytes in memory.
    rss: u64,
    /// Of those, bytes that somebody else holds too and a write would change for all of them, or that
    /// belong to a file.
    shared: u64,
    /// Of those, bytes that somebody else holds too and a write would copy.
    cow: u64,
    /// Device and inode number of the file; 0 for anonymous memory.
    dev: u64,
    inode: u64,
    name: Option<String>,
}

/// Virtual and resident bytes by the kernel's own counters.
pub(super) fn sizes(mm: &Object<'_>) -> Result<(u64, u64)> {
    let mut rss = 0u64;
    for counter in ["tables.rss.anon", "tables.rss.file", "tables.rss.shmem"] {
        // The counters are signed in passing: a page may be taken off before its owner added it.
        let pages = optional(mm.int(counter))?.unwrap_or(0).max(0) as u64;
        rss = rss.saturating_add(pages.saturating_mul(PAGE_SIZE));
    }
    Ok((mm.uint("space.total_vm")?.saturating_mul(PAGE_SIZE), rss))
}

pub(super) fn rows(kernel: &Kernel<'_>, pid: u32) -> Result<Vec<Mapping>> {
    let process = Process::find(kernel, pid)?;
    let mm = process.mm()?.ok_or(Error::NoMm { pid })?;
    kernel.check_seq_of(&mm, "seq")?;
    let mut counter = Counter {
        ram: kernel.space().ram(),
        frames: Frames::new(kernel)?,
        tables_left: MAX_TABLES,
    };
    let pgd = mm.uint("tables.root")?;
    let mut rows = vec![];
    for vma in mm.array("space.vmas")? {
        let (start, end) = (vma.uint("start")?, vma.uint("end")?);
        let flags = vma.flags("flags")?;
        let has = |name: &str| flags.iter().any(|f| f == name);
        let letter = |name: &str, c: char| if has(name) { c } else { '-' };
        let shared = has("SHARED") || has("MAYSHARE");
        let file = vma.ptr("file")?;
        let of_file = |field: &str| file.as_ref().map_or(Ok(0), |file| file.uint(field));
        let mut found = Found::default();
        if start < end && counter.count(pgd, start..end, shared, &mut found).is_err() {
            kernel.degrade(Consistency::Torn);
        }
        rows.push(Mapping {
            start: hex(start),
            end: hex(end),
            perms: [
                letter("READ", 'r'),
                letter("WRITE", 'w'),
                letter("EXEC", 'x'),
                if shared { 's' } else { 'p' },
            ]
            .iter()
            .collect(),
            offset: vma.uint("pgoff")?.wrapping_mul(PAGE_SIZE),
            size: end.saturating_sub(start),
            rss: found.rss,
            shared: found.shared,
            cow: found.cow,
            dev: of_file("dev")?,
            inode: of_file("ino")?,
            name: name(&mm, file.as_ref(), start..end)?,
        });
    }
    Ok(rows)
}

/// The name as in proc_pid_maps(5): the file, or what the kernel put there.
fn name(mm: &Object<'_>, file: Option<&Object<'_>>, range: Range<u64>) -> Result<Option<String>> {
    if let Some(file) = file {
        let path = file.bytes("path")?;
        return Ok(Some(String::from_utf8_lossy(&path).into_owned()).filter(|p| !p.is_empty()));
    }
    let inside = |field: &str| -> Result<bool> {
        Ok(optional(mm.uint(field))?.is_some_and(|addr| addr != 0 && range.contains(&addr)))
    };
    if inside("space.start_brk")? {
        return Ok(Some("[heap]".into()));
    }
    Ok(inside("layout.start_stack")?.then(|| "[stack]".into()))
}

/// Most tables that one answer visits: as many as fill the largest guest's RAM with tables of a fork
/// bomb, and far fewer than a table that contains itself would lead to.
const MAX_TABLES: u32 = 1 << 20;

#[derive(Default)]
struct Found {
    rss: u64,
    shared: u64,
    cow: u64,
}

struct Counter<'k> {
    ram: &'k dyn Ram,
    frames: Frames<'k>,
    tables_left: u32,
}

impl Counter<'_> {
    /// Adds up what the tables at `pgd` map of `range`.
    fn count(
        &mut self,
        pgd: u64,
        range: Range<u64>,
        vma_shared: bool,
        to: &mut Found,
    ) -> Result<()> {
        self.table(pgd, 0, 0, &range, false, vma_shared, to)
    }

    /// One table, whose first entry maps `base`. `others`: somebody else uses it too.
    #[allow(clippy::too_many_arguments, reason = "the state of one recursion, at most four deep")]
    fn table(
        &mut self,
        table: u64,
        level: usize,
        base: u64,
        range: &Range<u64>,
        others: bool,
        vma_shared: bool,
        to: &mut Found,
    ) -> Result<()> {
        self.tables_left = self
            .tables_left
            .checked_sub(1)
            .ok_or_else(|| Error::Damaged { what: "a page table".into() })?;
        let mut entries = [0; PAGE_SIZE as usize];
        self.ram.read(table, &mut entries)?;
        let span = span(level);
        let first = range.start.saturating_sub(base) / span;
        let last = (range.end.saturating_sub(base)).div_ceil(span).min(ENTRIES);
        for index in first..last {
            let at = index as usize * 8;
            let raw = u64::from_le_bytes(entries[at..at + 8].try_into().expect("eight bytes"));
            let here = base + index * span;
            let descriptor = Descriptor { raw, level };
            match descriptor.meaning() {
                Meaning::Invalid => {
                    if let Some(phys) = descriptor.forbidden_page() {
                        self.leaf(phys, PAGE_SIZE, others, vma_shared, to);
                    }
                }
                Meaning::Table(next) => {
                    let others = others || self.frames.get(next).is_some_and(|f| f.refcount > 1);
                    self.table(next, level + 1, here, range, others, vma_shared, to)?;
                }
                Meaning::Leaf(phys) => {
                    let end = range.end.min(here.saturating_add(span));
                    let bytes = end.saturating_sub(range.start.max(here));
                    self.leaf(phys, bytes, others, vma_shared, to);
                }
            }
        }
        Ok(())
    }

    fn leaf(&self, phys: u64, bytes: u64, others: bool, vma_shared: bool, to: &mut Found) {
        let frame = self.frames.get(phys);
        let kind = frame.as_ref().and_then(|f| f.kind.as_deref());
        if kind == Some("Zero") {
            // Everybody's page of zeros is nobody's memory.
            return;
        }
        to.rss += bytes;
        if !(others || frame.as_ref().is_some_and(|f| f.refcount > 1)) {
            return;
        }
        if vma_shared || matches!(kind, Some("Cache" | "Shmem")) {
            to.shared += bytes;
        } else {
            to.cow += bytes;
        }
    }
}
