//! Ways out of a container that must be none: signals and memory of processes outside, namespaces of
//! others, mounts that were locked, id maps, chroot and pivot_root, descriptors from outside. What Linux
//! allows is allowed: a directory that was kept open leads out of a chroot.
//!
//! PROCESS_MODEL.md, Namespaces: pid (a parent sees its children's tasks, never the reverse), mnt, user
//! (hierarchical; uid_map, gid_map, setgroups rules), cgroup, setns; Identity: credentials.

use belljar_guest_tests::cgroups::{code, get, put};
use belljar_guest_tests::*;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

const USER: u32 = 1000;
const SECRET: &str = "outside";

fn cstr(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn unshare(flags: i32) -> i32 {
    // SAFETY: plain call.
    if unsafe { libc::unshare(flags) } < 0 { errno() } else { 0 }
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> i32 {
    let (source, target, kind) = (cstr(source), cstr(target), cstr(kind));
    // SAFETY: the strings end with NUL.
    let result = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null())
    };
    if result < 0 { errno() } else { 0 }
}

fn umount(target: &str, flags: i32) -> i32 {
    let target = cstr(target);
    // SAFETY: the string ends with NUL.
    if unsafe { libc::umount2(target.as_ptr(), flags) } < 0 { errno() } else { 0 }
}

fn become_user() {
    // SAFETY: plain calls.
    unsafe {
        ok(libc::setgroups(0, std::ptr::null()));
        ok(libc::setresgid(USER, USER, USER));
        ok(libc::setresuid(USER, USER, USER));
        // As after exec.
        ok(libc::prctl(libc::PR_SET_DUMPABLE, 1));
    }
}

/// An ordinary user's child with all capabilities in a user namespace of its own, and in other new
/// namespaces.
fn container(flags: i32, f: impl FnOnce() -> i32) {
    wait_ok(child(|| {
        become_user();
        check_eq!(unshare(libc::CLONE_NEWUSER), 0);
        check_eq!(put("/proc/self/setgroups", "deny"), 0);
        check_eq!(put("/proc/self/uid_map", &format!("0 {USER} 1")), 0);
        check_eq!(put("/proc/self/gid_map", &format!("0 {USER} 1")), 0);
        check_eq!(unshare(flags), 0);
        if flags & libc::CLONE_NEWPID != 0 { wait(child(f)) >> 8 } else { f() }
    }));
}

/// A process outside that waits to be disturbed, and its number.
fn outsider(user: bool) -> (i32, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: two descriptors, which are nobody else's.
    let (mut reader, writer) = unsafe {
        ok(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC));
        (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    let raw = writer.as_raw_fd();
    let mut ready = [0; 2];
    // SAFETY: as above.
    let (mut told, tell) = unsafe {
        ok(libc::pipe2(ready.as_mut_ptr(), libc::O_CLOEXEC));
        (File::from_raw_fd(ready[0]), File::from_raw_fd(ready[1]))
    };
    let pid = child(|| {
        // SAFETY: the copy of the parent's end.
        unsafe { libc::close(raw) };
        if user {
            become_user();
        }
        drop(tell.try_clone().map(|mut tell| std::io::Write::write_all(&mut tell, b"x")));
        let _ = reader.read(&mut [0]);
        0
    });
    check_eq!(told.read(&mut [0]).unwrap(), 1);
    (pid, writer)
}

/// It lives, and ends when it is told to.
fn undisturbed((pid, writer): (i32, OwnedFd)) {
    drop(writer);
    wait_ok(pid);
}

fn pidfd_open(pid: i32) -> i64 {
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }
}

