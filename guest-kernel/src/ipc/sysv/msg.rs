//! System V message queues (msgget(2)).
//!
//! A sender hands its message straight to the first waiting receiver that it suits; senders that find a
//! queue full wait for room and try again.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, Ordering};

use super::abi::{IPC_NOWAIT, MSG_COPY, MSG_EXCEPT, MSG_NOERROR};
use super::perm::{self, NewOwner, Perm};
use super::table::{Id, Object, Table};
use super::{Caller, now};
use crate::errno::{Errno, Result};
use crate::ipc::park::Parked;
use crate::kref::Ref;
use crate::ns::{Cap, Pid};
use crate::sched::{Deadline, WaitQueue};
use crate::sync::SpinLock;
use crate::wait_event_interruptible;

/// The queues of a namespace.
pub struct MsgQueues {
    /// By number and key.
    pub table: Table<MsgQueue>,
    totals: Totals,
}

/// What lies in all queues of a namespace.
struct Totals {
    messages: AtomicI64,
    bytes: AtomicI64,
}

/// A message.
#[derive(Clone)]
pub struct Message {
    /// Its type, above 0.
    pub kind: i64,
    /// Its text.
    pub text: Vec<u8>,
}

/// Which message a receiver takes.
#[derive(Clone, Copy)]
enum Wanted {
    Any,
    Is(i64),
    IsNot(i64),
    /// The lowest type up to this one.
    UpTo(i64),
    /// By its place in the queue (`MSG_COPY`).
    Place(i64),
}

impl Wanted {
    fn new(kind: i64, flags: u32) -> Self {
        match kind {
            place if flags & MSG_COPY != 0 => Self::Place(place),
            0 => Self::Any,
            ..0 => Self::UpTo(kind.checked_neg().unwrap_or(i64::MAX)),
            _ if flags & MSG_EXCEPT != 0 => Self::IsNot(kind),
            _ => Self::Is(kind),
        }
    }

    /// True if a message of this type will do; one of the lowest type is not looked for here.
    fn suits(self, kind: i64) -> bool {
        match self {
            Self::Any | Self::Place(_) => true,
            Self::Is(wanted) => kind == wanted,
            Self::IsNot(unwanted) => kind != unwanted,
            Self::UpTo(highest) => kind <= highest,
        }
    }

    fn find(self, messages: &VecDeque<Message>) -> Option<usize> {
        match self {
            Self::Place(place) => usize::try_from(place).ok().filter(|&i| i < messages.len()),
            Self::UpTo(_) => {
                let suited = messages.iter().enumerate().filter(|(_, m)| self.suits(m.kind));
                // The first of the lowest type.
                suited.min_by_key(|(_, message)| message.kind).map(|(i, _)| i)
            }
            _ => messages.iter().position(|message| self.suits(message.kind)),
        }
    }
}

/// One who waits for a message.
struct Receiver {
    wanted: Wanted,
    /// Longer messages are refused.
    max: usize,
    pid: Ref<Pid>,
    parked: Parked<Result<Message>>,
}

struct State {
    perm: Perm,
    stime: i64,
    rtime: i64,
    ctime: i64,
    cbytes: usize,
    qbytes: usize,
    lspid: Option<Ref<Pid>>,
    lrpid: Option<Ref<Pid>>,
    messages: VecDeque<Message>,
    receivers: VecDeque<Ref<Receiver>>,
    gone: bool,
}

/// A queue.
pub struct MsgQueue {
    id: Id,
    state: SpinLock<State>,
    /// Who waits for room.
    senders: WaitQueue,
}

impl Object for MsgQueue {
    fn id(&self) -> Id {
        self.id
    }
}

/// What msgctl(2) shows of a queue.
#[allow(missing_docs, reason = "the names are msgctl(2)'s")]
pub struct Shown {
    pub perm: Perm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub cbytes: usize,
    pub qnum: usize,
    pub qbytes: usize,
    pub lspid: Option<Ref<Pid>>,
    pub lrpid: Option<Ref<Pid>>,
}

