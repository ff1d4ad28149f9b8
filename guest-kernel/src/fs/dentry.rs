//! [`Dentry`]: a name in a directory, and the cache of them.
//!
//! A dentry ties a parent and a name to an inode, or to nothing: an absent name is remembered too.
//! All cached dentries hang in one hash by (parent, name); the hash holds a reference to each, so a
//! name stays cached when nobody uses it, until the cache is full.
//!
//! What holds:
//! - The inode is set at most once, and stays while somebody holds the dentry. Removing a name takes
//!   the dentry out of the hash; it does not empty it.
//! - Dentries enter the hash only under the lock of their directory's inode, so a name is there once.
//! - Name and parent change only by rename, under [`RENAME`] *and* the locks of both hash buckets;
//!   so holding either is enough to read them.
//!
//! Lock order: [`RENAME`], then buckets by index.

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use belljar_abi::Described;

use super::{Inode, SuperBlock, notify};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::sync::{SpinLock, SpinLockGuard};

/// Names up to this length lie in the dentry itself.
const INLINE: usize = 32;

/// A name: where its bytes are and how many.
#[repr(C)]
struct Name {
    ptr: *const u8,
    len: usize,
    short: [u8; INLINE],
    long: Option<Box<[u8]>>,
}

impl Name {
    /// Copies `name`; `ptr` is set by [`settle`](Self::settle), when the place in memory is final.
    fn new(name: &[u8]) -> Result<Self> {
        let mut this =
            Self { ptr: core::ptr::null(), len: name.len(), short: [0; INLINE], long: None };
        match this.short.get_mut(..name.len()) {
            Some(short) => short.copy_from_slice(name),
            None => {
                let mut long = alloc::vec::Vec::new();
                long.try_reserve_exact(name.len()).map_err(|_| Errno::ENOMEM)?;
                long.extend_from_slice(name);
                this.long = Some(long.into_boxed_slice());
            }
        }
        Ok(this)
    }

    fn settle(&mut self) {
        self.ptr = self.bytes().as_ptr();
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match &self.long {
            None => &self.short[..self.len.min(INLINE)],
            Some(long) => long,
        }
    }
}

/// A name in a directory.
#[repr(C)]
#[derive(Described)]
pub struct Dentry {
    /// Guarded as the module's documentation says.
    #[described(as = "text")]
    name: UnsafeCell<Name>,
    /// Guarded as the module's documentation says.
    #[described(as = "ptr Dentry")]
    parent: UnsafeCell<Option<Ref<Dentry>>>,
    /// Null for an absent name. Owns a reference.
    inode: AtomicPtr<Inode>,
    /// The next in its bucket, under the bucket's lock.
    #[described(skip)]
    next: UnsafeCell<Option<Ref<Dentry>>>,
    #[described(skip)]
    hash: AtomicU32,
    hashed: AtomicBool,
    /// Found since the last sweep of the cache.
    referenced: AtomicBool,
    /// Mounts on it, in whichever namespace.
    mounts: AtomicU32,
    /// The epoch of [`notify`] in which nobody watched its directory; 0 if that is not known. Guarded as the name is.
    #[described(skip)]
    unwatched_in: AtomicU64,
}

// SAFETY: the cells are guarded by the locks that the module's documentation names.
unsafe impl Send for Dentry {}
// SAFETY: as above.
unsafe impl Sync for Dentry {}

/// Guards names and parents of all dentries against rename.
static RENAME: SpinLock<()> = SpinLock::new(());

/// Names and parents stay as they are while this lives.
pub struct RenameGuard(
    #[allow(dead_code, reason = "held for its drop")] SpinLockGuard<'static, ()>,
);

/// Holds renames off.
pub fn hold_renames() -> RenameGuard {
    RenameGuard(RENAME.lock())
}

