//! Mount namespaces (mount_namespaces(7)): a namespace of one's own, bind mounts, flags of one mount,
//! shared, slave, private and unbindable mounts, moves, lazy unmounts, pivot_root, and what a user
//! namespace must not undo.
//!
//! PROCESS_MODEL.md, Namespaces: mnt (mount tree, bind mounts, propagation, pivot_root).

use belljar_guest_tests::*;
use std::ffi::CString;
use std::fs;

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong, data: &str) -> i32 {
    let [source, target, kind, data] =
        [source, target, kind, data].map(|s| CString::new(s).unwrap());
    // SAFETY: valid strings.
    let result = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    };
    if result == 0 { 0 } else { errno() }
}

fn tmpfs(at: &str) {
    check_eq!(mount("none", at, "tmpfs", 0, ""), 0);
}

fn set(at: &str, how: libc::c_ulong) -> i32 {
    mount("", at, "", how, "")
}

fn bind(from: &str, to: &str, more: libc::c_ulong) -> i32 {
    mount(from, to, "", libc::MS_BIND | more, "")
}

fn umount(at: &str, flags: i32) -> i32 {
    let at = CString::new(at).unwrap();
    // SAFETY: a valid string.
    if unsafe { libc::umount2(at.as_ptr(), flags) } == 0 { 0 } else { errno() }
}

fn unshare(flags: i32) {
    // SAFETY: plain call.
    ok(unsafe { libc::unshare(flags) });
}

fn dir(path: &str) -> String {
    fs::create_dir_all(path).unwrap();
    path.into()
}

/// The line of /proc/self/mountinfo about a place.
fn info(place: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = text.lines().rfind(|l| l.split(' ').nth(4) == Some(place));
    found.map(str::to_owned)
}

/// Everything below a tmpfs of the test's own, in a namespace of its own.
fn arena(f: impl FnOnce()) {
    wait_ok(child(|| {
        unshare(libc::CLONE_NEWNS);
        check_eq!(set("/", libc::MS_REC | libc::MS_PRIVATE), 0);
        tmpfs("/tmp");
        f();
        0
    }));
}

fn isolation() {
    wait_ok(child(|| {
        check_eq!(set("/", libc::MS_REC | libc::MS_PRIVATE), 0);
        tmpfs("/tmp");
        fs::write("/tmp/outer", "").unwrap();
        wait_ok(child(|| {
            unshare(libc::CLONE_NEWNS);
            tmpfs("/tmp");
            check!(!fs::exists("/tmp/outer").unwrap());
            fs::write("/tmp/inner", "").unwrap();
            0
        }));
        check!(fs::exists("/tmp/outer").unwrap() && !fs::exists("/tmp/inner").unwrap());
        check_eq!(umount("/tmp", 0), 0);
        0
    }));
}

fn binds_and_flags() {
    arena(|| {
        let (a, b) = (dir("/tmp/a"), dir("/tmp/b"));
        dir("/tmp/a/sub");
        tmpfs("/tmp/a/sub");
        fs::write("/tmp/a/sub/deep", "x").unwrap();
        fs::write("/tmp/a/file", "x").unwrap();
        check_eq!(bind(&a, &b, 0), 0);
        check!(fs::exists("/tmp/b/file").unwrap() && !fs::exists("/tmp/b/sub/deep").unwrap());
        // Read-only here alone.
        let ro = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
        check_eq!(set(&b, ro | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC), 0);
        check_eq!(fs::write("/tmp/b/new", "").unwrap_err().raw_os_error(), Some(libc::EROFS));
        fs::write("/tmp/a/new", "").unwrap();
        let line = info("/tmp/b").unwrap();
        check!(line.contains(" ro,nosuid,nodev,noexec,"), "{line}");
        check!(line.split(' ').nth(3) == Some("/a"), "{line}");
        check_eq!(umount(&b, 0), 0);
        check_eq!(bind(&a, &b, libc::MS_REC), 0);
        check!(fs::exists("/tmp/b/sub/deep").unwrap());
        // What is mounted on it holds it.
        check_eq!(umount(&b, 0), libc::EBUSY);
        check_eq!(umount(&b, libc::MNT_DETACH), 0);
        check!(!fs::exists("/tmp/b/file").unwrap());
        // Single files too.
        fs::write("/tmp/onto", "old").unwrap();
        check_eq!(bind("/tmp/a/file", "/tmp/onto", 0), 0);
        check_eq!(fs::read_to_string("/tmp/onto").unwrap(), "x");
        check_eq!(bind("/tmp/a/file", &b, 0), libc::ENOTDIR);
        check_eq!(mount("none", "/tmp/b", "no-such-type", 0, ""), libc::ENODEV);
    });
}

