//! Cgroup namespaces (cgroup_namespaces(7)): the group of who made one is its root, paths are told from
//! there, mounts show no more, and with `nsdelegate` nobody is moved across its border.
//!
//! PROCESS_MODEL.md, Namespaces: cgroup (cgroup root).

use belljar_guest_tests::cgroups::*;
use belljar_guest_tests::*;
use std::fs::{self, File};
use std::os::fd::AsRawFd;

fn path_of(pid: &str) -> String {
    let text = get(format!("/proc/{pid}/cgroup"));
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().into()
}

/// Root and place of the last mount in mountinfo that is at `place`.
fn mounted_root(place: &str) -> String {
    let text = get("/proc/self/mountinfo");
    let line = text.lines().rfind(|line| line.split(' ').nth(4) == Some(place));
    line.and_then(|line| line.split(' ').nth(3)).unwrap().into()
}

fn unshare(flags: i32) {
    // SAFETY: plain call.
    ok(unsafe { libc::unshare(flags) });
}

fn mount(place: &str, options: Option<&std::ffi::CStr>) -> i32 {
    fs::create_dir_all(place).unwrap();
    let target = std::ffi::CString::new(place).unwrap();
    let data = options.map_or(std::ptr::null(), |options| options.as_ptr());
    // SAFETY: the strings end with NUL.
    let result = unsafe {
        libc::mount(c"none".as_ptr(), target.as_ptr(), c"cgroup2".as_ptr(), 0, data.cast())
    };
    if result < 0 { errno() } else { 0 }
}

fn paths_are_told_from_the_root_of_the_namespace() {
    let group = Group::new("ns", "");
    let inner = group.child("inner");
    let beside = Group::new("beside", "");
    let outside = Idle::new(|| 0);
    beside.take(outside.pid);
    wait_ok(child(|| {
        group.set("cgroup.procs", "0");
        check_eq!(path_of("self"), "/ns");
        let before = fs::read_link("/proc/self/ns/cgroup").unwrap();
        let old = File::open("/proc/self/ns/cgroup").unwrap();
        unshare(libc::CLONE_NEWCGROUP);
        check!(fs::read_link("/proc/self/ns/cgroup").unwrap() != before);
        check_eq!(path_of("self"), "/");
        check_eq!(path_of(&outside.pid.to_string()), "/../beside");
        // Its processes are told about to others as before.
        let me = std::process::id().to_string();
        inner.set("cgroup.procs", "0");
        check_eq!(path_of(&me), "/inner");
        let parent = std::os::unix::process::parent_id().to_string();
        check_eq!(path_of(&parent), "/..");
        // Old mounts are told about from there, new ones begin there.
        check_eq!(mounted_root("/sys/fs/cgroup"), "/..");
        unshare(libc::CLONE_NEWNS);
        // SAFETY: plain call.
        ok(unsafe {
            libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            )
        });
        check_eq!(mount("/tmp/inside", None), 0);
        check_eq!(mounted_root("/tmp/inside"), "/");
        check!(fs::metadata("/tmp/inside/inner/cgroup.procs").is_ok());
        check!(fs::metadata("/tmp/inside/beside").is_err());
        check!(fs::metadata("/tmp/inside/cgroup.type").is_ok());
        // Entering one moves nobody.
        // SAFETY: an open descriptor.
        ok(unsafe { libc::setns(old.as_raw_fd(), libc::CLONE_NEWCGROUP) });
        check_eq!(path_of("self"), "/ns/inner");
        check_eq!(mounted_root("/tmp/inside"), "/ns");
        0
    }));
    check_eq!(outside.finish(), 0);
}

fn a_namespace_bounds_what_may_be_moved() {
    // SAFETY: the strings end with NUL.
    ok(unsafe {
        libc::mount(
            c"none".as_ptr(),
            c"/sys/fs/cgroup".as_ptr(),
            std::ptr::null(),
            libc::MS_REMOUNT,
            c"nsdelegate".as_ptr().cast(),
        )
    });
    check!(get("/proc/self/mounts").contains("nsdelegate"));
    let group = Group::new("bounded", "pids");
    let inner = group.child("inner");
    let outside = Idle::new(|| 0);
    wait_ok(child(|| {
        group.set("cgroup.procs", "0");
        unshare(libc::CLONE_NEWCGROUP);
        let me = std::process::id().to_string();
        check_eq!(put(root().join("cgroup.procs"), &me), libc::ENOENT);
        check_eq!(group.put("cgroup.procs", &outside.pid.to_string()), libc::ENOENT);
        inner.set("cgroup.procs", &me);
        group.set("cgroup.procs", &me);
        0
    }));
    check_eq!(outside.finish(), 0);
    check_eq!(mount("/tmp/bad", Some(c"nonsense")), libc::EINVAL);
}

fn a_user_namespace_may_mount_its_part() {
    let group = Group::new("usermount", "");
    wait_ok(child(|| {
        group.set("cgroup.procs", "0");
        // SAFETY: plain calls.
        unsafe {
            ok(libc::setresgid(1000, 1000, 1000));
            ok(libc::setresuid(1000, 1000, 1000));
        }
        // SAFETY: plain call.
        let result = unsafe { libc::unshare(libc::CLONE_NEWCGROUP) };
        check_eq!(err(result), libc::EPERM);
        unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
        fs::create_dir_all("/tmp/user").unwrap();
        // The cgroup namespace is not its own.
        check_eq!(mount("/tmp/user", None), libc::EPERM);
        unshare(libc::CLONE_NEWCGROUP);
        check_eq!(mount("/tmp/user", None), 0);
        check!(fs::metadata("/tmp/user/cgroup.type").is_ok());
        // Seen, but not given: the files are root's.
        check_eq!(code(fs::create_dir("/tmp/user/mine")), libc::EACCES);
        check_eq!(put("/tmp/user/cgroup.freeze", "1"), libc::EACCES);
        0
    }));
}

fn main() {
    root();
    paths_are_told_from_the_root_of_the_namespace();
    a_user_namespace_may_mount_its_part();
    a_namespace_bounds_what_may_be_moved();
}
