//! Asking who listens to a filter, and the file that he listens through (seccomp_unotify(2)).

use crate::arch::PtRegs;
use crate::errno::{Errno, Result};
use crate::fs::{FMode, File, FileOps, OpenFlags, PollFlags, PollTable, anon};
use crate::kref::Ref;
use crate::mm::{UserPtr, copy_in, copy_out, try_box};
use crate::pod;
use crate::sched::{TaskState, Wait};
use crate::seccomp::{AddFd, Answer, Listener, NotifyState, SeccompData, SeccompFilter};
use crate::sync::SpinLock;
use crate::task::rlimit::Resource;
use crate::task::{self, Task};
use crate::wait_channel;

/// `SECCOMP_IOCTL_NOTIF_RECV`.
const RECV: u32 = 0xc050_2100;
/// `SECCOMP_IOCTL_NOTIF_SEND`.
const SEND: u32 = 0xc018_2101;
/// `SECCOMP_IOCTL_NOTIF_ID_VALID`.
const ID_VALID: u32 = 0x4008_2102;
/// The same as it was first numbered, and is still known.
const ID_VALID_FORMER: u32 = 0x8008_2102;
/// `SECCOMP_IOCTL_NOTIF_ADDFD` without its direction and its size, which may grow.
const ADDFD: u32 = 0x2103;
/// Where an ioctl's number holds its direction.
const DIRECTION: u32 = 0xc000_0000;
/// Where it holds a size.
const SIZE_SHIFT: u32 = 16;
const SIZE_MASK: u32 = 0x3fff;

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const FLAG_CONTINUE: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SETFD`.
const ADDFD_SETFD: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`.
const ADDFD_SEND: u32 = 2;

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Notif {
    id: u64,
    pid: u32,
    flags: u32,
    data: SeccompData,
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Resp {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
#[derive(Clone, Copy)]
struct NotifAddFd {
    id: u64,
    flags: u32,
    srcfd: i32,
    newfd: u32,
    newfd_flags: u32,
}

pod!(Notif, Resp, NotifAddFd);

/// The sizes of the structures (SECCOMP_GET_NOTIF_SIZES).
pub const SIZES: [u16; 3] =
    [size_of::<Notif>() as u16, size_of::<Resp>() as u16, SeccompData::SIZE as u16];

const _: () = assert!(
    RECV >> SIZE_SHIFT & SIZE_MASK == SIZES[0] as u32
        && SEND >> SIZE_SHIFT & SIZE_MASK == SIZES[1] as u32,
    "the numbers of the ioctls hold the sizes"
);

/// Asks who listens to `filter`, and does what he says; true if the call is to be made. If not, the registers hold what
/// it returns.
pub(super) fn ask(
    task: &Task,
    regs: &mut PtRegs,
    filter: &SeccompFilter,
    data: SeccompData,
) -> bool {
    let result = match filter.listener() {
        Some(listener) => wait_for_answer(task, filter, listener, data),
        None => Err(Errno::ENOSYS),
    };
    match result {
        Ok(answer) if answer.goes_on => return true,
        Ok(Answer { error: 0, value, .. }) => regs.x[0] = value as u64,
        Ok(Answer { error, .. }) => regs.x[0] = i64::from(error) as u64,
        Err(errno) => regs.x[0] = errno.to_ret(),
    }
    false
}

fn wait_for_answer(
    task: &Task,
    filter: &SeccompFilter,
    listener: &Listener,
    data: SeccompData,
) -> Result<Answer> {
    let question = listener.ask(task.thread_pid.share(), data)?;
    let id = question.id;
    let is_sheltered = || filter.waits_killable() && listener.state(id) == Ok(NotifyState::Sent);
    let result = loop {
        let sheltered = is_sheltered();
        let state = if sheltered { TaskState::KILLABLE } else { TaskState::INTERRUPTIBLE };
        let result = question.ready.wait_in(Wait::new(state, wait_channel!("seccomp_notify")));
        if result.is_err() {
            // The question may have been taken meanwhile.
            if !sheltered && is_sheltered() {
                continue;
            }
            break result;
        }
        if let Some(fd) = listener.next_fd(id) {
            let added = take_fd(task, &fd);
            listener.fd_added(id, &fd, added);
        }
        if listener.state(id) == Ok(NotifyState::Replied) {
            break Ok(());
        }
    };
    // An answer that came with a signal counts: who gave it does not know of the signal.
    let answer = listener.finish(id);
    answer.ok_or_else(|| result.err().unwrap_or(Errno::ERESTARTSYS))
}

/// Puts a descriptor into the task's table.
fn take_fd(task: &Task, fd: &AddFd) -> Result<i32> {
    let limit = task.signal.rlimits.soft(Resource::Nofile) as usize;
    let (files, file) = (task.files(), fd.file.clone());
    let Some(at) = fd.at else { return files.install(file, 0, limit, fd.cloexec) };
    if let Some(before) = files.replace(at, file, limit, fd.cloexec)? {
        files.close_file(before);
    }
    Ok(at)
}

/// The file that somebody listens through.
struct ListenerFile {
    filter: SpinLock<Option<Ref<SeccompFilter>>>,
}

/// A file that nothing comes through yet.
pub(super) fn new_file() -> Result<Ref<File>> {
    let ops = try_box(ListenerFile { filter: SpinLock::new(None) })?;
    anon::new_file("seccomp notify", ops, OpenFlags::RDWR)
}

/// What `filter` asks comes through the file from now on.
pub(super) fn connect(file: &File, filter: &Ref<SeccompFilter>) {
    if let Some(ops) = file.ops_as::<ListenerFile>() {
        let before = ops.filter.lock().replace(filter.clone());
        drop(before);
    }
}

/// Nothing comes through it any more.
pub(super) fn disconnect(file: &File) {
    if let Some(ops) = file.ops_as::<ListenerFile>() {
        let before = ops.filter.lock().take();
        drop(before);
    }
}

impl ListenerFile {
    fn filter(&self) -> Result<Ref<SeccompFilter>> {
        self.filter.lock().clone().ok_or(Errno::EINVAL)
    }
}

impl FileOps for ListenerFile {
    fn ioctl(&self, _file: &File, cmd: u32, arg: u64) -> Result<usize> {
        let filter = self.filter()?;
        let listener = filter.listener().ok_or(Errno::EINVAL)?;
        match cmd {
            RECV => receive(&filter, listener, arg),
            SEND => send(listener, arg),
            ID_VALID | ID_VALID_FORMER => {
                let id = UserPtr::<u64>::new(arg).read()?;
                match listener.state(id)? {
                    NotifyState::Sent => Ok(0),
                    _ => Err(Errno::ENOENT),
                }
            }
            _ if cmd & !(SIZE_MASK << SIZE_SHIFT | DIRECTION) == ADDFD => {
                add_fd(listener, arg, (cmd >> SIZE_SHIFT & SIZE_MASK) as usize)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        let Ok(filter) = self.filter() else { return PollFlags::ERR };
        let Some(listener) = filter.listener() else { return PollFlags::ERR };
        table.wait(&listener.wait);
        let (asked, taken) = listener.readiness();
        let mut ready = PollFlags::empty();
        ready.set(PollFlags::READABLE, asked);
        ready.set(PollFlags::WRITABLE, taken);
        ready.set(PollFlags::HUP, !filter.has_users());
        ready
    }

    fn release(&self, _file: &File) {
        let filter = self.filter.lock().take();
        if let Some(filter) = filter {
            filter.stop_listening();
        }
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }
}

/// `SECCOMP_IOCTL_NOTIF_RECV`: waits for a question and takes it.
fn receive(filter: &SeccompFilter, listener: &Listener, to: u64) -> Result<usize> {
    // Later versions may read from there.
    let mut bytes = [0; size_of::<Notif>()];
    copy_in(to, &mut bytes)?;
    if bytes.iter().any(|byte| *byte != 0) {
        return Err(Errno::EINVAL);
    }
    let question = loop {
        if let Some(taken) = listener.take() {
            break taken?;
        }
        // Nobody will ask any more.
        if !filter.has_users() {
            return Err(Errno::ENOENT);
        }
        let ready = || listener.has_request() || !filter.has_users();
        let how = Wait::new(TaskState::UNRESTARTED, wait_channel!("seccomp_notify_recv"));
        listener.wait.wait_until(how, ready).map_err(|_| Errno::EINTR)?;
    };
    let ns = task::current().thread_pid.own().ns();
    let notif =
        Notif { id: question.id, pid: question.pid.nr_in(ns), flags: 0, data: question.data };
    if let Err(errno) = UserPtr::<Notif>::new(to).write(notif) {
        listener.give_back(question.id);
        return Err(errno);
    }
    Ok(0)
}

/// `SECCOMP_IOCTL_NOTIF_SEND`: answers.
fn send(listener: &Listener, from: u64) -> Result<usize> {
    let resp = UserPtr::<Resp>::new(from).read()?;
    let goes_on = resp.flags & FLAG_CONTINUE != 0;
    if resp.flags & !FLAG_CONTINUE != 0 || goes_on && (resp.error != 0 || resp.val != 0) {
        return Err(Errno::EINVAL);
    }
    let answer = Answer { value: resp.val, error: resp.error, goes_on };
    listener.answer(resp.id, answer).map(|()| 0)
}

/// `SECCOMP_IOCTL_NOTIF_ADDFD`: puts a descriptor into the table of who asked; returns its number there.
fn add_fd(listener: &Listener, from: u64, size: usize) -> Result<usize> {
    const KNOWN: usize = size_of::<NotifAddFd>();
    if !(KNOWN..crate::addr::PAGE_SIZE).contains(&size) {
        return Err(Errno::EINVAL);
    }
    for at in KNOWN..size {
        if UserPtr::<u8>::new(from.wrapping_add(at as u64)).read()? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    let asked = UserPtr::<NotifAddFd>::new(from).read()?;
    let sets = asked.flags & ADDFD_SETFD != 0;
    if asked.newfd_flags & !crate::uapi::O_CLOEXEC != 0
        || asked.flags & !(ADDFD_SETFD | ADDFD_SEND) != 0
        || asked.newfd != 0 && !sets
    {
        return Err(Errno::EINVAL);
    }
    let file = task::current().files().get(asked.srcfd)?;
    let cloexec = asked.newfd_flags != 0;
    let at = sets.then_some(asked.newfd as i32);
    let fd = AddFd::new(file, cloexec, at, asked.flags & ADDFD_SEND != 0)?;
    listener.add_fd(asked.id, fd.clone())?;
    let wait = Wait::new(TaskState::INTERRUPTIBLE, wait_channel!("seccomp_addfd"));
    let waited = fd.done.wait_in(wait);
    if waited.is_err() && listener.cancel_fd(asked.id, &fd) {
        return Err(Errno::ERESTARTSYS);
    }
    match fd.result() {
        Some(result) => result.map(|number| number as usize),
        // It is being put there.
        None => {
            fd.done.wait();
            fd.result().unwrap_or(Err(Errno::ESRCH)).map(|number| number as usize)
        }
    }
}

/// What is written of `sizes` (SECCOMP_GET_NOTIF_SIZES).
pub fn write_sizes(to: u64) -> Result<()> {
    let mut bytes = [0; size_of::<[u16; 3]>()];
    for (to, size) in bytes.chunks_exact_mut(2).zip(SIZES) {
        to.copy_from_slice(&size.to_le_bytes());
    }
    copy_out(to, &bytes)
}
