//! Random mounts, moves, changes of propagation and unmounts in two mount namespaces whose mounts are each
//! other's peers, then in one that a less privileged user namespace owns: every result, and every line of
//! /proc/self/mountinfo, is Linux's. `same_mounts [CALLS [SEED]]`.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Write as _;
use std::ptr::null;

use belljar_guest_tests::ok;
use belljar_guest_tests::same::{Random, Trace, arguments};

const BASE: &str = "/tmp/same";
/// Most mounts before all begins anew.
const MOST: usize = 12;
const PLACES: &[&str] = &["a", "b", "c", "a/x", "b/x", "c/x", "a/x/y", ""];
/// What a mount itself can be told.
const MOUNT_FLAGS: &[u64] =
    &[libc::MS_RDONLY, libc::MS_NOSUID, libc::MS_NODEV, libc::MS_NOEXEC, libc::MS_NOATIME];

fn place(random: &mut Random) -> CString {
    let name = random.pick(PLACES);
    let missing = if random.one_in(20) { "/none" } else { "" };
    CString::new(format!("{BASE}/{name}{missing}")).unwrap()
}

fn some_flags(random: &mut Random) -> u64 {
    MOUNT_FLAGS.iter().filter(|_| random.one_in(4)).fold(0, |all, flag| all | flag)
}

/// Numbers as they appear for the first time, instead of those that a kernel happens to give.
#[derive(Default)]
struct Numbers(BTreeMap<String, usize>);

impl Numbers {
    fn of(&mut self, raw: &str) -> usize {
        let next = self.0.len() + 1;
        *self.0.entry(raw.to_string()).or_insert(next)
    }
}

/// A line of mountinfo.
struct Mount<'a> {
    id: &'a str,
    parent: &'a str,
    at: &'a str,
    words: Vec<&'a str>,
}

/// The mounts below the base, each before what is on it: a kernel may keep them in any order.
fn mounts() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut all = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let [id, parent, _, _, at, ..] = words[..]
            && at.starts_with(BASE)
        {
            all.push(Mount { id, parent, at, words });
        }
    }
    all.sort_by_key(|mount| mount.at);
    let tops = all.iter().filter(|mount| !all.iter().any(|other| other.id == mount.parent));
    let (mut lines, mut numbers) = (Vec::new(), <[Numbers; 2]>::default());
    for top in tops {
        show(&all, top, 0, &mut lines, &mut numbers);
    }
    if lines.len() != all.len() {
        lines.push(format!("{} mounts are on themselves", all.len() - lines.len()));
    }
    lines
}

