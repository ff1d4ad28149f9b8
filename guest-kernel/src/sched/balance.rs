//! Which CPU an entity runs on, when there are several.
//!
//! A sleeper is woken where it ran before unless another allowed CPU is idle and that one is not; a
//! real-time one goes where it can run at once. A CPU that runs out of work, and every busy CPU now and
//! then, pulls from the busiest; one that has more to do than it can and sees an idle CPU wakes that up to
//! pull. Where the entities cannot be divided evenly those of a CPU with one more get less time: a CPU that
//! had less to do than another for a [`WINDOW`] takes one from there, so that it is others' turn to get
//! less. Another CPU's queue is only ever *tried*, never waited for, so two CPUs that pull from each other
//! cannot deadlock.

use core::sync::atomic::Ordering::Relaxed;

use super::cpu;
use super::entity::Entity;
use super::prio;
use super::runqueue::{LOAD_SCALE, RunQueue};
use super::schedule::{RUNQUEUES, RqGuard, idle_of, lock_rq, resched_curr};
use crate::arch::{self, ThreadFlags};

/// For how long, in ns, CPUs average what they have to do before they compare: a few slices of nice 0.
const WINDOW: u64 = 500_000_000;

/// The online CPUs that an entity may run on: all of them if those that it is bound to are taken out.
fn allowed(entity: &Entity) -> u64 {
    let online = cpu::online_mask();
    match entity.cpus_allowed() & online {
        0 => online,
        allowed => allowed,
    }
}

/// True if an entity that is on a CPU may go on there.
#[inline]
pub(super) fn may_stay(entity: &Entity, cpu: usize) -> bool {
    entity.cpus_allowed() & (1 << cpu) != 0 || allowed(entity) & (1 << cpu) != 0
}

/// True if an entity may be queued there; the queue's lock is held.
#[inline]
pub(super) fn accepts(rq: &RunQueue, entity: &Entity) -> bool {
    rq.is_online() && may_stay(entity, rq.cpu())
}

/// A look at another CPU's queue without its lock: how many are runnable, and the level that runs. An
/// entity beside a real-time one counts as one more: that one gives nothing away.
fn look(cpu: usize) -> (u32, i32) {
    let rq = RUNQUEUES.of(cpu).data_ptr();
    // SAFETY: two racy words; what is done with them is right whatever they say.
    let (nr, level) = unsafe { ((*rq).nr_running(), (*rq).curr_prio()) };
    (nr + u32::from(level < prio::MAX_RT_PRIO), level)
}

/// The CPU for an entity that becomes runnable and was on `last`.
pub(super) fn select_cpu(entity: &Entity, last: usize) -> usize {
    let rt_level = entity.is_rt().then(|| entity.prio());
    choose(rt_level, allowed(entity), last, look)
}

/// Chooses among the `allowed` CPUs, of which there is one at least. `rt_level` is the level of a real-time
/// entity, `look` says how many are runnable on a CPU, and the level that runs.
fn choose(
    rt_level: Option<i32>,
    allowed: u64,
    last: usize,
    look: impl Fn(usize) -> (u32, i32),
) -> usize {
    let last_allowed = allowed & (1 << last) != 0;
    let (at_last, level_at_last) = look(last);
    if last_allowed && at_last == 0 {
        return last;
    }
    if let Some(level) = rt_level {
        if last_allowed && level < level_at_last {
            return last;
        }
        // Where the least urgent runs, if that is less urgent.
        let least = cpu::each(allowed).max_by_key(|&cpu| look(cpu).1).unwrap_or(last);
        return if last_allowed && level >= look(least).1 { last } else { least };
    }
    let mut best = if last_allowed { Some((at_last, last)) } else { None };
    for cpu in cpu::each(allowed) {
        let (load, _) = look(cpu);
        // Moving away from a warm cache pays only for an idle CPU, or away from a real-time entity.
        let pays = load == 0 || !last_allowed || level_at_last < prio::MAX_RT_PRIO;
        if best.is_none_or(|(least, _)| load < least && pays) {
            best = Some((load, cpu));
        }
    }
    best.map_or(last, |(_, cpu)| cpu)
}

/// The other CPU on which most is to do, and how much more than on the one of `rq`, if it is more.
fn busiest(rq: &RunQueue) -> Option<(usize, u32)> {
    let here = look(rq.cpu()).0;
    let mut busiest = None;
    for cpu in cpu::each(cpu::online_mask() & !(1 << rq.cpu())) {
        let (load, _) = look(cpu);
        if load > here && busiest.is_none_or(|(_, more)| load - here > more) {
            busiest = Some((cpu, load - here));
        }
    }
    busiest
}

/// Pulls one entity from the queue of `cpu` to `rq`, if there is one that may move.
fn pull(rq: &mut RunQueue, cpu: usize) -> Option<&'static Entity> {
    let mut from = RqGuard::new(RUNQUEUES.of(cpu).try_lock()?);
    let entity = core::ptr::from_ref(from.find_movable(rq.cpu())?);
    // SAFETY: it is queued, there and then here, and the queue is locked.
    let entity = unsafe { &*entity };
    from.dequeue_task(entity);
    entity.thread.info.set_cpu(rq.cpu());
    entity.timestamp.store(super::clock::monotonic_ns(), Relaxed);
    rq.enqueue_task(entity);
    Some(entity)
}

