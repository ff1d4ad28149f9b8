//! What the controllers keep for a group: how many tasks it has and may have, its CPU time and weight.
//! Memory is [`MemGroup`](crate::mm::MemGroup).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::changes::Changed;
use super::{Cgroup, TreeGuard, Watch};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::sched::group::{DEFAULT_WEIGHT, RunTime};
use crate::sched::{Bandwidth, CpuAccount, CpuTime, SchedGroup, Share};
use crate::sync::IrqLock;

bitflags::bitflags! {
    /// The controllers.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Controllers: u32 {
        /// CPU time.
        const CPU = 1 << 0;
        /// Memory.
        const MEMORY = 1 << 1;
        /// The number of processes and threads.
        const PIDS = 1 << 2;
        /// Those that can tell threads of one process apart.
        const THREADED = Self::CPU.bits() | Self::PIDS.bits();
    }
}

impl Controllers {
    /// Each with its name, in the order in which they are shown.
    pub const NAMES: [(Self, &'static str); 3] =
        [(Self::CPU, "cpu"), (Self::MEMORY, "memory"), (Self::PIDS, "pids")];
}

/// As a limit of tasks: none.
pub const NO_PIDS_LIMIT: u64 = u64::MAX;

/// How many tasks are in a group and below. Zombies count until somebody waited for them.
pub struct Pids {
    current: AtomicU64,
    peak: AtomicU64,
    max: AtomicU64,
    /// How often a fork failed here.
    pub failures: AtomicU64,
    /// pids.events.
    pub watch: Watch,
}

impl Pids {
    pub(super) fn new() -> Self {
        Self {
            current: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            max: AtomicU64::new(NO_PIDS_LIMIT),
            failures: AtomicU64::new(0),
            watch: Watch::default(),
        }
    }

    /// How many there are.
    pub fn current(&self) -> u64 {
        self.current.load(Relaxed)
    }

    /// The most there were.
    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// How many fork(2) may bring it to; moving tasks may bring it to more.
    pub fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    /// Sets it.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Relaxed);
    }

    fn add(&self) -> u64 {
        let now = self.current.fetch_add(1, Relaxed) + 1;
        if now > self.peak.load(Relaxed) {
            self.peak.fetch_max(now, Relaxed);
        }
        now
    }

    fn reset(&self) {
        self.set_max(NO_PIDS_LIMIT);
        self.failures.store(0, Relaxed);
        self.peak.store(self.current(), Relaxed);
    }
}

impl Cgroup {
    /// One task more, in it and around it, whatever the limits.
    pub(super) fn charge_pid(&self) {
        for group in self.limited() {
            group.pids.add();
        }
    }

    /// One task more, if no limit forbids it (`EAGAIN`).
    pub(super) fn try_charge_pid(&self) -> Result<()> {
        for group in self.limited() {
            if group.pids.add() > group.pids.max() {
                group.pids.current.fetch_sub(1, Relaxed);
                for below in self.limited().take_while(|below| !core::ptr::eq(*below, group)) {
                    below.pids.current.fetch_sub(1, Relaxed);
                }
                self.pids.failures.fetch_add(1, Relaxed);
                self.changed(Changed::PIDS);
                return Err(Errno::EAGAIN);
            }
        }
        Ok(())
    }

    /// One task less.
    pub(super) fn uncharge_pid(&self) {
        for group in self.limited() {
            group.pids.current.fetch_sub(1, Relaxed);
        }
    }

    /// It and those around it but the root, which has no limits and is not asked for counts.
    fn limited(&self) -> impl Iterator<Item = &Cgroup> {
        self.levels().take_while(|group| !group.is_root())
    }

    /// Its CPU time with that of all groups below.
    pub fn cpu_time(&self, tree: &TreeGuard) -> CpuTime {
        let mut time = RunTime::default();
        for group in self.subtree(tree) {
            if let Some(account) = &group.cpu.account {
                time += account.run_time();
            }
        }
        self.cpu.account.as_ref().map_or(CpuTime::default(), |account| account.show(time))
    }

