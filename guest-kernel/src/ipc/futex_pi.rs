//! Futexes with priority inheritance (futex(2), `FUTEX_LOCK_PI`): a lock whose word holds its owner's
//! thread number, and whose owner runs at least at the level of its most urgent waiter.
//!
//! The kernel knows of such a lock only while somebody waits for it. Letting go hands the lock over to
//! the first waiter at once, so no other thread slips in between. One spin lock guards all of it: PI
//! locks that are contended are few, and boosting follows a chain across several of them.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr;

use super::futex::{Key, fault_in_write, load_locked};
use crate::arch::uaccess;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::sched::{Deadline, Entity, SleepTimer, TaskState, current, schedule_in, wake_up};
use crate::sync::{SpinLock, SpinLockGuard};
use crate::uapi::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use crate::wait_channel;

/// Locks that a chain of waiting owners is followed across.
const MAX_CHAIN: usize = 64;

struct Waiter {
    entity: *const Entity,
    tid: u32,
    prio: i32,
}

/// A lock that somebody waits for.
struct PiState {
    key: Key,
    /// Where the word is in the memory of who waited first, or let go last.
    addr: u64,
    owner: *const Entity,
    /// The most urgent first; equals in the order in which they came.
    waiters: Vec<Waiter>,
}

// SAFETY: the entities live while they wait (they are on their way out of `lock` only under the lock)
// or own (`exit_pi_state` takes them off).
unsafe impl Send for PiState {}

type States = Vec<Box<PiState>>;

static STATES: SpinLock<States> = SpinLock::new(Vec::new());

impl PiState {
    fn add(&mut self, waiter: Waiter) -> Result<()> {
        self.waiters.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = self.waiters.partition_point(|w| w.prio <= waiter.prio);
        self.waiters.insert(at, waiter);
        Ok(())
    }
}

fn find(states: &mut States, key: Key) -> Option<usize> {
    states.iter().position(|s| s.key == key)
}

/// Gives `entity` the level that its waiters ask for, and passes a change on to whom it waits for itself.
fn adjust(states: &mut States, mut entity: *const Entity) {
    for _ in 0..MAX_CHAIN {
        let best = states
            .iter()
            .filter(|s| ptr::eq(s.owner, entity))
            .filter_map(|s| s.waiters.first().map(|w| w.prio))
            .min();
        // SAFETY: an owner, or somebody who waits: alive (see `PiState`).
        let prio = unsafe {
            (*entity).inherit_prio(best);
            (*entity).prio()
        };
        let waits = states.iter_mut().find_map(|s| {
            let at = s.waiters.iter().position(|w| ptr::eq(w.entity, entity))?;
            Some((s, at))
        });
        let Some((state, at)) = waits else { return };
        let mut waiter = state.waiters.remove(at);
        if waiter.prio == prio {
            state.waiters.insert(at, waiter);
            return;
        }
        waiter.prio = prio;
        let at = state.waiters.partition_point(|w| w.prio <= prio);
        state.waiters.insert(at, waiter);
        entity = state.owner;
    }
}

/// True if `owner` waits, perhaps through others, for a lock that `me` owns.
fn would_deadlock(states: &States, mut owner: *const Entity, me: *const Entity) -> bool {
    for _ in 0..MAX_CHAIN {
        if ptr::eq(owner, me) {
            return true;
        }
        let waits = |s: &PiState| s.waiters.iter().any(|w| ptr::eq(w.entity, owner));
        match states.iter().find(|s| waits(s)) {
            Some(state) => owner = state.owner,
            None => return false,
        }
    }
    true
}

/// What the kernel found when it looked at the word.
enum Attempt {
    Taken,
    Queued,
    /// The word's page was not there, or the word changed meanwhile.
    Again,
}

/// `FUTEX_LOCK_PI`, `FUTEX_TRYLOCK_PI`: takes the lock for the caller, whose number is `tid`, sleeping
/// while another holds it. `owner` finds a thread by number; it fails if there is none or it
/// exits.
///
/// `EDEADLK`, `ESRCH` (the owner is gone), `ETIMEDOUT`, `EAGAIN` for `try_only`, or `ERESTARTNOINTR` if a
/// signal came.
pub fn lock(
    addr: u64,
    private: bool,
    tid: u32,
    deadline: Deadline,
    try_only: bool,
    owner: impl Fn(u32) -> Result<*const Entity>,
) -> Result<()> {
    loop {
        let key = Key::of(addr, private)?;
        let mut states = STATES.lock();
        match attempt(&mut states, key, addr, tid, try_only, &owner)? {
            Attempt::Taken => return Ok(()),
            Attempt::Again => {
                drop(states);
                fault_in_write(addr)?;
            }
            Attempt::Queued => {
                sleep(states, key, deadline)?;
                // Woken without the lock if its owner died and could not hand it over.
                if UserPtr::<u32>::new(addr).read()? & FUTEX_TID_MASK == tid {
                    return Ok(());
                }
            }
        }
    }
}

