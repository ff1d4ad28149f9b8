//! Core dumps: who leaves one, under which name, with what in it, and who does not (core(5)).
//!
//! PROCESS_MODEL.md, Creating, running, ending: core dump on fatal signals as an ELF core.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use belljar_guest_tests::*;

const PATTERN: &str = "/proc/sys/kernel/core_pattern";
const USES_PID: &str = "/proc/sys/kernel/core_uses_pid";
const SUID_DUMPABLE: &str = "/proc/sys/fs/suid_dumpable";
const PIPE_LIMIT: &str = "/proc/sys/kernel/core_pipe_limit";
/// Where the program that takes cores puts what it got.
const TAKEN: &str = "/tmp/core-taken";

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_ARM_TLS: u32 = 0x401;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;

fn set(path: &str, value: &str) {
    if let Err(error) = fs::write(path, value) {
        fail(&format!("{path}: {error}"));
    }
}

fn limit_cores(soft: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid limit.
    ok(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &limit) });
}

/// An empty directory that everybody may write to, as working directory.
fn fresh_dir() -> PathBuf {
    let dir = PathBuf::from("/tmp/core-dumps");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    std::env::set_current_dir(&dir).unwrap();
    dir
}

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A child that may leave cores, prepares itself and raises `signal`; its number and wait status.
fn crash(signal: i32, prepare: impl FnOnce()) -> (i32, i32) {
    let pid = child(|| {
        limit_cores(libc::RLIM_INFINITY);
        prepare();
        // SAFETY: plain calls. The runtime of Rust handles some signals.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        0
    });
    (pid, wait(pid))
}

/// A core, taken apart.
struct Core {
    bytes: Vec<u8>,
    /// Type, description.
    notes: Vec<(u32, Vec<u8>)>,
    /// Address, bytes in memory, bytes in the file, offset, flags.
    loads: Vec<[u64; 5]>,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Core {
    fn read(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let bytes =
            fs::read(path).unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())));
        check_eq!(&bytes[..4], b"\x7fELF");
        // ET_CORE, EM_AARCH64.
        check_eq!(bytes[16..20], [4, 0, 183, 0]);
        let (table, count) =
            (word(&bytes, 32) as usize, u16::from_le_bytes([bytes[56], bytes[57]]));
        let mut core = Core { bytes, notes: vec![], loads: vec![] };
        for i in 0..usize::from(count) {
            let header = core.bytes[table + i * 56..][..56].to_vec();
            let [offset, address, in_file, in_memory] = [8, 16, 32, 40].map(|at| word(&header, at));
            match half(&header, 0) {
                1 => core.loads.push([
                    address,
                    in_memory,
                    in_file,
                    offset,
                    u64::from(half(&header, 4)),
                ]),
                4 => core.parse_notes(offset as usize, in_file as usize),
                kind => fail(&format!("a program header of type {kind}")),
            }
        }
        core
    }

    fn parse_notes(&mut self, start: usize, len: usize) {
        let mut at = start;
        while at < start + len {
            let [name, desc, kind] = [0, 4, 8].map(|word| half(&self.bytes, at + word));
            let owner = &self.bytes[at + 12..][..name as usize - 1];
            check_eq!(
                owner,
                if (0x400..=0x1000).contains(&kind) { &b"LINUX"[..] } else { b"CORE" }
            );
            at += 12 + (name as usize).next_multiple_of(4);
            self.notes.push((kind, self.bytes[at..at + desc as usize].to_vec()));
            at += (desc as usize).next_multiple_of(4);
        }
        check_eq!(at, start + len);
    }

    fn all(&self, kind: u32) -> Vec<&[u8]> {
        self.notes.iter().filter(|note| note.0 == kind).map(|note| note.1.as_slice()).collect()
    }

    fn note(&self, kind: u32) -> &[u8] {
        self.all(kind).first().unwrap_or_else(|| fail(&format!("no note {kind:#x}")))
    }

    /// The mapping at an address.
    fn load(&self, address: u64) -> [u64; 5] {
        let found = self.loads.iter().find(|l| (l[0]..l[0] + l[1]).contains(&address));
        *found.unwrap_or_else(|| fail(&format!("{address:#x} is in no mapping")))
    }

    /// What lies at an address, if the core has it.
    fn memory(&self, address: u64, len: usize) -> Option<&[u8]> {
        let [start, _, in_file, offset, _] = self.load(address);
        let at = address - start;
        (at + len as u64 <= in_file).then(|| &self.bytes[(offset + at) as usize..][..len])
    }
}

