//! execve(2): a new program for an old task.
//!
//! Everything that can fail is done first, on an address space of its own: headers are checked,
//! strings copied, segments mapped, the stack built. Only then the old program is let go of
//! ([`commit`]); from there on an error could only end the process.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::elf::{self, EHDR_SIZE};
use crate::addr::{PAGE_MASK, PAGE_SIZE, TASK_SIZE};
use crate::arch::{self, FpState, PtRegs};
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::fs::namei::LookupFlags;
use crate::fs::open::open_exec;
use crate::fs::perm::{Access, permission};
use crate::fs::{Caller, File};
use crate::kref::Ref;
use crate::mm::user::read_cstr;
use crate::mm::{
    MappedFile, Mm, MmLimits, MmapRequest, UserPtr, VmFlags, try_collect, try_to_vec, try_vec,
};
use crate::ns::cred::SECBIT_NOROOT;
use crate::ns::{Cap, CapSet, Cred, UserNs};
use crate::process::creds::commit_creds;
use crate::process::{exit, restore, sigpage};
use crate::syscall::SysResult;
use crate::task::rlimit::Resource;
use crate::task::{self, AltStack, Task, TaskFlags};
use crate::uapi::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE,
};

/// Longest single argument (execve(2), `MAX_ARG_STRLEN`).
const MAX_ARG_STRLEN: usize = 32 * PAGE_SIZE;
/// Upper bound of all arguments together, whatever the stack limit says.
const MAX_ARG_TOTAL: u64 = 6 << 20;
/// Room that arguments always have (`ARG_MAX` of POSIX Linux).
const MIN_ARG_TOTAL: u64 = 128 << 10;
/// Levels of `#!` that are followed.
const MAX_INTERPRETERS: usize = 5;
/// Bytes of the head of a file that decide what it is.
const HEAD_SIZE: usize = 256;
/// Lowest load address of position-independent programs: two thirds of the address space.
const ELF_ET_DYN_BASE: u64 = (TASK_SIZE / 3 * 2) & !(PAGE_MASK as u64);
/// Stack that is mapped from the start; it grows on demand.
const INITIAL_STACK: u64 = 132 << 10;

/// Strings one after the other, each with its NUL: arguments or environment.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    count: usize,
}

impl Strings {
    fn push(&mut self, s: &[u8]) -> Result<()> {
        self.bytes.try_reserve(s.len() + 1).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(s);
        self.bytes.push(0);
        self.count += 1;
        Ok(())
    }

    fn of(list: &[Vec<u8>]) -> Result<Self> {
        let mut strings = Self::default();
        for s in list {
            strings.push(s)?;
        }
        Ok(strings)
    }

    /// Reads a NULL-terminated array of string pointers; a null array is empty.
    fn read(array: u64, budget: &mut u64) -> Result<Self> {
        let mut strings = Self::default();
        if array == 0 {
            return Ok(strings);
        }
        for i in 0.. {
            let at = array.checked_add(i * 8).ok_or(Errno::EFAULT)?;
            let ptr = UserPtr::<u64>::new(at).read()?;
            if ptr == 0 {
                break;
            }
            let s = read_cstr(ptr, MAX_ARG_STRLEN).map_err(|e| match e {
                Errno::ENAMETOOLONG => Errno::E2BIG,
                other => other,
            })?;
            *budget = budget.checked_sub(s.len() as u64 + 9).ok_or(Errno::E2BIG)?;
            strings.push(&s)?;
        }
        Ok(strings)
    }

    /// Replaces the first string by others: what a script's interpreter is called with.
    fn replace_first(&mut self, with: &[&[u8]]) -> Result<()> {
        let rest = self.bytes.iter().position(|&b| b == 0).map_or(0, |at| at + 1);
        let old = core::mem::take(self);
        for s in with {
            self.push(s)?;
        }
        self.bytes.try_reserve(old.bytes.len()).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(&old.bytes[rest..]);
        self.count += old.count.saturating_sub(1);
        Ok(())
    }
}