/// Files that are open for writing keep a mount, or with it the whole file system, from becoming read-only.
fn writers_hold_off_read_only() {
    arena(|| {
        let (a, b) = (dir("/tmp/a"), dir("/tmp/b"));
        tmpfs(&a);
        check_eq!(bind(&a, &b, 0), 0);
        fs::write("/tmp/a/file", "text").unwrap();
        let whole = libc::MS_REMOUNT | libc::MS_RDONLY;
        let here = whole | libc::MS_BIND;

        let file = fs::File::options().write(true).open("/tmp/b/file").unwrap();
        check_eq!(set(&b, here), libc::EBUSY);
        check_eq!(set(&a, whole), libc::EBUSY);
        // What failed left no trace.
        fs::write("/tmp/a/other", "").unwrap();
        // Nobody writes through the other mount.
        check_eq!(set(&a, here), 0);
        check_eq!(fs::write("/tmp/a/new", "").unwrap_err().raw_os_error(), Some(libc::EROFS));
        fs::write("/tmp/b/new", "").unwrap();
        check_eq!(set(&a, libc::MS_REMOUNT | libc::MS_BIND), 0);

        // A mapping that can be written to holds the file after its descriptor is closed.
        drop(file);
        let file = fs::File::options().read(true).write(true).open("/tmp/b/file").unwrap();
        let both = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping.
        let at = unsafe {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
            libc::mmap(std::ptr::null_mut(), 4096, both, libc::MAP_SHARED, fd, 0)
        };
        check!(at != libc::MAP_FAILED);
        drop(file);
        check_eq!(set(&a, whole), libc::EBUSY);
        // SAFETY: the mapping just made.
        ok(unsafe { libc::munmap(at, 4096) });

        // Readers do not count, nor does who only cut the file off.
        let reader = fs::File::open("/tmp/b/file").unwrap();
        // SAFETY: a valid string.
        let cut =
            ok(unsafe { libc::open(c"/tmp/b/file".as_ptr(), libc::O_RDONLY | libc::O_TRUNC) });
        check_eq!(set(&b, here), 0);
        check_eq!(set(&b, libc::MS_REMOUNT | libc::MS_BIND), 0);
        check_eq!(set(&a, whole), 0);
        for place in ["/tmp/a/file", "/tmp/b/file"] {
            check_eq!(fs::write(place, "").unwrap_err().raw_os_error(), Some(libc::EROFS));
        }
        check_eq!(set(&a, libc::MS_REMOUNT), 0);
        fs::write("/tmp/b/file", "").unwrap();
        drop(reader);

        // A file that has lost its name is yet to be ended, also for who only reads it.
        // SAFETY: the descriptor made above.
        ok(unsafe { libc::close(cut) });
        let nameless = fs::File::open("/tmp/b/file").unwrap();
        fs::remove_file("/tmp/a/file").unwrap();
        check_eq!(set(&a, whole), libc::EBUSY);
        drop(nameless);
        check_eq!(set(&a, whole), 0);
    });
}

