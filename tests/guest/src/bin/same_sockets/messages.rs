//! Messages: sent and received in every way, with flags and control messages.

use std::mem::zeroed;

use belljar_guest_tests::same::Random;

use crate::names::{Name, shown};
use crate::{State, sum};

/// Lengths of messages: small, as what a queue holds is counted in memory, which is the kernel's affair.
const LENGTHS: &[usize] = &[0, 1, 1, 2, 3, 10, 10, 100, 300];

/// Control messages to pass along, in the form that the kernel reads.
struct Control {
    bytes: Vec<u8>,
    text: String,
}

impl Control {
    fn push(&mut self, level: i32, kind: i32, len: usize, payload: &[u8]) {
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(level.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(payload);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.text += &format!(" {level}.{kind}.{len}");
    }

    fn random(state: &State, random: &mut Random) -> Self {
        let mut this = Self { bytes: Vec::new(), text: String::new() };
        for _ in 0..random.pick(&[0, 0, 1, 1, 1, 1, 2]) {
            match random.below(14) {
                0 => this.push(libc::SOL_SOCKET, 9, 16, &[]),
                1 => this.push(libc::SOL_SOCKET, libc::SCM_RIGHTS, random.pick(&[0, 15, 100]), &[]),
                2 => this.push(0, libc::SCM_RIGHTS, 20, &[0; 4]),
                3 => this.push(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, 24, &[0; 8]),
                4..=6 => {
                    // SAFETY: plain numbers.
                    let credentials: [u8; 12] = unsafe {
                        std::mem::transmute(libc::ucred {
                            pid: random.pick(&[libc::getpid(), libc::getpid(), 0, 0x3fff_fff0]),
                            uid: random.pick(&[0, 0, 7, !0]),
                            gid: random.pick(&[0, 0, 8]),
                        })
                    };
                    this.push(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, 28, &credentials);
                    let numbers = &credentials[4..];
                    this.text += &format!("{numbers:?}");
                }
                _ => {
                    let n = random.pick(&[0, 1, 1, 1, 2, 3, 3]);
                    let slots: Vec<_> = (0..n).map(|_| State::slot(random)).collect();
                    let fds: Vec<u8> =
                        slots.iter().flat_map(|slot| state.slots[*slot].to_ne_bytes()).collect();
                    this.push(libc::SOL_SOCKET, libc::SCM_RIGHTS, 16 + fds.len(), &fds);
                    this.text += &format!("{slots:?}");
                }
            }
        }
        this
    }
}

fn pieces(data: &mut [u8], cut: usize) -> [libc::iovec; 2] {
    let (first, second) = data.split_at_mut(cut.min(data.len()));
    [first, second]
        .map(|piece| libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() })
}

impl State {
    /// Sends something in some way.
    pub fn send(&mut self, random: &mut Random) {
        let slot = Self::slot(random);
        let fd = self.slots[slot];
        let len = random.pick(LENGTHS);
        let mut data = self.data(len);
        let flags = random.flags(
            &[libc::MSG_DONTWAIT, libc::MSG_NOSIGNAL, libc::MSG_EOR, libc::MSG_MORE, 0x10],
            4,
        ) | random.flags(&[libc::MSG_DONTROUTE, libc::MSG_CONFIRM, libc::MSG_PEEK], 16);
        let name = random.one_in(3).then(|| Name::random(random));
        let (at, size) = name.as_ref().map_or((std::ptr::null(), 0), |name| (name.at(), name.len));
        let to = name.as_ref().map_or("", |name| &name.text).to_string();
        // SAFETY: buffers and lengths agree, or the kernel has to notice.
        let (text, result) = unsafe {
            match random.below(6) {
                0 => ("write".to_string(), libc::write(fd, data.as_ptr().cast(), len)),
                1 => {
                    let pieces = pieces(&mut data, 1);
                    ("writev".to_string(), libc::writev(fd, pieces.as_ptr(), 2))
                }
                2 | 3 => {
                    let result = libc::sendto(fd, data.as_ptr().cast(), len, flags, at, size);
                    (format!("sendto {flags:x} {to}"), result)
                }
                _ => {
                    let mut control = Control::random(self, random);
                    let mut pieces = pieces(&mut data, 2);
                    let mut header: libc::msghdr = zeroed();
                    header.msg_name = at.cast_mut().cast();
                    header.msg_namelen = size;
                    header.msg_iov = pieces.as_mut_ptr();
                    header.msg_iovlen = random.pick(&[2, 2, 2, 1, 0]);
                    header.msg_control = control.bytes.as_mut_ptr().cast();
                    header.msg_controllen = control.bytes.len();
                    let n = header.msg_iovlen;
                    let result = libc::sendmsg(fd, &raw const header, flags);
                    (format!("sendmsg {n} {flags:x} {to}{}", control.text), result)
                }
            }
        };
        self.trace.call(&format!("{slot} {text} {len}"), result as i64);
        self.poll(slot);
    }

