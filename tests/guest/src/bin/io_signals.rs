//! Signals that say when I/O is possible: whose they are, which, when, and what they say (fcntl(2), F_SETOWN and
//! F_SETSIG; signal(7), SIGIO).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicUsize, Ordering};

use belljar_guest_tests::*;

const F_OWNER_TID: i32 = 0;
const F_OWNER_PID: i32 = 1;
const F_OWNER_PGRP: i32 = 2;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const POLL_IN: i32 = 1;
const POLL_OUT: i32 = 2;
const POLL_HUP: i32 = 6;
const SI_SIGIO: i32 = -5;

static SEEN: AtomicUsize = AtomicUsize::new(0);
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static BAND: AtomicI64 = AtomicI64::new(0);
static FD: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32, info: *mut libc::siginfo_t) {
    // SAFETY: the kernel passes a `siginfo_t`, whose band and descriptor lie at these places.
    unsafe {
        CODE.store((*info).si_code, Ordering::SeqCst);
        BAND.store(info.cast::<i64>().add(2).read(), Ordering::SeqCst);
        FD.store(info.cast::<i32>().add(6).read(), Ordering::SeqCst);
    }
    SIGNAL.store(signal, Ordering::SeqCst);
    SEEN.fetch_add(1, Ordering::SeqCst);
}

/// How many signals came since the last call.
fn seen() -> usize {
    SEEN.swap(0, Ordering::SeqCst)
}

/// Waits for a signal that another process causes.
fn await_signal() {
    while SEEN.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn fcntl(fd: &impl AsRawFd, command: i32, arg: i64) -> i32 {
    // SAFETY: each caller passes what the command takes.
    unsafe { libc::fcntl(fd.as_raw_fd(), command, arg) }
}

fn set_async(fd: &impl AsRawFd, on: bool) {
    let flags = ok(fcntl(fd, libc::F_GETFL, 0));
    let flags = if on { flags | libc::O_ASYNC } else { flags & !libc::O_ASYNC };
    ok(fcntl(fd, libc::F_SETFL, i64::from(flags)));
}

fn set_owner_ex(fd: &impl AsRawFd, kind: i32, pid: i32) -> i32 {
    let owner = [kind, pid];
    fcntl(fd, F_SETOWN_EX, owner.as_ptr() as i64)
}

fn owner_ex(fd: &impl AsRawFd) -> [i32; 2] {
    let mut owner = [-1; 2];
    ok(fcntl(fd, F_GETOWN_EX, owner.as_mut_ptr() as i64));
    owner
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: a new descriptor that nobody else closes.
    unsafe { OwnedFd::from_raw_fd(ok(fd)) }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: `ends` is a valid place.
    ok(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK) });
    (own(ends[0]), own(ends[1]))
}

fn socket_pair(kind: i32) -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: `ends` is a valid place.
    ok(unsafe {
        libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_NONBLOCK, 0, ends.as_mut_ptr())
    });
    (own(ends[0]), own(ends[1]))
}

fn write(fd: &impl AsRawFd, data: &[u8]) -> isize {
    // SAFETY: a valid buffer.
    unsafe { libc::write(fd.as_raw_fd(), data.as_ptr().cast(), data.len()) }
}

fn read(fd: &impl AsRawFd, len: usize) -> isize {
    let mut data = vec![0; len];
    // SAFETY: a valid buffer.
    unsafe { libc::read(fd.as_raw_fd(), data.as_mut_ptr().cast(), len) }
}

fn pid() -> i32 {
    std::process::id() as i32
}

