//! The clocks that programs name (clock_gettime(2)): the system's, and those of processes and threads.

use core::sync::atomic::Ordering;

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::TimeNs;
use crate::ns::time::WallClock;
use crate::sched::{self, CpuTime, Deadline};
use crate::task::{self, Accounting, Task, list};

/// Which CPU time a clock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuTimeKind {
    /// User and system time.
    Total,
    /// User time.
    User,
}

/// A CPU-time clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuClock {
    /// Whose; 0 is the caller's own.
    pub pid: u32,
    /// One thread's, not its process's.
    pub thread: bool,
    /// What it counts.
    pub kind: CpuTimeKind,
}

/// A clock that a program can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockId {
    /// A clock of the system.
    Wall(WallClock),
    /// A CPU-time clock.
    Cpu(CpuClock),
}

impl ClockId {
    /// By number (`EINVAL` if there is none): 0 to 11, or negative: the complement of a process's or
    /// thread's number shifted left by three, with bit 2 for a thread and the kind in bits 1 and 0.
    pub fn from_number(id: i32) -> Result<Self> {
        let own = |thread| Self::Cpu(CpuClock { pid: 0, thread, kind: CpuTimeKind::Total });
        Ok(match id {
            // CLOCK_REALTIME, _REALTIME_COARSE, _REALTIME_ALARM, _TAI.
            0 | 5 | 8 | 11 => Self::Wall(WallClock::REALTIME),
            // CLOCK_MONOTONIC, _MONOTONIC_RAW, _MONOTONIC_COARSE.
            1 | 4 | 6 => Self::Wall(WallClock::MONOTONIC),
            // CLOCK_BOOTTIME, _BOOTTIME_ALARM.
            7 | 9 => Self::Wall(WallClock::BOOTTIME),
            2 => own(false),
            3 => own(true),
            _ if id < 0 => {
                let kind = match id & 3 {
                    // CPUCLOCK_PROF and CPUCLOCK_SCHED are the same here: all times are exact in sum.
                    0 | 2 => CpuTimeKind::Total,
                    1 => CpuTimeKind::User,
                    // A clock behind a file descriptor: there are none.
                    _ => return Err(Errno::EINVAL),
                };
                Self::Cpu(CpuClock { pid: !(id >> 3) as u32, thread: id & 4 != 0, kind })
            }
            _ => return Err(Errno::EINVAL),
        })
    }
}

fn account(account: &Accounting) -> CpuTime {
    CpuTime {
        user: account.utime.load(Ordering::Relaxed),
        system: account.stime.load(Ordering::Relaxed),
    }
}

/// CPU time of all threads of a process, past ones included.
pub fn process_cpu_time(task: &Task) -> CpuTime {
    let _list = list::lock();
    let mut sum = account(&task.signal.dead);
    for thread in task.signal.threads.iter() {
        sum += thread.se.cpu_time();
    }
    sum
}

/// CPU time of the children that were waited for.
pub fn children_cpu_time(task: &Task) -> CpuTime {
    account(&task.signal.children)
}

/// The task that a CPU clock belongs to: the thread, or any thread of the process. `EINVAL` if there is
/// none, or the caller may not look.
fn owner(clock: CpuClock) -> Result<Ref<Task>> {
    if clock.pid == 0 {
        return Ok(task::current_ref());
    }
    let ns = task::current().thread_pid.own().ns();
    if clock.thread {
        let thread = list::find_thread(clock.pid, ns).ok_or(Errno::EINVAL)?;
        return if thread.same_group(task::current()) { Ok(thread) } else { Err(Errno::EINVAL) };
    }
    list::find_process(clock.pid, ns).ok_or(Errno::EINVAL)
}

/// What a CPU clock shows for `owner`, in ns.
pub fn cpu_now(clock: CpuClock, owner: &Task) -> u64 {
    if clock.thread && clock.kind == CpuTimeKind::Total {
        return owner.se.sum_exec_runtime();
    }
    let time = if clock.thread { owner.se.cpu_time() } else { process_cpu_time(owner) };
    match clock.kind {
        CpuTimeKind::Total => time.user + time.system,
        CpuTimeKind::User => time.user,
    }
}

/// `EINVAL` if there is no such clock.
pub fn check(clock: ClockId) -> Result<()> {
    match clock {
        ClockId::Wall(_) => Ok(()),
        ClockId::Cpu(cpu) => owner(cpu).map(drop),
    }
}

/// The caller's time namespace.
#[inline]
pub fn time_ns() -> &'static TimeNs {
    &task::current().nsproxy().time
}

/// What a clock shows, in ns.
pub fn now(clock: ClockId) -> Result<u64> {
    match clock {
        ClockId::Wall(clock) => Ok(time_ns().shown(clock, clock.base.now())),
        ClockId::Cpu(cpu) => Ok(cpu_now(cpu, &*owner(cpu)?)),
    }
}

/// Sleeps until a process's CPU clock shows a time. Nobody is told when CPU time passes, so this looks
/// again after the least time in which it can have.
pub fn sleep_on_cpu_clock(clock: CpuClock, ns: u64, absolute: bool) -> Result<()> {
    // A thread that sleeps uses no CPU time: it would wait for ever.
    if clock.thread && (clock.pid == 0 || clock.pid == task::current().pid()) {
        return Err(Errno::EINVAL);
    }
    let owner = owner(clock)?;
    let end = if absolute { ns } else { cpu_now(clock, &owner).saturating_add(ns) };
    loop {
        let now = cpu_now(clock, &owner);
        if now >= end {
            return Ok(());
        }
        let threads = u64::from(owner.signal.nr_threads.load(Ordering::Relaxed)).max(1);
        let least = ((end - now) / threads).max(1_000_000);
        let interrupted = if absolute { Errno::ERESTARTNOHAND } else { Errno::EINTR };
        sched::sleep_until(Deadline::after(least)).map_err(|_| interrupted)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_numbers_are_read_as_linux_reads_them() {
        assert_eq!(ClockId::from_number(0), Ok(ClockId::Wall(WallClock::REALTIME)));
        assert_eq!(ClockId::from_number(7), Ok(ClockId::Wall(WallClock::BOOTTIME)));
        assert_eq!(ClockId::from_number(10), Err(Errno::EINVAL));
        assert_eq!(ClockId::from_number(12), Err(Errno::EINVAL));
        // What clock_getcpuclockid(3) makes of 42, and pthread_getcpuclockid(3) of 43.
        let clock = |pid, thread| ClockId::Cpu(CpuClock { pid, thread, kind: CpuTimeKind::Total });
        assert_eq!(ClockId::from_number((!42 << 3) | 2), Ok(clock(42, false)));
        assert_eq!(ClockId::from_number((!43 << 3) | 6), Ok(clock(43, true)));
        assert_eq!(ClockId::from_number((!5 << 3) | 3), Err(Errno::EINVAL));
    }
}
