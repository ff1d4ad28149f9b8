//! Unix sockets (unix(7)): pairs, names, backlog, messages, end of file, limits, polling.
use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

fn poll(fd: i32, events: i16) -> i16 {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one valid entry.
    ok(unsafe { libc::poll(&raw mut entry, 1, 0) });
    entry.revents
}

fn socket(kind: i32) -> i32 {
    // SAFETY: no memory involved.
    ok(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })
}

fn pair(kind: i32) -> (i32, i32) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    ok(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) });
    (fds[0], fds[1])
}

fn send(fd: i32, data: &[u8], flags: i32) -> i64 {
    // SAFETY: the buffer is valid.
    unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), flags) as i64 }
}

fn recv(fd: i32, data: &mut [u8], flags: i32) -> i64 {
    // SAFETY: the buffer is valid.
    unsafe { libc::recv(fd, data.as_mut_ptr().cast(), data.len(), flags) as i64 }
}

fn option(fd: i32, name: i32) -> i32 {
    let (mut value, mut len) = (0, 4);
    // SAFETY: room for an int.
    ok(unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut len)
    });
    value
}

fn set_option(fd: i32, name: i32, value: i32) {
    // SAFETY: an int.
    ok(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, (&raw const value).cast(), 4) });
}

fn pairs() {
    let (a, b) = pair(libc::SOCK_STREAM);
    check_eq!(option(a, libc::SO_TYPE), libc::SOCK_STREAM);
    check_eq!(option(a, libc::SO_DOMAIN), libc::AF_UNIX);
    check_eq!(option(a, libc::SO_ACCEPTCONN), 0);
    check_eq!(option(a, libc::SO_SNDBUF), 212_992);
    check_eq!(poll(a, libc::POLLIN | libc::POLLOUT), libc::POLLOUT);
    check_eq!(send(a, b"hello", 0), 5);
    check_eq!(send(a, b"world", 0), 5);
    check_eq!(poll(b, libc::POLLIN), libc::POLLIN);
    let mut waiting = 0;
    // SAFETY: room for an int.
    ok(unsafe { libc::ioctl(b, libc::FIONREAD, &raw mut waiting) });
    check_eq!(waiting, 10);
    let mut buf = [0; 64];
    check_eq!(recv(b, &mut buf, libc::MSG_PEEK), 10);
    check_eq!(recv(b, &mut buf[..3], 0), 3);
    check_eq!(recv(b, &mut buf[3..], 0), 7);
    check_eq!(&buf[..10], b"helloworld");
    check_eq!(err(recv(b, &mut buf, libc::MSG_DONTWAIT)), libc::EAGAIN);
    // Half of it ends; the other half goes on.
    // SAFETY: no memory involved.
    ok(unsafe { libc::shutdown(a, libc::SHUT_WR) });
    check_eq!(recv(b, &mut buf, 0), 0);
    check_eq!(err(send(a, b"x", libc::MSG_NOSIGNAL)), libc::EPIPE);
    check_eq!(send(b, b"back", 0), 4);
    check_eq!(recv(a, &mut buf, 0), 4);
    check_eq!(
        poll(b, libc::POLLIN | libc::POLLRDHUP | libc::POLLHUP),
        libc::POLLIN | libc::POLLRDHUP
    );
    // SAFETY: no memory involved.
    unsafe { libc::close(a) };
    check!(poll(b, libc::POLLIN) & libc::POLLHUP != 0);
    check_eq!(err(send(b, b"x", libc::MSG_NOSIGNAL)), libc::EPIPE);
    // SAFETY: no memory involved.
    unsafe { libc::close(b) };

    // Closed with data unread: the other end hears of it, once.
    let (a, b) = pair(libc::SOCK_STREAM);
    check_eq!(send(a, b"lost", 0), 4);
    // SAFETY: no memory involved.
    unsafe { libc::close(b) };
    check_eq!(err(recv(a, &mut buf, 0)), libc::ECONNRESET);
    check_eq!(recv(a, &mut buf, 0), 0);
    // SAFETY: no memory involved.
    unsafe { libc::close(a) };

    // A signal, unless told not to.
    let (a, b) = pair(libc::SOCK_STREAM);
    // SAFETY: no memory involved.
    unsafe { libc::close(b) };
    let pid = child(|| {
        // SAFETY: restores the default.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        send(a, b"x", 0);
        1
    });
    check_eq!(belljar_guest_tests::wait(pid) & 0x7f, libc::SIGPIPE);
    // SAFETY: no memory involved.
    unsafe { libc::close(a) };
}

