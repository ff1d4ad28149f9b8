//! inotify(7): a set of watches on files and directories, read as a queue of events.
//!
//! A [`Watch`] is known to its set, by number, to its inode and to the inode's file system; whoever takes it out
//! of its set tells so (`IN_IGNORED`). The set goes with its file. What it queues counts for the control group of
//! who made it.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::queue::{Event, Pushed, Queue};
use super::{Events, Told};
use crate::errno::{Errno, Result};
use crate::fs::{
    FMode, File, FileKind, FileOps, Inode, OpenFlags, PollFlags, PollTable, UserBuf, anon,
};
use crate::kref::Ref;
use crate::mm::memcg::{self, MemGroup, NoPage};
use crate::mm::{AllocFlags, FrameRef, PageKind, UserPtr, oom, try_box};
use crate::ns::Cred;
use crate::ns::ucounts::{Charge, Counted};
use crate::ordmap::OrdMap;
use crate::sched::WaitQueue;
use crate::sync::{Mutex, SpinLock};
use crate::uapi;
use crate::wait_event_interruptible;

/// What a watch may be for, and how it is to be made.
const KNOWN: u32 = uapi::IN_ALL_EVENTS
    | uapi::IN_UNMOUNT
    | uapi::IN_Q_OVERFLOW
    | uapi::IN_IGNORED
    | uapi::IN_ONLYDIR
    | uapi::IN_DONT_FOLLOW
    | uapi::IN_EXCL_UNLINK
    | uapi::IN_MASK_CREATE
    | uapi::IN_MASK_ADD
    | uapi::IN_ISDIR
    | uapi::IN_ONESHOT;
/// Of these, what stays with the watch, and what it shows.
const KEPT: u32 = uapi::IN_ALL_EVENTS | uapi::IN_EXCL_UNLINK | uapi::IN_ONESHOT;
/// Events that happen to the watched file itself as a name: that it is a directory is no news.
const SELF: Events = Events::DELETE_SELF.union(Events::MOVE_SELF);

/// /proc/sys/fs/inotify/max_queued_events.
pub static MAX_QUEUED_EVENTS: AtomicI32 = AtomicI32::new(16384);

/// How many watches were made.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// The number of the watch that was made last.
pub(super) fn newest_serial() -> u64 {
    SERIAL.load(Ordering::Relaxed)
}

/// One watched file.
pub struct Watch {
    /// Its number among all that were ever made.
    serial: u64,
    wd: i32,
    /// What it is for; 0 once it was for one event only and has had that.
    mask: AtomicU32,
    /// The end of it was told: nothing is after that. Under the lock of the queue.
    is_over: AtomicBool,
    inode: Ref<Inode>,
    set: Ref<Set>,
    _charge: Charge,
}

impl Watch {
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn inode(&self) -> &Ref<Inode> {
        &self.inode
    }

    /// What it is for.
    pub(super) fn events(&self) -> Events {
        Events::from_bits_truncate(self.mask.load(Ordering::Relaxed))
    }

    /// Queues an event if the watch is for it. One that is for one event only is taken off then.
    pub(super) fn tell(&self, told: &Told<'_>) {
        let Some((mask, events)) = self.claim(told) else { return };
        let events = if events.intersects(SELF) { events - Events::ISDIR } else { events };
        self.set.push(self, &Event::new(self.wd, events, told.cookie, told.name), false);
        if mask & uapi::IN_ONESHOT != 0 {
            self.take_off();
        }
    }

    /// The mask and the events that are to be told. Of several who come at once, one gets the only event of a watch
    /// that is for one.
    fn claim(&self, told: &Told<'_>) -> Option<(u32, Events)> {
        let mut mask = self.mask.load(Ordering::Relaxed);
        loop {
            let wanted = Events::from_bits_truncate(mask);
            let hidden = told.unlinked && !told.name.is_empty() && mask & uapi::IN_EXCL_UNLINK != 0;
            if !wanted.intersects(told.events - Events::ISDIR) || hidden {
                return None;
            }
            let events = told.events & (wanted | Events::ISDIR);
            if mask & uapi::IN_ONESHOT == 0 {
                return Some((mask, events));
            }
            match self.mask.compare_exchange(mask, 0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some((mask, events)),
                Err(now) => mask = now,
            }
        }
    }

