//! [`File`]: an open file description (open(2)): what descriptors refer to, shared by `dup` and fork.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use belljar_abi::Described;
use belljar_abi::carried::Carried;

use super::fasync::{self, Fasync};
use super::notify::{self, Events};
use super::perm::Access;
use super::{Inode, Mutex, Path, PollFlags, PollTable, UserBuf};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::Backing;
use crate::signal::hooks;
use crate::sync::Once;
use crate::uapi;

bitflags::bitflags! {
    /// Flags of open(2), with AArch64's values.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct OpenFlags: u32 {
        /// Write only; without it and `RDWR`, read only.
        const WRONLY = uapi::O_WRONLY;
        /// Read and write.
        const RDWR = uapi::O_RDWR;
        /// Make the file if it is not there.
        const CREAT = uapi::O_CREAT;
        /// Fail if it is there.
        const EXCL = uapi::O_EXCL;
        /// A terminal does not become the controlling one.
        const NOCTTY = uapi::O_NOCTTY;
        /// Empty the file.
        const TRUNC = uapi::O_TRUNC;
        /// Every write goes to the end.
        const APPEND = uapi::O_APPEND;
        /// Never wait.
        const NONBLOCK = uapi::O_NONBLOCK;
        /// Writes are complete when the data is stored.
        const DSYNC = uapi::O_DSYNC;
        /// Signal when I/O is possible.
        const ASYNC = uapi::FASYNC;
        /// Direct I/O.
        const DIRECT = uapi::O_DIRECT;
        /// Accepted and without effect.
        const LARGEFILE = uapi::O_LARGEFILE;
        /// Fail unless it is a directory.
        const DIRECTORY = uapi::O_DIRECTORY;
        /// Do not follow a final symbolic link.
        const NOFOLLOW = uapi::O_NOFOLLOW;
        /// Reading leaves the access time alone.
        const NOATIME = uapi::O_NOATIME;
        /// Close on exec; the descriptor's, not the file's.
        const CLOEXEC = uapi::O_CLOEXEC;
        /// The rest of `O_SYNC`.
        const SYNC_FULL = uapi::O_SYNC & !uapi::O_DSYNC;
        /// A place only: no reading or writing.
        const PATH = uapi::O_PATH;
        /// The bit of `O_TMPFILE` that is not `O_DIRECTORY`.
        const TMPFILE_BIT = uapi::O_TMPFILE & !uapi::O_DIRECTORY;
    }
}

impl OpenFlags {
    /// What fcntl(2)'s `F_SETFL` may change.
    pub const SETTABLE: Self = Self::APPEND
        .union(Self::NONBLOCK)
        .union(Self::ASYNC)
        .union(Self::DIRECT)
        .union(Self::NOATIME);

    /// True if data may be read through the file.
    pub fn reads(self) -> bool {
        matches!(self.bits() & uapi::O_ACCMODE, uapi::O_RDONLY | uapi::O_RDWR)
    }

    /// True if data may be written through the file.
    pub fn writes(self) -> bool {
        matches!(self.bits() & uapi::O_ACCMODE, uapi::O_WRONLY | uapi::O_RDWR)
    }

    /// What the opener must be allowed to do. The fourth access mode, 3, asks for both rights and then
    /// gives neither (open(2)).
    pub fn access(self) -> Access {
        let mode = self.bits() & uapi::O_ACCMODE;
        let mut access = Access::empty();
        access.set(Access::READ, mode != uapi::O_WRONLY);
        access.set(Access::WRITE, mode != uapi::O_RDONLY || self.contains(Self::TRUNC));
        access
    }
}

bitflags::bitflags! {
    /// What an open file can be used for.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FMode: u32 {
        /// read(2).
        const READ = 1 << 0;
        /// write(2).
        const WRITE = 1 << 1;
        /// It has a position, which lseek(2) moves.
        const LSEEK = 1 << 2;
        /// pread(2) and pwrite(2).
        const PREAD = 1 << 3;
        /// Nothing but its place (`O_PATH`).
        const PATH = 1 << 4;
        /// Opened to be run: writing to it is denied meanwhile.
        const EXEC = 1 << 5;
        /// Counted among its inode's writers.
        const WRITER = 1 << 6;
        /// Reading leaves the access time alone.
        const NOATIME = 1 << 7;
        /// read(2) and write(2) start at the position and move it.
        const POSITION = 1 << 8;
    }
}
belljar_abi::describe_flags!(FMode);

