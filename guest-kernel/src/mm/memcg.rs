//! [`MemGroup`]: how much memory the pages of a control group take, and how much they may
//! (Linux, Documentation/admin-guide/cgroup-v2.rst, "Memory").
//!
//! A page of a program or of a file belongs to the group that it was first needed in, and to each group
//! around that: the page's record names the innermost, and every level counts the page. It leaves the
//! counts when its frame is freed, whoever mapped it meanwhile, so fork has nothing to count. The group
//! in which an address space is charged is in its tables and changes under their lock. Memory outside
//! of all groups is in none, which is the root's case: there a page costs one look at a null pointer.
//!
//! A page holds a reference of its group, so a group that was removed lives until its last page goes.
//!
//! This floor knows no tasks: who asks, and who is killed for a limit, later floors say ([`Hooks`],
//! [`oom`](super::oom)).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::frame::{self, AllocFlags, FrameRef, Page, PageKind};
use super::oom;
use crate::arch::{self, ThreadFlags};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::sync::Once;

/// As a limit: none.
pub const UNLIMITED: u64 = u64::MAX;

/// What memory.events counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum MemEvent {
    /// Usage was found above `high`.
    High = 0,
    /// A page would have exceeded `max`.
    Max = 1,
    /// Nothing could be given back, so somebody had to be killed.
    Oom = 2,
    /// A process was killed.
    OomKill = 3,
    /// A whole group was killed.
    OomGroupKill = 4,
    /// Pages were taken though the group used no more than its `low`.
    Low = 5,
}

impl MemEvent {
    /// How many there are.
    pub const COUNT: usize = 6;
}

/// Pages by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemKinds {
    /// Anonymous memory.
    pub anon: u64,
    /// Pages of files, those of tmpfs among them.
    pub file: u64,
    /// Pages of tmpfs and shared anonymous memory.
    pub shmem: u64,
    /// What the kernel keeps for programs and counts for them.
    pub kernel: u64,
}

/// One group's account, in pages.
pub struct MemGroup {
    parent: Option<Ref<MemGroup>>,
    usage: AtomicU64,
    peak: AtomicU64,
    max: AtomicU64,
    high: AtomicU64,
    min: AtomicU64,
    low: AtomicU64,
    /// Anonymous, cache, shared memory, the kernel's.
    kinds: [AtomicU64; 4],
    /// What happened here and below.
    events: [AtomicU64; MemEvent::COUNT],
    /// What happened here.
    local_events: [AtomicU64; MemEvent::COUNT],
    /// A kill for want of memory takes all of the group.
    oom_group: AtomicBool,
}

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPage {
    /// There is no frame.
    NoMemory,
    /// The group, or one around it, may have no more: its [`full`](MemGroup::full) level.
    OverLimit,
}

/// What later floors know.
pub struct Hooks {
    /// The group of the memory that runs here; none if it is in none.
    pub current: fn() -> Option<Ref<MemGroup>>,
    /// Some group counted an event. Called under spin locks.
    pub event: fn(),
}

static HOOKS: Once<Hooks> = Once::new();
/// There was a group once.
static ANY: AtomicBool = AtomicBool::new(false);

/// Installs the hooks, at boot.
pub fn set_hooks(hooks: Hooks) {
    HOOKS.set(hooks);
}

/// The group of the memory that runs here.
pub fn current_group() -> Option<Ref<MemGroup>> {
    if !ANY.load(Relaxed) {
        return None;
    }
    HOOKS.try_get().and_then(|hooks| (hooks.current)())
}

impl MemGroup {
    /// A group without limits inside `parent`, or inside no other.
    pub fn new(parent: Option<Ref<MemGroup>>) -> Result<Ref<Self>> {
        ANY.store(true, Relaxed);
        Ref::try_new(Self {
            parent,
            usage: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            max: AtomicU64::new(UNLIMITED),
            high: AtomicU64::new(UNLIMITED),
            min: AtomicU64::new(0),
            low: AtomicU64::new(0),
            kinds: [const { AtomicU64::new(0) }; 4],
            events: [const { AtomicU64::new(0) }; MemEvent::COUNT],
            local_events: [const { AtomicU64::new(0) }; MemEvent::COUNT],
            oom_group: AtomicBool::new(false),
        })
    }