    /// The parent does not enable these controllers for it any more: what they were told is forgotten.
    pub fn forget(&self, controllers: Controllers) {
        if controllers.contains(Controllers::PIDS) {
            self.pids.reset();
        }
        if controllers.contains(Controllers::MEMORY)
            && let Some(memory) = &self.memory
        {
            memory.reset();
        }
        if controllers.contains(Controllers::CPU) {
            self.cpu.weight.store(DEFAULT_WEIGHT, Relaxed);
            self.cpu.bandwidth.reset();
        }
    }
}

/// CPU time of a group, and how it competes.
pub struct Cpu {
    weight: AtomicU32,
    /// cpu.max.
    pub bandwidth: Ref<Bandwidth>,
    /// Run time; none for the root, whose time is the machine's.
    account: Option<Ref<CpuAccount>>,
    state: IrqLock<CpuState>,
}

#[derive(Default)]
struct CpuState {
    /// The share that the group is, if the controller is enabled for it.
    share: Option<Ref<Share>>,
    /// What its tasks hold; none for those of the root.
    group: Option<Ref<SchedGroup>>,
}

impl Cpu {
    pub(super) fn new(parent: Option<&Cpu>) -> Result<Self> {
        let weight = AtomicU32::new(DEFAULT_WEIGHT);
        let bandwidth = Bandwidth::new()?;
        let Some(parent) = parent else {
            let state = IrqLock::new(CpuState::default());
            return Ok(Self { weight, bandwidth, account: None, state });
        };
        let account = CpuAccount::new()?;
        let group = SchedGroup::new(account.clone(), parent.innermost_share())?;
        let state = IrqLock::new(CpuState { share: None, group: Some(group) });
        Ok(Self { weight, bandwidth, account: Some(account), state })
    }

    /// cpu.weight.
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Sets it.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
        if let Some(share) = &self.state.lock().share {
            share.set_weight(weight);
        }
    }

    /// What the group's tasks hold.
    pub fn group(&self) -> Option<Ref<SchedGroup>> {
        self.state.lock().group.clone()
    }

    /// True if tasks of the group hold `group`.
    pub(super) fn is_group(&self, group: Option<&Ref<SchedGroup>>) -> bool {
        match (&self.state.lock().group, group) {
            (Some(own), Some(group)) => Ref::ptr_eq(own, group),
            (own, group) => own.is_none() && group.is_none(),
        }
    }

    /// The share that its tasks compete in.
    pub fn innermost_share(&self) -> Option<Ref<Share>> {
        self.state.lock().group.as_ref().and_then(|group| group.share().cloned())
    }

    /// A share for the group of `child` inside this group's.
    pub fn new_share(&self, child: &Cpu) -> Result<Ref<Share>> {
        Share::new(self.innermost_share(), child.weight(), child.bandwidth.clone())
    }

    /// Has the group compete as `share`; its tasks are to be moved to the new [`group`](Self::group).
    pub fn set_share(&self, share: Option<Ref<Share>>) -> Result<()> {
        let competes_in = share.clone();
        self.set_shares(share, competes_in)
    }

    /// Has the group, which is no share itself, compete as part of `share`.
    pub fn compete_in(&self, share: Option<Ref<Share>>) -> Result<()> {
        self.set_shares(None, share)
    }

    fn set_shares(&self, own: Option<Ref<Share>>, innermost: Option<Ref<Share>>) -> Result<()> {
        let Some(account) = &self.account else { return Ok(()) };
        let group = Some(SchedGroup::new(account.clone(), innermost)?);
        let new = CpuState { share: own, group };
        let old = core::mem::replace(&mut *self.state.lock(), new);
        drop(old);
        Ok(())
    }

    /// The group is gone: its time goes to the one around it.
    pub(super) fn leave_to(&self, parent: &Cpu) {
        if let (Some(own), Some(outer)) = (&self.account, &parent.account) {
            outer.inherit(own.take());
        }
    }
}
