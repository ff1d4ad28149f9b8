//! inotify(7) where no program's call is what happened: groups that are populated and frozen, terminals that come
//! and go; and what the events that nobody reads cost.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use belljar_guest_tests::cgroups::*;
use belljar_guest_tests::*;

/// Bytes of an event without its name.
const HEADER: usize = 16;
/// /proc/sys/fs/inotify/max_queued_events.
const MAX_QUEUED: usize = 16384;

struct Event {
    wd: i32,
    mask: u32,
    name: String,
}

fn inotify(flags: i32) -> OwnedFd {
    // SAFETY: a new descriptor, which is nobody else's.
    unsafe { OwnedFd::from_raw_fd(ok(libc::inotify_init1(flags))) }
}

fn watch(set: &OwnedFd, path: &Path, mask: u32) -> i32 {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a valid string.
    ok(unsafe { libc::inotify_add_watch(set.as_raw_fd(), path.as_ptr(), mask) })
}

/// The events that one read(2) gives; none if there are none and nobody waits.
fn read(set: &OwnedFd) -> Vec<Event> {
    let mut buffer = vec![0_u8; 1 << 16];
    // SAFETY: memory of that length.
    let n = unsafe { libc::read(set.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if n < 0 {
        check_eq!(errno(), libc::EAGAIN);
        return Vec::new();
    }
    let mut bytes = &buffer[..n as usize];
    let mut events = Vec::new();
    while let Some((header, rest)) = bytes.split_at_checked(HEADER) {
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let (name, rest) = rest.split_at(word(12) as usize);
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_string();
        events.push(Event { wd: word(0) as i32, mask: word(4), name });
        bytes = rest;
    }
    events
}

/// Bytes that wait to be read.
fn unread(set: &OwnedFd) -> i32 {
    let mut bytes = 0;
    // SAFETY: `bytes` is valid.
    ok(unsafe { libc::ioctl(set.as_raw_fd(), libc::FIONREAD, &raw mut bytes) });
    bytes
}

/// Waits until both the file, by its own watch, and its directory have told of a change of it.
fn wait_for_change(set: &OwnedFd, file: i32, dir: i32, name: &str) {
    let (mut by_file, mut by_dir) = (false, false);
    while !(by_file && by_dir) {
        for event in read(set) {
            if event.wd == file {
                check_eq!((event.mask, event.name.as_str()), (libc::IN_MODIFY, ""));
                by_file = true;
            }
            by_dir |= event.wd == dir && event.mask == libc::IN_MODIFY && event.name == name;
        }
    }
}

fn a_group_tells_when_it_is_populated_and_when_it_is_frozen() {
    let outer = Group::new("watched", "");
    let inner = outer.child("inner");
    let (set, outside) = (inotify(0), inotify(0));
    let file = watch(&set, &inner.file("cgroup.events"), libc::IN_MODIFY);
    let dir = watch(&set, &inner.0, libc::IN_MODIFY);
    let outer_file = watch(&outside, &outer.file("cgroup.events"), libc::IN_MODIFY);
    let outer_dir = watch(&outside, &outer.0, libc::IN_MODIFY);
    let told = |value: &str, wanted: u64| {
        while inner.value("cgroup.events", value) != wanted {
            wait_for_change(&set, file, dir, "cgroup.events");
        }
        check_eq!(inner.value("cgroup.events", value), wanted);
    };
    // Nothing has happened yet: each change is waited for.
    let idle = Idle::new(|| 0);
    inner.take(idle.pid);
    wait_for_change(&set, file, dir, "cgroup.events");
    wait_for_change(&outside, outer_file, outer_dir, "cgroup.events");
    check_eq!(outer.value("cgroup.events", "populated"), 1);
    inner.set("cgroup.freeze", "1");
    told("frozen", 1);
    inner.set("cgroup.freeze", "0");
    told("frozen", 0);
    check_eq!(idle.finish(), 0);
    told("populated", 0);
    wait_for_change(&outside, outer_file, outer_dir, "cgroup.events");
    check_eq!(outer.value("cgroup.events", "populated"), 0);
}

fn terminals_are_told_of_when_they_come_and_go() {
    let place = Path::new("/tmp/terminals");
    fs::create_dir_all(place).unwrap();
    let kind = c"devpts".as_ptr();
    // SAFETY: valid strings.
    ok(unsafe {
        libc::mount(kind, c"/tmp/terminals".as_ptr(), kind, 0, c"ptmxmode=0666".as_ptr().cast())
    });
    let set = inotify(libc::IN_NONBLOCK);
    let dir = watch(&set, place, libc::IN_CREATE | libc::IN_DELETE);
    let ptmx = || fs::OpenOptions::new().read(true).write(true).open(place.join("ptmx")).unwrap();
    let (first, second) = (ptmx(), ptmx());
    let node = watch(&set, &place.join("1"), libc::IN_DELETE_SELF);
    drop(second);
    drop(first);
    let told: Vec<_> = read(&set).into_iter().map(|e| (e.wd, e.mask, e.name)).collect();
    let expected = [
        (dir, libc::IN_CREATE, "0"),
        (dir, libc::IN_CREATE, "1"),
        (dir, libc::IN_DELETE, "1"),
        (node, libc::IN_DELETE_SELF, ""),
        (node, libc::IN_IGNORED, ""),
        (dir, libc::IN_DELETE, "0"),
    ];
    let mut told: Vec<_> =
        told.iter().map(|(wd, mask, name)| (*wd, *mask, name.as_str())).collect();
    // Whether the node goes before its name is told of is nobody's business.
    told.sort();
    let mut expected = expected.to_vec();
    expected.sort();
    check_eq!(told, expected);
    drop(set);
    // SAFETY: a valid string.
    ok(unsafe { libc::umount2(c"/tmp/terminals".as_ptr(), 0) });
}

/// Events count for the group of who made the inotify file, whoever makes things happen; at its limit they are lost,
/// and nobody is killed.
fn what_nobody_reads_counts_for_the_group_of_the_watcher() {
    let limit = 4 << 20;
    let group = Group::new("queued", "memory");
    group.set("memory.max", &limit.to_string());
    let place = Path::new("/tmp/queued");
    fs::create_dir_all(place).unwrap();
    let files = ["a", "b"].map(|name| fs::File::create(place.join(name.repeat(250))).unwrap());
    for file in &files {
        file.write_all_at(b"x", 0).unwrap();
    }
    group.set("cgroup.procs", "0");
    let sets = [(); 3].map(|()| inotify(libc::IN_NONBLOCK));
    for set in &sets {
        watch(set, place, libc::IN_MODIFY);
    }
    check_eq!(put(root().join("cgroup.procs"), "0"), 0);
    // Until nothing more comes to be queued; each attempt after that may take long.
    let mut before = 0;
    for at in 1..=MAX_QUEUED {
        files[at % 2].write_all_at(b"x", 0).unwrap();
        if at % 64 == 0 {
            let now = sets.iter().map(unread).sum::<i32>();
            if now == before {
                break;
            }
            before = now;
        }
    }
    let current = || group.get("memory.current").parse::<u64>().unwrap();
    check!((limit / 2..=limit).contains(&current()), "{}", current());
    for set in &sets {
        let mut events = Vec::new();
        loop {
            let more = read(set);
            if more.is_empty() {
                break;
            }
            events.extend(more);
        }
        check!(events.len() < MAX_QUEUED, "{}", events.len());
        let lost = events.iter().filter(|event| event.mask == libc::IN_Q_OVERFLOW).count();
        check!(lost >= 1);
    }
    drop(sets);
    check!(current() < limit / 2, "{}", current());
    check_eq!(group.value("memory.events", "oom_kill"), 0);
}

fn main() {
    a_group_tells_when_it_is_populated_and_when_it_is_frozen();
    terminals_are_told_of_when_they_come_and_go();
    what_nobody_reads_counts_for_the_group_of_the_watcher();
}
