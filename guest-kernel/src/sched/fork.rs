//! What a new entity starts with, and what is left of it when it ends.
//!
//! CPU time is neither made by forking nor lost by it: the child's first slice is cut from its parent's, and
//! what is left of it goes back if the child ends early. The same goes for the standing that sleep gives: a
//! child starts with three quarters of its parent's, and one that ends with less takes some of its
//! parent's along. So a shell that does nothing but wait for children counts, after a few of them, as what
//! they are, while one that waits for somebody at a terminal keeps its standing.

use core::sync::atomic::Ordering::Relaxed;

use super::clock::monotonic_ns;
use super::cpu;
use super::entity::{Entity, current};
use super::prio::{self, Policy};
use super::runqueue::effective_prio;
use super::schedule::{
    RUNQUEUES, RqGuard, arrived, is_scheduling, lock_rq, lock_rq_of, resched_curr,
};
use crate::kref::Ref;
use crate::sync::{IrqGuard, this_cpu};

/// A child that ends moves its parent's `sleep_avg` by one part in this many towards its own.
const EXIT_WEIGHT: u64 = 4;

/// Sets up the scheduling of a new entity from the current one's: `copy_process` calls it before anybody
/// else can see the child.
pub fn sched_fork(child: &Entity) {
    let parent = current();
    if parent.policy() == Policy::Idle && parent.is_idle_entity() {
        return child.sched_fork_kernel();
    }
    {
        let _irq = IrqGuard::new();
        let _rq = charge_current();
        inherit(parent, child);
    }
    child.thread.info.set_cpu(this_cpu());
    // `schedule_tail` drops this one.
    child.thread.info.set_preempt_count(1);
}

/// Charges the current entity up to now; its run queue, locked, if there is one yet. Interrupts are off.
fn charge_current() -> Option<RqGuard> {
    is_scheduling().then(|| {
        let mut rq = lock_rq(this_cpu());
        rq.update_curr(monotonic_ns());
        rq
    })
}

/// Gives `child` the policy, the level and half of what is left of the slice of `parent`, whose run
/// queue is locked.
pub(super) fn inherit(parent: &Entity, child: &Entity) {
    let mut policy = parent.policy();
    let mut static_prio = parent.static_prio();
    let mut rt_priority = parent.rt_priority();
    if parent.reset_on_fork() {
        if policy.is_rt() {
            policy = Policy::Normal;
            static_prio = prio::DEFAULT_PRIO;
            rt_priority = 0;
        }
        static_prio = static_prio.max(prio::DEFAULT_PRIO);
    }
    child.policy.store(policy as u32, Relaxed);
    child.static_prio.store(static_prio, Relaxed);
    child.rt_priority.store(rt_priority, Relaxed);
    child.normal_prio.store(prio::normal_prio(policy, static_prio, rt_priority), Relaxed);
    child.cpus_allowed.store(parent.cpus_allowed(), Relaxed);
    // SAFETY: the parent's run queue is locked, and nobody else knows the child.
    drop(unsafe { child.swap_group(parent.group().cloned()) });
    let slice = prio::slice(policy, static_prio).unwrap_or(0);
    if policy.is_rt() == parent.policy().is_rt() {
        let left = parent.time_slice.load(Relaxed);
        let share = left.div_ceil(2).min(slice);
        child.time_slice.store(share, Relaxed);
        parent.time_slice.store(left - share, Relaxed);
        child.first_slice.store(true, Relaxed);
    } else {
        child.time_slice.store(slice, Relaxed);
    }
    child.sleep_avg.store(parent.sleep_avg.load(Relaxed) / 4 * 3, Relaxed);
    child.prio.store(effective_prio(child), Relaxed);
}

/// The current entity is about to end: `parent` gets back what is left of the slice that it gave.
pub fn sched_exit(parent: &Entity) {
    let child = current();
    let _irq = IrqGuard::new();
    drop(charge_current());
    let _rq = is_scheduling().then(|| lock_rq_of(parent));
    give_back(child, parent);
}

/// What [`sched_exit`] does, with the run queue of `parent` locked.
pub(super) fn give_back(child: &Entity, parent: &Entity) {
    let same_class = child.policy().is_rt() == parent.policy().is_rt();
    if child.first_slice.load(Relaxed) && same_class {
        let left = parent.time_slice.load(Relaxed) + child.time_slice.load(Relaxed);
        let slice = prio::slice(parent.policy(), parent.static_prio()).unwrap_or(0);
        parent.time_slice.store(left.min(slice), Relaxed);
        child.first_slice.store(false, Relaxed);
    }
    let (own, childs) = (parent.sleep_avg.load(Relaxed), child.sleep_avg.load(Relaxed));
    if childs < own {
        parent.sleep_avg.store(own - (own - childs) / EXIT_WEIGHT, Relaxed);
    }
}

impl Entity {
    /// Sets up the scheduling of a new kernel thread: nice 0 and all CPUs, whoever makes it.
    pub fn sched_fork_kernel(&self) {
        self.sleep_avg.store(prio::MAX_SLEEP_AVG / 2, Relaxed);
        self.prio.store(effective_prio(self), Relaxed);
        self.thread.info.set_cpu(this_cpu());
        self.thread.info.set_preempt_count(1);
    }

    /// True for the idle entity of a CPU.
    pub fn is_idle_entity(&self) -> bool {
        // SAFETY: one word that is set once.
        RUNQUEUES.iter().any(|rq| unsafe { (*rq.data_ptr()).is_idle_entity(self) })
    }
}

/// Starts a new entity. If it has an address space of its own it runs before its parent goes on: it will
/// most likely exec or exit, and then the parent copies nothing of what they share until then.
pub fn wake_up_new(entity: &Entity) {
    let parent = current();
    {
        // Under the lock, so that whoever looks at it there sees it started or not.
        let _irq = IrqGuard::new();
        let _rq = is_scheduling().then(|| lock_rq_of(entity));
        entity.start();
    }
    let now = monotonic_ns();
    entity.timestamp.store(now, Relaxed);
    super::loadavg::catch_up(now);
    let _irq = IrqGuard::new();
    let mut cpu = this_cpu();
    if cpu::online_count() > 1 || !super::balance::may_stay(entity, cpu) {
        cpu = super::balance::select_cpu(entity, cpu);
    }
    let mut rq = lock_rq(cpu);
    // The CPUs that it may run on may change until it is queued.
    while !super::balance::accepts(&rq, entity) {
        drop(rq);
        cpu = super::balance::select_cpu(entity, cpu);
        rq = lock_rq(cpu);
    }
    rq.sum_load(now);
    entity.thread.info.set_cpu(cpu);
    // SAFETY: the entity was not started when its cells were set, and is only looked at.
    let (mm, _) = unsafe { entity.mm_cells() };
    let own_mm =
        mm.as_ref().is_some_and(|mm| !parent.mm().is_some_and(|parents| Ref::ptr_eq(parents, mm)));
    if own_mm && cpu == this_cpu() && rq.enqueue_before_curr(entity) {
        resched_curr(&rq);
    } else {
        rq.enqueue_task(entity);
        arrived(&rq, entity);
    }
}
