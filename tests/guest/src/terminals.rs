//! Writing to and reading from a side of a pseudoterminal.

use crate::{check_eq, ok};

/// Writes all of `bytes` at once.
#[track_caller]
pub fn send(fd: i32, bytes: &[u8]) {
    // SAFETY: the slice is valid.
    check_eq!(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) }, bytes.len() as isize);
}

/// Reads what is there, or what comes first.
#[track_caller]
pub fn receive(fd: i32) -> Vec<u8> {
    let mut buf = vec![0; 4096];
    // SAFETY: the buffer is valid.
    let n = ok(unsafe { libc::read(fd, buf.as_mut_ptr().cast(), buf.len()) } as i64);
    buf.truncate(n as usize);
    buf
}

/// Reads what is expected, which may come in pieces.
#[track_caller]
pub fn expect(fd: i32, bytes: &[u8]) {
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        got.extend(receive(fd));
    }
    check_eq!(got, bytes);
}
