//! Random calls on sockets and pipes: every result, every byte count and address, every control message
//! and what poll says is Linux's. Nothing blocks. `same_sockets [CALLS [SEED]]`.

mod inet;
mod messages;
mod names;
mod options;
mod pipes;

use std::mem::zeroed;

use belljar_guest_tests::same::{Random, Trace, arguments, enter_files};
use belljar_guest_tests::{errno, ok};

use names::{Name, shown};

/// Open files that the calls choose from.
const SLOTS: usize = 12;

/// Everything that poll tells of.
const EVENTS: i16 = libc::POLLIN
    | libc::POLLPRI
    | libc::POLLOUT
    | libc::POLLRDHUP
    | libc::POLLRDNORM
    | libc::POLLWRNORM
    | libc::POLLRDBAND
    | libc::POLLWRBAND;

struct State {
    trace: Trace,
    slots: [i32; SLOTS],
    marker: inet::Marker,
    /// The next byte that is sent: what arrives tells what it was.
    next: u8,
}

/// A sum that tells bytes and their order apart.
fn sum(data: &[u8]) -> u32 {
    data.iter().fold(7, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)))
}

impl State {
    fn slot(random: &mut Random) -> usize {
        random.below(SLOTS as u64) as usize
    }

    /// Puts a new file into a slot.
    fn put(&mut self, slot: usize, fd: i32) {
        if fd >= 0 {
            self.close(slot);
            self.slots[slot] = fd;
        }
    }

    fn close(&mut self, slot: usize) -> i32 {
        // SAFETY: the slot's file is ours.
        let result = unsafe { libc::close(self.slots[slot]) };
        self.slots[slot] = -1;
        result
    }

    /// Bytes to send.
    fn data(&mut self, len: usize) -> Vec<u8> {
        (0..len)
            .map(|_| {
                self.next = self.next.wrapping_add(1);
                self.next
            })
            .collect()
    }

    /// Prints what poll says of a slot.
    fn poll(&mut self, slot: usize) {
        let mut poll = libc::pollfd { fd: self.slots[slot], events: EVENTS, revents: 0 };
        // SAFETY: one entry.
        let result = unsafe { libc::poll(&mut poll, 1, 0) };
        self.trace.call(&format!("  poll {slot} {:x}", poll.revents), result);
    }

    fn socket(&mut self, random: &mut Random) {
        let slot = Self::slot(random);
        let family = random.pick(&[1, 1, 1, 1, 1, 1, 1, 0, 99]);
        let kind = random.pick(&[1, 2, 5, 1, 2, 5, 1, 2, 5, 1, 2, 5, 3, 4, 0, 11]);
        let protocol = random.pick(&[0, 0, 0, 0, 0, 0, 1, 2]);
        let flags = libc::SOCK_NONBLOCK | if random.one_in(20) { 0x10 } else { 0 };
        // SAFETY: plain calls.
        let fd = unsafe { libc::socket(family, kind | flags, protocol) };
        let text = format!("socket {slot} {family} {kind} {flags:x} {protocol}");
        self.trace.call(&text, fd.min(0));
        self.put(slot, fd);
    }

    fn pair(&mut self, random: &mut Random) {
        let (a, b) = (Self::slot(random), Self::slot(random));
        let kind = random.pick(&[1, 1, 2, 5, 1, 2, 5, 3, 4]);
        let family = if random.one_in(20) { libc::AF_INET } else { libc::AF_UNIX };
        let mut fds = [-1; 2];
        // SAFETY: room for two.
        let result =
            unsafe { libc::socketpair(family, kind | libc::SOCK_NONBLOCK, 0, fds.as_mut_ptr()) };
        self.trace.call(&format!("socketpair {a} {b} {family} {kind}"), result);
        self.put(a, fds[0]);
        self.put(b, fds[1]);
    }

    fn connection(&mut self, random: &mut Random) {
        let slot = Self::slot(random);
        let fd = self.slots[slot];
        let name = Name::random(random);
        // SAFETY: names and lengths agree, or the kernel has to notice.
        unsafe {
            let (text, result) = match random.below(10) {
                0..=2 => (format!("bind {}", name.text), libc::bind(fd, name.at(), name.len)),
                3 | 4 => {
                    let backlog = random.pick(&[0, 1, 5, -1]);
                    (format!("listen {backlog}"), libc::listen(fd, backlog))
                }
                5..=7 => (format!("connect {}", name.text), libc::connect(fd, name.at(), name.len)),
                8 => {
                    let how = random.pick(&[0, 1, 2, 0, 1, 2, 3, -1]);
                    (format!("shutdown {how}"), libc::shutdown(fd, how))
                }
                _ => {
                    let path = random.pick(&[c"s", c"t"]);
                    (format!("unlink {path:?}"), libc::unlink(path.as_ptr()))
                }
            };
            self.trace.call(&format!("{slot} {text}"), result);
        }
        self.poll(slot);
    }

