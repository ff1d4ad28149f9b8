//! Starting CPUs and taking them out again.
//!
//! ```text
//!  DOWN ──start()──▶ STARTING ──the CPU itself──▶ UP ──take_down()──▶ LEAVING ──die()──▶ DOWN
//!                       │ nothing came in time, or it has no interrupt controller
//!                       └──────────────────▶ FAILED (for good)
//! ```
//!
//! A CPU runs its idle entity's stack from the top each time it starts: nothing of it is kept while it is
//! off but what lies in its run queue. What ran there goes elsewhere, and comes back by itself if it may
//! run nowhere else. [`crate::process::smp`] does what concerns threads.

use core::sync::atomic::{AtomicU32, Ordering};

use super::clock::{Deadline, monotonic_ns};
use super::completion::Completion;
use super::cpu;
use super::entity::{Entity, current};
use super::schedule;
use crate::arch;
use crate::errno::{Errno, Result};
use crate::mm;
use crate::sync::{MAX_CPUS, Mutex, PerCpu, this_cpu};

const DOWN: u32 = 0;
const STARTING: u32 = 1;
const UP: u32 = 2;
const LEAVING: u32 = 3;
const FAILED: u32 = 4;

/// How long a CPU may take to come up.
const PATIENCE_NS: u64 = 10_000_000_000;

static STATES: PerCpu<AtomicU32> = PerCpu::new([const { AtomicU32::new(DOWN) }; MAX_CPUS]);
/// The CPU that was started last came up, or not.
static ARRIVED: Completion = Completion::new();

/// Held while a CPU comes or goes (`cpu_hotplug_lock`).
pub static LOCK: Mutex<()> = Mutex::new(());

/// Starts a CPU, with `idle` as what it runs when there is nothing else, and returns once it schedules.
/// [`LOCK`] is held. `EIO` if it cannot be started or does not come: then it is never tried again, since it
/// may still come later.
///
/// # Safety
/// `idle` has a stack of its own and runs nowhere.
pub unsafe fn start(cpu: usize, idle: &'static Entity) -> Result<()> {
    let state = STATES.of(cpu);
    match state.compare_exchange(DOWN, STARTING, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(UP) => return Ok(()),
        Err(_) => return Err(Errno::EIO),
    }
    idle.thread.info.set_cpu(cpu);
    idle.thread.info.set_preempt_count(0);
    idle.thread.info.clear(arch::ThreadFlags::all());
    let thread = &idle.thread;
    if let Err(error) = arch::cpu_on(cpu, thread, thread.stack_top(), secondary_start) {
        state.store(DOWN, Ordering::Release);
        crate::kerr!("CPU {cpu}: PSCI cannot start it: error {error}");
        return Err(Errno::EIO);
    }
    if ARRIVED.wait_timeout(Deadline::after(PATIENCE_NS)).is_err() {
        if fail(state) {
            crate::kerr!("CPU {cpu}: it was started and did not come up");
            return Err(Errno::EIO);
        }
        // It came at the last moment.
        ARRIVED.wait();
    }
    match state.load(Ordering::Acquire) {
        UP => Ok(()),
        _ => {
            crate::kerr!("CPU {cpu}: the interrupt controller has no part for it");
            Err(Errno::EIO)
        }
    }
}

/// STARTING → FAILED; false if somebody else was faster.
fn fail(state: &AtomicU32) -> bool {
    state.compare_exchange(STARTING, FAILED, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// Where a CPU begins, as its idle entity: interrupts are off, and there is no user space.
extern "C" fn secondary_start() -> ! {
    let state = STATES.of(this_cpu());
    arch::stop_timer();
    if !arch::irq::init_cpu() {
        // There is no run queue yet, so nobody can be woken from here but by the state; who started it
        // waits for that long.
        fail(state);
        arch::cpu_off();
    }
    if state.compare_exchange(STARTING, UP, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // It took too long and was given up.
        arch::cpu_off();
    }
    arch::irq::enable(arch::TIMER_IRQ);
    schedule::init_cpu();
    ARRIVED.complete();
    arch::irq_enable();
    schedule::idle_loop()
}

/// Takes a CPU out and returns once it is off: what is runnable there goes elsewhere, its timers come
/// here. [`LOCK`] is held; threads that are bound to the CPU sleep already. `EBUSY` if it is the last one
/// that is online.
pub fn take_down(cpu: usize) -> Result<()> {
    if !cpu::is_online(cpu) {
        return Ok(());
    }
    if cpu::online_count() == 1 {
        return Err(Errno::EBUSY);
    }
    STATES.of(cpu).store(LEAVING, Ordering::Release);
    super::stop::stop_machine(cpu, || super::balance::push_all(cpu, monotonic_ns()));
    // Now its idle entity finds that the CPU is not online.
    while STATES.of(cpu).load(Ordering::Acquire) != DOWN || !arch::cpu_is_off(cpu) {
        super::entity::current().prepare_sleep(super::state::TaskState::UNINTERRUPTIBLE);
        super::timer::schedule_timeout(Deadline::after(100_000), crate::wait_channel!("cpu_down"));
    }
    super::timer::adopt(cpu);
    super::softirq::adopt(cpu);
    // What a CPU that is off runs on is nobody's.
    if let Some(idle) = schedule::idle_of(cpu) {
        // SAFETY: it runs nowhere.
        drop(unsafe { idle.take_active_mm() });
    }
    Ok(())
}

/// The last thing that the idle entity of a CPU does which was taken out; interrupts are off.
pub(super) fn die() -> ! {
    let cpu = this_cpu();
    debug_assert!(current().is_idle_entity());
    mm::leave_user_space();
    schedule::cease();
    STATES.of(cpu).store(DOWN, Ordering::Release);
    arch::cpu_off()
}

/// True if a CPU was started and did not come up.
pub fn has_failed(cpu: usize) -> bool {
    STATES.of(cpu).load(Ordering::Acquire) == FAILED
}
