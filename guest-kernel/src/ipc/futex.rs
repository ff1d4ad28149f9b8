//! Futexes (futex(2)): sleeping on a word of user memory until another thread says that it changed.
//!
//! A futex exists only while somebody sleeps on it: waiters hang in a hash table by [`Key`], which
//! names the word independently of where it is mapped. The comparison that decides whether to sleep
//! happens under the bucket's lock, with page faults off: a page that is not there ends the attempt,
//! is brought in without the lock, and the attempt starts again.
//!
//! The waker's last touch of a waiter is to clear its `bucket`; a waiter that finds that cleared may
//! go. One that finds it set takes the bucket's lock, and so waits for the waker.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::arch::{access_ok, uaccess};
use crate::errno::{Errno, Result};
use crate::list::{Link, List};
use crate::list_link;
use crate::mm::UserPtr;
use crate::sched::{Deadline, Entity, SleepTimer, TaskState, current, schedule_in, wake_up};
use crate::sync::{SpinLock, SpinLockGuard};
use crate::uapi::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use crate::wait_channel;

/// Matches every waiter.
pub const BITSET_ANY: u32 = !0;

/// Names a futex: the memory object that the word lies in (an address space for private memory, a page
/// cache for shared memory) and where in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    object: u64,
    offset: u64,
}

/// Who sleeps on a futex; lives on the sleeper's stack.
#[repr(C)]
struct Waiter {
    link: Link,
    /// Changed by a requeue, under the locks of both buckets.
    key: Cell<Key>,
    bitset: u32,
    entity: *const Entity,
    /// Where it is queued; null once it was woken.
    bucket: AtomicPtr<Bucket>,
}

// SAFETY: it is touched under its bucket's lock, `bucket` apart.
unsafe impl Sync for Waiter {}
// SAFETY: as above.
unsafe impl Send for Waiter {}

list_link! {
    /// Links the waiters of a bucket.
    Waiter, link: WaiterLink
}

type Waiters = List<Waiter, WaiterLink>;
type Bucket = SpinLock<Waiters>;

static BUCKETS: [Bucket; 256] = [const { SpinLock::new(List::new()) }; 256];

impl Key {
    /// The key of the word at `addr`. `EINVAL` if it is not aligned, `EFAULT` if nothing is there. With
    /// `private` the caller promises that nobody shares the word across address spaces.
    pub(super) fn of(addr: u64, private: bool) -> Result<Self> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if !access_ok(addr, 4) {
            return Err(Errno::EFAULT);
        }
        let Some(mm) = current().mm() else {
            return Ok(Self { object: 0, offset: addr });
        };
        if !private && let Some((object, page)) = mm.shared_key(addr)? {
            let offset = (page << crate::addr::PAGE_SHIFT) | (addr & crate::addr::PAGE_MASK as u64);
            return Ok(Self { object, offset });
        }
        Ok(Self { object: ptr::from_ref(&**mm) as u64, offset: addr })
    }

    fn bucket(self) -> &'static Bucket {
        // Fibonacci hashing: the top bits of a product with 2^64 / phi.
        let hash =
            (self.object.rotate_left(32) ^ (self.offset >> 2)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &BUCKETS[(hash >> 56) as usize]
    }
}

