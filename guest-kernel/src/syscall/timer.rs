//! Calls about timers: interval timers, alarms by signal (timer_create(2)), and timers as files.

use super::time::{Timespec, Timeval};
use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::fs::timerfd::TimerFd;
use crate::fs::{File, OpenFlags, anon};
use crate::kref::Ref;
use crate::mm::{UserPtr, try_box};
use crate::ns::PidType;
use crate::ns::time::WallClock;
use crate::process::clocks::{self, ClockId, CpuTimeKind};
use crate::process::timers::{self, Setting};
use crate::signal::{SIGALRM, is_valid};
use crate::task::rlimit::Resource;
use crate::task::timers::{Notify, PosixTimer, TimerClock};
use crate::task::{self, list};

/// `TIMER_ABSTIME`, `TFD_TIMER_ABSTIME`: the value is a point in time.
const ABSTIME: u32 = 1;

fn read_itimerspec(from: UserPtr<[Timespec; 2]>) -> Result<Setting> {
    let [interval, value] = from.read()?;
    Ok(Setting { value: value.to_ns()?, interval: interval.to_ns()? })
}

/// An absolute time of the caller's time namespace as one of the machine. 0 still means none.
fn on_machine(clock: WallClock, setting: Setting) -> Setting {
    let value = match setting.value {
        0 => 0,
        value => clocks::time_ns().to_machine(clock, value).max(1),
    };
    Setting { value, ..setting }
}

fn itimerspec(setting: Setting) -> [Timespec; 2] {
    [Timespec::from_ns(setting.interval), Timespec::from_ns(setting.value)]
}

// ---- Interval timers ----

