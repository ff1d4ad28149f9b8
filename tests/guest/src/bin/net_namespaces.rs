//! Network namespaces (network_namespaces(7)): each has its own interfaces, addresses, routes, ports, abstract
//! Unix names, /proc/net and /sys/class/net. A socket stays in the one that it was made in.
//!
//! PROCESS_MODEL.md, Namespaces: net (interfaces, sockets, routes; loopback).
use belljar_guest_tests::{check, check_eq, child, err, fail, ok, wait_ok};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::mem::zeroed;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

fn unshare(flags: i32) {
    // SAFETY: no pointers.
    ok(unsafe { libc::unshare(flags) });
}

fn socket() -> i32 {
    // SAFETY: no pointers.
    ok(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })
}

/// Changes the flags of an interface, in the namespace of `socket`.
fn set_up(socket: i32, name: &str) {
    // SAFETY: a request with a short name and flags.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as _;
        }
        ok(libc::ioctl(socket, libc::SIOCGIFFLAGS as _, &raw mut request));
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
        ok(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw mut request));
    }
}

/// Adds the route 10.50.0.0/16 over loopback.
fn add_route(socket: i32) {
    let address = |bytes: [u8; 4]| {
        // SAFETY: all zeros are valid.
        let mut name: libc::sockaddr_in = unsafe { zeroed() };
        name.sin_family = libc::AF_INET as u16;
        name.sin_addr.s_addr = u32::from_ne_bytes(bytes);
        // SAFETY: both have 16 bytes.
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(name) }
    };
    // SAFETY: a request that is filled in, with a name that ends in NUL.
    unsafe {
        let mut route: libc::rtentry = zeroed();
        route.rt_dst = address([10, 50, 0, 0]);
        route.rt_genmask = address([255, 255, 0, 0]);
        route.rt_flags = 1;
        route.rt_dev = c"lo".as_ptr().cast_mut().cast();
        ok(libc::ioctl(socket, libc::SIOCADDRT as _, &raw mut route));
    }
}

/// The interfaces that /proc names for a process.
fn interfaces(pid: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_string())).collect()
}

fn has_route(pid: &str) -> bool {
    // 10.50.0.0, as a word of the machine.
    let text = fs::read_to_string(format!("/proc/{pid}/net/route")).unwrap();
    text.lines().any(|line| line.starts_with("lo\t0000320A\t"))
}

fn listens(pid: &str, port: u16) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    text.lines().any(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A")))
}

fn unix_names(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap()
}

fn abstract_name(name: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(name).unwrap()
}

fn mount_sysfs(at: &str) {
    let _ = fs::create_dir(at);
    let at = CString::new(at).unwrap();
    // SAFETY: valid strings.
    ok(unsafe {
        libc::mount(c"none".as_ptr(), at.as_ptr(), c"sysfs".as_ptr(), 0, std::ptr::null())
    });
}

fn in_sysfs(at: &str, file: &str) -> String {
    fs::read_to_string(format!("{at}/class/net/lo/{file}")).unwrap().trim().to_string()
}

/// A namespace in which `f` runs until the parent says so; its process.
struct Other {
    pid: i32,
    go: File,
    _ready: File,
}

impl Other {
    fn start(f: impl FnOnce()) -> Self {
        let [mut ready, mut go] = [[0; 2]; 2];
        // SAFETY: room for two descriptors each.
        unsafe {
            ok(libc::pipe2(ready.as_mut_ptr(), libc::O_CLOEXEC));
            ok(libc::pipe2(go.as_mut_ptr(), libc::O_CLOEXEC));
        }
        let pid = child(|| {
            unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS);
            f();
            // SAFETY: valid bytes.
            unsafe {
                check_eq!(libc::write(ready[1], b"r".as_ptr().cast(), 1), 1);
                let mut byte = 0_u8;
                check_eq!(libc::read(go[0], (&raw mut byte).cast(), 1), 1);
            }
            0
        });
        // SAFETY: the descriptors are this process's own.
        let [mut ready, go] = unsafe {
            libc::close(ready[1]);
            [File::from_raw_fd(ready[0]), File::from_raw_fd(go[1])]
        };
        let mut byte = [0];
        check_eq!(ready.read(&mut byte).unwrap(), 1);
        Self { pid, go, _ready: ready }
    }

    fn end(mut self) {
        self.go.write_all(b"g").unwrap();
        wait_ok(self.pid);
    }
}

