//! System calls: one table, number to handler; handlers decode, call and encode, nothing more.
//!
//! The numbers are those of the generic system call table (asm-generic/unistd.h). A number without a
//! handler returns `ENOSYS`; the first use of each is logged and all are counted.
//! `SYSCALLS.md` is generated from [`table::ROWS`] and checked by a test.

pub mod cred;
pub mod fs;
pub mod futex;
pub mod ids;
pub mod ioprio;
pub mod ipc;
pub mod membarrier;
pub mod mm;
pub mod namespaces;
pub mod net;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod prctl;
pub mod process;
pub mod ptrace;
#[cfg(test)]
mod reference;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod signalfd;
pub mod syslog;
pub mod system;
pub mod table;
pub mod time;
pub mod timer;
pub mod tty;

use core::sync::atomic::{AtomicU32, Ordering};

use crate::arch::PtRegs;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;

/// What a handler returns: the value of `x0`, or an error.
pub type SysResult = Result<usize>;

/// A handler of the table.
pub type Handler = fn(&mut Args) -> SysResult;

/// The arguments of a system call: `x0` to `x5` of the caller, and its registers for the few calls
/// that change them (`execve`, `rt_sigreturn`, `clone`).
#[repr(transparent)]
pub struct Args(PtRegs);

impl Args {
    /// Looks at saved registers as arguments.
    #[inline]
    pub fn of(regs: &mut PtRegs) -> &mut Self {
        // SAFETY: `Args` is a transparent wrapper.
        unsafe { &mut *core::ptr::from_mut(regs).cast() }
    }

    /// The caller's registers.
    #[inline]
    pub fn regs(&mut self) -> &mut PtRegs {
        &mut self.0
    }

    /// Argument `I`, whole. `x0` is read from where entry kept it.
    #[inline]
    pub fn u64(&self, i: usize) -> u64 {
        debug_assert!(i < 6);
        self.0.x[i]
    }

    /// Argument `i` as an `unsigned int`: the upper half is ignored, as the ABI says.
    #[inline]
    pub fn u32(&self, i: usize) -> u32 {
        self.u64(i) as u32
    }

    /// Argument `i` as an `int`.
    #[inline]
    pub fn i32(&self, i: usize) -> i32 {
        self.u64(i) as i32
    }

    /// Argument `i` as a `long`.
    #[inline]
    pub fn i64(&self, i: usize) -> i64 {
        self.u64(i) as i64
    }

    /// Argument `i` as a `size_t`.
    #[inline]
    pub fn usize(&self, i: usize) -> usize {
        self.u64(i) as usize
    }

    /// Argument `i` as a pointer into the caller's memory.
    #[inline]
    pub fn ptr<T>(&self, i: usize) -> UserPtr<T> {
        UserPtr::new(self.u64(i))
    }

    /// Argument `i` as a file descriptor.
    #[inline]
    pub fn fd(&self, i: usize) -> i32 {
        self.i32(i)
    }
}

/// How often each unknown number was called; shown in the log once each.
static UNKNOWN: [AtomicU32; table::SIZE] = [const { AtomicU32::new(0) }; table::SIZE];
/// Calls with a number beyond the table.
static UNKNOWN_BEYOND: AtomicU32 = AtomicU32::new(0);

/// Runs the system call that the registers ask for; the result is what `x0` takes.
#[inline]
pub fn dispatch(nr: usize, regs: &mut PtRegs) -> SysResult {
    match table::HANDLERS.get(nr) {
        Some(Some(handler)) => handler(Args::of(regs)),
        _ => unknown(nr),
    }
}

#[cold]
fn unknown(nr: usize) -> SysResult {
    let counter = UNKNOWN.get(nr).unwrap_or(&UNKNOWN_BEYOND);
    if counter.fetch_add(1, Ordering::Relaxed) == 0 {
        crate::kinfo!("syscall {nr} is not there (first call); it returns ENOSYS");
    }
    Err(Errno::ENOSYS)
}
