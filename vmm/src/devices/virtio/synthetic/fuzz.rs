//! A driver that does anything at all, and a host side that does too.
//!
//! The input is a list of small steps: registers read and written at any offset and size, queues set up
//! rightly or wrongly, memory scribbled over, descriptors of any shape offered, the host's end writing,
//! reading and hanging up. Nothing may panic, the event loop must come to rest after every step, and at
//! the end, after a reset, the device must serve a proper driver.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;
use virtio_queue::desc::split::Descriptor;

use super::{BASE, Buffer, DATA, Guest, Ring, SIZE};
use crate::devices::MmioDevice;
use crate::devices::virtio::{Block, Console, Net, Port, Rng};

/// Reads the input; 0 once it is at its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    /// An address that is often right, sometimes at an edge, and sometimes absurd.
    fn address(&mut self) -> u64 {
        let near = u64::from(self.u16());
        match self.byte() % 8 {
            0 => near,
            1 => BASE + SIZE as u64 - near % 64,
            2 => u64::MAX - near,
            3 => BASE + near,
            4 => u64::from(self.u32()) << 16,
            _ => DATA + near,
        }
    }

    /// A length, most often small.
    fn length(&mut self) -> u32 {
        match self.byte() % 8 {
            0 => 0,
            1 => u32::MAX - u32::from(self.byte()),
            2 => self.u32(),
            3 => 512 * u32::from(self.byte()) + 1,
            _ => u32::from(self.byte()),
        }
    }
}

/// What is at the host's end.
enum Host {
    None,
    File(File),
    Streams(Vec<UnixStream>),
    Packets(File),
}

/// The devices that there are.
pub const DEVICES: u8 = 4;

fn device(which: u8) -> (Guest, Host) {
    match which % DEVICES {
        0 => (Guest::new(|report| Box::new(Rng::new(report))), Host::None),
        1 => {
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            let disk = File::from(rustix::fs::memfd_create("disk", flags).expect("a memory file"));
            disk.set_len(1 << 20).expect("its length");
            let file = disk.try_clone().expect("a descriptor");
            let guest = Guest::new(|report| {
                Box::new(Block::new(file, Path::new("disk"), false, report).expect("a disk"))
            });
            (guest, Host::File(disk))
        }
        2 => {
            let pair = || UnixStream::pair().expect("a pair");
            let ((a, console), (b, control)) = (pair(), pair());
            let hosts = vec![a, b];
            hosts.iter().for_each(|host| host.set_nonblocking(true).expect("a socket"));
            let ports = vec![
                Port::console(console).expect("a port"),
                Port::named("org.belljar.control", control).expect("a port"),
            ];
            let size = Some((80, 25));
            (Guest::new(|_| Box::new(Console::new(ports, size))), Host::Streams(hosts))
        }
        _ => {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let (tap, host) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .expect("a pair");
            let guest = Guest::new(|report| {
                Box::new(Net::with_packets(tap, "tap-fuzz", [2, 0, 0, 0, 0, 1], report))
            });
            (guest, Host::Packets(File::from(host)))
        }
    }
}

/// Runs one input.
///
/// # Panics
///
/// If the device or the event loop does something it must not.
pub fn fuzz_one(data: &[u8]) {
    let mut input = Input(data);
    let (mut guest, mut host) = device(input.byte());
    let mut rings: Vec<Ring> = vec![];
    while !input.0.is_empty() {
        step(&mut input, &mut guest, &mut rings);
        host_step(&mut input, &mut host);
    }
    guest.turn();
    works(&mut guest, &host);
}