/// Who may be named, and how it is shown.
fn owners() {
    let (reader, _writer) = pipe();
    check_eq!(fcntl(&reader, libc::F_GETOWN, 0), 0);
    check_eq!(owner_ex(&reader), [F_OWNER_TID, 0]);
    ok(fcntl(&reader, libc::F_SETOWN, i64::from(pid())));
    check_eq!(fcntl(&reader, libc::F_GETOWN, 0), pid());
    check_eq!(owner_ex(&reader), [F_OWNER_PID, pid()]);
    // SAFETY: plain calls. A group's number may be taken for an error by the C library, not here.
    let group = unsafe { libc::getpgrp() };
    ok(set_owner_ex(&reader, F_OWNER_PGRP, group));
    check_eq!(owner_ex(&reader), [F_OWNER_PGRP, group]);
    // SAFETY: a plain call.
    let tid = unsafe { libc::gettid() };
    ok(set_owner_ex(&reader, F_OWNER_TID, tid));
    check_eq!(owner_ex(&reader), [F_OWNER_TID, tid]);
    check_eq!(err(set_owner_ex(&reader, 3, tid)), libc::EINVAL);
    check_eq!(err(set_owner_ex(&reader, F_OWNER_PID, 999_999)), libc::ESRCH);
    check_eq!(err(fcntl(&reader, libc::F_SETOWN, 999_999)), libc::ESRCH);
    check_eq!(err(fcntl(&reader, libc::F_SETOWN, i64::from(i32::MIN))), libc::EINVAL);
    check_eq!(owner_ex(&reader), [F_OWNER_TID, tid], "an error changes nothing");
    // One that is gone is nobody.
    let gone = child(|| 0);
    ok(fcntl(&reader, libc::F_SETOWN, i64::from(gone)));
    wait_ok(gone);
    check_eq!(fcntl(&reader, libc::F_GETOWN, 0), 0);
    ok(fcntl(&reader, libc::F_SETOWN, 0));
    check_eq!(owner_ex(&reader), [F_OWNER_PID, 0]);
    check_eq!(fcntl(&reader, F_GETSIG, 0), 0);
    ok(fcntl(&reader, F_SETSIG, i64::from(libc::SIGUSR1)));
    check_eq!(fcntl(&reader, F_GETSIG, 0), libc::SIGUSR1);
    check_eq!(err(fcntl(&reader, F_SETSIG, 65)), libc::EINVAL);
    // A socket has ioctls for it, too.
    let (socket, _peer) = socket_pair(libc::SOCK_STREAM);
    let mut who = pid();
    // SAFETY: valid places.
    unsafe {
        ok(libc::ioctl(socket.as_raw_fd(), 0x8901, &who));
        who = 0;
        ok(libc::ioctl(socket.as_raw_fd(), 0x8903, &mut who));
    }
    check_eq!(who, pid());
    // Files that have no signals take the flag, but not the ioctl.
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    set_async(&file, true);
    set_async(&file, false);
    let on = 1;
    // SAFETY: a valid place.
    check_eq!(err(unsafe { libc::ioctl(file.as_raw_fd(), libc::FIOASYNC, &on) }), libc::ENOTTY);
}

/// Nothing comes before it is asked for, or without an owner; then SIGIO for each write.
fn plain(reader: &OwnedFd, writer: &OwnedFd) {
    handle(libc::SIGIO, 0, note);
    seen();
    write(writer, b"x");
    set_async(reader, true);
    check!(fcntl(reader, libc::F_GETFL, 0) & libc::O_ASYNC != 0);
    write(writer, b"x");
    check_eq!(seen(), 0, "nobody owns it");
    ok(fcntl(reader, libc::F_SETOWN, i64::from(pid())));
    for _ in 0..3 {
        check_eq!(write(writer, b"x"), 1);
        check_eq!(seen(), 1);
        // No more is said of it than that the kernel sent it.
        check_eq!(CODE.load(Ordering::SeqCst), 0x80);
    }
    // A duplicate has the same signals, as does a child's descriptor.
    let copy = own(fcntl(reader, libc::F_DUPFD_CLOEXEC, 0));
    check_eq!(write(writer, b"x"), 1);
    check_eq!(seen(), 1);
    drop(copy);
    let other = child(|| (write(writer, b"x") != 1).into());
    await_signal();
    wait_ok(other);
    seen();
    set_async(reader, false);
    check_eq!(write(writer, b"x"), 1);
    check_eq!(seen(), 0);
    let on = 1;
    // SAFETY: a valid place.
    ok(unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIOASYNC, &on) });
    check_eq!(write(writer, b"x"), 1);
    check_eq!(seen(), 1);
}

