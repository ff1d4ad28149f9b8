//! Calls about time: clocks, sleeping, interval timers, POSIX timers.

use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::ns::Cap;
use crate::ns::time::WallClock;
use crate::pod;
use crate::process::clocks::{self, ClockId};
use crate::sched::{self, Deadline, NSEC_PER_SEC, RestartBlock, RestartKind};
use crate::task;

/// `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timespec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, below one second.
    pub nsec: i64,
}

/// `struct timeval`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeval {
    /// Seconds.
    pub sec: i64,
    /// Microseconds, below one second.
    pub usec: i64,
}

pod!(Timespec, Timeval);

/// The longest time that is told apart from for ever: 292 years.
const MAX_NS: u64 = i64::MAX as u64;

impl Timespec {
    /// In nanoseconds, at most 292 years; `EINVAL` if it is negative or not normal.
    pub fn to_ns(self) -> Result<u64> {
        if self.sec < 0 || !(0..NSEC_PER_SEC as i64).contains(&self.nsec) {
            return Err(Errno::EINVAL);
        }
        let ns = (self.sec as u64).saturating_mul(NSEC_PER_SEC).saturating_add(self.nsec as u64);
        Ok(ns.min(MAX_NS))
    }

    /// From nanoseconds.
    pub const fn from_ns(ns: u64) -> Self {
        Self { sec: (ns / NSEC_PER_SEC) as i64, nsec: (ns % NSEC_PER_SEC) as i64 }
    }
}

impl Timeval {
    /// In nanoseconds, at most 292 years; `EINVAL` if it is negative or not normal.
    pub fn to_ns(self) -> Result<u64> {
        if !(0..1_000_000).contains(&self.usec) {
            return Err(Errno::EINVAL);
        }
        Timespec { sec: self.sec, nsec: self.usec * 1000 }.to_ns()
    }

    /// From nanoseconds.
    pub const fn from_ns(ns: u64) -> Self {
        Self { sec: (ns / NSEC_PER_SEC) as i64, usec: (ns % NSEC_PER_SEC / 1000) as i64 }
    }
}

// ---- Clocks ----

/// clock_gettime(2).
pub fn sys_clock_gettime(a: &mut Args) -> SysResult {
    // The two that everybody asks for come first.
    let ns = match a.i32(0) {
        0 => sched::realtime_ns(),
        1 => clocks::time_ns().shown(WallClock::MONOTONIC, sched::monotonic_ns()),
        id => clocks::now(ClockId::from_number(id)?)?,
    };
    a.ptr::<Timespec>(1).write(Timespec::from_ns(ns))?;
    Ok(0)
}

/// clock_getres(2).
pub fn sys_clock_getres(a: &mut Args) -> SysResult {
    let clock = ClockId::from_number(a.i32(0))?;
    clocks::check(clock)?;
    if let Some(to) = a.ptr::<Timespec>(1).non_null() {
        to.write(Timespec::from_ns(sched::clock::resolution_ns()))?;
    }
    Ok(0)
}

fn set_wall_clock(ns: u64) -> Result<()> {
    if !task::current().cred().capable(Cap::SysTime) {
        return Err(Errno::EPERM);
    }
    // The time since boot cannot lie before 1970.
    if ns < sched::monotonic_ns() {
        return Err(Errno::EINVAL);
    }
    sched::set_realtime(ns);
    Ok(())
}

/// clock_settime(2).
pub fn sys_clock_settime(a: &mut Args) -> SysResult {
    let clock = ClockId::from_number(a.i32(0))?;
    let ns = a.ptr::<Timespec>(1).read()?.to_ns()?;
    match clock {
        ClockId::Wall(WallClock::REALTIME) if a.i32(0) == 0 => set_wall_clock(ns).map(|()| 0),
        ClockId::Cpu(_) => Err(Errno::EPERM),
        ClockId::Wall(_) => Err(Errno::EINVAL),
    }
}

/// gettimeofday(2).
pub fn sys_gettimeofday(a: &mut Args) -> SysResult {
    if let Some(to) = a.ptr::<Timeval>(0).non_null() {
        to.write(Timeval::from_ns(sched::realtime_ns()))?;
    }
    if let Some(zone) = a.ptr::<[i32; 2]>(1).non_null() {
        zone.write([0; 2])?;
    }
    Ok(0)
}

/// settimeofday(2). The time zone is no business of the kernel's.
pub fn sys_settimeofday(a: &mut Args) -> SysResult {
    let time = a.ptr::<Timeval>(0).non_null().map(UserPtr::read).transpose()?;
    if let Some(zone) = a.ptr::<[i32; 2]>(1).non_null() {
        zone.read()?;
        if !task::current().cred().capable(Cap::SysTime) {
            return Err(Errno::EPERM);
        }
    }
    if let Some(time) = time {
        set_wall_clock(time.to_ns()?)?;
    }
    Ok(0)
}

/// Words of `struct timex`.
const TIMEX_WORDS: usize = 26;

