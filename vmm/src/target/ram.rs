//! Where physical memory comes from: a live machine's mapped RAM, a file that holds RAM byte for byte
//! (a snapshot's `memory.img`), bytes of a test.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

use super::pagemap::{self, Pagemap};
use super::{Error, LiveRam, Ram, data_ranges};

/// A machine's RAM while the machine is there. The guest may write meanwhile unless it is paused:
/// every access is volatile, and what it returns is a value, never a reference into the guest.
impl Ram for GuestMemoryMmap<()> {
    fn ranges(&self) -> Vec<Range<u64>> {
        self.iter().map(|r| r.start_addr().0..r.start_addr().0 + r.len()).collect()
    }

    fn read(&self, phys: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.read_slice(buf, GuestAddress(phys))
            .map_err(|_| Error::OutsideRam { phys, len: buf.len() })
    }

    fn populated(&self) -> Vec<Range<u64>> {
        self.iter().flat_map(populated_region).collect()
    }
}

/// Where a mapped region can hold anything but zeros. The file behind it tells, if what is written to
/// the mapping goes to the file.
fn populated_region(region: &GuestRegionMmap<()>) -> Vec<Range<u64>> {
    let start = region.start_addr().0;
    let all = start..start + region.len();
    let Some(backing) = region.file_offset() else { return vec![all] };
    if region.flags() & libc::MAP_SHARED == 0 {
        return vec![all];
    }
    data_ranges(backing.file(), backing.start(), region.len())
        .into_iter()
        .map(|r| start + r.start..start + r.end)
        .collect()
}

impl LiveRam for GuestMemoryMmap<()> {
    fn write(&self, phys: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write_slice(bytes, GuestAddress(phys))
            .map_err(|_| Error::OutsideRam { phys, len: bytes.len() })
    }
}

/// RAM that this process has mapped privately from the start of a file: what was never written is the file's.
#[derive(Debug)]
pub struct PrivateRam {
    memory: Arc<GuestMemoryMmap<()>>,
    pagemap: Pagemap,
}

impl PrivateRam {
    /// `memory` as such RAM. Opens what it needs: threads that use it may open nothing.
    pub fn new(memory: Arc<GuestMemoryMmap<()>>) -> std::io::Result<Self> {
        Ok(Self { memory, pagemap: Pagemap::open("self")? })
    }
}

impl Ram for PrivateRam {
    fn ranges(&self) -> Vec<Range<u64>> {
        self.memory.ranges()
    }

    fn read(&self, phys: u64, buf: &mut [u8]) -> Result<(), Error> {
        Ram::read(&*self.memory, phys, buf)
    }

    fn populated(&self) -> Vec<Range<u64>> {
        let of_region = |region: &GuestRegionMmap<()>| {
            let (base, len) = (region.start_addr().0, region.len());
            let mut touched = vec![];
            let known = self.pagemap.pages(region.as_ptr() as u64, len, 0, &mut touched);
            let all = base..base + len;
            match region.file_offset().filter(|_| known.is_ok()) {
                Some(image) => pagemap::populated(touched, image.file(), base, len),
                None => vec![all],
            }
        };
        self.memory.iter().flat_map(of_region).collect()
    }
}

impl LiveRam for PrivateRam {
    fn write(&self, phys: u64, bytes: &[u8]) -> Result<(), Error> {
        LiveRam::write(&*self.memory, phys, bytes)
    }
}

/// A file that holds RAM byte for byte from one physical address on.
#[derive(Debug)]
pub struct RawRam {
    file: File,
    base: u64,
    len: u64,
}

impl RawRam {
    /// Takes `file` as the RAM from physical address `base` on.
    pub fn new(file: File, base: u64) -> std::io::Result<Self> {
        let len = file.metadata()?.len().min(u64::MAX - base);
        Ok(Self { file, base, len })
    }
}

impl Ram for RawRam {
    fn ranges(&self) -> Vec<Range<u64>> {
        std::iter::once(self.base..self.base + self.len).collect()
    }

