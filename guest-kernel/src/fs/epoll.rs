//! epoll(7): a set of files to watch, and the list of those that may be ready.
//!
//! A watched file (an [`Item`]) has an entry on each of its wait queues. A wake-up there, in whatever
//! context, links the item into the ready list and wakes a waiter; epoll_wait(2) then asks each linked
//! file what it is ready for. Level-triggered items go back to the end of the list, edge-triggered
//! ones stay off until their next wake-up.
//!
//! # Lifetime
//!
//! An epoll set does not keep its files open. An item holds a plain pointer to its file, and the file
//! knows its watchers: when it goes, [`release_file`] takes the items off their sets, under each set's
//! lock, before the file's memory does. So under the set's lock the pointers of its items are good.
//!
//! Lock order: [`NESTING`], sets from watcher to watched, a file's list of watchers; then wait queues,
//! then ready lists from watched to watcher.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, UnsafeCell};
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use belljar_abi::Described;

use super::poll::PollWaiter;
use super::{FMode, File, FileKind, FileOps, PollFlags, PollTable};
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::list_link;
use crate::mm::try_arc;
use crate::sched::clock::Deadline;
use crate::sched::{TaskState, Wait, WaitEntry, WaitQueue};
use crate::sync::{IrqLock, Mutex};
use crate::wait_channel;

bitflags::bitflags! {
    /// Bits of `struct epoll_event` that are no events of poll(2) (epoll_ctl(2)).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EpollFlags: u32 {
        /// Wake one of several sets that watch the file.
        const EXCLUSIVE = 1 << 28;
        /// Keep the system awake; nothing to do here.
        const WAKEUP = 1 << 29;
        /// Report once, then stay silent until armed again.
        const ONESHOT = 1 << 30;
        /// Edge-triggered.
        const ET = 1 << 31;
    }
}

/// How deep sets may watch sets.
const MAX_NESTING: usize = 5;
/// Only these go with EPOLLEXCLUSIVE.
const EXCLUSIVE_OK: u32 = PollFlags::IN.bits()
    | PollFlags::OUT.bits()
    | PollFlags::ERR.bits()
    | PollFlags::HUP.bits()
    | EpollFlags::WAKEUP.bits()
    | EpollFlags::ET.bits()
    | EpollFlags::EXCLUSIVE.bits();

/// Taken by whoever makes a set watch another, so that no cycle comes to be.
static NESTING: Mutex<()> = Mutex::new(());

/// `struct epoll_event` of AArch64, which is not packed.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct EpollEvent {
    /// Events and [`EpollFlags`].
    pub events: u32,
    #[doc(hidden)]
    pub pad: u32,
    /// The program's own.
    pub data: u64,
}
crate::pod!(EpollEvent);

/// One watched file.
#[repr(C)]
#[derive(Described)]
#[described(name = "EpollItem")]
pub struct Item {
    ready: Link,
    file: *const File,
    fd: i32,
    events: AtomicU32,
    data: AtomicU64,
    /// The first queue that it waits on, for who looks from outside: whose signals a signalfd watches.
    #[described(as = "hex")]
    queue: Cell<*const WaitQueue>,
    #[described(skip)]
    set: Weak<EpollSet>,
    /// Entries on the file's queues; made when the file is added, under the set's lock.
    #[allow(clippy::vec_box, reason = "a queued entry does not move")]
    #[described(skip)]
    hooks: UnsafeCell<Vec<alloc::boxed::Box<Hook>>>,
}

// SAFETY: `file` is good under the set's lock (module documentation), `hooks` and `queue` are touched under it, and
// `ready` under the ready list's.
unsafe impl Send for Item {}
// SAFETY: as above.
unsafe impl Sync for Item {}

list_link!(
    /// The ready list of an epoll set.
    Item, ready: ReadyLink
);

/// An entry on one wait queue of a file.
#[repr(C)]
struct Hook {
    wait: WaitEntry,
    item: *const Item,
    queue: *const WaitQueue,
}

/// An epoll set.
#[repr(C)]
#[derive(Described)]
pub struct EpollSet {
    /// In the order of [`Item::key`].
    items: Mutex<Array<Ref<Item>>>,
    ready: IrqLock<ReadyList>,
    #[described(skip)]
    wait: WaitQueue,
    /// Where those wait who poll the set itself.
    #[described(skip)]
    poll_wait: WaitQueue,
}

