//! signalfd(2): a file from which the caller reads its pending signals.
//!
//! Whose signals they are depends on who reads or polls, not on who made the file (signalfd(2)).

use core::sync::atomic::{AtomicU64, Ordering};

use belljar_abi::Described;

use super::signal::{dequeue_unblocked, recalc_sigpending};
use crate::array::Array;

use crate::errno::{Errno, Result};
use crate::fs::{FMode, File, FileKind, FileOps, OpenFlags, PollFlags, PollTable, UserBuf, anon};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::signal::info::SI_TIMER;
use crate::signal::{SIGBUS, SIGCHLD, SIGFPE, SIGILL, SIGSEGV, SIGTRAP, SigInfo, SigSet};
use crate::sync::SpinLock;
use crate::task::{self, SignalStruct, Task};
use crate::wait_event_interruptible;

/// Bytes of `struct signalfd_siginfo`.
const INFO_SIZE: usize = 128;

/// A signalfd.
#[repr(C)]
#[derive(Described)]
pub struct SignalFd {
    /// The signals that it does not take, as a set.
    others: AtomicU64,
    /// Groups whose queue somebody polls through this file: they stay as long as it does.
    polled: SpinLock<Array<Ref<SignalStruct>>>,
}

/// Makes a signalfd that takes the signals in `mask`.
pub fn new_file(mask: SigSet, flags: OpenFlags) -> Result<Ref<File>> {
    let ops = SignalFd { others: AtomicU64::new(0), polled: SpinLock::new(Array::new()) };
    ops.set_mask(mask);
    anon::new_file("[signalfd]", try_box(ops)?, flags)
}

impl SignalFd {
    fn others(&self) -> SigSet {
        SigSet(self.others.load(Ordering::Acquire))
    }

    /// Takes the signals in `mask` from now on.
    pub fn set_mask(&self, mask: SigSet) {
        let mask = mask.without(SigSet::UNBLOCKABLE);
        self.others.store(!mask.0, Ordering::Release);
    }

    /// Names the queue of a process to wait on.
    pub fn poll_as(&self, signal: &Ref<SignalStruct>, table: &mut PollTable<'_>) {
        let mut polled = self.polled.lock();
        let known = polled.iter().any(|other| Ref::ptr_eq(other, signal))
            || polled.try_push(signal.clone()).is_ok();
        drop(polled);
        if known {
            table.wait(&signal.signalfd_wait);
        }
    }

    fn is_ready(&self, task: &Task) -> bool {
        let own = task.sig.lock().pending.set();
        let shared = SigSet(task.signal.shared_pending.load(Ordering::Acquire));
        !own.or(shared).without(self.others()).is_empty()
    }
}

/// A signal in the form of signalfd(2).
fn encode(info: &SigInfo) -> [u8; INFO_SIZE] {
    let mut bytes = [0; INFO_SIZE];
    let mut put32 = |at: usize, v: u32| bytes[at..at + 4].copy_from_slice(&v.to_ne_bytes());
    let [first, second, third, fourth] = info.fields;
    put32(0, info.signo as u32);
    put32(4, info.errno as u32);
    put32(8, info.code as u32);
    let faults = [SIGILL, SIGTRAP, SIGFPE, SIGSEGV, SIGBUS];
    match info.signo {
        _ if info.code == SI_TIMER => {
            put32(24, first as u32);
            put32(32, (first >> 32) as u32);
            put32(44, second as u32);
            bytes[48..56].copy_from_slice(&second.to_ne_bytes());
        }
        _ if info.is_io() => {
            put32(28, first as u32);
            put32(20, second as u32);
        }
        sig if info.code > 0 && faults.contains(&sig) => {
            bytes[72..80].copy_from_slice(&first.to_ne_bytes());
        }
        SIGCHLD => {
            put32(12, info.pid());
            put32(16, info.uid());
            put32(40, second as u32);
            bytes[56..64].copy_from_slice(&third.to_ne_bytes());
            bytes[64..72].copy_from_slice(&fourth.to_ne_bytes());
        }
        _ => {
            put32(12, info.pid());
            put32(16, info.uid());
            put32(44, second as u32);
            bytes[48..56].copy_from_slice(&second.to_ne_bytes());
        }
    }
    bytes
}

impl FileOps for SignalFd {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        if buf.remaining() < INFO_SIZE {
            return Err(Errno::EINVAL);
        }
        let task = task::current();
        let mut done = 0;
        while buf.remaining() >= INFO_SIZE {
            match dequeue_unblocked(task, self.others()) {
                Some(info) => done += buf.put(&encode(&info))?,
                None if done > 0 => break,
                None if file.is_nonblocking() => return Err(Errno::EAGAIN),
                None => wait_event_interruptible!(task.signal.signalfd_wait, self.is_ready(task))?,
            }
        }
        recalc_sigpending(task);
        Ok(done)
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        let task = task::current();
        self.poll_as(&task.signal, table);
        if self.is_ready(task) { PollFlags::READABLE } else { PollFlags::empty() }
    }

    fn described(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::SignalFd)
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        writeln!(out, "sigmask:\t{:016x}", !self.others().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::SIGUSR1;

    #[test]
    fn fields_lie_where_signalfd_2_has_them() {
        let word = |bytes: &[u8; INFO_SIZE], at: usize| {
            i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
        };
        let bytes = encode(&SigInfo::user(SIGUSR1, 0, 42, 1000));
        assert_eq!([0, 8, 12, 16].map(|at| word(&bytes, at)), [SIGUSR1, 0, 42, 1000]);
        let bytes = encode(&SigInfo::child(1, 7, 0, 3, 5, 6));
        assert_eq!([12, 40, 56, 64].map(|at| word(&bytes, at)), [7, 3, 5, 6]);
        let bytes = encode(&SigInfo::timer(SIGUSR1, 9, 2, 77));
        assert_eq!([24, 32, 44].map(|at| word(&bytes, at)), [9, 2, 77]);
    }
}
