//! The file system `cgroup2`: the tree of control groups as directories, with a file for each thing that
//! can be seen or set (cgroups(7); Linux, Documentation/admin-guide/cgroup-v2.rst).
//!
//! | module | what it is |
//! | --- | --- |
//! | this one | directories, files, mounting |
//! | [`files`] | the table of files, and those of the core |
//! | `controllers` | the files of the controllers |
//! | `attach` | moving tasks: who may |
//!
//! There is one such file system; mounting it again shows it again, from the caller's cgroup namespace's
//! root down. Owners and permissions belong to the group, not to the inode, which comes and goes.

mod attach;
mod controllers;
pub mod files;

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::text::{Source, Text, TextFile};
use super::tree::ino_of;
use crate::cgroup::changes::{self, Teller};
use crate::cgroup::{self, Cgroup, DIRECTORY, FileAttr};
use crate::errno::{Errno, Result};
use crate::fs::inode::{InodeOps, NewNode};
use crate::fs::superblock::SuperOps;
use crate::fs::{
    Dentry, DirSink, File, FileOps, FileSystem, Inode, InodeFlags, MountRequest, OpenFlags, Path,
    PollFlags, PollTable, SetAttr, SuperBlock, UserBuf, Whence, namei, notify, register_filesystem,
};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::ns::{CgroupNs, Cred, Namespace};
use crate::sched::workqueue::{Work, schedule_work};
use crate::sync::Once;
use crate::task;
use crate::uapi::{S_IFDIR, S_IFMT, S_IFREG};

pub use attach::into_cgroup;
use files::{FILES, FileSpec};

const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

bitflags::bitflags! {
    /// Options of the whole hierarchy; a mount from the initial cgroup namespace sets them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Options: u32 {
        /// Cgroup namespaces bound what may be moved.
        const NSDELEGATE = 1 << 0;
        /// memory.events counts what happened in the group itself only.
        const LOCAL_EVENTS = 1 << 1;
        /// Protection of memory is for whole subtrees; there is none here.
        const RECURSIVE_PROT = 1 << 2;
        /// Moving tasks is fast already.
        const FAVOR_DYNMODS = 1 << 3;
    }
}

const OPTION_NAMES: [(Options, &str); 4] = [
    (Options::NSDELEGATE, "nsdelegate"),
    (Options::FAVOR_DYNMODS, "favordynmods"),
    (Options::LOCAL_EVENTS, "memory_localevents"),
    (Options::RECURSIVE_PROT, "memory_recursiveprot"),
];

static OPTIONS: AtomicU32 = AtomicU32::new(0);

fn options() -> Options {
    Options::from_bits_retain(OPTIONS.load(Relaxed))
}

/// Takes options; `EINVAL` for one that there is not.
fn parse_options(data: &[u8]) -> Result<Options> {
    let mut new = Options::empty();
    for option in data.split(|&b| b == b',').filter(|option| !option.is_empty()) {
        let known = OPTION_NAMES.iter().find(|(_, name)| name.as_bytes() == option);
        new |= known.ok_or(Errno::EINVAL)?.0;
    }
    Ok(new)
}

fn set_options(data: &[u8]) -> Result<()> {
    let new = parse_options(data)?;
    let initial = crate::ns::init_nsproxy().cgroup.common.inum;
    if task::current().nsproxy().cgroup.common.inum == initial {
        OPTIONS.store(new.bits(), Relaxed);
    }
    Ok(())
}

struct CgroupSuper;

impl SuperOps for CgroupSuper {
    fn show_options(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let set = options();
        let mut names = OPTION_NAMES.iter().filter(|(option, _)| set.contains(*option));
        names.try_for_each(|(_, name)| write!(out, ",{name}"))
    }

    fn remount(&self, _sb: &SuperBlock, data: &[u8]) -> Result<()> {
        set_options(data)
    }

    fn show_root(&self, root: &Inode, out: &mut dyn fmt::Write) -> Option<fmt::Result> {
        let group = &root.ops_as::<GroupDir>()?.group;
        Some(group.path_in(&task::current().nsproxy().cgroup.root, out))
    }
}