/// A program that is about to run.
struct Binary {
    file: Ref<File>,
    /// As the caller named it: `AT_EXECFN`.
    name: Vec<u8>,
    argv: Strings,
    envp: Strings,
    head: [u8; HEAD_SIZE],
    head_len: usize,
}

impl Binary {
    fn read_head(&mut self) -> Result<()> {
        self.head = [0; HEAD_SIZE];
        self.head_len = self.file.read_kernel(&mut self.head, 0)?;
        Ok(())
    }
}

/// execve(2) and execveat(2), with the caller's pointers.
pub fn execve_user(
    dir: i32,
    path: &[u8],
    argv: u64,
    envp: u64,
    flags: u32,
    regs: &mut PtRegs,
) -> SysResult {
    const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
    const AT_EMPTY_PATH: u32 = 0x1000;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let task = task::current();
    let mut lookup = LookupFlags::FOLLOW;
    if flags & AT_SYMLINK_NOFOLLOW != 0 {
        lookup = LookupFlags::empty();
    }
    if flags & AT_EMPTY_PATH != 0 {
        lookup |= LookupFlags::EMPTY;
    }
    let start = if path.first() == Some(&b'/') { None } else { crate::syscall::fs::start_at(dir)? };
    let caller = Caller { fs: task.fs(), cred: task.cred() };
    let file = open_exec(caller, start.as_ref(), path, lookup)?;
    let limit = (task.signal.rlimits.soft(Resource::Stack) / 4).clamp(MIN_ARG_TOTAL, MAX_ARG_TOTAL);
    let mut budget = limit;
    let argv = Strings::read(argv, &mut budget)?;
    let envp = Strings::read(envp, &mut budget)?;
    let name = exec_name(dir, path)?;
    do_execve(file, name, argv, envp, regs)?;
    // A resumed program goes on with what it had in it.
    Ok(regs.x[0] as usize)
}

/// What `AT_EXECFN` says: the path, or its stand-in for a descriptor.
fn exec_name(dir: i32, path: &[u8]) -> Result<Vec<u8>> {
    const AT_FDCWD: i32 = -100;
    if dir == AT_FDCWD || path.first() == Some(&b'/') {
        return try_to_vec(path);
    }
    let mut digits = [0; 10];
    let mut at = digits.len();
    let mut rest = dir;
    while at == digits.len() || rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let slash = if path.is_empty() { b"".as_slice() } else { b"/" };
    let parts = [b"/dev/fd/".as_slice(), &digits[at..], slash, path];
    try_collect(parts.into_iter().flatten().copied())
}

/// The first program: init's kernel thread becomes it once its function returns.
pub fn exec_init(path: &[u8], argv: &[Vec<u8>], envp: &[Vec<u8>]) -> Result<()> {
    let task = task::current();
    let caller = Caller { fs: task.fs(), cred: task.cred() };
    let file = open_exec(caller, None, path, LookupFlags::FOLLOW)?;
    // SAFETY: nothing else uses the top of this thread's stack, where a program's registers lie.
    let regs = unsafe { &mut *task.se.thread.user_regs() };
    do_execve(file, try_to_vec(path)?, Strings::of(argv)?, Strings::of(envp)?, regs)
}

/// Runs `file`, or the interpreter that it names.
fn do_execve(
    file: Ref<File>,
    name: Vec<u8>,
    argv: Strings,
    envp: Strings,
    regs: &mut PtRegs,
) -> Result<()> {
    let mut binary = Binary { file, name, argv, envp, head: [0; HEAD_SIZE], head_len: 0 };
    if binary.argv.count == 0 {
        // A program may count on argv[0] (execve(2), NOTES: since 5.18).
        binary.argv.push(b"")?;
    }
    binary.read_head()?;
    let mut levels = 0;
    while binary.head[..binary.head_len].starts_with(b"#!") {
        levels += 1;
        if levels > MAX_INTERPRETERS {
            return Err(Errno::ELOOP);
        }
        follow_script(&mut binary)?;
    }
    if restore::core::is_core(&binary.head[..binary.head_len]) {
        return restore::exec(binary.file, regs);
    }
    load_elf(binary, regs)
}

