//! The PL011 UART (Arm DDI 0183): the machine's console.
//!
//! Output is polled; with an empty FIFO, which a virtual UART always has, that is one look at it for
//! sixteen bytes. Input interrupts and is handed, in one piece, to the [`RxHook`] (the terminal), in
//! interrupt context. What the terminal has no room for stays in the FIFO, so that whoever feeds the
//! UART waits instead of losing bytes, until [`resume_rx`].

use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::fdt::Device;
use crate::addr::PhysAddr;
use crate::arch::{self, phys_to_virt};
use crate::sync::{IrqLock, Once};

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
static RX_HOOK: Once<RxHook> = Once::new();
/// The terminal was full; its input waits in the FIFO.
static RX_HELD: AtomicBool = AtomicBool::new(false);

/// Who takes input, with interrupts off.
pub struct RxHook {
    /// How many bytes it takes now.
    pub room: fn() -> usize,
    /// Takes bytes, no more than there is room for.
    pub receive: fn(&[u8]),
}

#[inline]
fn read(offset: u64) -> u32 {
    let register = phys_to_virt(PhysAddr(BASE.load(Ordering::Relaxed) + offset));
    // SAFETY: a register of the UART, which the linear map covers.
    unsafe { read_volatile(register.cast()) }
}

#[inline]
fn write(offset: u64, value: u32) {
    let register = phys_to_virt(PhysAddr(BASE.load(Ordering::Relaxed) + offset));
    // SAFETY: as above.
    unsafe { write_volatile(register.cast(), value) }
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
    super::irq::register(device.irq, rx_interrupt);
    arch::irq::enable(device.irq);
}

/// Goes on with another machine's UART, or with this one after it was left alone. Who takes input stays.
pub fn reinit(device: &Device) {
    BASE.store(device.registers.start, Ordering::Relaxed);
    write(IMSC, 0);
    write(LCR_H, LCR_8N1_FIFO);
    write(IFLS, 0);
    write(CR, CR_ON);
    super::irq::register(device.irq, rx_interrupt);
    arch::irq::enable(device.irq);
    RX_HELD.store(false, Ordering::Release);
    drain_rx();
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

/// Sets who takes input, and lets it interrupt. What came before waits in the FIFO.
pub fn set_rx_hook(hook: RxHook) {
    RX_HOOK.set(hook);
    drain_rx();
}

/// The terminal has room again.
pub fn resume_rx() {
    if RX_HELD.load(Ordering::Acquire) && RX_HELD.swap(false, Ordering::AcqRel) {
        drain_rx();
    }
}

fn rx_interrupt(_irq: u32) {
    drain_rx();
}

/// Keeps the interrupt's CPU and one that resumes apart.
static RX: IrqLock<()> = IrqLock::new(());

/// Hands the FIFO's content over. With no room left, receive interrupts stay masked and unacknowledged
/// until [`resume_rx`].
fn drain_rx() {
    let Some(hook) = RX_HOOK.try_get() else { return };
    let _rx = RX.lock();
    let mut bytes = [0; 64];
    loop {
        let room = (hook.room)().min(bytes.len());
        if room == 0 && read(FR) & FR_RX_EMPTY == 0 {
            write(IMSC, 0);
            RX_HELD.store(true, Ordering::Release);
            return;
        }
        let mut n = 0;
        while n < room && read(FR) & FR_RX_EMPTY == 0 {
            bytes[n] = read(DR) as u8;
            n += 1;
        }
        if n == 0 {
            write(ICR, RX_INTERRUPTS);
            write(IMSC, RX_INTERRUPTS);
            // A byte that came between the last look and the acknowledgement would wait for the next.
            if read(FR) & FR_RX_EMPTY != 0 {
                return;
            }
        } else {
            (hook.receive)(&bytes[..n]);
        }
    }
}
