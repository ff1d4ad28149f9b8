//! Pipes, their sizes, packets, and what moves between files without a copy.

use std::ptr::null_mut;

use belljar_guest_tests::same::Random;

use crate::{State, sum};

impl State {
    /// Makes a pipe, or opens a file.
    pub fn pipe(&mut self, random: &mut Random) {
        let (a, b) = (Self::slot(random), Self::slot(random));
        let mut fds = [-1; 2];
        // SAFETY: room for two, and a valid string.
        unsafe {
            if random.one_in(4) {
                let flags = random.pick(&[libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY]);
                let fd = libc::open(c"file".as_ptr(), flags | libc::O_CREAT, 0o644);
                self.trace.call(&format!("open {a} {flags:o}"), fd.min(0));
                self.put(a, fd);
                return;
            }
            let flags = libc::O_NONBLOCK
                | random.flags(&[libc::O_DIRECT], 3)
                | random.flags(&[libc::O_CLOEXEC, libc::O_APPEND], 10);
            let result = libc::pipe2(fds.as_mut_ptr(), flags);
            self.trace.call(&format!("pipe {a} {b} {flags:o}"), result);
        }
        self.put(a, fds[0]);
        self.put(b, fds[1]);
    }

    /// The two ends of a pipe among the slots, or any two slots.
    fn ends(&self, random: &mut Random) -> (usize, usize) {
        (Self::slot(random), Self::slot(random))
    }

    /// Fills, empties and sizes what is hopefully a pipe.
    pub fn pipe_call(&mut self, random: &mut Random) {
        let slot = self.a_pipe(random);
        let fd = self.slots[slot];
        let len = random.pick(&[0, 1, 100, 4000, 4096, 4097, 9000, 65_536, 70_000]);
        // SAFETY: buffers and lengths agree.
        unsafe {
            let (text, result) = match random.below(8) {
                0..=2 => {
                    let data = self.data(len);
                    (format!("fill {len}"), libc::write(fd, data.as_ptr().cast(), len) as i64)
                }
                3 | 4 => {
                    let mut data = vec![0; len];
                    let n = libc::read(fd, data.as_mut_ptr().cast(), len);
                    (format!("drain {len} {:x}", sum(&data)), n as i64)
                }
                5 => {
                    let size = random.pick(&[0, 1, 4096, 4097, 8192, 65_536, 1 << 20, -1]);
                    let n = libc::fcntl(fd, libc::F_SETPIPE_SZ, size);
                    (format!("F_SETPIPE_SZ {size}"), i64::from(n))
                }
                6 => ("F_GETPIPE_SZ".into(), i64::from(libc::fcntl(fd, libc::F_GETPIPE_SZ))),
                _ => {
                    let mut n = -1;
                    let result = libc::ioctl(fd, libc::FIONREAD, &raw mut n);
                    (format!("FIONREAD {n}"), i64::from(result))
                }
            };
            self.trace.call(&format!("{slot} {text}"), result);
        }
        self.poll(slot);
    }

    /// A slot with a pipe, if a few looks find one.
    fn a_pipe(&self, random: &mut Random) -> usize {
        let mut slot = Self::slot(random);
        for _ in 0..6 {
            // SAFETY: a plain call.
            if unsafe { libc::fcntl(self.slots[slot], libc::F_GETPIPE_SZ) } > 0 {
                break;
            }
            slot = Self::slot(random);
        }
        slot
    }

    /// Moves bytes between files.
    pub fn splice(&mut self, random: &mut Random) {
        let (mut from, mut to) = self.ends(random);
        if random.one_in(2) {
            from = self.a_pipe(random);
        }
        if random.one_in(2) {
            to = self.a_pipe(random);
        }
        let (a, b) = (self.slots[from], self.slots[to]);
        let len = random.pick(&[0, 1, 5, 100, 5000]);
        let mut offset: i64 = random.pick(&[0, 3, -1]);
        let places = random.pick(&[0, 0, 0, 0, 1, 2]);
        let odd = if random.one_in(30) { 0x10 } else { 0 };
        let flags = libc::SPLICE_F_NONBLOCK | random.flags(&[1, 4, 8], 4) as u32 | odd;
        let place = &raw mut offset;
        // SAFETY: buffers and lengths agree.
        unsafe {
            let (text, result) = match random.below(8) {
                0..=3 => {
                    let (p, q) = match places {
                        1 => (place, null_mut()),
                        2 => (null_mut(), place),
                        _ => (null_mut(), null_mut()),
                    };
                    let n = libc::splice(a, p, b, q, len, flags);
                    (format!("splice {flags:x} {places} {offset} {len}"), n as i64)
                }
                4 | 5 => (format!("tee {flags:x} {len}"), libc::tee(a, b, len, flags) as i64),
                6 => {
                    let mut data = self.data(len);
                    let piece = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: len };
                    let n = random.pick(&[1, 1, 0]);
                    let result = libc::vmsplice(b, &raw const piece, n, flags);
                    // Pages that are lent stay as they are until they were read.
                    std::mem::forget(data);
                    (format!("vmsplice {flags:x} {n} {len}"), result as i64)
                }
                _ => {
                    let n = libc::sendfile(b, a, if places == 1 { place } else { null_mut() }, len);
                    (format!("sendfile {places} {offset} {len}"), n as i64)
                }
            };
            self.trace.call(&format!("{from} to {to} {text}"), result);
        }
        self.poll(from);
        self.poll(to);
    }
}
