//! /proc/PID/smaps and smaps_rollup: what each mapping has in memory, alone or with others.
//!
//! PROCESS_MODEL.md, /proc.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;

use belljar_guest_tests::{check, check_eq, child, map, ok, wait_ok};

const PAGE: usize = 4096;
const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;

type Fields = BTreeMap<String, u64>;

/// The numbers of some lines, and the flags.
fn fields(lines: &str) -> (Fields, String) {
    let mut fields = Fields::new();
    let mut flags = String::new();
    for line in lines.lines() {
        let Some((title, value)) = line.split_once(':') else { continue };
        if title == "VmFlags" {
            flags = value.to_string();
        } else if let Some(kib) = value.split_whitespace().next().and_then(|n| n.parse().ok()) {
            fields.insert(title.to_string(), kib);
        }
    }
    (fields, flags)
}

/// Each mapping's first line, and the rest.
fn mappings() -> Vec<(String, Fields, String)> {
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut all: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap();
        if first.contains('-') && !first.ends_with(':') {
            all.push((line.to_string(), String::new()));
        } else {
            let rest = &mut all.last_mut().unwrap().1;
            *rest += line;
            rest.push('\n');
        }
    }
    all.into_iter()
        .map(|(head, rest)| {
            let (fields, flags) = fields(&rest);
            (head, fields, flags)
        })
        .collect()
}

/// What is said of the mapping at `at`.
fn at(at: *const u8) -> (Fields, String) {
    let start = format!("{:08x}-", at as usize);
    let found = mappings().into_iter().find(|(head, ..)| head.starts_with(&start));
    let (_, fields, flags) = found.unwrap();
    (fields, flags)
}

fn has(flags: &str, wanted: &[&str]) -> bool {
    wanted.iter().all(|flag| flags.split_whitespace().any(|there| there == *flag))
}

fn touch(at: *mut u8, pages: std::ops::Range<usize>) {
    for page in pages {
        // SAFETY: within the mapping.
        unsafe { at.add(page * PAGE).write_volatile(1) };
    }
}

/// A mapping of its own, with nothing beside it that it could become one with.
fn alone(len: usize, prot: i32, flags: i32) -> *mut u8 {
    let around = map(len + 2 * PAGE, libc::PROT_NONE, libc::MAP_PRIVATE);
    // SAFETY: within what was just mapped.
    unsafe {
        let at = around.add(PAGE);
        let flags = flags | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        check!(libc::mmap(at.cast(), len, prot, flags, -1, 0) == at.cast());
        at
    }
}

fn private_memory() {
    let p = alone(10 * PAGE, WRITABLE, libc::MAP_PRIVATE);
    touch(p, 0..4);
    // Reading alone takes no memory.
    // SAFETY: within the mapping.
    unsafe { p.add(7 * PAGE).read_volatile() };
    let (f, flags) = at(p);
    check_eq!((f["Size"], f["Rss"], f["Pss"]), (40, 16, 16));
    check_eq!((f["Private_Dirty"], f["Anonymous"], f["Shared_Dirty"]), (16, 16, 0));
    check_eq!((f["KernelPageSize"], f["MMUPageSize"], f["Locked"]), (4, 4, 0));
    check!(has(&flags, &["rd", "wr", "mr", "mw", "me"]), "{flags}");
    check!(!has(&flags, &["sh"]) && !has(&flags, &["ex"]), "{flags}");
    // A child shares it, until one of them writes.
    wait_ok(child(|| {
        let (f, _) = at(p);
        check_eq!((f["Rss"], f["Pss"]), (16, 8));
        check_eq!((f["Shared_Dirty"], f["Private_Dirty"]), (16, 0));
        touch(p, 0..1);
        let (f, _) = at(p);
        check_eq!((f["Rss"], f["Shared_Dirty"], f["Private_Dirty"]), (16, 12, 4));
        check_eq!(f["Pss"], 10);
        0
    }));
    let (f, _) = at(p);
    check_eq!((f["Pss"], f["Private_Dirty"]), (16, 16));
    // SAFETY: the mapping is there.
    unsafe { ok(libc::mlock(p.cast(), 10 * PAGE)) };
    let (f, flags) = at(p);
    check_eq!((f["Rss"], f["Locked"]), (40, 40));
    check!(has(&flags, &["lo"]), "{flags}");
    // SAFETY: the mapping is there.
    unsafe { ok(libc::munlock(p.cast(), 10 * PAGE)) };
}

fn shared_memory() {
    let p = alone(6 * PAGE, WRITABLE, libc::MAP_SHARED);
    touch(p, 0..3);
    let (f, flags) = at(p);
    check_eq!((f["Rss"], f["Pss"], f["Private_Dirty"], f["Anonymous"]), (12, 12, 12, 0));
    check!(has(&flags, &["sh", "ms"]), "{flags}");
}

fn sums() {
    let sums = |fields: &mut dyn FnMut(&str) -> u64| {
        ["Rss", "Private_Dirty", "Shared_Dirty", "Anonymous", "Swap"].map(|title| {
            // What reading takes itself may change between two looks.
            (title, fields(title) as i64)
        })
    };
    let of_all = mappings();
    let each = sums(&mut |title| of_all.iter().map(|(_, fields, _)| fields[title]).sum());
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    check!(text.lines().next().unwrap().ends_with("[rollup]"));
    let (rollup, _) = fields(&text);
    for ((title, each), (_, sum)) in each.into_iter().zip(sums(&mut |title| rollup[title])) {
        check!((each - sum).abs() <= 256, "{title}: {each} and {sum}");
    }
    for title in ["Pss_Anon", "Pss_File", "Pss_Shmem"] {
        check!(rollup.contains_key(title), "{title}");
    }
    // The program's own text is there, as pages of a file.
    let text = of_all.iter().find(|(head, ..)| head.contains(" r-xp ")).unwrap();
    check!(text.1["Rss"] > 0 && text.1["Anonymous"] == 0);
    check!(has(&text.2, &["rd", "ex", "mr", "mw", "me"]), "{}", text.2);
}

/// As many mappings as may be are shown, each once and in order, however long that gets.
fn many() {
    const N: usize = 12_000;
    let p = alone(N * PAGE, WRITABLE, libc::MAP_PRIVATE);
    for i in (0..N).step_by(2) {
        // SAFETY: our own memory.
        unsafe { ok(libc::mprotect(p.add(i * PAGE).cast(), PAGE, libc::PROT_READ)) };
    }
    let start = p as usize;
    for name in ["/proc/self/maps", "/proc/self/smaps"] {
        let text = fs::read_to_string(name).unwrap();
        let starts =
            text.lines().filter_map(|line| usize::from_str_radix(line.split_once('-')?.0, 16).ok());
        let starts: Vec<usize> =
            starts.filter(|at| (start..start + N * PAGE).contains(at)).collect();
        check!(
            starts.iter().copied().eq((0..N).map(|i| start + i * PAGE)),
            "{name}: {}",
            starts.len()
        );
        // A place in the middle is found from before and from behind.
        let (file, other) = (fs::File::open(name).unwrap(), fs::File::open(name).unwrap());
        let (mut back, mut forth) = ([0; 64], [0; 64]);
        file.read_exact_at(&mut back, 500_000).unwrap();
        file.read_exact_at(&mut back, 100_000).unwrap();
        other.read_exact_at(&mut forth, 100_000).unwrap();
        check_eq!(back, forth, "{name}");
    }
    // SAFETY: as above.
    unsafe { ok(libc::munmap(p.cast(), N * PAGE)) };
}

fn main() {
    many();
    private_memory();
    shared_memory();
    sums();
}
