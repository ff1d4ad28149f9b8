//! The ring of a packet socket: what comes stands in memory that is shared with the kernel, frame by frame, and
//! what finds no free one is counted (packet(7); Linux, Documentation/networking/packet_mmap.rst).

use std::mem::{size_of, zeroed};
use std::net::UdpSocket;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use belljar_guest_tests::{check, check_eq, err, net, ok};

const SOL_PACKET: i32 = 263;
const ADD_MEMBERSHIP: i32 = 1;
const RX_RING: i32 = 5;
const STATISTICS: i32 = 6;
const VERSION: i32 = 10;
const HDRLEN: i32 = 11;
const RESERVE: i32 = 12;
const VERSION_2: i32 = 1;
/// Bytes of `struct tpacket2_hdr`; a `struct sockaddr_ll` follows.
const HEADER: usize = 32;
const FRAME: usize = 2048;
const FRAMES: usize = 8;
const BLOCK: usize = 4096;
const OUTGOING: u8 = 4;
/// What every datagram of this program begins with, in front of its number.
const MARK: &[u8] = b"a datagram of its own ";

fn set(fd: i32, name: i32, words: &[u32]) -> i32 {
    let (value, len) = (words.as_ptr().cast(), size_of_val(words) as u32);
    // SAFETY: memory of that length.
    unsafe { libc::setsockopt(fd, SOL_PACKET, name, value, len) }
}

fn get<const N: usize>(fd: i32, name: i32, given: [u32; N]) -> Result<[u32; N], i32> {
    let (mut value, mut len) = (given, size_of::<[u32; N]>() as u32);
    // SAFETY: memory of that length.
    let result =
        unsafe { libc::getsockopt(fd, SOL_PACKET, name, value.as_mut_ptr().cast(), &raw mut len) };
    if result < 0 { Err(belljar_guest_tests::errno()) } else { Ok(value) }
}

/// A ring of [`FRAMES`] frames.
fn request() -> [u32; 4] {
    [BLOCK, FRAME * FRAMES / BLOCK, FRAME, FRAMES].map(|n| n as u32)
}

fn is_readable(fd: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry.
    ok(unsafe { libc::poll(&raw mut poll, 1, 0) }) == 1
}

struct Ring {
    fd: i32,
    memory: *mut u8,
    next: usize,
}

impl Ring {
    fn status(&self, frame: usize) -> &AtomicU32 {
        // SAFETY: the first word of a frame of the mapping, which stays.
        unsafe { &*self.memory.add(frame * FRAME).cast() }
    }

    /// The number of the next datagram of ours that came in, and gives its frame back; none if there is none.
    fn take(&mut self) -> Option<u8> {
        let frame = self.next;
        if self.status(frame).load(Ordering::Acquire) & 1 == 0 {
            return None;
        }
        // SAFETY: the frame is ours until its status says otherwise.
        let bytes = unsafe { std::slice::from_raw_parts(self.memory.add(frame * FRAME), FRAME) };
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let half = |at: usize| usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        let (len, kept, mac, net) = (word(4), word(8) as usize, half(12), half(14));
        check_eq!(len as usize, kept);
        check_eq!(net - mac, 14);
        // Where a frame's packet stands follows from what is in front of it.
        check_eq!(mac, 66 + 4);
        check!(word(16) > 1_000_000_000 && word(20) < 1_000_000_000);
        check_eq!(half(HEADER), libc::AF_PACKET as usize);
        let (kind, packet) = (bytes[HEADER + 10], bytes[mac..mac + kept].to_vec());
        self.status(frame).store(0, Ordering::Release);
        self.next = (frame + 1) % FRAMES;
        let data = &packet[14 + 20 + 8..];
        check!(kind != OUTGOING, "who asks for one protocol sees what comes only");
        check_eq!(packet[12..14], [8, 0]);
        check!(data.starts_with(MARK), "{data:?}");
        Some(data[MARK.len()])
    }
}

fn send(socket: &UdpSocket, number: u8) {
    let to = socket.local_addr().unwrap();
    check_eq!(socket.send_to(&[MARK, &[number]].concat(), to).unwrap(), MARK.len() + 1);
}

