//! Load averages: the exponentially damped mean of runnable and uninterruptible entities, over 1, 5
//! and 15 minutes, in fixed point with 11 bits, like Linux's.
//!
//! A sample is due every five seconds, but no timer takes it: whoever changes the load next (a
//! wake-up, the tick of a busy CPU) or wants to know it first catches up with what was missed, during
//! which the load was what it is until then. So an idle machine stays asleep.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::clock::{NSEC_PER_SEC, monotonic_ns};
use super::cpu;
use super::schedule::RUNQUEUES;
use crate::sync::IrqLock;

/// Bits after the point.
pub const FSHIFT: u32 = 11;
const FIXED_1: u64 = 1 << FSHIFT;
const INTERVAL: u64 = 5 * NSEC_PER_SEC;
/// e^(-5 s / 1, 5, 15 min) in fixed point.
const DECAY: [u64; 3] = [1884, 2014, 2037];

static NEXT: AtomicU64 = AtomicU64::new(INTERVAL);
static LOADS: IrqLock<[u64; 3]> = IrqLock::new([0; 3]);

/// Runnable entities of all CPUs, running ones included.
pub fn nr_running() -> u32 {
    // SAFETY: one racy word of each queue: a count that may be outdated anyway.
    cpus().map(|rq| unsafe { (*rq).nr_running() }).sum()
}

/// Context switches of all CPUs since boot.
pub fn nr_context_switches() -> u64 {
    // SAFETY: as above.
    cpus().map(|rq| unsafe { (*rq).nr_switches() }).sum()
}

/// Entities in an uninterruptible sleep.
pub fn nr_uninterruptible() -> u64 {
    // SAFETY: as above.
    cpus().map(|rq| unsafe { (*rq).nr_uninterruptible() }).sum::<i64>().max(0) as u64
}

fn cpus() -> impl Iterator<Item = *const super::runqueue::RunQueue> {
    RUNQUEUES
        .iter()
        .enumerate()
        .filter(|(cpu, _)| cpu::online_mask() & (1 << cpu) != 0)
        .map(|(_, rq)| rq.data_ptr().cast_const())
}

/// Takes the samples that are due, before the load changes.
#[inline]
pub(super) fn catch_up(now: u64) {
    if now >= NEXT.load(Relaxed) {
        sample(now);
    }
}

#[cold]
fn sample(now: u64) {
    let active = u64::from(nr_running()) + nr_uninterruptible();
    let mut loads = LOADS.lock();
    let next = NEXT.load(Relaxed);
    if now < next {
        return;
    }
    let due = (now - next) / INTERVAL + 1;
    NEXT.store(next + due * INTERVAL, Relaxed);
    advance(&mut loads, active, due);
}

/// Applies `due` samples of the same load.
fn advance(loads: &mut [u64; 3], active: u64, due: u64) {
    let active = active * FIXED_1;
    for (load, decay) in loads.iter_mut().zip(DECAY) {
        // After two hours nothing is left of what was before, to the precision kept.
        for _ in 0..due.min(1500) {
            let rounding = if active >= *load { FIXED_1 - 1 } else { 0 };
            *load = (*load * decay + active * (FIXED_1 - decay) + rounding) >> FSHIFT;
        }
    }
}

/// The averages over 1, 5 and 15 minutes, times 2048.
pub fn loadavg() -> [u64; 3] {
    catch_up(monotonic_ns());
    *LOADS.lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_load_is_approached_and_left_again() {
        let mut loads = [0; 3];
        advance(&mut loads, 1, 12);
        let one_minute = loads[0] as f64 / 2048.0;
        assert!((0.60..0.66).contains(&one_minute), "1 - 1/e, not {one_minute}");
        assert!(loads[0] > loads[1] && loads[1] > loads[2] && loads[2] > 0);
        advance(&mut loads, 1, 10_000);
        assert_eq!(loads, [2048; 3]);
        advance(&mut loads, 0, 10_000);
        assert_eq!(loads, [0; 3]);
    }
}
