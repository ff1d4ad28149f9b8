//! [`Bandwidth`]: how much CPU time a group may use in each period (Linux,
//! Documentation/admin-guide/cgroup-v2.rst, "cpu.max"; Documentation/scheduler/sched-bwc.rst).
//!
//! Run time is charged where it is accounted, on every level. A group that used up its quota is throttled:
//! each of its threads waits before it goes on in user mode ([`throttle`]), so nobody is kept from running
//! who holds a lock of the kernel. What runs in the kernel meanwhile, and what ran until it was noticed, is
//! owed: the next periods have that much less, so that in the long run a group has its quota to the
//! nanosecond. Real-time threads are not limited (and not charged).
//!
//! No timer belongs to a quota. Whoever looks refills it for the periods that are over, and who waits has
//! a deadline of his own.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::clock::{Deadline, monotonic_ns};
use super::entity::current;
use super::group::{SchedGroup, Share};
use super::schedule::lock_rq_of;
use super::state::TaskState;
use super::wait::{Wait, WaitQueue};
use crate::arch::ThreadFlags;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::sync::{IrqGuard, IrqLock};
use crate::wait_channel;

/// As a quota: no limit.
pub const UNLIMITED: u64 = u64::MAX;
/// The shortest period, and the least quota, in ns.
pub const MIN_PERIOD: u64 = 1_000_000;
/// The longest period, in ns.
pub const MAX_PERIOD: u64 = 1_000_000_000;
/// The period unless another is set, in ns.
pub const DEFAULT_PERIOD: u64 = 100_000_000;
/// The largest quota and burst together, in ns: what Linux can count in 44 bits of microseconds.
pub const MAX_QUOTA: u64 = (1 << 44) * 1000;

/// What a group may use, in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// CPU time a period; [`UNLIMITED`] for no limit.
    pub quota: u64,
    /// Length of the period.
    pub period: u64,
    /// How much of what was left over may be used later, on top of the quota.
    pub burst: u64,
}

/// What cpu.stat shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BandwidthStat {
    /// Periods in which something ran.
    pub periods: u64,
    /// Those of them in which the group was throttled.
    pub throttled: u64,
    /// How long it was throttled in all, in ns.
    pub throttled_ns: u64,
    /// Periods in which it used more than the quota.
    pub bursts: u64,
    /// How much more, in ns.
    pub burst_ns: u64,
}

struct State {
    limit: Limit,
    /// When the period under way began.
    since: u64,
    /// CPU time used that the quota was not refilled for; less than 0 if there is some left over.
    used: i64,
    /// What that was when the period began.
    used_before: i64,
    /// Since when it is throttled.
    throttled_since: Option<u64>,
    /// It was so at some time in this period.
    was_throttled: bool,
    stat: BandwidthStat,
}

impl State {
    const fn new() -> Self {
        let limit = Limit { quota: UNLIMITED, period: DEFAULT_PERIOD, burst: 0 };
        Self {
            limit,
            since: 0,
            used: 0,
            used_before: 0,
            throttled_since: None,
            was_throttled: false,
            stat: BandwidthStat {
                periods: 0,
                throttled: 0,
                throttled_ns: 0,
                bursts: 0,
                burst_ns: 0,
            },
        }
    }

    fn quota(&self) -> i64 {
        self.limit.quota.min(MAX_QUOTA) as i64
    }

    fn is_throttled(&self) -> bool {
        self.used >= self.quota()
    }

    /// Notes that it is throttled, if it is.
    fn notice(&mut self, now: u64) {
        if self.is_throttled() {
            self.was_throttled = true;
            self.throttled_since.get_or_insert(now);
        }
    }

    /// Refills the quota for the periods that are over by `now`.
    fn refill(&mut self, now: u64) {
        let mut over = now.saturating_sub(self.since) / self.limit.period;
        // One after the other while there is something to settle: as many as are owed, and one.
        while over > 0 && (self.used > self.used_before || self.used > 0 || self.was_throttled) {
            self.end_period();
            over -= 1;
        }
        if over > 0 {
            let left = (over as i64).saturating_mul(self.quota());
            self.used = self.used.saturating_sub(left).max(-(self.limit.burst as i64));
            self.used_before = self.used;
            self.since += over * self.limit.period;
        }
    }

