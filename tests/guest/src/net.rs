//! The network for tests: loopback, and connections that are over.

use std::fs;
use std::mem::zeroed;

use crate::ok;

/// Switches the loopback interface of the caller's network namespace on or off.
pub fn set_loopback(up: bool) {
    // SAFETY: a request with a short name and flags.
    unsafe {
        let socket = ok(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0));
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as _;
        request.ifr_name[1] = b'o' as _;
        request.ifr_ifru.ifru_flags = if up { libc::IFF_UP as i16 } else { 0 };
        ok(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw mut request));
        libc::close(socket);
    }
}

/// Connections of the caller's network namespace in TIME_WAIT.
pub fn in_time_wait() -> usize {
    let text = fs::read_to_string("/proc/self/net/tcp").unwrap();
    text.lines().filter(|line| line.split_whitespace().nth(3) == Some("06")).count()
}