impl Dentry {
    fn alloc(
        parent: Option<Ref<Dentry>>,
        name: &[u8],
        inode: Option<Ref<Inode>>,
    ) -> Result<Ref<Self>> {
        let this = Ref::try_new(Self {
            name: UnsafeCell::new(Name::new(name)?),
            parent: UnsafeCell::new(parent),
            inode: AtomicPtr::new(
                inode.map_or(core::ptr::null_mut(), |i| Ref::into_raw(i).cast_mut()),
            ),
            next: UnsafeCell::new(None),
            hash: AtomicU32::new(0),
            hashed: AtomicBool::new(false),
            referenced: AtomicBool::new(false),
            mounts: AtomicU32::new(0),
            unwatched_in: AtomicU64::new(0),
        })?;
        // SAFETY: nobody else knows the dentry yet, and a `Ref`'s object does not move.
        unsafe { (*this.name.get()).settle() };
        Ok(this)
    }

    /// The root of a file system.
    pub fn new_root(inode: Ref<Inode>) -> Result<Ref<Self>> {
        Self::alloc(None, b"/", Some(inode))
    }

    /// A dentry outside any tree, for pipes and their like.
    pub fn new_pseudo(inode: Ref<Inode>) -> Result<Ref<Self>> {
        Self::alloc(None, b"", Some(inode))
    }

    /// A dentry for a file that has no name in its directory (`O_TMPFILE`).
    pub fn new_unnamed(parent: &Ref<Dentry>, name: &[u8], inode: Ref<Inode>) -> Result<Ref<Self>> {
        Self::alloc(Some(parent.clone()), name, Some(inode))
    }

    /// A name that is not there and is not remembered either.
    pub fn new_absent(parent: &Ref<Dentry>, name: &[u8]) -> Result<Ref<Self>> {
        Self::alloc(Some(parent.clone()), name, None)
    }

    /// What the name stands for; `None` if it is absent.
    #[inline]
    pub fn inode(&self) -> Option<&Ref<Inode>> {
        // SAFETY: `Ref` is a transparent pointer, so a non-null `AtomicPtr` that owns a reference has
        // the same memory as an `Option<Ref>`; it is set once and not changed while `self` lives.
        let slot = unsafe { &*(&raw const self.inode).cast::<Option<Ref<Inode>>>() };
        if self.inode.load(Ordering::Acquire).is_null() { None } else { slot.as_ref() }
    }

    /// What the name stands for; `ENOENT` if it is absent.
    #[inline]
    pub fn require_inode(&self) -> Result<&Ref<Inode>> {
        self.inode().ok_or(Errno::ENOENT)
    }

    /// Makes an absent name stand for `inode`, under the lock of its directory.
    pub fn instantiate(&self, inode: Ref<Inode>) {
        let old = self.inode.swap(Ref::into_raw(inode).cast_mut(), Ordering::Release);
        debug_assert!(old.is_null(), "a dentry's inode is set once");
    }

    /// The parent; `None` for the root of a file system.
    pub fn parent(&self) -> Option<Ref<Dentry>> {
        self.parent_held(&hold_renames()).cloned()
    }

    /// The parent, while renames are held off.
    pub fn parent_held<'a>(&'a self, _guard: &'a RenameGuard) -> Option<&'a Ref<Dentry>> {
        // SAFETY: the parent changes under `RENAME` only.
        unsafe { (*self.parent.get()).as_ref() }
    }

    /// The name, while renames are held off.
    pub fn name_held<'a>(&'a self, _guard: &'a RenameGuard) -> &'a [u8] {
        // SAFETY: the name changes under `RENAME` only.
        unsafe { (*self.name.get()).bytes() }
    }

    /// Calls `f`, under a spin lock, with the parent and the name, neither of which changes meanwhile. What is cached
    /// needs only the lock of its bucket for that.
    pub(super) fn with_place<R>(&self, f: impl FnOnce(Option<&Ref<Dentry>>, &[u8]) -> R) -> R {
        if self.is_hashed() {
            let hash = self.hash.load(Ordering::Relaxed);
            let _chain = bucket(hash).lock();
            // It may have gone elsewhere before the lock was there.
            if self.is_hashed() && self.hash.load(Ordering::Relaxed) == hash {
                // SAFETY: the bucket that it hangs in is locked.
                return unsafe { f((*self.parent.get()).as_ref(), (*self.name.get()).bytes()) };
            }
        }
        let guard = hold_renames();
        f(self.parent_held(&guard), self.name_held(&guard))
    }