fn signals_do_not_go_up() {
    let outside = outsider(false);
    let pidfd = ok(pidfd_open(outside.0));
    // SAFETY: plain calls; numbers and descriptors only.
    container(libc::CLONE_NEWPID, || unsafe {
        check_eq!(libc::getpid(), 1);
        check_eq!(libc::getppid(), 0);
        for target in [outside.0, -outside.0] {
            check_eq!(err(libc::kill(target, libc::SIGKILL)), libc::ESRCH);
        }
        check_eq!(err(libc::kill(-1, libc::SIGKILL)), libc::ESRCH);
        check_eq!(err(libc::kill(0x3fff_ffff, 0)), libc::ESRCH);
        check_eq!(err(pidfd_open(outside.0)), libc::ESRCH);
        // A descriptor from outside does not help.
        let sent = libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, 0, 0);
        check_eq!(err(sent), libc::EINVAL);
        let mut limit: libc::rlimit = std::mem::zeroed();
        check_eq!(
            err(libc::prlimit(outside.0, libc::RLIMIT_NOFILE, std::ptr::null(), &mut limit)),
            libc::ESRCH
        );
        check_eq!(err(libc::getpgid(outside.0)), libc::ESRCH);
        check_eq!(err(libc::sched_getscheduler(outside.0)), libc::ESRCH);
        0
    });
    // The same user without the namespace may signal its own, not root's.
    wait_ok(child(|| {
        become_user();
        // SAFETY: plain call.
        check_eq!(err(unsafe { libc::kill(outside.0, libc::SIGKILL) }), libc::EPERM);
        0
    }));
    // SAFETY: opened above.
    ok(unsafe { libc::close(pidfd as i32) });
    undisturbed(outside);
}

/// Neither root's process nor one of the same user can be looked into from a user namespace.
fn memory_outside_is_not_reached() {
    for user in [false, true] {
        let outside = outsider(user);
        let pid = outside.0;
        container(0, || {
            for file in ["mem", "environ", "maps", "auxv"] {
                let opened = File::open(format!("/proc/{pid}/{file}"));
                check_eq!(code(opened), libc::EACCES, "{file}, user {user}");
            }
            let opened = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"));
            check_eq!(code(opened), libc::EACCES);
            for link in ["root", "cwd", "exe", "ns/mnt", "fd/0"] {
                check_eq!(
                    code(fs::read_link(format!("/proc/{pid}/{link}"))),
                    libc::EACCES,
                    "{link}, user {user}"
                );
            }
            let pidfd = ok(pidfd_open(pid)) as i32;
            // SAFETY: numbers only.
            unsafe {
                let got = libc::syscall(libc::SYS_pidfd_getfd, pidfd, 0, 0);
                check_eq!(err(got), libc::EPERM);
                let mut word = 0_u64;
                let local =
                    libc::iovec { iov_base: (&raw mut word).cast(), iov_len: size_of::<u64>() };
                // The same program at the same place: there is such a word.
                let got = libc::process_vm_readv(pid, &local, 1, &local, 1, 0);
                check_eq!(err(got as i64), libc::EPERM);
                let put = libc::process_vm_writev(pid, &local, 1, &local, 1, 0);
                check_eq!(err(put as i64), libc::EPERM);
                for kind in [libc::CLONE_NEWNS, libc::CLONE_NEWUSER, libc::CLONE_NEWUTS] {
                    check_eq!(err(libc::setns(pidfd, kind)), libc::EPERM);
                }
            }
            0
        });
        undisturbed(outside);
    }
}

/// Nobody outside is traced, nor made a tracer.
fn tracing_does_not_go_up() {
    for user in [false, true] {
        let outside = outsider(user);
        let attach = |nr: i32| {
            [libc::PTRACE_ATTACH, libc::PTRACE_SEIZE].map(|how| tracing::request(how, nr, 0, 0))
        };
        container(0, || {
            check_eq!(attach(outside.0), [Err(libc::EPERM); 2]);
            // SAFETY: a plain call.
            check_eq!(attach(unsafe { libc::getppid() }), [Err(libc::EPERM); 2]);
            0
        });
        container(libc::CLONE_NEWPID, || {
            check_eq!(attach(outside.0), [Err(libc::ESRCH); 2]);
            // Inside it may.
            let inside = tracing::traced_child(|| 0);
            tracing::resume(libc::PTRACE_CONT, inside, 0);
            wait_ok(inside);
            0
        });
        undisturbed(outside);
    }
}

