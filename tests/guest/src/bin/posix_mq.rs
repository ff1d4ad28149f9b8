//! POSIX message queues: mq_open(3) and its kin, by the system calls; the file system; notification.
//!
//! PROCESS_MODEL.md, Namespaces: ipc (POSIX message queues).

use belljar_guest_tests::sysv::{become_user, until};
use belljar_guest_tests::*;
use libc::{c_long, syscall};
use std::ffi::CString;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq)]
struct Attr {
    flags: i64,
    maxmsg: i64,
    msgsize: i64,
    curmsgs: i64,
    reserved: [i64; 4],
}

fn attr(maxmsg: i64, msgsize: i64) -> Attr {
    Attr { maxmsg, msgsize, ..Attr::default() }
}

fn open(name: &str, flags: i32, mode: u32, attr: Option<&Attr>) -> c_long {
    let name = CString::new(name).unwrap();
    let attr = attr.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: valid name and attributes.
    unsafe { syscall(libc::SYS_mq_open, name.as_ptr(), flags, mode, attr) }
}

fn unlink(name: &str) -> c_long {
    let name = CString::new(name).unwrap();
    // SAFETY: a valid name.
    unsafe { syscall(libc::SYS_mq_unlink, name.as_ptr()) }
}

fn send(fd: c_long, text: &str, priority: u32) -> c_long {
    // SAFETY: a valid text.
    unsafe { syscall(libc::SYS_mq_timedsend, fd, text.as_ptr(), text.len(), priority, 0) }
}

/// In so many seconds from now, on the wall clock.
fn soon(seconds: f64) -> libc::timespec {
    timespec(belljar_guest_tests::seconds(libc::CLOCK_REALTIME) + seconds)
}

fn receive_until(fd: c_long, time: *const libc::timespec) -> Result<(String, u32), i32> {
    let (mut text, mut priority) = (vec![0_u8; 8192], 0_u32);
    // SAFETY: the buffer is as long as said.
    let n = unsafe {
        syscall(
            libc::SYS_mq_timedreceive,
            fd,
            text.as_mut_ptr(),
            text.len(),
            &raw mut priority,
            time,
        )
    };
    if n < 0 {
        return Err(errno());
    }
    text.truncate(n as usize);
    Ok((String::from_utf8(text).unwrap(), priority))
}

fn receive(fd: c_long) -> Result<(String, u32), i32> {
    receive_until(fd, std::ptr::null())
}

fn get_attr(fd: c_long) -> Attr {
    let mut old = Attr::default();
    // SAFETY: a valid place.
    ok(unsafe { syscall(libc::SYS_mq_getsetattr, fd, 0, &raw mut old) });
    old
}

fn set_flags(fd: c_long, flags: i32) -> c_long {
    let new = Attr { flags: i64::from(flags), ..Attr::default() };
    // SAFETY: valid attributes.
    unsafe { syscall(libc::SYS_mq_getsetattr, fd, &raw const new, 0) }
}

fn close(fd: c_long) {
    // SAFETY: the descriptor is the test's own.
    ok(unsafe { libc::close(fd as i32) });
}

const CREAT: i32 = libc::O_CREAT;
const RDWR: i32 = libc::O_RDWR;
const NONBLOCK: i32 = libc::O_NONBLOCK;

fn opening_makes_finds_and_refuses() {
    check_eq!(err(open("q", RDWR, 0, None)), libc::ENOENT);
    for (name, errno) in [
        ("", libc::ENOENT),
        ("/q", libc::EACCES),
        ("a/b", libc::EACCES),
        (".", libc::EACCES),
        ("..", libc::EACCES),
    ] {
        check_eq!(err(open(name, CREAT | RDWR, 0o600, None)), errno, "{name:?}");
    }
    check_eq!(err(open(&"x".repeat(256), CREAT | RDWR, 0o600, None)), libc::ENAMETOOLONG);
    let fd = ok(open("q", CREAT | RDWR, 0o600, None));
    check_eq!(get_attr(fd), attr(10, 8192));
    check_eq!(err(open("q", CREAT | libc::O_EXCL | RDWR, 0o600, None)), libc::EEXIST);
    // SAFETY: plain call.
    let cloexec = ok(unsafe { libc::fcntl(fd as i32, libc::F_GETFD) });
    check_eq!(cloexec, libc::FD_CLOEXEC);
    // What is there keeps its size.
    let other = ok(open("q", CREAT | RDWR, 0o600, Some(&attr(3, 3))));
    check_eq!(get_attr(other), attr(10, 8192));
    close(other);
    ok(unlink("q"));
    check_eq!(err(unlink("q")), libc::ENOENT);
    // Open queues work on without their name.
    ok(send(fd, "kept", 0));
    check_eq!(receive(fd), Ok(("kept".into(), 0)));
    close(fd);
    for bad in [attr(0, 10), attr(10, 0), attr(-1, 10), attr(65537, 1), attr(1, 1 << 25)] {
        check_eq!(err(open("q", CREAT | RDWR, 0o600, Some(&bad))), libc::EINVAL, "{bad:?}");
    }
    let fd = ok(open("q", CREAT | RDWR, 0o600, None));
    check_eq!(err(open("q", 3, 0, None)), libc::EINVAL);
    close(fd);
    ok(unlink("q"));
}

