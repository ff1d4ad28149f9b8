//! TCP and UDP over loopback (tcp(7), udp(7), ip(7)): connections, refusals, ends, ports, polling,
//! options; ICMP echo.
use belljar_guest_tests::net::set_loopback;
use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

fn poll(fd: i32, events: i16, timeout: i32) -> i16 {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one valid entry.
    ok(unsafe { libc::poll(&raw mut entry, 1, timeout) });
    entry.revents
}

fn option(fd: i32, level: i32, name: i32) -> i32 {
    let (mut value, mut len) = (0, 4);
    // SAFETY: room for an int.
    ok(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) });
    value
}

fn set_option(fd: i32, level: i32, name: i32, value: i32) {
    // SAFETY: an int.
    ok(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), 4) });
}

fn address(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    }
}

fn connect(fd: i32, port: u16) -> i32 {
    let address = address(port);
    // SAFETY: a valid address.
    unsafe { libc::connect(fd, (&raw const address).cast(), 16) }
}

fn socket(kind: i32) -> i32 {
    // SAFETY: no memory involved.
    ok(unsafe { libc::socket(libc::AF_INET, kind, 0) })
}

fn conversation() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    check!(at.port() >= 32768);
    check_eq!(poll(listener.as_raw_fd(), libc::POLLIN, 0), 0);
    let mut client = TcpStream::connect(at).unwrap();
    check_eq!(poll(listener.as_raw_fd(), libc::POLLIN, 1000), libc::POLLIN);
    let (mut server, from) = listener.accept().unwrap();
    check_eq!(from, client.local_addr().unwrap());
    check_eq!(server.local_addr().unwrap(), at);
    check_eq!(client.peer_addr().unwrap(), at);
    client.write_all(b"question").unwrap();
    let mut buf = [0; 64];
    check_eq!(server.peek(&mut buf).unwrap(), 8);
    server.read_exact(&mut buf[..8]).unwrap();
    check_eq!(&buf[..8], b"question");
    check_eq!(poll(server.as_raw_fd(), libc::POLLIN | libc::POLLOUT, 0), libc::POLLOUT);
    server.set_nonblocking(true).unwrap();
    check_eq!(server.read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
    server.set_nonblocking(false).unwrap();
    server.write_all(b"answer").unwrap();
    check_eq!(poll(client.as_raw_fd(), libc::POLLIN, 1000), libc::POLLIN);
    let mut waiting = 0;
    // SAFETY: room for an int.
    ok(unsafe { libc::ioctl(client.as_raw_fd(), libc::FIONREAD, &raw mut waiting) });
    check_eq!(waiting, 6);
    client.shutdown(Shutdown::Write).unwrap();
    check_eq!(server.read(&mut buf).unwrap(), 0);
    check_eq!(
        poll(server.as_raw_fd(), libc::POLLIN | libc::POLLRDHUP, 1000),
        libc::POLLIN | libc::POLLRDHUP
    );
    drop(server);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    check_eq!(text, "answer");

    // Much, both ways at once.
    let mut client = TcpStream::connect(at).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let echo = std::thread::spawn(move || {
        let mut buf = vec![0; 10_000];
        loop {
            let n = server.read(&mut buf).unwrap();
            if n == 0 {
                break;
            }
            server.write_all(&buf[..n]).unwrap();
        }
    });
    let mut sender = client.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for i in 0..200_u32 {
            let block: Vec<u8> = (0..10_000).map(|j| (i * 31 + j) as u8).collect();
            sender.write_all(&block).unwrap();
        }
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut block = vec![0; 10_000];
    for i in 0..200_u32 {
        client.read_exact(&mut block).unwrap();
        check!(block.iter().enumerate().all(|(j, &byte)| byte == (i * 31 + j as u32) as u8));
    }
    check_eq!(client.read(&mut block).unwrap(), 0);
    writer.join().unwrap();
    echo.join().unwrap();
}

