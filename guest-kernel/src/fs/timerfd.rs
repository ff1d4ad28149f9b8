//! timerfd_create(2): a timer that is waited for like a file.
//!
//! When it rings it wakes whoever waits and stays off; a periodic one is started again by the next
//! read, which counts the intervals that have passed. So nobody pays for a timer that nobody reads.

use belljar_abi::Described;

use super::{FMode, File, FileKind, FileOps, PollFlags, PollTable, UserBuf};
use crate::container_of;
use crate::errno::{Errno, Result};
use crate::ns::time::WallClock;
use crate::sched::{ClockBase, Deadline, Timer, WaitQueue};
use crate::sync::IrqLock;
use crate::wait_event_interruptible;

/// When a timer file rings.
#[repr(C)]
#[derive(Clone, Copy, Debug, Described)]
#[described(name = "TimerFdState")]
pub struct State {
    /// When it rings next, on `base`; 0 if it does not.
    pub deadline: u64,
    /// How long after that again; 0 for once.
    pub interval: u64,
    /// The deadline is on this clock.
    pub base: ClockBase,
    /// It has rung since it was last read or set.
    pub rung: bool,
}

/// A timer file.
#[repr(C)]
#[derive(Described)]
pub struct TimerFd {
    #[described(skip)]
    timer: Timer,
    /// Number of the clock that absolute times are on.
    clock: u32,
    state: IrqLock<State>,
    #[described(skip)]
    wait: WaitQueue,
}

impl TimerFd {
    /// A timer that is not set.
    pub const fn new(clock: WallClock) -> Self {
        let base = ClockBase::Monotonic;
        Self::with(clock, State { deadline: 0, interval: 0, base, rung: false })
    }

    /// A timer as it was elsewhere; [`resume`](Self::resume) has it go on.
    pub const fn with(clock: WallClock, state: State) -> Self {
        Self {
            timer: Timer::new(Self::ring),
            clock: clock.number(),
            state: IrqLock::new(state),
            wait: WaitQueue::new(),
        }
    }

    /// Goes on; once, when it lies in its file.
    pub fn resume(&self) {
        let state = self.state.lock();
        if !state.rung {
            self.start(&state);
        }
    }

    fn ring(timer: &Timer) {
        let this = container_of!(timer, TimerFd, timer);
        // SAFETY: only `TimerFd`s have this callback, and dropping the timer waits for it.
        let this = unsafe { &*this };
        {
            let mut state = this.state.lock();
            // It may have been set anew since it was taken off the queue.
            if state.deadline == 0 || state.base.now() < state.deadline {
                return;
            }
            state.rung = true;
        }
        this.wait.wake(usize::MAX, PollFlags::READABLE.bits());
    }

    fn start(&self, state: &State) {
        if state.deadline != 0 {
            // SAFETY: the file's operations lie in a box that does not move, and dropping the timer
            // cancels it.
            unsafe { self.timer.start(Deadline { clock: state.base, ns: state.deadline }) };
        }
    }

    /// The clock that absolute times are on.
    pub fn clock(&self) -> WallClock {
        WallClock::from_number(self.clock).unwrap_or(WallClock::MONOTONIC)
    }

    /// Sets it (timerfd_settime(2)), in ns; returns value and interval as they were.
    pub fn set(&self, value: u64, interval: u64, absolute: bool) -> (u64, u64) {
        self.timer.cancel();
        let mut state = self.state.lock();
        let old = Self::remaining(&state);
        let (base, now) = if absolute {
            (self.clock().base, 0)
        } else {
            (ClockBase::Monotonic, ClockBase::Monotonic.now())
        };
        let deadline = if value == 0 { 0 } else { now.saturating_add(value).max(1) };
        *state = State { deadline, interval, base, rung: false };
        self.start(&state);
        old
    }

    /// What timerfd_gettime(2) shows: ns until it rings next, and the interval.
    pub fn get(&self) -> (u64, u64) {
        Self::remaining(&self.state.lock())
    }

    fn remaining(state: &State) -> (u64, u64) {
        if state.deadline == 0 {
            return (0, state.interval);
        }
        let now = state.base.now();
        let value = match now.checked_sub(state.deadline) {
            None => state.deadline - now,
            Some(_) if state.interval == 0 => 0,
            Some(late) => state.interval - late % state.interval,
        };
        (value, state.interval)
    }

    /// The expirations since the last read, if there are any.
    fn take(&self) -> Option<u64> {
        let mut state = self.state.lock();
        if !core::mem::take(&mut state.rung) {
            return None;
        }
        let now = state.base.now();
        if state.interval == 0 {
            state.deadline = 0;
            return Some(1);
        }
        let count = now.saturating_sub(state.deadline) / state.interval + 1;
        state.deadline = state.deadline.saturating_add(count.saturating_mul(state.interval));
        self.start(&state);
        Some(count)
    }

    fn is_ready(&self) -> bool {
        self.state.lock().rung
    }
}

impl FileOps for TimerFd {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        if buf.remaining() < size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        loop {
            if let Some(count) = self.take() {
                return buf.put(&count.to_ne_bytes());
            }
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            wait_event_interruptible!(self.wait, self.is_ready())?;
        }
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        table.wait(&self.wait);
        if self.is_ready() { PollFlags::READABLE } else { PollFlags::empty() }
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::TimerFd)
    }

    fn described(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        let (value, interval) = self.get();
        let part = |ns: u64| (ns / 1_000_000_000, ns % 1_000_000_000);
        let (value, interval) = (part(value), part(interval));
        writeln!(out, "clockid: {}", self.clock)?;
        writeln!(out, "it_value: ({}, {})", value.0, value.1)?;
        writeln!(out, "it_interval: ({}, {})", interval.0, interval.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::sleep_until;

    #[test]
    fn reads_count_what_has_passed() {
        let fd = Box::new(TimerFd::new(WallClock::MONOTONIC));
        assert_eq!((fd.get(), fd.take()), ((0, 0), None));
        fd.set(1_000_000, 1_000_000, false);
        while !fd.is_ready() {
            sleep_until(Deadline::after(100_000)).unwrap();
        }
        let first = fd.take().unwrap();
        assert!(first >= 1);
        let (value, interval) = fd.set(0, 0, false);
        assert!(value <= 1_000_000 && interval == 1_000_000);
        assert_eq!((fd.get(), fd.take()), ((0, 0), None));
        // Long past: rings at once, once.
        fd.set(1, 0, true);
        while !fd.is_ready() {
            sleep_until(Deadline::after(100_000)).unwrap();
        }
        assert_eq!((fd.take(), fd.take()), (Some(1), None));
    }
}
