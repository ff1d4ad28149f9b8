//! The tracer's side: a tracee that stands still, and letting it go on.

use core::sync::atomic::Ordering;

use crate::arch::{DebugKind, DebugPoint, DebugRegs, FpState, PtRegs, ThreadFlags};
use crate::errno::{Errno, Result};
use crate::mm::try_box;
use crate::process::exit;
use crate::process::ptrace::Event;
use crate::process::signal;
use crate::sched::{self, Deadline, TaskState};
use crate::signal::is_valid;
use crate::task::list;
use crate::task::ptrace::JobControl;
use crate::task::{self, Task};
use crate::wait_channel;

/// How long a tracee may be on its way to its stop before the tracer stops looking all the time, in looks.
const LOOKS: u32 = 64;
/// Then it looks after so many nanoseconds.
const MOMENT: u64 = 50_000;

/// A tracee of the caller that stands still, and does so until this is dropped: not even SIGKILL wakes it.
pub struct Stopped<'a>(&'a Task);

impl<'a> Stopped<'a> {
    /// `ESRCH` unless the caller traces `tracee`, and it is stopped for that.
    pub fn new(tracee: &'a Task) -> Result<Self> {
        {
            let _list = list::lock();
            check(tracee)?;
            let jobctl = tracee.ptrace.jobctl();
            if !tracee.ptrace.is_stopped()
                || jobctl.contains(JobControl::LISTENING)
                || exit::fatal_pending(tracee)
            {
                return Err(Errno::ESRCH);
            }
            tracee.ptrace.set_jobctl(JobControl::FROZEN);
        }
        let this = Self(tracee);
        // It has said that it stops; its registers are saved once it was switched away from.
        let mut looks = 0;
        while tracee.se.is_queued() || tracee.se.is_on_cpu() {
            looks += 1;
            if looks < LOOKS {
                sched::yield_now();
            } else {
                task::current().se.prepare_sleep(TaskState::UNINTERRUPTIBLE);
                sched::schedule_timeout(Deadline::after(MOMENT), wait_channel!("ptrace"));
            }
        }
        Ok(this)
    }

    /// The tracee.
    pub fn task(&self) -> &'a Task {
        self.0
    }

    /// Its registers.
    pub fn regs(&mut self) -> &mut PtRegs {
        // SAFETY: a program's thread that is switched out, and is not switched in before `self` is dropped.
        unsafe { &mut *self.0.se.thread.user_regs() }
    }

    /// Its FP/SIMD registers.
    pub fn fp(&mut self) -> &mut FpState {
        // SAFETY: as above; they were saved when it was switched out.
        unsafe { &mut *self.0.se.thread.fp.get() }
    }

    /// A break- or watchpoint; the default if there is none.
    pub fn debug_point(&self, kind: DebugKind, slot: usize) -> DebugPoint {
        // SAFETY: as above.
        let regs = unsafe { &*self.0.se.thread.debug.get() };
        regs.as_ref().map_or(DebugPoint::default(), |regs| regs.points(kind)[slot])
    }

    /// Sets a break- or watchpoint.
    pub fn set_debug_point(&mut self, kind: DebugKind, slot: usize, to: DebugPoint) -> Result<()> {
        // SAFETY: as above.
        let regs = unsafe { &mut *self.0.se.thread.debug.get() };
        let regs = match regs {
            Some(regs) => regs,
            None => regs.insert(try_box(DebugRegs::default())?),
        };
        regs.points_mut(kind)[slot] = to;
        let info = &self.0.se.thread.info;
        if regs.any() {
            info.set(ThreadFlags::DEBUG_REGS);
        } else {
            info.clear(ThreadFlags::DEBUG_REGS);
        }
        Ok(())
    }

    /// Its thread pointer.
    pub fn thread_pointer(&self) -> u64 {
        // SAFETY: as above.
        unsafe { *self.0.se.thread.tpidr_el0.get() }
    }

    /// Replaces its thread pointer.
    pub fn set_thread_pointer(&mut self, to: u64) {
        // SAFETY: as above.
        unsafe { *self.0.se.thread.tpidr_el0.get() = to }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _list = list::lock();
        self.0.ptrace.clear_jobctl(JobControl::FROZEN);
        if exit::fatal_pending(self.0) {
            sched::wake_up(&self.0.se, TaskState::TRACED);
        }
    }
}

