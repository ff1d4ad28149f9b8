//! RAM that a child process has mapped privately from a file: what it never wrote is the file's, what it
//! wrote is in its own memory. Both are read where the child has them, through /proc/PID/mem (proc(5));
//! nothing is copied, and processes that map the same file share what none of them wrote.
//!
//! The host lets a process look into its own children (ptrace(2), "Ptrace access mode checking"; Yama
//! allows it up to its mode 1).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::OnceLock;

use super::pagemap::{self, Pagemap};
use super::{Error, LiveRam, Ram};

/// The RAM of a child. It is found when it is first asked for: the child needs a while to map it.
#[derive(Debug)]
pub struct ProcessRam {
    memory: File,
    pagemap: Pagemap,
    maps: File,
    image: File,
    base: u64,
    len: u64,
    ino: u64,
    parts: OnceLock<Vec<Part>>,
}

/// A piece of the file that is mapped as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    /// Where in the file.
    offset: u64,
    len: u64,
    /// Where in the child's address space.
    addr: u64,
}

impl ProcessRam {
    /// The RAM from physical address `base` on, of the child `pid` that maps `image` as it. The child must have
    /// begun its program.
    pub fn open(pid: u32, image: File, base: u64) -> io::Result<Self> {
        let proc = |name| format!("/proc/{pid}/{name}");
        let memory = File::options().read(true).write(true).open(proc("mem"))?;
        let pagemap = Pagemap::open(&pid.to_string())?;
        let maps = File::open(proc("maps"))?;
        let meta = image.metadata()?;
        let (len, ino) = (meta.len(), meta.ino());
        Ok(Self { memory, pagemap, maps, image, base, len, ino, parts: OnceLock::new() })
    }

    fn parts(&self) -> io::Result<&[Part]> {
        if let Some(parts) = self.parts.get() {
            return Ok(parts);
        }
        let parts = mapped_parts(&text(&self.maps)?, self.ino);
        if parts.iter().map(|part| part.len).sum::<u64>() != self.len {
            return Err(io::Error::other("it has not mapped the memory file"));
        }
        Ok(self.parts.get_or_init(|| parts))
    }

    /// Calls `each` for what lies behind `len` bytes at `phys`: the place in the child, and which bytes.
    fn split(
        &self,
        phys: u64,
        len: usize,
        mut each: impl FnMut(u64, Range<usize>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let outside = Error::OutsideRam { phys, len };
        let start = phys.checked_sub(self.base).ok_or(outside.clone())?;
        let end = start.checked_add(len as u64).filter(|end| *end <= self.len).ok_or(outside)?;
        for part in self.parts().map_err(|e| Error::Io { phys, cause: e.to_string() })? {
            let from = part.offset.max(start);
            let to = (part.offset + part.len).min(end);
            if from < to {
                let bytes = (from - start) as usize..(to - start) as usize;
                each(part.addr + (from - part.offset), bytes)
                    .map_err(|e| Error::Io { phys, cause: e.to_string() })?;
            }
        }
        Ok(())
    }

    /// Ranges of the file whose pages the child has, rounded to pages.
    fn touched(&self) -> io::Result<Vec<Range<u64>>> {
        let mut ranges = vec![];
        for part in self.parts()? {
            self.pagemap.pages(part.addr, part.len, part.offset, &mut ranges)?;
        }
        Ok(ranges)
    }
}

/// The whole of a file of proc(5), which has no length. Reading at places needs no more system calls than reading
/// memory does.
fn text(file: &File) -> io::Result<String> {
    let mut bytes = vec![];
    let mut piece = [0; 8192];
    loop {
        match file.read_at(&mut piece, bytes.len() as u64)? {
            0 => return String::from_utf8(bytes).map_err(io::Error::other),
            len => bytes.extend_from_slice(&piece[..len]),
        }
    }
}

/// The private, writable mappings of the file with inode number `ino`, in the order of the file. (The
/// device is not compared: file systems of layers name another one there than in stat(2).)
fn mapped_parts(maps: &str, ino: u64) -> Vec<Part> {
    let mut parts: Vec<Part> = maps.lines().filter_map(|line| parse(line, ino)).collect();
    parts.sort_by_key(|part| part.offset);
    parts
}

/// `START-END PERMS OFFSET DEV INODE PATH`.
fn parse(line: &str, ino: u64) -> Option<Part> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let private = fields.next()?.starts_with("rw-p");
    let offset = hex(fields.next()?)?;
    let same = fields.nth(1)?.parse() == Ok(ino);
    (private && same && start < end).then_some(Part { offset, len: end - start, addr: start })
}

