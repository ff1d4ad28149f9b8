//! Random calls on a small tree of files, by three users: every result is Linux's.
//! `same_files [CALLS [SEED]]`.

use std::ffi::CString;
use std::mem::zeroed;

use belljar_guest_tests::ok;
use belljar_guest_tests::same::{Random, Trace, arguments, enter_files};

/// Open files that the calls choose from; the lower half may be directories.
const SLOTS: usize = 6;
const MODES: &[u32] =
    &[0, 0o400, 0o644, 0o666, 0o700, 0o755, 0o777, 0o1777, 0o4755, 0o2775, 0o6777, 0o111];
const USERS: &[(u32, u32)] = &[(0, 0), (0, 0), (1000, 100), (1001, 100)];

/// A path of a few names; now and then one that no path should be.
fn path(random: &mut Random) -> CString {
    let mut text = String::new();
    if random.one_in(12) {
        text += "/";
    }
    for depth in 0..=random.pick(&[0, 0, 1, 1, 1, 2, 2, 3]) {
        if depth > 0 {
            text += random.pick(&["/", "/", "/", "//"]);
        }
        text += random.pick(&["a", "b", "c", "a", "b", "c", "a", "b", "c", ".", "..", "d"]);
    }
    if random.one_in(16) {
        text += "/";
    }
    if random.one_in(150) {
        text = random.pick(&["", "/", ".", ".."]).to_string();
    }
    if random.one_in(200) {
        text = "x".repeat(random.pick(&[255, 256]));
    }
    CString::new(text).unwrap()
}

fn stat_text(result: i32, stat: &libc::stat) -> String {
    if result < 0 {
        return format!("-{}", belljar_guest_tests::errno());
    }
    let kind = stat.st_mode & libc::S_IFMT;
    // What else takes a file system's own memory is its own affair.
    let size = if kind == libc::S_IFDIR { 0 } else { stat.st_size };
    let blocks = if kind == libc::S_IFREG { stat.st_blocks } else { 0 };
    let (mode, links, uid, gid) = (stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid);
    format!("{mode:o} {links} {uid}:{gid} {size} {blocks}")
}

struct State {
    trace: Trace,
    slots: [i32; SLOTS],
    user: usize,
}

impl State {
    /// Changes the effective user; root's real ids let it come back.
    fn become_user(&mut self, user: usize) {
        // SAFETY: plain calls.
        unsafe {
            ok(libc::setresuid(!0, 0, !0));
            ok(libc::setresgid(!0, USERS[user].1, !0));
            ok(libc::setgroups(1, &raw const USERS[user].1));
            ok(libc::setresuid(!0, USERS[user].0, !0));
        }
        self.user = user;
    }

    fn dir(&self, random: &mut Random) -> (i32, String) {
        match random.below(12) {
            0 => (self.slots[0], "slot0".to_string()),
            1 => (self.slots[1], "slot1".to_string()),
            _ => (libc::AT_FDCWD, String::new()),
        }
    }

    fn open(&mut self, random: &mut Random) {
        let (dir, shown) = self.dir(random);
        let slot = random.below(SLOTS as u64) as usize;
        let mut flags =
            random.pick(&[libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY, 3]);
        flags |= random.flags(&[libc::O_CREAT], 2);
        flags |= random.flags(
            &[
                libc::O_EXCL,
                libc::O_TRUNC,
                libc::O_APPEND,
                libc::O_NOFOLLOW,
                libc::O_PATH,
                libc::O_NONBLOCK,
            ],
            6,
        );
        flags |= random.flags(&[libc::O_DIRECTORY, libc::O_NOATIME, libc::O_CLOEXEC], 8);
        if random.one_in(40) {
            flags |= libc::O_TMPFILE;
        }
        // Fifos would wait for the other end.
        flags |= libc::O_NONBLOCK;
        let (name, mode) = (path(random), random.pick(MODES));
        // SAFETY: the name is a string; the slot's file is ours.
        unsafe {
            let fd = libc::openat(dir, name.as_ptr(), flags, mode);
            let text = format!("open slot{slot} {shown} {name:?} {flags:o} {mode:o}");
            self.trace.call(&text, fd.min(0));
            if fd >= 0 {
                if self.slots[slot] >= 0 {
                    libc::close(self.slots[slot]);
                }
                self.slots[slot] = fd;
            }
        }
    }

