//! A guest that means harm, for the fuzzer and for tests: any access at any address, while somebody
//! types, reads, or goes away at the other end of the serial port.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{Bus, Line, MmioDevice, Pl011, Rtc};
use crate::machine::{RTC, UART};

/// The line's level.
#[derive(Default)]
struct Level(AtomicBool);

impl Line for Level {
    fn set(&self, high: bool) {
        let was = self.0.swap(high, Ordering::SeqCst);
        assert_ne!(was, high, "a line is driven only when it changes");
    }
}

/// Takes `data` for a sequence of accesses. Nothing may panic or block, and afterwards the serial port
/// works.
///
/// # Panics
/// If a device misbehaved, which is what a fuzzer looks for.
pub fn fuzz_one(data: &[u8]) {
    let (user, guest) = UnixStream::pair().expect("a socket pair");
    user.set_nonblocking(true).expect("a socket can be non-blocking");
    let level = Arc::new(Level::default());
    let uart = Pl011::new(guest, level.clone()).expect("a socket can be non-blocking");
    let uart = Arc::new(Mutex::new(uart));
    let mut bus = Bus::default();
    bus.attach(UART, uart.clone()).expect("the board's devices do not overlap");
    bus.attach(RTC, Arc::new(Mutex::new(Rtc::default()))).expect("as above");

    let mut user = Some(user);
    for step in data.chunks_exact(12) {
        let (head, value) = (step[0], &step[4..]);
        let offset = u64::from(u16::from_le_bytes([step[1], step[2]]));
        let length = usize::from(step[3] % 9);
        let base = match head % 4 {
            0 | 1 => UART.start,
            2 => RTC.start,
            _ => u64::from_le_bytes([0, 0, step[4], step[5], step[6], step[7], step[8], step[9]]),
        };
        // Most accesses hit a register.
        let offset = if head & 4 == 0 { offset & 0x7c } else { offset };
        let address = base.wrapping_add(offset);
        match head >> 4 {
            0..=6 => bus.read(address, &mut [0xa5; 8][..length]),
            7..=12 => bus.write(address, &value[..length]),
            13 => drop(user.as_mut().map(|user| user.write(value))),
            14 => drop(user.as_mut().map(|user| user.read(&mut [0; 64]))),
            _ if head == 0xff => user = None,
            _ => uart.lock().expect("nobody panicked").pump(),
        }
    }

    let mut uart = uart.lock().expect("nobody panicked");
    let mut status = [0; 4];
    uart.read(0x40, &mut status);
    assert_eq!(level.0.load(Ordering::SeqCst), status != [0; 4], "the line follows the registers");
    if let Some(mut user) = user {
        // Everything that was sent arrives, and then the port is idle.
        let mut chunk = [0; 4096];
        while user.read(&mut chunk).is_ok_and(|n| n > 0) {}
        uart.pump();
    }
    assert!(uart.is_drained());
}

#[cfg(test)]
mod tests {
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    #[test]
    fn garbage_harms_no_device() {
        let config = Config { cases: 256, failure_persistence: None, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..4096);
        TestRunner::new_with_rng(config, rng)
            .run(&bytes, |bytes| {
                super::fuzz_one(&bytes);
                Ok(())
            })
            .unwrap();
    }
}
