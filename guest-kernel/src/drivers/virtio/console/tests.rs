//! The console driver against a device made by hand, honest and hostile.

use std::boxed::Box;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use virtio_drivers::transport::DeviceType;

use super::message::{Event, Message};
use super::port::RING;
use super::{Console, PORTS, TERMINAL};
use crate::drivers::virtio::Features;
use crate::drivers::virtio::testing::{Device, Fake};
use crate::mm::testing::setup;

type Shared = Arc<Mutex<Device>>;

/// A device with several ports, its driver started, port 0 and the control port announced.
fn started() -> (Shared, Box<Console<Fake>>) {
    setup();
    let features = Features::VERSION_1 | Features::CONSOLE_MULTIPORT;
    let config = [&[0; 4][..], &2u32.to_le_bytes(), &[0; 4]].concat();
    let device = Arc::new(Mutex::new(Device::new(features.bits(), config)));
    let console = Console::try_new(Fake(device.clone(), DeviceType::Console)).unwrap();
    assert_eq!(said(&device), [(0, Event::DeviceReady, 1)]);
    (device, console)
}

/// The messages that the driver sent.
fn said(device: &Shared) -> Vec<(u32, Event, u16)> {
    let mut device = device.lock().unwrap();
    let mut all = vec![];
    while let Some(offer) = device.take(3) {
        let (message, rest) = Message::decode(&offer.read).expect("a message");
        assert!(rest.is_empty());
        all.push((message.port, message.event, message.value));
        device.give(3, &offer, &[]);
    }
    all
}

fn tell(device: &Shared, port: u32, event: Event, value: u16, rest: &[u8]) {
    let mut device = device.lock().unwrap();
    let offer = device.take(2).expect("the driver offers buffers for messages");
    let bytes = [&Message { port, event, value }.encode()[..], rest].concat();
    device.give(2, &offer, &bytes);
}

/// What the device reads of a port's output, giving every piece back.
fn output(device: &Shared, queue: usize) -> Vec<u8> {
    let mut device = device.lock().unwrap();
    let mut all = vec![];
    while let Some(offer) = device.take(queue) {
        all.extend(&offer.read);
        device.give(queue, &offer, &[]);
    }
    all
}

fn type_in(device: &Shared, queue: usize, bytes: &[u8]) {
    let mut device = device.lock().unwrap();
    let offer = device.take(queue).expect("the driver offers buffers for input");
    device.give(queue, &offer, bytes);
}

#[test]
fn ports_are_opened_as_the_device_announces_them() {
    let (device, console) = started();
    console.open(TERMINAL);
    assert_eq!(said(&device), [], "nothing is opened that is not there");
    tell(&device, 0, Event::PortAdd, 0, &[]);
    tell(&device, 1, Event::PortAdd, 0, &[]);
    tell(&device, 9, Event::PortAdd, 0, &[]);
    console.find_news();
    let expected = [
        (0, Event::PortReady, 1),
        (0, Event::PortOpen, 1),
        (1, Event::PortReady, 1),
        (9, Event::PortReady, 0),
    ];
    assert_eq!(said(&device), expected);
    assert_eq!(console.control_port(), None);
    tell(&device, 1, Event::PortName, 0, b"org.belljar.control");
    tell(&device, 1, Event::PortOpen, 1, &[]);
    tell(&device, 0, Event::Resize, 0, &[80, 0, 24, 0]);
    let news = console.find_news();
    assert_eq!((news.control, news.size), (true, Some((24, 80))));
    assert_eq!(said(&device), [(1, Event::PortOpen, 1)]);
    assert_eq!(console.control_port(), Some(1));
    assert!(console.is_connected(1) && !console.is_connected(0));
}