    /// The group around it.
    pub fn parent(&self) -> Option<&Ref<MemGroup>> {
        self.parent.as_ref()
    }

    /// It and those around it, from the inside out.
    pub fn levels(&self) -> impl Iterator<Item = &MemGroup> {
        core::iter::successors(Some(self), |group| group.parent.as_deref())
    }

    /// True if it is `other` or lies in it.
    pub fn is_within(&self, other: &MemGroup) -> bool {
        self.levels().any(|group| core::ptr::eq(group, other))
    }

    /// Pages in use.
    pub fn usage(&self) -> u64 {
        self.usage.load(Relaxed)
    }

    /// The most pages that were in use.
    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// The most pages that may be in use.
    pub fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    /// Sets it; pages in use stay so.
    pub fn set_max(&self, pages: u64) {
        self.max.store(pages, Relaxed);
    }

    /// Above so many pages, who takes more is slowed down.
    pub fn high(&self) -> u64 {
        self.high.load(Relaxed)
    }

    /// Sets it.
    pub fn set_high(&self, pages: u64) {
        self.high.store(pages, Relaxed);
    }

    /// While it uses no more than so many pages, none is taken from it.
    pub fn min(&self) -> u64 {
        self.min.load(Relaxed)
    }

    /// Sets it.
    pub fn set_min(&self, pages: u64) {
        self.min.store(pages, Relaxed);
    }

    /// While it uses no more than so many pages, none is taken from it if there is another way.
    pub fn low(&self) -> u64 {
        self.low.load(Relaxed)
    }

    /// Sets it.
    pub fn set_low(&self, pages: u64) {
        self.low.store(pages, Relaxed);
    }

    /// A kill for want of memory takes all of the group.
    pub fn kills_group(&self) -> bool {
        self.oom_group.load(Relaxed)
    }

    /// Sets it.
    pub fn set_kills_group(&self, on: bool) {
        self.oom_group.store(on, Relaxed);
    }

    /// Pages in use by kind.
    pub fn kinds(&self) -> MemKinds {
        let [anon, cache, shmem, kernel] = self.kinds.each_ref().map(|pages| pages.load(Relaxed));
        MemKinds { anon, file: cache + shmem, shmem, kernel }
    }

    /// How often something happened, here or below; only here with `local`.
    pub fn events(&self, event: MemEvent, local: bool) -> u64 {
        let events = if local { &self.local_events } else { &self.events };
        events[event as usize].load(Relaxed)
    }

    /// Something happened.
    pub fn count_event(&self, event: MemEvent) {
        self.local_events[event as usize].fetch_add(1, Relaxed);
        for group in self.levels() {
            group.events[event as usize].fetch_add(1, Relaxed);
        }
        if let Some(hooks) = HOOKS.try_get() {
            (hooks.event)();
        }
    }

    /// The innermost level that uses more than its `high`.
    pub fn over_high(&self) -> Option<&MemGroup> {
        self.levels().find(|group| group.usage() > group.high())
    }

    /// The outermost level that may have no more; itself if room came about meanwhile.
    pub fn full(this: &Ref<Self>) -> Ref<Self> {
        let levels = core::iter::successors(Some(this), |group| group.parent.as_ref());
        levels.filter(|group| group.usage() >= group.max()).last().unwrap_or(this).clone()
    }

    /// Forgets limits and counts of events, as a group that has no memory controller any more.
    pub fn reset(&self) {
        self.set_max(UNLIMITED);
        self.set_high(UNLIMITED);
        self.set_min(0);
        self.set_low(0);
        self.set_kills_group(false);
        for count in self.events.iter().chain(&self.local_events) {
            count.store(0, Relaxed);
        }
        self.peak.store(self.usage(), Relaxed);
    }

    /// Counts one more page on every level, or on none.
    fn try_charge(this: &Ref<Self>, kind: usize) -> core::result::Result<(), NoPage> {
        let mut over_high = false;
        let mut at = Some(this);
        while let Some(group) = at {
            let usage = group.usage.fetch_add(1, Relaxed) + 1;
            if usage > group.max.load(Relaxed) {
                group.usage.fetch_sub(1, Relaxed);
                let below = this.levels().take_while(|level| !core::ptr::eq(*level, &**group));
                below.for_each(|level| level.uncharge_level(kind));
                group.count_event(MemEvent::Max);
                return Err(NoPage::OverLimit);
            }
            group.kinds[kind].fetch_add(1, Relaxed);
            if usage > group.peak.load(Relaxed) {
                group.peak.fetch_max(usage, Relaxed);
            }
            over_high |= usage > group.high.load(Relaxed);
            at = group.parent.as_ref();
        }
        if over_high {
            // The way back to the program slows it down.
            arch::current_thread().info.set(ThreadFlags::NOTIFY_RESUME);
        }
        Ok(())
    }