    fn accept(&mut self, random: &mut Random) {
        let (slot, new) = (Self::slot(random), Self::slot(random));
        let flags = libc::SOCK_NONBLOCK | if random.one_in(20) { 1 } else { 0 };
        let mut len: libc::socklen_t = random.pick(&[128, 128, 128, 0, 3, !0]);
        let wrong = len == !0;
        // SAFETY: an address has room, and a wrong length is noticed.
        unsafe {
            let mut storage: libc::sockaddr_storage = zeroed();
            let at = (&raw mut storage).cast();
            let fd = libc::accept4(self.slots[slot], at, &mut len, flags);
            let name = if fd < 0 { String::new() } else { shown(&storage, len) };
            let text = format!("accept {slot} {new} {flags:x} {wrong} {name}");
            self.trace.call(&text, fd.min(0));
            self.put(new, fd);
        }
        self.poll(slot);
    }

    fn names(&mut self, random: &mut Random) {
        let slot = Self::slot(random);
        let mut len: libc::socklen_t = random.pick(&[128, 128, 128, 0, 3, !0]);
        let wrong = len == !0;
        let peer = random.one_in(2);
        // SAFETY: an address has room, and a wrong length is noticed.
        unsafe {
            let mut storage: libc::sockaddr_storage = zeroed();
            let at = (&raw mut storage).cast();
            let fd = self.slots[slot];
            let result = if peer {
                libc::getpeername(fd, at, &mut len)
            } else {
                libc::getsockname(fd, at, &mut len)
            };
            let name = if result < 0 { String::new() } else { shown(&storage, len) };
            self.trace.call(&format!("name {slot} {peer} {wrong} {name}"), result);
        }
    }

    fn file(&mut self, random: &mut Random) {
        let slot = Self::slot(random);
        let fd = self.slots[slot];
        // SAFETY: places are valid.
        unsafe {
            let (text, result) = match random.below(8) {
                0 => {
                    let result = self.close(slot);
                    ("close".to_string(), result)
                }
                1 => {
                    let new = Self::slot(random);
                    let fd = libc::dup(fd);
                    if new != slot {
                        self.put(new, fd);
                    } else if fd >= 0 {
                        libc::close(fd);
                    }
                    (format!("dup {new}"), fd.min(0))
                }
                2 | 3 => {
                    let mut n = -1;
                    let result = libc::ioctl(fd, libc::FIONREAD, &raw mut n);
                    (format!("FIONREAD {n}"), result)
                }
                4 => {
                    let mut n = -1;
                    let which = random.pick(&[0x8905_u64, 0x5411, 0x5401, 0x8904, 0x8901, 0x12345]);
                    let result = libc::ioctl(fd, which as _, &raw mut n);
                    // How much memory a message takes is the kernel's own affair.
                    let n = if which == 0x5411 { n.min(1) } else { n };
                    (format!("ioctl {which:x} {n}"), result)
                }
                5 => {
                    let (cmd, arg) = random.pick(&[
                        (libc::F_GETFL, 0),
                        (libc::F_SETFL, libc::O_NONBLOCK | libc::O_DIRECT),
                        (libc::F_SETFL, libc::O_NONBLOCK),
                        (libc::F_SETFL, libc::O_NONBLOCK | libc::O_APPEND),
                        (libc::F_GETFD, 0),
                        (libc::F_GET_SEALS, 0),
                    ]);
                    (format!("fcntl {cmd} {arg:o}"), libc::fcntl(fd, cmd, arg))
                }
                6 => {
                    let mut stat: libc::stat = zeroed();
                    let result = libc::fstat(fd, &mut stat);
                    let (mode, links) = (stat.st_mode, stat.st_nlink);
                    (format!("fstat {mode:o} {links} {}", stat.st_size), result)
                }
                _ => {
                    let whence = random.pick(&[0, 1, 2]);
                    (format!("lseek {whence}"), libc::lseek(fd, 0, whence) as i32)
                }
            };
            self.trace.call(&format!("{slot} {text}"), result);
        }
    }
}

fn main() {
    enter_files();
    // SAFETY: plain calls.
    unsafe {
        libc::umask(0o22);
        ok(libc::unshare(libc::CLONE_NEWNET));
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    belljar_guest_tests::net::set_loopback(true);
    let (calls, mut random) = arguments(700);
    let mut state =
        State { trace: Trace::default(), slots: [-1; SLOTS], marker: inet::Marker::new(), next: 0 };
    for _ in 0..calls {
        match random.below(60) {
            0 | 1 => state.socket(&mut random),
            2..=4 => state.pair(&mut random),
            5..=15 => state.connection(&mut random),
            16..=18 => state.accept(&mut random),
            19 | 20 => state.names(&mut random),
            21..=25 => state.file(&mut random),
            26..=32 => state.send(&mut random),
            33..=40 => state.receive(&mut random),
            41 | 42 => state.many(&mut random),
            43..=45 => state.option(&mut random),
            46 => state.fresh_options(&mut random),
            47 => state.pipe(&mut random),
            48..=50 => state.pipe_call(&mut random),
            51..=54 => state.splice(&mut random),
            55..=57 => state.udp(&mut random),
            _ => state.tcp(&mut random),
        }
    }
    for slot in 0..SLOTS {
        state.close(slot);
    }
    state.trace.line(&format!("end {}", errno() != 0));
}
