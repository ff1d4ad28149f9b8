//! Unix sockets of processes that go on in another machine: pairs, connections, listeners, with what is queued at them.
//! `moved_sockets [wait]`.

use std::mem::{offset_of, zeroed};
use std::ptr::null_mut;

use belljar_guest_tests::moved::wait_to_be_moved;
use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};
use libc::{AF_UNIX, EAGAIN, MSG_DONTWAIT, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET};

fn pair(kind: i32) -> [i32; 2] {
    let mut ends = [0; 2];
    // SAFETY: a valid place.
    ok(unsafe { libc::socketpair(AF_UNIX, kind, 0, ends.as_mut_ptr()) });
    ends
}

fn socket(kind: i32) -> i32 {
    // SAFETY: a plain call.
    ok(unsafe { libc::socket(AF_UNIX, kind, 0) })
}

/// An address; with a NUL in front it is abstract.
fn address(name: &str) -> (libc::sockaddr_un, u32) {
    // SAFETY: an all-zero address is valid.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = AF_UNIX as u16;
    for (to, byte) in address.sun_path.iter_mut().zip(name.bytes()) {
        *to = byte as _;
    }
    let nul = usize::from(!name.starts_with('\0'));
    (address, (offset_of!(libc::sockaddr_un, sun_path) + name.len() + nul) as u32)
}

fn bind(fd: i32, name: &str) {
    let (address, len) = address(name);
    // SAFETY: a valid address.
    ok(unsafe { libc::bind(fd, (&raw const address).cast(), len) });
}

fn connect(fd: i32, name: &str) {
    let (address, len) = address(name);
    // SAFETY: a valid address.
    ok(unsafe { libc::connect(fd, (&raw const address).cast(), len) });
}

/// The name of one end: its own, or the other's.
fn name(fd: i32, of_peer: bool) -> String {
    // SAFETY: valid places.
    unsafe {
        let mut address: libc::sockaddr_un = zeroed();
        let mut len = size_of_val(&address) as u32;
        let place = (&raw mut address).cast();
        match of_peer {
            true => ok(libc::getpeername(fd, place, &mut len)),
            false => ok(libc::getsockname(fd, place, &mut len)),
        };
        let path = len as usize - offset_of!(libc::sockaddr_un, sun_path);
        address.sun_path[..path].iter().map(|byte| char::from(*byte)).collect()
    }
}

fn send(fd: i32, bytes: &[u8]) {
    // SAFETY: a valid place.
    let n = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    check_eq!(ok(n as i64), bytes.len() as i64);
}

fn receive(fd: i32, len: usize) -> String {
    let mut bytes = vec![0; len];
    // SAFETY: a valid place.
    let n = ok(unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), len, 0) } as i64);
    String::from_utf8(bytes[..n as usize].to_vec()).unwrap()
}

fn is_empty(fd: i32) -> bool {
    let mut byte = 0_u8;
    // SAFETY: a valid place.
    err(unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, MSG_DONTWAIT) } as i64) == EAGAIN
}

fn option<T: Copy>(fd: i32, name: i32, mut value: T) -> T {
    let mut len = size_of::<T>() as u32;
    // SAFETY: a place of that many bytes.
    ok(unsafe { libc::getsockopt(fd, SOL_SOCKET, name, (&raw mut value).cast(), &mut len) });
    value
}

fn set_option<T>(fd: i32, name: i32, value: T) {
    let len = size_of::<T>() as u32;
    // SAFETY: a place of that many bytes.
    ok(unsafe { libc::setsockopt(fd, SOL_SOCKET, name, (&raw const value).cast(), len) });
}

/// The next message and the process that sent it.
fn receive_from(fd: i32) -> (String, i32) {
    // SAFETY: valid places; the control data is as long as it says.
    unsafe {
        let (mut bytes, mut control) = ([0_u8; 64], [0_u64; 8]);
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 64 };
        let mut message: libc::msghdr = zeroed();
        (message.msg_iov, message.msg_iovlen) = (&mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let n = ok(libc::recvmsg(fd, &mut message, 0) as i64);
        let head = libc::CMSG_FIRSTHDR(&message);
        check!(!head.is_null() && (*head).cmsg_type == libc::SCM_CREDENTIALS);
        let who = libc::CMSG_DATA(head).cast::<libc::ucred>().read_unaligned();
        (String::from_utf8(bytes[..n as usize].to_vec()).unwrap(), who.pid)
    }
}

fn close(fd: i32) {
    // SAFETY: our own descriptor.
    ok(unsafe { libc::close(fd) });
}

