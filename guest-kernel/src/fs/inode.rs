//! [`Inode`]: one object of a file system, with or without names; [`InodeOps`]: what its file system
//! makes of it.
//!
//! What stat(2) shows lives in the inode itself; the file system's own part is the `ops` object, found
//! again with [`Inode::ops_as`]. An inode lives while a name in a file system that keeps its inodes in
//! memory, a dentry or an open file holds a [`Ref`] to it.
//!
//! The inode's `lock` is taken by everything that changes a directory or a file's length, by writers of
//! regular files (so that `O_APPEND` is atomic), and by changes of attributes.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use belljar_abi::Described;

use super::file::{FileOps, OpenFlags};
use super::perm::{self, Access};
use super::{Dev, Mutex, Path, SuperBlock, Timestamp};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::backing::pages_of;
use crate::mm::{FrameRef, Mapping};
use crate::ns::Cred;
use crate::sync::{Once, SpinLock};
use crate::uapi;

bitflags::bitflags! {
    /// Properties of an inode that the walk and the I/O paths ask for.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct InodeFlags: u32 {
        /// The access time needs no update until the file changes (relatime).
        const ATIME_CLEAN = 1 << 0;
        /// A cached name must ask [`InodeOps::revalidate`] before it is believed.
        const REVALIDATE = 1 << 1;
        /// A removed directory: nothing can be made in it any more.
        const DEAD = 1 << 2;
        /// Names that this directory lacks are not remembered as absent.
        const NO_NEGATIVE = 1 << 3;
        /// [`InodeOps::permission`] is to be asked.
        const CUSTOM_PERMISSION = 1 << 4;
        /// A file without a name that may be given one (`O_TMPFILE` without `O_EXCL`).
        const LINKABLE = 1 << 5;
    }
}
belljar_abi::describe_flags!(InodeFlags);

/// Access, modification, change and birth time.
#[derive(Clone, Copy, Default, Debug)]
pub struct Times {
    /// Last read.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
}

/// One object of a file system.
#[repr(C)]
#[derive(Described)]
pub struct Inode {
    /// Its number, unique in its file system.
    pub ino: u64,
    /// Device number of its file system.
    pub dev: Dev,
    mode: AtomicU32,
    nlink: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    /// The device that a device node stands for.
    pub rdev: Dev,
    #[described(as = "flags InodeFlags")]
    flags: AtomicU32,
    size: AtomicU64,
    /// Writers if positive, those who forbid writing (running programs) if negative.
    writers: AtomicI32,
    #[described(skip)]
    times: SpinLock<Times>,
    /// See the module's documentation.
    #[described(skip)]
    pub lock: Mutex<()>,
    /// Its file system.
    #[described(skip)]
    pub sb: Ref<SuperBlock>,
    /// State that is not the file system's: the pipe behind a FIFO, the socket behind its name.
    #[described(skip)]
    pub special: Once<Box<dyn Any + Send + Sync>>,
    /// Its pages, for who looks from outside; null if it is not made of pages.
    #[described(as = "ptr Mapping")]
    pages: AtomicPtr<Mapping>,
    /// Advisory locks (fcntl(2), flock(2)).
    pub locks: super::locks::InodeLocks,
    /// Who watches it (inotify(7)).
    #[described(skip)]
    pub watches: super::notify::Watches,
    #[described(skip)]
    ops: Box<dyn InodeOps>,
}

/// What stat(2) and statx(2) show.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are stat(2)'s")]
pub struct Attr {
    pub ino: u64,
    pub dev: Dev,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: Dev,
    pub size: u64,
    pub blksize: u32,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub times: Times,
}

/// A change of attributes; `None` leaves one as it is.
#[derive(Clone, Copy, Default, Debug)]
pub struct SetAttr {
    /// Permission bits, set-id and sticky bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<Timestamp>,
    /// Modification time.
    pub mtime: Option<Timestamp>,
}

/// What a new name is to stand for.
#[derive(Clone, Copy)]
pub enum NodeKind<'a> {
    /// A regular file, directory, FIFO or socket, by the type in the mode.
    Plain,
    /// A device node.
    Device(Dev),
    /// A symbolic link with this text.
    Symlink(&'a [u8]),
}

/// A node to make: the caller has applied umask and inheritance of the group already.
#[derive(Clone, Copy)]
pub struct NewNode<'a> {
    /// File type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What else its type needs.
    pub kind: NodeKind<'a>,
}

/// Where a symbolic link leads.
pub enum Link {
    /// To a path's text.
    Text(Arc<[u8]>),
    /// Straight to a place (`/proc/PID/fd/N`, `/proc/PID/exe`).
    Jump(Path),
}

