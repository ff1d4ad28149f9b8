//! How large a pipe may be made, and how many slots all pipes of a user may have (pipe(7), "/proc files").
//!
//! A slot counts for whoever made the pipe, whether there is a page in it or not. Who has CAP_SYS_RESOURCE or
//! CAP_SYS_ADMIN is counted, too, and may exceed the limits of a user.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::ns::{Cap, Cred};
use crate::ordmap::OrdMap;
use crate::sync::SpinLock;

/// Slots of a new pipe: 64 KiB.
const DEFAULT_SLOTS: usize = 16;
/// Those of one whose user is above [`USER_SOFT`].
const FEW_SLOTS: usize = 2;
/// The largest pipe there can be, in bytes.
const LARGEST: usize = 1 << 31;

/// Bytes that F_SETPIPE_SZ gives at most to who lacks CAP_SYS_RESOURCE; /proc/sys/fs/pipe-max-size.
pub static MAX_SIZE: AtomicUsize = AtomicUsize::new(1 << 20);
/// Slots of a user above which new pipes are small and none grows, 0 for no limit; /proc/sys/fs/pipe-user-pages-soft.
pub static USER_SOFT: AtomicUsize = AtomicUsize::new(16384);
/// Slots of a user above which there are no new pipes, 0 for no limit; /proc/sys/fs/pipe-user-pages-hard.
pub static USER_HARD: AtomicUsize = AtomicUsize::new(0);

/// The slots of each user who has some.
static USERS: SpinLock<OrdMap<u32, usize>> = SpinLock::new(OrdMap::new());

/// The slots of one pipe in its user's account.
pub(super) struct Share {
    uid: u32,
    slots: usize,
}

impl Share {
    /// What a new pipe gets whose user has `cred`. `ENFILE` if the user may have no more.
    pub fn new(cred: &Cred) -> Result<Self> {
        let most = MAX_SIZE.load(Relaxed) / PAGE_SIZE;
        let wanted = if may_be_large(cred) { DEFAULT_SLOTS } else { DEFAULT_SLOTS.min(most) };
        let mut share = Self { uid: cred.uid, slots: 0 };
        let mut total = share.change(wanted)?;
        if exceeds(&USER_SOFT, total) && !is_exempt(cred) {
            total = share.change(FEW_SLOTS)?;
        }
        if exceeds(&USER_HARD, total) && !is_exempt(cred) {
            return Err(Errno::ENFILE);
        }
        Ok(share)
    }

    /// How many there are.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Gives the pipe `slots`, for who has `cred`. `EPERM` if that is more than before and more than the pipe, or the
    /// pipe's user, may have.
    pub fn resize(&mut self, slots: usize, cred: &Cred) -> Result<()> {
        let before = self.slots;
        let grows = slots > before;
        if grows && slots * PAGE_SIZE > MAX_SIZE.load(Relaxed) && !may_be_large(cred) {
            return Err(Errno::EPERM);
        }
        let total = self.change(slots)?;
        let too_many = exceeds(&USER_SOFT, total) || exceeds(&USER_HARD, total);
        if grows && too_many && !is_exempt(cred) {
            self.restore(before);
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Takes a [`resize`](Self::resize) back.
    pub fn restore(&mut self, slots: usize) {
        // What is in the account already needs no memory.
        let _ = self.change(slots);
    }

    /// Changes the number of slots, and says how many all of the user's pipes have then.
    fn change(&mut self, slots: usize) -> Result<usize> {
        let mut users = USERS.lock();
        let total = users.get(&self.uid).copied().unwrap_or(0) - self.slots + slots;
        if total == 0 {
            users.remove(&self.uid);
        } else {
            users.try_insert(self.uid, total)?;
        }
        self.slots = slots;
        Ok(total)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Less of what is there needs no memory.
        let _ = self.change(0);
    }
}

/// The size of a pipe that is to have `bytes`: a power of two of pages. `EINVAL` if none can be so large.
pub fn round_size(bytes: usize) -> Result<usize> {
    let bytes = bytes.max(PAGE_SIZE).checked_next_power_of_two().ok_or(Errno::EINVAL)?;
    if bytes > LARGEST { Err(Errno::EINVAL) } else { Ok(bytes) }
}

/// True if who has `cred` may make pipes larger than [`MAX_SIZE`].
fn may_be_large(cred: &Cred) -> bool {
    cred.capable(Cap::SysResource)
}

fn is_exempt(cred: &Cred) -> bool {
    cred.capable(Cap::SysResource) || cred.capable(Cap::SysAdmin)
}

fn exceeds(limit: &AtomicUsize, total: usize) -> bool {
    let limit = limit.load(Relaxed);
    limit != 0 && total > limit
}
