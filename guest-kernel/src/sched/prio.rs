//! Priorities, policies and time slices: pure arithmetic.
//!
//! There are 140 levels, and a lower number runs first: 0..=99 are real-time (`99 - rt_priority`),
//! 100..=139 are nice -20..=19. A normal entity's level moves up to five either way of its static one
//! with how much it slept lately (`sleep_avg`), so what mostly waits runs before what mostly computes.

/// Levels in a priority array.
pub const MAX_PRIO: usize = 140;
/// The first level that is not real-time.
pub const MAX_RT_PRIO: i32 = 100;
/// The level of nice 0.
pub const DEFAULT_PRIO: i32 = 120;
/// A millisecond in nanoseconds.
const MS: u64 = 1_000_000;
/// The slice of `SCHED_RR`.
pub const RR_SLICE: u64 = 100 * MS;
/// `sleep_avg` at its fullest: a power of two close to one second, so that no division is needed.
pub const MAX_SLEEP_AVG: u64 = 1 << 30;
const MAX_BONUS: u64 = 10;

/// Scheduling policy, by sched(7)'s numbers.
#[repr(u32)]
#[derive(belljar_abi::Described, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `SCHED_OTHER`.
    Normal = 0,
    /// `SCHED_FIFO`.
    Fifo = 1,
    /// `SCHED_RR`.
    RoundRobin = 2,
    /// `SCHED_BATCH`: never treated as interactive, never preempts when it wakes.
    Batch = 3,
    /// `SCHED_IDLE`: the last level, the shortest slice.
    Idle = 5,
}

impl Policy {
    /// The policy with this number; `SCHED_DEADLINE` (6) and unknown ones are `None`.
    pub const fn from_number(n: u32) -> Option<Self> {
        match n {
            0 => Some(Self::Normal),
            1 => Some(Self::Fifo),
            2 => Some(Self::RoundRobin),
            3 => Some(Self::Batch),
            5 => Some(Self::Idle),
            _ => None,
        }
    }

    /// True for `SCHED_FIFO` and `SCHED_RR`.
    pub const fn is_rt(self) -> bool {
        matches!(self, Self::Fifo | Self::RoundRobin)
    }
}

/// The static level of a nice value.
pub const fn nice_to_prio(nice: i32) -> i32 {
    DEFAULT_PRIO + nice
}

/// The nice value of a static level.
pub const fn prio_to_nice(static_prio: i32) -> i32 {
    static_prio - DEFAULT_PRIO
}

/// The level that policy and priority alone give.
pub const fn normal_prio(policy: Policy, static_prio: i32, rt_priority: u32) -> i32 {
    match policy {
        Policy::Fifo | Policy::RoundRobin => MAX_RT_PRIO - 1 - rt_priority as i32,
        Policy::Idle => MAX_PRIO as i32 - 1,
        Policy::Normal | Policy::Batch => static_prio,
    }
}

/// The level of a normal entity, with its bonus (-5..=5) for having slept.
pub const fn effective_prio(policy: Policy, static_prio: i32, sleep_avg: u64) -> i32 {
    match policy {
        Policy::Normal => {
            let bonus = bonus(sleep_avg) as i32 - MAX_BONUS as i32 / 2;
            let prio = static_prio - bonus;
            if prio < MAX_RT_PRIO {
                MAX_RT_PRIO
            } else if prio > MAX_PRIO as i32 - 1 {
                MAX_PRIO as i32 - 1
            } else {
                prio
            }
        }
        Policy::Batch => {
            let prio = static_prio + MAX_BONUS as i32 / 2;
            if prio > MAX_PRIO as i32 - 1 { MAX_PRIO as i32 - 1 } else { prio }
        }
        _ => normal_prio(policy, static_prio, 0),
    }
}

/// `sleep_avg` in tenths of its range, rounded down: 0..=10.
const fn bonus(sleep_avg: u64) -> u64 {
    let bonus = (sleep_avg * (MAX_BONUS + 1)) >> 30;
    if bonus > MAX_BONUS { MAX_BONUS } else { bonus }
}

/// True if a normal entity that used up its slice may go on in the active array: its bonus beats what
/// its nice value asks for (nice 0: two, nice 19: never, nice -20: also with a malus).
pub const fn is_interactive(prio: i32, static_prio: i32) -> bool {
    let nice = prio_to_nice(static_prio);
    // Spreads nice -20..=19 over -3..=7 tenths.
    let delta = nice * 5 / 20 + 2;
    prio <= static_prio - delta
}

/// The time slice of a static level: 800 ms at nice -20, 100 ms at 0, 5 ms at 19.
pub const fn static_slice(static_prio: i32) -> u64 {
    SLICES[(static_prio - MAX_RT_PRIO) as usize]
}

const SLICES: [u64; 40] = {
    let mut slices = [0; 40];
    let mut i = 0;
    while i < 40 {
        let scale = if i < 20 { 400 } else { 100 };
        let slice = scale * MS * (40 - i as u64) / 20;
        slices[i] = if slice < 5 * MS { 5 * MS } else { slice };
        i += 1;
    }
    slices
};

/// The slice that an entity gets; `None` means it runs until it blocks or yields (`SCHED_FIFO`).
pub const fn slice(policy: Policy, static_prio: i32) -> Option<u64> {
    match policy {
        Policy::Fifo => None,
        Policy::RoundRobin => Some(RR_SLICE),
        Policy::Idle => Some(5 * MS),
        Policy::Normal | Policy::Batch => Some(static_slice(static_prio)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_span_5_to_800_ms() {
        assert_eq!(static_slice(100), 800 * MS);
        assert_eq!(static_slice(120), 100 * MS);
        assert_eq!(static_slice(139), 5 * MS);
        assert!((100..139).all(|p| static_slice(p) >= static_slice(p + 1)));
    }

    #[test]
    fn sleeping_raises_the_level_by_five_at_most() {
        assert_eq!(effective_prio(Policy::Normal, 120, 0), 125);
        assert_eq!(effective_prio(Policy::Normal, 120, MAX_SLEEP_AVG), 115);
        assert_eq!(effective_prio(Policy::Normal, 100, MAX_SLEEP_AVG), 100);
        assert_eq!(effective_prio(Policy::Normal, 139, 0), 139);
        assert_eq!(effective_prio(Policy::Idle, 100, MAX_SLEEP_AVG), 139);
        assert_eq!(normal_prio(Policy::Fifo, 120, 99), 0);
        assert_eq!(normal_prio(Policy::RoundRobin, 120, 1), 98);
    }

    #[test]
    fn only_what_slept_is_interactive() {
        assert!(is_interactive(115, 120));
        assert!(!is_interactive(120, 120));
        assert!(!is_interactive(134, 139));
    }
}
