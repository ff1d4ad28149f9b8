//! User and group ids: the setresuid family and the saved ids, what leaves with root, groups,
//! no_new_privs, and whom a signal may reach.
//!
//! PROCESS_MODEL.md, Identity: credentials (ids, groups, capability sets, keep-caps, no_new_privs).

use belljar_guest_tests::*;

/// Real, effective and saved user id.
fn uids() -> (u32, u32, u32) {
    let (mut r, mut e, mut s) = (0, 0, 0);
    // SAFETY: the three are valid places.
    ok(unsafe { libc::getresuid(&mut r, &mut e, &mut s) });
    (r, e, s)
}

/// Real, effective and saved group id.
fn gids() -> (u32, u32, u32) {
    let (mut r, mut e, mut s) = (0, 0, 0);
    // SAFETY: the three are valid places.
    ok(unsafe { libc::getresgid(&mut r, &mut e, &mut s) });
    (r, e, s)
}

/// A field of /proc/self/status.
fn status(name: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    line[name.len() + 1..].split_whitespace().collect::<Vec<_>>().join(" ")
}

const NONE: &str = "0000000000000000";
const KEEP: u32 = u32::MAX;

/// The effective id goes away and comes back through the saved one, and the capabilities with it.
fn saved_ids() -> i32 {
    // SAFETY: calls without pointers.
    unsafe {
        let full = status("CapEff");
        check!(full != NONE);
        ok(libc::setresuid(KEEP, 1000, KEEP));
        check_eq!(uids(), (0, 1000, 0));
        check_eq!(status("Uid"), "0 1000 0 1000");
        check_eq!(status("CapEff"), NONE);
        check_eq!(status("CapPrm"), full);
        check_eq!(err(libc::setresuid(5, KEEP, KEEP)), libc::EPERM);
        ok(libc::seteuid(0));
        check_eq!(status("CapEff"), full);
        // setreuid that sets the real id makes the new effective id the saved one.
        ok(libc::setreuid(1000, 2000));
        check_eq!(uids(), (1000, 2000, 2000));
        check_eq!((status("CapEff"), status("CapPrm")), (NONE.into(), NONE.into()));
        // Now only the three ids are there to choose from.
        check_eq!(err(libc::setuid(0)), libc::EPERM);
        check_eq!(err(libc::setresuid(KEEP, 3000, KEEP)), libc::EPERM);
        ok(libc::setreuid(2000, 1000));
        check_eq!(uids(), (2000, 1000, 1000));
        ok(libc::setuid(2000));
        check_eq!(uids(), (2000, 2000, 1000));
        ok(libc::setresuid(1000, 1000, 1000));
        check_eq!(err(libc::setuid(2000)), libc::EPERM);
    }
    0
}

/// setuid of root is for good, and takes the right to do root's things.
fn drop_root() -> i32 {
    // SAFETY: calls with valid pointers.
    unsafe {
        let groups = [7u32, 42, 9];
        ok(libc::setgroups(3, groups.as_ptr()));
        let mut got = [0u32; 8];
        check_eq!(libc::getgroups(0, got.as_mut_ptr()), 3);
        check_eq!(err(libc::getgroups(2, got.as_mut_ptr())), libc::EINVAL);
        check_eq!(libc::getgroups(8, got.as_mut_ptr()), 3);
        got[..3].sort_unstable();
        check_eq!(got[..3], [7, 9, 42]);
        ok(libc::setresgid(10, 20, 30));
        check_eq!(gids(), (10, 20, 30));
        check_eq!(status("Gid"), "10 20 30 20");
        ok(libc::setuid(1000));
        check_eq!(uids(), (1000, 1000, 1000));
        check_eq!((status("CapEff"), status("CapPrm")), (NONE.into(), NONE.into()));
        check_eq!(err(libc::setgroups(3, groups.as_ptr())), libc::EPERM);
        check_eq!(err(libc::setgid(99)), libc::EPERM);
        ok(libc::setgid(10));
        check_eq!(gids(), (10, 10, 30));
        ok(libc::setegid(30));
        check_eq!(gids(), (10, 30, 30));
        check_eq!(err(libc::sethostname(c"no".as_ptr(), 2)), libc::EPERM);
        check_eq!(err(libc::chroot(c"/".as_ptr())), libc::EPERM);
        let now = libc::timespec { tv_sec: 1, tv_nsec: 0 };
        check_eq!(err(libc::clock_settime(libc::CLOCK_REALTIME, &now)), libc::EPERM);
        check_eq!(err(libc::setpriority(libc::PRIO_PROCESS, 0, -5)), libc::EACCES);
        check_eq!(err(libc::kill(1, 0)), libc::EPERM);
        check_eq!(
            err(libc::mount(
                c"none".as_ptr(),
                c"/tmp".as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                std::ptr::null()
            )),
            libc::EPERM
        );
        check_eq!(err(libc::mknod(c"/tmp/cred-dev".as_ptr(), libc::S_IFCHR, 0x103)), libc::EPERM);
    }
    0
}

