//! /proc/PID/fd and /proc/PID/fdinfo.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::{depends_on_task, list_dots, own};
use crate::errno::{Errno, Result};
use crate::fs::{DirSink, FMode, File, FileOps, Files, Inode, InodeOps, Link, OpenFlags, Path};
use crate::kref::Ref;
use crate::mm::{try_arc_slice, try_box};
use crate::ns::{Cred, Pid};
use crate::process::access::{AccessMode, may_access};
use crate::procfs::text::{Source, Text, TextFile};
use crate::procfs::tree;
use crate::put;
use crate::task::{self, Task, list};
use crate::uapi::{S_IFLNK, S_IFREG};

/// The descriptor table of the task; `ENOENT` once it has none.
fn files_of(pid: &Pid) -> Result<Ref<Files>> {
    let task = list::lock().thread_of(pid).map(Task::to_ref).ok_or(Errno::ENOENT)?;
    task.files.share().ok_or(Errno::ENOENT)
}

fn file_of(pid: &Pid, fd: usize) -> Result<Ref<File>> {
    let fd = i32::try_from(fd).map_err(|_| Errno::ENOENT)?;
    files_of(pid)?.get_any(fd).map_err(|_| Errno::ENOENT)
}

/// What a descriptor leads to is for those alone who may look into the task: its owner in a user namespace
/// further in may not.
fn check_access(pid: &Pid) -> Result<()> {
    let task = list::lock().thread_of(pid).map(Task::to_ref).ok_or(Errno::ENOENT)?;
    if may_access(&task, AccessMode::FsCreds) { Ok(()) } else { Err(Errno::EACCES) }
}

/// A link's permissions tell how the descriptor was opened.
fn link_mode(file: &File) -> u32 {
    let mut mode = S_IFLNK;
    if file.fmode().contains(FMode::READ) {
        mode |= 0o500;
    }
    if file.fmode().contains(FMode::WRITE) {
        mode |= 0o300;
    }
    mode
}

fn ino(pid: &Ref<Pid>, fd: usize, links: bool) -> u64 {
    tree::ino_of(Ref::as_ptr(pid) as usize, (fd << 2) | 2 | usize::from(links))
}

/// The link of a descriptor.
pub(super) fn lookup_link(
    dir: &Ref<Inode>,
    pid: &Ref<Pid>,
    name: &[u8],
) -> Result<Option<Ref<Inode>>> {
    let Some(fd) = tree::parse_index(name) else { return Ok(None) };
    let Ok(file) = file_of(pid, fd) else { return Ok(None) };
    let ops = FdLink { pid: pid.clone(), fd };
    let inode = Inode::new(&dir.sb, ino(pid, fd, true), link_mode(&file), try_box(ops)?)?;
    depends_on_task(&inode);
    own(&inode, pid);
    Ok(Some(inode))
}

/// The file about a descriptor.
pub(super) fn lookup_info(
    dir: &Ref<Inode>,
    pid: &Ref<Pid>,
    name: &[u8],
) -> Result<Option<Ref<Inode>>> {
    let Some(fd) = tree::parse_index(name) else { return Ok(None) };
    if file_of(pid, fd).is_err() {
        return Ok(None);
    }
    let ops = FdInfo { pid: pid.clone(), fd };
    let inode = Inode::new(&dir.sb, ino(pid, fd, false), S_IFREG | 0o444, try_box(ops)?)?;
    depends_on_task(&inode);
    own(&inode, pid);
    Ok(Some(inode))
}

/// /proc/PID/fd/N.
struct FdLink {
    pid: Ref<Pid>,
    fd: usize,
}

impl InodeOps for FdLink {
    fn follow_link(&self, _inode: &Ref<Inode>, _cred: &Cred) -> Result<Link> {
        check_access(&self.pid)?;
        Ok(Link::Jump(file_of(&self.pid, self.fd)?.path.clone()))
    }

    fn readlink(&self, _inode: &Ref<Inode>, _cred: &Cred) -> Result<Arc<[u8]>> {
        check_access(&self.pid)?;
        let file = file_of(&self.pid, self.fd)?;
        try_arc_slice(&file.path.to_vec_in(&task::current().fs().root())?)
    }

    fn revalidate(&self, inode: &Inode) -> bool {
        let same = |file: Ref<File>| link_mode(&file) == inode.mode();
        own(inode, &self.pid) && file_of(&self.pid, self.fd).is_ok_and(same)
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Err(Errno::ELOOP)
    }
}

/// /proc/PID/fdinfo/N.
struct FdInfo {
    pid: Ref<Pid>,
    fd: usize,
}

impl InodeOps for FdInfo {
    fn revalidate(&self, inode: &Inode) -> bool {
        own(inode, &self.pid) && file_of(&self.pid, self.fd).is_ok()
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(try_box(TextFile::new(FdInfo { pid: self.pid.clone(), fd: self.fd }))?)
    }
}

impl Source for FdInfo {
    fn show(&self, out: &mut Text) -> Result<()> {
        let files = files_of(&self.pid)?;
        let file = file_of(&self.pid, self.fd)?;
        let mut flags = file.flags();
        flags.set(OpenFlags::CLOEXEC, files.cloexec(self.fd as i32).unwrap_or(false));
        put!(out, "pos:\t{}\nflags:\t0{:o}\n", file.pos(), flags.bits())?;
        put!(out, "mnt_id:\t{}\nino:\t{}\n", file.path.mnt.id, file.inode.ino)?;
        file.ops().show_fdinfo(&file, out).map_err(|_| Errno::ENOMEM)
    }
}

/// An open directory of descriptors. Positions are descriptors, after `.` and `..`.
pub(super) struct FdDir {
    pub(super) pid: Ref<Pid>,
    pub(super) links: bool,
}

impl FileOps for FdDir {
    fn readdir(&self, file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        if !list_dots(file, pos, sink) {
            return Ok(());
        }
        let files = files_of(&self.pid)?;
        while let Some((fd, open)) = files.next_open((*pos - 2) as usize) {
            let mut name = Text::new();
            put!(name, "{fd}")?;
            let mode = if self.links { link_mode(&open) } else { S_IFREG | 0o444 };
            let after = fd as u64 + 3;
            if !sink.emit(name.as_bytes(), ino(&self.pid, fd, self.links), mode, after) {
                return Ok(());
            }
            *pos = after;
        }
        Ok(())
    }
}