/// Every signal that leaves a core does, and the others do not.
fn which_signals() {
    let dir = fresh_dir();
    let with_core = [
        libc::SIGQUIT,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGSEGV,
        libc::SIGXCPU,
        libc::SIGXFSZ,
        libc::SIGSYS,
    ];
    for signal in with_core {
        check_eq!(crash(signal, || ()).1, signal | 0x80, "signal {signal}");
        check_eq!(names(&dir), ["core"]);
        fs::remove_file("core").unwrap();
    }
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGHUP, libc::SIGUSR1] {
        check_eq!(crash(signal, || ()).1, signal, "signal {signal}");
        check!(names(&dir).is_empty());
    }
    // What waitid(2) says, and that a debugger's question is answered truly.
    let pid = child(|| {
        limit_cores(libc::RLIM_INFINITY);
        // SAFETY: a plain call.
        unsafe { libc::abort() }
    });
    // SAFETY: all zeros are a `siginfo_t`, and the place is valid.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        ok(libc::waitid(libc::P_PID, pid as u32, &mut info, libc::WEXITED));
        check_eq!(info.si_code, libc::CLD_DUMPED);
        check_eq!(info.si_status(), libc::SIGABRT);
    }
}

/// The limit: none, too little for a core at all, and one that cuts it.
fn limits() {
    let dir = fresh_dir();
    for limit in [0, 1, 4095] {
        check_eq!(crash(libc::SIGABRT, || limit_cores(limit)).1, libc::SIGABRT);
        check!(names(&dir).is_empty(), "limit {limit}");
    }
    check_eq!(crash(libc::SIGABRT, || limit_cores(8192)).1, libc::SIGABRT | 0x80);
    check!(fs::metadata("core").unwrap().len() <= 8192);
}

/// The names that patterns make.
fn patterns() {
    let dir = fresh_dir();
    let comm = fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
    let exe = std::env::current_exe().unwrap();
    let file = exe.file_name().unwrap().to_str().unwrap().to_owned();
    let whole = exe.to_str().unwrap().replace('/', "!");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let host = if host.is_empty() { "!".to_owned() } else { host };
    let cases: [(&str, &dyn Fn(i32) -> String); 7] = [
        ("c.%p.%P.%i.%I", &|pid| format!("c.{pid}.{pid}.{pid}.{pid}")),
        ("%u-%g-%s-%d", &|_| "0-0-6-1".to_owned()),
        ("%e+%f", &|_| format!("{comm}+{file}")),
        ("%E", &|_| whole.clone()),
        ("%h%%%Z%", &|_| format!("{host}%")),
        ("%c", &|_| u64::MAX.to_string()),
        ("core x", &|_| "core x".to_owned()),
    ];
    for (pattern, expected) in cases {
        set(PATTERN, pattern);
        check_eq!(fs::read_to_string(PATTERN).unwrap(), format!("{pattern}\n"));
        let (pid, status) = crash(libc::SIGABRT, || ());
        check_eq!(status, libc::SIGABRT | 0x80, "{pattern}");
        check_eq!(names(&dir), [expected(pid)], "{pattern}");
        fs::remove_file(expected(pid)).unwrap();
    }
    // A name with slashes of the program's own choice stays in its directory.
    set(PATTERN, "%e");
    let name = c"../a/b";
    // SAFETY: the name ends with NUL.
    crash(libc::SIGABRT, || unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
    });
    check_eq!(names(&dir), ["..!a!b"]);
    fs::remove_file("..!a!b").unwrap();
    set(USES_PID, "1");
    for (pattern, appended) in [("core", true), ("c%p", false), ("c%P", true)] {
        set(PATTERN, pattern);
        let (pid, _) = crash(libc::SIGABRT, || ());
        let name = pattern.replace("%p", &pid.to_string()).replace("%P", &pid.to_string());
        let name = if appended { format!("{name}.{pid}") } else { name };
        check_eq!(names(&dir), [name.as_str()]);
        fs::remove_file(name).unwrap();
    }
    set(USES_PID, "0");
    // Into another directory, and into one that is not there.
    fs::create_dir("sub").unwrap();
    set(PATTERN, "sub/core");
    check_eq!(crash(libc::SIGABRT, || ()).1, libc::SIGABRT | 0x80);
    check_eq!(names(Path::new("sub")), ["core"]);
    set(PATTERN, "/tmp/core-dumps/absent/core");
    check_eq!(crash(libc::SIGABRT, || ()).1, libc::SIGABRT);
    // What is too long is cut.
    let long = "x".repeat(200);
    set(PATTERN, &long);
    check_eq!(fs::read_to_string(PATTERN).unwrap(), format!("{}\n", &long[..127]));
    set(PATTERN, "core");
}