fn namespaces_outside_are_not_entered() {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let open = |kind: &str| File::open(format!("/proc/self/ns/{kind}")).unwrap();
    let files: Vec<File> = kinds.iter().map(|kind| open(kind)).collect();
    container(libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWPID, || {
        for (kind, file) in kinds.iter().zip(&files) {
            // SAFETY: an open descriptor.
            check_eq!(err(unsafe { libc::setns(file.as_raw_fd(), 0) }), libc::EPERM, "{kind}");
        }
        // SAFETY: plain calls.
        unsafe {
            // Its own host name, not the machine's; nothing else of the machine.
            ok(libc::sethostname(c"inside".as_ptr(), 6));
            check_eq!(err(libc::settimeofday(&timeval(1.0), std::ptr::null())), libc::EPERM);
            check_eq!(err(libc::mknod(c"/tmp/null".as_ptr(), libc::S_IFCHR, 0x103)), libc::EPERM);
            check_eq!(err(libc::setuid(USER)), libc::EINVAL);
            check_eq!(err(libc::chroot(c"/nowhere".as_ptr())), libc::ENOENT);
            let nice = libc::setpriority(libc::PRIO_PROCESS, 0, -5);
            check_eq!(err(nice), libc::EACCES);
        }
        check_eq!(put("/proc/sys/kernel/threads-max", "100"), libc::EACCES);
        0
    });
    wait_ok(child(|| {
        become_user();
        for kind in [libc::CLONE_NEWNS, libc::CLONE_NEWUTS, libc::CLONE_NEWNET, libc::CLONE_NEWPID]
        {
            check_eq!(unshare(kind), libc::EPERM);
        }
        0
    }));
}

/// A procfs of the parent's pid namespace cannot be made inside; the one that is there shows as it did.
fn proc_of_the_parent() {
    let outside = outsider(false);
    container(libc::CLONE_NEWNS, || {
        check_eq!(mount("proc", "/proc", "proc", 0), libc::EPERM);
        0
    });
    container(libc::CLONE_NEWNS | libc::CLONE_NEWPID, || {
        check_eq!(mount("proc", "/proc", "proc", 0), 0);
        check!(fs::metadata(format!("/proc/{}", outside.0)).is_err());
        check_eq!(fs::read_link("/proc/self").unwrap(), std::path::PathBuf::from("1"));
        // What covers it cannot be taken away to see the old one: it is its own mount, so it can.
        check_eq!(umount("/proc", 0), 0);
        // But the old one tells no more than before.
        check_eq!(code(File::open(format!("/proc/{}/mem", outside.0))), libc::EACCES);
        0
    });
    undisturbed(outside);
}

