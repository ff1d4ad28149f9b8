//! Wait queues: sleeping until somebody says that a condition may have become true.
//!
//! The sleeper queues itself, sets its state, *then* checks the condition, then calls `schedule`; the
//! waker makes the condition true, *then* wakes. Whichever order the two come in, the sleeper sees
//! the condition or the waker sees the sleeper: no wake-up is lost. The macros do all of it:
//!
//! ```text
//! wait_event!(self.writers, !self.is_full());                       // until it is true
//! wait_event_interruptible!(self.readers, !self.is_empty())?;       // or ERESTARTSYS
//! wait_event_timeout!(self.done, self.is_done(), Deadline::after(MS))?;  // or ETIMEDOUT
//! self.readers.wake_one();
//! ```
//!
//! The condition is checked with the state already set, so it should not sleep itself (it may take
//! spin locks; a sleeping lock inside it costs one more round).
//!
//! Waking one costs the same however many sleep: exclusive waiters queue at the end and one wake-up
//! stops after the first of them; non-exclusive ones (poll) are before them and all woken.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering, Ordering::Relaxed, fence};

use super::clock::Deadline;
use super::entity::{Entity, WaitChannel, current};
use super::schedule::{schedule_in, wake_up};
use super::state::TaskState;
use super::timer::SleepTimer;
use crate::errno::{Errno, Result};
use crate::list::{Link, List};
use crate::list_link;
use crate::sync::IrqLock;

/// Who waits, and how. It may not move while it is queued.
#[repr(C)]
pub struct WaitEntry {
    link: Link,
    /// Called under the queue's lock; true if it woke somebody, and the entry leaves the queue.
    wake: fn(&WaitEntry, u32) -> bool,
    entity: Cell<*const Entity>,
    states: Cell<u32>,
    exclusive: bool,
    queued: AtomicBool,
}

// SAFETY: everything but `queued` is touched under the queue's lock once the entry is queued.
unsafe impl Send for WaitEntry {}
// SAFETY: as above.
unsafe impl Sync for WaitEntry {}

list_link! {
    /// Links the entries of a wait queue.
    WaitEntry, link: WaitLink
}

/// A queue of those who wait for something to happen. It must not move while somebody waits.
#[repr(C)]
pub struct WaitQueue {
    entries: IrqLock<List<WaitEntry, WaitLink>>,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitEntry {
    /// Wakes the current entity; non-exclusive.
    pub fn new() -> Self {
        Self::with(Self::wake_entity, false)
    }

    /// Wakes the current entity; a wake-up of one ends with it.
    pub fn new_exclusive() -> Self {
        Self::with(Self::wake_entity, true)
    }

    /// Calls `wake` (under the queue's lock, interrupts off) with the key of the wake-up; it says whether
    /// it took it, and then the entry leaves the queue. For poll: one entry for each queue.
    pub fn with(wake: fn(&WaitEntry, u32) -> bool, exclusive: bool) -> Self {
        Self {
            link: Link::new(),
            wake,
            entity: Cell::new(current()),
            states: Cell::new(TaskState::NORMAL.bits()),
            exclusive,
            queued: AtomicBool::new(false),
        }
    }

    fn wake_entity(entry: &WaitEntry, _key: u32) -> bool {
        // SAFETY: the entity made the entry and does not go away before it is off the queue.
        unsafe { wake_up(&*entry.entity.get(), TaskState::from_bits_retain(entry.states.get())) }
    }

    /// The entity that made the entry.
    pub fn entity(&self) -> &Entity {
        // SAFETY: as above.
        unsafe { &*self.entity.get() }
    }

    /// True while it is on a queue.
    #[inline]
    pub fn is_queued(&self) -> bool {
        self.queued.load(Ordering::Acquire)
    }
}

impl Default for WaitEntry {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for WaitEntry {
    fn drop(&mut self) {
        debug_assert!(!*self.queued.get_mut(), "a wait entry leaves its queue before it goes");
    }
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { entries: IrqLock::new(List::new()) }
    }

