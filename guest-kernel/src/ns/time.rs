//! Time namespaces (time_namespaces(7)): how far the monotonic clocks of their tasks are from the
//! machine's.

use core::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use belljar_abi::Described;

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::common::{HasCommon, NsCommon, publish};
use crate::sched::ClockBase;

/// The clocks that have an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are clock_gettime(2)'s")]
pub enum OffsetClock {
    Monotonic,
    Boottime,
}

/// A clock of the system as programs name it: what it runs on, and which offset it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallClock {
    /// What it runs on.
    pub base: ClockBase,
    /// Its offset in a time namespace.
    pub shifted: Option<OffsetClock>,
}

impl WallClock {
    /// CLOCK_REALTIME and its kin: the same for all.
    pub const REALTIME: Self = Self { base: ClockBase::Realtime, shifted: None };
    /// CLOCK_MONOTONIC and its kin.
    pub const MONOTONIC: Self =
        Self { base: ClockBase::Monotonic, shifted: Some(OffsetClock::Monotonic) };
    /// CLOCK_BOOTTIME.
    pub const BOOTTIME: Self =
        Self { base: ClockBase::Monotonic, shifted: Some(OffsetClock::Boottime) };

    /// By its number in clock_gettime(2): 0, 1 or 7.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::REALTIME),
            1 => Some(Self::MONOTONIC),
            7 => Some(Self::BOOTTIME),
            _ => None,
        }
    }

    /// Its number in clock_gettime(2).
    pub const fn number(self) -> u32 {
        match self.shifted {
            None => 0,
            Some(OffsetClock::Monotonic) => 1,
            Some(OffsetClock::Boottime) => 7,
        }
    }
}

/// A time namespace.
#[repr(C)]
#[derive(Described)]
pub struct TimeNs {
    /// Identity and owner.
    #[described(as = "struct NsCommon")]
    pub common: NsCommon,
    /// Added to CLOCK_MONOTONIC, in nanoseconds.
    monotonic: AtomicI64,
    /// Added to CLOCK_BOOTTIME, in nanoseconds.
    #[described(skip)]
    boottime: AtomicI64,
    /// A task has entered: the offsets stay as they are.
    frozen: AtomicBool,
}

impl HasCommon for TimeNs {
    fn common(&self) -> &NsCommon {
        &self.common
    }
}

impl TimeNs {
    fn build(common: NsCommon, offsets: [i64; 2], frozen: bool) -> Result<Ref<Self>> {
        publish(Self {
            common,
            monotonic: AtomicI64::new(offsets[0]),
            boottime: AtomicI64::new(offsets[1]),
            frozen: AtomicBool::new(frozen),
        })
    }

    /// The machine's own clocks.
    pub fn initial(common: NsCommon) -> Result<Ref<Self>> {
        Self::build(common, [0; 2], true)
    }

    /// Begins with the offsets of `outer`.
    pub fn new(common: NsCommon, outer: &TimeNs) -> Result<Ref<Self>> {
        let both = [OffsetClock::Monotonic, OffsetClock::Boottime];
        Self::build(common, both.map(|clock| outer.offset(clock)), false)
    }

    fn cell(&self, clock: OffsetClock) -> &AtomicI64 {
        match clock {
            OffsetClock::Monotonic => &self.monotonic,
            OffsetClock::Boottime => &self.boottime,
        }
    }

    /// What is added to the machine's clock, in nanoseconds.
    #[inline]
    pub fn offset(&self, clock: OffsetClock) -> i64 {
        self.cell(clock).load(Ordering::Relaxed)
    }

    /// What the clock shows here when it shows `ns` on the machine.
    #[inline]
    pub fn shown(&self, clock: WallClock, ns: u64) -> u64 {
        match clock.shifted {
            Some(offset) => ns.saturating_add_signed(self.offset(offset)),
            None => ns,
        }
    }

    /// When the machine's clock shows what this one shows as `ns`. What lies before its start has come.
    pub fn to_machine(&self, clock: WallClock, ns: u64) -> u64 {
        match clock.shifted {
            Some(offset) if ns != u64::MAX => {
                ns.saturating_add_signed(self.offset(offset).saturating_neg())
            }
            _ => ns,
        }
    }

    /// Sets an offset; `EACCES` once a task is in (`/proc/PID/timens_offsets`).
    pub fn set_offset(&self, clock: OffsetClock, ns: i64) -> Result<()> {
        if self.frozen.load(Ordering::Acquire) {
            return Err(Errno::EACCES);
        }
        self.cell(clock).store(ns, Ordering::Relaxed);
        Ok(())
    }

    /// A task enters: from now on the offsets stay.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }
}
