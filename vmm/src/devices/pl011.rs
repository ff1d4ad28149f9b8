//! The PL011 UART (Arm DDI 0183): the machine's serial port, with a stream at its other end.
//!
//! No byte is lost and nothing blocks. Output goes straight into the stream; what the stream does not
//! take waits in the transmit FIFO, and the guest sees when that is full. Input is taken from the
//! stream only while the receive FIFO has room, so whoever writes waits, not the guest. The stream is
//! watched edge-triggered: after "would block" the event loop calls [`Pl011::pump`]; a FIFO that was
//! full is refilled when the guest reads it.
//!
//! As QEMU's model, which the kernel was written with, the receive interrupt comes at the first byte
//! and the transmit interrupt whenever everything is sent; baud rate, DMA, modem lines, parity and
//! the enable bits change nothing. Unlike on hardware, switching the FIFOs empties none.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::{Line, MmioDevice, answer, value_of};

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const ILPR: u64 = 0x20;
const IBRD: u64 = 0x24;
const FBRD: u64 = 0x28;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IFLS: u64 = 0x34;
const IMSC: u64 = 0x38;
const RIS: u64 = 0x3c;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;
const DMACR: u64 = 0x48;
const IDS: u64 = 0xfe0;

const FR_BUSY: u32 = 1 << 3;
const FR_RX_EMPTY: u32 = 1 << 4;
const FR_TX_FULL: u32 = 1 << 5;
const FR_RX_FULL: u32 = 1 << 6;
const FR_TX_EMPTY: u32 = 1 << 7;
const LCR_FIFOS: u32 = 1 << 4;
const CR_TX: u32 = 1 << 8;
const CR_RX: u32 = 1 << 9;
const INT_RX: u32 = 1 << 4;
const INT_TX: u32 = 1 << 5;
/// Interrupt bits that exist.
const INT_ALL: u32 = 0x7ff;
const FIFO_DEPTH: usize = 16;
/// Peripheral and PrimeCell identification: a PL011 r1 by Arm, with FIFOs of 16 bytes.
const ID_BYTES: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// The serial port.
pub struct Pl011 {
    /// Non-blocking.
    stream: UnixStream,
    line: Arc<dyn Line>,
    /// How the line was driven last.
    high: bool,
    received: VecDeque<u8>,
    unsent: VecDeque<u8>,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    ris: u32,
    dmacr: u32,
}

