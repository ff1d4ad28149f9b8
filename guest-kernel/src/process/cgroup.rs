//! Tasks and their control groups: joining, moving, freezing, killing (cgroups(7), Linux's
//! Documentation/admin-guide/cgroup-v2.rst). The tree itself is [`crate::cgroup`].
//!
//! Lock order: the tree, then the task list.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::arch::ThreadFlags;
use crate::cgroup::{self, Cgroup, Controllers, Member, TreeGuard};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::Mm;
use crate::process::{exit, signal};
use crate::sched::{self, SchedGroup, TaskState};
use crate::signal::{SIGKILL, SigInfo};
use crate::task::list::{self, TaskList};
use crate::task::ptrace::JobControl;
use crate::task::{self, Task};

/// The group that a task is in, for whoever holds the task list.
fn group_of<'a>(_list: &'a TaskList, task: &'a Task) -> &'a Cgroup {
    // SAFETY: the task list is locked.
    unsafe { task.cgroup.group() }
}

/// The group of any task.
pub fn of(task: &Task) -> Ref<Cgroup> {
    let list = list::lock();
    group_of(&list, task).to_ref()
}

/// A new task joins its parent's group, or `into`. `EAGAIN` if that may have no more tasks. It is not on
/// the task list yet.
pub fn fork(list: &TaskList, parent: &Task, child: &Task, into: Option<&Cgroup>) -> Result<()> {
    let group = into.unwrap_or_else(|| group_of(list, parent));
    if group.is_dead() {
        return Err(Errno::ENODEV);
    }
    // SAFETY: the task list is locked, and a task stays where it is.
    unsafe { child.cgroup.join(group)? };
    if child.cgroup.is_to_freeze() {
        child.se.thread.info.set(ThreadFlags::SIGPENDING);
    }
    drop(sync_scheduler(list, child));
    Ok(())
}

/// A task that comes from elsewhere joins the group of `like`, whatever its limits, as one that is moved
/// would. It is not on the task list yet.
pub fn adopt(list: &TaskList, like: &Task, task: &Task) {
    // SAFETY: the task list is locked, and a task stays where it is.
    unsafe { task.cgroup.join_anyway(group_of(list, like)) };
    drop(sync_scheduler(list, task));
}

/// The scheduler treats the task as its group says. Returns what is to be dropped.
fn sync_scheduler(_list: &TaskList, task: &Task) -> Option<Ref<SchedGroup>> {
    // SAFETY: the task list is locked, and groups are set with it locked only.
    let wanted = unsafe { task.cgroup.wanted_sched_group(&task.se) };
    wanted.and_then(|group| sched::set_group(&task.se, group))
}

/// A new or moved process's memory goes on its group's account from now on. Without locks.
pub fn sync_memory(task: &Task) {
    let group = of(task).memory.clone();
    if let Some(mm) = task.se.get_mm()
        && !mm.is_in_group(group.as_ref())
    {
        mm.set_group(group);
    }
}

/// A task ends; under the task list's lock.
pub fn exit(_list: &TaskList, task: &Task) {
    // SAFETY: the task list is locked.
    unsafe { task.cgroup.leave() };
}

/// Nobody waits for a dead task any more; under the task list's lock.
pub fn release(_list: &TaskList, task: &Task) {
    // SAFETY: the task list is locked; a task is released once.
    unsafe { task.cgroup.release() };
}

// ---- Making, removing, configuring groups ----

/// mkdir(2) of a group.
pub fn make(parent: &Ref<Cgroup>, name: &[u8], owner: (u32, u32)) -> Result<Ref<Cgroup>> {
    let tree = cgroup::lock_tree();
    let group = Cgroup::make(parent, &tree, name, owner)?;
    let _list = list::lock();
    // SAFETY: the task list is locked.
    unsafe { Cgroup::insert(&group, &tree) };
    Ok(group)
}

/// rmdir(2) of a group. `EBUSY` if somebody is in it.
pub fn remove(group: &Cgroup) -> Result<()> {
    let tree = cgroup::lock_tree();
    let removed = {
        let _list = list::lock();
        // SAFETY: the task list is locked.
        unsafe { group.remove(&tree)? }
    };
    drop(removed);
    group.events.notify();
    Ok(())
}

