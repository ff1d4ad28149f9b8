//! TCP and UDP over loopback. What arrives later is waited for: bytes by their count, ends and errors by poll,
//! datagrams and what is told of them by others that were sent behind them.

use std::mem::zeroed;
use std::net::UdpSocket;

use belljar_guest_tests::same::Random;
use belljar_guest_tests::{check_eq, ok};

use crate::names::{Name, shown};
use crate::{State, sum};

/// Sockets of a UDP round.
const UDP: usize = 3;

/// Waits until poll says one of `events`; tells if it never does.
fn wait_for(fd: i32, events: i16) -> bool {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one entry.
    unsafe { libc::poll(&mut poll, 1, 60_000) == 1 }
}

/// Waits until `n` bytes can be read; tells if they never can.
fn wait_for_bytes(fd: i32, n: usize) -> bool {
    for _ in 0..1_000_000 {
        let mut there = 0;
        // SAFETY: an int.
        unsafe {
            ok(libc::ioctl(fd, libc::FIONREAD, &raw mut there));
            if there as usize >= n {
                return true;
            }
            libc::sched_yield();
        }
    }
    false
}

/// A datagram's way over loopback and back, to know that those before it have arrived: on one CPU they keep
/// their order.
pub struct Marker([UdpSocket; 2]);

impl Marker {
    /// Keeps the caller on one CPU from now on.
    pub fn new() -> Self {
        let cpus = belljar_guest_tests::cpus::allowed();
        check_eq!(belljar_guest_tests::cpus::bind(0, &cpus[..1]), 0);
        let [a, b] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        b.connect(a.local_addr().unwrap()).unwrap();
        Self([a, b])
    }

    /// Waits until what was sent before has arrived, and the answers to that.
    fn pass(&self) {
        let [a, b] = &self.0;
        for (from, to) in [(a, b), (b, a)] {
            check_eq!(from.send(&[1]).unwrap(), 1);
            check_eq!(to.recv(&mut [0]).unwrap(), 1);
        }
    }
}

/// One end of a TCP connection.
struct End {
    fd: i32,
    /// Bytes that the other end sent and nobody read.
    incoming: usize,
    /// It shut its direction down.
    ended: bool,
}

impl State {
    fn poll_fd(&mut self, fd: i32) {
        let mut poll = libc::pollfd { fd, events: crate::EVENTS, revents: 0 };
        // SAFETY: one entry.
        let result = unsafe { libc::poll(&mut poll, 1, 0) };
        self.trace.call(&format!("  poll {:x}", poll.revents), result);
    }

    fn name_of(&mut self, fd: i32, peer: bool) {
        // SAFETY: room for any address.
        unsafe {
            let mut storage: libc::sockaddr_storage = zeroed();
            let mut len = size_of::<libc::sockaddr_storage>() as u32;
            let at = (&raw mut storage).cast();
            let result = if peer {
                libc::getpeername(fd, at, &mut len)
            } else {
                libc::getsockname(fd, at, &mut len)
            };
            let name = if result < 0 { String::new() } else { shown(&storage, len) };
            self.trace.call(&format!("  name {peer} {name}"), result);
        }
    }

    /// An address for UDP.
    fn inet_name(random: &mut Random) -> Name {
        match random.below(12) {
            0 => Name::odd(libc::AF_INET, &[0, 0, 127, 0, 0, 1], 16),
            1 => Name::odd(libc::AF_INET, &[0x4e, 0x20, 127, 0, 0, 1], random.pick(&[0, 8, 15])),
            2 => Name::odd(libc::AF_UNSPEC, &[0; 14], 16),
            3 => Name::odd(libc::AF_INET6, &[0x4e, 0x20, 127, 0, 0, 1], 16),
            4 => Name::odd(libc::AF_INET, &[0x4e, 0x20, 0, 0, 0, 0], 16),
            5 => Name::odd(libc::AF_INET, &[0x4e, 0x20, 10, 0, 0, 1], 16),
            _ => Name::inet(random.below(UDP as u64 + 1) as u16),
        }
    }

