//! /proc/PID/stat and /proc/PID/statm: what `ps` and `top` read.

use core::sync::atomic::Ordering;

use super::Subject;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::errno::Result;
use crate::mm::Mm;
use crate::ns::PidType;
use crate::ns::time::WallClock;
use crate::process::clocks::time_ns;
use crate::procfs::cpu::TICK;
use crate::procfs::text::Text;
use crate::put;
use crate::sched::CpuTime;
use crate::signal::NSIG;
use crate::task::rlimit::Resource;
use crate::task::{EXIT_DEAD, EXIT_ZOMBIE, Task, list};

/// Real-time priorities lie below this: `prio` is shown relative to it.
const MAX_RT_PRIO: i32 = 100;

/// The letter of the state.
pub(super) fn state_letter(task: &Task) -> char {
    match task.exit_state.load(Ordering::Relaxed) {
        EXIT_ZOMBIE => 'Z',
        EXIT_DEAD => 'X',
        _ => task.se.state().letter(),
    }
}

/// The number of the parent process, 0 if the namespace does not see it.
pub(super) fn parent_number(subject: &Subject) -> u32 {
    let list = list::lock();
    let parent = subject.task.real_parent.load(Ordering::Relaxed);
    // SAFETY: a parent is alive under the list's lock.
    let parent = unsafe { parent.as_ref() };
    let number = parent.map_or(0, |p| p.nr_of(PidType::Tgid, &subject.ns));
    drop(list);
    number
}

/// Bit sets of the signals that are ignored and caught.
pub(super) fn dispositions(task: &Task) -> (u64, u64) {
    let sighand = task.sighand.share();
    let actions = sighand.actions.lock();
    let (mut ignored, mut caught) = (0, 0);
    for (i, action) in actions.iter().enumerate().take(NSIG) {
        match action.handler {
            crate::signal::SigAction::SIG_IGN => ignored |= 1 << i,
            crate::signal::SigAction::SIG_DFL => {}
            _ => caught |= 1 << i,
        }
    }
    (ignored, caught)
}

/// CPU time of the thread or, asked as a process, of all its threads, those that ended too.
fn times(subject: &Subject) -> CpuTime {
    let task = &subject.task;
    if !subject.group {
        return task.se.cpu_time();
    }
    let _list = list::lock();
    let dead = &task.signal.dead;
    let mut sum = CpuTime {
        user: dead.utime.load(Ordering::Relaxed),
        system: dead.stime.load(Ordering::Relaxed),
    };
    for thread in task.signal.threads.iter() {
        sum += thread.se.cpu_time();
    }
    sum
}

/// What stat shows of the memory.
#[derive(Default)]
struct Memory {
    vsize: u64,
    rss: u64,
    code: [u64; 3],
    data: [u64; 7],
}

fn memory(mm: &Mm, may_look: bool) -> Memory {
    let (vsize, start_brk) = {
        let space = mm.space.read();
        (space.total_vm << PAGE_SHIFT, space.start_brk)
    };
    let at = |v: &core::sync::atomic::AtomicU64| v.load(Ordering::Relaxed);
    let l = &mm.layout;
    let (mut code, mut data) = ([1, 1, 0], [0; 7]);
    if may_look {
        code = [at(&l.start_code), at(&l.end_code), at(&l.start_stack)];
        data = [
            at(&l.start_data),
            at(&l.end_data),
            start_brk,
            at(&l.arg_start),
            at(&l.arg_end),
            at(&l.env_start),
            at(&l.env_end),
        ];
    }
    Memory { vsize, rss: mm.rss().total(), code, data }
}

