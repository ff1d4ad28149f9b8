//! [`Queue`]: messages in the order in which they will be received, who waits for one or for room, and who
//! wants to be told when one comes to an empty queue (mq_notify(3)).
//!
//! Messages go straight to a waiting receiver, and room goes straight to a waiting sender.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::Size;
use crate::errno::{Errno, Result};
use crate::fs::{PollFlags, PollTable};
use crate::ipc::hooks;
use crate::ipc::park::Parked;
use crate::kref::Ref;
use crate::net::netlink::Listener;
use crate::ns::Pid;
use crate::sched::{Deadline, WaitQueue};
use crate::sync::SpinLock;

/// A message.
pub struct Message {
    /// Its priority.
    pub priority: u32,
    /// Its text.
    pub text: Vec<u8>,
}

/// One who waits for room, with what will go there.
struct Sender {
    message: SpinLock<Option<Message>>,
    parked: Parked<()>,
}

/// One who waits for a message.
type Receiver = Parked<Message>;

/// How somebody wants to be told of a message (sigevent(7)).
pub enum Notify {
    /// Not at all: only nobody else may be.
    None,
    /// By a signal with a value.
    Signal(i32, u64),
    /// By these bytes on a netlink socket, of which C libraries make a thread.
    Thread(Listener, [u8; COOKIE_LEN]),
}

/// Bytes of a cookie; the last says why it comes.
pub const COOKIE_LEN: usize = 32;
const WOKEN_UP: u8 = 1;
const REMOVED: u8 = 2;

impl Notify {
    /// `SIGEV_*`, as the queue's file shows it.
    fn number(&self) -> u32 {
        match self {
            Self::Signal(..) => 0,
            Self::None => 1,
            Self::Thread(..) => 2,
        }
    }

    /// Sends the cookie, if that is how to tell.
    fn send_cookie(&self, why: u8) {
        if let Self::Thread(listener, cookie) = self {
            let mut cookie = *cookie;
            cookie[COOKIE_LEN - 1] = why;
            listener.deliver(&cookie);
        }
    }
}

/// Who wants to be told.
struct Watcher {
    process: Ref<Pid>,
    how: Notify,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    senders: VecDeque<Ref<Sender>>,
    receivers: VecDeque<Ref<Receiver>>,
    watcher: Option<Watcher>,
}

/// A queue.
pub struct Queue {
    /// How much it takes.
    pub size: Size,
    state: SpinLock<State>,
    /// Who polls.
    pollers: WaitQueue,
}

impl State {
    /// Puts a message behind those of its priority. The caller has made room for it.
    fn insert(&mut self, message: Message) {
        let at = self.messages.partition_point(|there| there.priority >= message.priority);
        self.bytes += message.text.len();
        self.messages.insert(at, message);
    }

    fn reserve(&mut self) -> Result<()> {
        self.messages.try_reserve(1).map_err(|_| Errno::ENOMEM)
    }
}

impl Queue {
    /// An empty queue.
    pub fn new(size: Size) -> Self {
        Self { size, state: SpinLock::new(State::default()), pollers: WaitQueue::new() }
    }

