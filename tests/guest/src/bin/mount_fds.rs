//! Mounting through descriptors: fsopen(2), fsconfig(2), fsmount(2), fspick(2), open_tree(2), move_mount(2),
//! mount_setattr(2): trees without a place, what becomes of them, attributes of whole trees, refusals.
//!
//! PROCESS_MODEL.md, Namespaces: mnt (mount tree, bind mounts, propagation).
use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};
use std::ffi::CString;
use std::fs;

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSCONFIG_CMD_RECONFIGURE: u32 = 7;
const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;
const AT_EMPTY_PATH: u32 = 0x1000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;
const HERE: &str = "/tmp/mount-fds";

fn text(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn fsopen(name: &str) -> i32 {
    // SAFETY: a valid string.
    unsafe { libc::syscall(libc::SYS_fsopen, text(name).as_ptr(), 1) as i32 }
}

fn fsconfig(fd: i32, command: u32, key: Option<&str>, value: Option<&str>) -> i32 {
    let (key, value) = (key.map(text), value.map(text));
    let pointer = |s: &Option<CString>| s.as_ref().map_or(std::ptr::null(), |s| s.as_ptr());
    // SAFETY: valid strings or null.
    unsafe {
        libc::syscall(libc::SYS_fsconfig, fd, command, pointer(&key), pointer(&value), 0) as i32
    }
}

fn fsmount(fd: i32, attributes: u64) -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_fsmount, fd, 1, attributes) as i32 }
}

fn fspick(path: &str) -> i32 {
    // SAFETY: a valid string.
    unsafe { libc::syscall(libc::SYS_fspick, libc::AT_FDCWD, text(path).as_ptr(), 1) as i32 }
}

fn open_tree(path: &str, flags: u32) -> i32 {
    // SAFETY: a valid string.
    unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, text(path).as_ptr(), flags) as i32 }
}

fn move_fd(fd: i32, to: &str) -> i32 {
    let to = text(to);
    // SAFETY: valid strings.
    unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            fd,
            c"".as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        ) as i32
    }
}

/// mount_setattr(2) of what `fd` holds, or of a path with `fd` -100.
fn set_attributes(fd: i32, path: &str, flags: u32, words: &[u64]) -> i32 {
    let path = text(path);
    // SAFETY: a valid string and structure.
    unsafe {
        let (at, len) = (words.as_ptr(), size_of_val(words));
        libc::syscall(libc::SYS_mount_setattr, fd, path.as_ptr(), flags, at, len) as i32
    }
}

fn openat(fd: i32, path: &str, flags: i32) -> i32 {
    // SAFETY: a valid string.
    unsafe { libc::openat(fd, text(path).as_ptr(), flags | libc::O_CLOEXEC, 0o644) }
}

fn close(fd: i32) {
    // SAFETY: no pointers.
    ok(unsafe { libc::close(fd) });
}

fn umount(path: &str) {
    // SAFETY: a valid string.
    ok(unsafe { libc::umount2(text(path).as_ptr(), libc::MNT_DETACH) });
}

fn flags_of(fd: i32) -> u64 {
    // SAFETY: room for the answer.
    unsafe {
        let mut answer: libc::statvfs = std::mem::zeroed();
        ok(libc::fstatvfs(fd, &raw mut answer));
        answer.f_flag & 0xf
    }
}

/// The line of a mount in /proc/self/mountinfo.
fn mountinfo(path: &str) -> Option<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.lines().rfind(|line| line.split(' ').nth(4) == Some(path)).map(str::to_string)
}

/// A new tmpfs without a place.
fn new_tmpfs(attributes: u64) -> i32 {
    let fd = ok(fsopen("tmpfs"));
    ok(fsconfig(fd, FSCONFIG_SET_STRING, Some("source"), Some("new")));
    ok(fsconfig(fd, FSCONFIG_CMD_CREATE, None, None));
    let mount = ok(fsmount(fd, attributes));
    close(fd);
    mount
}