impl FMode {
    /// What a file with a position can do.
    pub const SEEKABLE: Self = Self::LSEEK.union(Self::PREAD).union(Self::POSITION);
    /// What a device does that takes any position and has none.
    pub const POSITIONLESS: Self = Self::LSEEK.union(Self::PREAD);
}

/// What kind of thing an open file is, as `belljar fds` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Described)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names say it")]
pub enum FileKind {
    Regular = 0,
    Directory = 1,
    CharDevice = 2,
    BlockDevice = 3,
    Pipe = 4,
    Socket = 5,
    Symlink = 6,
    Tty = 7,
    EventFd = 8,
    Epoll = 9,
    TimerFd = 10,
    SignalFd = 11,
    PidFd = 12,
    Inotify = 13,
    Namespace = 14,
    Other = 15,
    PtyMaster = 16,
}

/// Whether a kind that cores hold has the kernel's number for it.
const fn is_numbered(carried: Carried) -> bool {
    let kind = match carried {
        Carried::Regular => FileKind::Regular,
        Carried::Directory => FileKind::Directory,
        Carried::CharDevice => FileKind::CharDevice,
        Carried::Pipe => FileKind::Pipe,
        Carried::Socket => FileKind::Socket,
        Carried::Tty => FileKind::Tty,
        Carried::EventFd => FileKind::EventFd,
        Carried::Epoll => FileKind::Epoll,
        Carried::TimerFd => FileKind::TimerFd,
        Carried::SignalFd => FileKind::SignalFd,
        Carried::PidFd => FileKind::PidFd,
        Carried::PtyMaster => FileKind::PtyMaster,
    };
    kind as u64 == carried as u64
}

const _: () = {
    let mut at = 0;
    while at < Carried::ALL.len() {
        assert!(is_numbered(Carried::ALL[at]), "cores name the kinds of files as the kernel does");
        at += 1;
    }
};

impl FileKind {
    /// The kind that an inode's type suggests.
    pub fn of_mode(mode: u32) -> Self {
        match mode & uapi::S_IFMT {
            uapi::S_IFREG => Self::Regular,
            uapi::S_IFDIR => Self::Directory,
            uapi::S_IFCHR => Self::CharDevice,
            uapi::S_IFBLK => Self::BlockDevice,
            uapi::S_IFIFO => Self::Pipe,
            uapi::S_IFSOCK => Self::Socket,
            uapi::S_IFLNK => Self::Symlink,
            _ => Self::Other,
        }
    }
}

/// From where lseek(2) counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    /// The start.
    Set,
    /// The position.
    Cur,
    /// The end.
    End,
    /// The next data at or after the offset.
    Data,
    /// The next hole at or after the offset.
    Hole,
}

impl Whence {
    /// By number; `EINVAL` if there is none.
    pub fn from_number(n: u32) -> Result<Self> {
        Ok(match n {
            uapi::SEEK_SET => Self::Set,
            uapi::SEEK_CUR => Self::Cur,
            uapi::SEEK_END => Self::End,
            uapi::SEEK_DATA => Self::Data,
            uapi::SEEK_HOLE => Self::Hole,
            _ => return Err(Errno::EINVAL),
        })
    }
}

/// As a position for writing: the end of the file, wherever that is.
pub const AT_END: u64 = u64::MAX;

/// Takes the entries of a directory (getdents(2)).
pub trait DirSink {
    /// Takes one entry: name, inode number, file type (`S_IF*`), and the position after it. False if
    /// there is no more room: the entry was not taken.
    fn emit(&mut self, name: &[u8], ino: u64, mode: u32, next: u64) -> bool;
}

