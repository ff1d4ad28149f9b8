//! Process ids: [`Pid`] is what a task, thread group, process group or session *is*; a number is only
//! how one namespace calls it (pid_namespaces(7)).
//!
//! A `Pid` of a namespace at level *n* has *n* + 1 numbers, one [`Upid`] a level. All upids are hashed
//! by (number, namespace). A `Pid` lives while something holds a [`Ref`] to it (a task of any of the
//! four kinds, a tty, a pidfd); its numbers are free again only then, so a held number is never reused.

use belljar_abi::Described;

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};

use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::list_link;
use crate::ns::common::{HasCommon, NsCommon, NsKind, publish};
use crate::sched::WaitQueue;
use crate::sync::{IrqLock, Once};

/// Deepest nesting of pid namespaces, as in Linux.
pub const MAX_PID_NS_LEVEL: u32 = 32;
/// Numbers of a namespace run from 1 to below this unless it is changed.
pub const PID_MAX: u32 = 32768;
/// Bounds of `/proc/sys/kernel/pid_max`, as in Linux on 64 bits.
pub const PID_MAX_RANGE: core::ops::RangeInclusive<u32> = 301..=4 << 20;
/// After wrapping round, numbers below this are left to the system's first tasks.
const RESERVED_PIDS: u32 = 300;

static PID_MAX_NOW: AtomicU32 = AtomicU32::new(PID_MAX);

/// `/proc/sys/kernel/pid_max`: numbers stay below.
pub fn pid_max() -> u32 {
    PID_MAX_NOW.load(Ordering::Relaxed)
}

/// Sets it; `EINVAL` outside [`PID_MAX_RANGE`].
pub fn set_pid_max(max: u32) -> Result<()> {
    if !PID_MAX_RANGE.contains(&max) {
        return Err(Errno::EINVAL);
    }
    PID_MAX_NOW.store(max, Ordering::Relaxed);
    Ok(())
}

/// What a `Pid` identifies for one of its members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum PidType {
    /// One thread.
    Pid = 0,
    /// A thread group; its one member is the leader.
    Tgid = 1,
    /// A process group; members are group leaders.
    Pgid = 2,
    /// A session; members are group leaders.
    Sid = 3,
}

/// Kinds of [`PidType`].
pub const PID_TYPES: usize = 4;

/// The place of a task on a [`Pid`]'s list of one kind; embedded in the task.
#[repr(C)]
#[derive(Described, Default)]
pub struct PidMember {
    link: Link,
}
impl PidMember {
    /// Takes the member off its pid's list.
    ///
    /// # Safety
    /// The caller holds the task list's lock.
    pub unsafe fn unlink(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.link.unlink() };
    }
}

list_link!(
    /// Members of a pid, one list a kind.
    PidMember, link: PidMemberLink
);

/// One number of a [`Pid`].
#[repr(C)]
#[derive(Described)]
pub struct Upid {
    /// The number.
    pub nr: u32,
    /// The namespace in which it counts.
    pub ns: Ref<PidNs>,
    pid: Cell<*const Pid>,
    hash: Link,
}
// SAFETY: the cell is set before the upid is hashed; the link is touched under the hash's lock.
unsafe impl Send for Upid {}
// SAFETY: as above.
unsafe impl Sync for Upid {}
list_link!(
    /// Hash chain of upids.
    Upid, hash: UpidHashLink
);

/// A process id with one number per namespace level.
#[repr(C)]
#[derive(Described)]
pub struct Pid {
    /// Level of the innermost namespace that numbers it; `numbers` has one more.
    pub level: u32,
    /// The numbers, outermost namespace first.
    pub numbers: Array<Upid>,
    /// Members by [`PidType`]; guarded by the task list's lock.
    pub members: [List<PidMember, PidMemberLink>; PID_TYPES],
    /// Who waits for the end of the process through a pidfd.
    #[described(skip)]
    pub exit_wait: WaitQueue,
}

// SAFETY: the lists and cells are touched under the locks that the fields name.
unsafe impl Send for Pid {}
// SAFETY: as above.
unsafe impl Sync for Pid {}

/// A pid namespace.
#[repr(C)]
#[derive(Described)]
pub struct PidNs {
    /// Identity and owner.
    #[described(as = "struct NsCommon")]
    pub common: NsCommon,
    /// Nesting depth; 0 for the initial one.
    pub level: u32,
    /// The namespace around it.
    pub parent: Option<Ref<PidNs>>,
    /// The task that adopts orphans: number 1. Set and read under the task list's lock.
    pub child_reaper: AtomicPtr<()>,
    /// Pids alive in it.
    pub nr_hashed: AtomicU32,
    /// Threads on the task list that it numbers; changed under the task list's lock.
    pub nr_tasks: AtomicU32,
    /// The reaper is gone or going: nobody enters any more.
    pub dying: AtomicBool,
    /// The signal by which reboot(2) seems to have ended the reaper; 0 for none.
    pub reboot: AtomicI32,
    /// Where the reaper waits for the others to be gone.
    #[described(skip)]
    pub empty_wait: WaitQueue,
    #[described(skip)]
    map: IrqLock<PidMap>,
}