    /// True if somebody waits. Orders the caller's change before the look, so that "change, then wake if
    /// somebody waits" loses no wake-up.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: a racy look at one pointer; a waiter that is missed sees the caller's change.
        unsafe { !(*self.entries.data_ptr()).is_empty() }
    }

    /// Queues `entry`: non-exclusive ones before exclusive ones.
    ///
    /// # Safety
    /// The entry and the queue stay alive and in place until [`remove`](Self::remove) returned.
    pub unsafe fn add(&self, entry: &WaitEntry) {
        let entries = self.entries.lock();
        if !entry.queued.load(Relaxed) {
            entry.queued.store(true, Relaxed);
            // SAFETY: the lock is held; the caller's promise.
            unsafe {
                if entry.exclusive { entries.push_back(entry) } else { entries.push_front(entry) }
            }
        }
    }

    /// Takes `entry` off, if a wake-up has not done so.
    pub fn remove(&self, entry: &WaitEntry) {
        // Not queued any more: the waker's last touch was to say so.
        if entry.is_queued() {
            let entries = self.entries.lock();
            if entry.queued.load(Relaxed) {
                // SAFETY: the lock is held.
                unsafe { entries.remove(entry) };
                entry.queued.store(false, Relaxed);
            }
        }
    }

    /// Queues `entry`, if it is not, and sets the current entity's state: check the condition next.
    ///
    /// # Safety
    /// As for [`add`](Self::add).
    #[inline]
    pub unsafe fn prepare_to_wait(&self, entry: &WaitEntry, state: TaskState) {
        entry.states.set(state.bits() & !TaskState::NOLOAD.bits());
        // SAFETY: the caller's promise.
        unsafe { self.add(entry) };
        current().prepare_sleep(state);
    }

    /// Undoes [`prepare_to_wait`](Self::prepare_to_wait).
    #[inline]
    pub fn finish_wait(&self, entry: &WaitEntry) {
        current().cancel_sleep();
        self.remove(entry);
    }

    /// Wakes all non-exclusive waiters and up to `nr_exclusive` exclusive ones, and says how many of the
    /// latter took it. `key` goes to entries with a function of their own (poll: the events).
    pub fn wake(&self, nr_exclusive: usize, key: u32) -> usize {
        let mut woken = 0;
        let entries = self.entries.lock();
        for entry in entries.iter() {
            let exclusive = entry.exclusive;
            if exclusive && woken == nr_exclusive {
                break;
            }
            if (entry.wake)(entry, key) {
                // SAFETY: the lock is held; the iterator has gone on already.
                unsafe { entries.remove(entry) };
                // The last touch: after it the entry may be gone.
                entry.queued.store(false, Ordering::Release);
                woken += usize::from(exclusive);
            }
        }
        woken
    }

    /// Wakes one exclusive waiter and all others.
    #[inline]
    pub fn wake_one(&self) {
        if self.has_waiters() {
            self.wake(1, !0);
        }
    }

    /// Wakes up to `n` exclusive waiters and all others.
    #[inline]
    pub fn wake_n(&self, n: usize) {
        if self.has_waiters() {
            self.wake(n, !0);
        }
    }

    /// Wakes all.
    #[inline]
    pub fn wake_all(&self) {
        if self.has_waiters() {
            self.wake(usize::MAX, !0);
        }
    }

    /// Wakes one exclusive waiter and all others; tells pollers which events came.
    #[inline]
    pub fn wake_poll(&self, events: u32) {
        if self.has_waiters() {
            self.wake(1, events);
        }
    }

    /// Sleeps until `condition` is true; `ERESTARTSYS` if a fatal signal comes first.
    pub fn wait_killable(&self, condition: impl FnMut() -> bool) -> Result<()> {
        self.wait_until(Wait::new(TaskState::KILLABLE, crate::wait_channel!()), condition)
    }

