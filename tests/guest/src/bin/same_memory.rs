//! Random calls about memory, in an arena of a few pages: every result, fault and map line is Linux's.
//! `same_memory [CALLS [SEED]]`.

use std::arch::asm;
use std::ffi::c_void;
use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use belljar_guest_tests::same::{Random, Trace, arguments, enter_files};
use belljar_guest_tests::{child, ok, wait};

const PAGE: u64 = 4096;
/// Where all mappings are that last; no huge page fits.
const ARENA: u64 = 0x10_0010_0000;
/// Pages of it.
const PAGES: u64 = 24;
/// A user without privileges.
const USER: u32 = 1000;

const PROTS: &[i32] = &[0, 1, 3, 3, 3, 3, 2, 5, 7, 4, 8 | 3];

/// Signal, code and address of the fault that an access met.
static FAULT: [AtomicI32; 2] = [const { AtomicI32::new(0) }; 2];
static FAULT_ADDR: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel passes both; the access is one instruction, which is left out.
    unsafe {
        FAULT[0].store(signal, Ordering::Relaxed);
        FAULT[1].store((*info).si_code, Ordering::Relaxed);
        FAULT_ADDR.store((*info).si_addr() as u64, Ordering::Relaxed);
        (*context).uc_mcontext.pc += 4;
    }
}

/// An address as it is shown.
fn shown(addr: u64) -> String {
    match addr.checked_sub(ARENA) {
        Some(at) if at <= PAGES * PAGE => format!("{:x}.{:x}", at / PAGE, at % PAGE),
        _ if addr == 0 => "0".to_string(),
        _ => "elsewhere".to_string(),
    }
}

/// Loads or stores a byte and says what came of it.
fn access(addr: u64, write: Option<u8>) -> String {
    FAULT[0].store(0, Ordering::Relaxed);
    let mut byte = u64::from(write.unwrap_or(0));
    // SAFETY: where nothing may be accessed the handler skips the instruction.
    unsafe {
        match write {
            Some(_) => asm!("strb {0:w}, [{1}]", in(reg) byte, in(reg) addr),
            None => asm!("ldrb {0:w}, [{1}]", inout(reg) byte, in(reg) addr),
        }
    }
    match FAULT[0].load(Ordering::Relaxed) {
        0 => format!("{byte}"),
        signal => {
            let code = FAULT[1].load(Ordering::Relaxed);
            format!("signal {signal} {code} at {}", shown(FAULT_ADDR.load(Ordering::Relaxed)))
        }
    }
}

/// A line of maps that is in the arena.
#[derive(PartialEq)]
struct Range {
    start: u64,
    end: u64,
    rights: String,
    offset: u64,
    name: String,
}

/// The arena's ranges. Neighbours that could be one are shown as one: whether Linux joins them depends
/// on which were written to first.
fn ranges() -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
        let (start, end) = words[0].split_once('-').map_or((0, 0), |(a, b)| (hex(a), hex(b)));
        if end <= ARENA - 64 * PAGE || start >= ARENA + PAGES * PAGE {
            continue;
        }
        let name = words[5..].join(" ");
        // A private mapping of /dev/zero is memory with a name.
        let no_file = name.is_empty() || name == "/dev/zero";
        let range = Range { start, end, rights: words[1].into(), offset: hex(words[2]), name };
        match ranges.last_mut() {
            Some(last)
                if last.end == start
                    && last.rights == range.rights
                    && last.name == range.name
                    && (no_file || last.offset + start - last.start == range.offset) =>
            {
                last.end = end;
            }
            _ => ranges.push(range),
        }
    }
    ranges
}

/// Page of a range's border, negative below the arena.
fn page_of(addr: u64) -> i64 {
    (addr as i64 - ARENA as i64) / PAGE as i64
}

struct State {
    trace: Trace,
    /// Read and write, read only, write only, memfd, sealed memfd, directory, /dev/zero, closed.
    files: [i32; 8],
    user: u32,
}

