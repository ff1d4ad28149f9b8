//! The network device, over a pair of sockets that keep packets apart as a tap does.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use virtio_bindings::virtio_mmio::*;

use crate::devices::MmioDevice;
use crate::devices::virtio::Net;
use crate::devices::virtio::net::{Error, Tap};
use crate::devices::virtio::synthetic::{Buffer, DATA, Guest, Ring};

const RX: usize = 0;
const TX: usize = 1;
const MAC: [u8; 6] = [2, 0x42, 0x4a, 1, 2, 3];

fn network() -> (Guest, Vec<Ring>, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (tap, peer) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let mut guest = Guest::new(|report| Box::new(Net::with_packets(tap, "tap-test", MAC, report)));
    let rings = guest.start(0, 16);
    // The tap's own calls fail on a socket; that is told, and not what is tested.
    guest.said();
    (guest, rings, peer)
}

fn packet(peer: impl AsFd) -> Option<Vec<u8>> {
    let mut packet = vec![0; 70_000];
    let count = rustix::io::read(peer, &mut packet[..]).ok()?;
    packet.truncate(count);
    Some(packet)
}

#[test]
fn configuration_says_address_and_link() {
    let (mut guest, _, _peer) = network();
    let mut config = [0; 12];
    guest.mmio.read(VIRTIO_MMIO_CONFIG.into(), &mut config);
    assert_eq!(config, [2, 0x42, 0x4a, 1, 2, 3, 1, 0, 0, 0, 0xdc, 5]);
}

#[test]
fn frames_leave_with_their_header() {
    let (mut guest, mut rings, peer) = network();
    guest.put(DATA, &[7; 12 + 60]);
    rings[TX].add(&[Buffer::Read(DATA, 12), Buffer::Read(DATA + 12, 60)]);
    guest.kick(&rings[TX]);
    assert_eq!(packet(&peer), Some(vec![7; 72]));
    assert_eq!(rings[TX].used(), Some((0, 0)));
}

#[test]
fn frames_arrive_in_one_buffer_each() {
    let (mut guest, mut rings, peer) = network();
    rings[RX].add(&[Buffer::Write(DATA, 1526)]);
    rings[RX].add(&[Buffer::Write(DATA + 0x1000, 1526)]);
    guest.kick(&rings[RX]);
    rustix::io::write(&peer, &[9; 72]).unwrap();
    guest.turn();
    assert_eq!(rings[RX].used(), Some((0, 72)));
    let frame = guest.get(DATA, 72);
    assert_eq!(frame[10..12], [1, 0], "one buffer");
    assert_eq!(frame[12..], [9; 60]);
    // Those that find no buffer wait.
    for fill in [1, 2, 3] {
        rustix::io::write(&peer, &[fill; 80]).unwrap();
    }
    guest.turn();
    assert_eq!(rings[RX].used(), Some((1, 80)));
    assert_eq!(guest.turn(), 0, "waiting costs nothing");
    rings[RX].add(&[Buffer::Write(DATA, 1526)]);
    guest.kick(&rings[RX]);
    assert_eq!(rings[RX].used(), Some((2, 80)));
    assert_eq!(guest.get(DATA + 12, 68), [2; 68]);
}

#[test]
fn frame_larger_than_the_buffer_is_dropped_not_cut() {
    let (mut guest, mut rings, peer) = network();
    rings[RX].add(&[Buffer::Write(DATA, 100)]);
    guest.kick(&rings[RX]);
    rustix::io::write(&peer, &[1; 101]).unwrap();
    rustix::io::write(&peer, &[2; 100]).unwrap();
    guest.turn();
    assert_eq!(rings[RX].used(), Some((0, 100)));
    assert_eq!(guest.get(DATA + 12, 88), [2; 88]);
}

#[test]
fn frames_too_short_or_too_long_are_dropped() {
    let (mut guest, mut rings, peer) = network();
    for length in [0, 11, 12 + 65_536 + 19] {
        rings[TX].add(&[Buffer::Read(DATA, length)]);
        guest.kick(&rings[TX]);
        assert!(rings[TX].used().is_some());
    }
    assert_eq!(packet(&peer), None);
    assert!(!guest.needs_reset());
}

#[test]
fn receive_buffer_without_room_for_a_header_breaks_the_queue() {
    let (mut guest, mut rings, peer) = network();
    rings[RX].add(&[Buffer::Write(DATA, 11)]);
    guest.kick(&rings[RX]);
    rustix::io::write(&peer, &[1; 64]).unwrap();
    guest.turn();
    assert!(guest.needs_reset());
}