fn main() {
    let own = std::process::id() as i32;
    let (path, abstract_name) = (format!("/socket-{own}"), format!("\0name-{own}"));

    let stream = pair(SOCK_STREAM);
    send(stream[0], b"one, ");
    send(stream[0], b"two");
    check_eq!(receive(stream[1], 2), "on");
    send(stream[1], b"back");
    let packets = pair(SOCK_SEQPACKET);
    send(packets[0], b"first packet");
    send(packets[0], b"second");
    let datagrams = pair(SOCK_DGRAM);
    set_option(datagrams[1], libc::SO_PASSCRED, 1);
    send(datagrams[0], b"who");
    let half = pair(SOCK_STREAM);
    send(half[0], b"last words");
    // SAFETY: our own descriptor.
    ok(unsafe { libc::shutdown(half[0], libc::SHUT_WR) });
    let widow = pair(SOCK_STREAM);
    send(widow[0], b"farewell");
    close(widow[0]);

    // A listener with a connection that was accepted, one that waits, and what was sent over both.
    let listener = socket(SOCK_STREAM);
    bind(listener, &path);
    // SAFETY: plain calls.
    let (first, accepted) = unsafe {
        ok(libc::listen(listener, 3));
        let first = socket(SOCK_STREAM);
        connect(first, &path);
        (first, ok(libc::accept(listener, null_mut(), null_mut())))
    };
    let waits = socket(SOCK_STREAM);
    connect(waits, &path);
    send(first, b"to the accepted");
    send(waits, b"to whoever accepts");
    // A named receiver, and who sends to it without a name.
    let (receiver, sender) = (socket(SOCK_DGRAM), socket(SOCK_DGRAM));
    bind(receiver, &abstract_name);
    connect(sender, &abstract_name);
    send(sender, b"to the name");
    let timeout = libc::timeval { tv_sec: 3, tv_usec: 500_000 };
    set_option(stream[0], libc::SO_RCVTIMEO, timeout);
    set_option(stream[0], libc::SO_SNDBUF, 20_000);

    // Another process has the other end, and answers.
    let shared = pair(SOCK_STREAM);
    let echo = child(|| {
        close(shared[0]);
        send(shared[1], &[receive(shared[1], 64).as_bytes(), b" echoed"].concat());
        check_eq!(receive(shared[1], 1), "");
        0
    });
    close(shared[1]);
    send(shared[0], b"before");
    check_eq!(receive(shared[0], 64), "before echoed");
    // The child sleeps in a call meanwhile.

    wait_to_be_moved();

    check_eq!(receive(stream[1], 64), "e, two");
    check_eq!(receive(stream[0], 64), "back");
    send(stream[0], b"new");
    check_eq!((receive(stream[1], 64), is_empty(stream[1])), ("new".into(), true));
    check_eq!(receive(packets[1], 5), "first");
    check_eq!((receive(packets[1], 64), is_empty(packets[1])), ("second".into(), true));
    check_eq!(receive_from(datagrams[1]), ("who".into(), own));
    send(datagrams[1], b"answer");
    check_eq!(receive(datagrams[0], 64), "answer");
    check_eq!((receive(half[1], 64), receive(half[1], 64)), ("last words".into(), String::new()));
    send(half[1], b"other way");
    check_eq!(receive(half[0], 64), "other way");
    check_eq!((receive(widow[1], 64), receive(widow[1], 64)), ("farewell".into(), String::new()));
    // SAFETY: a valid place.
    let sent = unsafe { libc::send(widow[1], path.as_ptr().cast(), 1, libc::MSG_NOSIGNAL) };
    check_eq!(err(sent as i64), libc::EPIPE);

    check_eq!(name(listener, false), format!("{path}\0"));
    check_eq!(name(first, true), format!("{path}\0"));
    check_eq!(name(accepted, false), format!("{path}\0"));
    check_eq!(receive(accepted, 64), "to the accepted");
    send(accepted, b"answer");
    check_eq!(receive(first, 64), "answer");
    // SAFETY: plain calls.
    let late = unsafe { ok(libc::accept(listener, null_mut(), null_mut())) };
    check_eq!(receive(late, 64), "to whoever accepts");
    send(late, b"at last");
    check_eq!(receive(waits, 64), "at last");
    let next = socket(SOCK_STREAM);
    connect(next, &path);
    // SAFETY: an all-zero value is valid.
    let who: libc::ucred = option(next, libc::SO_PEERCRED, unsafe { zeroed() });
    check_eq!(who.pid, own);
    // SAFETY: an all-zero value is valid.
    let who: libc::ucred = option(first, libc::SO_PEERCRED, unsafe { zeroed() });
    check_eq!((who.pid, who.uid), (own, 0));
    // SAFETY: plain calls.
    close(unsafe { ok(libc::accept(listener, null_mut(), null_mut())) });
    check_eq!(receive(receiver, 64), "to the name");
    check_eq!(
        (name(receiver, false), name(sender, true)),
        (abstract_name.clone(), abstract_name.clone())
    );
    let another = socket(SOCK_DGRAM);
    connect(another, &abstract_name);
    send(another, b"found by name");
    check_eq!(receive(receiver, 64), "found by name");
    // SAFETY: an all-zero value is valid.
    let kept: libc::timeval = option(stream[0], libc::SO_RCVTIMEO, unsafe { zeroed() });
    check_eq!((kept.tv_sec, kept.tv_usec), (3, 500_000));
    check_eq!(option(stream[0], libc::SO_SNDBUF, 0), 40_000);
    close(shared[0]);
    wait_ok(echo);
    std::fs::remove_file(&path).unwrap();
    println!("sockets are as they were");
}
