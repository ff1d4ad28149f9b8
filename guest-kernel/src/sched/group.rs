//! Control groups as the scheduler sees them: [`CpuAccount`], where the run time of a group goes;
//! [`Share`], a group that competes for the CPU as one; [`SchedGroup`], what an entity holds of both.
//!
//! # What a weight does
//!
//! Slices carry the weights (Linux, Documentation/admin-guide/cgroup-v2.rst, "cpu.weight"). Whoever is
//! runnable gets one slice a round, that is, between two changes of the active array. With nothing in
//! groups everybody's slice is that of the nice value. An entity in a share gets that slice times the
//! share's weight, divided by the weight of all that is runnable in the share on this CPU; and so on
//! outwards. What is in no share weighs [`DEFAULT_WEIGHT`], as does each entity inside one.
//!
//! So, on one CPU and between groups that always have something to run, CPU time is divided in the
//! proportion of the weights, at every level, however many run in each, and to within one slice. That
//! holds while slices stay between [`MIN_SLICE`] and [`MAX_SLICE`]: if the weights together exceed
//! [`ROUND_WEIGHT`], all slices shrink, and below the least the proportion is lost (as for a weight of 1
//! beside one of 10,000). Groups that sleep forfeit what they would have got. An entity in a share is never
//! treated as interactive: with its slice it had its due. Real-time entities take what they want,
//! as ever. Each CPU divides what is runnable there; balancing between CPUs counts entities, not weights.
//!
//! Choosing who goes next stays O(1) in entities; queueing one costs a step a level of nesting, and
//! outside of all shares nothing.
//!
//! # Who may touch what
//!
//! The part of a share or account that is for one CPU: under the lock of that CPU's run queue. An
//! entity's group: under the lock of its run queue, while nobody moves it between two ([`set_group`]).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::bandwidth::Bandwidth;
use super::clock::monotonic_ns;
use super::cputime::{self, CpuTime};
use super::entity::Entity;
use super::schedule::{has_begun, lock_rq_of};
use super::state::TaskState;
use crate::arch;
use crate::array::Array;
use crate::errno::Result;
use crate::kref::Ref;
use crate::sync::IrqGuard;

/// `cpu.weight` of a new group, and of whatever is in none.
pub const DEFAULT_WEIGHT: u32 = 100;
/// Runnable weight on a CPU from which on slices shrink.
pub const ROUND_WEIGHT: u64 = 8 * DEFAULT_WEIGHT as u64;
/// The shortest slice that a share leaves, in ns.
pub const MIN_SLICE: u64 = 1_000_000;
/// The longest, in ns.
pub const MAX_SLICE: u64 = 800_000_000;

/// What ran on one CPU, in ns. A cache line of its own.
#[repr(align(64))]
#[derive(Default)]
struct CpuRun {
    sum: AtomicU64,
    user: AtomicU64,
    system: AtomicU64,
}

/// Adds to a number that only the holder of a lock changes.
fn add(to: &AtomicU64, n: u64) {
    to.store(to.load(Relaxed).wrapping_add(n), Relaxed);
}

/// The run time of what is in a group itself.
pub struct CpuAccount {
    cpus: Array<CpuRun>,
    /// What groups that are gone leave behind: sum, and user and system time as sampled.
    inherited: [AtomicU64; 3],
    /// What was handed to the group around this one already.
    handed: [AtomicU64; 3],
    /// User and system time as last shown: they never go back.
    shown: [AtomicU64; 2],
}

/// Run time, in ns: in all, and how much of it ticks found in user mode and in the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunTime {
    sum: u64,
    user: u64,
    system: u64,
}

impl core::ops::AddAssign for RunTime {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.user += other.user;
        self.system += other.system;
    }
}

impl CpuAccount {
    /// Nothing ran yet.
    pub fn new() -> Result<Ref<Self>> {
        let mut cpus = Array::new();
        cpus.try_resize_with(arch::cpu_count(), CpuRun::default)?;
        Ref::try_new(Self {
            cpus,
            inherited: [const { AtomicU64::new(0) }; 3],
            handed: [const { AtomicU64::new(0) }; 3],
            shown: [const { AtomicU64::new(0) }; 2],
        })
    }

    #[inline]
    pub(super) fn charge(&self, cpu: usize, delta: u64) {
        if let Some(run) = self.cpus.get(cpu) {
            add(&run.sum, delta);
        }
    }