fn limits() {
    // A stream holds what the sender may have in flight, with its bookkeeping.
    let (a, b) = pair(libc::SOCK_STREAM);
    let mut sent = 0;
    while send(a, b"x", libc::MSG_DONTWAIT) == 1 {
        sent += 1;
    }
    check_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
    check_eq!(sent, 278);
    check_eq!(poll(a, libc::POLLOUT), 0);
    let mut buf = vec![0; 4096];
    check_eq!(recv(b, &mut buf, 0), 278);
    check_eq!(poll(a, libc::POLLOUT), libc::POLLOUT);
    set_option(a, libc::SO_SNDBUF, 1);
    check_eq!(option(a, libc::SO_SNDBUF), 4608);
    // Much at once goes through piece by piece.
    let reader = child(|| {
        let mut left = 1 << 20;
        let mut buf = vec![0; 65536];
        while left > 0 {
            let n = recv(b, &mut buf, 0);
            check!(n > 0);
            check!(buf[..n as usize].iter().all(|&byte| byte == 7));
            left -= n;
        }
        0
    });
    check_eq!(send(a, &vec![7; 1 << 20], 0), 1 << 20);
    wait_ok(reader);
    // All of it, or nothing: MSG_WAITALL.
    let writer = child(|| {
        for _ in 0..10 {
            check_eq!(send(a, &[1; 10], 0), 10);
        }
        0
    });
    check_eq!(recv(b, &mut buf[..100], libc::MSG_WAITALL), 100);
    wait_ok(writer);
    // Time runs out.
    let timeout = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
    // SAFETY: a valid timeval.
    ok(unsafe {
        let size = size_of::<libc::timeval>() as u32;
        libc::setsockopt(b, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const timeout).cast(), size)
    });
    check_eq!(err(recv(b, &mut buf, 0)), libc::EAGAIN);

    // A datagram queue holds few.
    let (a, b) = pair(libc::SOCK_DGRAM);
    let path = "/tmp/unix-limit";
    let _ = std::fs::remove_file(path);
    let receiver = UnixDatagram::bind(path).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    sender.connect(path).unwrap();
    let mut queued = 0;
    while sender.send(b"x").is_ok() {
        queued += 1;
    }
    check_eq!(queued, 11);
    check_eq!(poll(sender.as_raw_fd(), libc::POLLOUT), 0);
    let mut byte = [0];
    receiver.recv(&mut byte).unwrap();
    check_eq!(poll(sender.as_raw_fd(), libc::POLLOUT), libc::POLLOUT);
    std::fs::remove_file(path).unwrap();
    // Messages keep their bounds; what does not fit is cut and said to be.
    check_eq!(send(a, b"first", 0), 5);
    check_eq!(send(a, b"", 0), 0);
    check_eq!(send(a, b"third", 0), 5);
    check_eq!(recv(b, &mut buf[..3], libc::MSG_TRUNC), 5);
    check_eq!(recv(b, &mut buf, 0), 0);
    check_eq!(recv(b, &mut buf, 0), 5);
    check_eq!(err(send(a, &vec![0; 300_000], 0)), libc::EMSGSIZE);
    let (a, b) = pair(libc::SOCK_SEQPACKET);
    check_eq!(send(a, b"one", 0), 3);
    check_eq!(send(a, b"two", 0), 3);
    check_eq!(recv(b, &mut buf, 0), 3);
    // SAFETY: no memory involved.
    unsafe { libc::close(a) };
    check_eq!(recv(b, &mut buf, 0), 3);
    check_eq!(recv(b, &mut buf, 0), 0);
    check_eq!(err(send(b, b"x", libc::MSG_NOSIGNAL)), libc::EPIPE);
}

