//! What control messages ask for one datagram: where it comes from, how far it goes and in which class (ip(7),
//! ipv6(7)); and that what is not well formed or not ours is refused.

use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use belljar_guest_tests::{check_eq, err, net, ok};

const IPV6_HOPLIMIT: i32 = 52;
const IPV6_TCLASS: i32 = 67;

/// Sends `x` from `socket` to `to` with one control message.
fn send(socket: &UdpSocket, to: SocketAddr, level: i32, kind: i32, data: &[u8]) -> isize {
    let mut control = [0_u64; 16];
    // SAFETY: every pointer is to memory that lives until the call is over, and `control` is aligned and large
    // enough for one message.
    unsafe {
        let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) = (zeroed(), zeroed());
        let mut header: libc::msghdr = zeroed();
        match to {
            SocketAddr::V4(to) => {
                v4.sin_family = libc::AF_INET as u16;
                v4.sin_port = to.port().to_be();
                v4.sin_addr.s_addr = u32::from(*to.ip()).to_be();
                header.msg_name = (&raw mut v4).cast();
                header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            }
            SocketAddr::V6(to) => {
                v6.sin6_family = libc::AF_INET6 as u16;
                v6.sin6_port = to.port().to_be();
                v6.sin6_addr.s6_addr = to.ip().octets();
                header.msg_name = (&raw mut v6).cast();
                header.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
            }
        }
        let mut part = libc::iovec { iov_base: c"x".as_ptr().cast_mut().cast(), iov_len: 1 };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = libc::CMSG_SPACE(data.len() as u32) as _;
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = libc::CMSG_LEN(data.len() as u32) as _;
        data.as_ptr().copy_to_nonoverlapping(libc::CMSG_DATA(message), data.len());
        libc::sendmsg(socket.as_raw_fd(), &raw const header, 0)
    }
}

/// Receives `x`: where it came from, and the first number of each control message by its type.
fn receive(socket: &UdpSocket) -> (Vec<u8>, Vec<(i32, i32)>) {
    let (mut name, mut byte, mut control) = ([0_u8; 28], [0_u8; 1], [0_u64; 32]);
    let mut found = Vec::new();
    // SAFETY: as above.
    let from = unsafe {
        let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        let mut header: libc::msghdr = zeroed();
        (header.msg_name, header.msg_namelen) = (name.as_mut_ptr().cast(), name.len() as u32);
        (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        check_eq!(ok(libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) as i64), 1);
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            let byte =
                (*message).cmsg_level == libc::SOL_IP && (*message).cmsg_type == libc::IP_TOS;
            let value = if byte { i32::from(*data) } else { data.cast::<i32>().read_unaligned() };
            found.push(((*message).cmsg_type, value));
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
        // The address stands behind family and port, and with IPv6 behind the flow too.
        if header.msg_namelen == 16 { name[4..8].to_vec() } else { name[8..24].to_vec() }
    };
    check_eq!(byte, *b"x");
    (from, found)
}

/// `struct in_pktinfo` with no device.
fn v4_info(source: Ipv4Addr) -> [u8; 12] {
    let mut info = [0; 12];
    info[4..8].copy_from_slice(&source.octets());
    info
}

/// `struct in6_pktinfo` with no device.
fn v6_info(source: Ipv6Addr) -> [u8; 20] {
    let mut info = [0; 20];
    info[..16].copy_from_slice(&source.octets());
    info
}

fn switch_on(socket: &UdpSocket, level: i32, option: i32) {
    let on = 1_i32;
    // SAFETY: an `int` as the option's value.
    ok(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), 4) });
}

fn main() {
    net::set_loopback(true);
    ipv4();
    ipv6();
    mapped();
}