    /// True if nobody watched its directory in that epoch of [`notify`].
    #[inline]
    pub(super) fn is_unwatched_in(&self, epoch: u64) -> bool {
        self.unwatched_in.load(Ordering::Relaxed) == epoch
    }

    /// Nobody watched its directory in that epoch; for [`with_place`](Self::with_place).
    pub(super) fn set_unwatched_in(&self, epoch: u64) {
        self.unwatched_in.store(epoch, Ordering::Relaxed);
    }

    /// True if the name is in the cache, and so in the file system. False for roots.
    pub fn is_hashed(&self) -> bool {
        self.hashed.load(Ordering::Acquire)
    }

    /// True if the name was removed, or never was one.
    pub fn is_unlinked(&self) -> bool {
        // A rename takes the dentry out of the hash and puts it back.
        let guard = hold_renames();
        !self.is_hashed() && self.parent_held(&guard).is_some()
    }

    /// True if something is mounted on it.
    #[inline]
    pub fn is_mountpoint(&self) -> bool {
        self.mounts.load(Ordering::Relaxed) != 0
    }

    pub(super) fn add_mount(&self) {
        self.mounts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_mount(&self) {
        self.mounts.fetch_sub(1, Ordering::Relaxed);
    }

    /// True if `self` is `ancestor` or lies below it.
    pub fn is_below(&self, ancestor: &Dentry) -> bool {
        let guard = hold_renames();
        let mut at = Some(self);
        while let Some(dentry) = at {
            if core::ptr::eq(dentry, ancestor) {
                return true;
            }
            at = dentry.parent_held(&guard).map(|p| &**p);
        }
        false
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        let inode = *self.inode.get_mut();
        if !inode.is_null() {
            // SAFETY: the pointer owns a reference, taken back once.
            let inode = unsafe { Ref::from_raw(inode.cast_const()) };
            if inode.nlink() == 0 {
                notify::forgotten(&inode);
            }
        }
        // A long chain of parents that only their children held is let go of one by one: as nested
        // drops it could outgrow the kernel stack.
        let mut parent = self.parent.get_mut().take();
        while let Some(dentry) = parent {
            parent = Ref::into_inner(dentry).and_then(|mut d| d.parent.get_mut().take());
        }
    }
}

const BUCKETS: usize = 2048;

type Chain = Option<Ref<Dentry>>;

struct Cache {
    buckets: [SpinLock<Chain>; BUCKETS],
    count: AtomicUsize,
    limit: AtomicUsize,
    hand: AtomicUsize,
}

static CACHE: Cache = Cache {
    buckets: [const { SpinLock::new(None) }; BUCKETS],
    count: AtomicUsize::new(0),
    limit: AtomicUsize::new(16 * 1024),
    hand: AtomicUsize::new(0),
};

/// Sets how many names are kept; boot order derives it from the size of memory.
pub fn set_cache_limit(names: usize) {
    CACHE.limit.store(names.max(BUCKETS / 2), Ordering::Relaxed);
}

/// The hash of `name` in `parent`.
#[inline]
fn hash_of(parent: &Dentry, name: &[u8]) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut h = (core::ptr::from_ref(parent) as u64 >> 4).wrapping_mul(K) ^ name.len() as u64;
    let mut words = name.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        h = (h.rotate_left(5) ^ word).wrapping_mul(K);
    }
    let mut last = 0;
    for &byte in words.remainder() {
        last = (last << 8) | u64::from(byte);
    }
    h = (h.rotate_left(5) ^ last).wrapping_mul(K);
    (h >> 32) as u32
}

#[inline]
fn bucket(hash: u32) -> &'static SpinLock<Chain> {
    &CACHE.buckets[hash as usize % BUCKETS]
}

