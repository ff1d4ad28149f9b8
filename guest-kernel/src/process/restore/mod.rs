//! Processes from cores: what `belljar checkpoint` took out goes on here.
//!
//! | file | what |
//! | --- | --- |
//! | [`core`](self::core) | ELF headers and notes, as bytes |
//! | [`plan`] | what the notes say, checked |
//! | `objects` | what several processes of a checkpoint have in common |
//! | `rights` | what the caller must be allowed for that |
//! | `numbers` | of processes and threads |
//! | `memory`, `files`, `locks`, `timers`, `state` | the parts of a process, built aside |
//! | `nameless` | memfds and other files without a name |
//! | `sockets` | Unix sockets |
//! | `terminals` | pseudoterminals, controlling terminals |
//! | `filters` | filters of system calls |
//! | `watches` | what epoll sets watch |
//! | `tasks` | the tasks, and the moment when they go on |
//!
//! As for execve(2), everything that can fail is done first: all parts of all processes are built aside, then
//! the tasks are made and linked, and only when the last of them is there the first one runs. A failure
//! before that leaves nothing behind and says which core it was, and what of it.
//!
//! The kernel's stack is small and execve(2) may be deep in it: each part is built in a call of its own that is not
//! inlined, so that what one keeps there is gone when the next begins.
//!
//! A core may come in two ways. execve(2) of one makes the caller the process that it was taken from, under
//! the caller's own number ([`exec`]): an ordinary program for whoever may do what the core says
//! (`rights`). And the VMM may hand over a folder of cores, of a process and its descendants
//! ([`resume`]), which keep their numbers.

pub mod core;
mod files;
mod filters;
mod locks;
mod memory;
mod nameless;
mod numbers;
mod objects;
pub mod plan;
mod rights;
mod sockets;
mod state;
#[cfg(any(test, feature = "synthetic"))]
#[doc(hidden)]
pub mod synthetic;
mod tasks;
mod terminals;
mod timers;
mod watches;

use ::core::fmt::{self, Write};
use alloc::vec::Vec;

use self::core::Core;
use self::numbers::Numbers;
use self::objects::Objects;
use self::plan::Plan;
use self::rights::Rights;
use crate::arch::PtRegs;
use crate::errno::{Errno, Result};
use crate::fs::{Caller, File};
use crate::kref::Ref;
use crate::process::exit;
use crate::task::{self, SeccompMode, Task};

/// Most processes of a checkpoint.
const MAX_PROCESSES: usize = 4096;

/// Why a core cannot go on.
pub struct Failure {
    /// The error, for who called.
    pub errno: Errno,
    text: Vec<u8>,
}

impl Failure {
    fn new(plan: &Plan<'_>, errno: Errno, what: fmt::Arguments<'_>) -> Self {
        Self::of(errno, format_args!("process {}: {what}", plan.pid()))
    }

    fn of(errno: Errno, what: fmt::Arguments<'_>) -> Self {
        let mut failure = Self { errno, text: Vec::new() };
        // Without memory the error has to do.
        let _ = failure.write_fmt(what);
        failure
    }
}

impl Write for Failure {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.try_reserve(text.len()).map_err(|_| fmt::Error)?;
        self.text.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text).unwrap_or(""))
    }
}

/// A core as a file.
struct Source {
    file: Ref<File>,
    /// Its headers and notes.
    head: Vec<u8>,
    len: u64,
}

impl Source {
    fn open(file: Ref<File>) -> Result<Self, self::core::Bad> {
        let len = file.inode.size();
        let read = |at: u64, buf: &mut [u8]| file.read_kernel(buf, at) == Ok(buf.len());
        let needed = core::head_len(len, read)? as usize;
        let mut head: Vec<u8> = core::room(needed)?;
        head.resize(needed, 0);
        if !read(0, &mut head) {
            return Err(self::core::Bad::Header("they cannot be read"));
        }
        Ok(Self { file, head, len })
    }

    #[inline(never)]
    fn plan(&self) -> Result<Plan<'_>, self::core::Bad> {
        Plan::read(Core::read(&self.head, self.len)?)
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        if self.file.read_kernel(buf, at)? == buf.len() { Ok(()) } else { Err(Errno::EIO) }
    }
}