fn names() {
    let path = "/tmp/unix-name";
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap();
    check_eq!(option(listener.as_raw_fd(), libc::SO_ACCEPTCONN), 1);
    check_eq!(UnixListener::bind(path).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
    let meta = std::fs::metadata(path).unwrap();
    check!(std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()));
    check_eq!(std::fs::File::open(path).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    let mut client = UnixStream::connect(path).unwrap();
    check!(
        client.peer_addr().unwrap().as_pathname().is_some_and(|there| there.to_str() == Some(path))
    );
    check!(client.local_addr().unwrap().is_unnamed());
    client.write_all(b"early").unwrap();
    let (mut server, from) = listener.accept().unwrap();
    check!(from.is_unnamed());
    check!(
        server
            .local_addr()
            .unwrap()
            .as_pathname()
            .is_some_and(|there| there.to_str() == Some(path))
    );
    let mut buf = [0; 5];
    server.read_exact(&mut buf).unwrap();
    check_eq!(&buf, b"early");
    let mut cred = libc::ucred { pid: 0, uid: 1, gid: 1 };
    let mut len = size_of::<libc::ucred>() as u32;
    // SAFETY: room for a ucred.
    ok(unsafe {
        let value = (&raw mut cred).cast();
        libc::getsockopt(
            server.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            value,
            &raw mut len,
        )
    });
    check_eq!((cred.pid, cred.uid, cred.gid), (std::process::id() as i32, 0, 0));
    check_eq!(
        UnixDatagram::unbound().unwrap().connect(path).unwrap_err().raw_os_error(),
        Some(libc::EPROTOTYPE)
    );
    // Nobody accepts: a connection is queued, then refused when the listener goes.
    let waiting = UnixStream::connect(path).unwrap();
    drop(listener);
    check_eq!((&waiting).read(&mut buf).unwrap_err().raw_os_error(), Some(libc::ECONNRESET));
    check_eq!(UnixStream::connect(path).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    std::fs::remove_file(path).unwrap();
    check_eq!(UnixStream::connect(path).unwrap_err().raw_os_error(), Some(libc::ENOENT));

    // Abstract names need no file.
    let name = SocketAddr::from_abstract_name(b"bell\0jar").unwrap();
    let listener = UnixListener::bind_addr(&name).unwrap();
    check_eq!(UnixListener::bind_addr(&name).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
    let client = UnixStream::connect_addr(&name).unwrap();
    check!(client.peer_addr().unwrap().as_abstract_name() == Some(&b"bell\0jar"[..]));
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    check!(table.contains("@bell@jar"), "{table}");
    drop((listener, client));
    check_eq!(
        UnixStream::connect_addr(&name).unwrap_err().raw_os_error(),
        Some(libc::ECONNREFUSED)
    );

    // A backlog of one holds two.
    let fd = socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
    // An empty address asks for any name.
    // SAFETY: a valid address of two bytes.
    ok(unsafe { libc::bind(fd, (&raw const address).cast(), 2) });
    let mut len = size_of::<libc::sockaddr_un>() as u32;
    // SAFETY: room for an address.
    ok(unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut len) });
    check_eq!((len, address.sun_path[0]), (8, 0));
    check_eq!(
        // SAFETY: every buffer is valid.
        err(unsafe { libc::accept(fd, std::ptr::null_mut(), std::ptr::null_mut()) }),
        libc::EINVAL
    );
    // SAFETY: no memory involved.
    ok(unsafe { libc::listen(fd, 1) });
    let connect = || {
        let client = socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
        // SAFETY: a valid address.
        (client, unsafe { libc::connect(client, (&raw const address).cast(), len) })
    };
    let first = connect();
    ok(first.1);
    check_eq!(
        // SAFETY: every buffer is valid.
        err(unsafe { libc::connect(first.0, (&raw const address).cast(), len) }),
        libc::EISCONN
    );
    ok(connect().1);
    check_eq!(err(connect().1), libc::EAGAIN);
    check_eq!(poll(fd, libc::POLLIN), libc::POLLIN);
    // One that waits goes on when there is room.
    let waiter = child(|| {
        let client = socket(libc::SOCK_STREAM);
        // SAFETY: a valid address.
        ok(unsafe { libc::connect(client, (&raw const address).cast(), len) });
        0
    });
    let mut accepted = 0;
    while accepted < 3 {
        // SAFETY: nothing is asked for.
        let new = unsafe {
            libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
        };
        if new >= 0 {
            // SAFETY: no memory involved.
            check_eq!(unsafe { libc::fcntl(new, libc::F_GETFD) }, libc::FD_CLOEXEC);
            accepted += 1;
        } else {
            let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid entry.
            ok(unsafe { libc::poll(&raw mut entry, 1, -1) });
        }
    }
    wait_ok(waiter);

    // Permission of the path counts.
    let path = "/tmp/unix-private";
    let _ = std::fs::remove_file(path);
    let _listener = UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    wait_ok(child(|| {
        // SAFETY: no memory involved.
        ok(unsafe { libc::setuid(1000) });
        check_eq!(UnixStream::connect(path).unwrap_err().raw_os_error(), Some(libc::EACCES));
        0
    }));
    std::fs::remove_file(path).unwrap();
}

fn datagrams() {
    let path = "/tmp/unix-dgram";
    let _ = std::fs::remove_file(path);
    let server = UnixDatagram::bind(path).unwrap();
    let name = SocketAddr::from_abstract_name(b"dgram-client").unwrap();
    let client = UnixDatagram::bind_addr(&name).unwrap();
    client.send_to(b"hi", path).unwrap();
    let mut buf = [0; 16];
    let (n, from) = server.recv_from(&mut buf).unwrap();
    check_eq!((&buf[..n], from.as_abstract_name()), (&b"hi"[..], Some(&b"dgram-client"[..])));
    server.send_to_addr(b"answer", &from).unwrap();
    check_eq!(client.recv(&mut buf).unwrap(), 6);
    // Connected to somebody: others may not send.
    let other = UnixDatagram::unbound().unwrap();
    server.connect_addr(&name).unwrap();
    check_eq!(other.send_to(b"x", path).unwrap_err().raw_os_error(), Some(libc::EPERM));
    check_eq!(other.send(b"x").unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    drop(client);
    check_eq!(server.send(b"x").unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    std::fs::remove_file(path).unwrap();
}

fn errors() {
    // SAFETY: no memory is touched that is not valid.
    unsafe {
        check_eq!(err(libc::socket(libc::AF_UNIX, 77, 0)), libc::EINVAL);
        check_eq!(err(libc::socket(libc::AF_UNIX, 9, 0)), libc::ESOCKTNOSUPPORT);
        check_eq!(err(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 99)), libc::EPROTONOSUPPORT);
        check_eq!(err(libc::socket(200, libc::SOCK_STREAM, 0)), libc::EAFNOSUPPORT);
        check_eq!(err(libc::listen(0, 1)), libc::ENOTSOCK);
        check_eq!(err(libc::listen(999, 1)), libc::EBADF);
        let fd = socket(libc::SOCK_STREAM);
        check_eq!(err(libc::listen(fd, 1)), libc::EINVAL);
        let mut buf = [0; 4];
        let mut len = 4_u32;
        check_eq!(err(recv(fd, &mut buf, 0)), libc::EINVAL);
        check_eq!(err(send(fd, b"x", 0)), libc::ENOTCONN);
        check_eq!(
            err(libc::getpeername(fd, buf.as_mut_ptr().cast(), &raw mut len)),
            libc::ENOTCONN
        );
        check_eq!(err(libc::lseek(fd, 0, 0)), libc::ESPIPE);
        check_eq!(err(libc::pread(fd, buf.as_mut_ptr().cast(), 4, 0) as i64), libc::ESPIPE);
        check_eq!(err(libc::shutdown(fd, 9)), libc::EINVAL);
        let mut stat: libc::stat = std::mem::zeroed();
        ok(libc::fstat(fd, &raw mut stat));
        check_eq!(stat.st_mode & libc::S_IFMT, libc::S_IFSOCK);
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        check_eq!(link.to_str().unwrap(), format!("socket:[{}]", stat.st_ino));
        let mut value = 0_i32;
        let p = (&raw mut value).cast();
        check_eq!(
            err(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, p, 4)),
            libc::ENOPROTOOPT
        );
        check_eq!(
            err(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, p, 1)),
            libc::EINVAL
        );
        check_eq!(err(libc::setsockopt(fd, libc::IPPROTO_TCP, 1, p, 4)), libc::EOPNOTSUPP);
        libc::close(fd);
    }
}