impl HasCommon for PidNs {
    fn common(&self) -> &NsCommon {
        &self.common
    }
}

/// Which numbers are taken. It grows with the numbers that are used.
#[repr(C)]
struct PidMap {
    last: u32,
    words: Array<u64>,
}

impl PidMap {
    /// Takes the next free number after the last one given out, wrapping round. `EAGAIN` if there is
    /// none.
    fn take(&mut self) -> Result<u32> {
        let max = pid_max();
        let start = self.last + 1;
        let found = self.find(start, max).or_else(|| {
            let low = if self.last >= RESERVED_PIDS { RESERVED_PIDS } else { 1 };
            self.find(low, start.min(max))
        });
        let found = found.ok_or(Errno::EAGAIN)?;
        self.mark(found)?;
        self.last = found;
        Ok(found)
    }

    /// Takes this number; `EEXIST` if somebody has it (clone3(2), `set_tid`).
    fn take_exactly(&mut self, nr: u32) -> Result<()> {
        if self.is_taken(nr) {
            return Err(Errno::EEXIST);
        }
        self.mark(nr)
    }

    fn mark(&mut self, nr: u32) -> Result<()> {
        let word = nr as usize / 64;
        if word >= self.words.len() {
            let len = (word + 1).next_power_of_two();
            self.words.try_resize_with(len, || 0)?;
        }
        self.words[word] |= 1 << (nr % 64);
        Ok(())
    }

    fn is_taken(&self, nr: u32) -> bool {
        self.words.get(nr as usize / 64).is_some_and(|word| word & (1 << (nr % 64)) != 0)
    }

    fn find(&self, from: u32, to: u32) -> Option<u32> {
        let mut nr = from;
        while nr < to {
            let word = self.words.get(nr as usize / 64).copied().unwrap_or(0);
            let free = !word & (!0 << (nr % 64));
            if free != 0 {
                let found = nr / 64 * 64 + free.trailing_zeros();
                return (found < to).then_some(found);
            }
            nr = (nr / 64 + 1) * 64;
        }
        None
    }

    /// The first number from `nr` on that is taken.
    fn next_taken(&self, nr: u32) -> Option<u32> {
        let mut mask = !0 << (nr % 64);
        for (i, word) in self.words.iter().enumerate().skip(nr as usize / 64) {
            if word & mask != 0 {
                return Some(i as u32 * 64 + (word & mask).trailing_zeros());
            }
            mask = !0;
        }
        None
    }

    fn free(&mut self, nr: u32) {
        self.words[nr as usize / 64] &= !(1 << (nr % 64));
    }
}

impl PidNs {
    /// A namespace inside `parent`, or the initial one. `ENOSPC` if it would be too deep.
    pub fn new(common: NsCommon, parent: Option<Ref<PidNs>>) -> Result<Ref<Self>> {
        let level = parent.as_ref().map_or(0, |p| p.level + 1);
        if level > MAX_PID_NS_LEVEL {
            return Err(Errno::ENOSPC);
        }
        let mut words = Array::new();
        // Number 0 is nobody's.
        words.try_push(1)?;
        publish(Self {
            common,
            level,
            parent,
            child_reaper: AtomicPtr::new(ptr::null_mut()),
            nr_hashed: AtomicU32::new(0),
            nr_tasks: AtomicU32::new(0),
            dying: AtomicBool::new(false),
            reboot: AtomicI32::new(0),
            empty_wait: WaitQueue::new(),
            map: IrqLock::new(PidMap { last: 0, words }),
        })
    }

    /// True if `this` is `ancestor` or lies in it.
    pub fn is_within(&self, ancestor: &PidNs) -> bool {
        let mut at = self;
        while at.level > ancestor.level {
            match &at.parent {
                Some(parent) => at = parent,
                None => return false,
            }
        }
        ptr::eq(at, ancestor)
    }

    /// The number last given out: `last_pid` of /proc/loadavg.
    pub fn last_pid(&self) -> u32 {
        self.map.lock().last
    }

    /// Sets it (`/proc/sys/kernel/ns_last_pid`): the next number is the one after.
    pub fn set_last_pid(&self, last: u32) {
        self.map.lock().last = last;
    }
}

