//! [`Seccomp`]: how far a task's system calls are restricted (seccomp(2)).
//!
//! The task itself sets it, and a thread of its process that has all of them take its own filters. Both do so under the
//! task list's lock, so that no child of either is forgotten.

use core::sync::atomic::{AtomicU32, Ordering};

use belljar_abi::Described;

use crate::kref::Ref;
use crate::seccomp::SeccompFilter;
use crate::sync::IrqLock;

/// How.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Described)]
#[repr(u32)]
pub enum SeccompMode {
    /// Not at all.
    Disabled = 0,
    /// To reading, writing, ending and returning from signal handlers.
    Strict = 1,
    /// By filters.
    Filter = 2,
    /// It is to end for a call that it made.
    Dead = 3,
}

impl SeccompMode {
    /// By its number, as prctl(2) `PR_GET_SECCOMP` shows it.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Disabled, Self::Strict, Self::Filter, Self::Dead]
            .into_iter()
            .find(|mode| *mode as u32 == number)
    }
}

/// A task's part.
#[repr(C)]
#[derive(Default, Described)]
pub struct Seccomp {
    #[described(as = "enum SeccompMode")]
    mode: AtomicU32,
    /// How many filters its calls pass.
    filter_count: AtomicU32,
    /// The last of them, which knows the others.
    filter: IrqLock<Option<Ref<SeccompFilter>>>,
}

impl Seccomp {
    /// How it is restricted.
    #[inline]
    pub fn mode(&self) -> SeccompMode {
        let number = self.mode.load(Ordering::Acquire);
        SeccompMode::from_number(number).unwrap_or(SeccompMode::Dead)
    }

    /// Changes how.
    pub fn set_mode(&self, mode: SeccompMode) {
        self.mode.store(mode as u32, Ordering::Release);
    }

    /// How many filters its calls pass.
    pub fn filter_count(&self) -> u32 {
        self.filter_count.load(Ordering::Relaxed)
    }

    /// The last of them.
    pub fn filter(&self) -> Option<Ref<SeccompFilter>> {
        self.filter.lock().clone()
    }

    /// True if the filters are known to allow the call whatever its arguments are.
    #[inline]
    pub fn always_allows(&self, nr: i32) -> bool {
        self.filter.lock().as_ref().is_some_and(|filter| filter.always_allows(nr))
    }

    /// Other filters from now on; the caller has counted the task among the users of the new ones. Returns the ones before,
    /// to be let go of with no lock held.
    #[must_use]
    pub fn set_filter(&self, filter: Option<Ref<SeccompFilter>>) -> Option<Ref<SeccompFilter>> {
        let count = filter.as_ref().map_or(0, |filter| filter.path().count());
        self.filter_count.store(count as u32, Ordering::Relaxed);
        core::mem::replace(&mut *self.filter.lock(), filter)
    }

    /// As another task is, whose child this one is.
    pub fn inherit(&self, parent: &Self) {
        let filter = parent.filter();
        if let Some(filter) = &filter {
            filter.add_user();
        }
        self.filter_count.store(parent.filter_count(), Ordering::Relaxed);
        let before = core::mem::replace(&mut *self.filter.lock(), filter);
        debug_assert!(before.is_none(), "a child has no filters of its own");
        self.set_mode(parent.mode());
    }

    /// The task ends: it makes no calls any more. Returns its filters, to be let go of with no lock held.
    #[must_use]
    pub fn release(&self) -> Option<Ref<SeccompFilter>> {
        let filter = self.filter.lock().take();
        if let Some(filter) = &filter {
            filter.drop_user();
        }
        filter
    }
}