impl Waiter {
    fn new(key: Key, bitset: u32) -> Self {
        Self {
            link: Link::new(),
            key: Cell::new(key),
            bitset,
            entity: current(),
            bucket: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Queues it.
    ///
    /// # Safety
    /// `waiters` is `bucket`'s list, locked; the waiter stays in place until its `bucket` is null.
    unsafe fn enqueue(&self, bucket: &'static Bucket, waiters: &Waiters) {
        // SAFETY: the caller's promise.
        unsafe { waiters.push_back(self) };
        self.bucket.store(ptr::from_ref(bucket).cast_mut(), Ordering::Relaxed);
    }

    /// Locks the bucket that it is queued in; `None` once it was woken.
    fn lock(&self) -> Option<SpinLockGuard<'static, Waiters>> {
        loop {
            let bucket = self.bucket.load(Ordering::Acquire);
            // SAFETY: buckets are statics.
            let waiters = unsafe { bucket.as_ref() }?.lock();
            if self.bucket.load(Ordering::Relaxed) == bucket {
                return Some(waiters);
            }
        }
    }

    /// Wakes its sleeper and takes it off. Afterwards it may be gone.
    ///
    /// # Safety
    /// `waiters` is the list that it is on, locked.
    unsafe fn wake(&self, waiters: &Waiters) {
        // SAFETY: the caller's promise.
        unsafe { waiters.remove(self) };
        // SAFETY: the sleeper does not go before `bucket` is null.
        unsafe { wake_up(&*self.entity, TaskState::NORMAL) };
        self.bucket.store(ptr::null_mut(), Ordering::Release);
    }
}

/// Reads the word with page faults off; on failure brings the page in (`EFAULT` if there is none) and
/// says so with `None`: the caller lets go of its locks and starts again.
pub(super) fn load_locked(addr: u64) -> Option<u32> {
    uaccess::load_user_u32(addr).ok()
}

/// Brings the word's page in for reading.
fn fault_in(addr: u64) -> Result<()> {
    UserPtr::<u32>::new(addr).read().map(drop)
}

/// Brings the word's page in for writing, without changing the word.
pub(super) fn fault_in_write(addr: u64) -> Result<()> {
    let now = UserPtr::<u32>::new(addr).read()?;
    uaccess::cmpxchg_user_u32(addr, now, now).map(drop).map_err(|_| Errno::EFAULT)
}

/// `FUTEX_WAIT`, `FUTEX_WAIT_BITSET`: sleeps until woken, if the word is `value`. `EAGAIN` if it is not,
/// `ETIMEDOUT`, or `ERESTARTSYS` if a signal came.
pub fn wait(addr: u64, private: bool, value: u32, bitset: u32, deadline: Deadline) -> Result<()> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    loop {
        let key = Key::of(addr, private)?;
        let bucket = key.bucket();
        let waiter = Waiter::new(key, bitset);
        let waiters = bucket.lock();
        match load_locked(addr) {
            None => {
                drop(waiters);
                fault_in(addr)?;
                continue;
            }
            Some(now) if now != value => return Err(Errno::EAGAIN),
            Some(_) => {}
        }
        // SAFETY: the bucket is locked; `sleep` returns only once the waiter is off.
        unsafe { waiter.enqueue(bucket, &waiters) };
        return sleep(&waiter, waiters, deadline);
    }
}

/// Sleeps until the queued `waiter` was woken.
fn sleep(
    waiter: &Waiter,
    mut waiters: SpinLockGuard<'static, Waiters>,
    deadline: Deadline,
) -> Result<()> {
    let me = current();
    let timer = SleepTimer::new(deadline);
    let result = loop {
        me.prepare_sleep(TaskState::INTERRUPTIBLE);
        drop(waiters);
        // SAFETY: the timer stays in this frame.
        unsafe { timer.arm() };
        if !me.signal_pending() && !timer.expired() {
            schedule_in(wait_channel!("futex_wait"));
        }
        match waiter.lock() {
            None => break Ok(()),
            Some(locked) => waiters = locked,
        }
        let why = if timer.expired() {
            Errno::ETIMEDOUT
        } else if me.signal_pending() {
            Errno::ERESTARTSYS
        } else {
            continue;
        };
        // SAFETY: the lock of the list that it is on is held.
        unsafe { waiters.remove(waiter) };
        waiter.bucket.store(ptr::null_mut(), Ordering::Relaxed);
        break Err(why);
    };
    me.cancel_sleep();
    result
}

/// Wakes up to `n` of the list's waiters for `key` that match `bitset`.
///
/// # Safety
/// `waiters` is the list of the key's bucket, locked.
unsafe fn wake_matching(waiters: &Waiters, key: Key, bitset: u32, n: u32) -> u32 {
    let mut woken = 0;
    for waiter in waiters.iter() {
        if woken == n {
            break;
        }
        if waiter.key.get() == key && waiter.bitset & bitset != 0 {
            // SAFETY: the caller's promise; the iterator has gone on already.
            unsafe { waiter.wake(waiters) };
            woken += 1;
        }
    }
    woken
}

