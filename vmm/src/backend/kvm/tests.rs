//! Machines that run, where there is a KVM for such guests; elsewhere nothing happens here.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, channel};

use belljar_abi::image::{HEADER_LEN, IMAGE_SIZE, MAGIC, MAGIC_AT};

use super::*;
use crate::backend::Boot;
use crate::metrics::render;

/// Sends a letter to the serial port and switches the machine off.
const LETTER: [u32; 6] = [
    0xd2a1_2002, // mov  x2, #0x9000000
    0x5280_0824, // mov  w4, #'A'
    0xb900_0044, // str  w4, [x2]
    0xd2b0_8000, // mov  x0, #0x84000000
    0xf280_0100, // movk x0, #8          PSCI SYSTEM_OFF
    0xd400_0002, // hvc  #0
];

/// Does nothing for ever.
const LOOP: [u32; 1] = [0x1400_0000]; // b .

/// An arm64 `Image` of `code` (Linux's arch/arm64/booting.rst).
fn image(code: &[u32]) -> Vec<u8> {
    const SIZE: usize = 4096;
    let mut image = vec![0; SIZE];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0x1400_0010_u32.to_le_bytes()); // b HEADER_LEN
    put(IMAGE_SIZE, &(SIZE as u64).to_le_bytes());
    put(24, &0xa_u64.to_le_bytes()); // little endian, 4 KiB pages, anywhere
    put(MAGIC_AT, &MAGIC);
    code.iter().enumerate().for_each(|(i, word)| put(HEADER_LEN + 4 * i, &word.to_le_bytes()));
    image
}

/// A machine that stands before `code`, where there is a KVM, and its events.
fn machine(code: &[u32]) -> Option<(Started, Receiver<Event>)> {
    let ready = check().ok()?;
    let mut kernel = tempfile::NamedTempFile::new().unwrap();
    kernel.write_all(&image(code)).unwrap();
    let boot = Boot { kernel: kernel.path().to_owned(), initrd: None, cmdline: String::new() };
    let config = Config {
        cpus: 2,
        memory: 16 << 20,
        cpu: String::new(),
        start: Start::Boot(boot),
        disks: vec![],
        cards: vec![],
    };
    let (send, events) = channel();
    let on_event = Box::new(move |event| send.send(event).unwrap());
    Some((start(&config, on_event, Some(ready)).unwrap(), events))
}

#[test]
fn a_guest_that_never_leaves_its_cpu_does_not_keep_the_machine_from_being_answered() {
    let Some((started, events)) = machine(&LOOP) else { return };
    started.machine.resume().unwrap();
    started.machine.answer();
    started.machine.pause().unwrap();
    started.machine.resume().unwrap();
    started.machine.quit();
    assert!(events.try_recv().is_err());
}

/// A machine whose guest runs, where there is a KVM and it counts exits (KVM_GET_STATS_FD): KVM has told this process of
/// the letter. And the machine's events.
fn at_its_letter() -> Option<(Started, Receiver<Event>)> {
    let (started, events) = machine(&LETTER)?;
    started.machine.resume().unwrap();
    let figures = || render(&started.machine.metrics());
    if !figures().contains("cause=\"mmio_user\"}") {
        return None;
    }
    while !figures().contains("cause=\"mmio_user\"} 1\n") {
        std::thread::yield_now();
    }
    started.serial.set_nonblocking(true).unwrap();
    Some((started, events))
}

/// How many of its letters were taken.
fn letters(machine: &dyn Machine) -> String {
    let figures = render(&machine.metrics());
    let mut lines = figures.lines();
    let prefix = "belljar_vmm_exits_total{cause=\"mmio_write\"} ";
    lines.find_map(|line| line.strip_prefix(prefix)).unwrap().to_owned()
}

#[test]
fn a_guest_that_runs_is_not_answered_before_that_is_allowed() {
    let Some((mut started, events)) = at_its_letter() else { return };
    let (machine, serial) = (&*started.machine, &mut started.serial);
    assert_eq!(letters(machine), "0");
    let mut letter = [0];
    assert_eq!(serial.read(&mut letter).unwrap_err().kind(), ErrorKind::WouldBlock);
    machine.answer();
    serial.set_nonblocking(false).unwrap();
    serial.read_exact(&mut letter).unwrap();
    assert_eq!(&letter, b"A");
    assert_eq!(events.recv().unwrap(), Event::Shutdown { reset: false });
}

#[test]
fn a_machine_that_ends_before_that_answers_nothing() {
    let Some((mut started, events)) = at_its_letter() else { return };
    started.machine.quit();
    assert_eq!(letters(&*started.machine), "0");
    drop(started.machine);
    let mut letter = [0];
    // The other end is gone, or was never served.
    assert!(!matches!(started.serial.read(&mut letter), Ok(1..)));
    assert!(events.recv().is_err());
}
