//! epoll(7), ppoll(2), pselect(2), eventfd(2), signalfd(2): what is ready, how often it is said, who
//! may watch whom.
use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const HUP: u32 = libc::EPOLLHUP as u32;

struct Set(i32);

impl Set {
    fn new() -> Self {
        // SAFETY: a plain call.
        Self(ok(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }))
    }

    fn ctl(&self, op: i32, fd: i32, events: u32, data: u64) -> i32 {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: a valid event.
        unsafe { libc::epoll_ctl(self.0, op, fd, &raw mut event) }
    }

    #[track_caller]
    fn add(&self, fd: i32, events: u32, data: u64) {
        ok(self.ctl(libc::EPOLL_CTL_ADD, fd, events, data));
    }

    #[track_caller]
    fn change(&self, fd: i32, events: u32, data: u64) {
        ok(self.ctl(libc::EPOLL_CTL_MOD, fd, events, data));
    }

    #[track_caller]
    fn wait(&self, timeout: i32) -> Vec<(u32, u64)> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        // SAFETY: room for eight events.
        let n = ok(unsafe { libc::epoll_wait(self.0, events.as_mut_ptr(), 8, timeout) });
        events[..n as usize].iter().map(|e| (e.events, e.u64)).collect()
    }
}

fn pipe() -> (i32, i32) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    ok(unsafe { libc::pipe(fds.as_mut_ptr()) });
    (fds[0], fds[1])
}

#[track_caller]
fn send(fd: i32) {
    // SAFETY: one byte.
    check_eq!(unsafe { libc::write(fd, c"x".as_ptr().cast(), 1) }, 1);
}

fn pause_ms(ms: i64) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: ms * 1_000_000 };
    // SAFETY: a valid time.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}

fn triggers() {
    let (set, (r, w)) = (Set::new(), pipe());
    set.add(r, IN, 7);
    check_eq!(set.ctl(libc::EPOLL_CTL_ADD, r, IN, 7), -1);
    check_eq!(set.wait(10), []);
    send(w);
    check_eq!(set.wait(0), [(IN, 7)]);
    check_eq!(set.wait(0), [(IN, 7)]);
    set.change(r, IN | libc::EPOLLET as u32, 8);
    check_eq!(set.wait(0), [(IN, 8)]);
    check_eq!(set.wait(0), []);
    send(w);
    check_eq!(set.wait(0), [(IN, 8)]);
    set.change(r, IN | libc::EPOLLONESHOT as u32, 9);
    check_eq!(set.wait(0), [(IN, 9)]);
    send(w);
    check_eq!(set.wait(0), []);
    set.change(r, IN, 10);
    set.add(w, OUT, 11);
    let mut both = set.wait(0);
    both.sort_unstable();
    check_eq!(both, [(IN, 10), (OUT, 11)]);
    ok(set.ctl(libc::EPOLL_CTL_DEL, w, 0, 0));
    check_eq!(err(set.ctl(libc::EPOLL_CTL_DEL, w, 0, 0)), libc::ENOENT);
    // A file stays watched until its last descriptor is closed.
    // SAFETY: the descriptors are ours.
    unsafe {
        let copy = ok(libc::dup(r));
        libc::close(r);
        check_eq!(set.wait(0), [(IN, 10)]);
        libc::close(copy);
        check_eq!(set.wait(0), []);
    }
}

fn nesting() {
    let (inner, outer, (r, w)) = (Set::new(), Set::new(), pipe());
    inner.add(r, IN, 1);
    outer.add(inner.0, IN, 2);
    check_eq!(err(inner.ctl(libc::EPOLL_CTL_ADD, outer.0, IN, 0)), libc::ELOOP);
    check_eq!(err(inner.ctl(libc::EPOLL_CTL_ADD, inner.0, IN, 0)), libc::EINVAL);
    // SAFETY: plain calls.
    let file = ok(unsafe { libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY) });
    check_eq!(err(inner.ctl(libc::EPOLL_CTL_ADD, file, IN, 0)), libc::EPERM);
    check_eq!(outer.wait(0), []);
    let writer = child(|| {
        pause_ms(20);
        send(w);
        0
    });
    check_eq!(outer.wait(-1), [(IN, 2)]);
    check_eq!(inner.wait(-1), [(IN, 1)]);
    wait_ok(writer);
    // SAFETY: the descriptors are ours.
    unsafe { libc::close(w) };
    check_eq!(inner.wait(0), [(IN | HUP, 1)]);
    // SAFETY: as above.
    unsafe { libc::close(r) };
    check_eq!(outer.wait(0), []);
}