fn main() {
    net::set_loopback(true);
    let protocol = u16::to_be(libc::ETH_P_IP as u16);
    // SAFETY: plain calls.
    let fd = ok(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol)) });
    // SAFETY: a valid string.
    let index = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
    // SAFETY: a valid address of that length.
    ok(unsafe {
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        libc::bind(fd, (&raw const address).cast(), len)
    });

    // A ring must be there to be mapped, and its numbers must fit each other.
    let map_part = |len, from| {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping.
        unsafe { libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, fd, from) }
    };
    let map = || map_part(FRAME * FRAMES, 0);
    check_eq!(map(), libc::MAP_FAILED);
    check_eq!(belljar_guest_tests::errno(), libc::EINVAL);
    check_eq!(get(fd, HDRLEN, [VERSION_2 as u32]), Ok([HEADER as u32]));
    check_eq!(get(fd, HDRLEN, [77]), Err(libc::EINVAL));
    check_eq!(err(set(fd, VERSION, &[77])), libc::EINVAL);
    check_eq!(set(fd, VERSION, &[VERSION_2 as u32]), 0);
    check_eq!(set(fd, RESERVE, &[4]), 0);
    let [block, blocks, frame, frames] = request();
    for bad in [
        [0, blocks, frame, frames],
        [block + 1, blocks, frame, frames],
        [block, blocks, frame + 8, frames],
        [block, blocks, 48, block / 48 * blocks],
        [block, blocks, frame, frames + 1],
        [block, 0, frame, frames],
    ] {
        check_eq!(err(set(fd, RX_RING, &bad)), libc::EINVAL, "{bad:?}");
    }
    check_eq!(set(fd, ADD_MEMBERSHIP, &[index, 1, 0, 0]), 0);
    check_eq!(err(set(fd, ADD_MEMBERSHIP, &[77_777, 1, 0, 0])), libc::ENODEV);

    check_eq!(set(fd, RX_RING, &request()), 0);
    check_eq!(err(set(fd, RX_RING, &request())), libc::EBUSY);
    check_eq!(err(set(fd, VERSION, &[VERSION_2 as u32])), libc::EBUSY);
    // All of it is mapped or nothing.
    for (len, from) in [(BLOCK, 0), (FRAME * FRAMES + BLOCK, 0), (FRAME * FRAMES, BLOCK as i64)] {
        check_eq!(map_part(len, from), libc::MAP_FAILED);
        check_eq!(belljar_guest_tests::errno(), libc::EINVAL);
    }
    let memory = map();
    check!(memory != libc::MAP_FAILED);
    // SAFETY: the mapping, which stays whole.
    check_eq!(err(unsafe { libc::madvise(memory, BLOCK, libc::MADV_REMOVE) }), libc::ENODEV);
    check_eq!(err(set(fd, RX_RING, &[0; 4])), libc::EBUSY);
    let mut ring = Ring { fd, memory: memory.cast(), next: 0 };
    ok(get(fd, STATISTICS, [0; 2]).map_or(-1, |_| 0));

    // Round and round, one at a time.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    check!(!is_readable(ring.fd));
    for number in 0..3 * FRAMES as u8 {
        send(&socket, number);
        check!(is_readable(ring.fd));
        check_eq!(ring.take(), Some(number));
        check_eq!(ring.take(), None);
        check!(!is_readable(ring.fd));
    }
    // More than there is room for: the first stay, and the loss is counted, and told until it was asked for.
    get(fd, STATISTICS, [0; 2]).unwrap();
    for number in 0..2 * FRAMES as u8 {
        send(&socket, number);
    }
    for number in 0..FRAMES as u8 {
        check_eq!(ring.take(), Some(number));
    }
    check_eq!(ring.take(), None);
    const LOSING: u32 = 4;
    let is_losing = |ring: &Ring| ring.status(ring.next).load(Ordering::Acquire) & LOSING != 0;
    send(&socket, 99);
    check!(is_losing(&ring));
    check_eq!(ring.take(), Some(99));
    check_eq!(get(fd, STATISTICS, [0; 2]), Ok([2 * FRAMES as u32 + 1, FRAMES as u32]));
    check_eq!(get(fd, STATISTICS, [0; 2]), Ok([0, 0]));
    send(&socket, 100);
    check!(!is_losing(&ring));
    check_eq!(ring.take(), Some(100));

    // SAFETY: the mapping from above, of which nothing is used any more.
    ok(unsafe { libc::munmap(memory, FRAME * FRAMES) });
    check_eq!(set(fd, RX_RING, &[0; 4]), 0);

    // Of a socket that is closed the ring stays as long as it is mapped.
    check_eq!(set(fd, RX_RING, &request()), 0);
    let memory = map();
    check!(memory != libc::MAP_FAILED);
    // SAFETY: a descriptor of ours, and the mapping from above.
    unsafe {
        ok(libc::close(fd));
        memory.cast::<u32>().write_volatile(1);
        ok(libc::munmap(memory, FRAME * FRAMES));
    }
}
