//! Pid descriptors (pidfd_open(2)): poll, waitid, signals, other processes' descriptors, CLONE_PIDFD,
//! and entering a process's namespaces with setns.

use belljar_guest_tests::*;

const P_PIDFD: libc::idtype_t = 3;

fn pidfd_open(pid: i32, flags: u32) -> i64 {
    // SAFETY: plain call.
    unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) }
}

fn send(fd: i32, sig: i32) -> i64 {
    // SAFETY: no information given.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, sig, std::ptr::null::<u8>(), 0) }
}

fn ready(fd: i32, timeout: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry.
    ok(unsafe { libc::poll(&raw mut poll, 1, timeout) }) == 1 && poll.revents == libc::POLLIN
}

fn paused() -> i32 {
    child(|| {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() }
    })
}

fn ends() {
    let pid = paused();
    let fd = ok(pidfd_open(pid, 0)) as i32;
    // SAFETY: plain calls with valid places.
    unsafe {
        check_eq!(libc::fcntl(fd, libc::F_GETFD), libc::FD_CLOEXEC);
        check!(!ready(fd, 0));
        check_eq!(ok(send(fd, 0)), 0);
        let mut info: libc::siginfo_t = std::mem::zeroed();
        ok(libc::waitid(P_PIDFD, fd as u32, &raw mut info, libc::WEXITED | libc::WNOHANG));
        check_eq!(info.si_pid(), 0);
        ok(send(fd, libc::SIGTERM));
        // A zombie is readable, and one that was waited for too.
        check!(ready(fd, -1));
        ok(libc::waitid(P_PIDFD, fd as u32, &raw mut info, libc::WEXITED));
        check_eq!((info.si_pid(), info.si_status()), (pid, libc::SIGTERM));
        check!(ready(fd, 0));
        check_eq!(err(send(fd, 0)), libc::ESRCH);
        check_eq!(
            err(libc::waitid(P_PIDFD, fd as u32, &raw mut info, libc::WEXITED)),
            libc::ECHILD
        );
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        check!(text.contains("Pid:\t-1\n"), "{text}");
        ok(libc::close(fd));
    }
}

fn nonblocking() {
    let pid = paused();
    let fd = ok(pidfd_open(pid, libc::O_NONBLOCK as u32)) as i32;
    // SAFETY: plain calls with valid places.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        check_eq!(
            err(libc::waitid(P_PIDFD, fd as u32, &raw mut info, libc::WEXITED)),
            libc::EAGAIN
        );
        ok(send(fd, libc::SIGKILL));
    }
    wait(pid);
}

fn refusals() {
    check_eq!(err(pidfd_open(-1, 0)), libc::EINVAL);
    check_eq!(err(pidfd_open(1, 1)), libc::EINVAL);
    check_eq!(err(pidfd_open(999_999, 0)), libc::ESRCH);
    check_eq!(err(send(0, 0)), libc::EBADF);
    let fd = ok(pidfd_open(1, 0)) as i32;
    check_eq!(err(send(fd, 99)), libc::EINVAL);
    // SAFETY: plain calls.
    unsafe {
        check_eq!(err(libc::setns(fd, 0)), libc::EINVAL);
        check_eq!(err(libc::setns(0, 0)), libc::EINVAL);
        let mut info: libc::siginfo_t = std::mem::zeroed();
        check_eq!(err(libc::waitid(P_PIDFD, 0, &raw mut info, libc::WEXITED)), libc::EBADF);
    }
}

fn descriptors_of_others() {
    let mut ends = [0; 2];
    // SAFETY: plain calls with valid places.
    unsafe {
        ok(libc::pipe(ends.as_mut_ptr()));
        let pid = child(|| {
            let mut pair = [0; 2];
            ok(libc::pipe(pair.as_mut_ptr()));
            libc::write(pair[1], c"hello".as_ptr().cast(), 5);
            libc::write(ends[1], pair.as_ptr().cast(), 4);
            libc::pause()
        });
        let mut theirs = 0;
        check_eq!(libc::read(ends[0], (&raw mut theirs).cast(), 4), 4);
        let fd = ok(pidfd_open(pid, 0)) as i32;
        let mine = ok(libc::syscall(libc::SYS_pidfd_getfd, fd, theirs, 0)) as i32;
        let mut buffer = [0_u8; 5];
        check_eq!(libc::read(mine, buffer.as_mut_ptr().cast(), 5), 5);
        check_eq!(&buffer, b"hello");
        check_eq!(err(libc::syscall(libc::SYS_pidfd_getfd, fd, 777, 0)), libc::EBADF);
        check_eq!(err(libc::syscall(libc::SYS_pidfd_getfd, fd, 0, 1)), libc::EINVAL);
        ok(send(fd, libc::SIGKILL));
        wait(pid);
        check_eq!(err(libc::syscall(libc::SYS_pidfd_getfd, fd, theirs, 0)), libc::ESRCH);
    }
}

fn from_clone() {
    let mut fd = -1;
    // SAFETY: the child goes on with a copy of the stack.
    let pid = ok(unsafe {
        libc::syscall(libc::SYS_clone, libc::CLONE_PIDFD | libc::SIGCHLD, 0, &raw mut fd, 0, 0)
    }) as i32;
    if pid == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(5) };
    }
    check!(fd > 2);
    check!(ready(fd, -1));
    check_eq!(wait(pid), 5 << 8);
    let flags = libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
    // SAFETY: refused.
    let both = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut fd, 0, 0) };
    check_eq!(err(both), libc::EINVAL);
}

/// Several namespaces of a process at once, all or none.
fn namespaces_of_others() {
    let mut ends = [0; 2];
    // SAFETY: plain calls with valid places.
    unsafe {
        ok(libc::pipe(ends.as_mut_ptr()));
        let pid = child(|| {
            ok(libc::unshare(libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET));
            ok(libc::sethostname(c"theirs".as_ptr(), 6));
            libc::write(ends[1], c"x".as_ptr().cast(), 1);
            libc::pause()
        });
        let mut byte = 0_u8;
        check_eq!(libc::read(ends[0], (&raw mut byte).cast(), 1), 1);
        let fd = ok(pidfd_open(pid, 0)) as i32;
        wait_ok(child(|| {
            let link = |who: &str, kind: &str| {
                std::fs::read_link(format!("/proc/{who}/ns/{kind}")).unwrap()
            };
            let them = pid.to_string();
            check!(link("self", "uts") != link(&them, "uts"));
            // Its user namespace is ours already: refused, and the others are not entered either.
            check_eq!(err(libc::setns(fd, libc::CLONE_NEWUSER | libc::CLONE_NEWUTS)), libc::EINVAL);
            check!(link("self", "uts") != link(&them, "uts"));
            ok(libc::setns(fd, libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET));
            for kind in ["uts", "ipc", "net"] {
                check_eq!(link("self", kind), link(&them, kind));
            }
            let mut name = [0_u8; 64];
            ok(libc::gethostname(name.as_mut_ptr().cast(), 64));
            check_eq!(&name[..7], b"theirs\0");
            0
        }));
        ok(send(fd, libc::SIGKILL));
        wait(pid);
    }
}

fn main() {
    ends();
    nonblocking();
    refusals();
    descriptors_of_others();
    from_clone();
    namespaces_of_others();
}