    /// Receives something in some way.
    pub fn receive(&mut self, random: &mut Random) {
        let slot = Self::slot(random);
        let fd = self.slots[slot];
        let room = random.pick(&[0, 1, 2, 5, 50, 1000, 1000, 1000]);
        let mut data = vec![0; room];
        let flags = random.flags(&[libc::MSG_DONTWAIT, libc::MSG_PEEK, libc::MSG_TRUNC], 3)
            | random.flags(&[libc::MSG_WAITALL, libc::MSG_CMSG_CLOEXEC], 6)
            | random.flags(&[libc::MSG_ERRQUEUE], 20);
        // SAFETY: buffers and lengths agree, or the kernel has to notice.
        let (text, result) = unsafe {
            let mut storage: libc::sockaddr_storage = zeroed();
            let mut size: libc::socklen_t = random.pick(&[128, 128, 0, 4]);
            match random.below(6) {
                0 => ("read".to_string(), libc::read(fd, data.as_mut_ptr().cast(), room)),
                1 => {
                    let pieces = pieces(&mut data, 1);
                    ("readv".to_string(), libc::readv(fd, pieces.as_ptr(), 2))
                }
                2 => {
                    let at = (&raw mut storage).cast();
                    let p = data.as_mut_ptr().cast();
                    let result = libc::recvfrom(fd, p, room, flags, at, &mut size);
                    let from = if result < 0 { String::new() } else { shown(&storage, size) };
                    (format!("recvfrom {flags:x} {from}"), result)
                }
                _ => {
                    let mut pieces = pieces(&mut data, 2);
                    let mut control = [0_u64; 40];
                    let mut header: libc::msghdr = zeroed();
                    header.msg_name = (&raw mut storage).cast();
                    header.msg_namelen = size;
                    header.msg_iov = pieces.as_mut_ptr();
                    header.msg_iovlen = 2;
                    header.msg_control = control.as_mut_ptr().cast();
                    header.msg_controllen = random.pick(&[320, 320, 320, 0, 10, 16, 20, 24, 30]);
                    let asked = header.msg_controllen;
                    let result = libc::recvmsg(fd, &raw mut header, flags);
                    let mut text = format!("recvmsg {flags:x} {asked}");
                    if result >= 0 {
                        let from = shown(&storage, header.msg_namelen);
                        let (flags, left) = (header.msg_flags, header.msg_controllen);
                        text += &format!(" {from} {flags:x} {left}");
                        text += &received(&header);
                    }
                    (text, result)
                }
            }
        };
        let sum = sum(&data);
        self.trace.call(&format!("{slot} {text} {room} {sum:x}"), result as i64);
        self.poll(slot);
    }

    /// Several messages in one call.
    pub fn many(&mut self, random: &mut Random) {
        let slot = Self::slot(random);
        let fd = self.slots[slot];
        let n = random.pick(&[0, 1, 2, 3]);
        let len = random.pick(LENGTHS);
        let mut data: Vec<Vec<u8>> = (0..n).map(|_| self.data(len)).collect();
        let sends = random.one_in(2);
        if !sends {
            data.iter_mut().flatten().for_each(|byte| *byte = 0);
        }
        // SAFETY: buffers and lengths agree.
        unsafe {
            let mut pieces: Vec<_> = data.iter_mut().map(|data| pieces(data, 1)).collect();
            let mut headers: Vec<libc::mmsghdr> = pieces
                .iter_mut()
                .map(|pieces| {
                    let mut header: libc::mmsghdr = zeroed();
                    header.msg_hdr.msg_iov = pieces.as_mut_ptr();
                    header.msg_hdr.msg_iovlen = 2;
                    header
                })
                .collect();
            let count = headers.len() as u32;
            let p = headers.as_mut_ptr();
            let result = if sends {
                libc::sendmmsg(fd, p, count, 0)
            } else {
                let flags = random.pick(&[0, 0, libc::MSG_WAITFORONE, libc::MSG_PEEK]);
                libc::recvmmsg(fd, p, count, flags, std::ptr::null_mut())
            };
            let done = result.max(0) as usize;
            let lengths: Vec<u32> = headers[..done].iter().map(|header| header.msg_len).collect();
            let sum = data.iter().map(|data| sum(data)).fold(0, u32::wrapping_add);
            let text = format!("{slot} many {sends} {n} {len} {lengths:?} {sum:x}");
            self.trace.call(&text, result);
        }
        self.poll(slot);
    }
}

/// What came along; files are looked at and closed.
///
/// # Safety
///
/// The header is what recvmsg left.
unsafe fn received(header: &libc::msghdr) -> String {
    let mut text = String::new();
    // SAFETY: the control messages are as the kernel wrote them.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let (level, kind, len) =
                ((*message).cmsg_level, (*message).cmsg_type, (*message).cmsg_len);
            text += &format!(" [{level} {kind} {len}");
            let payload = libc::CMSG_DATA(message);
            if kind == libc::SCM_RIGHTS {
                for i in 0..len.saturating_sub(16) / 4 {
                    let fd = payload.cast::<i32>().add(i).read_unaligned();
                    let mut stat: libc::stat = zeroed();
                    let result = libc::fstat(fd, &mut stat);
                    let cloexec = libc::fcntl(fd, libc::F_GETFD);
                    text += &format!(" {result} {:o} {cloexec}", stat.st_mode);
                    libc::close(fd);
                }
            } else if kind == libc::SCM_CREDENTIALS && len == 28 {
                let who = payload.cast::<libc::ucred>().read_unaligned();
                let pid = if who.pid == libc::getpid() { 1 } else { who.pid };
                text += &format!(" {pid} {} {}", who.uid, who.gid);
            }
            text += "]";
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    text
}
