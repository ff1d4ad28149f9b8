//! eventfd(2): a counter that can be waited for.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{FMode, File, FileKind, FileOps, PollFlags, PollTable, UserBuf};
use crate::errno::{Errno, Result};
use crate::sched::WaitQueue;
use crate::wait_event_interruptible;

/// The counter stays below this.
const LIMIT: u64 = u64::MAX;

/// An eventfd.
#[repr(C)]
#[derive(belljar_abi::Described)]
pub struct EventFd {
    count: AtomicU64,
    semaphore: bool,
    #[described(skip)]
    wait: WaitQueue,
}

impl EventFd {
    /// A counter at `count`; as a semaphore, each read takes 1.
    pub const fn new(count: u64, semaphore: bool) -> Self {
        Self { count: AtomicU64::new(count), semaphore, wait: WaitQueue::new() }
    }

    fn take(&self) -> Option<u64> {
        let take = |count: u64| match count {
            0 => None,
            n if self.semaphore => Some(n - 1),
            _ => Some(0),
        };
        let old = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(if self.semaphore { 1 } else { old })
    }

    fn add(&self, n: u64) -> bool {
        let add = |count: u64| count.checked_add(n).filter(|&sum| sum < LIMIT);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }
}

impl FileOps for EventFd {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        if buf.remaining() < size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        let value = loop {
            if let Some(value) = self.take() {
                break value;
            }
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            wait_event_interruptible!(self.wait, self.count.load(Ordering::Acquire) != 0)?;
        };
        self.wait.wake_all();
        buf.put(&value.to_ne_bytes())
    }

    fn write(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let mut bytes = [0; size_of::<u64>()];
        if buf.remaining() < bytes.len() {
            return Err(Errno::EINVAL);
        }
        if buf.take(&mut bytes)? < bytes.len() {
            return Err(Errno::EFAULT);
        }
        let n = u64::from_ne_bytes(bytes);
        if n == u64::MAX {
            return Err(Errno::EINVAL);
        }
        while !self.add(n) {
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            let fits = || LIMIT - 1 - self.count.load(Ordering::Acquire) >= n;
            wait_event_interruptible!(self.wait, fits())?;
        }
        self.wait.wake_all();
        Ok(bytes.len())
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        table.wait(&self.wait);
        let mut ready = PollFlags::empty();
        let count = self.count.load(Ordering::Acquire);
        if count > 0 {
            ready |= PollFlags::READABLE;
        }
        if count < LIMIT - 1 {
            ready |= PollFlags::WRITABLE;
        }
        ready
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::EventFd)
    }

    fn described(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        writeln!(out, "eventfd-count: {:16x}", self.count.load(Ordering::Relaxed))
    }
}
