//! Random calls on a small tree of files that two inotify files watch: every result and every event, in its order,
//! is Linux's. `same_inotify [CALLS [SEED]]`.

use std::ffi::CString;

use belljar_guest_tests::same::{Random, Trace, arguments, enter_files};
use belljar_guest_tests::{errno, ok};

/// Open files that the calls choose from.
const SLOTS: usize = 5;
/// Files of inotify_init1(2).
const SETS: usize = 2;
/// Bytes of an event without its name.
const HEADER: usize = 16;
const MASKS: &[u32] = &[
    libc::IN_ALL_EVENTS,
    libc::IN_ALL_EVENTS,
    libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVE,
    libc::IN_CLOSE | libc::IN_OPEN,
    libc::IN_MODIFY | libc::IN_ATTRIB,
    libc::IN_DELETE_SELF | libc::IN_MOVE_SELF,
    libc::IN_ACCESS,
    0,
    1 << 20,
];
const HOW: &[i32] = &[
    libc::IN_ONLYDIR as i32,
    libc::IN_DONT_FOLLOW as i32,
    libc::IN_EXCL_UNLINK as i32,
    libc::IN_MASK_CREATE as i32,
    libc::IN_MASK_ADD as i32,
    libc::IN_ONESHOT as i32,
    libc::IN_ISDIR as i32,
];

/// A path of one to three names.
fn path(random: &mut Random) -> CString {
    let mut text = random.pick(&["a", "b", "c", "d", "m"]).to_string();
    for _ in 0..random.pick(&[0, 0, 1, 1, 2]) {
        text += random.pick(&["/a", "/b", "/c", "/a_name_of_more_than_15_bytes"]);
    }
    CString::new(text).unwrap()
}

struct State {
    trace: Trace,
    slots: [i32; SLOTS],
    sets: [i32; SETS],
    /// The cookies that were seen, in their order.
    cookies: Vec<u32>,
}

impl State {
    fn slot(&self, random: &mut Random) -> (usize, i32) {
        let slot = random.below(SLOTS as u64) as usize;
        (slot, self.slots[slot])
    }

    fn open(&mut self, random: &mut Random) {
        let (slot, old) = self.slot(random);
        if old >= 0 {
            // SAFETY: a plain call.
            let closed = unsafe { libc::close(old) };
            self.trace.call(&format!("close {slot}"), closed);
            self.drain();
        }
        let name = path(random);
        let flags = random.pick(&[libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR])
            | random.flags(&[libc::O_CREAT, libc::O_TRUNC, libc::O_APPEND], 2)
            | random.flags(&[libc::O_EXCL, libc::O_DIRECTORY, libc::O_PATH], 8)
            // A FIFO is not waited for.
            | libc::O_NONBLOCK;
        // SAFETY: a valid string.
        let fd = unsafe { libc::open(name.as_ptr(), flags, 0o644) };
        let shown = if fd < 0 { fd } else { 0 };
        self.trace.call(&format!("open {name:?} {flags:o} in {slot}"), shown);
        self.slots[slot] = fd;
    }

    fn through_descriptor(&mut self, random: &mut Random) {
        let (slot, fd) = self.slot(random);
        let (other, to) = self.slot(random);
        let mut buffer = [7_u8; 64];
        let (at, len) = (buffer.as_mut_ptr().cast(), random.pick(&[0, 1, 10, 64]));
        let size = len as i64;
        // SAFETY: plain calls with memory of that length.
        let (text, result) = unsafe {
            match random.below(12) {
                0 => ("read", libc::read(fd, at, len) as i64),
                1 => ("write", libc::write(fd, at, len) as i64),
                2 => ("pread", libc::pread(fd, at, len, 0) as i64),
                3 => ("pwrite", libc::pwrite(fd, at, len, 0) as i64),
                4 => ("ftruncate", libc::ftruncate(fd, size).into()),
                5 => ("fallocate", libc::fallocate(fd, 0, 0, size).into()),
                6 => ("fchmod", libc::fchmod(fd, random.pick(&[0o600, 0o644])).into()),
                7 => ("fchown", libc::fchown(fd, 0, 0).into()),
                8 => ("lseek", libc::lseek(fd, 0, libc::SEEK_SET)),
                9 => ("sendfile", libc::sendfile(to, fd, std::ptr::null_mut(), len) as i64),
                10 => {
                    let mut entries = [0_u8; 4096];
                    let n = libc::syscall(libc::SYS_getdents64, fd, entries.as_mut_ptr(), 4096);
                    ("getdents64", n.min(0))
                }
                _ => {
                    let none = std::ptr::null_mut();
                    ("copy_file_range", libc::copy_file_range(fd, none, to, none, len, 0) as i64)
                }
            }
        };
        self.trace.call(&format!("{text} {slot} {len} (to {other})"), result);
    }

