//! What happens when a process's timers ring, and how they are set (timer_create(2), setitimer(2)).
//!
//! A timer on a clock of the system rings in an interrupt, where nothing may be sent: the code that was
//! interrupted may hold the very locks that sending takes. So the interrupt only puts the timer on its
//! CPU's list and raises a softirq, which sends. A periodic timer is started again there too, so that no
//! interval, however short, keeps a CPU in its interrupt handler; what was missed is its overrun.
//!
//! CPU time is looked at on the way back to a program after a tick (100 Hz) found the process running, if
//! anything of it counts CPU time.

use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering, Ordering::Relaxed};

use super::clocks::process_cpu_time;
use super::signal;
use crate::arch::ThreadFlags;
use crate::container_of;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::ns::time::WallClock;
use crate::ns::{Pid, PidType};
use crate::sched::softirq::{self, Softirq};
use crate::sched::{ClockBase, Deadline, Entity, NSEC_PER_SEC, Timer};
use crate::signal::info::SI_TIMER;
use crate::signal::{SIGALRM, SIGKILL, SIGPROF, SIGVTALRM, SIGXCPU, SigInfo};
use crate::sync::{IrqLock, MAX_CPUS, PerCpu, SpinLock};
use crate::task::rlimit::{RLIM_INFINITY, Resource};
use crate::task::timers::{
    CpuItimer, ExpiredLink, Notify, NotifyKind, PosixTimer, TimerClock, TimerClockKind, TimerState,
};
use crate::task::{self, Task, list};

/// A periodic timer rings at most this often; shorter intervals show as overruns.
const MIN_PERIOD: u64 = 50_000;

static EXPIRED: PerCpu<IrqLock<List<PosixTimer, ExpiredLink>>> =
    PerCpu::new([const { IrqLock::new(List::new()) }; MAX_CPUS]);

/// A value and an interval, in ns: `struct itimerspec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Until it rings next; 0 if it does not.
    pub value: u64,
    /// How long after that again; 0 for once.
    pub interval: u64,
}

/// Sets up the softirq; at boot.
pub fn init() {
    softirq::register(Softirq::Timer, handle_expired);
}

/// The interrupt: puts the timer on this CPU's list.
fn ring(timer: &Timer) {
    let timer = container_of!(timer, PosixTimer, timer);
    // SAFETY: only `PosixTimer`s have this callback, and `delete` waits for it before one goes.
    let timer = unsafe { &*timer };
    if !timer.expired.swap(true, Ordering::AcqRel) {
        // SAFETY: it lives in a `Ref`, and `delete` waits for this before it goes; the count is the list's.
        core::mem::forget(unsafe { Ref::from_ref(timer) });
        let expired = EXPIRED.this().lock();
        // SAFETY: the lock is held, and the count keeps it in place.
        unsafe { expired.push_back(timer) };
    }
    softirq::raise(Softirq::Timer);
}

/// Takes over what rang on a CPU that is off now.
pub fn adopt(cpu: usize) {
    loop {
        let theirs = EXPIRED.of(cpu).lock();
        // SAFETY: the lock is held.
        let Some(timer) = (unsafe { theirs.pop_front() }) else { break };
        let ours = EXPIRED.this().lock();
        // SAFETY: the lock is held, and the list's count keeps it in place.
        unsafe { ours.push_back(timer) };
    }
    softirq::raise(Softirq::Timer);
}

/// The softirq.
fn handle_expired() {
    loop {
        let timer = {
            let expired = EXPIRED.this().lock();
            // SAFETY: the lock is held.
            let Some(timer) = (unsafe { expired.pop_front() }) else { return };
            // SAFETY: takes over the list's count.
            unsafe { Ref::from_raw(ptr::from_ref(timer)) }
        };
        timer.expired.store(false, Ordering::Release);
        expire(&timer);
    }
}

/// Moves a deadline that has come past `now`, by whole intervals; says how many more than one.
fn forward(state: &mut TimerState, now: u64) -> u64 {
    if state.interval == 0 {
        state.deadline = 0;
        return 0;
    }
    let missed = (now - state.deadline) / state.interval;
    let step = (missed + 1).saturating_mul(state.interval);
    state.deadline = state.deadline.saturating_add(step);
    missed
}

