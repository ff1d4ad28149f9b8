//! process_vm_readv and process_vm_writev: pieces of another process's memory, as far as its own rights go, for those
//! who may look into it.
//!
//! PROCESS_MODEL.md, Signals and tracing: PEEK/POKE; COW: write by the kernel breaks COW.

use belljar_guest_tests::*;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};

const PAGE: usize = 4096;

fn piece(at: *mut u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: at.cast(), iov_len: len }
}

fn read(pid: i32, local: &[libc::iovec], remote: &[libc::iovec]) -> isize {
    let (l, r) = (local.len() as u64, remote.len() as u64);
    // SAFETY: the local pieces are the test's own.
    unsafe { libc::process_vm_readv(pid, local.as_ptr(), l, remote.as_ptr(), r, 0) }
}

fn write(pid: i32, local: &[libc::iovec], remote: &[libc::iovec]) -> isize {
    let (l, r) = (local.len() as u64, remote.len() as u64);
    // SAFETY: what is written to is the child's, which waits.
    unsafe { libc::process_vm_writev(pid, local.as_ptr(), l, remote.as_ptr(), r, 0) }
}

/// A child that runs `first`, waits until the other end is closed, and then exits with what `last` says.
fn waiting(first: impl FnOnce(), last: impl FnOnce() -> i32) -> (i32, OwnedFd) {
    let (mut ready, mut go) = ([0; 2], [0; 2]);
    // SAFETY: the descriptors are each used once.
    unsafe {
        ok(libc::pipe2(ready.as_mut_ptr(), libc::O_CLOEXEC));
        ok(libc::pipe2(go.as_mut_ptr(), libc::O_CLOEXEC));
        let pid = child(|| {
            first();
            libc::close(go[1]);
            libc::close(ready[1]);
            check_eq!(std::fs::File::from_raw_fd(go[0]).read(&mut [0]).unwrap(), 0);
            last()
        });
        libc::close(go[0]);
        libc::close(ready[1]);
        check_eq!(std::fs::File::from_raw_fd(ready[0]).read(&mut [0]).unwrap(), 0);
        (pid, OwnedFd::from_raw_fd(go[1]))
    }
}

fn pieces_of_any_form() {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let theirs = map(4 * PAGE, rw, libc::MAP_PRIVATE);
    let at = |offset: usize| {
        // SAFETY: within the mapping.
        unsafe { theirs.add(offset) }
    };
    // SAFETY: within the mapping.
    unsafe { theirs.write_bytes(1, 4 * PAGE) };
    let (pid, go) = waiting(
        || {
            // SAFETY: the child's copy.
            unsafe { theirs.write_bytes(2, 2 * PAGE) };
            // SAFETY: likewise.
            ok(unsafe { libc::mprotect(at(2 * PAGE).cast(), PAGE, libc::PROT_READ) });
            // SAFETY: likewise.
            ok(unsafe { libc::munmap(at(3 * PAGE).cast(), PAGE) });
        },
        // SAFETY: the child's copy.
        || unsafe { i32::from(at(PAGE - 1).read() != 7 || at(PAGE).read() != 7) },
    );
    let mut buf = vec![0_u8; 3 * PAGE];
    let local = buf.as_mut_ptr();
    // SAFETY: within the buffer.
    let mine = |offset: usize, len: usize| piece(unsafe { local.add(offset) }, len);
    // Across pages, scattered on both sides.
    let n = read(pid, &[mine(0, 3), mine(3, PAGE)], &[piece(at(PAGE - 2), 4), piece(at(9), 2)]);
    check_eq!(n, 6);
    check_eq!(buf[..7], [2, 2, 2, 2, 2, 2, 0]);
    // The shared page is as it was, and can be read up to where nothing is mapped.
    check_eq!(read(pid, &[mine(0, 3 * PAGE)], &[piece(at(2 * PAGE), 2 * PAGE)]), PAGE as isize);
    check!(buf[..PAGE].iter().all(|&b| b == 1) && buf[PAGE] == 0);
    check_eq!(err(read(pid, &[mine(0, 1)], &[piece(at(3 * PAGE), 1)]) as i64), libc::EFAULT);
    // Writing reaches the child's copy only, and not what it may not write itself.
    buf.fill(7);
    check_eq!(write(pid, &[mine(0, 2)], &[piece(at(PAGE - 1), 2)]), 2);
    // SAFETY: the test's own.
    check_eq!(unsafe { at(PAGE - 1).read() }, 1);
    check_eq!(err(write(pid, &[mine(0, 1)], &[piece(at(2 * PAGE), 1)]) as i64), libc::EFAULT);
    // Nothing to do is nothing to fail.
    check_eq!(read(i32::MAX, &[], &[piece(at(0), 1)]), 0);
    check_eq!(read(i32::MAX, &[mine(0, 1)], &[piece(at(0), 0)]), 0);
    check_eq!(err(read(i32::MAX, &[mine(0, 1)], &[piece(at(0), 1)]) as i64), libc::ESRCH);
    // SAFETY: no such flag.
    let flags = unsafe { libc::process_vm_readv(pid, &mine(0, 1), 1, &mine(0, 1), 1, 1) };
    check_eq!(err(flags as i64), libc::EINVAL);
    let many = vec![piece(at(0), 1); 1025];
    check_eq!(err(read(pid, &many, &[piece(at(0), 1)]) as i64), libc::EINVAL);
    check_eq!(err(read(pid, &[mine(0, 1)], &many) as i64), libc::EINVAL);
    drop(go);
    wait_ok(pid);
}