    /// Takes it out of its set and off all lists.
    pub(super) fn take_off(&self) {
        let own = self.set.watches.lock().remove(&self.wd);
        self.unlist();
        if own.is_some() {
            self.set.push(self, &Event::ignored(self.wd), true);
        }
    }

    fn unlist(&self) {
        self.inode.watches.remove(self);
        self.inode.sb.watched.remove(self);
    }
}

/// The watches of one inotify file, and what they have told.
struct Set {
    watches: SpinLock<OrdMap<i32, Ref<Watch>>>,
    /// Held while a program makes or ends a watch: there is one for each inode.
    changes: Mutex<Last>,
    queue: SpinLock<Queue>,
    wait: WaitQueue,
    /// Whose memory the queue is.
    group: Option<Ref<MemGroup>>,
    _charge: Charge,
}

/// The number of the watch that was made last.
struct Last(i32);

/// A page for events. What caches hold without need goes before there is none.
fn new_page(group: Option<&Ref<MemGroup>>) -> Result<FrameRef> {
    let page = || memcg::alloc_charged(group, PageKind::Kernel, AllocFlags::USER);
    let page = page().or_else(|why| match why {
        NoPage::OverLimit => {
            oom::reclaim();
            page()
        }
        NoPage::NoMemory => Err(why),
    });
    page.map_err(|_| Errno::ENOMEM)
}

impl Set {
    /// Queues what a watch has to tell, and nothing more after what is `last`.
    fn push(&self, watch: &Watch, event: &Event<'_>, last: bool) {
        let mut page = None;
        loop {
            let pushed = {
                let mut queue = self.queue.lock();
                if watch.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let pushed = queue.push(event, &mut page);
                watch.is_over.store(last && pushed != Pushed::NeedsPage, Ordering::Relaxed);
                pushed
            };
            match pushed {
                Pushed::NeedsPage => page = Some(new_page(self.group.as_ref())),
                Pushed::Told => return self.wait.wake_all(),
                Pushed::Known => return,
            }
        }
    }
}

/// An inotify file.
pub struct Inotify(Ref<Set>);

/// inotify_init1(2): a file of whoever has `cred`. `EMFILE` if its user has too many.
pub fn new_file(cred: &Cred, flags: OpenFlags) -> Result<Ref<File>> {
    let set = Inotify::new(cred, memcg::current_group())?;
    anon::new_file("inotify", try_box(set)?, flags)
}

/// Refuses what inotify_add_watch(2) does not know, before anything else is looked at.
pub fn check_mask(mask: u32) -> Result<()> {
    if mask & !KNOWN != 0 || mask == 0 { Err(Errno::EINVAL) } else { Ok(()) }
}

impl Inotify {
    /// An empty set of whoever has `cred`, whose queue counts for `group`.
    pub(super) fn new(cred: &Cred, group: Option<Ref<MemGroup>>) -> Result<Self> {
        let charge = Charge::new(&cred.user_ns, cred.euid, Counted::InotifyInstances)
            .map_err(|error| if error == Errno::ENOSPC { Errno::EMFILE } else { error })?;
        let max = MAX_QUEUED_EVENTS.load(Ordering::Relaxed).max(0) as usize;
        let queue = Queue::new(new_page(group.as_ref())?, max)?;
        let set = Ref::try_new(Set {
            watches: SpinLock::new(OrdMap::new()),
            changes: Mutex::new(Last(0)),
            queue: SpinLock::new(queue),
            wait: WaitQueue::new(),
            group,
            _charge: charge,
        })?;
        Ok(Self(set))
    }

    /// The first event, if there is one.
    #[cfg(test)]
    pub(super) fn pop(&self) -> Option<super::queue::Record> {
        self.0.queue.lock().pop(usize::MAX).unwrap()
    }

