//! A machine's memory and registers as an ELF core, in whatever state the kernel is: `belljar dump`.
//!
//! All of RAM is there, at the virtual addresses of the kernel's linear map if the kernel can be made
//! out, else at its physical ones; zeros are holes of the file. What the kernel maps elsewhere (its
//! stacks) gets further segments over the same bytes, so that gdb with the kernel's ELF unwinds any of
//! them. A kernel that is damaged or not ours makes a poorer core, never none.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::backend::CpuRegisters;
use crate::elfcore::{Core, Note, PF_R, PF_W, PF_X, Segment, fill_sparse, regs};
use crate::introspect::Root;
use crate::target::walk::{Mapped, mapped_ranges};
use crate::target::{self, Ram};

/// Owner and only kind of the note with facts as `KEY=VALUE` lines, as in a kdump of Linux.
const VMCOREINFO: &str = "VMCOREINFO";
/// How much memory is copied at a time.
const PIECE: u64 = 2 << 20;
/// Most segments beside RAM's own: stacks of a great many tasks.
const MAX_MAPPED: usize = 1 << 20;

/// Why a core could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host does not let us.
    #[error("cannot write {}: {cause} (nothing of it was kept)", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// Guest memory that cannot be read.
    #[error(transparent)]
    Memory(#[from] target::Error),
}

/// Writes the core of the machine with that RAM and those registers to `path`: beside it first, then
/// moved into its place.
pub fn dump(ram: &dyn Ram, cpus: &[CpuRegisters], path: &Path) -> Result<(), Error> {
    crate::file::write_beside(path, |file| write(ram, cpus, file))
        .map_err(|cause| Error::Io { path: path.to_owned(), cause })
}

fn write(ram: &dyn Ram, cpus: &[CpuRegisters], file: &File) -> io::Result<()> {
    let core = describe(ram, cpus);
    let start = core.data_start();
    let head = core.head();
    let size = ram.ranges().iter().map(|r| r.end - r.start).sum::<u64>();
    file.set_len(start + size)?;
    fill_sparse(file, 0, &head)?;
    let mut buffer = vec![0; PIECE as usize];
    let mut before = 0;
    let populated = ram.populated();
    for range in ram.ranges() {
        for part in populated.iter().filter(|p| p.start < range.end && p.end > range.start) {
            let end = part.end.min(range.end);
            let mut at = part.start.max(range.start);
            while at < end {
                let bytes = &mut buffer[..(end - at).min(PIECE) as usize];
                ram.read(at, bytes).map_err(io::Error::other)?;
                fill_sparse(file, start + before + (at - range.start), bytes)?;
                at += bytes.len() as u64;
            }
        }
        before += range.end - range.start;
    }
    Ok(())
}

/// Headers and notes.
fn describe(ram: &dyn Ram, cpus: &[CpuRegisters]) -> Core {
    let root = Root::find(ram).ok();
    let mut core = Core::default();
    for (cpu, registers) in cpus.iter().enumerate() {
        // gdb tells threads apart by their number, which must not be 0.
        let status = regs::Status { ids: [cpu as u32 + 1, 0, 0, 0], ..Default::default() };
        core.notes.push(regs::prstatus(&registers.general, &status));
        core.notes.push(regs::fpregset(&registers.fp));
    }
    core.notes.push(Note::new(VMCOREINFO, 0, info(root.as_ref())));
    let offset = root.as_ref().map_or(0, Root::linear_offset);
    let mut before = 0;
    for range in ram.ranges() {
        let size = range.end - range.start;
        core.segments.push(Segment {
            flags: PF_R | PF_W | PF_X,
            vaddr: range.start.wrapping_add(offset),
            paddr: range.start,
            offset: before,
            filesz: size,
            memsz: size,
        });
        before += size;
    }
    if let Some(root) = &root {
        add_mapped(&mut core, ram, root);
    }
    core
}

