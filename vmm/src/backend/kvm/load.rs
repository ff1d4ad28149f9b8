//! What stands in RAM before the first instruction: kernel, initial RAM disk, device tree.
//!
//! The kernel stands 2 MiB above the start of RAM (plus what its header asks for), the device tree
//! at the very start, as when QEMU thaws a snapshot, the RAM disk where QEMU puts it: in the middle of RAM, but not above 128 MiB.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use belljar_abi::image::{HEADER_LEN, Header};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::fdt::{self, Board};
use super::gate::Gate;
use super::{Error, arch};
use crate::backend::{Config, GuestMemory, Initrd, Start};
use crate::machine::{KERNEL_BASE, RAM_BASE};
use crate::random;

/// Where the boot CPU starts (arm64 boot protocol: x0 is the device tree, all else does not matter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The kernel's first instruction.
    pub pc: u64,
    /// The device tree.
    pub fdt: u64,
}

/// Where everything stands in RAM.
#[derive(Debug)]
pub(super) struct Layout {
    /// The kernel's first instruction.
    pc: u64,
    /// The RAM disk.
    initrd: Option<(u64, u64)>,
}

/// The files that RAM begins with, which take a while to copy.
#[derive(Debug)]
pub(super) struct Files {
    kernel: Kernel,
    /// The parts of the RAM disk.
    initrd: Vec<Part>,
}

/// A kernel to copy.
#[derive(Debug)]
struct Kernel {
    path: PathBuf,
    file: File,
    /// What it takes of RAM, with the memory that it needs behind the file.
    span: Range<u64>,
}

/// A file to copy.
#[derive(Debug)]
struct Part {
    file: File,
    length: u64,
    to: u64,
}

/// Decides where everything of `config` stands; memory that was stored has it already.
pub(super) fn lay_out(
    memory: &GuestMemory,
    config: &Config,
) -> Result<(Layout, Option<Files>), Error> {
    match &config.start {
        Start::Boot(boot) => {
            let kernel = Kernel::open(&boot.kernel)?;
            let files = match &boot.initrd {
                None => None,
                Some(Initrd::Path(path)) => Some(vec![open(path)?]),
                Some(Initrd::Files(files)) => {
                    let files = files.iter().map(File::try_clone).collect::<io::Result<_>>();
                    Some(files.map_err(Error::Host)?)
                }
            };
            let placed = files
                .map(|files| place_initrd(files, kernel.span.end, config.memory))
                .transpose()?;
            let (initrd, parts) = placed.unzip();
            let layout = Layout { pc: kernel.span.start, initrd };
            Ok((layout, Some(Files { kernel, initrd: parts.unwrap_or_default() })))
        }
        Start::Thaw(thaw) => {
            let (address, note) = &thaw.note;
            memory
                .write_slice(note, GuestAddress(*address))
                .map_err(|e| Error::Host(std::io::Error::other(e)))?;
            Ok((Layout { pc: thaw.entry, initrd: None }, None))
        }
    }
}

impl Layout {
    /// Adds the device tree; `virtio` are the transports that have a device.
    pub(super) fn describe(
        self,
        memory: &GuestMemory,
        config: &Config,
        virtio: &[u32],
    ) -> Result<Entry, Error> {
        let cmdline = match &config.start {
            Start::Boot(boot) => &boot.cmdline,
            // A kernel that goes on has read its command line.
            Start::Thaw(_) => "",
        };
        load_device_tree(memory, config, cmdline, self.initrd, virtio)?;
        Ok(Entry { pc: self.pc, fdt: RAM_BASE })
    }
}

impl Files {
    /// Copies all of them.
    fn copy(self, memory: &GuestMemory) -> Result<(), Error> {
        self.kernel.copy(memory)?;
        self.initrd.iter().try_for_each(|part| part.copy(memory)).map_err(Error::Host)
    }
}

/// What the thread that copies says when it is done, until somebody has waited for it.
pub(super) struct Loading(Mutex<Option<Receiver<Result<(), Error>>>>);

impl Loading {
    /// Copies nothing yet: the function that is returned does, and says so here.
    pub(super) fn new(
        files: Option<Files>,
        memory: &Arc<GuestMemory>,
    ) -> (Self, impl FnOnce() + Send + use<>) {
        let (say, done) = sync_channel(1);
        let memory = Arc::clone(memory);
        let copy = move || {
            let copied = files.map_or(Ok(()), |files| files.copy(&memory));
            // A machine that is given up waits for nothing.
            let _ = say.send(copied);
        };
        (Self(Mutex::new(Some(done))), copy)
    }

    /// Waits until RAM is filled. If it cannot be, who asks first is told why, and `gate` never opens.
    pub(super) fn finish(&self, gate: &Gate) -> Result<(), Error> {
        // Held while it waits: another who asks finds RAM filled or the gate closed.
        let mut loading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(done) = loading.take() else { return Ok(()) };
        let gone = |_| Err(Error::Host(io::Error::other("the thread that fills RAM has ended")));
        let loaded = done.recv().unwrap_or_else(gone);
        if loaded.is_err() {
            gate.end();
        }
        loaded
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|cause| Error::Read { path: path.to_owned(), cause })
}

