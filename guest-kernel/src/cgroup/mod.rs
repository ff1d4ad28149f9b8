//! Control groups (cgroups(7), Linux's Documentation/admin-guide/cgroup-v2.rst): one tree, version 2.
//!
//! | module | what it is |
//! | --- | --- |
//! | this one | [`Cgroup`]: a node of the tree; making and removing nodes; paths |
//! | [`rules`] | domains and threaded subtrees, which controllers are where, who may host tasks |
//! | [`member`] | [`Member`]: a task's place in its group; population and frozenness |
//! | [`changes`] | changes that are told to who watches the files |
//! | [`control`] | what the controllers keep for a group: pids, cpu, memory |
//!
//! # Locks
//!
//! The tree (children, subtree controls, types, limits of the hierarchy) changes under [`lock_tree`],
//! a sleeping lock, and those functions take its guard. Who is in which group, and the counts that follow
//! from that, change under the task list's lock, which this floor does not know: the functions that need
//! it are `unsafe` and say so. A parent and its children hold references of each other; removal cuts
//! that. A removed group lives while a zombie, an open file or a namespace holds it.
//!
//! Every group has what each controller keeps, whether the controller is enabled for it or not: counts
//! add up outwards either way, and without the controller there are no limits.

pub mod changes;
pub mod control;
pub mod member;
pub mod rules;

use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

use belljar_abi::Described;

use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::list_link;
use crate::sched::WaitQueue;
use crate::sync::{Mutex, MutexGuard, Once, SpinLock};

pub use control::{Controllers, Cpu, Pids};
pub use member::{Member, MemberLink};

use crate::mm::MemGroup;

/// As a limit of the hierarchy: none.
pub const NO_LIMIT: u32 = u32::MAX;

/// Something that a file shows and that may be waited for with poll(2).
#[derive(Default)]
pub struct Watch {
    changes: AtomicU32,
    /// Where the waiting wait.
    pub wait: WaitQueue,
}

impl Watch {
    /// It changed.
    pub fn notify(&self) {
        self.changes.fetch_add(1, Relaxed);
        self.wait.wake_all();
    }

    /// How often it changed.
    pub fn changes(&self) -> u32 {
        self.changes.load(Relaxed)
    }
}

/// Owner and permissions of one file of a group, where they were changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileAttr {
    /// Which file; [`DIRECTORY`] for the directory itself.
    pub file: usize,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// As a [`FileAttr::file`]: the group's directory.
pub const DIRECTORY: usize = usize::MAX;

/// A control group.
#[repr(C)]
#[derive(Described)]
pub struct Cgroup {
    /// Its number: the inode of its directory.
    pub id: u64,
    /// Depth; 0 for the root.
    pub level: u32,
    dead: AtomicBool,
    threaded: AtomicBool,
    freeze: AtomicBool,
    /// It, or a group around it, is to be frozen.
    #[described(skip)]
    pub(super) wants_frozen: AtomicBool,
    /// All of it is.
    #[described(skip)]
    pub(super) frozen: AtomicBool,
    /// The group around it; none for the root.
    pub parent: Option<Ref<Cgroup>>,
    /// Its name there.
    pub name: Array<u8>,
    children: List<Cgroup, ChildLink>,
    sibling: Link,
    /// The live threads in it, not counting groups below.
    #[described(skip)]
    pub members: List<Member, MemberLink>,
    /// How many those are.
    #[described(as = "uint")]
    pub(super) nr_tasks: AtomicU32,
    #[described(as = "uint")]
    subtree_control: AtomicU32,
    #[described(skip)]
    pub(super) nr_frozen: AtomicU32,
    #[described(skip)]
    pub(super) nr_frozen_descendants: AtomicU32,
    #[described(skip)]
    pub(super) populated_domains: AtomicU32,
    #[described(skip)]
    pub(super) populated_threaded: AtomicU32,
    #[described(skip)]
    nr_threaded_children: AtomicU32,
    #[described(as = "uint")]
    nr_descendants: AtomicU32,
    #[described(as = "uint")]
    nr_dying_descendants: AtomicU32,
    #[described(skip)]
    max_depth: AtomicU32,
    #[described(skip)]
    max_descendants: AtomicU32,
    /// Processes and threads.
    #[described(skip)]
    pub pids: Pids,
    /// CPU time.
    #[described(skip)]
    pub cpu: Cpu,
    /// Memory; none for the root.
    #[described(skip)]
    pub memory: Option<Ref<MemGroup>>,
    /// cgroup.events.
    #[described(skip)]
    pub events: Watch,
    /// Owner of its files unless [`attrs`](Self::attrs) says otherwise.
    #[described(skip)]
    pub owner: (u32, u32),
    /// What chown(2) and chmod(2) changed.
    #[described(skip)]
    pub attrs: SpinLock<Array<FileAttr>>,
    /// What of it changed and is to be told of ([`changes`]).
    #[described(skip)]
    untold: AtomicU32,
    /// The next group in the chain of those, under its lock.
    #[described(skip)]
    next_untold: AtomicPtr<Cgroup>,
}

