//! The machine's interface on a host, for tests: a thread is a host thread, interrupts are a flag,
//! RAM is a block of host memory that starts at the board's RAM base, and user memory is reached by
//! walking the tables of the root that was activated last.

use std::cell::Cell;

use super::{DebugKind, PtRegs, Thread};

pub mod irq;
mod mem;
mod time;
pub mod tlb;
pub mod uaccess;

pub use mem::{
    RAM_BASE, RAM_SIZE, activate_user, active_user, clear_page, copy_page, deactivate_user,
    kernel_root, mmio_read, mmio_write, phys_to_virt, sync_icache, sync_tables, virt_to_phys,
};
pub use time::{TIMER_IRQ, counter, counter_frequency, set_timer, stop_timer};

/// Whether interrupts were on.
pub type IrqState = bool;

unsafe extern "Rust" {
    /// Makes what a host thread runs as: a thread that is the first field of an entity. The scheduler
    /// defines it.
    safe fn boot_thread() -> &'static Thread;
}

thread_local! {
    static IRQS: Cell<bool> = const { Cell::new(true) };
    static CURRENT: Cell<&'static Thread> = Cell::new(boot_thread());
}

/// The thread that runs on this CPU.
pub fn current_thread() -> &'static Thread {
    CURRENT.get()
}

/// Makes `thread` the current one, as `switch_to` would.
pub fn set_current_thread(thread: &'static Thread) {
    CURRENT.set(thread);
}

/// Masks interrupts and says whether they were on.
pub fn irq_save() -> IrqState {
    IRQS.replace(false)
}

/// Undoes [`irq_save`].
pub fn irq_restore(state: IrqState) {
    IRQS.set(state);
}

/// True if interrupts are on.
pub fn irqs_enabled() -> bool {
    IRQS.get()
}

/// Lets interrupts in.
pub fn irq_enable() {
    IRQS.set(true);
}

/// Masks interrupts.
pub fn irq_disable() {
    IRQS.set(false);
}

/// Nothing interrupts a host thread, so it only lets others run.
pub fn wait_for_interrupt() {
    std::thread::yield_now();
}

/// A hint inside a spinning loop.
pub fn cpu_relax() {
    std::hint::spin_loop();
}

/// A host's stacks are large enough for both.
///
/// # Safety
/// None is needed here.
pub unsafe fn call_on_stack(_top: u64, function: extern "C" fn()) {
    function();
}

/// Kernel threads are not switched on a host.
///
/// # Safety
/// Never called.
pub unsafe fn switch_to(_prev: &Thread, _next: &Thread) -> &'static Thread {
    panic!("a host cannot switch kernel threads");
}

/// Records where the thread would start.
///
/// # Safety
/// As on the bare machine: the thread does not run.
pub unsafe fn setup_kernel_thread(
    thread: &Thread,
    stack: super::KernelStackRange,
    _entry: extern "C" fn(usize),
    _arg: usize,
) {
    // SAFETY: the caller owns the thread.
    unsafe { *thread.stack.get() = stack };
}

/// Records where the thread would start.
///
/// # Safety
/// As on the bare machine: the thread does not run.
pub unsafe fn setup_user_thread(
    thread: &Thread,
    stack: super::KernelStackRange,
    regs: &PtRegs,
    _first: extern "C" fn(usize),
) {
    // SAFETY: the caller owns the thread and its stack.
    unsafe {
        *thread.stack.get() = stack;
        *thread.user_regs() = *regs;
        *thread.is_user.get() = true;
    }
}

/// There are no registers to save.
pub fn save_user_state(_thread: &Thread) {}

/// Programs do not run here.
pub fn note_thread_pointer() {}

/// Makes the running thread one of a new program.
pub fn replace_user_state(fp: &super::FpState, tpidr_el0: u64) {
    let thread = current_thread();
    // SAFETY: the running thread's own cells.
    unsafe {
        *thread.fp.get() = *fp;
        *thread.tpidr_el0.get() = tpidr_el0;
        *thread.is_user.get() = true;
    }
}

