//! [`Timestamp`]: a point of real time as inodes keep it.

use crate::sched::clock;

/// Seconds and nanoseconds since the epoch.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Timestamp {
    /// Seconds; negative before 1970.
    pub sec: i64,
    /// 0 to 999,999,999.
    pub nsec: u32,
}

impl Timestamp {
    /// Now.
    #[inline]
    pub fn now() -> Self {
        let ns = clock::realtime_ns();
        Self { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }
}