#[test]
fn a_named_terminal_is_used_where_there_is_no_port_0() {
    let (device, console) = started();
    console.open(TERMINAL);
    console.queue(TERMINAL, b"early");
    tell(&device, 1, Event::PortAdd, 0, &[]);
    tell(&device, 1, Event::PortName, 0, b"org.belljar.terminal");
    tell(&device, 1, Event::PortOpen, 1, &[]);
    console.find_news();
    assert_eq!(said(&device), [(1, Event::PortReady, 1), (1, Event::PortOpen, 1)]);
    assert!(console.is_connected(TERMINAL));
    // Queues 4 and 5 are those of the device's port 1.
    assert_eq!(output(&device, 5), b"early");
    type_in(&device, 4, b"typed");
    assert_eq!(console.find_news().input, 1 << TERMINAL);
    let mut typed = [0; 8];
    assert_eq!((console.take(TERMINAL, &mut typed), &typed[..5]), (5, &b"typed"[..]));
    // A second one of that name is none.
    tell(&device, 0, Event::PortAdd, 0, &[]);
    tell(&device, 0, Event::PortName, 0, b"org.belljar.terminal");
    console.find_news();
    console.queue(TERMINAL, b"late");
    console.start(TERMINAL);
    assert_eq!((output(&device, 1), output(&device, 5)), (vec![], b"late".to_vec()));
}

#[test]
fn one_write_is_one_notification_and_waits_for_its_port() {
    let (device, console) = started();
    assert_eq!(console.queue(TERMINAL, b"early "), 6);
    console.start(TERMINAL);
    assert_eq!(output(&device, 1), b"");
    tell(&device, 0, Event::PortAdd, 0, &[]);
    console.find_news();
    assert_eq!(output(&device, 1), b"early ");
    device.lock().unwrap().notified.clear();
    for piece in [&b"one "[..], b"write"] {
        console.queue(TERMINAL, piece);
    }
    console.start(TERMINAL);
    assert_eq!(device.lock().unwrap().notified, [1]);
    assert!(device.lock().unwrap().is_quiet(1), "nobody waits for it");
    assert_eq!(console.pending(TERMINAL), 9);
    assert_eq!(output(&device, 1), b"one write");
    assert_eq!(console.pending(TERMINAL), 0);
}

#[test]
fn small_pieces_go_on_without_interrupts() {
    let (device, console) = started();
    tell(&device, 0, Event::PortAdd, 0, &[]);
    console.find_news();
    let mut got = vec![];
    for byte in 0..100 {
        console.queue(TERMINAL, &[byte]);
        console.start(TERMINAL);
        got.extend(output(&device, 1));
    }
    assert_eq!(got, (0..100).collect::<Vec<u8>>());
    // A device that takes its time is asked to interrupt once there are no descriptors.
    for byte in 0..40 {
        console.queue(TERMINAL, &[byte]);
        console.start(TERMINAL);
    }
    assert!(!device.lock().unwrap().is_quiet(1));
    let mut got = output(&device, 1);
    console.find_news();
    got.extend(output(&device, 1));
    assert_eq!(got, (0..40).collect::<Vec<u8>>());
}

#[test]
fn a_full_ring_takes_no_more_until_the_device_did() {
    let (device, console) = started();
    tell(&device, 0, Event::PortAdd, 0, &[]);
    console.find_news();
    let long: Vec<u8> = (0..RING + 100).map(|i| (i % 251) as u8).collect();
    assert_eq!(console.queue(TERMINAL, &long), RING);
    console.start(TERMINAL);
    assert_eq!((console.room(TERMINAL), console.queue(TERMINAL, b"x")), (0, 0));
    console.watch(TERMINAL);
    assert!(!device.lock().unwrap().is_quiet(1), "somebody waits for room");
    let first = output(&device, 1);
    let news = console.find_news();
    assert_eq!((first.len(), news.sent & 1, console.room(TERMINAL)), (RING, 1, RING));
    // Around the end of the ring, and in more pieces than there are descriptors.
    for byte in &long[RING..] {
        console.queue(TERMINAL, &[*byte]);
        console.start(TERMINAL);
    }
    let mut rest = vec![];
    while rest.len() < 100 {
        rest.extend(output(&device, 1));
        console.find_news();
    }
    assert_eq!([first, rest].concat(), long);
}

#[test]
fn input_is_taken_in_order_and_its_buffers_go_back() {
    let (device, console) = started();
    let mut got: Vec<u8> = vec![];
    for round in 0..20u8 {
        type_in(&device, 0, &[round; 3]);
        assert_eq!(console.find_news().input, 1);
        assert!(console.has_input(TERMINAL));
        let mut two = [0; 2];
        for expected in [2, 1, 0] {
            let n = console.take(TERMINAL, &mut two);
            assert_eq!(n, expected);
            got.extend(&two[..n]);
        }
    }
    let expected: Vec<u8> = (0..20).flat_map(|round| [round; 3]).collect();
    assert_eq!(got, expected);
}

