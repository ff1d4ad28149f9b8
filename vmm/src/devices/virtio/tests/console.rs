//! The terminal and the ports with names.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_STATUS};

use crate::devices::MmioDevice;
use crate::devices::virtio::synthetic::{Buffer, DATA, Guest, Ring};
use crate::devices::virtio::{Console, Port};

const MULTIPORT: u64 = 1 << 1;
/// Queues: port 0, control, port 1; towards the guest first.
const RX0: usize = 0;
const TX0: usize = 1;
const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;
const RX1: usize = 4;
const TX1: usize = 5;

struct Fixture {
    guest: Guest,
    rings: Vec<Ring>,
    terminal: UnixStream,
    control: UnixStream,
}

impl Fixture {
    fn new(without: u64) -> Self {
        let ((terminal, console), (control, named)) =
            (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        terminal.set_nonblocking(true).unwrap();
        control.set_nonblocking(true).unwrap();
        let ports = vec![
            Port::console(console).unwrap(),
            Port::named("org.belljar.control", named).unwrap(),
        ];
        let mut guest = Guest::new(|_| Box::new(Console::new(ports, Some((132, 43)))));
        let rings = guest.start(without, 16);
        Self { guest, rings, terminal, control }
    }

    /// Both ports ready and open.
    fn open() -> Self {
        let mut fixture = Self::new(0);
        fixture.offer_control(16);
        for (port, event) in [(0, 0), (0, 3), (1, 3), (0, 6), (1, 6)] {
            fixture.say(port, event, 1);
        }
        assert_eq!(fixture.heard().len(), 7, "the other buffers stay with the device");
        assert!(!fixture.guest.needs_reset());
        fixture
    }

    fn offer_control(&mut self, count: u64) {
        for at in 0..count {
            self.rings[CONTROL_RX].add(&[Buffer::Write(DATA + at * 64, 64)]);
        }
        self.guest.kick(&self.rings[CONTROL_RX]);
    }

    fn say(&mut self, port: u32, event: u16, value: u16) {
        let at = DATA + 0x1000;
        self.guest.put(at, &port.to_le_bytes());
        self.guest.put(at + 4, &event.to_le_bytes());
        self.guest.put(at + 6, &value.to_le_bytes());
        self.rings[CONTROL_TX].add(&[Buffer::Read(at, 8)]);
        self.guest.kick(&self.rings[CONTROL_TX]);
        assert!(self.rings[CONTROL_TX].used().is_some());
    }

    /// What the device said: port, event, value, and what follows.
    fn heard(&mut self) -> Vec<(u32, u16, u16, Vec<u8>)> {
        let mut heard = vec![];
        while let Some((head, length)) = self.rings[CONTROL_RX].used() {
            let bytes = self.guest.get(DATA + u64::from(head) * 64, length as usize);
            heard.push((
                u32::from_le_bytes(bytes[..4].try_into().unwrap()),
                u16::from_le_bytes(bytes[4..6].try_into().unwrap()),
                u16::from_le_bytes(bytes[6..8].try_into().unwrap()),
                bytes[8..].to_vec(),
            ));
        }
        heard
    }

    fn print(&mut self, queue: usize, text: &[u8]) {
        self.guest.put(DATA + 0x2000, text);
        self.rings[queue].add(&[Buffer::Read(DATA + 0x2000, text.len() as u32)]);
        self.guest.kick(&self.rings[queue]);
    }
}

fn read(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    match stream.read(&mut bytes) {
        Ok(count) => bytes.truncate(count),
        Err(_) => bytes.clear(),
    }
    bytes
}

#[test]
fn configuration_says_size_and_ports() {
    let mut fixture = Fixture::new(0);
    let mut config = [0; 8];
    fixture.guest.mmio.read(VIRTIO_MMIO_CONFIG.into(), &mut config);
    assert_eq!(config, [132, 0, 43, 0, 2, 0, 0, 0]);
}

#[test]
fn ports_are_added_named_and_opened() {
    let mut fixture = Fixture::new(0);
    fixture.offer_control(16);
    assert!(fixture.heard().is_empty(), "nothing before the driver is ready");
    fixture.say(0, 0, 1);
    assert_eq!(fixture.heard(), [(0, 1, 1, vec![]), (1, 1, 1, vec![])]);
    fixture.say(1, 3, 1);
    let name = b"org.belljar.control\0".to_vec();
    assert_eq!(fixture.heard(), [(1, 7, 1, name), (1, 6, 1, vec![])]);
    fixture.say(0, 3, 1);
    let size = vec![132, 0, 43, 0];
    assert_eq!(fixture.heard(), [(0, 4, 1, vec![]), (0, 5, 0, size), (0, 6, 1, vec![])]);
}

#[test]
fn what_is_untold_waits_for_room_and_does_not_pile_up() {
    let mut fixture = Fixture::new(0);
    for _ in 0..1000 {
        fixture.say(0, 0, 1);
        fixture.say(1, 3, 1);
        fixture.say(77, 3, 1);
    }
    fixture.offer_control(2);
    assert_eq!(fixture.heard().len(), 2);
    fixture.offer_control(14);
    assert_eq!(fixture.heard().len(), 2, "four messages in all");
}

#[test]
fn output_reaches_the_host_byte_by_byte() {
    let mut fixture = Fixture::open();
    fixture.print(TX0, b"x");
    assert_eq!(read(&mut fixture.terminal), b"x");
    fixture.print(TX1, b"BJCM");
    assert_eq!(read(&mut fixture.control), b"BJCM");
    assert_eq!(read(&mut fixture.terminal), b"");
    assert_eq!(fixture.rings[TX0].used(), Some((0, 0)));
}

#[test]
fn input_reaches_the_guest_only_once_it_opened_the_port() {
    let mut fixture = Fixture::new(0);
    fixture.rings[RX1].add(&[Buffer::Write(DATA + 0x3000, 4)]);
    fixture.rings[RX1].add(&[Buffer::Write(DATA + 0x3100, 64)]);
    fixture.guest.kick(&fixture.rings[RX1]);
    fixture.control.write_all(b"hello").unwrap();
    fixture.guest.turn();
    assert_eq!(fixture.rings[RX1].used(), None);
    fixture.say(1, 6, 1);
    assert_eq!(fixture.rings[RX1].used(), Some((0, 4)));
    assert_eq!(fixture.rings[RX1].used(), Some((1, 1)));
    assert_eq!(fixture.guest.get(DATA + 0x3000, 4), b"hell");
    assert_eq!(fixture.guest.get(DATA + 0x3100, 1), b"o");
    fixture.say(1, 6, 0);
    fixture.control.write_all(b"again").unwrap();
    fixture.rings[RX1].add(&[Buffer::Write(DATA, 64)]);
    fixture.guest.kick(&fixture.rings[RX1]);
    assert_eq!(fixture.rings[RX1].used(), None);
}

#[test]
fn driver_without_multiport_has_the_terminal() {
    let mut fixture = Fixture::new(MULTIPORT);
    fixture.print(TX0, b"plain");
    assert_eq!(read(&mut fixture.terminal), b"plain");
    fixture.terminal.write_all(b"typed").unwrap();
    fixture.rings[RX0].add(&[Buffer::Write(DATA, 64)]);
    fixture.guest.kick(&fixture.rings[RX0]);
    assert_eq!(fixture.rings[RX0].used(), Some((0, 5)));
    fixture.print(TX1, b"nobody");
    assert_eq!(fixture.rings[TX1].used(), None);
}

#[test]
fn slow_reader_holds_the_guest_up_and_loses_nothing() {
    let mut fixture = Fixture::open();
    let (mut sent, mut got) = (Vec::<u8>::new(), vec![]);
    let mut next = 0u8;
    let mut chunk = || {
        let bytes = (0..50_000).map(|_| {
            next = next.wrapping_mul(31).wrapping_add(7);
            next
        });
        bytes.collect::<Vec<_>>()
    };
    // Until the socket is full and one request is stuck half-way.
    loop {
        let text = chunk();
        sent.extend(&text);
        fixture.print(TX0, &text);
        if fixture.rings[TX0].used().is_none() {
            break;
        }
    }
    assert_eq!(fixture.guest.turn(), 0, "waiting costs nothing");
    while got.len() < sent.len() {
        got.extend(read(&mut fixture.terminal));
        fixture.guest.turn();
    }
    assert!(fixture.rings[TX0].used().is_some());
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
}

#[test]
fn slow_guest_holds_the_writer_up_and_loses_nothing() {
    let mut fixture = Fixture::open();
    let text = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect::<Vec<_>>();
    let (mut from, mut got) = (0, vec![]);
    while got.len() < text.len() {
        while let Ok(count) = fixture.terminal.write(&text[from..])
            && count > 0
        {
            from += count;
        }
        assert!(!got.is_empty() || from < text.len(), "the socket takes only so much");
        assert_eq!(fixture.guest.turn(), 0, "waiting costs nothing");
        for _ in 0..4 {
            fixture.rings[RX0].add(&[Buffer::Write(DATA + 0x8000, 7000)]);
            fixture.guest.kick(&fixture.rings[RX0]);
            let (_, length) = fixture.rings[RX0].used().unwrap();
            got.extend(fixture.guest.get(DATA + 0x8000, length as usize));
            if got.len() == text.len() {
                break;
            }
        }
    }
    assert!(got == text);
}

#[test]
fn reset_in_the_middle_of_a_request_starts_afresh() {
    let mut fixture = Fixture::open();
    while {
        fixture.print(TX0, &[b'a'; 60_000]);
        fixture.rings[TX0].used().is_some()
    } {}
    fixture.guest.write(VIRTIO_MMIO_STATUS, 0);
    while !read(&mut fixture.terminal).is_empty() {}
    fixture.guest.turn();
    assert_eq!(read(&mut fixture.terminal), b"", "nothing more of the old request");
    fixture.rings = fixture.guest.start(0, 16);
    fixture.print(TX0, b"new");
    assert_eq!(read(&mut fixture.terminal), b"new");
}

#[test]
fn host_that_hangs_up_is_told_to_the_guest_and_costs_nothing() {
    let mut fixture = Fixture::open();
    fixture.rings[RX1].add(&[Buffer::Write(DATA + 0x3000, 64)]);
    fixture.guest.kick(&fixture.rings[RX1]);
    fixture.control = UnixStream::pair().unwrap().0;
    fixture.guest.turn();
    assert_eq!(fixture.heard(), [(1, 6, 0, vec![])]);
    assert_eq!(fixture.guest.turn(), 0, "a closed socket does not make the loop spin");
    // Its output goes nowhere, and the guest is not held up.
    for _ in 0..100 {
        fixture.print(TX1, &[0; 1000]);
        assert!(fixture.rings[TX1].used().is_some());
    }
    fixture.print(TX0, b"still here");
    assert_eq!(read(&mut fixture.terminal), b"still here");
}

#[test]
fn end_of_input_leaves_the_output_open() {
    let mut fixture = Fixture::open();
    fixture.terminal.write_all(b"last").unwrap();
    fixture.terminal.shutdown(Shutdown::Write).unwrap();
    for _ in 0..2 {
        fixture.rings[RX0].add(&[Buffer::Write(DATA + 0x3000, 64)]);
    }
    fixture.guest.kick(&fixture.rings[RX0]);
    assert_eq!(fixture.rings[RX0].used(), Some((0, 4)));
    assert_eq!(fixture.rings[RX0].used(), None);
    assert_eq!(fixture.guest.turn(), 0);
    fixture.print(TX0, b"answer");
    assert_eq!(read(&mut fixture.terminal), b"answer");
    assert!(fixture.heard().is_empty());
}

#[test]
fn machine_that_ends_has_its_output_delivered_first() {
    let mut fixture = Fixture::open();
    while {
        fixture.print(TX0, &[b'a'; 60_000]);
        fixture.rings[TX0].used().is_some()
    } {}
    // The last line, of which the guest had no time to notify.
    fixture.guest.put(DATA + 0x2_0000, b"bye");
    fixture.rings[TX0].add(&[Buffer::Read(DATA + 0x2_0000, 3)]);
    let mut last = vec![];
    while !fixture.guest.handle.is_drained() {
        assert!(fixture.guest.turn() < 10, "it waits for its reader, and does not spin");
        let more = read(&mut fixture.terminal);
        last = if more.is_empty() { last } else { more };
    }
    let more = read(&mut fixture.terminal);
    last.extend(more);
    assert!(last.ends_with(b"bye"), "{last:?}");
}

#[test]
fn end_does_not_wait_for_an_end_that_hung_up() {
    let mut fixture = Fixture::open();
    while {
        fixture.print(TX0, &[b'a'; 60_000]);
        fixture.rings[TX0].used().is_some()
    } {}
    fixture.terminal = UnixStream::pair().unwrap().0;
    fixture.guest.turn();
    assert!(!fixture.guest.handle.is_drained(), "one last look");
    fixture.guest.turn();
    assert!(fixture.guest.handle.is_drained());
}