    fn use_file(&mut self, random: &mut Random) {
        let slot = random.below(SLOTS as u64) as usize;
        let fd = self.slots[slot];
        let mut buffer = [0_u8; 600];
        let len = random.pick(&[0, 1, 10, 600]);
        let at = random.pick(&[0, 5, 4000, 10_000, -1]);
        // SAFETY: buffers and lengths agree.
        unsafe {
            let stat = &mut zeroed::<libc::stat>();
            let (text, result) = match random.below(16) {
                0 | 1 => {
                    buffer.fill(b'a' + random.below(26) as u8);
                    (format!("write {len}"), libc::write(fd, buffer.as_ptr().cast(), len) as i64)
                }
                2 => {
                    let n = libc::read(fd, buffer.as_mut_ptr().cast(), len) as i64;
                    let sum: u64 = buffer.iter().map(|b| u64::from(*b)).sum();
                    (format!("read {len} {sum}"), n)
                }
                3 => (
                    format!("pwrite {at}"),
                    libc::pwrite(fd, buffer.as_ptr().cast(), len, at) as i64,
                ),
                4 => (
                    format!("pread {at}"),
                    libc::pread(fd, buffer.as_mut_ptr().cast(), len, at) as i64,
                ),
                5 => {
                    let whence = random.pick(&[0, 1, 2, 0, 1, 9]);
                    let n = libc::lseek(fd, at, whence);
                    // Positions in a directory are the file system's own.
                    let is_dir =
                        libc::fstat(fd, stat) == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
                    (format!("lseek {at} {whence}"), if is_dir { n.min(0) } else { n })
                }
                6 => (format!("ftruncate {at}"), i64::from(libc::ftruncate(fd, at))),
                7 => {
                    let mode = random.pick(&[0, 1, 2, 3, 16]);
                    (
                        format!("fallocate {mode} {at} {len}"),
                        i64::from(libc::fallocate(fd, mode, at, len as i64)),
                    )
                }
                8 => {
                    let mode = random.pick(MODES);
                    (format!("fchmod {mode:o}"), i64::from(libc::fchmod(fd, mode)))
                }
                9 => {
                    let (uid, gid) = random.pick(&[(0, 0), (1000, 100), (!0, 100), (1001, !0)]);
                    (format!("fchown {uid}:{gid}"), i64::from(libc::fchown(fd, uid, gid)))
                }
                10 => {
                    let result = libc::fstat(fd, stat);
                    let shown = stat_text(result, stat);
                    self.trace.line(&format!("fstat slot{slot} {shown}"));
                    return;
                }
                11 => {
                    let (cmd, arg) = random.pick(&[
                        (libc::F_GETFL, 0),
                        (libc::F_SETFL, libc::O_APPEND | libc::O_NONBLOCK),
                        (libc::F_SETFL, libc::O_NONBLOCK),
                        (libc::F_GETFD, 0),
                        (libc::F_SETFD, 1),
                        (libc::F_SETFL, libc::O_NOATIME | libc::O_NONBLOCK),
                        (libc::F_GET_SEALS, 0),
                        (libc::F_GETPIPE_SZ, 0),
                    ]);
                    (format!("fcntl {cmd} {arg}"), i64::from(libc::fcntl(fd, cmd, arg)))
                }
                12 => {
                    let op = random.pick(&[libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN, 0])
                        | libc::LOCK_NB;
                    (format!("flock {op}"), i64::from(libc::flock(fd, op)))
                }
                13 => {
                    let result = libc::fchdir(fd);
                    (format!("fchdir slot{slot}"), i64::from(result))
                }
                14 => ("fsync".to_string(), i64::from(libc::fsync(fd))),
                _ => {
                    let result = libc::close(fd);
                    self.slots[slot] = -1;
                    ("close".to_string(), i64::from(result))
                }
            };
            self.trace.call(&format!("slot{slot} {text}"), result);
            let shown = stat_text(libc::fstat(self.slots[slot], stat), stat);
            self.trace.line(&shown);
        }
    }