fn propagation() {
    arena(|| {
        for name in ["a", "peer", "slave", "private", "unbindable"] {
            dir(&format!("/tmp/{name}"));
        }
        tmpfs("/tmp/a");
        dir("/tmp/a/x");
        check_eq!(set("/tmp/a", libc::MS_SHARED), 0);
        check_eq!(bind("/tmp/a", "/tmp/peer", 0), 0);
        check_eq!(bind("/tmp/a", "/tmp/slave", 0), 0);
        check_eq!(set("/tmp/slave", libc::MS_SLAVE), 0);
        check_eq!(bind("/tmp/a", "/tmp/private", 0), 0);
        check_eq!(set("/tmp/private", libc::MS_PRIVATE), 0);
        let tag = |place: &str| {
            let line = info(place).unwrap();
            line.split(' ').skip(6).take_while(|w| *w != "-").collect::<Vec<_>>().join(" ")
        };
        check!(tag("/tmp/a").starts_with("shared:") && tag("/tmp/a") == tag("/tmp/peer"));
        check_eq!(tag("/tmp/slave"), tag("/tmp/a").replace("shared", "master"));
        check_eq!(tag("/tmp/private"), "");

        // A mount below one appears below its peer and its slave, not below the private one.
        tmpfs("/tmp/a/x");
        fs::write("/tmp/a/x/f", "").unwrap();
        check!(fs::exists("/tmp/peer/x/f").unwrap() && fs::exists("/tmp/slave/x/f").unwrap());
        check!(!fs::exists("/tmp/private/x/f").unwrap());
        // And it goes everywhere, from whichever peer.
        check_eq!(umount("/tmp/peer/x", 0), 0);
        check!(!fs::exists("/tmp/a/x/f").unwrap() && !fs::exists("/tmp/slave/x/f").unwrap());
        // A slave tells nobody.
        tmpfs("/tmp/slave/x");
        fs::write("/tmp/slave/x/g", "").unwrap();
        check!(!fs::exists("/tmp/a/x/g").unwrap());
        // A mount from above comes below what covers the place in the slave already.
        tmpfs("/tmp/a/x");
        check!(fs::exists("/tmp/slave/x/g").unwrap());
        check_eq!(umount("/tmp/slave/x", 0), 0);
        check_eq!(umount("/tmp/a/x", 0), 0);

        // A slave that is shared passes on to its own peers and slaves.
        check_eq!(set("/tmp/slave", libc::MS_SHARED), 0);
        dir("/tmp/second");
        check_eq!(bind("/tmp/slave", "/tmp/second", 0), 0);
        tmpfs("/tmp/a/x");
        fs::write("/tmp/a/x/h", "").unwrap();
        check!(fs::exists("/tmp/second/x/h").unwrap());
        check_eq!(umount("/tmp/a/x", 0), 0);
        check!(!fs::exists("/tmp/second/x/h").unwrap());

        // What cannot be bound is not, and does not come along.
        check_eq!(set("/tmp/private", libc::MS_UNBINDABLE), 0);
        check_eq!(tag("/tmp/private"), "unbindable");
        check_eq!(bind("/tmp/private", "/tmp/unbindable", 0), libc::EINVAL);
        // No mount leaves from below a shared one.
        tmpfs("/tmp/a/x");
        dir("/tmp/goal");
        check_eq!(mount("/tmp/a/x", "/tmp/goal", "", libc::MS_MOVE, ""), libc::EINVAL);
        check_eq!(set("/tmp/a/x", libc::MS_SHARED | libc::MS_PRIVATE), libc::EINVAL);
        // Only a mount has propagation.
        check_eq!(set("/tmp/goal", libc::MS_PRIVATE), libc::EINVAL);

        // Another namespace is a peer, or, after a change there, a slave.
        let mut ends = [0; 2];
        let mut back = [0; 2];
        // SAFETY: two slots each.
        unsafe {
            ok(libc::pipe(ends.as_mut_ptr()));
            ok(libc::pipe(back.as_mut_ptr()));
        }
        let mut byte = 0_u8;
        let other = child(|| {
            unshare(libc::CLONE_NEWNS);
            check_eq!(set("/tmp/peer", libc::MS_SLAVE), 0);
            // SAFETY: one byte.
            unsafe {
                check_eq!(libc::write(back[1], c"x".as_ptr().cast(), 1), 1);
                check_eq!(libc::read(ends[0], (&raw mut byte).cast(), 1), 1);
            }
            check!(fs::exists("/tmp/peer/y/told").unwrap());
            tmpfs("/tmp/peer/y");
            0
        });
        let mut byte = 0_u8;
        // SAFETY: one byte.
        check_eq!(unsafe { libc::read(back[0], (&raw mut byte).cast(), 1) }, 1);
        dir("/tmp/a/y");
        tmpfs("/tmp/a/y");
        fs::write("/tmp/a/y/told", "").unwrap();
        // SAFETY: one byte.
        check_eq!(unsafe { libc::write(ends[1], c"x".as_ptr().cast(), 1) }, 1);
        wait_ok(other);
        check!(fs::exists("/tmp/peer/y/told").unwrap());
    });
}