fn configure() {
    check_eq!(err(fsopen("no such type")), libc::ENODEV);
    let fd = ok(fsopen("tmpfs"));
    // What went wrong can be read, once.
    let mut buf = [0_u8; 200];
    // SAFETY: the buffer is valid.
    let mut read = || unsafe { libc::read(fd, buf.as_mut_ptr().cast(), 200) as i64 };
    check_eq!(err(read()), libc::ENODATA);
    check_eq!(err(fsconfig(fd, FSCONFIG_SET_FLAG, Some("no-such"), None)), libc::EINVAL);
    check!(read() > 10);
    check_eq!(err(read()), libc::ENODATA);
    check!(buf.starts_with(b"e tmpfs: "));
    // Each command has its arguments.
    check_eq!(err(fsconfig(fd, FSCONFIG_SET_FLAG, None, None)), libc::EINVAL);
    check_eq!(err(fsconfig(fd, FSCONFIG_SET_FLAG, Some("ro"), Some("x"))), libc::EINVAL);
    check_eq!(err(fsconfig(fd, FSCONFIG_SET_STRING, Some("size"), None)), libc::EINVAL);
    check_eq!(err(fsconfig(fd, FSCONFIG_CMD_CREATE, Some("size"), None)), libc::EINVAL);
    check_eq!(err(fsconfig(fd, 77, None, None)), libc::EOPNOTSUPP);
    check_eq!(err(fsconfig(0, FSCONFIG_CMD_CREATE, None, None)), libc::EINVAL);
    check_eq!(err(fsconfig(999, FSCONFIG_CMD_CREATE, None, None)), libc::EBADF);
    // Nothing to mount yet.
    check_eq!(err(fsmount(fd, 0)), libc::EINVAL);
    ok(fsconfig(fd, FSCONFIG_SET_STRING, Some("source"), Some("by-fd")));
    check_eq!(err(fsconfig(fd, FSCONFIG_SET_STRING, Some("source"), Some("x"))), libc::EINVAL);
    ok(fsconfig(fd, FSCONFIG_SET_STRING, Some("size"), Some("64k")));
    ok(fsconfig(fd, FSCONFIG_SET_STRING, Some("mode"), Some("711")));
    ok(fsconfig(fd, FSCONFIG_CMD_CREATE, None, None));
    check_eq!(err(fsconfig(fd, FSCONFIG_CMD_CREATE, None, None)), libc::EBUSY);
    check_eq!(err(fsconfig(fd, FSCONFIG_SET_FLAG, Some("ro"), None)), libc::EBUSY);
    check_eq!(err(fsmount(fd, 1 << 30)), libc::EINVAL);
    check_eq!(err(fsmount(fd, 0x30)), libc::EINVAL);
    let mount = ok(fsmount(fd, NOSUID | NODEV | NOATIME));
    // Once.
    check_eq!(err(fsmount(fd, 0)), libc::EBUSY);

    // It can be used before anybody sees it.
    let file = ok(openat(mount, "file", libc::O_CREAT | libc::O_RDWR));
    // SAFETY: valid bytes.
    check_eq!(unsafe { libc::write(file, b"kept".as_ptr().cast(), 4) }, 4);
    let place = format!("{HERE}/a");
    check!(fs::read_dir(&place).unwrap().next().is_none());
    ok(move_fd(mount, &place));
    check_eq!(fs::read(format!("{place}/file")).unwrap(), b"kept");
    let line = mountinfo(&place).unwrap();
    check!(
        line.contains(" rw,nosuid,nodev,noatime ") && line.contains("- tmpfs by-fd rw"),
        "{line}"
    );
    check!(line.contains("size=64k") && line.contains("mode=711"), "{line}");
    [mount, file].iter().for_each(|&fd| close(fd));
    let file = ok(openat(libc::AT_FDCWD, &format!("{place}/file"), libc::O_RDONLY));

    // From then on it is changed by the same descriptor, or one that names its place.
    let pick = ok(fspick(&place));
    for (context, flag, result) in [(fd, "ro", libc::EROFS), (pick, "rw", 0)] {
        ok(fsconfig(context, FSCONFIG_SET_FLAG, Some(flag), None));
        ok(fsconfig(context, FSCONFIG_CMD_RECONFIGURE, None, None));
        let made = openat(libc::AT_FDCWD, &format!("{place}/more"), libc::O_CREAT | libc::O_RDWR);
        if result == 0 {
            close(ok(made));
        } else {
            check_eq!(err(made), result);
        }
        if flag == "ro" {
            // Who was there first can go on reading.
            let mut byte = 0_u8;
            // SAFETY: room for a byte.
            check_eq!(unsafe { libc::pread(file, (&raw mut byte).cast(), 1, 0) }, 1);
        }
    }
    check_eq!(err(fspick(&format!("{place}/file"))), libc::EINVAL);
    [fd, pick, file].iter().for_each(|&fd| close(fd));
    umount(&place);
}

