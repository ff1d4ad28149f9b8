//! seccomp: a process decides about the calls of another: questions, answers, descriptors that it gives, and what
//! happens when either of them goes.
//!
//! PROCESS_MODEL.md, Signals and tracing: seccomp: strict and filter.

use belljar_guest_tests::seccomp::*;
use belljar_guest_tests::*;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
const NEW_LISTENER: u64 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
const WAIT_KILLABLE: u64 = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
const GETPPID: i64 = libc::SYS_getppid;
const NOT_THERE: i64 = -(libc::ENOSYS as i64);

const RECV: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;
const ID_VALID: u64 = 0x4008_2102;
const ADDFD: u64 = 0x4018_2103;
const SETFD: u32 = 1;
const FD_SEND: u32 = 2;
const CONTINUE: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
struct Notif {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Resp {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: i32,
    newfd: u32,
    newfd_flags: u32,
}

fn ioctl<T>(fd: i32, what: u64, data: *mut T) -> Result<i32, i32> {
    // SAFETY: each caller passes what the request asks for.
    let result = unsafe { libc::ioctl(fd, what, data) };
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// Who listens.
struct Listener(OwnedFd);

impl Listener {
    fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    #[track_caller]
    fn receive(&self) -> Notif {
        let mut notif = Notif::default();
        check_eq!(ioctl(self.fd(), RECV, &mut notif), Ok(0));
        notif
    }

    fn send(&self, mut resp: Resp) -> Result<i32, i32> {
        ioctl(self.fd(), SEND, &mut resp)
    }

    #[track_caller]
    fn answer(&self, id: u64, val: i64) {
        check_eq!(self.send(Resp { id, val, ..Resp::default() }), Ok(0));
    }

    fn is_valid(&self, mut id: u64) -> Result<i32, i32> {
        ioctl(self.fd(), ID_VALID, &mut id)
    }

    fn add(&self, mut add: AddFd) -> Result<i32, i32> {
        ioctl(self.fd(), ADDFD, &mut add)
    }

    fn poll(&self, timeout: i32) -> i16 {
        let events = libc::POLLIN | libc::POLLOUT;
        let mut poll = libc::pollfd { fd: self.fd(), events, revents: 0 };
        // SAFETY: `poll` is one.
        ok(unsafe { libc::poll(&mut poll, 1, timeout) });
        poll.revents
    }
}

/// A child that asks about `calls` and then does something; who listens is this process. It exits with what `f`
/// returns.
fn asking(calls: &[i64], flags: u64, f: impl FnOnce() -> i32) -> (i32, Listener) {
    let ends = scm::pair(libc::SOCK_STREAM);
    let pid = child(|| {
        no_new_privs();
        let calls: Vec<_> = calls.iter().map(|call| (*call, ASK)).collect();
        let fd = install(NEW_LISTENER | flags, &rules(&calls, libc::SECCOMP_RET_ALLOW));
        let Ok(fd) = fd else { fail(&format!("no listener: {fd:?}")) };
        // SAFETY: plain calls.
        unsafe {
            check_eq!(libc::fcntl(fd as i32, libc::F_GETFD), libc::FD_CLOEXEC);
            check_eq!(install(NEW_LISTENER, &rule(GETPPID, ASK)), Err(libc::EBUSY));
            check_eq!(scm::send_fds(ends.1, b"x", &[fd as i32]), 1);
            libc::close(fd as i32);
            libc::close(ends.0);
            libc::close(ends.1);
        }
        f()
    });
    // SAFETY: the descriptors are this process's.
    unsafe {
        libc::close(ends.1);
        let got = scm::receive(ends.0, 1, 64, 0);
        libc::close(ends.0);
        check_eq!(got.fds.len(), 1);
        (pid, Listener(OwnedFd::from_raw_fd(got.fds[0])))
    }
}

fn getppid() -> i64 {
    call(GETPPID, [1, 2, 3, 4, 5, 6])
}

fn questions_and_answers() {
    let parent = i64::from(std::process::id());
    let (pid, listener) = asking(&[GETPPID], 0, || {
        check_eq!(getppid(), 4711);
        check_eq!(getppid(), -42);
        check_eq!(getppid(), parent);
        check_eq!(getppid(), -7);
        0
    });
    check_eq!(listener.poll(-1), libc::POLLIN);
    let notif = listener.receive();
    check_eq!((notif.pid as i32, notif.flags), (pid, 0));
    check_eq!((notif.nr, notif.arch), (GETPPID as i32, AARCH64));
    check_eq!(notif.args, [1, 2, 3, 4, 5, 6]);
    check_eq!(listener.poll(0), libc::POLLOUT);
    check_eq!(listener.is_valid(notif.id), Ok(0));
    check_eq!(listener.is_valid(notif.id + 1), Err(libc::ENOENT));
    let bad = |resp: Resp| listener.send(resp).err();
    let id = notif.id;
    check_eq!(bad(Resp { id: id + 1, ..Resp::default() }), Some(libc::ENOENT));
    check_eq!(bad(Resp { id, flags: 2, ..Resp::default() }), Some(libc::EINVAL));
    check_eq!(bad(Resp { id, flags: CONTINUE, val: 1, ..Resp::default() }), Some(libc::EINVAL));
    check_eq!(bad(Resp { id, flags: CONTINUE, error: -1, ..Resp::default() }), Some(libc::EINVAL));
    check_eq!(ioctl(listener.fd(), RECV, std::ptr::null_mut::<u8>()), Err(libc::EFAULT));
    check_eq!(ioctl(listener.fd(), RECV, &mut notif.clone()), Err(libc::EINVAL));
    check_eq!(ioctl(listener.fd(), 0x5401, &mut [0_u8; 64]), Err(libc::EINVAL));
    listener.answer(id, 4711);
    let notif = listener.receive();
    check_eq!(notif.id, id + 1);
    check_eq!(listener.send(Resp { id: notif.id, error: -42, val: 9, flags: 0 }), Ok(0));
    let id = listener.receive().id;
    check_eq!(listener.send(Resp { id, flags: CONTINUE, ..Resp::default() }), Ok(0));
    let id = listener.receive().id;
    check_eq!(listener.send(Resp { id, error: -7, ..Resp::default() }), Ok(0));
    check!(bad(Resp { id, ..Resp::default() }).is_some());
    check_eq!(wait(pid), 0);
    // Nobody is left who could ask.
    check_eq!(listener.poll(-1), libc::POLLHUP);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.fd())).unwrap();
    check_eq!(link.to_str(), Some("anon_inode:seccomp notify"));
}