#[test]
fn tap_that_goes_away_takes_the_link_down_in_one_line() {
    let (mut guest, mut rings, peer) = network();
    rings[RX].add(&[Buffer::Write(DATA, 1526)]);
    guest.kick(&rings[RX]);
    drop(peer);
    guest.turn();
    assert_eq!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    assert_eq!(guest.read(VIRTIO_MMIO_CONFIG_GENERATION), 1);
    let mut status = [1; 2];
    guest.mmio.read(VIRTIO_MMIO_CONFIG as u64 + 6, &mut status);
    assert_eq!(status, [0, 0]);
    let said = guest.said();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("network tap-test: the tap is gone"), "{said:?}");
    assert_eq!(guest.turn(), 0, "and it stays quiet");
    for _ in 0..50 {
        rings[TX].add(&[Buffer::Read(DATA, 72)]);
        guest.kick(&rings[TX]);
        assert!(rings[TX].used().is_some(), "the guest is not held up");
    }
    assert!(guest.said().is_empty());
}

#[test]
fn bad_tap_names_are_refused() {
    for name in ["", "sixteen-letters!", "a/b", "a b", "tap%d"] {
        assert!(matches!(Tap::open(name), Err(Error::Name(_))), "{name:?}");
    }
}

/// Addresses for documentation (RFC 5737), which no network has.
const HOST: &str = "198.51.100.1/24";
const GUEST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 51, 100, 2);

/// A real tap, where this process may make one (CAP_NET_ADMIN): it goes with its descriptor.
#[test]
fn real_tap_carries_frames_until_it_is_deleted() {
    let name = format!("bj{}", std::process::id());
    let ip = |args: &[&str]| {
        let status = std::process::Command::new("ip").args(args).status();
        status.is_ok_and(|status| status.success())
    };
    let tap = match Tap::open(&name) {
        Ok(tap) => tap,
        Err(why) => {
            assert!(matches!(why, Error::Device(_) | Error::Attach { .. }), "{why}");
            return;
        }
    };
    assert_eq!((tap.name(), tap.mtu()), (&*name, 1500));
    if !ip(&["address", "add", HOST, "dev", &name]) || !ip(&["link", "set", &name, "up"]) {
        return;
    }
    let mut guest = Guest::new(|report| Box::new(Net::open(&tap, MAC, report).unwrap()));
    drop(tap);
    let mut rings = guest.start(0, 256);
    assert_eq!(guest.said(), [""; 0], "offloads are as negotiated");
    let count = |what: &str| {
        let text = std::fs::read_to_string(format!("/sys/class/net/{name}/statistics/{what}"));
        text.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = count("rx_packets");
    // To everybody, from us, of a protocol for local experiments (IEEE 802).
    let mut frame = vec![0; 12];
    frame.extend([0xff; 6].iter().chain(&MAC).chain(&[0x88, 0xb5]));
    frame.resize(12 + 60, 0);
    guest.put(DATA, &frame);
    rings[TX].add(&[Buffer::Read(DATA, 12), Buffer::Read(DATA + 12, 60)]);
    guest.kick(&rings[TX]);
    assert!(rings[TX].used().is_some());
    assert_eq!(count("rx_packets"), before + 1);

    // A datagram of the host asks for the guest's address first: that is what arrives. It is told which
    // way to go, in case that the host has these addresses elsewhere too.
    let host = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: SO_BINDTODEVICE reads a name of that length.
    let bound = unsafe {
        let (name, len) = (name.as_ptr().cast(), name.len() as u32);
        libc::setsockopt(host.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name, len)
    };
    assert_eq!(bound, 0);
    host.send_to(b"to the guest", (GUEST, 9)).unwrap();
    let mut asked = false;
    for i in 0..64 {
        let at = DATA + 0x1000 + i % 8 * 0x800;
        rings[RX].add(&[Buffer::Write(at, 1526)]);
        guest.kick(&rings[RX]);
        guest.turn();
        let Some((_, length)) = rings[RX].used() else {
            // What the host's kernel has to say by itself comes before.
            std::thread::sleep(std::time::Duration::from_millis(50));
            continue;
        };
        let frame = guest.get(at, length as usize);
        asked |= frame.get(24..26) == Some(&[8, 6]) && frame.get(50..54) == Some(&GUEST.octets());
        if asked {
            break;
        }
    }
    assert!(asked, "the host asked who has the guest's address");

    rings[RX].add(&[Buffer::Write(DATA + 0x1000, 1526)]);
    guest.kick(&rings[RX]);
    assert!(ip(&["link", "delete", &name]));
    guest.turn();
    rings[TX].add(&[Buffer::Read(DATA, 72)]);
    guest.kick(&rings[TX]);
    let said = guest.said();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("the tap is gone"), "{said:?}");
    assert_eq!(guest.turn(), 0);
}
