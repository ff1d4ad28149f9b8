//! GICv2 (Arm IHI 0048): one distributor, and a CPU interface in memory that each CPU sees as its own.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::{
    GICD_CTLR, GICD_ICENABLER, GICD_IPRIORITYR, GICD_ISENABLER, PRIORITY, PRIORITY_MASK, SPURIOUS,
    line_count, read, write,
};
use crate::addr::PhysAddr;
use crate::arch::{MAX_CPUS, current_thread};

const GICD_ITARGETSR: u64 = 0x0800;
const GICD_SGIR: u64 = 0x0f00;
const GICC_CTLR: u64 = 0x00;
const GICC_PMR: u64 = 0x04;
const GICC_IAR: u64 = 0x0c;
const GICC_EOIR: u64 = 0x10;

static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);
static INTERFACE: AtomicU64 = AtomicU64::new(0);
/// The interface of each CPU, as a bit in the target registers.
static TARGET: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];

pub(super) fn distributor() -> u64 {
    DISTRIBUTOR.load(Ordering::Relaxed)
}

#[inline]
fn interface() -> u64 {
    INTERFACE.load(Ordering::Relaxed)
}

pub(super) fn init(distributor: PhysAddr, cpu_interface: PhysAddr) {
    DISTRIBUTOR.store(distributor.0, Ordering::Relaxed);
    INTERFACE.store(cpu_interface.0, Ordering::Relaxed);
    write(distributor.0, GICD_CTLR, 0);
    for irq in (32..line_count(distributor.0)).step_by(32) {
        write(distributor.0, GICD_ICENABLER + u64::from(irq) / 8, !0);
    }
    write(distributor.0, GICD_CTLR, 1);
    init_cpu();
}

/// This CPU takes no interrupts.
pub(super) fn leave_cpu() {
    write(interface(), GICC_CTLR, 0);
    write(distributor(), GICD_ICENABLER, 0xffff_0000);
}

/// Sets up this CPU's interface, which every CPU of a GICv2 has.
pub(super) fn init_cpu() -> bool {
    let gicd = distributor();
    // The private interrupts' target registers show the reader's own bit in every byte.
    let own = (0..8).map(|word| read(gicd, GICD_ITARGETSR + word * 4)).fold(0, |all, t| all | t);
    let own = own | own >> 16;
    TARGET[current_thread().info.cpu()].store((own | own >> 8) as u8, Ordering::Relaxed);
    write(gicd, GICD_ICENABLER, 0xffff_0000);
    write(gicd, GICD_ISENABLER, 0x0000_ffff);
    for word in 0..8 {
        write(gicd, GICD_IPRIORITYR + word * 4, PRIORITY);
    }
    write(interface(), GICC_PMR, PRIORITY_MASK);
    write(interface(), GICC_CTLR, 1);
    true
}

pub(super) fn enable(irq: u32) {
    let gicd = distributor();
    if irq >= 32 {
        let word = u64::from(irq) / 4 * 4;
        let shift = irq % 4 * 8;
        let target = u32::from(TARGET[0].load(Ordering::Relaxed)) << shift;
        let others = read(gicd, GICD_ITARGETSR + word) & !(0xff << shift);
        write(gicd, GICD_ITARGETSR + word, others | target);
        write(gicd, GICD_IPRIORITYR + word, PRIORITY);
    }
    write(gicd, GICD_ISENABLER + u64::from(irq) / 32 * 4, 1 << (irq % 32));
}

pub(super) fn disable(irq: u32) {
    write(distributor(), GICD_ICENABLER + u64::from(irq) / 32 * 4, 1 << (irq % 32));
}

#[inline]
pub(super) fn acknowledge() -> Option<u32> {
    let acknowledged = read(interface(), GICC_IAR);
    (acknowledged & 0x3ff < SPURIOUS).then_some(acknowledged)
}

#[inline]
pub(super) fn end(acknowledged: u32) {
    write(interface(), GICC_EOIR, acknowledged);
}

pub(super) fn send_ipi(cpu: usize, number: u32) {
    let target = u32::from(TARGET[cpu].load(Ordering::Relaxed));
    // What was stored before is visible to the CPU that is interrupted.
    crate::arch::sync_tables();
    write(distributor(), GICD_SGIR, target << 16 | number);
}
