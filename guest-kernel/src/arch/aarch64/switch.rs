//! Switching threads, and the registers that a new thread starts with.

use core::arch::{asm, global_asm};
use core::mem::{MaybeUninit, offset_of};

use super::debug::{DEBUGGED, switch_debug};
use super::{current_thread, irq_restore, irq_save};
use crate::arch::{
    FpState, KERNEL_STACK_SIZE, KernelStackRange, PtRegs, Thread, ThreadFlags, ThreadInfo,
};

unsafe extern "C" {
    fn cpu_switch_to(prev: *const Thread, next: *const Thread) -> *const Thread;
    fn ret_from_fork();
    #[link_name = "call_on_stack"]
    fn call_on(top: u64, function: extern "C" fn());
    fn fp_save(state: *mut FpState);
    fn fp_load(state: *const FpState);
}

global_asm!(
    include_str!("vectors.S"),
    stack_shift = const KERNEL_STACK_SIZE.ilog2(),
    exit_work = const ThreadFlags::EXIT_WORK.bits(),
    context = const offset_of!(Thread, context),
);

// vectors.S states these as numbers.
const _: () = {
    assert!(size_of::<PtRegs>() == 304, "vectors.S: S_SIZE");
    assert!(offset_of!(PtRegs, x) == 0, "vectors.S: general registers first");
    assert!(offset_of!(PtRegs, sp) == 248, "vectors.S: S_LR + 8");
    assert!(offset_of!(PtRegs, pc) == 256, "vectors.S: S_PC");
    assert!(offset_of!(PtRegs, pstate) == 264, "vectors.S: S_PC + 8");
    assert!(offset_of!(PtRegs, orig_x0) == 272, "vectors.S: S_ORIG_X0");
    assert!(offset_of!(PtRegs, syscallno) == 280, "vectors.S: S_ORIG_X0 + 8");
    assert!(offset_of!(PtRegs, esr) == 284, "vectors.S: S_ORIG_X0 + 12");
    assert!(offset_of!(PtRegs, stackframe) == 288, "vectors.S: S_FRAME");
    assert!(offset_of!(Thread, info) == 0, "vectors.S: flags are the thread's first word");
    assert!(size_of::<ThreadInfo>() == 16, "ThreadInfo: flags, preempt_count, cpu, fail_nth");
    assert!(offset_of!(FpState, fpsr) == 512, "vectors.S: fp_save");
};

/// Stops `prev`, which runs here, and goes on with `next`. Returns when `prev` goes on: the thread that
/// ran just before that.
///
/// # Safety
/// Interrupts are masked, `prev` is the current thread, `next` does not run anywhere, and both stay
/// alive until each has been switched away from for good.
#[inline]
pub unsafe fn switch_to(prev: &Thread, next: &Thread) -> &'static Thread {
    // SAFETY: the caller owns both threads' saved state.
    unsafe {
        if *prev.is_user.get() {
            save_user_state(prev);
        }
        if *next.is_user.get() {
            load_user_state(next);
        }
        if (prev.info.flags() | next.info.flags()).intersects(DEBUGGED) {
            switch_debug(next);
        }
        &*cpu_switch_to(prev, next)
    }
}

/// Saves the FP/SIMD registers and the thread pointer of EL0 in `thread`. For the running thread, before
/// its state is copied (fork) or shown.
#[inline]
pub fn save_user_state(thread: &Thread) {
    // SAFETY: the kernel itself uses none of these registers, so they are the program's; the cells
    // belong to the running thread.
    unsafe {
        fp_save(thread.fp.get());
        asm!("mrs {}, tpidr_el0", out(reg) * thread.tpidr_el0.get(), options(nostack));
    }
}

/// Saves the thread pointer of EL0 of the running thread: whoever looks at a stopped machine from outside
/// finds it in memory, a tick old at most.
#[inline]
pub fn note_thread_pointer() {
    // SAFETY: the register is the program's, the cell belongs to the running thread.
    unsafe {
        let to = current_thread().tpidr_el0.get();
        asm!("mrs {}, tpidr_el0", out(reg) * to, options(nostack));
    }
}

