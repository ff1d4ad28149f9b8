//! Entering a mode (seccomp(2), SECCOMP_SET_MODE_STRICT and SECCOMP_SET_MODE_FILTER).

use bitflags::bitflags;

use super::notify;
use crate::arch::ThreadFlags;
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::Cap;
use crate::seccomp::SeccompFilter;
use crate::task::list::{self, TaskList};
use crate::task::rlimit::Resource;
use crate::task::{self, SeccompMode, Task};

bitflags! {
    /// `SECCOMP_FILTER_FLAG_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FilterFlags: u32 {
        /// All threads of the process take the caller's filters.
        const TSYNC = 1 << 0;
        /// What the filter does beside allowing calls is logged.
        const LOG = 1 << 1;
        /// Leaves speculation as it is; nothing is done about it here anyway.
        const SPEC_ALLOW = 1 << 2;
        /// The call returns a descriptor to listen through.
        const NEW_LISTENER = 1 << 3;
        /// A thread that cannot take the filters is `ESRCH`, not its number.
        const TSYNC_ESRCH = 1 << 4;
        /// Once a question was taken, only a fatal signal ends the wait for the answer.
        const WAIT_KILLABLE_RECV = 1 << 5;
    }
}

impl FilterFlags {
    /// `EINVAL` for flags that do not exist, or not together.
    pub fn checked(bits: u32) -> Result<Self> {
        let flags = Self::from_bits(bits).ok_or(Errno::EINVAL)?;
        let has = |flag| flags.contains(flag);
        // The result cannot be both a descriptor and the number of a thread.
        let ambiguous = has(Self::TSYNC | Self::NEW_LISTENER) && !has(Self::TSYNC_ESRCH);
        if ambiguous || has(Self::WAIT_KILLABLE_RECV) && !has(Self::NEW_LISTENER) {
            return Err(Errno::EINVAL);
        }
        Ok(flags)
    }
}

/// Whether the task is in no other mode.
fn may_enter(task: &Task, mode: SeccompMode) -> bool {
    [SeccompMode::Disabled, mode].contains(&task.seccomp.mode())
}

fn enter(task: &Task, mode: SeccompMode) {
    task.seccomp.set_mode(mode);
    task.se.thread.info.set(ThreadFlags::SECCOMP);
}

/// SECCOMP_SET_MODE_STRICT.
pub fn set_mode_strict() -> Result<()> {
    let task = task::current();
    let _list = list::lock();
    if !may_enter(task, SeccompMode::Strict) {
        return Err(Errno::EINVAL);
    }
    enter(task, SeccompMode::Strict);
    Ok(())
}

/// `EACCES` unless the caller may install filters: one that gains no privileges by exec cannot be fooled by them.
pub fn may_install() -> Result<()> {
    let task = task::current();
    let may = task.has_no_new_privs() || task.cred().own_capable(Cap::SysAdmin);
    if may { Ok(()) } else { Err(Errno::EACCES) }
}

/// SECCOMP_SET_MODE_FILTER: the call's result.
pub fn set_mode_filter(flags: FilterFlags, insns: Array<u64>) -> Result<usize> {
    let task = task::current();
    let killable = flags.contains(FilterFlags::WAIT_KILLABLE_RECV);
    let mut filter =
        SeccompFilter::new(insns)?.with_flags(flags.contains(FilterFlags::LOG), killable);
    let mut listener = None;
    if flags.contains(FilterFlags::NEW_LISTENER) {
        filter = filter.with_listener();
        let limit = task.signal.rlimits.soft(Resource::Nofile) as usize;
        listener = Some((task.files().reserve(0, limit, true)?, notify::new_file()?));
    }
    loop {
        let prev = task.seccomp.filter();
        if !may_enter(task, SeccompMode::Filter) {
            return Err(Errno::EINVAL);
        }
        let is_asked = |prev: &Ref<SeccompFilter>| prev.path().any(SeccompFilter::is_listening);
        if listener.is_some() && prev.as_ref().is_some_and(is_asked) {
            return Err(Errno::EBUSY);
        }
        let new = filter.attach(prev)?;
        if let Some((_, file)) = &listener {
            notify::connect(file, &new);
        }
        let installed = install(task, flags, &new)?;
        match installed {
            Installed::Done(dropped) => {
                drop(dropped);
                return Ok(listener.map_or(0, |(slot, file)| slot.install(file) as usize));
            }
            Installed::NotSynced(thread) => return Ok(thread as usize),
            Installed::Changed => {}
        }
        // Another thread gave us its filters meanwhile.
        if let Some((_, file)) = &listener {
            notify::disconnect(file);
        }
        filter = Ref::into_inner(new).ok_or(Errno::EAGAIN)?;
        filter.detach();
    }
}

enum Installed {
    /// The task has it; what it had before.
    Done(Option<Ref<SeccompFilter>>),
    /// The number of a thread that could not take it.
    NotSynced(u32),
    /// The task has other filters than those that it was put behind.
    Changed,
}

/// Gives the filter to the task, and with `TSYNC` to all threads of its process.
fn install(task: &Task, flags: FilterFlags, new: &Ref<SeccompFilter>) -> Result<Installed> {
    let list = list::lock();
    let now = task.seccomp.filter();
    if now.as_ref().map(Ref::as_ptr) != new.prev().map(Ref::as_ptr) {
        return Ok(Installed::Changed);
    }
    if !may_enter(task, SeccompMode::Filter) {
        return Err(Errno::EINVAL);
    }
    let sync = flags.contains(FilterFlags::TSYNC);
    if sync && let Some(thread) = cannot_sync(&list, task, now.as_ref()) {
        let number = thread.pid_nr(task.thread_pid.own().ns());
        return match number {
            0 => Err(Errno::ESRCH),
            _ if flags.contains(FilterFlags::TSYNC_ESRCH) => Err(Errno::ESRCH),
            number => Ok(Installed::NotSynced(number)),
        };
    }
    let dropped = task.seccomp.set_filter(Some(new.clone()));
    enter(task, SeccompMode::Filter);
    if sync {
        for thread in others(&list, task) {
            new.add_user();
            let before = thread.seccomp.set_filter(Some(new.clone()));
            // It is before the caller's, which keep it.
            if let Some(before) = before {
                before.drop_user();
            }
            if task.has_no_new_privs() {
                thread.set_no_new_privs();
            }
            enter(thread, SeccompMode::Filter);
        }
    }
    Ok(Installed::Done(dropped))
}

/// The other threads of the task's process that go on.
fn others<'a>(_list: &'a TaskList, task: &'a Task) -> impl Iterator<Item = &'a Task> {
    task.signal.threads.iter().filter(move |t| !core::ptr::eq(*t, task) && !t.is_exiting())
}

/// A thread that has filters that the caller has not.
fn cannot_sync<'a>(
    list: &'a TaskList,
    task: &'a Task,
    own: Option<&Ref<SeccompFilter>>,
) -> Option<&'a Task> {
    others(list, task).find(|thread| match thread.seccomp.mode() {
        SeccompMode::Disabled => false,
        SeccompMode::Filter => !SeccompFilter::is_on_path(thread.seccomp.filter().as_ref(), own),
        SeccompMode::Strict | SeccompMode::Dead => true,
    })
}
