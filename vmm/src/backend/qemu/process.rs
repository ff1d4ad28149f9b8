//! The child process: it inherits exactly what it is given, dies with us, and is always reaped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use command_fds::CommandFdExt;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::Error;
use super::command::{Command, Files};
use crate::backend::ram::memory_file;

/// A started child; clones share it.
#[derive(Clone)]
pub(super) struct Child(Arc<Inner>);

struct Inner {
    pid: u32,
    state: Mutex<State>,
    /// What the child writes to stderr: a memory file, so nobody has to read along.
    stderr: File,
}

enum State {
    Running(std::process::Child),
    Ended(ExitStatus),
    /// It could not be waited for.
    Lost,
}

/// Starts `command`. The calling thread must live as long as the child is wanted: the host's
/// kernel kills the child when that thread ends.
pub(super) fn spawn(command: &Command, files: Files) -> Result<Child, Error> {
    let program = command.program.display().to_string();
    let stderr = memory_file("belljar-qemu-stderr")?;
    let parent = rustix::process::getpid();
    let mut child = std::process::Command::new(&command.program);
    child
        .args(&command.args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr.try_clone()?)
        // Signals that the terminal sends to our process group are ours alone to handle.
        .process_group(0)
        .fd_mappings(files.mappings())
        .expect("the child's descriptor numbers are distinct");
    // SAFETY: between fork and exec the closure only makes system calls, allocates nothing and
    // takes no lock.
    unsafe {
        child.pre_exec(move || die_with(parent));
    }
    let child = child.spawn().map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound(program.clone()),
        _ => Error::Spawn { program: program.clone(), cause },
    })?;
    let pid = child.id();
    Ok(Child(Arc::new(Inner { pid, state: Mutex::new(State::Running(child)), stderr })))
}

/// Runs in the child: asks for SIGKILL at the parent's death, and catches a death before that.
fn die_with(parent: Pid) -> std::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match getppid() == Some(parent) {
        true => Ok(()),
        false => Err(std::io::ErrorKind::BrokenPipe.into()),
    }
}

impl Child {
    pub(super) fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Kills and reaps the child, once.
    pub(super) fn kill(&self) {
        let mut state = self.0.state.lock().unwrap();
        if let State::Running(child) = &mut *state {
            // An error means that it has ended already; waiting tells.
            let _ = child.kill();
            *state = child.wait().map_or(State::Lost, State::Ended);
        }
    }

    /// Waits for the child, which has closed its monitor and thus is about to end, and says how it
    /// ended and what it complained about last: "was killed by signal 9".
    pub(super) fn how_it_ended(&self) -> String {
        const PATIENCE: Duration = Duration::from_secs(2);
        let closed = Instant::now();
        let mut state = self.0.state.lock().unwrap();
        while let State::Running(child) = &mut *state {
            match child.try_wait() {
                Ok(Some(status)) => *state = State::Ended(status),
                Err(_) => *state = State::Lost,
                Ok(None) if closed.elapsed() > PATIENCE => {
                    let _ = child.kill();
                    *state = child.wait().map_or(State::Lost, State::Ended);
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        let how = match &*state {
            State::Ended(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("was killed by signal {signal}"),
                (None, code) => format!("ended with status {}", code.unwrap_or(-1)),
            },
            State::Running(_) | State::Lost => "is gone".to_owned(),
        };
        match self.last_words() {
            Some(words) => format!("{how}: {words}"),
            None => how,
        }
    }

    /// The last line that the child wrote to stderr.
    fn last_words(&self) -> Option<String> {
        const TAIL: u64 = 4096;
        let mut file = &self.0.stderr;
        let end = file.seek(SeekFrom::End(0)).ok()?;
        file.seek(SeekFrom::Start(end.saturating_sub(TAIL))).ok()?;
        let mut text = Vec::new();
        file.take(TAIL).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
        Some(crate::render::escape(line.trim()))
    }
}
