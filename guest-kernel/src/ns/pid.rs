//! Process ids: [`Pid`] is what a task, thread group, process group or session *is*; a number is only
//! how one namespace calls it (pid_namespaces(7)).
//!
//! A `Pid` of a namespace at level *n* has *n* + 1 numbers, one [`Upid`] a level. All upids are hashed
//! by (number, namespace). A `Pid` lives while something holds a [`Ref`] to it (a task of any of the
//! four kinds, a tty, a pidfd); its numbers are free again only then, so a held number is never reused.

use belljar_abi::Described;

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::list_link;
use crate::ns::user::UserNs;
use crate::sync::{IrqLock, Once};

/// Deepest nesting of pid namespaces, as in Linux.
pub const MAX_PID_NS_LEVEL: u32 = 32;
/// Numbers of a namespace run from 1 to below this; `/proc/sys/kernel/pid_max`.
pub const PID_MAX: u32 = 32768;
/// After wrapping round, numbers below this are left to the system's first tasks.
const RESERVED_PIDS: u32 = 300;
const WORDS: usize = PID_MAX as usize / 64;

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
}

// SAFETY: the lists and cells are touched under the locks that the fields name.
unsafe impl Send for Pid {}
// SAFETY: as above.
unsafe impl Sync for Pid {}

/// A pid namespace.
#[repr(C)]
#[derive(Described)]
pub struct PidNs {
    /// Inode number of its /proc/PID/ns file.
    pub inum: u32,
    /// Nesting depth; 0 for the initial one.
    pub level: u32,
    /// The namespace around it.
    pub parent: Option<Ref<PidNs>>,
    /// The user namespace that owns it.
    pub user_ns: Ref<UserNs>,
    /// The task that adopts orphans: number 1. Set and read under the task list's lock.
    pub child_reaper: AtomicPtr<()>,
    /// Pids alive in it.
    pub nr_hashed: AtomicU32,
    #[described(skip)]
    map: IrqLock<PidMap>,
}

#[repr(C)]
struct PidMap {
    last: u32,
    words: Array<u64>,
}

impl PidMap {
    /// Takes the next free number after the last one given out, wrapping round.
    fn take(&mut self) -> Option<u32> {
        let start = self.last + 1;
        let found = self.find(start, PID_MAX).or_else(|| {
            let low = if self.last >= RESERVED_PIDS { RESERVED_PIDS } else { 1 };
            self.find(low, start.min(PID_MAX))
        })?;
        self.words[found as usize / 64] |= 1 << (found % 64);
        self.last = found;
        Some(found)
    }

    fn find(&self, from: u32, to: u32) -> Option<u32> {
        let mut nr = from;
        while nr < to {
            let free = !self.words[nr as usize / 64] & (!0 << (nr % 64));
            if free != 0 {
                let found = nr / 64 * 64 + free.trailing_zeros();
                return (found < to).then_some(found);
            }
            nr = (nr / 64 + 1) * 64;
        }
        None
    }

    fn free(&mut self, nr: u32) {
        self.words[nr as usize / 64] &= !(1 << (nr % 64));
    }
}

impl PidNs {
    /// A namespace inside `parent`, or the initial one.
    pub fn new(parent: Option<Ref<PidNs>>, user_ns: Ref<UserNs>) -> Result<Ref<Self>> {
        let level = parent.as_ref().map_or(0, |p| p.level + 1);
        if level > MAX_PID_NS_LEVEL {
            return Err(Errno::ENOSPC);
        }
        let mut words = Array::new();
        words.try_resize_with(WORDS, || 0)?;
        words[0] = 1; // Number 0 is nobody's.
        Ref::try_new(Self {
            inum: super::new_inum(),
            level,
            parent,
            user_ns,
            child_reaper: AtomicPtr::new(ptr::null_mut()),
            nr_hashed: AtomicU32::new(0),
            map: IrqLock::new(PidMap { last: 0, words }),
        })
    }