/// `FUTEX_WAKE`, `FUTEX_WAKE_BITSET`: wakes up to `n` waiters whose bit sets meet `bitset`; says how many.
pub fn wake(addr: u64, private: bool, n: u32, bitset: u32) -> Result<u32> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::of(addr, private)?;
    let waiters = key.bucket().lock();
    // SAFETY: the bucket is locked.
    Ok(unsafe { wake_matching(&waiters, key, bitset, n) })
}

/// Two buckets, locked in the order of their addresses; one guard if they are the same.
struct Pair {
    first: SpinLockGuard<'static, Waiters>,
    second: Option<SpinLockGuard<'static, Waiters>>,
    swapped: bool,
}

impl Pair {
    fn lock(a: &'static Bucket, b: &'static Bucket) -> Self {
        let swapped = ptr::from_ref(b) < ptr::from_ref(a);
        let (low, high) = if swapped { (b, a) } else { (a, b) };
        let first = low.lock();
        let second = (!ptr::eq(low, high)).then(|| high.lock());
        Self { first, second, swapped }
    }

    fn a(&self) -> &Waiters {
        if self.swapped { self.second.as_ref().unwrap_or(&self.first) } else { &self.first }
    }

    fn b(&self) -> &Waiters {
        if self.swapped { &self.first } else { self.second.as_ref().unwrap_or(&self.first) }
    }
}

/// `FUTEX_REQUEUE`, `FUTEX_CMP_REQUEUE`: wakes up to `wake` waiters of `addr` and moves up to `requeue` more
/// to `addr2`. With `expected` the word must have that value, else `EAGAIN`. Says how many were woken or
/// moved.
pub fn requeue(
    addr: u64,
    addr2: u64,
    private: bool,
    wake: u32,
    requeue: u32,
    expected: Option<u32>,
) -> Result<u32> {
    loop {
        let (key, key2) = (Key::of(addr, private)?, Key::of(addr2, private)?);
        let bucket2 = key2.bucket();
        let pair = Pair::lock(key.bucket(), bucket2);
        if let Some(expected) = expected {
            match load_locked(addr) {
                None => {
                    drop(pair);
                    fault_in(addr)?;
                    continue;
                }
                Some(now) if now != expected => return Err(Errno::EAGAIN),
                Some(_) => {}
            }
        }
        // SAFETY: the bucket is locked.
        let woken = unsafe { wake_matching(pair.a(), key, BITSET_ANY, wake) };
        let mut moved = 0;
        if key != key2 {
            for waiter in pair.a().iter() {
                if moved == requeue {
                    break;
                }
                if waiter.key.get() == key {
                    waiter.key.set(key2);
                    // SAFETY: both buckets are locked, and the waiter is on the first one's list.
                    unsafe {
                        pair.a().remove(waiter);
                        waiter.enqueue(bucket2, pair.b());
                    }
                    moved += 1;
                }
            }
        }
        return Ok(woken + moved);
    }
}

/// The operation and comparison of `FUTEX_WAKE_OP`, as futex(2) packs them.
#[derive(Clone, Copy)]
struct WakeOp(u32);

impl WakeOp {
    /// Sign-extends 12 bits.
    fn signed(bits: u32) -> i32 {
        ((bits << 20) as i32) >> 20
    }

    fn apply(self, old: u32) -> Result<u32> {
        let mut arg = Self::signed(self.0 >> 12) as u32;
        if self.0 >> 28 & 8 != 0 {
            arg = 1 << (arg & 31);
        }
        Ok(match self.0 >> 28 & 7 {
            0 => arg,
            1 => old.wrapping_add(arg),
            2 => old | arg,
            3 => old & !arg,
            4 => old ^ arg,
            _ => return Err(Errno::ENOSYS),
        })
    }

    fn compare(self, old: u32) -> Result<bool> {
        let (old, arg) = (old as i32, Self::signed(self.0));
        Ok(match self.0 >> 24 & 15 {
            0 => old == arg,
            1 => old != arg,
            2 => old < arg,
            3 => old <= arg,
            4 => old > arg,
            5 => old >= arg,
            _ => return Err(Errno::ENOSYS),
        })
    }
}