/// What is in the way is replaced if it can be, and never written through.
fn what_is_in_the_way() {
    let dir = fresh_dir();
    fs::write("victim", "untouched").unwrap();
    std::os::unix::fs::symlink("victim", "core").unwrap();
    check_eq!(crash(libc::SIGABRT, || ()).1, libc::SIGABRT | 0x80);
    check!(fs::symlink_metadata("core").unwrap().is_file());
    check_eq!(fs::read_to_string("victim").unwrap(), "untouched");
    // A second name keeps what it had.
    fs::remove_file("core").unwrap();
    fs::hard_link("victim", "core").unwrap();
    check_eq!(crash(libc::SIGABRT, || ()).1, libc::SIGABRT | 0x80);
    check_eq!(fs::read_to_string("victim").unwrap(), "untouched");
    let made = fs::metadata("core").unwrap();
    check_eq!((made.nlink(), made.mode() & 0o7777, made.uid()), (1, 0o600, 0));
    // A directory, a FIFO that nobody reads, somebody else's file in a sticky directory.
    fs::remove_file("core").unwrap();
    fs::create_dir("core").unwrap();
    check_eq!(crash(libc::SIGABRT, || ()).1, libc::SIGABRT);
    fs::remove_dir("core").unwrap();
    fs::write("core", "root's").unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    let other = || {
        // SAFETY: plain calls.
        unsafe {
            ok(libc::setgid(1000));
            ok(libc::setuid(1000));
            ok(libc::prctl(libc::PR_SET_DUMPABLE, 1));
        }
    };
    check_eq!(crash(libc::SIGABRT, other).1, libc::SIGABRT);
    check_eq!(fs::read_to_string("core").unwrap(), "root's");
    fs::remove_file("core").unwrap();
    check_eq!(crash(libc::SIGABRT, other).1, libc::SIGABRT | 0x80);
    let made = fs::metadata("core").unwrap();
    check_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1000, 1000, 0o600));
    // A mask that takes the owner's rights away leaves a file that nothing is written to.
    fs::remove_file("core").unwrap();
    // SAFETY: a plain call.
    let masked = || unsafe {
        libc::umask(0o200);
    };
    check_eq!(crash(libc::SIGABRT, masked).1, libc::SIGABRT);
    check_eq!(fs::metadata("core").map_or(0, |core| core.len()), 0);
}