/// The type, for mount(2).
pub struct CgroupFs;

static TOP: Once<Ref<Dentry>> = Once::new();

fn top() -> Result<&'static Ref<Dentry>> {
    if let Some(top) = TOP.try_get() {
        return Ok(top);
    }
    let sb = SuperBlock::new("cgroup2", CGROUP2_SUPER_MAGIC, try_box(CgroupSuper)?)?;
    let dentry = Dentry::new_root(dir_inode(&sb, cgroup::root())?)?;
    Ok(TOP.set(dentry))
}

/// Makes the type known, and tells of changes; boot order calls it once.
pub fn init() {
    register_filesystem(&CgroupFs);
    changes::set_teller(Teller {
        is_wanted: || sb().is_some_and(notify::is_watched),
        schedule: || {
            static WORK: Work = Work::new(|_| tell_of_changes());
            schedule_work(&WORK);
        },
    });
}

/// The file system, once it was mounted.
fn sb() -> Option<&'static SuperBlock> {
    Some(&TOP.try_get()?.inode()?.sb)
}

/// Tells who watches of changes that nobody wrote.
fn tell_of_changes() {
    while let Some((group, changed)) = changes::next() {
        // Of a group that has been removed meanwhile, too: its last change is what is waited for.
        let Some(sb) = sb() else { continue };
        for (at, spec) in FILES.iter().enumerate() {
            if spec.changes_with.is_some_and(|file| changed.contains(file)) {
                let (dir, name) = (group.id, spec.name.as_bytes());
                notify::changed(sb, dir, name, file_ino(&group, at));
            }
        }
    }
}

/// The directory of a group.
fn dentry_of(group: &Cgroup) -> Result<Ref<Dentry>> {
    let mut at = top()?.clone();
    for level in 1..=group.level {
        let Some(next) = group.levels().find(|g| g.level == level) else { break };
        let inode = at.require_inode()?.clone();
        let _guard = inode.lock.lock();
        at = namei::lookup_locked(&at, &next.name)?;
        // A group that was removed has no directory any more.
        at.require_inode()?;
    }
    Ok(at)
}

impl FileSystem for CgroupFs {
    fn name(&self) -> &'static str {
        "cgroup2"
    }

    fn allows_user_ns(&self) -> bool {
        true
    }

    fn shows(&self) -> Option<Namespace> {
        Some(Namespace::Cgroup(task::current().nsproxy().cgroup.clone()))
    }

    fn knows(&self, request: &MountRequest<'_>) -> bool {
        parse_options(request.data).is_ok()
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Ref<Dentry>> {
        let Some(Namespace::Cgroup(ns)) = request.shows else { return Err(Errno::EINVAL) };
        set_options(request.data)?;
        dentry_of(&ns.root)
    }
}

/// Owner and permissions of a file of a group, or of its directory.
fn attr_of(group: &Cgroup, file: usize, mode: u32) -> FileAttr {
    let attrs = group.attrs.lock();
    let changed = attrs.iter().find(|attr| attr.file == file).copied();
    let (uid, gid) = group.owner;
    changed.unwrap_or(FileAttr { file, uid, gid, mode })
}

fn set_attr(group: &Cgroup, new: FileAttr) -> Result<()> {
    let mut attrs = group.attrs.lock();
    match attrs.iter_mut().find(|attr| attr.file == new.file) {
        Some(attr) => *attr = new,
        None => attrs.try_push(new)?,
    }
    Ok(())
}

/// Records what chown(2) or chmod(2) changes: the inode may go, the group stays.
fn record(group: &Cgroup, file: usize, inode: &Inode, change: &SetAttr) -> Result<()> {
    if change.uid.is_none() && change.gid.is_none() && change.mode.is_none() {
        return Ok(());
    }
    let uid = change.uid.unwrap_or(inode.uid());
    let gid = change.gid.unwrap_or(inode.gid());
    let mode = change.mode.unwrap_or(inode.mode()) & !S_IFMT;
    set_attr(group, FileAttr { file, uid, gid, mode })
}