list_link!(
    /// The groups directly in a group.
    Cgroup, sibling: ChildLink
);

// SAFETY: the lists are touched under the locks that the module documentation names.
unsafe impl Send for Cgroup {}
// SAFETY: as above.
unsafe impl Sync for Cgroup {}

static TREE: Mutex<()> = Mutex::new(());
static ROOT: Once<Ref<Cgroup>> = Once::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static COUNT: AtomicU32 = AtomicU32::new(1);

/// The lock of the tree.
pub type TreeGuard = MutexGuard<'static, ()>;

/// Locks the tree's shape and settings. May sleep.
pub fn lock_tree() -> TreeGuard {
    TREE.lock()
}

/// Makes the root; boot order calls it once.
pub fn init() -> Result<()> {
    ROOT.set(Cgroup::new(None, &[], (0, 0))?);
    Ok(())
}

/// The root, in which every task starts.
pub fn root() -> &'static Ref<Cgroup> {
    ROOT.get()
}

/// How many groups there are, the root included: for /proc/cgroups.
pub fn count() -> u32 {
    COUNT.load(Relaxed)
}

impl Cgroup {
    fn new(parent: Option<Ref<Cgroup>>, name: &[u8], owner: (u32, u32)) -> Result<Ref<Self>> {
        let mut own_name = Array::new();
        own_name.try_reserve(name.len())?;
        for &byte in name {
            own_name.try_push(byte)?;
        }
        let memory = match &parent {
            Some(parent) => Some(MemGroup::new(parent.memory.clone())?),
            None => None,
        };
        let cpu = Cpu::new(parent.as_deref().map(|parent| &parent.cpu))?;
        let wants_frozen = parent.as_ref().is_some_and(|p| p.wants_frozen.load(Relaxed));
        Ref::try_new(Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            level: parent.as_ref().map_or(0, |parent| parent.level + 1),
            dead: AtomicBool::new(false),
            threaded: AtomicBool::new(false),
            freeze: AtomicBool::new(false),
            wants_frozen: AtomicBool::new(wants_frozen),
            frozen: AtomicBool::new(false),
            parent,
            name: own_name,
            children: List::new(),
            sibling: Link::new(),
            members: List::new(),
            nr_tasks: AtomicU32::new(0),
            subtree_control: AtomicU32::new(0),
            nr_frozen: AtomicU32::new(0),
            nr_frozen_descendants: AtomicU32::new(0),
            populated_domains: AtomicU32::new(0),
            populated_threaded: AtomicU32::new(0),
            nr_threaded_children: AtomicU32::new(0),
            nr_descendants: AtomicU32::new(0),
            nr_dying_descendants: AtomicU32::new(0),
            max_depth: AtomicU32::new(NO_LIMIT),
            max_descendants: AtomicU32::new(NO_LIMIT),
            pids: Pids::new(),
            cpu,
            memory,
            events: Watch::default(),
            owner,
            attrs: SpinLock::new(Array::new()),
            untold: AtomicU32::new(0),
            next_untold: AtomicPtr::new(core::ptr::null_mut()),
        })
    }

    /// True for the root.
    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// True once it was removed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    /// It and those around it, from the inside out.
    pub fn levels(&self) -> impl Iterator<Item = &Cgroup> {
        core::iter::successors(Some(self), |group| group.parent.as_deref())
    }

    /// True if it is `other` or lies in it.
    pub fn is_within(&self, other: &Cgroup) -> bool {
        self.levels().any(|group| core::ptr::eq(group, other))
    }

    /// The groups directly in it, in the order in which they were made.
    pub fn children<'a>(&'a self, _tree: &'a TreeGuard) -> impl Iterator<Item = &'a Cgroup> {
        self.children.iter()
    }

    /// The group of this name directly in it.
    pub fn child(&self, tree: &TreeGuard, name: &[u8]) -> Option<Ref<Cgroup>> {
        let child = self.children(tree).find(|child| &*child.name == name);
        // SAFETY: a listed group is alive: the list has a reference.
        child.map(|child| unsafe { Ref::from_ref(child) })
    }

    /// It and everything in it, each before what is in it.
    pub fn subtree<'a>(&'a self, _tree: &'a TreeGuard) -> Subtree<'a> {
        Subtree { top: self, next: Some(self) }
    }

    /// One more reference.
    pub fn to_ref(&self) -> Ref<Cgroup> {
        // SAFETY: groups are made by `Ref::try_new` only, and `&self` shows that it lives.
        unsafe { Ref::from_ref(self) }
    }

    /// Groups in it, at any depth.
    pub fn nr_descendants(&self) -> u32 {
        self.nr_descendants.load(Relaxed)
    }

    /// Groups that were in it and are not gone quite.
    pub fn nr_dying_descendants(&self) -> u32 {
        self.nr_dying_descendants.load(Relaxed)
    }

    /// How deep groups may nest in it.
    pub fn max_depth(&self) -> u32 {
        self.max_depth.load(Relaxed)
    }

    /// Sets it.
    pub fn set_max_depth(&self, depth: u32) {
        self.max_depth.store(depth, Relaxed);
    }

    /// How many groups may be in it.
    pub fn max_descendants(&self) -> u32 {
        self.max_descendants.load(Relaxed)
    }

    /// Sets it.
    pub fn set_max_descendants(&self, count: u32) {
        self.max_descendants.store(count, Relaxed);
    }

    /// Makes a group, which is not in the tree before [`insert`](Self::insert). `ENODEV` in one that was
    /// removed, `EAGAIN` beyond a limit of the hierarchy.
    pub fn make(
        this: &Ref<Self>,
        _tree: &TreeGuard,
        name: &[u8],
        owner: (u32, u32),
    ) -> Result<Ref<Self>> {
        if this.is_dead() {
            return Err(Errno::ENODEV);
        }
        let full = |(depth, group): (u32, &Cgroup)| {
            depth > group.max_depth() || group.nr_descendants() >= group.max_descendants()
        };
        if (1..).zip(this.levels()).any(full) {
            return Err(Errno::EAGAIN);
        }
        let child = Self::new(Some(this.clone()), name, owner)?;
        if this.enabled().contains(Controllers::CPU) {
            child.cpu.set_share(Some(this.cpu.new_share(&child.cpu)?))?;
        }
        Ok(child)
    }

    /// Puts a new group into the tree, whose lock was held since it was [made](Self::make).
    ///
    /// # Safety
    /// The task list is locked.
    pub unsafe fn insert(this: &Ref<Self>, _tree: &TreeGuard) {
        let Some(parent) = &this.parent else { return };
        for group in parent.levels() {
            group.nr_descendants.fetch_add(1, Relaxed);
        }
        COUNT.fetch_add(1, Relaxed);
        // SAFETY: the tree is locked; the list's reference is taken back by `remove`.
        unsafe {
            parent.children.push_back(this);
            core::mem::forget(this.clone());
        }
        // With nobody in it, it is as frozen as what is around it.
        this.update_frozen();
    }

    /// Removes a group. `EBUSY` if there is a live task or a group in it.
    ///
    /// # Safety
    /// The task list is locked.
    pub unsafe fn remove(&self, _tree: &TreeGuard) -> Result<Ref<Self>> {
        if self.is_populated() || !self.children.is_empty() {
            return Err(Errno::EBUSY);
        }
        let Some(parent) = &self.parent else { return Err(Errno::EBUSY) };
        self.dead.store(true, Relaxed);
        if self.is_threaded() {
            parent.nr_threaded_children.fetch_sub(1, Relaxed);
        }
        // SAFETY: the task list is locked.
        unsafe { self.leave_frozen_counts() };
        for group in parent.levels() {
            group.nr_descendants.fetch_sub(1, Relaxed);
            group.nr_dying_descendants.fetch_add(1, Relaxed);
        }
        COUNT.fetch_sub(1, Relaxed);
        self.cpu.leave_to(&parent.cpu);
        // SAFETY: the tree is locked, the group is on the list, and the list's reference was given away
        // by `make`.
        Ok(unsafe {
            self.sibling.unlink();
            Ref::from_raw(self)
        })
    }

    /// Writes its path as seen from `root`: what lies outside begins with `/..`.
    pub fn path_in(&self, root: &Cgroup, out: &mut dyn Write) -> core::fmt::Result {
        if core::ptr::eq(self, root) {
            return out.write_str("/");
        }
        // The innermost group around both.
        let common = root.levels().find(|group| self.is_within(group));
        let Some(common) = common else { return Ok(()) };
        for _ in common.level..root.level {
            out.write_str("/..")?;
        }
        let mut inwards = Vec::new();
        let below = (self.level - common.level) as usize;
        inwards.try_reserve_exact(below).map_err(|_| core::fmt::Error)?;
        inwards.extend(self.levels().take(below));
        for group in inwards.iter().rev() {
            out.write_str("/")?;
            for chunk in group.name.utf8_chunks() {
                out.write_str(chunk.valid())?;
                // Names are bytes; what is no text is shown as such.
                if !chunk.invalid().is_empty() {
                    out.write_char('\u{fffd}')?;
                }
            }
        }
        Ok(())
    }

    /// A dying group is gone for good.
    fn settle(&self) {
        if self.is_dead()
            && let Some(parent) = &self.parent
        {
            for group in parent.levels() {
                group.nr_dying_descendants.fetch_sub(1, Relaxed);
            }
            self.cpu.leave_to(&parent.cpu);
        }
    }
}

impl core::fmt::Debug for Cgroup {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.path_in(root(), f)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.settle();
        // One after the other: groups nest deeper than the kernel's stack.
        let mut next = self.parent.take();
        while let Some(group) = next {
            next = Ref::into_inner(group).and_then(|mut group| {
                group.settle();
                group.parent.take()
            });
        }
    }
}

/// Walks a group and what is in it, each before what is in it.
pub struct Subtree<'a> {
    top: &'a Cgroup,
    next: Option<&'a Cgroup>,
}

impl<'a> Iterator for Subtree<'a> {
    type Item = &'a Cgroup;

    fn next(&mut self) -> Option<&'a Cgroup> {
        let at = self.next?;
        self.next = at.children.first().or_else(|| {
            let inside = |group: &&Cgroup| !core::ptr::eq(*group, self.top);
            at.levels().take_while(inside).find_map(|group| {
                group.parent.as_deref().and_then(|parent| parent.children.next(group))
            })
        });
        Some(at)
    }
}

#[cfg(test)]
mod tests;