/// There are no registers: all are 0.
pub fn fp_state(state: &mut core::mem::MaybeUninit<super::FpState>) {
    state.write(super::FpState::default());
}

/// There are no registers to replace.
pub fn set_fp_state(_state: &super::FpState) {}

/// Single steps are the machine's.
pub fn stop_single_step() {}

/// No registers to forget.
pub fn drop_debug_regs() {}

/// As many as the least AArch64 has of breakpoints.
pub fn debug_slots(_kind: DebugKind) -> usize {
    2
}

/// ARMv8.
pub fn debug_version() -> u32 {
    6
}

/// Visits nothing: the kernel's frames are not followed on a host.
pub fn backtrace(_fp: u64, _visit: impl FnMut(u64)) {}

/// The frame pointer of the caller.
pub fn frame_pointer() -> u64 {
    0
}

/// CPUs of the machine.
pub fn cpu_count() -> usize {
    1
}

/// There are no others to start.
pub fn cpu_on(
    _cpu: usize,
    _thread: &'static Thread,
    _stack_top: u64,
    _entry: extern "C" fn() -> !,
) -> Result<(), i32> {
    Err(-1)
}

/// Ends the process.
pub fn cpu_off() -> ! {
    std::process::exit(0)
}

/// There are no others.
pub fn cpu_is_off(_cpu: usize) -> bool {
    true
}

/// Ends the process.
pub fn power_off() -> ! {
    std::process::exit(0)
}

/// Ends the process.
pub fn reset() -> ! {
    std::process::exit(0)
}

/// A host is not frozen: this machine goes on.
///
/// # Safety
/// As on the bare machine.
pub unsafe fn suspend(saved: extern "C" fn()) -> Option<crate::addr::PhysAddr> {
    saved();
    None
}

/// Nothing goes on with a host's memory.
pub fn thaw_address() -> crate::addr::PhysAddr {
    crate::addr::PhysAddr(0)
}

/// There is no PSCI.
pub fn set_conduit(_smc: bool) {}

/// There is one CPU.
pub fn set_cpus(_ids: impl Iterator<Item = u64>) {}

/// Nothing depends on the host's CPU.
pub fn detect_features() {}

/// There are no devices.
pub fn map_devices(_devices: impl Iterator<Item = core::ops::Range<u64>>) {}

/// Writes to the console before it has a driver.
pub fn early_put(bytes: &[u8]) {
    eprint!("{}", String::from_utf8_lossy(bytes));
}

/// AT_HWCAP and AT_HWCAP2: floating point and Advanced SIMD.
pub fn hwcaps() -> (u64, u64) {
    (0b11, 0)
}

/// CTR_EL0 and DCZID_EL0 of the same.
pub fn cache_registers() -> (u64, u64) {
    (0x8444_c004, 4)
}

/// MIDR_EL1: a Cortex-A72, say.
pub fn midr() -> u64 {
    0x410f_d083
}

/// A random number of the CPU; `None` if the CPU has no random number instruction.
pub fn random_u64() -> Option<u64> {
    None
}

/// True if the CPU can be asked for `ID_AA64*` values at EL0; see the bare machine's.
pub fn emulate_id_register(_regs: &mut PtRegs, _op: super::exception::SysReg) -> bool {
    false
}

/// Continues a faulted user access at its fix-up; there are none on a host.
pub fn fixup_exception(_regs: &mut PtRegs) -> bool {
    false
}

/// The address of the last abort.
pub fn fault_address() -> u64 {
    0
}

/// In an interrupt handler: whether the interrupt came while EL0 ran.
pub fn interrupted_user() -> bool {
    false
}

/// True if the code at `pc` is what accesses user memory.
pub fn is_user_access(_pc: u64) -> bool {
    false
}
