//! Out of memory: who is killed, and who is made to wait, for want of memory as a whole or of what a
//! control group may have.

use core::sync::atomic::Ordering;

use crate::cgroup::Watch;
use crate::kref::Ref;
use crate::mm::memcg::{Hooks, MemEvent, MemGroup};
use crate::mm::oom::{self, OomOutcome};
use crate::process::{cgroup, exit, signal};
use crate::sched::{self, Deadline, TaskState};
use crate::signal::{SIGKILL, SigInfo};
use crate::sync::Once;
use crate::task::list::{self, TaskList};
use crate::task::{self, GroupFlags, Task};
use crate::{kerr, wait_channel};

/// How often groups counted an event of memory.
static EVENTS: Once<Watch> = Once::new();

/// Where those wait who poll a group's memory.events: one place for all.
pub fn memory_events() -> &'static Watch {
    EVENTS.try_get().unwrap_or_else(|| EVENTS.set(Watch::default()))
}

/// Tells the memory floor whom to ask; boot order calls it once.
pub fn init() {
    memory_events();
    oom::set_killer(oom_kill);
    crate::mm::memcg::set_hooks(Hooks {
        current: cgroup::current_memory,
        event: || memory_events().notify(),
    });
}

/// The memory group of a task, under the task list's lock.
fn group_of<'a>(_list: &'a TaskList, task: &'a Task) -> Option<&'a Ref<MemGroup>> {
    // SAFETY: the task list is locked.
    unsafe { task.cgroup.group() }.memory.as_ref()
}

fn is_within(list: &TaskList, task: &Task, domain: &MemGroup) -> bool {
    group_of(list, task).is_some_and(|group| group.is_within(domain))
}

/// How much killing a process frees, in pages, shifted by its `oom_score_adj`; the least for those that
/// are not to be killed.
fn badness(task: &Task) -> i64 {
    let adj = i64::from(task.signal.oom_score_adj.load(Ordering::Relaxed));
    let gone = task.pid() == 1 && task.signal.nr_threads.load(Ordering::Relaxed) == 0;
    if adj == -1000 || task.is_kthread() || gone {
        return i64::MIN;
    }
    task.se.get_mm().map_or(i64::MIN, |mm| {
        mm.oom_badness() as i64 + adj * crate::mm::total_pages() as i64 / 1000
    })
}

fn kill(list: &TaskList, victim: &Task) {
    victim.oom_victim.store(true, Ordering::Relaxed);
    victim.signal.shared.lock().flags.remove(GroupFlags::UNKILLABLE);
    let _ = signal::send_locked(list, SigInfo::kernel(SIGKILL), victim, true);
}

/// Frees memory by ending the process that holds the most of it, of those in `domain` or of all; with it
/// its whole group, where that is wished (`memory.oom.group`).
fn oom_kill(domain: Option<&Ref<MemGroup>>) -> OomOutcome {
    let list = list::lock();
    let concerned = |task: &&Task| domain.is_none_or(|domain| is_within(&list, task, domain));
    // A victim that is on its way out frees its memory soon.
    let dying = |t: &Task| t.oom_victim.load(Ordering::Relaxed) && t.se.get_mm().is_some();
    if list.processes().filter(concerned).any(dying) {
        drop(list);
        return give_it_time();
    }
    if let Some(domain) = domain {
        domain.count_event(MemEvent::Oom);
    }
    let victim = list.processes().filter(concerned).max_by_key(|t| badness(t));
    let Some(victim) = victim.filter(|t| badness(t) > i64::MIN) else {
        return OomOutcome::Fail;
    };
    kerr!("out of memory: killed process {} ({})", victim.pid(), victim.comm());
    let group = group_of(&list, victim);
    // The outermost group, no further out than the full one, that wants to go as a whole.
    let within = |level: &&MemGroup| domain.is_none_or(|domain| level.is_within(domain));
    let whole = group
        .and_then(|group| group.levels().filter(within).filter(|level| level.kills_group()).last());
    kill(&list, victim);
    if let Some(group) = group {
        group.count_event(MemEvent::OomKill);
    }
    if let Some(whole) = whole {
        whole.count_event(MemEvent::OomGroupKill);
        let others = list.processes().filter(|t| is_within(&list, t, whole));
        for other in others.filter(|t| !t.same_group(victim) && badness(t) > i64::MIN) {
            kill(&list, other);
            if let Some(group) = group_of(&list, other) {
                group.count_event(MemEvent::OomKill);
            }
        }
    }
    drop(list);
    give_it_time()
}

/// A victim needs the CPU to leave; whoever asked for memory waits, unless it is the victim.
fn give_it_time() -> OomOutcome {
    if exit::fatal_pending(task::current()) {
        return OomOutcome::Fail;
    }
    task::current().se.prepare_sleep(TaskState::UNINTERRUPTIBLE);
    sched::schedule_timeout(Deadline::after(10_000_000), wait_channel!("oom"));
    OomOutcome::Retry
}

/// Before it goes on in user mode, the caller waits if its group uses more than its `memory.high`: the
/// longer the more it is above, but two seconds at most. Called when a page was charged above it.
pub fn throttle() {
    const UNIT: u64 = 10_000_000;
    const MOST: u64 = 2_000_000_000;
    let Some(group) = cgroup::current_memory() else { return };
    let Some(over) = group.over_high() else { return };
    over.count_event(MemEvent::High);
    oom::reclaim();
    let excess = over.usage().saturating_sub(over.high());
    // In sixteenths of what is allowed, squared.
    let ratio = (excess.saturating_mul(16) / over.high().max(1)).min(1 << 16);
    let wait = (ratio * ratio).saturating_mul(UNIT).min(MOST);
    if wait > 0 && !exit::fatal_pending(task::current()) {
        task::current().se.prepare_sleep(TaskState::KILLABLE);
        sched::schedule_timeout(Deadline::after(wait), wait_channel!("memory_high"));
    }
}

/// memory.max was set: gives back what is above it, by killing if nothing else helps. Ends early if
/// the caller is to die.
pub fn enforce_max(group: &Ref<MemGroup>) {
    while group.usage() > group.max() {
        if exit::fatal_pending(task::current()) || oom::over_limit(Some(group)).is_err() {
            return;
        }
    }
}
