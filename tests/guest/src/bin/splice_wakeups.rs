//! Who waits at a pipe beside splice(2), tee(2) or vmsplice(2) is woken when there is something for him, whatever
//! those took of it.

use std::thread::{scope, sleep};
use std::time::Duration;

use belljar_guest_tests::{check_eq, ok};

fn pipe() -> (i32, i32) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    ok(unsafe { libc::pipe2(fds.as_mut_ptr(), 0) });
    (fds[0], fds[1])
}

fn write(fd: i32, bytes: &[u8]) {
    // SAFETY: the buffer is valid.
    check_eq!(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) }, bytes.len() as isize);
}

fn read(fd: i32, len: usize) {
    let mut bytes = vec![0; len];
    // SAFETY: the buffer is valid.
    check_eq!(unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), len) }, len as isize);
}

fn splice(from: i32, to: i32, len: usize) {
    let none = std::ptr::null_mut();
    // SAFETY: no offsets.
    check_eq!(unsafe { libc::splice(from, none, to, none, len, 0) }, len as isize);
}

fn tee(from: i32, to: i32, len: usize) {
    // SAFETY: no memory involved.
    check_eq!(unsafe { libc::tee(from, to, len, 0) }, len as isize);
}

/// Lets `first` wait, then `second`, then does `event`, after which both must end. Should the first not wait yet, the
/// test proves less, and passes.
fn together(first: impl FnOnce() + Send, second: impl FnOnce() + Send, event: impl FnOnce()) {
    let pause = || sleep(Duration::from_millis(20));
    scope(|scope| {
        scope.spawn(first);
        pause();
        scope.spawn(second);
        pause();
        event();
    });
}

fn main() {
    let (a, into_a) = pipe();
    let (b, into_b) = pipe();
    together(|| splice(a, into_b, 1), || read(a, 1), || write(into_a, b"12"));
    read(b, 1);
    // tee(2) takes nothing.
    together(|| tee(a, into_b, 1), || read(a, 1), || write(into_a, b"12"));
    read(a, 1);
    read(b, 1);
    // Its target is full, and gets room only when the reader had his byte.
    let full = vec![0; 65536];
    write(into_b, &full);
    let (tell, told) = std::sync::mpsc::channel();
    let reads = || {
        read(a, 1);
        tell.send(()).unwrap();
    };
    let event = || {
        write(into_a, b"12");
        told.recv().unwrap();
        read(b, full.len());
    };
    together(|| splice(a, into_b, 1), reads, event);
    read(b, 1);
    // One page of sixteen that come free.
    let page = vec![1_u8; 4096];
    write(into_a, &full);
    let give = || {
        let piece = libc::iovec { iov_base: page.as_ptr().cast_mut().cast(), iov_len: page.len() };
        // SAFETY: the page is valid.
        check_eq!(unsafe { libc::vmsplice(into_a, &raw const piece, 1, 0) }, page.len() as isize);
    };
    together(give, || write(into_a, &page), || read(a, full.len()));
    read(a, page.len());
    read(a, page.len());
}
