//! Whatever a program does, and whichever allocation of the kernel fails meanwhile, the kernel goes on: the call
//! fails, or does without. Each piece of work is done in a child over and over, with the first allocation
//! failing, then the second, and so on until none is left to fail.
//!
//! /proc/PID/fail-nth says which (Linux, Documentation/fault-injection/fault-injection.rst); Debian's kernel is
//! built without it, and there each piece is done once.
//!
//! DESIGN.md, The kernel: running out of memory is ENOMEM or the OOM killer, never a crash.

use belljar_guest_tests::seccomp::*;
use belljar_guest_tests::*;
use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A call's result does not matter here.
fn try_call(result: libc::c_long) -> Option<libc::c_long> {
    (result >= 0).then_some(result)
}

macro_rules! sys {
    ($call:ident $(, $arg:expr)*) => {
        // SAFETY: the callers' pointers are to values that live on.
        try_call(unsafe { libc::$call($($arg),*) } as libc::c_long)
    };
}

fn owned(fd: Option<libc::c_long>) -> Option<OwnedFd> {
    // SAFETY: a descriptor just made.
    fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) {
    let [source, target, kind] = [source, target, kind].map(|s| CString::new(s).unwrap());
    let none = std::ptr::null();
    sys!(mount, source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, none);
}

/// A mount namespace of the child's own, with a fresh /tmp.
fn private_tmp() {
    sys!(unshare, libc::CLONE_NEWNS);
    mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE);
    mount("none", "/tmp", "tmpfs", 0);
}

fn files() {
    let _ = fs::create_dir("/tmp/d");
    for i in 0..70 {
        let _ = fs::write(format!("/tmp/d/{i}"), "text");
    }
    let _ = fs::hard_link("/tmp/d/1", "/tmp/d/link");
    let _ = std::os::unix::fs::symlink(
        "a name that is not quite short, so that it is elsewhere",
        "/tmp/s",
    );
    let _ = fs::read_link("/tmp/s");
    let _ = fs::rename("/tmp/d/2", "/tmp/d/3");
    let _ = fs::rename("/tmp/d/4", "/tmp/d/new");
    let _ = fs::read_dir("/tmp/d").map(Iterator::count);
    if let Ok(file) = fs::File::options().read(true).write(true).open("/tmp/d/5") {
        let mut lock = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: 0,
            l_start: 0,
            l_len: 10,
            l_pid: 0,
        };
        sys!(fcntl, file.as_raw_fd(), libc::F_SETLK, &raw mut lock);
        lock.l_start = 3;
        lock.l_len = 2;
        lock.l_type = libc::F_UNLCK as i16;
        sys!(fcntl, file.as_raw_fd(), libc::F_SETLK, &raw mut lock);
        sys!(flock, file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB);
        let _ = file.set_len(1 << 20);
        let _ = file.write_at(&[1; 9000], 500_000);
        let fds: Vec<_> = (0..200).map_while(|_| file.try_clone().ok()).collect();
        drop(fds);
    }
    let _ = fs::remove_dir_all("/tmp/d");
}

fn anonymous_files() {
    let mut pipe = [0; 2];
    if sys!(pipe2, pipe.as_mut_ptr(), libc::O_NONBLOCK).is_some() {
        let mut second = [0; 2];
        sys!(write, pipe[1], [7_u8; 10_000].as_ptr().cast(), 10_000);
        if sys!(pipe2, second.as_mut_ptr(), libc::O_NONBLOCK).is_some() {
            sys!(tee, pipe[0], second[1], 8192, 0);
            sys!(splice, pipe[0], std::ptr::null_mut(), second[1], std::ptr::null_mut(), 100, 0);
        }
        sys!(fcntl, pipe[1], libc::F_SETPIPE_SZ, 1 << 20);
        let mut polled: Vec<_> = (0..100)
            .map(|i| libc::pollfd { fd: pipe[i & 1], events: libc::POLLIN, revents: 0 })
            .collect();
        sys!(poll, polled.as_mut_ptr(), 100, 0);
    }
    sys!(memfd_create, c"m".as_ptr(), 0);
    sys!(timerfd_create, libc::CLOCK_MONOTONIC, 0);
    let event = sys!(eventfd, 1, 0).unwrap_or(-1) as i32;
    // SAFETY: all zero is an empty set.
    let none = unsafe { std::mem::zeroed::<libc::sigset_t>() };
    sys!(signalfd, -1, &raw const none, 0);
    let outer = sys!(epoll_create1, 0).unwrap_or(-1) as i32;
    let inner = sys!(epoll_create1, 0).unwrap_or(-1) as i32;
    let mut ask = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 1 };
    for (set, fd) in [(inner, event), (inner, pipe[0]), (outer, inner)] {
        sys!(epoll_ctl, set, libc::EPOLL_CTL_ADD, fd, &raw mut ask);
    }
    sys!(epoll_wait, outer, &raw mut ask, 1, 0);
    let _ = fs::File::open("/dev/ptmx");
    let _ = fs::File::open("/dev/zero");
    let fifo = c"/tmp/fifo".as_ptr();
    sys!(mkfifo, fifo, 0o600);
    sys!(open, fifo, libc::O_RDWR);
}

