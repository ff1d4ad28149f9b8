//! Timers: made aside, and started when their process goes on.

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use belljar_abi::corenote;

use super::numbers::Numbers;
use super::plan::{Plan, TimerPlan};
use crate::errno::{Errno, Result};
use crate::fs::timerfd::{self, TimerFd};
use crate::fs::{File, OpenFlags, anon};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::ns::time::WallClock;
use crate::ns::{NsProxy, Pid};
use crate::process::timers::{self, timer_of};
use crate::sched::ClockBase;
use crate::task::Task;
use crate::task::timers::{CpuItimer, Notify, PosixTimer, ProcessTimers, TimerState};

/// Makes the timers of a process; none of them rings yet.
#[inline(never)]
pub(super) fn build(
    to: &ProcessTimers,
    plan: &Plan<'_>,
    numbers: &Numbers,
    proxy: &NsProxy,
) -> Result<()> {
    let owner = numbers.get(plan.process.pid).ok_or(Errno::ESRCH)?;
    for timer in &plan.timers {
        let record = &timer.record;
        match record.what {
            corenote::TIMER_POSIX => {
                let thread = match record.notify_tid {
                    0 => None,
                    tid => Some(numbers.get(tid).ok_or(Errno::ESRCH)?),
                };
                let notify = match record.signo {
                    0 => Notify::NONE,
                    signo => Notify::signal(signo as i32, record.value, thread),
                };
                let new = make(owner.clone(), record.id as i32, timer, notify, proxy)?;
                to.posix.lock().take_in(new)?;
            }
            corenote::TIMER_REAL => {
                *to.real.lock() = Some(make(owner.clone(), -1, timer, Notify::ALARM, proxy)?);
            }
            // Made with its file.
            corenote::TIMER_FILE => {}
            which => {
                let which = usize::from(which != corenote::TIMER_VIRTUAL);
                let (deadline, interval) = (record.deadline, record.interval);
                to.cpu.lock()[which] = CpuItimer { deadline, interval };
            }
        }
    }
    // Who counts nothing is found out at the first look.
    to.watches_cpu.store(!plan.timers.is_empty(), Ordering::Relaxed);
    Ok(())
}

fn make(
    owner: Ref<Pid>,
    id: i32,
    timer: &TimerPlan,
    notify: Notify,
    proxy: &NsProxy,
) -> Result<Ref<PosixTimer>> {
    let record = &timer.record;
    let wall = timer.clock.wall().is_some();
    let deadline = match record.deadline {
        ns if wall && ns != 0 => on_machine(timer.base, ns, proxy),
        ns => ns,
    };
    let (interval, overrun) = (record.interval, record.overrun);
    let state = TimerState { deadline, interval, overrun, base: timer.base, deleted: false };
    timer_of(owner, id, timer.clock, notify, state)
}

/// Makes a timerfd, which goes on at once.
pub(super) fn timerfd(timer: &TimerPlan, flags: OpenFlags, proxy: &NsProxy) -> Result<Ref<File>> {
    let record = &timer.record;
    let clock = timer.clock.wall().ok_or(Errno::EINVAL)?;
    let deadline = match record.deadline {
        0 => 0,
        ns => on_machine(timer.base, ns, proxy),
    };
    let rung = record.overrun != 0;
    let state = timerfd::State { deadline, interval: record.interval, base: timer.base, rung };
    let ops: Box<TimerFd> = try_box(TimerFd::with(clock, state))?;
    let file = anon::new_file("[timerfd]", ops, flags)?;
    file.ops_as::<TimerFd>().ok_or(Errno::EINVAL)?.resume();
    Ok(file)
}

/// When the machine's clock shows what the process's shows as `ns`; not 0, which is never.
fn on_machine(base: ClockBase, ns: u64, proxy: &NsProxy) -> u64 {
    match base {
        ClockBase::Monotonic => proxy.time.to_machine(WallClock::MONOTONIC, ns).max(1),
        ClockBase::Realtime => ns,
    }
}

/// The timers of a process that others become: `from` has none afterwards.
pub(super) fn take_over(to: &ProcessTimers, from: &ProcessTimers) {
    *to.posix.lock() = core::mem::take(&mut *from.posix.lock());
    *to.real.lock() = from.real.lock().take();
    *to.cpu.lock() = core::mem::take(&mut *from.cpu.lock());
    to.watches_cpu.store(from.watches_cpu.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// The timers of a process that goes on ring from now on.
pub(super) fn start(leader: &Task) {
    let timers = &leader.signal.timers;
    // A timer is started under no lock of the table: one that rings may want it.
    let mut next = 0;
    loop {
        let timer = {
            let posix = timers.posix.lock();
            let Some(timer) = posix.iter().find(|timer| timer.id >= next) else { break };
            next = timer.id.saturating_add(1);
            timer.clone()
        };
        timers::start(&timer);
    }
    let real = timers.real.lock().clone();
    real.iter().for_each(|timer| timers::start(timer));
}
