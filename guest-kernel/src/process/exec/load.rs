//! An ELF program and its interpreter, mapped into an address space of their own.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::Binary;
use super::commit::commit;
use crate::addr::{PAGE_MASK, PAGE_SIZE, TASK_SIZE};
use crate::arch::PtRegs;
use crate::errno::{Errno, Result};
use crate::fs::namei::LookupFlags;
use crate::fs::open::open_exec;
use crate::fs::{Caller, File};
use crate::kref::Ref;
use crate::mm::{MappedFile, Mm, MmapRequest, VmFlags, try_vec};
use crate::ns::Cred;
use crate::process::creds::mm_limits;
use crate::process::elf::EHDR_SIZE;
use crate::process::{elf, exit, ptrace, sigpage};
use crate::task::rlimit::Resource;
use crate::task::{self, Task, list};
use crate::uapi::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE,
};

/// Lowest load address of position-independent programs: two thirds of the address space.
const ELF_ET_DYN_BASE: u64 = (TASK_SIZE / 3 * 2) & !(PAGE_MASK as u64);

/// An ELF file with the headers read.
pub(super) struct Elf {
    file: Ref<File>,
    pub(super) image: elf::Image,
}

impl Elf {
    fn read(file: Ref<File>, head: &[u8]) -> Result<Self> {
        let (offset, len) = elf::program_headers(head)?;
        let in_head = usize::try_from(offset).ok().and_then(|o| head.get(o..o.checked_add(len)?));
        let image = match in_head {
            Some(phdrs) => elf::parse(head, phdrs)?,
            None => {
                let mut phdrs = Vec::new();
                phdrs.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
                phdrs.resize(len, 0);
                read_exact(&file, &mut phdrs, offset).map_err(|_| Errno::ENOEXEC)?;
                elf::parse(head, &phdrs)?
            }
        };
        Ok(Self { file, image })
    }
}

fn read_exact(file: &Ref<File>, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
    while !buf.is_empty() {
        let n = file.read_kernel(buf, offset)?;
        if n == 0 {
            return Err(Errno::EIO);
        }
        offset += n as u64;
        buf = &mut buf[n..];
    }
    Ok(())
}

/// The interpreter that a dynamic program names.
fn open_interpreter(elf: &Elf) -> Result<Option<Elf>> {
    let Some((offset, len)) = elf.image.interp else { return Ok(None) };
    let mut path = try_vec(len, 0)?;
    read_exact(&elf.file, &mut path, offset).map_err(|_| Errno::ENOEXEC)?;
    let path = path.strip_suffix(b"\0").ok_or(Errno::ENOEXEC)?;
    let task = task::current();
    let caller = Caller { fs: task.fs(), cred: task.cred() };
    let file = open_exec(caller, None, path, LookupFlags::FOLLOW)?;
    let mut head = [0; EHDR_SIZE + 1024];
    let n = file.read_kernel(&mut head, 0)?;
    let interpreter = Elf::read(file, &head[..n]).map_err(|_| Errno::ELIBBAD)?;
    Ok(Some(interpreter))
}

/// A random number of pages below `pages`, in bytes.
fn random_offset(pages: u64) -> u64 {
    (crate::drivers::random::random_u64() % pages.max(1)) << crate::addr::PAGE_SHIFT
}

/// Not on the kernel's stack, a quarter of which it would take.
static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Maps the segments of an image at `bias` above the addresses that it names.
fn map_image(mm: &Mm, elf: &Elf, file: &Ref<MappedFile>, bias: u64) -> Result<()> {
    for segment in &elf.image.segments {
        let (read, write, exec) = segment.prot;
        let prot = if read { PROT_READ } else { 0 }
            | if write { PROT_WRITE } else { 0 }
            | if exec { PROT_EXEC } else { 0 };
        let start = segment.start.checked_add(bias).ok_or(Errno::EINVAL)?;
        let file_end = segment.file_end.checked_add(bias).ok_or(Errno::EINVAL)?;
        let mem_end = segment.mem_end.checked_add(bias).ok_or(Errno::EINVAL)?;
        let page_up = |addr: u64| crate::addr::page_align_up(addr).ok_or(Errno::EINVAL);
        let mut at = start;
        if segment.file_end > segment.start {
            let end = page_up(file_end)?;
            mm.mmap(MmapRequest {
                addr: start,
                len: end - start,
                prot,
                flags: MAP_PRIVATE | MAP_FIXED,
                file: Some(file.clone()),
                pgoff: segment.offset / PAGE_SIZE as u64,
                may: VmFlags::MAY,
            })?;
            // What the last page of the file holds beyond the segment is not the program's.
            if mem_end > file_end && write && file_end < end {
                let tail = (end - file_end) as usize;
                if mm.write_remote(file_end, &ZEROS[..tail]) != tail {
                    return Err(Errno::ENOMEM);
                }
            }
            at = end;
        }
        if mem_end > at {
            let len = page_up(mem_end)? - at;
            mm.mmap(anonymous(at, len, prot, MAP_FIXED))?;
        }
    }
    Ok(())
}

/// Anonymous private memory.
fn anonymous(addr: u64, len: u64, prot: u32, flags: u32) -> MmapRequest {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | flags;
    MmapRequest { addr, len, prot, flags, file: None, pgoff: 0, may: VmFlags::MAY }
}