fn messages_come_by_priority_and_age() {
    let fd = ok(open("prio", CREAT | RDWR | NONBLOCK, 0o600, Some(&attr(5, 100))));
    check_eq!(err(receive_code(fd, 99)), libc::EMSGSIZE);
    for (text, priority) in [("a", 1), ("b", 7), ("c", 1), ("d", 32767), ("", 7)] {
        ok(send(fd, text, priority));
    }
    check_eq!(err(send(fd, "full", 0)), libc::EAGAIN);
    check_eq!(get_attr(fd), Attr { flags: i64::from(NONBLOCK), curmsgs: 5, ..attr(5, 100) });
    check_eq!(err(send(fd, "x", 32768)), libc::EINVAL);
    check_eq!(err(send(fd, &"x".repeat(101), 0)), libc::EMSGSIZE);
    for (text, priority) in [("d", 32767), ("b", 7), ("", 7), ("a", 1), ("c", 1)] {
        check_eq!(receive(fd), Ok((text.to_owned(), priority)));
    }
    check_eq!(receive(fd), Err(libc::EAGAIN));
    // The flag is the description's.
    ok(set_flags(fd, 0));
    check_eq!(get_attr(fd).flags, 0);
    check_eq!(err(set_flags(fd, libc::O_APPEND)), libc::EINVAL);
    check_eq!(receive_until(fd, &soon(0.02)), Err(libc::ETIMEDOUT));
    let bad = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    check_eq!(receive_until(fd, &bad), Err(libc::EINVAL));
    let read_only = ok(open("prio", libc::O_RDONLY, 0, None));
    check_eq!(err(send(read_only, "x", 0)), libc::EBADF);
    let write_only = ok(open("prio", libc::O_WRONLY, 0, None));
    check_eq!(receive(write_only), Err(libc::EBADF));
    check_eq!(err(send(0, "x", 0)), libc::EBADF);
    for fd in [fd, read_only, write_only] {
        close(fd);
    }
    ok(unlink("prio"));
}

fn receive_code(fd: c_long, len: usize) -> c_long {
    let mut text = vec![0_u8; len];
    // SAFETY: the buffer is as long as said.
    unsafe { syscall(libc::SYS_mq_timedreceive, fd, text.as_mut_ptr(), len, 0, 0) }
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t) {}

