//! Pid descriptors (pidfd_open(2)): a process that cannot be mistaken for a later one of the same
//! number, as a file that can be waited for.

use core::sync::atomic::Ordering;

use belljar_abi::Described;

use crate::errno::{Errno, Result};
use crate::fs::{FMode, File, FileKind, FileOps, OpenFlags, PollFlags, PollTable, anon};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::ns::{Pid, PidType};
use crate::task::list::{self, TaskList};
use crate::task::{self, EXIT_ALIVE, Task};

/// A pid descriptor.
#[repr(C)]
#[derive(Described)]
pub struct PidFd {
    pid: Ref<Pid>,
}

/// A descriptor of the process `pid`.
pub fn open(pid: Ref<Pid>, nonblocking: bool) -> Result<Ref<File>> {
    let mut flags = OpenFlags::RDWR;
    flags.set(OpenFlags::NONBLOCK, nonblocking);
    new_file(pid, flags)
}

/// A descriptor of the process `pid` with these flags.
pub fn new_file(pid: Ref<Pid>, flags: OpenFlags) -> Result<Ref<File>> {
    anon::new_file("[pidfd]", try_box(PidFd { pid })?, flags)
}

/// The process behind a descriptor; `None` if it is no pid descriptor.
pub fn pid_of(file: &File) -> Option<&Ref<Pid>> {
    file.ops_as::<PidFd>().map(|pidfd| &pidfd.pid)
}

/// True once all threads of the process ended, waited for or not.
fn has_ended(list: &TaskList, pid: &Pid) -> bool {
    list.thread_of(pid).is_none_or(|task| {
        task.exit_state.load(Ordering::Acquire) != EXIT_ALIVE
            && task.signal.nr_threads.load(Ordering::Relaxed) == 1
    })
}

/// Tells those who wait that the process ended; under the task list's lock.
pub fn notify(task: &Task) {
    task.thread_pid.with(|pid| pid.exit_wait.wake_all());
}

impl FileOps for PidFd {
    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        table.wait(&self.pid.exit_wait);
        let list = list::lock();
        if has_ended(&list, &self.pid) { PollFlags::READABLE } else { PollFlags::empty() }
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::PidFd)
    }

    fn described(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        let ns = task::current().active_pid_ns();
        if list::lock().thread_of(&self.pid).is_none() {
            return out.write_str("Pid:\t-1\nNSpid:\t-1\n");
        }
        let nr = self.pid.nr_in(&ns);
        write!(out, "Pid:\t{nr}\nNSpid:\t{nr}")?;
        if nr != 0 {
            for upid in self.pid.numbers.iter().skip(ns.level as usize + 1) {
                write!(out, "\t{}", upid.nr)?;
            }
        }
        out.write_str("\n")
    }
}

/// pidfd_open(2): the process called `nr`, which must be a leader.
pub fn open_number(nr: u32, nonblocking: bool) -> Result<Ref<File>> {
    let ns = task::current().active_pid_ns();
    let pid = Pid::find(nr, &ns).ok_or(Errno::ESRCH)?;
    if list::lock().members(&pid, PidType::Tgid).next().is_none() {
        return Err(Errno::EINVAL);
    }
    open(pid, nonblocking)
}