/// Where the first process of a checkpoint goes on.
pub enum Place<'r> {
    /// In the caller, under its number; these are its registers on the way to EL0.
    Caller(&'r mut PtRegs),
    /// In the caller if it has the process's number, else in a child of it.
    CallerOrChild(&'r mut PtRegs),
    /// In a child of the caller.
    Child,
}

/// Resumes the processes in `cores`, one file each: the root of a tree, then its descendants, parents before their
/// children. Returns the root's task. They run when this returns.
pub fn resume(cores: Vec<Ref<File>>, place: Place<'_>) -> Result<Ref<Task>, Failure> {
    let none = |errno| Failure::of(errno, format_args!("the cores: {errno}"));
    if cores.is_empty() || cores.len() > MAX_PROCESSES {
        return Err(none(Errno::EINVAL));
    }
    let mut sources = Vec::new();
    sources.try_reserve_exact(cores.len()).map_err(|_| none(Errno::ENOMEM))?;
    let bad = |path: &crate::fs::Path, bad: self::core::Bad| {
        let path = path.to_vec().unwrap_or_default();
        Failure::of(bad.errno(), format_args!("core {}: {bad}", path.escape_ascii()))
    };
    for file in cores {
        let path = file.path.clone();
        sources.push(Source::open(file).map_err(|error| bad(&path, error))?);
    }
    let mut plans = Vec::new();
    plans.try_reserve_exact(sources.len()).map_err(|_| none(Errno::ENOMEM))?;
    for source in &sources {
        plans.push(source.plan().map_err(|error| bad(&source.file.path, error))?);
    }
    let become_root = match place {
        Place::Caller(regs) => Some(regs),
        Place::CallerOrChild(regs) if plans[0].pid() == task::current().pid() => Some(regs),
        Place::CallerOrChild(_) | Place::Child => None,
    };
    build(&sources, &plans, become_root)
}

#[inline(never)]
fn build(
    sources: &[Source],
    plans: &[Plan<'_>],
    become_root: Option<&mut PtRegs>,
) -> Result<Ref<Task>, Failure> {
    let task = task::current();
    // No core takes away what the caller may not do.
    if become_root.is_some() && task.seccomp.mode() != SeccompMode::Disabled {
        let what = format_args!("its system calls would not be restricted as the caller's are");
        return Err(Failure::new(&plans[0], Errno::EPERM, what));
    }
    let rights = Rights::of(task);
    for plan in plans {
        rights.check(plan)?;
    }
    let caller = Caller { fs: task.fs(), cred: task.cred() };
    let mut objects = Objects::default();
    for plan in plans {
        objects
            .measure(plan)
            .map_err(|errno| Failure::new(plan, errno, format_args!("its memory: {errno}")))?;
    }
    let proxy = state::namespaces(task, &plans[0])?;
    let mut numbers = Numbers::take_all(task, plans, become_root.is_some())?;
    objects.sockets.build(caller, plans, &proxy.net, &mut numbers)?;
    objects.ptys.build(caller, plans)?;
    objects.nameless.build(sources, plans)?;
    let mut parts = Vec::new();
    parts
        .try_reserve_exact(plans.len())
        .map_err(|_| Failure::new(&plans[0], Errno::ENOMEM, format_args!("ENOMEM")))?;
    for (source, plan) in sources.iter().zip(plans) {
        parts.push(state::Parts::build(caller, source, plan, &proxy, &numbers, &mut objects)?);
    }
    objects.nameless.seal(&plans[0])?;
    watches::restore(task, plans, &parts, &objects, become_root.is_some())?;
    tasks::start(task, plans, parts, numbers, &objects.ptys, become_root)
}

/// execve(2) of a core: the caller becomes the process, as far as it may, under its own number.
pub(super) fn exec(file: Ref<File>, regs: &mut PtRegs) -> Result<()> {
    let mut cores = Vec::new();
    cores.try_reserve_exact(1).map_err(|_| Errno::ENOMEM)?;
    cores.push(file);
    resume(cores, Place::Caller(regs)).map(drop).map_err(|failure| {
        crate::kwarn!("execve: {failure}");
        failure.errno
    })
}

/// Room for `n` bytes; not on the stack, which has none for them.
fn zeroed(n: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(n).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(n, 0);
    Ok(bytes)
}

/// The caller has no threads but itself from here on.
fn alone(task: &Task) -> Result<(), Failure> {
    exit::de_thread(task).map_err(|errno| Failure::of(errno, format_args!("{errno}")))
}