/// `FUTEX_WAKE_OP`: changes the word at `addr2` atomically, wakes up to `n` waiters of `addr` and, if the old
/// value of the other word compares as told, up to `n2` of its waiters.
pub fn wake_op(addr: u64, addr2: u64, private: bool, n: u32, n2: u32, op: u32) -> Result<u32> {
    let op = WakeOp(op);
    op.apply(0)?;
    op.compare(0)?;
    'retry: loop {
        let (key, key2) = (Key::of(addr, private)?, Key::of(addr2, private)?);
        let pair = Pair::lock(key.bucket(), key2.bucket());
        let Some(mut old) = load_locked(addr2) else {
            drop(pair);
            fault_in_write(addr2)?;
            continue;
        };
        loop {
            match uaccess::cmpxchg_user_u32(addr2, old, op.apply(old)?) {
                Ok(was) if was == old => break,
                Ok(was) => old = was,
                Err(_) => {
                    drop(pair);
                    fault_in_write(addr2)?;
                    continue 'retry;
                }
            }
        }
        // SAFETY: both buckets are locked.
        let mut woken = unsafe { wake_matching(pair.a(), key, BITSET_ANY, n) };
        if op.compare(old)? {
            // SAFETY: as above.
            woken += unsafe { wake_matching(pair.b(), key2, BITSET_ANY, n2) };
        }
        return Ok(woken);
    }
}

/// Wakes waiters of a word that may be shared: what exit does for `clear_child_tid`.
pub fn futex_wake_user(addr: u64, n: u32) -> Result<u32> {
    wake(addr, false, n, BITSET_ANY)
}

/// Most entries of a robust list that are looked at: it is the program's, and may be a circle.
const ROBUST_LIST_LIMIT: usize = 2048;

/// The current thread, `tid`, ends: locks on its robust list that it still holds are marked
/// (`FUTEX_OWNER_DIED`), and one waiter each is woken. What cannot be read ends the walk.
pub fn exit_robust_list(head: u64, tid: u32) {
    let word = |addr: u64| UserPtr::<u64>::new(addr).read();
    let walk = || -> Result<()> {
        let mut entry = word(head)?;
        let offset = word(head.wrapping_add(8))?;
        let pending = word(head.wrapping_add(16))?;
        for _ in 0..ROBUST_LIST_LIMIT {
            if entry & !1 == head {
                break;
            }
            // The next one is read first: the lock's new owner may change this one at once.
            let next = word(entry & !1);
            if entry != pending {
                owner_died((entry & !1).wrapping_add(offset), tid, entry & 1 != 0, false)?;
            }
            entry = next?;
        }
        if pending & !1 != 0 {
            owner_died((pending & !1).wrapping_add(offset), tid, pending & 1 != 0, true)?;
        }
        Ok(())
    };
    // A list that lies is the program's own loss.
    let _ = walk();
}