/// Sends descriptors along with a byte.
fn send_files(over: &UnixDatagram, fds: &[i32]) {
    let mut byte = [1_u8];
    let mut io = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0_u64; 16];
    // SAFETY: a message of one byte, with room for the descriptors behind the control header.
    unsafe {
        let mut message = std::mem::zeroed::<libc::msghdr>();
        message.msg_iov = &raw mut io;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of_val(fds) as u32) as _;
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        (*head).cmsg_level = libc::SOL_SOCKET;
        (*head).cmsg_type = libc::SCM_RIGHTS;
        (*head).cmsg_len = libc::CMSG_LEN(size_of_val(fds) as u32) as _;
        libc::CMSG_DATA(head).copy_from(fds.as_ptr().cast(), size_of_val(fds));
        libc::sendmsg(over.as_raw_fd(), &raw const message, 0);
        libc::recvmsg(over.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT);
    }
}

fn unix_sockets() {
    if let Ok((a, b)) = UnixStream::pair() {
        let _ = (a.set_nonblocking(true), b.set_nonblocking(true));
        let _ = (&a).write_all(&[1; 20_000]);
        let _ = (&b).read(&mut [0; 100]);
    }
    if let Ok((a, b)) = UnixDatagram::pair() {
        let _ = (a.set_nonblocking(true), b.set_nonblocking(true));
        let _ = a.send(b"text");
        let _ = b.recv(&mut [0; 4]);
        send_files(&a, &[a.as_raw_fd(), b.as_raw_fd(), 0]);
        // What comes only from each other's queues is garbage.
        send_files(&b, &[b.as_raw_fd(), a.as_raw_fd()]);
    }
    let name = "/tmp/socket";
    if let Ok(listener) = UnixListener::bind(name) {
        let client = UnixStream::connect(name);
        let _ = listener.set_nonblocking(true);
        let _ = listener.accept();
        drop(client);
    }
    if let Some(auto) = owned(sys!(socket, libc::AF_UNIX, libc::SOCK_SEQPACKET, 0)) {
        let address = libc::sockaddr { sa_family: libc::AF_UNIX as u16, sa_data: [0; 14] };
        sys!(bind, auto.as_raw_fd(), &raw const address, 2);
        sys!(listen, auto.as_raw_fd(), 5);
    }
}

/// A network namespace of the child's own whose loopback is up.
fn network() {
    sys!(unshare, libc::CLONE_NEWNET);
    if let Some(socket) = owned(sys!(socket, libc::AF_INET, libc::SOCK_DGRAM, 0)) {
        // SAFETY: all zero is a request.
        let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
        request.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
        request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        sys!(ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request);
    }
}

