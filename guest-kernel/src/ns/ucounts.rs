//! [`Ucounts`]: how many namespaces of each kind, and how many watches of inotify(7), a user has made, and
//! what they may (namespaces(7), "The /proc/sys/user directory").
//!
//! A user is a kernel user id in a user namespace. Whatever is counted there counts for the creator of
//! that user namespace too, in the namespace around it, and so on outwards: a user gains nothing by
//! making user namespaces.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::list_link;
use crate::ns::common::{NS_KINDS, NsKind};
use crate::ns::user::UserNs;
use crate::sync::IrqLock;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// Namespaces of a kind.
    Namespace(NsKind),
    /// Files of inotify_init1(2).
    InotifyInstances,
    /// Their watches.
    InotifyWatches,
}

/// How many counts there are.
const COUNTS: usize = NS_KINDS + 2;

impl Counted {
    const fn index(self) -> usize {
        match self {
            Self::Namespace(kind) => kind as usize,
            Self::InotifyInstances => NS_KINDS,
            Self::InotifyWatches => NS_KINDS + 1,
        }
    }
}

/// One user's counts.
pub struct Ucounts {
    ns: Ref<UserNs>,
    uid: u32,
    counts: [AtomicU32; COUNTS],
    link: Link,
}

list_link!(
    /// The users of a user namespace who have made something.
    Ucounts, link: UcountsLink
);

/// The counts of a user namespace's users, and the limits in it.
pub struct Limits {
    /// A task's last credentials go under the task list's lock, and with them perhaps a user: hence a
    /// lock that no interrupt can wait for.
    users: IrqLock<List<Ucounts, UcountsLink>>,
    max: [AtomicU32; COUNTS],
}

impl Limits {
    /// No user has more than `max` of any kind.
    pub const fn new(max: u32) -> Self {
        Self { users: IrqLock::new(List::new()), max: [const { AtomicU32::new(0) }; COUNTS] }
            .with_max(max)
    }

    const fn with_max(mut self, max: u32) -> Self {
        let mut i = 0;
        while i < COUNTS {
            self.max[i] = AtomicU32::new(max);
            i += 1;
        }
        self
    }

    /// A limit.
    pub fn max(&self, counted: Counted) -> u32 {
        self.max[counted.index()].load(Ordering::Relaxed)
    }

    /// Sets it.
    pub fn set_max(&self, counted: Counted, max: u32) {
        self.max[counted.index()].store(max, Ordering::Relaxed);
    }
}

impl Ucounts {
    /// The counts of `uid` in `ns`.
    fn of(ns: &Ref<UserNs>, uid: u32) -> Result<Ref<Self>> {
        let find = || {
            let users = ns.limits.users.lock();
            // SAFETY: a listed user takes itself off the list, under this lock, before it is freed.
            users.iter().filter(|u| u.uid == uid).find_map(|u| unsafe { Ref::try_from_ref(u) })
        };
        if let Some(found) = find() {
            return Ok(found);
        }
        let counts = [const { AtomicU32::new(0) }; COUNTS];
        let new = Ref::try_new(Self { ns: ns.clone(), uid, counts, link: Link::new() })?;
        let users = ns.limits.users.lock();
        // Somebody else may have been faster.
        // SAFETY: as above.
        let other =
            users.iter().filter(|u| u.uid == uid).find_map(|u| unsafe { Ref::try_from_ref(u) });
        match other {
            Some(other) => {
                drop(users);
                Ok(other)
            }
            None => {
                // SAFETY: the list's lock is held; `Drop` unlinks.
                unsafe { users.push_front(&new) };
                Ok(new)
            }
        }
    }

    /// The counts that these count for as well: of who made their user namespace.
    fn outer(&self) -> Option<&Ref<Ucounts>> {
        self.ns.common.charge().map(|charge| &charge.user)
    }
}

impl Drop for Ucounts {
    fn drop(&mut self) {
        let _users = self.ns.limits.users.lock();
        // SAFETY: the list's lock is held.
        unsafe { self.link.unlink() };
    }
}

/// One namespace's or watch's share in its creator's counts.
pub struct Charge {
    user: Ref<Ucounts>,
    what: Counted,
}

impl Charge {
    /// Counts one more for `uid` in `ns` and everywhere outwards; `ENOSPC` if a limit is reached.
    pub fn new(ns: &Ref<UserNs>, uid: u32, what: Counted) -> Result<Self> {
        let user = Ucounts::of(ns, uid)?;
        let mut at = Some(&user);
        while let Some(counted) = at {
            let max = counted.ns.limits.max(what);
            let grow = |n: u32| (n < max).then_some(n + 1);
            let count = &counted.counts[what.index()];
            if count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).is_err() {
                let mut undo = Some(&user);
                while let Some(done) = undo.filter(|done| !Ref::ptr_eq(done, counted)) {
                    done.counts[what.index()].fetch_sub(1, Ordering::Relaxed);
                    undo = done.outer();
                }
                return Err(Errno::ENOSPC);
            }
            at = counted.outer();
        }
        Ok(Self { user, what })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut at = Some(&self.user);
        while let Some(counted) = at {
            counted.counts[self.what.index()].fetch_sub(1, Ordering::Relaxed);
            at = counted.outer();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTS: Counted = Counted::Namespace(NsKind::Uts);

    #[test]
    fn a_limit_outside_holds_inside_as_well() {
        let outer = UserNs::new_initial().unwrap();
        let inner = UserNs::new(&outer, 1000, 1000, true).unwrap();
        outer.limits.set_max(UTS, 2);
        let one = Charge::new(&inner, 1, UTS).unwrap();
        let _two = Charge::new(&inner, 2, UTS).unwrap();
        assert_eq!(Charge::new(&inner, 3, UTS).err(), Some(Errno::ENOSPC));
        // Nothing of the failed attempt stays.
        drop(one);
        let _three = Charge::new(&inner, 3, UTS).unwrap();
        // Another user outside has counts of its own.
        assert!(Charge::new(&outer, 7, UTS).is_ok());
    }
}