impl State {
    fn addr(random: &mut Random) -> u64 {
        match random.below(60) {
            0 => 0,
            1 => !PAGE + 1,
            2 => ARENA + 7,
            3 => 1 << 48,
            4 => ARENA + PAGES * PAGE,
            _ => ARENA + random.below(PAGES) * PAGE,
        }
    }

    /// A length that stays in the arena for an address in it, or one that none may have.
    fn len(random: &mut Random, addr: u64) -> u64 {
        let room = (ARENA + PAGES * PAGE).saturating_sub(addr) / PAGE;
        match random.below(60) {
            0 => 0,
            1 => !0,
            2 => 1 << 48,
            3 => 1 << 63,
            _ if room == 0 || room > PAGES => PAGE,
            4 => 1,
            5 => PAGE / 2 + (room - 1) * PAGE,
            _ => random.pick(&[1, 1, 1, 2, 2, 3, 4, 6, 9]).min(room) * PAGE,
        }
    }

    fn text(addr: u64, len: u64) -> String {
        format!("{} {len:x}", shown(addr))
    }

    /// Prints a call that returns an address. What it put outside the arena goes again.
    fn address(&mut self, text: &str, result: *mut c_void, len: u64) {
        let addr = result as u64;
        if result == libc::MAP_FAILED {
            self.trace.call(text, -1);
            return;
        }
        self.trace.line(&format!("{text} = {}", shown(addr)));
        if !(ARENA..ARENA + PAGES * PAGE).contains(&addr) {
            // SAFETY: it was mapped just now.
            ok(unsafe { libc::munmap(result, len as usize) });
        }
    }

    fn mmap(&mut self, random: &mut Random) {
        let addr = Self::addr(random);
        let len = Self::len(random, addr);
        let mut flags = random.pick(&[1, 2, 2, 2, 1, 3, 0, 4]);
        if !random.one_in(12) {
            flags = random.pick(&[1, 2]);
        }
        flags |= random.pick(&[libc::MAP_FIXED, libc::MAP_FIXED, 0, libc::MAP_FIXED_NOREPLACE]);
        flags |= random.flags(&[libc::MAP_ANONYMOUS], 2);
        flags |= random.flags(
            &[libc::MAP_POPULATE, libc::MAP_NORESERVE, libc::MAP_LOCKED, libc::MAP_STACK],
            10,
        );
        flags |= random.flags(
            &[libc::MAP_GROWSDOWN, libc::MAP_NONBLOCK, libc::MAP_DENYWRITE, 1 << 24, 0x8_0000],
            30,
        );
        if addr + len.min(1 << 60) > ARENA + PAGES * PAGE || addr < ARENA {
            flags &= !libc::MAP_FIXED;
        }
        let mut prot = random.pick(PROTS);
        let file = if random.one_in(4) { 7.min(random.below(9)) } else { 3 * random.below(2) };
        let offset = match random.below(20) {
            0 => 100,
            1 => i64::MAX & !0xfff,
            2 => -4096,
            n => (n as i64 % 5) * PAGE as i64,
        };
        if (file == 3 || file == 4) && flags & 1 != 0 {
            // What a sealed file is good for changed with Linux 6.7.
            prot |= libc::PROT_WRITE;
        }
        let text =
            format!("mmap {} {prot:x} {flags:x} file{file} {offset:x}", Self::text(addr, len));
        let fd = self.files[file as usize];
        // SAFETY: MAP_FIXED is only used in the arena, where nothing else is.
        let result =
            unsafe { libc::mmap(addr as *mut c_void, len as usize, prot, flags, fd, offset) };
        self.address(&text, result, len);
        if result == libc::MAP_FAILED && flags & libc::MAP_FIXED != 0 && (file == 3 || file == 4) {
            // Whether what was there is gone when a seal forbids it differs between Linux's versions.
            // SAFETY: only the arena has fixed mappings.
            unsafe { libc::munmap(addr as *mut c_void, len as usize) };
        }
    }