fn poll_and_select() {
    // SAFETY: every set, mask and time is valid.
    unsafe {
        let null = std::ptr::null_mut::<u8>();
        let mut poll = libc::pollfd { fd: 999, events: libc::POLLIN, revents: 0 };
        check_eq!((libc::poll(&raw mut poll, 1, -1), poll.revents), (1, libc::POLLNVAL));
        poll.fd = -1;
        check_eq!(libc::poll(&raw mut poll, 1, 1), 0);
        let (r, w) = pipe();
        let mut reads: libc::fd_set = std::mem::zeroed();
        let mut writes: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(r, &raw mut reads);
        libc::FD_SET(w, &raw mut writes);
        check_eq!(
            libc::select(w + 1, &raw mut reads, &raw mut writes, null.cast(), null.cast()),
            1
        );
        check!(!libc::FD_ISSET(r, &raw const reads) && libc::FD_ISSET(w, &raw const writes));
        libc::FD_SET(40, &raw mut reads);
        let bad = libc::select(41, &raw mut reads, null.cast(), null.cast(), null.cast());
        check_eq!(err(bad), libc::EBADF);
        // A signal that only the wait lets through ends it, and the mask comes back.
        extern "C" fn nothing(_: i32) {}
        libc::signal(libc::SIGALRM, nothing as extern "C" fn(i32) as usize);
        let mut blocked = std::mem::zeroed();
        let mut old = std::mem::zeroed();
        libc::sigemptyset(&raw mut blocked);
        libc::sigaddset(&raw mut blocked, libc::SIGALRM);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const blocked, &raw mut old);
        let parent = libc::getpid();
        let sender = child(|| {
            pause_ms(20);
            ok(libc::kill(parent, libc::SIGALRM));
            0
        });
        let forever = std::ptr::null();
        check_eq!(err(libc::ppoll(null.cast(), 0, forever, &raw const old)), libc::EINTR);
        libc::sigprocmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut blocked);
        check_eq!(libc::sigismember(&raw const blocked, libc::SIGALRM), 1);
        wait_ok(sender);
    }
}

fn counters_and_signals() {
    // SAFETY: every buffer is valid for the length given.
    unsafe {
        let mut value = 0_u64;
        let place = (&raw mut value).cast();
        let fd = ok(libc::eventfd(3, libc::EFD_NONBLOCK));
        check_eq!((libc::read(fd, place, 8), value), (8, 3));
        check_eq!(err(libc::read(fd, place, 8) as i64), libc::EAGAIN);
        check_eq!(err(libc::read(fd, place, 4) as i64), libc::EINVAL);
        value = u64::MAX;
        check_eq!(err(libc::write(fd, place, 8) as i64), libc::EINVAL);
        let fd = ok(libc::eventfd(2, libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK));
        check_eq!((libc::read(fd, place, 8), value), (8, 1));
        libc::read(fd, place, 8);
        check_eq!(err(libc::read(fd, place, 8) as i64), libc::EAGAIN);

        let mut mask = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGUSR1);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const mask, std::ptr::null_mut());
        let fd = ok(libc::signalfd(-1, &raw const mask, libc::SFD_NONBLOCK));
        let mut info: libc::signalfd_siginfo = std::mem::zeroed();
        let (place, size) = ((&raw mut info).cast(), size_of_val(&info));
        check_eq!(err(libc::read(fd, place, size) as i64), libc::EAGAIN);
        let set = Set::new();
        set.add(fd, IN, 5);
        let parent = libc::getpid();
        let sender = child(|| {
            ok(libc::kill(parent, libc::SIGUSR1));
            0
        });
        check_eq!(set.wait(-1), [(IN, 5)]);
        check_eq!(libc::read(fd, place, size), 128);
        check_eq!((info.ssi_signo as i32, info.ssi_pid as i32), (libc::SIGUSR1, sender));
        wait_ok(sender);
    }
}

fn main() {
    triggers();
    nesting();
    poll_and_select();
    counters_and_signals();
}
