//! Raw sockets of IPv6: the filter of ICMPv6 types, and the checksum that the kernel fills in (RFC 3542,
//! sections 3.1 and 3.2).

use std::mem::{size_of, zeroed};

use belljar_guest_tests::{check, check_eq, err, errno, net, ok};

const SOL_RAW: i32 = 255;
const IPV6_CHECKSUM: i32 = 7;
const SOL_ICMPV6: i32 = 58;
const ICMPV6_FILTER: i32 = 1;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
/// A protocol for experiments (RFC 3692).
const EXPERIMENT: i32 = 253;

fn raw(protocol: i32) -> i32 {
    // SAFETY: a plain call.
    ok(unsafe { libc::socket(libc::AF_INET6, libc::SOCK_RAW, protocol) })
}

fn set(fd: i32, level: i32, name: i32, value: &[u8]) -> i32 {
    let len = value.len() as u32;
    // SAFETY: memory of that length.
    unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), len) }
}

fn get(fd: i32, level: i32, name: i32, len: u32) -> Vec<u8> {
    let (mut value, mut len) = (vec![0; len as usize], len);
    // SAFETY: memory of that length.
    ok(unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut len) });
    value.truncate(len as usize);
    value
}

fn send(fd: i32, bytes: &[u8]) -> isize {
    // SAFETY: an address and bytes of these lengths.
    unsafe {
        let mut to: libc::sockaddr_in6 = zeroed();
        to.sin6_family = libc::AF_INET6 as u16;
        to.sin6_addr.s6_addr[15] = 1;
        let len = size_of::<libc::sockaddr_in6>() as u32;
        libc::sendto(fd, bytes.as_ptr().cast(), bytes.len(), 0, (&raw const to).cast(), len)
    }
}

/// What has come, if anything has.
fn received(fd: i32) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 256];
    // SAFETY: memory of that length.
    let n = unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
    if n < 0 {
        check_eq!(errno(), libc::EAGAIN);
        return None;
    }
    bytes.truncate(n as usize);
    Some(bytes)
}

/// A filter that lets only `kind` pass.
fn only(kind: u8) -> [u8; 32] {
    let mut bits = [0xff; 32];
    let word = usize::from(kind / 32) * 4;
    let mask = !(1_u32 << (kind % 32));
    bits[word..word + 4].copy_from_slice(&mask.to_ne_bytes());
    bits
}

fn filters() {
    let fd = raw(libc::IPPROTO_ICMPV6);
    check_eq!(get(fd, SOL_ICMPV6, ICMPV6_FILTER, 32), [0; 32]);
    let request = [ECHO_REQUEST, 0, 0, 0, 0, 9, 0, 1];
    check_eq!(send(fd, &request), 8);
    // On loopback both come in: the request with its checksum, and the reply.
    let kinds = [received(fd), received(fd)].map(|bytes| bytes.map(|bytes| bytes[0]));
    check!(kinds.contains(&Some(ECHO_REQUEST)) && kinds.contains(&Some(ECHO_REPLY)), "{kinds:?}");

    check_eq!(set(fd, SOL_ICMPV6, ICMPV6_FILTER, &only(ECHO_REPLY)), 0);
    check_eq!(get(fd, SOL_ICMPV6, ICMPV6_FILTER, 32), only(ECHO_REPLY));
    check_eq!(send(fd, &request), 8);
    check_eq!(received(fd).map(|bytes| bytes[0]), Some(ECHO_REPLY));
    check_eq!(received(fd), None);
    // A part of the bits changes only these.
    check_eq!(set(fd, SOL_ICMPV6, ICMPV6_FILTER, &[0; 4]), 0);
    check_eq!(get(fd, SOL_ICMPV6, ICMPV6_FILTER, 32)[..8], [0, 0, 0, 0, 255, 255, 255, 255]);

    let other = raw(EXPERIMENT);
    check_eq!(err(set(other, SOL_ICMPV6, ICMPV6_FILTER, &[0; 32])), libc::EOPNOTSUPP);
}

/// The sum of the 16-bit words of what is sent to oneself, with the pseudo header of RFC 8200.
fn sum(bytes: &[u8]) -> u16 {
    let pseudo = 2 + bytes.len() as u32 + EXPERIMENT as u32;
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = pseudo + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn checksums() {
    let fd = raw(EXPERIMENT);
    let number = |n: i32| n.to_ne_bytes();
    check_eq!(get(fd, SOL_RAW, IPV6_CHECKSUM, 4), number(-1));
    let data = [1, 2, 3, 4, 0xaa, 0xbb, 7, 8];
    check_eq!(send(fd, &data), 8);
    check_eq!(received(fd).unwrap(), data);
    check_eq!(set(fd, libc::SOL_IPV6, IPV6_CHECKSUM, &number(4)), 0);
    check_eq!(get(fd, SOL_RAW, IPV6_CHECKSUM, 4), number(4));
    check_eq!(send(fd, &data), 8);
    let with_sum = received(fd).unwrap();
    check_eq!(with_sum[..4], data[..4]);
    check_eq!(sum(&with_sum), 0xffff);
    // There must be room for it, at an even place.
    check_eq!(err(send(fd, &data[..5]) as i64), libc::EINVAL);
    check_eq!(err(set(fd, SOL_RAW, IPV6_CHECKSUM, &number(3))), libc::EINVAL);
    check_eq!(set(fd, SOL_RAW, IPV6_CHECKSUM, &number(-7)), 0);
    check_eq!(get(fd, SOL_RAW, IPV6_CHECKSUM, 4), number(-1));

    // That of ICMPv6 has its place, which this level does not change.
    let icmp = raw(libc::IPPROTO_ICMPV6);
    check_eq!(get(icmp, SOL_RAW, IPV6_CHECKSUM, 4), number(2));
    check_eq!(err(set(icmp, libc::SOL_IPV6, IPV6_CHECKSUM, &number(2))), libc::EINVAL);
    check_eq!(set(icmp, SOL_RAW, IPV6_CHECKSUM, &number(2)), 0);
}

fn main() {
    net::set_loopback(true);
    filters();
    checksums();
}