/// `ESRCH` unless the caller traces `tracee`; under the list's lock.
fn check(tracee: &Task) -> Result<()> {
    let tracer = tracee.parent.load(Ordering::Acquire).cast_const();
    let own = tracee.ptrace.is_traced() && core::ptr::eq(tracer, task::current());
    if own { Ok(()) } else { Err(Errno::ESRCH) }
}

/// `ESRCH` unless the caller traces `tracee`, in whatever state that is.
pub fn check_tracer(tracee: &Task) -> Result<()> {
    let _list = list::lock();
    check(tracee)
}

/// How a tracee goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Until something happens.
    Cont,
    /// Until the next entry or exit of a system call.
    Syscall,
    /// For one instruction.
    Singlestep,
}

/// PTRACE_CONT, PTRACE_SYSCALL, PTRACE_SINGLESTEP: `sig` is what it goes on with, or 0.
pub fn resume(mut stopped: Stopped<'_>, how: How, sig: i32) -> Result<()> {
    check_resume_signal(sig)?;
    let tracee = stopped.task();
    let info = &tracee.se.thread.info;
    clear_tracing(tracee);
    stopped.regs().set_single_step(how == How::Singlestep);
    match how {
        How::Cont => {}
        How::Syscall => info.set(ThreadFlags::SYSCALL_TRACE),
        How::Singlestep => info.set(ThreadFlags::SINGLESTEP),
    }
    let list = list::lock();
    let mut stop = tracee.ptrace.stop.lock();
    stop.code = 0;
    stop.data = sig;
    drop(stop);
    wake_from_stop(tracee);
    drop(list);
    Ok(())
}

/// `EIO` for what is neither a signal nor 0.
pub fn check_resume_signal(sig: i32) -> Result<()> {
    if sig == 0 || is_valid(sig) { Ok(()) } else { Err(Errno::EIO) }
}

/// Nobody follows the tracee's system calls and steps any more.
pub fn clear_tracing(tracee: &Task) {
    tracee.se.thread.info.clear(ThreadFlags::SYSCALL_TRACE | ThreadFlags::SINGLESTEP);
}

/// Ends a stop for the tracer, or makes a tracee that is in none look at what it is to do; under the list's lock
/// (`ptrace_signal_wake_up`).
pub fn wake_from_stop(tracee: &Task) {
    tracee.ptrace.stop.lock().stopped = false;
    tracee.se.thread.info.set(ThreadFlags::SIGPENDING);
    let states = TaskState::TRACED | TaskState::INTERRUPTIBLE;
    if !sched::wake_up(&tracee.se, states) {
        sched::kick(&tracee.se);
    }
}

/// Tells a seized tracee that the stop of its process began or ended; under the list's lock (`ptrace_trap_notify`).
pub fn trap_notify(tracee: &Task) {
    tracee.ptrace.set_jobctl(JobControl::TRAP_NOTIFY);
    if tracee.ptrace.jobctl().contains(JobControl::LISTENING) {
        wake_from_stop(tracee);
    } else {
        signal::wake_up_for_signal(tracee, false);
    }
}

/// PTRACE_INTERRUPT: a seized tracee stops.
pub fn interrupt(tracee: &Task) -> Result<()> {
    let _list = list::lock();
    check(tracee)?;
    if !tracee.ptrace.is_seized() {
        return Err(Errno::EIO);
    }
    if tracee.is_exiting() || exit::fatal_pending(tracee) {
        return Ok(());
    }
    tracee.ptrace.set_jobctl(JobControl::TRAP_STOP);
    if tracee.ptrace.jobctl().contains(JobControl::LISTENING) {
        wake_from_stop(tracee);
    } else {
        signal::wake_up_for_signal(tracee, false);
    }
    Ok(())
}

/// PTRACE_LISTEN: a seized tracee that stopped with its process stays so, but is told when that ends.
pub fn listen(stopped: &Stopped<'_>) -> Result<()> {
    let tracee = stopped.task();
    let _list = list::lock();
    let info = tracee.ptrace.stop.lock().info;
    let in_stop = info.is_some_and(|info| info.code >> 8 == Event::Stop as i32);
    if !tracee.ptrace.is_seized() || !in_stop {
        return Err(Errno::EIO);
    }
    tracee.ptrace.set_jobctl(JobControl::LISTENING);
    if tracee.ptrace.jobctl().contains(JobControl::TRAP_NOTIFY) {
        wake_from_stop(tracee);
    }
    Ok(())
}
