//! Softirqs: work that an interrupt handler puts off until interrupts are on again.
//!
//! Raised on a CPU, run on that CPU, on the way out of the interrupt, with preemption off and interrupts
//! on. If the interrupted code had preemption off it may hold a spin lock that the work wants, and if work
//! keeps coming programs would starve: in both cases the CPU's `ksoftirqd` does it, scheduled like any
//! other thread.
//!
//! Each CPU has a stack for them: what was interrupted may be deep in its own, and the way of a packet
//! through the network is deep, too.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, Ordering::Relaxed};

use super::entity::{Entity, current};
use super::schedule::wake_up_process;
use super::state::TaskState;
use crate::arch;
use crate::errno::Result;
use crate::mm::KernelStack;
use crate::sync::{MAX_CPUS, Once, PerCpu, PreemptGuard, this_cpu};

/// Kinds of work, the most urgent first.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Softirq {
    /// Timers of processes rang.
    Timer = 0,
    /// Packets were received.
    NetRx = 1,
    /// A block request is done.
    Block = 2,
    /// Timers of network connections rang, or more packets wait than are worked off at once.
    Net = 3,
    /// The kernel log has grown and somebody waits for that.
    Log = 4,
}

const COUNT: usize = 5;
/// Rounds on the way out of one interrupt before `ksoftirqd` takes over.
const MAX_ROUNDS: u32 = 10;

struct Cpu {
    pending: AtomicU32,
    running: AtomicU32,
    daemon: AtomicPtr<Entity>,
    /// What the work runs on.
    stack: Once<KernelStack>,
}

static CPUS: PerCpu<Cpu> = PerCpu::new(
    [const {
        Cpu {
            pending: AtomicU32::new(0),
            running: AtomicU32::new(0),
            daemon: AtomicPtr::new(core::ptr::null_mut()),
            stack: Once::new(),
        }
    }; MAX_CPUS],
);

static HANDLERS: [AtomicUsize; COUNT] = [const { AtomicUsize::new(0) }; COUNT];

/// Sets what a softirq does; at boot.
pub fn register(softirq: Softirq, handler: fn()) {
    HANDLERS[softirq as usize].store(handler as *const () as usize, Ordering::Release);
}

/// Gives a CPU the stack that its softirqs run on, unless it has one; until then they run on that of the
/// thread that was interrupted. `ENOMEM`.
pub fn prepare(cpu: usize) -> Result<()> {
    let stack = &CPUS.of(cpu).stack;
    if stack.try_get().is_none() {
        stack.set(KernelStack::alloc()?);
    }
    Ok(())
}

/// Asks for a softirq on this CPU: it runs on the way out of the interrupt, or soon.
pub fn raise(softirq: Softirq) {
    let _preempt = PreemptGuard::new();
    let cpu = CPUS.this();
    cpu.pending.fetch_or(1 << softirq as u32, Relaxed);
    if arch::irqs_enabled() {
        // Not in an interrupt: there is no way out to run on.
        wake_daemon(cpu);
    }
}

/// [`raise`], from wherever: under the scheduler's own locks as well. The CPU interrupts itself, as soon as it lets
/// itself be interrupted, and the way out of that runs the softirq (irq_work of Linux).
pub fn raise_anywhere(softirq: Softirq) {
    let irq = arch::irq_save();
    let bit = 1 << softirq as u32;
    if CPUS.this().pending.fetch_or(bit, Relaxed) & bit == 0 {
        arch::irq::send_ipi(this_cpu(), super::cpu::IPI_RESCHEDULE);
    }
    arch::irq_restore(irq);
}

fn wake_daemon(cpu: &Cpu) {
    // SAFETY: set once, to a thread that does not end.
    if let Some(daemon) = unsafe { cpu.daemon.load(Ordering::Acquire).as_ref() } {
        wake_up_process(daemon);
    }
}

/// Takes over what is pending on a CPU that is off. May not be called by an interrupt.
pub(super) fn adopt(from: usize) {
    let pending = CPUS.of(from).pending.swap(0, Relaxed);
    if pending != 0 {
        let _preempt = PreemptGuard::new();
        let cpu = CPUS.this();
        cpu.pending.fetch_or(pending, Relaxed);
        wake_daemon(cpu);
    }
}

/// The way out of every interrupt, interrupts off.
#[inline]
pub fn irq_exit() {
    let cpu = CPUS.this();
    if cpu.pending.load(Relaxed) != 0 && cpu.running.load(Relaxed) == 0 {
        if arch::current_thread().info.preempt_count() == 0 {
            run(cpu);
        } else {
            wake_daemon(cpu);
        }
    }
}

/// Runs what is pending; interrupts are off, and off again afterwards.
#[cold]
fn run(cpu: &Cpu) {
    let info = &arch::current_thread().info;
    info.preempt_disable();
    cpu.running.store(1, Relaxed);
    match cpu.stack.try_get() {
        // SAFETY: only this CPU uses it, once at a time (`running`), and nothing is scheduled meanwhile.
        Some(stack) => unsafe { arch::call_on_stack(stack.top(), work) },
        None => work(),
    }
    cpu.running.store(0, Relaxed);
    info.preempt_enable();
}

/// Calls the handlers of what is pending on this CPU; preemption and interrupts are off, and off again
/// afterwards.
extern "C" fn work() {
    let cpu = CPUS.this();
    let mut rounds = 0;
    loop {
        let pending = cpu.pending.swap(0, Relaxed);
        if pending == 0 {
            break;
        }
        if rounds == MAX_ROUNDS {
            cpu.pending.fetch_or(pending, Relaxed);
            wake_daemon(cpu);
            break;
        }
        rounds += 1;
        arch::irq_enable();
        for (i, handler) in HANDLERS.iter().enumerate() {
            let handler = handler.load(Ordering::Acquire);
            if pending & (1 << i) != 0 && handler != 0 {
                // SAFETY: only `register` stores here, functions of this type.
                let handler: fn() = unsafe { core::mem::transmute(handler) };
                handler();
            }
        }
        arch::irq_disable();
    }
}

/// The body of `ksoftirqd/N`, bound to its CPU, until `stop` says so.
pub fn daemon(cpu: usize, stop: impl Fn() -> bool) {
    let me = current();
    let cpu = CPUS.of(cpu);
    cpu.daemon.store(core::ptr::from_ref(me).cast_mut(), Ordering::Release);
    while !stop() {
        me.prepare_sleep(TaskState::INTERRUPTIBLE);
        if cpu.pending.load(Relaxed) == 0 {
            super::schedule::schedule_in(crate::wait_channel!("ksoftirqd"));
        }
        me.cancel_sleep();
        let irq = arch::irq_save();
        run(cpu);
        arch::irq_restore(irq);
        super::schedule::yield_now();
    }
    cpu.daemon.store(core::ptr::null_mut(), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_raised_softirq_runs_on_the_way_out_of_the_interrupt() {
        static RAN: AtomicU32 = AtomicU32::new(0);
        static IN_IRQ: AtomicBool = AtomicBool::new(false);
        register(Softirq::Block, || {
            RAN.fetch_add(1, Relaxed);
            IN_IRQ.store(!arch::irqs_enabled(), Relaxed);
        });
        let irq = arch::irq_save();
        raise(Softirq::Block);
        assert_eq!(RAN.load(Relaxed), 0);
        irq_exit();
        irq_exit();
        arch::irq_restore(irq);
        assert_eq!(RAN.load(Relaxed), 1);
        assert!(!IN_IRQ.load(Relaxed));
    }
}