    pub(super) fn sample(&self, cpu: usize, user: bool, delta: u64) {
        if let Some(run) = self.cpus.get(cpu) {
            add(if user { &run.user } else { &run.system }, delta);
        }
    }

    /// What ran so far.
    pub fn run_time(&self) -> RunTime {
        let [sum, user, system] = self.inherited.each_ref().map(|n| n.load(Relaxed));
        let mut total = RunTime { sum, user, system };
        for run in self.cpus.iter() {
            let [sum, user, system] = [&run.sum, &run.user, &run.system].map(|n| n.load(Relaxed));
            total += RunTime { sum, user, system };
        }
        total
    }

    /// What ran since this was called last, for the group around this one, which is gone.
    pub fn take(&self) -> RunTime {
        let now = self.run_time();
        let [sum, user, system] = &self.handed;
        RunTime {
            sum: now.sum.wrapping_sub(sum.swap(now.sum, Relaxed)),
            user: now.user.wrapping_sub(user.swap(now.user, Relaxed)),
            system: now.system.wrapping_sub(system.swap(now.system, Relaxed)),
        }
    }

    /// A group that is gone leaves its time to the one around it.
    pub fn inherit(&self, time: RunTime) {
        for (to, n) in self.inherited.iter().zip([time.sum, time.user, time.system]) {
            to.fetch_add(n, Relaxed);
        }
    }

    /// `time`, of this group and all below, divided as the samples tell; neither part ever goes back.
    pub fn show(&self, time: RunTime) -> CpuTime {
        let [user, system] = &self.shown;
        cputime::show(time.sum, time.user, time.system, user, system)
    }
}

/// What of a share is runnable on one CPU.
#[repr(align(64))]
#[derive(Default)]
struct ShareCpu {
    /// Entities and shares directly in it.
    runnable: AtomicU32,
    /// What it counts for in the share around it: its weight when it became runnable.
    counted: AtomicU32,
    /// The weight of what is runnable directly in it.
    load: AtomicU64,
}

/// A group that competes for the CPU as one.
pub struct Share {
    parent: Option<Ref<Share>>,
    weight: AtomicU32,
    /// How much CPU time it may use.
    pub(super) bandwidth: Ref<Bandwidth>,
    cpus: Array<ShareCpu>,
}

impl Share {
    /// A group inside `parent`, or beside what is in no group.
    pub fn new(
        parent: Option<Ref<Share>>,
        weight: u32,
        bandwidth: Ref<Bandwidth>,
    ) -> Result<Ref<Self>> {
        let mut cpus = Array::new();
        cpus.try_resize_with(arch::cpu_count(), ShareCpu::default)?;
        Ref::try_new(Self { parent, weight: AtomicU32::new(weight), bandwidth, cpus })
    }

    /// Sets the weight. It counts from the next time on that the group becomes runnable, or one of it
    /// has used up its slice.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// An entity becomes runnable in it. Returns by how much the weight at the outermost level grows.
    pub(super) fn enter(&self, cpu: usize) -> u64 {
        let (mut share, mut weight) = (self, DEFAULT_WEIGHT);
        loop {
            let here = &share.cpus[cpu];
            add(&here.load, u64::from(weight));
            here.runnable.store(here.runnable.load(Relaxed) + 1, Relaxed);
            if here.runnable.load(Relaxed) > 1 {
                return 0;
            }
            weight = share.weight.load(Relaxed);
            here.counted.store(weight, Relaxed);
            match &share.parent {
                Some(parent) => share = parent,
                None => return u64::from(weight),
            }
        }
    }

    /// The opposite; returns by how much the outermost weight shrinks.
    pub(super) fn leave(&self, cpu: usize) -> u64 {
        let (mut share, mut weight) = (self, DEFAULT_WEIGHT);
        loop {
            let here = &share.cpus[cpu];
            add(&here.load, u64::from(weight).wrapping_neg());
            here.runnable.store(here.runnable.load(Relaxed) - 1, Relaxed);
            if here.runnable.load(Relaxed) > 0 {
                return 0;
            }
            weight = here.counted.load(Relaxed);
            match &share.parent {
                Some(parent) => share = parent,
                None => return u64::from(weight),
            }
        }
    }

    /// It and those around it, from the inside out.
    pub(super) fn levels(&self) -> impl Iterator<Item = &Share> {
        core::iter::successors(Some(self), |share| share.parent.as_deref())
    }