/// Enables and disables controllers for the groups in `group`.
pub fn set_controllers(group: &Cgroup, enable: Controllers, disable: Controllers) -> Result<()> {
    let tree = cgroup::lock_tree();
    if group.is_dead() {
        return Err(Errno::ENODEV);
    }
    let old = group.enabled();
    let new = group.vet_control(&tree, enable, disable)?;
    if (old ^ new).contains(Controllers::CPU) {
        reshare(&tree, group, new.contains(Controllers::CPU))?;
    }
    group.set_enabled(&tree, new);
    for child in group.children(&tree) {
        child.forget(old - new);
    }
    Ok(())
}

/// The groups directly in `group` compete as shares of their own from now on, or not any more.
fn reshare(tree: &TreeGuard, group: &Cgroup, on: bool) -> Result<()> {
    for inner in group.subtree(tree).skip(1) {
        let Some(outer) = &inner.parent else { continue };
        let direct = core::ptr::eq(&**outer, group);
        if direct && on {
            inner.cpu.set_share(Some(outer.cpu.new_share(&inner.cpu)?))?;
        } else if direct || !outer.enabled().contains(Controllers::CPU) {
            inner.cpu.compete_in(outer.cpu.innermost_share())?;
        }
        // Shares further in are none: they would need the controller here already.
        for_each_member(inner, |list, task| drop(sync_scheduler(list, task)));
    }
    Ok(())
}

/// Calls `f` for each live task in a group itself, with the task list locked.
fn for_each_member(group: &Cgroup, mut f: impl FnMut(&TaskList, &Task)) {
    let list = list::lock();
    for member in group.members.iter() {
        f(&list, task_of(member));
    }
}

/// The task that a member lies in.
fn task_of(member: &Member) -> &Task {
    let offset = core::mem::offset_of!(Task, cgroup);
    // SAFETY: members are linked by `join` and `move_to` only, from that field of a task.
    unsafe { &*core::ptr::from_ref(member).byte_sub(offset).cast::<Task>() }
}

/// What cgroup.threads shows, or cgroup.procs: the numbers of threads, or of processes, in a group, and
/// for processes in the threaded groups below, as the caller's pid namespace has them.
pub fn numbers(group: &Cgroup, processes: bool) -> Result<Vec<u32>> {
    let tree = cgroup::lock_tree();
    let ns = task::current().active_pid_ns();
    let mut numbers = Vec::new();
    for at in group.subtree(&tree) {
        if !core::ptr::eq(at, group) && (!processes || !at.is_threaded()) {
            continue;
        }
        loop {
            let count = {
                let list = list::lock();
                let tasks = at.members.iter().map(task_of);
                let count = at.members.iter().count();
                if numbers.capacity() - numbers.len() >= count {
                    numbers.extend(tasks.filter(|t| t.pid() != 0).map(|task| {
                        let task = if processes { task.leader() } else { task };
                        task.pid_nr(&ns)
                    }));
                    break;
                }
                drop(list);
                count
            };
            numbers.try_reserve(count + count / 4 + 4).map_err(|_| Errno::ENOMEM)?;
        }
    }
    numbers.sort_unstable();
    if processes {
        numbers.dedup();
    }
    Ok(numbers)
}

// ---- Moving ----

/// Moves a process, or one thread of it, into `to`. `may` checks, with the tree locked, whether the caller
/// may move something from one group to another.
pub fn migrate(
    task: &Task,
    to: &Ref<Cgroup>,
    process: bool,
    may: impl FnOnce(&Cgroup, &Cgroup) -> Result<()>,
) -> Result<()> {
    let tree = cgroup::lock_tree();
    if to.is_dead() {
        return Err(Errno::ENODEV);
    }
    let from = of(task);
    may(&from, to)?;
    vet_move(&from, to, process)?;
    let _ = tree;
    // Dropped without the task list.
    let mut leftovers: Vec<(Ref<Cgroup>, Option<Ref<SchedGroup>>)> = Vec::new();
    loop {
        let list = list::lock();
        let threads = || {
            let all = task.signal.threads.iter();
            all.filter(|t| process || core::ptr::eq(*t, task)).filter(|t| t.cgroup.is_live())
        };
        let count = threads().count();
        if count == 0 {
            return Err(Errno::ESRCH);
        }
        if leftovers.capacity() < count {
            drop(list);
            leftovers.try_reserve(count + 4).map_err(|_| Errno::ENOMEM)?;
            continue;
        }
        for thread in threads().filter(|t| !core::ptr::eq(group_of(&list, t), &**to)) {
            leftovers.push(move_thread(&list, thread, to));
        }
        break;
    }
    drop(leftovers);
    sync_memory(task);
    Ok(())
}

