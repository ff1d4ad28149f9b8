//! The tree of control groups (cgroup-v2.rst): its files, making and removing, moving tasks, controllers
//! from the top down and not beside tasks, threaded groups, limits of the hierarchy, notification, and what
//! a user may that a part of it was given to.
//!
//! PROCESS_MODEL.md, Namespaces: cgroup (v2: the tree).

use belljar_guest_tests::cgroups::*;
use belljar_guest_tests::*;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, chown};

fn me() -> String {
    std::process::id().to_string()
}

fn path_of(pid: i32) -> String {
    let text = get(format!("/proc/{pid}/cgroup"));
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().into()
}

fn has(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|w| w == word)
}

fn files_of_a_group() {
    let root = root();
    for name in ["cgroup.procs", "cgroup.controllers", "cgroup.stat", "cpu.stat"] {
        check!(root.join(name).exists(), "{name}");
    }
    for name in ["cgroup.type", "cgroup.events", "cgroup.freeze", "cgroup.kill"] {
        check!(!root.join(name).exists(), "{name}");
    }
    let controllers = get(root.join("cgroup.controllers"));
    for name in ["cpu", "memory", "pids"] {
        check!(has(&controllers, name), "{controllers}");
    }
    let group = Group::new("files", "");
    check_eq!(group.get("cgroup.type"), "domain");
    check_eq!(group.get("cgroup.procs"), "");
    check_eq!(group.get("cgroup.events"), "populated 0\nfrozen 0");
    check_eq!(group.get("cgroup.max.depth"), "max");
    check_eq!(group.get("cgroup.subtree_control"), "");
    check_eq!(group.value("cgroup.stat", "nr_descendants"), 0);
    check_eq!(group.value("cpu.stat", "usage_usec"), 0);
    check_eq!(fs::metadata(group.file("cgroup.procs")).unwrap().mode() & 0o777, 0o644);
    check_eq!(fs::metadata(group.file("cgroup.events")).unwrap().mode() & 0o777, 0o444);
    check_eq!(code(File::create(group.file("a_file"))), libc::EACCES);
    check_eq!(code(fs::remove_file(group.file("cgroup.procs"))), libc::EPERM);
    check_eq!(code(fs::create_dir(root.join("new\nline"))), libc::EINVAL);
    check_eq!(code(fs::create_dir(&group.0)), libc::EEXIST);
    check_eq!(group.put("cgroup.events", "1"), libc::EINVAL);
    let text = get("/proc/cgroups");
    for name in ["cpu", "memory", "pids"] {
        let line = text.lines().find(|l| l.split_whitespace().next() == Some(name));
        check!(line.is_some_and(|line| line.ends_with('1')), "{text}");
    }
    check!(get("/proc/filesystems").contains("cgroup2"));
}

fn a_file_of_a_removed_group_is_gone() {
    let group = Group::new("gone", "");
    let mut file = File::open(group.file("cgroup.procs")).unwrap();
    let mut text = String::new();
    check_eq!(code(file.read_to_string(&mut text)), 0);
    drop(group);
    let mut again = File::open(root().join("cgroup.procs")).unwrap();
    check_eq!(code(again.read_to_string(&mut text)), 0);
    check_eq!(code(std::io::Seek::rewind(&mut file)), 0);
    check_eq!(code(file.read_to_string(&mut text)), libc::ENODEV);
}