/// With a signal of its own choice it says which file, and what it is ready for.
fn chosen(signal: i32) {
    handle(signal, 0, note);
    let (reader, writer) = pipe();
    ok(fcntl(&reader, libc::F_SETOWN, i64::from(pid())));
    ok(fcntl(&reader, F_SETSIG, i64::from(signal)));
    set_async(&reader, true);
    seen();
    check_eq!(write(&writer, b"x"), 1);
    check_eq!(seen(), 1);
    check_eq!(SIGNAL.load(Ordering::SeqCst), signal);
    let own_codes = [libc::SIGCHLD, libc::SIGSEGV].contains(&signal);
    check_eq!(CODE.load(Ordering::SeqCst), if own_codes { SI_SIGIO } else { POLL_IN });
    check_eq!(BAND.load(Ordering::SeqCst), i64::from(libc::POLLIN | libc::POLLRDNORM));
    check_eq!(FD.load(Ordering::SeqCst), reader.as_raw_fd());
    // The end of the last writer is something to read, too.
    drop(writer);
    check_eq!(seen(), 1);
    check_eq!(CODE.load(Ordering::SeqCst), if own_codes { SI_SIGIO } else { POLL_IN });
    // SAFETY: a plain call.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Room in a pipe that was full.
fn room() {
    handle(libc::SIGUSR1, 0, note);
    let (reader, writer) = pipe();
    while write(&writer, &[0; 4096]) > 0 {}
    ok(fcntl(&writer, libc::F_SETOWN, i64::from(pid())));
    ok(fcntl(&writer, F_SETSIG, i64::from(libc::SIGUSR1)));
    set_async(&writer, true);
    seen();
    check_eq!(read(&reader, 4096), 4096);
    check_eq!(seen(), 1);
    check_eq!(CODE.load(Ordering::SeqCst), POLL_OUT);
    check_eq!(FD.load(Ordering::SeqCst), writer.as_raw_fd());
    drop(reader);
    check_eq!(seen(), 1);
}

/// Sockets: data, and the other side's end.
fn sockets() {
    handle(libc::SIGUSR1, 0, note);
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        let (one, other) = socket_pair(kind);
        ok(fcntl(&one, libc::F_SETOWN, i64::from(pid())));
        ok(fcntl(&one, F_SETSIG, i64::from(libc::SIGUSR1)));
        set_async(&one, true);
        seen();
        check_eq!(write(&other, b"hello"), 5);
        check!(seen() >= 1);
        check_eq!(CODE.load(Ordering::SeqCst), POLL_IN);
        check_eq!(read(&one, 5), 5);
        seen();
        drop(other);
        if kind == libc::SOCK_STREAM {
            check!(seen() >= 1);
            check_eq!(CODE.load(Ordering::SeqCst), POLL_HUP);
        }
    }
}

/// Whoever set the owner must be allowed to send to it.
fn permission() {
    let (reader, writer) = pipe();
    let (ready, told) = pipe();
    // SAFETY: plain calls; the flags of a pipe's end.
    unsafe { libc::fcntl(ready.as_raw_fd(), libc::F_SETFL, 0) };
    let target = child(|| {
        handle(libc::SIGUSR1, 0, note);
        seen();
        check_eq!(write(&told, b"r"), 1);
        loop {
            std::thread::sleep(std::time::Duration::from_millis(1));
            if seen() > 0 {
                return 7;
            }
        }
    });
    check_eq!(read(&ready, 1), 1);
    let by = |uid: u32| {
        wait_ok(child(|| {
            // SAFETY: a plain call.
            ok(unsafe { libc::setresuid(uid, uid, uid) });
            ok(fcntl(&reader, F_SETSIG, i64::from(libc::SIGUSR1)));
            // Anybody may be named.
            ok(fcntl(&reader, libc::F_SETOWN, i64::from(target)));
            set_async(&reader, true);
            check_eq!(write(&writer, b"x"), 1);
            0
        }));
    };
    by(1000);
    let mut status = 0;
    std::thread::sleep(std::time::Duration::from_millis(50));
    // SAFETY: a valid place.
    check_eq!(unsafe { libc::waitpid(target, &mut status, libc::WNOHANG) }, 0);
    by(0);
    check_eq!(wait(target), 7 << 8);
}