/// A copy of a tree has no place until it is given one, and goes with its descriptor.
fn trees() {
    let (place, other) = (format!("{HERE}/a"), format!("{HERE}/b"));
    ok(move_fd(new_tmpfs(0), &place));
    fs::create_dir(format!("{place}/sub")).unwrap();
    ok(move_fd(new_tmpfs(0), &format!("{place}/sub")));
    fs::write(format!("{place}/sub/deep"), "deep").unwrap();
    let lines = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let before = lines();

    check_eq!(err(open_tree(&place, AT_RECURSIVE)), libc::EINVAL);
    check_eq!(err(open_tree(&place, 1 << 30)), libc::EINVAL);
    check_eq!(err(open_tree(&format!("{HERE}/none"), OPEN_TREE_CLONE)), libc::ENOENT);
    // Without a copy it is a place, as with O_PATH, and moving it moves the mount.
    let plain = ok(open_tree(&place, 0));
    let whole = ok(open_tree(&place, OPEN_TREE_CLONE | AT_RECURSIVE));
    let alone = ok(open_tree(&place, OPEN_TREE_CLONE));
    check_eq!(lines(), before);
    for (fd, seen) in [(plain, true), (whole, true), (alone, false)] {
        let found = openat(fd, "sub/deep", libc::O_RDONLY);
        check_eq!(found >= 0, seen);
        if found >= 0 {
            close(found);
        }
    }
    // A copy shows the same files, and stays when the original goes.
    close(ok(openat(alone, "made", libc::O_CREAT | libc::O_WRONLY)));
    check!(fs::metadata(format!("{place}/made")).is_ok());
    ok(move_fd(plain, &other));
    check!(fs::metadata(format!("{other}/sub/deep")).is_ok());
    check!(fs::metadata(format!("{place}/made")).is_err());
    umount(&other);
    close(ok(openat(whole, "sub/deep", libc::O_RDONLY)));
    // Nothing can be mounted in it, nor copied from it, as long as it has no place.
    check_eq!(err(move_fd(new_tmpfs(0), &format!("/proc/self/fd/{whole}/sub"))), libc::EINVAL);
    check_eq!(err(open_tree(&format!("/proc/self/fd/{whole}/sub"), OPEN_TREE_CLONE)), libc::EINVAL);
    // A file on a directory, or a mount on itself, is refused.
    check_eq!(err(move_fd(alone, "/proc/self/status")), libc::EINVAL);
    ok(move_fd(whole, &place));
    check!(fs::metadata(format!("{place}/sub/deep")).is_ok());
    check_eq!(err(move_fd(whole, &format!("{place}/sub"))), libc::ELOOP);
    // With a place, the descriptor is one of a mount like any other: it can move on.
    ok(move_fd(whole, &other));
    check!(fs::metadata(format!("{other}/sub/deep")).is_ok());

    // An end without a place: a file in it stays open, and what is mounted in it is still there.
    close(alone);
    let copy = ok(open_tree(&other, OPEN_TREE_CLONE | AT_RECURSIVE));
    let inside = ok(openat(copy, ".", libc::O_PATH | libc::O_DIRECTORY));
    close(copy);
    close(ok(openat(inside, "made", libc::O_RDONLY)));
    check_eq!(err(move_fd(inside, &place)), libc::EINVAL);
    [inside, plain, whole].iter().for_each(|&fd| close(fd));
    umount(&other);
    check_eq!(lines(), before - 2);
}