    /// Messages in it.
    pub fn len(&self) -> usize {
        self.state.lock().messages.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn is_full(&self, state: &State) -> bool {
        state.messages.len() as i64 >= self.size.maxmsg
    }

    /// mq_timedsend(2): `EAGAIN` at once if the queue is full and `deadline` is `None`.
    pub fn send(&self, message: Message, deadline: Option<Deadline>) -> Result<()> {
        let mut state = self.state.lock();
        if self.is_full(&state) {
            let deadline = deadline.ok_or(Errno::EAGAIN)?;
            state.senders.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            let message = SpinLock::new(Some(message));
            let sender = Ref::try_new(Sender { message, parked: Parked::new() })?;
            state.senders.push_back(sender.clone());
            drop(state);
            let slept = sender.parked.sleep(deadline);
            if slept.is_err() {
                self.state.lock().senders.retain(|other| !Ref::ptr_eq(other, &sender));
            }
            return sender.parked.take().map_or(slept, Ok);
        }
        if let Some(receiver) = state.receivers.pop_front() {
            receiver.finish(message);
            return Ok(());
        }
        state.reserve()?;
        state.insert(message);
        let told = if state.messages.len() == 1 { state.watcher.take() } else { None };
        drop(state);
        if let Some(watcher) = told {
            if let Notify::Signal(signal, value) = watcher.how {
                hooks::tell(&watcher.process, signal, value);
            }
            watcher.how.send_cookie(WOKEN_UP);
        }
        self.pollers.wake_poll(PollFlags::READABLE.bits());
        Ok(())
    }

    /// mq_timedreceive(2): the first message of the highest priority.
    pub fn receive(&self, deadline: Option<Deadline>) -> Result<Message> {
        let mut state = self.state.lock();
        let Some(message) = state.messages.pop_front() else {
            let deadline = deadline.ok_or(Errno::EAGAIN)?;
            state.receivers.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            let receiver = Ref::try_new(Receiver::new())?;
            state.receivers.push_back(receiver.clone());
            drop(state);
            let slept = receiver.sleep(deadline);
            if slept.is_err() {
                self.state.lock().receivers.retain(|other| !Ref::ptr_eq(other, &receiver));
            }
            return match (receiver.take(), slept) {
                (Some(message), _) => Ok(message),
                (None, Err(error)) => Err(error),
                (None, Ok(())) => Err(Errno::EAGAIN),
            };
        };
        state.bytes -= message.text.len();
        let next = state.senders.pop_front();
        let waiting = next.as_ref().and_then(|sender| sender.message.lock().take());
        if let Some(waiting) = waiting {
            // There is room: a message has just left.
            state.insert(waiting);
        }
        drop(state);
        match next {
            Some(sender) => sender.parked.finish(()),
            None => self.pollers.wake_poll(PollFlags::WRITABLE.bits()),
        }
        Ok(message)
    }

    /// mq_notify(2): registers the calling process; `EBUSY` if somebody is.
    pub fn watch(&self, process: Ref<Pid>, how: Notify) -> Result<()> {
        let mut state = self.state.lock();
        if state.watcher.is_some() {
            return Err(Errno::EBUSY);
        }
        state.watcher = Some(Watcher { process, how });
        Ok(())
    }

    /// The process does not want to be told any more.
    pub fn unwatch(&self, process: &Ref<Pid>) {
        let mut state = self.state.lock();
        let gone = state.watcher.take_if(|watcher| Ref::ptr_eq(&watcher.process, process));
        drop(state);
        if let Some(watcher) = gone {
            watcher.how.send_cookie(REMOVED);
        }
    }

    /// What poll(2) says.
    pub fn poll(&self, table: &mut PollTable<'_>) -> PollFlags {
        table.wait(&self.pollers);
        let state = self.state.lock();
        let mut ready = PollFlags::empty();
        if !state.messages.is_empty() {
            ready |= PollFlags::READABLE;
        }
        if !self.is_full(&state) {
            ready |= PollFlags::WRITABLE;
        }
        ready
    }

    /// What the queue's file shows: bytes, how to tell, with which signal, and whom.
    pub fn shown(&self) -> (usize, u32, i32, u32) {
        let state = self.state.lock();
        let bytes = state.bytes;
        let watcher = state.watcher.as_ref();
        let signal = match watcher.map(|watcher| &watcher.how) {
            Some(Notify::Signal(signal, _)) => *signal,
            _ => 0,
        };
        let process = watcher.map(|watcher| watcher.process.clone());
        let how = watcher.map_or(0, |watcher| watcher.how.number());
        drop(state);
        (bytes, how, signal, process.map_or(0, |pid| hooks::visible_pid(&pid)))
    }
}
