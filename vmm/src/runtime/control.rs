//! The VMM's end of the control port: what it asks of the guest's kernel, and what that says.
//!
//! One thread reads. Whoever asks for something sends it and waits until the thread has noted the answer.
//! A guest that sends damaged frames is not listened to any more.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use belljar_abi::control::{Frame, MAX_FRAME, Message, decode};
use rustix::net::SendFlags;
use tracing::{debug, warn};

use crate::thread;

/// The connection.
pub(super) struct Control {
    writer: Mutex<Writer>,
    state: Mutex<State>,
    changed: Condvar,
}

struct Writer {
    stream: UnixStream,
    sequence: u32,
}

/// What the guest has said.
#[derive(Default)]
struct State {
    /// It listens: it said so at least once.
    listens: bool,
    /// The last request that it refused, and why.
    refused: Option<(u32, String)>,
    /// The last request that it froze for and went on from.
    resumed: Option<u32>,
    /// The last answer to another request.
    reply: Option<(u32, Reply)>,
    /// Nothing comes any more.
    closed: bool,
}

/// What the kernel answers to requests about processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// They are at rest; CLOCK_MONOTONIC in nanoseconds.
    Held(u64),
    /// There is room for the next bytes of a core at this physical address.
    Window(u64, u64),
    /// They go on; the number of the first.
    Resumed(u32),
    /// No; why.
    Refused(String),
}

/// What is done when the kernel begins to listen, after boot or after a thaw.
pub(super) type OnHello = Box<dyn Fn(&Control) + Send>;
/// What is done when a program wants a snapshot: the number to answer with, and the name.
pub(super) type OnWanted = Box<dyn Fn(&Arc<Control>, u32, &str) + Send>;

/// What the reading thread does at its start, and when the guest says something that nobody waits for.
pub(super) struct Handlers {
    /// The thread confines itself, and the threads that it will start.
    pub confine: Box<dyn FnOnce() + Send>,
    /// The kernel listens, after boot or after a thaw.
    pub hello: OnHello,
    /// A program wants a snapshot of this name; the sequence number is for the answer.
    pub wanted: OnWanted,
}

/// The handlers that are called again and again.
struct Answers {
    hello: OnHello,
    wanted: OnWanted,
}

