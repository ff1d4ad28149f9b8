//! rtnetlink(7) as iproute2 uses it: interfaces, addresses, routes, veth pairs, events; packet sockets;
//! refusals. Debian keeps veth and sock_diag in modules, so only our kernel must have them.
//!
//! PROCESS_MODEL.md, Namespaces: net (interfaces, routes; loopback, veth pairs).
use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};

const GETLINK: u16 = 18;
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWRULE: u16 = 32;
const GETRULE: u16 = 34;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const EXCL: u16 = 0x200;
const IFF_UP: u32 = 1;

struct Netlink(i32);

/// One message: type and what follows the header.
type Message = (u16, Vec<u8>);

impl Netlink {
    fn open(protocol: i32, groups: u32) -> Self {
        // SAFETY: a valid address.
        unsafe {
            let fd =
                ok(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol));
            let mut name: libc::sockaddr_nl = std::mem::zeroed();
            name.nl_family = libc::AF_NETLINK as u16;
            name.nl_groups = groups;
            ok(libc::bind(fd, (&raw const name).cast(), 12));
            let mut len = 12;
            ok(libc::getsockname(fd, (&raw mut name).cast(), &raw mut len));
            check!(name.nl_pid != 0);
            Self(fd)
        }
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) {
        let mut bytes = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend(7_u32.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(body);
        // SAFETY: the buffer is valid.
        let sent = unsafe { libc::send(self.0, bytes.as_ptr().cast(), bytes.len(), 0) };
        check_eq!(sent as usize, bytes.len());
    }

    fn receive(&self) -> Vec<Message> {
        let mut buf = vec![0; 32768];
        // SAFETY: the buffer is valid.
        let n = ok(unsafe { libc::recv(self.0, buf.as_mut_ptr().cast(), buf.len(), 0) } as i64);
        let mut rest = &buf[..n as usize];
        let mut messages = Vec::new();
        while rest.len() >= 16 {
            let len = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            let kind = u16::from_ne_bytes(rest[4..6].try_into().unwrap());
            messages.push((kind, rest[16..len].to_vec()));
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        messages
    }

    /// Changes something; the error number, or 0.
    fn change(&self, kind: u16, flags: u16, body: &[u8]) -> i32 {
        self.send(kind, flags | ACK, body);
        let answer = self.receive();
        check_eq!((answer.len(), answer[0].0), (1, 2));
        -i32::from_ne_bytes(answer[0].1[..4].try_into().unwrap())
    }

    fn dump(&self, kind: u16, body: &[u8]) -> Vec<Message> {
        self.send(kind, DUMP, body);
        let mut all = Vec::new();
        loop {
            for message in self.receive() {
                match message.0 {
                    3 => return all,
                    2 => panic!("the dump failed"),
                    _ => all.push(message),
                }
            }
        }
    }
}

fn attribute(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + data.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn find(mut rest: &[u8], kind: u16) -> Option<&[u8]> {
    while rest.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        if u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff == kind {
            return Some(&rest[4..len]);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn ifinfo(index: u32, flags: u32, mask: u32) -> Vec<u8> {
    [0, index, flags, mask].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn link(index: u32, flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    [ifinfo(index, flags, flags), attributes.concat()].concat()
}

fn index_of(netlink: &Netlink, name: &str) -> Option<u32> {
    let links = netlink.dump(GETLINK, &ifinfo(0, 0, 0));
    links.iter().find_map(|(_, body)| {
        let there = find(&body[16..], 3)?;
        (there == format!("{name}\0").as_bytes())
            .then(|| u32::from_ne_bytes(body[4..8].try_into().unwrap()))
    })
}

/// The rules that every namespace begins with: the tables `local`, `main`, and of IPv4 `default`.
fn rules(netlink: &Netlink) {
    const KERNEL: u8 = 2;
    let rule = |family: i32, table: u8, priority: u32| {
        let mut body = vec![family as u8, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0];
        body.extend(attribute(15, &u32::from(table).to_ne_bytes()));
        body.extend(attribute(14, &u32::MAX.to_ne_bytes()));
        body.extend(attribute(21, &[KERNEL]));
        if priority != 0 {
            body.extend(attribute(6, &priority.to_ne_bytes()));
        }
        (NEWRULE, body)
    };
    let rules_of = |family: i32| netlink.dump(GETRULE, &[[family as u8, 0, 0, 0]; 3].concat());
    let v4 = libc::AF_INET;
    let v4 = [rule(v4, 255, 0), rule(v4, 254, 32766), rule(v4, 253, 32767)];
    let v6 = [rule(libc::AF_INET6, 255, 0), rule(libc::AF_INET6, 254, 32766)];
    check_eq!(rules_of(libc::AF_INET), v4);
    check_eq!(rules_of(libc::AF_INET6), v6);
    let all = rules_of(libc::AF_UNSPEC);
    check!(v4.iter().chain(&v6).all(|rule| all.contains(rule)));
    netlink.send(GETRULE, 0, &[0; 12]);
    let refused = netlink.receive();
    check_eq!(refused[0].0, 2);
    check_eq!(refused[0].1[..4], (-libc::EOPNOTSUPP).to_ne_bytes());
}

fn loopback(netlink: &Netlink) {
    check_eq!(index_of(netlink, "lo"), Some(1));
    check_eq!(netlink.change(NEWLINK, 0, &link(1, IFF_UP, &[])), 0);
    let addresses = netlink.dump(GETADDR, &[libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0]);
    check!(addresses.iter().any(|(_, body)| find(&body[8..], 2) == Some(&[127, 0, 0, 1])));
    // An address of our own, and its refusals.
    let mut body = vec![libc::AF_INET as u8, 24, 0, 0];
    body.extend(1_u32.to_ne_bytes());
    let ours =
        [body.clone(), attribute(2, &[10, 77, 0, 1]), attribute(1, &[10, 77, 0, 1])].concat();
    check_eq!(netlink.change(NEWADDR, CREATE | EXCL, &ours), 0);
    check_eq!(netlink.change(NEWADDR, CREATE | EXCL, &ours), libc::EEXIST);
    let socket = std::net::UdpSocket::bind("10.77.0.1:0").unwrap();
    socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    let mut wrong = ours.clone();
    wrong[4] = 99;
    check_eq!(netlink.change(NEWADDR, CREATE, &wrong), libc::ENODEV);
    check_eq!(netlink.change(21, 0, &ours), 0);
    check_eq!(netlink.change(21, 0, &ours), libc::EADDRNOTAVAIL);
    // No such device, no such type, no such right.
    check_eq!(netlink.change(GETLINK, 0, &ifinfo(77, 0, 0)), libc::ENODEV);
    wait_ok(child(|| {
        // SAFETY: no memory involved.
        ok(unsafe { libc::setuid(1000) });
        let netlink = Netlink::open(0, 0);
        check_eq!(netlink.change(NEWLINK, 0, &link(1, 0, &[])), libc::EPERM);
        check_eq!(index_of(&netlink, "lo"), Some(1));
        0
    }));
    // SAFETY: no memory involved.
    let unknown = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 31) };
    check_eq!(err(unknown), libc::EPROTONOSUPPORT);
    // SAFETY: no memory involved.
    let stream = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_STREAM, 0) };
    check_eq!(err(stream), libc::ESOCKTNOSUPPORT);
    Netlink::open(15, 1);
}

fn route(dst: &[u8; 4], len: u8, oif: u32, gateway: Option<[u8; 4]>) -> Vec<u8> {
    let mut body = vec![libc::AF_INET as u8, len, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    if gateway.is_none() {
        body[6] = 253;
    }
    body.extend(attribute(1, dst));
    body.extend(attribute(4, &oif.to_ne_bytes()));
    body.extend(gateway.map_or(Vec::new(), |gateway| attribute(5, &gateway)));
    body
}

/// A pair of devices; false if the kernel has none.
fn pair(netlink: &Netlink) -> bool {
    let events = Netlink::open(0, 1);
    let peer = [ifinfo(0, 0, 0), attribute(3, b"right\0")].concat();
    let info = [attribute(1, b"veth\0"), attribute(2, &attribute(1, &peer))].concat();
    let body = link(0, 0, &[attribute(3, b"left\0"), attribute(18, &info)]);
    let error = netlink.change(NEWLINK, CREATE | EXCL, &body);
    if error == libc::EOPNOTSUPP {
        return false;
    }
    check_eq!(error, 0);
    check_eq!(netlink.change(NEWLINK, CREATE | EXCL, &body), libc::EEXIST);
    check!(events.receive().iter().all(|(kind, _)| *kind == NEWLINK));
    let left = index_of(netlink, "left").unwrap();
    let right = index_of(netlink, "right").unwrap();
    for index in [left, right] {
        check_eq!(netlink.change(NEWLINK, 0, &link(index, IFF_UP, &[])), 0);
    }
    // A frame from one end comes out of the other.
    // SAFETY: every buffer is valid.
    unsafe {
        let fd = ok(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0x88b5_u16.to_be().into()));
        let mut name: libc::sockaddr_ll = std::mem::zeroed();
        name.sll_family = libc::AF_PACKET as u16;
        name.sll_protocol = 0x88b5_u16.to_be();
        name.sll_ifindex = right as i32;
        ok(libc::bind(fd, (&raw const name).cast(), size_of_val(&name) as u32));
        let mut frame = [0xff_u8; 60];
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        name.sll_ifindex = left as i32;
        let sent = libc::sendto(fd, frame.as_ptr().cast(), 60, 0, (&raw const name).cast(), 20);
        check_eq!(sent, 60);
        let mut buf = [0_u8; 100];
        check_eq!(libc::recv(fd, buf.as_mut_ptr().cast(), 100, 0), 60);
        check_eq!(&buf[..60], &frame);
        libc::close(fd);
    }
    // An address brings a route to its network; others are added.
    let mut body = vec![libc::AF_INET as u8, 24, 0, 0];
    body.extend(left.to_ne_bytes());
    body.extend([attribute(2, &[10, 78, 0, 1]), attribute(1, &[10, 78, 0, 1])].concat());
    check_eq!(netlink.change(NEWADDR, CREATE | EXCL, &body), 0);
    check_eq!(
        netlink.change(
            NEWROUTE,
            CREATE | EXCL,
            &route(&[10, 79, 0, 0], 16, left, Some([10, 78, 0, 2]))
        ),
        0
    );
    check_eq!(
        netlink.change(
            NEWROUTE,
            CREATE | EXCL,
            &route(&[10, 79, 0, 0], 16, left, Some([10, 78, 0, 2]))
        ),
        libc::EEXIST
    );
    check_eq!(
        netlink.change(
            NEWROUTE,
            CREATE | EXCL,
            &route(&[10, 80, 0, 0], 16, left, Some([10, 99, 0, 2]))
        ),
        libc::ENETUNREACH
    );
    let routes = netlink.dump(GETROUTE, &[libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let has = |dst: [u8; 4], gateway: Option<&[u8]>| {
        routes
            .iter()
            .any(|(_, body)| find(&body[12..], 1) == Some(&dst) && find(&body[12..], 5) == gateway)
    };
    check!(has([10, 78, 0, 0], None));
    check!(has([10, 79, 0, 0], Some(&[10, 78, 0, 2])));
    let table = std::fs::read_to_string("/proc/net/route").unwrap();
    check!(table.contains("left\t00004F0A\t02004E0A\t0003"), "{table}");
    check_eq!(netlink.change(DELROUTE, 0, &route(&[10, 79, 0, 0], 16, left, None)), 0);
    check_eq!(netlink.change(DELROUTE, 0, &route(&[10, 79, 0, 0], 16, left, None)), libc::ESRCH);
    // Nobody is there: after some questions, the host is unreachable.
    let socket = std::net::TcpStream::connect_timeout(
        &"10.78.0.9:1".parse().unwrap(),
        std::time::Duration::from_secs(20),
    );
    check_eq!(socket.unwrap_err().raw_os_error(), Some(libc::EHOSTUNREACH));
    check_eq!(netlink.change(DELLINK, 0, &link(left, 0, &[])), 0);
    check_eq!(index_of(netlink, "right"), None);
    true
}

fn sockets() {
    let listener = std::net::TcpListener::bind("127.0.0.1:4444").unwrap();
    let netlink = Netlink::open(4, 0);
    let mut body = vec![libc::AF_INET as u8, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend((1_u32 << 10).to_ne_bytes());
    body.resize(56, 0);
    let listeners = netlink.dump(20, &body);
    check!(listeners.iter().any(|(_, body)| body[4..6] == 4444_u16.to_be_bytes()));
    drop(listener);
}

fn main() {
    let netlink = Netlink::open(0, 0);
    rules(&netlink);
    loopback(&netlink);
    let ours = !std::fs::read_to_string("/proc/version").unwrap().contains("Debian");
    if pair(&netlink) {
        sockets();
    } else {
        check!(!ours, "our kernel has veth pairs");
    }
}
