//! [`Listener`]: the calls that a filter asks somebody about (seccomp_unotify(2)).
//!
//! The task that made such a call sleeps on the question's `ready`; who listens takes questions, answers them, and may
//! put descriptors into the task's table first, which the task does itself ([`AddFd`]). All of it changes under the
//! listener's lock.

use core::sync::atomic::{AtomicU32, Ordering};

use super::data::SeccompData;
use crate::array::Array;
use crate::drivers::random::random_u64;
use crate::errno::{Errno, Result};
use crate::fs::File;
use crate::kref::Ref;
use crate::ns::Pid;
use crate::sched::{Completion, WaitQueue};
use crate::sync::SpinLock;

/// How far a question is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotifyState {
    /// Nobody has taken it.
    Init,
    /// Somebody has.
    Sent,
    /// It is answered.
    Replied,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// What it returns, unless there is an error.
    pub value: i64,
    /// The error, negative.
    pub error: i32,
    /// It is made after all.
    pub goes_on: bool,
}

impl Answer {
    const NOBODY: Self = Self { value: 0, error: -Errno::ENOSYS.number(), goes_on: false };
}

/// A question.
pub struct Notification {
    /// Its number.
    pub id: u64,
    /// Who made the call.
    pub pid: Ref<Pid>,
    /// The call.
    pub data: SeccompData,
    /// Done each time that there is something to do for who made it.
    pub ready: Completion,
}

/// A descriptor that somebody who listens wants to put into the caller's table.
pub struct AddFd {
    /// The open file.
    pub file: Ref<File>,
    /// exec closes it.
    pub cloexec: bool,
    /// The number that it is to have.
    pub at: Option<i32>,
    /// Its number is the answer.
    pub is_answer: bool,
    /// Done once there is a result.
    pub done: Completion,
    result: SpinLock<Option<Result<i32>>>,
}

impl AddFd {
    /// To be asked for.
    pub fn new(
        file: Ref<File>,
        cloexec: bool,
        at: Option<i32>,
        is_answer: bool,
    ) -> Result<Ref<Self>> {
        let done = Completion::new();
        Ref::try_new(Self { file, cloexec, at, is_answer, done, result: SpinLock::new(None) })
    }

    /// The descriptor, or why there is none; `None` if it is not decided.
    pub fn result(&self) -> Option<Result<i32>> {
        *self.result.lock()
    }

    fn finish(&self, result: Result<i32>) {
        *self.result.lock() = Some(result);
        self.done.complete();
    }
}

struct Entry {
    question: Ref<Notification>,
    state: NotifyState,
    answer: Answer,
    fds: Array<Ref<AddFd>>,
}

struct Queue {
    is_open: bool,
    next_id: u64,
    entries: Array<Entry>,
}

impl Queue {
    fn find(&mut self, id: u64) -> Result<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.question.id == id).ok_or(Errno::ENOENT)
    }
}

/// Whom a filter asks.
pub struct Listener {
    queue: SpinLock<Queue>,
    /// Questions that were asked and not taken, those included that were taken back.
    requests: AtomicU32,
    /// Who waits for questions, or for tasks to be gone.
    pub wait: WaitQueue,
}

impl Listener {
    /// Nothing was asked yet.
    pub(super) fn new() -> Self {
        let queue = Queue { is_open: true, next_id: random_u64(), entries: Array::new() };
        Self { queue: SpinLock::new(queue), requests: AtomicU32::new(0), wait: WaitQueue::new() }
    }

    /// Asks; `ENOSYS` if nobody listens any more.
    pub fn ask(&self, pid: Ref<Pid>, data: SeccompData) -> Result<Ref<Notification>> {
        let question = {
            let mut queue = self.queue.lock();
            if !queue.is_open {
                return Err(Errno::ENOSYS);
            }
            let id = queue.next_id;
            let ready = Completion::new();
            let question = Ref::try_new(Notification { id, pid, data, ready })?;
            let (state, answer) = (NotifyState::Init, Answer::default());
            let entry = Entry { question: question.clone(), state, answer, fds: Array::new() };
            queue.entries.try_push(entry)?;
            queue.next_id = id.wrapping_add(1);
            question
        };
        self.requests.fetch_add(1, Ordering::Release);
        self.wait.wake_all();
        Ok(question)
    }

    /// How far a question is; `ENOENT` if it is gone.
    pub fn state(&self, id: u64) -> Result<NotifyState> {
        self.queue.lock().find(id).map(|entry| entry.state)
    }

