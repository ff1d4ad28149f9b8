//! Descriptors: what they referred to, opened or made again.

use alloc::boxed::Box;
use core::fmt;

use belljar_abi::carried::Carried;

use super::numbers::Numbers;
use super::objects::{Expected, Objects, PipeEnds};
use super::plan::{FilePlan, Plan};
use super::{Failure, locks, timers};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::epoll::{EpollFile, EpollSet};
use crate::fs::eventfd::EventFd;
use crate::fs::open::{OpenHow, directory};
use crate::fs::pipe::{self, pipe_of};
use crate::fs::{self, Caller, Dev, File, Files, FsStruct, OpenFlags, UserBuf, anon};
use crate::kref::Ref;
use crate::ns::{Cred, NsProxy};
use crate::process::{pidfd, signalfd};
use crate::signal::SigSet;
use crate::uapi::{S_IFCHR, S_IFIFO, S_IFMT};

/// What files are made from.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// Who opens them.
    pub(super) caller: Caller<'a>,
    /// The process whose they are.
    pub(super) plan: &'a Plan<'a>,
    /// Its clocks.
    pub(super) proxy: &'a NsProxy,
    /// The processes of the checkpoint.
    pub(super) numbers: &'a Numbers,
}

/// The table of descriptors.
#[inline(never)]
pub(super) fn table(around: Around<'_>, objects: &mut Objects) -> Result<Ref<Files>, Failure> {
    let plan = around.plan;
    let failed = |errno| Failure::new(plan, errno, format_args!("its descriptors: {errno}"));
    let files = Files::new().map_err(failed)?;
    for fd in &plan.fds {
        let number = fd.fd;
        let Some(file) = plan.file(fd.file) else { return Err(failed(Errno::EBADF)) };
        let open = match objects.files.get(fd.file) {
            Some(open) => open.clone(),
            None => {
                let open = open(around, file, objects).map_err(|why| {
                    let path = file.path.escape_ascii();
                    let what = format_args!("descriptor {number}: {path}{why}");
                    Failure::new(plan, why.errno(), what)
                })?;
                objects.files.insert(fd.file, open.clone()).map_err(failed)?;
                open
            }
        };
        let number = i32::try_from(number).map_err(|_| failed(Errno::EBADF))?;
        let old = files.replace(number, open, usize::MAX, fd.cloexec != 0).map_err(failed)?;
        if old.is_some() {
            return Err(failed(Errno::EEXIST));
        }
    }
    locks::take(plan, &files, objects)?;
    Ok(files)
}

/// Root, working directory, umask.
pub(super) fn places(caller: Caller<'_>, plan: &Plan<'_>) -> Result<Ref<FsStruct>, Failure> {
    let place = |path: &[u8]| {
        directory(caller, None, path).map_err(|errno| {
            let path = path.escape_ascii();
            Failure::new(plan, errno, format_args!("its directory {path}: {errno}"))
        })
    };
    let own = FsStruct::new(place(plan.root)?, (plan.process.umask & 0o777) as u32)
        .map_err(|errno| Failure::new(plan, errno, format_args!("its directories: {errno}")))?;
    own.set_cwd(place(plan.cwd)?);
    Ok(own)
}

/// Why a file is not what it was.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why {
    /// It cannot be opened or made.
    Errno(Errno),
    /// It is there, with another size.
    Size(u64, u64),
    /// It is there, with another content.
    Content,
    /// It is there, of another kind.
    Kind,
    /// Nothing that this kernel makes again.
    Unknown(u64),
}

impl Why {
    fn errno(self) -> Errno {
        match self {
            Self::Errno(errno) => errno,
            Self::Unknown(_) => Errno::EOPNOTSUPP,
            _ => Errno::ESTALE,
        }
    }
}

