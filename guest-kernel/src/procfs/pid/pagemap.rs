//! /proc/PID/pagemap: of each page of an address space one word, which says whether it is present, what kind it is and
//! which frame it has (Linux, Documentation/admin-guide/mm/pagemap.rst).

use crate::addr::{PAGE_SHIFT, PAGE_SIZE, TASK_SIZE};
use crate::arch::paging::Pte;
use crate::errno::{Errno, Result};
use crate::fs::{File, FileOps, UserBuf, Whence};
use crate::kref::Ref;
use crate::mm::frame::page_of;
use crate::mm::{Mm, PageKind};

/// Bytes of a page's word.
const WORD: usize = size_of::<u64>();
/// Words of one look at the tables.
const CHUNK: usize = 64;

/// The bits of the frame's number.
const FRAME: u64 = (1 << 55) - 1;
/// Nobody else maps the page.
const EXCLUSIVE: u64 = 1 << 56;
/// A page of a file or of shared anonymous memory.
const FILE: u64 = 1 << 61;
/// In memory.
const PRESENT: u64 = 1 << 63;

/// The file, open.
pub(super) struct PageMap {
    /// See [`pinned`](super::memory::pinned).
    pub(super) mm: Option<Ref<Mm>>,
    /// Whoever opened it may know where in the machine's memory pages are.
    pub(super) shows_frames: bool,
}

impl PageMap {
    /// The word of a page that is present, in tables of so many address spaces.
    fn word(&self, pte: Pte, sharers: u64) -> u64 {
        let frame = if self.shows_frames { pte.phys().0 >> PAGE_SHIFT & FRAME } else { 0 };
        // The page of zeros is nobody's.
        if pte.is_special() {
            return PRESENT | frame;
        }
        let page = page_of(pte.phys());
        let file = page.kind() != PageKind::Anon;
        // A page of a file is held by the file, too.
        let entries = page.refcount().saturating_sub(u32::from(file));
        let exclusive = entries <= 1 && sharers == 1;
        let bit = |is: bool, bit: u64| if is { bit } else { 0 };
        PRESENT | frame | bit(file, FILE) | bit(exclusive, EXCLUSIVE)
    }

    /// The words of the pages from `start` on.
    fn words(&self, mm: &Mm, start: u64, words: &mut [u64]) {
        words.fill(0);
        let end = start + (words.len() * PAGE_SIZE) as u64;
        mm.tables.lock().visit_shared(start, end, |at, pte, sharers| {
            words[((at - start) >> PAGE_SHIFT) as usize] = self.word(pte, sharers);
        });
    }
}

impl FileOps for PageMap {
    fn read(&self, _file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        let Some(mm) = &self.mm else { return Ok(0) };
        if !pos.is_multiple_of(WORD as u64) || !buf.remaining().is_multiple_of(WORD) {
            return Err(Errno::EINVAL);
        }
        let copied = mm.visit(|mm| {
            let mut done = 0;
            let mut words = [0; CHUNK];
            while !buf.is_empty() {
                let first = (*pos + done as u64) / WORD as u64;
                let left = (TASK_SIZE >> PAGE_SHIFT).saturating_sub(first);
                let count = left.min((buf.remaining() / WORD) as u64).min(CHUNK as u64) as usize;
                if count == 0 {
                    break;
                }
                let words = &mut words[..count];
                self.words(mm, first << PAGE_SHIFT, words);
                for word in words {
                    match buf.put(&word.to_le_bytes()) {
                        Ok(n) => done += n,
                        Err(error) if done == 0 => return Err(error),
                        Err(_) => return Ok(done),
                    }
                }
            }
            Ok(done)
        });
        // Without users there is no memory left to look at.
        let done = copied.unwrap_or(Ok(0))?;
        *pos += done as u64;
        Ok(done)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        super::memory::seek(file, offset, whence)
    }
}
