//! Mounts of devpts (mount(8), "Mount options for devpts"): each is an instance with numbers, nodes and
//! settings of its own, and a `ptmx` makes pairs in the instance that it belongs to.

use belljar_guest_tests::*;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn mount(at: &str, options: &str) -> i32 {
    fs::create_dir_all(at).unwrap();
    let (at, options) = (CString::new(at).unwrap(), CString::new(options).unwrap());
    // SAFETY: valid strings.
    unsafe {
        let kind = c"devpts".as_ptr();
        libc::mount(kind, at.as_ptr(), kind, libc::MS_NOSUID, options.as_ptr().cast())
    }
}

/// Opens a pair through this `ptmx`; the master, and the pair's number.
fn pair(ptmx: &str) -> std::io::Result<(OwnedFd, u32)> {
    let master = fs::OpenOptions::new().read(true).write(true).open(ptmx)?;
    let (mut number, unlocked) = (0_u32, 0_i32);
    // SAFETY: valid places.
    unsafe {
        ok(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &mut number));
        ok(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked));
    }
    Ok((master.into(), number))
}

fn errno_of<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn names(dir: &str) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| name(entry).into_string().unwrap()).collect();
    names.sort();
    names
}

fn every_mount_is_an_instance_of_its_own() {
    check_eq!(mount("/tmp/a", "newinstance,ptmxmode=0666,mode=0620,gid=5"), 0);
    check_eq!(mount("/tmp/b", "ptmxmode=0600"), 0);
    let (a, number) = pair("/tmp/a/ptmx").unwrap();
    check_eq!(number, 0);
    check_eq!(names("/tmp/a"), ["0", "ptmx"]);
    check_eq!(names("/tmp/b"), ["ptmx"]);
    let (b, number) = pair("/tmp/b/ptmx").unwrap();
    check_eq!(number, 0);
    let (second, number) = pair("/tmp/b/ptmx").unwrap();
    check_eq!(number, 1);
    let node = fs::metadata("/tmp/a/0").unwrap();
    check_eq!((node.mode() & 0o777, node.gid()), (0o620, 5));
    check_eq!(fs::metadata("/tmp/b/0").unwrap().mode() & 0o777, 0o600);
    check_eq!(fs::metadata("/tmp/a/ptmx").unwrap().permissions().mode() & 0o777, 0o666);
    check!(fs::metadata("/tmp/a").unwrap().dev() != fs::metadata("/tmp/b").unwrap().dev());

    // The same number, and other terminals: what one says the other does not hear.
    let open = |path| {
        use std::os::unix::fs::OpenOptionsExt;
        let mut how = fs::OpenOptions::new();
        how.read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap()
    };
    let (slave_a, slave_b) = (open("/tmp/a/0"), open("/tmp/b/0"));
    let send = |fd: i32, text: &str| {
        // SAFETY: a valid text.
        let n = unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
        check_eq!(n, text.len() as isize);
    };
    send(a.as_raw_fd(), "to a\n");
    send(b.as_raw_fd(), "to b\n");
    for (slave, text) in [(&slave_a, "to a\n"), (&slave_b, "to b\n")] {
        let mut bytes = [0; 16];
        // SAFETY: a valid buffer.
        let n = unsafe { libc::read(slave.as_raw_fd(), bytes.as_mut_ptr().cast(), 16) };
        check_eq!(&bytes[..n as usize], text.as_bytes());
    }
    // A closed pair's number is free again.
    drop(b);
    check_eq!(names("/tmp/b"), ["1", "ptmx"]);
    drop((slave_b, second));
    check_eq!(names("/tmp/b"), ["ptmx"]);

    // TIOCGPTPEER needs no name.
    // SAFETY: an ioctl without pointers.
    let peer = unsafe { libc::ioctl(a.as_raw_fd(), 0x5441, libc::O_RDWR | libc::O_NOCTTY) };
    let path = fs::read_link(format!("/proc/self/fd/{}", ok(peer))).unwrap();
    check_eq!(path.to_str(), Some("/tmp/a/0"));
}