fn attributes() {
    let place = format!("{HERE}/a");
    let set = |flags, words: &[u64]| set_attributes(libc::AT_FDCWD, &place, flags, words);
    ok(move_fd(new_tmpfs(0), &place));
    fs::create_dir(format!("{place}/sub")).unwrap();
    std::os::unix::fs::symlink("sub", format!("{place}/link")).unwrap();
    ok(move_fd(new_tmpfs(0), &format!("{place}/sub")));

    // What it refuses.
    check_eq!(err(set(0, &[RDONLY, 0, 0])), libc::EINVAL);
    check_eq!(err(set(0, &[RDONLY, 0, 0, 0, 1])), libc::E2BIG);
    check_eq!(err(set(0, &[1 << 30, 0, 0, 0])), libc::EINVAL);
    check_eq!(err(set(1 << 20, &[RDONLY, 0, 0, 0])), libc::EINVAL);
    check_eq!(err(set(0, &[NOATIME, 0, 0, 0])), libc::EINVAL);
    check_eq!(err(set(0, &[0, NOATIME, 0, 0])), libc::EINVAL);
    check_eq!(err(set(0, &[0x30, ATIME, 0, 0])), libc::EINVAL);
    check_eq!(err(set(0, &[0, 0, libc::MS_SHARED | libc::MS_SLAVE, 0])), libc::EINVAL);
    check_eq!(err(set(0, &[0, 0, 1, 0])), libc::EINVAL);
    ok(set(1 << 15, &[0, 0, 0, 0]));
    let below = format!("{place}/link");
    check_eq!(err(set_attributes(libc::AT_FDCWD, &below, 0x100, &[1, 0, 0, 0])), libc::EINVAL);

    // Nothing becomes read-only under a writer, nor then anything of the tree.
    let writer =
        ok(openat(libc::AT_FDCWD, &format!("{place}/sub/w"), libc::O_CREAT | libc::O_RDWR));
    check_eq!(err(set(AT_RECURSIVE, &[RDONLY, 0, 0, 0])), libc::EBUSY);
    check!(mountinfo(&place).unwrap().contains(" rw,"));
    close(writer);

    // One mount, then a whole tree.
    ok(set(0, &[RDONLY | NOEXEC, 0, 0, 0]));
    check_eq!(err(openat(libc::AT_FDCWD, &format!("{place}/x"), libc::O_CREAT)), libc::EROFS);
    close(ok(openat(libc::AT_FDCWD, &format!("{place}/sub/x"), libc::O_CREAT)));
    ok(set(AT_RECURSIVE, &[NODEV | NOATIME | NODIRATIME, NOEXEC | ATIME, 0, 0]));
    check!(mountinfo(&place).unwrap().contains(" ro,nodev,noatime,nodiratime "));
    let sub = format!("{place}/sub");
    check!(mountinfo(&sub).unwrap().contains(" rw,nodev,noatime,nodiratime "));
    ok(set(AT_RECURSIVE, &[NOSYMFOLLOW, RDONLY | ATIME | NODIRATIME, 0, 0]));
    let line = mountinfo(&place).unwrap();
    check!(line.contains(" rw,nodev,relatime,nosymfollow "), "{line}");
    check_eq!(err(openat(libc::AT_FDCWD, &format!("{place}/link/x"), libc::O_RDONLY)), libc::ELOOP);
    check_eq!(fs::read_link(format!("{place}/link")).unwrap(), std::path::Path::new("sub"));
    ok(set(AT_RECURSIVE, &[0, NOSYMFOLLOW, libc::MS_SHARED, 0]));
    check!(fs::read(format!("{place}/link/x")).is_ok());
    check!(mountinfo(&sub).unwrap().contains(" shared:"));
    ok(set(AT_RECURSIVE, &[0, 0, libc::MS_PRIVATE, 0]));
    check!(!mountinfo(&sub).unwrap().contains(" shared:"));

    // Of a tree that has no place yet: the original stays as it is.
    let copy = ok(open_tree(&place, OPEN_TREE_CLONE | AT_RECURSIVE));
    ok(set_attributes(copy, "", AT_EMPTY_PATH | AT_RECURSIVE, &[RDONLY, 0, 0, 0]));
    check_eq!(flags_of(copy) & 1, 1);
    check_eq!(err(openat(copy, "sub/y", libc::O_CREAT)), libc::EROFS);
    close(ok(openat(libc::AT_FDCWD, &format!("{place}/sub/y"), libc::O_CREAT)));
    close(copy);

    // What a less privileged namespace was given read-only stays so, and a change of a tree is all or
    // nothing.
    ok(set_attributes(libc::AT_FDCWD, &sub, 0, &[RDONLY, 0, 0, 0]));
    wait_ok(child(|| {
        // SAFETY: no pointers.
        ok(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) });
        check_eq!(err(set_attributes(-100, &sub, 0, &[0, RDONLY, 0, 0])), libc::EPERM);
        check_eq!(err(set(AT_RECURSIVE, &[NOEXEC, RDONLY, 0, 0])), libc::EPERM);
        check!(!mountinfo(&place).unwrap().contains("noexec"));
        ok(set(AT_RECURSIVE, &[NOEXEC, 0, 0, 0]));
        check!(mountinfo(&sub).unwrap().contains("noexec"));
        // A copy has the same locks.
        let copy = ok(open_tree(&place, OPEN_TREE_CLONE | AT_RECURSIVE));
        let clear = [0, RDONLY, 0, 0];
        check_eq!(err(set_attributes(copy, "", AT_EMPTY_PATH | AT_RECURSIVE, &clear)), libc::EPERM);
        // What hides something must be copied too.
        check_eq!(err(open_tree(&place, OPEN_TREE_CLONE)), libc::EINVAL);
        0
    }));
    check!(!mountinfo(&sub).unwrap().contains("noexec"));
    umount(&place);
}