/// The cached dentry of `name` in `parent`, absent ones included.
#[inline]
pub fn lookup(parent: &Dentry, name: &[u8]) -> Option<Ref<Dentry>> {
    let hash = hash_of(parent, name);
    let chain = bucket(hash).lock();
    let mut at = &*chain;
    while let Some(dentry) = at {
        // SAFETY: the bucket is locked, which guards names, parents and links of what hangs in it.
        unsafe {
            if dentry.hash.load(Ordering::Relaxed) == hash
                && (*dentry.parent.get()).as_ref().is_some_and(|p| core::ptr::eq(&**p, parent))
                && (*dentry.name.get()).bytes() == name
            {
                dentry.referenced.store(true, Ordering::Relaxed);
                return Some(dentry.clone());
            }
            at = &*dentry.next.get();
        }
    }
    None
}

/// Puts `dentry` at the head of its bucket.
///
/// # Safety
/// `chain` is the locked bucket of `hash`, `dentry` is not hashed, and its parent and name (to which
/// `hash` belongs) do not change meanwhile.
unsafe fn link(chain: &mut Chain, dentry: &Ref<Dentry>, hash: u32) {
    dentry.hash.store(hash, Ordering::Relaxed);
    // SAFETY: the bucket is locked, and an unhashed dentry's link is nobody else's.
    unsafe { *dentry.next.get() = chain.take() };
    *chain = Some(dentry.clone());
    dentry.hashed.store(true, Ordering::Release);
    CACHE.count.fetch_add(1, Ordering::Relaxed);
}

/// Takes out of the bucket what `which` picks, and returns it as a chain.
fn unlink_where(chain: &mut Chain, mut which: impl FnMut(&Ref<Dentry>) -> bool) -> Chain {
    let mut out: Chain = None;
    let mut at: *mut Chain = chain;
    // SAFETY: the bucket is locked, so the links of what hangs in it are ours; `at` points to the
    // head or into a dentry that the chain holds.
    unsafe {
        while let Some(dentry) = &*at {
            if !which(dentry) {
                at = dentry.next.get();
                continue;
            }
            let Some(dentry) = (*at).take() else { break };
            *at = (*dentry.next.get()).take();
            dentry.hashed.store(false, Ordering::Release);
            CACHE.count.fetch_sub(1, Ordering::Relaxed);
            *dentry.next.get() = out.take();
            out = Some(dentry);
        }
    }
    out
}

/// Drops a chain that was taken out, one by one.
fn drop_chain(mut chain: Chain) {
    while let Some(dentry) = chain {
        // SAFETY: an unhashed dentry's link belongs to the chain that it was taken out with.
        chain = unsafe { (*dentry.next.get()).take() };
    }
}

/// Remembers that `name` in `parent` stands for `inode`, or for nothing. The caller holds the lock
/// of the directory's inode and has found that the name is not cached.
pub fn insert(parent: &Ref<Dentry>, name: &[u8], inode: Option<Ref<Inode>>) -> Result<Ref<Dentry>> {
    let dentry = Dentry::alloc(Some(parent.clone()), name, inode)?;
    let hash = hash_of(parent, name);
    // SAFETY: the dentry is new, so nothing but us knows its name and parent.
    unsafe { link(&mut bucket(hash).lock(), &dentry, hash) };
    if CACHE.count.load(Ordering::Relaxed) > CACHE.limit.load(Ordering::Relaxed) {
        shrink(64);
    }
    Ok(dentry)
}

/// Takes `dentry` out of the cache: its name is gone.
pub fn unhash(dentry: &Dentry) {
    // Its bucket changes by rename only, which the lock of its directory keeps off.
    let hash = dentry.hash.load(Ordering::Relaxed);
    let out = unlink_where(&mut bucket(hash).lock(), |d| core::ptr::eq(&**d, dentry));
    drop_chain(out);
}

