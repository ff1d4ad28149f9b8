//! Descriptors and what they refer to.

use std::collections::BTreeSet;

use belljar_abi::carried::Carried;
use belljar_abi::corenote::{self, Fd, Kind, Lock, Timer, Watch, Writer};

use super::content::Contents;
use super::nameless::Nameless;
use super::sockets::Sockets;
use super::state::{clock_offset, put, table};
use super::terminals::{Ptys, is_pty_number};
use super::{Error, Result, locks, timers, watches};
use crate::elfcore::Note;
use crate::introspect::{Frames, Kernel, Object, Process, path_of};
use crate::target::PAGE_SIZE;

/// Most bytes of a pipe: `/proc/sys/fs/pipe-max-size` for everybody, and more for the privileged.
const MAX_PIPE: u64 = 64 << 20;

/// An end of a pipe that a process has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PipeEnd {
    /// The descriptor.
    pub fd: u64,
    /// The open file.
    pub file: u64,
    /// The pipe, and which ends of it are open in the whole guest: readers, writers.
    pub pipe: (u64, [u64; 2]),
    /// Which ends this is.
    pub ends: [bool; 2],
}

/// What a process has open.
#[derive(Default)]
pub(super) struct OpenFiles {
    /// The notes about it.
    pub notes: Vec<Note>,
    /// The ends of pipes among it.
    pub pipes: Vec<PipeEnd>,
    /// The timers of its timerfds.
    pub timers: Vec<Timer>,
    /// What its epoll sets watch.
    pub watches: Vec<Watch>,
    /// Its pidfds: descriptor, number, and the kernel's own `Pid`.
    pub pidfds: Vec<(u64, u64, u64)>,
    /// Its Unix sockets.
    pub sockets: Sockets,
    /// Its pseudoterminals.
    pub ptys: Ptys,
    /// The open files, by their addresses.
    pub files: BTreeSet<u64>,
}

/// Describes what a process has open.
pub(super) fn open_files<'k>(
    process: &Process<'k>,
    contents: &mut Contents<'k>,
    nameless: &mut Nameless,
) -> Result<OpenFiles> {
    let pid = process.pid()?;
    let kernel = process.task().kernel();
    let mut fds: Writer<Fd> = Writer::default();
    let mut files: Writer<corenote::File> = Writer::default();
    let mut found = OpenFiles::default();
    let offset = clock_offset(process.task())?;
    let mut locked: Writer<Lock> = Writer::default();
    let mut seen = BTreeSet::new();
    if let Some(owner) = process.task().ptr("files")? {
        kernel.check_seq_of(&owner, "seq")?;
        let cloexec = owner.numbers("table.cloexec")?;
        for (fd, addr) in owner.numbers("table.fds")?.into_iter().enumerate() {
            if addr == 0 {
                continue;
            }
            let bit = cloexec.get(fd / 64).copied().unwrap_or(0) >> (fd % 64) & 1;
            fds.push(Fd { fd: fd as u64, file: addr, cloexec: bit });
            if found.files.insert(addr) {
                let file = Object::new(kernel, "File", addr)?;
                let mut record = describe(pid, fd, &file, &mut files, contents, nameless)?;
                let detail = |name| Object::new(kernel, name, record.object);
                match Carried::of(record.kind).filter(|_| record.object != 0) {
                    Some(Carried::Pipe) => found.pipes.push(pipe_end(kernel, fd as u64, &record)?),
                    Some(Carried::TimerFd) => {
                        found.timers.push(timers::timerfd(addr, &detail("TimerFd")?, offset)?);
                    }
                    Some(Carried::Socket) => {
                        found.sockets.add(pid, fd as u64, &detail("Common")?)?;
                    }
                    Some(Carried::Tty) => {
                        let fd = fd as u64;
                        let pty = found.ptys.terminal(fd, addr, &detail("TtyFile")?)?;
                        (record.object, record.value) =
                            pty.map_or((0, 0), |(pty, hung_up)| (pty, u64::from(hung_up)));
                    }
                    Some(Carried::PtyMaster) => {
                        let detail = detail("MasterFile")?;
                        record.object = found.ptys.master(fd as u64, addr, &detail)?;
                    }
                    Some(Carried::PidFd) => {
                        let pid = pid_of(&detail("PidFd")?)?;
                        let (number, at) = pid.unwrap_or_default();
                        found.pidfds.push((fd as u64, number, at));
                    }
                    Some(Carried::Epoll) => {
                        watches::add(addr, &detail("EpollSet")?, &mut found.watches)?;
                    }
                    _ => {}
                }
                locks::add(&owner, &file, &mut seen, &mut locked)?;
                files.push(record);
            }
        }
    }
    let mut watched: Writer<Watch> = Writer::default();
    found.watches.iter().for_each(|watch| watched.push(*watch));
    found.notes = vec![
        table(Kind::Fds, &fds),
        table(Kind::Files, &files),
        table(Kind::Watches, &watched),
        table(Kind::Locks, &locked),
    ];
    found.notes.extend(found.sockets.notes());
    found.notes.push(found.ptys.note());
    Ok(found)
}