/// A mount joins the peers of another (`MOVE_MOUNT_SET_GROUP`).
fn peers() {
    const SET_GROUP: u32 = 0x100;
    let (place, other) = (format!("{HERE}/a"), format!("{HERE}/b"));
    let join = |from: &str, to: &str| {
        let (from, to) = (text(from), text(to));
        // SAFETY: valid strings.
        unsafe {
            let (here, from, to) = (libc::AT_FDCWD, from.as_ptr(), to.as_ptr());
            libc::syscall(libc::SYS_move_mount, here, from, here, to, SET_GROUP) as i32
        }
    };
    ok(move_fd(new_tmpfs(0), &place));
    fs::create_dir(format!("{place}/sub")).unwrap();
    let copy = ok(open_tree(&place, OPEN_TREE_CLONE));
    ok(move_fd(copy, &other));
    close(copy);
    // Nobody to join yet.
    check_eq!(err(join(&place, &other)), libc::EINVAL);
    ok(set_attributes(libc::AT_FDCWD, &place, 0, &[0, 0, libc::MS_SHARED, 0]));
    check_eq!(err(join(&place, HERE)), libc::EINVAL);
    ok(join(&place, &other));
    let group = |path| {
        let line = mountinfo(path).unwrap();
        line.split(' ').find(|word| word.starts_with("shared:")).unwrap().to_string()
    };
    check_eq!(group(&place), group(&other));
    // Once; and what is mounted on one is on the other.
    check_eq!(err(join(&place, &other)), libc::EINVAL);
    ok(move_fd(new_tmpfs(0), &format!("{other}/sub")));
    check!(mountinfo(&format!("{place}/sub")).is_some());
    umount(&other);
    umount(&place);
}

/// All of it takes CAP_SYS_ADMIN, whatever descriptors one has.
fn refusals() {
    let mount = new_tmpfs(0);
    wait_ok(child(|| {
        // SAFETY: no pointers.
        ok(unsafe { libc::setresuid(1000, 1000, 1000) });
        check_eq!(err(fsopen("tmpfs")), libc::EPERM);
        check_eq!(err(fspick("/")), libc::EPERM);
        check_eq!(err(fsmount(0, 0)), libc::EPERM);
        check_eq!(err(open_tree(HERE, OPEN_TREE_CLONE)), libc::EPERM);
        check_eq!(err(move_fd(mount, &format!("{HERE}/a"))), libc::EPERM);
        check_eq!(err(set_attributes(-100, "/", 0, &[RDONLY, 0, 0, 0])), libc::EPERM);
        close(ok(open_tree(HERE, 0)));
        0
    }));
    close(mount);
}

fn main() {
    let _ = fs::create_dir("/tmp");
    // SAFETY: valid strings.
    unsafe {
        ok(libc::unshare(libc::CLONE_NEWNS));
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let none = std::ptr::null();
        ok(libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, private, none.cast()));
    }
    for dir in [HERE, &format!("{HERE}/a"), &format!("{HERE}/b")] {
        let _ = fs::create_dir(dir);
    }
    configure();
    trees();
    attributes();
    peers();
    refusals();
}