fn polling() {
    // Edge-triggered epoll hears of each arrival.
    let (a, b) = pair(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
    // SAFETY: every buffer is valid.
    unsafe {
        let set = ok(libc::epoll_create1(0));
        let mut event =
            libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 7 };
        ok(libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, b, &raw mut event));
        let mut got = libc::epoll_event { events: 0, u64: 0 };
        check_eq!(libc::epoll_wait(set, &raw mut got, 1, 0), 0);
        for _ in 0..3 {
            check_eq!(send(a, b"x", 0), 1);
            check_eq!(libc::epoll_wait(set, &raw mut got, 1, 0), 1);
            check_eq!(libc::epoll_wait(set, &raw mut got, 1, 0), 0);
        }
        libc::close(a);
        check_eq!(libc::epoll_wait(set, &raw mut got, 1, 0), 1);
        check!({ got.events } & libc::EPOLLHUP as u32 != 0);
    }
    // Through a pipe: splice from a socket and sendfile to one.
    let (a, b) = pair(libc::SOCK_STREAM);
    let mut fds = [0; 2];
    // SAFETY: every buffer is valid.
    unsafe {
        ok(libc::pipe(fds.as_mut_ptr()));
        check_eq!(send(a, b"spliced", 0), 7);
        let null = std::ptr::null_mut();
        check_eq!(libc::splice(b, null, fds[1], null, 3, 0), 3);
        check_eq!(libc::splice(b, null, fds[1], null, 100, 0), 4);
        check_eq!(libc::splice(fds[0], null, a, null, 100, 0), 7);
        let mut buf = [0; 16];
        check_eq!(recv(b, &mut buf, 0), 7);
        check_eq!(&buf[..7], b"spliced");
    }
    std::fs::write("/tmp/unix-file", b"from a file").unwrap();
    let file = std::fs::File::open("/tmp/unix-file").unwrap();
    // SAFETY: no memory involved.
    check_eq!(unsafe { libc::sendfile(a, file.as_raw_fd(), std::ptr::null_mut(), 100) }, 11);
    let mut buf = [0; 16];
    check_eq!(recv(b, &mut buf, 0), 11);
}