fn pipe_end(kernel: &Kernel<'_>, fd: u64, record: &corenote::File) -> Result<PipeEnd> {
    /// `O_ACCMODE`, and what of it reads and writes alone.
    const ACCMODE: u64 = 3;
    let pipe = Object::new(kernel, "Pipe", record.object)?;
    let open = [pipe.uint("readers")?, pipe.uint("writers")?];
    let mode = record.flags & ACCMODE;
    Ok(PipeEnd { fd, file: record.id, pipe: (record.object, open), ends: [mode != 1, mode != 0] })
}

fn describe<'k>(
    pid: u64,
    fd: usize,
    file: &Object<'k>,
    to: &mut Writer<corenote::File>,
    contents: &mut Contents<'k>,
    nameless: &mut Nameless,
) -> Result<corenote::File> {
    let refused = |what: String| Error::Refused { pid, what: format!("descriptor {fd} {what}") };
    let kind = file.uint("kind")?;
    let inode = file.ptr("inode")?.ok_or_else(|| refused("has no inode".into()))?;
    let place = path_of(&file.embedded("path")?)?;
    let deleted = place.as_ref().is_some_and(|place| place.deleted);
    let path = place.map_or_else(Vec::new, |place| place.path);
    let shown = String::from_utf8_lossy(&path).into_owned();
    let object = file.uint("detail")?;
    let mut record = corenote::File {
        id: file.addr(),
        kind,
        flags: file.uint("flags")?,
        pos: file.uint("pos")?,
        path_bytes: put(to, &path)?,
        dev: inode.uint("dev")?,
        ino: inode.uint("ino")?,
        mode: inode.uint("mode")?,
        size: inode.uint("size")?,
        rdev: inode.uint("rdev")?,
        uid: inode.uint("uid")?,
        gid: inode.uint("gid")?,
        object,
        ..corenote::File::default()
    };
    if file.flags("fmode")?.iter().any(|flag| flag == "PATH") {
        return match path.is_empty() || deleted {
            true => Err(refused(format!("is a place that has no name (any more) ({shown})"))),
            false => Ok(record),
        };
    }
    let Some(carried) = Carried::of(kind) else {
        let name = file.enum_name("kind")?;
        return Err(refused(format!("is of the kind {name}, which no core carries yet")));
    };
    match carried {
        Carried::Directory if deleted => {
            return Err(refused(format!("is a directory without a name any more ({shown})")));
        }
        Carried::Regular if deleted && may_have_a_name(&inode)? => {
            return Err(refused(format!("is a file with another name than it had ({shown})")));
        }
        Carried::Regular if deleted => match nameless.add(&path, &inode, true, contents)? {
            Some(id) => record.object = id,
            None => {
                return Err(refused(format!("is a file without a name any more ({shown})")));
            }
        },
        Carried::Regular if path.is_empty() => {
            return Err(refused("is a file that never had a name".into()));
        }
        Carried::Pipe if deleted => {
            return Err(refused(format!("is a FIFO without a name any more ({shown})")));
        }
        Carried::Tty if object == 0 && is_pty_number(record.rdev) => {
            return Err(refused(
                "is a pseudoterminal of a kernel that does not describe it".into(),
            ));
        }
        Carried::Regular => {
            // Only those without a name are told by it.
            record.object = 0;
            if let Some((_, hash)) = contents.of(&inode)? {
                record.hash_bytes = put(to, &hash)?;
            }
        }
        Carried::Directory | Carried::CharDevice | Carried::Tty | Carried::PtyMaster => {}
        Carried::Pipe => {
            let pipe = Object::new(file.kernel(), "Pipe", object)?;
            let content = pipe_content(&pipe)?;
            record.content_bytes = put(to, &content)?;
            record.value = pipe.uint("slots")?;
        }
        Carried::Epoll | Carried::TimerFd | Carried::Socket => {}
        Carried::PidFd => {
            record.value =
                pid_of(&Object::new(file.kernel(), "PidFd", object)?)?.map_or(0, |pid| pid.0);
        }
        Carried::SignalFd => {
            let signals = Object::new(file.kernel(), "SignalFd", object)?;
            record.value = !signals.uint("others")?;
        }
        Carried::EventFd => {
            let counter = Object::new(file.kernel(), "EventFd", object)?;
            record.value = counter.uint("count")?;
            record.semaphore = counter.uint("semaphore")?;
        }
    }
    Ok(record)
}