fn inet_sockets() {
    network();
    for any in ["127.0.0.1:0", "[::1]:0"] {
        if let Ok(listener) = TcpListener::bind(any) {
            let _ = listener.set_nonblocking(true);
            let to = listener.local_addr().unwrap();
            let client = TcpStream::connect_timeout(&to, Duration::from_millis(20));
            let server = listener.accept();
            if let (Ok(client), Ok((server, _))) = (&client, &server) {
                let _ = client.set_nonblocking(true);
                let _ = server.set_nonblocking(true);
                let _ = { client }.write(&[1; 5000]);
                let _ = { server }.read(&mut [0; 5000]);
            }
        }
        if let Ok(socket) = UdpSocket::bind(any) {
            let _ = socket.set_nonblocking(true);
            let to = socket.local_addr().unwrap();
            let _ = socket.send_to(&[1; 3000], to);
            let _ = socket.recv(&mut [0; 3000]);
            // Nobody is there: an error comes back.
            let _ = socket.send_to(&[1], ("127.0.0.1", 9));
        }
    }
    for (family, kind, protocol) in [
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        (libc::AF_PACKET, libc::SOCK_RAW, 0x300),
        (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
    ] {
        let socket = owned(sys!(socket, family, kind, protocol));
        let ping = UdpSocket::bind("127.0.0.1:0");
        let _ = ping.map(|ping| ping.send_to(&[1], "127.0.0.1:9"));
        let buffer = [0_u8; 200].as_mut_ptr().cast();
        let fd = socket.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        sys!(recv, fd, buffer, 200, libc::MSG_DONTWAIT);
    }
}

/// A request of netlink: the header, then `body`.
fn netlink(protocol: i32, kind: u16, flags: u16, body: &[u8]) {
    let Some(socket) = owned(sys!(socket, libc::AF_NETLINK, libc::SOCK_RAW, protocol)) else {
        return;
    };
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    let fd = socket.as_raw_fd();
    sys!(send, fd, message.as_ptr().cast(), message.len(), 0);
    let mut answer = [0_u8; 8192];
    while sys!(recv, fd, answer.as_mut_ptr().cast(), 8192, libc::MSG_DONTWAIT).is_some() {}
}

fn netlink_requests() {
    const DUMP: u16 = 0x300 | 1;
    network();
    for (kind, body) in [(18, 16), (22, 8), (26, 12), (30, 12)] {
        netlink(libc::NETLINK_ROUTE, kind, DUMP, &vec![0; body]);
    }
    // RTM_NEWLINK with IFLA_LINKINFO { IFLA_INFO_KIND "veth" }.
    let mut body = vec![0; 16];
    body.extend(b"\x10\0\x12\0\x08\0\x01\0veth\0\0\0\0");
    netlink(libc::NETLINK_ROUTE, 16, 0x600 | 5, &body);
    // RTM_NEWADDR 10.0.0.1/24 on loopback, RTM_NEWNEIGH on it.
    netlink(libc::NETLINK_ROUTE, 20, 0x600 | 5, b"\x02\x18\0\0\x01\0\0\0\x08\0\x02\0\x0a\0\0\x01");
    let neighbour = b"\x02\0\0\0\x01\0\0\0\x80\0\0\0\x08\0\x01\0\x0a\0\0\x02\x0a\0\x02\0\x02\x01\x01\x01\x01\x01\0\0";
    netlink(libc::NETLINK_ROUTE, 28, 0x600 | 5, neighbour);
    // SOCK_DIAG_BY_FAMILY for TCP.
    let mut body = vec![0; 56];
    (body[0], body[1], body[4]) = (2, 6, 255);
    netlink(4, 20, DUMP, &body);
}

fn mounts() {
    for dir in ["a", "b", "a/inner"] {
        let _ = fs::create_dir(format!("/tmp/{dir}"));
    }
    mount("none", "/tmp/a", "tmpfs", 0);
    let _ = fs::create_dir("/tmp/a/inner");
    mount("none", "/tmp/a", "none", libc::MS_SHARED);
    mount("none", "/tmp/a/inner", "proc", 0);
    mount("/tmp/a", "/tmp/b", "none", libc::MS_BIND | libc::MS_REC);
    mount("none", "/tmp/b/inner", "sysfs", 0);
    mount("none", "/tmp/b", "none", libc::MS_SLAVE);
    mount("/proc/self/ns/uts", "/tmp/file", "none", libc::MS_BIND);
    let _ = fs::read_to_string("/proc/self/mountinfo");
    sys!(unshare, libc::CLONE_NEWNS);
    sys!(umount2, c"/tmp/a".as_ptr(), libc::MNT_DETACH);
}

fn namespaces() {
    const NEWTIME: i32 = 0x80;
    for kind in [
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        NEWTIME,
        libc::CLONE_NEWUSER | libc::CLONE_NEWNS,
    ] {
        sys!(unshare, kind);
    }
    let _ = fs::write("/proc/self/uid_map", "0 0 1");
    let own = fs::File::open("/proc/self/ns/uts");
    let _ = own.map(|own| sys!(setns, own.as_raw_fd(), 0));
}

fn ipc() {
    use belljar_guest_tests::sysv;
    if sys!(unshare, libc::CLONE_NEWIPC).is_none() {
        return;
    }
    // SAFETY: plain calls.
    unsafe {
        let shm = sysv::shmget(1, 1 << 16, sysv::CREAT | 0o600);
        let at = sysv::shmat(shm, 0, 0);
        if at > 0 {
            libc::munmap(at as *mut _, 1 << 16);
        }
        let sem = sysv::semget(1, 4, sysv::CREAT | 0o600);
        sysv::semop(sem, &[sysv::op(0, 1, 0x1000)]);
        let queue = sysv::msgget(1, sysv::CREAT | 0o600);
        sysv::msgsnd(queue, 1, &[7; 4096], 0x800);
    }
    let (name, none) = (c"queue".as_ptr(), std::ptr::null::<libc::timespec>());
    let flags = libc::O_CREAT | libc::O_RDWR | libc::O_NONBLOCK;
    if let Some(queue) = sys!(syscall, libc::SYS_mq_open, name, flags, 0o600, none) {
        sys!(syscall, libc::SYS_mq_timedsend, queue, name, 5, 1, none);
    }
    let _ = fs::read_to_string("/proc/sysvipc/shm");
}

fn processes() {
    // SAFETY: the child ends at once, whatever else.
    match unsafe { libc::fork() } {
        0 => {
            let words = [c"name".as_ptr(), std::ptr::null()];
            sys!(execve, c"/tmp/script".as_ptr(), words.as_ptr(), words.as_ptr());
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        child => {
            sys!(syscall, libc::SYS_pidfd_open, child, 0);
            sys!(waitpid, child, std::ptr::null_mut(), 0);
        }
    }
    let groups = [5; 300];
    sys!(setgroups, groups.len(), groups.as_ptr());
    // SAFETY: all zero is a value of these.
    let (mut event, mut timer) =
        unsafe { (std::mem::zeroed::<libc::sigevent>(), [std::ptr::null_mut::<()>(); 2]) };
    event.sigev_notify = libc::SIGEV_NONE;
    sys!(timer_create, libc::CLOCK_MONOTONIC, &raw mut event, timer.as_mut_ptr().cast());
    sys!(signal, libc::SIGUSR1, libc::SIG_IGN);
    // SAFETY: a blocked signal that is queued.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigaddset(&raw mut set, libc::SIGRTMIN());
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::sigqueue(
            libc::getpid(),
            libc::SIGRTMIN(),
            libc::sigval { sival_ptr: std::ptr::null_mut() },
        );
    }
    sys!(prctl, libc::PR_SET_NAME, c"other".as_ptr());
}

fn memory() {
    let (len, none) = (64 * 4096, std::ptr::null_mut());
    let (both, read) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ);
    for kind in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        let flags = kind | libc::MAP_ANONYMOUS;
        // SAFETY: mappings of its own, and parts of them.
        unsafe {
            let at = libc::mmap(none, len, both, flags, -1, 0);
            if at == libc::MAP_FAILED {
                continue;
            }
            for page in (0..64).step_by(2) {
                libc::mprotect(at.byte_add(page * 4096), 4096, read);
            }
            libc::mremap(at.byte_add(4096), 4096, 3 * 4096, libc::MREMAP_MAYMOVE);
            libc::madvise(at, len, libc::MADV_DONTNEED);
            libc::munmap(at.byte_add(8 * 4096), 4096);
            libc::munmap(at, len);
        }
    }
    if let Ok(file) = fs::File::open("/proc/self/exe") {
        // SAFETY: a new mapping.
        unsafe { libc::mmap(none, 4096, read, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    }
}

/// Reads what is in a directory of /proc or /sys, but not further down.
fn filters() {
    const RECV: u64 = 0xc050_2100;
    const SEND: u64 = 0xc018_2101;
    const ADDFD: u64 = 0x4018_2103;
    no_new_privs();
    let _ = install(0, &rule(libc::SYS_getpgid, libc::SECCOMP_RET_ERRNO));
    let ask = rule(libc::SYS_getppid, libc::SECCOMP_RET_USER_NOTIF);
    let Ok(fd) = install(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER, &ask) else { return };
    let fd = fd as i32;
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let listener = || {
            let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            while !is_done.load(Ordering::Relaxed) {
                sys!(poll, &raw mut poll, 1, 5);
                let mut question = [0_u64; 10];
                if poll.revents & libc::POLLIN == 0
                    || sys!(ioctl, fd, RECV, question.as_mut_ptr()).is_none()
                {
                    continue;
                }
                let id = question[0];
                // Descriptor 0, wherever there is room.
                sys!(ioctl, fd, ADDFD, [id, 0, 0].as_mut_ptr());
                sys!(ioctl, fd, SEND, [id, 7, 0].as_mut_ptr());
            }
        };
        if std::thread::Builder::new().spawn_scoped(scope, listener).is_ok() {
            sys!(syscall, libc::SYS_getppid);
        }
        is_done.store(true, Ordering::Relaxed);
    });
}