    fn mremap(&mut self, random: &mut Random) {
        let old = Self::addr(random);
        let old_len = Self::len(random, old);
        let new = Self::addr(random);
        let new_len = Self::len(random, new);
        let flags = random.pick(&[0, 1, 1, 3, 3, 3, 3, 5, 7, 2, 4, 8]);
        // Without a place of its own it could grow out of the arena.
        let inside = flags & 2 != 0 || old.saturating_add(new_len) <= ARENA + PAGES * PAGE;
        let (old, old_len) = if inside { (old, old_len) } else { (ARENA + 3, PAGE) };
        let text =
            format!("mremap {} {flags} to {}", Self::text(old, old_len), Self::text(new, new_len));
        let (from, to) = (old as *mut c_void, new as *mut c_void);
        // SAFETY: what it moves lies in the arena.
        let result = unsafe { libc::mremap(from, old_len as usize, new_len as usize, flags, to) };
        self.address(&text, result, new_len);
    }

    fn change(&mut self, random: &mut Random) {
        let addr = Self::addr(random);
        let len = Self::len(random, addr);
        let (p, n) = (addr as *mut c_void, len as usize);
        let shown = Self::text(addr, len);
        // SAFETY: only the arena changes.
        unsafe {
            let (text, result) = match random.below(12) {
                0 | 1 => ("munmap".to_string(), libc::munmap(p, n)),
                2..=4 => {
                    let mut prot = random.pick(PROTS);
                    prot |= random.flags(&[0x40, libc::PROT_GROWSDOWN, libc::PROT_GROWSUP], 30);
                    (format!("mprotect {prot:x}"), libc::mprotect(p, n, prot))
                }
                5..=7 => {
                    // The rest of the program is not to be advised.
                    let n = if len >= 1 << 48 { PAGE as usize } else { n };
                    let advice = random.pick(&[
                        0, 1, 2, 3, 4, 4, 8, 9, 9, 10, 10, 11, 12, 13, 14, 15, 16, 17, 18, 18, 19,
                        20, 21, 22, 22, 23, 23, 24, 5, 7, 26, 99, 200, -1,
                    ]);
                    let result = libc::madvise(p, n, advice);
                    self.trace.call(&format!("madvise {shown} {advice}"), result);
                    if advice == libc::MADV_FREE && result == 0 {
                        // When the pages go is the kernel's affair.
                        libc::madvise(p, n, libc::MADV_DONTNEED);
                    }
                    return;
                }
                8 => {
                    let flags = random.pick(&[0, 1, 2, 4, 5, 6, 4, 4, 8]);
                    (format!("msync {flags}"), libc::msync(p, n, flags))
                }
                9 => match random.below(5) {
                    0 => ("mlock".to_string(), libc::mlock(p, n)),
                    1 | 2 => ("munlock".to_string(), libc::munlock(p, n)),
                    _ => {
                        let flags = random.pick(&[0, 1, 2]);
                        let result = libc::syscall(libc::SYS_mlock2, p, n, flags);
                        (format!("mlock2 {flags}"), result as i32)
                    }
                },
                _ => {
                    let mut pages = [0_u8; PAGES as usize + 1];
                    let result = libc::mincore(p, n, pages.as_mut_ptr());
                    let resident: String =
                        pages.iter().map(|p| char::from(b'0' + (p & 1))).collect();
                    (format!("mincore {resident}"), result)
                }
            };
            self.trace.call(&format!("{text} {shown}"), result);
        }
    }

    fn touch(&mut self, random: &mut Random) {
        let addr = match random.below(50) {
            0 => 0,
            1 => 1 << 47,
            2 => !7,
            3 => 1 << 52,
            4 => 0xffff_0000_0000_0000,
            _ => ARENA + random.below(PAGES) * PAGE + random.pick(&[0, 1, 4095]),
        };
        let write = random.one_in(2).then(|| random.below(256) as u8);
        let result = access(addr, write);
        self.trace.line(&format!("touch {} {write:?} = {result}", shown(addr)));
    }