/// Who is not dumpable leaves none, unless suid_dumpable says that root may have it.
fn dumpable() {
    let dir = fresh_dir();
    // SAFETY: plain calls.
    unsafe {
        check_eq!(libc::prctl(libc::PR_GET_DUMPABLE), 1);
        check_eq!(err(libc::prctl(libc::PR_SET_DUMPABLE, 2)), libc::EINVAL);
    }
    // SAFETY: a plain call.
    let closed = || unsafe {
        ok(libc::prctl(libc::PR_SET_DUMPABLE, 0));
    };
    check_eq!(crash(libc::SIGABRT, closed).1, libc::SIGABRT);
    check!(names(&dir).is_empty());
    // Who changed its user has what the new one must not see.
    // SAFETY: a plain call.
    let changed = || unsafe {
        ok(libc::setuid(1000));
    };
    check_eq!(crash(libc::SIGABRT, changed).1, libc::SIGABRT);
    set(SUID_DUMPABLE, "2");
    check_eq!(crash(libc::SIGABRT, changed).1, libc::SIGABRT);
    check!(names(&dir).is_empty(), "a relative name is not safe");
    set(PATTERN, "/tmp/core-dumps/%d.core");
    check_eq!(crash(libc::SIGABRT, changed).1, libc::SIGABRT | 0x80);
    let made = fs::metadata("2.core").unwrap();
    check_eq!((made.uid(), made.mode() & 0o7777), (0, 0o600));
    // It is never replaced.
    check_eq!(crash(libc::SIGABRT, changed).1, libc::SIGABRT);
    set(SUID_DUMPABLE, "1");
    check_eq!(crash(libc::SIGABRT, changed).1, libc::SIGABRT | 0x80);
    check_eq!(fs::metadata("1.core").unwrap().uid(), 1000);
    check!(fs::write(SUID_DUMPABLE, "3").is_err());
    set(SUID_DUMPABLE, "0");
    set(PATTERN, "core");
}

const THREADS: usize = 3;

/// A child with [`THREADS`] threads that wait and one that stores where nothing lies; its number.
fn crash_among_threads() -> i32 {
    let mut ends = [0; 2];
    // SAFETY: `ends` is a valid place.
    ok(unsafe { libc::pipe(ends.as_mut_ptr()) });
    child(|| {
        limit_cores(libc::RLIM_INFINITY);
        for _ in 0..THREADS {
            std::thread::spawn(move || {
                // SAFETY: plain calls with valid buffers; the second one sleeps for ever.
                unsafe {
                    libc::write(ends[1], b"x".as_ptr().cast(), 1);
                    libc::pause();
                }
            });
        }
        let mut started = [0; THREADS];
        for byte in &mut started {
            // SAFETY: a valid buffer.
            let got = unsafe { libc::read(ends[0], std::ptr::from_mut(byte).cast(), 1) };
            check_eq!(got, 1);
        }
        // Until each of them sleeps.
        let is_busy = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            let own = entry.file_name().to_str() == Some(&std::process::id().to_string());
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap();
            !own && stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" S"))
        };
        while fs::read_dir("/proc/self/task").unwrap().any(is_busy) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // SAFETY: registers that the compiler is told of; the store faults, as nothing lies there.
        unsafe {
            std::arch::asm!(
                "fmov d9, {fp}",
                "str {value}, [{place}]",
                fp = in(reg) 0x1234_5678_u64,
                value = in(reg) 0_u64,
                place = in(reg) 0x10_u64,
                out("d9") _,
            );
        }
        0
    })
}

/// Prints the core of such a child, for who wants to look at it from outside: each piece that is not all zeros in
/// hexadecimal, behind its offset.
fn emit() {
    fresh_dir();
    check_eq!(wait(crash_among_threads()), libc::SIGSEGV | 0x80);
    let core = fs::read("core").unwrap();
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (i, bytes) in core.chunks(64).enumerate().filter(|(_, b)| b.iter().any(|b| *b != 0)) {
        println!("{:x} {}", i * 64, line(bytes));
    }
    println!("{:x} ", core.len());
}