    fn uncharge_level(&self, kind: usize) {
        self.usage.fetch_sub(1, Relaxed);
        self.kinds[kind].fetch_sub(1, Relaxed);
    }
}

impl Drop for MemGroup {
    fn drop(&mut self) {
        // One after the other: groups nest deeper than the kernel's stack.
        let mut next = self.parent.take();
        while let Some(group) = next {
            next = Ref::into_inner(group).and_then(|mut group| group.parent.take());
        }
    }
}

/// Which count a kind of page has; `None` for pages that are nobody's. The kernel's are somebody's where they were
/// asked for so.
#[inline]
fn index_of(kind: PageKind) -> Option<usize> {
    match kind {
        PageKind::Anon => Some(0),
        PageKind::Cache => Some(1),
        PageKind::Shmem => Some(2),
        PageKind::Kernel => Some(3),
        _ => None,
    }
}

/// A page of `kind` (of a program or a file, or what the kernel keeps for a program) that counts for `group`. Never
/// sleeps.
#[inline]
pub fn alloc_charged(
    group: Option<&Ref<MemGroup>>,
    kind: PageKind,
    flags: AllocFlags,
) -> core::result::Result<FrameRef, NoPage> {
    match group {
        None => frame::alloc_page_of(kind, flags).map_err(|_| NoPage::NoMemory),
        Some(group) => alloc_in(group, kind, flags),
    }
}

#[cold]
fn alloc_in(
    group: &Ref<MemGroup>,
    kind: PageKind,
    flags: AllocFlags,
) -> core::result::Result<FrameRef, NoPage> {
    let Some(index) = index_of(kind) else { return Err(NoPage::NoMemory) };
    MemGroup::try_charge(group, index)?;
    match frame::alloc_page_of(kind, flags) {
        Ok(frame) => {
            frame.set_private(Ref::into_raw(group.clone()) as u64);
            Ok(frame)
        }
        Err(_) => {
            group.levels().for_each(|level| level.uncharge_level(index));
            Err(NoPage::NoMemory)
        }
    }
}

/// The last reference of a frame is gone: so is its share in its group's account. The frame allocator
/// calls it, without locks of its own.
#[inline]
pub(super) fn release(page: &Page) {
    if page.private() != 0
        && let Some(index) = index_of(page.kind())
    {
        uncharge(page, index);
    }
}

#[cold]
fn uncharge(page: &Page, index: usize) {
    // SAFETY: of pages of these kinds only `alloc_in` sets it, to a reference that it gave away.
    let group = unsafe { Ref::from_raw(page.private() as *const MemGroup) };
    page.set_private(0);
    group.levels().for_each(|level| level.uncharge_level(index));
}

/// How far the pages of groups are kept from being given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// `memory.min` and `memory.low` hold.
    Low,
    /// Only `memory.min` does: nothing else could be given back.
    Min,
}

/// True if a page of a file must stay, because its group, or one around it, uses no more than is kept for
/// it. The page's frame is in use. With [`Protection::Min`], that it does not stay though `low` says so is
/// counted.
pub fn is_protected(page: &Page, protection: Protection) -> bool {
    if page.private() == 0 || index_of(page.kind()).is_none() {
        return false;
    }
    // SAFETY: `alloc_in` gave a reference away to the page, and it is taken back when the frame is freed.
    let group = unsafe { &*(page.private() as *const MemGroup) };
    if group.levels().any(|level| level.usage() <= level.min()) {
        return true;
    }
    let low = group.levels().find(|level| level.usage() <= level.low());
    if let Some(low) = low
        && protection == Protection::Min
    {
        low.count_event(MemEvent::Low);
    }
    low.is_some() && protection == Protection::Low
}