/// Marks the lock at `addr` if `tid` holds it. `pending`: it was being taken or let go of.
fn owner_died(addr: u64, tid: u32, pi: bool, pending: bool) -> Result<()> {
    if !addr.is_multiple_of(4) {
        return Err(Errno::EFAULT);
    }
    let mut now = UserPtr::<u32>::new(addr).read()?;
    loop {
        // Let go of in user space already, the wake-up not sent any more: somebody else must not miss it.
        if pending && !pi && now & FUTEX_TID_MASK == 0 {
            futex_wake_user(addr, 1)?;
            return Ok(());
        }
        if now & FUTEX_TID_MASK != tid {
            return Ok(());
        }
        let dead = (now & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
        let was = uaccess::cmpxchg_user_u32(addr, now, dead).map_err(|_| Errno::EFAULT)?;
        if was == now {
            break;
        }
        now = was;
    }
    if now & FUTEX_WAITERS != 0 && !pi {
        futex_wake_user(addr, 1)?;
    }
    Ok(())
}

/// User memory for tests.
#[cfg(test)]
pub(super) mod testing {
    use crate::addr::{PhysAddr, VirtAddr};
    use crate::arch::activate_user;
    use crate::arch::paging::{LEVELS, Prot, Pte, index, table_at};
    use crate::mm::{AllocFlags, UserPtr, alloc_page};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    /// Tables that map one zeroed, writable page, and where it lies: nowhere else in any test, because
    /// tests have no address space objects that would tell their futexes apart.
    pub fn address_space() -> (PhysAddr, u64) {
        static NEXT: AtomicU64 = AtomicU64::new(0x1_0000);
        let base = NEXT.fetch_add(0x1000, Ordering::Relaxed);
        crate::mm::testing::setup();
        let page = || alloc_page(AllocFlags::ZERO).unwrap().into_phys();
        let root = page();
        let mut table = root;
        for level in 0..LEVELS {
            let last = level == LEVELS - 1;
            let below = page();
            let pte = if last { Pte::user_page(below, Prot::WRITE) } else { Pte::table(below) };
            // SAFETY: a page of this test's own.
            let entries = unsafe { table_at(table) };
            entries[index(VirtAddr(base), level)].store(pte);
            table = below;
        }
        (root, base)
    }

    /// Runs `f` in a thread of that address space.
    pub fn spawn<R: Send + 'static>(
        root: PhysAddr,
        f: impl FnOnce() -> R + Send + 'static,
    ) -> thread::JoinHandle<R> {
        thread::spawn(move || {
            enter(root);
            f()
        })
    }

    /// Makes that the address space of this thread.
    pub fn enter(root: PhysAddr) {
        // SAFETY: the tables of a test are never freed.
        unsafe { activate_user(root, 1) };
    }

    /// Writes a word.
    pub fn store(addr: u64, value: u32) {
        UserPtr::<u32>::new(addr).write(value).unwrap();
    }

    /// Reads a word.
    pub fn load(addr: u64) -> u32 {
        UserPtr::<u32>::new(addr).read().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{address_space, enter, load, spawn, store};
    use super::*;
    use crate::addr::PhysAddr;
    use crate::arch::ThreadFlags;
    use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
    use std::thread;

    /// Wakes until `n` were woken: sleepers may still be on their way.
    fn wake_all_of(addr: u64, n: u32) {
        let mut woken = 0;
        while woken < n {
            woken += wake(addr, true, n - woken, BITSET_ANY).unwrap();
            thread::yield_now();
        }
    }

    #[test]
    fn waiting_for_what_has_changed_already_does_not_sleep() {
        let (root, base) = address_space();
        enter(root);
        store(base, 7);
        assert_eq!(wait(base, true, 6, BITSET_ANY, Deadline::NEVER), Err(Errno::EAGAIN));
        let deadline = Deadline::after(1_000_000);
        assert_eq!(wait(base, true, 7, BITSET_ANY, deadline), Err(Errno::ETIMEDOUT));
        current().thread.info.set(ThreadFlags::SIGPENDING);
        assert_eq!(wait(base, true, 7, BITSET_ANY, Deadline::NEVER), Err(Errno::ERESTARTSYS));
        current().thread.info.clear(ThreadFlags::SIGPENDING);
        assert_eq!(wait(base, true, 7, 0, Deadline::NEVER), Err(Errno::EINVAL));
        assert_eq!(wait(base + 1, true, 7, 1, Deadline::NEVER), Err(Errno::EINVAL));
        assert_eq!(wait(0x999_0000, true, 7, 1, Deadline::NEVER), Err(Errno::EFAULT));
        assert_eq!(wait(!3, true, 7, 1, Deadline::NEVER), Err(Errno::EFAULT));
        assert_eq!(wake(base, true, 1, BITSET_ANY), Ok(0));
    }

    #[test]
    fn a_mutex_built_on_it_keeps_threads_apart() {
        let (root, base) = address_space();
        static INSIDE: AtomicU32 = AtomicU32::new(0);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                spawn(root, move || {
                    for _ in 0..300 {
                        // 0 free, 1 taken, 2 taken with waiters.
                        let mut state = uaccess::cmpxchg_user_u32(base, 0, 1).unwrap();
                        while state != 0 {
                            if state == 2 || uaccess::cmpxchg_user_u32(base, 1, 2).unwrap() != 0 {
                                let _ = wait(base, true, 2, BITSET_ANY, Deadline::NEVER);
                            }
                            state = uaccess::cmpxchg_user_u32(base, 0, 2).unwrap();
                        }
                        assert_eq!(INSIDE.fetch_add(1, SeqCst), 0);
                        thread::yield_now();
                        INSIDE.fetch_sub(1, SeqCst);
                        let was = load(base);
                        store(base, 0);
                        if was == 2 {
                            wake(base, true, 1, BITSET_ANY).unwrap();
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(load_in(root, base) & 1, 0);
    }

    fn load_in(root: PhysAddr, addr: u64) -> u32 {
        enter(root);
        load(addr)
    }

    #[test]
    fn bit_sets_choose_the_waiter() {
        let (root, base) = address_space();
        enter(root);
        let waiters: Vec<_> = [1, 2]
            .map(|bits| {
                spawn(root, move || wait(base + 64, true, 0, bits, Deadline::NEVER).map(|()| bits))
            })
            .into();
        let mut woken = 0;
        while woken == 0 {
            woken = wake(base + 64, true, 9, 2).unwrap();
        }
        assert_eq!(woken, 1);
        let mut waiters = waiters.into_iter();
        let first = waiters.next().unwrap();
        assert_eq!(waiters.next().unwrap().join().unwrap(), Ok(2));
        assert!(!first.is_finished());
        wake_all_of(base + 64, 1);
        assert_eq!(first.join().unwrap(), Ok(1));
    }

    #[test]
    fn requeued_waiters_are_woken_at_the_other_word() {
        let (root, base) = address_space();
        enter(root);
        static ASLEEP: AtomicUsize = AtomicUsize::new(0);
        let (a, b) = (base + 128, base + 256);
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                spawn(root, move || {
                    ASLEEP.fetch_add(1, SeqCst);
                    wait(a, true, 0, BITSET_ANY, Deadline::NEVER)
                })
            })
            .collect();
        assert_eq!(requeue(a, b, true, 1, 9, Some(5)), Err(Errno::EAGAIN));
        let mut total = 0;
        while total < 3 {
            // Never wakes: only moves.
            total += requeue(a, b, true, 0, 9, Some(0)).unwrap();
        }
        assert_eq!(wake(a, true, 9, BITSET_ANY), Ok(0));
        assert_eq!(wake(b, true, 9, BITSET_ANY), Ok(3));
        waiters.into_iter().for_each(|t| assert_eq!(t.join().unwrap(), Ok(())));
    }

    #[test]
    fn wake_op_changes_compares_and_wakes() {
        let (root, base) = address_space();
        enter(root);
        let (a, b) = (base + 512, base + 516);
        store(b, 5);
        // b += 1, and no waiter is woken: the old value is not greater than 5.
        assert_eq!(wake_op(a, b, true, 1, 1, (1 << 28) | (4 << 24) | (1 << 12) | 5), Ok(0));
        assert_eq!(load(b), 6);
        // b |= 0; wake b's waiters if the old value was greater than 5.
        let waiter = spawn(root, move || wait(b, true, 6, BITSET_ANY, Deadline::NEVER));
        while wake_op(a, b, true, 1, 1, (2 << 28) | (4 << 24) | 5) == Ok(0) {
            thread::yield_now();
        }
        assert_eq!(waiter.join().unwrap(), Ok(()));
        assert_eq!(wake_op(a, b, true, 1, 1, 15 << 24), Err(Errno::ENOSYS));
        assert_eq!(WakeOp(0x0_fff_fff).compare(!0), Ok(true));
        assert_eq!(WakeOp(8 << 28 | 3 << 12).apply(0), Ok(8));
    }

    #[test]
    fn a_dead_owner_leaves_a_mark_on_its_locks_only() {
        let (root, base) = address_space();
        enter(root);
        let head = base + 0x800;
        let (mine, others, pending) = (base + 0x900, base + 0xa00, base + 0xb00);
        let word = |addr: u64, value: u64| UserPtr::<u64>::new(addr).write(value).unwrap();
        // Entries lie 16 bytes before their lock words; the list goes round.
        word(head, mine - 16);
        word(head + 8, 16);
        word(head + 16, pending - 16);
        word(mine - 16, others - 16);
        word(others - 16, head);
        store(mine, 42 | FUTEX_WAITERS);
        store(others, 43);
        store(pending, 42);
        exit_robust_list(head, 42);
        assert_eq!(load(mine), FUTEX_WAITERS | FUTEX_OWNER_DIED);
        assert_eq!(load(others), 43);
        assert_eq!(load(pending), FUTEX_OWNER_DIED);
        // A list that never comes back to its head ends all the same.
        word(others - 16, mine - 16);
        exit_robust_list(head, 42);
        exit_robust_list(0x7777_0000, 42);
    }
}
