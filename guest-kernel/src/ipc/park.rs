//! [`Parked`]: one who sleeps until another has done what it waits for, and is handed the result.
//!
//! Who waits queues a `Parked` with the object, under the object's lock, and sleeps without it. Who makes
//! the wait come true takes it off, under that lock, and [`finish`](Parked::finish)es it: nobody can come
//! between. A sleeper that gives up takes the lock, and finds itself either still queued or served.

use crate::errno::Result;
use crate::sched::{Deadline, TaskState, Wait, WaitQueue};
use crate::sync::SpinLock;
use crate::wait_channel;

/// A place to sleep for one.
pub struct Parked<R> {
    result: SpinLock<Option<R>>,
    queue: WaitQueue,
}

impl<R> Default for Parked<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R> Parked<R> {
    /// Nothing came yet.
    pub const fn new() -> Self {
        Self { result: SpinLock::new(None), queue: WaitQueue::new() }
    }

    /// Hands over the result and wakes the sleeper.
    pub fn finish(&self, result: R) {
        *self.result.lock() = Some(result);
        self.queue.wake_all();
    }

    /// Sleeps until the result is there: `ERESTARTSYS` if a signal comes first, `ETIMEDOUT` if the
    /// deadline does. The result is left for [`take`](Self::take).
    pub fn sleep(&self, deadline: Deadline) -> Result<()> {
        self.sleep_in(TaskState::INTERRUPTIBLE, deadline)
    }

    /// The same in a given state.
    pub fn sleep_in(&self, state: TaskState, deadline: Deadline) -> Result<()> {
        let how = Wait::new(state, wait_channel!()).until(deadline);
        self.queue.wait_until(how, || self.result.lock().is_some())
    }

    /// The result, if it came.
    pub fn take(&self) -> Option<R> {
        self.result.lock().take()
    }
}