    fn end_period(&mut self) {
        let quota = self.quota();
        self.since += self.limit.period;
        self.stat.periods += 1;
        self.stat.throttled += u64::from(self.was_throttled);
        let more = (self.used - self.used_before).saturating_sub(quota);
        if self.limit.burst > 0 && more > 0 {
            self.stat.bursts += 1;
            self.stat.burst_ns += more as u64;
        }
        self.used = (self.used - quota).max(-(self.limit.burst as i64));
        self.used_before = self.used;
        self.was_throttled = self.is_throttled();
        if !self.was_throttled
            && let Some(since) = self.throttled_since.take()
        {
            self.stat.throttled_ns += self.since.saturating_sub(since);
        }
    }

    /// When it will not be throttled any more, if nothing runs until then.
    fn refilled_at(&self) -> u64 {
        let periods = (self.used / self.quota()).max(1) as u64;
        self.since + periods * self.limit.period
    }
}

/// One group's quota.
pub struct Bandwidth {
    limited: AtomicBool,
    state: IrqLock<State>,
    /// Its throttled threads.
    wait: WaitQueue,
}

impl Bandwidth {
    /// No limit.
    pub fn new() -> Result<Ref<Self>> {
        Ref::try_new(Self {
            limited: AtomicBool::new(false),
            state: IrqLock::new(State::new()),
            wait: WaitQueue::new(),
        })
    }

    /// What is set.
    pub fn limit(&self) -> Limit {
        self.state.lock().limit
    }

    /// Sets it. `EINVAL` for what is out of range.
    pub fn set_limit(&self, limit: Limit) -> Result<()> {
        let bounded = limit.quota != UNLIMITED;
        let fits = (MIN_PERIOD..=MAX_PERIOD).contains(&limit.period)
            && limit.quota >= MIN_PERIOD
            && (!bounded
                || limit.burst <= limit.quota
                    && limit.quota.saturating_add(limit.burst) <= MAX_QUOTA);
        if !fits {
            return Err(Errno::EINVAL);
        }
        {
            let mut state = self.state.lock();
            let now = monotonic_ns();
            if self.limited.load(Relaxed) {
                state.refill(now);
                if let Some(since) = state.throttled_since.take() {
                    state.stat.throttled_ns += now.saturating_sub(since);
                }
            }
            // The new quota is there at once; nothing is owed any more.
            state.limit = limit;
            (state.since, state.used, state.used_before) = (now, 0, 0);
            state.was_throttled = false;
            self.limited.store(bounded, Relaxed);
        }
        self.wait.wake_all();
        Ok(())
    }

    /// Forgets limit and counts.
    pub fn reset(&self) {
        *self.state.lock() = State::new();
        self.limited.store(false, Relaxed);
        self.wait.wake_all();
    }

    /// What happened so far.
    pub fn stat(&self) -> BandwidthStat {
        let mut state = self.state.lock();
        if self.limited.load(Relaxed) {
            state.refill(monotonic_ns());
        }
        state.stat
    }

    /// Somebody in it ran; true if it is throttled.
    fn charge(&self, delta: u64, now: u64) -> bool {
        if !self.limited.load(Relaxed) {
            return false;
        }
        let mut state = self.state.lock();
        state.used = state.used.saturating_add(delta as i64);
        state.refill(now);
        state.notice(now);
        state.is_throttled()
    }

    /// What is left of this period's quota; `None` without one.
    fn left(&self, now: u64) -> Option<u64> {
        if !self.limited.load(Relaxed) {
            return None;
        }
        let mut state = self.state.lock();
        state.refill(now);
        Some(u64::try_from(state.quota() - state.used).unwrap_or(0))
    }

    /// Until when it is throttled, if it is.
    fn throttled_until(&self, now: u64) -> Option<u64> {
        if !self.limited.load(Relaxed) {
            return None;
        }
        let mut state = self.state.lock();
        state.refill(now);
        state.notice(now);
        state.is_throttled().then(|| state.refilled_at())
    }
}

