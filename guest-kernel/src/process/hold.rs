//! Processes held at rest, so that who looks from outside can take them out as they are.
//!
//! A held thread waits on its way to EL0 ([`wait_if_held`]), with the result of the system call that it came from in
//! its registers; a call that sleeps is interrupted, as a signal would, and so returns what it did so far, or how
//! it restarts. The calls that signal(7) never restarts would tell the program. Who sleeps in one
//! ([`TaskState::UNRESTARTED`]) stays asleep, and who is on the way to such a sleep goes to it ([`put_aside`]): that is
//! as good, since they do nothing before they sleep. A call on a socket with a timeout, which may have done
//! something, starts over with all of its timeout. Nobody in the guest sees that a process is held but by its standing
//! still, with one exception: a relative clock_nanosleep(2) on a CPU clock, which has no restart block, ends with EINTR.

use alloc::string::String;
use core::sync::atomic::Ordering;

use crate::arch::ThreadFlags;
use crate::kref::Ref;
use crate::ns::init_pid_ns;
use crate::process::{exit, signal};
use crate::sched::{self, Deadline, TaskState, monotonic_ns};
use crate::signal::{SIGKILL, SigInfo};
use crate::sync::Mutex;
use crate::task::list::{self, TaskList};
use crate::task::{EXIT_ALIVE, GroupFlags, Task};
use crate::wait_channel;

/// How long processes may take to come to rest, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;
/// How long they are left alone between two looks.
const MOMENT: u64 = 1_000_000;

/// The root of what is held.
static HELD: Mutex<Option<Ref<Task>>> = Mutex::new(None);

/// Brings the process `pid`, and with `tree` its descendants, to rest, and says what time it is then
/// (CLOCK_MONOTONIC). Says why if they do not come to rest; then they go on.
pub fn hold(pid: u32, tree: bool) -> Result<u64, String> {
    let said = |what: core::fmt::Arguments<'_>| {
        let mut text = String::new();
        let _ = core::fmt::write(&mut text, what);
        text
    };
    let mut held = HELD.lock();
    if held.is_some() {
        return Err(said(format_args!("another process is held at this moment")));
    }
    let Some(task) = list::find_thread(pid, init_pid_ns()) else {
        return Err(said(format_args!("no process {pid}")));
    };
    let root = list::find_process(task.tgid(), init_pid_ns()).unwrap_or(task);
    if root.is_kthread() {
        return Err(said(format_args!("process {pid} is a kernel thread")));
    }
    root.hold.store(true, Ordering::Release);
    *held = Some(root.clone());
    drop(held);
    let end = monotonic_ns().saturating_add(PATIENCE);
    loop {
        let (restless, tracing) = {
            let list = list::lock();
            mark(&list, &root, tree);
            let mut held = list.threads().filter(|t| is_held(t));
            let tracing = held.find(|t| t.ptrace.is_traced() || !t.ptrace.tracees.is_empty());
            let tracing = tracing.map(|t| (t.pid(), t.ptrace.is_traced()));
            let restless = list.threads().filter(|t| is_held(t)).find(|t| !is_at_rest(t));
            (restless.map(|t| t.pid()), tracing)
        };
        if let Some((tid, traced)) = tracing {
            release(false);
            let what = if traced { "is traced by another" } else { "traces another" };
            return Err(said(format_args!("thread {tid} {what}, which no core carries yet")));
        }
        let Some(tid) = restless else { return Ok(monotonic_ns()) };
        if monotonic_ns() >= end {
            release(false);
            let why = format_args!(
                "thread {tid} does not come to rest: what it waits for cannot be interrupted"
            );
            return Err(said(why));
        }
        crate::task::current().se.prepare_sleep(TaskState::UNINTERRUPTIBLE);
        sched::schedule_timeout(Deadline::after(MOMENT), wait_channel!("hold"));
    }
}

/// Lets go of what is held; with `kill` it ends.
pub fn release(kill: bool) {
    let Some(root) = HELD.lock().take() else { return };
    let list = list::lock();
    for leader in list.processes().filter(|leader| leader.signal.threads.iter().any(is_held)) {
        if kill {
            // Also the reaper of a namespace.
            leader.signal.shared.lock().flags.remove(GroupFlags::UNKILLABLE);
            let _ = signal::send_locked(&list, SigInfo::kernel(SIGKILL), leader, true);
        }
        for thread in leader.signal.threads.iter() {
            thread.hold.store(false, Ordering::Release);
            if !thread.ptrace.is_stopped() {
                sched::wake_up(&thread.se, TaskState::TRACED);
            }
        }
    }
    drop(list);
    drop(root);
}

fn is_held(task: &Task) -> bool {
    task.hold.load(Ordering::Acquire) && task.exit_state.load(Ordering::Acquire) == EXIT_ALIVE
}

/// Marks every thread that is to be held and is not yet, and makes it look.
fn mark(list: &TaskList, root: &Task, tree: bool) {
    let hold = |thread: &Task| {
        if thread.is_exiting() {
            return;
        }
        thread.hold.store(true, Ordering::Release);
        // A thread that comes to EL0 on its own looks there.
        thread.se.thread.info.set(ThreadFlags::NOTIFY_RESUME);
        // One that dumps core is on its way out: a signal would cut the core short.
        if !stays_asleep(thread) && !thread.signal.core_dump.is_under_way() {
            signal::wake_up_for_signal(thread, false);
        }
    };
    let belongs = |leader: &Task| {
        if core::ptr::eq(leader, root) {
            return true;
        }
        let parent = leader.real_parent.load(Ordering::Relaxed);
        // SAFETY: null, or alive under the list's lock.
        tree && unsafe { parent.as_ref() }.is_some_and(|p| p.hold.load(Ordering::Acquire))
    };
    // Children mostly stand behind their parents, but one that was adopted may not.
    loop {
        let mut any = false;
        for leader in list.processes().filter(|leader| belongs(leader)) {
            for thread in leader.signal.threads.iter() {
                let new = !thread.hold.load(Ordering::Acquire) && !thread.is_exiting();
                any |= new;
                if new || is_held(thread) && !is_at_rest(thread) {
                    hold(thread);
                }
            }
        }
        if !any {
            return;
        }
    }
}

/// Sleeps in a call that a signal would end for good.
fn stays_asleep(task: &Task) -> bool {
    task.se.state() == TaskState::UNRESTARTED
}

/// Clears the caller's note that a signal waits, if none does and nothing else is due but a hold, on now or over
/// again, which the caller sees on its way to EL0. Whether it did.
pub fn put_aside(task: &Task) -> bool {
    !signal::recalc_unless_held(task)
}

/// Stands where it can be taken out: here, in a stop, or asleep in a call that it would start over.
fn is_at_rest(task: &Task) -> bool {
    let stopped = TaskState::TRACED | TaskState::STOPPED;
    // While it dumps core, its registers still say in which call the signal met it.
    !task.signal.core_dump.is_under_way()
        && !task.se.is_on_cpu()
        && (task.se.state().intersects(stopped) || stays_asleep(task) && !task.se.is_queued())
}

/// Waits while the caller is held; true if it was. On its way to EL0.
pub fn wait_if_held(task: &Task) -> bool {
    let mut was_held = false;
    while task.hold.load(Ordering::Acquire) {
        was_held = true;
        task.se.prepare_sleep(TaskState::TRACED | TaskState::WAKEKILL);
        if !task.hold.load(Ordering::Acquire) || exit::fatal_pending(task) {
            task.se.cancel_sleep();
            break;
        }
        sched::schedule();
    }
    was_held
}