/// Reads the state of the clock: it is neither slewed nor synchronised, so nothing can be adjusted.
fn adjtime(timex: UserPtr<[u64; TIMEX_WORDS]>) -> SysResult {
    const ADJ_SETOFFSET: u64 = 0x0100;
    const TIME_ERROR: usize = 5;
    const STA_UNSYNC: u64 = 0x40;
    let mut words = timex.read()?;
    let modes = words[0] & 0xffff_ffff;
    if modes != 0 {
        if !task::current().cred().capable(Cap::SysTime) {
            return Err(Errno::EPERM);
        }
        if modes & ADJ_SETOFFSET != 0 {
            return Err(Errno::EINVAL);
        }
    }
    let now = Timeval::from_ns(sched::realtime_ns());
    words = [0; TIMEX_WORDS];
    words[0] = modes;
    // freq stays 0; maxerror, esterror: 16 s, as for a clock that nobody synchronises.
    (words[3], words[4], words[5]) = (16_000_000, 16_000_000, STA_UNSYNC);
    // precision and tolerance in us, time, tick.
    (words[7], words[8]) = (1, 32_768_000);
    (words[9], words[10], words[11]) = (now.sec as u64, now.usec as u64, 10_000);
    timex.write_ref(&words)?;
    Ok(TIME_ERROR)
}

/// adjtimex(2).
pub fn sys_adjtimex(a: &mut Args) -> SysResult {
    adjtime(a.ptr(0))
}

/// clock_adjtime(2).
pub fn sys_clock_adjtime(a: &mut Args) -> SysResult {
    match ClockId::from_number(a.i32(0))? {
        ClockId::Wall(WallClock::REALTIME) if a.i32(0) == 0 => adjtime(a.ptr(1)),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// times(2), in hundredths of a second.
pub fn sys_times(a: &mut Args) -> SysResult {
    const TICK: u64 = NSEC_PER_SEC / 100;
    let task = task::current();
    if let Some(to) = a.ptr::<[i64; 4]>(0).non_null() {
        let own = clocks::process_cpu_time(task);
        let children = clocks::children_cpu_time(task);
        let words = [own.user, own.system, children.user, children.system];
        to.write(words.map(|ns| (ns / TICK) as i64))?;
    }
    Ok((sched::boottime_ns() / TICK) as usize)
}

// ---- Sleeping ----

/// Sleeps until a deadline that was relative when the call began.
fn relative_sleep(deadline: Deadline, remaining: UserPtr<Timespec>) -> SysResult {
    let task = task::current();
    task.set_restart(RestartBlock::nanosleep(deadline, remaining.addr()));
    if sched::sleep_until(deadline).is_ok() {
        task.set_restart(RestartBlock::default());
        return Ok(0);
    }
    if let Some(to) = remaining.non_null() {
        to.write(Timespec::from_ns(deadline.remaining()))?;
    }
    Err(Errno::ERESTART_RESTARTBLOCK)
}

/// nanosleep(2).
pub fn sys_nanosleep(a: &mut Args) -> SysResult {
    let ns = a.ptr::<Timespec>(0).read()?.to_ns()?;
    relative_sleep(Deadline::after(ns), a.ptr(1))
}

/// clock_nanosleep(2).
pub fn sys_clock_nanosleep(a: &mut Args) -> SysResult {
    const TIMER_ABSTIME: u32 = 1;
    let clock = ClockId::from_number(a.i32(0))?;
    let absolute = a.u32(1) & TIMER_ABSTIME != 0;
    let ns = a.ptr::<Timespec>(2).read()?.to_ns()?;
    match clock {
        ClockId::Cpu(cpu) => {
            clocks::sleep_on_cpu_clock(cpu, ns, absolute)?;
            Ok(0)
        }
        // CLOCK_MONOTONIC_RAW and the coarse clocks only tell the time.
        ClockId::Wall(_) if matches!(a.i32(0), 4..=6) => Err(Errno::EOPNOTSUPP),
        ClockId::Wall(clock) if absolute => {
            let ns = clocks::time_ns().to_machine(clock, ns);
            let deadline = Deadline { clock: clock.base, ns };
            sched::sleep_until(deadline).map_err(|_| Errno::ERESTARTNOHAND)?;
            Ok(0)
        }
        // A relative sleep takes no notice of the wall clock being set (clock_nanosleep(2)).
        ClockId::Wall(_) => relative_sleep(Deadline::after(ns), a.ptr(3)),
    }
}

/// restart_syscall(2): goes on with what a stop, or a signal without a handler, interrupted.
pub fn sys_restart_syscall(_: &mut Args) -> SysResult {
    let block = task::current().set_restart(RestartBlock::default());
    match block.kind {
        RestartKind::None => Err(Errno::EINTR),
        RestartKind::Nanosleep => relative_sleep(block.deadline(), UserPtr::new(block.address)),
        RestartKind::FutexWait => super::futex::restart(&block),
    }
}