/// `#!interpreter [argument]`: the interpreter is run with the script's path in place of argv[0].
fn follow_script(binary: &mut Binary) -> Result<()> {
    let (interpreter, argument) = parse_shebang(&binary.head[2..binary.head_len])?;
    let interpreter = try_to_vec(interpreter)?;
    let argument = argument.map(try_to_vec).transpose()?;
    let name = try_to_vec(&binary.name)?;
    let words = [Some(&interpreter), argument.as_ref(), Some(&name)];
    let with = try_collect(words.into_iter().flatten().map(Vec::as_slice))?;
    binary.argv.replace_first(&with)?;
    let task = task::current();
    let caller = Caller { fs: task.fs(), cred: task.cred() };
    binary.file = open_exec(caller, None, &interpreter, LookupFlags::FOLLOW)?;
    binary.read_head()
}

/// Splits the rest of a `#!` line.
fn parse_shebang(line: &[u8]) -> Result<(&[u8], Option<&[u8]>)> {
    let end = line.iter().position(|&b| b == b'\n');
    let text = match end {
        Some(end) => &line[..end],
        // Cut off: only an interpreter that is surely whole will do.
        None if line.trim_ascii_start().iter().any(|b| b.is_ascii_whitespace() || *b == 0) => line,
        None if line.len() < HEAD_SIZE - 2 => line,
        None => return Err(Errno::ENOEXEC),
    };
    let text = text.split(|&b| b == 0).next().unwrap_or(text);
    let text = trim(text);
    if text.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    match text.iter().position(|&b| b == b' ' || b == b'\t') {
        None => Ok((text, None)),
        Some(at) => Ok((&text[..at], Some(trim(&text[at..])))),
    }
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// An ELF file with the headers read.
struct Elf {
    file: Ref<File>,
    image: elf::Image,
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
pub(super) fn find_hole(mm: &Mm, len: u64) -> Result<u64> {
    let addr = mm.mmap(anonymous(0, len, 0, MAP_NORESERVE))?;
    mm.munmap(addr, len)?;
    Ok(addr)
}

/// The limits that memory obeys, from the process's resource limits.
pub fn mm_limits(task: &Task) -> MmLimits {
    let soft = |which| task.signal.rlimits.soft(which);
    let unlimited = task.cred.with(|c| c.capable(Cap::IpcLock));
    MmLimits {
        address_space: soft(Resource::As),
        data: soft(Resource::Data),
        stack: soft(Resource::Stack),
        memlock: if unlimited { u64::MAX } else { soft(Resource::Memlock) },
    }
}

/// Loads a program and its interpreter, builds the stack, and switches over. Its steps are calls of their own,
/// so that what one keeps on the kernel's stack is not there during the others, nor while a core is loaded
/// instead.
#[inline(never)]
fn load_elf(binary: Binary, regs: &mut PtRegs) -> Result<()> {
    let program = Elf::read(binary.file.clone(), &binary.head[..binary.head_len])?;
    let interpreter = open_interpreter(&program)?;
    let task = task::current();

    let mm = Mm::new()?;
    super::cgroup::charge_new(&mm);
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
    Ok(())
}

/// Where a loaded program starts.
struct Entry {
    pc: u64,
    sp: u64,
    cred: Ref<Cred>,
}

struct Loader<'a> {
    mm: &'a Ref<Mm>,
    task: &'a Task,
}

impl Loader<'_> {
    #[inline(never)]
    fn load(&self, binary: &Binary, program: &Elf, interpreter: Option<&Elf>) -> Result<Entry> {
        let mm = self.mm;
        mm.set_limits(mm_limits(self.task));
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
        let file = crate::fs::pagecache::mapped_file(&program.file)?;
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
                map_image(mm, i, &crate::fs::pagecache::mapped_file(&i.file)?, bias)?;
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

    /// Set-user-id and set-group-id programs, and what root's exec means for capabilities
    /// (capabilities(7), "Transformation of capabilities during execve()").
    #[inline(never)]
    fn new_cred(&self, file: &Ref<File>) -> Result<Ref<Cred>> {
        const S_ISUID: u32 = 0o4000;
        const S_ISGID: u32 = 0o2000;
        const S_IXGRP: u32 = 0o010;
        let old = self.task.cred();
        let inode = file.path.inode()?;
        let mode = inode.mode();
        let mut new = old.try_clone()?;
        let user_ns = &old.user_ns;
        // Ids that are nobody's in the namespace are not taken on.
        if self.task.nsproxy().mnt.may_suid(&file.path.mnt, user_ns)
            && !old.no_new_privs
            && user_ns.has_ids(inode.uid(), inode.gid())
        {
            if mode & S_ISUID != 0 {
                new.euid = inode.uid();
            }
            if mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP {
                new.egid = inode.gid();
            }
        }
        // No file has capabilities of its own here; user 0 stands in for them.
        let is_root = |uid: u32| user_ns.root_uid() == Some(uid);
        let mut effective = false;
        new.cap_permitted = CapSet::EMPTY;
        if old.securebits & SECBIT_NOROOT == 0 && (is_root(new.euid) || is_root(new.uid)) {
            new.cap_permitted = old.cap_inheritable.or(old.cap_bounding);
            effective = is_root(new.euid);
        }
        let set_id = new.euid != old.uid || new.egid != old.gid;
        let gains = !new.cap_permitted.is_within(old.cap_permitted);
        // Who gave up new privileges, or shares its root with others, gets no more than it had.
        let shared = Ref::ref_count(self.task.fs()) > self.task.signal.nr_threads();
        if (set_id || gains) && (old.no_new_privs || shared) {
            if old.no_new_privs || !old.own_capable(Cap::Setuid) {
                (new.euid, new.egid) = (new.uid, new.gid);
            }
            new.cap_permitted = new.cap_permitted.and(old.cap_permitted);
        }
        (new.suid, new.fsuid, new.sgid, new.fsgid) = (new.euid, new.euid, new.egid, new.egid);
        if set_id {
            new.cap_ambient = CapSet::EMPTY;
        }
        new.cap_permitted = new.cap_permitted.or(new.cap_ambient);
        new.cap_effective = if effective { new.cap_permitted } else { new.cap_ambient };
        new.securebits &= !crate::ns::cred::SECBIT_KEEP_CAPS;
        Ref::try_new(new)
    }

    /// Strings, vectors and the auxiliary vector (getauxval(3)), as a program finds them at its start.
    #[inline(never)]
    fn build_stack(
        &self,
        binary: &Binary,
        program: &Elf,
        bias: u64,
        base: u64,
        cred: &Cred,
        stack_top: u64,
    ) -> Result<u64> {
        const PLATFORM: &[u8] = b"aarch64\0";
        let (argv, envp) = (&binary.argv, &binary.envp);
        // From the top: a null word, the file name, environment, arguments.
        let name_at = stack_top - 8 - binary.name.len() as u64 - 1;
        let env_at = name_at - envp.bytes.len() as u64;
        let arg_at = env_at - argv.bytes.len() as u64;
        let platform_at = (arg_at - PLATFORM.len() as u64) & !15;
        let random_at = platform_at - 16;
        let (hwcap, hwcap2) = arch::hwcaps();
        let root = cred.user_ns.root_uid();
        let raised = root != Some(cred.uid)
            && (root == Some(cred.euid) || !cred.cap_permitted.is_within(cred.cap_ambient));
        let secure = cred.euid != cred.uid || cred.egid != cred.gid || raised;
        let (uids, gids) = (cred.user_ns.uids(), cred.user_ns.gids());
        let auxv: [(u64, u64); 21] = [
            (AT_HWCAP, hwcap),
            (AT_PAGESZ, PAGE_SIZE as u64),
            (AT_CLKTCK, 100),
            (AT_PHDR, program.image.phdr.wrapping_add(bias)),
            (AT_PHENT, u64::from(program.image.phentsize)),
            (AT_PHNUM, u64::from(program.image.phnum)),
            (AT_BASE, base),
            (AT_FLAGS, 0),
            (AT_ENTRY, program.image.entry.wrapping_add(bias)),
            (AT_UID, u64::from(uids.from_kernel_munged(cred.uid))),
            (AT_EUID, u64::from(uids.from_kernel_munged(cred.euid))),
            (AT_GID, u64::from(gids.from_kernel_munged(cred.gid))),
            (AT_EGID, u64::from(gids.from_kernel_munged(cred.egid))),
            (AT_SECURE, u64::from(secure)),
            (AT_RANDOM, random_at),
            (AT_HWCAP2, hwcap2),
            (AT_EXECFN, name_at),
            (AT_PLATFORM, platform_at),
            (AT_MINSIGSTKSZ, super::sigframe::MIN_STACK as u64),
            (AT_NULL, 0),
            (AT_NULL, 0),
        ];
        let words = 1 + argv.count + 1 + envp.count + 1 + auxv.len() * 2;
        let sp = (random_at - words as u64 * 8) & !15;

        let mut image = Vec::new();
        let len = (stack_top - sp) as usize;
        image.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        let word = |image: &mut Vec<u8>, v: u64| image.extend_from_slice(&v.to_le_bytes());
        word(&mut image, argv.count as u64);
        push_pointers(&mut image, argv, arg_at);
        push_pointers(&mut image, envp, env_at);
        for (key, value) in auxv {
            word(&mut image, key);
            word(&mut image, value);
        }
        image.resize((random_at - sp) as usize, 0);
        word(&mut image, crate::drivers::random::random_u64());
        word(&mut image, crate::drivers::random::random_u64());
        image.extend_from_slice(PLATFORM);
        image.resize((arg_at - sp) as usize, 0);
        image.extend_from_slice(&argv.bytes);
        image.extend_from_slice(&envp.bytes);
        image.extend_from_slice(&binary.name);
        image.resize(len, 0);

        let size = (len as u64 + INITIAL_STACK).next_multiple_of(PAGE_SIZE as u64);
        self.mm.map_stack(stack_top, size, program.image.exec_stack)?;
        if self.mm.write_remote(sp, &image) != len {
            return Err(Errno::ENOMEM);
        }
        let layout = &self.mm.layout;
        for (slot, value) in [
            (&layout.start_stack, sp),
            (&layout.arg_start, arg_at),
            (&layout.arg_end, env_at),
            (&layout.env_start, env_at),
            (&layout.env_end, name_at),
        ] {
            slot.store(value, Ordering::Relaxed);
        }
        let mut kept = Array::new();
        kept.try_reserve(auxv.len() * 2)?;
        for (key, value) in auxv {
            kept.try_push(key)?;
            kept.try_push(value)?;
        }
        self.mm.set_auxv(kept);
        Ok(sp)
    }
}

const AT_NULL: u64 = 0;
const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_PAGESZ: u64 = 6;
const AT_BASE: u64 = 7;
const AT_FLAGS: u64 = 8;
const AT_ENTRY: u64 = 9;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_GID: u64 = 13;
const AT_EGID: u64 = 14;
const AT_PLATFORM: u64 = 15;
const AT_HWCAP: u64 = 16;
const AT_CLKTCK: u64 = 17;
const AT_SECURE: u64 = 23;
const AT_RANDOM: u64 = 25;
const AT_HWCAP2: u64 = 26;
const AT_EXECFN: u64 = 31;
const AT_MINSIGSTKSZ: u64 = 51;

fn push_pointers(image: &mut Vec<u8>, strings: &Strings, at: u64) {
    let mut offset = 0;
    for s in strings.bytes.split_inclusive(|&b| b == 0) {
        image.extend_from_slice(&(at + offset).to_le_bytes());
        offset += s.len() as u64;
    }
    image.extend_from_slice(&0_u64.to_le_bytes());
}

fn align_bias(at: u64, low: u64, align: u64) -> u64 {
    (at & !(align - 1)).wrapping_sub(low & !(align - 1))
}

/// The point of no return: the task lets go of the old program and becomes the new one.
#[inline(never)]
fn commit(task: &Task, binary: &Binary, mm: Ref<Mm>, entry: Entry, regs: &mut PtRegs) {
    exit::mm_release(task);
    let set_id = entry.cred.euid != entry.cred.uid || entry.cred.egid != entry.cred.gid;
    let readable = may_read(task, &binary.file);
    if set_id || !readable {
        // Before anybody can find it at this task.
        mm.set_dumpable(false);
    }
    let owner = memory_owner(&entry.cred, &binary.file, readable);
    drop(task.mm_user_ns.replace(owner));
    let old = task.se.replace_mm(Some(mm));
    if let Some(old) = old {
        old.put_user();
    }
    exit::complete_vfork(task);
    unshare_files(task);
    unshare_sighand(task);
    task.signal.timers.delete_posix();
    task.set_restart(Default::default());
    // SAFETY: it belongs to the calling task itself, which has no program at this moment.
    unsafe { *task.altstack.get() = AltStack::default() };
    task.set_child_tid.store(0, Ordering::Relaxed);
    commit_creds(task, entry.cred);
    let name = binary.name.rsplit(|&b| b == b'/').next().unwrap_or(&binary.name);
    task.set_comm(name);
    task.clear_flags(TaskFlags::FORKNOEXEC | TaskFlags::KTHREAD);
    task.signal.did_exec.store(true, Ordering::Relaxed);
    arch::replace_user_state(&FpState::default(), 0);
    *regs = PtRegs {
        pc: entry.pc,
        sp: entry.sp,
        syscallno: PtRegs::NO_SYSCALL,
        stackframe: [0; 2],
        ..PtRegs::default()
    };
}

/// True if the caller could have read the program instead of running it.
fn may_read(task: &Task, file: &File) -> bool {
    file.path.inode().is_ok_and(|inode| permission(inode, Access::READ, task.cred()).is_ok())
}

/// The user namespace that the memory of a program belongs to: the caller's, or, for a program that it could not
/// read, the nearest around it that knows the file's owner (`would_dump`).
fn memory_owner(cred: &Cred, file: &File, readable: bool) -> Ref<UserNs> {
    let mut ns = &cred.user_ns;
    if let Ok(inode) = file.path.inode()
        && !readable
    {
        while !ns.has_ids(inode.uid(), inode.gid())
            && let Some(parent) = ns.parent()
        {
            ns = parent;
        }
    }
    ns.clone()
}

/// Descriptors become the task's own, and those marked close-on-exec go.
fn unshare_files(task: &Task) {
    if Ref::ref_count(task.files()) > 1
        && let Ok(own) = task.files().try_clone()
    {
        drop(task.files.replace(Some(own)));
    }
    task.files().close_on_exec();
}

fn unshare_sighand(task: &Task) {
    if Ref::ref_count(task.sighand.own()) > 1
        && let Ok(own) = task.sighand.own().try_clone()
    {
        drop(task.sighand.replace(own));
    }
    task.sighand.own().reset_for_exec();
    if task.is_kthread() {
        // Init starts with nothing blocked.
        task.sig.lock().blocked = crate::signal::SigSet::EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shebang_lines_are_split_as_linux_does() {
        let split = |l: &[u8]| parse_shebang(l).map(|(i, a)| (i.to_vec(), a.map(<[u8]>::to_vec)));
        assert_eq!(split(b"/bin/sh\n").unwrap(), (b"/bin/sh".to_vec(), None));
        assert_eq!(
            split(b"  /usr/bin/env  -S a b \t\nrest").unwrap(),
            (b"/usr/bin/env".to_vec(), Some(b"-S a b".to_vec()))
        );
        assert_eq!(split(b"\n").unwrap_err(), Errno::ENOEXEC);
    }

    #[test]
    fn a_script_takes_the_place_of_argv0() {
        let mut argv = Strings::of(&[b"x".to_vec(), b"1".to_vec(), b"2".to_vec()]).unwrap();
        argv.replace_first(&[b"/bin/sh", b"-e", b"/script"]).unwrap();
        assert_eq!(argv.bytes, b"/bin/sh\0-e\0/script\x001\x002\0");
        assert_eq!(argv.count, 5);
    }
}