fn become_user(uid: u32) {
    // SAFETY: plain calls.
    unsafe {
        ok(libc::setgroups(0, std::ptr::null()));
        ok(libc::setresgid(uid, uid, uid));
        ok(libc::setresuid(uid, uid, uid));
    }
}

/// The same user, nothing that is closed, and root.
fn who_may() {
    let mut word = 0_u64;
    let here = piece((&raw mut word).cast(), 8);
    for (dumpable, uid, expected) in
        [(true, 1000, 0), (true, 1001, libc::EPERM), (false, 1000, libc::EPERM), (false, 0, 0)]
    {
        let (pid, go) = waiting(
            || {
                become_user(1000);
                // SAFETY: a plain call; changing the user made it not dumpable.
                ok(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, i32::from(dumpable)) });
            },
            || 0,
        );
        wait_ok(child(|| {
            if uid != 0 {
                become_user(uid);
            }
            let got = read(pid, &[here], &[here]);
            check_eq!(if got < 0 { errno() } else { 0 }, expected, "{dumpable} {uid}");
            let open = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"));
            check_eq!(open.is_ok(), expected == 0, "{dumpable} {uid}");
            0
        }));
        drop(go);
        wait_ok(pid);
    }
}

/// A program that was started outside of a user namespace and closed its memory is not open to the root of that
/// namespace.
fn memory_belongs_to_where_it_was_made() {
    let mut word = 0_u64;
    let here = piece((&raw mut word).cast(), 8);
    wait_ok(child(|| {
        // Its program was started outside, and it holds what the namespace's root must not see.
        // SAFETY: plain calls.
        unsafe {
            ok(libc::unshare(libc::CLONE_NEWUSER));
            ok(libc::prctl(libc::PR_SET_DUMPABLE, 0));
        }
        let parent = std::process::id() as i32;
        wait_ok(child(|| {
            // With all capabilities in the same namespace.
            check_eq!(err(read(parent, &[here], &[here]) as i64), libc::EPERM);
            0
        }));
        0
    }));
}

/// kcmp: what a child shares with its parent, and what it has for itself.
fn what_is_shared() {
    let own = std::process::id() as i32;
    let kcmp = |pid: i32, kind: i32, first: u64, second: u64| {
        // SAFETY: numbers only.
        unsafe { libc::syscall(libc::SYS_kcmp, own, pid, kind, first, second) }
    };
    let (pid, go) = waiting(|| (), || 0);
    const KCMP_FILE: i32 = 0;
    // SAFETY: plain calls.
    let copy = unsafe { (ok(libc::dup(1)) as u64, ok(libc::eventfd(0, 0)) as u64) };
    check_eq!(kcmp(pid, KCMP_FILE, 1, 1), 0);
    check_eq!(kcmp(own, KCMP_FILE, 1, copy.0), 0);
    let order = kcmp(own, KCMP_FILE, 1, copy.1);
    check!(order == 1 || order == 2, "{order}");
    check_eq!(kcmp(own, KCMP_FILE, copy.1, 1), 3 - order);
    check_eq!(err(kcmp(pid, KCMP_FILE, 1, 4000)), libc::EBADF);
    // Memory, descriptors, places, dispositions.
    for kind in 1..=4 {
        check_eq!(kcmp(own, kind, 0, 0), 0, "{kind}");
        check!(kcmp(pid, kind, 0, 0) > 0, "{kind}");
    }
    check_eq!(err(kcmp(pid, 99, 0, 0)), libc::EINVAL);
    check_eq!(err(kcmp(i32::MAX, 1, 0, 0)), libc::ESRCH);
    drop(go);
    wait_ok(pid);
}

fn main() {
    what_is_shared();
    pieces_of_any_form();
    who_may();
    memory_belongs_to_where_it_was_made();
}