fn locked_mounts() {
    // A mount namespace of the test's own, whose mounts are root's.
    wait_ok(child(|| {
        check_eq!(unshare(libc::CLONE_NEWNS), 0);
        check_eq!(mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE), 0);
        for dir in ["/tmp/lock", "/tmp/away"] {
            fs::create_dir_all(dir).unwrap();
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        check_eq!(mount("tmpfs", "/tmp/lock", "tmpfs", 0), 0);
        fs::set_permissions("/tmp/lock", fs::Permissions::from_mode(0o777)).unwrap();
        for dir in ["/tmp/lock/ro", "/tmp/lock/hidden", "/tmp/lock/plain"] {
            fs::create_dir(dir).unwrap();
        }
        fs::write("/tmp/lock/hidden/secret", SECRET).unwrap();
        check_eq!(mount("tmpfs", "/tmp/lock/hidden", "tmpfs", 0), 0);
        check_eq!(mount("/tmp/lock/plain", "/tmp/lock/ro", "", libc::MS_BIND), 0);
        let strict = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        check_eq!(mount("", "/tmp/lock/ro", "", libc::MS_REMOUNT | libc::MS_BIND | strict), 0);
        container(libc::CLONE_NEWNS, || {
            let remount = libc::MS_REMOUNT | libc::MS_BIND;
            for weaker in [
                0,
                strict & !libc::MS_RDONLY,
                strict & !libc::MS_NOSUID,
                strict & !libc::MS_NODEV,
                strict & !libc::MS_NOEXEC,
            ] {
                check_eq!(mount("", "/tmp/lock/ro", "", remount | weaker), libc::EPERM);
            }
            check_eq!(mount("", "/tmp/lock/ro", "", remount | strict), 0);
            // Nor by a copy.
            check_eq!(mount("/tmp/lock/ro", "/tmp/away", "", libc::MS_BIND), 0);
            check_eq!(mount("", "/tmp/away", "", remount), libc::EPERM);
            check_eq!(code(File::create("/tmp/away/file")), libc::EROFS);
            check_eq!(umount("/tmp/away", 0), 0);
            // What covers something stays: no umount, move, or copy without it.
            for flags in [0, libc::MNT_DETACH] {
                check_eq!(umount("/tmp/lock/hidden", flags), libc::EINVAL);
            }
            check_eq!(mount("/tmp/lock/hidden", "/tmp/away", "", libc::MS_MOVE), libc::EINVAL);
            check_eq!(mount("/tmp/lock", "/tmp/away", "", libc::MS_BIND), libc::EINVAL);
            check_eq!(mount("/tmp/lock", "/tmp/away", "", libc::MS_BIND | libc::MS_REC), 0);
            check_eq!(umount("/tmp/away/hidden", 0), libc::EINVAL);
            check!(fs::metadata("/tmp/away/hidden/secret").is_err());
            check_eq!(umount("/tmp/away", libc::MNT_DETACH), 0);
            // Its own mounts are its own.
            check_eq!(mount("tmpfs", "/tmp/away", "tmpfs", 0), 0);
            check_eq!(umount("/tmp/away", 0), 0);
            0
        });
        0
    }));
}

/// Devices and set-id programs of a file system that a user namespace mounted have no effect.
fn mounts_of_a_user_give_no_rights() {
    wait_ok(child(|| {
        check_eq!(unshare(libc::CLONE_NEWNS), 0);
        check_eq!(mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE), 0);
        fs::create_dir_all("/tmp/mine").unwrap();
        container(libc::CLONE_NEWNS, || {
            check_eq!(mount("tmpfs", "/tmp/mine", "tmpfs", 0), 0);
            // SAFETY: the string ends with NUL.
            let made =
                unsafe { libc::mknod(c"/tmp/mine/zero".as_ptr(), libc::S_IFCHR | 0o666, 0x105) };
            check_eq!(err(made), libc::EPERM);
            let text = get("/proc/self/mounts");
            let line = text.lines().find(|line| line.contains(" /tmp/mine ")).unwrap();
            check!(line.contains("tmpfs"), "{line}");
            check_eq!(mount("/dev/vda", "/tmp/mine", "ext4", 0) != 0, true);
            fs::write("/tmp/mine/file", "").unwrap();
            check_eq!(code(chown("/tmp/mine/file", Some(1), None)), libc::EINVAL);
            check_eq!(fs::metadata("/tmp/mine/file").unwrap().uid(), 0);
            check_eq!(code(chown("/", Some(0), None)), libc::EPERM);
            0
        });
        0
    }));
}

