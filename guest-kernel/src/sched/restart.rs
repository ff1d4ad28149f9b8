//! What `restart_syscall` goes on with: a call that slept relative to its start and was interrupted by
//! a stop or a signal without a handler (`ERESTART_RESTARTBLOCK`).

use super::clock::Deadline;

/// The rest of an interrupted call; each task has one.
#[derive(Clone, Copy, Debug, Default)]
#[repr(u32)]
pub enum RestartBlock {
    /// Nothing: `restart_syscall` returns `EINTR`.
    #[default]
    None,
    /// nanosleep(2) and clock_nanosleep(2): sleep on until the deadline.
    Nanosleep {
        /// When it ends.
        deadline: Deadline,
        /// Where the rest goes if it is interrupted again (a user pointer; 0 if nowhere).
        remaining: u64,
    },
    /// futex(2) `FUTEX_WAIT` with a timeout.
    FutexWait {
        /// The futex.
        address: u64,
        /// The value that it must still have.
        value: u32,
        /// `FUTEX_PRIVATE_FLAG` and `FUTEX_CLOCK_REALTIME`, as they were given.
        flags: u32,
        /// The bit set.
        bitset: u32,
        /// When it ends.
        deadline: Deadline,
    },
}
