//! GICv3: one distributor, a redistributor for each CPU, and the CPU interface in system registers
//! (Arm IHI 0069). All interrupts are non-secure group 1.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{
    GICD_CTLR, GICD_ICENABLER, GICD_IGROUPR, GICD_IPRIORITYR, GICD_ISENABLER, PRIORITY,
    PRIORITY_MASK, SPURIOUS, line_count, read, write,
};
use crate::addr::PhysAddr;
use crate::arch::{cpu_id, cpu_relax, mpidr};

const GICD_IROUTER: u64 = 0x6000;
const GICR_TYPER: u64 = 0x0008;
const GICR_WAKER: u64 = 0x0014;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// The frame with the registers of private interrupts; these have the distributor's offsets.
const GICR_SGI_FRAME: u64 = 0x1_0000;
const GICR_STRIDE: u64 = 0x2_0000;
const CTLR_ENABLE_GROUP1: u32 = 1 << 1;
const CTLR_AFFINITY_ROUTING: u32 = 1 << 4;
const CTLR_WRITE_PENDING: u32 = 1 << 31;

static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);
static REDISTRIBUTORS: AtomicU64 = AtomicU64::new(0);
static REDISTRIBUTORS_END: AtomicU64 = AtomicU64::new(0);

/// Sets the GIC up and this CPU's interface with it. All shared interrupts are off and go to this CPU.
pub(super) fn init(distributor: PhysAddr, redistributors: core::ops::Range<u64>) {
    DISTRIBUTOR.store(distributor.0, Ordering::Relaxed);
    REDISTRIBUTORS.store(redistributors.start, Ordering::Relaxed);
    REDISTRIBUTORS_END.store(redistributors.end, Ordering::Relaxed);
    let gicd = distributor.0;
    write(gicd, GICD_CTLR, 0);
    wait_for_write(gicd, GICD_CTLR);
    write(gicd, GICD_CTLR, CTLR_AFFINITY_ROUTING | CTLR_ENABLE_GROUP1);
    wait_for_write(gicd, GICD_CTLR);
    for irq in (32..u64::from(line_count(gicd))).step_by(32) {
        write(gicd, GICD_ICENABLER + irq / 8, !0);
        write(gicd, GICD_IGROUPR + irq / 8, !0);
    }
    let found = init_cpu();
    assert!(found, "the first CPU has no GIC redistributor");
}

/// Sets up this CPU's redistributor and interface; false if there is no redistributor for it.
pub(super) fn init_cpu() -> bool {
    let Some(gicr) = find_redistributor() else { return false };
    write(gicr, GICR_WAKER, read(gicr, GICR_WAKER) & !WAKER_PROCESSOR_SLEEP);
    while read(gicr, GICR_WAKER) & WAKER_CHILDREN_ASLEEP != 0 {
        cpu_relax();
    }
    let sgi = gicr + GICR_SGI_FRAME;
    write(sgi, GICD_IGROUPR, !0);
    // Software-generated interrupts are always on, private ones until their driver asks.
    write(sgi, GICD_ICENABLER, 0xffff_0000);
    write(sgi, GICD_ISENABLER, 0x0000_ffff);
    for word in 0..8 {
        write(sgi, GICD_IPRIORITYR + word * 4, PRIORITY);
    }
    // SAFETY: the CPU has the system register interface; enabling it changes nothing else.
    unsafe {
        asm!(
            "mrs {tmp}, s3_0_c12_c12_5", // ICC_SRE_EL1.SRE
            "orr {tmp}, {tmp}, #1",
            "msr s3_0_c12_c12_5, {tmp}",
            "isb",
            "msr s3_0_c4_c6_0, {mask}",   // ICC_PMR_EL1
            "msr s3_0_c12_c12_3, xzr",    // ICC_BPR1_EL1
            "msr s3_0_c12_c12_4, xzr",    // ICC_CTLR_EL1: end and deactivate in one
            "msr s3_0_c12_c12_7, {one}",  // ICC_IGRPEN1_EL1
            "isb",
            tmp = out(reg) _,
            mask = in(reg) u64::from(PRIORITY_MASK),
            one = in(reg) 1_u64,
            options(nostack)
        );
    }
    true
}

