//! Credentials that travel across namespaces (unix(7), `SCM_CREDENTIALS`): the receiver is told the sender's
//! number in its own pid namespace, or 0, and its ids in its own user namespace, or those of nobody. A
//! sender's claims are in its own terms.
//!
//! PROCESS_MODEL.md, Namespaces: pid (a parent sees its children's tasks under its own ids, never the
//! reverse), user (uid, gid). Identity: pid (local ids per level), credentials.
use belljar_guest_tests::scm::{pair, pass_credentials, receive, send_as};
use belljar_guest_tests::{check_eq, child, err, fail, ok, wait_ok};
use std::fs;

/// overflowuid and overflowgid of proc(5).
const NOBODY: u32 = 65534;

fn send(fd: i32) {
    // SAFETY: a valid byte.
    check_eq!(unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) }, 1);
}

fn sender(fd: i32) -> (i32, u32, u32) {
    receive(fd, 1, 256, 0).cred.unwrap_or_else(|| fail("no credentials came"))
}

/// `SO_PEERCRED`.
fn peer(fd: i32) -> (i32, u32, u32) {
    let mut cred = libc::ucred { pid: -1, uid: 1, gid: 1 };
    let mut len = size_of::<libc::ucred>() as u32;
    // SAFETY: room for a ucred.
    ok(unsafe {
        let value = (&raw mut cred).cast();
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut len)
    });
    (cred.pid, cred.uid, cred.gid)
}

/// What the process in namespaces of its own does: it is number 1 there, and its users 0 and 1 are 1000 and
/// 1001 outside.
fn inside(fd: i32) -> i32 {
    // Its maps are there now; who sent is not seen here.
    check_eq!(sender(fd), (0, NOBODY, NOBODY));
    check_eq!(peer(fd), (0, NOBODY, NOBODY));
    // SAFETY: calls without pointers.
    unsafe {
        check_eq!(libc::getpid(), 1);
        ok(libc::setresgid(0, 0, 0));
        ok(libc::setresuid(0, 0, 0));
    }
    send(fd);
    check_eq!(send_as(fd, 1, 0, 0), 1);
    // With CAP_SETUID over its namespace: any id there is.
    check_eq!(send_as(fd, 1, 1, 0), 1);
    check_eq!(err(send_as(fd, 1, 2, 0)), libc::EINVAL);
    check_eq!(err(send_as(fd, 1, 0, 7)), libc::EINVAL);
    // With CAP_SYS_ADMIN over its pid namespace: any process of it.
    let grandchild = child(|| {
        // SAFETY: no pointers.
        check_eq!(unsafe { libc::getpid() }, 2);
        send(fd);
        check_eq!(sender(fd), (0, NOBODY, NOBODY));
        0
    });
    check_eq!(grandchild, 2);
    wait_ok(grandchild);
    check_eq!(err(send_as(fd, 99, 0, 0)), libc::ESRCH);
    // Without them, only the truth.
    let plain = child(|| {
        // SAFETY: no pointers.
        ok(unsafe { libc::setresuid(1, 1, 1) });
        check_eq!(err(send_as(fd, 1, 1, 0)), libc::EPERM);
        check_eq!(err(send_as(fd, 3, 0, 0)), libc::EPERM);
        check_eq!(send_as(fd, 3, 1, 0), 1);
        0
    });
    check_eq!(plain, 3);
    wait_ok(plain);
    0
}

fn main() {
    let (ours, theirs) = pair(libc::SOCK_STREAM);
    pass_credentials(ours);
    pass_credentials(theirs);
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::SIGCHLD;
    // SAFETY: the child goes on with a copy of the stack.
    let pid = ok(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) }) as i32;
    if pid == 0 {
        let code = inside(theirs);
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), "0 1000 2").unwrap();
    }
    // SAFETY: no pointers.
    let own = unsafe { libc::getpid() };
    check_eq!(peer(ours), (own, 0, 0));
    send(ours);
    check_eq!(sender(ours), (pid, 1000, 1000));
    check_eq!(sender(ours), (pid, 1000, 1000));
    check_eq!(sender(ours), (pid, 1001, 1000));
    let (grandchild, uid, gid) = sender(ours);
    check_eq!((grandchild > pid, uid, gid), (true, 1000, 1000));
    let numbers = fs::read_to_string(format!("/proc/{grandchild}/status")).unwrap();
    let numbers = numbers.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    check_eq!(numbers.split_whitespace().collect::<Vec<_>>(), [&*grandchild.to_string(), "2"]);
    send(ours);
    let (plain, uid, gid) = sender(ours);
    check_eq!((plain > grandchild, uid, gid), (true, 1001, 1000));
    wait_ok(pid);
}