    /// The number last given out: `last_pid` of /proc/loadavg.
    pub fn last_pid(&self) -> u32 {
        self.map.lock().last
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
    /// A new pid with a number in `ns` and in each namespace around it. `EAGAIN` when one of them has
    /// no number left (clone(2)).
    pub fn alloc(ns: &Ref<PidNs>) -> Result<Ref<Pid>> {
        let mut numbers: Array<Upid> = Array::new();
        numbers.try_reserve(ns.level as usize + 1)?;
        let mut at = Some(ns);
        while let Some(ns) = at {
            let nr = ns.map.lock().take().ok_or(Errno::EAGAIN)?;
            ns.nr_hashed.fetch_add(1, Ordering::Relaxed);
            let upid = Upid { nr, ns: ns.clone(), pid: Cell::new(ptr::null()), hash: Link::new() };
            numbers.try_insert(0, upid)?;
            at = ns.parent.as_ref();
        }
        let members = [const { List::new() }; PID_TYPES];
        let pid = Ref::try_new(Pid { level: ns.level, numbers, members })?;
        Self::hash_all(&pid);
        Ok(pid)
    }

    /// Task 0's pid: number 0 of the initial namespace, which nobody can name.
    pub fn idle() -> Result<Ref<Pid>> {
        let mut numbers: Array<Upid> = Array::new();
        let ns = init_pid_ns().clone();
        ns.nr_hashed.fetch_add(1, Ordering::Relaxed);
        numbers.try_push(Upid { nr: 0, ns, pid: Cell::new(ptr::null()), hash: Link::new() })?;
        Ref::try_new(Pid { level: 0, numbers, members: [const { List::new() }; PID_TYPES] })
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
            at = {
                let map = ns.map.lock();
                (at..PID_MAX).find(|&n| map.words[n as usize / 64] & (1 << (n % 64)) != 0)?
            };
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
    INIT_PID_NS.set(PidNs::new(None, super::user::init_user_ns().clone())?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested() -> (Ref<PidNs>, Ref<PidNs>, Ref<PidNs>) {
        let user = UserNs::new(None).unwrap();
        let a = PidNs::new(None, user.clone()).unwrap();
        let b = PidNs::new(Some(a.clone()), user.clone()).unwrap();
        let c = PidNs::new(Some(b.clone()), user).unwrap();
        (a, b, c)
    }

    #[test]
    fn a_pid_of_the_third_level_has_three_numbers() {
        let (a, b, c) = nested();
        let _first = Pid::alloc(&a).unwrap();
        let pid = Pid::alloc(&c).unwrap();
        assert_eq!((pid.nr_in(&a), pid.nr_in(&b), pid.nr_in(&c)), (2, 1, 1));
        assert_eq!(pid.global(), 2);
        assert!(Ref::ptr_eq(&Pid::find(2, &a).unwrap(), &pid));
        assert!(Pid::find(2, &c).is_none());
        let outer = Pid::alloc(&a).unwrap();
        assert_eq!(outer.nr_in(&c), 0, "an inner namespace does not see outer pids");
    }

    #[test]
    fn a_number_is_not_reused_while_its_pid_is_held() {
        let (a, ..) = nested();
        let held = Pid::alloc(&a).unwrap();
        for _ in 0..PID_MAX * 2 {
            assert_ne!(Pid::alloc(&a).unwrap().global(), held.global());
        }
    }

    #[test]
    fn a_full_namespace_gives_eagain_and_recovers() {
        let (a, ..) = nested();
        let mut all = Vec::new();
        while let Ok(pid) = Pid::alloc(&a) {
            all.push(pid);
        }
        assert_eq!(all.len(), PID_MAX as usize - 1);
        assert_eq!(Pid::alloc(&a).err(), Some(Errno::EAGAIN));
        all.truncate(1000);
        assert!(Pid::alloc(&a).is_ok());
    }

    #[test]
    fn walking_by_number_skips_freed_pids() {
        let (a, ..) = nested();
        let pids: Vec<_> = (0..5).map(|_| Pid::alloc(&a).unwrap()).collect();
        let third = pids[2].global();
        let mut pids = pids;
        pids.remove(2);
        assert_eq!(Pid::find_from(third, &a).unwrap().global(), third + 1);
    }
}