/// A CPU that has nothing to do pulls what waits elsewhere.
pub(super) fn pull_to_idle(rq: &mut RunQueue) {
    if let Some((cpu, 2..)) = busiest(rq) {
        pull(rq, cpu);
    }
}

/// Pulls one from a CPU that had at least half an entity more to do for a while, if something waits there. What becomes
/// runnable just now, as sleepers do at a tick, says little of that, but a CPU with much more to do than the other takes
/// nothing. Nor does one that a real-time entity keeps.
fn pull_for_a_turn(rq: &mut RunQueue) -> Option<&'static Entity> {
    if rq.curr_prio() < prio::MAX_RT_PRIO {
        return None;
    }
    let here = look(rq.cpu()).0;
    let wanted = rq.load_avg() + LOAD_SCALE / 2;
    let busier = |cpu: &usize| {
        let other = RUNQUEUES.of(*cpu).data_ptr();
        // SAFETY: two racy words; what is done with them is right whatever they say.
        let (waits, load) = unsafe { ((*other).nr_running() > 1, (*other).load_avg()) };
        waits && load >= wanted && look(*cpu).0 + 1 >= here
    };
    let others = cpu::each(cpu::online_mask() & !(1 << rq.cpu()));
    others.filter(busier).find_map(|cpu| pull(rq, cpu))
}

/// A busy CPU looks around at its tick.
pub(super) fn tick(rq: &mut RunQueue, now: u64) {
    let compares = rq.average_load(WINDOW, now);
    let mut pulled = match busiest(rq) {
        Some((cpu, 2..)) => pull(rq, cpu),
        _ => None,
    };
    if pulled.is_none() && compares {
        pulled = pull_for_a_turn(rq);
    }
    if let Some(entity) = pulled {
        if rq.preempts_curr(entity) {
            resched_curr(rq);
        }
    } else if rq.nr_running() > 1 {
        // It may be that nobody pulled when that CPU became idle: this queue was locked, or what is here
        // was not allowed there.
        let idle = |cpu: &usize| look(*cpu).0 == 0 && rq.find_movable(*cpu).is_some();
        let others = cpu::online_mask() & !(1 << rq.cpu());
        if let Some(cpu) = cpu::each(others).find(idle)
            && let Some(entity) = idle_of(cpu)
        {
            entity.thread.info.set(ThreadFlags::NEED_RESCHED);
            arch::irq::send_ipi(cpu, cpu::IPI_RESCHEDULE);
        }
    }
}

/// Takes a CPU out: sends everything away that is queued there. Every other CPU stands still
/// ([`super::stop::stop_machine`]), so no lock is waited for.
pub(super) fn push_all(cpu: usize, now: u64) {
    let mut rq = lock_rq(cpu);
    rq.stop(now);
    cpu::set_offline(cpu);
    while let Some(entity) = rq.any_but_stop().map(core::ptr::from_ref) {
        // SAFETY: it is queued, and the queue is locked.
        let entity = unsafe { &*entity };
        rq.dequeue_task(entity);
        let target = select_cpu(entity, cpu);
        let mut to = lock_rq(target);
        entity.thread.info.set_cpu(target);
        to.enqueue_task(entity);
        super::schedule::arrived(&to, entity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: (u32, i32) = (0, prio::MAX_PRIO as i32);
    const NORMAL: i32 = prio::DEFAULT_PRIO;

    fn normal(allowed: u64, last: usize, cpus: &[(u32, i32)]) -> usize {
        choose(None, allowed, last, |cpu| cpus[cpu])
    }

    fn real_time(level: i32, allowed: u64, last: usize, cpus: &[(u32, i32)]) -> usize {
        choose(Some(level), allowed, last, |cpu| cpus[cpu])
    }

    #[test]
    fn a_sleeper_stays_unless_another_cpu_is_idle() {
        let busy = |n| (n, NORMAL);
        assert_eq!(normal(0b111, 1, &[IDLE, IDLE, IDLE]), 1);
        assert_eq!(normal(0b111, 1, &[busy(1), busy(2), IDLE]), 2);
        assert_eq!(normal(0b111, 1, &[busy(1), busy(3), busy(1)]), 1);
        assert_eq!(normal(0b011, 1, &[busy(1), busy(2), IDLE]), 1);
    }

    #[test]
    fn who_may_not_stay_goes_where_least_is_to_do() {
        let busy = |n| (n, NORMAL);
        assert_eq!(normal(0b110, 0, &[IDLE, busy(3), busy(2)]), 2);
        assert_eq!(normal(0b100, 0, &[IDLE, IDLE, busy(5)]), 2);
        // Away from a real-time entity also to a CPU that is busy: it counts for two.
        assert_eq!(normal(0b11, 0, &[(2, 10), busy(1)]), 1);
    }

    #[test]
    fn a_real_time_entity_goes_where_it_can_run() {
        let cpus = [(2, 10), (1, 30), (1, NORMAL)];
        assert_eq!(real_time(20, 0b111, 1, &cpus), 1, "it preempts where it was");
        assert_eq!(real_time(20, 0b111, 0, &cpus), 2, "the least urgent makes room");
        assert_eq!(real_time(20, 0b011, 0, &cpus), 1);
        assert_eq!(real_time(40, 0b011, 0, &cpus), 0, "nowhere: it waits where it was");
        assert_eq!(real_time(40, 0b010, 0, &cpus), 1, "nowhere, and it may not stay");
    }
}
