//! Signals sent and not yet delivered: one such set per thread and one per thread group.

use belljar_abi::Described;

use super::{SIGRTMIN, SigInfo, SigSet};
use crate::array::Array;

/// A set of pending signals with what is known about each.
///
/// A standard signal is pending at most once; real-time signals queue, in order. When there is no
/// memory for the information the signal still is pending, without it (as sigqueue(3) allows).
#[repr(C)]
#[derive(Default, Described)]
pub struct Pending {
    set: SigSet,
    queue: Array<SigInfo>,
}

impl Pending {
    /// Nothing pending.
    pub const fn new() -> Self {
        Self { set: SigSet::EMPTY, queue: Array::new() }
    }

    /// The signals that are pending.
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// How many entries are queued, for RLIMIT_SIGPENDING.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// True if a send of this signal would change nothing.
    pub fn is_coalesced(&self, sig: i32) -> bool {
        sig < SIGRTMIN && self.set.has(sig)
    }

    /// Makes a signal pending.
    pub fn add(&mut self, info: SigInfo) {
        if self.is_coalesced(info.signo) {
            return;
        }
        self.set.add(info.signo);
        // See above: without memory it is pending all the same.
        let _ = self.queue.try_push(info);
    }

    /// Lets the waiting signal of a timer, if there is one, stand for `1 + missed` expirations more;
    /// returns how many it stands for beyond its first.
    pub fn merge_overrun(
        &mut self,
        is_timers: impl Fn(&SigInfo) -> bool,
        missed: u64,
    ) -> Option<u64> {
        let info = self.queue.iter_mut().find(|info| is_timers(info))?;
        Some(info.add_overrun(missed.saturating_add(1)))
    }

    /// Takes the first deliverable signal that `blocked` does not hold back.
    pub fn take(&mut self, blocked: SigSet) -> Option<SigInfo> {
        let sig = self.set.without(blocked).next()?;
        let found = self.queue.iter().position(|i| i.signo == sig);
        let info = match found {
            Some(at) => self.queue.remove(at),
            None => SigInfo::user(sig, super::info::SI_USER, 0, 0),
        };
        if sig < SIGRTMIN || !self.queue.iter().any(|i| i.signo == sig) {
            self.set.remove(sig);
        }
        Some(info)
    }

    /// Forgets the signals of `set`.
    pub fn flush(&mut self, set: SigSet) {
        if !self.set.and(set).is_empty() {
            let mut at = 0;
            while at < self.queue.len() {
                match set.has(self.queue[at].signo) {
                    true => {
                        self.queue.remove(at);
                    }
                    false => at += 1,
                }
            }
            self.set = self.set.without(set);
        }
    }

    /// The queued entries, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &SigInfo> {
        self.queue.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    #[test]
    fn standard_signals_coalesce_and_real_time_ones_queue_in_order() {
        let mut p = Pending::new();
        p.add(SigInfo::user(SIGUSR1, 0, 1, 0));
        p.add(SigInfo::user(SIGUSR1, 0, 2, 0));
        for pid in 3..6 {
            p.add(SigInfo::user(40, info::SI_QUEUE, pid, 0));
        }
        assert_eq!(p.take(SigSet::EMPTY).unwrap().pid(), 1);
        let order: Vec<u32> =
            std::iter::from_fn(|| p.take(SigSet::EMPTY)).map(|i| i.pid()).collect();
        assert_eq!(order, [3, 4, 5]);
        assert!(p.set().is_empty());
    }

    #[test]
    fn blocked_signals_stay() {
        let mut p = Pending::new();
        p.add(SigInfo::kernel(SIGINT));
        assert!(p.take(SigSet::of(&[SIGINT])).is_none());
        p.flush(SigSet::of(&[SIGINT]));
        assert!(p.take(SigSet::EMPTY).is_none());
    }
}
