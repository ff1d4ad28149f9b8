//! Calling a function on other CPUs, in their interrupt, and waiting until all have called it.
//!
//! Each CPU has a queue of calls; a call lies on its sender's stack, which does not go on before every
//! CPU is done with it. The sender must have interrupts on: two CPUs that call each other with theirs
//! off would wait for ever.

use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::cpu;
use crate::arch;
use crate::sync::{MAX_CPUS, PerCpu, PreemptGuard, this_cpu};

/// A call that other CPUs are to make.
struct Call<'a> {
    function: &'a (dyn Fn() + Sync),
    /// CPUs that have not made it yet.
    left: AtomicU32,
}

/// What a CPU is to call next. One place for each sender: nobody waits for a lock, and a sender has one
/// call under way at most, since preemption is off until it is over.
static CALLS: PerCpu<[AtomicPtr<Call<'static>>; MAX_CPUS]> =
    PerCpu::new([const { [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS] }; MAX_CPUS]);

/// Calls `function` on those CPUs of `mask` that schedule, this one included if it is named, and returns
/// when all have. It runs with interrupts off (elsewhere) or preemption off (here). What this CPU stored
/// before is visible to the function, and what the function stored is visible to the caller.
pub fn on_cpus(mask: u64, function: impl Fn() + Sync) {
    debug_assert!(arch::irqs_enabled(), "a call of other CPUs with interrupts off");
    let _preempt = PreemptGuard::new();
    let me = this_cpu();
    let others = mask & cpu::online_mask() & !(1 << me);
    let call = Call { function: &function, left: AtomicU32::new(others.count_ones()) };
    let at = core::ptr::from_ref(&call).cast::<Call<'static>>().cast_mut();
    for cpu in cpu::each(others) {
        CALLS.of(cpu)[me].store(at, Ordering::Release);
        arch::irq::send_ipi(cpu, cpu::IPI_CALL);
    }
    if mask & 1 << me != 0 {
        function();
    }
    while call.left.load(Ordering::Acquire) != 0 {
        arch::cpu_relax();
    }
}

/// Makes the calls that others asked for; interrupts are off.
pub(super) fn handle() {
    for place in CALLS.this() {
        let call = place.swap(core::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: the sender waits until `left` is 0, and this CPU is counted in it.
        if let Some(call) = unsafe { call.as_ref() } {
            (call.function)();
            call.left.fetch_sub(1, Ordering::Release);
        }
    }
}
