//! A connection that is over and only waits for late segments (TIME_WAIT) takes little memory: a server that ends many
//! short ones must not run out.
//!
//! PROCESS_MODEL.md, Namespaces: net (sockets).

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use belljar_guest_tests::net::{in_time_wait, set_loopback};
use belljar_guest_tests::{check, check_eq, free_kib, ok};

const CONNECTIONS: usize = 300;

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
    set_loopback(true);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    talk(&listener);
    let before = free_kib();
    for _ in 0..CONNECTIONS {
        talk(&listener);
    }
    let lost = before - free_kib();
    // All are there still, or the next check says little.
    check!(in_time_wait() > CONNECTIONS / 2, "only {} wait", in_time_wait());
    check!(lost < 8 * CONNECTIONS as i64, "{lost} KiB for {CONNECTIONS} connections");
}
