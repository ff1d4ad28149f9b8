//! What stands in RAM before the first instruction: kernel, initial RAM disk, device tree.
//!
//! The kernel stands 2 MiB above the start of RAM (plus what its header asks for), the device tree
//! at the very start, as when QEMU thaws a snapshot, the RAM disk where QEMU puts it: in the middle of RAM, but not above 128 MiB.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use belljar_abi::image::{HEADER_LEN, Header};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::fdt::{self, Board};
use super::{Error, arch};
use crate::backend::{Config, GuestMemory, Initrd, Start};
use crate::machine::{KERNEL_BASE, RAM_BASE};

/// Where the boot CPU starts (arm64 boot protocol: x0 is the device tree, all else does not matter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The kernel's first instruction.
    pub pc: u64,
    /// The device tree.
    pub fdt: u64,
}

/// What [`load`] has put into RAM.
#[derive(Debug)]
pub(super) struct Loaded<'a> {
    /// The kernel's first instruction.
    pc: u64,
    cmdline: &'a str,
    /// Where the RAM disk stands.
    initrd: Option<(u64, u64)>,
}

/// Fills RAM for `config` with all but the device tree.
pub(super) fn load<'a>(memory: &GuestMemory, config: &'a Config) -> Result<Loaded<'a>, Error> {
    match &config.start {
        Start::Boot(boot) => {
            let kernel = load_kernel(memory, &boot.kernel)?;
            let initrd = match &boot.initrd {
                None => None,
                Some(Initrd::Path(path)) => Some(&[open(path)?][..]),
                Some(Initrd::Files(files)) => Some(&files[..]),
            };
            let initrd = initrd
                .map(|files| load_initrd(memory, files, kernel.end, config.memory))
                .transpose()?;
            Ok(Loaded { pc: kernel.start, cmdline: &boot.cmdline, initrd })
        }
        Start::Thaw(thaw) => {
            let (address, note) = &thaw.note;
            memory
                .write_slice(note, GuestAddress(*address))
                .map_err(|e| Error::Host(std::io::Error::other(e)))?;
            // A kernel that goes on has read its command line.
            Ok(Loaded { pc: thaw.entry, cmdline: "", initrd: None })
        }
    }
}

impl Loaded<'_> {
    /// Adds the device tree; `virtio` are the transports that have a device.
    pub(super) fn describe(
        self,
        memory: &GuestMemory,
        config: &Config,
        virtio: &[u32],
    ) -> Result<Entry, Error> {
        load_device_tree(memory, config, self.cmdline, self.initrd, virtio)?;
        Ok(Entry { pc: self.pc, fdt: RAM_BASE })
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|cause| Error::Read { path: path.to_owned(), cause })
}

/// Copies the kernel; gives back where it stands, with the memory that it needs behind the file.
fn load_kernel(memory: &GuestMemory, path: &Path) -> Result<Range<u64>, Error> {
    let mut file = open(path)?;
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header).map_err(|cause| Error::Read { path: path.to_owned(), cause })?;
    let refused = |cause| Error::Kernel { path: path.to_owned(), cause };
    let header = Header::read(&header).map_err(|e| refused(e.to_string()))?;
    let loaded = arch::load_image(memory, &mut file, KERNEL_BASE).map_err(refused)?;
    Ok(loaded.start..loaded.end.max(loaded.start.saturating_add(header.image_size)))
}

/// Makes the device tree and copies it to the start of RAM.
fn load_device_tree(
    memory: &GuestMemory,
    config: &Config,
    cmdline: &str,
    initrd: Option<(u64, u64)>,
    virtio: &[u32],
) -> Result<(), Error> {
    let mut seed = [0; 40];
    getrandom::fill(&mut seed).map_err(|e| Error::Host(std::io::Error::other(e)))?;
    let (rng_seed, kaslr_seed) = seed.split_at(32);
    let board = Board {
        cpus: config.cpus,
        memory: config.memory,
        cmdline,
        initrd,
        rng_seed,
        kaslr_seed: kaslr_seed.try_into().map_or(0, u64::from_le_bytes),
        virtio,
    };
    let blob = fdt::build(&board).map_err(|e| Error::DeviceTree(e.to_string()))?;
    if blob.len() as u64 > KERNEL_BASE - RAM_BASE {
        return Err(Error::DeviceTree(format!("it takes {} bytes", blob.len())));
    }
    let short = |_| Error::DeviceTree("it does not fit into RAM".to_owned());
    memory.write_slice(&blob, GuestAddress(RAM_BASE)).map_err(short)
}

/// Copies the RAM disk, which is in `files`; gives back where it stands.
fn load_initrd(
    memory: &GuestMemory,
    files: &[File],
    kernel_end: u64,
    size: u64,
) -> Result<(u64, u64), Error> {
    const PAGE: u64 = 4096;
    const HIGHEST: u64 = 128 << 20;
    let start = (RAM_BASE + (size / 2).min(HIGHEST)).max(kernel_end.next_multiple_of(PAGE));
    let lengths = files.iter().map(|mut file| file.seek(SeekFrom::End(0)));
    let lengths: Vec<u64> = lengths.collect::<Result<_, _>>().map_err(Error::Host)?;
    let length = lengths.iter().sum();
    let short = || Error::Initrd { length, memory: size };
    let end = start.checked_add(length).filter(|end| *end <= RAM_BASE + size).ok_or_else(short)?;
    let mut to = start;
    for (file, length) in files.iter().zip(lengths) {
        copy_in(memory, file, to, length).map_err(Error::Host)?;
        to += length;
    }
    Ok((start, end))
}

/// Copies the first `length` bytes of `file` to `start`. Where RAM is a file, the host's kernel copies from file
/// to file: it need not map what this process does not touch.
fn copy_in(memory: &GuestMemory, mut file: &File, start: u64, length: u64) -> io::Result<()> {
    file.rewind()?;
    let region = memory.find_region(GuestAddress(start));
    let backing = region.and_then(|region| Some((region.file_offset()?, region.start_addr())));
    let copied = match backing {
        Some((backing, first)) => {
            let mut ram = backing.file();
            ram.seek(SeekFrom::Start(backing.start() + (start - first.raw_value())))?;
            io::copy(&mut file.take(length), &mut ram)?
        }
        None => {
            let count = usize::try_from(length).map_err(io::Error::other)?;
            let mut file = file.try_clone()?;
            let copied = memory.read_volatile_from(GuestAddress(start), &mut file, count);
            copied.map_err(io::Error::other)? as u64
        }
    };
    if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn memory(size: usize) -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(RAM_BASE), size)]).unwrap()
    }

    fn file(length: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![0x5a; length]).unwrap();
        file
    }

    #[test]
    fn initrd_stands_in_the_middle_but_behind_the_kernel() {
        let memory = memory(16 << 20);
        let half = RAM_BASE + (8 << 20);
        let low = load_initrd(&memory, &[file(3000), file(2000)], KERNEL_BASE, 16 << 20).unwrap();
        assert_eq!(low, (half, half + 5000));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(half + 4999)).unwrap(), 0x5a);
        let high = load_initrd(&memory, &[file(3000), file(2000)], half + 1, 16 << 20).unwrap();
        assert_eq!(high.0, half + 4096);
    }

    #[test]
    fn initrd_that_does_not_fit_is_refused() {
        let memory = memory(16 << 20);
        let error = load_initrd(&memory, &[file(9 << 20)], KERNEL_BASE, 16 << 20).unwrap_err();
        assert!(error.to_string().contains("--memory"), "{error}");
    }
}