/// Buckets of the hash; a power of two.
pub const PID_HASH_SIZE: usize = 1024;

/// The hash of all upids, described to readers outside by its address and size.
#[repr(C)]
pub struct PidHash {
    buckets: [List<Upid, UpidHashLink>; PID_HASH_SIZE],
}

static PID_HASH: IrqLock<PidHash> =
    IrqLock::new(PidHash { buckets: [const { List::new() }; PID_HASH_SIZE] });

/// Address of the first bucket, for the root page.
pub fn pid_hash_address() -> usize {
    PID_HASH.data_ptr() as usize
}

fn bucket(nr: u32, ns: *const PidNs) -> usize {
    let key = (ns as u64 >> 4).wrapping_add(u64::from(nr));
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % PID_HASH_SIZE
}

impl Pid {
    /// A new pid with a number in `ns` and in each namespace around it. `set_tid` chooses numbers, the
    /// innermost namespace's first (clone3(2)); the caller has checked that it may. `EAGAIN` when a
    /// namespace has no number left, `ENOMEM` when its reaper is gone.
    pub fn alloc(ns: &Ref<PidNs>, set_tid: &[u32]) -> Result<Ref<Pid>> {
        if ns.dying.load(Ordering::Acquire) {
            return Err(Errno::ENOMEM);
        }
        let mut numbers: Array<Upid> = Array::new();
        numbers.try_reserve(ns.level as usize + 1)?;
        let mut at = Some(ns);
        let mut chosen = set_tid.iter();
        while let Some(ns) = at {
            let nr = match chosen.next() {
                Some(&nr) => ns.map.lock().take_exactly(nr).map(|()| nr)?,
                None => ns.map.lock().take()?,
            };
            ns.nr_hashed.fetch_add(1, Ordering::Relaxed);
            let upid = Upid { nr, ns: ns.clone(), pid: Cell::new(ptr::null()), hash: Link::new() };
            // There is room, so that no number is lost.
            numbers.try_push(upid)?;
            at = ns.parent.as_ref();
        }
        numbers.reverse();
        let members = [const { List::new() }; PID_TYPES];
        let pid =
            Ref::try_new(Pid { level: ns.level, numbers, members, exit_wait: WaitQueue::new() })?;
        Self::hash_all(&pid);
        Ok(pid)
    }

    /// Task 0's pid: number 0 of the initial namespace, which nobody can name.
    pub fn idle() -> Result<Ref<Pid>> {
        let mut numbers: Array<Upid> = Array::new();
        let ns = init_pid_ns().clone();
        ns.nr_hashed.fetch_add(1, Ordering::Relaxed);
        numbers.try_push(Upid { nr: 0, ns, pid: Cell::new(ptr::null()), hash: Link::new() })?;
        let members = [const { List::new() }; PID_TYPES];
        Ref::try_new(Pid { level: 0, numbers, members, exit_wait: WaitQueue::new() })
    }

    fn hash_all(this: &Ref<Self>) {
        let hash = PID_HASH.lock();
        for upid in this.numbers.iter() {
            upid.pid.set(Ref::as_ptr(this));
            // SAFETY: the lock is held; `numbers` never moves; `Upid::drop` unlinks.
            unsafe { hash.buckets[bucket(upid.nr, Ref::as_ptr(&upid.ns))].push_front(upid) };
        }
    }

    /// The number in `ns`, or 0 if the pid is not seen there.
    pub fn nr_in(&self, ns: &PidNs) -> u32 {
        match self.numbers.get(ns.level as usize) {
            Some(upid) if ptr::eq(Ref::as_ptr(&upid.ns), ns) => upid.nr,
            _ => 0,
        }
    }

    /// The number in the initial namespace.
    #[inline]
    pub fn global(&self) -> u32 {
        self.numbers.first().map_or(0, |u| u.nr)
    }

    /// The innermost namespace that numbers it.
    pub fn ns(&self) -> &Ref<PidNs> {
        &self.numbers[self.level as usize].ns
    }

    /// The pid called `nr` in `ns`.
    pub fn find(nr: u32, ns: &PidNs) -> Option<Ref<Pid>> {
        let hash = PID_HASH.lock();
        hash.buckets[bucket(nr, ns)]
            .iter()
            .find(|u| u.nr == nr && ptr::eq(Ref::as_ptr(&u.ns), ns))
            // SAFETY: a hashed upid points at its pid, whose upids leave the hash under this lock
            // before its memory is freed.
            .and_then(|u| unsafe { Ref::try_from_ref(&*u.pid.get()) })
    }

