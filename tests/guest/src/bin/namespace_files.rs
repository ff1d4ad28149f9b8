//! Namespaces as files (namespaces(7), ioctl_ns(2)): identity, lifetime by descriptor, entering by
//! descriptor, owners and parents, refusals, and the clocks of time namespaces.
//!
//! PROCESS_MODEL.md, Namespaces: nsproxy (clone, unshare, setns, ioctl_ns), /proc/PID/ns, lifetime by
//! descriptor and bind mount, uts, time (offsets).

use belljar_guest_tests::*;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd};

const NS_GET_USERNS: u64 = 0xb701;
const NS_GET_PARENT: u64 = 0xb702;
const NS_GET_NSTYPE: u64 = 0xb703;
const NS_GET_OWNER_UID: u64 = 0xb704;

const KINDS: [(&str, i32); 8] = [
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", libc::CLONE_NEWIPC),
    ("mnt", libc::CLONE_NEWNS),
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("time", 0x80),
    ("user", libc::CLONE_NEWUSER),
    ("uts", libc::CLONE_NEWUTS),
];

fn open(kind: &str) -> File {
    File::open(format!("/proc/self/ns/{kind}")).unwrap()
}

fn link(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().into()
}

fn ioctl(file: &File, request: u64) -> i64 {
    // SAFETY: requests without an argument.
    i64::from(unsafe { libc::ioctl(file.as_raw_fd(), request as _, 0) })
}

fn each_kind_is_a_file() {
    for (kind, flag) in KINDS {
        let file = open(kind);
        check_eq!(ok(ioctl(&file, NS_GET_NSTYPE)) as i32, flag, "{kind}");
        let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
        check_eq!(link(kind), format!("{kind}:[{inode}]"));
    }
    // Where Linux fixes the numbers of the initial ones.
    check_eq!(link("user"), "user:[4026531837]");
    check_eq!(link("pid"), "pid:[4026531836]");
    check_eq!(link("uts"), "uts:[4026531838]");
}

fn each_kind_can_be_left_and_entered() {
    for (kind, flag) in KINDS {
        wait_ok(child(|| {
            let name = match kind {
                "pid" => "pid_for_children",
                "time" => "time_for_children",
                other => other,
            };
            let (before, old) = (link(name), open(kind));
            // SAFETY: plain calls.
            unsafe {
                ok(libc::unshare(flag));
                if kind == "pid" {
                    wait_ok(child(|| 0));
                    ok(libc::setns(old.as_raw_fd(), flag));
                    check_eq!(link(name), before);
                    return 0;
                }
                check!(link(name) != before, "{kind}");
                if kind != "user" {
                    check_eq!(err(libc::setns(old.as_raw_fd(), libc::CLONE_NEWUSER)), libc::EINVAL);
                    ok(libc::setns(old.as_raw_fd(), 0));
                    check_eq!(link(name), before);
                } else {
                    // Neither back up, nor into one's own again.
                    check_eq!(err(libc::setns(old.as_raw_fd(), 0)), libc::EPERM);
                    check_eq!(err(libc::setns(open(kind).as_raw_fd(), 0)), libc::EINVAL);
                }
            }
            0
        }));
    }
}

/// A descriptor keeps a namespace that no task has; with the last one it goes, number and all.
fn descriptors_keep_them() {
    let mut ends = [0; 2];
    // SAFETY: plain calls with valid places.
    unsafe {
        ok(libc::pipe(ends.as_mut_ptr()));
        let mut holder = -1;
        let pid = ok(libc::syscall(libc::SYS_clone, libc::CLONE_NEWUTS | libc::SIGCHLD, 0, 0, 0, 0))
            as i32;
        if pid == 0 {
            ok(libc::sethostname(c"kept".as_ptr(), 4));
            let mut byte = 0_u8;
            libc::write(ends[1], (&raw const byte).cast(), 1);
            libc::pause();
            libc::read(ends[0], (&raw mut byte).cast(), 1);
            libc::_exit(0);
        }
        let mut byte = 0_u8;
        check_eq!(libc::read(ends[0], (&raw mut byte).cast(), 1), 1);
        let file = File::open(format!("/proc/{pid}/ns/uts")).unwrap();
        ok(libc::kill(pid, libc::SIGKILL));
        wait(pid);
        wait_ok(child(|| {
            ok(libc::setns(file.as_raw_fd(), libc::CLONE_NEWUTS));
            let mut name = [0_u8; 64];
            ok(libc::gethostname(name.as_mut_ptr().cast(), 64));
            check_eq!(&name[..5], b"kept\0");
            0
        }));
        std::mem::swap(&mut holder, &mut ends[0]);
    }
}