    /// Calls that the kernel passes a buffer in the arena.
    fn copy(&mut self, random: &mut Random) {
        let page = random.below(PAGES);
        // How much of a block of 64 bytes is copied before a fault in its middle is nobody's promise.
        let at = ARENA + page * PAGE + random.pick(&[0, 64, 4032]);
        let room = ARENA + PAGES * PAGE - at;
        let len = random.pick(&[1, 10, 5000, 9000]).min(room);
        let (fd, offset) = (self.files[3], random.pick(&[0, 128, 8192, 20_480]));
        let (p, n) = (at as *mut c_void, len as usize);
        // SAFETY: the arena is ours; addresses where nothing is give EFAULT.
        unsafe {
            let (text, result) = match random.below(4) {
                0 => ("pread", libc::pread(fd, p, n, offset)),
                1 => ("pwrite", libc::pwrite(fd, p, n, offset)),
                2 => ("read zeros into", libc::read(self.files[6], p, n)),
                _ => ("getcwd", libc::syscall(libc::SYS_getcwd, p, n) as isize),
            };
            self.trace.call(&format!("{text} {} {offset}", Self::text(at, len)), result as i64);
        }
    }

    fn file(&mut self, random: &mut Random) {
        let slot = random.pick(&[0, 3, 3, 4]);
        let fd = self.files[slot];
        let at = random.pick(&[0, 1, 4096, 5000, 8192, 14_000, 20_480]);
        // SAFETY: plain calls.
        unsafe {
            let (text, result) = match random.below(6) {
                0..=2 => (format!("ftruncate {at}"), libc::ftruncate(fd, at)),
                3 => {
                    let mode = random.pick(&[0, 1, 3]);
                    let len = random.pick(&[1, 4096, 10_000]);
                    (format!("fallocate {mode} {at} {len}"), libc::fallocate(fd, mode, at, len))
                }
                4 if slot == 3 && random.one_in(3) => {
                    // Seals are for ever: another file takes over.
                    let new = ok(libc::memfd_create(c"m".as_ptr(), libc::MFD_ALLOW_SEALING));
                    ok(libc::dup2(new, fd));
                    ok(libc::close(new));
                    ("new".into(), libc::ftruncate(fd, 3 * PAGE as i64 + 100))
                }
                4 => {
                    let seals = random.pick(&[0, 2, 4, 8, 16, 32, 1, 2 | 4, 64]);
                    (format!("seal {seals}"), libc::fcntl(fd, libc::F_ADD_SEALS, seals))
                }
                _ => ("seals".into(), libc::fcntl(fd, libc::F_GET_SEALS)),
            };
            self.trace.call(&format!("file{slot} {text}"), result);
        }
    }

    /// A child sees, and changes, its copy.
    fn fork(&mut self, random: &mut Random) {
        let touched: Vec<(u64, u8)> =
            (0..6).map(|_| (random.below(PAGES), random.below(256) as u8)).collect();
        self.contents("before fork");
        let pid = child(|| {
            self.show();
            self.contents("child");
            for (page, byte) in touched {
                let result = access(ARENA + page * PAGE + 2, Some(byte));
                self.trace.line(&format!("child touch {page} {byte} = {result}"));
            }
            self.contents("child");
            0
        });
        let status = wait(pid);
        self.trace.line(&format!("child {status:x}"));
        self.contents("after fork");
    }

    /// One byte of every page that can be read.
    fn contents(&mut self, when: &str) {
        let mut text = String::new();
        for range in ranges() {
            if !range.rights.starts_with('r') {
                continue;
            }
            for page in page_of(range.start).max(0)..page_of(range.end).min(PAGES as i64) {
                let at = ARENA + page as u64 * PAGE;
                text += &format!(" {page}:{},{}", access(at, None), access(at + 2, None));
            }
        }
        self.trace.line(&format!("{when}{text}"));
    }