fn main() {
    let _ = fs::create_dir("/tmp");
    // A namespace of its own for the whole test: what there is in the first one is not its business.
    unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS);
    let none = std::ptr::null();
    // SAFETY: valid strings.
    ok(unsafe {
        libc::mount(
            c"none".as_ptr(),
            c"/".as_ptr(),
            none,
            libc::MS_REC | libc::MS_PRIVATE,
            none.cast(),
        )
    });
    let here = socket();

    // Fresh: loopback alone, down, without an address, so that nobody is reached.
    check_eq!(interfaces("self"), ["lo"]);
    mount_sysfs("/tmp/net-ns-here");
    check_eq!(in_sysfs("/tmp/net-ns-here", "operstate"), "down");
    let unreachable = TcpStream::connect("127.0.0.1:4711").unwrap_err();
    check_eq!(unreachable.raw_os_error(), Some(libc::ENETUNREACH));
    set_up(here, "lo");
    check_eq!(in_sysfs("/tmp/net-ns-here", "operstate"), "unknown");
    for (file, text) in
        [("address", "00:00:00:00:00:00"), ("ifindex", "1"), ("type", "772"), ("mtu", "65536")]
    {
        check_eq!(in_sysfs("/tmp/net-ns-here", file), text);
    }
    check_eq!(fs::read_dir("/tmp/net-ns-here/class/net").unwrap().count(), 1);
    check!(fs::read("/tmp/net-ns-here/class/net/eth99/mtu").is_err());
    add_route(here);
    check!(has_route("self"));

    // Ports and names, of which another namespace knows nothing.
    let listener = TcpListener::bind("127.0.0.1:4711").unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:4711").unwrap();
    let name = abstract_name("net-namespaces");
    let _named = UnixListener::bind_addr(&name).unwrap();
    let _ = fs::remove_file("/tmp/net-ns-path");
    let _path = UnixListener::bind("/tmp/net-ns-path").unwrap();
    check!(listens("self", 4711));
    check!(unix_names("self").contains("@net-namespaces"));
    check_eq!(TcpListener::bind("127.0.0.1:4711").unwrap_err().kind(), ErrorKind::AddrInUse);

    let other = Other::start(|| {
        check_eq!(interfaces("self"), ["lo"]);
        check!(!has_route("self"));
        check!(!listens("self", 4711));
        check!(!unix_names("self").contains("net-namespaces"));
        let there = socket();
        mount_sysfs("/tmp/net-ns-there");
        check_eq!(in_sysfs("/tmp/net-ns-there", "operstate"), "down");
        check_eq!(in_sysfs("/tmp/net-ns-here", "operstate"), "unknown");
        set_up(there, "lo");
        let refused = TcpStream::connect("127.0.0.1:4711").unwrap_err();
        check_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let refused = UnixStream::connect_addr(&name).unwrap_err();
        check_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        // A name in the file system is no network namespace's.
        UnixStream::connect("/tmp/net-ns-path").unwrap();
        // The same again, side by side.
        std::mem::forget(TcpListener::bind("127.0.0.1:4711").unwrap());
        std::mem::forget(UdpSocket::bind("127.0.0.1:4711").unwrap());
        std::mem::forget(UnixListener::bind_addr(&name).unwrap());
        std::mem::forget(TcpListener::bind("127.0.0.1:4712").unwrap());
        // A socket made before stays where it was.
        let mut old = datagrams.try_clone().unwrap();
        old.send_to(b"from afar", "127.0.0.1:4711").unwrap();
        old = UdpSocket::bind("127.0.0.1:0").unwrap();
        old.send_to(b"lost", "127.0.0.1:4711").unwrap();
        add_route(there);
        set_up(here, "lo");
    });

    // From outside: /proc of the process shows its own.
    let pid = other.pid.to_string();
    check!(listens(&pid, 4712) && !listens("self", 4712));
    check!(listens(&pid, 4711) && listens("self", 4711));
    check_eq!(interfaces(&pid), ["lo"]);
    check!(has_route(&pid));
    let mut buf = [0; 16];
    datagrams.set_nonblocking(true).unwrap();
    check_eq!(datagrams.recv(&mut buf).unwrap(), 9);
    check_eq!(datagrams.recv(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);

    // Entered through its file, it is reached, by new sockets only.
    let file = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let own = File::open("/proc/self/ns/net").unwrap();
    check_eq!(
        TcpStream::connect("127.0.0.1:4712").unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    // SAFETY: no pointers.
    ok(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) });
    let connected = TcpStream::connect("127.0.0.1:4712").unwrap();
    UnixStream::connect_addr(&name).unwrap();
    // SAFETY: no pointers.
    ok(unsafe { libc::setns(own.as_raw_fd(), libc::CLONE_NEWNET) });
    check_eq!(connected.peer_addr().unwrap().port(), 4712);

    // Who may not enter, may not.
    wait_ok(child(|| {
        // SAFETY: no pointers.
        unsafe {
            ok(libc::setresuid(1000, 1000, 1000));
            check_eq!(err(libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET)), libc::EPERM);
            check_eq!(err(libc::unshare(libc::CLONE_NEWNET)), libc::EPERM);
        }
        0
    }));
    drop(file);
    other.end();
    // Its process had the listener as well.
    drop(listener);
    check!(!listens("self", 4711));
    if fs::metadata(format!("/proc/{pid}/ns/net")).is_ok() {
        fail("the other process is still there");
    }
}
