//! The thread `suspend`, which talks to the VMM over the control port, and snapshots that programs ask for.
//!
//! The thread alone reads and writes the port, and it is what freezes: so a conversation that a freeze
//! interrupts goes on in every machine that goes on. In a copy the other side is a new one, which has heard
//! nothing yet: it is greeted again, and asked again for what a program still waits for.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use belljar_abi::control::{self as protocol, MAX_FRAME, MAX_PAYLOAD, Message, VERSION, decode};

use super::freeze::{Role, freeze};
use super::incoming::Incoming;
use crate::drivers::tty;
use crate::drivers::virtio::control as port;
use crate::errno::{Errno, Result};
use crate::kwarn;
use crate::mm::try_arc;
use crate::process::hold;
use crate::process::kthread::{Kthread, kthread_create_on_cpu};
use crate::sched::Completion;
use crate::sync::SpinLock;
use crate::wait_channel;

/// A program waits until a snapshot was taken.
struct Request {
    /// How it shall be called.
    name: String,
    done: Completion,
    refused: SpinLock<Option<Errno>>,
}

impl Request {
    fn finish(&self, outcome: Result<()>) {
        *self.refused.lock() = outcome.err();
        self.done.complete_all();
    }
}

static REQUESTS: SpinLock<VecDeque<Arc<Request>>> = SpinLock::new(VecDeque::new());

/// Starts the thread.
pub fn start() -> Result<()> {
    kthread_create_on_cpu("suspend", 0, serve)?.wake();
    Ok(())
}

/// Asks the VMM for a snapshot called `name` and waits until it was taken. `EOPNOTSUPP` if there is no VMM
/// to ask, `EPERM` if it refuses, `EIO` if it could not be kept (the log says why), `EINVAL` for a name that
/// is too long or no text.
pub fn request_snapshot(name: &[u8]) -> Result<()> {
    let name = core::str::from_utf8(name).map_err(|_| Errno::EINVAL)?.trim();
    if name.len() > MAX_PAYLOAD {
        return Err(Errno::EINVAL);
    }
    if !port::exists() {
        return Err(Errno::EOPNOTSUPP);
    }
    let request = try_arc(Request {
        name: name.into(),
        done: Completion::new(),
        refused: SpinLock::new(None),
    })?;
    REQUESTS.lock().push_back(request.clone());
    port::readable().wake_all();
    request.done.wait_killable(wait_channel!("snapshot"))?;
    request.refused.lock().map_or(Ok(()), Err)
}

/// The thread.
fn serve(me: &Kthread) -> i32 {
    let mut talk = Conversation::default();
    let something = |talk: &Conversation| {
        let ask = talk.asked.is_none() && !REQUESTS.lock().is_empty();
        port::has_input() || port::exists() && (ask || !talk.greeted)
    };
    while !me.wait_for(port::readable(), || something(&talk)) {
        talk.greet();
        talk.ask();
        talk.listen();
    }
    0
}

/// What was said so far.
#[derive(Default)]
struct Conversation {
    greeted: bool,
    /// Bytes received that are no whole frame yet.
    input: Vec<u8>,
    /// The other side sent what is no frame: it is not listened to any more.
    deaf: bool,
    /// The request under way, with its number.
    asked: Option<(u32, Arc<Request>)>,
    /// The machine was frozen for it.
    frozen_for_it: bool,
    /// The last number of a request.
    sequence: u32,
    /// Cores on their way in.
    incoming: Incoming,
}

impl Conversation {
    fn say(&self, sequence: u32, message: &Message<'_>) {
        let mut frame = [0; MAX_FRAME];
        let len = message.encode(sequence, &mut frame);
        // Without a port there is nobody to tell.
        let _ = port::write(&frame[..len]);
    }

    fn greet(&mut self) {
        if !self.greeted && port::exists() {
            self.greeted = true;
            self.say(0, &Message::Hello(VERSION));
        }
    }

    /// Passes the next program's request on.
    fn ask(&mut self) {
        if self.asked.is_some() {
            return;
        }
        let Some(request) = REQUESTS.lock().pop_front() else { return };
        // The highest bit is set in the VMM's own numbers.
        self.sequence = (self.sequence + 1) & (u32::MAX >> 1);
        self.say(self.sequence, &Message::SnapshotWanted(&request.name));
        self.frozen_for_it = false;
        self.asked = Some((self.sequence, request));
    }

