//! What a network namespace counts: /proc/net/snmp and /proc/net/sockstat (proc(5); RFC 4293, RFC 4022, RFC 4113).
//!
//! PROCESS_MODEL.md, Namespaces: net (interfaces, sockets, routes; loopback).

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use belljar_guest_tests::net::set_loopback;
use belljar_guest_tests::{check, check_eq, ok};

/// Counts by group and name: `Tcp:CurrEstab`.
type Counts = HashMap<String, i64>;

fn snmp() -> Counts {
    let text = fs::read_to_string("/proc/self/net/snmp").unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let mut counts = Counts::new();
    for pair in lines.chunks(2) {
        check_eq!((pair[0][0], pair[0].len()), (pair[1][0], pair[1].len()));
        for (name, value) in pair[0].iter().zip(&pair[1]).skip(1) {
            counts.insert(format!("{}{name}", pair[0][0]), value.parse().unwrap());
        }
    }
    counts
}

/// `TCP:inuse` and the like.
fn sockstat() -> Counts {
    let mut counts = Counts::new();
    for file in ["sockstat", "sockstat6"] {
        for line in fs::read_to_string(format!("/proc/self/net/{file}")).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            for pair in words[1..].chunks(2) {
                counts.insert(format!("{}{}", words[0], pair[0]), pair[1].parse().unwrap());
            }
        }
    }
    counts
}

/// Does something and checks by how much counts grow.
#[track_caller]
fn expect(what: &str, read: fn() -> Counts, grows: &[(&str, i64)], act: impl FnOnce()) {
    let before = read();
    act();
    let after = read();
    for (name, by) in grows {
        check!(before.contains_key(*name), "there is no {name}");
        let grown = after[*name] - before[*name];
        check!(grown == *by, "{what}: {name} grew by {grown}, not {by}");
    }
}

/// Has the end of a connection reset it.
fn reset_at_close(socket: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let (level, name) = (libc::SOL_SOCKET, libc::SO_LINGER);
    // SAFETY: a valid option.
    unsafe {
        let (fd, value) = (socket.as_raw_fd(), (&raw const linger).cast());
        ok(libc::setsockopt(fd, level, name, value, size_of_val(&linger) as u32));
    }
}

fn datagrams() {
    let (one, other) =
        (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let to = other.local_addr().unwrap();
    let grows = [
        ("Udp:OutDatagrams", 3),
        ("Udp:InDatagrams", 2),
        ("Ip:OutRequests", 3),
        ("Ip:InReceives", 3),
        ("Ip:InDelivers", 3),
        ("Udp:NoPorts", 0),
        ("Udp:InErrors", 0),
    ];
    expect("three sent, two read, one of them looked at before", snmp, &grows, || {
        for _ in 0..3 {
            check_eq!(one.send_to(b"datagram", to).unwrap(), 8);
        }
        check_eq!(other.peek(&mut [0; 16]).unwrap(), 8);
        for _ in 0..2 {
            check_eq!(other.recv(&mut [0; 16]).unwrap(), 8);
        }
    });
    drop(other);

    let grows = [
        ("Udp:OutDatagrams", 2),
        ("Udp:NoPorts", 2),
        ("Icmp:OutMsgs", 2),
        ("Icmp:OutDestUnreachs", 2),
        ("Icmp:InMsgs", 2),
        ("Icmp:InDestUnreachs", 2),
        ("Icmp:InErrors", 0),
        ("Ip:OutRequests", 4),
        ("Ip:InDelivers", 4),
    ];
    expect("two to nobody", snmp, &grows, || {
        for _ in 0..2 {
            check_eq!(one.send_to(b"nobody", to).unwrap(), 6);
        }
    });
    check_eq!(snmp()["IcmpMsg:OutType3"], snmp()["Icmp:OutDestUnreachs"]);

    // What the receiver has no room for.
    let full = UdpSocket::bind("127.0.0.1:0").unwrap();
    let room = 4096_i32;
    // SAFETY: a valid option.
    unsafe {
        let (fd, value) = (full.as_raw_fd(), (&raw const room).cast());
        ok(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, value, 4));
    }
    let before = snmp();
    for _ in 0..64 {
        check_eq!(one.send_to(&[0; 1024], full.local_addr().unwrap()).unwrap(), 1024);
    }
    full.set_nonblocking(true).unwrap();
    let mut read = 0;
    while full.recv(&mut [0; 1024]).is_ok() {
        read += 1;
    }
    let after = snmp();
    let grown = |name: &str| after[name] - before[name];
    check!(read < 64);
    check_eq!((grown("Udp:InDatagrams"), grown("Udp:RcvbufErrors")), (read, 64 - read));
    check_eq!(grown("Udp:InErrors"), 64 - read);

    let grows = [("Ip:OutNoRoutes", 1), ("Ip:OutRequests", 0), ("Udp:OutDatagrams", 0)];
    expect("one to where no route leads", snmp, &grows, || {
        let refused = one.send_to(b"nowhere", "192.0.2.1:9").unwrap_err();
        check_eq!(refused.raw_os_error(), Some(libc::ENETUNREACH));
    });
}