impl Ram for ProcessRam {
    fn ranges(&self) -> Vec<Range<u64>> {
        std::iter::once(self.base..self.base + self.len).collect()
    }

    fn read(&self, phys: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.split(phys, buf.len(), |at, bytes| self.memory.read_exact_at(&mut buf[bytes], at))
    }

    fn populated(&self) -> Vec<Range<u64>> {
        match self.touched() {
            Ok(touched) => pagemap::populated(touched, &self.image, self.base, self.len),
            Err(_) => self.ranges(),
        }
    }
}

impl LiveRam for ProcessRam {
    fn write(&self, phys: u64, bytes: &[u8]) -> Result<(), Error> {
        self.split(phys, bytes.len(), |at, part| self.memory.write_all_at(&bytes[part], at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::PAGE_SIZE;
    use std::io::Write;

    const BASE: u64 = 0x4000_0000;

    #[test]
    fn mappings_of_the_file_are_found_and_others_not() {
        let maps = "\
7f0000010000-7f0000020000 rw-p 00010000 fd:01 77                         /x/memory.img
7f0000000000-7f0000010000 rw-p 00000000 fd:01 77                         /x/memory.img
7f0000030000-7f0000040000 r--p 00000000 fd:01 77                         /x/memory.img
7f0000050000-7f0000060000 rw-p 00000000 00:00 0
garbage
";
        let part = |offset, addr| Part { offset, len: 0x10000, addr };
        assert_eq!(
            mapped_parts(maps, 77),
            [part(0, 0x7f00_0000_0000), part(0x10000, 0x7f00_0001_0000)]
        );
        assert_eq!(mapped_parts(maps, 78), []);
    }

    /// This process stands for the child: it may look into itself.
    #[test]
    fn private_changes_are_seen_and_the_file_stays_as_it_was() {
        const LEN: usize = 64 * PAGE_SIZE as usize;
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(LEN as u64).unwrap();
        file.write_all(b"from the file").unwrap();
        // SAFETY: nobody changes the file while it is mapped.
        let mut map = unsafe { memmap2::MmapOptions::new().map_copy(&file).unwrap() };
        map[0x5000..0x5003].copy_from_slice(b"own");
        let ram = ProcessRam::open(std::process::id(), file.try_clone().unwrap(), BASE).unwrap();
        let mut buf = [0; 4];
        ram.read(BASE + 5, &mut buf).unwrap();
        assert_eq!(&buf, b"the ");
        ram.read(BASE + 0x5000, &mut buf[..3]).unwrap();
        assert_eq!(&buf[..3], b"own");
        ram.write(BASE + 0x5fff, b"over").unwrap();
        assert_eq!((map[0x5fff], map[0x6000]), (b'o', b'v'));
        let mut stored = [9; 4];
        file.read_exact_at(&mut stored, 0x5fff).unwrap();
        assert_eq!(stored, [0; 4]);
        let populated = ram.populated();
        for page in [0, 0x5000, 0x6000] {
            assert!(populated.iter().any(|r| r.contains(&(BASE + page))), "{populated:x?}");
        }
        assert!(!populated.iter().any(|r| r.contains(&(BASE + 0x20000))), "{populated:x?}");
        assert!(ram.read(BASE + LEN as u64 - 2, &mut buf).is_err());
        assert!(ram.read(BASE - 1, &mut buf).is_err());
    }
}