fn attempt(
    states: &mut States,
    key: Key,
    addr: u64,
    tid: u32,
    try_only: bool,
    owner: &impl Fn(u32) -> Result<*const Entity>,
) -> Result<Attempt> {
    let Some(word) = load_locked(addr) else { return Ok(Attempt::Again) };
    let swap = |new| matches!(uaccess::cmpxchg_user_u32(addr, word, new), Ok(was) if was == word);
    let holder = word & FUTEX_TID_MASK;
    if holder == tid {
        return Err(Errno::EDEADLK);
    }
    if holder == 0 {
        let taken = swap(tid | (word & FUTEX_OWNER_DIED));
        return Ok(if taken { Attempt::Taken } else { Attempt::Again });
    }
    if try_only {
        return Err(Errno::EAGAIN);
    }
    let me: *const Entity = current();
    let at = match find(states, key) {
        Some(at) => at,
        None => {
            let owner = owner(holder)?;
            states.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            states.push(crate::mm::try_box(PiState { key, addr, owner, waiters: Vec::new() })?);
            states.len() - 1
        }
    };
    let forget_if_unused = |states: &mut States| {
        if states[at].waiters.is_empty() {
            states.swap_remove(at);
        }
    };
    let owner = states[at].owner;
    if would_deadlock(states, owner, me) {
        forget_if_unused(states);
        return Err(Errno::EDEADLK);
    }
    // From here on the owner cannot let go without the kernel.
    if !swap(word | FUTEX_WAITERS) {
        forget_if_unused(states);
        return Ok(Attempt::Again);
    }
    let waiter = Waiter { entity: me, tid, prio: current().prio() };
    if let Err(e) = states[at].add(waiter) {
        forget_if_unused(states);
        return Err(e);
    }
    adjust(states, owner);
    Ok(Attempt::Queued)
}

/// Sleeps until the lock was handed over: the caller is no waiter any more.
fn sleep(mut states: SpinLockGuard<'static, States>, key: Key, deadline: Deadline) -> Result<()> {
    let me = current();
    let timer = SleepTimer::new(deadline);
    let waits = |states: &mut States| {
        let state = find(states, key)?;
        let waiter = states[state].waiters.iter().position(|w| ptr::eq(w.entity, me))?;
        Some((state, waiter))
    };
    let result = loop {
        me.prepare_sleep(TaskState::INTERRUPTIBLE);
        let Some((state, waiter)) = waits(&mut states) else { break Ok(()) };
        let why = if timer.expired() {
            Errno::ETIMEDOUT
        } else if me.signal_pending() {
            Errno::ERESTARTNOINTR
        } else {
            drop(states);
            // SAFETY: the timer stays in this frame.
            unsafe { timer.arm() };
            schedule_in(wait_channel!("futex_lock_pi"));
            states = STATES.lock();
            continue;
        };
        states[state].waiters.remove(waiter);
        let owner = states[state].owner;
        if states[state].waiters.is_empty() {
            states.swap_remove(state);
        }
        adjust(&mut states, owner);
        break Err(why);
    };
    drop(states);
    me.cancel_sleep();
    result
}

/// Hands the lock to its first waiter: the word gets its number (and `flags`). False if the word could
/// not be written just now.
fn hand_over(states: &mut States, at: usize, word: u32, flags: u32) -> bool {
    let state = &mut states[at];
    let more = if state.waiters.len() > 1 { FUTEX_WAITERS } else { 0 };
    let new = state.waiters[0].tid | more | flags;
    if !matches!(uaccess::cmpxchg_user_u32(state.addr, word, new), Ok(was) if was == word) {
        return false;
    }
    let first = state.waiters.remove(0);
    let before = core::mem::replace(&mut state.owner, first.entity);
    if state.waiters.is_empty() {
        states.swap_remove(at);
    }
    adjust(states, before);
    adjust(states, first.entity);
    // SAFETY: it cannot leave `sleep` before it gets the lock that is held here.
    unsafe { wake_up(&*first.entity, TaskState::NORMAL) };
    true
}

/// `FUTEX_UNLOCK_PI`: lets go of the lock that the caller, `tid`, holds; `EPERM` if it does not.
pub fn unlock(addr: u64, private: bool, tid: u32) -> Result<()> {
    loop {
        let key = Key::of(addr, private)?;
        let mut states = STATES.lock();
        if let Some(word) = load_locked(addr) {
            if word & FUTEX_TID_MASK != tid {
                return Err(Errno::EPERM);
            }
            let done = match find(&mut states, key) {
                Some(at) => {
                    states[at].addr = addr;
                    hand_over(&mut states, at, word, 0)
                }
                None => matches!(uaccess::cmpxchg_user_u32(addr, word, 0), Ok(was) if was == word),
            };
            if done {
                return Ok(());
            }
        }
        drop(states);
        fault_in_write(addr)?;
    }
}

