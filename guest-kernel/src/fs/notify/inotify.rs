//! inotify(7): a set of watches on files and directories, read as a queue of events.
//!
//! A [`Watch`] is known to its set, by number, and to its inode; whoever takes it out of its set takes it off
//! the inode too and tells so (`IN_IGNORED`). The set goes with its file.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::queue::{Event, Queue};
use super::{Events, Told};
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::fs::{
    FMode, File, FileKind, FileOps, Inode, OpenFlags, PollFlags, PollTable, SuperBlock, UserBuf,
    anon,
};
use crate::kref::Ref;
use crate::mm::{UserPtr, try_box};
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
/// Of these, what stays with the watch.
const KEPT: u32 = uapi::IN_ALL_EVENTS | uapi::IN_EXCL_UNLINK | uapi::IN_ONESHOT;
/// Events that happen to the watched file itself as a name: that it is a directory is no news.
const SELF: Events = Events::DELETE_SELF.union(Events::MOVE_SELF);

/// /proc/sys/fs/inotify/max_queued_events.
pub static MAX_QUEUED_EVENTS: AtomicI32 = AtomicI32::new(16384);

/// All sets, for the end of a file system.
static SETS: SpinLock<Array<Ref<Set>>> = SpinLock::new(Array::new());

/// One watched file.
pub struct Watch {
    wd: i32,
    mask: AtomicU32,
    inode: Ref<Inode>,
    set: Ref<Set>,
    _charge: Charge,
}

impl Watch {
    /// Queues an event if the watch is for it; true if so.
    pub(super) fn tell(&self, told: &Told<'_>) -> bool {
        let mask = self.mask.load(Ordering::Relaxed);
        let always = Events::UNMOUNT | Events::ISDIR;
        let events =
            told.events & (Events::from_bits_truncate(mask & uapi::IN_ALL_EVENTS) | always);
        let hidden = told.unlinked && !told.name.is_empty() && mask & uapi::IN_EXCL_UNLINK != 0;
        if (events - Events::ISDIR).is_empty() || hidden {
            return false;
        }
        let events = if events.intersects(SELF) { events - Events::ISDIR } else { events };
        self.set.push(Event::new(self.wd, events, told.cookie, told.name));
        true
    }

    /// True if it is for one event only.
    pub(super) fn is_once(&self) -> bool {
        self.mask.load(Ordering::Relaxed) & uapi::IN_ONESHOT != 0
    }

    /// Takes it out of its set and off its inode.
    pub(super) fn take_off(&self) {
        let own = self.set.watches.lock().remove(&self.wd);
        if let Some(watch) = own {
            watch.inode.watches.remove(&watch);
            self.set.push(Ok(Event::ignored(self.wd)));
        }
    }
}

/// The watches of one inotify file, and what they have told.
struct Set {
    watches: SpinLock<OrdMap<i32, Ref<Watch>>>,
    /// Held while a program makes or ends a watch: there is one for each inode.
    changes: Mutex<Last>,
    queue: SpinLock<Queue>,
    wait: WaitQueue,
    _charge: Charge,
}

/// The number of the watch that was made last.
struct Last(i32);

impl Set {
    fn push(&self, event: Result<Event>) {
        let max = MAX_QUEUED_EVENTS.load(Ordering::Relaxed).max(0) as usize;
        self.queue.lock().push(event, max);
        self.wait.wake_all();
    }
}

/// An inotify file.
pub struct Inotify(Ref<Set>);

/// inotify_init1(2): a file of whoever has `cred`. `EMFILE` if its user has too many.
pub fn new_file(cred: &Cred, flags: OpenFlags) -> Result<Ref<File>> {
    let charge = Charge::new(&cred.user_ns, cred.euid, Counted::InotifyInstances)
        .map_err(|error| if error == Errno::ENOSPC { Errno::EMFILE } else { error })?;
    let set = Ref::try_new(Set {
        watches: SpinLock::new(OrdMap::new()),
        changes: Mutex::new(Last(0)),
        queue: SpinLock::new(Queue::new()?),
        wait: WaitQueue::new(),
        _charge: charge,
    })?;
    let ops = try_box(Inotify(set.clone()))?;
    SETS.lock().try_push(set.clone())?;
    anon::new_file("inotify", ops, flags).inspect_err(|_| forget_set(&set))
}

fn forget_set(set: &Ref<Set>) {
    let mut sets = SETS.lock();
    if let Some(at) = sets.iter().position(|other| Ref::ptr_eq(other, set)) {
        let gone = sets.swap_remove(at);
        drop(sets);
        drop(gone);
    }
}

/// The watched inode of a file system that was made last, if any is watched.
pub(super) fn watched_in(sb: &SuperBlock) -> Option<Ref<Inode>> {
    let mut newest: Option<Ref<Inode>> = None;
    for set in SETS.lock().iter() {
        let watches = set.watches.lock();
        let inodes = watches.values().map(|watch| &watch.inode);
        for inode in inodes.filter(|inode| core::ptr::eq(&raw const *inode.sb, sb)) {
            if newest.as_ref().is_none_or(|other| inode.ino > other.ino) {
                // What it replaces has a watch that holds it: nothing is freed under the locks.
                newest = Some(inode.clone());
            }
        }
    }
    newest
}

/// Refuses what inotify_add_watch(2) does not know, before anything else is looked at.
pub fn check_mask(mask: u32) -> Result<()> {
    if mask & !KNOWN != 0 || mask == 0 { Err(Errno::EINVAL) } else { Ok(()) }
}

impl Inotify {
    /// Watches `inode` for the events in `mask`, or changes for what it is watched; the watch's number.
    pub fn watch(&self, inode: &Ref<Inode>, mask: u32, cred: &Cred) -> Result<i32> {
        let set = &self.0;
        let mut last = set.changes.lock();
        let kept = mask & KEPT;
        if let Some(watch) = inode.watches.find(|watch| Ref::ptr_eq(&watch.set, set)) {
            if mask & uapi::IN_MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            if mask & uapi::IN_MASK_ADD != 0 {
                watch.mask.fetch_or(kept, Ordering::Relaxed);
            } else {
                watch.mask.store(kept, Ordering::Relaxed);
            }
            return Ok(watch.wd);
        }
        let charge = Charge::new(&cred.user_ns, cred.euid, Counted::InotifyWatches)?;
        let wd = self.next_number(&mut last);
        let watch = Ref::try_new(Watch {
            wd,
            mask: AtomicU32::new(kept),
            inode: inode.clone(),
            set: set.clone(),
            _charge: charge,
        })?;
        set.watches.lock().try_insert(wd, watch.clone())?;
        if let Err(error) = inode.watches.add(watch) {
            let unused = set.watches.lock().remove(&wd);
            drop(unused);
            return Err(error);
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
                Ok(Some(event)) => {
                    done += buf.put(&event.header())?;
                    done += buf.put(event.name())?;
                    done += buf.put_zeros(event.padding())?;
                }
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
        forget_set(&self.0);
        loop {
            let first = self.0.watches.lock().pop_first();
            let Some((_, watch)) = first else { break };
            watch.inode.watches.remove(&watch);
        }
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::Inotify)
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        for watch in self.0.watches.lock().values() {
            let (inode, mask) = (&watch.inode, watch.mask.load(Ordering::Relaxed));
            let (ino, dev) = (inode.ino, (inode.dev.major() << 20) | inode.dev.minor());
            writeln!(
                out,
                "inotify wd:{:x} ino:{ino:x} sdev:{dev:x} mask:{mask:x} ignored_mask:0",
                watch.wd
            )?;
        }
        Ok(())
    }
}
