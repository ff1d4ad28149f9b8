//! [`Member`]: a task's place in its group. Joining and leaving keep the counts that groups around it
//! show: whether anybody lives there, and whether all of them are frozen.
//!
//! Everything here that changes something is called with the task list locked.

use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};

use belljar_abi::Described;

use super::Cgroup;
use super::changes::Changed;
use crate::errno::Result;
use crate::kref::Ref;
use crate::list::Link;
use crate::list_link;
use crate::sched::{Entity, SchedGroup};

/// A task's place in its group.
#[repr(C)]
#[derive(Described)]
pub struct Member {
    /// The group, with a reference; null until the task joins one. A task that is gone is in it still.
    #[described(as = "ptr Cgroup")]
    group: AtomicPtr<Cgroup>,
    link: Link,
    /// It is to stop before it goes on in user mode.
    freeze: AtomicBool,
    /// It runs no user code until it is thawed, or what else it waits for comes.
    frozen: AtomicBool,
}

list_link!(
    /// The live threads of a group.
    Member, link: MemberLink
);

// SAFETY: the link is touched with the task list locked.
unsafe impl Send for Member {}
// SAFETY: as above.
unsafe impl Sync for Member {}

impl Member {
    /// In no group.
    pub const fn new() -> Self {
        Self {
            group: AtomicPtr::new(core::ptr::null_mut()),
            link: Link::new(),
            freeze: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
        }
    }

    /// The group: for tasks in none, the root.
    ///
    /// # Safety
    /// The task list is locked while the result is used.
    pub unsafe fn group(&self) -> &Cgroup {
        // SAFETY: set by `join` and `move_to` to a group that this holds.
        unsafe { self.group.load(Relaxed).as_ref() }.unwrap_or_else(|| super::root())
    }

    /// True if it is to stop before it goes on in user mode.
    #[inline]
    pub fn is_to_freeze(&self) -> bool {
        self.freeze.load(Relaxed)
    }

    /// Says so.
    pub fn set_freeze(&self, on: bool) {
        self.freeze.store(on, Relaxed);
    }

    /// True while it counts as frozen.
    #[inline]
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Relaxed)
    }

    /// True while its task lives.
    pub fn is_live(&self) -> bool {
        self.link.is_linked()
    }

    /// A new task joins `group`. `EAGAIN` if that may have no more.
    ///
    /// # Safety
    /// The task list is locked; the member is in no group and stays where it is until [`leave`](Self::leave).
    pub unsafe fn join(&self, group: &Cgroup) -> Result<()> {
        group.try_charge_pid()?;
        // SAFETY: the caller's promise.
        unsafe { self.enter(group) };
        Ok(())
    }

    /// [`join`](Self::join), whatever the limits.
    ///
    /// # Safety
    /// As for `join`.
    pub unsafe fn join_anyway(&self, group: &Cgroup) {
        group.charge_pid();
        // SAFETY: the caller's promise.
        unsafe { self.enter(group) };
    }

    /// # Safety
    /// As for `join`.
    unsafe fn enter(&self, group: &Cgroup) {
        self.group.store(Ref::into_raw(group.to_ref()).cast_mut(), Relaxed);
        // SAFETY: the task list is locked.
        unsafe { group.members.push_back(self) };
        let before = group.nr_tasks.fetch_add(1, Relaxed);
        if before == 0 && !group.is_root() {
            group.update_populated(true);
        }
        if self.is_frozen() {
            group.nr_frozen.fetch_add(1, Relaxed);
        }
        self.set_freeze(group.wants_frozen.load(Relaxed));
        group.update_frozen();
    }

    /// # Safety
    /// The task list is locked.
    unsafe fn withdraw(&self, group: &Cgroup) {
        // SAFETY: the caller's promise.
        unsafe { self.link.unlink() };
        if self.is_frozen() {
            group.nr_frozen.fetch_sub(1, Relaxed);
        }
        let before = group.nr_tasks.fetch_sub(1, Relaxed);
        if before == 1 && !group.is_root() {
            group.update_populated(false);
        }
        group.update_frozen();
    }

    /// The task ends. It stays charged until [`release`](Self::release).
    ///
    /// # Safety
    /// The task list is locked.
    pub unsafe fn leave(&self) {
        if self.is_live() {
            // SAFETY: the caller's promise.
            unsafe { self.withdraw(self.group()) };
            self.frozen.store(false, Relaxed);
        }
    }

    /// Nobody waits for the task any more.
    ///
    /// # Safety
    /// The task list is locked, and this is called once.
    pub unsafe fn release(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.leave();
            self.group().uncharge_pid();
        }
    }

    /// Moves a live task to another group. The reference of the old one is returned: to be dropped
    /// without the lock.
    ///
    /// # Safety
    /// The task list is locked.
    pub unsafe fn move_to(&self, group: &Cgroup) -> Ref<Cgroup> {
        // SAFETY: the caller's promise.
        unsafe {
            let old = self.group().to_ref();
            group.charge_pid();
            self.withdraw(&old);
            old.uncharge_pid();
            drop(Ref::from_raw(self.group.load(Relaxed)));
            self.enter(group);
            old
        }
    }

    /// It stops running user code, or goes on.
    ///
    /// # Safety
    /// The task list is locked.
    pub unsafe fn set_frozen(&self, on: bool) {
        if self.frozen.swap(on, Relaxed) == on || !self.is_live() {
            return;
        }
        // SAFETY: the caller's promise.
        let group = unsafe { self.group() };
        if on {
            group.nr_frozen.fetch_add(1, Relaxed);
        } else {
            group.nr_frozen.fetch_sub(1, Relaxed);
        }
        group.update_frozen();
    }

    /// The scheduler's group for its task, if `entity` of that task is in another one.
    ///
    /// # Safety
    /// The task list is locked.
    pub unsafe fn wanted_sched_group(&self, entity: &Entity) -> Option<Option<Ref<SchedGroup>>> {
        // SAFETY: the caller's promise.
        let cpu = unsafe { &self.group().cpu };
        // SAFETY: as above.
        let right = cpu.is_group(unsafe { crate::sched::group::of(entity) });
        (!right).then(|| cpu.group())
    }
}