/// This CPU takes no interrupts, and its redistributor expects none to be taken (IHI 0069, 11.1).
pub(super) fn leave_cpu() {
    // SAFETY: ICC_IGRPEN1_EL1.
    unsafe { asm!("msr s3_0_c12_c12_7, xzr", "isb", options(nostack)) }
    let Some(gicr) = find_redistributor() else { return };
    write(gicr + GICR_SGI_FRAME, GICD_ICENABLER, 0xffff_0000);
    write(gicr, GICR_WAKER, read(gicr, GICR_WAKER) | WAKER_PROCESSOR_SLEEP);
    // KVM's has no such register: it reads as 0, and nothing falls asleep.
    let has_waker = read(gicr, GICR_WAKER) & WAKER_PROCESSOR_SLEEP != 0;
    while has_waker && read(gicr, GICR_WAKER) & WAKER_CHILDREN_ASLEEP == 0 {
        cpu_relax();
    }
}

pub(super) fn distributor() -> u64 {
    DISTRIBUTOR.load(Ordering::Relaxed)
}

fn wait_for_write(base: u64, offset: u64) {
    while read(base, offset) & CTLR_WRITE_PENDING != 0 {
        cpu_relax();
    }
}

/// This CPU's redistributor: the one whose TYPER names its affinity.
fn find_redistributor() -> Option<u64> {
    let mpidr = mpidr();
    let affinity = (mpidr & 0xff_ffff | mpidr >> 8 & 0xff00_0000) as u32;
    let first = REDISTRIBUTORS.load(Ordering::Relaxed);
    let end = REDISTRIBUTORS_END.load(Ordering::Relaxed);
    (first..end).step_by(GICR_STRIDE as usize).find(|&gicr| read(gicr, GICR_TYPER + 4) == affinity)
}

/// The same, of a CPU whose interface was set up.
fn redistributor() -> u64 {
    find_redistributor().expect("init_cpu found it")
}

/// Lets an interrupt through: to this CPU if it is private, to CPU 0 otherwise.
pub(super) fn enable(irq: u32) {
    let bit = 1 << (irq % 32);
    if irq < 32 {
        return write(redistributor() + GICR_SGI_FRAME, GICD_ISENABLER, bit);
    }
    let gicd = DISTRIBUTOR.load(Ordering::Relaxed);
    let number = u64::from(irq);
    let target = cpu_id(0);
    write(gicd, GICD_IROUTER + number * 8, target as u32);
    write(gicd, GICD_IROUTER + number * 8 + 4, (target >> 32) as u32);
    write(gicd, GICD_IPRIORITYR + number / 4 * 4, PRIORITY);
    write(gicd, GICD_ISENABLER + number / 32 * 4, bit);
}

/// Stops an interrupt.
pub(super) fn disable(irq: u32) {
    let base = match irq {
        0..32 => redistributor() + GICR_SGI_FRAME,
        _ => DISTRIBUTOR.load(Ordering::Relaxed),
    };
    write(base, GICD_ICENABLER + u64::from(irq) / 32 * 4, 1 << (irq % 32));
}

/// Takes the pending interrupt of the highest priority.
#[inline]
pub(super) fn acknowledge() -> Option<u32> {
    let irq: u64;
    // SAFETY: ICC_IAR1_EL1; what is taken is ended by `end`.
    unsafe { asm!("mrs {}, s3_0_c12_c12_0", "dsb sy", out(reg) irq, options(nostack)) }
    let irq = irq as u32 & 0xff_ffff;
    (irq < SPURIOUS).then_some(irq)
}

/// Ends what [`acknowledge`] returned.
#[inline]
pub(super) fn end(irq: u32) {
    // SAFETY: ICC_EOIR1_EL1.
    unsafe { asm!("msr s3_0_c12_c12_1, {}", "isb", in(reg) u64::from(irq), options(nostack)) }
}

/// Interrupts another CPU with a software-generated interrupt (0 to 15).
pub(super) fn send_ipi(cpu: usize, number: u32) {
    let id = cpu_id(cpu);
    let [aff0, aff1, aff2, aff3] = [0, 8, 16, 32].map(|shift| id >> shift & 0xff);
    let value = 1 << (aff0 & 0xf)
        | aff1 << 16
        | u64::from(number) << 24
        | aff2 << 32
        | (aff0 >> 4) << 44
        | aff3 << 48;
    // SAFETY: ICC_SGI1R_EL1; what was stored before is visible to the CPU that is interrupted.
    unsafe { asm!("dsb ishst", "msr s3_0_c12_c11_5, {}", "isb", in(reg) value, options(nostack)) }
}