/// The signals wait as others do, each with its own words, if they are real-time ones.
fn queued() {
    let signal = libc::SIGRTMIN() + 1;
    // SAFETY: valid places.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let pipes = [pipe(), pipe()];
        for (reader, writer) in &pipes {
            ok(fcntl(reader, libc::F_SETOWN, i64::from(pid())));
            ok(fcntl(reader, F_SETSIG, i64::from(signal)));
            set_async(reader, true);
            check_eq!(write(writer, b"x"), 1);
        }
        for (reader, _) in &pipes {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            check_eq!(libc::sigwaitinfo(&set, &mut info), signal);
            check_eq!(info.si_code, POLL_IN);
            check_eq!((&raw const info).cast::<i32>().add(6).read(), reader.as_raw_fd());
        }
    }
}

/// Watches of files, and terminals.
fn others() {
    handle(libc::SIGUSR1, 0, note);
    // SAFETY: valid strings.
    let watch = unsafe {
        let watch = own(libc::inotify_init1(libc::IN_NONBLOCK));
        ok(libc::inotify_add_watch(watch.as_raw_fd(), c"/tmp".as_ptr(), libc::IN_CREATE));
        watch
    };
    ok(fcntl(&watch, libc::F_SETOWN, i64::from(pid())));
    ok(fcntl(&watch, F_SETSIG, i64::from(libc::SIGUSR1)));
    set_async(&watch, true);
    seen();
    std::fs::write("/tmp/io-signals", "").unwrap();
    check_eq!(seen(), 1);
    check_eq!(CODE.load(Ordering::SeqCst), POLL_IN);
    std::fs::remove_file("/tmp/io-signals").unwrap();
}

/// The first process of a pid namespace is not killed from inside that way.
fn reaper() {
    wait_ok(child(|| {
        // SAFETY: a plain call.
        ok(unsafe { libc::unshare(libc::CLONE_NEWPID) });
        let first = child(|| {
            let (reader, writer) = pipe();
            wait_ok(child(|| {
                ok(fcntl(&reader, F_SETSIG, i64::from(libc::SIGKILL)));
                ok(fcntl(&reader, libc::F_SETOWN, 1));
                set_async(&reader, true);
                check_eq!(write(&writer, b"x"), 1);
                0
            }));
            std::thread::sleep(std::time::Duration::from_millis(20));
            7
        });
        check_eq!(wait(first), 7 << 8);
        0
    }));
}

/// A thread's number stands for its process.
fn thread() {
    handle(libc::SIGUSR1, 0, note);
    let (reader, writer) = pipe();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: a plain call.
            let tid = unsafe { libc::gettid() };
            ok(fcntl(&reader, libc::F_SETOWN, i64::from(tid)));
            ok(fcntl(&reader, F_SETSIG, i64::from(libc::SIGUSR1)));
            set_async(&reader, true);
            seen();
            check_eq!(write(&writer, b"x"), 1);
            await_signal();
        });
    });
    set_async(&reader, false);
    seen();
}

fn main() {
    owners();
    reaper();
    thread();
    let (reader, writer) = pipe();
    plain(&reader, &writer);
    drop((reader, writer));
    for signal in [libc::SIGUSR2, libc::SIGRTMIN() + 2, libc::SIGCHLD] {
        chosen(signal);
    }
    room();
    sockets();
    permission();
    queued();
    others();
}
