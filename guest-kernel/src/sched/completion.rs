//! [`Completion`]: waiting for one thing to be done, by somebody else, once.

use super::clock::Deadline;
use super::entity::WaitChannel;
use super::state::TaskState;
use super::wait::{Wait, WaitQueue};
use crate::errno::Result;
use crate::sync::IrqLock;

/// How many times it is done, and who waits for that. It may lie on the waiter's stack: whoever completes
/// it does not touch it any more once the waiter can go on.
#[repr(C)]
pub struct Completion {
    done: IrqLock<u32>,
    queue: WaitQueue,
}

impl Default for Completion {
    fn default() -> Self {
        Self::new()
    }
}

impl Completion {
    /// Not done.
    pub const fn new() -> Self {
        Self { done: IrqLock::new(0), queue: WaitQueue::new() }
    }

    /// Done once more: one waiter goes on.
    pub fn complete(&self) {
        // Waking under the lock is what keeps the completion alive meanwhile: the waiter takes the lock
        // before it returns.
        let mut done = self.done.lock();
        *done = done.saturating_add(1);
        self.queue.wake(1, !0);
    }

    /// Done for ever: all waiters go on.
    pub fn complete_all(&self) {
        let mut done = self.done.lock();
        *done = u32::MAX;
        self.queue.wake(usize::MAX, !0);
    }

    /// Takes one "done", if there is one.
    pub fn try_wait(&self) -> bool {
        let mut done = self.done.lock();
        match *done {
            0 => false,
            u32::MAX => true,
            _ => {
                *done -= 1;
                true
            }
        }
    }

    /// Sleeps until it is done.
    pub fn wait(&self) {
        let _ = self.wait_in(Wait::new(TaskState::UNINTERRUPTIBLE, crate::wait_channel!()));
    }

    /// Sleeps until it is done; `ERESTARTSYS` if a fatal signal comes first.
    pub fn wait_killable(&self, channel: &'static WaitChannel) -> Result<()> {
        self.wait_in(Wait::new(TaskState::KILLABLE, channel))
    }

    /// Sleeps until it is done; `ETIMEDOUT` if the deadline comes first.
    pub fn wait_timeout(&self, deadline: Deadline) -> Result<()> {
        self.wait_in(Wait::new(TaskState::UNINTERRUPTIBLE, crate::wait_channel!()).until(deadline))
    }

    /// Sleeps as told until it is done.
    pub fn wait_in(&self, how: Wait) -> Result<()> {
        self.queue.wait_until(how.exclusive(), || self.try_wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::Errno;
    use std::sync::Arc;

    #[test]
    fn each_completion_lets_one_waiter_go_on() {
        let done = Arc::new(Completion::new());
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let done = done.clone();
                std::thread::spawn(move || done.wait())
            })
            .collect();
        (0..3).for_each(|_| done.complete());
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert!(!done.try_wait());
        assert_eq!(done.wait_timeout(Deadline::after(1000)), Err(Errno::ETIMEDOUT));
        done.complete_all();
        done.wait();
        assert!(done.try_wait());
    }
}