fn ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut buf = [0; 16];
    // Closed with data unread: a reset.
    let mut client = TcpStream::connect(at).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.write_all(b"nobody reads this").unwrap();
    check_eq!(poll(server.as_raw_fd(), libc::POLLIN, 1000), libc::POLLIN);
    drop(server);
    check_eq!(client.read(&mut buf).unwrap_err().kind(), ErrorKind::ConnectionReset);
    check_eq!(client.read(&mut buf).unwrap(), 0);
    check_eq!(client.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    // SO_LINGER of 0: a reset too.
    let mut client = TcpStream::connect(at).unwrap();
    let (server, _) = listener.accept().unwrap();
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: a valid structure.
    ok(unsafe {
        let value = (&raw const linger).cast();
        libc::setsockopt(server.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, 8)
    });
    drop(server);
    check_eq!(client.read(&mut buf).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // The other side is gone: the first write is answered by a reset, the next fails.
    let mut client = TcpStream::connect(at).unwrap();
    let (server, _) = listener.accept().unwrap();
    drop(server);
    check_eq!(client.read(&mut buf).unwrap(), 0);
    client.write_all(b"x").unwrap();
    check_eq!(poll(client.as_raw_fd(), libc::POLLHUP, 1000) & libc::POLLHUP, libc::POLLHUP);
    let error = client.write(b"y").unwrap_err().kind();
    check!(error == ErrorKind::BrokenPipe || error == ErrorKind::ConnectionReset);
    // Nobody listens.
    drop(listener);
    check_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // The same without waiting: SO_ERROR tells.
    let fd = socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
    check_eq!(poll(fd, libc::POLLOUT, 0), libc::POLLOUT | libc::POLLHUP);
    let result = connect(fd, at.port());
    check_eq!(result, -1);
    let error = std::io::Error::last_os_error().raw_os_error();
    check!(error == Some(libc::EINPROGRESS) || error == Some(libc::ECONNREFUSED));
    if error == Some(libc::EINPROGRESS) {
        check!(poll(fd, libc::POLLOUT, 1000) & libc::POLLERR != 0);
        check_eq!(option(fd, libc::SOL_SOCKET, libc::SO_ERROR), libc::ECONNREFUSED);
        check_eq!(option(fd, libc::SOL_SOCKET, libc::SO_ERROR), 0);
    }
    // SAFETY: no memory involved.
    unsafe { libc::close(fd) };
    // A time limit.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    check_eq!(client.read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn ports() {
    let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
    check_eq!(TcpListener::bind("127.0.0.1:4000").unwrap_err().kind(), ErrorKind::AddrInUse);
    check_eq!(TcpListener::bind("0.0.0.0:4000").unwrap_err().kind(), ErrorKind::AddrInUse);
    let _other = TcpListener::bind("127.0.0.2:4000").unwrap();
    check_eq!(TcpListener::bind("10.9.8.7:4000").unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    // A port whose connections linger is taken, but for SO_REUSEADDR, which std sets.
    let client = TcpStream::connect("127.0.0.1:4000").unwrap();
    let (server, _) = listener.accept().unwrap();
    drop(server);
    drop(listener);
    let fd = socket(libc::SOCK_STREAM);
    let name = address(4000);
    // SAFETY: a valid address.
    check_eq!(err(unsafe { libc::bind(fd, (&raw const name).cast(), 16) }), libc::EADDRINUSE);
    // SAFETY: no memory involved.
    unsafe { libc::close(fd) };
    let _listener = TcpListener::bind("127.0.0.1:4000").unwrap();
    drop(client);
    wait_ok(child(|| {
        // SAFETY: no memory involved.
        ok(unsafe { libc::setuid(1000) });
        let denied = TcpListener::bind("127.0.0.1:80").unwrap_err().kind();
        check_eq!(denied, ErrorKind::PermissionDenied);
        // SAFETY: every buffer is valid.
        check_eq!(err(unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, 1) }), libc::EPERM);
        0
    }));
    // A socket that never was bound gets a port when it listens.
    let fd = socket(libc::SOCK_STREAM);
    // SAFETY: no memory involved.
    ok(unsafe { libc::listen(fd, 1) });
    // SAFETY: the descriptor is a listener's.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    check!(listener.local_addr().unwrap().port() != 0);
    // The backlog: two connections fit, the third does not get through.
    let port = listener.local_addr().unwrap().port();
    let first = socket(libc::SOCK_STREAM);
    ok(connect(first, port));
    let second = socket(libc::SOCK_STREAM);
    ok(connect(second, port));
    let third = socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
    check_eq!(err(connect(third, port)), libc::EINPROGRESS);
    check_eq!(poll(third, libc::POLLOUT, 50), 0);
    check_eq!(err(connect(third, port)), libc::EALREADY);
    listener.accept().unwrap();
    listener.accept().unwrap();
    check_eq!(poll(third, libc::POLLOUT, 5000), libc::POLLOUT);
    check_eq!(connect(third, port), 0);
    check_eq!(err(connect(third, port)), libc::EISCONN);
}

