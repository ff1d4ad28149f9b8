//! A connection that is over and only waits for late segments (TIME_WAIT) takes little memory: a server that ends many
//! short ones must not run out.
//!
//! PROCESS_MODEL.md, Namespaces: net (sockets).

use std::fs;
use std::io::{Read, Write};
use std::mem::zeroed;
use std::net::{TcpListener, TcpStream};

use belljar_guest_tests::{check, check_eq, ok};

const CONNECTIONS: usize = 300;

fn set_up() {
    // SAFETY: a request with a short name and flags.
    unsafe {
        let socket = ok(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0));
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as _;
        request.ifr_name[1] = b'o' as _;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        ok(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw mut request));
        libc::close(socket);
    }
}

fn waiting() -> usize {
    let text = fs::read_to_string("/proc/self/net/tcp").unwrap();
    text.lines().filter(|line| line.split_whitespace().nth(3) == Some("06")).count()
}

fn free_kib() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|l| l.starts_with("MemFree:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A short conversation, which the client ends.
fn talk(listener: &TcpListener) {
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(&[7; 3000]).unwrap();
    server.read_exact(&mut [0; 3000]).unwrap();
    drop(client);
    check_eq!(server.read(&mut [0; 1]).unwrap(), 0);
}

fn main() {
    // SAFETY: no pointers.
    ok(unsafe { libc::unshare(libc::CLONE_NEWNET) });
    set_up();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    talk(&listener);
    let before = free_kib();
    for _ in 0..CONNECTIONS {
        talk(&listener);
    }
    let lost = before - free_kib();
    // All are there still, or the next check says little.
    check!(waiting() > CONNECTIONS / 2, "only {} wait", waiting());
    check!(lost < 8 * CONNECTIONS as i64, "{lost} KiB for {CONNECTIONS} connections");
}