    fn use_name(&mut self, random: &mut Random) {
        let (dir, shown) = self.dir(random);
        let (name, other) = (path(random), path(random));
        let (p, q) = (name.as_ptr(), other.as_ptr());
        let mode = random.pick(MODES);
        // SAFETY: the names are strings, and what is filled is there.
        unsafe {
            let stat = &mut zeroed::<libc::stat>();
            let (text, result) = match random.below(24) {
                0..=2 => (format!("mkdir {mode:o}"), libc::mkdirat(dir, p, mode)),
                3 => ("rmdir".into(), libc::unlinkat(dir, p, libc::AT_REMOVEDIR)),
                4 => ("unlink".into(), libc::unlinkat(dir, p, 0)),
                5..=7 => {
                    let flags = random.pick(&[0, 0, 0, 1, 2, 3, 4, 8]);
                    let result =
                        libc::syscall(libc::SYS_renameat2, dir, p, libc::AT_FDCWD, q, flags) as i32;
                    (format!("rename {flags} to {other:?}"), result)
                }
                8 | 9 => {
                    let flags = random.pick(&[0, libc::AT_SYMLINK_FOLLOW, 1]);
                    (
                        format!("link {flags} {other:?}"),
                        libc::linkat(dir, p, libc::AT_FDCWD, q, flags),
                    )
                }
                10 | 11 => (format!("symlink {other:?}"), libc::symlinkat(q, dir, p)),
                12 => {
                    let mut buffer = [0_u8; 300];
                    let size = random.pick(&[0, 1, 300]);
                    let n = libc::readlinkat(dir, p, buffer.as_mut_ptr().cast(), size) as i32;
                    let got = String::from_utf8_lossy(&buffer[..n.max(0) as usize]).into_owned();
                    (format!("readlink {got}"), n)
                }
                13 => (format!("chmod {mode:o}"), libc::fchmodat(dir, p, mode, 0)),
                14 => {
                    let (uid, gid) =
                        random.pick(&[(0, 0), (1000, 100), (!0, 100), (1001, !0), (1000, 0)]);
                    let flags = random.pick(&[0, libc::AT_SYMLINK_NOFOLLOW, 4]);
                    (format!("chown {uid}:{gid} {flags}"), libc::fchownat(dir, p, uid, gid, flags))
                }
                15 => {
                    let length = random.pick(&[0, 3, 5000, -1]);
                    (format!("truncate {length}"), libc::truncate(p, length))
                }
                16 => {
                    let (what, flags) =
                        (random.pick(&[0, 1, 2, 4, 7, 8]), random.pick(&[0, 0x200, 0x100, 1]));
                    let result = libc::syscall(libc::SYS_faccessat2, dir, p, what, flags) as i32;
                    (format!("access {what} {flags:x}"), result)
                }
                17 | 18 => {
                    let flags =
                        random.pick(&[0, libc::AT_SYMLINK_NOFOLLOW, libc::AT_EMPTY_PATH, 1]);
                    let result = libc::fstatat(dir, p, stat, flags);
                    self.trace.line(&format!(
                        "stat {shown} {name:?} {flags:x} {}",
                        stat_text(result, stat)
                    ));
                    return;
                }
                19 => {
                    let kind = random.pick(&[
                        libc::S_IFIFO,
                        libc::S_IFSOCK,
                        libc::S_IFREG,
                        0,
                        libc::S_IFDIR,
                        libc::S_IFCHR,
                    ]);
                    (format!("mknod {kind:o} {mode:o}"), libc::mknodat(dir, p, kind | mode, 0x103))
                }
                20 => {
                    let times = [libc::timespec {
                        tv_sec: 1,
                        tv_nsec: random.pick(&[0, libc::UTIME_OMIT, libc::UTIME_NOW, 1 << 31]),
                    }; 2];
                    let flags = random.pick(&[0, libc::AT_SYMLINK_NOFOLLOW, 1]);
                    (
                        format!("utimens {} {flags}", times[0].tv_nsec),
                        libc::utimensat(dir, p, times.as_ptr(), flags),
                    )
                }
                21 => ("chdir".into(), libc::chdir(p)),
                22 => {
                    let mut names: Vec<String> = std::fs::read_dir(".").map_or(Vec::new(), |dir| {
                        dir.flatten()
                            .map(|e| {
                                format!(
                                    "{:?}{:?}",
                                    e.file_name(),
                                    e.file_type().ok().map(|t| t.is_dir())
                                )
                            })
                            .collect()
                    });
                    names.sort();
                    let cwd = std::env::current_dir().map_err(|e| e.raw_os_error());
                    self.trace.line(&format!("list {cwd:?} {names:?}"));
                    return;
                }
                _ => {
                    let mask = random.pick(&[0, 0o22, 0o77]);
                    (format!("umask {mask:o}"), libc::umask(mask) as i32)
                }
            };
            self.trace.call(&format!("{text} {shown} {name:?}"), result);
            let shown = stat_text(libc::fstatat(dir, p, stat, libc::AT_SYMLINK_NOFOLLOW), stat);
            self.trace.line(&shown);
        }
    }
}

fn main() {
    // Policies that a distribution's init switches on; here they are on from boot.
    for (policy, value) in [("symlinks", "1"), ("hardlinks", "1"), ("fifos", "1"), ("regular", "2")]
    {
        let _ = std::fs::write(format!("/proc/sys/fs/protected_{policy}"), value);
    }
    let (calls, mut random) = arguments(3000);
    enter_files();
    // SAFETY: plain calls with valid strings.
    unsafe {
        libc::umask(0);
        ok(libc::chroot(c".".as_ptr()));
    }
    let mut state = State { trace: Trace::default(), slots: [-1; SLOTS], user: 0 };
    for _ in 0..calls {
        match random.below(40) {
            0 => {
                let user = random.below(USERS.len() as u64) as usize;
                state.become_user(user);
                state.trace.line(&format!("user {}", USERS[state.user].0));
            }
            1 => {
                // SAFETY: a plain call.
                let result = unsafe { libc::chdir(c"/".as_ptr()) };
                state.trace.call("home", result);
            }
            2..=9 => state.open(&mut random),
            10..=19 => state.use_file(&mut random),
            _ => state.use_name(&mut random),
        }
    }
    state.become_user(0);
}