impl From<Errno> for Why {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, ": {errno}"),
            Self::Size(now, then) => write!(f, " has {now} bytes, and had {then}"),
            Self::Content => f.write_str(" does not hold what it held"),
            Self::Kind => f.write_str(" is not what it was"),
            Self::Unknown(kind) => write!(f, ": this kernel knows no files of kind {kind}"),
        }
    }
}

/// Checks that a regular file still is what it was.
#[inline(never)]
pub(super) fn verify(file: &Ref<File>, expected: &Expected<'_>) -> Result<(), Why> {
    let size = file.inode.size();
    if !file.inode.is_regular() {
        return Err(Why::Kind);
    }
    if size != expected.size {
        return Err(Why::Size(size, expected.size));
    }
    if expected.hash.is_empty() {
        return Ok(());
    }
    let mut hasher = crate::mm::try_box(blake3::Hasher::new())?;
    let mut buf = super::zeroed(4 * PAGE_SIZE)?;
    let mut at = 0;
    loop {
        match file.read_kernel(&mut buf, at)? {
            0 => break,
            n => {
                hasher.update(&buf[..n]);
                at += n as u64;
            }
        }
    }
    if hasher.finalize().as_bytes() == expected.hash { Ok(()) } else { Err(Why::Content) }
}

/// Opens or makes what a descriptor referred to.
fn open(around: Around<'_>, file: &FilePlan<'_>, objects: &mut Objects) -> Result<Ref<File>, Why> {
    let caller = around.caller;
    let record = &file.record;
    // Whom O_ASYNC tells is not carried: better no flag than one that means nothing.
    let flags = OpenFlags::from_bits_truncate(record.flags as u32)
        - (OpenFlags::ASYNC
            | OpenFlags::CREAT
            | OpenFlags::EXCL
            | OpenFlags::TRUNC
            | OpenFlags::TMPFILE_BIT);
    let open = |more| {
        let how = OpenHow { flags: flags | more, ..OpenHow::default() };
        fs::open::open(caller, None, file.path, how)
    };
    if flags.contains(OpenFlags::PATH) {
        return Ok(open(OpenFlags::empty())?);
    }
    match Carried::of(record.kind).ok_or(Why::Unknown(record.kind))? {
        Carried::Regular if record.object != 0 => {
            Ok(objects.nameless.open(record.object, flags, record.pos)?)
        }
        Carried::Regular => {
            let open = open(OpenFlags::empty())?;
            verify(&open, &Expected { size: record.size, hash: file.hash })?;
            open.set_pos(record.pos);
            Ok(open)
        }
        Carried::Directory => {
            let open = open(OpenFlags::DIRECTORY)?;
            open.set_pos(record.pos);
            Ok(open)
        }
        Carried::PtyMaster => {
            let master = objects.ptys.master(record.object).ok_or(Why::Kind)?;
            Ok(master.clone())
        }
        Carried::Tty if record.object != 0 => Ok(objects.ptys.open(caller, file)?),
        Carried::CharDevice | Carried::Tty => {
            let open = open(OpenFlags::NOCTTY)?;
            if open.inode.mode() & S_IFMT != S_IFCHR {
                return Err(Why::Kind);
            }
            Ok(open)
        }
        Carried::Pipe if file.path.is_empty() => pipe_end(caller, file, flags, objects),
        Carried::Pipe => fifo(caller, file, flags, objects),
        Carried::Socket => {
            let cred = caller.cred;
            let socket = objects.sockets.open(record.object, flags, cred.fsuid, cred.fsgid)?;
            socket.set_flags(flags);
            Ok(socket)
        }
        Carried::PidFd => {
            let pid = around.numbers.get(record.value).ok_or(Errno::ESRCH)?;
            Ok(pidfd::new_file(pid, flags)?)
        }
        Carried::EventFd => {
            let counter = EventFd::new(record.value, record.semaphore != 0);
            let ops: Box<EventFd> = crate::mm::try_box(counter)?;
            Ok(anon::new_file("[eventfd]", ops, flags)?)
        }
        Carried::Epoll => {
            let ops: Box<EpollFile> = crate::mm::try_box(EpollFile::new(EpollSet::new()?))?;
            Ok(anon::new_file("[eventpoll]", ops, flags)?)
        }
        Carried::TimerFd => {
            let timer = around.plan.file_timer(record.id).ok_or(Why::Kind)?;
            Ok(timers::timerfd(timer, flags, around.proxy)?)
        }
        Carried::SignalFd => Ok(signalfd::new_file(SigSet(record.value), flags)?),
    }
}