/// Adds what the kernel maps beside the linear map.
fn add_mapped(core: &mut Core, ram: &dyn Ram, root: &Root) {
    let linear = root.linear_offset();
    let rams = core.segments.clone();
    let mapped = mapped_ranges(ram, root.kernel_pgd_phys(), !0 << 48, MAX_MAPPED);
    for Mapped { virt, phys, len, writable } in mapped {
        // Devices are mapped too, but they are no memory.
        let inside = rams.iter().find(|s| phys >= s.paddr && phys - s.paddr < s.memsz);
        let Some(inside) = inside.filter(|_| virt != phys.wrapping_add(linear)) else { continue };
        let skip = phys - inside.paddr;
        let size = len.min(inside.memsz - skip);
        core.segments.push(Segment {
            flags: PF_R | if writable { PF_W } else { 0 },
            vaddr: virt,
            paddr: phys,
            offset: inside.offset + skip,
            filesz: size,
            memsz: size,
        });
    }
}

fn info(root: Option<&Root>) -> String {
    let mut text = format!("PAGESIZE={}\n", target::PAGE_SIZE);
    if let Some(root) = root {
        let id: String = root.build_id().iter().map(|b| format!("{b:02x}")).collect();
        text += &format!(
            "OSRELEASE=belljar\nBUILD-ID={id}\nNUMBER(ROOT_PAGE)={:#x}\nNUMBER(LINEAR_OFFSET)={:#x}\nNUMBER(KERNEL_PGD)={:#x}\n",
            root.phys(),
            root.linear_offset(),
            root.kernel_pgd_phys()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elfcore::PF_R;
    use crate::introspect::synthetic::{BASE, Guest};
    use crate::introspect::{Kernel, Request, view};
    use crate::target::{SliceRam, VmCore};

    fn rows(ram: &dyn Ram) -> String {
        let kernel = Kernel::open(ram, true).unwrap();
        let requests =
            [Request::Ps, Request::Bt { pid: 1 }, Request::Maps { pid: 1 }, Request::Log];
        format!("{:?}", requests.map(|request| view(&kernel, &request, None).unwrap().rows))
    }

    #[test]
    fn core_reads_as_the_machine_did() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("core");
        let guest = Guest::new();
        let mut cpu = CpuRegisters::default();
        cpu.general.pc = 0x1234;
        dump(&guest.target(), &[cpu], &path).unwrap();
        let core = VmCore::open(&path).unwrap();
        assert_eq!(core.ranges(), guest.target().ranges());
        assert_eq!(rows(&core), rows(&guest.target()));
        let mut bytes = vec![0; guest.ram.len()];
        core.read(BASE, &mut bytes).unwrap();
        assert!(bytes == guest.ram);
        assert!(core.read(BASE - 1, &mut [0; 2]).is_err());
        assert!(core.read(BASE + guest.ram.len() as u64 - 1, &mut [0; 2]).is_err());
        // Init's page of code is mapped beside the linear map as well.
        let text = std::fs::read(&path).unwrap();
        let parsed = crate::elfcore::parse(text.as_slice()).unwrap();
        assert!(parsed.segments.len() > 1 && parsed.segments[1].flags & PF_R != 0);
        let regs = parsed.notes(regs::CORE, regs::NT_PRSTATUS).next().unwrap();
        assert_eq!(regs::General::read(regs).unwrap().pc, 0x1234);
    }

    #[test]
    fn memory_without_a_kernel_makes_a_core_too() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("core");
        let bytes = [7; 8192];
        dump(&SliceRam { base: BASE, bytes: &bytes }, &[], &path).unwrap();
        let mut back = [0; 8192];
        VmCore::open(&path).unwrap().read(BASE, &mut back).unwrap();
        assert!(back == bytes);
    }

    #[test]
    fn damaged_cores_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("core");
        let guest = Guest::new();
        dump(&guest.target(), &[], &path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        let error = VmCore::open(&path).unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
        file.set_len(40).unwrap();
        let error = VmCore::open(&path).unwrap_err().to_string();
        assert!(error.contains("no ELF file"), "{error}");
        std::fs::write(&path, std::fs::read("/proc/self/exe").unwrap()).unwrap();
        let error = VmCore::open(&path).unwrap_err().to_string();
        assert!(error.contains("no core of an AArch64 machine"), "{error}");
    }
}
