//! Filters of sockets (socket(7)): what they drop and cut, for datagrams of Unix sockets and UDP, for TCP, packet and
//! netlink sockets; that only programs are taken; locking.

use std::mem::zeroed;

use belljar_guest_tests::net::set_loopback;
use belljar_guest_tests::scm::pair;
use belljar_guest_tests::{check_eq, err, ok};

type Insn = libc::sock_filter;

const SO_GET_FILTER: i32 = libc::SO_ATTACH_FILTER;

fn insn(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
    Insn { code, jt, jf, k }
}

/// Keeps up to `n` bytes of what has `value` at `offset`, and nothing else.
fn keep_if(offset: u32, value: u32, n: u32) -> [Insn; 4] {
    [insn(0x30, 0, 0, offset), insn(0x15, 0, 1, value), insn(0x06, 0, 0, n), insn(0x06, 0, 0, 0)]
}

fn set(fd: i32, option: i32, value: i32) -> i32 {
    // SAFETY: an int.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const value).cast(), 4) }
}

fn attach(fd: i32, insns: &[Insn]) -> i32 {
    let program = libc::sock_fprog { len: insns.len() as u16, filter: insns.as_ptr().cast_mut() };
    let p = (&raw const program).cast();
    let size = size_of::<libc::sock_fprog>() as u32;
    // SAFETY: the program is valid memory.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, p, size) }
}

fn send(fd: i32, data: &[u8]) -> isize {
    // SAFETY: the buffer is valid.
    unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), 0) }
}

/// What comes at once, or nothing.
fn receive(fd: i32) -> Option<Vec<u8>> {
    let mut data = vec![0; 2000];
    // SAFETY: the buffer is valid.
    let n = unsafe { libc::recv(fd, data.as_mut_ptr().cast(), data.len(), libc::MSG_DONTWAIT) };
    data.truncate(usize::try_from(n).ok()?);
    Some(data)
}

/// What comes next.
fn wait_for(fd: i32) -> Vec<u8> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry.
    check_eq!(unsafe { libc::poll(&mut poll, 1, 60_000) }, 1);
    receive(fd).unwrap()
}

fn only_programs_are_attached() {
    let (a, _b) = pair(libc::SOCK_DGRAM);
    check_eq!(set(a, libc::SO_DETACH_FILTER, 0), -1);
    check_eq!(err(set(a, libc::SO_DETACH_FILTER, 0)), libc::ENOENT);
    check_eq!(err(attach(a, &[])), libc::EINVAL);
    check_eq!(err(attach(a, &[insn(0x30, 0, 0, 0)])), libc::EINVAL, "it must return");
    check_eq!(err(attach(a, &[insn(0xff, 0, 0, 0), insn(6, 0, 0, 0)])), libc::EINVAL);
    check_eq!(err(set(a, libc::SO_ATTACH_FILTER, 0)), libc::EINVAL, "a value of another size");
    let long = vec![insn(6, 0, 0, 1); 4097];
    check_eq!(err(attach(a, &long)), libc::EINVAL);
    check_eq!(err(attach(a, &long[..4096])), libc::ENOMEM, "more than net.core.optmem_max");
    ok(attach(a, &long[..100]));
    // Another takes its place.
    ok(attach(a, &keep_if(0, 1, 2)));
    let mut got = [insn(0, 0, 0, 0); 8];
    // SAFETY: room for so many instructions.
    unsafe {
        for (room, result, n) in [(0, 0, 4), (8, 0, 4), (3, -1, 3)] {
            let mut len: u32 = room;
            let p = got.as_mut_ptr().cast();
            let got = libc::getsockopt(a, libc::SOL_SOCKET, SO_GET_FILTER, p, &raw mut len);
            check_eq!((got, len), (result, n));
        }
    }
    check_eq!((got[1].code, got[1].jf, got[2].k), (0x15, 1, 2));
    ok(set(a, libc::SO_DETACH_FILTER, 0));
}

fn unix_messages_are_dropped_and_cut() {
    for kind in [libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let (a, b) = pair(kind);
        ok(attach(b, &keep_if(0, 7, 3)));
        // The sender hears nothing of it.
        check_eq!(send(a, &[1, 2, 3, 4]), 4);
        check_eq!(send(a, &[7, 2, 3, 4]), 4);
        check_eq!(send(a, &[7]), 1);
        check_eq!(receive(b), Some(vec![7, 2, 3]));
        check_eq!(receive(b), Some(vec![7]));
        check_eq!(receive(b), None);
        // A load outside drops it, too.
        ok(attach(b, &keep_if(2, 0, 9)));
        check_eq!(send(a, &[0, 0]), 2);
        check_eq!(receive(b), None);
        ok(set(b, libc::SO_DETACH_FILTER, 0));
        check_eq!(send(a, &[1, 2, 3, 4]), 4);
        check_eq!(receive(b), Some(vec![1, 2, 3, 4]));
    }
    // Of a stream nothing is dropped.
    let (a, b) = pair(libc::SOCK_STREAM);
    ok(attach(b, &keep_if(0, 7, 3)));
    check_eq!(send(a, &[1, 2]), 2);
    check_eq!(receive(b), Some(vec![1, 2]));
}

fn a_lock_holds() {
    let (a, _b) = pair(libc::SOCK_DGRAM);
    ok(attach(a, &keep_if(0, 7, 3)));
    ok(set(a, libc::SO_LOCK_FILTER, 0));
    ok(set(a, libc::SO_LOCK_FILTER, 1));
    ok(set(a, libc::SO_LOCK_FILTER, 1));
    check_eq!(err(set(a, libc::SO_LOCK_FILTER, 0)), libc::EPERM);
    check_eq!(err(set(a, libc::SO_DETACH_FILTER, 0)), libc::EPERM);
    check_eq!(err(attach(a, &keep_if(0, 7, 3))), libc::EPERM);
}