    fn read(&self, phys: u64, buf: &mut [u8]) -> Result<(), Error> {
        let offset = offset_in(self.base, self.len, phys, buf.len())?;
        self.file.read_exact_at(buf, offset).map_err(|e| Error::Io { phys, cause: e.to_string() })
    }

    fn populated(&self) -> Vec<Range<u64>> {
        data_ranges(&self.file, 0, self.len)
            .into_iter()
            .map(|r| self.base + r.start..self.base + r.end)
            .collect()
    }
}

/// RAM in this process's own memory.
#[derive(Clone, Copy, Debug)]
pub struct SliceRam<'a> {
    /// The first physical address.
    pub base: u64,
    /// The bytes from there on.
    pub bytes: &'a [u8],
}

impl Ram for SliceRam<'_> {
    fn ranges(&self) -> Vec<Range<u64>> {
        std::iter::once(self.base..self.base.saturating_add(self.bytes.len() as u64)).collect()
    }

    fn read(&self, phys: u64, buf: &mut [u8]) -> Result<(), Error> {
        let at = offset_in(self.base, self.bytes.len() as u64, phys, buf.len())? as usize;
        buf.copy_from_slice(&self.bytes[at..at + buf.len()]);
        Ok(())
    }
}

/// The offset of `len` bytes at `phys` in a region, or the error that it is not inside.
fn offset_in(base: u64, size: u64, phys: u64, len: usize) -> Result<u64, Error> {
    phys.checked_sub(base)
        .filter(|offset| offset.checked_add(len as u64).is_some_and(|end| end <= size))
        .ok_or(Error::OutsideRam { phys, len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn read_at_the_edges_of_ram() {
        let ram = SliceRam { base: 0x1000, bytes: &[7; 16] };
        let mut buf = [0; 8];
        assert_eq!(ram.read(0x1008, &mut buf), Ok(()));
        assert_eq!(buf, [7; 8]);
        for phys in [0, 0xfff, 0x1009, 0x1010, u64::MAX, u64::MAX - 3] {
            assert_eq!(ram.read(phys, &mut buf), Err(Error::OutsideRam { phys, len: 8 }));
        }
    }

    #[test]
    fn private_ram_is_populated_where_the_file_has_data_or_it_was_written() {
        const LEN: usize = 64 * super::super::PAGE_SIZE as usize;
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(LEN as u64).unwrap();
        file.write_all(b"from the file").unwrap();
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        let backing = Some(vm_memory::FileOffset::new(file, 0));
        let region = vm_memory::MmapRegion::build(backing, LEN, protection, flags).unwrap();
        let base = 0x4000_0000;
        let region = GuestRegionMmap::new(region, GuestAddress(base)).unwrap();
        let memory = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        let ram = PrivateRam::new(Arc::new(memory)).unwrap();
        ram.write(base + 0x5000, b"own").unwrap();
        let populated = ram.populated();
        for page in [0, 0x5000] {
            assert!(populated.iter().any(|r| r.contains(&(base + page))), "{populated:x?}");
        }
        assert!(!populated.iter().any(|r| r.contains(&(base + 0x20000))), "{populated:x?}");
    }

    #[test]
    fn raw_file_and_mapped_memory_read_the_same() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1, 2, 3, 4]).unwrap();
        let raw = RawRam::new(file, 0x4000_0000).unwrap();
        let map = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0x4000_0000), 4096)]).unwrap();
        map.write_slice(&[1, 2, 3, 4], GuestAddress(0x4000_0000)).unwrap();
        for ram in [&raw as &dyn Ram, &map] {
            let mut buf = [0; 2];
            ram.read(0x4000_0001, &mut buf).unwrap();
            assert_eq!(buf, [2, 3]);
            assert!(ram.read(0x3fff_ffff, &mut buf).is_err());
        }
        assert!(raw.read(0x4000_0003, &mut [0; 2]).is_err());
    }
}