fn moves() {
    arena(|| {
        dir("/tmp/from");
        tmpfs("/tmp/from");
        dir("/tmp/from/in");
        tmpfs("/tmp/from/in");
        fs::write("/tmp/from/in/f", "").unwrap();
        dir("/tmp/to");
        check_eq!(mount("/tmp/from", "/tmp/from/in", "", libc::MS_MOVE, ""), libc::ELOOP);
        check_eq!(mount("/tmp/from", "/tmp/to", "", libc::MS_MOVE, ""), 0);
        check!(fs::exists("/tmp/to/in/f").unwrap() && !fs::exists("/tmp/from/in").unwrap());
        check_eq!(mount("/tmp/to/in", "/tmp/none", "", libc::MS_MOVE, ""), libc::ENOENT);
        // A directory of a mount is no mount.
        dir("/tmp/to/plain");
        check_eq!(mount("/tmp/to/plain", "/tmp/from", "", libc::MS_MOVE, ""), libc::EINVAL);
    });
}

fn changes_of_root() {
    arena(|| {
        dir("/tmp/new");
        tmpfs("/tmp/new");
        dir("/tmp/new/old");
        fs::write("/tmp/new/here", "").unwrap();
        dir("/tmp/outside");
        // SAFETY: valid strings.
        unsafe {
            let pivot = |new: &std::ffi::CStr, old: &std::ffi::CStr| {
                libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr())
            };
            // Refused: not a mount, and the old root not below the new one.
            check_eq!(err(pivot(c"/tmp/outside", c"/tmp/outside")), libc::EINVAL);
            check_eq!(err(pivot(c"/tmp/new", c"/tmp/outside")), libc::EINVAL);
            // Into a tree whose own root can be moved; the machine's may be none (initramfs).
            ok(libc::chroot(c"/tmp/new".as_ptr()));
            ok(libc::chdir(c"/".as_ptr()));
            // The root itself cannot be put anywhere.
            check_eq!(err(pivot(c"/", c"/")), libc::EBUSY);
            tmpfs("/old");
            dir("/old/put");
            fs::write("/old/second", "").unwrap();
            ok(pivot(c"/old", c"/old/put"));
            ok(libc::chdir(c"/".as_ptr()));
        }
        check!(fs::exists("/second").unwrap() && fs::exists("/put/here").unwrap());
        check_eq!(umount("/put", libc::MNT_DETACH), 0);
        check!(!fs::exists("/put/here").unwrap());
    });
}

fn namespace_files() {
    arena(|| {
        fs::write("/tmp/uts", "").unwrap();
        let name = || fs::read_link("/proc/self/ns/uts").unwrap();
        let before = name();
        wait_ok(child(|| {
            unshare(libc::CLONE_NEWUTS);
            // SAFETY: a valid name.
            ok(unsafe { libc::sethostname(c"bound".as_ptr(), 5) });
            bind("/proc/self/ns/uts", "/tmp/uts", 0)
        }));
        // The task is gone; the mount keeps the namespace.
        let line = info("/tmp/uts").unwrap();
        check!(line.contains(" uts:[") && line.contains(" - nsfs nsfs "), "{line}");
        wait_ok(child(|| {
            use std::os::fd::AsRawFd;
            let file = fs::File::open("/tmp/uts").unwrap();
            // SAFETY: plain calls with valid places.
            unsafe {
                ok(libc::setns(file.as_raw_fd(), libc::CLONE_NEWUTS));
                let mut buffer = [0_u8; 64];
                ok(libc::gethostname(buffer.as_mut_ptr().cast(), 64));
                check_eq!(&buffer[..6], b"bound\0");
            }
            0
        }));
        check_eq!(name(), before);
        check_eq!(umount("/tmp/uts", 0), 0);
        // A mount namespace cannot be made to hold itself.
        check_eq!(bind("/proc/self/ns/mnt", "/tmp/uts", 0), libc::EINVAL);
    });
}

