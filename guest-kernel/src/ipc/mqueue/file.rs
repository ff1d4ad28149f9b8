//! [`QueueInode`], a queue as a file system's object, and [`QueueFile`], an open one.

use alloc::boxed::Box;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use super::Size;
use super::fs::{Charge, State};
use super::queue::Queue;
use crate::errno::{Errno, Result};
use crate::fs::{File, FileOps, Inode, InodeOps, OpenFlags, Path, PollFlags, PollTable, UserBuf};
use crate::ipc::hooks;
use crate::kref::Ref;
use crate::mm::try_box;

/// What the file of a queue is made of.
pub struct QueueInode {
    queue: Ref<Queue>,
    state: Ref<State>,
    _charge: Charge,
}

impl QueueInode {
    /// An empty queue of this size, which is charged to `uid`.
    pub fn new(state: &Ref<State>, size: Size, uid: u32) -> Result<Self> {
        let charge = Charge::new(uid, size, hooks::msgqueue_limit())?;
        let queue = Ref::try_new(Queue::new(size))?;
        state.queues.fetch_add(1, Ordering::Relaxed);
        Ok(Self { queue, state: state.clone(), _charge: charge })
    }
}

impl Drop for QueueInode {
    fn drop(&mut self) {
        self.state.queues.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InodeOps for QueueInode {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(try_box(QueueFile { queue: self.queue.clone() })?)
    }

    fn truncate(&self, _inode: &Inode, _size: u64) -> Result<()> {
        Ok(())
    }
}

/// An open queue.
pub struct QueueFile {
    /// The queue.
    pub queue: Ref<Queue>,
}

/// Bytes of the text that a queue's file shows.
const TEXT_LEN: usize = 80;

/// A text of a known length at most.
struct Line {
    bytes: [u8; TEXT_LEN],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let to = self.bytes.get_mut(self.len..self.len + s.len()).ok_or(core::fmt::Error)?;
        to.copy_from_slice(s.as_bytes());
        self.len += s.len();
        Ok(())
    }
}

impl FileOps for QueueFile {
    fn read(&self, _file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        let (bytes, notify, signal, pid) = self.queue.shown();
        let mut line = Line { bytes: [0; TEXT_LEN], len: 0 };
        writeln!(
            line,
            "QSIZE:{bytes:<10} NOTIFY:{notify:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}"
        )
        .map_err(|_| Errno::EIO)?;
        let from = usize::try_from(*pos).unwrap_or(usize::MAX).min(line.len);
        let n = buf.put(&line.bytes[from..line.len])?;
        *pos += n as u64;
        Ok(n)
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        self.queue.poll(table)
    }

    fn is_pollable(&self) -> bool {
        true
    }

    fn flush(&self, _file: &File) {
        if let Some(process) = hooks::process() {
            self.queue.unwatch(&process);
        }
    }
}
