//! What cleans up when this process cannot, because it was killed by SIGKILL.
//!
//! A child that is forked before anything is made, and before any thread exists, waits on a pipe. If the pipe closes
//! without a farewell, it removes what a dead process has left in the folder of running VMs, as any other command
//! would, and gives the terminal its settings back if it was told that they change. (QEMU needs no help: the host's
//! kernel kills it with us.) Each message is a byte, so none arrives in part. The child holds nothing else open.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, getpid, getppid};
use rustix::termios::{OptionalActions, Termios, tcsetattr};

use super::{Error, folder, heap, terminal};

/// From here on the terminal has to get its settings back.
const TERMINAL_CHANGES: u8 = b't';
/// Everything is cleaned up.
const FAREWELL: u8 = b'q';

/// A waiting child. When this is dropped, it is sent away: everything is cleaned up.
#[derive(Debug)]
pub struct Guard {
    pipe: io::PipeWriter,
    pid: Pid,
}

impl Guard {
    /// Forks the child, for a VM whose console may be this process's terminal, if it has one.
    ///
    /// Must be called while this process has one thread.
    pub fn attached() -> Result<Self, Error> {
        Self::start(terminal::settings()).map_err(Error::Host)
    }

    /// Forks the child, for a VM that has no terminal.
    ///
    /// Must be called while this process has one thread.
    pub fn detached() -> Result<Self, Error> {
        Self::start(None).map_err(Error::Host)
    }

    fn start(terminal: Option<Termios>) -> io::Result<Self> {
        heap::set_up();
        let (reader, writer) = io::pipe()?;
        let parent = getpid();
        // SAFETY: this process has one thread, so the child may use whatever the parent could.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let stdin = terminal.as_ref().map(|_| rustix::stdio::stdin());
                keep_only([reader.as_fd()].into_iter().chain(stdin));
                watch(reader, parent, terminal.as_ref());
                // SAFETY: ends the child here; nothing that the parent must still do runs twice.
                unsafe { libc::_exit(0) }
            }
            child => {
                let pid = Pid::from_raw(child).expect("fork gives the parent a positive number");
                Ok(Self { pipe: writer, pid })
            }
        }
    }

    /// Says that the terminal is about to get other settings than it had when the child was forked.
    pub(super) fn terminal_changes(&self) {
        self.say(TERMINAL_CHANGES);
    }

    fn say(&self, message: u8) {
        // An error means that the child is gone already.
        let _ = (&self.pipe).write_all(&[message]);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.say(FAREWELL);
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The child.
fn watch(mut pipe: io::PipeReader, parent: Pid, terminal: Option<&Termios>) {
    // A name for whoever wonders about a second process, and no terminal's signals: those are for the
    // parent. Neither is worth giving up for.
    let _ = rustix::thread::set_name(c"belljar-guard");
    let _ = rustix::process::setsid();
    let mut changed = None;
    let mut message = [0];
    loop {
        match pipe.read(&mut message) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(_) if message == [TERMINAL_CHANGES] => changed = terminal,
            Ok(_) => return,
        }
    }
    if let Some(settings) = changed {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, settings);
    }
    until_gone(parent);
    // What cannot be removed now is removed by the next command.
    let _ = folder::running();
}

/// Waits until `parent`, which is about to end, holds no lock any more. It closes one file after the other, and then
/// this process gets another parent.
fn until_gone(parent: Pid) {
    const MOMENT: Duration = Duration::from_millis(1);
    while getppid() == Some(parent) {
        std::thread::sleep(MOMENT);
    }
}

/// Closes every descriptor but the given ones.
fn keep_only<'fd>(keep: impl Iterator<Item = BorrowedFd<'fd>>) {
    let mut keep: Vec<u32> = keep.map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut from = 0;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > from {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            // By number: not every C library has the function.
            // SAFETY: the child uses none of the descriptors that are closed here, and whoever owns
            // them in this copy of the process is never run again.
            unsafe {
                libc::syscall(libc::SYS_close_range, from, last, 0);
            }
        }
        from = fd.saturating_add(1);
    }
}