impl Default for Member {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let group = *self.group.get_mut();
        if !group.is_null() {
            // SAFETY: the reference that `enter` gave away.
            drop(unsafe { Ref::from_raw(group) });
        }
    }
}

impl Cgroup {
    /// Somebody lives in it, or nobody any more: the groups around it may change likewise.
    fn update_populated(&self, populated: bool) {
        let mut at = self;
        let mut was = if populated { at.populated_below() } else { true };
        loop {
            let is = at.is_populated();
            if is == was {
                return;
            }
            at.changed(Changed::EVENTS);
            let Some(parent) = at.parent.as_deref() else { return };
            was = parent.is_populated();
            let count = if at.is_threaded() {
                &parent.populated_threaded
            } else {
                &parent.populated_domains
            };
            if populated {
                count.fetch_add(1, Relaxed);
            } else {
                count.fetch_sub(1, Relaxed);
            }
            at = parent;
        }
    }

    fn populated_below(&self) -> bool {
        self.populated_domains.load(Relaxed) > 0 || self.populated_threaded.load(Relaxed) > 0
    }

    /// True if it was told to freeze, itself.
    pub fn freezes(&self) -> bool {
        self.freeze.load(Relaxed)
    }

    /// Tells it to freeze, or not to.
    pub fn set_freezes(&self, on: bool) {
        self.freeze.store(on, Relaxed);
    }

    /// True if it or a group around it was told to freeze.
    pub fn is_to_freeze(&self) -> bool {
        self.wants_frozen.load(Relaxed)
    }

    /// Works that out anew from its own wish and the parent's state; true if it changed.
    ///
    /// # Safety
    /// The task list is locked.
    pub unsafe fn update_wish(&self) -> bool {
        let outer = self.parent.as_ref().is_some_and(|parent| parent.is_to_freeze());
        let wants = self.freezes() || outer;
        self.wants_frozen.swap(wants, Relaxed) != wants
    }

    /// True while all of it is frozen.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Relaxed)
    }

    /// Works out whether all of it is frozen; the groups around it may follow.
    pub(super) fn update_frozen(&self) {
        let mut at = self;
        loop {
            let frozen = at.is_to_freeze()
                && at.nr_frozen.load(Relaxed) >= at.nr_tasks.load(Relaxed)
                && at.nr_frozen_descendants.load(Relaxed) >= at.nr_descendants();
            if at.frozen.swap(frozen, Relaxed) == frozen {
                return;
            }
            at.changed(Changed::EVENTS);
            let Some(parent) = at.parent.as_deref() else { return };
            for outer in parent.levels() {
                if frozen {
                    outer.nr_frozen_descendants.fetch_add(1, Relaxed);
                } else {
                    outer.nr_frozen_descendants.fetch_sub(1, Relaxed);
                }
            }
            at = parent;
        }
    }

    /// [`update_frozen`](Self::update_frozen), for who changed the wish.
    ///
    /// # Safety
    /// The task list is locked.
    pub unsafe fn settle_frozen(&self) {
        self.update_frozen();
    }

    /// It is removed, and was frozen perhaps.
    ///
    /// # Safety
    /// The task list is locked.
    pub(super) unsafe fn leave_frozen_counts(&self) {
        if self.frozen.swap(false, Relaxed)
            && let Some(parent) = self.parent.as_deref()
        {
            for outer in parent.levels() {
                outer.nr_frozen_descendants.fetch_sub(1, Relaxed);
            }
        }
    }
}
