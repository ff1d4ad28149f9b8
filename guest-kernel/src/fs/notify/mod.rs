//! Telling who watches files what happens to them (fsnotify of Linux; inotify(7) is who listens).
//!
//! The verbs and the I/O paths call [`file`], [`place`], [`entry`] and their like once a thing has happened;
//! each looks for the watches of the inode itself and, for what happens to a file under a name, for those of
//! the directory that the name is in. While nobody watches anything that is one load.
//!
//! A watch holds its inode, so the end of an inode is told when it has lost its last name and its last
//! dentry goes ([`forgotten`]): nobody has it open any more.
//!
//! Lock order: a set's `changes`, an inode's list of watches, a set's watches, its queue. All spin but the first.

pub mod inotify;
mod queue;

use core::sync::atomic::{AtomicUsize, Ordering};

use self::inotify::Watch;
use super::{Dentry, FMode, File, Inode, NAME_MAX, Path, SuperBlock, dentry};
use crate::array::Array;
use crate::errno::Result;
use crate::kref::Ref;
use crate::sync::SpinLock;
use crate::uapi;

bitflags::bitflags! {
    /// What can happen to a file; the bits are inotify(7)'s.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Events: u32 {
        /// It was read.
        const ACCESS = uapi::IN_ACCESS;
        /// Its content or length changed.
        const MODIFY = uapi::IN_MODIFY;
        /// Its attributes or the number of its names changed.
        const ATTRIB = uapi::IN_ATTRIB;
        /// Who had it open for writing closed it.
        const CLOSE_WRITE = uapi::IN_CLOSE_WRITE;
        /// Who had it open otherwise closed it.
        const CLOSE_NOWRITE = uapi::IN_CLOSE_NOWRITE;
        /// It was opened.
        const OPEN = uapi::IN_OPEN;
        /// A name left the directory for another one.
        const MOVED_FROM = uapi::IN_MOVED_FROM;
        /// A name came into the directory that was another one.
        const MOVED_TO = uapi::IN_MOVED_TO;
        /// A name was made in the directory.
        const CREATE = uapi::IN_CREATE;
        /// A name was removed from the directory.
        const DELETE = uapi::IN_DELETE;
        /// It is gone.
        const DELETE_SELF = uapi::IN_DELETE_SELF;
        /// It has another name.
        const MOVE_SELF = uapi::IN_MOVE_SELF;
        /// Its file system was unmounted.
        const UNMOUNT = uapi::IN_UNMOUNT;
        /// With another one: it happened to a directory.
        const ISDIR = uapi::IN_ISDIR;
    }
}

/// All watches that there are.
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// True if anybody watches anything.
#[inline]
fn anybody_watches() -> bool {
    WATCHES.load(Ordering::Relaxed) != 0
}

/// The watches of an inode.
#[derive(Default)]
pub struct Watches(SpinLock<Array<Ref<Watch>>>);

impl Watches {
    /// None.
    pub const fn new() -> Self {
        Self(SpinLock::new(Array::new()))
    }

    fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    fn find(&self, which: impl Fn(&Watch) -> bool) -> Option<Ref<Watch>> {
        self.0.lock().iter().find(|watch| which(watch)).cloned()
    }

    fn add(&self, watch: Ref<Watch>) -> Result<()> {
        self.0.lock().try_push(watch)?;
        WATCHES.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn remove(&self, watch: &Ref<Watch>) {
        let mut watches = self.0.lock();
        if let Some(at) = watches.iter().position(|other| Ref::ptr_eq(other, watch)) {
            let removed = watches.swap_remove(at);
            drop(watches);
            WATCHES.fetch_sub(1, Ordering::Relaxed);
            drop(removed);
        }
    }

    /// One of them, for who takes them off one by one.
    fn any(&self) -> Option<Ref<Watch>> {
        self.0.lock().first().cloned()
    }
}

/// An event as it is told to one watch after the other.
#[derive(Clone, Copy)]
struct Told<'a> {
    events: Events,
    /// The name in the watched directory; none if it happened to the watched file itself.
    name: &'a [u8],
    /// What the two events of one move have in common.
    cookie: u32,
    /// The name was removed before (`IN_EXCL_UNLINK`).
    unlinked: bool,
}