/// Forgets names that nobody uses, the long unused ones first, looking at `buckets` of them. Returns
/// how many it forgot.
pub fn shrink(buckets: usize) -> usize {
    let mut forgotten = 0;
    for _ in 0..buckets {
        let at = CACHE.hand.fetch_add(1, Ordering::Relaxed) % BUCKETS;
        let out = unlink_where(&mut CACHE.buckets[at].lock(), |d| {
            let unused = Ref::ref_count(d) == 1 && !d.referenced.swap(false, Ordering::Relaxed);
            forgotten += usize::from(unused);
            unused
        });
        drop_chain(out);
    }
    forgotten
}

/// Forgets everything of a file system that is mounted nowhere any more.
pub fn forget_super(sb: &SuperBlock) {
    // An absent name has no inode; its parent says where it belongs.
    let owner = |d: &Dentry| -> Option<*const SuperBlock> {
        // SAFETY: only read under the bucket's lock.
        let parent = unsafe { (*d.parent.get()).as_ref() };
        let inode = d.inode().or_else(|| parent.and_then(|p| p.inode()));
        inode.map(|i| Ref::as_ptr(&i.sb))
    };
    for bucket in &CACHE.buckets {
        let out = unlink_where(&mut bucket.lock(), |d| owner(d) == Some(core::ptr::from_ref(sb)));
        drop_chain(out);
    }
}

/// Moves `dentry` to `name` in `new_parent`, where `target` (cached, maybe absent) was; `exchange`
/// puts `target` where `dentry` was, else it leaves the cache. The caller holds the locks of both
/// directories' inodes.
pub fn rename(
    dentry: &Ref<Dentry>,
    new_parent: &Ref<Dentry>,
    target: &Ref<Dentry>,
    exchange: bool,
) -> Result<()> {
    let guard = hold_renames();
    let old_parent = dentry.parent_held(&guard).cloned().ok_or(Errno::EBUSY)?;
    let mut new_name = Name::new(target.name_held(&guard))?;
    let mut old_name = Name::new(dentry.name_held(&guard))?;
    let old_hash = dentry.hash.load(Ordering::Relaxed);
    let new_hash = hash_of(new_parent, new_name.bytes());
    let (old_at, new_at) = (old_hash as usize % BUCKETS, new_hash as usize % BUCKETS);
    let mut first = CACHE.buckets[old_at.min(new_at)].lock();
    let mut second = (old_at != new_at).then(|| CACHE.buckets[old_at.max(new_at)].lock());
    let ours = |d: &Ref<Dentry>| Ref::ptr_eq(d, dentry) || Ref::ptr_eq(d, target);
    // The caller holds both, so nothing is freed here, under the locks.
    drop_chain(unlink_where(&mut first, ours));
    if let Some(chain) = &mut second {
        drop_chain(unlink_where(chain, ours));
    }
    let dropped_parent;
    let dropped_target_parent;
    // SAFETY: `RENAME` and both buckets are held, and both dentries are out of the hash.
    unsafe {
        new_name = dentry.name.get().replace(new_name);
        (*dentry.name.get()).settle();
        dropped_parent = (*dentry.parent.get()).replace(new_parent.clone());
        dropped_target_parent = if exchange {
            old_name = target.name.get().replace(old_name);
            (*target.name.get()).settle();
            (*target.parent.get()).replace(old_parent)
        } else {
            Some(old_parent)
        };
        dentry.set_unwatched_in(0);
        target.set_unwatched_in(0);
        let (old_chain, new_chain) = match &mut second {
            None => (None, &mut *first),
            Some(second) if old_at < new_at => (Some(&mut *first), &mut **second),
            Some(second) => (Some(&mut **second), &mut *first),
        };
        link(new_chain, dentry, new_hash);
        if exchange {
            link(old_chain.unwrap_or(new_chain), target, old_hash);
        }
    }
    drop((second, first, guard));
    // A parent that is let go of may be the last reference: not under the locks.
    drop((dropped_parent, dropped_target_parent, new_name, old_name));
    Ok(())
}