fn nobody_listens() {
    // Gone while a question waits, and before one is asked.
    let (pid, listener) = asking(&[GETPPID], 0, || {
        check_eq!(getppid(), NOT_THERE);
        check_eq!(getppid(), NOT_THERE);
        // There may be another listener then.
        let fd = install(NEW_LISTENER, &rule(libc::SYS_getpgid, ASK));
        check!(fd.is_ok(), "{fd:?}");
        0
    });
    let notif = listener.receive();
    check_eq!(listener.is_valid(notif.id), Ok(0));
    drop(listener);
    check_eq!(wait(pid), 0);
}

fn who_asks_goes() {
    let (pid, listener) = asking(&[GETPPID], 0, || {
        getppid();
        1
    });
    let id = listener.receive().id;
    // SAFETY: a plain call.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    check_eq!(wait(pid), libc::SIGKILL);
    check_eq!(listener.is_valid(id), Err(libc::ENOENT));
    check_eq!(listener.send(Resp { id, ..Resp::default() }), Err(libc::ENOENT));
    check_eq!(listener.poll(-1), libc::POLLHUP);
    // A question that nobody took before who asked was gone.
    let (pid, listener) = asking(&[GETPPID], 0, || {
        getppid();
        1
    });
    check_eq!(listener.poll(-1), libc::POLLIN);
    // SAFETY: a plain call.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    check_eq!(wait(pid), libc::SIGKILL);
    check_eq!(ioctl(listener.fd(), RECV, &mut Notif::default()), Err(libc::ENOENT));
}

/// A signal ends the wait for an answer, and the call starts over; not with WAIT_KILLABLE_RECV once it was taken.
fn signals() {
    extern "C" fn handler(_: i32, _: *mut libc::siginfo_t) {}
    for (flags, restarts) in [(0, libc::SA_RESTART), (0, 0), (WAIT_KILLABLE, 0)] {
        let sheltered = flags != 0;
        let (pid, listener) = asking(&[GETPPID], flags, || {
            handle(libc::SIGUSR1, restarts, handler);
            let interrupted = restarts == 0 && !sheltered;
            check_eq!(getppid(), if interrupted { -i64::from(libc::EINTR) } else { 17 });
            0
        });
        let first = listener.receive().id;
        // SAFETY: a plain call.
        unsafe { libc::kill(pid, libc::SIGUSR1) };
        if sheltered {
            listener.answer(first, 17);
        } else if restarts != 0 {
            let second = listener.receive().id;
            check_eq!(second, first + 1);
            check_eq!(listener.send(Resp { id: first, ..Resp::default() }), Err(libc::ENOENT));
            listener.answer(second, 17);
        }
        check_eq!(wait(pid), 0);
    }
}