#[repr(C)]
#[derive(Described)]
struct ReadyList {
    list: List<Item, ReadyLink>,
    len: usize,
}

impl Hook {
    fn wake(wait: &WaitEntry, key: u32) -> bool {
        // SAFETY: `wait` is the first field of a `Hook` (repr(C)), whose item outlives it.
        let item = unsafe { &*(*ptr::from_ref(wait).cast::<Hook>()).item };
        let events = item.events.load(Ordering::Acquire);
        if key & events != 0
            && let Some(set) = item.set.upgrade_in_wake()
        {
            set.make_ready(item);
        }
        false
    }
}

/// Upgrading in a wake-up: the set cannot be on its way out while one of its hooks is queued, because
/// it takes its hooks off the queues first.
trait UpgradeInWake {
    fn upgrade_in_wake(&self) -> Option<&EpollSet>;
}

impl UpgradeInWake for Weak<EpollSet> {
    fn upgrade_in_wake(&self) -> Option<&EpollSet> {
        // SAFETY: a `Weak` made by `Arc::downgrade` points at the object, which is there until its
        // hooks are off their queues (`EpollSet::drop`), and the queue of one of them is locked now.
        unsafe { self.as_ptr().as_ref() }
    }
}

impl Item {
    /// What tells it from the others of its set: the file's address, and the descriptor.
    fn key(&self) -> (usize, i32) {
        (self.file as usize, self.fd)
    }

    fn flags(&self) -> EpollFlags {
        EpollFlags::from_bits_truncate(self.events.load(Ordering::Relaxed))
    }

    fn interest(&self) -> PollFlags {
        PollFlags::from_bits_retain(self.events.load(Ordering::Acquire) & !EpollFlags::all().bits())
    }

    /// What the file is ready for, of what is asked; under the set's lock.
    fn poll(&self) -> PollFlags {
        // SAFETY: the set's lock is held (module documentation).
        let file = unsafe { &*self.file };
        file.ops().poll(file, &mut PollTable::empty()) & self.interest()
    }

    /// Takes the hooks off their queues; under the set's lock, while the file is there.
    fn unhook(&self) {
        // SAFETY: the set's lock is held.
        for hook in unsafe { (*self.hooks.get()).drain(..) } {
            // SAFETY: the queue lives as long as the file.
            unsafe { &*hook.queue }.remove(&hook.wait);
        }
    }
}

/// Puts an item's hooks on the queues that its file names.
struct Hooking<'a> {
    item: &'a Ref<Item>,
    failed: bool,
}

impl PollWaiter for Hooking<'_> {
    fn add(&mut self, queue: &WaitQueue) {
        // SAFETY: the set's lock is held by `EpollSet::add`.
        let hooks = unsafe { &mut *self.item.hooks.get() };
        let hook = crate::mm::try_box(Hook {
            wait: WaitEntry::with(Hook::wake, false),
            item: Ref::as_ptr(self.item),
            queue,
        });
        match hook {
            Ok(hook) if hooks.try_reserve(1).is_ok() => {
                // SAFETY: boxed, and taken off by `unhook` before it or the file goes.
                unsafe { queue.add(&hook.wait) };
                hooks.push(hook);
                if self.item.queue.get().is_null() {
                    self.item.queue.set(queue);
                }
            }
            _ => self.failed = true,
        }
    }
}

impl EpollSet {
    /// An empty set.
    pub fn new() -> Result<Arc<Self>> {
        try_arc(Self {
            items: Mutex::new(Array::new()),
            ready: IrqLock::new(ReadyList { list: List::new(), len: 0 }),
            wait: WaitQueue::new(),
            poll_wait: WaitQueue::new(),
        })
    }

    /// Links an item into the ready list and wakes a waiter.
    fn make_ready(&self, item: &Item) {
        {
            let mut ready = self.ready.lock();
            if !item.ready.is_linked() {
                // SAFETY: the list's lock is held; the item is taken off before it goes.
                unsafe { ready.list.push_back(item) };
                ready.len += 1;
            }
        }
        self.wait.wake_one();
        self.poll_wait.wake_poll(PollFlags::READABLE.bits());
    }