    fn through_name(&mut self, random: &mut Random) {
        let (name, second) = (path(random), path(random));
        let (one, two) = (name.as_ptr(), second.as_ptr());
        let times =
            |atime, mtime| [atime, mtime].map(|tv_nsec| libc::timespec { tv_sec: 1, tv_nsec });
        // SAFETY: plain calls with valid strings and memory.
        let (text, result) = unsafe {
            match random.below(14) {
                0 | 1 => ("mkdir", libc::mkdir(one, 0o755)),
                2 => ("rmdir", libc::rmdir(one)),
                3 | 4 => ("unlink", libc::unlink(one)),
                5 => ("link", libc::link(one, two)),
                6 => ("symlink", libc::symlink(one, two)),
                7 => ("rename", libc::rename(one, two)),
                8 => {
                    let flags = random.pick(&[libc::RENAME_EXCHANGE, libc::RENAME_NOREPLACE]);
                    let here = libc::AT_FDCWD;
                    (
                        "renameat2",
                        libc::syscall(libc::SYS_renameat2, here, one, here, two, flags) as i32,
                    )
                }
                9 => ("truncate", libc::truncate(one, random.pick(&[0, 0, 100]))),
                10 => ("chmod", libc::chmod(one, random.pick(&[0o700, 0o755]))),
                11 => {
                    let set = times(
                        random.pick(&[0, libc::UTIME_OMIT, libc::UTIME_NOW]),
                        random.pick(&[0, libc::UTIME_OMIT, libc::UTIME_NOW]),
                    );
                    ("utimensat", libc::utimensat(libc::AT_FDCWD, one, set.as_ptr(), 0))
                }
                12 => ("mkfifo", libc::mkfifo(one, 0o644)),
                _ => ("lchown", libc::lchown(one, random.pick(&[0, 1]), 0)),
            }
        };
        self.trace.call(&format!("{text} {name:?} {second:?}"), result);
    }

    fn watch(&mut self, random: &mut Random) {
        let set = random.below(SETS as u64) as usize;
        let fd = if random.one_in(30) { self.slots[0] } else { self.sets[set] };
        if random.one_in(3) {
            let wd = random.below(12) as i32;
            // SAFETY: a plain call.
            let removed = unsafe { libc::inotify_rm_watch(fd, wd) };
            self.trace.call(&format!("inotify_rm_watch {set} {wd}"), removed);
            return;
        }
        let mask = random.pick(MASKS) | random.flags(HOW, 8) as u32;
        let name = if random.one_in(6) { c".".into() } else { path(random) };
        // SAFETY: a valid string.
        let wd = unsafe { libc::inotify_add_watch(fd, name.as_ptr(), mask) };
        self.trace.call(&format!("inotify_add_watch {set} {name:?} {mask:x}"), wd);
    }

    fn mount(&mut self, random: &mut Random) {
        let (kind, name) = (c"tmpfs".as_ptr(), path(random));
        // SAFETY: plain calls with valid strings.
        let (text, result) = unsafe {
            match random.below(2) {
                0 => ("mount", libc::mount(kind, name.as_ptr(), kind, 0, std::ptr::null())),
                _ => ("umount", libc::umount2(name.as_ptr(), 0)),
            }
        };
        self.trace.call(&format!("{text} {name:?}"), result);
    }

    /// Prints all events that there are.
    fn drain(&mut self) {
        for set in 0..SETS {
            let fd = self.sets[set];
            let mut waiting = 0;
            // SAFETY: `waiting` is valid.
            ok(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut waiting) });
            let mut buffer = [0_u8; 4096];
            let mut read = 0;
            loop {
                // SAFETY: memory of that length.
                let n = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
                if n < 0 {
                    belljar_guest_tests::check_eq!(errno(), libc::EAGAIN);
                    break;
                }
                read += n as i32;
                self.show(set, &buffer[..n as usize]);
            }
            belljar_guest_tests::check_eq!(read, waiting);
        }
    }

    fn show(&mut self, set: usize, mut bytes: &[u8]) {
        while let Some((header, rest)) = bytes.split_at_checked(HEADER) {
            let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
            let (wd, mask, cookie, len) = (word(0) as i32, word(4), word(8), word(12) as usize);
            let (name, rest) = rest.split_at(len);
            let text = String::from_utf8_lossy(name);
            let text = text.trim_end_matches('\0');
            // Which move it was, counted from the first; others may move things meanwhile.
            let moved = match cookie {
                0 => String::new(),
                _ => format!(" move {}", self.number_of(cookie)),
            };
            self.trace.line(&format!("  {set}: {wd} {mask:x} {text:?} {len}{moved}"));
            bytes = rest;
        }
    }

    fn number_of(&mut self, cookie: u32) -> usize {
        let known = self.cookies.iter().position(|other| *other == cookie);
        known.unwrap_or_else(|| {
            self.cookies.push(cookie);
            self.cookies.len() - 1
        })
    }
}

fn main() {
    let (calls, mut random) = arguments(4000);
    enter_files();
    // SAFETY: plain calls.
    let sets = [(); SETS].map(|()| ok(unsafe { libc::inotify_init1(libc::IN_NONBLOCK) }));
    let mut state =
        State { trace: Trace::default(), slots: [-1; SLOTS], sets, cookies: Vec::new() };
    for _ in 0..calls {
        match random.below(20) {
            0..=5 => state.open(&mut random),
            6..=9 => state.through_descriptor(&mut random),
            10..=15 => state.through_name(&mut random),
            16..=18 => state.watch(&mut random),
            _ => state.mount(&mut random),
        }
        state.drain();
    }
}