/// A socket bound to a port of loopback that the kernel chooses, and its address.
fn bound(kind: i32) -> (i32, libc::sockaddr_in) {
    // SAFETY: valid addresses.
    unsafe {
        let fd = ok(libc::socket(libc::AF_INET, kind, 0));
        let mut name: libc::sockaddr_in = zeroed();
        name.sin_family = libc::AF_INET as u16;
        name.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let mut len = size_of_val(&name) as u32;
        ok(libc::bind(fd, (&raw const name).cast(), len));
        ok(libc::getsockname(fd, (&raw mut name).cast(), &raw mut len));
        (fd, name)
    }
}

fn connect(fd: i32, name: &libc::sockaddr_in) -> i32 {
    // SAFETY: a valid address.
    unsafe { libc::connect(fd, std::ptr::from_ref(name).cast(), size_of_val(name) as u32) }
}

fn udp_is_filtered_from_its_header_on() {
    let (receiver, name) = bound(libc::SOCK_DGRAM);
    let (sender, _) = bound(libc::SOCK_DGRAM);
    ok(connect(sender, &name));
    // The header has 8 bytes.
    ok(attach(receiver, &keep_if(8, 7, 10)));
    check_eq!(send(sender, &[1, 2, 3]), 3);
    check_eq!(send(sender, &[7, 2, 3]), 3);
    check_eq!(wait_for(receiver), vec![7, 2]);
    check_eq!(receive(receiver), None);
    // The header stays, however little is kept.
    ok(attach(receiver, &keep_if(8, 7, 1)));
    check_eq!(send(sender, &[7, 2, 3]), 3);
    check_eq!(wait_for(receiver), Vec::<u8>::new());
    // Its length, from the header; and the number of IPv4.
    ok(attach(receiver, &keep_if(5, 9, 100)));
    check_eq!(send(sender, &[1, 2]), 2);
    check_eq!(send(sender, &[3]), 1);
    check_eq!(wait_for(receiver), vec![3]);
    let protocol = 0xffff_f000;
    let ip = [
        insn(0x20, 0, 0, protocol),
        insn(0x15, 0, 1, 0x800),
        insn(0x06, 0, 0, 100),
        insn(0x06, 0, 0, 0),
    ];
    ok(attach(receiver, &ip));
    check_eq!(send(sender, &[4]), 1);
    check_eq!(wait_for(receiver), vec![4]);
}

fn a_netlink_socket_hears_what_it_wants() {
    // SAFETY: valid addresses and buffers.
    unsafe {
        let fd = ok(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE));
        // RTM_GETLINK as a dump: the answer is RTM_NEWLINK, then NLMSG_DONE.
        let mut request = [0_u8; 32];
        request[..4].copy_from_slice(&32_u32.to_ne_bytes());
        request[4..6].copy_from_slice(&18_u16.to_ne_bytes());
        request[6..8].copy_from_slice(&0x301_u16.to_ne_bytes());
        ok(attach(fd, &keep_if(4, 200, 4096)));
        check_eq!(send(fd, &request), 32);
        check_eq!(receive(fd), None);
        ok(set(fd, libc::SO_DETACH_FILTER, 0));
        libc::close(fd);
    }
}

fn a_packet_socket_sees_the_link_header() {
    // SAFETY: valid addresses.
    unsafe {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let fd = ok(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(all)));
        let (receiver, name) = bound(libc::SOCK_DGRAM);
        let (sender, _) = bound(libc::SOCK_DGRAM);
        ok(connect(sender, &name));
        // IPv4, UDP, first byte 0x55: behind 14, 20 and 8 bytes of headers. 43 bytes are kept.
        let udp = [
            insn(0x28, 0, 0, 12),
            insn(0x15, 0, 5, 0x800),
            insn(0x30, 0, 0, 23),
            insn(0x15, 0, 3, 17),
            insn(0x30, 0, 0, 42),
            insn(0x15, 0, 1, 0x55),
            insn(0x06, 0, 0, 43),
            insn(0x06, 0, 0, 0),
        ];
        ok(attach(fd, &udp));
        while receive(fd).is_some() {}
        check_eq!(send(sender, &[0x54, 1]), 2);
        check_eq!(send(sender, &[0x55, 2]), 2);
        check_eq!(wait_for(receiver), vec![0x54, 1]);
        check_eq!(wait_for(receiver), vec![0x55, 2]);
        let frame = wait_for(fd);
        check_eq!((frame.len(), frame[42]), (43, 0x55));
        // For whom a packet is (SKF_AD_PKTTYPE): sent over loopback, it is seen leaving and arriving.
        for (kind, bytes) in [(libc::PACKET_OUTGOING, 50), (libc::PACKET_HOST, 51)] {
            ok(attach(fd, &keep_if(0xffff_f004, u32::from(kind), bytes)));
            while receive(fd).is_some() {}
            check_eq!(send(sender, &[0; 99]), 99);
            wait_for(receiver);
            check_eq!(wait_for(fd).len(), bytes as usize);
            check_eq!(receive(fd), None);
        }
    }
}

fn main() {
    // SAFETY: a plain call.
    ok(unsafe { libc::unshare(libc::CLONE_NEWNET) });
    set_loopback(true);
    only_programs_are_attached();
    unix_messages_are_dropped_and_cut();
    a_lock_holds();
    udp_is_filtered_from_its_header_on();
    a_netlink_socket_hears_what_it_wants();
    a_packet_socket_sees_the_link_header();
}
