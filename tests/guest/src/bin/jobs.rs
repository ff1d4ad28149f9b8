//! Job control on a pseudoterminal: sessions, groups, Ctrl-C, Ctrl-Z, background reads (SIGTTIN).
//!
//! PROCESS_MODEL.md, Identity: process groups, sessions (setpgid, getpgid, setsid, getsid; controlling
//! terminal, foreground group).
use std::ffi::CStr;

use belljar_guest_tests::{check, check_eq, child, err, ok, wait, wait_ok};

fn open_pty() -> (i32, i32) {
    // SAFETY: plain calls; `ptsname` is used by one thread.
    unsafe {
        let master = ok(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY));
        ok(libc::grantpt(master));
        ok(libc::unlockpt(master));
        let name = CStr::from_ptr(libc::ptsname(master));
        let slave = ok(libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY));
        (master, slave)
    }
}

fn main() {
    // SAFETY: every pointer handed to the calls is valid.
    unsafe {
        check_eq!(err(libc::setpgid(0, -1)), libc::EINVAL);
        check_eq!(err(libc::setpgid(1 << 22, 0)), libc::ESRCH);
        check_eq!(err(libc::getpgid(1 << 22)), libc::ESRCH);
        let (master, slave) = open_pty();
        let leader = child(|| {
            ok(libc::setsid());
            check_eq!(err(libc::setsid()), libc::EPERM);
            check_eq!(libc::getsid(0), libc::getpid());
            ok(libc::ioctl(slave, libc::TIOCSCTTY, 0));
            check_eq!(libc::tcgetpgrp(slave), libc::getpgrp());
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            let mut ready = [0; 2];
            ok(libc::pipe(ready.as_mut_ptr()));
            let job = |work: &dyn Fn()| {
                let pid = child(|| {
                    ok(libc::setpgid(0, 0));
                    libc::signal(libc::SIGTTOU, libc::SIG_IGN);
                    ok(libc::tcsetpgrp(slave, libc::getpid()));
                    libc::signal(libc::SIGTTOU, libc::SIG_DFL);
                    libc::write(ready[1], c"x".as_ptr().cast(), 1);
                    work();
                    0
                });
                let mut byte = 0_u8;
                libc::read(ready[0], (&raw mut byte).cast(), 1);
                pid
            };
            let forever = || loop {
                libc::pause();
            };
            // Ctrl-C ends the foreground job, not us.
            let pid = job(&forever);
            libc::write(master, c"\x03".as_ptr().cast(), 1);
            check_eq!(wait(pid), libc::SIGINT);
            // Ctrl-Z stops it; it goes on in the background.
            let pid = job(&forever);
            libc::write(master, c"\x1a".as_ptr().cast(), 1);
            let mut status = 0;
            check_eq!(libc::waitpid(pid, &raw mut status, libc::WUNTRACED), pid);
            check!(
                libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTSTP,
                "{status:#x}"
            );
            ok(libc::tcsetpgrp(slave, libc::getpgrp()));
            ok(libc::kill(-pid, libc::SIGCONT));
            ok(libc::kill(-pid, libc::SIGTERM));
            check_eq!(wait(pid), libc::SIGTERM);
            // A background read stops the reader.
            let pid = child(|| {
                ok(libc::setpgid(0, 0));
                let mut byte = 0_u8;
                libc::read(slave, (&raw mut byte).cast(), 1);
                0
            });
            check_eq!(libc::waitpid(pid, &raw mut status, libc::WUNTRACED), pid);
            check!(
                libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTTIN,
                "{status:#x}"
            );
            ok(libc::kill(pid, libc::SIGKILL));
            check_eq!(wait(pid), libc::SIGKILL);
            0
        });
        wait_ok(leader);

        // Canonical mode: a line at a time, erase works, output gets its CR.
        let (master, slave) = open_pty();
        libc::write(master, c"ab\x7fc\n".as_ptr().cast(), 5);
        let mut buf = [0_u8; 64];
        check_eq!(libc::read(slave, buf.as_mut_ptr().cast(), 64), 3);
        check_eq!(&buf[..3], b"ac\n");
        // The echo may come in pieces.
        let mut echo = Vec::new();
        while echo.len() < 8 {
            let n = ok(libc::read(master, buf.as_mut_ptr().cast(), 64) as i64);
            echo.extend_from_slice(&buf[..n as usize]);
        }
        check_eq!(echo, b"ab\x08 \x08c\r\n");
        let mut size = libc::winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
        ok(libc::ioctl(master, libc::TIOCSWINSZ, &raw const size));
        size.ws_row = 0;
        ok(libc::ioctl(slave, libc::TIOCGWINSZ, &raw mut size));
        check_eq!((size.ws_row, size.ws_col), (33, 77));
        libc::close(master);
        check_eq!(libc::read(slave, buf.as_mut_ptr().cast(), 64), 0);
    }
}
