//! A network namespace ends with its last process: a connection that only waits for late segments (TIME_WAIT)
//! does not hold it, and is not there any more when it is gone.
//!
//! PROCESS_MODEL.md, Namespaces: a namespace lives while something holds it and is freed after.

use std::fs;
use std::net::{TcpListener, TcpStream};

use belljar_guest_tests::net::{in_time_wait, set_loopback};
use belljar_guest_tests::{check, check_eq, child, err, in_child, ok, wait_ok};

const LIMIT: &str = "/proc/sys/user/max_net_namespaces";

/// Leaves a connection behind whose side that ended first waits.
fn leave_one_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    drop(client);
    drop(server);
    check_eq!(in_time_wait(), 1);
}

fn main() {
    // A user namespace of our own, whose limits are ours to set.
    // SAFETY: plain calls.
    unsafe {
        ok(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET));
    }
    fs::write(LIMIT, "2").unwrap();
    set_loopback(true);
    // This one is the older one: it goes first, if both stay as long as they may.
    leave_one_waiting();

    wait_ok(child(|| {
        // SAFETY: no pointers.
        unsafe { ok(libc::unshare(libc::CLONE_NEWNET)) };
        set_loopback(true);
        leave_one_waiting();
        // Two are as many as may be.
        // SAFETY: no pointers.
        wait_ok(child(|| unsafe {
            check_eq!(err(libc::unshare(libc::CLONE_NEWNET)), libc::ENOSPC);
            0
        }));
        0
    }));

    // Linux takes it apart behind our back.
    loop {
        // SAFETY: no pointers.
        let made = in_child(|| unsafe { i32::from(libc::unshare(libc::CLONE_NEWNET) != 0) });
        if made == 0 {
            break;
        }
        check!(in_time_wait() == 1, "a connection in TIME_WAIT held its namespace");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    check!(in_time_wait() == 1, "a connection in TIME_WAIT held its namespace");
}