fn show(
    all: &[Mount<'_>],
    mount: &Mount<'_>,
    depth: usize,
    lines: &mut Vec<String>,
    numbers: &mut [Numbers; 2],
) {
    let [devices, groups] = numbers;
    let [_, _, device, root, at, flags, rest @ ..] = &mount.words[..] else { return };
    let mut shown = format!("{:depth$}{} {root} {at} {flags}", "", devices.of(device));
    for word in rest {
        let _ = match word.split_once(':') {
            Some((tag @ ("shared" | "master" | "propagate_from"), group)) => {
                write!(shown, " {tag}:{}", groups.of(group))
            }
            _ => write!(shown, " {word}"),
        };
    }
    lines.push(shown);
    for child in all.iter().filter(|child| child.parent == mount.id && child.id != mount.id) {
        show(all, child, depth + 1, lines, numbers);
    }
}

fn one(trace: &mut Trace, random: &mut Random) {
    let (from, to) = (place(random), place(random));
    let none = null::<libc::c_char>();
    let (f, t) = (from.as_ptr(), to.as_ptr());
    let rec = random.pick(&[0, libc::MS_REC]);
    // SAFETY: the names are strings.
    unsafe {
        let (text, result) = match random.below(20) {
            0..=2 => {
                let flags = some_flags(random);
                let kind = c"tmpfs".as_ptr();
                let result = libc::mount(c"t".as_ptr(), t, kind, flags, none.cast());
                (format!("tmpfs {flags:x} {to:?}"), result)
            }
            3..=5 => {
                let flags = libc::MS_BIND | rec;
                let text = format!("bind {rec:x} {from:?} {to:?}");
                (text, libc::mount(f, t, none, flags, none.cast()))
            }
            6 | 7 => {
                let result = libc::mount(f, t, none, libc::MS_MOVE, none.cast());
                (format!("move {from:?} {to:?}"), result)
            }
            8..=10 => {
                let kind = random.pick(&[
                    libc::MS_SHARED,
                    libc::MS_PRIVATE,
                    libc::MS_SLAVE,
                    libc::MS_UNBINDABLE,
                    libc::MS_SHARED,
                    libc::MS_SLAVE | libc::MS_SHARED,
                ]);
                let result = libc::mount(none, t, none, kind | rec, none.cast());
                (format!("propagation {kind:x} {rec:x} {to:?}"), result)
            }
            11 | 12 => {
                let flags = some_flags(random) | random.pick(&[libc::MS_BIND, libc::MS_BIND, 0]);
                let result = libc::mount(none, t, none, libc::MS_REMOUNT | flags, none.cast());
                (format!("remount {flags:x} {to:?}"), result)
            }
            13 | 14 => {
                let flags =
                    random.pick(&[0, 0, libc::MNT_DETACH, libc::MNT_DETACH, libc::MNT_EXPIRE, 64]);
                (format!("umount {flags} {to:?}"), libc::umount2(t, flags))
            }
            15 => (format!("mkdir {to:?}"), libc::mkdir(t, 0o755)),
            16 => (format!("rmdir {to:?}"), libc::rmdir(t)),
            17 => (format!("rename {from:?} {to:?}"), libc::rename(f, t)),
            18 => {
                let file = CString::new(format!("{}/f", to.to_str().unwrap())).unwrap();
                let fd = libc::open(file.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600);
                if fd >= 0 {
                    libc::close(fd);
                }
                (format!("create {file:?}"), fd.min(0))
            }
            _ => {
                let mut stat = std::mem::zeroed::<libc::statvfs>();
                let result = libc::statvfs(t, &raw mut stat);
                // The last bit says that the flags are there at all.
                (format!("statvfs {to:?} {:x}", stat.f_flag & 0xfff), result)
            }
        };
        trace.call(&text, result);
    }
}

/// Makes what the calls need to find, now and then.
fn furnish() {
    for place in PLACES {
        let _ = std::fs::create_dir(format!("{BASE}/{place}"));
    }
}

/// Takes away what is mounted below the base, without telling anybody.
fn clear() {
    let none = null::<libc::c_char>();
    let base = c"/tmp/same".as_ptr();
    // SAFETY: plain calls with valid strings.
    unsafe {
        libc::mount(none, base, none, libc::MS_REC | libc::MS_PRIVATE, none.cast());
        for place in PLACES.iter().rev().filter(|place| !place.is_empty()) {
            let place = CString::new(format!("{BASE}/{place}")).unwrap();
            while libc::umount2(place.as_ptr(), libc::MNT_DETACH) == 0 {}
        }
        // What is mounted on the base itself covers the rest.
        while mounts().len() > 1 && libc::umount2(base, libc::MNT_DETACH) == 0 {}
    }
}

/// Two namespaces with a mount each below the base that are peers.
struct Pair([i32; 2]);

impl Pair {
    /// Begins with the mounts that are there now.
    fn new() -> Self {
        let none = null::<libc::c_char>();
        let (base, own) = (c"/tmp/same".as_ptr(), c"/proc/self/ns/mnt".as_ptr());
        // SAFETY: plain calls with valid strings.
        unsafe {
            let kind = c"tmpfs".as_ptr();
            ok(libc::mount(kind, base, kind, 0, none.cast()));
            ok(libc::mount(none, base, none, libc::MS_SHARED, none.cast()));
            furnish();
            let first = ok(libc::open(own, libc::O_RDONLY | libc::O_CLOEXEC));
            ok(libc::unshare(libc::CLONE_NEWNS));
            Self([first, ok(libc::open(own, libc::O_RDONLY | libc::O_CLOEXEC))])
        }
    }

    fn enter(&self, which: usize) -> i32 {
        // SAFETY: a plain call.
        unsafe { libc::setns(self.0[which], libc::CLONE_NEWNS) }
    }

    /// Ends the second namespace and leaves the first without mounts.
    fn end(self) {
        ok(self.enter(0));
        clear();
        // SAFETY: plain calls; the descriptors are ours.
        unsafe {
            libc::umount2(c"/tmp/same".as_ptr(), libc::MNT_DETACH);
            for fd in self.0 {
                libc::close(fd);
            }
        }
    }
}

fn main() {
    let (calls, mut random) = arguments(1200);
    let mut trace = Trace::default();
    let none = null::<libc::c_char>();
    // SAFETY: plain calls with valid strings.
    unsafe {
        ok(libc::unshare(libc::CLONE_NEWNS));
        libc::mkdir(c"/tmp".as_ptr(), 0o1777);
        ok(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()));
        let kind = c"tmpfs".as_ptr();
        ok(libc::mount(kind, c"/tmp".as_ptr(), kind, 0, none.cast()));
        ok(libc::mkdir(c"/tmp/same".as_ptr(), 0o777));
    }
    let mut pair = Pair::new();
    let mut shown = Vec::new();
    let privileged = calls * 2 / 3;
    for call in 0..calls {
        if call == privileged {
            // SAFETY: a plain call; nothing else runs in this process.
            let result = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) };
            trace.call("unshare the user namespace", result);
            mounts().iter().for_each(|line| trace.line(line));
        }
        if call < privileged && random.one_in(8) {
            let which = random.below(2) as usize;
            trace.call(&format!("namespace {which}"), pair.enter(which));
        }
        if random.one_in(25) {
            furnish();
        }
        one(&mut trace, &mut random);
        let now = mounts();
        if now != shown {
            now.iter().for_each(|line| trace.line(line));
            shown.clone_from(&now);
        }
        // Mounts upon mounts double with every recursive bind: they are kept few.
        if now.len() > MOST {
            if call < privileged {
                pair.end();
                pair = Pair::new();
            } else {
                clear();
            }
        }
    }
}