fn options() {
    let fd = socket(libc::SOCK_STREAM);
    check_eq!(option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL), libc::IPPROTO_TCP);
    check_eq!(option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF), 16384);
    check_eq!(option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF), 131_072);
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 10_000);
    check_eq!(option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF), 20_000);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    check_eq!(option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 100);
    check_eq!(option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), 100);
    check_eq!(option(fd, libc::IPPROTO_IP, libc::IP_TTL), 64);
    set_option(fd, libc::IPPROTO_IP, libc::IP_TTL, 7);
    check_eq!(option(fd, libc::IPPROTO_IP, libc::IP_TTL), 7);
    let mut buf = [0_u8; 4];
    // SAFETY: every buffer is valid.
    unsafe {
        check_eq!(err(libc::recv(fd, buf.as_mut_ptr().cast(), 4, 0) as i64), libc::ENOTCONN);
        check_eq!(
            err(libc::send(fd, buf.as_ptr().cast(), 4, libc::MSG_NOSIGNAL) as i64),
            libc::EPIPE
        );
        check_eq!(err(libc::shutdown(fd, 0)), libc::ENOTCONN);
        check_eq!(err(libc::accept(fd, std::ptr::null_mut(), std::ptr::null_mut())), libc::EINVAL);
        check_eq!(err(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 17)), libc::EPROTONOSUPPORT);
        check_eq!(err(libc::socket(libc::AF_INET, libc::SOCK_RAW, 0)), libc::EPROTONOSUPPORT);
        check_eq!(
            err(libc::socketpair(libc::AF_INET, libc::SOCK_STREAM, 0, buf.as_mut_ptr().cast())),
            libc::EOPNOTSUPP
        );
        libc::close(fd);
    }
}

