//! The timers of a process: interval timers (setitimer(2)) and those of timer_create(2).

use belljar_abi::corenote::{self, Kind, Timer, Writer};

use super::Result;
use super::state::{clock_offset, table};
use crate::elfcore::Note;
use crate::introspect::{Object, Process};

/// The note about them and about its timerfds, `files`; `threads` are the process's.
pub(super) fn note(
    process: &Process<'_>,
    threads: &[&Process<'_>],
    files: &[Timer],
) -> Result<Note> {
    let mut timers: Writer<Timer> = Writer::default();
    files.iter().for_each(|timer| timers.push(*timer));
    let task = process.task();
    if let Some(signal) = task.ptr("signal")? {
        let offset = clock_offset(task)?;
        let mut tids = vec![];
        for thread in threads {
            tids.push(thread.pid()?);
        }
        for timer in signal.array("timers.posix.timers")? {
            timers.push(describe(corenote::TIMER_POSIX, &timer, offset, &tids)?);
        }
        if let Some(timer) = signal.ptr("timers.real")? {
            timers.push(describe(corenote::TIMER_REAL, &timer, offset, &tids)?);
        }
        let cpu = [corenote::TIMER_VIRTUAL, corenote::TIMER_PROF];
        for (what, timer) in cpu.into_iter().zip(signal.array("timers.cpu")?) {
            let (deadline, interval) = (timer.uint("deadline")?, timer.uint("interval")?);
            if (deadline, interval) != (0, 0) {
                timers.push(Timer { what, deadline, interval, ..Timer::default() });
            }
        }
    }
    Ok(table(Kind::Timers, &timers))
}

fn describe(what: u64, timer: &Object<'_>, offset: i64, tids: &[u64]) -> Result<Timer> {
    let base = timer.uint("state.base")?;
    let clock = timer.uint("clock.kind")?;
    let is_wall =
        matches!(timer.enum_name("clock.kind")?.as_str(), "Realtime" | "Monotonic" | "Boottime");
    let mut record = Timer {
        what,
        clock,
        clock_tid: timer.uint("clock.tid")?,
        base,
        deadline: timer.uint("state.deadline")?,
        interval: timer.uint("state.interval")?,
        overrun: timer.uint("state.overrun")?,
        ..Timer::default()
    };
    if is_wall && base == 0 && record.deadline != 0 {
        record.deadline = shown(record.deadline, offset);
    }
    if what == corenote::TIMER_POSIX {
        record.id = timer.uint("id")?;
        if timer.enum_name("notify.kind")? == "Signal" {
            record.signo = timer.uint("notify.signo")?;
            record.value = timer.uint("notify.value")?;
        }
        if let Some(thread) = timer.ptr("notify.thread")? {
            let number =
                thread.array("numbers")?.first().map(|upid| upid.uint("nr")).transpose()?;
            match number.filter(|tid| tids.contains(tid)) {
                Some(tid) => record.notify_tid = tid,
                // The thread is gone, and with it whoever the timer could tell.
                None => record.signo = 0,
            }
        }
    }
    Ok(record)
}

/// The timer of a timerfd; `id` is the file's.
pub(super) fn timerfd(id: u64, timer: &Object<'_>, offset: i64) -> Result<Timer> {
    let base = timer.uint("state.base")?;
    let deadline = match timer.uint("state.deadline")? {
        ns if base == 0 && ns != 0 => shown(ns, offset),
        ns => ns,
    };
    Ok(Timer {
        what: corenote::TIMER_FILE,
        id,
        clock: timer.uint("clock")?,
        base,
        deadline,
        interval: timer.uint("state.interval")?,
        overrun: timer.uint("state.rung")?,
        ..Timer::default()
    })
}

/// A deadline on the machine's CLOCK_MONOTONIC as the process sees it; what lies before the start of
/// its clock has come.
fn shown(deadline: u64, offset: i64) -> u64 {
    deadline.saturating_add_signed(offset).clamp(1, i64::MAX as u64)
}
