//! The timers of a process: POSIX timers (timer_create(2)), interval timers (setitimer(2)), and what
//! watches its CPU time. What they do when they ring stands in [`crate::process::timers`].

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64};

use crate::kref::Ref;
use crate::list::Link;
use crate::list_link;
use crate::ns::Pid;
use crate::ns::time::WallClock;
use crate::sched::{ClockBase, Timer};
use crate::sync::SpinLock;

/// Whom a timer tells, and how.
pub enum Notify {
    /// Nobody: it is only read.
    None,
    /// The process, by `SIGALRM` from the kernel: `ITIMER_REAL`.
    Alarm,
    /// The process, or one of its threads, by a signal with a value.
    Signal {
        /// The signal.
        signo: i32,
        /// `si_value`.
        value: u64,
        /// The thread; `None` for the process.
        thread: Option<Ref<Pid>>,
    },
}

/// What a timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerClock {
    /// A clock of the system.
    Wall(WallClock),
    /// CPU time of the process, all or user time only.
    ProcessCpu {
        /// User time only.
        user: bool,
    },
    /// CPU time of the thread with that number in the initial namespace.
    ThreadCpu(u32),
}

/// When a timer rings.
#[derive(Default)]
pub struct TimerState {
    /// It is on its way out: it must not be started again.
    pub deleted: bool,
    /// When it rings next, in ns of its clock (of `base` for a clock of the system); 0 if it does not.
    pub deadline: u64,
    /// How long after that again; 0 for once.
    pub interval: u64,
    /// The deadline is on this clock: a relative one does not follow when the wall clock is set.
    pub base: Option<ClockBase>,
    /// Expirations that the last signal stood for, beyond the first.
    pub overrun: u64,
}

/// A timer of a process. It is counted by its process's table and, while it waits to be handled, by the
/// list of expired ones.
#[repr(C)]
pub struct PosixTimer {
    /// Rings for clocks of the system.
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
#[derive(Clone, Copy, Default)]
pub struct CpuItimer {
    /// When it rings next, in ns of CPU time; 0 if it does not.
    pub deadline: u64,
    /// How long after that again; 0 for once.
    pub interval: u64,
}

/// All timers of a process.
#[repr(C)]
#[derive(Default, belljar_abi::Described)]
pub struct ProcessTimers {
    /// True once there was one on a clock of the system: for who looks from outside.
    pub used: AtomicBool,
    /// POSIX timers, by number.
    #[described(skip)]
    pub posix: SpinLock<Vec<Option<Arc<PosixTimer>>>>,
    /// `ITIMER_REAL`, once it was used.
    #[described(skip)]
    pub real: SpinLock<Option<Arc<PosixTimer>>>,
    /// `ITIMER_VIRTUAL` and `ITIMER_PROF`.
    #[described(skip)]
    pub cpu: SpinLock<[CpuItimer; 2]>,
    /// True if some timer counts CPU time, so that the tick has it looked at.
    pub watches_cpu: AtomicBool,
    /// CPU time at which `RLIMIT_CPU` next says something, in ns; 0 until it was first looked at.
    pub cpu_limit_at: AtomicU64,
}

impl ProcessTimers {
    /// Deletes the POSIX timers (exec).
    pub fn delete_posix(&self) {
        let timers = core::mem::take(&mut *self.posix.lock());
        for timer in timers.into_iter().flatten() {
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
