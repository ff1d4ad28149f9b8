//! Opening files (open(2), openat2(2)).

use alloc::boxed::Box;

use super::block;
use super::chrdev::find_chrdev;
use super::file::{FMode, FileOps, OpenFlags, PathOnly};
use super::inode::{InodeFlags, NodeKind};
use super::namei::{LastKind, LookupFlags, Walk, lookup, lookup_child, lookup_locked};
use super::notify::{self, Events};
use super::perm::{self, Access};
use super::{Caller, Dentry, File, Inode, Mount, MountFlags, Path, dentry, pipe, verbs};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::ns::{Cap, Cred};
use crate::uapi;

/// How to open.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenHow {
    /// Flags.
    pub flags: OpenFlags,
    /// Permission bits of a file that is made; the umask is applied to them.
    pub mode: u32,
    /// `RESOLVE_*`.
    pub resolve: LookupFlags,
}

impl OpenHow {
    /// Refuses flags that go against each other, whatever the path.
    pub fn check(&self) -> Result<()> {
        let flags = self.flags;
        let makes = flags.contains(OpenFlags::CREAT);
        let directory = flags.contains(OpenFlags::DIRECTORY);
        let valid = if flags.contains(OpenFlags::TMPFILE_BIT) {
            directory && !makes && flags.bits() & uapi::O_ACCMODE != uapi::O_RDONLY
        } else {
            !(makes && directory)
        };
        if valid { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

/// Opens `name`, from `start` or the working directory. The flags were [checked](OpenHow::check).
pub fn open(
    caller: Caller<'_>,
    start: Option<&Path>,
    name: &[u8],
    how: OpenHow,
) -> Result<Ref<File>> {
    let file = open_by_name(caller, start, name, how)?;
    notify::file(&file, Events::OPEN);
    Ok(file)
}

fn open_by_name(
    caller: Caller<'_>,
    start: Option<&Path>,
    name: &[u8],
    how: OpenHow,
) -> Result<Ref<File>> {
    let flags = how.flags;
    let mut walk = how.resolve;
    walk.set(LookupFlags::FOLLOW, !flags.intersects(OpenFlags::NOFOLLOW));
    walk.set(LookupFlags::DIRECTORY, flags.contains(OpenFlags::DIRECTORY));
    if flags.contains(OpenFlags::PATH) {
        let path = lookup(caller, start, name, walk)?;
        return File::new(path, flags, FMode::PATH, try_box(PathOnly)?);
    }
    if flags.contains(OpenFlags::TMPFILE_BIT) {
        return open_tmpfile(caller, start, name, how, walk);
    }
    if flags.contains(OpenFlags::CREAT) {
        return open_create(caller, start, name, how, walk);
    }
    let path = lookup(caller, start, name, walk)?;
    open_path(caller, path, flags, false)
}

/// `O_CREAT`: the walk stops before the last component, which is made if it is absent.
fn open_create(
    caller: Caller<'_>,
    start: Option<&Path>,
    name: &[u8],
    how: OpenHow,
    walk_flags: LookupFlags,
) -> Result<Ref<File>> {
    let exclusive = how.flags.contains(OpenFlags::EXCL);
    let follow = walk_flags.contains(LookupFlags::FOLLOW) && !exclusive;
    let mut walk = Walk::start(caller, start, name, walk_flags)?;
    let dir = loop {
        let last = walk.to_last()?;
        walk.check_search(&last)?;
        if last.kind != LastKind::Name {
            return Err(if exclusive { Errno::EEXIST } else { Errno::EISDIR });
        }
        if last.slash {
            return Err(Errno::EISDIR);
        }
        let (dentry, created) = find_or_create(caller, &walk, walk.name(&last), how)?;
        if created {
            let path = Path { mnt: walk.at().mnt.clone(), dentry };
            return open_path(caller, path, how.flags, true);
        }
        if exclusive {
            return Err(Errno::EEXIST);
        }
        let dir = walk.at().clone();
        if !walk.take_dentry(dentry, &last, follow)? {
            break dir;
        }
    };
    let path = walk.finish();
    let inode = path.inode()?;
    if inode.is_dir() {
        return Err(Errno::EISDIR);
    }
    if !may_create_in_sticky(caller, dir.inode()?, inode) {
        return Err(Errno::EACCES);
    }
    open_path(caller, path, how.flags, false)
}

/// Whoever asks for a new file in a sticky directory that others write to must not be given one that
/// somebody else put there first (protected_regular and protected_fifos of proc(5), as Debian sets them).
fn may_create_in_sticky(caller: Caller<'_>, dir: &Inode, inode: &Inode) -> bool {
    let mode = dir.mode();
    let own = inode.uid() == dir.uid() || inode.uid() == caller.cred.fsuid;
    let shared = mode & uapi::S_IWOTH != 0 || mode & uapi::S_IWGRP != 0 && inode.is_regular();
    mode & uapi::S_ISVTX == 0 || own || !shared
}

/// The dentry of the last component, and whether it was made just now.
fn find_or_create(
    caller: Caller<'_>,
    walk: &Walk<'_>,
    name: &[u8],
    how: OpenHow,
) -> Result<(Ref<Dentry>, bool)> {
    let dir = walk.at();
    let cached = lookup_child(&dir.dentry, name)?;
    if cached.inode().is_some() {
        return Ok((cached, false));
    }
    let _guard = dir.inode()?.lock.lock();
    let found = lookup_locked(&dir.dentry, name)?;
    if found.inode().is_some() {
        return Ok((found, false));
    }
    let mode = uapi::S_IFREG | (how.mode & 0o7777 & !caller.fs.umask());
    verbs::create_locked(caller, dir, found, name, mode, NodeKind::Plain).map(|d| (d, true))
}

fn open_tmpfile(
    caller: Caller<'_>,
    start: Option<&Path>,
    name: &[u8],
    how: OpenHow,
    walk: LookupFlags,
) -> Result<Ref<File>> {
    let dir = lookup(caller, start, name, walk | LookupFlags::DIRECTORY)?;
    dir.mnt.want_write()?;
    let dir_inode = dir.inode()?;
    perm::may_create(dir_inode, caller.cred)?;
    let mode = uapi::S_IFREG | (how.mode & 0o7777 & !caller.fs.umask());
    let new = verbs::new_node(caller, dir_inode, mode, NodeKind::Plain);
    let inode = dir_inode.ops().tmpfile(dir_inode, &new)?;
    if !how.flags.contains(OpenFlags::EXCL) {
        inode.set_flags(InodeFlags::LINKABLE);
    }
    let text = NumberName::new(inode.ino);
    let dentry = Dentry::new_unnamed(&dir.dentry, text.bytes(), inode)?;
    open_path(caller, Path { mnt: dir.mnt, dentry }, how.flags, true)
}

/// `#INO`: how Linux shows a file without a name.
struct NumberName([u8; 21], usize);

impl NumberName {
    fn new(mut n: u64) -> Self {
        let mut digits = [0; 21];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                break;
            }
        }
        at -= 1;
        digits[at] = b'#';
        Self(digits, at)
    }

    fn bytes(&self) -> &[u8] {
        &self.0[self.1..]
    }
}

/// Checks that the inode may be opened so.
fn may_open(caller: Caller<'_>, path: &Path, flags: OpenFlags, created: bool) -> Result<()> {
    let inode = path.inode()?;
    let access = flags.access();
    match inode.file_type() {
        uapi::S_IFLNK => return Err(Errno::ELOOP),
        uapi::S_IFDIR if access.contains(Access::WRITE) => return Err(Errno::EISDIR),
        uapi::S_IFCHR | uapi::S_IFBLK if forbids_devices(&path.mnt) => {
            return Err(Errno::EACCES);
        }
        _ => {}
    }
    if created {
        return Ok(());
    }
    perm::permission(inode, access, caller.cred)?;
    if access.contains(Access::WRITE) && perm::writes_to_disk(inode) {
        path.mnt.want_write()?;
    }
    if flags.contains(OpenFlags::NOATIME) && !perm::owner_or_capable(inode, caller.cred) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Opens the file at `path`; one that was created just now needs no permission.
pub fn open_path(
    caller: Caller<'_>,
    path: Path,
    flags: OpenFlags,
    created: bool,
) -> Result<Ref<File>> {
    may_open(caller, &path, flags, created)?;
    let inode = path.inode()?.clone();
    let truncate = flags.contains(OpenFlags::TRUNC) && inode.is_regular() && !created;
    let mut fmode = FMode::empty();
    fmode.set(FMode::READ, flags.reads());
    fmode.set(FMode::WRITE, flags.writes());
    fmode.set(FMode::NOATIME, !keeps_atime(&path, &inode, flags));
    let writes = inode.is_regular() && flags.writes();
    let mut writer = if writes || truncate { Some(WriteAccess::get(&path)?) } else { None };
    let ops = open_inode(&inode, &path, flags, caller.cred)?;
    fmode.set(FMode::WRITER, writes);
    inode.recheck_atime();
    if writes && let Some(writer) = writer.take() {
        // From here on the file gives it back, also if it comes to nothing.
        writer.hand_over();
    }
    let file = File::new(path, flags, fmode, ops)?;
    // Only now: the file was made, if it was to be (do_dentry_open of Linux).
    if flags.contains(OpenFlags::DIRECT) && !file.takes_direct() {
        return Err(Errno::EINVAL);
    }
    if truncate {
        verbs::set_length(&inode, 0)?;
        notify::place(&file.path, Events::MODIFY);
    }
    Ok(file)
}

fn keeps_atime(path: &Path, inode: &Inode, flags: OpenFlags) -> bool {
    let mount = path.mnt.flags();
    !(flags.contains(OpenFlags::NOATIME)
        || mount.contains(MountFlags::NOATIME)
        || path.mnt.is_read_only()
        || (inode.is_dir() && mount.contains(MountFlags::NODIRATIME)))
}

/// One writer more of a file and of the mount that it is seen through, unless it was handed over to the
/// open file.
pub(super) struct WriteAccess {
    inode: Ref<Inode>,
    mnt: Ref<Mount>,
    counts: bool,
}

impl WriteAccess {
    /// `EROFS` if nothing may be written there, `ETXTBSY` while it is being executed.
    pub(super) fn get(path: &Path) -> Result<Self> {
        let (inode, mnt) = (path.inode()?.clone(), path.mnt.clone());
        mnt.get_writer()?;
        inode.get_write_access().inspect_err(|_| mnt.put_writer())?;
        Ok(Self { inode, mnt, counts: true })
    }

    /// The open file gives the counts back (`FMode::WRITER`).
    fn hand_over(mut self) {
        self.counts = false;
    }
}

impl Drop for WriteAccess {
    fn drop(&mut self) {
        if self.counts {
            self.inode.put_write_access();
            self.mnt.put_writer();
        }
    }
}

/// What the file does, by the type of its inode; for whoever has `cred`.
fn open_inode(
    inode: &Ref<Inode>,
    path: &Path,
    flags: OpenFlags,
    cred: &Cred,
) -> Result<Box<dyn FileOps>> {
    match inode.file_type() {
        uapi::S_IFCHR => find_chrdev(inode.rdev)?.open(inode.rdev, inode, path, flags, cred),
        uapi::S_IFIFO => pipe::open_fifo(inode, path, flags, cred),
        uapi::S_IFBLK => block::file::open(inode.rdev),
        uapi::S_IFSOCK => Err(Errno::ENXIO),
        _ => inode.ops().open(inode, path, flags),
    }
}

/// Opens a program to be run (execve(2), `uselib`): it must be a regular file that may be executed,
/// and nobody may write to it while it is open. The kernel may read it even if the caller may not.
pub fn open_exec(
    caller: Caller<'_>,
    start: Option<&Path>,
    name: &[u8],
    flags: LookupFlags,
) -> Result<Ref<File>> {
    let path = lookup(caller, start, name, flags)?;
    let inode = path.inode()?.clone();
    if inode.is_symlink() {
        return Err(Errno::ELOOP);
    }
    if !inode.is_regular() || path.mnt.flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    perm::permission(&inode, Access::EXEC, caller.cred)?;
    let ops = inode.ops().open(&inode, &path, OpenFlags::empty())?;
    inode.deny_write_access()?;
    // From here on the file gives the access back, also if it comes to nothing.
    let file = File::new(path, OpenFlags::empty(), FMode::READ | FMode::EXEC, ops)?;
    notify::file(&file, Events::OPEN);
    Ok(file)
}

/// Opens a directory or regular file by place for the kernel's own use, with no questions asked.
pub fn open_kernel(path: Path, flags: OpenFlags) -> Result<Ref<File>> {
    let inode = path.inode()?.clone();
    let ops = inode.ops().open(&inode, &path, flags)?;
    let mut fmode = FMode::empty();
    fmode.set(FMode::READ, flags.reads());
    fmode.set(FMode::WRITE, flags.writes());
    File::new(path, flags, fmode, ops)
}

/// True if device nodes seen through `mount` cannot be opened: it says so, or the file system is of a
/// user namespace, which could have made any node.
fn forbids_devices(mount: &Mount) -> bool {
    let sb = &mount.sb;
    mount.flags().contains(MountFlags::NODEV) || sb.user_ns.level > 0 && !sb.ops.makes_its_devices()
}

/// chroot(2) and chdir(2) need a directory that may be searched.
pub fn directory(caller: Caller<'_>, start: Option<&Path>, name: &[u8]) -> Result<Path> {
    let path = lookup(caller, start, name, LookupFlags::FOLLOW | LookupFlags::DIRECTORY)?;
    perm::permission(path.inode()?, Access::EXEC, caller.cred)?;
    Ok(path)
}

/// chroot(2).
pub fn chroot(caller: Caller<'_>, name: &[u8]) -> Result<()> {
    let path = directory(caller, None, name)?;
    if !caller.cred.own_capable(Cap::SysChroot) {
        return Err(Errno::EPERM);
    }
    caller.fs.set_root(path);
    Ok(())
}

/// Forgets unused names; for tests and for when memory is short.
pub fn forget_names() -> usize {
    dentry::shrink(usize::MAX)
}