fn tasks_move_and_children_follow() {
    let (a, b) = (Group::new("a", ""), Group::new("b", ""));
    let idle = Idle::new(|| {
        let child = child(|| i32::from(path_of(std::process::id() as i32) != "/a"));
        i32::from(path_of(std::process::id() as i32) != "/a") | wait(child)
    });
    check_eq!(path_of(idle.pid), "/");
    b.take(idle.pid);
    check_eq!(b.get("cgroup.procs"), idle.pid.to_string());
    check_eq!(b.get("cgroup.threads"), idle.pid.to_string());
    check_eq!(b.value("cgroup.events", "populated"), 1);
    check_eq!(code(fs::remove_dir(&b.0)), libc::EBUSY);
    a.take(idle.pid);
    check_eq!(b.get("cgroup.procs"), "");
    check_eq!(path_of(idle.pid), "/a");
    check_eq!(b.value("cgroup.events", "populated"), 0);
    for (text, error) in [
        ("x", libc::EINVAL),
        ("", libc::EINVAL),
        ("-1", libc::EINVAL),
        ("4194303", libc::ESRCH),
        ("2", libc::EINVAL),
    ] {
        if !text.is_empty() {
            check_eq!(a.put("cgroup.procs", text), error, "{text}");
        }
    }
    check_eq!(idle.finish(), 0);
    // 0 is the writer.
    wait_ok(child(|| {
        a.set("cgroup.procs", "0");
        check_eq!(path_of(std::process::id() as i32), "/a");
        check_eq!(a.get("cgroup.procs"), me());
        0
    }));
}

fn zombies_do_not_hold_a_group() {
    let group = Group::new("zombies", "");
    let idle = Idle::new(|| 0);
    let pid = idle.pid;
    group.take(pid);
    let mut idle = idle;
    idle.go();
    group.wait_for("cgroup.events", "populated", 0);
    check_eq!(path_of(pid), "/zombies");
    check_eq!(code(fs::remove_dir(&group.0)), 0);
    check_eq!(path_of(pid), "/zombies (deleted)");
    check_eq!(value(root().join("cgroup.stat"), "nr_dying_descendants").min(1), 1);
    wait_ok(pid);
    std::mem::forget(group);
}

fn controllers_come_from_above() {
    let outer = Group::new("outer", "pids memory");
    let inner = outer.child("inner");
    check!(has(&outer.get("cgroup.controllers"), "pids"));
    check_eq!(inner.get("cgroup.controllers"), "");
    check!(outer.file("pids.max").exists() && !inner.file("pids.max").exists());
    check_eq!(inner.put("cgroup.subtree_control", "+pids"), libc::ENOENT);
    for bad in ["pids", "+nothing", "*pids", "+"] {
        check_eq!(outer.put("cgroup.subtree_control", bad), libc::EINVAL, "{bad}");
    }
    outer.set("cgroup.subtree_control", "+pids +memory");
    check!(has(&inner.get("cgroup.controllers"), "memory"));
    check!(inner.file("pids.max").exists() && inner.file("memory.max").exists());
    let mut open = File::open(inner.file("pids.max")).unwrap();
    inner.set("cgroup.subtree_control", "+pids");
    check_eq!(outer.put("cgroup.subtree_control", "-pids"), libc::EBUSY);
    inner.set("cgroup.subtree_control", "-pids");
    inner.set("pids.max", "7");
    outer.set("cgroup.subtree_control", "-pids");
    check!(!inner.file("pids.max").exists());
    check_eq!(code(open.read_to_string(&mut String::new())), libc::ENODEV);
    // What it was told is forgotten.
    outer.set("cgroup.subtree_control", "+pids");
    check_eq!(inner.get("pids.max"), "max");
}

fn no_tasks_beside_domain_controllers() {
    let outer = Group::new("internal", "memory");
    let inner = outer.child("inner");
    let idle = Idle::new(|| 0);
    outer.take(idle.pid);
    check_eq!(outer.put("cgroup.subtree_control", "+memory"), libc::EBUSY);
    inner.take(idle.pid);
    outer.set("cgroup.subtree_control", "+memory");
    check_eq!(outer.put("cgroup.procs", &idle.pid.to_string()), libc::EBUSY);
    check_eq!(idle.finish(), 0);
}

