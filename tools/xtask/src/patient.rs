//! Reading from what may hang: no wait is without an end.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A stream that may be silent for a limited time only: then a read fails with `TimedOut`.
pub struct Patient {
    chunks: Receiver<Vec<u8>>,
    rest: Vec<u8>,
    silence: Duration,
}

impl Patient {
    /// Reads `stream` from a thread of its own.
    pub fn new(mut stream: impl Read + Send + 'static, silence: Duration) -> Patient {
        let (sender, chunks) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 65536];
            while let Ok(length @ 1..) = stream.read(&mut chunk) {
                if sender.send(chunk[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Patient { chunks, rest: Vec::new(), silence }
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = match self.chunks.recv_timeout(self.silence) {
                Ok(chunk) => chunk,
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => {
                    let words = format!("no word for {} s", self.silence.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, words));
                }
            };
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest[..length]);
        self.rest.drain(..length);
        Ok(length)
    }
}

/// Kills the children of the process `parent`, which goes on: `/proc/PID/task/TID/children`, proc(5).
pub fn kill_children(parent: u32) -> io::Result<()> {
    for thread in std::fs::read_dir(format!("/proc/{parent}/task"))? {
        let children = std::fs::read_to_string(thread?.path().join("children"))?;
        for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        {
            // It may be gone already.
            let _ = kill_process(child, Signal::KILL);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_child_that_hangs_is_killed_and_its_parent_goes_on() {
        let mut parent = Command::new("sh")
            .args(["-c", "echo begun; sleep 1000; echo next"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stream = Patient::new(parent.stdout.take().unwrap(), Duration::from_millis(50));
        let mut said = String::new();
        // It may be killed before the sleep is there.
        while let Err(error) = stream.read_to_string(&mut said) {
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            kill_children(parent.id()).unwrap();
        }
        assert_eq!(said, "begun\nnext\n");
        assert!(parent.wait().unwrap().success());
    }
}