impl State {
    fn has_room(&self, len: usize) -> bool {
        // Messages without text count too, else they would have no limit.
        len + self.cbytes <= self.qbytes && self.messages.len() < self.qbytes
    }

    /// Hands a message to a receiver that waits for such a one; those for whom it is too long get an
    /// error.
    fn hand_over(&mut self, message: Message) -> Option<Message> {
        let mut i = 0;
        while let Some(receiver) = self.receivers.get(i) {
            if !receiver.wanted.suits(message.kind) {
                i += 1;
                continue;
            }
            let Some(receiver) = self.receivers.remove(i) else { break };
            if receiver.max < message.text.len() {
                receiver.parked.finish(Err(Errno::E2BIG));
                continue;
            }
            self.lrpid = Some(receiver.pid.clone());
            self.rtime = now();
            receiver.parked.finish(Ok(message));
            return None;
        }
        Some(message)
    }

    /// Lets all receivers look again, or tells them that the queue is gone.
    fn dismiss_receivers(&mut self, why: Errno) {
        for receiver in core::mem::take(&mut self.receivers) {
            receiver.parked.finish(Err(why));
        }
    }
}

impl MsgQueues {
    /// No queues yet.
    pub const fn new() -> Self {
        let totals = Totals { messages: AtomicI64::new(0), bytes: AtomicI64::new(0) };
        Self { table: Table::new(), totals }
    }