    /// Sleeps in `how.state` until `condition` is true, the deadline comes (`ETIMEDOUT`) or a signal that
    /// the state allows (`ERESTARTSYS`). The macros below call it.
    pub fn wait_until(&self, how: Wait, mut condition: impl FnMut() -> bool) -> Result<()> {
        let entry = WaitEntry::with(WaitEntry::wake_entity, how.exclusive);
        let timer = SleepTimer::new(how.deadline);
        let result = loop {
            // SAFETY: `finish_wait` below runs before entry or queue go.
            unsafe { self.prepare_to_wait(&entry, how.state) };
            if condition() {
                break Ok(());
            }
            if current().sleep_ends(how.state) {
                break Err(Errno::ERESTARTSYS);
            }
            if how.deadline.has_passed() {
                break Err(Errno::ETIMEDOUT);
            }
            // SAFETY: the timer stays in this frame.
            unsafe { timer.arm() };
            schedule_in(how.channel);
        };
        let woken = !entry.is_queued();
        self.finish_wait(&entry);
        if result.is_err() && woken && how.exclusive {
            // It took a wake-up that it makes no use of: somebody else may.
            self.wake_one();
        }
        result
    }
}

/// How to wait.
#[derive(Clone, Copy)]
pub struct Wait {
    /// The state to sleep in.
    pub state: TaskState,
    /// A wake-up of one ends with this waiter.
    pub exclusive: bool,
    /// When to give up.
    pub deadline: Deadline,
    /// What `ps` shows.
    pub channel: &'static WaitChannel,
}

impl Wait {
    /// Non-exclusive, without a deadline.
    pub const fn new(state: TaskState, channel: &'static WaitChannel) -> Self {
        Self { state, exclusive: false, deadline: Deadline::NEVER, channel }
    }

    /// Exclusive.
    pub const fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// With a deadline.
    pub const fn until(mut self, deadline: Deadline) -> Self {
        self.deadline = deadline;
        self
    }
}

/// A static [`WaitChannel`] named after the module, or by a literal: `wait_channel!("pipe_read")`.
#[macro_export]
macro_rules! wait_channel {
    () => {
        $crate::wait_channel!(module_path!())
    };
    ($name:expr) => {{
        static CHANNEL: $crate::sched::WaitChannel = $crate::sched::WaitChannel::new($name);
        &CHANNEL
    }};
}

/// Waits in a state: what the other macros expand to.
#[doc(hidden)]
#[macro_export]
macro_rules! __wait_event {
    ($queue:expr, $state:ident, $cond:expr $(, $method:ident($($arg:expr)?))*) => {
        if $cond {
            Ok(())
        } else {
            let how = $crate::sched::Wait::new($crate::sched::TaskState::$state, $crate::wait_channel!())
                $(.$method($($arg)?))*;
            $queue.wait_until(how, || $cond)
        }
    };
}

/// `wait_event!(queue, condition)`: sleeps until the condition is true; no signal ends it.
#[macro_export]
macro_rules! wait_event {
    ($queue:expr, $cond:expr) => {{
        let _: $crate::errno::Result<()> = $crate::__wait_event!($queue, UNINTERRUPTIBLE, $cond);
    }};
}

/// `wait_event_interruptible!(queue, condition)`: `Err(ERESTARTSYS)` if a signal came first.
#[macro_export]
macro_rules! wait_event_interruptible {
    ($queue:expr, $cond:expr) => {
        $crate::__wait_event!($queue, INTERRUPTIBLE, $cond)
    };
}

/// As [`wait_event_interruptible!`], and a wake-up of one wakes one such waiter.
#[macro_export]
macro_rules! wait_event_interruptible_exclusive {
    ($queue:expr, $cond:expr) => {
        $crate::__wait_event!($queue, INTERRUPTIBLE, $cond, exclusive())
    };
}