/// Whether a file has a name although the one that it was opened by is gone, or may get one (open(2), `O_TMPFILE`):
/// a copy of it would not be the file that others find.
fn may_have_a_name(inode: &Object<'_>) -> Result<bool> {
    let linkable = inode.flags("flags")?.iter().any(|flag| flag == "LINKABLE");
    Ok(linkable || inode.uint("nlink")? != 0)
}

/// The process of a pidfd: its number and the kernel's `Pid`.
fn pid_of(pidfd: &Object<'_>) -> Result<Option<(u64, u64)>> {
    let Some(pid) = pidfd.ptr("pid")? else { return Ok(None) };
    let numbers = pid.array("numbers")?;
    let number = numbers.first().map(|upid| upid.uint("nr")).transpose()?;
    Ok(number.map(|number| (number, pid.addr())))
}

/// The bytes in a pipe, oldest first.
fn pipe_content(pipe: &Object<'_>) -> Result<Vec<u8>> {
    let kernel = pipe.kernel();
    let damaged = || crate::introspect::Error::Damaged { what: "a pipe".into() };
    let ring = pipe.embedded("ring")?;
    let slots = ring.array("slots")?;
    let (head, tail) = (ring.uint("head")?, ring.uint("tail")?);
    let used = head.wrapping_sub(tail);
    if used > slots.len() as u64 {
        return Err(damaged().into());
    }
    let frames = Frames::new(kernel)?;
    let mut bytes = vec![];
    for position in 0..used {
        // Positions count on; the ring has a power of two of slots.
        let at = tail.wrapping_add(position) & (slots.len() as u64 - 1);
        let slot = slots.get(at as usize).ok_or_else(damaged)?;
        let page = slot.ptr("page")?.ok_or_else(damaged)?;
        let phys = frames.phys_of(page.addr()).ok_or_else(damaged)?;
        let (start, len) = (slot.uint("start")?, slot.uint("len")?);
        if start.checked_add(len).is_none_or(|end| end > PAGE_SIZE)
            || bytes.len() as u64 + len > MAX_PIPE
        {
            return Err(damaged().into());
        }
        let mut piece = vec![0; len as usize];
        kernel.space().ram().read(phys + start, &mut piece)?;
        bytes.extend(piece);
    }
    Ok(bytes)
}