    fn take_off(&self, item: &Item) {
        let mut ready = self.ready.lock();
        if item.ready.is_linked() {
            // SAFETY: the list's lock is held.
            unsafe { item.ready.unlink() };
            ready.len -= 1;
        }
    }

    fn is_ready(&self) -> bool {
        self.ready.lock().len != 0
    }

    /// Watches a file (`EPOLL_CTL_ADD`).
    pub fn add(self: &Arc<Self>, fd: i32, file: &Ref<File>, event: EpollEvent) -> Result<()> {
        let always = (PollFlags::ERR | PollFlags::HUP).bits();
        let kept = EpollEvent { events: event.events | always, ..event };
        self.check_exclusive(event.events, file)?;
        self.insert(fd, file, kept, |item, table| {
            if !(file.ops().poll(file, table) & item.interest()).is_empty() {
                self.make_ready(item);
            }
        })
    }

    /// Watches a file as a set elsewhere did: with what is left of its events. `hook` names the queues to wait on.
    /// It is not ready until [`resume`](Self::resume) says so.
    pub fn restore(
        self: &Arc<Self>,
        fd: i32,
        file: &Ref<File>,
        event: EpollEvent,
        hook: impl FnOnce(&mut PollTable<'_>),
    ) -> Result<()> {
        self.check_exclusive(event.events, file)?;
        self.insert(fd, file, event, |_, table| hook(table))
    }

    /// Puts a file that was restored on the list of those that may be ready; nobody waits yet.
    pub fn resume(&self, fd: i32, file: &Ref<File>) {
        let items = self.items.lock();
        if let Ok(at) = find(&items, (Ref::as_ptr(file) as usize, fd)) {
            self.link_again(&items[at]);
        }
    }

    fn check_exclusive(&self, events: u32, file: &File) -> Result<()> {
        let exclusive = events & EpollFlags::EXCLUSIVE.bits() != 0;
        if exclusive && (events & !EXCLUSIVE_OK != 0 || set_of(file).is_some()) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    fn insert(
        self: &Arc<Self>,
        fd: i32,
        file: &Ref<File>,
        event: EpollEvent,
        poll: impl FnOnce(&Item, &mut PollTable<'_>),
    ) -> Result<()> {
        let _nesting = match set_of(file) {
            Some(set) => {
                let guard = NESTING.lock();
                if Arc::ptr_eq(set, self) || set.leads_to(self, 1)? {
                    return Err(Errno::ELOOP);
                }
                Some(guard)
            }
            None => None,
        };
        let mut items = self.items.lock();
        let key = (Ref::as_ptr(file) as usize, fd);
        let Err(at) = find(&items, key) else { return Err(Errno::EEXIST) };
        let item = Ref::try_new(Item {
            ready: Link::new(),
            file: Ref::as_ptr(file),
            fd,
            events: AtomicU32::new(event.events),
            data: AtomicU64::new(event.data),
            queue: Cell::new(ptr::null()),
            set: Arc::downgrade(self),
            hooks: UnsafeCell::new(Vec::new()),
        })?;
        items.try_reserve(1)?;
        file.watchers.add(self)?;
        items.try_insert(at, item.clone())?;
        let mut hooking = Hooking { item: &item, failed: false };
        poll(&item, &mut PollTable::new(&mut hooking));
        if hooking.failed {
            self.forget(&mut items, key);
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// Changes what is asked of a file (`EPOLL_CTL_MOD`).
    pub fn modify(&self, fd: i32, file: &Ref<File>, event: EpollEvent) -> Result<()> {
        let items = self.items.lock();
        let at = find(&items, (Ref::as_ptr(file) as usize, fd)).map_err(|_| Errno::ENOENT)?;
        let item = &items[at];
        let exclusive = EpollFlags::EXCLUSIVE.bits();
        if (event.events | item.events.load(Ordering::Relaxed)) & exclusive != 0 {
            return Err(Errno::EINVAL);
        }
        item.data.store(event.data, Ordering::Relaxed);
        let always = (PollFlags::ERR | PollFlags::HUP).bits();
        item.events.store(event.events | always, Ordering::Release);
        if !item.poll().is_empty() {
            self.make_ready(item);
        }
        Ok(())
    }

    /// Stops watching a file (`EPOLL_CTL_DEL`).
    pub fn delete(&self, fd: i32, file: &Ref<File>) -> Result<()> {
        let mut items = self.items.lock();
        let key = (Ref::as_ptr(file) as usize, fd);
        find(&items, key).map_err(|_| Errno::ENOENT)?;
        self.forget(&mut items, key);
        Ok(())
    }

    fn forget(&self, items: &mut Array<Ref<Item>>, key: (usize, i32)) {
        if let Ok(at) = find(items, key) {
            let item = items.remove(at);
            item.unhook();
            self.take_off(&item);
            // SAFETY: the set's lock is held, so the file is there.
            unsafe { &*item.file }.watchers.remove(self);
        }
    }

    /// Stops watching a file that is going, under whichever descriptors it was added.
    fn forget_file(&self, file: &File) {
        let mut items = self.items.lock();
        let at = ptr::from_ref(file) as usize;
        loop {
            let first = items.partition_point(|item| item.key() < (at, i32::MIN));
            let Some(key) = items.get(first).map(|item| item.key()).filter(|key| key.0 == at)
            else {
                return;
            };
            self.forget(&mut items, key);
        }
    }

    /// Waits for events (epoll_wait(2)) and hands up to `max` of them to `put`.
    pub fn wait(
        &self,
        max: usize,
        deadline: Deadline,
        put: &mut dyn FnMut(usize, EpollEvent) -> Result<()>,
    ) -> Result<usize> {
        loop {
            let n = self.collect(max, put)?;
            if n > 0 {
                return Ok(n);
            }
            if deadline.has_passed() {
                return Ok(0);
            }
            let how = Wait::new(TaskState::UNRESTARTED, wait_channel!("ep_poll"))
                .exclusive()
                .until(deadline);
            match self.wait.wait_until(how, || self.is_ready()) {
                Err(Errno::ETIMEDOUT) => return self.collect(max, put),
                // A signal ends the call and is never restarted behind the program's back.
                Err(Errno::ERESTARTSYS) => return Err(Errno::EINTR),
                result => result?,
            }
        }
    }

    /// Asks the files on the ready list.
    fn collect(
        &self,
        max: usize,
        put: &mut dyn FnMut(usize, EpollEvent) -> Result<()>,
    ) -> Result<usize> {
        if !self.is_ready() {
            return Ok(0);
        }
        let _items = self.items.lock();
        let mut done = 0;
        // What is linked from now on, level-triggered items included, is for the next call.
        let mut left = self.ready.lock().len;
        while done < max && left > 0 {
            left -= 1;
            let Some(item) = self.pop_ready() else { break };
            // SAFETY: items go under the set's lock only, which is held.
            let item = unsafe { &*item };
            let events = item.poll();
            if events.is_empty() {
                continue;
            }
            let event = EpollEvent {
                events: events.bits(),
                pad: 0,
                data: item.data.load(Ordering::Relaxed),
            };
            if let Err(error) = put(done, event) {
                self.link_again(item);
                return if done > 0 { Ok(done) } else { Err(error) };
            }
            done += 1;
            let flags = item.flags();
            if flags.contains(EpollFlags::ONESHOT) {
                item.events.store(flags.bits(), Ordering::Release);
            } else if !flags.contains(EpollFlags::ET) {
                self.link_again(item);
            }
        }
        if self.is_ready() {
            self.wait.wake_one();
        }
        Ok(done)
    }

    fn pop_ready(&self) -> Option<*const Item> {
        let mut ready = self.ready.lock();
        let item = ptr::from_ref(ready.list.first()?);
        // SAFETY: the list's lock is held.
        unsafe { (*item).ready.unlink() };
        ready.len -= 1;
        Some(item)
    }

    fn link_again(&self, item: &Item) {
        let mut ready = self.ready.lock();
        if !item.ready.is_linked() {
            // SAFETY: the list's lock is held; the item is taken off before it goes.
            unsafe { ready.list.push_back(item) };
            ready.len += 1;
        }
    }

    /// True if a watched file, or one that a watched set watches, is ready.
    fn any_ready(&self, depth: usize) -> bool {
        if !self.is_ready() || depth > MAX_NESTING {
            return false;
        }
        let items = self.items.lock();
        items.iter().any(|item| {
            if !item.ready.is_linked() {
                return false;
            }
            // SAFETY: the set's lock is held.
            match set_of(unsafe { &*item.file }) {
                Some(set) => item.interest().contains(PollFlags::IN) && set.any_ready(depth + 1),
                None => !item.poll().is_empty(),
            }
        })
    }

    /// True if `self` watches `target`, directly or not; `ELOOP` if sets are nested too deeply.
    fn leads_to(&self, target: &Arc<Self>, depth: usize) -> Result<bool> {
        if depth >= MAX_NESTING {
            return Err(Errno::ELOOP);
        }
        let items = self.items.lock();
        for item in items.iter() {
            // SAFETY: the set's lock is held.
            if let Some(set) = set_of(unsafe { &*item.file })
                && (Arc::ptr_eq(set, target) || set.leads_to(target, depth + 1)?)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for EpollSet {
    fn drop(&mut self) {
        let mut items = core::mem::take(&mut *self.items.lock());
        while let Some(item) = items.pop() {
            item.unhook();
            self.take_off(&item);
        }
    }
}

/// Where the item with that key is among those of a set, or would be.
fn find(items: &[Ref<Item>], key: (usize, i32)) -> core::result::Result<usize, usize> {
    items.binary_search_by_key(&key, |item| item.key())
}

/// The sets that watch a file; a field of [`File`].
#[derive(Default)]
pub struct Watchers(crate::sync::SpinLock<Vec<Weak<EpollSet>>>);

impl Watchers {
    /// No watcher.
    pub const fn new() -> Self {
        Self(crate::sync::SpinLock::new(Vec::new()))
    }

    fn add(&self, set: &Arc<EpollSet>) -> Result<()> {
        let mut sets = self.0.lock();
        sets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        sets.push(Arc::downgrade(set));
        Ok(())
    }

    fn remove(&self, set: &EpollSet) {
        let mut sets = self.0.lock();
        if let Some(at) = sets.iter().position(|s| ptr::eq(s.as_ptr(), set)) {
            let gone = sets.swap_remove(at);
            drop(sets);
            drop(gone);
        }
    }

    fn last(&self) -> Option<Weak<EpollSet>> {
        self.0.lock().last().cloned()
    }

    fn is_empty(&mut self) -> bool {
        self.0.get_mut().is_empty()
    }
}

/// A file goes: its watchers forget it. `File`'s drop calls this before anything else.
pub fn release_file(file: &mut File) {
    if file.watchers.is_empty() {
        return;
    }
    while let Some(weak) = file.watchers.last() {
        match weak.upgrade() {
            Some(set) => set.forget_file(file),
            // The set itself is going, or gone.
            None => EpollFile::forget_gone(file, &weak),
        }
    }
}

/// An open epoll set.
pub struct EpollFile {
    set: Arc<EpollSet>,
}

impl EpollFile {
    /// Opens a set.
    pub fn new(set: Arc<EpollSet>) -> Self {
        Self { set }
    }

    fn forget_gone(file: &File, weak: &Weak<EpollSet>) {
        let mut sets = file.watchers.0.lock();
        if let Some(at) = sets.iter().position(|s| s.ptr_eq(weak)) {
            let gone = sets.swap_remove(at);
            drop(sets);
            drop(gone);
        }
    }
}

impl FileOps for EpollFile {
    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        table.wait(&self.set.poll_wait);
        if self.set.any_ready(0) { PollFlags::READABLE } else { PollFlags::empty() }
    }

    fn release(&self, _file: &File) {
        // Nobody can add to the set any more: its file is going.
        let mut items = self.set.items.lock();
        while let Some(key) = items.last().map(|item| item.key()) {
            self.set.forget(&mut items, key);
        }
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::Epoll)
    }

    fn described(&self) -> usize {
        Arc::as_ptr(&self.set) as usize
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        for item in self.set.items.lock().iter() {
            // SAFETY: the set's lock is held.
            let file = unsafe { &*item.file };
            writeln!(
                out,
                "tfd: {:8} events: {:8x} data: {:16x}  pos:{} ino:{:x} sdev:{:x}",
                item.fd,
                item.events.load(Ordering::Relaxed),
                item.data.load(Ordering::Relaxed),
                file.pos(),
                file.inode.ino,
                file.inode.dev.encode(),
            )?;
        }
        Ok(())
    }
}

/// The set behind a file.
pub fn set_of(file: &File) -> Option<&Arc<EpollSet>> {
    file.ops_as::<EpollFile>().map(|f| &f.set)
}