fn expire(timer: &PosixTimer) {
    let mut state = timer.state.lock();
    let base = state.base;
    let now = base.now();
    // It may have been set anew, or deleted, since it rang.
    if state.deleted || state.deadline == 0 || now < state.deadline {
        return;
    }
    let missed = forward(&mut state, now);
    if state.deadline != 0 {
        let ns = state.deadline.max(now + MIN_PERIOD);
        // SAFETY: `delete` cancels it before it goes, and keeps it from being started (`deleted`).
        unsafe { timer.timer.start(Deadline { clock: base, ns }) };
    }
    drop(state);
    let overrun = notify(timer, missed);
    timer.state.lock().overrun = overrun;
}

/// Sends the timer's signal, which stands for `1 + missed` expirations; says how many it stands for
/// beyond the first, those of a signal that still waited included.
fn notify(timer: &PosixTimer, missed: u64) -> u64 {
    let list = list::lock();
    let notify = &timer.notify;
    let (info, target, group) = match notify.kind {
        NotifyKind::None => return missed,
        NotifyKind::Alarm => (SigInfo::kernel(SIGALRM), list.process_of(&timer.owner), true),
        NotifyKind::Signal => {
            let target = match &notify.thread {
                Some(thread) => list.thread_of(thread),
                None => list.process_of(&timer.owner),
            };
            let overrun = missed.min(i32::MAX as u64) as i32;
            let info = SigInfo::timer(notify.signo, timer.id, overrun, notify.value);
            (info, target, notify.thread.is_none())
        }
    };
    let Some(target) = target else { return missed };
    if info.code == SI_TIMER {
        let same = |i: &SigInfo| i.code == SI_TIMER && i.timer_id() == timer.id;
        let merged = if group {
            target.signal.shared.lock().pending.merge_overrun(same, missed)
        } else {
            target.sig.lock().pending.merge_overrun(same, missed)
        };
        if let Some(overrun) = merged {
            return overrun;
        }
    }
    // With its queue full the signal is lost, as sigqueue(3) has it.
    let _ = signal::send_locked(&list, info, target, group);
    missed
}

// ---- Setting ----

/// Makes a timer of the calling process.
pub fn new_timer(id: i32, clock: TimerClock, notify: Notify) -> Result<Ref<PosixTimer>> {
    let owner = task::current().signal.pid(PidType::Tgid).ok_or(Errno::ESRCH)?;
    timer_of(owner, id, clock, notify, TimerState::default())
}

/// Makes a timer of the process `owner`, which [`start`] starts.
pub fn timer_of(
    owner: Ref<Pid>,
    id: i32,
    clock: TimerClock,
    notify: Notify,
    state: TimerState,
) -> Result<Ref<PosixTimer>> {
    Ref::try_new(PosixTimer {
        timer: Timer::new(ring),
        link: Link::new(),
        expired: AtomicBool::new(false),
        id,
        clock,
        notify,
        owner,
        state: SpinLock::new(state),
    })
}

/// Starts a timer on a clock of the system that is set and rings for somebody.
pub fn start(timer: &PosixTimer) {
    start_as(timer, &timer.state.lock());
}

/// Starts it with its state locked.
fn start_as(timer: &PosixTimer, state: &TimerState) {
    let rings = timer.clock.wall().is_some() && timer.notify.kind != NotifyKind::None;
    if rings && state.deadline != 0 && !state.deleted {
        let deadline = Deadline { clock: state.base, ns: state.deadline };
        // SAFETY: `delete` cancels it before it goes, and keeps it from being started.
        unsafe { timer.timer.start(deadline) };
    }
}

/// What a CPU-time clock shows for the process or thread that it is about; the caller is of that process.
fn cpu_now(clock: TimerClock) -> u64 {
    let me = task::current();
    match clock.kind {
        TimerClockKind::ProcessUser => process_cpu_time(me).user,
        TimerClockKind::ThreadCpu => {
            let _list = list::lock();
            let thread = me.signal.threads.iter().find(|t| t.pid() == clock.tid);
            thread.map_or(0, |t| t.se.sum_exec_runtime())
        }
        _ => {
            let time = process_cpu_time(me);
            time.user + time.system
        }
    }
}

fn clock_now(timer: &PosixTimer, state: &TimerState) -> u64 {
    match timer.clock.wall() {
        Some(_) => state.base.now(),
        None => cpu_now(timer.clock),
    }
}