/// What a file system makes of an inode. Methods that change a directory run under its `lock`; names
/// are checked: not empty, no slash, neither `.` nor `..`, at most `NAME_MAX` bytes.
pub trait InodeOps: Any + Send + Sync {
    /// Finds a name in a directory.
    fn lookup(&self, _dir: &Ref<Inode>, _name: &[u8]) -> Result<Option<Ref<Inode>>> {
        Err(Errno::ENOTDIR)
    }

    /// Makes a node under a name that is not there.
    fn create(&self, _dir: &Ref<Inode>, _name: &[u8], _new: &NewNode<'_>) -> Result<Ref<Inode>> {
        Err(Errno::EPERM)
    }

    /// Makes a regular file with no name (`O_TMPFILE`); its link count is zero.
    fn tmpfile(&self, _dir: &Ref<Inode>, _new: &NewNode<'_>) -> Result<Ref<Inode>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives `inode` one more name.
    fn link(&self, _dir: &Ref<Inode>, _name: &[u8], _inode: &Ref<Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Takes the name of something that is no directory away.
    fn unlink(&self, _dir: &Ref<Inode>, _name: &[u8], _inode: &Ref<Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes a directory; `ENOTEMPTY` if it holds names.
    fn rmdir(&self, _dir: &Ref<Inode>, _name: &[u8], _inode: &Ref<Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Moves a name; see [`RenameOp`].
    fn rename(&self, _op: &RenameOp<'_>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Where a symbolic link leads when a walk meets it.
    fn follow_link(&self, inode: &Ref<Inode>, cred: &Cred) -> Result<Link> {
        self.readlink(inode, cred).map(Link::Text)
    }

    /// The text of a symbolic link.
    fn readlink(&self, _inode: &Ref<Inode>, _cred: &Cred) -> Result<Arc<[u8]>> {
        Err(Errno::EINVAL)
    }

    /// Opens the file. Devices and FIFOs are opened by the VFS.
    fn open(&self, inode: &Ref<Inode>, path: &Path, flags: OpenFlags) -> Result<Box<dyn FileOps>>;

    /// Adds what the inode itself does not know.
    fn getattr(&self, _inode: &Inode, _attr: &mut Attr) -> Result<()> {
        Ok(())
    }

    /// May refuse a change of attributes; the VFS applies it afterwards.
    fn setattr(&self, _inode: &Inode, _change: &SetAttr) -> Result<()> {
        Ok(())
    }

    /// Sets the length of a regular file, under the inode's lock.
    fn truncate(&self, _inode: &Inode, _size: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// The pages of a file that is made of pages.
    fn mapping(&self) -> Option<&Mapping> {
        None
    }

    /// The page at `index` for writing or mapping; it comes into being if it is not there, which the
    /// file system may refuse (`ENOSPC`).
    fn page(&self, _inode: &Inode, index: u64) -> Result<FrameRef> {
        self.mapping().ok_or(Errno::EINVAL)?.get_or_zero(index)
    }

    /// Makes a page that is not there come into being, in advance of its data (fallocate).
    fn reserve_page(&self, inode: &Inode, index: u64) -> Result<()> {
        self.page(inode, index).map(|_| ())
    }

    /// Makes a range of a file that is made of pages a hole, under the inode's lock.
    fn punch_hole(&self, _inode: &Inode, start: u64, end: u64) -> Result<()> {
        self.mapping().ok_or(Errno::EOPNOTSUPP)?.punch_hole(start, end);
        Ok(())
    }

    /// What nobody may do to the file any more: `F_SEAL_*`.
    fn seals(&self) -> u32 {
        0
    }

    /// Checks access, if the inode has [`InodeFlags::CUSTOM_PERMISSION`].
    fn permission(&self, inode: &Inode, access: Access, cred: &Cred) -> Result<()> {
        perm::generic_permission(inode, access, cred)
    }

    /// False if the cached name of this inode is out of date ([`InodeFlags::REVALIDATE`]).
    fn revalidate(&self, _inode: &Inode) -> bool {
        true
    }

    /// The text that d_path shows for a file without a place in a tree: `pipe:[7]`.
    fn pseudo_name(&self, _inode: &Inode, _out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        Ok(())
    }
}

/// A move of `old_name` in `old_dir` to `new_name` in `new_dir`. The VFS has checked types, emptiness
/// is the file system's to check (`ENOTEMPTY`).
pub struct RenameOp<'a> {
    /// Where it is.
    pub old_dir: &'a Ref<Inode>,
    /// Its name there.
    pub old_name: &'a [u8],
    /// What is moved.
    pub inode: &'a Ref<Inode>,
    /// Where it goes.
    pub new_dir: &'a Ref<Inode>,
    /// Its name there.
    pub new_name: &'a [u8],
    /// What has that name now.
    pub target: Option<&'a Ref<Inode>>,
    /// The two change places.
    pub exchange: bool,
    /// What takes the old name.
    pub whiteout: Option<&'a NewNode<'a>>,
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.count_removed(self.nlink(), 1);
    }
}

impl Inode {
    /// An inode of `sb` with this number, type and permission bits, owned by root, with one link.
    pub fn new(
        sb: &Ref<SuperBlock>,
        ino: u64,
        mode: u32,
        ops: Box<dyn InodeOps>,
    ) -> Result<Ref<Self>> {
        Self::with_rdev(sb, ino, mode, Dev::default(), ops)
    }

    /// As [`new`](Self::new), for a device node.
    pub fn with_rdev(
        sb: &Ref<SuperBlock>,
        ino: u64,
        mode: u32,
        rdev: Dev,
        ops: Box<dyn InodeOps>,
    ) -> Result<Ref<Self>> {
        let now = Timestamp::now();
        Ref::try_new(Self {
            ino,
            dev: sb.dev,
            mode: AtomicU32::new(mode),
            nlink: AtomicU32::new(1),
            uid: AtomicU32::new(0),
            gid: AtomicU32::new(0),
            rdev,
            flags: AtomicU32::new(0),
            size: AtomicU64::new(0),
            writers: AtomicI32::new(0),
            times: SpinLock::new(Times { atime: now, mtime: now, ctime: now, btime: now }),
            lock: Mutex::new(()),
            sb: sb.clone(),
            special: Once::new(),
            pages: AtomicPtr::new(pages_of(ops.mapping())),
            locks: super::locks::InodeLocks::new(),
            watches: super::notify::Watches::new(),
            ops,
        })
    }

    /// The file system's part.
    #[inline]
    pub fn ops(&self) -> &dyn InodeOps {
        &*self.ops
    }

    /// The file system's part as a `T`.
    pub fn ops_as<T: InodeOps>(&self) -> Option<&T> {
        (&*self.ops as &dyn Any).downcast_ref()
    }

    /// The file system's part as a `T`, for whoever owns the inode alone.
    pub fn ops_as_mut<T: InodeOps>(&mut self) -> Option<&mut T> {
        (&mut *self.ops as &mut dyn Any).downcast_mut()
    }

    /// File type and permission bits.
    #[inline]
    pub fn mode(&self) -> u32 {
        self.mode.load(Ordering::Relaxed)
    }

    /// The file type: one of `S_IFMT`'s values.
    #[inline]
    pub fn file_type(&self) -> u32 {
        self.mode() & uapi::S_IFMT
    }

    /// True for a directory.
    #[inline]
    pub fn is_dir(&self) -> bool {
        self.file_type() == uapi::S_IFDIR
    }

    /// True for a regular file.
    #[inline]
    pub fn is_regular(&self) -> bool {
        self.file_type() == uapi::S_IFREG
    }

    /// True for a symbolic link.
    #[inline]
    pub fn is_symlink(&self) -> bool {
        self.file_type() == uapi::S_IFLNK
    }

    /// Replaces the permission bits.
    pub fn set_permissions(&self, bits: u32) {
        self.mode.store(self.file_type() | (bits & 0o7777), Ordering::Relaxed);
    }

    /// Number of names.
    pub fn nlink(&self) -> u32 {
        self.nlink.load(Ordering::Relaxed)
    }

    /// Sets the number of names.
    pub fn set_nlink(&self, n: u32) {
        let before = self.nlink.swap(n, Ordering::Relaxed);
        self.count_removed(before, n);
    }

    /// Tells the file system of an inode that lost its last name or got one again.
    fn count_removed(&self, before: u32, after: u32) {
        match (before, after) {
            (1.., 0) => self.sb.removed.fetch_add(1, Ordering::Relaxed),
            (0, 1..) => self.sb.removed.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// One name more.
    pub fn inc_nlink(&self) {
        let before = self.nlink.fetch_add(1, Ordering::Relaxed);
        self.count_removed(before, before + 1);
    }

    /// One name less.
    pub fn dec_nlink(&self) {
        let less = |n: u32| n.checked_sub(1);
        if let Ok(before) = self.nlink.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            self.count_removed(before, before - 1);
        }
    }

    /// The owner.
    pub fn uid(&self) -> u32 {
        self.uid.load(Ordering::Relaxed)
    }

    /// The group.
    pub fn gid(&self) -> u32 {
        self.gid.load(Ordering::Relaxed)
    }

    /// Sets owner and group.
    pub fn set_owner(&self, uid: u32, gid: u32) {
        self.uid.store(uid, Ordering::Relaxed);
        self.gid.store(gid, Ordering::Relaxed);
    }

    /// Length in bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Records a new length, under the inode's lock.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// The flags.
    #[inline]
    pub fn flags(&self) -> InodeFlags {
        InodeFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets flags.
    pub fn set_flags(&self, flags: InodeFlags) {
        self.flags.fetch_or(flags.bits(), Ordering::Relaxed);
    }

    /// Clears flags.
    pub fn clear_flags(&self, flags: InodeFlags) {
        self.flags.fetch_and(!flags.bits(), Ordering::Relaxed);
    }

    /// The times.
    pub fn times(&self) -> Times {
        *self.times.lock()
    }

    /// Changes the times.
    pub fn update_times(&self, change: impl FnOnce(&mut Times)) {
        change(&mut self.times.lock());
        self.clear_flags(InodeFlags::ATIME_CLEAN);
    }

    /// The content changed now.
    pub fn touch_modified(&self) {
        let now = Timestamp::now();
        self.update_times(|t| {
            t.mtime = now;
            t.ctime = now;
        });
    }

    /// The attributes changed now.
    pub fn touch_changed(&self) {
        let now = Timestamp::now();
        self.update_times(|t| t.ctime = now);
    }

    /// The content was read now. As with relatime, the time is kept only if it was not newer than the
    /// last change, or is a day old (mount(8)); whether that is so is looked at again when the file
    /// changes or is opened.
    #[inline]
    pub fn touch_read(&self) {
        if !self.flags().contains(InodeFlags::ATIME_CLEAN) {
            self.update_atime();
        }
    }

    #[cold]
    fn update_atime(&self) {
        const DAY: i64 = 24 * 60 * 60;
        let now = Timestamp::now();
        let mut times = self.times.lock();
        let old = times.atime;
        if old <= times.mtime || old <= times.ctime || now.sec - old.sec >= DAY {
            times.atime = now;
        }
        self.set_flags(InodeFlags::ATIME_CLEAN);
    }

    /// Has the next read look at the access time again.
    pub fn recheck_atime(&self) {
        self.clear_flags(InodeFlags::ATIME_CLEAN);
    }

    /// What stat(2) shows.
    pub fn attr(&self) -> Result<Attr> {
        let size = self.size();
        let mut attr = Attr {
            ino: self.ino,
            dev: self.dev,
            mode: self.mode(),
            nlink: self.nlink(),
            uid: self.uid(),
            gid: self.gid(),
            rdev: self.rdev,
            size,
            blksize: 4096,
            blocks: if self.is_regular() { size.div_ceil(4096) * 8 } else { 0 },
            times: self.times(),
        };
        self.ops.getattr(self, &mut attr)?;
        Ok(attr)
    }

    /// Applies a change that was permitted.
    pub fn apply(&self, change: &SetAttr) -> Result<()> {
        self.ops.setattr(self, change)?;
        if let Some(uid) = change.uid {
            self.uid.store(uid, Ordering::Relaxed);
        }
        if let Some(gid) = change.gid {
            self.gid.store(gid, Ordering::Relaxed);
        }
        if let Some(mode) = change.mode {
            self.set_permissions(mode);
        }
        let now = Timestamp::now();
        self.update_times(|t| {
            t.atime = change.atime.unwrap_or(t.atime);
            t.mtime = change.mtime.unwrap_or(t.mtime);
            t.ctime = now;
        });
        Ok(())
    }

    /// Counts one more writer; `ETXTBSY` while the file runs as a program.
    pub fn get_write_access(&self) -> Result<()> {
        let grown = self.writers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n >= 0).then_some(n.saturating_add(1))
        });
        grown.map(|_| ()).map_err(|_| Errno::ETXTBSY)
    }

    /// One writer less.
    pub fn put_write_access(&self) {
        self.writers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Forbids writing; `ETXTBSY` while there are writers.
    pub fn deny_write_access(&self) -> Result<()> {
        let shrunk = self.writers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n <= 0).then_some(n.saturating_sub(1))
        });
        shrunk.map(|_| ()).map_err(|_| Errno::ETXTBSY)
    }

    /// Undoes one [`deny_write_access`](Self::deny_write_access).
    pub fn allow_write_access(&self) {
        self.writers.fetch_add(1, Ordering::Relaxed);
    }
}
