//! Clocks: the machine's counter turned into nanoseconds by a multiplication, never a division.
//!
//! | clock | what it is |
//! | --- | --- |
//! | monotonic | time since boot; a resumed snapshot carries it on |
//! | monotonic raw, coarse | the same: the counter is not slewed, and reading it is cheap |
//! | boottime | the same: a machine that was frozen did not see the time pass |
//! | realtime | monotonic plus an offset, set from the RTC and by clock_settime(2) |
//!
//! The parameters change while nothing else runs (boot, thaw), except for the offset of realtime, so
//! reading takes no lock.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::arch;

/// Nanoseconds in a second.
pub const NSEC_PER_SEC: u64 = 1_000_000_000;

/// Which clock a deadline is counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, belljar_abi::Described)]
#[repr(u32)]
pub enum ClockBase {
    /// Time since boot.
    Monotonic = 0,
    /// Wall time: a deadline on it comes earlier or later when the clock is set.
    Realtime = 1,
}

/// A point in time to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The clock.
    pub clock: ClockBase,
    /// Nanoseconds on that clock; `u64::MAX` never comes.
    pub ns: u64,
}

impl Deadline {
    /// Never comes.
    pub const NEVER: Self = Self::monotonic(u64::MAX);

    /// On the monotonic clock.
    pub const fn monotonic(ns: u64) -> Self {
        Self { clock: ClockBase::Monotonic, ns }
    }

    /// On the wall clock.
    pub const fn realtime(ns: u64) -> Self {
        Self { clock: ClockBase::Realtime, ns }
    }

    /// So many nanoseconds from now.
    pub fn after(ns: u64) -> Self {
        Self::monotonic(monotonic_ns().saturating_add(ns))
    }

    /// Nanoseconds left; 0 if it has come.
    pub fn remaining(self) -> u64 {
        self.ns.saturating_sub(self.clock.now())
    }

    /// True if it has come.
    pub fn has_passed(self) -> bool {
        self.ns != u64::MAX && self.clock.now() >= self.ns
    }
}

impl ClockBase {
    /// The time on this clock, in ns.
    pub fn now(self) -> u64 {
        match self {
            Self::Monotonic => monotonic_ns(),
            Self::Realtime => realtime_ns(),
        }
    }
}

/// ns = `base_ns` + ((counter - `base_counter`) * `mult`) >> 32.
struct ClockSource {
    base_counter: AtomicU64,
    base_ns: AtomicU64,
    mult: AtomicU64,
    /// counter = `base_counter` + ((ns - `base_ns`) * `inverse`) >> 60, rounded up.
    inverse: AtomicU64,
    /// Realtime minus monotonic.
    wall_offset: AtomicU64,
}

static SOURCE: ClockSource = ClockSource {
    base_counter: AtomicU64::new(0),
    base_ns: AtomicU64::new(0),
    // Until `init`: a counter of 1 GHz.
    mult: AtomicU64::new(1 << 32),
    inverse: AtomicU64::new(1 << INVERSE_SHIFT),
    wall_offset: AtomicU64::new(0),
};

/// Leaves room for counters of up to 16 GHz.
const INVERSE_SHIFT: u32 = 60;

const fn mult_of(frequency: u64) -> u64 {
    ((NSEC_PER_SEC as u128) << 32).div_ceil(frequency as u128) as u64
}

const fn inverse_of(frequency: u64) -> u64 {
    ((frequency as u128) << INVERSE_SHIFT).div_ceil(NSEC_PER_SEC as u128) as u64
}

#[inline]
const fn scale(value: u64, by: u64) -> u64 {
    ((value as u128 * by as u128) >> 32) as u64
}

/// Starts the clocks at 0: boot, as early as possible.
pub fn init() {
    restart(0);
}

/// Lets the clocks go on from `monotonic` ns, with the frequency that the counter has now: thaw. The
/// caller programs the timers afterwards.
pub fn restart(monotonic: u64) {
    let frequency = arch::counter_frequency().max(1);
    SOURCE.mult.store(mult_of(frequency), Relaxed);
    SOURCE.inverse.store(inverse_of(frequency), Relaxed);
    SOURCE.base_ns.store(monotonic, Relaxed);
    SOURCE.base_counter.store(arch::counter(), Relaxed);
}

/// CLOCK_MONOTONIC in ns.
#[inline]
pub fn monotonic_ns() -> u64 {
    let ticks = arch::counter().wrapping_sub(SOURCE.base_counter.load(Relaxed));
    // Before `init` the counter may lie behind the base only on a host whose counter starts late.
    SOURCE.base_ns.load(Relaxed) + scale(ticks, SOURCE.mult.load(Relaxed))
}

/// CLOCK_BOOTTIME in ns.
#[inline]
pub fn boottime_ns() -> u64 {
    monotonic_ns()
}

/// CLOCK_REALTIME in ns since 1970.
#[inline]
pub fn realtime_ns() -> u64 {
    monotonic_ns().wrapping_add(wall_offset())
}

/// Realtime minus monotonic.
#[inline]
pub fn wall_offset() -> u64 {
    SOURCE.wall_offset.load(Relaxed)
}

/// Sets the wall clock, and sees to it that timers on it ring in time.
pub fn set_realtime(ns: u64) {
    SOURCE.wall_offset.store(ns.wrapping_sub(monotonic_ns()), Relaxed);
    super::timer::clock_was_set();
}

/// The first counter value at which the monotonic clock shows `ns` or later.
pub(super) fn counter_at(ns: u64) -> u64 {
    let delta = ns.saturating_sub(SOURCE.base_ns.load(Relaxed));
    let ticks = (delta as u128 * SOURCE.inverse.load(Relaxed) as u128).div_ceil(1 << INVERSE_SHIFT);
    SOURCE.base_counter.load(Relaxed).saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
}

/// The resolution of the clocks in ns.
pub fn resolution_ns() -> u64 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn time_goes_on_and_the_wall_clock_can_be_set() {
        let a = monotonic_ns();
        assert!(monotonic_ns() >= a);
        set_realtime(1_700_000_000 * NSEC_PER_SEC);
        let now = realtime_ns();
        assert!(now >= 1_700_000_000 * NSEC_PER_SEC);
        assert!(Deadline::realtime(now).has_passed());
        assert!(!Deadline::NEVER.has_passed());
    }

    proptest! {
        /// A deadline turned into a counter value and back never comes early, and late by little.
        #[test]
        fn a_deadline_survives_the_round_trip(
            frequency in prop_oneof![Just(62_500_000_u64), Just(24_000_000), Just(19_200_000), Just(1_000_000_000)],
            ns in 0..(100 * 365 * 86_400 * NSEC_PER_SEC),
        ) {
            let ticks = (ns as u128 * inverse_of(frequency) as u128)
                .div_ceil(1 << INVERSE_SHIFT) as u64;
            let back = scale(ticks, mult_of(frequency));
            prop_assert!(back >= ns, "{back} before {ns}");
            // One tick, and what rounding the factors up amounts to over the years.
            prop_assert!(back - ns <= NSEC_PER_SEC / frequency + 2 + (ns >> 32));
        }
    }
}