fn dir_inode(sb: &Ref<SuperBlock>, group: &Ref<Cgroup>) -> Result<Ref<Inode>> {
    let attr = attr_of(group, DIRECTORY, 0o755);
    let ops = try_box(GroupDir { group: group.clone() })?;
    let inode = Inode::new(sb, group.id, S_IFDIR | attr.mode, ops)?;
    inode.set_owner(attr.uid, attr.gid);
    inode.set_nlink(2);
    inode.set_flags(InodeFlags::NO_NEGATIVE);
    Ok(inode)
}

fn file_inode(sb: &Ref<SuperBlock>, group: &Ref<Cgroup>, file: usize) -> Result<Ref<Inode>> {
    let spec = FILES.get(file).ok_or(Errno::ENOENT)?;
    let attr = attr_of(group, file, spec.mode);
    let ops = try_box(GroupFile { group: group.clone(), file, spec })?;
    let inode = Inode::new(sb, file_ino(group, file), S_IFREG | attr.mode, ops)?;
    inode.set_owner(attr.uid, attr.gid);
    inode.set_flags(InodeFlags::REVALIDATE);
    Ok(inode)
}

fn file_ino(group: &Cgroup, file: usize) -> u64 {
    ino_of(group.id as usize, file + 1)
}

/// The directory of a group.
struct GroupDir {
    group: Ref<Cgroup>,
}

/// The group whose directory an open file is.
pub fn group_of(file: &File) -> Option<&Ref<Cgroup>> {
    file.inode.ops_as::<GroupDir>().map(|dir| &dir.group)
}

impl InodeOps for GroupDir {
    fn lookup(&self, dir: &Ref<Inode>, name: &[u8]) -> Result<Option<Ref<Inode>>> {
        let shown = |spec: &FileSpec| spec.name.as_bytes() == name && spec.is_shown(&self.group);
        if let Some(file) = FILES.iter().position(shown) {
            return file_inode(&dir.sb, &self.group, file).map(Some);
        }
        let child = self.group.child(&cgroup::lock_tree(), name);
        child.map(|child| dir_inode(&dir.sb, &child)).transpose()
    }

    fn create(&self, dir: &Ref<Inode>, name: &[u8], new: &NewNode<'_>) -> Result<Ref<Inode>> {
        match new.mode & S_IFMT {
            S_IFDIR => {}
            // As where a file system has no way to make files.
            S_IFREG => return Err(Errno::EACCES),
            _ => return Err(Errno::EPERM),
        }
        // A line end would make a line of /proc/PID/cgroup two.
        if name.contains(&b'\n') {
            return Err(Errno::EINVAL);
        }
        let group = crate::process::cgroup::make(&self.group, name, (new.uid, new.gid))?;
        let (uid, gid) = group.owner;
        let attr = FileAttr { file: DIRECTORY, uid, gid, mode: new.mode & !S_IFMT };
        let made = set_attr(&group, attr).and_then(|()| dir_inode(&dir.sb, &group));
        if made.is_err() {
            let _ = crate::process::cgroup::remove(&group);
        }
        made
    }

    fn rmdir(&self, _dir: &Ref<Inode>, _name: &[u8], inode: &Ref<Inode>) -> Result<()> {
        let dir = inode.ops_as::<Self>().ok_or(Errno::EPERM)?;
        crate::process::cgroup::remove(&dir.group)
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(try_box(OpenDir { group: self.group.clone() })?)
    }

    fn setattr(&self, inode: &Inode, change: &SetAttr) -> Result<()> {
        record(&self.group, DIRECTORY, inode, change)
    }
}

/// An open directory. Positions: `.`, `..`, files, then groups by their number.
struct OpenDir {
    group: Ref<Cgroup>,
}

