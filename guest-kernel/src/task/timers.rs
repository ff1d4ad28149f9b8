//! The timers of a process: POSIX timers (timer_create(2)), interval timers (setitimer(2)), and what
//! watches its CPU time. What they do when they ring stands in [`crate::process::timers`].

use core::sync::atomic::{AtomicBool, AtomicU64};

use belljar_abi::Described;

use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::Link;
use crate::list_link;
use crate::ns::Pid;
use crate::ns::time::WallClock;
use crate::sched::{ClockBase, Timer};
use crate::sync::SpinLock;

/// Whom a timer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Described)]
#[repr(u32)]
pub enum NotifyKind {
    /// Nobody: it is only read.
    None = 0,
    /// The process, by `SIGALRM` from the kernel: `ITIMER_REAL`.
    Alarm = 1,
    /// The process, or one of its threads, by a signal with a value.
    Signal = 2,
}

/// Whom a timer tells, and how.
#[repr(C)]
#[derive(Described)]
pub struct Notify {
    /// Whom.
    pub kind: NotifyKind,
    /// The signal.
    pub signo: i32,
    /// `si_value`.
    pub value: u64,
    /// The thread; `None` for the process.
    pub thread: Option<Ref<Pid>>,
}

impl Notify {
    /// Tells nobody.
    pub const NONE: Self = Self { kind: NotifyKind::None, signo: 0, value: 0, thread: None };
    /// Tells the process, as `ITIMER_REAL` does.
    pub const ALARM: Self = Self { kind: NotifyKind::Alarm, ..Self::NONE };

    /// Sends `signo` with `value` to the process, or to one of its threads.
    pub const fn signal(signo: i32, value: u64, thread: Option<Ref<Pid>>) -> Self {
        Self { kind: NotifyKind::Signal, signo, value, thread }
    }
}

/// Kinds of [`TimerClock`]; the numbers are those of clock_gettime(2), where it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Described)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names say it")]
pub enum TimerClockKind {
    Realtime = 0,
    Monotonic = 1,
    ProcessCpu = 2,
    ThreadCpu = 3,
    Boottime = 7,
    ProcessUser = 16,
}

/// What a timer counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Described)]
pub struct TimerClock {
    /// A clock of the system, or CPU time of the process (all or user time only), or of one of its threads.
    pub kind: TimerClockKind,
    /// That thread's number in the initial namespace.
    pub tid: u32,
}

impl TimerClock {
    /// CPU time of the process.
    pub const PROCESS_CPU: Self = Self { kind: TimerClockKind::ProcessCpu, tid: 0 };
    /// User time of the process.
    pub const PROCESS_USER: Self = Self { kind: TimerClockKind::ProcessUser, tid: 0 };

    /// A clock of the system.
    pub fn of(clock: WallClock) -> Self {
        let kind = match clock {
            WallClock::REALTIME => TimerClockKind::Realtime,
            WallClock::BOOTTIME => TimerClockKind::Boottime,
            _ => TimerClockKind::Monotonic,
        };
        Self { kind, tid: 0 }
    }

    /// CPU time of a thread.
    pub const fn thread(tid: u32) -> Self {
        Self { kind: TimerClockKind::ThreadCpu, tid }
    }

    /// By the numbers of a [`TimerClockKind`] and a thread; `None` if there is no such kind.
    pub fn of_number(kind: u32, tid: u32) -> Option<Self> {
        use TimerClockKind::*;
        let kinds = [Realtime, Monotonic, ProcessCpu, ThreadCpu, Boottime, ProcessUser];
        let kind = kinds.into_iter().find(|known| *known as u32 == kind)?;
        Some(Self { kind, tid })
    }

    /// The clock of the system that it counts; `None` if it counts CPU time.
    pub const fn wall(self) -> Option<WallClock> {
        match self.kind {
            TimerClockKind::Realtime => Some(WallClock::REALTIME),
            TimerClockKind::Monotonic => Some(WallClock::MONOTONIC),
            TimerClockKind::Boottime => Some(WallClock::BOOTTIME),
            _ => None,
        }
    }
}

/// When a timer rings.
#[repr(C)]
#[derive(Clone, Copy, Debug, Described)]
pub struct TimerState {
    /// When it rings next, in ns of its clock (of `base` for a clock of the system); 0 if it does not.
    pub deadline: u64,
    /// How long after that again; 0 for once.
    pub interval: u64,
    /// Expirations that the last signal stood for, beyond the first.
    pub overrun: u64,
    /// The deadline is on this clock: a relative one does not follow when the wall clock is set.
    pub base: ClockBase,
    /// It is on its way out: it must not be started again.
    pub deleted: bool,
}

impl Default for TimerState {
    fn default() -> Self {
        let base = ClockBase::Monotonic;
        Self { deadline: 0, interval: 0, overrun: 0, base, deleted: false }
    }
}

