//! Snapshots at random moments: fault injection for freezing, and for everything that must not notice it.
//!
//! A process that writes `SEED COUNT` to /proc/belljar/forced_snapshots marks itself, and so all that it
//! forks from then on (as /proc/PID/make-it-fail of Linux does). Somewhere among the system calls of marked
//! tasks, `COUNT` times, the caller is made to ask the VMM for a snapshot called [`NAME`], as if it had
//! written to /proc/belljar/snapshot itself, just before its call or just behind it. Which calls, only the
//! seed decides: the first is one of the first [`FIRST_GAP`] calls, and each further gap may be four times
//! as long, so both short programs and long ones are met. A VMM that ends a machine once it is saved, and
//! restores it, thereby moves programs that know nothing of it from machine to machine.
//!
//! Tasks that are not marked pay nothing: the mark is one of the flags that every system call looks at.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::control;
use crate::arch::ThreadFlags;
use crate::errno::{Errno, Result};
use crate::sync::SpinLock;
use crate::task;

/// What the VMM is asked to call each snapshot.
pub const NAME: &str = "forced";
/// The first snapshot comes at the latest with this many calls.
const FIRST_GAP: u64 = 32;
/// How much longer each gap may be than the one before.
const GROWTH: u64 = 4;
/// Most snapshots of one writer: the last gap stays below 2^62.
const MOST: u32 = 28;

/// What is still to come.
struct Plan {
    left: u32,
    /// The longest that the next gap may be.
    gap: u64,
    numbers: Numbers,
}

/// Numbers that look random and are the same for the same seed (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

impl Plan {
    const NONE: Self = Self { left: 0, gap: FIRST_GAP, numbers: Numbers(1) };

    fn new(seed: u64, count: u32) -> Self {
        // Small seeds differ in few bits; zero would stay zero.
        let state = (seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { left: count, gap: FIRST_GAP, numbers: Numbers(state) }
    }

    /// How many calls there are up to and with the next one that counts; 0 if none does.
    fn draw(&mut self) -> u64 {
        if self.left == 0 {
            return 0;
        }
        self.left -= 1;
        let calls = 1 + (self.numbers.next() >> 1) % self.gap;
        self.gap *= GROWTH;
        calls
    }
}

static PLAN: SpinLock<Plan> = SpinLock::new(Plan::NONE);
/// System calls of marked tasks until the next snapshot; 0 if none is to come.
static COUNTDOWN: AtomicU64 = AtomicU64::new(0);

/// On which side of a system call its task asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before it does anything.
    Before,
    /// When its result is there.
    Behind,
}

/// Marks the caller, and forgets what was planned before. `EINVAL` for what is not `SEED COUNT`.
pub fn arm(text: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let (seed, count) = text.trim().split_once(' ').ok_or(Errno::EINVAL)?;
    let seed = seed.parse().map_err(|_| Errno::EINVAL)?;
    let count = count.parse().ok().filter(|count| *count <= MOST).ok_or(Errno::EINVAL)?;
    let mut plan = PLAN.lock();
    *plan = Plan::new(seed, count);
    COUNTDOWN.store(plan.draw(), Relaxed);
    drop(plan);
    let info = &task::current().se.thread.info;
    match count {
        0 => info.clear(ThreadFlags::FORCED_SNAPSHOT),
        _ => info.set(ThreadFlags::FORCED_SNAPSHOT),
    }
    Ok(())
}

/// How many snapshots are still to come.
pub fn left() -> u32 {
    PLAN.lock().left + u32::from(COUNTDOWN.load(Relaxed) > 0)
}

/// Counts a system call of a marked task; on which side of it the task has to [`ask`], if it has.
pub fn count() -> Option<Side> {
    let before = COUNTDOWN.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
    if before != Ok(1) {
        return None;
    }
    let mut plan = PLAN.lock();
    COUNTDOWN.store(plan.draw(), Relaxed);
    Some(if plan.numbers.next() >> 63 == 0 { Side::Before } else { Side::Behind })
}

/// Lets the machine be saved, and returns in each machine that goes on.
pub fn ask() {
    match control::request_snapshot(NAME.as_bytes()) {
        // Whom a signal ends while it waits is none to tell.
        Ok(()) | Err(Errno::EINTR | Errno::ERESTARTSYS) => {}
        Err(error) => {
            crate::kwarn!("forced snapshots end here: {error}");
            *PLAN.lock() = Plan::NONE;
            COUNTDOWN.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(seed: u64, count: u32) -> alloc::vec::Vec<u64> {
        let mut plan = Plan::new(seed, count);
        core::iter::from_fn(|| Some(plan.draw()).filter(|gap| *gap != 0)).collect()
    }

    #[test]
    fn gaps_are_the_same_for_a_seed_differ_between_seeds_and_grow() {
        for seed in [0, 1, 2, u64::MAX] {
            let drawn = gaps(seed, MOST);
            assert_eq!(drawn.len(), MOST as usize);
            assert_eq!(drawn, gaps(seed, MOST));
            let mut longest = FIRST_GAP;
            for gap in drawn {
                assert!((1..=longest).contains(&gap), "{gap} of {longest}");
                longest = longest.saturating_mul(GROWTH);
            }
        }
        assert_ne!(gaps(1, 3), gaps(2, 3));
        assert!(gaps(1, 0).is_empty());
    }

    #[test]
    fn what_is_no_seed_and_count_is_refused() {
        for text in ["", "1", "1 x", "x 1", "1 29", "-1 1", "1 2 3"] {
            assert_eq!(arm(text.as_bytes()), Err(Errno::EINVAL), "{text:?}");
        }
        assert_eq!(arm(b"\xff 1"), Err(Errno::EINVAL));
    }
}