#[test]
fn another_device_goes_on_where_the_first_stopped() {
    let (device, console) = started();
    tell(&device, 0, Event::PortAdd, 0, &[]);
    console.find_news();
    type_in(&device, 0, b"typed");
    console.queue(TERMINAL, b"taken");
    console.start(TERMINAL);
    output(&device, 1);
    console.queue(TERMINAL, b"not taken");
    console.start(TERMINAL);
    console.pending(TERMINAL);
    console.state.lock().quiesce();
    assert!(!console.is_gone());
    assert_eq!(console.pending(TERMINAL), b"not taken".len());
    let features = device.lock().unwrap().features;
    let config = device.lock().unwrap().config.clone();
    let other = Arc::new(Mutex::new(Device::new(features, config)));
    console.state.lock().setup(Fake(other.clone(), DeviceType::Console)).unwrap();
    assert_eq!(said(&other), [(0, Event::DeviceReady, 1)]);
    tell(&other, 0, Event::PortAdd, 0, &[]);
    type_in(&other, 0, b" more");
    console.find_news();
    assert_eq!(output(&other, 1), b"not taken");
    let mut input: Vec<u8> = vec![];
    let mut buf = [0; 64];
    while let n @ 1.. = console.take(TERMINAL, &mut buf) {
        input.extend(&buf[..n]);
    }
    assert_eq!(input, b"typed more");
}

#[test]
fn a_wrong_identifier_or_length_ends_the_device_and_nothing_else() {
    for (queue, id, len) in
        [(0, 3, 4097), (0, 77, 1), (0, 0x1_0000, 5), (1, 0, 0), (2, 200, 8), (3, 1, 1)]
    {
        let (device, console) = started();
        device.lock().unwrap().give_raw(queue, id, len);
        console.find_news();
        let taken = console.take(TERMINAL, &mut [0; 8]);
        // An identifier is 32 bits wide, of which queues use 16: 0x10000 names buffer 0.
        if id == 0x1_0000 {
            assert_eq!(taken, 5);
            continue;
        }
        console.open(TERMINAL);
        console.pending(TERMINAL);
        let status = device.lock().unwrap().status;
        let outcome = (console.is_gone(), status);
        // The driver looks at the answers to its messages only when it sends the next.
        if queue != 3 {
            assert_eq!(outcome, (true, 0), "{queue} {id} {len}");
        }
        assert_eq!((taken, console.take(TERMINAL, &mut [0; 8])), (0, 0));
        console.start(TERMINAL);
        console.watch(TERMINAL);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Raw(usize, u32, u32),
    Message(Vec<u8>),
    Type(Vec<u8>),
    Queue(usize, usize),
    Take(usize),
    Interrupt,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6usize, 0..40u32, 0..5000u32).prop_map(|(q, id, len)| Step::Raw(q, id, len)),
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(Step::Message),
        (0..5u32, 0..8u16, 0..2u16).prop_map(|(port, event, value)| {
            let head = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()];
            Step::Message([&head.concat()[..], b"org.belljar.control"].concat())
        }),
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(Step::Type),
        (0..PORTS, 0..RING).prop_map(|(port, len)| Step::Queue(port, len)),
        (0..PORTS).prop_map(Step::Take),
        Just(Step::Interrupt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_device_can_make_the_driver_panic(steps in proptest::collection::vec(step(), 1..60)) {
        let (device, console) = started();
        for step in steps {
            match step {
                Step::Raw(queue, id, len) => {
                    if !console.is_gone() {
                        device.lock().unwrap().give_raw(queue, id, len);
                    }
                }
                Step::Message(bytes) => {
                    let mut device = device.lock().unwrap();
                    if let Some(offer) = device.take(2) {
                        device.give(2, &offer, &bytes);
                    }
                }
                Step::Type(bytes) => {
                    let mut device = device.lock().unwrap();
                    if let Some(offer) = device.take(0) {
                        device.give(0, &offer, &bytes);
                    }
                }
                Step::Queue(port, len) => {
                    console.queue(port, &vec![7; len]);
                    console.start(port);
                    prop_assert!(console.room(port) <= RING);
                }
                Step::Take(port) => {
                    console.take(port, &mut [0; 100]);
                    console.watch(port);
                }
                Step::Interrupt => {
                    console.find_news();
                }
            }
        }
    }
}
