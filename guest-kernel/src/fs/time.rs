//! [`Timestamp`]: a point of real time as inodes keep it.

use crate::sync::Once;

/// Seconds and nanoseconds since the epoch.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Timestamp {
    /// Seconds; negative before 1970.
    pub sec: i64,
    /// 0 to 999,999,999.
    pub nsec: u32,
}

/// Nanoseconds of real time; the clock's owner sets it at boot.
static CLOCK: Once<fn() -> u64> = Once::new();

/// Says where the time comes from; called once at boot.
pub fn set_clock(realtime_ns: fn() -> u64) {
    CLOCK.set(realtime_ns);
}

impl Timestamp {
    /// Now.
    pub fn now() -> Self {
        let ns = CLOCK.try_get().map_or(0, |clock| clock());
        Self { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }
}
