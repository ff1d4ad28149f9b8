//! What cleans up when this process cannot, because it was killed by SIGKILL.
//!
//! A child forked before any thread exists waits on a pipe. If the pipe closes without a farewell,
//! it removes the VM's folder and gives the terminal its settings back. (QEMU needs no help: the
//! host's kernel kills it with us.) The child holds nothing else open.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use rustix::process::{Pid, WaitOptions};
use rustix::termios::{OptionalActions, Termios, tcsetattr};

/// A waiting child.
#[derive(Debug)]
pub struct Guard {
    pipe: std::io::PipeWriter,
    pid: Pid,
}

impl Guard {
    /// Forks the child. It will remove `folder` and set `terminal` on stdin.
    ///
    /// Must be called while this process has one thread.
    pub fn start(folder: PathBuf, terminal: Option<Termios>) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        // SAFETY: this process has one thread, so the child may use whatever the parent could.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                keep_only(&[reader.as_fd(), io::stdin().as_fd()]);
                watch(reader, folder, terminal);
                // SAFETY: ends the child here; nothing that the parent must still do runs twice.
                unsafe { libc::_exit(0) }
            }
            child => {
                let pid = Pid::from_raw(child).expect("fork gives the parent a positive number");
                Ok(Self { pipe: writer, pid })
            }
        }
    }

    /// Sends the child away: everything is cleaned up.
    pub fn dismiss(mut self) {
        // An error means that it is gone already.
        let _ = self.pipe.write_all(b"q");
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The child.
fn watch(mut pipe: io::PipeReader, folder: PathBuf, terminal: Option<Termios>) {
    // A name for whoever wonders about a second process, and no terminal's signals: those are for the
    // parent. Neither is worth giving up for.
    let _ = rustix::thread::set_name(c"belljar-guard");
    let _ = rustix::process::setsid();
    let mut farewell = [0];
    let orderly = loop {
        match pipe.read(&mut farewell) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(n) => break n > 0,
            Err(_) => break false,
        }
    };
    if orderly {
        return;
    }
    if let Some(settings) = terminal {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &settings);
    }
    super::folder::remove(&folder);
}

/// Closes every descriptor but the given ones.
fn keep_only(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
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