    /// What is left of a slice, given what else is runnable in the share and those around it.
    pub(super) fn scale(&self, cpu: usize, slice: u64) -> u64 {
        self.levels().fold(slice, |slice, share| {
            let here = &share.cpus[cpu];
            slice.saturating_mul(u64::from(here.counted.load(Relaxed)))
                / here.load.load(Relaxed).max(1)
        })
    }

    /// Counts a weight that was changed while the share is runnable. Returns what the outermost weight
    /// grows and shrinks by.
    pub(super) fn recount(&self, cpu: usize) -> (u64, u64) {
        let mut share = self;
        loop {
            let here = &share.cpus[cpu];
            let (old, new) = (here.counted.load(Relaxed), share.weight.load(Relaxed));
            here.counted.store(new, Relaxed);
            match &share.parent {
                Some(parent) => {
                    let outer = &parent.cpus[cpu].load;
                    add(outer, u64::from(new).wrapping_sub(u64::from(old)));
                    share = parent;
                }
                None => return (u64::from(new), u64::from(old)),
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // One after the other: groups nest deeper than the kernel's stack.
        let mut next = self.parent.take();
        while let Some(share) = next {
            next = Ref::into_inner(share).and_then(|mut share| share.parent.take());
        }
    }
}

/// What an entity holds of its group.
pub struct SchedGroup {
    pub(super) account: Ref<CpuAccount>,
    /// The innermost share; none if it competes with what is in no group.
    pub(super) share: Option<Ref<Share>>,
}

impl SchedGroup {
    /// A group with its own account that competes as part of `share`.
    pub fn new(account: Ref<CpuAccount>, share: Option<Ref<Share>>) -> Result<Ref<Self>> {
        Ref::try_new(Self { account, share })
    }

    /// The innermost share.
    pub fn share(&self) -> Option<&Ref<Share>> {
        self.share.as_ref()
    }
}

/// The group that an entity is in.
///
/// # Safety
/// Whoever calls [`set_group`] for it holds a lock that the caller holds while the result is used.
pub unsafe fn of(entity: &Entity) -> Option<&Ref<SchedGroup>> {
    // SAFETY: the caller's promise keeps it from being replaced.
    unsafe { entity.group() }
}

/// Puts an entity into another group, whatever it is doing, and returns what it was in: to be dropped
/// without locks.
pub fn set_group(entity: &Entity, group: Option<Ref<SchedGroup>>) -> Option<Ref<SchedGroup>> {
    if !has_begun() {
        // SAFETY: nothing is scheduled yet.
        return unsafe { entity.swap_group(group) };
    }
    let _irq = IrqGuard::new();
    loop {
        let mut rq = lock_rq_of(entity);
        if entity.state() == TaskState::WAKING {
            // On its way to another queue, whose lock its waker will take.
            drop(rq);
            core::hint::spin_loop();
            continue;
        }
        if core::ptr::eq(rq.curr(), entity) {
            rq.update_curr(monotonic_ns());
        }
        let queued = entity.is_queued();
        if queued {
            rq.leave_share(entity);
        }
        // SAFETY: the lock of its run queue is held, and it is not on its way to another.
        let old = unsafe { entity.swap_group(group) };
        if queued {
            rq.enter_share(entity);
        }
        drop(rq);
        // It may be waiting for the quota of a group that it is not in any more.
        if let Some(share) = old.as_ref().and_then(|old| old.share()) {
            share.recheck_throttled();
        }
        return old;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_divide_as_weights_do_at_every_level() {
        let share = |parent, weight| Share::new(parent, weight, Bandwidth::new().unwrap()).unwrap();
        let heavy = share(None, 300);
        let light = share(None, 100);
        let inner = share(Some(heavy.clone()), 50);
        assert_eq!(heavy.enter(0), 300);
        assert_eq!(heavy.enter(0), 0, "a group counts once");
        assert_eq!(light.enter(0), 100);
        assert_eq!((heavy.scale(0, 1000), light.scale(0, 1000)), (1500, 1000));
        // Half an entity's weight: a fifth of what the group around gets.
        assert_eq!(inner.enter(0), 0);
        assert_eq!((heavy.scale(0, 1000), inner.scale(0, 1000)), (1200, 600));
        heavy.set_weight(100);
        assert_eq!(inner.recount(0), (100, 300));
        assert_eq!(heavy.scale(0, 1000), 400);
        assert_eq!(inner.leave(0), 0);
        assert_eq!((heavy.leave(0), heavy.leave(0), light.leave(0)), (0, 100, 100));
    }
}
