//! User namespaces (user_namespaces(7)): id maps and who may write them, setgroups, ids that are
//! nobody's, capabilities in and outside of the namespace, limits and depth.
//!
//! PROCESS_MODEL.md, Namespaces: user (uid, gid, capabilities; maps and setgroups). Identity: credentials
//! (capability sets).

use belljar_guest_tests::*;
use std::fs::{self, OpenOptions};
use std::io::Write;

/// Writes in one call and returns the error number, or 0.
fn put(path: &str, text: &str) -> i32 {
    let opened = OpenOptions::new().write(true).open(path);
    match opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

fn get(path: &str) -> String {
    fs::read_to_string(path).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn become_user(id: u32) {
    // SAFETY: plain calls.
    unsafe {
        ok(libc::setgroups(0, std::ptr::null()));
        ok(libc::setresgid(id, id, id));
        ok(libc::setresuid(id, id, id));
        // As after exec: who changes ids is closed to its new user until then.
        let closed =
            std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self/uid_map").unwrap());
        check_eq!(closed, 0);
        check_eq!(libc::prctl(libc::PR_GET_DUMPABLE), 0);
        ok(libc::prctl(libc::PR_SET_DUMPABLE, 1));
        let open =
            std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self/uid_map").unwrap());
        check_eq!(open, id);
    }
}

fn ids() -> (u32, u32) {
    // SAFETY: no arguments.
    unsafe { (libc::getuid(), libc::getgid()) }
}

fn caps() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap().trim();
    u64::from_str_radix(line, 16).unwrap()
}

fn full() -> u64 {
    let last: u32 = get("/proc/sys/kernel/cap_last_cap").parse().unwrap();
    (1 << (last + 1)) - 1
}

fn unshare_user() {
    // SAFETY: plain call.
    ok(unsafe { libc::unshare(libc::CLONE_NEWUSER) });
}

/// A user maps itself to root, and nothing else.
fn own_map() {
    wait_ok(child(|| {
        become_user(1000);
        check_eq!(caps(), 0);
        unshare_user();
        check_eq!(ids(), (65534, 65534));
        check_eq!(caps(), full());
        check_eq!(get("/proc/self/uid_map"), "");
        for bad in ["0 0 1", "0 1001 1", "0 1000 2"] {
            check_eq!(put("/proc/self/uid_map", bad), libc::EPERM);
        }
        for bad in ["", "0", "0 1000", "0 1000 0", "a 1000 1", "0 1000 1 1", "-1 1000 1"] {
            if !bad.is_empty() {
                check_eq!(put("/proc/self/uid_map", bad), libc::EINVAL, "{bad}");
            }
        }
        check_eq!(put("/proc/self/uid_map", "0 1000 1\n"), 0);
        check_eq!(put("/proc/self/uid_map", "0 1000 1\n"), libc::EPERM);
        check_eq!(get("/proc/self/uid_map"), "0 1000 1");
        // The group only without setgroups.
        check_eq!(put("/proc/self/gid_map", "0 1000 1"), libc::EPERM);
        check_eq!(get("/proc/self/setgroups"), "allow");
        // SAFETY: plain calls.
        unsafe { check_eq!(err(libc::setgroups(0, std::ptr::null())), libc::EPERM) };
        check_eq!(put("/proc/self/setgroups", "deny"), 0);
        check_eq!(put("/proc/self/gid_map", "0 1000 1"), 0);
        check_eq!(put("/proc/self/setgroups", "allow"), libc::EPERM);
        // SAFETY: plain calls.
        unsafe { check_eq!(err(libc::setgroups(0, std::ptr::null())), libc::EPERM) };
        check_eq!(ids(), (0, 0));
        // Ids without a mapping cannot be taken.
        // SAFETY: plain calls.
        unsafe {
            check_eq!(err(libc::setuid(1)), libc::EINVAL);
            check_eq!(err(libc::setresgid(5, 5, 5)), libc::EINVAL);
        }
        0
    }));
}

struct Pipe([i32; 2]);

impl Pipe {
    fn new() -> Self {
        let mut ends = [0; 2];
        // SAFETY: two slots.
        ok(unsafe { libc::pipe(ends.as_mut_ptr()) });
        Self(ends)
    }
    fn tell(&self) {
        // SAFETY: one byte.
        check_eq!(unsafe { libc::write(self.0[1], c"x".as_ptr().cast(), 1) }, 1);
    }
    fn hear(&self) {
        let mut byte = 0_u8;
        // SAFETY: one byte.
        check_eq!(unsafe { libc::read(self.0[0], (&raw mut byte).cast(), 1) }, 1);
    }
}

/// Root outside writes a map of many lines; ids are translated both ways.
fn maps_from_outside() {
    let (ready, go) = (Pipe::new(), Pipe::new());
    let pid = child(|| {
        unshare_user();
        ready.tell();
        go.hear();
        // SAFETY: plain calls with valid places.
        unsafe {
            check_eq!(ids(), (65534, 65534));
            ok(libc::setresuid(3, 4, 5));
            let (mut r, mut e, mut s) = (0, 0, 0);
            ok(libc::getresuid(&raw mut r, &raw mut e, &raw mut s));
            check_eq!((r, e, s), (3, 4, 5));
        }
        ready.tell();
        go.hear();
        0
    });
    ready.hear();
    let path = |name: &str| format!("/proc/{pid}/{name}");
    // Overlaps, too much, and then seven lines.
    check_eq!(put(&path("uid_map"), "0 100000 10\n5 200000 10\n"), libc::EINVAL);
    check_eq!(put(&path("uid_map"), "0 100000 10\n20 100005 10\n"), libc::EINVAL);
    check_eq!(put(&path("uid_map"), "4294967295 0 1"), libc::EINVAL);
    let many: String = (0..341).map(|i| format!("{i} {i} 1\n")).collect();
    check_eq!(put(&path("uid_map"), &many), libc::EINVAL);
    let text: String = (0..7).map(|i| format!("{} {} 1\n", 6 - i, 100_000 + i * 10)).collect();
    check_eq!(put(&path("uid_map"), &text), 0);
    check_eq!(put(&path("gid_map"), "0 500 100\n"), 0);
    let lines = fs::read_to_string(path("uid_map")).unwrap();
    check_eq!(lines.lines().count(), 7);
    check_eq!(
        lines.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["0", "100060", "1"]
    );
    go.tell();
    ready.hear();
    let status = fs::read_to_string(path("status")).unwrap();
    check!(status.contains("Uid:\t100030\t100020\t100010\t100020\n"), "{status}");
    go.tell();
    wait_ok(pid);
}

/// Capabilities count over what the namespace owns, and over nothing else.
fn capabilities() {
    wait_ok(child(|| {
        fs::write("/tmp/ns-foreign", "x").unwrap();
        // SAFETY: valid string.
        ok(unsafe { libc::chmod(c"/tmp/ns-foreign".as_ptr(), 0o600) });
        become_user(1000);
        unshare_user();
        check_eq!(put("/proc/self/uid_map", "0 1000 1"), 0);
        check_eq!(put("/proc/self/setgroups", "deny"), 0);
        check_eq!(put("/proc/self/gid_map", "0 1000 1"), 0);
        // SAFETY: plain calls with valid strings.
        unsafe {
            // Of the machine: host name, clock, devices, others' files, priority.
            check_eq!(err(libc::sethostname(c"evil".as_ptr(), 4)), libc::EPERM);
            let time = libc::timespec { tv_sec: 1_700_000_000, tv_nsec: 0 };
            check_eq!(err(libc::clock_settime(libc::CLOCK_REALTIME, &raw const time)), libc::EPERM);
            check_eq!(
                err(libc::mknod(c"/tmp/ns-null".as_ptr(), libc::S_IFCHR | 0o666, 0x103)),
                libc::EPERM
            );
            check_eq!(err(libc::open(c"/tmp/ns-foreign".as_ptr(), libc::O_RDONLY)), libc::EACCES);
            check_eq!(err(libc::chown(c"/tmp/ns-foreign".as_ptr(), 0, 0)), libc::EPERM);
            check_eq!(err(libc::unlink(c"/tmp/ns-foreign".as_ptr())), libc::EPERM);
            check_eq!(err(libc::kill(1, 0)), libc::EPERM);
            let none = std::ptr::null();
            check_eq!(
                err(libc::mount(none, c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, none.cast())),
                libc::EPERM
            );
            // A stranger's file belongs to nobody.
            let mut stat: libc::stat = std::mem::zeroed();
            ok(libc::stat(c"/tmp/ns-foreign".as_ptr(), &raw mut stat));
            check_eq!((stat.st_uid, stat.st_gid), (65534, 65534));
            // With a namespace of the kind, the capability counts in it.
            ok(libc::unshare(libc::CLONE_NEWUTS | libc::CLONE_NEWNS));
            ok(libc::sethostname(c"inner".as_ptr(), 5));
            ok(libc::mount(none, c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()));
            // Root of the namespace has its own files.
            fs::write("/tmp/own", "x").unwrap();
            ok(libc::stat(c"/tmp/own".as_ptr(), &raw mut stat));
            check_eq!((stat.st_uid, stat.st_gid), (0, 0));
            check_eq!(err(libc::chown(c"/tmp/own".as_ptr(), 7, 0)), libc::EINVAL);
            // Device files made elsewhere are no way out either: none can be made here.
            check_eq!(
                err(libc::mknod(c"/tmp/null".as_ptr(), libc::S_IFCHR | 0o666, 0x103)),
                libc::EPERM
            );
        }
        0
    }));
    let _ = fs::remove_file("/tmp/ns-foreign");
}

/// A process may be inspected from the namespace around it, not from inside.
fn looking_up() {
    let (gate, ready) = (Pipe::new(), Pipe::new());
    let victim = child(|| {
        become_user(1000);
        ready.tell();
        gate.hear();
        0
    });
    ready.hear();
    wait_ok(child(|| {
        become_user(1000);
        // Outside, the same user may look.
        check!(fs::read_link(format!("/proc/{victim}/ns/user")).is_ok());
        unshare_user();
        check_eq!(put("/proc/self/uid_map", "0 1000 1"), 0);
        for name in ["ns/user", "root", "cwd", "exe"] {
            let seen = fs::read_link(format!("/proc/{victim}/{name}"));
            check_eq!(seen.map_err(|e| e.raw_os_error()), Err(Some(libc::EACCES)), "{name}");
        }
        // SAFETY: plain calls.
        unsafe {
            let fd = ok(libc::syscall(libc::SYS_pidfd_open, victim, 0)) as i32;
            let user = libc::CLONE_NEWUSER;
            check_eq!(err(libc::setns(fd, user)), libc::EPERM);
            check_eq!(err(libc::syscall(libc::SYS_pidfd_getfd, fd, 0, 0)), libc::EPERM);
        }
        0
    }));
    gate.tell();
    wait_ok(victim);
}

fn limits() {
    wait_ok(child(|| {
        let max = "/proc/sys/user/max_uts_namespaces";
        unshare_user();
        check_eq!(put("/proc/self/uid_map", "0 0 1"), 0);
        check_eq!(get(max), i32::MAX.to_string());
        check_eq!(put(max, "2"), 0);
        // SAFETY: plain calls.
        unsafe {
            let mut kept = vec![];
            for _ in 0..2 {
                ok(libc::unshare(libc::CLONE_NEWUTS));
                kept.push(fs::File::open("/proc/self/ns/uts").unwrap());
            }
            check_eq!(err(libc::unshare(libc::CLONE_NEWUTS)), libc::ENOSPC);
            // The one in use is held by this task alone: with it gone there is room again.
            drop(kept.remove(0));
            ok(libc::unshare(libc::CLONE_NEWUTS));
        }
        0
    }));
}

fn depth(level: u32) -> i32 {
    // SAFETY: plain call.
    let made = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    if level == 33 {
        check_eq!(err(made), libc::ENOSPC);
        return 0;
    }
    ok(made);
    check_eq!(put("/proc/self/uid_map", "0 0 1"), 0);
    check_eq!(put("/proc/self/setgroups", "deny"), 0);
    check_eq!(put("/proc/self/gid_map", "0 0 1"), 0);
    wait_ok(child(|| depth(level + 1)));
    0
}

/// In a chroot a new namespace would be the way out.
fn not_in_a_chroot() {
    wait_ok(child(|| {
        // SAFETY: valid string.
        unsafe {
            ok(libc::chroot(c"/tmp".as_ptr()));
            check_eq!(err(libc::unshare(libc::CLONE_NEWUSER)), libc::EPERM);
        }
        0
    }));
}

fn main() {
    own_map();
    maps_from_outside();
    capabilities();
    looking_up();
    limits();
    wait_ok(child(|| depth(0)));
    not_in_a_chroot();
}
