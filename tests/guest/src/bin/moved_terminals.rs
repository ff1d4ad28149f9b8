//! Pseudoterminals of processes that go on in another machine: settings, sizes, what is on its way in both
//! directions, packet mode, sessions and their foreground. `moved_terminals [wait]`.

use std::ffi::{CStr, CString};
use std::mem::zeroed;

use belljar_guest_tests::moved::wait_to_be_moved;
use belljar_guest_tests::terminals::{expect, receive, send};
use belljar_guest_tests::{check_eq, child, err, ok, wait, wait_ok};
use libc::{EAGAIN, EIO, POLLHUP, POLLIN, POLLOUT, TCSANOW};

/// Control bytes of packet mode (asm-generic/ioctls.h).
const TIOCPKT_STOP: u8 = 4;
const TIOCPKT_START: u8 = 8;
/// asm-generic/ioctls.h.
const TIOCVHANGUP: libc::c_ulong = 0x5437;

/// A master and the name of its terminal.
fn master() -> (i32, CString) {
    // SAFETY: plain calls; `ptsname` is used by one thread.
    unsafe {
        let master = ok(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY));
        (master, CStr::from_ptr(libc::ptsname(master)).to_owned())
    }
}

fn open(name: &CStr, flags: i32) -> i32 {
    // SAFETY: a valid path.
    ok(unsafe { libc::open(name.as_ptr(), libc::O_RDWR | flags) })
}

/// Both sides of a pair.
fn pair() -> (i32, i32, CString) {
    let (master, name) = master();
    // SAFETY: a plain call.
    ok(unsafe { libc::unlockpt(master) });
    let slave = open(&name, libc::O_NOCTTY);
    (master, slave, name)
}

/// Waits until so many bytes can be read: what one side writes reaches the other in its own time.
fn wait_for(fd: i32, bytes: i32) {
    let mut n = 0;
    while n < bytes {
        // SAFETY: room for the count.
        ok(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut n) });
        std::thread::yield_now();
    }
    check_eq!(n, bytes);
}

fn poll(fd: i32) -> i16 {
    let mut poll = libc::pollfd { fd, events: POLLIN | POLLOUT, revents: 0 };
    // SAFETY: one valid entry.
    ok(unsafe { libc::poll(&raw mut poll, 1, 0) });
    poll.revents
}

fn number(fd: i32, request: libc::c_ulong) -> i32 {
    let mut n = -1;
    // SAFETY: room for the number.
    ok(unsafe { libc::ioctl(fd, request as _, &raw mut n) });
    n
}

fn set_number(fd: i32, request: libc::c_ulong, n: i32) {
    // SAFETY: a valid number.
    ok(unsafe { libc::ioctl(fd, request as _, &raw const n) });
}

fn termios(fd: i32) -> libc::termios {
    // SAFETY: plain data, which the call fills.
    unsafe {
        let mut t = zeroed();
        ok(libc::tcgetattr(fd, &raw mut t));
        t
    }
}

/// Who leads the session of a terminal, with a job in the foreground.
struct Session {
    master: i32,
    leader: i32,
    job: i32,
}

/// The leader waits for its job, and then finds its terminal as it was.
fn session() -> Session {
    let (master, name) = master();
    let mut pipe = [0; 2];
    // SAFETY: plain calls with valid arguments.
    unsafe {
        ok(libc::unlockpt(master));
        ok(libc::pipe(pipe.as_mut_ptr()));
    }
    let leader = child(|| {
        // SAFETY: as above.
        unsafe {
            ok(libc::setsid());
            let terminal = open(&name, 0);
            let own = open(c"/dev/tty", 0);
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            let job = child(|| {
                loop {
                    libc::pause();
                }
            });
            ok(libc::setpgid(job, job));
            ok(libc::tcsetpgrp(terminal, job));
            check_eq!(libc::write(pipe[1], (&raw const job).cast(), 4), 4);

            check_eq!(wait(job), libc::SIGINT);
            ok(libc::tcsetpgrp(own, libc::getpid()));
            check_eq!(libc::tcgetsid(own), libc::getpid());
            check_eq!(libc::tcgetsid(terminal), libc::getpid());
            libc::close(terminal);
            // The terminal is still the one that it controls.
            let again = open(c"/dev/tty", 0);
            send(again, b"the job is done\n");
            check_eq!(receive(own), b"bye\n");
        }
        0
    });
    let mut job = 0_i32;
    // SAFETY: a valid place; our own descriptors.
    unsafe {
        check_eq!(libc::read(pipe[0], (&raw mut job).cast(), 4), 4);
        libc::close(pipe[0]);
        libc::close(pipe[1]);
    }
    Session { master, leader, job }
}

impl Session {
    fn check(self) {
        check_eq!(number(self.master, libc::TIOCGPGRP as _), self.job);
        check_eq!(number(self.master, libc::TIOCGSID as _), self.leader);
        send(self.master, b"\x03");
        expect(self.master, b"^Cthe job is done\r\n");
        send(self.master, b"bye\n");
        wait_ok(self.leader);
    }
}

