//! pty(7), termios(3), tty_ioctl(2): the line discipline, both modes, packet mode, window size, hangup.
use std::ffi::{CStr, CString};

use belljar_guest_tests::terminals::{expect, receive, send};
use belljar_guest_tests::{check_eq, child, err, ok, wait_ok};

/// Control bytes of packet mode (asm-generic/ioctls.h).
const TIOCPKT_FLUSHREAD: u8 = 1;
const TIOCPKT_FLUSHWRITE: u8 = 2;
const TIOCPKT_STOP: u8 = 4;
const TIOCPKT_START: u8 = 8;

struct Pty {
    master: i32,
    slave: i32,
    name: CString,
}

fn open() -> Pty {
    // SAFETY: plain calls; `ptsname` is used by one thread.
    unsafe {
        let master = ok(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY));
        let name = CStr::from_ptr(libc::ptsname(master)).to_owned();
        check_eq!(err(libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY)), libc::EIO);
        ok(libc::unlockpt(master));
        let slave = ok(libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY));
        Pty { master, slave, name }
    }
}

fn poll(fd: i32) -> i16 {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    // SAFETY: one valid entry.
    ok(unsafe { libc::poll(&raw mut poll, 1, 0) });
    poll.revents
}

/// Waits until there is something to read: what one end writes reaches the other in its own time.
#[track_caller]
fn readable(fd: i32) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry.
    check_eq!(ok(unsafe { libc::poll(&raw mut poll, 1, 10_000) }), 1);
}

fn waiting(fd: i32) -> i32 {
    let mut n = 0;
    // SAFETY: room for the count.
    ok(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut n) });
    n
}

fn termios(fd: i32) -> libc::termios {
    // SAFETY: plain data, which the call fills.
    unsafe {
        let mut t = std::mem::zeroed();
        ok(libc::tcgetattr(fd, &raw mut t));
        t
    }
}

fn set(fd: i32, t: &libc::termios) {
    // SAFETY: valid settings.
    ok(unsafe { libc::tcsetattr(fd, libc::TCSANOW, t) });
}

fn canonical(pty: &Pty) {
    let t = termios(pty.slave);
    check_eq!((t.c_iflag, t.c_oflag, t.c_lflag), (0x500, 0x5, 0x8a3b));
    check_eq!(t.c_cc[..17], [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0]);
    send(pty.master, b"hello\x7fp\n");
    readable(pty.slave);
    check_eq!(waiting(pty.slave), 6);
    check_eq!(receive(pty.slave), b"hellp\n");
    expect(pty.master, b"hello\x08 \x08p\r\n");
    send(pty.slave, b"out\n");
    expect(pty.master, b"out\r\n");
    send(pty.master, b"abc\x04");
    check_eq!(receive(pty.slave), b"abc");
    send(pty.master, b"\x04");
    check_eq!(receive(pty.slave), b"");
    expect(pty.master, b"abc");
    check_eq!((poll(pty.slave), poll(pty.master)), (libc::POLLOUT, libc::POLLOUT));
    send(pty.master, b"q\n");
    let both = libc::POLLIN | libc::POLLOUT;
    readable(pty.slave);
    readable(pty.master);
    check_eq!((poll(pty.slave), poll(pty.master)), (both, both));
    receive(pty.slave);
    receive(pty.master);
}

fn raw(pty: &Pty) {
    let old = termios(pty.slave);
    let mut t = old;
    // SAFETY: valid settings.
    unsafe { libc::cfmakeraw(&raw mut t) };
    set(pty.slave, &t);
    send(pty.master, b"a\x03\r\n");
    expect(pty.slave, b"a\x03\r\n");
    (t.c_cc[libc::VMIN], t.c_cc[libc::VTIME]) = (0, 1);
    set(pty.slave, &t);
    check_eq!(receive(pty.slave), b"");
    (t.c_cc[libc::VMIN], t.c_cc[libc::VTIME]) = (3, 0);
    set(pty.slave, &t);
    send(pty.master, b"ab");
    check_eq!(poll(pty.slave), libc::POLLOUT);
    send(pty.master, b"cd");
    while waiting(pty.slave) < 4 {
        std::thread::yield_now();
    }
    check_eq!(receive(pty.slave), b"abcd");
    set(pty.slave, &old);
}

/// `struct termio` shows the low halves of the flags, and changes nothing else.
fn old_settings(pty: &Pty) {
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Termio {
        flags: [u16; 4],
        line: u8,
        cc: [u8; 8],
    }
    const TCGETA: libc::Ioctl = 0x5405;
    const TCSETA: libc::Ioctl = 0x5406;
    let get = |fd| {
        let mut t = Termio::default();
        // SAFETY: room for the settings.
        ok(unsafe { libc::ioctl(fd, TCGETA, &raw mut t) });
        t
    };
    let before = termios(pty.slave);
    let mut old = get(pty.slave);
    let flags = [before.c_iflag, before.c_oflag, before.c_cflag, before.c_lflag];
    check_eq!(old.flags, flags.map(|flag| flag as u16));
    check_eq!((old.line, &old.cc[..]), (before.c_line, &before.c_cc[..8]));
    check_eq!(old, get(pty.master));
    let mut high = before;
    high.c_lflag |= 1 << 16;
    set(pty.slave, &high);
    for request in TCSETA..TCSETA + 3 {
        old.flags[3] ^= libc::ECHO as u16;
        old.cc[0] += 1;
        // SAFETY: valid settings.
        ok(unsafe { libc::ioctl(pty.slave, request, &raw const old) });
        let after = termios(pty.slave);
        check_eq!(after.c_lflag, u32::from(old.flags[3]) | 1 << 16);
        check_eq!((after.c_cc[0], &after.c_cc[1..]), (old.cc[0], &before.c_cc[1..]));
        check_eq!((after.c_iflag, after.c_cflag), (before.c_iflag, before.c_cflag));
    }
    set(pty.slave, &before);
}

