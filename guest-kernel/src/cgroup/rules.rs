//! What a group may be used for: domains and threaded subtrees, where controllers may be enabled, and
//! which groups may hold tasks (cgroup-v2.rst, "Threads", "Top-down Constraint", "No Internal Process
//! Constraint").
//!
//! The root is exempt from all of it.

use core::sync::atomic::Ordering::Relaxed;

use super::{Cgroup, Controllers, TreeGuard};
use crate::errno::{Errno, Result};

/// What cgroup.type shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupType {
    /// An ordinary group: processes are in it as a whole.
    Domain,
    /// A domain that is the root of a threaded subtree.
    DomainThreaded,
    /// A domain below threaded groups, which can hold nothing.
    DomainInvalid,
    /// Part of a threaded subtree: threads of one process may be in different ones.
    Threaded,
}

impl GroupType {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::DomainThreaded => "domain threaded",
            Self::DomainInvalid => "domain invalid",
            Self::Threaded => "threaded",
        }
    }
}

impl Cgroup {
    /// True for a threaded group.
    pub fn is_threaded(&self) -> bool {
        self.threaded.load(Relaxed)
    }

    /// The domain that it belongs to: itself, or the root of its threaded subtree.
    pub fn domain(&self) -> &Cgroup {
        self.levels().find(|group| !group.is_threaded()).unwrap_or(self)
    }

    /// Controllers that are enabled for the groups in it.
    pub fn enabled(&self) -> Controllers {
        Controllers::from_bits_retain(self.subtree_control.load(Relaxed))
    }

    /// Controllers that may be enabled for the groups in it: those that are enabled for itself.
    pub fn control(&self) -> Controllers {
        let own = self.parent.as_ref().map_or(Controllers::all(), |parent| parent.enabled());
        if self.is_threaded() { own & Controllers::THREADED } else { own }
    }

    /// True if there is a live task in it or below.
    pub fn is_populated(&self) -> bool {
        self.has_tasks()
            || self.populated_domains.load(Relaxed) > 0
            || self.populated_threaded.load(Relaxed) > 0
    }

    /// True if there is a live task in it.
    pub fn has_tasks(&self) -> bool {
        self.nr_tasks.load(Relaxed) > 0
    }

    /// Domain controllers are enabled in it.
    fn enables_domain_controllers(&self) -> bool {
        !Controllers::THREADED.contains(self.enabled())
    }

    /// It could become, or is, the root of a threaded subtree.
    fn can_be_thread_root(&self) -> bool {
        self.is_root()
            || !self.is_threaded()
                && self.populated_domains.load(Relaxed) == 0
                && !self.enables_domain_controllers()
    }

    fn is_thread_root(&self) -> bool {
        !self.is_threaded()
            && (self.nr_threaded_children.load(Relaxed) > 0
                || self.has_tasks() && self.enabled().intersects(Controllers::THREADED))
    }

    /// It can be used as a domain: nothing around it is threaded.
    fn is_valid_domain(&self) -> bool {
        !self.is_threaded()
            && self
                .levels()
                .skip(1)
                .all(|outer| !outer.is_threaded() && (outer.is_root() || !outer.is_thread_root()))
    }

    /// What it is.
    pub fn group_type(&self) -> GroupType {
        if self.is_threaded() {
            GroupType::Threaded
        } else if !self.is_valid_domain() {
            GroupType::DomainInvalid
        } else if self.is_thread_root() {
            GroupType::DomainThreaded
        } else {
            GroupType::Domain
        }
    }

    /// Makes it threaded, for good. `EOPNOTSUPP` if it is in use as a domain, or the group around it
    /// must stay one.
    pub fn make_threaded(&self, _tree: &TreeGuard) -> Result<()> {
        if self.is_threaded() {
            return Ok(());
        }
        let Some(parent) = &self.parent else { return Err(Errno::EOPNOTSUPP) };
        let domain = parent.domain();
        if self.is_populated()
            || self.enables_domain_controllers()
            || !domain.is_valid_domain()
            || !domain.can_be_thread_root()
        {
            return Err(Errno::EOPNOTSUPP);
        }
        self.threaded.store(true, Relaxed);
        parent.nr_threaded_children.fetch_add(1, Relaxed);
        Ok(())
    }

    /// True if tasks may be put into it: `EOPNOTSUPP` below what is no domain, `EBUSY` if controllers
    /// are enabled for the groups in it.
    pub fn may_host_tasks(&self) -> Result<()> {
        if !self.domain().is_valid_domain() {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.can_be_thread_root() || self.is_threaded() || self.enabled().is_empty() {
            return Ok(());
        }
        Err(Errno::EBUSY)
    }

    /// Whether controllers may be enabled and disabled for the groups in it, and which then are.
    /// `ENOENT` for one that is not there, `EBUSY` while a group in it has enabled what is to go, or tasks
    /// are in the way.
    pub fn vet_control(
        &self,
        tree: &TreeGuard,
        enable: Controllers,
        disable: Controllers,
    ) -> Result<Controllers> {
        let old = self.enabled();
        let (enable, disable) = (enable - old, disable & old);
        if !self.control().contains(enable) {
            return Err(Errno::ENOENT);
        }
        if self.children(tree).any(|child| child.enabled().intersects(disable)) {
            return Err(Errno::EBUSY);
        }
        self.vet_enable(enable)?;
        Ok((old | enable) - disable)
    }

    fn vet_enable(&self, enable: Controllers) -> Result<()> {
        if enable.is_empty() {
            return Ok(());
        }
        if !self.domain().is_valid_domain() {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.is_root() {
            return Ok(());
        }
        if !Controllers::THREADED.contains(enable) {
            if self.is_thread_root() || self.is_threaded() {
                return Err(Errno::EOPNOTSUPP);
            }
        } else if self.can_be_thread_root() || self.is_threaded() {
            return Ok(());
        }
        if self.has_tasks() { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// Records which controllers are enabled for the groups in it.
    pub fn set_enabled(&self, _tree: &TreeGuard, controllers: Controllers) {
        self.subtree_control.store(controllers.bits(), Relaxed);
    }
}
