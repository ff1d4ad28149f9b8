//! Sessions, their terminal and their process groups (setsid(2), setpgid(2), termios(3)): who may move where,
//! what stops in the background, what the end of a session does, orphaned groups.
//!
//! PROCESS_MODEL.md, Identity: process groups, sessions (setpgid, getpgid, setsid, getsid; controlling terminal,
//! foreground group, SIGTTOU, SIGHUP, orphaned groups).
use belljar_guest_tests::{check, check_eq, child, err, errno, ok, wait, wait_ok};
use std::ffi::CStr;

/// A pseudoterminal.
fn open_pty() -> (i32, i32) {
    // SAFETY: plain calls; `ptsname` is used by one thread.
    unsafe {
        let master = ok(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY));
        ok(libc::grantpt(master));
        ok(libc::unlockpt(master));
        let name = CStr::from_ptr(libc::ptsname(master));
        (master, ok(libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY)))
    }
}

/// Bytes from one process to another.
#[derive(Clone, Copy)]
struct Wire([i32; 2]);

impl Wire {
    fn new() -> Self {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        ok(unsafe { libc::pipe(ends.as_mut_ptr()) });
        Self(ends)
    }

    fn tell(self, byte: i32) {
        let byte = byte as u8;
        // SAFETY: a valid byte.
        check_eq!(unsafe { libc::write(self.0[1], (&raw const byte).cast(), 1) }, 1);
    }

    fn hear(self) -> i32 {
        let mut byte = 0_u8;
        // SAFETY: room for a byte.
        check_eq!(unsafe { libc::read(self.0[0], (&raw mut byte).cast(), 1) }, 1);
        i32::from(byte)
    }
}

/// Runs `f` as the leader of a session with a terminal.
fn leader(f: impl FnOnce(i32) -> i32) -> i32 {
    child(|| {
        let (_master, slave) = open_pty();
        // SAFETY: plain calls.
        unsafe {
            ok(libc::setsid());
            ok(libc::ioctl(slave, libc::TIOCSCTTY, 0));
        }
        f(slave)
    })
}

/// Runs `f` in a process group of its own.
fn job(f: impl FnOnce() -> i32) -> i32 {
    let pid = child(|| {
        // SAFETY: no pointers.
        ok(unsafe { libc::setpgid(0, 0) });
        f()
    });
    // Both say so, so that it holds for either from here on. It may have ended already.
    // SAFETY: no pointers.
    unsafe { libc::setpgid(pid, pid) };
    pid
}

fn stopped_by(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is valid.
    check_eq!(ok(unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) }), pid);
    check!(libc::WIFSTOPPED(status), "{status:#x}");
    libc::WSTOPSIG(status)
}

fn end(pid: i32) {
    // SAFETY: no pointers.
    ok(unsafe { libc::kill(pid, libc::SIGKILL) });
    check_eq!(wait(pid), libc::SIGKILL);
}

fn signals(of: &[i32]) -> libc::sigset_t {
    // SAFETY: a set that is made empty first.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        of.iter().for_each(|&signal| _ = libc::sigaddset(&raw mut set, signal));
        set
    }
}

fn block(of: &[i32]) {
    // SAFETY: a valid set.
    ok(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &signals(of), std::ptr::null_mut()) });
}

/// Waits for a blocked signal.
fn await_signal(signal: i32) {
    // SAFETY: a valid set.
    check_eq!(unsafe { libc::sigwaitinfo(&signals(&[signal]), std::ptr::null_mut()) }, signal);
}

fn write_to(fd: i32) -> isize {
    // SAFETY: a valid byte.
    unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) }
}

/// Who may be moved, and where to.
fn groups() {
    // SAFETY: calls without pointers.
    unsafe {
        let (here, session) = (libc::getpgid(0), libc::getsid(0));
        let wire = Wire::new();
        let first = child(|| wire.hear());
        check_eq!((libc::getpgid(first), libc::getsid(first)), (here, session));
        ok(libc::setpgid(first, first));
        check_eq!(libc::getpgid(first), first);
        // Into another's group, if that is there and of the same session.
        let second = child(|| wire.hear());
        ok(libc::setpgid(second, first));
        check_eq!(libc::getpgid(second), first);
        check_eq!(err(libc::setpgid(second, 1 << 21)), libc::EPERM);
        ok(libc::setpgid(second, here));
        let other = Wire::new();
        let alone = child(|| {
            ok(libc::setsid());
            // A leader stays what it is.
            check_eq!(err(libc::setpgid(0, 0)), libc::EPERM);
            other.tell(1);
            wire.hear()
        });
        other.hear();
        check_eq!((libc::getsid(alone), libc::getpgid(alone)), (alone, alone));
        check_eq!(err(libc::setpgid(alone, here)), libc::EPERM);
        check_eq!(err(libc::setpgid(second, alone)), libc::EPERM);
        // Only oneself and one's children.
        wait_ok(child(|| {
            check_eq!(err(libc::setpgid(libc::getppid(), 0)), libc::ESRCH);
            0
        }));
        // A group's signal reaches its members, and kill(0) the caller's own.
        block(&[libc::SIGUSR1]);
        ok(libc::kill(-first, libc::SIGTERM));
        check_eq!(wait(first), libc::SIGTERM);
        check_eq!(err(libc::kill(-first, 0)), libc::ESRCH);
        [second, alone].into_iter().for_each(end);
    }
}