fn main() {
    // Lines, an end of file, and a line that is being edited; echo and output wait for the master.
    let (lines, terminal, name) = pair();
    let mut settings = termios(terminal);
    settings.c_cc[libc::VINTR] = 7;
    settings.c_iflag |= libc::IUTF8;
    let size = libc::winsize { ws_row: 33, ws_col: 101, ws_xpixel: 5, ws_ypixel: 6 };
    // SAFETY: valid settings, size and path.
    unsafe {
        ok(libc::tcsetattr(terminal, TCSANOW, &raw const settings));
        ok(libc::ioctl(lines, libc::TIOCSWINSZ, &raw const size));
        ok(libc::chown(name.as_ptr(), 7, 8));
        ok(libc::chmod(name.as_ptr(), 0o640));
    }
    send(lines, b"first\nsecond\x04third");
    wait_for(lines, 18);
    send(terminal, b"\tout\n");
    wait_for(terminal, 12);

    // Output is stopped, and so is the echo.
    let (stopped, silent, _) = pair();
    send(stopped, b"\x13ab\n");
    wait_for(silent, 3);

    // Raw bytes, more than a page of output, the next byte taken as it is.
    let (raw, plain, _) = pair();
    let mut settings = termios(plain);
    // SAFETY: valid settings.
    unsafe {
        libc::cfmakeraw(&raw mut settings);
        settings.c_cc[libc::VMIN] = 4;
        ok(libc::tcsetattr(plain, TCSANOW, &raw const settings));
    }
    send(raw, b"a\x03\r");
    wait_for(plain, 3);
    let output: Vec<u8> = (0..3000).map(|n| n as u8).collect();
    send(plain, &output);
    wait_for(raw, 3000);
    let (literal, quoted, _) = pair();
    send(literal, b"x\x16");
    expect(literal, b"x^\x08");

    // Packet mode, with something to tell.
    let (packets, told, _) = pair();
    set_number(packets, libc::TIOCPKT as _, 1);
    // SAFETY: a plain call.
    ok(unsafe { libc::tcflow(told, libc::TCOOFF) });

    // A pair that is still locked, one whose terminal side was closed, one that was hung up.
    let (locked, locked_name) = master();
    let (left, gone, _) = pair();
    let (_hung, dead, dead_name) = pair();
    // SAFETY: our own descriptors.
    unsafe {
        libc::close(gone);
        ok(libc::ioctl(dead, TIOCVHANGUP as _));
    }
    check_eq!(poll(left), POLLOUT | POLLHUP);
    check_eq!(receive(dead), b"");

    let session = session();

    wait_to_be_moved();

    check_eq!(number(lines, libc::FIONREAD as _), 24);
    expect(lines, b"first\r\nsecondthird\tout\r\n");
    session.check();
    // SAFETY: valid places.
    unsafe {
        let mut now: libc::winsize = zeroed();
        ok(libc::ioctl(terminal, libc::TIOCGWINSZ, &raw mut now));
        check_eq!((now.ws_row, now.ws_col, now.ws_xpixel, now.ws_ypixel), (33, 101, 5, 6));
        let mut stat: libc::stat = zeroed();
        ok(libc::stat(name.as_ptr(), &raw mut stat));
        check_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid), (0o640, 7, 8));
        let mut own: libc::stat = zeroed();
        ok(libc::fstat(terminal, &raw mut own));
        check_eq!((own.st_ino, own.st_rdev), (stat.st_ino, stat.st_rdev));
        check_eq!(CStr::from_ptr(libc::ptsname(lines)), &*name);
    }
    let now = termios(terminal);
    check_eq!((now.c_cc[libc::VINTR], now.c_iflag & libc::IUTF8), (7, libc::IUTF8));
    check_eq!(receive(terminal), b"first\n");
    check_eq!(receive(terminal), b"second");
    send(lines, b"\x7fD\n");
    check_eq!(receive(terminal), b"thirD\n");

    check_eq!(poll(silent), POLLIN);
    send(stopped, b"\x11");
    expect(stopped, b"ab\r\n");
    check_eq!(receive(silent), b"ab\n");

    check_eq!(poll(plain), POLLOUT);
    send(raw, b"b");
    expect(plain, b"a\x03\rb");
    expect(raw, &output);
    send(literal, b"\x03\n");
    check_eq!(receive(quoted), b"x\x03\n");

    check_eq!(receive(packets), [TIOCPKT_STOP]);
    // SAFETY: a plain call.
    ok(unsafe { libc::tcflow(told, libc::TCOON) });
    check_eq!(receive(packets), [TIOCPKT_START]);
    send(told, b"x");
    check_eq!(receive(packets), b"\0x");

    // SAFETY: valid paths and places.
    unsafe {
        check_eq!(err(libc::open(locked_name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY)), EIO);
        ok(libc::unlockpt(locked));
        libc::close(open(&locked_name, libc::O_NOCTTY));
        let byte = [0_u8; 1];
        check_eq!(poll(left), POLLOUT | POLLHUP);
        check_eq!(err(libc::read(left, byte.as_ptr().cast_mut().cast(), 1) as i64), EIO);
        check_eq!(receive(dead), b"");
        check_eq!(err(libc::write(dead, byte.as_ptr().cast(), 1) as i64), EIO);
        let again = open(&dead_name, libc::O_NOCTTY | libc::O_NONBLOCK);
        check_eq!(err(libc::read(again, byte.as_ptr().cast_mut().cast(), 1) as i64), EAGAIN);
    }
    // A new pair has a number of its own.
    let (_, _, other) = pair();
    check_eq!([&name, &locked_name, &dead_name].contains(&&other), false);
    println!("terminals are as they were");
}
