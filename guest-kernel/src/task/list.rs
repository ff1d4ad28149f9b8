//! The task list: every thread group leader on one list from task 0, threads on their group's, and
//! the family links. One lock guards all of it, and a sequence count tells readers outside the machine
//! whether they met a change.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::{Task, TasksLink};
use crate::kref::Ref;
use crate::list::List;
use crate::ns::{Pid, PidMember, PidNs, PidType};
use crate::sync::{IrqLock, IrqLockGuard, SeqCount};

/// What the lock guards.
#[repr(C)]
pub struct TaskList {
    /// Thread group leaders, task 0 first.
    pub tasks: List<Task, TasksLink>,
    /// Tasks off every list, whose reference goes once the lock was let go of ([`drop_released`]): what ends with a task takes
    /// locks that interrupts, which may want the task list, do not spare.
    released: List<Task, TasksLink>,
}

static TASK_LIST: IrqLock<TaskList> =
    IrqLock::new(TaskList { tasks: List::new(), released: List::new() });
/// Odd while the list or a family link changes.
pub static TASK_LIST_SEQ: SeqCount = SeqCount::new();
/// Threads on the system.
pub static NR_THREADS: AtomicU32 = AtomicU32::new(0);
/// Forks since boot, for /proc/stat.
pub static TOTAL_FORKS: AtomicU64 = AtomicU64::new(0);

/// There may be released tasks: set under the lock, after one was added.
static ANY_RELEASED: AtomicBool = AtomicBool::new(false);

/// Locks the task list.
#[inline]
pub fn lock() -> IrqLockGuard<'static, TaskList> {
    TASK_LIST.lock()
}

/// Drops the list's references to tasks that were released. Called, without the lock, by whoever released
/// one, and at the latest when the next task has ended.
pub fn drop_released() {
    if !ANY_RELEASED.load(Ordering::Relaxed) {
        return;
    }
    ANY_RELEASED.store(false, Ordering::Relaxed);
    loop {
        // SAFETY: the lock is held, and the reference that the list had is taken over.
        let task = unsafe { TASK_LIST.lock().released.pop_front().map(|t| Ref::from_raw(t)) };
        if task.is_none() {
            return;
        }
    }
}

/// Address of the list's head, for the root page.
pub fn head_address() -> usize {
    TASK_LIST.data_ptr() as usize
}

