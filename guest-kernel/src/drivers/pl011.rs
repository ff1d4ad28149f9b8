//! The PL011 UART (Arm DDI 0183): the machine's console.
//!
//! Output is polled: the FIFO of the model is always ready, and a write costs two register accesses a
//! byte. Input interrupts and is handed, in one piece, to the function set by [`set_rx_hook`] (the
//! terminal), in interrupt context.

use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::fdt::Device;
use crate::addr::PhysAddr;
use crate::arch::{self, phys_to_virt};

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IFLS: u64 = 0x34;
const IMSC: u64 = 0x38;
const ICR: u64 = 0x44;

const FR_RX_EMPTY: u32 = 1 << 4;
const FR_TX_FULL: u32 = 1 << 5;
/// 8 bits, FIFOs on.
const LCR_8N1_FIFO: u32 = 3 << 5 | 1 << 4;
/// UART, transmitter and receiver on.
const CR_ON: u32 = 1 << 0 | 1 << 8 | 1 << 9;
/// Receive and receive timeout.
const RX_INTERRUPTS: u32 = 1 << 4 | 1 << 6;

/// Before the device tree is read: where QEMU's board has it.
static BASE: AtomicU64 = AtomicU64::new(0x0900_0000);
static RX_HOOK: AtomicUsize = AtomicUsize::new(0);

fn read(offset: u64) -> u32 {
    let register = phys_to_virt(PhysAddr(BASE.load(Ordering::Relaxed) + offset));
    // SAFETY: a register of the UART, which the linear map covers.
    unsafe { read_volatile(register.cast()) }
}

fn write(offset: u64, value: u32) {
    let register = phys_to_virt(PhysAddr(BASE.load(Ordering::Relaxed) + offset));
    // SAFETY: as above.
    unsafe { write_volatile(register.cast(), value) }
}

/// Sets the UART up and lets its input interrupt.
pub fn init(device: &Device) {
    BASE.store(device.registers.start, Ordering::Relaxed);
    write(IMSC, 0);
    write(ICR, 0x7ff);
    write(LCR_H, LCR_8N1_FIFO);
    write(IFLS, 0);
    write(CR, CR_ON);
    super::console::set_sink(put);
    super::irq::register(device.irq, rx_interrupt);
    arch::irq::enable(device.irq);
    write(IMSC, RX_INTERRUPTS);
}

/// Writes bytes; waits while the FIFO is full.
pub fn put(bytes: &[u8]) {
    for &byte in bytes {
        while read(FR) & FR_TX_FULL != 0 {
            arch::cpu_relax();
        }
        write(DR, u32::from(byte));
    }
}

/// Sets who takes input, in interrupt context.
pub fn set_rx_hook(hook: fn(&[u8])) {
    RX_HOOK.store(hook as usize, Ordering::Release);
}

fn rx_interrupt(_irq: u32) {
    write(ICR, RX_INTERRUPTS);
    let mut bytes = [0; 64];
    loop {
        let mut n = 0;
        while n < bytes.len() && read(FR) & FR_RX_EMPTY == 0 {
            bytes[n] = read(DR) as u8;
            n += 1;
        }
        let hook = RX_HOOK.load(Ordering::Acquire);
        if n == 0 {
            return;
        }
        if hook != 0 {
            // SAFETY: only `set_rx_hook` stores here, a function of this type.
            let hook: fn(&[u8]) = unsafe { core::mem::transmute(hook) };
            hook(&bytes[..n]);
        }
    }
}