/// `wait_event_killable!(queue, condition)`: `Err(ERESTARTSYS)` if a fatal signal came first.
#[macro_export]
macro_rules! wait_event_killable {
    ($queue:expr, $cond:expr) => {
        $crate::__wait_event!($queue, KILLABLE, $cond)
    };
}

/// `wait_event_timeout!(queue, condition, deadline)`: `Err(ETIMEDOUT)` if the deadline came first.
#[macro_export]
macro_rules! wait_event_timeout {
    ($queue:expr, $cond:expr, $deadline:expr) => {
        $crate::__wait_event!($queue, UNINTERRUPTIBLE, $cond, until($deadline))
    };
}

/// `wait_event_interruptible_timeout!(queue, condition, deadline)`: `Err(ERESTARTSYS)` or `Err(ETIMEDOUT)`.
#[macro_export]
macro_rules! wait_event_interruptible_timeout {
    ($queue:expr, $cond:expr, $deadline:expr) => {
        $crate::__wait_event!($queue, INTERRUPTIBLE, $cond, until($deadline))
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ThreadFlags;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    #[derive(Default)]
    struct Shared {
        queue: WaitQueue,
        tokens: AtomicUsize,
        taken: AtomicUsize,
    }

    impl Shared {
        fn take(&self) -> bool {
            self.tokens.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok()
        }
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        let shared = Arc::new(Shared::default());
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    for _ in 0..250 {
                        wait_event!(shared.queue, shared.take());
                        shared.taken.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        for _ in 0..1000 {
            shared.tokens.fetch_add(1, Relaxed);
            shared.queue.wake_all();
        }
        for taker in takers {
            taker.join().unwrap();
        }
        assert_eq!(shared.taken.load(Relaxed), 1000);
        assert!(!shared.queue.has_waiters());
    }

    #[test]
    fn a_wake_up_of_one_wakes_one_exclusive_waiter() {
        let shared = Arc::new(Shared::default());
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    wait_event_interruptible_exclusive!(shared.queue, shared.take()).unwrap();
                })
            })
            .collect();
        for _ in 0..3 {
            shared.tokens.fetch_add(1, Relaxed);
            shared.queue.wake_one();
        }
        for taker in takers {
            taker.join().unwrap();
        }
    }

    #[test]
    fn a_signal_ends_an_interruptible_wait_and_a_deadline_any() {
        let queue = WaitQueue::new();
        let deadline = Deadline::after(1_000_000);
        assert_eq!(wait_event_timeout!(queue, false, deadline), Err(Errno::ETIMEDOUT));
        let info = &current().thread.info;
        info.set(ThreadFlags::SIGPENDING);
        assert_eq!(wait_event_interruptible!(queue, false), Err(Errno::ERESTARTSYS));
        assert_eq!(wait_event_interruptible!(queue, true), Ok(()));
        // Not a fatal signal: a killable wait goes on to its deadline.
        let how = Wait::new(TaskState::KILLABLE, wait_channel!("test")).until(deadline);
        assert_eq!(queue.wait_until(how, || false), Err(Errno::ETIMEDOUT));
        info.clear(ThreadFlags::SIGPENDING);
        assert_eq!(current().state(), TaskState::RUNNING);
        assert!(!queue.has_waiters());
    }

    #[test]
    fn entries_with_a_function_see_the_key_and_stay_unless_they_take_it() {
        fn only_even(entry: &WaitEntry, key: u32) -> bool {
            let _ = entry;
            key.is_multiple_of(2)
        }
        let queue = WaitQueue::new();
        let entry = WaitEntry::with(only_even, false);
        // SAFETY: both stay in this frame and the entry is removed.
        unsafe { queue.add(&entry) };
        queue.wake_poll(1);
        assert!(entry.is_queued());
        queue.wake_poll(2);
        assert!(!entry.is_queued());
        queue.remove(&entry);
    }
}