    /// Watches `inode` for the events in `mask`, or changes for what it is watched; the watch's number.
    pub fn watch(&self, inode: &Ref<Inode>, mask: u32, cred: &Cred) -> Result<i32> {
        let set = &self.0;
        let mut last = set.changes.lock();
        // The end of a file system is always told.
        let kept = mask & KEPT | uapi::IN_UNMOUNT;
        if let Some(watch) = inode.watches.find(|watch| Ref::ptr_eq(&watch.set, set)) {
            if mask & uapi::IN_MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            if mask & uapi::IN_MASK_ADD != 0 {
                watch.mask.fetch_or(kept, Ordering::Relaxed);
            } else {
                watch.mask.store(kept, Ordering::Relaxed);
            }
            inode.watches.changed();
            return Ok(watch.wd);
        }
        let charge = Charge::new(&cred.user_ns, cred.euid, Counted::InotifyWatches)?;
        let wd = self.next_number(&mut last);
        let watch = Ref::try_new(Watch {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed) + 1,
            wd,
            mask: AtomicU32::new(kept),
            is_over: AtomicBool::new(false),
            inode: inode.clone(),
            set: set.clone(),
            _charge: charge,
        })?;
        set.watches.lock().try_insert(wd, watch.clone())?;
        let listed = inode.sb.watched.add(&watch).and_then(|()| inode.watches.add(watch.clone()));
        if let Err(error) = listed {
            let unused = set.watches.lock().remove(&wd);
            drop(unused);
            watch.unlist();
            return Err(error);
        }
        // Who tells may have taken it off while it stood on one list only, or on none. It leaves the set before the lists.
        if !set.watches.lock().contains_key(&wd) {
            watch.unlist();
        }
        if inode.is_dir() {
            super::directory_is_watched();
        }
        Ok(wd)
    }

    /// Numbers are used again only when all have been.
    fn next_number(&self, last: &mut Last) -> i32 {
        let watches = self.0.watches.lock();
        loop {
            last.0 = last.0.checked_add(1).unwrap_or(1);
            if !watches.contains_key(&last.0) {
                return last.0;
            }
        }
    }

    /// inotify_rm_watch(2); `EINVAL` if there is no such watch.
    pub fn unwatch(&self, wd: i32) -> Result<()> {
        let _changes = self.0.changes.lock();
        let watch = self.0.watches.lock().get(&wd).cloned().ok_or(Errno::EINVAL)?;
        watch.take_off();
        Ok(())
    }
}

impl FileOps for Inotify {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let set = &self.0;
        let mut done = 0;
        loop {
            let next = set.queue.lock().pop(buf.remaining());
            match next {
                Ok(Some(record)) => done += buf.put(record.bytes())?,
                Ok(None) | Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
                Ok(None) if file.is_nonblocking() => return Err(Errno::EAGAIN),
                Ok(None) => wait_event_interruptible!(set.wait, !set.queue.lock().is_empty())?,
            }
        }
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        table.wait(&self.0.wait);
        if self.0.queue.lock().is_empty() { PollFlags::empty() } else { PollFlags::READABLE }
    }

    fn ioctl(&self, _file: &File, cmd: u32, arg: u64) -> Result<usize> {
        match cmd {
            linux_raw_sys::ioctl::FIONREAD => {
                let bytes = self.0.queue.lock().bytes();
                UserPtr::<i32>::new(arg).write(bytes as i32)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn release(&self, _file: &File) {
        loop {
            let first = self.0.watches.lock().pop_first();
            let Some((_, watch)) = first else { break };
            watch.unlist();
        }
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::Inotify)
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        let mut from = Some(0);
        while let Some(at) = from {
            let next = self.0.watches.lock().range_from(&at).next().map(|(_, watch)| watch.clone());
            let Some(watch) = next else { break };
            let (inode, mask) = (&watch.inode, watch.mask.load(Ordering::Relaxed) & KEPT);
            let (ino, dev) = (inode.ino, (inode.dev.major() << 20) | inode.dev.minor());
            writeln!(
                out,
                "inotify wd:{:x} ino:{ino:x} sdev:{dev:x} mask:{mask:x} ignored_mask:0",
                watch.wd
            )?;
            from = watch.wd.checked_add(1);
        }
        Ok(())
    }
}
