//! Which parts of a sparse file hold data: what copies or checks memory skips the rest.

use std::fs::File;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::PAGE_SIZE;

/// The ranges of `len` bytes at `start` of `file` that are no holes, relative to `start`, rounded out to
/// pages and in ascending order. Where the file system cannot tell, or the file changes meanwhile, what
/// is not known to be a hole counts as data.
pub fn data_ranges(file: &File, start: u64, len: u64) -> Vec<Range<u64>> {
    let end = start.saturating_add(len);
    let mut ranges: Vec<Range<u64>> = vec![];
    let mut at = start;
    while at < end {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) if data < end => data.max(at),
            // ENXIO: no data behind this place (lseek(2)).
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => at,
        };
        let hole = seek(file, SeekFrom::Hole(data)).unwrap_or(end).clamp(data, end);
        // A file that shrinks under us has neither; the rest counts as data.
        let hole = if hole == data { end } else { hole };
        let from = (data - start) / PAGE_SIZE * PAGE_SIZE;
        let to = (hole - start).next_multiple_of(PAGE_SIZE).min(len);
        match ranges.last_mut() {
            Some(last) if last.end >= from => last.end = to,
            _ => ranges.push(from..to),
        }
        at = hole;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn data_ranges_find_the_written_pages() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(data_ranges(&file, 0, 1 << 20), []);
        file.write_all_at(&[1], 0x2_0000).unwrap();
        file.write_all_at(&[1], 0xf_ffff).unwrap();
        let found = data_ranges(&file, 0, 1 << 20);
        // File systems may keep larger blocks than pages, never smaller ones here.
        for page in [0x2_0000, 0xf_f000] {
            assert!(found.iter().any(|r| r.contains(&page)), "{found:?}");
        }
        assert!(!found.iter().any(|r| r.contains(&0x8_0000)), "{found:?}");
        assert_eq!(data_ranges(&file, 0xf_f000, 0x1000).first(), Some(&(0..0x1000)));
    }
}