/// When it rings next and how often, as seen now.
fn setting(timer: &PosixTimer, state: &mut TimerState) -> Setting {
    if state.deadline == 0 {
        return Setting { value: 0, interval: state.interval };
    }
    let now = clock_now(timer, state);
    if now >= state.deadline && timer.notify.kind == NotifyKind::None {
        // Nobody handles its expirations, so whoever looks at it moves it on.
        state.overrun = forward(state, now);
    }
    let value = match state.deadline {
        0 => 0,
        // Due, and about to be handled: not 0, which would mean that it is not set.
        deadline => deadline.saturating_sub(now).max(1),
    };
    Setting { value, interval: state.interval }
}

/// timer_gettime(2), getitimer(2).
pub fn get(timer: &PosixTimer) -> Setting {
    setting(timer, &mut timer.state.lock())
}

/// timer_settime(2), setitimer(2): returns the setting before. The caller is of the timer's process.
pub fn set(timer: &PosixTimer, new: Setting, absolute: bool) -> Setting {
    timer.timer.cancel();
    let wall = timer.clock.wall();
    let cpu_now = if wall.is_some() { 0 } else { cpu_now(timer.clock) };
    let mut state = timer.state.lock();
    let old = setting(timer, &mut state);
    if state.deleted {
        return old;
    }
    let (base, now) = match wall {
        Some(clock) if absolute => (clock.base, 0),
        Some(_) => (ClockBase::Monotonic, ClockBase::Monotonic.now()),
        None => (ClockBase::Monotonic, if absolute { 0 } else { cpu_now }),
    };
    state.base = base;
    state.interval = new.interval;
    state.overrun = 0;
    state.deadline = if new.value == 0 { 0 } else { now.saturating_add(new.value).max(1) };
    start_as(timer, &state);
    if state.deadline != 0 && wall.is_none() {
        watch_cpu();
    }
    old
}

/// The calling process has something that counts CPU time.
fn watch_cpu() {
    let me = task::current();
    me.signal.timers.watches_cpu.store(true, Relaxed);
    // What is due already is found on the way back.
    me.se.thread.info.set(ThreadFlags::NOTIFY_RESUME);
}

/// `ITIMER_REAL` of the calling process.
pub fn real_itimer() -> Result<Ref<PosixTimer>> {
    let timers = &task::current().signal.timers;
    if let Some(timer) = &*timers.real.lock() {
        return Ok(timer.clone());
    }
    let clock = TimerClock::of(WallClock::MONOTONIC);
    let new = new_timer(-1, clock, Notify::ALARM)?;
    Ok(timers.real.lock().get_or_insert(new).clone())
}

/// `ITIMER_VIRTUAL` (0) or `ITIMER_PROF` (1) of the calling process: reads it, and sets it if told.
pub fn cpu_itimer(which: usize, new: Option<Setting>) -> Setting {
    let now = cpu_now(if which == 0 { TimerClock::PROCESS_USER } else { TimerClock::PROCESS_CPU });
    let mut timers = task::current().signal.timers.cpu.lock();
    let timer = &mut timers[which & 1];
    let value = match timer.deadline {
        0 => 0,
        deadline => deadline.saturating_sub(now).max(1),
    };
    let old = Setting { value, interval: timer.interval };
    if let Some(new) = new {
        let deadline = if new.value == 0 { 0 } else { now.saturating_add(new.value) };
        *timer = CpuItimer { deadline, interval: new.interval };
        drop(timers);
        if deadline != 0 {
            watch_cpu();
        }
    }
    old
}

// ---- CPU time ----

/// The accounting tick of a running entity (interrupts off): has the CPU time of its process looked at
/// on the way back to the program, if anything counts it.
pub fn tick(entity: &Entity) {
    let task = Task::of(entity);
    let limited = |resource| task.signal.rlimits.soft(resource) != RLIM_INFINITY;
    let watched = task.signal.timers.watches_cpu.load(Relaxed)
        || limited(Resource::Cpu)
        || entity.is_rt() && limited(Resource::Rttime);
    if watched && !task.is_kthread() {
        entity.thread.info.set(ThreadFlags::NOTIFY_RESUME);
    }
}

