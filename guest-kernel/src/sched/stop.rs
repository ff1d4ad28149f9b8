//! The stop class: each CPU's `migration/N` thread, which runs before everything else on its CPU.
//!
//! Once it runs, what ran there before is off the CPU, and no code of that CPU is in a section with
//! preemption off. So a task is moved away from under its program ([`super::policy`]), and so all
//! CPUs are brought to a halt together ([`stop_machine`]) for a change that none of them may see half
//! done.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering, Ordering::Relaxed};

use super::completion::Completion;
use super::cpu;
use super::entity::{Entity, current};
use super::schedule::{lock_rq, schedule_in, wake_up_process};
use super::state::TaskState;
use crate::arch;
use crate::sync::{IrqGuard, MAX_CPUS, Mutex, PerCpu, PreemptGuard};

/// What the threads of some CPUs are to do.
struct Request<'a> {
    function: &'a (dyn Fn(usize) + Sync),
    /// CPUs that have not done it yet.
    left: AtomicU32,
    done: Completion,
}

struct Stopper {
    request: AtomicPtr<Request<'static>>,
    thread: AtomicPtr<Entity>,
}

static STOPPERS: PerCpu<Stopper> = PerCpu::new(
    [const {
        Stopper {
            request: AtomicPtr::new(core::ptr::null_mut()),
            thread: AtomicPtr::new(core::ptr::null_mut()),
        }
    }; MAX_CPUS],
);

/// One request at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Makes `thread`, which will run [`stopper`], the stop class of a CPU.
pub fn set_stopper(cpu: usize, thread: &'static Entity) {
    lock_rq(cpu).set_stop(thread);
    STOPPERS.of(cpu).thread.store(core::ptr::from_ref(thread).cast_mut(), Ordering::Release);
}

/// Calls `function` in the stop threads of those CPUs of `mask` that are online, with preemption off, and
/// returns when all have. May sleep. A CPU without a stop thread, as early in boot, is left out.
pub fn stop_cpus(mask: u64, function: impl Fn(usize) + Sync) {
    let _turn = TURN.lock();
    let ready = |cpu: &usize| !STOPPERS.of(*cpu).thread.load(Ordering::Acquire).is_null();
    let mask = cpu::each(mask & cpu::online_mask()).filter(ready).fold(0, |m, cpu| m | 1 << cpu);
    if mask == 0 {
        return;
    }
    let left = AtomicU32::new(u64::count_ones(mask));
    let request = Request { function: &function, left, done: Completion::new() };
    let at = core::ptr::from_ref(&request).cast::<Request<'static>>().cast_mut();
    {
        // This CPU's thread, which may wait for the others, runs only once all were woken.
        let _preempt = PreemptGuard::new();
        for cpu in cpu::each(mask) {
            let stopper = STOPPERS.of(cpu);
            stopper.request.store(at, Ordering::Release);
            // SAFETY: set once, to a thread that lives for ever.
            if let Some(thread) = unsafe { stopper.thread.load(Ordering::Acquire).as_ref() } {
                wake_up_process(thread);
            }
        }
    }
    request.done.wait();
}

/// Calls `function` on `cpu` while every other CPU does nothing, interrupts off everywhere. May sleep.
pub fn stop_machine(cpu: usize, function: impl Fn() + Sync) {
    let (stopped, masked) = (AtomicU32::new(0), AtomicU32::new(0));
    let over = AtomicBool::new(false);
    let mask = cpu::online_mask();
    let all = mask.count_ones();
    let meet = |count: &AtomicU32| {
        count.fetch_add(1, Ordering::AcqRel);
        while count.load(Ordering::Acquire) < all {
            arch::cpu_relax();
        }
    };
    stop_cpus(mask, |this| {
        // Interrupts stay on until all are here: one that is not yet may wait for an answer of this CPU
        // to an interrupt.
        meet(&stopped);
        let _irq = IrqGuard::new();
        meet(&masked);
        if this == cpu {
            function();
            over.store(true, Ordering::Release);
        }
        while !over.load(Ordering::Acquire) {
            arch::cpu_relax();
        }
    });
}

/// The body of `migration/N` of a CPU, bound to its CPU, until `stop` says so.
pub fn stopper(cpu: usize, stop: impl Fn() -> bool) {
    let me = current();
    let stopper = STOPPERS.of(cpu);
    while !stop() {
        me.prepare_sleep(TaskState::INTERRUPTIBLE);
        let request = stopper.request.swap(core::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: who asked waits until `left` is 0, and this CPU is counted in it.
        let Some(request) = (unsafe { request.as_ref() }) else {
            schedule_in(crate::wait_channel!("smpboot_thread_fn"));
            continue;
        };
        me.cancel_sleep();
        {
            let _preempt = PreemptGuard::new();
            (request.function)(cpu);
        }
        if request.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            request.done.complete();
        }
    }
    me.cancel_sleep();
    stopper.thread.store(core::ptr::null_mut(), Relaxed);
}