/// What an open file does. Reading and writing at a position advance it; files without one leave it
/// alone.
pub trait FileOps: Any + Send + Sync {
    /// Reads into `buf`; 0 at the end.
    fn read(&self, _file: &File, _buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes from `buf`; at the end of the file if `pos` is [`AT_END`].
    fn write(&self, _file: &File, _buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Lists a directory from `pos` on, moving it past each entry that was taken.
    fn readdir(&self, _file: &File, _pos: &mut u64, _sink: &mut dyn DirSink) -> Result<()> {
        Err(Errno::ENOTDIR)
    }

    /// The new position for lseek(2).
    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        file.generic_seek(offset, whence)
    }

    /// ioctl(2); the common ones never get here.
    fn ioctl(&self, _file: &File, _cmd: u32, _arg: u64) -> Result<usize> {
        Err(Errno::ENOTTY)
    }

    /// What the file is ready for; see [`PollTable`].
    fn poll(&self, _file: &File, _table: &mut PollTable<'_>) -> PollFlags {
        PollFlags::READABLE | PollFlags::WRITABLE
    }

    /// Has everything written stored.
    fn fsync(&self, _file: &File, _data_only: bool) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// What stands behind a mapping of the file (mmap(2)). `writable`: the file may be written to through it.
    fn mmap(&self, _file: &Ref<File>, _writable: bool) -> Result<Arc<dyn Backing>> {
        Err(Errno::ENODEV)
    }

    /// fallocate(2).
    fn fallocate(&self, _file: &File, _mode: u32, _offset: u64, _len: u64) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// A descriptor was closed; others may remain.
    fn flush(&self, _file: &File) {}

    /// The last reference is gone.
    fn release(&self, _file: &File) {}

    /// True if readiness means something: epoll(7) refuses regular files and directories.
    fn is_pollable(&self) -> bool {
        self.abilities().is_empty()
    }

    /// Which of [`FMode::SEEKABLE`] it has.
    fn abilities(&self) -> FMode {
        FMode::SEEKABLE
    }

    /// The kind, if the inode's type does not tell.
    fn kind(&self) -> Option<FileKind> {
        None
    }

    /// The address of a described structure that tells readers outside the machine more: a
    /// [`Common`](crate::net::common::Common) of a socket, a [`Pipe`](super::pipe::Pipe), an
    /// [`EventFd`](super::eventfd::EventFd), as the kind says; 0 if there is none. It stays as long as
    /// the file.
    fn described(&self) -> usize {
        0
    }

    /// Adds lines to /proc/PID/fdinfo.
    fn show_fdinfo(&self, _file: &File, _out: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }
}

/// The operations of a file opened with `O_PATH`: the descriptor layer lets nothing through to it.
pub struct PathOnly;

impl FileOps for PathOnly {
    fn abilities(&self) -> FMode {
        FMode::empty()
    }
}

/// An open file.
#[repr(C)]
#[derive(Described)]
pub struct File {
    /// What it is.
    pub kind: FileKind,
    #[described(as = "flags FMode")]
    fmode: FMode,
    flags: AtomicU32,
    pos: AtomicU64,
    /// What was opened.
    pub inode: Ref<Inode>,
    /// Under which name.
    #[described(as = "struct Path")]
    pub path: Path,
    #[described(skip)]
    pos_lock: Mutex<()>,
    #[described(skip)]
    fasync: Fasync,
    /// The epoll sets that watch it.
    #[described(skip)]
    pub watchers: super::epoll::Watchers,
    /// See [`FileOps::described`].
    #[described(as = "hex")]
    detail: usize,
    #[described(skip)]
    ops: Box<dyn FileOps>,
}

impl File {
    /// An open file at `path`, which is not negative. `inode` counts a writer already if `fmode` says
    /// so.
    pub fn new(
        path: Path,
        flags: OpenFlags,
        fmode: FMode,
        ops: Box<dyn FileOps>,
    ) -> Result<Ref<Self>> {
        let inode = path.dentry.inode().ok_or(Errno::ENOENT)?.clone();
        let kept = OpenFlags::all()
            - (OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::NOCTTY | OpenFlags::TRUNC)
            - OpenFlags::CLOEXEC;
        Ref::try_new(Self {
            kind: ops.kind().unwrap_or_else(|| FileKind::of_mode(inode.mode())),
            fmode: fmode | ops.abilities(),
            flags: AtomicU32::new((flags & kept).bits()),
            pos: AtomicU64::new(0),
            inode,
            path,
            pos_lock: Mutex::new(()),
            fasync: Fasync::new(),
            watchers: super::epoll::Watchers::new(),
            detail: ops.described(),
            ops,
        })
    }