/// PR_SET_KEEPCAPS leaves the permitted set; the effective one goes all the same.
fn keep_capabilities() -> i32 {
    let full = status("CapPrm");
    // SAFETY: calls without pointers.
    unsafe {
        ok(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0));
        ok(libc::setresuid(1000, 1000, 1000));
        check_eq!(libc::prctl(libc::PR_GET_KEEPCAPS, 0, 0, 0, 0), 1);
    }
    check_eq!((status("CapEff"), status("CapPrm")), (NONE.into(), full));
    0
}

/// A file's owner id reaches a process over exec of a set-user-ID program.
fn set_user_id(no_new_privs: bool) -> i32 {
    let own = std::fs::read("/proc/self/exe").unwrap();
    let path = format!("/cred-suid-{no_new_privs}");
    std::fs::write(&path, own).unwrap();
    let path = std::ffi::CString::new(path).unwrap();
    let expect = if no_new_privs { c"plain" } else { c"raised" };
    // SAFETY: valid strings, and vectors that end in null.
    unsafe {
        ok(libc::chown(path.as_ptr(), 2000, 2000));
        ok(libc::chmod(path.as_ptr(), 0o4755));
        ok(libc::setresgid(1000, 1000, 1000));
        ok(libc::setresuid(1000, 1000, 1000));
        if no_new_privs {
            check_eq!(err(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)), libc::EINVAL);
            ok(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
            check_eq!(libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
            check_eq!(status("NoNewPrivs"), "1");
        }
        let argv = [path.as_ptr(), expect.as_ptr(), std::ptr::null()];
        libc::execv(path.as_ptr(), argv.as_ptr());
    }
    fail("execv")
}

/// A signal reaches the processes whose real or saved id is one of the sender's two.
fn signals() {
    // SAFETY: calls with valid pointers.
    unsafe {
        let mut ready = [0; 2];
        ok(libc::pipe(ready.as_mut_ptr()));
        let target = child(|| {
            ok(libc::setresuid(1000, 1000, 1000));
            libc::write(ready[1], b"x".as_ptr().cast(), 1);
            loop {
                libc::pause();
            }
        });
        let mut byte = 0u8;
        check_eq!(libc::read(ready[0], (&raw mut byte).cast(), 1), 1);
        wait_ok(child(|| {
            ok(libc::setresuid(2000, 2000, 2000));
            check_eq!(err(libc::kill(target, libc::SIGTERM)), libc::EPERM);
            check_eq!(err(libc::kill(target, 0)), libc::EPERM);
            0
        }));
        wait_ok(child(|| {
            ok(libc::setresuid(1000, 2000, 2000));
            ok(libc::kill(target, libc::SIGTERM));
            0
        }));
        check_eq!(wait(target), libc::SIGTERM);
    }
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("raised") => return check_eq!(uids(), (1000, 2000, 2000)),
        Some("plain") => return check_eq!(uids(), (1000, 1000, 1000)),
        _ => {}
    }
    wait_ok(child(saved_ids));
    wait_ok(child(drop_root));
    wait_ok(child(keep_capabilities));
    wait_ok(child(|| set_user_id(false)));
    wait_ok(child(|| set_user_id(true)));
    signals();
}