fn datagrams() {
    let server = UdpSocket::bind("127.0.0.1:5000").unwrap();
    check_eq!(UdpSocket::bind("127.0.0.1:5000").unwrap_err().kind(), ErrorKind::AddrInUse);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"one", "127.0.0.1:5000").unwrap();
    client.send_to(b"", "127.0.0.1:5000").unwrap();
    client.send_to(&[7; 60_000], "127.0.0.1:5000").unwrap();
    let mut buf = vec![0; 65536];
    check_eq!(server.recv_from(&mut buf).unwrap(), (3, client.local_addr().unwrap()));
    check_eq!(server.recv_from(&mut buf).unwrap().0, 0);
    check_eq!(server.recv_from(&mut buf).unwrap().0, 60_000);
    check!(buf[..60_000].iter().all(|&byte| byte == 7));
    check_eq!(
        client.send_to(&vec![0; 65508], "127.0.0.1:5000").unwrap_err().raw_os_error(),
        Some(libc::EMSGSIZE)
    );
    // Connected: only from there, and errors come back.
    client.connect("127.0.0.1:5000").unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"not for you", client.local_addr().unwrap()).unwrap();
    server.send_to(b"for you", client.local_addr().unwrap()).unwrap();
    let n = client.recv(&mut buf).unwrap();
    check_eq!(&buf[..n], b"for you");
    check_eq!(client.send_to(b"x", "127.0.0.1:5000").unwrap(), 1);
    drop(server);
    client.send(b"nobody").unwrap();
    check_eq!(client.recv(&mut buf).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let fd = socket(libc::SOCK_DGRAM);
    // SAFETY: a valid buffer.
    check_eq!(err(unsafe { libc::send(fd, buf.as_ptr().cast(), 1, 0) } as i64), libc::EDESTADDRREQ);
    // Two may share a port if both say so.
    let name = address(5001);
    for shared in [socket(libc::SOCK_DGRAM), socket(libc::SOCK_DGRAM)] {
        set_option(shared, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
        // SAFETY: a valid address.
        ok(unsafe { libc::bind(shared, (&raw const name).cast(), 16) });
    }
    // A receiver that does not read loses what exceeds its buffer.
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap();
    for _ in 0..2000 {
        stranger.send_to(&[1; 1000], to).unwrap();
    }
    server.set_nonblocking(true).unwrap();
    let mut got = 0;
    while server.recv(&mut buf).is_ok() {
        got += 1;
    }
    check!((50..500).contains(&got), "{got} datagrams");
}

/// Datagrams reach a socket that is shut for reading, and one that is connected to port 0 from every port there.
fn odd_receivers() {
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut buf = [0; 9];
    let shut = UdpSocket::bind("127.0.0.1:0").unwrap();
    // SAFETY: a plain call.
    check_eq!(err(unsafe { libc::shutdown(shut.as_raw_fd(), libc::SHUT_RD) }), libc::ENOTCONN);
    sender.send_to(b"shut", shut.local_addr().unwrap()).unwrap();
    check_eq!(shut.recv(&mut buf).unwrap(), 4);
    let any = UdpSocket::bind("127.0.0.1:0").unwrap();
    ok(connect(any.as_raw_fd(), 0));
    sender.send_to(b"any", any.local_addr().unwrap()).unwrap();
    check_eq!(poll(any.as_raw_fd(), libc::POLLIN, 10_000), libc::POLLIN);
    check_eq!(any.recv(&mut buf).unwrap(), 3);
    check_eq!(any.peer_addr().unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    // SAFETY: a plain call.
    ok(unsafe { libc::shutdown(any.as_raw_fd(), libc::SHUT_RDWR) });
}

fn version_six() {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for to in ["::1", "127.0.0.1"] {
        let to: std::net::IpAddr = to.parse().unwrap();
        let mut client = TcpStream::connect((to, port)).unwrap();
        let (mut server, from) = listener.accept().unwrap();
        check_eq!(from.ip().to_canonical(), to);
        client.write_all(b"six").unwrap();
        let mut buf = [0; 3];
        server.read_exact(&mut buf).unwrap();
    }
    check_eq!(
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap_err().kind(),
        ErrorKind::AddrInUse
    );
    let one = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let two = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    one.send_to(b"udp", two.local_addr().unwrap()).unwrap();
    let mut buf = [0; 8];
    check_eq!(two.recv_from(&mut buf).unwrap(), (3, one.local_addr().unwrap()));
    one.connect(two.local_addr().unwrap()).unwrap();
    drop(two);
    one.send(b"x").unwrap();
    check_eq!(one.recv(&mut buf).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn echo() {
    // SAFETY: every buffer is valid.
    unsafe {
        let fd = ok(libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP));
        // An echo request with its sum: type 8, identifier 0x1234, number 1.
        let request = [8_u8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1];
        let to = address(0);
        let sent = libc::sendto(fd, request.as_ptr().cast(), 8, 0, (&raw const to).cast(), 16);
        check_eq!(sent, 8);
        let mut buf = [0_u8; 64];
        // The request itself comes first: it was sent to this machine.
        for kind in [8, 0] {
            check_eq!(libc::recv(fd, buf.as_mut_ptr().cast(), 64, 0), 28);
            check_eq!((buf[0], buf[9], buf[20]), (0x45, 1, kind));
            check_eq!(&buf[24..28], &request[4..]);
        }
        libc::close(fd);
    }
}

fn tables() {
    let listener = TcpListener::bind("127.0.0.1:4321").unwrap();
    let client = TcpStream::connect("127.0.0.1:4321").unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let row = |local: &str, state: &str| {
        table.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.get(1) == Some(&local) && words.get(3) == Some(&state)
        })
    };
    check!(row("0100007F:10E1", "0A"), "{table}");
    let port = client.local_addr().unwrap().port();
    check!(row(&format!("0100007F:{port:04X}"), "01"), "{table}");
    let devices = std::fs::read_to_string("/proc/net/dev").unwrap();
    check!(devices.lines().any(|line| line.trim_start().starts_with("lo:")));
    drop(listener);
}

fn many() {
    // Many connections at once, each with a server thread's worth of data.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let pid = child(|| {
        let mut clients: Vec<_> = (0..100).map(|_| TcpStream::connect(at).unwrap()).collect();
        for (i, client) in clients.iter_mut().enumerate() {
            client.write_all(&[i as u8; 100]).unwrap();
        }
        for (i, client) in clients.iter_mut().enumerate() {
            let mut buf = [0; 100];
            client.read_exact(&mut buf).unwrap();
            check!(buf.iter().all(|&byte| byte == i as u8));
        }
        0
    });
    let mut servers: Vec<_> = (0..100).map(|_| listener.accept().unwrap().0).collect();
    for server in &mut servers {
        let mut buf = [0; 100];
        server.read_exact(&mut buf).unwrap();
        server.write_all(&buf).unwrap();
    }
    wait_ok(pid);
}

fn main() {
    // SAFETY: the program is single-threaded here.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    set_loopback(false);
    check_eq!(TcpStream::connect("127.0.0.1:9").unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    set_loopback(true);
    check_eq!(TcpStream::connect("8.8.8.8:9").unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    conversation();
    ends();
    ports();
    options();
    datagrams();
    odd_receivers();
    version_six();
    echo();
    tables();
    many();
}