fn ipv4() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
    let to = receiver.local_addr().unwrap();
    switch_on(&receiver, libc::SOL_IP, libc::IP_RECVTTL);
    switch_on(&receiver, libc::SOL_IP, libc::IP_RECVTOS);
    let ip = libc::SOL_IP;

    // Another address of loopback's, and what the socket says otherwise.
    let source = Ipv4Addr::new(127, 0, 0, 7);
    check_eq!(send(&sender, to, ip, libc::IP_PKTINFO, &v4_info(source)), 1);
    let (from, control) = receive(&receiver);
    check_eq!(from, source.octets());
    check_eq!(control, [(libc::IP_TTL, 64), (libc::IP_TOS, 0)]);
    // None is named: as without.
    check_eq!(send(&sender, to, ip, libc::IP_PKTINFO, &v4_info(Ipv4Addr::UNSPECIFIED)), 1);
    check_eq!(receive(&receiver).0, [127, 0, 0, 1]);
    check_eq!(send(&sender, to, ip, libc::IP_TTL, &7_i32.to_ne_bytes()), 1);
    check_eq!(receive(&receiver).1, [(libc::IP_TTL, 7), (libc::IP_TOS, 0)]);
    check_eq!(send(&sender, to, ip, libc::IP_TOS, &0x10_i32.to_ne_bytes()), 1);
    check_eq!(receive(&receiver).1, [(libc::IP_TTL, 64), (libc::IP_TOS, 0x10)]);
    check_eq!(send(&sender, to, ip, libc::IP_TOS, &[8]), 1);
    check_eq!(receive(&receiver).1, [(libc::IP_TTL, 64), (libc::IP_TOS, 8)]);
    // It was for one datagram only.
    sender.send_to(b"x", to).unwrap();
    check_eq!(receive(&receiver).1, [(libc::IP_TTL, 64), (libc::IP_TOS, 0)]);

    let foreign = v4_info(Ipv4Addr::new(192, 0, 2, 1));
    let refused = send(&sender, to, ip, libc::IP_PKTINFO, &foreign) as i64;
    check_eq!(err(refused), libc::ENETUNREACH);
    for (kind, data) in [
        (libc::IP_PKTINFO, &[0; 8][..]),
        (libc::IP_TTL, &0_i32.to_ne_bytes()),
        (libc::IP_TTL, &256_i32.to_ne_bytes()),
        (libc::IP_TTL, &[1]),
        (libc::IP_TOS, &256_i32.to_ne_bytes()),
        (99, &[0; 4]),
    ] {
        check_eq!(err(send(&sender, to, ip, kind, data) as i64), libc::EINVAL, "{kind} {data:?}");
    }
    // Another level is not this one's affair.
    check_eq!(send(&sender, to, libc::SOL_IPV6, IPV6_HOPLIMIT, &7_i32.to_ne_bytes()), 1);
    check_eq!(receive(&receiver).1, [(libc::IP_TTL, 64), (libc::IP_TOS, 0)]);
}

fn ipv6() {
    let receiver = UdpSocket::bind("[::1]:0").unwrap();
    let sender = UdpSocket::bind("[::]:0").unwrap();
    let to = receiver.local_addr().unwrap();
    switch_on(&receiver, libc::SOL_IPV6, libc::IPV6_RECVHOPLIMIT);
    switch_on(&receiver, libc::SOL_IPV6, libc::IPV6_RECVTCLASS);
    let ip = libc::SOL_IPV6;

    for (kind, value, expected) in [
        (IPV6_HOPLIMIT, 2, [(IPV6_HOPLIMIT, 2), (IPV6_TCLASS, 0)]),
        (IPV6_HOPLIMIT, -1, [(IPV6_HOPLIMIT, 64), (IPV6_TCLASS, 0)]),
        (IPV6_TCLASS, 0x20, [(IPV6_HOPLIMIT, 64), (IPV6_TCLASS, 0x20)]),
        (IPV6_TCLASS, -1, [(IPV6_HOPLIMIT, 64), (IPV6_TCLASS, 0)]),
    ] {
        check_eq!(send(&sender, to, ip, kind, &i32::to_ne_bytes(value)), 1);
        check_eq!(receive(&receiver).1, expected, "{kind} {value}");
    }
    let own = Ipv6Addr::LOCALHOST;
    check_eq!(send(&sender, to, ip, libc::IPV6_PKTINFO, &v6_info(own)), 1);
    check_eq!(receive(&receiver).0, own.octets());

    let foreign = v6_info(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    for (kind, data) in [
        (libc::IPV6_PKTINFO, &foreign[..]),
        (libc::IPV6_PKTINFO, &[0; 16]),
        (IPV6_HOPLIMIT, &256_i32.to_ne_bytes()),
        (IPV6_HOPLIMIT, &[1]),
        (IPV6_TCLASS, &(-2_i32).to_ne_bytes()),
        (199, &[0; 4]),
    ] {
        check_eq!(err(send(&sender, to, ip, kind, data) as i64), libc::EINVAL, "{kind} {data:?}");
    }
}

/// An IPv6 socket that sends to an IPv4 address.
fn mapped() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("[::]:0").unwrap();
    let to = SocketAddr::new(
        Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        receiver.local_addr().unwrap().port(),
    );
    let source = Ipv4Addr::new(127, 0, 0, 9);
    let info = v6_info(source.to_ipv6_mapped());
    check_eq!(send(&sender, to, libc::SOL_IPV6, libc::IPV6_PKTINFO, &info), 1);
    check_eq!(receive(&receiver).0, source.octets());
}