    /// The next descriptor that who asked is to take.
    pub fn next_fd(&self, id: u64) -> Option<Ref<AddFd>> {
        self.queue.lock().find(id).ok()?.fds.pop_front()
    }

    /// What came of it.
    pub fn fd_added(&self, id: u64, fd: &AddFd, result: Result<i32>) {
        let mut queue = self.queue.lock();
        if let Ok(entry) = queue.find(id)
            && fd.is_answer
        {
            match result {
                Ok(number) => {
                    entry.answer = Answer { value: i64::from(number), ..Answer::default() };
                }
                Err(_) => entry.state = NotifyState::Sent,
            }
        }
        fd.finish(result);
    }

    /// Who asked does not wait any more. The answer, if there is one.
    pub fn finish(&self, id: u64) -> Option<Answer> {
        let entry = {
            let mut queue = self.queue.lock();
            let at = queue.entries.iter().position(|entry| entry.question.id == id)?;
            let entry = queue.entries.remove(at);
            entry.fds.iter().for_each(|fd| fd.finish(Err(Errno::ESRCH)));
            entry
        };
        (entry.state == NotifyState::Replied).then_some(entry.answer)
    }

    /// True if there is something to be taken, or was when it was asked.
    pub fn has_request(&self) -> bool {
        self.requests.load(Ordering::Acquire) != 0
    }

    /// Takes a question; `None` if another took what was there, `ENOENT` if it was taken back.
    pub fn take(&self) -> Option<Result<Ref<Notification>>> {
        let counted = |n: u32| n.checked_sub(1);
        self.requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, counted).ok()?;
        let question = {
            let mut queue = self.queue.lock();
            let entry = queue.entries.iter_mut().find(|entry| entry.state == NotifyState::Init);
            let Some(entry) = entry else { return Some(Err(Errno::ENOENT)) };
            entry.state = NotifyState::Sent;
            entry.question.clone()
        };
        self.wait.wake_all();
        Some(Ok(question))
    }

    /// Gives a question back that could not be told.
    pub fn give_back(&self, id: u64) {
        {
            let mut queue = self.queue.lock();
            let Ok(entry) = queue.find(id) else { return };
            entry.state = NotifyState::Init;
            // Signals may end its wait again.
            entry.question.ready.complete();
        }
        self.requests.fetch_add(1, Ordering::Release);
        self.wait.wake_all();
    }

    /// Answers a question; `EINPROGRESS` unless it was taken and not answered.
    pub fn answer(&self, id: u64, answer: Answer) -> Result<()> {
        let mut queue = self.queue.lock();
        let entry = queue.find(id)?;
        if entry.state != NotifyState::Sent {
            return Err(Errno::EINPROGRESS);
        }
        (entry.state, entry.answer) = (NotifyState::Replied, answer);
        entry.question.ready.complete();
        Ok(())
    }

    /// Has who asked take a descriptor.
    pub fn add_fd(&self, id: u64, fd: Ref<AddFd>) -> Result<()> {
        let mut queue = self.queue.lock();
        let entry = queue.find(id)?;
        if entry.state != NotifyState::Sent {
            return Err(Errno::EINPROGRESS);
        }
        if fd.is_answer && !entry.fds.is_empty() {
            return Err(Errno::EBUSY);
        }
        let is_answer = fd.is_answer;
        entry.fds.try_push(fd)?;
        if is_answer {
            entry.state = NotifyState::Replied;
        }
        entry.question.ready.complete();
        Ok(())
    }

    /// Takes that back unless it has happened; true if it was taken back.
    pub fn cancel_fd(&self, id: u64, fd: &Ref<AddFd>) -> bool {
        let mut queue = self.queue.lock();
        let Ok(entry) = queue.find(id) else { return false };
        let before = entry.fds.len();
        entry.fds.retain(|other| !Ref::ptr_eq(other, fd));
        entry.fds.len() != before
    }

    /// Whether there is a question in each of the states that poll(2) knows.
    pub fn readiness(&self) -> (bool, bool) {
        let queue = self.queue.lock();
        let any = |state| queue.entries.iter().any(|entry| entry.state == state);
        (any(NotifyState::Init), any(NotifyState::Sent))
    }

    /// Nobody listens any more: what was asked stays unanswered.
    pub(super) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.is_open = false;
        for entry in queue.entries.iter_mut().filter(|e| e.state != NotifyState::Replied) {
            (entry.state, entry.answer) = (NotifyState::Replied, Answer::NOBODY);
            entry.question.ready.complete();
        }
    }
}
