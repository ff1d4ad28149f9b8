//! The QMP connection: commands from any thread, one reader thread that sorts answers from events.
//!
//! The messages' types come from QEMU's own schema (crate `qapi`); this file only joins the two
//! directions. QMP answers in order, so one command is under way at a time.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use qapi::qmp::{Event as QapiEvent, QapiCapabilities, QmpMessageAny, ShutdownCause};
use qapi::{Any, Command, Execute};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::de::DeserializeOwned;
use tracing::debug;

use super::Error;
use crate::sandbox::{self, Role};

/// What the reader reports.
pub(super) enum Event {
    /// The guest ended itself.
    Shutdown { reset: bool },
    /// The guest opened or closed a port of its virtio console.
    Port { id: String, open: bool },
    /// QEMU closed the connection: it ends or has ended.
    Closed,
}

/// A connection after its handshake.
pub(super) struct Qmp {
    /// QEMU's version, major and minor.
    pub version: (i64, i64),
    line: Mutex<Line>,
}

struct Line {
    stream: UnixStream,
    answers: Receiver<Result<Any, qapi::Error>>,
}

/// Does the handshake on `stream` and starts the reader, which calls `on_event`.
pub(super) fn connect(
    stream: UnixStream,
    on_event: impl Fn(Event) + Send + 'static,
) -> io::Result<Qmp> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut text = Vec::new();
    if reader.read_until(b'\n', &mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let greeting: QapiCapabilities = serde_json::from_slice(&text)?;
    let version = greeting.QMP.version.qemu;

    let (sender, answers) = channel();
    thread::Builder::new().name("qmp".into()).spawn(move || {
        sandbox::enter(Role::Monitor);
        read(reader, sender, on_event);
    })?;
    let qmp =
        Qmp { version: (version.major, version.minor), line: Mutex::new(Line { stream, answers }) };
    qmp.execute(qapi::qmp::qmp_capabilities { enable: None }).map_err(io::Error::other)?;
    Ok(qmp)
}

impl Qmp {
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
        debug!(command = C::NAME, "asks QEMU");
        let refused = |cause: String| Error::Refused { command: C::NAME, cause };
        let mut line = self.line.lock().unwrap();
        let mut text =
            serde_json::to_vec(&Execute::<C>::from(command)).map_err(|e| refused(e.to_string()))?;
        text.push(b'\n');
        let sent = match fd {
            // The descriptor travels with the first byte (unix(7), SCM_RIGHTS).
            Some(fd) => send_fd(&line.stream, text[0], fd),
            None => line.stream.write_all(&text[..1]),
        };
        sent.and_then(|()| line.stream.write_all(&text[1..]))
            .map_err(|e| refused(e.to_string()))?;
        let answer = line.answers.recv().map_err(|_| refused("it is gone".to_owned()))?;
        let value = answer.map_err(|e| refused(e.desc))?;
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
fn read(
    mut reader: BufReader<UnixStream>,
    answers: Sender<Result<Any, qapi::Error>>,
    on_event: impl Fn(Event),
) {
    let mut text = Vec::new();
    while reader.read_until(b'\n', &mut text).is_ok_and(|n| n > 0) {
        match serde_json::from_slice(&text) {
            Ok(QmpMessageAny::Response(answer)) => {
                // Nobody waits any more if the machine is being dropped.
                let _ = answers.send(answer.result());
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