fn connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut ends = None;
    let grows = [
        ("Tcp:ActiveOpens", 1),
        ("Tcp:PassiveOpens", 1),
        ("Tcp:CurrEstab", 2),
        ("Tcp:AttemptFails", 0),
        ("Tcp:RetransSegs", 0),
        ("Tcp:InErrs", 0),
    ];
    expect("a connection", snmp, &grows, || {
        let client = TcpStream::connect(at).unwrap();
        let (server, _) = listener.accept().unwrap();
        ends = Some((client, server));
    });
    let (mut client, mut server) = ends.unwrap();

    let before = snmp();
    client.write_all(&[7; 5000]).unwrap();
    server.read_exact(&mut [0; 5000]).unwrap();
    let after = snmp();
    let grown = |name: &str| after[name] - before[name];
    // Nothing is lost on the way to oneself.
    check!(grown("Tcp:OutSegs") > 0);
    check_eq!(grown("Tcp:InSegs"), grown("Tcp:OutSegs"));
    check_eq!(grown("Ip:InReceives"), grown("Ip:OutRequests"));

    let grows = [("Tcp:EstabResets", 2), ("Tcp:OutRsts", 1), ("Tcp:CurrEstab", -2)];
    expect("a reset", snmp, &grows, || {
        reset_at_close(&client);
        drop(client);
        check_eq!(server.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });

    drop(listener);
    let grows = [
        ("Tcp:ActiveOpens", 1),
        ("Tcp:AttemptFails", 1),
        ("Tcp:OutRsts", 1),
        ("Tcp:PassiveOpens", 0),
    ];
    expect("an attempt that is refused", snmp, &grows, || {
        check_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

fn sockets() {
    let mut held = None;
    let grows = [("TCP:inuse", 1), ("sockets:used", 1), ("TCP:tw", 0)];
    expect("a listener", sockstat, &grows, || {
        held = Some(TcpListener::bind("127.0.0.1:0").unwrap())
    });
    let listener = held.unwrap();

    let mut ends = None;
    let grows = [("TCP:inuse", 2), ("TCP:alloc", 2), ("sockets:used", 2), ("TCP:orphan", 0)];
    expect("a connection", sockstat, &grows, || {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ends = Some((client, listener.accept().unwrap().0));
    });
    let (client, server) = ends.unwrap();
    let grows = [
        ("TCP:inuse", -2),
        ("TCP:alloc", -2),
        ("TCP:tw", 1),
        ("sockets:used", -2),
        ("TCP:orphan", 0),
    ];
    expect("its end", sockstat, &grows, || {
        drop(client);
        drop(server);
    });

    let mut held = None;
    let grows = [("UDP:inuse", 1), ("UDP6:inuse", 1), ("sockets:used", 2), ("TCP:inuse", 0)];
    expect("datagram sockets", sockstat, &grows, || {
        held = Some(["127.0.0.1:0", "[::1]:0"].map(|at| UdpSocket::bind(at).unwrap()));
    });
    let mut more = None;
    let grows = [("TCP6:inuse", 1), ("RAW:inuse", 1), ("sockets:used", 4), ("UDP:inuse", 0)];
    expect("a listener of IPv6, a raw socket, two of Unix", sockstat, &grows, || {
        // SAFETY: no pointers.
        let raw = ok(unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) });
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        more = Some((TcpListener::bind("[::1]:0").unwrap(), raw, pair));
    });
}

fn main() {
    // SAFETY: no pointers.
    ok(unsafe { libc::unshare(libc::CLONE_NEWNET) });
    // Nothing was counted before, whatever others do.
    let fresh = snmp();
    for name in
        ["Ip:InReceives", "Ip:OutRequests", "Icmp:InMsgs", "Tcp:OutSegs", "Udp:OutDatagrams"]
    {
        check_eq!(fresh[name], 0);
    }
    check_eq!((fresh["Ip:Forwarding"], fresh["Ip:DefaultTTL"], fresh["Tcp:MaxConn"]), (2, 64, -1));
    set_loopback(true);
    datagrams();
    connections();
    sockets();
}