fn texts(dir: &str) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        // These wait, or are no text.
        if ["kmsg", "mem", "pagemap", "fail-nth"].iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let _ = fs::read_link(&path);
        if path.is_file() {
            let _ = fs::File::open(&path).and_then(|mut file| file.read(&mut [0; 256]));
        }
    }
}

fn proc_self() {
    for dir in ["/proc/self", "/proc/self/ns", "/proc/self/fd", "/proc/self/net", "/proc/self/task"]
    {
        texts(dir);
    }
}

fn proc_others() {
    for dir in ["/proc", "/proc/sys/kernel", "/proc/sys/net/ipv4", "/sys/devices/system/cpu"] {
        texts(dir);
    }
}

fn control_groups() {
    let group = std::path::Path::new("/sys/fs/cgroup/failing");
    let _ = fs::create_dir(group);
    let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids");
    for (file, text) in [("cgroup.procs", "0"), ("cpu.max", "50000"), ("memory.high", "64M")] {
        let _ = fs::write(group.join(file), text);
    }
    let _ = fs::read_to_string(group.join("cgroup.procs"));
    let _ = fs::write("/sys/fs/cgroup/cgroup.procs", "0");
    let _ = fs::remove_dir(group);
}

/// The file that says which allocation fails, opened beforehand; none on a kernel without it.
fn fail_nth() -> Option<fs::File> {
    let own = format!("/proc/self/task/{}/fail-nth", std::process::id());
    fs::File::options().read(true).write(true).open(own).ok()
}

