//! The PL011 UART (Arm DDI 0183): the machine's console.
//!
//! Output is polled; with an empty FIFO, which a virtual UART always has, that is one look at it for
//! sixteen bytes. Input interrupts and goes to whoever listens to the [`LINE`]. What that has no room for
//! stays in the FIFO, with the interrupt masked, until it is taken.
//!
//! Messages of the kernel are written past the line's ring: they come out whatever state the rest is in.

use core::sync::atomic::{AtomicU64, Ordering};

use super::fdt::Device;
use super::ring::Ring;
use super::serial::{Line, SerialDevice};
use crate::addr::PhysAddr;
use crate::arch;
use crate::errno::Result;
use crate::sync::{IrqGuard, IrqLock, Once};

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IFLS: u64 = 0x34;
const IMSC: u64 = 0x38;
const ICR: u64 = 0x44;

const FR_RX_EMPTY: u32 = 1 << 4;
const FR_TX_FULL: u32 = 1 << 5;
const FR_TX_EMPTY: u32 = 1 << 7;
const FIFO_DEPTH: usize = 16;
/// 8 bits, FIFOs on.
const LCR_8N1_FIFO: u32 = 3 << 5 | 1 << 4;
/// UART, transmitter and receiver on.
const CR_ON: u32 = 1 << 0 | 1 << 8 | 1 << 9;
/// Receive and receive timeout.
const RX_INTERRUPTS: u32 = 1 << 4 | 1 << 6;

/// Before the device tree is read: where QEMU's board has it.
static BASE: AtomicU64 = AtomicU64::new(0x0900_0000);
/// Output on its way to the FIFO: short pieces of it go out at a time, so that interrupts are not off for
/// long.
static OUTPUT: Once<IrqLock<Ring>> = Once::new();
const OUTPUT_RING: usize = 4096;

/// The line of the UART.
pub static LINE: Line = Line::new(&Uart);

#[inline]
fn read(offset: u64) -> u32 {
    // SAFETY: a register of the UART, which touches no memory.
    unsafe { arch::mmio_read(PhysAddr(BASE.load(Ordering::Relaxed) + offset)) }
}

#[inline]
fn write(offset: u64, value: u32) {
    // SAFETY: as above.
    unsafe { arch::mmio_write(PhysAddr(BASE.load(Ordering::Relaxed) + offset), value) }
}

/// Sets the UART up for output. Input stays in the FIFO until somebody takes it.
pub fn init(device: &Device) {
    BASE.store(device.registers.start, Ordering::Relaxed);
    write(IMSC, 0);
    write(ICR, 0x7ff);
    // This empties the FIFOs: whoever has input for us waits until the root page says that we are up.
    write(LCR_H, LCR_8N1_FIFO);
    write(IFLS, 0);
    write(CR, CR_ON);
    super::console::set_sink(put);
    super::irq::register(device.irq, interrupt);
    arch::irq::enable(device.irq);
}

/// Goes on with another machine's UART, or with this one after it was left alone. Who takes input stays.
pub fn reinit(device: &Device) {
    BASE.store(device.registers.start, Ordering::Relaxed);
    write(IMSC, 0);
    write(LCR_H, LCR_8N1_FIFO);
    write(IFLS, 0);
    write(CR, CR_ON);
    super::irq::register(device.irq, interrupt);
    arch::irq::enable(device.irq);
    LINE.pull();
}

/// Writes bytes; waits while the FIFO is full.
pub fn put(bytes: &[u8]) {
    for burst in bytes.chunks(FIFO_DEPTH) {
        let fits = read(FR) & FR_TX_EMPTY != 0;
        for &byte in burst {
            while !fits && read(FR) & FR_TX_FULL != 0 {
                arch::cpu_relax();
            }
            write(DR, u32::from(byte));
        }
    }
}

/// Makes the ring of the [`LINE`]; boot does it before somebody listens.
pub fn init_line() -> Result<()> {
    OUTPUT.set(IrqLock::new(Ring::try_new(OUTPUT_RING)?));
    Ok(())
}

/// Input came. It is masked until all of it was taken.
fn interrupt(_irq: u32) {
    write(IMSC, 0);
    LINE.pull();
}

/// The UART under its line.
struct Uart;

impl SerialDevice for Uart {
    fn room(&self) -> usize {
        OUTPUT.try_get().map_or(0, |ring| ring.lock().room())
    }

    fn queue(&self, bytes: &[u8]) -> usize {
        OUTPUT.try_get().map_or(0, |ring| ring.lock().write(bytes))
    }

    fn start(&self) {
        let Some(ring) = OUTPUT.try_get() else { return };
        loop {
            let mut ring = ring.lock();
            let front = ring.front();
            let n = front.len().min(FIFO_DEPTH);
            if n == 0 {
                return;
            }
            put(&front[..n]);
            ring.consume(n);
        }
    }

    fn pending(&self) -> usize {
        OUTPUT.try_get().map_or(0, |ring| ring.lock().len())
    }

    fn watch(&self) {
        // `start` leaves nothing behind.
    }

    fn take(&self, buf: &mut [u8]) -> usize {
        let _irqs_off = IrqGuard::new();
        loop {
            let mut n = 0;
            while n < buf.len() && read(FR) & FR_RX_EMPTY == 0 {
                buf[n] = read(DR) as u8;
                n += 1;
            }
            if n > 0 {
                return n;
            }
            write(ICR, RX_INTERRUPTS);
            write(IMSC, RX_INTERRUPTS);
            // A byte that came between the last look and the acknowledgement would wait for the next.
            if read(FR) & FR_RX_EMPTY != 0 {
                return 0;
            }
        }
    }

    fn open(&self) {}
}
