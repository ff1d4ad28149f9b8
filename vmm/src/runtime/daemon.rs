//! `--detach`: the command returns when the VM runs, and a process of its own keeps it.
//!
//! The process forks first of all: a VM that KVM makes belongs to its process. The child finds out what is to be run
//! as the caller would, with the same terminal, stdin and stderr: so Ctrl-C ends both. Then it lets go of them
//! ([`Report::leave_caller`]), as a session leader without terminal, starts the VM and reports through a pipe: the VM's
//! name, or why it failed.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::process::{Pid, WaitOptions};

/// Which process this is after [`detach`].
pub enum Side {
    /// The one that the user started: what the other one reports.
    Caller(Result<String, String>),
    /// The one that keeps the VM.
    Keeper(Report),
}

/// The keeper's way to the caller.
#[derive(Debug)]
pub struct Report(io::PipeWriter);

impl Report {
    /// Lets go of the caller's session and files: what the command asks for is known, and what follows is the VM's
    /// own life.
    pub fn leave_caller(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(rustix::stdio::dup2_stderr(&null)?)
    }

    /// Says that the VM `name` runs.
    pub fn ready(self, name: &str) {
        self.send('+', name);
    }

    /// Says that it does not, and why.
    pub fn failed(self, why: &str) {
        self.send('-', why);
    }

    fn send(mut self, sign: char, text: &str) {
        // A caller that went away does not want to know.
        let _ = write!(self.0, "{sign}{text}");
    }
}

/// Forks. Must be called while this process has one thread.
pub fn detach() -> io::Result<Side> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: this process has one thread, so the child may use whatever the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            Ok(Side::Keeper(Report(writer)))
        }
        child => {
            drop(writer);
            let mut text = String::new();
            reader.read_to_string(&mut text)?;
            if let Some(name) = text.strip_prefix('+') {
                return Ok(Side::Caller(Ok(name.to_owned())));
            }
            // It ends after a failure; do not leave that to whoever inherits it.
            let child = Pid::from_raw(child).expect("fork gives the parent a positive number");
            let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
            let why = text.strip_prefix('-').unwrap_or("the VM's process died while it started");
            Ok(Side::Caller(Err(why.to_owned())))
        }
    }
}