impl Share {
    /// Charges an entity's run time to it and those around it; true if one of them is throttled.
    #[inline]
    pub(super) fn charge_bandwidth(&self, delta: u64, now: u64) -> bool {
        let mut throttled = false;
        for share in self.levels() {
            throttled |= share.bandwidth.charge(delta, now);
        }
        throttled
    }

    /// How long an entity in it may run before a quota is used up; `None` if there is none.
    #[inline]
    pub(super) fn bandwidth_left(&self, now: u64) -> Option<u64> {
        self.levels().filter_map(|share| share.bandwidth.left(now)).min()
    }

    /// Those who wait for its quota, or one around it, look whether they still have to.
    pub(super) fn recheck_throttled(&self) {
        for share in self.levels().filter(|share| share.bandwidth.limited.load(Relaxed)) {
            share.bandwidth.wait.wake_all();
        }
    }
}

/// The group of the current entity.
fn own_group() -> Option<Ref<SchedGroup>> {
    let _irq = IrqGuard::new();
    let me = current();
    let _rq = lock_rq_of(me);
    // SAFETY: the lock of its run queue is held.
    unsafe { me.group() }.cloned()
}

/// Before it goes on in user mode, the current entity waits while a group that it is in is throttled. It
/// is called again if a signal came first.
pub fn throttle() {
    while let Some(group) = own_group() {
        let now = monotonic_ns();
        let throttled = group.share().and_then(|share| {
            share.levels().find_map(|at| Some((&at.bandwidth, at.bandwidth.throttled_until(now)?)))
        });
        let Some((bandwidth, until)) = throttled else { return };
        let goes_on = || {
            let moved = !own_group().is_some_and(|now| Ref::ptr_eq(&now, &group));
            moved || bandwidth.throttled_until(monotonic_ns()).is_none()
        };
        let how = Wait::new(TaskState::INTERRUPTIBLE, wait_channel!("cpu_max"))
            .until(Deadline::monotonic(until));
        if bandwidth.wait.wait_until(how, goes_on) == Err(Errno::ERESTARTSYS) {
            current().thread.info.set(ThreadFlags::NOTIFY_RESUME);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn limited(quota: u64, burst: u64) -> State {
        let mut state = State::new();
        state.limit = Limit { quota: quota * MS, period: 100 * MS, burst: burst * MS };
        state
    }

    fn run(state: &mut State, now: u64, delta: u64) -> bool {
        state.used += (delta * MS) as i64;
        state.refill(now * MS);
        state.notice(now * MS);
        state.is_throttled()
    }

    #[test]
    fn what_is_used_too_much_is_owed() {
        let mut state = limited(20, 0);
        assert!(!run(&mut state, 10, 10));
        assert!(run(&mut state, 30, 45));
        assert_eq!(
            state.refilled_at(),
            200 * MS,
            "35 are owed after the first period, 15 after two"
        );
        state.refill(199 * MS);
        assert!(state.is_throttled());
        state.refill(200 * MS);
        assert!(!state.is_throttled());
        assert_eq!(state.used, 15 * MS as i64);
        let stat = BandwidthStat {
            periods: 2,
            throttled: 2,
            throttled_ns: 170 * MS,
            ..BandwidthStat::default()
        };
        assert_eq!(state.stat, stat);
    }

    #[test]
    fn idle_periods_do_not_count_and_leave_a_burst_at_most() {
        let mut state = limited(20, 30);
        assert!(!run(&mut state, 10, 10));
        state.refill(1_000 * MS);
        assert_eq!((state.stat.periods, state.used), (1, -30 * MS as i64));
        assert!(!run(&mut state, 1_040, 40));
        assert!(run(&mut state, 1_050, 10));
        state.refill(1_100 * MS);
        assert_eq!((state.stat.periods, state.stat.bursts), (2, 1));
        assert_eq!(state.stat.burst_ns, 30 * MS);
    }
}