fn descriptors() {
    // SAFETY: a new file, which is this process's.
    let mut file = unsafe { std::fs::File::from_raw_fd(ok(libc::memfd_create(c"x".as_ptr(), 0))) };
    let (pid, listener) = asking(&[GETPPID, libc::SYS_getpgid], 0, || {
        // The first free number, given with the answer later on.
        check_eq!(getppid(), 5);
        // SAFETY: plain calls and valid places.
        unsafe {
            check_eq!(libc::fcntl(100, libc::F_GETFD), 0);
            check_eq!(libc::write(100, b"one".as_ptr().cast(), 3), 3);
            check_eq!(libc::fcntl(101, libc::F_GETFD), libc::FD_CLOEXEC);
        }
        let fd = call(libc::SYS_getpgid, [0; 6]) as i32;
        check!(fd >= 0, "{fd}");
        // SAFETY: as above.
        unsafe {
            check_eq!(libc::fcntl(fd, libc::F_GETFD), 0);
            check_eq!(libc::write(fd, b"two".as_ptr().cast(), 3), 3);
        }
        0
    });
    let id = listener.receive().id;
    let srcfd = file.as_raw_fd();
    let add = AddFd { id, srcfd, ..AddFd::default() };
    let bad = |add| listener.add(add).err();
    check_eq!(bad(AddFd { srcfd: -1, ..add }), Some(libc::EBADF));
    check_eq!(bad(AddFd { id: id + 1, ..add }), Some(libc::ENOENT));
    check_eq!(bad(AddFd { flags: 4, ..add }), Some(libc::EINVAL));
    check_eq!(bad(AddFd { newfd: 9, ..add }), Some(libc::EINVAL));
    check_eq!(bad(AddFd { newfd_flags: 1, ..add }), Some(libc::EINVAL));
    check_eq!(bad(AddFd { newfd: 1 << 24, flags: SETFD, ..add }), Some(libc::EBADF));
    let mut longer = [0_u64; 4];
    (longer[0], longer[1]) = (id, (srcfd as u64) << 32);
    check_eq!(ioctl(listener.fd(), 0x4010_2103, &mut longer), Err(libc::EINVAL));
    longer[3] = 1;
    check_eq!(ioctl(listener.fd(), 0x4020_2103, &mut longer), Err(libc::E2BIG));
    check_eq!(listener.add(AddFd { newfd: 100, flags: SETFD, ..add }), Ok(100));
    // In place of what was there.
    check_eq!(listener.add(AddFd { newfd: 100, flags: SETFD, ..add }), Ok(100));
    let cloexec = libc::O_CLOEXEC as u32;
    check_eq!(
        listener.add(AddFd { newfd: 101, flags: SETFD, newfd_flags: cloexec, ..add }),
        Ok(101)
    );
    check_eq!(listener.is_valid(id), Ok(0));
    listener.answer(id, 5);
    check!(bad(add).is_some());
    let id = listener.receive().id;
    let fd = listener.add(AddFd { id, srcfd, flags: FD_SEND, ..AddFd::default() });
    check!(fd.is_ok_and(|fd| fd > 2), "{fd:?}");
    check_eq!(wait(pid), 0);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    check_eq!(text, "onetwo");
}

/// Questions of several, in the order in which they came, and the numbers as who listens sees them.
fn several() {
    let (pid, listener) = asking(&[GETPPID], 0, || {
        let children: Vec<_> =
            (0..3).map(|i| child(move || i32::from(getppid() != 100 + i))).collect();
        children.into_iter().for_each(wait_ok);
        0
    });
    let mut taken: Vec<_> = (0..3).map(|_| listener.receive()).collect();
    check_eq!(listener.poll(0), libc::POLLOUT);
    taken.sort_by_key(|notif| notif.pid);
    for (i, notif) in taken.iter().enumerate() {
        check!(notif.pid as i32 > pid);
        listener.answer(notif.id, 100 + i as i64);
    }
    check_eq!(wait(pid), 0);
}

fn flags_that_do_not_go_together() {
    const TSYNC: u64 = libc::SECCOMP_FILTER_FLAG_TSYNC;
    const TSYNC_ESRCH: u64 = libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    let filter = rule(GETPPID, ASK);
    check_eq!(
        in_child(|| {
            no_new_privs();
            check_eq!(install(TSYNC | NEW_LISTENER, &filter), Err(libc::EINVAL));
            check_eq!(install(WAIT_KILLABLE, &filter), Err(libc::EINVAL));
            check!(install(TSYNC | TSYNC_ESRCH | NEW_LISTENER, &filter).is_ok());
            // SAFETY: a valid limit.
            unsafe {
                libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: 0, rlim_max: 9 })
            };
            check_eq!(install(NEW_LISTENER, &filter), Err(libc::EMFILE));
            0
        }),
        0
    );
}

fn main() {
    questions_and_answers();
    nobody_listens();
    who_asks_goes();
    signals();
    descriptors();
    several();
    flags_that_do_not_go_together();
}