    /// Messages in all queues, and their bytes.
    pub fn totals(&self) -> (i64, i64) {
        let Totals { messages, bytes } = &self.totals;
        (messages.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    fn account(&self, messages: i64, bytes: i64) {
        self.totals.messages.fetch_add(messages, Ordering::Relaxed);
        self.totals.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Default for MsgQueues {
    fn default() -> Self {
        Self::new()
    }
}

/// msgget(2).
pub fn get(caller: &Caller<'_>, key: i32, flags: u32) -> Result<i32> {
    let limits = &caller.ns.limits;
    let check = |queue: &MsgQueue| queue.state.lock().perm.check(caller, flags);
    let make = |id| {
        let state = SpinLock::new(State {
            perm: Perm::new(caller, key, id, flags),
            stime: 0,
            rtime: 0,
            ctime: now(),
            cbytes: 0,
            qbytes: usize::try_from(limits.msgmnb.load(Ordering::Relaxed)).unwrap_or(0),
            lspid: None,
            lrpid: None,
            messages: VecDeque::new(),
            receivers: VecDeque::new(),
            gone: false,
        });
        Ref::try_new(MsgQueue { id, state, senders: WaitQueue::new() })
    };
    caller.ns.msg.table.get_or_make(key, flags, limits.max_queues(), check, make)
}

/// msgsnd(2). The length has been checked against `msgmax`.
pub fn send(caller: &Caller<'_>, id: i32, message: Message, flags: u32) -> Result<()> {
    let queue = caller.ns.msg.table.get(id)?;
    let len = message.text.len();
    loop {
        let mut state = queue.state.lock();
        state.perm.check(caller, perm::WRITE)?;
        if state.gone {
            return Err(Errno::EIDRM);
        }
        if state.has_room(len) {
            state.messages.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            state.lspid = Some(caller.pid.clone());
            state.stime = now();
            if let Some(message) = state.hand_over(message) {
                state.messages.push_back(message);
                state.cbytes += len;
                caller.ns.msg.account(1, len as i64);
            }
            return Ok(());
        }
        drop(state);
        if flags & IPC_NOWAIT != 0 {
            return Err(Errno::EAGAIN);
        }
        wait_event_interruptible!(queue.senders, {
            let state = queue.state.lock();
            state.gone || state.has_room(len)
        })
        .map_err(|_| Errno::ERESTARTNOHAND)?;
    }
}

/// msgrcv(2): a message that suits, of which at most `max` bytes count.
pub fn receive(caller: &Caller<'_>, id: i32, max: usize, kind: i64, flags: u32) -> Result<Message> {
    let wanted = Wanted::new(kind, flags);
    let queue = caller.ns.msg.table.get(id)?;
    loop {
        let receiver = {
            let mut state = queue.state.lock();
            state.perm.check(caller, perm::READ)?;
            if state.gone {
                return Err(Errno::EIDRM);
            }
            if let Some(at) = wanted.find(&state.messages) {
                let message = &state.messages[at];
                let len = message.text.len();
                if len > max && flags & MSG_NOERROR == 0 {
                    return Err(Errno::E2BIG);
                }
                if flags & MSG_COPY != 0 {
                    let mut text = Vec::new();
                    text.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
                    text.extend_from_slice(&message.text);
                    return Ok(Message { kind: message.kind, text });
                }
                let message = state.messages.remove(at).ok_or(Errno::ENOMSG)?;
                state.cbytes -= len;
                state.rtime = now();
                state.lrpid = Some(caller.pid.clone());
                drop(state);
                caller.ns.msg.account(-1, -(len as i64));
                queue.senders.wake_all();
                return Ok(message);
            }
            if flags & IPC_NOWAIT != 0 {
                return Err(Errno::ENOMSG);
            }
            let max = if flags & MSG_NOERROR != 0 { usize::MAX } else { max };
            state.receivers.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            let pid = caller.pid.clone();
            let receiver = Ref::try_new(Receiver { wanted, max, pid, parked: Parked::new() })?;
            state.receivers.push_back(receiver.clone());
            receiver
        };
        if receiver.parked.sleep(Deadline::NEVER).is_err() {
            let mut state = queue.state.lock();
            state.receivers.retain(|other| !Ref::ptr_eq(other, &receiver));
        }
        match receiver.parked.take() {
            // The queue has changed: look again.
            Some(Err(Errno::EAGAIN)) => {}
            Some(result) => return result,
            None => return Err(Errno::ERESTARTNOHAND),
        }
    }
}

impl MsgQueue {
    /// The whole number.
    pub fn number(&self) -> i32 {
        self.id.0
    }

    /// What `IPC_STAT` shows.
    pub fn shown(&self) -> Shown {
        let state = self.state.lock();
        Shown {
            perm: state.perm,
            stime: state.stime,
            rtime: state.rtime,
            ctime: state.ctime,
            cbytes: state.cbytes,
            qnum: state.messages.len(),
            qbytes: state.qbytes,
            lspid: state.lspid.clone(),
            lrpid: state.lrpid.clone(),
        }
    }

    /// `EACCES` unless the caller may read it.
    pub fn check_read(&self, caller: &Caller<'_>) -> Result<()> {
        self.state.lock().perm.check(caller, perm::READ)
    }

    /// `IPC_SET`; more bytes than `msgmnb` only for the privileged.
    pub fn set(&self, caller: &Caller<'_>, new: &NewOwner, qbytes: u64) -> Result<()> {
        {
            let mut state = self.state.lock();
            state.perm.check_control(caller)?;
            let limit = caller.ns.limits.msgmnb.load(Ordering::Relaxed);
            if qbytes > u64::try_from(limit).unwrap_or(0) && !caller.cred.capable(Cap::SysResource)
            {
                return Err(Errno::EPERM);
            }
            state.perm.set(new);
            state.qbytes = usize::try_from(qbytes).unwrap_or(usize::MAX);
            state.ctime = now();
            // Rights may have changed, and room come.
            state.dismiss_receivers(Errno::EAGAIN);
        }
        self.senders.wake_all();
        Ok(())
    }

    /// `IPC_RMID`: messages go, and who waits is told.
    pub fn remove(&self, caller: &Caller<'_>) -> Result<()> {
        let (key, messages, bytes) = {
            let mut state = self.state.lock();
            state.perm.check_control(caller)?;
            if state.gone {
                return Err(Errno::EIDRM);
            }
            state.gone = true;
            state.dismiss_receivers(Errno::EIDRM);
            let bytes = core::mem::take(&mut state.cbytes);
            (state.perm.key, core::mem::take(&mut state.messages), bytes)
        };
        self.senders.wake_all();
        caller.ns.msg.account(-(messages.len() as i64), -(bytes as i64));
        caller.ns.msg.table.remove(self, key);
        Ok(())
    }
}