fn both_sides_sleep_until_they_can_go_on() {
    let fd = ok(open("sleep", CREAT | RDWR, 0o600, Some(&attr(1, 8192))));
    let receiver = child(|| {
        check_eq!(receive(fd), Ok(("hello".into(), 4)));
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(30));
    ok(send(fd, "hello", 4));
    wait_ok(receiver);
    ok(send(fd, "first", 0));
    let sender = child(|| {
        ok(send(fd, "second", 9));
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(30));
    check_eq!(get_attr(fd).curmsgs, 1);
    check_eq!(receive(fd), Ok(("first".into(), 0)));
    wait_ok(sender);
    check_eq!(receive(fd), Ok(("second".into(), 9)));
    let interrupted = child(|| {
        handle(libc::SIGUSR1, 0, nothing);
        check_eq!(receive(fd), Err(libc::EINTR));
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    // SAFETY: signals a child.
    ok(unsafe { libc::kill(interrupted, libc::SIGUSR1) });
    wait_ok(interrupted);
    ok(send(fd, "left", 0));
    let time = soon(0.02);
    // SAFETY: valid text and time.
    let late = unsafe { syscall(libc::SYS_mq_timedsend, fd, c"x".as_ptr(), 1, 0, &raw const time) };
    check_eq!(err(late), libc::ETIMEDOUT);
    close(fd);
    ok(unlink("sleep"));
}

fn poll(fd: c_long) -> i16 {
    let mut polled =
        libc::pollfd { fd: fd as i32, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    // SAFETY: one valid entry.
    ok(unsafe { libc::poll(&mut polled, 1, 0) });
    polled.revents
}

fn poll_and_epoll_know_when_it_is_ready() {
    let fd = ok(open("poll", CREAT | RDWR, 0o600, Some(&attr(2, 10))));
    check_eq!(poll(fd), libc::POLLOUT);
    ok(send(fd, "1", 0));
    check_eq!(poll(fd), libc::POLLIN | libc::POLLOUT);
    ok(send(fd, "2", 0));
    check_eq!(poll(fd), libc::POLLIN);
    // SAFETY: plain calls with valid places.
    unsafe {
        let set = ok(libc::epoll_create1(0));
        let mut event = libc::epoll_event { events: libc::EPOLLOUT as u32, u64: 5 };
        ok(libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd as i32, &mut event));
        check_eq!(libc::epoll_wait(set, &mut event, 1, 0), 0);
        let taker = child(|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let mut text = [0_u8; 10];
            let n = syscall(libc::SYS_mq_timedreceive, fd, text.as_mut_ptr(), 10, 0, 0);
            check_eq!(n, 1);
            0
        });
        check_eq!(libc::epoll_wait(set, &mut event, 1, -1), 1);
        wait_ok(taker);
        libc::close(set);
    }
    close(fd);
    ok(unlink("poll"));
}

#[repr(C)]
struct SigEvent {
    value: u64,
    signo: i32,
    notify: i32,
    pad: [u64; 6],
}

fn notify(fd: c_long, how: i32, signo: i32, value: u64) -> c_long {
    let event = SigEvent { value, signo, notify: how, pad: [0; 6] };
    // SAFETY: a valid event.
    unsafe { syscall(libc::SYS_mq_notify, fd, &raw const event) }
}

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD: i32 = 2;

static TOLD: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static SENDER: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicU64 = AtomicU64::new(0);

extern "C" fn told(_: i32, info: *mut libc::siginfo_t) {
    // SAFETY: the kernel passes a valid structure.
    unsafe {
        CODE.store((*info).si_code, Ordering::SeqCst);
        SENDER.store((*info).si_pid(), Ordering::SeqCst);
        VALUE.store((*info).si_value().sival_ptr as u64, Ordering::SeqCst);
    }
    TOLD.fetch_add(1, Ordering::SeqCst);
}

/// What the queue's file shows. A child reads it: if who is to be told closes a descriptor of the queue,
/// whichever, it is not told any more.
fn file_text(name: &str) -> String {
    use std::io::{Read, Write};
    let (mut r, mut w) = std::io::pipe().unwrap();
    let reader = child(|| {
        let text = std::fs::read(format!("/tmp/mq/{name}")).unwrap();
        w.write_all(&text).unwrap();
        0
    });
    drop(w);
    let mut text = String::new();
    r.read_to_string(&mut text).unwrap();
    wait_ok(reader);
    text
}

fn notification_comes_once_to_an_empty_queue() {
    let fd = ok(open("note", CREAT | RDWR | NONBLOCK, 0o600, Some(&attr(5, 8192))));
    handle(libc::SIGUSR2, 0, told);
    check_eq!(err(notify(fd, SIGEV_SIGNAL, 65, 0)), libc::EINVAL);
    check_eq!(err(notify(fd, 9, 1, 0)), libc::EINVAL);
    check_eq!(err(notify(0, SIGEV_NONE, 0, 0)), libc::EBADF);
    ok(notify(fd, SIGEV_SIGNAL, libc::SIGUSR2, 0x1122));
    check_eq!(err(notify(fd, SIGEV_NONE, 0, 0)), libc::EBUSY);
    let shown = file_text("note");
    let line = format!("NOTIFY:0     SIGNO:12    NOTIFY_PID:{:<6}\n", std::process::id());
    check_eq!(shown, format!("QSIZE:0          {line}"));
    let sender = child(|| {
        check_eq!(err(notify(fd, SIGEV_NONE, 0, 0)), libc::EBUSY);
        ok(send(fd, "ding", 0));
        0
    });
    until(|| TOLD.load(Ordering::SeqCst) == 1);
    wait_ok(sender);
    check_eq!(CODE.load(Ordering::SeqCst), -3);
    check_eq!(SENDER.load(Ordering::SeqCst), sender);
    check_eq!(VALUE.load(Ordering::SeqCst), 0x1122);
    check!(file_text("note").starts_with("QSIZE:4          NOTIFY:0     SIGNO:0     NOTIFY_PID:0"));
    // Not to one that holds something, and not while somebody waits.
    ok(notify(fd, SIGEV_SIGNAL, libc::SIGUSR2, 0));
    ok(send(fd, "dong", 0));
    check_eq!(TOLD.load(Ordering::SeqCst), 1);
    ok(receive_code(fd, 8192));
    ok(receive_code(fd, 8192));
    ok(set_flags(fd, 0));
    let waiter = child(|| {
        check_eq!(receive(fd).unwrap().0, "mine");
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    ok(send(fd, "mine", 0));
    wait_ok(waiter);
    check_eq!(TOLD.load(Ordering::SeqCst), 1);
    // Taking it back, and taking back what is not there.
    // SAFETY: plain calls.
    unsafe {
        ok(syscall(libc::SYS_mq_notify, fd, 0));
        ok(syscall(libc::SYS_mq_notify, fd, 0));
    }
    ok(notify(fd, SIGEV_NONE, 0, 0));
    check!(file_text("note").contains("NOTIFY:1 "));
    // Closing any descriptor of it ends it.
    // SAFETY: plain call.
    close(i64::from(ok(unsafe { libc::dup(fd as i32) })));
    ok(notify(fd, SIGEV_NONE, 0, 0));
    close(fd);
    ok(unlink("note"));
}

fn notification_by_a_thread_is_a_cookie_on_a_socket() {
    let fd = ok(open("thread", CREAT | RDWR, 0o600, Some(&attr(5, 64))));
    // SAFETY: plain call.
    let socket = ok(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0) });
    let cookie: [u8; 32] = std::array::from_fn(|i| i as u8);
    check_eq!(err(notify(fd, SIGEV_THREAD, 99, cookie.as_ptr() as u64)), libc::EBADF);
    check_eq!(err(notify(fd, SIGEV_THREAD, socket, 8)), libc::EFAULT);
    let event = || ok(notify(fd, SIGEV_THREAD, socket, cookie.as_ptr() as u64));
    let heard = || {
        let mut bytes = [0_u8; 64];
        // SAFETY: a valid buffer.
        let n = unsafe { libc::recv(socket, bytes.as_mut_ptr().cast(), 64, 0) };
        check_eq!(n, 32);
        check_eq!(bytes[..31], cookie[..31]);
        bytes[31]
    };
    event();
    ok(send(fd, "x", 0));
    check_eq!(heard(), 1);
    ok(receive_code(fd, 64));
    event();
    // SAFETY: plain call.
    ok(unsafe { syscall(libc::SYS_mq_notify, fd, 0) });
    check_eq!(heard(), 2);
    close(fd);
    ok(unlink("thread"));
}

fn the_file_system_shows_the_queues() {
    let fd = ok(open("shown", CREAT | RDWR, 0o640, None));
    ok(send(fd, "12345", 0));
    check!(file_text("shown").starts_with("QSIZE:5          NOTIFY:0"));
    let names: Vec<String> = std::fs::read_dir("/tmp/mq")
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    check_eq!(names, ["shown"]);
    let meta = std::fs::metadata("/tmp/mq/shown").unwrap();
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    check_eq!((meta.mode() & 0o777, meta.len()), (0o640, 80));
    check_eq!(std::fs::metadata("/tmp/mq").unwrap().permissions().mode() & 0o7777, 0o1777);
    drop(std::fs::File::create("/tmp/mq/made").unwrap());
    let made = ok(open("made", RDWR, 0, None));
    check_eq!(get_attr(made), attr(10, 8192));
    std::fs::remove_file("/tmp/mq/shown").unwrap();
    check_eq!(err(open("shown", RDWR, 0, None)), libc::ENOENT);
    ok(unlink("made"));
    close(made);
    close(fd);
}

fn rights_and_limits_hold() {
    let fd = ok(open("mine", CREAT | RDWR, 0o604, None));
    let set = |name: &str, value: &str| {
        std::fs::write(format!("/proc/sys/fs/mqueue/{name}"), value).unwrap();
    };
    for (name, value) in [
        ("msg_default", "10\n"),
        ("msg_max", "10\n"),
        ("msgsize_default", "8192\n"),
        ("msgsize_max", "8192\n"),
        ("queues_max", "256\n"),
    ] {
        let path = format!("/proc/sys/fs/mqueue/{name}");
        check_eq!(std::fs::read_to_string(path).unwrap(), value);
    }
    wait_ok(child(|| {
        become_user(1000);
        check_eq!(err(open("mine", RDWR, 0, None)), libc::EACCES);
        close(ok(open("mine", libc::O_RDONLY, 0, None)));
        check_eq!(err(unlink("mine")), libc::EPERM);
        check_eq!(err(open("big", CREAT | RDWR, 0o600, Some(&attr(11, 1)))), libc::EINVAL);
        check_eq!(err(open("big", CREAT | RDWR, 0o600, Some(&attr(1, 8193)))), libc::EINVAL);
        // A queue counts 8192 bytes for each of ten messages, and 96 more for the bookkeeping.
        let limit = libc::rlimit { rlim_cur: 2 * 82880 + 100, rlim_max: 2 * 82880 + 100 };
        // SAFETY: a valid limit.
        ok(unsafe { libc::setrlimit(libc::RLIMIT_MSGQUEUE, &limit) });
        let one = ok(open("one", CREAT | RDWR, 0o600, None));
        let two = ok(open("two", CREAT | RDWR, 0o600, None));
        check_eq!(err(open("three", CREAT | RDWR, 0o600, None)), libc::EMFILE);
        close(one);
        ok(unlink("one"));
        let three = ok(open("three", CREAT | RDWR, 0o600, None));
        ok(unlink("two"));
        ok(unlink("three"));
        close(two);
        close(three);
        0
    }));
    set("queues_max", "1");
    set("msg_max", "3");
    set("msgsize_max", "200");
    wait_ok(child(|| {
        become_user(1000);
        check_eq!(err(open("more", CREAT | RDWR, 0o600, None)), libc::ENOSPC);
        0
    }));
    let more = ok(open("more", CREAT | RDWR, 0o600, None));
    check_eq!(get_attr(more), attr(3, 200));
    set("queues_max", "256");
    set("msg_max", "10");
    set("msgsize_max", "8192");
    close(more);
    ok(unlink("more"));
    close(fd);
    ok(unlink("mine"));
}

fn namespaces_have_queues_of_their_own() {
    let fd = ok(open("outside", CREAT | RDWR, 0o600, None));
    wait_ok(child(|| {
        // SAFETY: plain call.
        ok(unsafe { libc::unshare(libc::CLONE_NEWIPC) });
        check_eq!(err(open("outside", RDWR, 0, None)), libc::ENOENT);
        let inside = ok(open("inside", CREAT | RDWR, 0o600, None));
        // What is open works across, and the old mount shows the old queues.
        ok(send(fd, "through", 1));
        check!(std::fs::metadata("/tmp/mq/outside").is_ok());
        check!(std::fs::metadata("/tmp/mq/inside").is_err());
        // SAFETY: valid strings.
        unsafe {
            let (none, to) = (c"none".as_ptr(), c"/tmp/mq2".as_ptr());
            libc::mkdir(to, 0o755);
            ok(libc::mount(none, to, c"mqueue".as_ptr(), 0, std::ptr::null()));
            check!(std::fs::metadata("/tmp/mq2/inside").is_ok());
            // Without its namespace the file system makes no more queues.
            ok(libc::unshare(libc::CLONE_NEWIPC));
            check!(std::fs::metadata("/tmp/mq2/inside").is_ok());
            check!(std::fs::File::create("/tmp/mq2/late").is_err());
            ok(libc::umount(to));
        }
        ok(send(inside, "still", 0));
        0
    }));
    check_eq!(receive(fd), Ok(("through".into(), 1)));
    close(fd);
    ok(unlink("outside"));
}

fn main() {
    std::fs::create_dir_all("/tmp/mq").unwrap();
    // SAFETY: valid strings.
    unsafe {
        let (none, to) = (c"none".as_ptr(), c"/tmp/mq".as_ptr());
        ok(libc::mount(none, to, c"mqueue".as_ptr(), 0, std::ptr::null()));
    }
    opening_makes_finds_and_refuses();
    messages_come_by_priority_and_age();
    both_sides_sleep_until_they_can_go_on();
    poll_and_epoll_know_when_it_is_ready();
    notification_comes_once_to_an_empty_queue();
    notification_by_a_thread_is_a_cookie_on_a_socket();
    the_file_system_shows_the_queues();
    rights_and_limits_hold();
    namespaces_have_queues_of_their_own();
}