/// Where mappings of `len` bytes go in an address space that nobody else uses yet.
fn find_hole(mm: &Mm, len: u64) -> Result<u64> {
    let addr = mm.mmap(anonymous(0, len, 0, MAP_NORESERVE))?;
    mm.munmap(addr, len)?;
    Ok(addr)
}

/// Loads a program and its interpreter, builds the stack, and switches over. Its steps are calls of their own,
/// so that what one keeps on the kernel's stack is not there during the others, nor while a core is loaded
/// instead.
#[inline(never)]
pub(super) fn load_elf(binary: Binary, regs: &mut PtRegs) -> Result<()> {
    let program = Elf::read(binary.file.clone(), &binary.head[..binary.head_len])?;
    let interpreter = open_interpreter(&program)?;
    let task = task::current();

    let former = ptrace::stop::number_for_tracer(task);
    let deciding = Deciding::new(task);
    let mm = Mm::new()?;
    crate::process::cgroup::charge_new(&mm);
    let loaded = Loader { mm: &mm, task }.load(&binary, &program, interpreter.as_ref());
    let entry = match loaded {
        Ok(entry) => entry,
        Err(e) => {
            mm.put_user();
            return Err(e);
        }
    };
    if let Err(e) = exit::de_thread(task) {
        mm.put_user();
        return Err(e);
    }
    commit(task, &binary, mm, entry, regs);
    drop(deciding);
    regs.expose();
    ptrace::stop::exec_event(former);
    Ok(())
}

/// While it lives nobody begins to trace the thread, whose new program's rights depend on that.
struct Deciding<'a>(&'a Task);

impl<'a> Deciding<'a> {
    fn new(task: &'a Task) -> Self {
        let _list = list::lock();
        task.signal.execs.fetch_add(1, Ordering::AcqRel);
        Self(task)
    }
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.0.signal.execs.fetch_sub(1, Ordering::AcqRel);
        self.0.signal.exec_wait.wake_all();
    }
}

/// Where a loaded program starts.
pub(super) struct Entry {
    pub(super) pc: u64,
    pub(super) sp: u64,
    pub(super) cred: Ref<Cred>,
}

pub(super) struct Loader<'a> {
    pub(super) mm: &'a Ref<Mm>,
    pub(super) task: &'a Task,
}

impl Loader<'_> {
    #[inline(never)]
    fn load(&self, binary: &Binary, program: &Elf, interpreter: Option<&Elf>) -> Result<Entry> {
        let mm = self.mm;
        mm.set_limits(mm_limits(&self.task.signal.rlimits, self.task.cred()));
        let stack_limit = self.task.signal.rlimits.soft(Resource::Stack);
        let stack_top = TASK_SIZE - PAGE_SIZE as u64 - random_offset(1 << 18);
        // The stack may grow to its limit, within reason, above everything that is mapped by itself.
        let gap = stack_limit.clamp(128 << 20, TASK_SIZE / 6 * 5) + (1 << 20);
        mm.set_mmap_base(((stack_top - gap) & !(PAGE_MASK as u64)) - random_offset(1 << 18));

        let (low, high) = program.image.span();
        let bias = if !program.image.position_independent {
            0
        } else if interpreter.is_some() {
            align_bias(ELF_ET_DYN_BASE + random_offset(1 << 18), low, program.image.align)
        } else {
            // A static PIE (or the dynamic linker run by hand) goes where mappings go.
            find_hole(mm, high - low)?.wrapping_sub(low)
        };
        let file = crate::fs::pagecache::mapped_file(&program.file, false)?;
        map_image(mm, program, &file, bias)?;
        let (base, pc) = match interpreter {
            None => (0, program.image.entry.wrapping_add(bias)),
            Some(i) => {
                let (low, high) = i.image.span();
                let bias = if i.image.position_independent {
                    find_hole(mm, high - low)?.wrapping_sub(low)
                } else {
                    0
                };
                map_image(mm, i, &crate::fs::pagecache::mapped_file(&i.file, false)?, bias)?;
                (bias, i.image.entry.wrapping_add(bias))
            }
        };
        mm.set_exe(Some(file));
        self.note_layout(program, bias);
        mm.set_start_brk(high.wrapping_add(bias) + random_offset(1 << 13));
        sigpage::map(mm)?;

        let cred = self.new_cred(&binary.file)?;
        let sp = self.build_stack(binary, program, bias, base, &cred, stack_top)?;
        Ok(Entry { pc, sp, cred })
    }

    fn note_layout(&self, program: &Elf, bias: u64) {
        let layout = &self.mm.layout;
        let set = |slot: &core::sync::atomic::AtomicU64, v: u64| {
            slot.store(v.wrapping_add(bias), Ordering::Relaxed);
        };
        for s in &program.image.segments {
            let (_, write, exec) = s.prot;
            if exec && layout.start_code.load(Ordering::Relaxed) == 0 {
                set(&layout.start_code, s.start);
                set(&layout.end_code, s.file_end);
            } else if write {
                set(&layout.start_data, s.start);
                set(&layout.end_data, s.file_end);
            }
        }
    }
}

fn align_bias(at: u64, low: u64, align: u64) -> u64 {
    (at & !(align - 1)).wrapping_sub(low & !(align - 1))
}