fn id_maps() {
    // Overlapping and endless maps, from outside and with all rights.
    wait_ok(child(|| {
        check_eq!(unshare(libc::CLONE_NEWUSER), 0);
        let own = std::process::id();
        wait_ok({
            // SAFETY: plain fork; the child is in the namespace, so it may not.
            child(|| {
                check_eq!(put(format!("/proc/{own}/uid_map"), "0 0 2"), libc::EPERM);
                0
            })
        });
        0
    }));
    let mut ends = [0; 2];
    // SAFETY: two descriptors.
    let (mut reader, writer) = unsafe {
        ok(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC));
        (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    let mut ready = [0; 2];
    // SAFETY: two descriptors.
    let (mut told, mut tell) = unsafe {
        ok(libc::pipe2(ready.as_mut_ptr(), libc::O_CLOEXEC));
        (File::from_raw_fd(ready[0]), File::from_raw_fd(ready[1]))
    };
    let raw = writer.as_raw_fd();
    let pid = child(|| {
        // SAFETY: the copy of the parent's end.
        unsafe { libc::close(raw) };
        check_eq!(unshare(libc::CLONE_NEWUSER), 0);
        std::io::Write::write_all(&mut tell, b"x").unwrap();
        let _ = reader.read(&mut [0]);
        0
    });
    check_eq!(told.read(&mut [0]).unwrap(), 1);
    let map = format!("/proc/{pid}/uid_map");
    for bad in ["0 0 10\n5 100 10", "0 0 10\n20 5 10", "0 0 4294967295\n1 1 1", "4294967295 0 1"] {
        check_eq!(put(&map, bad), libc::EINVAL, "{bad}");
    }
    wait_ok(child(|| {
        become_user();
        // Not the namespace's owner, and without rights over it.
        check_ne_zero(put(&map, "0 1000 1"));
        0
    }));
    check_eq!(put(&map, "0 1000 1\n1 2000 5"), 0);
    check_eq!(put(&map, "0 1000 1\n1 2000 5"), libc::EPERM);
    drop(writer);
    wait_ok(pid);
    container(0, || {
        // Its own parent's map is closed to it.
        let parent = std::os::unix::process::parent_id();
        check_ne_zero(put(format!("/proc/{parent}/uid_map"), "0 0 1"));
        check_eq!(put("/proc/self/setgroups", "allow"), libc::EPERM);
        check_eq!(put("/proc/self/gid_map", "1 1 1"), libc::EPERM);
        0
    });
}

fn check_ne_zero(error: i32) {
    check!(error == libc::EPERM || error == libc::EACCES, "errno {error}");
}

/// chroot(2) is no prison for who may chroot and has a directory open outside; without one it holds.
fn out_of_a_chroot() {
    fs::create_dir_all("/tmp/jail/deeper").unwrap();
    fs::write("/tmp/outside", SECRET).unwrap();
    let inode = |path: &str| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let top = inode("/");
    wait_ok(child(|| {
        let kept = File::open("/tmp").unwrap();
        let chroot = |path: &str| {
            let path = cstr(path);
            // SAFETY: the string ends with NUL.
            ok(unsafe { libc::chroot(path.as_ptr()) });
        };
        chroot("/tmp/jail");
        std::env::set_current_dir("/").unwrap();
        check_eq!(inode(".."), inode("/"));
        check!(inode("/../../../outside").is_none());
        check!(fs::metadata("/deeper/../../outside").is_err());
        // From the kept directory everything can be opened.
        // SAFETY: the strings end with NUL.
        unsafe {
            let fd = libc::openat(kept.as_raw_fd(), c"outside".as_ptr(), libc::O_RDONLY);
            let mut text = String::new();
            File::from_raw_fd(ok(fd)).read_to_string(&mut text).unwrap();
            check_eq!(text, SECRET);
            // And one gets out.
            ok(libc::fchdir(kept.as_raw_fd()));
        }
        check_eq!(inode("outside").is_some(), true);
        check!(inode("/outside").is_none());
        for _ in 0..10 {
            std::env::set_current_dir("..").unwrap();
        }
        check_eq!(inode("."), top);
        chroot(".");
        check!(inode("/tmp/outside").is_some());
        0
    }));
    // A second chroot whose root lies below where one stands lets out as well.
    wait_ok(child(|| {
        // SAFETY: the strings end with NUL.
        unsafe {
            ok(libc::chroot(c"/tmp/jail".as_ptr()));
            ok(libc::chdir(c"/".as_ptr()));
            ok(libc::chroot(c"deeper".as_ptr()));
            ok(libc::chdir(c"..".as_ptr()));
        }
        check!(inode("outside").is_some());
        0
    }));
    // Without the capability there is no second chroot.
    wait_ok(child(|| {
        // SAFETY: as above.
        unsafe {
            ok(libc::chroot(c"/tmp/jail".as_ptr()));
            ok(libc::chdir(c"/".as_ptr()));
            become_user();
            check_eq!(err(libc::chroot(c"deeper".as_ptr())), libc::EPERM);
        }
        // Nor a user namespace in which it would have it.
        check_eq!(unshare(libc::CLONE_NEWUSER), libc::EPERM);
        0
    }));
}

fn pivot_root(new: &str, old: &str) -> i32 {
    let (new, old) = (cstr(new), cstr(old));
    // SAFETY: the strings end with NUL.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) };
    if result < 0 { errno() } else { 0 }
}

fn pivot_root_does_not_uncover() {
    fs::create_dir_all("/tmp/jail/old").unwrap();
    wait_ok(child(|| {
        become_user();
        check_eq!(pivot_root("/tmp/jail", "/tmp/jail/old"), libc::EPERM);
        0
    }));
    container(libc::CLONE_NEWNS, || {
        // What is no mount cannot become the root, nor what lies outside of it the old one's place.
        check_eq!(pivot_root("/tmp/jail", "/tmp/jail/old"), libc::EINVAL);
        check_eq!(pivot_root("/tmp", "/proc"), libc::EINVAL);
        0
    });
}

/// A directory of another mount namespace can be read through, not mounted.
fn directories_passed_in() {
    fs::create_dir_all("/tmp/passed").unwrap();
    fs::write("/tmp/passed/file", SECRET).unwrap();
    fs::create_dir_all("/tmp/target").unwrap();
    let dir = File::open("/tmp/passed").unwrap();
    let top = File::open("/").unwrap();
    container(libc::CLONE_NEWNS, || {
        let at = |dir: &File| format!("/proc/self/fd/{}", dir.as_raw_fd());
        let mut text = String::new();
        File::open(format!("{}/file", at(&dir))).unwrap().read_to_string(&mut text).unwrap();
        check_eq!(text, SECRET);
        for flags in [libc::MS_BIND, libc::MS_BIND | libc::MS_REC, libc::MS_MOVE] {
            check_eq!(mount(&at(&dir), "/tmp/target", "", flags), libc::EINVAL);
        }
        check_eq!(mount("tmpfs", &at(&dir), "tmpfs", 0), libc::EINVAL);
        check_eq!(umount(&at(&top), 0), libc::EINVAL);
        // Rights are those that it has here.
        check_eq!(code(File::create(format!("{}/new", at(&dir)))), libc::EACCES);
        // SAFETY: the strings end with NUL.
        unsafe {
            ok(libc::fchdir(dir.as_raw_fd()));
            check_eq!(
                err(libc::openat(dir.as_raw_fd(), c"file".as_ptr(), libc::O_WRONLY)),
                libc::EACCES
            );
        }
        0
    });
}

fn main() {
    signals_do_not_go_up();
    memory_outside_is_not_reached();
    tracing_does_not_go_up();
    namespaces_outside_are_not_entered();
    proc_of_the_parent();
    locked_mounts();
    mounts_of_a_user_give_no_rights();
    id_maps();
    out_of_a_chroot();
    pivot_root_does_not_uncover();
    directories_passed_in();
}
