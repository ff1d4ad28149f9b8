//! Telling who watches files what happens to them (fsnotify of Linux; inotify(7) is who listens).
//!
//! The verbs and the I/O paths call [`file`], [`place`], [`entry`] and their like once a thing has happened;
//! each looks for the watches of the inode itself and, for what happens to a file under a name, for those of
//! the directory that the name is in. While nobody watches anything that is one load.
//!
//! [`Watches`] of an inode say without a lock what they are for. Whether the directory of an open file is watched
//! is asked once for each dentry, and again when a directory is watched anew ([`EPOCH`]) or the name moves: I/O
//! takes no lock on account of files that others watch.
//!
//! A watch holds its inode, so the end of an inode is told when it has lost its last name and its last
//! dentry goes ([`forgotten`]): nobody has it open any more.
//!
//! All of it is called without spin locks. A set's `changes` is a sleeping lock, held while a watch is put on the
//! lists; the lists' locks and the queue's spin, and none is taken under another one.

pub mod inotify;
mod queue;
#[cfg(test)]
mod tests;
mod watches;

use core::sync::atomic::{AtomicU64, Ordering};

use self::inotify::Watch;
use self::watches::anybody_watches;
pub use self::watches::{Watched, Watches};
use super::{Dentry, FMode, File, Inode, NAME_MAX, Path, SuperBlock};
use crate::kref::Ref;
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

/// How often a directory came to be watched. A dentry remembers in which epoch its own was not; none has 0.
static EPOCH: AtomicU64 = AtomicU64::new(1);

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
    if inode.watches.want(told.events) {
        tell_each(&told, |serial| inode.watches.next(serial));
    }
}

/// Tells the watches that `next` gives, but none that is made meanwhile.
fn tell_each(told: &Told<'_>, next: impl Fn(u64) -> Option<Ref<Watch>>) {
    let newest = inotify::newest_serial();
    let mut at = 0;
    while let Some(watch) = next(at).filter(|watch| watch.serial() <= newest) {
        at = watch.serial();
        watch.tell(told);
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
    if !is_watched(&inode.sb) {
        return;
    }
    let events = marked(inode, events);
    let epoch = EPOCH.load(Ordering::Acquire);
    if !dentry.is_unwatched_in(epoch) {
        tell_parent(dentry, epoch, events);
    }
    tell(inode, Told { events, name: b"", cookie: 0, unlinked: false });
}

/// Tells the directory that `dentry` is in, or lets the dentry remember that nobody watches that.
#[cold]
fn tell_parent(dentry: &Dentry, epoch: u64, events: Events) {
    let mut name = [0; NAME_MAX];
    let place = dentry.with_place(|parent, text| {
        let Some((parent, dir)) = parent.and_then(|parent| Some((parent, parent.inode()?))) else {
            dentry.set_unwatched_in(epoch);
            return None;
        };
        if dir.watches.is_empty() {
            dentry.set_unwatched_in(epoch);
        }
        if !dir.watches.want(events) {
            return None;
        }
        let len = text.len().min(name.len());
        name[..len].copy_from_slice(&text[..len]);
        Some((parent.clone(), len, !dentry.is_hashed()))
    });
    if let Some((parent, len, unlinked)) = place
        && let Some(dir) = parent.inode()
    {
        tell(dir, Told { events, name: &name[..len], cookie: 0, unlinked });
    }
}

/// A directory is watched from now on: what its dentries remember holds no longer.
fn directory_is_watched() {
    EPOCH.fetch_add(1, Ordering::Release);
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

/// True if anything of `sb` is watched.
pub fn is_watched(sb: &SuperBlock) -> bool {
    !sb.watched.is_empty()
}

/// The content of the file with the number `ino`, whose name in the directory with the number `dir` is `name`,
/// changed though nobody wrote to it.
pub fn changed(sb: &SuperBlock, dir: u64, name: &[u8], ino: u64) {
    if is_watched(sb) {
        let told = Told { events: Events::MODIFY, name, cookie: 0, unlinked: false };
        tell_each(&told, |serial| sb.watched.next(dir, serial));
        tell_each(&Told { name: b"", ..told }, |serial| sb.watched.next(ino, serial));
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
    while let Some(watch) = inode.watches.pop() {
        watch.take_off();
    }
}

/// `sb` is mounted nowhere any more.
pub fn unmounted(sb: &SuperBlock) {
    while let Some(watch) = sb.watched.newest() {
        let inode = watch.inode();
        self::inode(inode, Events::UNMOUNT);
        take_all_off(inode);
        // Its file was closed at the same time, perhaps, and has let go of the rest of it only.
        watch.take_off();
    }
}