/// Loads the FP/SIMD registers and the thread pointer of EL0 from `thread`.
#[inline]
fn load_user_state(thread: &Thread) {
    // SAFETY: as above.
    unsafe {
        fp_load(thread.fp.get());
        asm!("msr tpidr_el0, {}", in(reg) *thread.tpidr_el0.get(), options(nostack));
    }
}

/// Makes the running thread one of a new program: these are its FP/SIMD registers and its thread pointer, which
/// are saved and loaded with the thread from here on.
pub fn replace_user_state(fp: &FpState, tpidr_el0: u64) {
    let thread = current_thread();
    // A switch in the middle would save the old registers over the new ones.
    let irq = irq_save();
    // SAFETY: the running thread's own cells.
    unsafe {
        *thread.fp.get() = *fp;
        *thread.tpidr_el0.get() = tpidr_el0;
        *thread.is_user.get() = true;
    }
    load_user_state(thread);
    irq_restore(irq);
}

/// Stores the FP/SIMD registers of the running thread's program.
#[inline]
pub fn fp_state(state: &mut MaybeUninit<FpState>) {
    // SAFETY: the state has room for them; all fields are written.
    unsafe { fp_save(state.as_mut_ptr()) }
}

/// Replaces the FP/SIMD registers of the running thread's program.
#[inline]
pub fn set_fp_state(state: &FpState) {
    // SAFETY: the kernel itself uses none of them.
    unsafe { fp_load(state) }
}

/// Calls `function` on the kernel stack that ends at `top`.
///
/// # Safety
/// The stack is mapped, as a kernel stack is ([`KERNEL_STACK_ALIGN`](crate::arch::KERNEL_STACK_ALIGN)), and
/// nobody uses it. The function does not switch threads.
pub unsafe fn call_on_stack(top: u64, function: extern "C" fn()) {
    // SAFETY: the caller's promise.
    unsafe { call_on(top, function) }
}

/// Prepares a thread that calls `entry(arg)` in the kernel, after `schedule_tail`. An `entry` that returns
/// goes on at EL0 with the registers at the top of its stack (that is how init leaves the kernel).
///
/// # Safety
/// The thread does not run, and `stack` is its own: mapped, aligned to
/// [`KERNEL_STACK_ALIGN`](crate::arch::KERNEL_STACK_ALIGN).
pub unsafe fn setup_kernel_thread(
    thread: &Thread,
    stack: KernelStackRange,
    entry: extern "C" fn(usize),
    arg: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        *thread.stack.get() = stack;
        thread.user_regs().write(PtRegs { syscallno: PtRegs::NO_SYSCALL, ..PtRegs::default() });
        start_at_ret_from_fork(thread, entry as usize as u64, arg as u64);
    }
}

/// Prepares a thread that calls `first(0)` in the kernel, after `schedule_tail`, and then goes to EL0
/// with `regs`.
///
/// # Safety
/// As for [`setup_kernel_thread`].
pub unsafe fn setup_user_thread(
    thread: &Thread,
    stack: KernelStackRange,
    regs: &PtRegs,
    first: extern "C" fn(usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        *thread.stack.get() = stack;
        *thread.is_user.get() = true;
        let saved = thread.user_regs();
        saved.write(*regs);
        (*saved).stackframe = [0; 2];
        start_at_ret_from_fork(thread, first as usize as u64, 0);
    }
}

/// # Safety
/// The thread does not run, and its stack and the registers at its top are set.
unsafe fn start_at_ret_from_fork(thread: &Thread, entry: u64, arg: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        let regs = thread.user_regs();
        let context = &mut *thread.context.get();
        context.x19_x28[0] = entry;
        context.x19_x28[1] = arg;
        context.fp = &raw const (*regs).stackframe as u64;
        context.sp = regs as u64;
        context.pc = ret_from_fork as *const () as u64;
    }
}
