//! Readiness: what a file is ready for, and where to wait until it is ready for more.

use super::WaitQueue;

bitflags::bitflags! {
    /// Events of poll(2), as poll and epoll number them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PollFlags: u32 {
        /// Data can be read.
        const IN = 0x1;
        /// Urgent data can be read.
        const PRI = 0x2;
        /// Data can be written.
        const OUT = 0x4;
        /// Error.
        const ERR = 0x8;
        /// The other end hung up.
        const HUP = 0x10;
        /// No such descriptor.
        const NVAL = 0x20;
        /// Normal data can be read.
        const RDNORM = 0x40;
        /// Priority data can be read.
        const RDBAND = 0x80;
        /// Normal data can be written.
        const WRNORM = 0x100;
        /// Priority data can be written.
        const WRBAND = 0x200;
        /// The other end shut down its writing half.
        const RDHUP = 0x2000;
    }
}

impl PollFlags {
    /// Readable as ordinary files are.
    pub const READABLE: Self = Self::IN.union(Self::RDNORM);
    /// Writable as ordinary files are.
    pub const WRITABLE: Self = Self::OUT.union(Self::WRNORM);
}

/// Who wants to be woken: poll puts itself on each queue, epoll its item.
pub trait PollWaiter {
    /// Gets on `queue`, which lives as long as the file that is polled.
    fn add(&mut self, queue: &WaitQueue);
}

/// Handed to [`FileOps::poll`](super::FileOps::poll), which names each queue whose wake-up may change
/// the answer, before it looks at the state.
pub struct PollTable<'a> {
    waiter: Option<&'a mut dyn PollWaiter>,
}

impl<'a> PollTable<'a> {
    /// A table whose waiter wants to be put on the queues.
    pub fn new(waiter: &'a mut dyn PollWaiter) -> Self {
        Self { waiter: Some(waiter) }
    }

    /// A table for whoever only wants the answer.
    pub const fn empty() -> Self {
        Self { waiter: None }
    }

    /// Names a queue to wait on.
    pub fn wait(&mut self, queue: &WaitQueue) {
        if let Some(waiter) = &mut self.waiter {
            waiter.add(queue);
        }
    }
}