fn owners_and_parents() {
    let user = open("user");
    check_eq!(err(ioctl(&user, NS_GET_PARENT)), libc::EPERM);
    check_eq!(err(ioctl(&open("pid"), NS_GET_PARENT)), libc::EPERM);
    check_eq!(err(ioctl(&open("uts"), NS_GET_PARENT)), libc::EINVAL);
    check_eq!(err(ioctl(&open("uts"), NS_GET_OWNER_UID)), libc::EINVAL);
    wait_ok(child(|| {
        let outer = link("user");
        // SAFETY: plain calls; descriptors are the ioctl's own.
        unsafe {
            ok(libc::setresuid(1000, 1000, 1000));
            ok(libc::prctl(libc::PR_SET_DUMPABLE, 1));
            let uts = open("uts");
            ok(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWUTS));
            let own = File::from_raw_fd(ok(ioctl(&open("uts"), NS_GET_USERNS)) as i32);
            let name =
                |f: &File| fs::read_link(format!("/proc/self/fd/{}", f.as_raw_fd())).unwrap();
            check_eq!(name(&own).into_os_string(), *link("user"));
            check!(link("user") != outer);
            // What is above is out of sight.
            check_eq!(err(ioctl(&uts, NS_GET_USERNS)), libc::EPERM);
            check_eq!(err(ioctl(&own, NS_GET_PARENT)), libc::EPERM);
            let mut uid = 0_u32;
            ok(libc::ioctl(own.as_raw_fd(), NS_GET_OWNER_UID as _, &raw mut uid));
            check_eq!(uid, 65534);
            fs::write("/proc/self/uid_map", "7 1000 1").unwrap();
            ok(libc::ioctl(own.as_raw_fd(), NS_GET_OWNER_UID as _, &raw mut uid));
            check_eq!(uid, 7);
        }
        0
    }));
}

fn refusals() {
    // SAFETY: plain calls.
    unsafe {
        check_eq!(err(libc::unshare(0x10)), libc::EINVAL);
        check_eq!(err(libc::setns(-1, 0)), libc::EBADF);
        check_eq!(err(libc::setns(File::open("/").unwrap().as_raw_fd(), 0)), libc::EINVAL);
        let clone = |flags: i32| libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0);
        for flags in [
            libc::CLONE_NEWNS | libc::CLONE_FS,
            libc::CLONE_NEWUSER | libc::CLONE_FS,
            libc::CLONE_NEWPID | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM,
        ] {
            check_eq!(err(clone(flags)), libc::EINVAL);
        }
        // Without privileges, only a user namespace can be made; with it, the others in it.
        wait_ok(child(|| {
            ok(libc::setresuid(1000, 1000, 1000));
            for (kind, flag) in KINDS.iter().filter(|k| k.0 != "user") {
                check_eq!(err(libc::unshare(*flag)), libc::EPERM, "{kind}");
            }
            let all = KINDS.iter().fold(0, |all, k| all | k.1);
            ok(libc::unshare(all));
            0
        }));
        // Threads share what they live in.
        wait_ok(child(|| {
            let thread = std::thread::spawn(|| libc::pause());
            check_eq!(err(libc::unshare(libc::CLONE_NEWUSER)), libc::EINVAL);
            ok(libc::unshare(libc::CLONE_NEWUTS));
            drop(thread);
            0
        }));
    }
}

/// Children's monotonic clocks are moved, once, before the first of them.
fn time() {
    wait_ok(child(|| {
        // SAFETY: plain call.
        ok(unsafe { libc::unshare(0x80) });
        check_eq!(fs::read_to_string("/proc/self/timens_offsets").unwrap().lines().count(), 2);
        fs::write("/proc/self/timens_offsets", "monotonic 1000 5\nboottime 2000 0\n").unwrap();
        let text = fs::read_to_string("/proc/self/timens_offsets").unwrap();
        check_eq!(
            text.split_whitespace().collect::<Vec<_>>(),
            ["monotonic", "1000", "5", "boottime", "2000", "0"]
        );
        let bad = fs::write("/proc/self/timens_offsets", "realtime 1 0\n");
        check_eq!(bad.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let outside = seconds(libc::CLOCK_MONOTONIC);
        check!(outside < 1000.0, "only children are moved");
        wait_ok(child(|| {
            let moved = seconds(libc::CLOCK_MONOTONIC) - outside;
            check!((1000.0..1030.0).contains(&moved), "{moved}");
            let boot = seconds(libc::CLOCK_BOOTTIME) - outside;
            check!(boot > 1990.0, "{boot}");
            check!(link("time") == link("time_for_children"));
            // Sleeping until a time is sleeping until that clock shows it.
            let until = timespec(seconds(libc::CLOCK_MONOTONIC) + 0.02);
            // SAFETY: valid places.
            let slept = unsafe {
                libc::clock_nanosleep(
                    libc::CLOCK_MONOTONIC,
                    libc::TIMER_ABSTIME,
                    &raw const until,
                    std::ptr::null_mut(),
                )
            };
            check_eq!(slept, 0);
            check!(
                seconds(libc::CLOCK_MONOTONIC) >= until.tv_sec as f64 + until.tv_nsec as f64 / 1e9
            );
            let uptime = fs::read_to_string("/proc/uptime").unwrap();
            let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
            check!(uptime > 1990.0, "{uptime}");
            0
        }));
        let late = fs::write("/proc/self/timens_offsets", "monotonic 1 0\n");
        check_eq!(late.unwrap_err().raw_os_error(), Some(libc::EACCES));
        0
    }));
}

fn main() {
    each_kind_is_a_file();
    each_kind_can_be_left_and_entered();
    descriptors_keep_them();
    owners_and_parents();
    refusals();
    time();
}