/// Whether the rules of the tree let something move.
pub fn vet_move(from: &Cgroup, to: &Cgroup, process: bool) -> Result<()> {
    to.may_host_tasks()?;
    if !process && !core::ptr::eq(from.domain(), to.domain()) {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(())
}

fn move_thread(
    list: &TaskList,
    thread: &Task,
    to: &Cgroup,
) -> (Ref<Cgroup>, Option<Ref<SchedGroup>>) {
    // SAFETY: the task list is locked.
    let old = unsafe { thread.cgroup.move_to(to) };
    tell_freeze(thread, thread.cgroup.is_to_freeze());
    (old, sync_scheduler(list, thread))
}

// ---- Freezing ----

/// Has a task stop before it goes on in user mode, or go on; under the task list's lock.
fn tell_freeze(task: &Task, on: bool) {
    if task.is_kthread() {
        return;
    }
    task.cgroup.set_freeze(on);
    if on {
        signal::wake_up_for_signal(task, false);
    } else if task.cgroup.is_frozen() {
        // It looks by itself whether it may go on.
        sched::wake_up(&task.se, TaskState::INTERRUPTIBLE);
    }
}

/// cgroup.freeze: freezes a group and all that is in it, or lets it go on.
pub fn set_freeze(group: &Cgroup, on: bool) -> Result<()> {
    let tree = cgroup::lock_tree();
    if group.is_dead() {
        return Err(Errno::ENODEV);
    }
    group.set_freezes(on);
    for inner in group.subtree(&tree) {
        let list = list::lock();
        // SAFETY: the task list is locked.
        if unsafe { inner.update_wish() } {
            inner.members.iter().map(task_of).for_each(|task| tell_freeze(task, on));
        }
        // SAFETY: as above.
        unsafe { inner.settle_frozen() };
        drop(list);
    }
    Ok(())
}

/// The caller runs no user code for a while, or does again: it counts as frozen meanwhile.
pub fn set_frozen(task: &Task, on: bool) {
    if task.cgroup.is_frozen() != on {
        let _list = list::lock();
        // SAFETY: the task list is locked.
        unsafe { task.cgroup.set_frozen(on) };
    }
}

/// The caller stops for a signal: it counts as frozen until it is on its way to user mode again.
pub fn note_frozen(_list: &TaskList, task: &Task) {
    // SAFETY: the task list is locked.
    unsafe { task.cgroup.set_frozen(true) };
}

/// On its way to user mode, the caller stops if its group is frozen; true if it did and signals are to
/// be looked at again. A fatal signal gets through.
pub fn freezer_trap(task: &Task) -> bool {
    if !task.cgroup.is_to_freeze() || exit::fatal_pending(task) {
        set_frozen(task, false);
        return false;
    }
    {
        let _list = list::lock();
        if !task.cgroup.is_to_freeze() {
            return true;
        }
        // Under the lock that thawing and signals take too, so that neither is missed.
        task.se.prepare_sleep(TaskState::INTERRUPTIBLE);
        task.se.thread.info.clear(ThreadFlags::SIGPENDING);
        // SAFETY: the task list is locked.
        unsafe { task.cgroup.set_frozen(true) };
    }
    let other = task.stop_pending.load(Ordering::Acquire)
        || task.hold.load(Ordering::Acquire)
        || task.ptrace.jobctl().intersects(JobControl::TRAP);
    if other || exit::fatal_pending(task) {
        task.se.cancel_sleep();
    } else {
        sched::schedule_in(crate::wait_channel!("freezer"));
    }
    true
}

// ---- Killing ----

/// cgroup.kill: SIGKILL for every process in a group and below. `EOPNOTSUPP` for a threaded group.
pub fn kill(group: &Cgroup) -> Result<()> {
    let tree = cgroup::lock_tree();
    if group.is_dead() {
        return Err(Errno::ENODEV);
    }
    if group.is_threaded() {
        return Err(Errno::EOPNOTSUPP);
    }
    for inner in group.subtree(&tree) {
        for_each_member(inner, |list, task| {
            if !task.is_kthread() {
                let _ = signal::send_locked(list, SigInfo::kernel(SIGKILL), task, true);
            }
        });
    }
    Ok(())
}

/// The group on whose account the memory of the running program goes.
pub fn current_memory() -> Option<Ref<crate::mm::MemGroup>> {
    task::current().mm().and_then(|mm| mm.group())
}

/// The memory of a program that starts goes on its task's group's account.
pub fn charge_new(mm: &Mm) {
    mm.set_group(of(task::current()).memory.clone());
}
