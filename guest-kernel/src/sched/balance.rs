//! Which CPU an entity runs on, when there are several.
//!
//! A sleeper is woken where it ran before unless another allowed CPU is idle and that one is not; a CPU
//! that runs out of work, and every CPU now and then, pulls from the busiest. Another CPU's queue is
//! only ever *tried*, never waited for, so two CPUs that pull from each other cannot deadlock.

use core::sync::atomic::Ordering::Relaxed;

use super::cpu;
use super::entity::Entity;
use super::runqueue::RunQueue;
use super::schedule::{RUNQUEUES, RqGuard};

/// The CPU for an entity that becomes runnable and was on `last`.
pub(super) fn select_cpu(entity: &Entity, last: usize) -> usize {
    let allowed = entity.cpus_allowed() & cpu::online_mask();
    if allowed == 0 {
        return last;
    }
    let busy = |cpu: usize| {
        // SAFETY: one racy word; whatever it says, the choice is allowed.
        unsafe { (*RUNQUEUES.of(cpu).data_ptr()).nr_running() }
    };
    let last_allowed = allowed & (1 << last) != 0;
    if last_allowed && busy(last) == 0 {
        return last;
    }
    let mut best = if last_allowed { Some((busy(last), last)) } else { None };
    let mut rest = allowed;
    while rest != 0 {
        let cpu = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        let load = busy(cpu);
        // Moving away from a warm cache pays only for an idle CPU.
        let better = best.is_none_or(|(least, _)| load < least && (load == 0 || !last_allowed));
        if better {
            best = Some((load, cpu));
        }
    }
    best.map_or(last, |(_, cpu)| cpu)
}

/// Pulls one entity to `rq` from the queue that has the most, if that has `margin` more than here.
pub(super) fn pull(rq: &mut RunQueue, margin: u32) {
    let mut busiest = None;
    let mut rest = cpu::online_mask() & !(1 << rq.cpu());
    while rest != 0 {
        let cpu = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        // SAFETY: one racy word; it is looked at again under the lock.
        let load = unsafe { (*RUNQUEUES.of(cpu).data_ptr()).nr_running() };
        if load > rq.nr_running() + margin && busiest.is_none_or(|(most, _)| load > most) {
            busiest = Some((load, cpu));
        }
    }
    let Some((_, cpu)) = busiest else { return };
    let Some(from) = RUNQUEUES.of(cpu).try_lock() else { return };
    let mut from = RqGuard::new(from);
    let Some(entity) = from.find_movable(rq.cpu()).map(core::ptr::from_ref) else { return };
    // SAFETY: it is queued there, and that queue is locked.
    let entity = unsafe { &*entity };
    from.dequeue_task(entity);
    entity.thread.info.set_cpu(rq.cpu());
    entity.timestamp.store(super::clock::monotonic_ns(), Relaxed);
    rq.enqueue_task(entity);
}

/// A busy CPU looks around at its tick.
pub(super) fn tick(rq: &mut RunQueue) {
    pull(rq, 1);
}
