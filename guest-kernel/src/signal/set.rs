//! Sets of signals, in the representation of `sigset_t`: bit *n* - 1 is signal *n*.

use super::{SIGCONT, SIGKILL, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};

/// A set of signals.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);
    /// Every signal.
    pub const FULL: Self = Self(!0);
    /// The signals that can be neither caught, blocked nor ignored.
    pub const UNBLOCKABLE: Self = Self::of(&[SIGKILL, SIGSTOP]);
    /// The signals whose default is to stop the process.
    pub const STOP: Self = Self::of(&[SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU]);
    /// The signal that makes a stopped process go on.
    pub const CONT: Self = Self::of(&[SIGCONT]);
    /// Signals that a fault of the program itself raises: they are delivered first.
    pub const SYNCHRONOUS: Self = Self::of(&[
        super::SIGSEGV,
        super::SIGBUS,
        super::SIGILL,
        super::SIGTRAP,
        super::SIGFPE,
        super::SIGSYS,
    ]);

    /// The set of these signals.
    pub const fn of(signals: &[i32]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < signals.len() {
            bits |= Self::bit(signals[i]);
            i += 1;
        }
        Self(bits)
    }

    const fn bit(sig: i32) -> u64 {
        1 << ((sig - 1) as u32 % 64)
    }

    /// True if `sig` is in the set.
    pub const fn has(self, sig: i32) -> bool {
        self.0 & Self::bit(sig) != 0
    }

    /// Adds a signal.
    pub fn add(&mut self, sig: i32) {
        self.0 |= Self::bit(sig);
    }

    /// Removes a signal.
    pub fn remove(&mut self, sig: i32) {
        self.0 &= !Self::bit(sig);
    }

    /// The signals of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The signals of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// These without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// True if there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The signal to deliver first: one that the program's own fault raised, else the lowest.
    pub const fn next(self) -> Option<i32> {
        let first =
            if self.0 & Self::SYNCHRONOUS.0 != 0 { self.0 & Self::SYNCHRONOUS.0 } else { self.0 };
        if first == 0 { None } else { Some(first.trailing_zeros() as i32 + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    #[test]
    fn faults_come_before_lower_numbers() {
        assert_eq!(SigSet::of(&[SIGINT, SIGSEGV]).next(), Some(SIGSEGV));
        assert_eq!(SigSet::of(&[SIGUSR1, SIGINT, 64]).next(), Some(SIGINT));
        assert_eq!(SigSet::of(&[64]).next(), Some(64));
        assert_eq!(SigSet::EMPTY.next(), None);
    }
}
