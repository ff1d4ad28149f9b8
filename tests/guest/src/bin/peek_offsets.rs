//! SO_PEEK_OFF (socket(7)) on sockets of messages: who has looked at everything waits for more, and is woken by it.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use belljar_guest_tests::net::set_loopback;
use belljar_guest_tests::scm::pair;
use belljar_guest_tests::{check_eq, ok};

/// What MSG_PEEK shows in a buffer of `room` bytes; `None` if nothing came until the socket's time was over.
fn peek(fd: BorrowedFd<'_>, room: usize) -> Option<Vec<u8>> {
    let mut data = vec![0; room];
    let flags = libc::MSG_PEEK;
    // SAFETY: the buffer is valid.
    let n = unsafe { libc::recv(fd.as_raw_fd(), data.as_mut_ptr().cast(), room, flags) };
    if n < 0 {
        check_eq!(std::io::Error::last_os_error().kind(), ErrorKind::WouldBlock);
        return None;
    }
    data.truncate(n as usize);
    Some(data)
}

fn peek_from(fd: BorrowedFd<'_>, offset: i32) {
    let value = (&raw const offset).cast();
    // SAFETY: an int.
    ok(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, value, 4) });
}

/// Looks at what `send` sends to `fd`, whose reads wait for a short time.
fn looks(fd: BorrowedFd<'_>, send: impl Fn(&[u8]) + Sync) {
    peek_from(fd, 0);
    send(b"0123456789");
    check_eq!(peek(fd, 10), Some(b"0123456789".to_vec()));
    // All of it was looked at: nothing comes.
    check_eq!(peek(fd, 10), None);
    peek_from(fd, 4);
    check_eq!(peek(fd, 10), Some(b"456789".to_vec()));
    // Who waits behind it is woken by the next.
    peek_from(fd, 10);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            send(b"next");
        });
        let next = std::iter::repeat_with(|| peek(fd, 10)).flatten().next();
        check_eq!(next, Some(b"next".to_vec()));
    });
    peek_from(fd, -1);
    check_eq!(peek(fd, 10), Some(b"0123456789".to_vec()));
}

fn main() {
    // SAFETY: a plain call.
    ok(unsafe { libc::unshare(libc::CLONE_NEWNET) });
    set_loopback(true);
    let short = Some(Duration::from_millis(50));
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(short).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    looks(receiver.as_fd(), |bytes| check_eq!(sender.send(bytes).unwrap(), bytes.len()));

    let (receiver, sender) = UnixDatagram::pair().unwrap();
    receiver.set_read_timeout(short).unwrap();
    looks(receiver.as_fd(), |bytes| check_eq!(sender.send(bytes).unwrap(), bytes.len()));

    // Behind the end there is nothing more to wait for.
    let (a, b) = pair(libc::SOCK_SEQPACKET);
    // SAFETY: both are open, and stay so.
    unsafe {
        let a = BorrowedFd::borrow_raw(a);
        check_eq!(libc::send(b, b"abc".as_ptr().cast(), 3, 0), 3);
        ok(libc::shutdown(b, libc::SHUT_WR));
        peek_from(a, 0);
        check_eq!(peek(a, 10), Some(b"abc".to_vec()));
        check_eq!(peek(a, 10), Some(b"".to_vec()));
    }
}
