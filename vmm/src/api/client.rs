//! The client's side of the API: one connection a request.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use super::{
    CheckpointTo, DumpTo, Failure, GcoreTo, ResumeFrom, ResumedProcess, SnapshotRequest, Status,
};
use crate::introspect;
use crate::render::Envelope;
use crate::runtime::{self, Info, Outcome, Taken, folder};

/// Answers larger than this are not believed.
const MAX_ANSWER: u64 = 256 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a VM may take to say how it does.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);
/// How long a VM may take to agree to be killed.
const KILL_PATIENCE: Duration = Duration::from_secs(3);

/// Why a VM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was not found.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// It does not answer.
    #[error("VM {vm} does not answer: {cause}: if that lasts, end it with belljar kill {vm}")]
    NoAnswer {
        /// Its name.
        vm: String,
        /// What happened.
        cause: String,
    },
    /// It refused.
    #[error("VM {vm}: {reason}")]
    Refused {
        /// Its name.
        vm: String,
        /// Its reason.
        reason: String,
    },
}

/// A running VM.
pub struct Client {
    name: String,
    /// Keeps the way to the socket valid, and is unlocked when the VM ends.
    dir: File,
    socket: std::path::PathBuf,
}

impl Client {
    /// Finds the VM `name`.
    pub fn open(name: &str) -> Result<Self, Error> {
        let (dir, path) = folder::open(name)?;
        Ok(Self { name: name.to_owned(), dir, socket: path.join(folder::SOCKET) })
    }

    /// What the VM is and how it does, if it says so soon.
    pub fn status(&self) -> Result<Status, Error> {
        self.parse(&self.request("GET", "/v1/vm", b"", Some(STATUS_PATIENCE))?)
    }

    /// What the VM has written down of itself; to be had even if it does not answer.
    pub fn info(&self) -> Option<Info> {
        folder::info(&self.socket)
    }

    /// Stops its CPUs.
    pub fn pause(&self) -> Result<(), Error> {
        self.request("POST", "/v1/pause", b"", Some(PATIENCE)).map(drop)
    }

    /// Lets its CPUs run on.
    pub fn unpause(&self) -> Result<(), Error> {
        self.request("POST", "/v1/unpause", b"", Some(PATIENCE)).map(drop)
    }

    /// Ends it, and waits until nothing of it is left. One that does not answer (it may be stopped) is
    /// killed without asking.
    pub fn kill(&self) -> Result<(), Error> {
        if let Err(error) = self.request("POST", "/v1/kill", b"", Some(KILL_PATIENCE)) {
            let pid = self.info().and_then(|info| Pid::from_raw(i32::try_from(info.pid).ok()?));
            let pid = pid.ok_or(error)?;
            // An error means that it has ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        self.wait_gone()
    }

    /// Waits until it ends, and says how it did.
    pub fn wait(&self) -> Result<Outcome, Error> {
        let outcome = self.parse(&self.request("GET", "/v1/exit", b"", None)?)?;
        self.wait_gone()?;
        Ok(outcome)
    }

    /// Writes its memory and registers as an ELF core; its process does, so the path counts from our
    /// current folder here only. That takes as long as it takes.
    pub fn dump(&self, to: &Path) -> Result<(), Error> {
        let path = std::path::absolute(to).map_err(|e| self.no_answer(&e))?;
        let body = serde_json::to_vec(&DumpTo { path }).map_err(|e| self.no_answer(&e))?;
        self.request("POST", "/v1/dump", &body, None).map(drop)
    }

    /// Writes one of its processes as an ELF core; as [`Client::dump`].
    pub fn gcore(&self, pid: u32, to: &Path) -> Result<(), Error> {
        let path = std::path::absolute(to).map_err(|e| self.no_answer(&e))?;
        let body = serde_json::to_vec(&GcoreTo { pid, path }).map_err(|e| self.no_answer(&e))?;
        self.request("POST", "/v1/gcore", &body, None).map(drop)
    }

    /// Saves it as the request says.
    pub fn snapshot(&self, request: &SnapshotRequest) -> Result<Taken, Error> {
        let body = serde_json::to_vec(request).map_err(|e| self.no_answer(&e))?;
        // As long as writing takes.
        let taken = self.parse(&self.request("POST", "/v1/snapshot", &body, None)?)?;
        if request.stop {
            self.wait_gone()?;
        }
        Ok(taken)
    }

    /// Writes one of its processes, and with `tree` its descendants, into a folder; as [`Client::dump`]. With `kill`
    /// they end.
    pub fn checkpoint(&self, pid: u32, tree: bool, kill: bool, to: &Path) -> Result<(), Error> {
        let dir = std::path::absolute(to).map_err(|e| self.no_answer(&e))?;
        let body = CheckpointTo { pid, tree, kill, dir };
        let body = serde_json::to_vec(&body).map_err(|e| self.no_answer(&e))?;
        self.request("POST", "/v1/checkpoint", &body, None).map(drop)
    }

    /// Lets the processes of a checkpoint go on in it; the number of the first.
    pub fn resume(&self, from: &Path) -> Result<u32, Error> {
        let dir = std::path::absolute(from).map_err(|e| self.no_answer(&e))?;
        let body = serde_json::to_vec(&ResumeFrom { dir }).map_err(|e| self.no_answer(&e))?;
        let answer = self.request("POST", "/v1/resume", &body, None)?;
        Ok(self.parse::<ResumedProcess>(&answer)?.pid)
    }

    /// The last of what the guest printed.
    pub fn console(&self) -> Result<Vec<u8>, Error> {
        self.request("GET", "/v1/console", b"", Some(PATIENCE))
    }

    /// Looks at the guest.
    pub fn view(&self, request: &introspect::Request) -> Result<Envelope, Error> {
        let path = view_path(request).map_err(|cause| self.no_answer(&cause))?;
        self.get(&path)
    }

    fn wait_gone(&self) -> Result<(), Error> {
        folder::wait_gone(&self.dir).map_err(|e| self.no_answer(&e))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.parse(&self.request("GET", path, b"", Some(PATIENCE))?)
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|e| self.no_answer(&e))
    }

