//! This CPU: the current thread, interrupt masking, waiting, identification.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::Thread;

/// PSTATE.I before it was changed (the DAIF register).
pub type IrqState = u64;

const DAIF_I: u64 = 1 << 7;

/// The thread that runs on this CPU. It is kept in TPIDR_EL1, which EL0 cannot see.
#[inline(always)]
pub fn current_thread() -> &'static Thread {
    let thread: *const Thread;
    // SAFETY: TPIDR_EL1 holds a valid thread from the first Rust instruction on, and the running thread
    // stays alive. It is the same all through a function: after a switch another *thread* goes on.
    unsafe {
        asm!("mrs {}, tpidr_el1", out(reg) thread, options(pure, nomem, nostack, preserves_flags));
        &*thread
    }
}

/// Makes `thread` the current one without switching: for a CPU's boot thread, which becomes its idle
/// task. What was cached of the old one is not to be used any more.
pub fn set_current_thread(thread: &'static Thread) {
    // SAFETY: the thread lives for ever.
    unsafe { asm!("msr tpidr_el1, {}", in(reg) core::ptr::from_ref(thread), options(nostack)) }
}

/// Masks interrupts and returns what was before.
#[inline(always)]
pub fn irq_save() -> IrqState {
    let daif;
    // SAFETY: masking is always allowed. Not `nomem`: nothing may move out of the masked section.
    unsafe { asm!("mrs {}, daif", "msr daifset, #2", out(reg) daif, options(nostack)) }
    daif
}

/// Goes back to what [`irq_save`] returned.
#[inline(always)]
pub fn irq_restore(state: IrqState) {
    // SAFETY: the value was read from DAIF.
    unsafe { asm!("msr daif, {}", in(reg) state, options(nostack)) }
}

/// True if interrupts are let in.
#[inline(always)]
pub fn irqs_enabled() -> bool {
    let daif: u64;
    // SAFETY: only reads.
    unsafe { asm!("mrs {}, daif", out(reg) daif, options(nomem, nostack, preserves_flags)) }
    daif & DAIF_I == 0
}

/// Lets interrupts in.
#[inline(always)]
pub fn irq_enable() {
    // SAFETY: the caller is ready for interrupts.
    unsafe { asm!("msr daifclr, #2", options(nostack)) }
}

/// Masks interrupts.
#[inline(always)]
pub fn irq_disable() {
    // SAFETY: masking is always allowed.
    unsafe { asm!("msr daifset, #2", options(nostack)) }
}

/// Sleeps until an interrupt is pending, also while they are masked: mask, look for work, sleep, unmask
/// misses none.
#[inline]
pub fn wait_for_interrupt() {
    // SAFETY: only waits.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) }
}

/// A hint inside a spinning loop.
#[inline(always)]
pub fn cpu_relax() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) }
}

/// The affinity fields of MPIDR_EL1.
pub fn mpidr() -> u64 {
    let value: u64;
    // SAFETY: only reads.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value & 0xff_00ff_ffff
}

/// The frame pointer here, to start a backtrace from.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let fp;
    // SAFETY: only reads.
    unsafe { asm!("mov {}, x29", out(reg) fp, options(nomem, nostack, preserves_flags)) }
    fp
}

/// Calls `visit` with the return addresses of the frames from the frame record at `fp` on. It follows
/// records upwards within one kernel stack, and from there (a softirq's) at most once to the stack of the
/// running thread, so that a damaged record ends the walk.
pub fn backtrace(mut fp: u64, mut visit: impl FnMut(u64)) {
    const MOST: usize = 64;
    const RECORD: u64 = 16;
    let mut limit = (fp | (crate::arch::KERNEL_STACK_SIZE as u64 - 1)).saturating_sub(RECORD - 1);
    // SAFETY: set before the thread ran for the first time.
    let stack = unsafe { *current_thread().stack.get() };
    let own_limit = (stack.base + stack.size).saturating_sub(RECORD - 1);
    for _ in 0..MOST {
        if fp == 0 || !fp.is_multiple_of(8) || fp >= limit {
            return;
        }
        // SAFETY: aligned and inside the stack that the walk began in or the thread's, both mapped.
        let [next, pc] = unsafe { *(fp as *const [u64; 2]) };
        if pc == 0 {
            return;
        }
        visit(pc);
        if limit != own_limit && (stack.base..own_limit).contains(&next) {
            limit = own_limit;
        } else if next <= fp {
            return;
        }
        fp = next;
    }
}

static HAS_PAN: AtomicBool = AtomicBool::new(false);

/// Notes what this CPU can do that the kernel asks for on its way. Called once, early.
pub fn detect_features() {
    let mmfr1 = super::features::read_mmfr1();
    HAS_PAN.store(mmfr1 >> 20 & 0xf != 0, Ordering::Relaxed);
}

/// Lets EL1 reach user memory with its own rights, for as long as the returned guard lives.
pub(super) struct UserAccess(());

impl UserAccess {
    /// Turns PAN off, if there is PAN.
    #[inline]
    pub(super) fn new() -> Self {
        if HAS_PAN.load(Ordering::Relaxed) {
            // SAFETY: `msr pan, #0`; the CPU has it. The guard turns it on again.
            unsafe { asm!(".inst 0xd500409f", options(nostack)) }
        }
        Self(())
    }
}

impl Drop for UserAccess {
    #[inline]
    fn drop(&mut self) {
        if HAS_PAN.load(Ordering::Relaxed) {
            // SAFETY: `msr pan, #1`; the CPU has it.
            unsafe { asm!(".inst 0xd500419f", options(nostack)) }
        }
    }
}

/// Writes to the console before it has a driver: the UART where QEMU's board has it.
pub fn early_put(bytes: &[u8]) {
    let data = crate::addr::PhysAddr(0x0900_0000);
    for &byte in bytes {
        // SAFETY: the first tables map the board's devices, and the final ones its UART, which touches no
        // memory.
        unsafe { super::mmio_write(data, byte.into()) }
    }
}

/// FAR_EL1: the address of the last abort; valid in its handler, before another one can happen.
#[inline]
pub fn fault_address() -> u64 {
    let far;
    // SAFETY: only reads.
    unsafe { asm!("mrs {}, far_el1", out(reg) far, options(nomem, nostack, preserves_flags)) }
    far
}

/// In an interrupt handler: whether the interrupt came while EL0 ran.
#[inline]
pub fn interrupted_user() -> bool {
    let spsr: u64;
    // SAFETY: only reads. Handlers take no exceptions, so it is still the interrupt's.
    unsafe { asm!("mrs {}, spsr_el1", out(reg) spsr, options(nomem, nostack, preserves_flags)) }
    spsr & 0xf == 0
}