    /// The pid with the lowest number not below `nr` in `ns`: how /proc and kill(-1) walk.
    pub fn find_from(nr: u32, ns: &PidNs) -> Option<Ref<Pid>> {
        let mut at = nr.max(1);
        loop {
            at = ns.map.lock().next_taken(at)?;
            if let Some(pid) = Self::find(at, ns) {
                return Some(pid);
            }
            at += 1;
        }
    }
}

impl Drop for Upid {
    fn drop(&mut self) {
        {
            let _hash = PID_HASH.lock();
            // SAFETY: the hash's lock is held.
            unsafe { self.hash.unlink() };
        }
        self.ns.nr_hashed.fetch_sub(1, Ordering::Relaxed);
        self.ns.map.lock().free(self.nr);
    }
}

static INIT_PID_NS: Once<Ref<PidNs>> = Once::new();

/// The initial pid namespace.
pub fn init_pid_ns() -> &'static Ref<PidNs> {
    INIT_PID_NS.get()
}

/// Makes the initial namespace; boot order calls it once.
pub(super) fn init() -> Result<()> {
    let common = NsCommon::initial(NsKind::Pid, Some(super::user::init_user_ns().clone()));
    INIT_PID_NS.set(PidNs::new(common, None)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested() -> (Ref<PidNs>, Ref<PidNs>, Ref<PidNs>) {
        let common = || {
            NsCommon::initial(NsKind::Pid, Some(crate::ns::user::UserNs::new_initial().unwrap()))
        };
        let a = PidNs::new(common(), None).unwrap();
        let b = PidNs::new(common(), Some(a.clone())).unwrap();
        let c = PidNs::new(common(), Some(b.clone())).unwrap();
        (a, b, c)
    }

    #[test]
    fn chosen_numbers_are_given_once() {
        let (a, b, c) = nested();
        let pid = Pid::alloc(&c, &[10, 20, 30]).unwrap();
        assert_eq!((pid.nr_in(&c), pid.nr_in(&b), pid.nr_in(&a)), (10, 20, 30));
        assert_eq!(Pid::alloc(&c, &[10]).err(), Some(Errno::EEXIST));
        // What the failed attempt took is free again.
        assert_eq!(Pid::alloc(&c, &[11, 20]).err(), Some(Errno::EEXIST));
        assert!(Pid::alloc(&c, &[11, 21]).is_ok());
    }

    #[test]
    fn a_namespace_whose_reaper_went_takes_nobody() {
        let (_, b, c) = nested();
        c.dying.store(true, Ordering::Release);
        assert_eq!(Pid::alloc(&c, &[]).err(), Some(Errno::ENOMEM));
        assert!(Pid::alloc(&b, &[]).is_ok());
        assert!(c.is_within(&b) && !b.is_within(&c));
    }

    #[test]
    fn a_pid_of_the_third_level_has_three_numbers() {
        let (a, b, c) = nested();
        let _first = Pid::alloc(&a, &[]).unwrap();
        let pid = Pid::alloc(&c, &[]).unwrap();
        assert_eq!((pid.nr_in(&a), pid.nr_in(&b), pid.nr_in(&c)), (2, 1, 1));
        assert_eq!(pid.global(), 2);
        assert!(Ref::ptr_eq(&Pid::find(2, &a).unwrap(), &pid));
        assert!(Pid::find(2, &c).is_none());
        let outer = Pid::alloc(&a, &[]).unwrap();
        assert_eq!(outer.nr_in(&c), 0, "an inner namespace does not see outer pids");
    }

    #[test]
    fn a_number_is_not_reused_while_its_pid_is_held() {
        let (a, ..) = nested();
        let held = Pid::alloc(&a, &[]).unwrap();
        for _ in 0..PID_MAX * 2 {
            assert_ne!(Pid::alloc(&a, &[]).unwrap().global(), held.global());
        }
    }

    #[test]
    fn a_full_namespace_gives_eagain_and_recovers() {
        let (a, ..) = nested();
        let mut all = Vec::new();
        while let Ok(pid) = Pid::alloc(&a, &[]) {
            all.push(pid);
        }
        assert_eq!(all.len(), PID_MAX as usize - 1);
        assert_eq!(Pid::alloc(&a, &[]).err(), Some(Errno::EAGAIN));
        all.truncate(1000);
        assert!(Pid::alloc(&a, &[]).is_ok());
    }

    #[test]
    fn walking_by_number_skips_freed_pids() {
        let (a, ..) = nested();
        let pids: Vec<_> = (0..5).map(|_| Pid::alloc(&a, &[]).unwrap()).collect();
        let third = pids[2].global();
        let mut pids = pids;
        pids.remove(2);
        assert_eq!(Pid::find_from(third, &a).unwrap().global(), third + 1);
    }
}