fn threads_of_a_process_in_several_groups() {
    let domain = Group::new("domain", "");
    let (one, two) = (domain.child("one"), domain.child("two"));
    check_eq!(one.put("cgroup.type", "domain"), libc::EINVAL);
    one.set("cgroup.type", "threaded");
    check_eq!(one.get("cgroup.type"), "threaded");
    check_eq!(domain.get("cgroup.type"), "domain threaded");
    check_eq!(two.get("cgroup.type"), "domain invalid");
    let idle = Idle::new(|| 0);
    check_eq!(two.put("cgroup.procs", &idle.pid.to_string()), libc::EOPNOTSUPP);
    check_eq!(idle.finish(), 0);
    two.set("cgroup.type", "threaded");
    wait_ok(child(|| {
        let tid = || {
            // SAFETY: no arguments.
            let tid = unsafe { libc::syscall(libc::SYS_gettid) };
            tid.to_string()
        };
        domain.set("cgroup.procs", "0");
        let (to_main, from_thread) = std::sync::mpsc::channel();
        let (to_thread, from_main) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            to_main.send(tid()).unwrap();
            let _ = from_main.recv();
        });
        let other = from_thread.recv().unwrap();
        // A thread may not leave its domain.
        let outside = Group::new("outside", "");
        check_eq!(outside.put("cgroup.threads", &other), libc::EOPNOTSUPP);
        one.set("cgroup.threads", &other);
        two.set("cgroup.threads", &me());
        check_eq!(one.get("cgroup.threads"), other);
        check_eq!(two.get("cgroup.threads"), me());
        check_eq!(
            code(
                File::open(one.file("cgroup.procs"))
                    .and_then(|mut f| { f.read_to_string(&mut String::new()) })
            ),
            libc::EOPNOTSUPP
        );
        check_eq!(domain.get("cgroup.procs"), me());
        check_eq!(get(format!("/proc/self/task/{other}/cgroup")), "0::/domain/one");
        domain.set("cgroup.procs", "0");
        check_eq!(one.get("cgroup.threads"), "");
        to_thread.send(()).unwrap();
        thread.join().unwrap();
        0
    }));
}

fn limits_of_the_hierarchy() {
    let group = Group::new("limits", "");
    group.set("cgroup.max.depth", "1");
    let inner = group.child("inner");
    check_eq!(code(fs::create_dir(inner.file("deeper"))), libc::EAGAIN);
    group.set("cgroup.max.descendants", "1");
    check_eq!(code(fs::create_dir(group.file("second"))), libc::EAGAIN);
    check_eq!(group.put("cgroup.max.depth", "-1"), libc::ERANGE);
    check_eq!(group.put("cgroup.max.depth", "much"), libc::EINVAL);
    check_eq!(group.get("cgroup.max.descendants"), "1");
    check_eq!(group.value("cgroup.stat", "nr_descendants"), 1);
    check_eq!(code(fs::remove_dir(&group.0)), libc::EBUSY);
}

fn events_wake_who_polls_them() {
    let group = Group::new("polled", "");
    let mut file = File::open(group.file("cgroup.events")).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    check!(text.starts_with("populated 0"));
    let number = file.as_raw_fd();
    let poll = |timeout| {
        let mut fd = libc::pollfd { fd: number, events: libc::POLLPRI, revents: 0 };
        // SAFETY: one descriptor.
        let n = ok(unsafe { libc::poll(&mut fd, 1, timeout) });
        (n, fd.revents & libc::POLLPRI != 0)
    };
    check_eq!(poll(0), (0, false));
    let mut idle = Idle::new(|| 0);
    group.take(idle.pid);
    check_eq!(poll(-1), (1, true));
    std::io::Seek::rewind(&mut file).unwrap();
    text.clear();
    file.read_to_string(&mut text).unwrap();
    check!(text.starts_with("populated 1"));
    check_eq!(poll(0), (0, false));
    idle.go();
    check_eq!(poll(-1), (1, true));
    wait_ok(idle.pid);
}

/// clone3(2) with `CLONE_INTO_CGROUP`.
fn clone_into(fd: i32) -> i64 {
    let mut args = [0_u64; 11];
    args[0] = 0x2_0000_0000;
    args[4] = libc::SIGCHLD as u64;
    args[10] = fd as u64;
    // SAFETY: as fork(2); the child only exits.
    unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) }
}