fn packets(pty: &Pty) {
    // SAFETY: the calls take an int each, by address or value.
    unsafe {
        ok(libc::ioctl(pty.master, libc::TIOCPKT, std::ptr::from_ref(&1_i32)));
        send(pty.slave, b"pk\n");
        check_eq!(receive(pty.master), b"\0pk\r\n");
        ok(libc::tcflow(pty.slave, libc::TCOOFF));
        check_eq!(receive(pty.master), [TIOCPKT_STOP]);
        ok(libc::tcflow(pty.slave, libc::TCOON));
        check_eq!(receive(pty.master), [TIOCPKT_START]);
        ok(libc::tcflush(pty.slave, libc::TCIOFLUSH));
        let flushed = TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE;
        check_eq!(receive(pty.master), [flushed]);
        ok(libc::ioctl(pty.master, libc::TIOCPKT, std::ptr::from_ref(&0_i32)));
    }
}

fn window_size(pty: &Pty) {
    // SAFETY: room for the size.
    unsafe {
        let mut size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        ok(libc::ioctl(pty.master, libc::TIOCSWINSZ, &raw const size));
        size = std::mem::zeroed();
        ok(libc::ioctl(pty.slave, libc::TIOCGWINSZ, &raw mut size));
        check_eq!((size.ws_row, size.ws_col), (24, 80));
        let mut group = -1;
        check_eq!(err(libc::ioctl(pty.slave, libc::TIOCGPGRP, &raw mut group)), libc::ENOTTY);
        ok(libc::ioctl(pty.master, libc::TIOCGPGRP, &raw mut group));
        check_eq!(group, 0);
    }
}

fn hangup(pty: Pty) {
    let (both, hup) = (libc::POLLIN | libc::POLLOUT, libc::POLLHUP);
    // SAFETY: the buffers are valid.
    unsafe {
        libc::close(pty.slave);
        check_eq!(poll(pty.master), libc::POLLOUT | hup);
        let mut byte = 0_u8;
        let end = libc::read(pty.master, (&raw mut byte).cast(), 1);
        check_eq!(err(end as i64), libc::EIO);
        let slave = ok(libc::open(pty.name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY));
        check_eq!(poll(pty.master), libc::POLLOUT);
        libc::close(pty.master);
        check_eq!(receive(slave), b"");
        check_eq!(err(libc::write(slave, c"x".as_ptr().cast(), 1) as i64), libc::EIO);
        check_eq!(poll(slave), both | hup | libc::POLLERR);
        libc::close(slave);
        check_eq!(err(libc::open(pty.name.as_ptr(), libc::O_RDWR)), libc::ENOENT);
    }
}

/// The session on a terminal hears of it when the master goes, and has no terminal any more.
fn session_hears_of_hangup() {
    let pty = open();
    let leader = child(|| {
        // SAFETY: plain calls with valid arguments.
        unsafe {
            libc::close(pty.master);
            ok(libc::setsid());
            let tty = ok(libc::open(pty.name.as_ptr(), libc::O_RDWR));
            check_eq!(libc::tcgetpgrp(tty), libc::getpid());
            check_eq!(err(libc::tcsetpgrp(tty, libc::getppid())), libc::EPERM);
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGHUP);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            send(tty, b"ready\n");
            let mut sig = 0;
            libc::sigwait(&raw const set, &raw mut sig);
            check_eq!(sig, libc::SIGHUP);
            check_eq!(err(libc::open(c"/dev/tty".as_ptr(), libc::O_RDWR)), libc::ENXIO);
        }
        0
    });
    let mut said = Vec::new();
    while !said.ends_with(b"\n") {
        said.extend(receive(pty.master));
    }
    check_eq!(said, b"ready\r\n");
    // SAFETY: the descriptors are ours.
    unsafe {
        libc::close(pty.slave);
        libc::close(pty.master);
    }
    wait_ok(leader);
}

/// A pair's number is taken until both sides are closed, though its node goes with the master.
fn numbers() {
    let first = open();
    // SAFETY: our own descriptors, valid paths.
    unsafe {
        libc::close(first.master);
        check_eq!(err(libc::open(first.name.as_ptr(), libc::O_RDWR)), libc::ENOENT);
        let second = open();
        check_eq!(first.name == second.name, false);
        libc::close(first.slave);
        let third = open();
        check_eq!(first.name, third.name);
        for fd in [second.master, second.slave, third.slave, third.master] {
            libc::close(fd);
        }
        let again = open();
        check_eq!(first.name, again.name);
    }
}

fn main() {
    numbers();
    let pty = open();
    canonical(&pty);
    raw(&pty);
    old_settings(&pty);
    packets(&pty);
    window_size(&pty);
    hangup(pty);
    session_hears_of_hangup();
}