/// What stops in the background.
fn background() {
    wait_ok(leader(|slave| {
        // SAFETY: plain calls with valid places.
        unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            ok(libc::tcgetattr(slave, &raw mut settings));
            wait_ok(job(|| (write_to(slave) != 1).into()));
            settings.c_lflag |= libc::TOSTOP;
            ok(libc::tcsetattr(slave, libc::TCSANOW, &settings));
            let writer = job(|| (write_to(slave) != 1).into());
            check_eq!(stopped_by(writer), libc::SIGTTOU);
            // In the foreground it goes on with what it was about.
            ok(libc::tcsetpgrp(slave, writer));
            ok(libc::kill(writer, libc::SIGCONT));
            wait_ok(writer);
            // Nor may those in the background choose, or change the terminal; who ignores that may.
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            ok(libc::tcsetpgrp(slave, libc::getpgrp()));
            check_eq!(libc::tcgetpgrp(slave), libc::getpgrp());
            wait_ok(job(|| (write_to(slave) != 1).into()));
            libc::signal(libc::SIGTTOU, libc::SIG_DFL);
            for attempt in [0, 1] {
                let pid = job(|| match attempt {
                    0 => libc::tcsetpgrp(slave, libc::getpgrp()),
                    _ => libc::tcsetattr(slave, libc::TCSANOW, &settings),
                });
                check_eq!(stopped_by(pid), libc::SIGTTOU);
                end(pid);
            }
            // A group of another session cannot come to the foreground.
            check_eq!(err(libc::tcsetpgrp(slave, libc::getppid())), libc::EPERM);
        }
        0
    }));
}

/// The leader's end tells the foreground group, and takes the terminal from all.
fn session_end() {
    let wire = Wire::new();
    let told = Wire::new();
    let first = leader(|slave| {
        job(|| {
            block(&[libc::SIGHUP, libc::SIGTTOU]);
            // SAFETY: plain calls.
            unsafe {
                ok(libc::tcsetpgrp(slave, libc::getpgrp()));
                let there = ok(libc::open(c"/dev/tty".as_ptr(), libc::O_RDWR));
                libc::close(there);
                told.tell(1);
                await_signal(libc::SIGHUP);
                // The signal comes first, the terminal goes right behind it.
                loop {
                    let tty = libc::open(c"/dev/tty".as_ptr(), libc::O_RDWR);
                    if tty < 0 {
                        check_eq!(errno(), libc::ENXIO);
                        break;
                    }
                    libc::close(tty);
                    libc::sched_yield();
                }
                check_eq!(err(libc::tcgetpgrp(slave)), libc::ENOTTY);
            }
            wire.tell(7);
            0
        });
        told.hear();
        0
    });
    wait_ok(first);
    check_eq!(wire.hear(), 7);
    // It is ours now (PR_SET_CHILD_SUBREAPER).
    // SAFETY: no status is wanted.
    ok(unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) });
}

/// A group that nobody of its session watches over any more: what is stopped in it is told and goes on, the
/// terminal's stops have no effect, and reading is an error.
fn orphaned() {
    let [ready, report, go] = [Wire::new(), Wire::new(), Wire::new()];
    let first = leader(|slave| {
        // The shell, a job of it, and a process that the job leaves behind.
        let pid = job(|| {
            let left = child(|| {
                block(&[libc::SIGHUP]);
                // SAFETY: plain calls.
                unsafe {
                    libc::raise(libc::SIGSTOP);
                    await_signal(libc::SIGHUP);
                    report.tell(1);
                    for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
                        libc::raise(signal);
                    }
                    let mut byte = 0_u8;
                    report.tell(err(libc::read(slave, (&raw mut byte).cast(), 1) as i64));
                }
                0
            });
            check_eq!(stopped_by(left), libc::SIGSTOP);
            ready.tell(1);
            0
        });
        ready.hear();
        wait_ok(pid);
        // The terminal is there until the end.
        go.hear()
    });
    check_eq!(report.hear(), 1);
    check_eq!(report.hear(), libc::EIO);
    go.tell(0);
    // In either order.
    for _ in 0..2 {
        let mut status = -1;
        // SAFETY: `status` is valid.
        let pid = ok(unsafe { libc::waitpid(-1, &raw mut status, 0) });
        check_eq!((status, pid >= first), (0, true));
    }
}

fn main() {
    // SAFETY: no pointers.
    ok(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) });
    groups();
    background();
    session_end();
    orphaned();
}
