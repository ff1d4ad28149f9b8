//! signalfd4(2): a file from which the caller reads its pending signals.
//!
//! Whose signals they are depends on who reads or polls, not on who made the file (signalfd(2)).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::fs::{FMode, File, FileKind, FileOps, OpenFlags, PollFlags, PollTable, UserBuf, anon};
use crate::kref::Ref;
use crate::mm::{UserPtr, try_box};
use crate::process::signal::{dequeue_unblocked, recalc_sigpending};
use crate::signal::info::SI_TIMER;
use crate::signal::{SIGBUS, SIGCHLD, SIGFPE, SIGILL, SIGIO, SIGSEGV, SIGTRAP, SigInfo, SigSet};
use crate::sync::SpinLock;
use crate::task::rlimit::Resource;
use crate::task::{self, SignalStruct, Task};
use crate::wait_event_interruptible;

/// Bytes of `struct signalfd_siginfo`.
const INFO_SIZE: usize = 128;

/// A signalfd.
struct SignalFd {
    /// The signals that it does not take, as a set.
    others: AtomicU64,
    /// Groups whose queue somebody polls through this file: they stay as long as it does.
    polled: SpinLock<Vec<Ref<SignalStruct>>>,
}

impl SignalFd {
    fn others(&self) -> SigSet {
        SigSet(self.others.load(Ordering::Acquire))
    }

    fn set_mask(&self, mask: SigSet) {
        let mask = mask.without(SigSet::UNBLOCKABLE);
        self.others.store(!mask.0, Ordering::Release);
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
        SIGIO if info.code > 0 => {
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
        let mut polled = self.polled.lock();
        let known = polled.iter().any(|signal| Ref::ptr_eq(signal, &task.signal));
        if !known && polled.try_reserve(1).is_ok() {
            polled.push(task.signal.clone());
        }
        let kept = known || polled.iter().any(|signal| Ref::ptr_eq(signal, &task.signal));
        drop(polled);
        if kept {
            table.wait(&task.signal.signalfd_wait);
        }
        if self.is_ready(task) { PollFlags::READABLE } else { PollFlags::empty() }
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

/// signalfd4(2): descriptor to change or -1, mask, its size, flags.
pub fn sys_signalfd4(a: &mut Args) -> SysResult {
    let (fd, raw) = (a.fd(0), a.u32(3));
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    if raw & !allowed.bits() != 0 || a.usize(2) != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let mask = SigSet(UserPtr::<u64>::new(a.u64(1)).read()?);
    let task = task::current();
    if fd != -1 {
        let file = task.files().get(fd)?;
        file.ops_as::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
        // More may be ready than before.
        task.signal.signalfd_wait.wake_all();
        return Ok(fd as usize);
    }
    let ops = SignalFd { others: AtomicU64::new(0), polled: SpinLock::new(Vec::new()) };
    ops.set_mask(mask);
    let flags = OpenFlags::from_bits_truncate(raw);
    let file = anon::new_file("[signalfd]", try_box(ops)?, flags | OpenFlags::RDWR)?;
    let limit = task.signal.rlimits.soft(Resource::Nofile) as usize;
    Ok(task.files().install(file, 0, limit, flags.contains(OpenFlags::CLOEXEC))? as usize)
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
