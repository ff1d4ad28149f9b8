//! From the boot loader to Rust, on the first CPU and on the others.
//!
//! Boot protocol (Linux, Documentation/arch/arm64/booting.rst): entered at the first byte of the image
//! at EL2 or EL1, MMU off, interrupts masked, x0 = physical address of the device tree.
//!
//! What `boot.S` leaves for [`kernel_start`](crate::kernel_start): EL1 with its own stack, the MMU on,
//! `.bss` zeroed, vectors set, `current` = the scheduler's boot entity, and *first tables* that map a gigabyte of
//! devices, the image's gigabyte and the device tree's with all rights. [`super::mmu::init`] replaces
//! them by tables with the final rights.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{cpu, mmu, psci};
use crate::addr::PhysAddr;
use crate::arch::{MAX_CPUS, Thread, paging};

/// TCR_EL1 without what depends on the CPU: 48-bit halves, 4 KiB granule, write-back and inner
/// shareable walks, ASID in TTBR0, top byte of EL0 addresses ignored.
const TCR: u64 =
    16 | 1 << 8 | 1 << 10 | 3 << 12 | 16 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30 | 1 << 37;

/// SCTLR_EL1: MMU and caches on, stack alignment checked at EL1 and EL0, PAN set on entry (SPAN = 0),
/// EL0 may use DC ZVA, CTR_EL0, cache maintenance, WFI and WFE; no pointer authentication, no `SETEND`.
const SCTLR: u64 = 1 << 0
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 8
    | 1 << 11
    | 1 << 12
    | 1 << 14
    | 1 << 15
    | 1 << 16
    | 1 << 18
    | 1 << 20
    | 1 << 22
    | 1 << 26
    | 1 << 28
    | 1 << 29;

unsafe extern "C" {
    /// `main.rs`: the boot order.
    fn kernel_start(fdt: PhysAddr) -> !;
    fn secondary_entry();
    /// `sched`: the entity that the first CPU runs as until task 0 takes its place.
    static BOOT_ENTITY: Thread;
}

global_asm!(
    include_str!("boot.S"),
    root = sym crate::introspect::ROOT,
    boot_thread = sym BOOT_ENTITY,
    kernel_start = sym kernel_start,
    mair = const paging::MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
);

/// What a CPU finds when it starts; its physical address is the context that PSCI hands over.
#[repr(C, align(64))]
pub(super) struct SecondaryStart {
    kernel_root: AtomicU64,
    thread: AtomicU64,
    stack_top: AtomicU64,
    entry: AtomicU64,
}

impl SecondaryStart {
    pub(super) const fn new() -> Self {
        Self {
            kernel_root: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            stack_top: AtomicU64::new(0),
            entry: AtomicU64::new(0),
        }
    }

    /// The CPU is to go to `entry` on the stack below `stack_top` as `thread`.
    pub(super) fn set(&self, thread: &'static Thread, stack_top: u64, entry: u64) {
        self.kernel_root.store(mmu::kernel_root().0, Ordering::Relaxed);
        self.thread.store(core::ptr::from_ref(thread) as u64, Ordering::Relaxed);
        self.stack_top.store(stack_top, Ordering::Relaxed);
        self.entry.store(entry, Ordering::Relaxed);
        // It may read them with its caches off.
        super::cache::clean_to_memory(core::ptr::from_ref(self).cast(), size_of::<Self>());
    }
}

static SECONDARY_START: [SecondaryStart; MAX_CPUS] = [const { SecondaryStart::new() }; MAX_CPUS];

static CPU_COUNT: AtomicU32 = AtomicU32::new(1);
static MPIDR: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// CPUs of the machine that the kernel can use, whether they run yet or not.
pub fn cpu_count() -> usize {
    CPU_COUNT.load(Ordering::Relaxed) as usize
}

/// Notes the CPUs that the device tree names; more than [`MAX_CPUS`] are left alone. The one that runs
/// becomes CPU 0.
pub fn set_cpus(ids: impl Iterator<Item = u64>) {
    let own = cpu::mpidr();
    MPIDR[0].store(own, Ordering::Relaxed);
    let mut count = 1;
    for id in ids.filter(|&id| id != own).take(MAX_CPUS - 1) {
        MPIDR[count].store(id, Ordering::Relaxed);
        count += 1;
    }
    CPU_COUNT.store(count as u32, Ordering::Relaxed);
}

/// The affinity fields of MPIDR_EL1 of a CPU.
pub fn cpu_id(cpu: usize) -> u64 {
    MPIDR[cpu].load(Ordering::Relaxed)
}

/// Starts another CPU: it runs `entry` on the stack below `stack_top` as `thread`, with interrupts
/// masked and no user space. The error is PSCI's.
pub fn cpu_on(
    cpu: usize,
    thread: &'static Thread,
    stack_top: u64,
    entry: extern "C" fn() -> !,
) -> Result<(), i32> {
    let start = &SECONDARY_START[cpu];
    start.set(thread, stack_top, entry as usize as u64);
    let entry = mmu::virt_to_phys(secondary_entry as *const ());
    psci::cpu_on(cpu_id(cpu), entry, mmu::virt_to_phys(start))
}

/// Turns this CPU off: it goes on only by another [`cpu_on`]. The caller has left nothing on it.
pub fn cpu_off() -> ! {
    cpu::irq_disable();
    super::time::stop_timer();
    super::irq::leave_cpu();
    psci::cpu_off();
    // A machine that cannot turn CPUs off keeps it here, asleep.
    psci::halt()
}

/// True if a CPU is off, so that [`cpu_on`] can start it.
pub fn cpu_is_off(cpu: usize) -> bool {
    psci::is_off(cpu_id(cpu))
}