fn a_child_starts_in_another_group() {
    let group = Group::new("into", "memory");
    let dir = File::open(&group.0).unwrap();
    let pid = ok(clone_into(dir.as_raw_fd()));
    if pid == 0 {
        let right = path_of(std::process::id() as i32) == "/into";
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!right)) };
    }
    wait_ok(pid as i32);
    check_eq!(err(clone_into(-1)), libc::EINVAL);
    check_eq!(err(clone_into(999)), libc::EBADF);
    check_eq!(err(clone_into(File::open("/").unwrap().as_raw_fd())), libc::EBADF);
    let inner = group.child("inner");
    group.set("cgroup.subtree_control", "+memory");
    check_eq!(err(clone_into(dir.as_raw_fd())), libc::EBUSY);
    let inside = File::open(&inner.0).unwrap();
    drop(inner);
    check_eq!(err(clone_into(inside.as_raw_fd())), libc::ENOENT);
}

/// A part of the tree is given to a user, who may use it but not get out of it.
fn delegation() {
    const USER: u32 = 1234;
    let outer = Group::new("delegated", "pids");
    let other = Group::new("others", "");
    for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        chown(outer.file(name), Some(USER), Some(USER)).unwrap();
    }
    check_eq!(fs::metadata(outer.file("cgroup.procs")).unwrap().uid(), USER);
    let pid = child(|| {
        outer.set("cgroup.procs", "0");
        // Opened with root's rights: they are the opener's for good.
        let others = fs::OpenOptions::new().write(true).open(other.file("cgroup.procs")).unwrap();
        // SAFETY: plain calls.
        unsafe {
            ok(libc::setgroups(0, std::ptr::null()));
            ok(libc::setresgid(USER, USER, USER));
            ok(libc::setresuid(USER, USER, USER));
        }
        let inner = outer.child("inner");
        check_eq!(fs::metadata(inner.file("cgroup.procs")).unwrap().uid(), USER);
        // Its own limits are the giver's.
        check_eq!(outer.put("pids.max", "5"), libc::EACCES);
        inner.set("cgroup.procs", "0");
        outer.set("cgroup.subtree_control", "+pids");
        inner.set("pids.max", "5");
        // Not out of it: neither to the side nor up.
        check_eq!(other.put("cgroup.procs", &me()), libc::EACCES);
        check_eq!(put(root().join("cgroup.procs"), &me()), libc::EACCES);
        check_eq!(code(fs::create_dir(other.file("mine"))), libc::EACCES);
        check_eq!(code(fs::create_dir(root().join("mine"))), libc::EACCES);
        check_eq!(code(std::io::Write::write_all(&mut &others, me().as_bytes())), 0);
        check_eq!(path_of(std::process::id() as i32), "/others");
        // And not in again: the common ancestor is the root.
        check_eq!(inner.put("cgroup.procs", &me()), libc::EACCES);
        std::mem::forget(inner);
        0
    });
    wait_ok(pid);
    drop(Group(outer.file("inner")));
}

fn processes_of_others_stay_where_they_are() {
    const USER: u32 = 1234;
    let outer = Group::new("mine", "");
    let inner = outer.child("inner");
    for name in ["cgroup.procs", "inner/cgroup.procs"] {
        chown(outer.file(name), Some(USER), None).unwrap();
    }
    let (inside, outside) = (Idle::new(|| 0), Idle::new(|| 0));
    outer.take(inside.pid);
    wait_ok(child(|| {
        // SAFETY: plain call.
        ok(unsafe { libc::setresuid(USER, USER, USER) });
        // Files decide, not whose process it is.
        inner.set("cgroup.procs", &inside.pid.to_string());
        check_eq!(inner.put("cgroup.procs", &outside.pid.to_string()), libc::EACCES);
        0
    }));
    check_eq!(inside.finish(), 0);
    check_eq!(outside.finish(), 0);
}

fn main() {
    files_of_a_group();
    a_file_of_a_removed_group_is_gone();
    tasks_move_and_children_follow();
    zombies_do_not_hold_a_group();
    controllers_come_from_above();
    no_tasks_beside_domain_controllers();
    threads_of_a_process_in_several_groups();
    limits_of_the_hierarchy();
    events_wake_who_polls_them();
    a_child_starts_in_another_group();
    delegation();
    processes_of_others_stay_where_they_are();
}
