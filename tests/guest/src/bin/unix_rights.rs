//! `SCM_RIGHTS` and `SCM_CREDENTIALS` (unix(7)): descriptors and credentials that travel with messages,
//! and sockets that nobody can reach any more.
use belljar_guest_tests::scm::{pair, pass_credentials, receive, send_as, send_fds};
use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};

fn close(fd: i32) {
    // SAFETY: no memory involved.
    ok(unsafe { libc::close(fd) });
}

/// Descriptors of this process.
fn open_count() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn rights() {
    let (a, b) = pair(libc::SOCK_STREAM);
    let mut pipe = [0; 2];
    // SAFETY: room for two descriptors.
    ok(unsafe { libc::pipe(pipe.as_mut_ptr()) });
    check_eq!(send_fds(a, b"x", &[pipe[1], pipe[0]]), 1);
    close(pipe[1]);
    close(pipe[0]);
    let got = receive(b, 10, 256, libc::MSG_CMSG_CLOEXEC);
    check_eq!((got.n, got.fds.len()), (1, 2));
    // SAFETY: every buffer is valid.
    unsafe {
        check_eq!(libc::fcntl(got.fds[0], libc::F_GETFD), libc::FD_CLOEXEC);
        check_eq!(libc::write(got.fds[0], b"through".as_ptr().cast(), 7), 7);
        let mut buf = [0_u8; 7];
        check_eq!(libc::read(got.fds[1], buf.as_mut_ptr().cast(), 7), 7);
        check_eq!(&buf, b"through");
    }
    got.fds.iter().for_each(|&fd| close(fd));

    // A read ends with the bytes that the files came with.
    check_eq!(send_fds(a, b"one", &[0]), 3);
    check_eq!(send_fds(a, b"two", &[0, 1]), 3);
    let got = receive(b, 100, 256, libc::MSG_PEEK);
    check_eq!((got.n, got.fds.len()), (3, 1));
    close(got.fds[0]);
    let got = receive(b, 100, 256, 0);
    check_eq!((got.n, got.fds.len()), (3, 1));
    close(got.fds[0]);
    // No room for the second: it is closed, and that is said.
    let room = (size_of::<libc::cmsghdr>() + 4).next_multiple_of(4);
    let got = receive(b, 100, room, 0);
    check_eq!((got.n, got.fds.len()), (3, 1));
    check!(got.flags & libc::MSG_CTRUNC != 0);
    close(got.fds[0]);
    // Who reads without asking for files closes them.
    let before = open_count();
    check_eq!(send_fds(a, b"z", &[0]), 1);
    let mut byte = 0_u8;
    // SAFETY: room for a byte.
    check_eq!(unsafe { libc::read(b, (&raw mut byte).cast(), 1) }, 1);
    check_eq!(open_count(), before);
    check_eq!(err(send_fds(a, b"x", &[999])), libc::EBADF);
    check_eq!(err(send_fds(a, b"x", &[0; 254])), libc::EINVAL);
    check_eq!(send_fds(a, b"x", &[0; 253]), 1);
    close(a);
    close(b);

    // Between processes, over datagrams.
    let (a, b) = pair(libc::SOCK_DGRAM);
    let pid = child(|| {
        std::fs::write("/tmp/rights", b"the child's file").unwrap();
        let file = std::fs::File::open("/tmp/rights").unwrap();
        check_eq!(send_fds(a, b"f", &[std::os::fd::AsRawFd::as_raw_fd(&file)]), 1);
        0
    });
    wait_ok(pid);
    let got = receive(b, 10, 256, 0);
    check_eq!(got.fds.len(), 1);
    let mut buf = [0_u8; 32];
    // SAFETY: the buffer is valid.
    check_eq!(unsafe { libc::read(got.fds[0], buf.as_mut_ptr().cast(), 32) }, 16);
    close(got.fds[0]);
    close(a);
    close(b);
}

fn credentials() {
    let (a, b) = pair(libc::SOCK_STREAM);
    pass_credentials(b);
    let me = std::process::id() as i32;
    // SAFETY: a valid byte.
    check_eq!(unsafe { libc::write(a, b"x".as_ptr().cast(), 1) }, 1);
    check_eq!(receive(b, 10, 256, 0).cred, Some((me, 0, 0)));
    let pid = child(|| {
        // SAFETY: no memory involved.
        ok(unsafe { libc::setgid(100) });
        // SAFETY: no memory involved.
        ok(unsafe { libc::setuid(1000) });
        let own = std::process::id() as i32;
        check_eq!(err(send_as(a, me, 1000, 100)), libc::EPERM);
        check_eq!(err(send_as(a, own, 0, 100)), libc::EPERM);
        check_eq!(send_as(a, own, 1000, 100), 1);
        0
    });
    // SAFETY: a valid byte. Another sender's bytes are read apart.
    check_eq!(unsafe { libc::write(a, b"y".as_ptr().cast(), 1) }, 1);
    wait_ok(pid);
    let mut seen = vec![receive(b, 10, 256, 0).cred, receive(b, 10, 256, 0).cred];
    seen.sort_by_key(|cred| cred.map(|(_, uid, _)| uid));
    check_eq!(seen, vec![Some((me, 0, 0)), Some((pid, 1000, 100))]);
    close(a);
    close(b);
}

/// The files that the kernel has open, as far as it says.
fn sockets() -> usize {
    std::fs::read_to_string("/proc/net/unix").unwrap().lines().count()
}

fn garbage() {
    let before = sockets();
    for _ in 0..50 {
        // Each holds the other in its queue, and nobody else holds either.
        let (a, b) = pair(libc::SOCK_DGRAM);
        check_eq!(send_fds(a, b"x", &[a]), 1);
        check_eq!(send_fds(b, b"x", &[b]), 1);
        close(a);
        close(b);
        // A socket in its own queue.
        let (a, b) = pair(libc::SOCK_STREAM);
        check_eq!(send_fds(a, b"x", &[b]), 1);
        close(b);
        close(a);
    }
    // Deep: a socket in the queue of one in the queue of one…
    let (mut last, keep) = pair(libc::SOCK_STREAM);
    close(keep);
    for _ in 0..300 {
        let (a, b) = pair(libc::SOCK_STREAM);
        check_eq!(send_fds(a, b"x", &[last]), 1);
        close(last);
        close(a);
        last = b;
    }
    close(last);
    // Linux collects when another Unix socket is closed.
    for _ in 0..1000 {
        let (a, b) = pair(libc::SOCK_STREAM);
        close(a);
        close(b);
        if sockets() == before {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    check_eq!(sockets(), before);
}

fn main() {
    let _ = std::fs::create_dir("/tmp");
    rights();
    credentials();
    garbage();
}