impl Control {
    /// Over `stream`, to which nobody listens yet.
    pub(super) fn new(stream: UnixStream) -> Arc<Self> {
        Arc::new(Self {
            writer: Mutex::new(Writer { stream, sequence: 0 }),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Starts to listen.
    pub(super) fn listen(self: &Arc<Self>, handlers: Handlers) -> io::Result<()> {
        let reader = self.writer.lock().unwrap().stream.try_clone()?;
        let this = Arc::clone(self);
        thread::named("control").spawn(move || {
            let Handlers { confine, hello, wanted } = handlers;
            confine();
            this.read(reader, &Answers { hello, wanted });
            this.note(|state| state.closed = true);
        })?;
        Ok(())
    }

    /// Sends a message with a number of its own, which is returned.
    pub(super) fn send(&self, message: &Message<'_>) -> io::Result<u32> {
        let mut writer = self.writer.lock().unwrap();
        // Numbers of the guest's requests have the highest bit clear.
        writer.sequence = (writer.sequence + 1) | 1 << 31;
        let sequence = writer.sequence;
        writer.send(sequence, message)?;
        Ok(sequence)
    }

    /// Sends a message that the guest may miss: one that does not listen, or does not read what was sent
    /// before, is not waited for.
    pub(super) fn offer(&self, message: &Message<'_>) -> io::Result<()> {
        if !self.state.lock().unwrap().listens {
            return Ok(());
        }
        let mut writer = self.writer.lock().unwrap();
        writer.sequence = (writer.sequence + 1) | 1 << 31;
        let mut frame = [0; MAX_FRAME];
        let len = message.encode(writer.sequence, &mut frame);
        let frame = &frame[..len];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(&writer.stream, frame, flags) {
            Err(rustix::io::Errno::AGAIN) => Ok(()),
            // A frame is never left half sent.
            Ok(sent) => writer.stream.write_all(&frame[sent..]),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a message that answers the guest's request `sequence`.
    pub(super) fn answer(&self, sequence: u32, message: &Message<'_>) -> io::Result<()> {
        self.writer.lock().unwrap().send(sequence, message)
    }

    /// Waits until the guest listens; false if it does not within `patience`.
    pub(super) fn wait_until_it_listens(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock().unwrap();
        while !state.listens && !state.closed {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
        state.listens
    }

    /// Why the guest refused the request `sequence`, if it did.
    pub(super) fn refusal(&self, sequence: u32) -> Option<String> {
        let state = self.state.lock().unwrap();
        state.refused.as_ref().filter(|(of, _)| *of == sequence).map(|(_, why)| why.clone())
    }

    /// Waits until the guest has done with the request `sequence` to freeze, one way or the other; false if
    /// it has not within `patience`.
    pub(super) fn wait_until_done_with(&self, sequence: u32, patience: Duration) -> bool {
        let done = |state: &State| {
            state.resumed == Some(sequence)
                || state.refused.as_ref().is_some_and(|(refused, _)| *refused == sequence)
        };
        let state = self.state.lock().unwrap();
        let waiting = |state: &mut State| !done(state) && !state.closed;
        let (state, _) = self.changed.wait_timeout_while(state, patience, waiting).unwrap();
        done(&state)
    }

    /// Sends a request and waits for its answer; `None` if there is none within `patience`, or none will come.
    pub(super) fn ask(&self, message: &Message<'_>, patience: Duration) -> Option<Reply> {
        let sequence = self.send(message).ok()?;
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some((_, reply)) = state.reply.take_if(|(of, _)| *of == sequence) {
                return Some(reply);
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|_| !state.closed)?;
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    fn note(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn read(self: &Arc<Self>, mut stream: UnixStream, handlers: &Answers) {
        let mut bytes = Vec::with_capacity(2 * MAX_FRAME);
        let mut chunk = [0; MAX_FRAME];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            }
            let mut start = 0;
            loop {
                match decode(&bytes[start..]) {
                    Ok(Some((frame, len))) => {
                        self.received(&frame, handlers);
                        start += len;
                    }
                    Ok(None) => break,
                    // Whoever waits for it is told that it does not answer.
                    Err(_) => return,
                }
            }
            bytes.drain(..start);
        }
    }

    fn reply(&self, sequence: u32, reply: Reply) {
        self.note(|state| state.reply = Some((sequence, reply)));
    }

    fn received(self: &Arc<Self>, frame: &Frame<'_>, handlers: &Answers) {
        match frame.message {
            Some(Message::Hello(_)) => {
                debug!("the guest's kernel listens on the control port");
                self.note(|state| state.listens = true);
                (handlers.hello)(self);
            }
            Some(Message::FreezeRefused(why)) => {
                let why = crate::render::escape(why);
                warn!(why, "the guest's kernel does not freeze");
                self.note(|state| state.refused = Some((frame.sequence, why)));
            }
            Some(Message::Resumed { .. }) => {
                self.note(|state| state.resumed = Some(frame.sequence));
            }
            Some(Message::SnapshotWanted(name)) => (handlers.wanted)(self, frame.sequence, name),
            Some(Message::Held(now)) => self.reply(frame.sequence, Reply::Held(now)),
            Some(Message::CoreWindow { phys, len }) => {
                self.reply(frame.sequence, Reply::Window(phys, len));
            }
            Some(Message::ResumedProcess(pid)) => self.reply(frame.sequence, Reply::Resumed(pid)),
            Some(Message::HoldRefused(why) | Message::ResumeRefused(why)) => {
                let why = crate::render::escape(why);
                self.reply(frame.sequence, Reply::Refused(why));
            }
            // Answers to pings only show life.
            Some(_) | None => {}
        }
    }
}

impl Writer {
    fn send(&mut self, sequence: u32, message: &Message<'_>) -> io::Result<()> {
        let mut frame = [0; MAX_FRAME];
        let len = message.encode(sequence, &mut frame);
        self.stream.write_all(&frame[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn send(stream: &mut UnixStream, sequence: u32, message: Message<'_>) {
        let mut frame = [0; MAX_FRAME];
        let len = message.encode(sequence, &mut frame);
        stream.write_all(&frame[..len]).unwrap();
    }

    fn pair() -> (UnixStream, Arc<Control>, std::sync::mpsc::Receiver<String>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, said) = channel();
        let hello = sender.clone();
        let handlers = Handlers {
            confine: Box::new(|| ()),
            hello: Box::new(move |_| hello.send("hello".into()).unwrap()),
            wanted: Box::new(move |_, sequence, name| {
                sender.send(format!("{sequence} {name}")).unwrap();
            }),
        };
        let control = Control::new(ours);
        control.listen(handlers).unwrap();
        (theirs, control, said)
    }

    #[test]
    fn what_the_guest_says_reaches_whoever_waits() {
        let (mut guest, control, said) = pair();
        send(&mut guest, 1, Message::Hello(1));
        assert!(control.wait_until_it_listens(PATIENCE));
        send(&mut guest, 2, Message::SnapshotWanted("warm"));
        assert_eq!(said.recv_timeout(PATIENCE).unwrap(), "hello");
        assert_eq!(said.recv_timeout(PATIENCE).unwrap(), "2 warm");
        let sequence = control.send(&Message::Freeze).unwrap();
        let mut frame = [0; MAX_FRAME];
        let len = guest.read(&mut frame).unwrap();
        let (got, _) = decode(&frame[..len]).unwrap().unwrap();
        assert_eq!(got, Frame { sequence, message: Some(Message::Freeze) });
        send(&mut guest, sequence, Message::FreezeRefused("busy\x1b"));
        send(&mut guest, 3, Message::SnapshotWanted("later"));
        assert_eq!(said.recv_timeout(PATIENCE).unwrap(), "3 later");
        assert_eq!(control.refusal(sequence).unwrap(), crate::render::escape("busy\x1b"));
        assert_eq!(control.refusal(sequence - 1), None);
    }

    #[test]
    fn a_guest_that_sends_noise_is_not_listened_to() {
        let (mut guest, control, _said) = pair();
        guest.write_all(b"not a frame at all").unwrap();
        assert!(!control.wait_until_it_listens(PATIENCE));
        drop(guest);
        assert!(control.send(&Message::Ping).is_err());
    }
}