    fn show(&mut self) {
        for range in ranges() {
            let (start, end) = (page_of(range.start), page_of(range.end));
            let no_file = range.name.is_empty() || range.name == "/dev/zero";
            let offset = if no_file { 0 } else { range.offset };
            let Range { rights, name, .. } = range;
            self.trace.line(&format!("  {start}-{end} {rights} {offset:x} {name}"));
        }
    }

    fn all(&mut self, random: &mut Random) {
        let limit = random.pick(&[0, 8 * PAGE, 1 << 30]);
        // SAFETY: plain calls.
        unsafe {
            match random.below(6) {
                0 => {
                    let flags = random.pick(&[0, 1, 2, 4, 5, 6, 8]);
                    let result = libc::mlockall(flags);
                    self.trace.call(&format!("mlockall {flags}"), result);
                    self.trace.call("munlockall", libc::munlockall());
                }
                1 | 2 => {
                    self.user ^= USER;
                    ok(libc::setresuid(!0, self.user, !0));
                    self.trace.line(&format!("user {}", self.user));
                }
                3 => {
                    let limit = libc::rlimit { rlim_cur: limit, rlim_max: 1 << 30 };
                    let result = libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit);
                    self.trace.call(&format!("memlock {:x}", limit.rlim_cur), result);
                }
                _ => {
                    let base = libc::syscall(libc::SYS_brk, 0);
                    let by = random.pick(&[1, 4096, 10_000, 1 << 47, -1 << 40]);
                    let grown = libc::syscall(libc::SYS_brk, base + by) - base;
                    let back = libc::syscall(libc::SYS_brk, base) - base;
                    self.trace.line(&format!("brk {by} = {grown} {back}"));
                }
            }
        }
    }

    fn start(&mut self) {
        for (i, fd) in self.files.iter().enumerate() {
            if [0, 3, 4].contains(&i) {
                let bytes: Vec<u8> = (0..3 * PAGE + 100).map(|i| (i / 100) as u8).collect();
                // SAFETY: the buffer is there.
                let n = unsafe { libc::pwrite(*fd, bytes.as_ptr().cast(), bytes.len(), 0) };
                self.trace.line(&format!("file{i} {n}"));
            }
        }
    }
}

fn main() {
    let (calls, mut random) = arguments(2000);
    enter_files();
    // SAFETY: plain calls; the handler has the form that SA_SIGINFO asks for.
    let files = unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            ok(libc::sigaction(signal, &action, null_mut()));
        }
        libc::umask(0);
        let open = |flags| ok(libc::open(c"file".as_ptr(), flags | libc::O_CREAT, 0o666));
        let memfd = || ok(libc::memfd_create(c"m".as_ptr(), libc::MFD_ALLOW_SEALING));
        [
            open(libc::O_RDWR),
            open(libc::O_RDONLY),
            open(libc::O_WRONLY),
            memfd(),
            memfd(),
            ok(libc::open(c".".as_ptr(), libc::O_RDONLY)),
            ok(libc::open(c"/dev/zero".as_ptr(), libc::O_RDWR)),
            -1,
        ]
    };
    let mut state = State { trace: Trace::default(), files, user: 0 };
    state.start();
    for _ in 0..calls {
        match random.below(40) {
            0..=9 => state.mmap(&mut random),
            10..=14 => state.mremap(&mut random),
            15..=26 => state.change(&mut random),
            27..=31 => state.touch(&mut random),
            32 | 33 => state.copy(&mut random),
            34..=36 => state.file(&mut random),
            37 if random.one_in(3) => state.fork(&mut random),
            37 => state.contents("contents"),
            38 => state.show(),
            _ => state.all(&mut random),
        }
    }
    state.show();
}
