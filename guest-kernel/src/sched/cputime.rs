//! CPU time: exact in sum, sampled in its split.
//!
//! `sum_exec_runtime` is exact: it is charged at every switch. How much of it was user time is found
//! by sampling at the tick of a busy CPU (100 Hz), not by reading the counter at every way in and
//! out of the kernel, which would cost each system call more than the rest of its entry. What is shown
//! divides the exact sum in the proportion of the samples and never goes back.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::clock::monotonic_ns;
use super::entity::Entity;
use super::schedule;
use crate::sync::{MAX_CPUS, PerCpu, this_cpu};

/// User and system time in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
}

impl core::ops::Add for CpuTime {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl core::ops::AddAssign for CpuTime {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What one CPU, or several, did since boot, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Ran programs in user mode.
    pub user: u64,
    /// Ran in the kernel.
    pub system: u64,
    /// Did nothing.
    pub idle: u64,
}

impl core::ops::AddAssign for CpuTimes {
    fn add_assign(&mut self, other: Self) {
        self.user += other.user;
        self.system += other.system;
        self.idle += other.idle;
    }
}

/// Sampled user and system time of each CPU.
static SAMPLED: PerCpu<[AtomicU64; 2]> =
    PerCpu::new([const { [AtomicU64::new(0), AtomicU64::new(0)] }; MAX_CPUS]);

/// User and system time of each CPU as last shown.
static SHOWN: PerCpu<[AtomicU64; 2]> =
    PerCpu::new([const { [AtomicU64::new(0), AtomicU64::new(0)] }; MAX_CPUS]);

/// What a CPU did since boot; all zero for one that is not up. Idle time is exact, the rest divided as
/// the samples tell.
pub fn cpu_times(cpu: usize) -> CpuTimes {
    let rq = schedule::RUNQUEUES.of(cpu);
    let idle = rq.lock().idle();
    let Some(idle) = idle.map(schedule::runtime_of) else { return CpuTimes::default() };
    let total = rq.lock().online_ns(monotonic_ns());
    let [user, system] = SAMPLED.of(cpu).each_ref().map(|ns| ns.load(Relaxed));
    let [shown_user, shown_system] = SHOWN.of(cpu);
    let busy = show(total.saturating_sub(idle), user, system, shown_user, shown_system);
    CpuTimes { user: busy.user, system: busy.system, idle }
}

/// A tick found the entity in user mode, or not: what it ran since the last one goes there. The run
/// queue is locked and has charged it.
pub(super) fn sample(entity: &Entity, user: bool) {
    let sum = entity.sum_exec_runtime.load(Relaxed);
    let delta = sum.saturating_sub(entity.sampled_at.load(Relaxed));
    entity.sampled_at.store(sum, Relaxed);
    let sampled = if user { &entity.utime_sampled } else { &entity.stime_sampled };
    sampled.store(sampled.load(Relaxed) + delta, Relaxed);
    SAMPLED.this()[usize::from(!user)].fetch_add(delta, Relaxed);
    // SAFETY: its run queue is locked.
    if let Some(group) = unsafe { entity.group() } {
        group.account.sample(this_cpu(), user, delta);
    }
}

/// Divides `sum` as the samples tell.
fn split(sum: u64, user: u64, system: u64) -> CpuTime {
    let user = match (user, system) {
        (_, 0) => sum,
        (0, _) => 0,
        _ => (u128::from(sum) * u128::from(user) / u128::from(user + system)) as u64,
    };
    CpuTime { user, system: sum - user }
}

/// Divides `sum` as the samples tell, but so that neither part goes back behind what was shown before:
/// the other takes the difference.
pub(super) fn show(
    sum: u64,
    user: u64,
    system: u64,
    shown_user: &AtomicU64,
    shown_system: &AtomicU64,
) -> CpuTime {
    let time = split(sum, user, system);
    let (user_before, system_before) = (shown_user.load(Relaxed), shown_system.load(Relaxed));
    let user = time.user.min(sum.saturating_sub(system_before)).max(user_before);
    let system = sum.saturating_sub(user).max(system_before);
    // Two may look at once, and the one with the older sum come last.
    let user = shown_user.fetch_max(user, Relaxed).max(user);
    let system = shown_system.fetch_max(system, Relaxed).max(system);
    CpuTime { user, system }
}

/// What is kept of an entity's CPU time, in ns: for one that goes on elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuRecord {
    /// How long it ran in all.
    pub sum: u64,
    /// How much of that was found to be user and system time.
    pub sampled: CpuTime,
    /// User and system time as last shown.
    pub shown: CpuTime,
}

impl Entity {
    /// Counts on from what another one used, whose place it takes; before it runs, or by itself.
    pub fn resume_cpu_time(&self, account: &CpuRecord) {
        self.sum_exec_runtime.store(account.sum, Relaxed);
        self.sampled_at.store(account.sum, Relaxed);
        self.utime_sampled.store(account.sampled.user, Relaxed);
        self.stime_sampled.store(account.sampled.system, Relaxed);
        self.utime.store(account.shown.user, Relaxed);
        self.stime.store(account.shown.system, Relaxed);
    }

    /// How long it ran in all, in ns, up to now.
    pub fn sum_exec_runtime(&self) -> u64 {
        if self.is_current() { schedule::current_runtime() } else { schedule::runtime_of(self) }
    }

    /// User and system time up to now.
    pub fn cpu_time(&self) -> CpuTime {
        let sum = self.sum_exec_runtime();
        let (mut user, mut system) =
            (self.utime_sampled.load(Relaxed), self.stime_sampled.load(Relaxed));
        // SAFETY: set before it runs, or by itself (exec); a look from elsewhere may come early or late.
        if !unsafe { *self.thread.is_user.get() } {
            // A kernel thread that no tick has met yet was in the kernel all the same.
            (user, system) = (0, 1);
        }
        show(sum, user, system, &self.utime, &self.stime)
    }
}

#[cfg(test)]
mod tests {
    use super::super::entity::BARE_OPS;
    use super::*;

    #[test]
    fn the_split_follows_the_samples_and_never_goes_back() {
        assert_eq!(split(100, 0, 0), CpuTime { user: 100, system: 0 });
        assert_eq!(split(100, 0, 7), CpuTime { user: 0, system: 100 });
        assert_eq!(split(100, 1, 3), CpuTime { user: 25, system: 75 });

        let entity = Entity::new(&BARE_OPS);
        // SAFETY: nobody else knows it.
        unsafe { *entity.thread.is_user.get() = true };
        let run = |ns: u64, user| {
            entity.sum_exec_runtime.fetch_add(ns, Relaxed);
            sample(&entity, user);
            entity.cpu_time()
        };
        let first = run(10, true);
        assert_eq!(first, CpuTime { user: 10, system: 0 });
        let second = run(30, false);
        assert_eq!((second.user, second.system), (10, 30));
        let third = run(40, true);
        assert_eq!(third.user + third.system, 80);
        assert!(third.user >= 10 && third.system >= 30);
    }
}