/// A page of a file, or of what the kernel keeps for a program, for the caller. May sleep, and kill somebody of the
/// caller's group, if the group is full. `ENOMEM` if there is none, or the caller is to die.
pub fn alloc_for_caller(kind: PageKind, flags: AllocFlags) -> Result<FrameRef> {
    let group = current_group();
    loop {
        match alloc_charged(group.as_ref(), kind, flags) {
            Ok(frame) => return Ok(frame),
            Err(NoPage::NoMemory) => return Err(Errno::ENOMEM),
            Err(NoPage::OverLimit) => {
                oom::over_limit(group.as_ref()).map_err(|_| Errno::ENOMEM)?;
            }
        }
    }
}

/// [`alloc_for_caller`] for what can be done without: never sleeps.
pub fn try_alloc_for_caller(kind: PageKind, flags: AllocFlags) -> Result<FrameRef> {
    alloc_charged(current_group().as_ref(), kind, flags).map_err(|_| Errno::ENOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::testing;

    #[test]
    fn a_page_counts_on_every_level_until_its_frame_goes() {
        testing::setup();
        let outer = MemGroup::new(None).unwrap();
        let inner = MemGroup::new(Some(outer.clone())).unwrap();
        let flags = AllocFlags::USER;
        let page = alloc_charged(Some(&inner), PageKind::Anon, flags).ok().unwrap();
        let other = page.clone();
        assert_eq!((inner.usage(), outer.usage(), outer.kinds().anon), (1, 1, 1));
        drop(page);
        assert_eq!(outer.usage(), 1);
        let shared = alloc_charged(Some(&outer), PageKind::Shmem, flags).ok().unwrap();
        assert_eq!((inner.usage(), outer.usage(), outer.kinds().file), (1, 2, 1));
        let kept = alloc_charged(Some(&outer), PageKind::Kernel, flags).ok().unwrap();
        assert_eq!((outer.usage(), outer.kinds().kernel), (3, 1));
        drop(kept);
        // A page keeps its group.
        drop(inner);
        drop(other);
        drop(shared);
        assert_eq!((outer.usage(), outer.peak(), outer.kinds()), (0, 3, MemKinds::default()));
        assert_eq!(Ref::ref_count(&outer), 1);
    }

    #[test]
    fn a_limit_outside_holds_inside_and_leaves_nothing_counted() {
        testing::setup();
        let outer = MemGroup::new(None).unwrap();
        let inner = MemGroup::new(Some(outer.clone())).unwrap();
        outer.set_max(1);
        let alloc = || alloc_charged(Some(&inner), PageKind::Anon, AllocFlags::USER);
        let first = alloc().ok().unwrap();
        assert_eq!(alloc().err(), Some(NoPage::OverLimit));
        assert!(Ref::ptr_eq(&MemGroup::full(&inner), &outer));
        assert_eq!((inner.usage(), outer.usage()), (1, 1));
        assert_eq!(outer.events(MemEvent::Max, true), 1);
        assert_eq!(inner.events(MemEvent::Max, false), 0);
        drop(first);
        assert!(alloc().is_ok());
    }

    #[test]
    fn what_is_kept_for_a_group_is_kept_as_long_as_it_says() {
        testing::setup();
        let outer = MemGroup::new(None).unwrap();
        let inner = MemGroup::new(Some(outer.clone())).unwrap();
        let page = alloc_charged(Some(&inner), PageKind::Cache, AllocFlags::USER).ok().unwrap();
        assert!(!is_protected(&page, Protection::Low));
        outer.set_low(1);
        assert!(is_protected(&page, Protection::Low));
        assert!(!is_protected(&page, Protection::Min));
        assert_eq!((outer.events(MemEvent::Low, true), inner.events(MemEvent::Low, false)), (1, 0));
        inner.set_min(1);
        assert!(is_protected(&page, Protection::Min));
        // One page more than is kept.
        let other = alloc_charged(Some(&inner), PageKind::Cache, AllocFlags::USER).ok().unwrap();
        assert!(!is_protected(&page, Protection::Low));
        drop((page, other));
    }

    #[test]
    fn deep_nesting_is_undone_without_deep_recursion() {
        testing::setup();
        let mut group = MemGroup::new(None).unwrap();
        for _ in 0..100_000 {
            group = MemGroup::new(Some(group)).unwrap();
        }
        drop(group);
    }
}