/// An end of a pipe, which is made with the first.
fn pipe_end(
    caller: Caller<'_>,
    file: &FilePlan<'_>,
    flags: OpenFlags,
    objects: &mut Objects,
) -> Result<Ref<File>, Why> {
    let key = file.record.object;
    if objects.pipes.get(key).is_none() {
        let slots = OpenFlags::empty();
        let (reader, writer) = pipe::create(slots, caller.cred)?;
        fill(&writer, file, caller.cred)?;
        objects.pipes.insert(key, PipeEnds { reader, writer })?;
    }
    let Some(ends) = objects.pipes.get(key) else { return Err(Why::Kind) };
    let (reads, writes) = (flags.reads(), flags.writes());
    let end = match (reads, writes) {
        (true, false) => &ends.reader,
        (false, true) => &ends.writer,
        _ => return Err(Why::Kind),
    };
    end.set_flags(flags);
    Ok(end.clone())
}

/// Puts into a new pipe what it held.
fn fill(writer: &File, file: &FilePlan<'_>, cred: &Cred) -> Result<(), Why> {
    if let Some(pipe) = pipe_of(writer) {
        let slots = usize::try_from(file.record.value).ok().filter(|n| *n <= 1 << 18);
        let bytes = slots.ok_or(Why::Kind)? * PAGE_SIZE;
        // What it held must fit, so nothing here waits for a reader.
        if file.content.len() > bytes {
            return Err(Why::Kind);
        }
        pipe.set_capacity(bytes, cred)?;
    }
    writer.write(&mut UserBuf::from_kernel(file.content))?;
    Ok(())
}

/// A FIFO, which is made where it is missing, and filled when it is opened for the first time. Nobody may have it
/// open already: that would be another pipe under the same name.
fn fifo(
    caller: Caller<'_>,
    file: &FilePlan<'_>,
    flags: OpenFlags,
    objects: &mut Objects,
) -> Result<Ref<File>, Why> {
    let open = |flags| {
        let how = OpenHow { flags, ..OpenHow::default() };
        fs::open::open(caller, None, file.path, how)
    };
    let key = file.record.object;
    if objects.fifos.get(key).is_none() {
        let both = OpenFlags::RDWR | OpenFlags::NONBLOCK;
        let place = match open(OpenFlags::PATH) {
            Err(Errno::ENOENT) => {
                let mode = S_IFIFO | file.record.mode as u32 & 0o7777;
                let made = fs::verbs::mknod(caller, None, file.path, mode, Dev::default())?;
                if let Ok(inode) = made.inode() {
                    inode.set_permissions(mode & 0o7777);
                    inode.set_owner(file.record.uid as u32, file.record.gid as u32);
                }
                open(OpenFlags::PATH)?
            }
            other => other?,
        };
        if place.inode.mode() & S_IFMT != S_IFIFO {
            return Err(Why::Kind);
        }
        let keeper = open(both)?;
        if pipe_of(&keeper).is_none_or(|pipe| pipe.ends() != (1, 1) || !pipe.is_empty()) {
            return Err(Why::Errno(Errno::EBUSY));
        }
        fill(&keeper, file, caller.cred)?;
        objects.fifos.insert(key, keeper)?;
    }
    // It has both ends now, so that nobody waits for one.
    let end = open(flags | OpenFlags::NONBLOCK)?;
    if end.inode.mode() & S_IFMT != S_IFIFO {
        return Err(Why::Kind);
    }
    end.set_flags(flags);
    Ok(end)
}