impl Kernel {
    fn open(path: &Path) -> Result<Self, Error> {
        /// Where a kernel stands whose header is of a time when it did not say (Linux's booting.rst).
        const OLD_OFFSET: u64 = 0x8_0000;
        let mut file = open(path)?;
        let read = |cause| Error::Read { path: path.to_owned(), cause };
        let mut header = [0; HEADER_LEN];
        file.read_exact(&mut header).map_err(read)?;
        let refused = |cause| Error::Kernel { path: path.to_owned(), cause };
        let header = Header::read(&header).map_err(|e| refused(e.to_string()))?;
        let offset = if header.image_size == 0 { OLD_OFFSET } else { header.text_offset };
        let start = KERNEL_BASE.saturating_add(offset);
        let length = file.seek(SeekFrom::End(0)).map_err(read)?.max(header.image_size);
        Ok(Self { path: path.to_owned(), file, span: start..start.saturating_add(length) })
    }

    fn copy(mut self, memory: &GuestMemory) -> Result<(), Error> {
        let refused = |cause| Error::Kernel { path: self.path, cause };
        match arch::load_image(memory, &mut self.file, KERNEL_BASE) {
            Ok(loaded) if loaded.start == self.span.start => Ok(()),
            Ok(loaded) => {
                Err(refused(format!("it changed, and stands at {:#x} now", loaded.start)))
            }
            Err(cause) => Err(refused(cause)),
        }
    }
}

impl Part {
    /// Where RAM is a file, the host's kernel copies from file to file: it need not map what this process does not
    /// touch.
    fn copy(&self, memory: &GuestMemory) -> io::Result<()> {
        let mut file = &self.file;
        file.rewind()?;
        let region = memory.find_region(GuestAddress(self.to));
        let backing = region.and_then(|region| Some((region.file_offset()?, region.start_addr())));
        let copied = match backing {
            Some((backing, first)) => {
                let mut ram = backing.file();
                ram.seek(SeekFrom::Start(backing.start() + (self.to - first.raw_value())))?;
                io::copy(&mut file.take(self.length), &mut ram)?
            }
            None => {
                let count = usize::try_from(self.length).map_err(io::Error::other)?;
                let mut file = file.try_clone()?;
                let copied = memory.read_volatile_from(GuestAddress(self.to), &mut file, count);
                copied.map_err(io::Error::other)? as u64
            }
        };
        if copied == self.length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
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
    random::fill(&mut seed).map_err(Error::Host)?;
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

/// Finds the place of the RAM disk, which is in `files`, and of each of them.
fn place_initrd(
    files: Vec<File>,
    kernel_end: u64,
    size: u64,
) -> Result<((u64, u64), Vec<Part>), Error> {
    const PAGE: u64 = 4096;
    const HIGHEST: u64 = 128 << 20;
    let start = (RAM_BASE + (size / 2).min(HIGHEST)).max(kernel_end.next_multiple_of(PAGE));
    let lengths = files.iter().map(|mut file| file.seek(SeekFrom::End(0)));
    let lengths: Vec<u64> = lengths.collect::<Result<_, _>>().map_err(Error::Host)?;
    let length = lengths.iter().sum();
    let short = || Error::Initrd { length, memory: size };
    let end = start.checked_add(length).filter(|end| *end <= RAM_BASE + size).ok_or_else(short)?;
    let mut next = start;
    let part = |(file, length)| {
        let to = next;
        next += length;
        Part { file, length, to }
    };
    let parts = files.into_iter().zip(lengths).map(part).collect();
    Ok(((start, end), parts))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use belljar_abi::image::{IMAGE_SIZE, MAGIC, MAGIC_AT};

    use super::*;
    use crate::backend::Boot;

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
        let files = || vec![file(3000), file(2000)];
        let (low, initrd) = place_initrd(files(), KERNEL_BASE, 16 << 20).unwrap();
        assert_eq!(low, (half, half + 5000));
        initrd.iter().for_each(|part| part.copy(&memory).unwrap());
        assert_eq!(memory.read_obj::<u8>(GuestAddress(half)).unwrap(), 0x5a);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(half + 4999)).unwrap(), 0x5a);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(half + 5000)).unwrap(), 0);
        let (high, _) = place_initrd(files(), half + 1, 16 << 20).unwrap();
        assert_eq!(high.0, half + 4096);
    }

    #[test]
    fn initrd_that_does_not_fit_is_refused() {
        let error = place_initrd(vec![file(9 << 20)], KERNEL_BASE, 16 << 20).unwrap_err();
        assert!(error.to_string().contains("--memory"), "{error}");
    }

    #[test]
    fn no_cpu_ever_runs_with_a_kernel_that_does_not_fit() {
        const SIZE: u64 = 16 << 20;
        let memory = Arc::new(memory(SIZE as usize));
        let mut kernel = tempfile::NamedTempFile::new().unwrap();
        let mut header = [0; HEADER_LEN];
        header[IMAGE_SIZE..][..8].copy_from_slice(&SIZE.to_le_bytes());
        header[MAGIC_AT..][..4].copy_from_slice(&MAGIC);
        kernel.write_all(&header).unwrap();
        kernel.as_file().set_len(SIZE).unwrap();
        let boot = Boot { kernel: kernel.path().to_owned(), initrd: None, cmdline: String::new() };
        let config = Config {
            cpus: 1,
            memory: SIZE,
            cpu: String::new(),
            start: Start::Boot(boot),
            disks: vec![],
            cards: vec![],
        };
        let (_, files) = lay_out(&memory, &config).unwrap();
        let ((loading, copy), gate) = (Loading::new(files, &memory), Gate::new(1).unwrap());
        copy();
        let error = loading.finish(&gate).unwrap_err();
        assert!(matches!(error, Error::Kernel { .. }), "{error}");
        // Somebody pauses the machine and lets it go on.
        gate.pause();
        loading.finish(&gate).unwrap();
        gate.open();
        assert!(!gate.pass());
    }
}