fn step(input: &mut Input<'_>, guest: &mut Guest, rings: &mut Vec<Ring>) {
    match input.byte() % 12 {
        0 => {
            let (offset, size) = (input.u16() % 0x210, usize::from(input.byte() % 9));
            let data = input.bytes(size);
            guest.mmio.write(offset.into(), &data);
        }
        1 => {
            let offset = u32::from(input.byte()) & !3;
            let value = input.u32();
            guest.write(offset, value);
        }
        2 => {
            let (offset, size) = (input.u16(), usize::from(input.byte() % 9));
            guest.mmio.read(offset.into(), &mut vec![0; size]);
        }
        3 => {
            let (at, count) = (u64::from(input.u16()) * 2, usize::from(input.byte() % 32));
            guest.put(BASE + at, &input.bytes(count));
        }
        4 => {
            let without = u64::from(input.byte()) << (input.byte() % 36);
            let size = 1 << (input.byte() % 8);
            *rings = guest.start(without & !(1 << 32), size);
        }
        5 => guest.write(VIRTIO_MMIO_STATUS, 0),
        6 | 7 => {
            let which = usize::from(input.byte());
            let Some(count) = rings.len().checked_sub(1) else { return };
            let ring = &mut rings[which % (count + 1)];
            let buffers = (0..=input.byte() % 5).map(|_| match input.byte() % 2 {
                0 => Buffer::Read(input.address(), input.length()),
                _ => Buffer::Write(input.address(), input.length()),
            });
            let buffers = buffers.collect::<Vec<_>>();
            match input.byte() % 4 {
                0 => ring.add_indirect(DATA + 0x1_0000, &buffers),
                _ => ring.add(&buffers),
            };
        }
        8 => {
            let which = usize::from(input.byte());
            let Some(count) = rings.len().checked_sub(1) else { return };
            let ring = &mut rings[which % (count + 1)];
            let (address, length) = (input.address(), input.length());
            let (flags, next) = (input.u16() % 8, input.u16() % 160);
            ring.describe(input.u16() % 128, Descriptor::new(address, length, flags, next));
            match input.byte() % 4 {
                0 => ring.set_available_index(input.u16()),
                1 => ring.offer(input.u16()),
                _ => ring.offer(input.u16() % ring.size),
            }
        }
        // A plausible header, for what comes first in a buffer.
        9 => {
            let at = DATA + u64::from(input.u16());
            guest.put(at, &u32::from(input.byte() % 16).to_le_bytes());
            guest.put(at + 4, &u32::from(input.byte() % 16).to_le_bytes());
            guest.put(at + 8, &u64::from(input.u16()).to_le_bytes());
        }
        _ => {
            let queue = input.u16();
            guest.write(virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY, queue.into());
            guest.turn();
        }
    }
}

/// Errors do not matter here: the host's end may be gone or full.
fn host_step(input: &mut Input<'_>, host: &mut Host) {
    let act = input.byte();
    match host {
        Host::None => {}
        Host::File(file) => {
            if act == 1 {
                let _ = file.set_len(u64::from(input.u16()) * 16);
            }
        }
        Host::Streams(streams) => {
            let stream = &mut streams[usize::from(act & 1)];
            match act >> 1 {
                1 => drop(stream.write(&vec![0x55; usize::from(input.u16())])),
                2 => drop(stream.read(&mut vec![0; usize::from(input.u16())])),
                3 => drop(stream.shutdown(Shutdown::Write)),
                4 => drop(stream.shutdown(Shutdown::Read)),
                _ => {}
            }
        }
        Host::Packets(packets) => match act {
            1 => drop(packets.write(&vec![0x55; usize::from(input.u16())])),
            2 => drop(packets.read(&mut vec![0; usize::from(input.u16())])),
            _ => {}
        },
    }
}

/// After all that, a driver that keeps the rules is served.
fn works(guest: &mut Guest, host: &Host) {
    let mut rings = guest.start(0, 8);
    // Whatever the host's end still holds is not in the way.
    match host {
        Host::Streams(streams) => streams.iter().for_each(|stream| {
            let _ = stream.shutdown(Shutdown::Both);
        }),
        Host::Packets(packets) => {
            while rustix::io::read(packets, &mut [0; 4096]).is_ok_and(|n| n > 0) {}
        }
        _ => {}
    }
    guest.put(DATA, &[0; 64]);
    let ring = match host {
        Host::None => {
            rings[0].add(&[Buffer::Write(DATA, 16)]);
            &mut rings[0]
        }
        Host::File(_) => {
            // VIRTIO_BLK_T_GET_ID.
            guest.put(DATA, &8u32.to_le_bytes());
            let answer = [Buffer::Write(DATA + 64, 20), Buffer::Write(DATA + 128, 1)];
            rings[0].add(&[Buffer::Read(DATA, 16), answer[0], answer[1]]);
            &mut rings[0]
        }
        Host::Streams(_) | Host::Packets(_) => {
            rings[1].add(&[Buffer::Read(DATA, 64)]);
            &mut rings[1]
        }
    };
    guest.kick(ring);
    assert!(ring.used().is_some(), "the device does not work any more");
    assert!(!guest.needs_reset());
}
