//! Who writes to a terminal: one call at a time, so that what it writes stays together, and none while
//! the machine freezes.
//!
//! What is on its way to the device when memory is complete belongs to no process: whoever takes one out of
//! the saved memory would lose it. So nobody begins to write then, and those who wait have written nothing yet.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::errno::Result;
use crate::sched::WaitQueue;
use crate::sched::clock::Deadline;
use crate::sync::{Mutex, MutexGuard};
use crate::{wait_event_interruptible, wait_event_timeout};

/// The writers of one terminal.
pub struct Writers {
    one: Mutex<()>,
    /// Somebody writes.
    busy: AtomicBool,
    /// Nobody begins to.
    stopped: AtomicBool,
    /// Who waits for one of the two to end.
    waiters: WaitQueue,
}

/// The right to write, until it is dropped.
pub struct Writing<'a> {
    writers: &'a Writers,
    _one: MutexGuard<'a, ()>,
}

impl Writers {
    /// Nobody.
    pub const fn new() -> Self {
        Self {
            one: Mutex::new(()),
            busy: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            waiters: WaitQueue::new(),
        }
    }

    /// Waits until the caller may write; `ERESTARTSYS` if a signal comes while nobody may.
    pub fn enter(&self) -> Result<Writing<'_>> {
        loop {
            let one = self.one.lock();
            self.busy.store(true, SeqCst);
            let writing = Writing { writers: self, _one: one };
            if !self.stopped.load(SeqCst) {
                return Ok(writing);
            }
            drop(writing);
            wait_event_interruptible!(self.waiters, !self.stopped.load(SeqCst))?;
        }
    }

    /// Lets nobody begin to write, and waits for who does; if that takes too long, it is left where it is.
    pub fn stop(&self, deadline: Deadline) {
        self.stopped.store(true, SeqCst);
        let _ = wait_event_timeout!(self.waiters, !self.busy.load(SeqCst), deadline);
    }

    /// Ends [`stop`](Self::stop).
    pub fn go_on(&self) {
        self.stopped.store(false, SeqCst);
        self.waiters.wake_all();
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.writers.busy.store(false, SeqCst);
        if self.writers.stopped.load(SeqCst) {
            self.writers.waiters.wake_all();
        }
    }
}