impl FileOps for OpenDir {
    fn readdir(&self, file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        const FIRST_FILE: u64 = 2;
        let first_group = FIRST_FILE + FILES.len() as u64;
        if !super::tree::list(file.inode.ino, &[], pos, sink) {
            return Ok(());
        }
        for (at, spec) in (0..).zip(FILES) {
            let here = FIRST_FILE + at as u64;
            if *pos != here {
                continue;
            }
            let ino = file_ino(&self.group, at);
            let mode = S_IFREG | spec.mode;
            if spec.is_shown(&self.group) && !sink.emit(spec.name.as_bytes(), ino, mode, here + 1) {
                return Ok(());
            }
            *pos = here + 1;
        }
        let tree = cgroup::lock_tree();
        for child in self.group.children(&tree) {
            let here = first_group + child.id;
            if here < *pos {
                continue;
            }
            if !sink.emit(&child.name, child.id, S_IFDIR, here + 1) {
                return Ok(());
            }
            *pos = here + 1;
        }
        Ok(())
    }
}

/// A file of a group.
struct GroupFile {
    group: Ref<Cgroup>,
    file: usize,
    spec: &'static FileSpec,
}

impl InodeOps for GroupFile {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        let task = task::current();
        let opener = Opener { cred: task.cred().clone(), ns: task.nsproxy().cgroup.clone() };
        let group = self.group.clone();
        let text = TextFile::new(GroupText { group: group.clone(), spec: self.spec, opener });
        let seen = AtomicU32::new(0);
        Ok(try_box(OpenFile { text, group, spec: self.spec, seen })?)
    }

    fn setattr(&self, inode: &Inode, change: &SetAttr) -> Result<()> {
        record(&self.group, self.file, inode, change)
    }

    fn truncate(&self, _inode: &Inode, _size: u64) -> Result<()> {
        // Shells open settings with O_TRUNC.
        Ok(())
    }

    fn revalidate(&self, _inode: &Inode) -> bool {
        self.spec.is_shown(&self.group)
    }
}

/// Who opened a file: what it writes later counts as theirs.
pub struct Opener {
    /// Credentials.
    pub cred: Ref<Cred>,
    /// Cgroup namespace.
    pub ns: Ref<CgroupNs>,
}

struct GroupText {
    group: Ref<Cgroup>,
    spec: &'static FileSpec,
    opener: Opener,
}

impl GroupText {
    /// `ENODEV` once the group, or the file, is gone.
    fn check(&self) -> Result<()> {
        let gone = self.group.is_dead() || !self.spec.is_shown(&self.group);
        if gone { Err(Errno::ENODEV) } else { Ok(()) }
    }
}

impl Source for GroupText {
    fn show(&self, out: &mut Text) -> Result<()> {
        self.check()?;
        (self.spec.show.ok_or(Errno::EINVAL)?)(&self.group, out)
    }

    fn store(&self, data: &[u8]) -> Result<()> {
        self.check()?;
        (self.spec.store.ok_or(Errno::EINVAL)?)(&self.group, &self.opener, data.trim_ascii())
    }
}

/// An open file: a text that can be waited for, if it is of that kind.
struct OpenFile {
    text: TextFile<GroupText>,
    group: Ref<Cgroup>,
    spec: &'static FileSpec,
    /// Changes up to the last reading.
    seen: AtomicU32,
}

impl FileOps for OpenFile {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        if let Some(watch) = self.spec.watch {
            self.seen.store(watch(&self.group).changes(), Relaxed);
        }
        self.text.read(file, buf, pos)
    }

    fn write(&self, file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        self.text.write(file, buf, pos)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        self.text.seek(file, offset, whence)
    }

    /// Something changed since the last reading: an exceptional condition, and an error, as for all such
    /// files of Linux.
    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        let always = PollFlags::READABLE | PollFlags::WRITABLE;
        let Some(watch) = self.spec.watch else { return always };
        let watch = watch(&self.group);
        table.wait(&watch.wait);
        if watch.changes() == self.seen.load(Relaxed) && !self.group.is_dead() {
            return always;
        }
        always | PollFlags::PRI | PollFlags::ERR
    }

    fn is_pollable(&self) -> bool {
        true
    }
}