fn a_ptmx_elsewhere_looks_for_pts_beside_it() {
    use std::os::unix::fs::symlink;
    fs::create_dir_all("/tmp/dev").unwrap();
    let node = || {
        // SAFETY: a valid name.
        let made = unsafe {
            libc::mknod(c"/tmp/dev/ptmx".as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(5, 2))
        };
        check_eq!(made, 0);
    };
    node();
    check_eq!(errno_of(pair("/tmp/dev/ptmx")), libc::ENOENT);
    fs::create_dir_all("/tmp/dev/pts").unwrap();
    check_eq!(errno_of(pair("/tmp/dev/ptmx")), libc::ENODEV);
    check_eq!(mount("/tmp/dev/pts", "ptmxmode=0666"), 0);
    let (master, number) = pair("/tmp/dev/ptmx").unwrap();
    check_eq!((number, names("/tmp/dev/pts")), (0, vec!["0".to_owned(), "ptmx".to_owned()]));
    drop(master);
    // As containers have it.
    fs::remove_file("/tmp/dev/ptmx").unwrap();
    symlink("pts/ptmx", "/tmp/dev/ptmx").unwrap();
    drop(pair("/tmp/dev/ptmx").unwrap());
    fs::remove_file("/tmp/dev/ptmx").unwrap();
    fs::write("/tmp/dev/ptmx", "").unwrap();
    // SAFETY: valid strings.
    unsafe {
        let (from, to) = (c"/tmp/dev/pts/ptmx".as_ptr(), c"/tmp/dev/ptmx".as_ptr());
        let none = std::ptr::null();
        ok(libc::mount(from, to, none, libc::MS_BIND, none.cast()));
    }
    let (_master, _) = pair("/tmp/dev/ptmx").unwrap();
    check_eq!(names("/tmp/dev/pts"), ["0", "ptmx"]);
}

fn options_are_checked_changed_and_shown() {
    for bad in ["mode=9", "max=9999999", "what", "gid=x"] {
        check_eq!(err(mount("/tmp/bad", bad)), libc::EINVAL, "{bad}");
    }
    check_eq!(mount("/tmp/few", "max=1,ptmxmode=0666"), 0);
    let (_one, _) = pair("/tmp/few/ptmx").unwrap();
    check_eq!(errno_of(pair("/tmp/few/ptmx")), libc::ENOSPC);
    let line = || {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let line = mounts.lines().find(|line| line.contains(" /tmp/few ")).unwrap().to_owned();
        line.split_whitespace().nth(3).unwrap().rsplit_once("relatime").unwrap().1.to_owned()
    };
    check_eq!(line(), ",mode=600,ptmxmode=666,max=1");
    // SAFETY: valid strings.
    unsafe {
        let (none, at) = (std::ptr::null(), c"/tmp/few".as_ptr());
        let options = c"max=2,mode=620,ptmxmode=0644".as_ptr();
        ok(libc::mount(none, at, none, libc::MS_REMOUNT | libc::MS_NOSUID, options.cast()));
    }
    check_eq!(line(), ",mode=620,ptmxmode=644,max=2");
    let (_two, number) = pair("/tmp/few/ptmx").unwrap();
    check_eq!(number, 1);
    check_eq!(fs::metadata("/tmp/few/1").unwrap().mode() & 0o777, 0o620);
    check_eq!(fs::metadata("/tmp/few/ptmx").unwrap().mode() & 0o777, 0o644);
}

fn a_user_namespace_may_have_its_own() {
    wait_ok(child(|| {
        // SAFETY: plain call.
        ok(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) });
        fs::write("/proc/self/uid_map", "0 0 1").unwrap();
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/gid_map", "0 0 1").unwrap();
        check_eq!(mount("/tmp/user", "newinstance,ptmxmode=0666,mode=0620"), 0);
        check_eq!(err(mount("/tmp/user2", "gid=5")), libc::EINVAL);
        let (_master, number) = pair("/tmp/user/ptmx").unwrap();
        check_eq!(number, 0);
        drop(fs::File::open("/tmp/user/0").unwrap());
        0
    }));
}

fn main() {
    every_mount_is_an_instance_of_its_own();
    a_ptmx_elsewhere_looks_for_pts_beside_it();
    options_are_checked_changed_and_shown();
    a_user_namespace_may_have_its_own();
}