    /// Sends one request and returns the body of a good answer.
    fn request(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        patience: Option<Duration>,
    ) -> Result<Vec<u8>, Error> {
        let answer = self.exchange(method, path, body, patience).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock => self.no_answer(&"it is stopped or too busy"),
            _ => self.no_answer(&e),
        })?;
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let start = match response.parse(&answer) {
            Ok(httparse::Status::Complete(start)) => start,
            Ok(httparse::Status::Partial) => return Err(self.no_answer(&"its answer is cut short")),
            Err(e) => return Err(self.no_answer(&e)),
        };
        let (code, body) = (response.code.unwrap_or(0), &answer[start..]);
        if (200..300).contains(&code) {
            return Ok(body.to_vec());
        }
        let reason = match serde_json::from_slice::<Failure>(body) {
            Ok(failure) => failure.error,
            Err(_) => format!("it answered with status {code}"),
        };
        Err(Error::Refused { vm: self.name.clone(), reason })
    }

    /// One request without keep-alive: the answer ends with the connection. HTTP/1.0 keeps the server
    /// from sending it in chunks.
    fn exchange(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        patience: Option<Duration>,
    ) -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(patience)?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn no_answer(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::NoAnswer { vm: self.name.clone(), cause: cause.to_string() }
    }
}

/// The path and query of a view: its fields are the query, as the server reads them back.
fn view_path(request: &introspect::Request) -> Result<String, serde_json::Error> {
    let value = serde_json::to_value(request)?;
    let fields = value.as_object().into_iter().flatten();
    let mut name = "";
    let mut query = Vec::new();
    for (key, value) in fields {
        match (key.as_str(), value.as_str()) {
            ("view", Some(view)) => name = view,
            (key, Some(text)) => query.push(format!("{key}={text}")),
            (key, None) => query.push(format!("{key}={value}")),
        }
    }
    Ok(match query.is_empty() {
        true => format!("/v1/view/{name}"),
        false => format!("/v1/view/{name}?{}", query.join("&")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn view_path_carries_the_arguments() {
        let request = introspect::Request::Vtop { pid: 7, addr: 16 };
        assert_eq!(view_path(&request).unwrap(), "/v1/view/vtop?pid=7&addr=16");
        assert_eq!(view_path(&introspect::Request::Ps).unwrap(), "/v1/view/ps");
    }
}