/// The content of a core: threads with their registers, signal, process, files, memory.
fn content() {
    fresh_dir();
    let memory = map(4 * 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    let untouched = map(1 << 20, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    let secret = map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    let shared = map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: the memory was just mapped; a plain call.
    unsafe {
        memory.add(4096).write_bytes(0x5a, 4096);
        secret.write_bytes(1, 4096);
        shared.write_bytes(0x77, 4096);
        ok(libc::madvise(secret.cast(), 4096, libc::MADV_DONTDUMP));
    }
    let pid = crash_among_threads();
    check_eq!(wait(pid), libc::SIGSEGV | 0x80);
    let core = Core::read("core");
    let order: Vec<u32> = core.notes.iter().map(|note| note.0).collect();
    check_eq!(order[..5], [NT_PRSTATUS, NT_PRPSINFO, NT_SIGINFO, NT_AUXV, NT_FILE]);
    let threads = core.all(NT_PRSTATUS);
    check_eq!(threads.len(), THREADS + 1);
    check_eq!(core.all(NT_FPREGSET).len(), THREADS + 1);
    check_eq!(core.all(NT_ARM_TLS).len(), THREADS + 1);
    // The one that crashed comes first.
    let first = threads[0];
    check_eq!(first.len(), 392);
    check_eq!((half(first, 0), first[12]), (libc::SIGSEGV as u32, libc::SIGSEGV as u8));
    check_eq!(half(first, 32), pid as u32);
    check_eq!(half(first, 36), std::process::id());
    // pr_sigpend; pr_fpvalid.
    check_eq!((word(first, 16), half(first, 384)), (0, 1));
    check_eq!(
        u64::from_le_bytes(core.note(NT_FPREGSET)[9 * 16..][..8].try_into().unwrap()),
        0x1234_5678
    );
    let (sp, pc) = (word(first, 112 + 31 * 8), word(first, 112 + 32 * 8));
    check!(core.memory(sp, 16).is_some(), "the stack is there");
    check_eq!(core.load(pc)[4] & 1, 1, "the program counter is in code");
    // The others wait in pause(2): in front of it again.
    for thread in &threads[1..] {
        check_eq!(half(thread, 0), libc::SIGSEGV as u32);
        check!(half(thread, 32) != pid as u32);
        check_eq!(word(thread, 16), 0, "SIGKILL is not shown");
        let x8 = word(thread, 112 + 8 * 8);
        check!([libc::SYS_ppoll as u64, libc::SYS_rt_sigsuspend as u64].contains(&x8), "{x8}");
    }
    let mut tls: Vec<&[u8]> = core.all(NT_ARM_TLS);
    tls.sort();
    tls.dedup();
    check_eq!(tls.len(), THREADS + 1);
    // The signal.
    let info = core.note(NT_SIGINFO);
    check_eq!(info.len(), 128);
    check_eq!([0, 4, 8].map(|at| half(info, at)), [libc::SIGSEGV as u32, 0, 1]);
    check_eq!(word(info, 16), 0x10);
    // The process.
    let process = core.note(NT_PRPSINFO);
    check_eq!(process.len(), 136);
    check_eq!(half(process, 24), pid as u32);
    check_eq!(half(process, 28), std::process::id());
    let comm = fs::read_to_string("/proc/self/comm").unwrap();
    check!(process[40..].starts_with(comm.trim().as_bytes()));
    let command = fs::read("/proc/self/cmdline").unwrap();
    let shown: Vec<u8> = command.iter().map(|&b| if b == 0 { b' ' } else { b }).take(79).collect();
    check!(process[56..].starts_with(&shown));
    check_eq!(core.note(NT_AUXV), fs::read("/proc/self/auxv").unwrap());
    // The files: the program itself.
    let files = core.note(NT_FILE);
    let count = word(files, 0) as usize;
    check_eq!(word(files, 8), 4096);
    let names: Vec<&[u8]> = files[16 + count * 24..].split(|&b| b == 0).collect();
    let exe = std::env::current_exe().unwrap();
    check_eq!(names.len(), count + 1);
    check!(names.contains(&exe.to_str().unwrap().as_bytes()));
    // Memory: what was written, holes between; nothing of what was never touched or is not to be there.
    let at = memory as u64;
    check_eq!(core.memory(at, 4096), Some(&[0; 4096][..]));
    check_eq!(core.memory(at + 4096, 4096), Some(&[0x5a; 4096][..]));
    check_eq!(core.memory(shared as u64, 4096), Some(&[0x77; 4096][..]));
    check_eq!(core.memory(secret as u64, 1), None);
    check_eq!(core.load(secret as u64)[1], 4096);
    let _ = untouched;
    // The program's first page is there, and the rest of its code is not.
    let code = core.load(pc);
    let start =
        core.loads.iter().find(|load| load[0] <= code[0] && load[2] == 4096 && load[4] & 2 == 0);
    check!(start.is_some_and(|load| core.bytes[load[3] as usize..].starts_with(b"\x7fELF")));
    check!(code[2] == 0 || code[2] == 4096);
}

/// What the filter lets in.
fn filter() {
    fresh_dir();
    let path = "/proc/self/coredump_filter";
    check_eq!(fs::read_to_string(path).unwrap(), "00000033\n");
    fs::write("mapped", [0x11; 8192]).unwrap();
    let file = fs::File::options().read(true).write(true).open("mapped").unwrap();
    let read_only = fs::File::open("mapped").unwrap();
    let map_file = |file: &fs::File, flags| {
        use std::os::fd::AsRawFd;
        // SAFETY: a new mapping of an open file.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ, flags, file.as_raw_fd(), 0)
        };
        check!(at != libc::MAP_FAILED);
        at as u64
    };
    let private = map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    let shared = map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: just mapped.
    unsafe {
        private.write_bytes(1, 4096);
        shared.write_bytes(1, 4096);
    }
    // With the bits that let them in. What can never be written to counts as private.
    let places = [
        (0, private as u64),
        (1, shared as u64),
        (2, map_file(&file, libc::MAP_PRIVATE)),
        (3, map_file(&file, libc::MAP_SHARED)),
        (2, map_file(&read_only, libc::MAP_SHARED)),
    ];
    for filter in 0..16_u32 {
        let text = if filter % 2 == 0 { filter.to_string() } else { format!("{filter:#x}") };
        let (_, status) = crash(libc::SIGABRT, || {
            set(path, &text);
            check_eq!(fs::read_to_string(path).unwrap(), format!("{filter:08x}\n"));
            // A child has it from its parent.
            wait_ok(child(|| {
                check_eq!(fs::read_to_string(path).unwrap(), format!("{filter:08x}\n"));
                0
            }));
        });
        check_eq!(status, libc::SIGABRT | 0x80);
        let core = Core::read("core");
        for (bit, place) in places {
            let there = core.memory(place, 1).is_some();
            check_eq!(there, filter & 1 << bit != 0, "filter {filter:#x}, bit {bit}");
        }
        fs::remove_file("core").unwrap();
    }
}

/// A program that takes cores gets the words of the pattern and the core itself, and can look at the process.
fn taken_by_a_program() {
    let dir = fresh_dir();
    let exe = std::env::current_exe().unwrap();
    let exe = exe.to_str().unwrap();
    set(PIPE_LIMIT, "1");
    set(PATTERN, &format!("|{exe} take %p %s a%%b  %c"));
    let _ = fs::remove_file(TAKEN);
    // Its limit does not matter to a program.
    let (pid, status) = crash(libc::SIGABRT, || limit_cores(0));
    check_eq!(status, libc::SIGABRT | 0x80);
    check!(names(&dir).is_empty());
    let words = fs::read_to_string(format!("{TAKEN}.words")).unwrap();
    check_eq!(words, format!("{pid} 6 a%b 0|/|0|1|{pid} dumping"));
    let core = Core::read(TAKEN);
    check_eq!(half(core.note(NT_PRSTATUS), 32), pid as u32);
    let last = core.loads.iter().map(|load| load[3] + load[2]).max().unwrap();
    check_eq!(core.bytes.len() as u64, last, "all of it came");
    // The limit of 1 is that of the program itself: who has it does not begin another.
    check_eq!(crash(libc::SIGABRT, || limit_cores(1)).1, libc::SIGABRT);
    // One that is not there, and one that does not read.
    set(PATTERN, "|/nowhere/to/be/found %p");
    check_eq!(crash(libc::SIGABRT, || ()).1, libc::SIGABRT);
    set(PIPE_LIMIT, "0");
    set(PATTERN, &format!("|{exe} refuse"));
    let status = crash(libc::SIGABRT, || ()).1;
    check_eq!(status & 0x7f, libc::SIGABRT);
    set(PATTERN, "core");
}

/// The program that takes cores: keeps what it gets.
fn take(words: &[String]) {
    let mut core = fs::File::create(TAKEN).unwrap();
    std::io::copy(&mut std::io::stdin(), &mut core).unwrap();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place; plain calls.
    let uid = unsafe {
        ok(libc::getrlimit(libc::RLIMIT_CORE, &mut limit));
        libc::getuid()
    };
    let dir = std::env::current_dir().unwrap();
    // What it takes the core of is still there to be looked at.
    let status = fs::read_to_string(format!("/proc/{}/status", words[0])).unwrap();
    let dumping = status.lines().any(|line| line == "CoreDumping:\t1");
    let said = format!(
        "{}|{}|{uid}|{}|{} {}",
        words.join(" "),
        dir.display(),
        limit.rlim_cur,
        words[0],
        if dumping { "dumping" } else { "gone" },
    );
    fs::write(format!("{TAKEN}.words"), said).unwrap();
}

/// SIGKILL ends the writing, and is what the process then died of. Other signals do not.
fn killed_while_it_dumps() {
    fresh_dir();
    let exe = std::env::current_exe().unwrap();
    set(PATTERN, &format!("|{} stall", exe.to_str().unwrap()));
    let memory = map(1 << 20, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    // SAFETY: just mapped.
    unsafe { memory.write_bytes(7, 1 << 20) };
    let pid = child(|| {
        limit_cores(libc::RLIM_INFINITY);
        std::thread::spawn(|| {
            loop {
                // SAFETY: a plain call.
                unsafe { libc::pause() };
            }
        });
        // SAFETY: a plain call.
        unsafe { libc::abort() }
    });
    let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    while !status().contains("CoreDumping:\t1") {
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut state = 0;
    // SAFETY: plain calls; `state` is valid.
    unsafe {
        ok(libc::kill(pid, libc::SIGTERM));
        check_eq!(libc::waitpid(pid, &mut state, libc::WNOHANG), 0);
        ok(libc::kill(pid, libc::SIGKILL));
    }
    check_eq!(wait(pid), libc::SIGKILL);
    set(PATTERN, "core");
}

/// A file system that is full ends the core, not more.
fn no_room() {
    let dir = fresh_dir();
    let target = c"/tmp/core-dumps";
    // SAFETY: valid strings.
    unsafe {
        let size = c"size=64k".as_ptr().cast();
        ok(libc::mount(c"none".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, size));
    }
    std::env::set_current_dir(&dir).unwrap();
    let memory = map(1 << 20, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    // SAFETY: just mapped.
    unsafe { memory.write_bytes(7, 1 << 20) };
    check_eq!(crash(libc::SIGABRT, || ()).1, libc::SIGABRT | 0x80);
    check!(fs::metadata("core").unwrap().len() > 0);
    std::env::set_current_dir("/").unwrap();
    // SAFETY: a valid string.
    unsafe { ok(libc::umount(target.as_ptr())) };
}

/// A thread other than the first crashes, after the first one ended.
fn without_the_leader() {
    fresh_dir();
    let pid = child(|| {
        limit_cores(libc::RLIM_INFINITY);
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            // SAFETY: a plain call.
            unsafe { libc::abort() };
        });
        // SAFETY: ends this thread alone.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        0
    });
    check_eq!(wait(pid), libc::SIGABRT | 0x80);
    let core = Core::read("core");
    check_eq!(core.all(NT_PRSTATUS).len(), 1);
    check!(half(core.note(NT_PRSTATUS), 32) != pid as u32);
    check_eq!(half(core.note(NT_PRPSINFO), 24), pid as u32);
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("take") => return take(&args[2..]),
        Some("refuse") => return,
        Some("emit") => return emit(),
        Some("stall") => {
            // Until whose core it is has gone.
            std::thread::sleep(Duration::from_secs(3));
            return;
        }
        _ => {}
    }
    which_signals();
    limits();
    patterns();
    what_is_in_the_way();
    dumpable();
    content();
    filter();
    without_the_leader();
    no_room();
    taken_by_a_program();
    killed_while_it_dumps();
}