/// /proc/PID/stat: 52 fields on one line, numbered as in proc(5).
pub(super) fn stat(subject: &Subject, out: &mut Text) -> Result<()> {
    let (task, ns) = (&*subject.task, &*subject.ns);
    let relaxed = Ordering::Relaxed;
    let signal = &task.signal;
    let may_look = subject.check_access().is_ok();
    let mem = subject.with_mm(|mm| memory(mm, may_look)).unwrap_or_default();
    let (tty_nr, foreground) = match signal.tty.get() {
        Some(tty) => (tty.dev.encode() as i32, tty.foreground()),
        None => (0, None),
    };
    let tpgid = foreground.map_or(-1, |pgrp| pgrp.nr_in(ns) as i32);
    let time = times(subject);
    let children = &signal.children;
    let (pending, blocked) = {
        let sig = task.sig.lock();
        (sig.pending.set().0, sig.blocked.0)
    };
    let (ignored, caught) = dispositions(task);
    let number = match subject.group {
        true => task.nr_of(PidType::Tgid, ns),
        false => task.pid_nr(ns),
    };
    // 1 pid to 9 flags
    put!(out, "{number} (")?;
    out.bytes(task.comm().as_bytes())?;
    put!(out, ") {} {} ", state_letter(task), parent_number(subject))?;
    put!(out, "{} {} ", task.nr_of(PidType::Pgid, ns), task.nr_of(PidType::Sid, ns))?;
    put!(out, "{tty_nr} {tpgid} {} ", task.flags.load(relaxed))?;
    // 10 minflt to 17 cstime
    put!(out, "{} {} ", task.min_flt.load(relaxed), children.min_flt.load(relaxed))?;
    put!(out, "{} {} ", task.maj_flt.load(relaxed), children.maj_flt.load(relaxed))?;
    put!(out, "{} {} ", time.user / TICK, time.system / TICK)?;
    let (cutime, cstime) = (children.utime.load(relaxed), children.stime.load(relaxed));
    put!(out, "{} {} ", cutime / TICK, cstime / TICK)?;
    let start = time_ns().shown(WallClock::BOOTTIME, task.start_boottime.load(relaxed));
    // 18 priority to 25 rsslim
    put!(out, "{} {} ", task.se.prio() - MAX_RT_PRIO, task.se.nice())?;
    put!(out, "{} 0 ", signal.nr_threads.load(relaxed))?;
    put!(out, "{} ", start / TICK)?;
    put!(out, "{} {} {} ", mem.vsize, mem.rss, signal.rlimits.soft(Resource::Rss))?;
    // 26 startcode to 37 cnswap; the stack pointer and program counter are not told
    let [start_code, end_code, start_stack] = mem.code;
    put!(out, "{start_code} {end_code} {start_stack} 0 0 ")?;
    let low = |set: u64| set & 0x7fff_ffff;
    put!(out, "{} {} {} {} ", low(pending), low(blocked), low(ignored), low(caught))?;
    put!(out, "{} 0 0 ", u32::from(!task.se.state().is_empty()))?;
    // 38 exit_signal to 44 cguest_time
    put!(out, "{} {} ", task.exit_signal.load(relaxed), task.se.cpu())?;
    put!(out, "{} {} 0 0 0 ", task.se.rt_priority(), task.se.policy() as u32)?;
    // 45 start_data to 52 exit_code
    for value in mem.data {
        put!(out, "{value} ")?;
    }
    let exit_code = if may_look { task.exit_code.load(relaxed) } else { 0 };
    put!(out, "{exit_code}\n")
}

/// Pages of program text.
pub(super) fn text_pages(mm: &Mm) -> u64 {
    let mask = PAGE_SIZE as u64 - 1;
    let start = mm.layout.start_code.load(Ordering::Relaxed) & !mask;
    let end = mm.layout.end_code.load(Ordering::Relaxed);
    end.saturating_add(mask).saturating_sub(start) >> PAGE_SHIFT
}

/// /proc/PID/statm: size, resident, shared, text, lib, data, dirty, in pages.
pub(super) fn statm(subject: &Subject, out: &mut Text) -> Result<()> {
    let line = subject.with_mm(|mm| {
        let rss = mm.rss();
        let (size, data) = {
            let space = mm.space.read();
            (space.total_vm, space.data_vm + space.stack_vm)
        };
        (size, rss.total(), (rss.file + rss.shmem).max(0), text_pages(mm), data)
    });
    let (size, resident, shared, text, data) = line.unwrap_or_default();
    put!(out, "{size} {resident} {shared} {text} 0 {data} 0\n")
}
