//! The QMP connection: commands from any thread, one reader thread that sorts answers from events.
//!
//! The messages' types come from QEMU's own schema (crate `qapi`); this file only joins the two
//! directions. QMP answers in order, so one command is under way at a time; only the handshake is sent while
//! QEMU still starts: QEMU takes it as soon as its machine stands.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};

use qapi::qmp::{Event as QapiEvent, QapiCapabilities, QmpMessageAny, ShutdownCause};
use qapi::{Any, Command, Execute};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::de::DeserializeOwned;
use tracing::debug;

use super::Error;
use crate::sandbox::{self, Role};
use crate::thread;

/// What the reader reports.
pub(super) enum Event {
    /// The guest ended itself.
    Shutdown { reset: bool },
    /// The guest opened or closed a port of its virtio console.
    Port { id: String, open: bool },
    /// QEMU closed the connection: it ends or has ended.
    Closed,
}

/// A connection.
pub(super) struct Qmp {
    line: Mutex<Line>,
    /// QEMU's version, major and minor, once the handshake is done. Not under the lock: who asks for it does not wait
    /// for another's answer, which a QEMU that is stopped does not give.
    version: OnceLock<(i64, i64)>,
}

struct Line {
    stream: UnixStream,
    answers: Receiver<Answer>,
}

/// What QEMU says on the line beside events.
enum Answer {
    /// First of all, who it is.
    Greeting((i64, i64)),
    /// Then, to one command after the other, what became of it.
    Result(Result<Any, qapi::Error>),
}

/// Begins the handshake on `stream`, and starts the reader, which calls `on_event`. The child may still be
/// starting.
pub(super) fn connect(
    stream: UnixStream,
    on_event: impl Fn(Event) + Send + 'static,
) -> io::Result<Qmp> {
    let reader = BufReader::new(stream.try_clone()?);
    let (sender, answers) = channel();
    thread::named("qmp").spawn(move || {
        sandbox::enter(Role::Monitor);
        read(reader, sender, on_event);
    })?;
    let mut line = Line { stream, answers };
    // A child that has ended already is found out when its answer is waited for.
    let _ = line.send(qapi::qmp::qmp_capabilities { enable: None }, None);
    Ok(Qmp { line: Mutex::new(line), version: OnceLock::new() })
}

impl Line {
    fn send<C: Command>(&mut self, command: C, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        debug!(command = C::NAME, "asks QEMU");
        let mut text = serde_json::to_vec(&Execute::<C>::from(command))?;
        text.push(b'\n');
        match fd {
            // The descriptor travels with the first byte (unix(7), SCM_RIGHTS).
            Some(fd) => send_fd(&self.stream, text[0], fd)?,
            None => self.stream.write_all(&text[..1])?,
        }
        self.stream.write_all(&text[1..])
    }

    /// The answer to the command whose turn it is.
    fn answer(&self) -> Result<Any, String> {
        match self.answers.recv() {
            Ok(Answer::Result(result)) => result.map_err(|e| e.desc),
            Ok(Answer::Greeting(_)) => Err("it greeted twice".to_owned()),
            Err(_) => Err("it is gone".to_owned()),
        }
    }

    /// Waits for the end of the handshake, if `known` does not hold what came of it.
    fn version(&self, known: &OnceLock<(i64, i64)>) -> Result<(i64, i64), String> {
        if let Some(version) = known.get() {
            return Ok(*version);
        }
        let version = match self.answers.recv() {
            Ok(Answer::Greeting(version)) => version,
            Ok(Answer::Result(_)) => return Err("it did not greet".to_owned()),
            Err(_) => return Err("it closed its monitor".to_owned()),
        };
        self.answer()?;
        Ok(*known.get_or_init(|| version))
    }
}

impl Qmp {
    /// QEMU's version, major and minor. Waits until its machine stands; fails if that never happened.
    pub(super) fn version(&self) -> Result<(i64, i64), String> {
        match self.version.get() {
            Some(version) => Ok(*version),
            None => self.line.lock().unwrap().version(&self.version),
        }
    }

    /// Sends `command` and waits for its answer.
    pub(super) fn execute<C: Command>(&self, command: C) -> Result<C::Ok, Error>
    where
        C::Ok: DeserializeOwned,
    {
        self.execute_with(command, None)
    }

    /// The same, with a descriptor for QEMU (`getfd`) beside the command.
    pub(super) fn execute_with<C: Command>(
        &self,
        command: C,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<C::Ok, Error>
    where
        C::Ok: DeserializeOwned,
    {
        let refused = |cause: String| Error::Refused { command: C::NAME, cause };
        let mut line = self.line.lock().unwrap();
        let sent = line.send(command, fd);
        line.version(&self.version).map_err(refused)?;
        sent.map_err(|e| refused(e.to_string()))?;
        let value = line.answer().map_err(refused)?;
        serde_json::from_value(value).map_err(|e| refused(e.to_string()))
    }
}

fn send_fd(stream: &UnixStream, byte: u8, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(stream, &[IoSlice::new(&[byte])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The reader thread: until QEMU closes the connection.
fn read(mut reader: BufReader<UnixStream>, answers: Sender<Answer>, on_event: impl Fn(Event)) {
    let mut text = Vec::new();
    if reader.read_until(b'\n', &mut text).is_ok()
        && let Ok(greeting) = serde_json::from_slice::<QapiCapabilities>(&text)
    {
        let version = greeting.QMP.version.qemu;
        // See below.
        let _ = answers.send(Answer::Greeting((version.major, version.minor)));
    }
    text.clear();
    while reader.read_until(b'\n', &mut text).is_ok_and(|n| n > 0) {
        match serde_json::from_slice(&text) {
            Ok(QmpMessageAny::Response(answer)) => {
                // Nobody waits any more if the machine is being dropped.
                let _ = answers.send(Answer::Result(answer.result()));
            }
            Ok(QmpMessageAny::Event(QapiEvent::SHUTDOWN { data, .. })) => {
                on_event(Event::Shutdown { reset: data.reason == ShutdownCause::guest_reset });
            }
            Ok(QmpMessageAny::Event(QapiEvent::VSERPORT_CHANGE { data, .. })) => {
                on_event(Event::Port { id: data.id, open: data.open });
            }
            // Other events, and those of a QEMU newer than the schema, say nothing we need.
            Ok(QmpMessageAny::Event(_)) | Err(_) => {}
        }
        text.clear();
    }
    // First the waiting command fails, then the end is reported.
    drop(answers);
    on_event(Event::Closed);
}
