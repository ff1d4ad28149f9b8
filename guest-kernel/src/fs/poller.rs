//! [`Poller`]: one caller that waits for several files at once (poll(2), select(2)).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use super::{File, PollFlags, PollTable, poll::PollWaiter};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::sched::clock::Deadline;
use crate::sched::{TaskState, Wait, WaitEntry, WaitQueue};
use crate::wait_channel;

/// What is shared with the wake-up functions. Boxed, so that it stays where it is.
#[derive(Default)]
struct Signal {
    triggered: AtomicBool,
    wait: WaitQueue,
}

/// A place on one queue.
#[repr(C)]
struct Entry {
    wait: WaitEntry,
    signal: *const Signal,
    /// Events that the caller is interested in.
    interest: u32,
    queue: *const WaitQueue,
    /// Keeps the queue alive.
    file: Ref<File>,
}

impl Entry {
    fn wake(wait: &WaitEntry, key: u32) -> bool {
        // SAFETY: `wait` is the first field of an `Entry` (repr(C)): `add` queues no other.
        let entry = unsafe { &*ptr::from_ref(wait).cast::<Entry>() };
        if key & entry.interest != 0 {
            // SAFETY: the poller removes all entries before its `Signal` goes.
            let signal = unsafe { &*entry.signal };
            signal.triggered.store(true, Ordering::Release);
            signal.wait.wake_all();
        }
        // It stays queued until the poller is done with all its files.
        false
    }
}

/// Waits for any of several files.
pub struct Poller {
    /// Made when the first file is waited for.
    signal: Option<Box<Signal>>,
    #[allow(clippy::vec_box, reason = "a queued entry does not move")]
    entries: Vec<Box<Entry>>,
    failed: bool,
}

/// The file that is being asked.
struct Asking<'a> {
    poller: &'a mut Poller,
    file: &'a Ref<File>,
    interest: PollFlags,
}

impl PollWaiter for Asking<'_> {
    fn add(&mut self, queue: &WaitQueue) {
        let poller = &mut *self.poller;
        if poller.signal.is_none() {
            poller.signal = crate::mm::try_box(Signal::default()).ok();
        }
        let Some(signal) = &poller.signal else {
            poller.failed = true;
            return;
        };
        let entry = crate::mm::try_box(Entry {
            wait: WaitEntry::with(Entry::wake, false),
            signal: &raw const **signal,
            interest: (self.interest | PollFlags::ERR | PollFlags::HUP).bits(),
            queue,
            file: self.file.clone(),
        });
        match entry {
            Ok(entry) if poller.entries.try_reserve(1).is_ok() => {
                // SAFETY: the entry is boxed, its file keeps the queue alive, and `Poller::drop`
                // takes it off before either goes.
                unsafe { queue.add(&entry.wait) };
                poller.entries.push(entry);
            }
            _ => poller.failed = true,
        }
    }
}

impl Poller {
    /// Waits for nothing yet.
    pub const fn new() -> Self {
        Self { signal: None, entries: Vec::new(), failed: false }
    }

    /// Asks a file what it is ready for; with `wait`, its next change ends [`sleep`](Self::sleep).
    pub fn ask(&mut self, file: &Ref<File>, interest: PollFlags, wait: bool) -> PollFlags {
        if !wait {
            return file.ops().poll(file, &mut PollTable::empty());
        }
        let mut asking = Asking { poller: self, file, interest };
        file.ops().poll(file, &mut PollTable::new(&mut asking))
    }

    /// Sleeps until a file changed, `ERESTARTSYS` if a signal came first, `ETIMEDOUT` at the deadline.
    pub fn sleep(&self, deadline: Deadline) -> Result<()> {
        if self.failed {
            return Err(Errno::ENOMEM);
        }
        let nothing = Signal::default();
        let signal = self.signal.as_deref().unwrap_or(&nothing);
        let triggered = || signal.triggered.load(Ordering::Acquire);
        let how = Wait::new(TaskState::INTERRUPTIBLE, wait_channel!("poll_schedule_timeout"));
        signal.wait.wait_until(how.until(deadline), triggered)?;
        signal.triggered.store(false, Ordering::Release);
        Ok(())
    }
}

impl Default for Poller {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        for entry in &self.entries {
            // SAFETY: the entry's file keeps the queue alive.
            unsafe { &*entry.queue }.remove(&entry.wait);
            let _ = &entry.file;
        }
    }
}