    /// Does what the other side said.
    fn listen(&mut self) {
        let mut chunk = [0; 256];
        loop {
            let n = port::try_read(&mut chunk);
            if n == 0 {
                return;
            }
            if self.deaf || self.input.try_reserve(n).is_err() {
                continue;
            }
            self.input.extend_from_slice(&chunk[..n]);
            let mut input = core::mem::take(&mut self.input);
            let mut start = 0;
            loop {
                match decode(&input[start..]) {
                    Ok(Some((frame, len))) => {
                        start += len;
                        if let Some(message) = frame.message {
                            self.obey(frame.sequence, &message);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        kwarn!("control port: {error}");
                        self.deaf = true;
                        break;
                    }
                }
            }
            input.drain(..start);
            self.input = input;
        }
    }

    fn obey(&mut self, sequence: u32, message: &Message<'_>) {
        match *message {
            Message::Ping => self.say(sequence, &Message::Pong),
            Message::WindowSize { rows, columns, .. } => {
                tty::console::set_winsize(rows, columns);
            }
            Message::Freeze => self.freeze(sequence),
            Message::SnapshotRefused(why) => {
                if let Some((_, request)) = self.asked.take_if(|(asked, _)| *asked == sequence) {
                    let (what, errno) = match self.frozen_for_it {
                        true => ("failed", Errno::EIO),
                        false => ("refused", Errno::EPERM),
                    };
                    kwarn!("snapshot {:?} {what}: {why}", request.name);
                    request.finish(Err(errno));
                }
            }
            Message::SnapshotTaken => {
                if let Some((_, request)) = self.asked.take_if(|(asked, _)| *asked == sequence) {
                    request.finish(Ok(()));
                }
            }
            Message::Hold { pid, tree } => match hold::hold(pid, tree) {
                Ok(now) => self.say(sequence, &Message::Held(now)),
                Err(why) => self.say(sequence, &Message::HoldRefused(&why)),
            },
            Message::Release { kill } => hold::release(kill),
            Message::CoreStart => {
                let window = self.incoming.start();
                self.say_window(sequence, window);
            }
            Message::CorePiece(len) => {
                let window = self.incoming.piece(len);
                self.say_window(sequence, window);
            }
            Message::Resume => match self.incoming.resume() {
                Ok(pid) => self.say(sequence, &Message::ResumedProcess(pid)),
                Err(why) => self.say(sequence, &Message::ResumeRefused(&why)),
            },
            // What only kernels say.
            _ => {}
        }
    }

    /// Where the next bytes of a core may go, or that there will be none.
    fn say_window(&mut self, sequence: u32, window: Result<(u64, u64)>) {
        match window {
            Ok((phys, len)) => self.say(sequence, &Message::CoreWindow { phys, len }),
            Err(error) => {
                self.incoming = Incoming::default();
                self.say(sequence, &Message::ResumeRefused(error.name()));
            }
        }
    }

    fn freeze(&mut self, sequence: u32) {
        let role = match freeze(sequence) {
            Ok(role) => role,
            Err(error) => {
                let mut why = String::from("its CPUs do not stop: ");
                let _ = core::fmt::write(&mut why, format_args!("{error}"));
                return self.say(sequence, &Message::FreezeRefused(&why));
            }
        };
        self.frozen_for_it |= self.asked.as_ref().is_some_and(|(asked, _)| *asked == sequence);
        // The original is told whether what was copied of it could be kept; a copy knows.
        if role != Role::Original
            && let Some((_, request)) = self.asked.take_if(|(asked, _)| *asked == sequence)
        {
            request.finish(Ok(()));
        }
        let generation = super::generation();
        crate::kinfo!("went on as {role:?}, generation {generation}");
        if role != Role::Original {
            super::thawed().wake_all();
            self.meet_another_vmm();
        }
        let (said, copy) = match role {
            Role::Original => (protocol::Role::Original, 0),
            Role::Copy(number) => (protocol::Role::Copy, number),
        };
        self.say(sequence, &Message::Resumed { role: said, generation, copy });
    }

    /// A copy has another VMM, which knows nothing of what was said.
    fn meet_another_vmm(&mut self) {
        self.input.clear();
        self.incoming = Incoming::default();
        self.deaf = false;
        self.greeted = false;
        self.greet();
        if let Some((_, request)) = self.asked.take() {
            REQUESTS.lock().push_front(request);
        }
    }
}
