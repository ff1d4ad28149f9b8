//! /proc/belljar/generation can be waited for: a machine that goes on with the memory of another one tells
//! who polls. Only Bell Jar's kernel has the file. Whether anything changes is not up to this program: the
//! runner has its machine saved and restored while it runs, or has not.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use belljar_guest_tests::{check, check_eq};

const PATH: &str = "/proc/belljar/generation";
const READY: i16 = libc::POLLIN | libc::POLLRDNORM;
const CHANGED: i16 = libc::POLLPRI | libc::POLLERR;

fn poll(file: &File, events: i16) -> i16 {
    let mut fd = libc::pollfd { fd: file.as_raw_fd(), events, revents: 0 };
    // SAFETY: one descriptor.
    check!(unsafe { libc::poll(&mut fd, 1, 0) } >= 0);
    fd.revents
}

fn read(file: &File) -> u64 {
    let mut text = [0; 32];
    let n = file.read_at(&mut text, 0).unwrap();
    std::str::from_utf8(&text[..n]).unwrap().trim().parse().unwrap()
}

fn main() {
    let Ok(watched) = File::open(PATH) else {
        println!("skipped: no {PATH} here");
        return;
    };
    let other = File::open(PATH).unwrap();
    let first = read(&other);
    let mut generation = read(&watched);
    // SAFETY: a plain call.
    let epoll = unsafe { libc::epoll_create1(0) };
    let mut event = libc::epoll_event { events: libc::EPOLLPRI as u32, u64: 7 };
    // SAFETY: valid descriptors and event.
    let added =
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, watched.as_raw_fd(), &mut event) };
    check_eq!(added, 0);
    for _ in 0..400 {
        let before = read(&other);
        let told = poll(&watched, libc::POLLIN | libc::POLLRDNORM | libc::POLLPRI);
        let after = read(&other);
        check_eq!(told & READY, READY);
        if before == after {
            check_eq!(told & CHANGED == CHANGED, before != generation);
        }
        if told & CHANGED != 0 {
            // SAFETY: room for one event.
            check_eq!(unsafe { libc::epoll_wait(epoll, &mut event, 1, 0) }, 1);
            check_eq!({ event.u64 }, 7);
            generation = read(&watched);
            check!(generation > first);
        }
        check!(generation <= read(&other));
    }
}