/// A timer of a process. It is counted by its process's table and, while it waits to be handled, by the
/// list of expired ones.
#[repr(C)]
#[derive(Described)]
pub struct PosixTimer {
    /// Rings for clocks of the system.
    #[described(skip)]
    pub timer: Timer,
    /// Links it on the list of expired timers.
    pub link: Link,
    /// True while it is on that list.
    pub expired: AtomicBool,
    /// Its number in the process; -1 for an interval timer.
    pub id: i32,
    /// What it counts.
    pub clock: TimerClock,
    /// Whom it tells.
    pub notify: Notify,
    /// The process.
    pub owner: Ref<Pid>,
    /// When it rings.
    pub state: SpinLock<TimerState>,
}

list_link! {
    /// Links expired timers.
    PosixTimer, link: ExpiredLink
}

impl PosixTimer {
    /// It will not ring any more, and does not ring now.
    pub fn delete(&self) {
        {
            let mut state = self.state.lock();
            state.deleted = true;
            state.deadline = 0;
        }
        self.timer.cancel();
    }
}

/// A timer on CPU time of a process: `ITIMER_VIRTUAL`, `ITIMER_PROF`.
#[repr(C)]
#[derive(Clone, Copy, Default, Described)]
pub struct CpuItimer {
    /// When it rings next, in ns of CPU time; 0 if it does not.
    pub deadline: u64,
    /// How long after that again; 0 for once.
    pub interval: u64,
}

/// The POSIX timers of a process. A number is not given again before all others were.
#[repr(C)]
#[derive(Default, Described)]
pub struct PosixTimers {
    next: i32,
    /// Sorted by number.
    timers: Array<Ref<PosixTimer>>,
}

impl PosixTimers {
    /// The number of the next timer, which it takes; `EAGAIN` if there are `limit` timers already.
    pub fn take_id(&mut self, limit: usize) -> Result<i32> {
        if self.timers.len() >= limit {
            return Err(Errno::EAGAIN);
        }
        loop {
            let id = self.next;
            self.next = id.wrapping_add(1) & i32::MAX;
            if self.place(id).is_err() {
                return Ok(id);
            }
        }
    }

    /// Adds a timer whose number was taken for it.
    pub fn add(&mut self, timer: Ref<PosixTimer>) -> Result<()> {
        let at = self.place(timer.id).unwrap_or_else(|at| at);
        self.timers.try_insert(at, timer).map_err(|_| Errno::EAGAIN)
    }

    /// Adds a timer that came from elsewhere with its number, which none has here.
    pub fn take_in(&mut self, timer: Ref<PosixTimer>) -> Result<()> {
        self.next = self.next.max(timer.id.wrapping_add(1) & i32::MAX);
        self.add(timer)
    }

    /// The timer with this number; `EINVAL` if there is none.
    pub fn get(&self, id: i32) -> Result<Ref<PosixTimer>> {
        let at = self.place(id).map_err(|_| Errno::EINVAL)?;
        Ok(self.timers[at].clone())
    }

    /// Takes the timer with this number out.
    pub fn remove(&mut self, id: i32) -> Result<Ref<PosixTimer>> {
        let at = self.place(id).map_err(|_| Errno::EINVAL)?;
        Ok(self.timers.remove(at))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Ref<PosixTimer>> {
        self.timers.iter()
    }

    fn place(&self, id: i32) -> core::result::Result<usize, usize> {
        self.timers.binary_search_by_key(&id, |timer| timer.id)
    }
}

/// How long a real-time thread runs without going to sleep (`RLIMIT_RTTIME`). Only the thread itself looks.
#[derive(Default)]
pub struct RealTimeWatch {
    /// How often it had gone to sleep when it was last looked at.
    pub sleeps: AtomicU64,
    /// Its CPU time when it was first looked at since then, in ns.
    pub since: AtomicU64,
    /// How long it must have run until the next signal, in ns.
    pub next: AtomicU64,
}

/// All timers of a process.
#[repr(C)]
#[derive(Default, Described)]
pub struct ProcessTimers {
    /// POSIX timers.
    pub posix: SpinLock<PosixTimers>,
    /// `ITIMER_REAL`, once it was used.
    pub real: SpinLock<Option<Ref<PosixTimer>>>,
    /// `ITIMER_VIRTUAL` and `ITIMER_PROF`.
    pub cpu: SpinLock<[CpuItimer; 2]>,
    /// True if some timer counts CPU time, so that the tick has it looked at.
    pub watches_cpu: AtomicBool,
    /// CPU time at which `RLIMIT_CPU` next says something, in ns; 0 until it was first looked at.
    pub cpu_limit_at: AtomicU64,
}

impl ProcessTimers {
    /// Deletes the POSIX timers (exec).
    pub fn delete_posix(&self) {
        let timers = core::mem::take(&mut self.posix.lock().timers);
        for timer in timers.iter() {
            timer.delete();
        }
    }

    /// Deletes all timers (exit).
    pub fn delete_all(&self) {
        self.delete_posix();
        let real = self.real.lock().take();
        if let Some(real) = real {
            real.delete();
        }
        *self.cpu.lock() = Default::default();
        self.watches_cpu.store(false, core::sync::atomic::Ordering::Relaxed);
    }
}

impl Drop for ProcessTimers {
    fn drop(&mut self) {
        self.delete_all();
    }
}
