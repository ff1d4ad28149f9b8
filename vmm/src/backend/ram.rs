//! Guest RAM: a memory file that is mapped shared, which a fresh guest boots with, or a private mapping
//! of a snapshot's file.

use std::fs::File;

use rustix::fs::MemfdFlags;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

use super::{Error, GuestMemory};
use crate::machine::RAM_BASE;

/// An anonymous file in memory that children may inherit but do not by accident.
pub(super) fn memory_file(name: &str) -> std::io::Result<File> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Makes `file` `size` bytes long and maps it where the board has its RAM. Pages cost nothing until
/// the guest touches them.
pub(super) fn map(file: &File, size: u64) -> Result<GuestMemory, Error> {
    let failed = |cause: String| Error::Memory { size, cause };
    file.set_len(size).map_err(|e| failed(e.to_string()))?;
    let backing = FileOffset::new(file.try_clone().map_err(|e| failed(e.to_string()))?, 0);
    let length = usize::try_from(size).map_err(|e| failed(e.to_string()))?;
    let ranges = [(GuestAddress(RAM_BASE), length, Some(backing))];
    GuestMemory::from_ranges_with_files(ranges).map_err(|e| failed(e.to_string()))
}

/// Maps `file`, which is at least `size` bytes long, where the board has its RAM, as copy-on-write: the
/// file is read as the guest touches it, and never written.
pub(super) fn map_private(file: &File, size: u64) -> Result<GuestMemory, Error> {
    let failed = |cause: String| Error::Memory { size, cause };
    let stored = file.metadata().map_err(|e| failed(e.to_string()))?.len();
    if stored < size {
        // Behind the end of a file a mapping has no memory, and touching it is SIGBUS.
        return Err(failed(format!("the stored memory has only {} MiB", stored >> 20)));
    }
    let backing = FileOffset::new(file.try_clone().map_err(|e| failed(e.to_string()))?, 0);
    let length = usize::try_from(size).map_err(|e| failed(e.to_string()))?;
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    let region = MmapRegion::build(Some(backing), length, protection, flags)
        .map_err(|e| failed(e.to_string()))?;
    let region = GuestRegionMmap::new(region, GuestAddress(RAM_BASE))
        .ok_or_else(|| failed("it ends above the last address".to_owned()))?;
    GuestMemory::from_regions(vec![region]).map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn private_memory_shows_the_file_and_never_writes_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(b"frozen", 4096).unwrap();
        let memory = map_private(&file, 1 << 20).unwrap();
        let at = GuestAddress(RAM_BASE + 4096);
        let mut seen = [0; 6];
        memory.read_slice(&mut seen, at).unwrap();
        assert_eq!(&seen, b"frozen");
        memory.write_slice(b"thawed", at).unwrap();
        file.read_exact_at(&mut seen, 4096).unwrap();
        assert_eq!(&seen, b"frozen");
        assert!(map_private(&file, 2 << 20).is_err(), "the file is shorter");
    }
}