/// Sends the signals that the caller's CPU time calls for.
pub fn check_cpu_timers() {
    let me = task::current();
    check_cpu_limit(me);
    check_real_time_limit(me);
    let timers = &me.signal.timers;
    if !timers.watches_cpu.load(Relaxed) {
        return;
    }
    let time = process_cpu_time(me);
    let mut left = false;
    let mut due = [false; 2];
    let clocks = [time.user, time.user + time.system];
    {
        let mut itimers = timers.cpu.lock();
        for ((timer, now), due) in itimers.iter_mut().zip(clocks).zip(&mut due) {
            if timer.deadline != 0 && now >= timer.deadline {
                *due = true;
                timer.deadline = match timer.interval {
                    0 => 0,
                    interval => now.saturating_add(interval),
                };
            }
            left |= timer.deadline != 0;
        }
    }
    for (due, sig) in due.into_iter().zip([SIGVTALRM, SIGPROF]) {
        if due {
            let _ = signal::send(SigInfo::kernel(sig), me, true);
        }
    }
    left |= check_posix_cpu_timers(me);
    if !left {
        timers.watches_cpu.store(false, Relaxed);
    }
}

/// POSIX timers on CPU time; true if some are still set.
fn check_posix_cpu_timers(me: &Task) -> bool {
    let mut left = false;
    let mut next = 0;
    loop {
        let timer = {
            let timers = me.signal.timers.posix.lock();
            let found = timers.iter().find(|t| t.id >= next && t.clock.wall().is_none()).cloned();
            let Some(timer) = found else { return left };
            next = timer.id.saturating_add(1);
            timer
        };
        let now = cpu_now(timer.clock);
        let mut state = timer.state.lock();
        if state.deadline != 0 && now >= state.deadline {
            let missed = forward(&mut state, now);
            drop(state);
            let overrun = notify(&timer, missed);
            state = timer.state.lock();
            state.overrun = overrun;
        }
        left |= state.deadline != 0;
    }
}

/// `RLIMIT_CPU`: SIGXCPU each second from the soft limit on, SIGKILL at the hard one.
fn check_cpu_limit(me: &Task) {
    let limit = me.signal.rlimits.get(Resource::Cpu);
    if limit.soft == RLIM_INFINITY && limit.hard == RLIM_INFINITY {
        return;
    }
    let time = process_cpu_time(me);
    let used = time.user + time.system;
    if used >= limit.hard.saturating_mul(NSEC_PER_SEC) {
        let _ = signal::send(SigInfo::kernel(SIGKILL), me, true);
        return;
    }
    let soft = limit.soft.saturating_mul(NSEC_PER_SEC);
    let at = &me.signal.timers.cpu_limit_at;
    if used >= soft && used >= at.load(Relaxed) {
        at.store(used + NSEC_PER_SEC, Relaxed);
        let _ = signal::send(SigInfo::kernel(SIGXCPU), me, true);
    }
}

/// `RLIMIT_RTTIME`, in us: SIGXCPU each second that a real-time thread runs without going to sleep, from the
/// soft limit on, SIGKILL at the hard one (getrlimit(2)). As on Linux, it is looked at once a tick.
fn check_real_time_limit(me: &Task) {
    const NSEC_PER_USEC: u64 = 1000;
    let limit = me.signal.rlimits.get(Resource::Rttime);
    if !me.se.is_rt() || limit.soft == RLIM_INFINITY && limit.hard == RLIM_INFINITY {
        return;
    }
    let watch = &me.rt_watch;
    let (sleeps, _) = me.se.context_switches();
    let time = me.se.sum_exec_runtime();
    if watch.sleeps.swap(sleeps, Relaxed) != sleeps || watch.since.load(Relaxed) == 0 {
        watch.since.store(time, Relaxed);
        watch.next.store(0, Relaxed);
    }
    let ran = time.saturating_sub(watch.since.load(Relaxed));
    if ran >= limit.hard.saturating_mul(NSEC_PER_USEC) {
        let _ = signal::send(SigInfo::kernel(SIGKILL), me, true);
        return;
    }
    if ran >= watch.next.load(Relaxed).max(limit.soft.saturating_mul(NSEC_PER_USEC)) {
        watch.next.store(ran + NSEC_PER_SEC, Relaxed);
        let _ = signal::send(SigInfo::kernel(SIGXCPU), me, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forward_counts_what_was_missed() {
        let mut state = TimerState { deadline: 100, interval: 10, ..Default::default() };
        assert_eq!((forward(&mut state, 100), state.deadline), (0, 110));
        assert_eq!((forward(&mut state, 145), state.deadline), (3, 150));
        state.interval = 0;
        assert_eq!((forward(&mut state, 150), state.deadline), (0, 0));
        let mut huge = TimerState { deadline: 1, interval: u64::MAX, ..Default::default() };
        assert_eq!((forward(&mut huge, u64::MAX), huge.deadline), (0, u64::MAX));
    }
}
