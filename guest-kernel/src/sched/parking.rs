//! Where [`crate::sync`]'s sleeping locks sleep: waiters hashed by the address of the lock's word.
//!
//! The lock itself is one word and knows nothing of waiters but a bit; all that concerns them happens
//! under the bucket's lock here, so the bit is exact.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, Ordering::Relaxed};

use super::entity::{Entity, current};
use super::schedule::{schedule_in, wake_up};
use super::state::TaskState;
use crate::list::{Link, List};
use crate::list_link;
use crate::sync::IrqLock;

#[repr(C)]
struct Parked {
    link: Link,
    word: *const AtomicU32,
    kind: u32,
    entity: *const Entity,
    woken: AtomicBool,
}

// SAFETY: it is touched under its bucket's lock, `woken` apart.
unsafe impl Sync for Parked {}
// SAFETY: as above.
unsafe impl Send for Parked {}

list_link! {
    /// Links the waiters of a bucket.
    Parked, link: ParkedLink
}

type Bucket = IrqLock<List<Parked, ParkedLink>>;

static BUCKETS: [Bucket; 64] = [const { IrqLock::new(List::new()) }; 64];

fn bucket(word: &AtomicU32) -> &'static Bucket {
    let address = ptr::from_ref(word) as usize as u64;
    // Fibonacci hashing: the top bits of a product with 2^64 / phi.
    &BUCKETS[((address >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize]
}

/// Sleeps until [`unpark`] unless `word` is not `expected` any more.
#[unsafe(no_mangle)]
fn park(word: &AtomicU32, expected: u32, kind: u32) {
    let me = current();
    let parked =
        Parked { link: Link::new(), word, kind, entity: me, woken: AtomicBool::new(false) };
    {
        let waiters = bucket(word).lock();
        if word.load(Ordering::SeqCst) != expected {
            return;
        }
        // SAFETY: the lock is held; `parked` stays in this frame until `woken` says that it is off.
        unsafe { waiters.push_back(&parked) };
    }
    let channel = crate::wait_channel!("mutex");
    loop {
        me.prepare_sleep(TaskState::UNINTERRUPTIBLE);
        if parked.woken.load(Relaxed) {
            break;
        }
        schedule_in(channel);
    }
    me.cancel_sleep();
    // The waker is done with `parked` and with us once it has let go of the lock.
    drop(bucket(word).lock());
}

/// Wakes up to `n` sleepers of that word and kind; if none of them is left, clears `flag` in the word.
/// Says how many it woke.
#[unsafe(no_mangle)]
fn unpark(word: &AtomicU32, kind: u32, n: usize, flag: u32) -> usize {
    let waiters = bucket(word).lock();
    let mut woken = 0;
    let mut left = false;
    for parked in waiters.iter() {
        if !ptr::eq(parked.word, word) || parked.kind != kind {
            continue;
        }
        if woken == n {
            left = true;
            break;
        }
        // SAFETY: the lock is held, and the sleeper takes it once more before it leaves `park`, so both
        // `parked` and the entity outlive this.
        unsafe {
            waiters.remove(parked);
            parked.woken.store(true, Relaxed);
            wake_up(&*parked.entity, TaskState::UNINTERRUPTIBLE);
        }
        woken += 1;
    }
    if !left {
        word.fetch_and(!flag, Relaxed);
    }
    woken
}