/// Reads an interval timer, and sets it if told.
fn itimer(which: u32, new: Option<Setting>) -> Result<Setting> {
    const ITIMER_REAL: u32 = 0;
    const ITIMER_VIRTUAL: u32 = 1;
    const ITIMER_PROF: u32 = 2;
    match which {
        ITIMER_REAL => {
            let timer = timers::real_itimer()?;
            Ok(match new {
                Some(new) => timers::set(&timer, new, false),
                None => timers::get(&timer),
            })
        }
        ITIMER_VIRTUAL | ITIMER_PROF => {
            Ok(timers::cpu_itimer((which - ITIMER_VIRTUAL) as usize, new))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// In microseconds, as programs see interval timers; what is left never shows as nothing.
fn itimerval(setting: Setting) -> [Timeval; 2] {
    let value = if setting.value == 0 { 0 } else { setting.value.max(1000) };
    [Timeval::from_ns(setting.interval), Timeval::from_ns(value)]
}

/// getitimer(2).
pub fn sys_getitimer(a: &mut Args) -> SysResult {
    a.ptr(1).write(itimerval(itimer(a.u32(0), None)?))?;
    Ok(0)
}

/// setitimer(2). No new value at all means zero, as it always has on Linux.
pub fn sys_setitimer(a: &mut Args) -> SysResult {
    let new = match a.ptr::<[Timeval; 2]>(1).non_null() {
        Some(from) => {
            let [interval, value] = from.read()?;
            Setting { value: value.to_ns()?, interval: interval.to_ns()? }
        }
        None => Setting::default(),
    };
    let old = itimer(a.u32(0), Some(new))?;
    if let Some(to) = a.ptr(2).non_null() {
        to.write(itimerval(old))?;
    }
    Ok(0)
}

// ---- POSIX timers ----

/// `struct sigevent`, as far as the kernel looks at it.
#[repr(C)]
#[derive(Clone, Copy)]
struct SigEvent {
    value: u64,
    signo: i32,
    notify: i32,
    tid: i32,
    pad: i32,
}
crate::pod!(SigEvent);

fn read_notify(from: UserPtr<SigEvent>, id: i32) -> Result<Notify> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD: i32 = 2;
    const SIGEV_THREAD_ID: i32 = 4;
    let Some(from) = from.non_null() else {
        return Ok(Notify::signal(SIGALRM, id as u64, None));
    };
    let event = from.read()?;
    let me = task::current();
    let thread = match event.notify {
        SIGEV_NONE => return Ok(Notify::NONE),
        SIGEV_SIGNAL | SIGEV_THREAD => None,
        SIGEV_THREAD_ID => {
            let tid = u32::try_from(event.tid).map_err(|_| Errno::EINVAL)?;
            let thread = list::find_thread(tid, me.thread_pid.own().ns()).ok_or(Errno::EINVAL)?;
            if !thread.same_group(me) {
                return Err(Errno::EINVAL);
            }
            Some(thread.thread_pid.share())
        }
        _ => return Err(Errno::EINVAL),
    };
    if !is_valid(event.signo) {
        return Err(Errno::EINVAL);
    }
    Ok(Notify::signal(event.signo, event.value, thread))
}

/// The clock of a new timer; those that only tell the time, or would wake a suspended machine, ring none.
fn timer_clock(id: i32) -> Result<TimerClock> {
    match (id, ClockId::from_number(id)?) {
        (4..=6 | 8 | 9, _) => Err(Errno::EOPNOTSUPP),
        (_, ClockId::Wall(clock)) => Ok(TimerClock::of(clock)),
        (_, clock @ ClockId::Cpu(cpu)) => {
            clocks::check(clock)?;
            let me = task::current();
            let own =
                |nr: u32| nr == 0 || me.signal.pid(PidType::Tgid).is_some_and(|p| p.global() == nr);
            if cpu.thread {
                let tid = if cpu.pid == 0 { me.pid() } else { cpu.pid };
                return Ok(TimerClock::thread(tid));
            }
            // Another process's time: nothing here looks at that.
            if !own(cpu.pid) {
                return Err(Errno::EOPNOTSUPP);
            }
            Ok(match cpu.kind {
                CpuTimeKind::User => TimerClock::PROCESS_USER,
                CpuTimeKind::Total => TimerClock::PROCESS_CPU,
            })
        }
    }
}

/// timer_create(2).
pub fn sys_timer_create(a: &mut Args) -> SysResult {
    let clock = timer_clock(a.i32(0))?;
    let signal = &task::current().signal;
    let limit = signal.rlimits.soft(Resource::Sigpending).min(i32::MAX as u64) as usize;
    let id = signal.timers.posix.lock().take_id(limit)?;
    let timer = timers::new_timer(id, clock, read_notify(a.ptr(1), id)?)?;
    a.ptr::<i32>(2).write(id)?;
    signal.timers.posix.lock().add(timer)?;
    Ok(0)
}

fn find_timer(id: i32) -> Result<Ref<PosixTimer>> {
    task::current().signal.timers.posix.lock().get(id)
}

/// timer_settime(2).
pub fn sys_timer_settime(a: &mut Args) -> SysResult {
    let new = read_itimerspec(a.ptr::<[Timespec; 2]>(2).non_null().ok_or(Errno::EINVAL)?)?;
    let timer = find_timer(a.i32(0))?;
    let absolute = a.u32(1) & ABSTIME != 0;
    let new = match timer.clock.wall() {
        Some(clock) if absolute => on_machine(clock, new),
        _ => new,
    };
    let old = timers::set(&timer, new, absolute);
    if let Some(to) = a.ptr(3).non_null() {
        to.write(itimerspec(old))?;
    }
    Ok(0)
}

/// timer_gettime(2).
pub fn sys_timer_gettime(a: &mut Args) -> SysResult {
    a.ptr(1).write(itimerspec(timers::get(&*find_timer(a.i32(0))?)))?;
    Ok(0)
}

/// timer_getoverrun(2).
pub fn sys_timer_getoverrun(a: &mut Args) -> SysResult {
    let timer = find_timer(a.i32(0))?;
    let overrun = timer.state.lock().overrun;
    Ok(overrun.min(i32::MAX as u64) as usize)
}

/// timer_delete(2).
pub fn sys_timer_delete(a: &mut Args) -> SysResult {
    let timer = task::current().signal.timers.posix.lock().remove(a.i32(0))?;
    timer.delete();
    Ok(0)
}

// ---- Timers as files ----

/// timerfd_create(2).
pub fn sys_timerfd_create(a: &mut Args) -> SysResult {
    let clock = match a.i32(0) {
        0 => WallClock::REALTIME,
        1 => WallClock::MONOTONIC,
        7 => WallClock::BOOTTIME,
        // CLOCK_REALTIME_ALARM and CLOCK_BOOTTIME_ALARM: nothing here wakes a suspended machine.
        8 | 9 => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    let flags = OpenFlags::from_bits_retain(a.u32(1));
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let ops = try_box(TimerFd::new(clock))?;
    let file = anon::new_file("[timerfd]", ops, flags | OpenFlags::RDWR)?;
    let me = task::current();
    let limit = me.signal.rlimits.soft(Resource::Nofile) as usize;
    Ok(me.files().install(file, 0, limit, flags.contains(OpenFlags::CLOEXEC))? as usize)
}

/// Calls `f` with the timer behind a descriptor; `EINVAL` if something else is.
fn with_timerfd<R>(fd: i32, f: impl FnOnce(&TimerFd) -> R) -> Result<R> {
    let file: Ref<File> = task::current().files().get(fd)?;
    Ok(f(file.ops_as::<TimerFd>().ok_or(Errno::EINVAL)?))
}

/// timerfd_settime(2).
pub fn sys_timerfd_settime(a: &mut Args) -> SysResult {
    const TFD_TIMER_CANCEL_ON_SET: u32 = 2;
    let flags = a.u32(1);
    if flags & !(ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let new = read_itimerspec(a.ptr(2))?;
    let absolute = flags & ABSTIME != 0;
    let (value, interval) = with_timerfd(a.fd(0), |timer| {
        let new = if absolute { on_machine(timer.clock(), new) } else { new };
        timer.set(new.value, new.interval, absolute)
    })?;
    if let Some(to) = a.ptr(3).non_null() {
        to.write(itimerspec(Setting { value, interval }))?;
    }
    Ok(0)
}

/// timerfd_gettime(2).
pub fn sys_timerfd_gettime(a: &mut Args) -> SysResult {
    let (value, interval) = with_timerfd(a.fd(0), TimerFd::get)?;
    a.ptr(1).write(itimerspec(Setting { value, interval }))?;
    Ok(0)
}
