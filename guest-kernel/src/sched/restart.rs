//! What `restart_syscall` goes on with: a call that slept relative to its start and was interrupted by
//! a stop or a signal without a handler (`ERESTART_RESTARTBLOCK`).

use belljar_abi::Described;

use super::clock::{ClockBase, Deadline};

/// Which call goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Described)]
#[repr(u32)]
pub enum RestartKind {
    /// None: `restart_syscall` returns `EINTR`.
    #[default]
    None = 0,
    /// nanosleep(2) and clock_nanosleep(2): sleep on until the deadline.
    Nanosleep = 1,
    /// futex(2) `FUTEX_WAIT` with a timeout.
    FutexWait = 2,
}

/// The rest of a call that sleeps; each task has one. It is there before the call sleeps, so that who looks
/// from outside finds how the call would go on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Described)]
pub struct RestartBlock {
    /// Which call.
    pub kind: RestartKind,
    /// The clock of its deadline.
    pub clock: ClockBase,
    /// When it ends, on that clock.
    pub deadline: u64,
    /// Where the remaining time goes if it is interrupted again (a user pointer; 0 if nowhere), or
    /// the futex.
    #[described(as = "hex")]
    pub address: u64,
    /// The value that the futex must still have.
    pub value: u32,
    /// `FUTEX_PRIVATE_FLAG` and `FUTEX_CLOCK_REALTIME`, as they were given.
    pub flags: u32,
    /// The futex's bit set.
    pub bitset: u32,
}

impl Default for RestartBlock {
    fn default() -> Self {
        Self {
            kind: RestartKind::None,
            clock: ClockBase::Monotonic,
            deadline: 0,
            address: 0,
            value: 0,
            flags: 0,
            bitset: 0,
        }
    }
}

impl RestartBlock {
    /// A sleep until `deadline`; what remains goes to `remaining`.
    pub fn nanosleep(deadline: Deadline, remaining: u64) -> Self {
        let Deadline { clock, ns } = deadline;
        let kind = RestartKind::Nanosleep;
        Self { kind, clock, deadline: ns, address: remaining, ..Self::default() }
    }

    /// A wait until `deadline` for a futex.
    pub fn futex_wait(deadline: Deadline, address: u64, value: u32, flags: u32, set: u32) -> Self {
        let Deadline { clock, ns } = deadline;
        let kind = RestartKind::FutexWait;
        Self { kind, clock, deadline: ns, address, value, flags, bitset: set }
    }

    /// When it ends.
    pub fn deadline(&self) -> Deadline {
        Deadline { clock: self.clock, ns: self.deadline }
    }
}
