//! Changes of what a group's files show that no program made by writing to them: who polls such a file is woken
//! at once, and who watches it (inotify(7)) is told by a thread, for changes happen under the task list's lock.
//!
//! Groups that are to be told of stand in a chain, which holds a reference to each; each stands there once.

use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use super::Cgroup;
use crate::kref::Ref;
use crate::sync::{IrqLock, Once};

bitflags::bitflags! {
    /// Files of a group.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Changed: u32 {
        /// `cgroup.events`.
        const EVENTS = 1 << 0;
        /// `pids.events`.
        const PIDS = 1 << 1;
    }
}

/// Who tells, on a later floor.
pub struct Teller {
    /// True if anybody watches. Called under spin locks.
    pub is_wanted: fn() -> bool,
    /// There is something to tell: has a thread call [`next`]. Called under spin locks.
    pub schedule: fn(),
}

static TELLER: Once<Teller> = Once::new();

/// The group that changed last of those that are to be told of, or null.
struct Chain(*const Cgroup);

// SAFETY: the chain holds a reference to each of its groups.
unsafe impl Send for Chain {}

static CHAIN: IrqLock<Chain> = IrqLock::new(Chain(core::ptr::null()));

/// Names who tells, at boot.
pub fn set_teller(teller: Teller) {
    TELLER.set(teller);
}

impl Cgroup {
    /// A file shows something else now.
    pub fn changed(&self, file: Changed) {
        let watch = if file == Changed::PIDS { &self.pids.watch } else { &self.events };
        watch.notify();
        if let Some(teller) = TELLER.try_get().filter(|teller| (teller.is_wanted)())
            && self.untold.fetch_or(file.bits(), AcqRel) == 0
        {
            {
                let mut chain = CHAIN.lock();
                self.next_untold.store(chain.0.cast_mut(), Relaxed);
                chain.0 = Ref::into_raw(self.to_ref());
            }
            (teller.schedule)();
        }
    }
}

/// A group that is to be told of, and what of it changed.
pub fn next() -> Option<(Ref<Cgroup>, Changed)> {
    let group = {
        let mut chain = CHAIN.lock();
        if chain.0.is_null() {
            return None;
        }
        // SAFETY: the reference that `changed` gave to the chain.
        let group = unsafe { Ref::from_raw(chain.0) };
        chain.0 = group.next_untold.load(Relaxed);
        group
    };
    // What changes from here on puts it into the chain again.
    let changed = Changed::from_bits_truncate(group.untold.swap(0, AcqRel));
    Some((group, changed))
}