/// In a user namespace, what was mounted before stays as it is.
fn locked_mounts() {
    arena(|| {
        dir("/tmp/hidden");
        fs::write("/tmp/hidden/secret", "").unwrap();
        tmpfs("/tmp/hidden");
        dir("/tmp/ro");
        tmpfs("/tmp/ro");
        let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        check_eq!(set("/tmp/ro", libc::MS_REMOUNT | libc::MS_BIND | flags), 0);
        check_eq!(set("/tmp", libc::MS_SHARED), 0);
        wait_ok(child(|| {
            unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
            fs::write("/proc/self/uid_map", "0 0 1").unwrap();
            // Without a group to give it, nothing can be made in a file system of ours.
            dir("/tmp/goal");
            tmpfs("/tmp/goal");
            let made = fs::create_dir("/tmp/goal/in").map_err(|e| e.raw_os_error());
            check_eq!(made, Err(Some(libc::EOVERFLOW)));
            check_eq!(umount("/tmp/goal", 0), 0);
            fs::write("/proc/self/setgroups", "deny").unwrap();
            fs::write("/proc/self/gid_map", "0 0 1").unwrap();
            check_eq!(umount("/tmp/hidden", 0), libc::EINVAL);
            check_eq!(umount("/tmp/hidden", libc::MNT_DETACH), libc::EINVAL);
            dir("/tmp/goal");
            check_eq!(mount("/tmp/hidden", "/tmp/goal", "", libc::MS_MOVE, ""), libc::EINVAL);
            // A bind mount without what covers would uncover.
            check_eq!(bind("/tmp", "/tmp/goal", 0), libc::EINVAL);
            check_eq!(bind("/tmp", "/tmp/goal", libc::MS_REC), 0);
            check_eq!(umount("/tmp/goal/hidden", 0), libc::EINVAL);
            check!(!fs::exists("/tmp/goal/hidden/secret").unwrap());
            check_eq!(umount("/tmp/goal", libc::MNT_DETACH), 0);
            // Flags stay set; more may be added.
            let less = libc::MS_REMOUNT | libc::MS_BIND;
            check_eq!(set("/tmp/ro", less), libc::EPERM);
            check_eq!(set("/tmp/ro", less | flags & !libc::MS_NOSUID), libc::EPERM);
            check_eq!(set("/tmp/ro", less | flags | libc::MS_NOATIME), libc::EPERM);
            check_eq!(set("/tmp/ro", less | flags), 0);
            // The file system itself is not ours.
            check_eq!(
                mount("", "/tmp/hidden", "", libc::MS_REMOUNT | libc::MS_RDONLY, ""),
                libc::EPERM
            );
            // Shared mounts have become slaves: nothing gets out.
            let line = info("/tmp").unwrap();
            check!(line.contains(" master:") && !line.contains(" shared:"), "{line}");
            tmpfs("/tmp/goal");
            fs::write("/tmp/goal/inside", "").unwrap();
            // Only some types can be mounted here.
            check_eq!(mount("none", "/tmp/goal", "devtmpfs", 0, ""), libc::EPERM);
            0
        }));
        check!(!fs::exists("/tmp/goal/inside").unwrap());
    });
}

fn main() {
    isolation();
    binds_and_flags();
    writers_hold_off_read_only();
    propagation();
    moves();
    changes_of_root();
    namespace_files();
    locked_mounts();
}