    /// What it does.
    #[inline]
    pub fn ops(&self) -> &dyn FileOps {
        &*self.ops
    }

    /// What it does, as a `T`.
    pub fn ops_as<T: FileOps>(&self) -> Option<&T> {
        (&*self.ops as &dyn Any).downcast_ref()
    }

    /// The flags as `F_GETFL` shows them.
    #[inline]
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Replaces the flags that may change (`F_SETFL`).
    pub fn set_flags(&self, new: OpenFlags) {
        let kept = self.flags() - OpenFlags::SETTABLE;
        self.flags.store((kept | (new & OpenFlags::SETTABLE)).bits(), Ordering::Relaxed);
    }

    /// True if operations must not wait.
    #[inline]
    pub fn is_nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }

    /// What it can be used for.
    #[inline]
    pub fn fmode(&self) -> FMode {
        self.fmode
    }

    /// The position.
    pub fn pos(&self) -> u64 {
        self.pos.load(Ordering::Relaxed)
    }

    /// Sets the position.
    pub fn set_pos(&self, pos: u64) {
        self.pos.store(pos, Ordering::Relaxed);
    }

    /// Its signals.
    pub fn fasync(&self) -> &Fasync {
        &self.fasync
    }

    /// True if it can pass by the cache (`O_DIRECT`): block devices can; a file that is in memory only has nowhere
    /// to go past it.
    pub fn takes_direct(&self) -> bool {
        self.inode.file_type() == uapi::S_IFBLK
    }

    /// Reads at the shared position and moves it.
    #[inline]
    pub fn read(&self, buf: &mut UserBuf<'_>) -> Result<usize> {
        if !self.fmode.contains(FMode::READ) {
            return Err(Errno::EBADF);
        }
        told(self, Events::ACCESS, self.with_pos(|pos| self.ops.read(self, buf, pos)))
    }

    /// Writes at the shared position and moves it.
    #[inline]
    pub fn write(&self, buf: &mut UserBuf<'_>) -> Result<usize> {
        if !self.fmode.contains(FMode::WRITE) {
            return Err(Errno::EBADF);
        }
        told(self, Events::MODIFY, self.with_pos(|pos| self.ops.write(self, buf, pos)))
    }

    /// Reads at `pos`.
    pub fn read_at(&self, buf: &mut UserBuf<'_>, mut pos: u64) -> Result<usize> {
        if !self.fmode.contains(FMode::PREAD) {
            return Err(Errno::ESPIPE);
        }
        if !self.fmode.contains(FMode::READ) {
            return Err(Errno::EBADF);
        }
        told(self, Events::ACCESS, self.ops.read(self, buf, &mut pos))
    }

    /// Writes at `pos`.
    pub fn write_at(&self, buf: &mut UserBuf<'_>, mut pos: u64) -> Result<usize> {
        if !self.fmode.contains(FMode::PREAD) {
            return Err(Errno::ESPIPE);
        }
        if !self.fmode.contains(FMode::WRITE) {
            return Err(Errno::EBADF);
        }
        told(self, Events::MODIFY, self.ops.write(self, buf, &mut pos))
    }

    /// Writes at the end (`RWF_APPEND`); with `moves`, the shared position moves there.
    pub fn append(&self, buf: &mut UserBuf<'_>, moves: bool) -> Result<usize> {
        if !self.fmode.contains(FMode::WRITE) {
            return Err(Errno::EBADF);
        }
        let done = self.with_pos(|pos| {
            let mut end = AT_END;
            let done = self.ops.write(self, buf, &mut end)?;
            if moves {
                *pos = end;
            }
            Ok(done)
        });
        told(self, Events::MODIFY, done)
    }