impl TaskList {
    /// Enters a new task: on the list or its group's, its pid, its parent's children. `SET_LINKS`.
    pub fn link_new(&self, task: &Task) {
        TASK_LIST_SEQ.write(|| {
            // SAFETY: the list's lock is held by `&self`'s guard; the list's reference keeps the task
            // alive until `unlink`.
            unsafe {
                if task.is_leader() {
                    self.tasks.push_back(task);
                    let parent = task.real_parent.load(Ordering::Relaxed);
                    if !parent.is_null() && !core::ptr::eq(parent, task) {
                        (*parent).children.push_back(task);
                    }
                    for kind in [PidType::Tgid, PidType::Pgid, PidType::Sid] {
                        if let Some(pid) = task.signal.pid(kind) {
                            pid.members[kind as usize].push_back(&task.pid_links[kind as usize]);
                        }
                    }
                }
                let pid = task.thread_pid.share();
                pid.members[PidType::Pid as usize]
                    .push_back(&task.pid_links[PidType::Pid as usize]);
                for upid in pid.numbers.iter() {
                    upid.ns.nr_tasks.fetch_add(1, Ordering::Relaxed);
                }
                task.signal.threads.push_back(task);
            }
            task.signal.nr_threads.fetch_add(1, Ordering::Relaxed);
            NR_THREADS.fetch_add(1, Ordering::Relaxed);
            TOTAL_FORKS.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Takes a task off everything. `REMOVE_LINKS`.
    pub fn unlink(&self, task: &Task) {
        TASK_LIST_SEQ.write(|| {
            // SAFETY: the list's lock is held.
            unsafe {
                task.tasks.unlink();
                task.sibling.unlink();
                task.thread_node.unlink();
                for member in &task.pid_links {
                    member.unlink();
                }
            }
            task.thread_pid.with(|pid| pid.numbers.iter().for_each(|upid| leave(task, &upid.ns)));
            task.signal.nr_threads.fetch_sub(1, Ordering::Relaxed);
            NR_THREADS.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// The list's reference to a task that was [unlinked](Self::unlink) goes with [`drop_released`].
    ///
    /// # Safety
    /// The reference that was made for [`link_new`](Self::link_new) is still there; it is given away.
    pub unsafe fn put(&self, task: &Task) {
        // SAFETY: the list's lock is held, the task is on no list, and that reference keeps it.
        unsafe { self.released.push_back(task) };
        ANY_RELEASED.store(true, Ordering::Relaxed);
    }

    /// Gives `child` to another parent.
    pub fn reparent(&self, child: &Task, parent: &Task) {
        TASK_LIST_SEQ.write(|| {
            // SAFETY: the list's lock is held.
            unsafe {
                child.sibling.unlink();
                parent.children.push_back(child);
            }
            let parent = core::ptr::from_ref(parent).cast_mut();
            for thread in child.signal.threads.iter() {
                thread.real_parent.store(parent, Ordering::Release);
                if !thread.ptrace.is_traced() {
                    thread.parent.store(parent, Ordering::Relaxed);
                }
            }
        });
    }

    /// Moves a group leader to another process group or session. `change_pid`.
    pub fn change_pid(&self, leader: &Task, kind: PidType, pid: Ref<Pid>) -> Option<Ref<Pid>> {
        let link = &leader.pid_links[kind as usize];
        // SAFETY: the list's lock is held.
        unsafe {
            link.unlink();
            pid.members[kind as usize].push_back(link);
        }
        leader.signal.set_pid(kind, Some(pid))
    }

    /// Puts `thread` in the list places of its dead leader (execve(2) by a thread that is no leader);
    /// `pid` is the leader's, which the thread takes over.
    pub fn exchange_leader(&self, leader: &Task, thread: &Task, pid: &Pid) {
        let at = |task: &Task, kind: PidType| &raw const task.pid_links[kind as usize];
        // SAFETY: the list's lock is held; both tasks are alive.
        unsafe {
            let old = thread.thread_pid.share();
            (*at(leader, PidType::Pid)).unlink();
            (*at(thread, PidType::Pid)).unlink();
            old.members[PidType::Pid as usize].push_back(&*at(leader, PidType::Pid));
            pid.members[PidType::Pid as usize].push_back(&*at(thread, PidType::Pid));
            for kind in [PidType::Tgid, PidType::Pgid, PidType::Sid] {
                (*at(leader, kind)).unlink();
                if let Some(group) = thread.signal.pid(kind) {
                    group.members[kind as usize].push_back(&*at(thread, kind));
                }
            }
            leader.tasks.unlink();
            self.tasks.push_back(thread);
            leader.sibling.unlink();
            let parent = leader.real_parent.load(Ordering::Relaxed);
            if !parent.is_null() {
                (*parent).children.push_back(thread);
            }
        }
    }

    /// Every thread group leader: `for_each_process`.
    pub fn processes(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter()
    }

    /// Every thread.
    pub fn threads(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter().flat_map(|leader| leader.signal.threads.iter())
    }

    /// The members of a pid: the thread itself, or the leaders of a group, process group or session.
    pub fn members<'a>(&'a self, pid: &'a Pid, kind: PidType) -> impl Iterator<Item = &'a Task> {
        pid.members[kind as usize].iter().map(move |member| task_of(member, kind))
    }

    /// The thread with this pid.
    pub fn thread_of<'a>(&'a self, pid: &'a Pid) -> Option<&'a Task> {
        pid.members[PidType::Pid as usize].first().map(|m| task_of(m, PidType::Pid))
    }

    /// The thread group leader with this pid.
    pub fn process_of<'a>(&'a self, pid: &'a Pid) -> Option<&'a Task> {
        pid.members[PidType::Tgid as usize].first().map(|m| task_of(m, PidType::Tgid))
    }
}

/// A namespace numbers one thread less. Its reaper may wait for that, and is none once it goes itself.
fn leave(task: &Task, ns: &PidNs) {
    let left = ns.nr_tasks.fetch_sub(1, Ordering::Release) - 1;
    if left <= 2 && ns.dying.load(Ordering::Acquire) {
        ns.empty_wait.wake_all();
    }
    let me = core::ptr::from_ref(task).cast_mut().cast();
    let _ = ns.child_reaper.compare_exchange(
        me,
        core::ptr::null_mut(),
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
}

/// The task that a member link lies in.
fn task_of(member: &PidMember, kind: PidType) -> &Task {
    let offset =
        core::mem::offset_of!(Task, pid_links) + kind as usize * core::mem::size_of::<PidMember>();
    // SAFETY: members are linked by `link_new` and `change_pid` only, from that array of a live task.
    unsafe { &*core::ptr::from_ref(member).byte_sub(offset).cast::<Task>() }
}

/// The thread called `nr` in `ns`: `find_task_by_pid_ns`.
pub fn find_thread(nr: u32, ns: &PidNs) -> Option<Ref<Task>> {
    let pid = Pid::find(nr, ns)?;
    lock().thread_of(&pid).map(Task::to_ref)
}

/// The process (thread group leader) called `nr` in `ns`.
pub fn find_process(nr: u32, ns: &PidNs) -> Option<Ref<Task>> {
    let pid = Pid::find(nr, ns)?;
    lock().process_of(&pid).map(Task::to_ref)
}