/// The current thread ends, or gets a new program: the locks that it holds go to their waiters, marked
/// `FUTEX_OWNER_DIED`. Its memory is still there.
pub fn exit_pi_state() {
    let me: *const Entity = current();
    let mut states = STATES.lock();
    while let Some(at) = states.iter().position(|s| ptr::eq(s.owner, me)) {
        let (key, addr) = (states[at].key, states[at].addr);
        drop(states);
        // The address is a waiter's; another process may have the word elsewhere.
        let ours = [true, false].iter().any(|private| Key::of(addr, *private) == Ok(key));
        let writable = ours && fault_in_write(addr).is_ok();
        states = STATES.lock();
        let Some(at) = find(&mut states, key).filter(|at| ptr::eq(states[*at].owner, me)) else {
            continue;
        };
        if !writable {
            // Its waiters find out for themselves.
            for waiter in states.swap_remove(at).waiters {
                // SAFETY: it cannot leave `sleep` before it gets the lock that is held here.
                unsafe { wake_up(&*waiter.entity, TaskState::NORMAL) };
            }
        } else if let Some(word) = load_locked(addr) {
            hand_over(&mut states, at, word, FUTEX_OWNER_DIED);
        }
    }
    drop(states);
    current().inherit_prio(None);
}

#[cfg(test)]
mod tests {
    use super::super::futex::testing::{address_space, enter, load, spawn, store};
    use super::*;
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::thread;

    static THREADS: Mutex<Option<HashMap<u32, usize>>> = Mutex::new(None);

    fn register(tid: u32) {
        let me = ptr::from_ref(current()) as usize;
        THREADS.lock().unwrap().get_or_insert_default().insert(tid, me);
    }

    fn owner(tid: u32) -> Result<*const Entity> {
        let mut threads = THREADS.lock().unwrap();
        let found = threads.get_or_insert_default().get(&tid).copied();
        found.map(|address| address as *const Entity).ok_or(Errno::ESRCH)
    }

    fn take(addr: u64, tid: u32) -> Result<()> {
        lock(addr, true, tid, Deadline::NEVER, false, owner)
    }

    #[test]
    fn the_lock_is_handed_from_thread_to_thread() {
        let (root, base) = address_space();
        static INSIDE: AtomicU32 = AtomicU32::new(0);
        let threads: Vec<_> = (1000..1004)
            .map(|tid| {
                spawn(root, move || {
                    register(tid);
                    for _ in 0..200 {
                        if uaccess::cmpxchg_user_u32(base, 0, tid) != Ok(0) {
                            take(base, tid).unwrap();
                        }
                        assert_eq!(INSIDE.fetch_add(1, SeqCst), 0);
                        thread::yield_now();
                        INSIDE.fetch_sub(1, SeqCst);
                        if uaccess::cmpxchg_user_u32(base, tid, 0) != Ok(tid) {
                            unlock(base, true, tid).unwrap();
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        enter(root);
        assert_eq!(load(base), 0);
    }

    #[test]
    fn an_owner_inherits_the_level_of_its_waiter_until_it_lets_go() {
        let (root, base) = address_space();
        enter(root);
        let (word, tid, waiter) = (base + 64, 2000, 2001);
        register(tid);
        take(word, tid).unwrap();
        assert_eq!(take(word, tid), Err(Errno::EDEADLK));
        let urgent = spawn(root, move || {
            register(waiter);
            current().set_scheduler(crate::sched::Policy::Fifo, 0, 50).unwrap();
            take(word, waiter).unwrap();
            assert_eq!(load(word) & FUTEX_TID_MASK, waiter);
            unlock(word, true, waiter).unwrap();
        });
        while load(word) & FUTEX_WAITERS == 0 || current().prio() != 49 {
            thread::yield_now();
        }
        unlock(word, true, tid).unwrap();
        assert!(current().prio() >= 100);
        assert_eq!(unlock(word, true, tid), Err(Errno::EPERM));
        urgent.join().unwrap();
        assert_eq!(load(word), 0);
    }

    #[test]
    fn timeouts_dead_owners_and_unknown_ones_are_reported() {
        let (root, base) = address_space();
        enter(root);
        let word = base + 128;
        store(word, 3999);
        let soon = || Deadline::after(1_000_000);
        assert_eq!(lock(word, true, 3000, soon(), false, owner), Err(Errno::ESRCH));
        assert_eq!(lock(word, true, 3000, soon(), true, owner), Err(Errno::EAGAIN));
        store(word, 0);
        let holder = spawn(root, move || {
            register(3001);
            take(word, 3001).unwrap();
            // The waiter lends its level only while it waits: now it does.
            while current().prio() != 49 {
                thread::yield_now();
            }
            exit_pi_state();
        });
        while load(word) == 0 {
            thread::yield_now();
        }
        register(3000);
        assert_eq!(lock(word, true, 3000, soon(), false, owner), Err(Errno::ETIMEDOUT));
        current().set_scheduler(crate::sched::Policy::Fifo, 0, 50).unwrap();
        take(word, 3000).unwrap();
        assert_eq!(load(word), 3000 | FUTEX_OWNER_DIED);
        holder.join().unwrap();
        unlock(word, true, 3000).unwrap();
        assert_eq!(load(word), 0);
    }
}
