//! The interrupt controller: GICv3, or GICv2 where QEMU's board is started with its default.
//!
//! All interrupts have one priority, so none interrupts another. What is acknowledged is handled and
//! ended before interrupts are let in again.

mod gicv2;
mod gicv3;

use core::sync::atomic::{AtomicBool, Ordering};

use crate::addr::PhysAddr;
use crate::arch::{mmio_read, mmio_write};

/// From here on a number acknowledged is no interrupt.
const SPURIOUS: u32 = 1020;
/// Every interrupt's priority, four at a time. Lower is more urgent; anything below the mask gets through.
const PRIORITY: u32 = 0xa0a0_a0a0;
const PRIORITY_MASK: u32 = 0xf0;

// Registers of the distributor, the same in both versions.
const GICD_CTLR: u64 = 0x0000;
const GICD_TYPER: u64 = 0x0004;
const GICD_IGROUPR: u64 = 0x0080;
const GICD_ISENABLER: u64 = 0x0100;
const GICD_ICENABLER: u64 = 0x0180;
const GICD_IPRIORITYR: u64 = 0x0400;
const GICD_ICFGR: u64 = 0x0c00;

static IS_V2: AtomicBool = AtomicBool::new(false);

#[inline]
fn is_v2() -> bool {
    IS_V2.load(Ordering::Relaxed)
}

#[inline]
fn read(base: u64, offset: u64) -> u32 {
    // SAFETY: registers of the GIC, which touch no memory.
    unsafe { mmio_read(PhysAddr(base + offset)) }
}

#[inline]
fn write(base: u64, offset: u64, value: u32) {
    // SAFETY: as above.
    unsafe { mmio_write(PhysAddr(base + offset), value) }
}

/// Interrupts that the distributor has.
fn line_count(distributor: u64) -> u32 {
    (((read(distributor, GICD_TYPER) & 0x1f) + 1) * 32).min(SPURIOUS)
}

/// Sets a GICv3 up, and this CPU's interface with it. All shared interrupts are off.
pub fn init_v3(distributor: PhysAddr, redistributors: core::ops::Range<u64>) {
    IS_V2.store(false, Ordering::Relaxed);
    gicv3::init(distributor, redistributors);
}

/// Sets a GICv2 up, and this CPU's interface with it. All shared interrupts are off.
pub fn init_v2(distributor: PhysAddr, cpu_interface: PhysAddr) {
    IS_V2.store(true, Ordering::Relaxed);
    gicv2::init(distributor, cpu_interface);
}

/// Sets up the interface of a secondary CPU; it calls this itself. False if the GIC has none for it.
pub fn init_cpu() -> bool {
    if is_v2() { gicv2::init_cpu() } else { gicv3::init_cpu() }
}

/// No interrupt reaches this CPU any more: it is about to be turned off.
pub(super) fn leave_cpu() {
    if is_v2() { gicv2::leave_cpu() } else { gicv3::leave_cpu() }
}

/// Lets an interrupt through: to this CPU if it is private, to CPU 0 otherwise.
pub fn enable(irq: u32) {
    if is_v2() { gicv2::enable(irq) } else { gicv3::enable(irq) }
}

/// Says whether a shared interrupt is an edge or a level; while it is stopped.
pub fn set_edge_triggered(irq: u32, edge: bool) {
    let base = if is_v2() { gicv2::distributor() } else { gicv3::distributor() };
    // Two bits each, of which the upper says it.
    let (word, bit) = (GICD_ICFGR + u64::from(irq) / 16 * 4, 2 << (irq % 16 * 2));
    let others = read(base, word) & !bit;
    write(base, word, if edge { others | bit } else { others });
}

/// Stops an interrupt.
pub fn disable(irq: u32) {
    if is_v2() { gicv2::disable(irq) } else { gicv3::disable(irq) }
}

/// Takes the pending interrupt of the highest priority. What it returns goes to [`end`] as it is; the
/// interrupt's number is [`number`] of it.
#[inline]
pub fn acknowledge() -> Option<u32> {
    if is_v2() { gicv2::acknowledge() } else { gicv3::acknowledge() }
}

/// The number of the interrupt that was acknowledged.
#[inline]
pub fn number(acknowledged: u32) -> u32 {
    // GICv2 keeps the sender of a software-generated interrupt above it.
    if is_v2() { acknowledged & 0x3ff } else { acknowledged }
}

/// Ends what [`acknowledge`] returned.
#[inline]
pub fn end(acknowledged: u32) {
    if is_v2() { gicv2::end(acknowledged) } else { gicv3::end(acknowledged) }
}

/// Interrupts another CPU with a software-generated interrupt (0 to 15).
pub fn send_ipi(cpu: usize, number: u32) {
    if is_v2() { gicv2::send_ipi(cpu, number) } else { gicv3::send_ipi(cpu, number) }
}
