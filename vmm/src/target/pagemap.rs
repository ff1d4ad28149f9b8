//! Which pages of a private mapping a process has: beside the file's own data, all that can hold anything.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::PAGE_SIZE;
use super::holes::data_ranges;

/// A process's page tables as it shows them (proc(5), /proc/PID/pagemap).
#[derive(Debug)]
pub(super) struct Pagemap(File);

impl Pagemap {
    /// That of the process `pid`, a number or `self`.
    pub(super) fn open(pid: &str) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/pagemap")).map(Self)
    }

    /// Appends the ranges of `len` bytes at `addr` whose pages the process has, as offsets from `addr` on
    /// which `offset` stands.
    pub(super) fn pages(
        &self,
        addr: u64,
        len: u64,
        offset: u64,
        ranges: &mut Vec<Range<u64>>,
    ) -> io::Result<()> {
        /// Bits of an entry: the page is in memory, or swapped out.
        const THERE: u64 = 1 << 63 | 1 << 62;
        const ENTRIES: u64 = 64 << 10;
        let pages = len / PAGE_SIZE;
        let mut buffer = vec![0; pages.min(ENTRIES) as usize * 8];
        for first in (0..pages).step_by(ENTRIES as usize) {
            let bytes = &mut buffer[..(pages - first).min(ENTRIES) as usize * 8];
            self.0.read_exact_at(bytes, (addr / PAGE_SIZE + first) * 8)?;
            for (page, entry) in (first..).zip(bytes.chunks_exact(8)) {
                let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
                if entry & THERE != 0 {
                    let start = offset + page * PAGE_SIZE;
                    push(ranges, start..start + PAGE_SIZE);
                }
            }
        }
        Ok(())
    }
}

/// The parts of RAM at `base` that can hold anything: `touched` of the mapping, and what the file `image`
/// behind it has.
pub(super) fn populated(
    mut touched: Vec<Range<u64>>,
    image: &File,
    base: u64,
    len: u64,
) -> Vec<Range<u64>> {
    touched.extend(data_ranges(image, 0, len));
    touched.sort_by_key(|range| range.start);
    let mut joined = vec![];
    for range in touched {
        push(&mut joined, range);
    }
    joined.into_iter().map(|range| base + range.start..base + range.end).collect()
}

/// Appends a range, or lengthens the last one.
fn push(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}