/// Tells the watches of `inode`.
fn tell(inode: &Inode, told: Told<'_>) {
    // One that was for once is taken off afterwards: its set is not locked under the list.
    let mut spent = Array::new();
    for watch in inode.watches.0.lock().iter() {
        if watch.tell(&told) && watch.is_once() {
            // Without the memory it goes on, which is better than an event that is lost.
            let _ = spent.try_push(watch.clone());
        }
    }
    for watch in spent.iter() {
        watch.take_off();
    }
}

fn marked(inode: &Inode, events: Events) -> Events {
    if inode.is_dir() { events | Events::ISDIR } else { events }
}

/// It happened to `inode`, under whichever name.
pub fn inode(inode: &Inode, events: Events) {
    if anybody_watches() {
        let events = marked(inode, events);
        tell(inode, Told { events, name: b"", cookie: 0, unlinked: false });
    }
}

/// It happened to `inode` under the name `dentry`: the directory is told as well.
fn named(dentry: &Dentry, inode: &Inode, events: Events) {
    let events = marked(inode, events);
    let told = Told { events, name: b"", cookie: 0, unlinked: !dentry.is_hashed() };
    if let Some(parent) = dentry.parent()
        && let Some(dir) = parent.inode()
        && !dir.watches.is_empty()
    {
        let mut name = [0; NAME_MAX];
        let len = {
            let guard = dentry::hold_renames();
            let text = dentry.name_held(&guard);
            let len = text.len().min(name.len());
            name[..len].copy_from_slice(&text[..len]);
            len
        };
        tell(dir, Told { name: &name[..len], ..told });
    }
    tell(inode, told);
}

/// It happened to what is at `path`.
pub fn place(path: &Path, events: Events) {
    if anybody_watches()
        && let Some(inode) = path.dentry.inode()
    {
        named(&path.dentry, inode, events);
    }
}

/// It happened through an open file.
#[inline]
pub fn file(file: &File, events: Events) {
    if anybody_watches() && !file.fmode().contains(FMode::PATH) {
        named(&file.path.dentry, &file.inode, events);
    }
}

/// An open file is closed for good.
#[inline]
pub fn closed(closed: &File) {
    let writes = closed.fmode().contains(FMode::WRITE);
    file(closed, if writes { Events::CLOSE_WRITE } else { Events::CLOSE_NOWRITE });
}

/// A name in `dir` came or went; it stands or stood for `child`.
pub fn entry(dir: &Inode, name: &[u8], child: &Inode, events: Events) {
    if anybody_watches() {
        tell(dir, Told { events: marked(child, events), name, cookie: 0, unlinked: false });
    }
}

/// `inode` moved from one name to another.
pub fn moved(old: (&Inode, &[u8]), new: (&Inode, &[u8]), moved: &Inode) {
    static COOKIE: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(1);
    if !anybody_watches() {
        return;
    }
    let cookie = COOKIE.fetch_add(1, Ordering::Relaxed);
    let told = |events, name| Told { events: marked(moved, events), name, cookie, unlinked: false };
    tell(old.0, told(Events::MOVED_FROM, old.1));
    tell(new.0, told(Events::MOVED_TO, new.1));
}

/// The last dentry of `inode`, which has no name any more, goes.
pub fn forgotten(inode: &Inode) {
    if anybody_watches() && !inode.watches.is_empty() {
        self::inode(inode, Events::DELETE_SELF);
        take_all_off(inode);
    }
}

fn take_all_off(inode: &Inode) {
    while let Some(watch) = inode.watches.any() {
        watch.take_off();
    }
}

/// `sb` is mounted nowhere any more.
pub fn unmounted(sb: &SuperBlock) {
    while anybody_watches()
        && let Some(inode) = inotify::watched_in(sb)
    {
        self::inode(&inode, Events::UNMOUNT);
        take_all_off(&inode);
    }
}