    /// Fills `buf` from `pos` on, for the kernel's own reading; returns how much there was.
    pub fn read_kernel(&self, buf: &mut [u8], pos: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let mut at = pos + done as u64;
            match self.ops.read(self, &mut UserBuf::into_kernel(&mut buf[done..]), &mut at)? {
                0 => break,
                n => done += n,
            }
        }
        told(self, Events::ACCESS, Ok(done))
    }

    /// Runs `io` with the position, holding it against others who share it (POSIX: reads and writes
    /// of threads do not interleave).
    #[inline]
    fn with_pos<R>(&self, io: impl FnOnce(&mut u64) -> R) -> R {
        if !self.fmode.contains(FMode::POSITION) {
            return io(&mut 0);
        }
        let _guard = self.pos_lock.lock();
        let mut pos = self.pos();
        let result = io(&mut pos);
        self.set_pos(pos);
        result
    }

    /// Lists the directory from the position on.
    pub fn readdir(&self, sink: &mut dyn DirSink) -> Result<()> {
        self.with_pos(|pos| self.ops.readdir(self, pos, sink))?;
        notify::file(self, Events::ACCESS);
        Ok(())
    }

    /// lseek(2).
    pub fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        if !self.fmode.contains(FMode::LSEEK) {
            return Err(Errno::ESPIPE);
        }
        let _guard = self.pos_lock.lock();
        let pos = self.ops.seek(self, offset, whence)?;
        self.set_pos(pos);
        Ok(pos)
    }

    /// The new position by the inode's length alone: the whole file is data, with a hole at its end.
    pub fn generic_seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        let size = self.inode.size();
        let base = match whence {
            Whence::Set => 0,
            Whence::Cur => self.pos(),
            Whence::End => size,
            Whence::Data | Whence::Hole => {
                let at = u64::try_from(offset).ok().filter(|&at| at < size).ok_or(Errno::ENXIO)?;
                return Ok(if whence == Whence::Data { at } else { size });
            }
        };
        let pos = base.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
        if pos > self.inode.sb.max_bytes {
            return Err(Errno::EINVAL);
        }
        Ok(pos)
    }
}

/// Has who watches the file told of `events` if bytes were moved.
#[inline]
fn told(file: &File, events: Events, moved: Result<usize>) -> Result<usize> {
    if matches!(moved, Ok(1..)) {
        notify::file(file, events);
    }
    moved
}

impl Drop for File {
    fn drop(&mut self) {
        notify::closed(self);
        super::epoll::release_file(self);
        fasync::release_file(self);
        self.ops.release(self);
        self.inode.locks.release_file(self);
        if self.fmode.contains(FMode::WRITER) {
            self.inode.put_write_access();
            self.path.mnt.put_writer();
        }
        if self.fmode.contains(FMode::EXEC) {
            self.inode.allow_write_access();
        }
    }
}

/// What the process floor knows of the caller and writing must ask.
pub struct WriterHooks {
    /// The longest that the caller may make a file (`RLIMIT_FSIZE`).
    pub size_limit: fn() -> u64,
    /// The permission bits that a file is left with when the caller writes to it, if it loses any.
    pub without_set_id: fn(&Inode) -> Option<u32>,
}

static WRITER: Once<WriterHooks> = Once::new();

/// Installs the process floor's functions; called once at boot.
pub fn set_writer_hooks(hooks: WriterHooks) {
    WRITER.set(hooks);
}

/// The longest that the caller may make a file (`RLIMIT_FSIZE`).
pub fn size_limit() -> u64 {
    WRITER.try_get().map_or(u64::MAX, |hooks| (hooks.size_limit)())
}

/// The permission bits that a file is left with when the caller writes to it, if it loses any.
pub fn without_set_id(inode: &Inode) -> Option<u32> {
    WRITER.try_get().and_then(|hooks| (hooks.without_set_id)(inode))
}

/// Checks that a file of `old` bytes may become `new` bytes long; else `SIGXFSZ` and `EFBIG`.
pub fn check_size_limit(old: u64, new: u64) -> Result<()> {
    if new > old && new > size_limit() {
        hooks::send_current(uapi::SIGXFSZ as i32);
        return Err(Errno::EFBIG);
    }
    Ok(())
}