    /// Datagrams between a few sockets.
    pub fn udp(&mut self, random: &mut Random) {
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK;
        // SAFETY: buffers and lengths agree, or the kernel has to notice.
        unsafe {
            let sockets: Vec<i32> =
                (0..UDP).map(|_| ok(libc::socket(libc::AF_INET, kind, 0))).collect();
            for (i, fd) in sockets.iter().enumerate() {
                if random.one_in(4) {
                    continue;
                }
                let name = Name::inet(i as u16);
                let result = libc::bind(*fd, name.at(), name.len);
                self.trace.call(&format!("udp bind {i}"), result);
            }
            for _ in 0..random.below(14) {
                let i = random.below(UDP as u64) as usize;
                let fd = sockets[i];
                let name = Self::inet_name(random);
                let len = random.pick(&[0, 1, 10, 100, 1000, 3000, 65_507, 65_508]);
                let (text, result) = match random.below(16) {
                    0 => (format!("bind {}", name.text), libc::bind(fd, name.at(), name.len)),
                    1..=3 => {
                        let result = libc::connect(fd, name.at(), name.len);
                        (format!("connect {}", name.text), result)
                    }
                    4..=8 => {
                        let data = self.data(len);
                        let p = data.as_ptr().cast();
                        let flags = random.pick(&[0, 0, 0, libc::MSG_DONTROUTE, libc::MSG_OOB]);
                        let result = if random.one_in(3) {
                            libc::send(fd, p, len, flags)
                        } else {
                            libc::sendto(fd, p, len, flags, name.at(), name.len)
                        };
                        (format!("send {flags:x} {} {len}", name.text), result as i32)
                    }
                    9..=13 => {
                        let room = random.pick(&[0, 1, 50, 70_000, 70_000, 70_000]);
                        let flags = random.flags(&[libc::MSG_PEEK, libc::MSG_TRUNC], 3)
                            | random.flags(&[libc::MSG_WAITALL, libc::MSG_OOB], 10);
                        let mut data = vec![0; room];
                        let mut storage: libc::sockaddr_storage = zeroed();
                        let mut piece =
                            libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: room };
                        let mut header: libc::msghdr = zeroed();
                        header.msg_name = (&raw mut storage).cast();
                        header.msg_namelen = 128;
                        header.msg_iov = &raw mut piece;
                        header.msg_iovlen = 1;
                        let n = libc::recvmsg(fd, &raw mut header, flags);
                        let from =
                            if n < 0 { String::new() } else { shown(&storage, header.msg_namelen) };
                        let (got, sum) = (header.msg_flags, sum(&data));
                        (format!("recv {room} {flags:x}: {from} {got:x} {sum:x}"), n as i32)
                    }
                    14 => {
                        let how = random.pick(&[0, 1, 2, 3]);
                        (format!("shutdown {how}"), libc::shutdown(fd, how))
                    }
                    _ => {
                        let mut n = -1;
                        let result = libc::ioctl(fd, libc::FIONREAD, &raw mut n);
                        (format!("FIONREAD {n}"), result)
                    }
                };
                self.trace.call(&format!("udp {i} {text}"), result);
                self.marker.pass();
                self.name_of(fd, false);
                self.name_of(fd, true);
                self.poll_fd(fd);
            }
            for fd in sockets {
                libc::close(fd);
            }
        }
    }

    /// A connection over loopback; none if it was not to be.
    fn connect_tcp(&mut self, random: &mut Random) -> Option<[End; 2]> {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
        let on = 1_i32;
        // SAFETY: buffers and lengths agree.
        unsafe {
            let listener = ok(libc::socket(libc::AF_INET, kind, 0));
            let client = ok(libc::socket(libc::AF_INET, kind, 0));
            let p = (&raw const on).cast();
            ok(libc::setsockopt(listener, libc::SOL_SOCKET, libc::SO_REUSEADDR, p, 4));
            let name = Name::inet(8);
            let result = libc::bind(listener, name.at(), name.len);
            self.trace.call("tcp bind", result);
            if random.one_in(8) {
                // Nobody listens.
                let result = libc::connect(client, name.at(), name.len);
                self.trace.call("tcp connect to nobody", result);
                wait_for(client, libc::POLLOUT);
                self.poll_fd(client);
                self.get_error(client);
                self.name_of(client, true);
                libc::close(client);
                libc::close(listener);
                return None;
            }
            let result = libc::listen(listener, 5);
            self.trace.call("tcp listen", result);
            self.poll_fd(listener);
            self.poll_fd(client);
            let result = libc::connect(client, name.at(), name.len);
            self.trace.call("tcp connect", result);
            let came = wait_for(listener, libc::POLLIN) && wait_for(client, libc::POLLOUT);
            self.trace.line(&format!("tcp came {came}"));
            let result = libc::connect(client, name.at(), name.len);
            self.trace.call("tcp connect again", result);
            let result = libc::connect(client, name.at(), name.len);
            self.trace.call("tcp connect once more", result);
            let mut storage: libc::sockaddr_storage = zeroed();
            let mut len = 128;
            let at = (&raw mut storage).cast();
            let server = libc::accept4(listener, at, &mut len, libc::SOCK_NONBLOCK);
            self.trace.call(&format!("tcp accept {}", shown(&storage, len)), server.min(0));
            let result = libc::accept4(listener, at, &mut len, libc::SOCK_NONBLOCK);
            self.trace.call("tcp accept more", result.min(0));
            self.poll_fd(listener);
            libc::close(listener);
            self.name_of(client, false);
            self.name_of(client, true);
            self.name_of(server, false);
            self.name_of(server, true);
            Some([client, server].map(|fd| End { fd, incoming: 0, ended: false }))
        }
    }

    fn get_error(&mut self, fd: i32) {
        let (mut error, mut len) = (-1, 4_u32);
        let p = (&raw mut error).cast();
        // SAFETY: an int.
        let result =
            unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, p, &raw mut len) };
        self.trace.call(&format!("  SO_ERROR {error}"), result);
    }

    /// A connection, what is said over it, and its end.
    pub fn tcp(&mut self, random: &mut Random) {
        let Some(mut ends) = self.connect_tcp(random) else { return };
        for _ in 0..random.below(14) {
            let i = random.below(2) as usize;
            let other = 1 - i;
            let fd = ends[i].fd;
            // SAFETY: buffers and lengths agree.
            unsafe {
                if !wait_for_bytes(fd, ends[i].incoming) {
                    self.trace.line("tcp bytes are lost");
                }
                if ends[other].ended {
                    wait_for(fd, libc::POLLRDHUP);
                }
                match random.below(12) {
                    0..=4 => {
                        let len = random.pick(&[0, 1, 10, 100, 1000, 5000]);
                        let data = self.data(len);
                        let flags = random.flags(&[libc::MSG_DONTWAIT, libc::MSG_EOR], 4);
                        let n = libc::send(fd, data.as_ptr().cast(), len, flags);
                        self.trace.call(&format!("tcp {i} send {flags:x} {len}"), n as i64);
                        ends[other].incoming += n.max(0) as usize;
                    }
                    5..=9 => {
                        let room = random.pick(&[0, 1, 10, 500, 20_000]);
                        let mut flags =
                            random.flags(&[libc::MSG_PEEK, libc::MSG_WAITALL, libc::MSG_TRUNC], 4);
                        if random.one_in(20) {
                            flags |= libc::MSG_OOB;
                        }
                        let mut data = vec![0; room];
                        let n = libc::recv(fd, data.as_mut_ptr().cast(), room, flags);
                        let sum = sum(&data);
                        self.trace
                            .call(&format!("tcp {i} recv {flags:x} {room} {sum:x}"), n as i64);
                        if flags & libc::MSG_PEEK == 0 {
                            ends[i].incoming -= n.max(0) as usize;
                        }
                    }
                    10 => {
                        let how = random.pick(&[1, 1, 1, 9]);
                        let result = libc::shutdown(fd, how);
                        self.trace.call(&format!("tcp {i} shutdown {how}"), result);
                        ends[i].ended |= how == 1;
                    }
                    // Of what is over, more can be made.
                    _ if ends.iter().any(|end| end.ended) => continue,
                    _ => {
                        let name = Name::inet(9);
                        let result = match random.below(3) {
                            0 => libc::connect(fd, name.at(), name.len),
                            1 => libc::bind(fd, name.at(), name.len),
                            _ => libc::accept4(
                                fd,
                                std::ptr::null_mut(),
                                std::ptr::null_mut(),
                                libc::SOCK_NONBLOCK,
                            ),
                        };
                        self.trace.call(&format!("tcp {i} misused"), result);
                    }
                }
                if !wait_for_bytes(fd, ends[i].incoming) {
                    self.trace.line("tcp bytes are lost");
                }
                self.poll_fd(fd);
                self.get_error(fd);
            }
        }
        self.end_tcp(random, &ends);
    }

    /// One end is closed, and the other sees it.
    fn end_tcp(&mut self, random: &mut Random, ends: &[End; 2]) {
        let first = random.below(2) as usize;
        let (gone, left) = (&ends[first], &ends[1 - first]);
        // SAFETY: both are ours.
        unsafe {
            wait_for_bytes(gone.fd, gone.incoming);
            wait_for_bytes(left.fd, left.incoming);
            // Who closes without having read everything resets the connection, too (RFC 2525, 2.17).
            let mut resets = gone.incoming > 0;
            if random.one_in(4) {
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                let p = (&raw const linger).cast();
                ok(libc::setsockopt(gone.fd, libc::SOL_SOCKET, libc::SO_LINGER, p, 8));
                self.trace.line("tcp reset");
                resets = true;
            }
            libc::close(gone.fd);
            // The end of what it sends may have come long before.
            let came = wait_for(left.fd, if resets { libc::POLLHUP } else { libc::POLLRDHUP });
            self.trace.line(&format!("tcp end {first} {} came {came}", gone.incoming));
            if !gone.ended || gone.incoming > 0 {
                self.poll_fd(left.fd);
            }
            for _ in 0..3 {
                let mut data = [0; 20_000];
                let n = libc::recv(left.fd, data.as_mut_ptr().cast(), data.len(), 0);
                self.trace.call(&format!("tcp last {:x}", sum(&data)), n as i64);
            }
            libc::close(left.fd);
        }
    }
}
