//! Changing how an entity is scheduled: policy, nice value, priority, affinity, inheritance.
//!
//! Who may do what is the caller's business (sched(7), "Privileges and resource limits").

use core::sync::atomic::Ordering::Relaxed;

use super::cpu;
use super::entity::Entity;
use super::prio::{self, Policy};
use super::schedule::change_params;
use crate::errno::{Errno, Result};

/// Lowest nice value: runs most.
pub const MIN_NICE: i32 = -20;
/// Highest nice value: runs least.
pub const MAX_NICE: i32 = 19;
/// Real-time priorities are 1 to this.
pub const MAX_RT_PRIORITY: u32 = 99;

impl Entity {
    fn update(&self, policy: Policy, static_prio: i32, rt_priority: u32) {
        let same_class = policy.is_rt() == self.policy().is_rt();
        self.policy.store(policy as u32, Relaxed);
        self.static_prio.store(static_prio, Relaxed);
        self.rt_priority.store(rt_priority, Relaxed);
        self.normal_prio.store(prio::normal_prio(policy, static_prio, rt_priority), Relaxed);
        let slice = prio::slice(policy, static_prio).unwrap_or(0);
        let left = self.time_slice.load(Relaxed);
        self.time_slice.store(if same_class { left.min(slice) } else { slice }, Relaxed);
    }

    /// Sets the policy with what belongs to it: a nice value, kept by real-time policies for later, and a
    /// priority (1..=99) for real-time policies. `EINVAL` if they do not fit.
    pub fn set_scheduler(&self, policy: Policy, nice: i32, rt_priority: u32) -> Result<()> {
        let valid = if policy.is_rt() { 1..=MAX_RT_PRIORITY } else { 0..=0 };
        if !valid.contains(&rt_priority) || !(MIN_NICE..=MAX_NICE).contains(&nice) {
            return Err(Errno::EINVAL);
        }
        change_params(self, || self.update(policy, prio::nice_to_prio(nice), rt_priority));
        Ok(())
    }

    /// Sets the nice value, clamped to what there is.
    pub fn set_nice(&self, nice: i32) {
        let static_prio = prio::nice_to_prio(nice.clamp(MIN_NICE, MAX_NICE));
        change_params(self, || self.update(self.policy(), static_prio, self.rt_priority()));
    }

    /// `SCHED_RESET_ON_FORK`.
    pub fn set_reset_on_fork(&self, reset: bool) {
        self.reset_on_fork.store(reset, Relaxed);
    }

    /// Sets the CPUs that it may run on; `EINVAL` if the machine has none of them. When this returns it
    /// runs on none of the others. May sleep.
    pub fn set_cpus_allowed(&self, mask: u64) -> Result<()> {
        if mask & cpu::possible_mask() == 0 {
            return Err(Errno::EINVAL);
        }
        change_params(self, || self.cpus_allowed.store(mask, Relaxed));
        loop {
            let cpu = self.cpu();
            if !self.is_on_cpu() || super::balance::may_stay(self, cpu) {
                return Ok(());
            }
            // Once the stop thread of its CPU runs, it was switched away, and so sent elsewhere.
            super::stop::stop_cpus(1 << cpu, |_| {});
        }
    }

    /// Lets it run at least at level `prio` while somebody important waits for it; `None` ends that.
    pub fn inherit_prio(&self, prio: Option<i32>) {
        let prio = prio.unwrap_or(prio::MAX_PRIO as i32);
        if self.pi_prio.load(Relaxed) != prio {
            change_params(self, || self.pi_prio.store(prio, Relaxed));
        }
    }

    /// The slice that it gets each time, in ns; 0 if it runs until it blocks.
    pub fn slice_ns(&self) -> u64 {
        prio::slice(self.policy(), self.static_prio()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::entity::BARE_OPS;
    use super::*;

    #[test]
    fn policy_and_priority_must_fit() {
        let e = Entity::new(&BARE_OPS);
        assert_eq!(e.set_scheduler(Policy::Fifo, 0, 0), Err(Errno::EINVAL));
        assert_eq!(e.set_scheduler(Policy::Fifo, 0, 100), Err(Errno::EINVAL));
        assert_eq!(e.set_scheduler(Policy::Normal, 0, 1), Err(Errno::EINVAL));
        assert_eq!(e.set_scheduler(Policy::Batch, 20, 0), Err(Errno::EINVAL));
        e.set_scheduler(Policy::RoundRobin, 5, 30).unwrap();
        assert_eq!((e.prio(), e.nice(), e.is_rt(), e.slice_ns()), (69, 5, true, prio::RR_SLICE));
        e.set_nice(-100);
        assert_eq!((e.prio(), e.nice()), (69, -20));
        e.set_scheduler(Policy::Normal, 0, 0).unwrap();
        assert!((115..=125).contains(&e.prio()));
    }

    #[test]
    fn an_inherited_priority_ends() {
        let e = Entity::new(&BARE_OPS);
        let own = e.prio();
        e.inherit_prio(Some(10));
        assert_eq!((e.prio(), e.is_rt(), e.policy()), (10, true, Policy::Normal));
        e.inherit_prio(None);
        assert!(!e.is_rt());
        assert!((own - 5..=own + 5).contains(&e.prio()));
    }
}