/// O_DIRECT means something to pipes, and to files that are not in memory only; it is refused elsewhere.
fn direct() {
    let (a, _b) = pair(libc::SOCK_STREAM);
    let mut pipe = [0; 2];
    // SAFETY: plain calls with room for two descriptors.
    unsafe {
        check_eq!(err(libc::fcntl(a, libc::F_SETFL, libc::O_DIRECT)), libc::EINVAL);
        ok(libc::pipe(pipe.as_mut_ptr()));
        ok(libc::fcntl(pipe[1], libc::F_SETFL, libc::O_DIRECT));
    }
    // SAFETY: plain calls with valid strings.
    unsafe {
        let open = |name: &std::ffi::CStr, flags| libc::open(name.as_ptr(), flags, 0o600);
        let fd = ok(libc::memfd_create(c"direct".as_ptr(), 0));
        check_eq!(err(libc::fcntl(fd, libc::F_SETFL, libc::O_DIRECT)), libc::EINVAL);
        ok(libc::mkdir(c"/tmp/direct".as_ptr(), 0o755));
        let kind = c"tmpfs".as_ptr();
        ok(libc::mount(kind, c"/tmp/direct".as_ptr(), kind, 0, std::ptr::null()));
        let name = c"/tmp/direct/file";
        // The file is made all the same, but it is not cut off.
        check_eq!(err(open(name, libc::O_DIRECT | libc::O_CREAT | libc::O_RDWR)), libc::EINVAL);
        check_eq!(libc::write(ok(open(name, libc::O_WRONLY)), c"xyz".as_ptr().cast(), 3), 3);
        check_eq!(err(open(name, libc::O_DIRECT | libc::O_TRUNC | libc::O_RDWR)), libc::EINVAL);
        check_eq!(std::fs::read("/tmp/direct/file").unwrap(), b"xyz");
        check_eq!(err(open(c"/tmp/direct", libc::O_DIRECT)), libc::EINVAL);
        check_eq!(err(open(c"/dev/null", libc::O_DIRECT)), libc::EINVAL);
        check_eq!(err(open(c"/proc/self/stat", libc::O_DIRECT)), libc::EINVAL);
        ok(open(name, libc::O_DIRECT | libc::O_PATH));
    }
}

/// A message says who sent it, though that one is gone.
fn senders() {
    let named =
        |name: &str| UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap());
    let (gone, stays) = (named("gone").unwrap(), named("stays").unwrap());
    gone.send_to_addr(b"x", &stays.local_addr().unwrap()).unwrap();
    drop(gone);
    let (n, from) = stays.recv_from(&mut [0; 9]).unwrap();
    check_eq!((n, from.as_abstract_name()), (1, Some(&b"gone"[..])));
    // The name itself is free.
    named("gone").unwrap();
}

fn main() {
    // SAFETY: the programs is single-threaded here.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let _ = std::fs::create_dir("/tmp");
    pairs();
    limits();
    names();
    datagrams();
    senders();
    direct();
    errors();
    polling();
    // Threads at both ends, as Rust's and glibc's libraries use them.
    let (mut one, mut other) = UnixStream::pair().unwrap();
    let echo = std::thread::spawn(move || {
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        other.write_all(text.as_bytes()).unwrap();
    });
    one.write_all(b"there and back").unwrap();
    one.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    one.read_to_string(&mut text).unwrap();
    check_eq!(text, "there and back");
    echo.join().unwrap();
}