impl Pl011 {
    /// A port after reset, whose other end is `stream` and whose interrupt is `line`.
    pub fn new(stream: UnixStream, line: Arc<dyn Line>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            line,
            high: false,
            received: VecDeque::with_capacity(FIFO_DEPTH),
            unsent: VecDeque::with_capacity(FIFO_DEPTH),
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: CR_TX | CR_RX,
            ifls: 0x12,
            imsc: 0,
            ris: 0,
            dmacr: 0,
        })
    }

    /// Whether everything that the guest sent has reached the stream.
    pub fn is_drained(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Moves what can be moved between the FIFOs and the stream.
    pub fn pump(&mut self) {
        self.flush();
        self.fill();
        self.drive();
    }

    fn depth(&self) -> usize {
        if self.lcr_h & LCR_FIFOS == 0 { 1 } else { FIFO_DEPTH }
    }

    fn send(&mut self, byte: u8) {
        if self.unsent.len() < self.depth() {
            self.unsent.push_back(byte);
        }
        // Else the guest did not look at the flag, and the byte is lost as on hardware.
        self.flush();
    }

    fn flush(&mut self) {
        let waiting = !self.unsent.is_empty();
        while !self.unsent.is_empty() {
            match self.stream.write(self.unsent.as_slices().0) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Nobody is at the other end any more: a serial port cannot tell.
                Err(_) => self.unsent.clear(),
            }
        }
        if waiting {
            self.ris |= INT_TX;
        }
    }

    fn fill(&mut self) {
        let mut bytes = [0; FIFO_DEPTH];
        while self.received.len() < self.depth() {
            let room = self.depth() - self.received.len();
            match self.stream.read(&mut bytes[..room]) {
                Ok(n @ 1..) => {
                    self.received.extend(&bytes[..n]);
                    self.ris |= INT_RX;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn take(&mut self) -> u8 {
        let byte = self.received.pop_front().unwrap_or(0);
        if self.received.is_empty() {
            self.ris &= !INT_RX;
            self.fill();
        }
        byte
    }

    fn flags(&self) -> u32 {
        let mut flags = 0;
        for (flag, on) in [
            (FR_TX_EMPTY, self.unsent.is_empty()),
            (FR_BUSY, !self.unsent.is_empty()),
            (FR_TX_FULL, self.unsent.len() >= self.depth()),
            (FR_RX_EMPTY, self.received.is_empty()),
            (FR_RX_FULL, self.received.len() >= self.depth()),
        ] {
            flags |= if on { flag } else { 0 };
        }
        flags
    }

    /// Drives the line as the registers say.
    fn drive(&mut self) {
        let high = self.ris & self.imsc != 0;
        if high != self.high {
            self.high = high;
            self.line.set(high);
        }
    }
}

impl MmioDevice for Pl011 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset & !3 {
            DR => u32::from(self.take()),
            FR => self.flags(),
            ILPR => self.ilpr,
            IBRD => self.ibrd,
            FBRD => self.fbrd,
            LCR_H => self.lcr_h,
            CR => self.cr,
            IFLS => self.ifls,
            IMSC => self.imsc,
            RIS => self.ris,
            MIS => self.ris & self.imsc,
            DMACR => self.dmacr,
            id @ IDS..=0xffc => u32::from(ID_BYTES[((id - IDS) / 4) as usize]),
            // RSR: no error ever happened.
            _ => 0,
        };
        self.drive();
        answer(value, offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let value = value_of(data);
        match offset {
            DR => self.send(value as u8),
            ILPR => self.ilpr = value & 0xff,
            IBRD => self.ibrd = value & 0xffff,
            FBRD => self.fbrd = value & 0x3f,
            LCR_H => {
                self.lcr_h = value & 0xff;
                self.fill();
            }
            CR => self.cr = value & 0xffff,
            IFLS => self.ifls = value & 0x3f,
            IMSC => self.imsc = value & INT_ALL,
            ICR => self.ris &= !value,
            DMACR => self.dmacr = value & 7,
            // RSR among them: it clears errors, of which there are none.
            _ => {}
        }
        self.drive();
    }
}

impl MutEventSubscriber for Pl011 {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.pump();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let wanted = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        // Without memory for the watch the port is silent, and the guest as if nobody typed.
        let _ = ops.add(Events::new(&self.stream, wanted));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Wire(Mutex<Vec<bool>>);

    impl Line for Wire {
        fn set(&self, high: bool) {
            self.0.lock().unwrap().push(high);
        }
    }

    struct Bench {
        uart: Pl011,
        user: UnixStream,
        wire: Arc<Wire>,
    }

    impl Bench {
        /// A port as our kernel sets it up.
        fn new() -> Self {
            let (user, guest) = UnixStream::pair().unwrap();
            user.set_nonblocking(true).unwrap();
            let wire = Arc::new(Wire::default());
            let mut bench = Self { uart: Pl011::new(guest, wire.clone()).unwrap(), user, wire };
            bench.write(LCR_H, 0x70);
            bench.write(CR, CR_TX | CR_RX | 1);
            bench
        }

        fn write(&mut self, offset: u64, value: u32) {
            self.uart.write(offset, &value.to_le_bytes());
        }

        fn read(&mut self, offset: u64) -> u32 {
            let mut data = [0; 4];
            self.uart.read(offset, &mut data);
            u32::from_le_bytes(data)
        }

        fn high(&self) -> bool {
            self.wire.0.lock().unwrap().last().copied().unwrap_or(false)
        }
    }

    #[test]
    fn output_reaches_the_stream_at_once() {
        let mut bench = Bench::new();
        "guest".bytes().for_each(|byte| bench.write(DR, byte.into()));
        let mut text = [0; 16];
        assert_eq!(bench.user.read(&mut text).unwrap(), 5);
        assert_eq!(&text[..5], b"guest");
        assert_eq!(bench.read(FR), FR_TX_EMPTY | FR_RX_EMPTY);
    }

    #[test]
    fn output_waits_in_the_fifo_while_nobody_reads_and_none_is_lost() {
        let mut bench = Bench::new();
        bench.write(IMSC, INT_TX);
        let mut sent = 0_usize;
        while bench.read(FR) & FR_TX_FULL == 0 {
            bench.write(DR, (sent % 251) as u32);
            sent += 1;
        }
        bench.write(ICR, INT_TX);
        assert!(!bench.high() && !bench.uart.is_drained());
        let mut seen = Vec::new();
        let mut chunk = [0; 4096];
        while seen.len() < sent {
            if let Ok(n) = bench.user.read(&mut chunk) {
                seen.extend_from_slice(&chunk[..n]);
            }
            bench.uart.pump();
        }
        assert!(seen.iter().enumerate().all(|(i, byte)| usize::from(*byte) == i % 251));
        assert!(bench.high() && bench.uart.is_drained(), "the transmit interrupt says so");
    }

    #[test]
    fn input_interrupts_until_it_is_read_and_the_rest_waits_in_the_stream() {
        let mut bench = Bench::new();
        bench.write(IMSC, INT_RX);
        let typed: Vec<u8> = (0..100).collect();
        bench.user.write_all(&typed).unwrap();
        bench.uart.pump();
        assert!(bench.high());
        assert_eq!(bench.read(FR) & (FR_RX_FULL | FR_RX_EMPTY), FR_RX_FULL);
        let mut seen = Vec::new();
        while bench.read(FR) & FR_RX_EMPTY == 0 {
            assert!(bench.high(), "while there is input");
            seen.push(bench.read(DR) as u8);
        }
        assert_eq!(seen, typed);
        assert!(!bench.high());
    }

    #[test]
    fn input_before_the_guest_sets_the_port_up_is_not_lost() {
        let (mut user, guest) = UnixStream::pair().unwrap();
        let uart = Pl011::new(guest, Arc::new(Wire::default())).unwrap();
        user.write_all(b"early").unwrap();
        let mut bench = Bench { uart, user, wire: Arc::default() };
        bench.uart.pump();
        assert_eq!(bench.read(FR) & FR_RX_FULL, FR_RX_FULL, "one byte without FIFOs");
        bench.write(LCR_H, 0x70);
        bench.write(CR, CR_TX | CR_RX | 1);
        let seen: Vec<u8> = (0..5).map(|_| bench.read(DR) as u8).collect();
        assert_eq!(seen, b"early");
    }

    #[test]
    fn output_without_a_reader_is_dropped() {
        let mut bench = Bench::new();
        drop(std::mem::replace(&mut bench.user, UnixStream::pair().unwrap().0));
        bench.write(DR, 1);
        assert!(bench.uart.is_drained());
        assert_eq!(bench.read(FR) & FR_TX_FULL, 0);
    }

    #[test]
    fn identification_is_a_pl011() {
        let mut bench = Bench::new();
        let ids: Vec<u8> = (0..8).map(|i| bench.read(IDS + 4 * i) as u8).collect();
        assert_eq!(ids, ID_BYTES);
    }
}