/// How a child ends that has no such file.
const NOT_THERE: i32 = 2;

/// Does the work with its `n`-th allocation failing. True if it had as many.
fn has_failed(work: fn(), n: u32) -> bool {
    let pid = child(|| {
        private_tmp();
        let _ = fs::write("/tmp/script", "#!/no/such/interpreter with an argument\n");
        let _ = fs::write("/tmp/file", "");
        let Some(file) = fail_nth() else {
            work();
            return NOT_THERE;
        };
        ok(file.write_at(n.to_string().as_bytes(), 0).map_or(-1, |_| 0));
        work();
        // What is left when the work is over fails here, at the latest.
        let mut left = [0; 16];
        let read = file.read_at(&mut left, 0);
        let failed = read.is_ok_and(|len| left[..len].trim_ascii() == b"0");
        let _ = file.write_at(b"0", 0);
        i32::from(!failed)
    });
    // One that was killed for want of memory, or whose own allocator gave up, had enough of them.
    let status = wait(pid);
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    check!(
        code != Some(NOT_THERE) || fail_nth().is_none(),
        "what failed before has taken /proc away"
    );
    !matches!(code, Some(1 | NOT_THERE))
}

fn main() {
    let _ = cgroups::root();
    let all: [(&str, fn()); 15] = [
        ("files", files),
        ("anonymous files", anonymous_files),
        ("unix sockets", unix_sockets),
        ("inet sockets", inet_sockets),
        ("netlink", netlink_requests),
        ("mounts", mounts),
        ("namespaces", namespaces),
        ("ipc", ipc),
        ("processes", processes),
        ("memory", memory),
        ("filters", filters),
        ("proc, own", proc_self),
        ("proc, others", proc_others),
        ("control groups", control_groups),
        ("nothing", || ()),
    ];
    let given = std::env::args().nth(1);
    for (name, work) in all.into_iter().filter(|(name, _)| given.as_ref().is_none_or(|g| g == name))
    {
        let mut n = 1;
        // Far on, the same is done again and again: not each of those is tried.
        while has_failed(work, n) {
            n += 1 + n / 100;
            check!(n < 100_000, "{name} never ends");
        }
        check!(fs::read_to_string("/proc/self/mountinfo").is_ok(), "{name}: /proc is gone");
        println!("{name}: {n}");
    }
}
