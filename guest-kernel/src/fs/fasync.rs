//! Signals that say when I/O is possible (fcntl(2), `O_ASYNC`; signal(7), SIGIO).
//!
//! A file that is to give them has an entry on each of its wait queues. A wake-up there, in whatever context, links
//! it into the list of those that are due. The signals are sent where tasks may be looked at ([`deliver`]): by who woke,
//! on its way to EL0, or by a kworker if that comes first.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::poll::PollWaiter;
use super::{File, FileKind, PollFlags, PollTable};
use crate::arch::{self, ThreadFlags};
use crate::errno::{Errno, Result};
use crate::list::{Link, List};
use crate::list_link;
use crate::mm::try_box;
use crate::ns::PidType;
use crate::sched::workqueue::{Work, schedule_work};
use crate::sched::{WaitEntry, WaitQueue};
use crate::signal::hooks::{self, IoOwner};
use crate::signal::{SIGIO, SigInfo};
use crate::sync::{IrqLock, Mutex, SpinLock};

/// Why a signal is sent: `si_code` of SIGIO (sigaction(2)).
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    /// `POLL_IN`: there is something to read.
    In = 1,
    /// `POLL_OUT`: there is room to write.
    Out = 2,
    /// `POLL_ERR`: an error.
    Error = 4,
    /// `POLL_PRI`: there is something urgent to read.
    Urgent = 5,
    /// `POLL_HUP`: the other side is gone.
    HangUp = 6,
}

impl Reason {
    /// `si_band`.
    fn band(self) -> PollFlags {
        match self {
            Self::In => PollFlags::READABLE,
            Self::Out => PollFlags::WRITABLE | PollFlags::WRBAND,
            Self::Error => PollFlags::ERR,
            Self::Urgent => PollFlags::PRI | PollFlags::RDBAND,
            Self::HangUp => PollFlags::HUP | PollFlags::ERR,
        }
    }
}

/// What a file has for its signals.
#[repr(C)]
pub struct Fasync {
    due: Link,
    owner: SpinLock<IoOwner>,
    /// `F_SETSIG`; 0 is SIGIO, and nothing said of the file.
    signal: AtomicU32,
    /// The descriptor that is named in the signal.
    fd: AtomicI32,
    /// Events since it became due.
    news: AtomicU32,
    file: AtomicPtr<File>,
    #[allow(clippy::vec_box, reason = "a queued entry does not move")]
    hooks: Mutex<Vec<Box<Hook>>>,
}

// SAFETY: `file` points at the file that this is a part of, and `due` is touched under the list's lock.
unsafe impl Send for Fasync {}
// SAFETY: as above.
unsafe impl Sync for Fasync {}

list_link!(
    /// Files whose signals are due.
    Fasync, due: DueLink
);

/// An entry on one wait queue of a file.
#[repr(C)]
struct Hook {
    wait: WaitEntry,
    fasync: *const Fasync,
    queue: *const WaitQueue,
}

// SAFETY: the pointers are followed only while the entry is queued.
unsafe impl Send for Hook {}

static DUE: IrqLock<List<Fasync, DueLink>> = IrqLock::new(List::new());
/// Files whose signals are due or being sent.
static UNSENT: AtomicUsize = AtomicUsize::new(0);
/// Who sends: one at a time, so that whoever comes back from here knows that what was due before is sent.
static SENDER: Mutex<()> = Mutex::new(());
static DELIVER: Work = Work::new(|_| deliver());

/// The key of a wake-up that says nothing of what came.
const ANYTHING: u32 = !0;
/// In [`Fasync::news`]: there was such a wake-up.
const CHANGED: u32 = 1 << 31;

impl Hook {
    fn wake(wait: &WaitEntry, key: u32) -> bool {
        // SAFETY: `wait` is the first field of a `Hook` (repr(C)), which is off the queue before its file goes.
        let fasync = unsafe { &*(*ptr::from_ref(wait).cast::<Self>()).fasync };
        let news = if key == ANYTHING { CHANGED } else { key };
        fasync.news.fetch_or(news, Ordering::AcqRel);
        {
            let due = DUE.lock();
            if !fasync.due.is_linked() {
                // SAFETY: the list's lock is held; it is taken off before the file goes.
                unsafe { due.push_back(fasync) };
                UNSENT.fetch_add(1, Ordering::AcqRel);
            }
        }
        arch::current_thread().info.set(ThreadFlags::NOTIFY_RESUME);
        schedule_work(&DELIVER);
        false
    }
}

/// Puts hooks on the queues that a file names.
struct Hooking<'a> {
    fasync: &'a Fasync,
    #[allow(clippy::vec_box, reason = "a queued entry does not move")]
    hooks: &'a mut Vec<Box<Hook>>,
    failed: bool,
}

impl PollWaiter for Hooking<'_> {
    fn add(&mut self, queue: &WaitQueue) {
        let hook = Hook { wait: WaitEntry::with(Hook::wake, false), fasync: self.fasync, queue };
        match try_box(hook) {
            Ok(hook) if self.hooks.try_reserve(1).is_ok() => {
                // SAFETY: boxed, and taken off by `unhook` before it or the file goes.
                unsafe { queue.add(&hook.wait) };
                self.hooks.push(hook);
            }
            _ => self.failed = true,
        }
    }
}

#[allow(clippy::vec_box, reason = "a queued entry does not move")]
fn unhook(hooks: &mut Vec<Box<Hook>>) {
    for hook in hooks.drain(..) {
        // SAFETY: the queue lives as long as the file, which is there.
        unsafe { &*hook.queue }.remove(&hook.wait);
    }
}

impl Fasync {
    /// Nobody gets a signal.
    pub(super) const fn new() -> Self {
        Self {
            due: Link::new(),
            owner: SpinLock::new(IoOwner { pid: None, kind: PidType::Pid, uid: 0, euid: 0 }),
            signal: AtomicU32::new(0),
            fd: AtomicI32::new(0),
            news: AtomicU32::new(0),
            file: AtomicPtr::new(ptr::null_mut()),
            hooks: Mutex::new(Vec::new()),
        }
    }

    /// Who gets the signals.
    pub fn owner(&self) -> IoOwner {
        self.owner.lock().clone()
    }

    /// Sets who gets them.
    pub fn set_owner(&self, owner: IoOwner) {
        let old = core::mem::replace(&mut *self.owner.lock(), owner);
        drop(old);
    }

    /// Which signal (`F_GETSIG`).
    pub fn signal(&self) -> u32 {
        self.signal.load(Ordering::Relaxed)
    }

    /// Sets which signal (`F_SETSIG`).
    pub fn set_signal(&self, signal: u32) {
        self.signal.store(signal, Ordering::Relaxed);
    }
}

/// True if the file gives signals at all; for others `O_ASYNC` means nothing.
pub fn is_supported(file: &File) -> bool {
    use FileKind::{Inotify, Pipe, PtyMaster, Socket, Tty};
    matches!(file.kind, Pipe | Socket | Tty | PtyMaster | Inotify)
}

/// Turns the signals of a file on, which then name the descriptor `fd`, or off.
pub fn set(file: &File, fd: i32, on: bool) -> Result<()> {
    let fasync = file.fasync();
    let mut hooks = fasync.hooks.lock();
    if !on {
        unhook(&mut hooks);
        return Ok(());
    }
    fasync.fd.store(fd, Ordering::Relaxed);
    if !hooks.is_empty() {
        return Ok(());
    }
    fasync.file.store(ptr::from_ref(file).cast_mut(), Ordering::Release);
    let mut hooking = Hooking { fasync, hooks: &mut hooks, failed: false };
    let _ = file.ops().poll(file, &mut PollTable::new(&mut hooking));
    if hooking.failed {
        unhook(&mut hooks);
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

/// The file goes: nothing is due any more.
pub(super) fn release_file(file: &File) {
    let fasync = file.fasync();
    if fasync.file.load(Ordering::Acquire).is_null() {
        return; // Nobody has ever asked for them.
    }
    unhook(&mut fasync.hooks.lock());
    // Who tells of it at this moment is done with it first.
    let _sender = SENDER.lock();
    let _due = DUE.lock();
    if fasync.due.is_linked() {
        // SAFETY: the list's lock is held.
        unsafe { fasync.due.unlink() };
        UNSENT.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Sends the signals that are due; those that become so meanwhile are left to the kworker. May sleep. No reference to a
/// file is taken: it might be the last, and some files take their time to go.
pub fn deliver() {
    for _ in 0..UNSENT.load(Ordering::Acquire) {
        let _sender = SENDER.lock();
        let Some(file) = next_due() else { return };
        // SAFETY: a file goes only after `release_file`, which waits for the sender.
        let file = unsafe { &*file };
        let news = file.fasync().news.swap(0, Ordering::AcqRel);
        tell(file, news);
        UNSENT.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The caller is the sender.
fn next_due() -> Option<*const File> {
    let due = DUE.lock();
    // SAFETY: the list's lock is held; a file takes itself off the list, under it, before it goes.
    let fasync = unsafe { due.pop_front() }?;
    Some(fasync.file.load(Ordering::Acquire).cast_const())
}

/// Sends what `news` is about.
fn tell(file: &File, news: u32) {
    let events = PollFlags::from_bits_truncate(news);
    let mut reasons = [None; 3];
    if news & CHANGED != 0 {
        let ready = file.ops().poll(file, &mut PollTable::empty());
        reasons[0] = if file.kind == FileKind::Socket && ready.contains(PollFlags::HUP) {
            Some(Reason::HangUp)
        } else if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::RDHUP) {
            Some(Reason::In)
        } else if ready.intersects(PollFlags::OUT | PollFlags::ERR) {
            Some(Reason::Out)
        } else {
            None
        };
    }
    if events.contains(PollFlags::IN) {
        reasons[1] = Some(Reason::In);
    } else if events.contains(PollFlags::PRI) {
        reasons[1] = Some(Reason::Urgent);
    } else if events.contains(PollFlags::ERR) {
        reasons[1] = Some(Reason::Error);
    }
    if events.contains(PollFlags::OUT) {
        reasons[2] = Some(Reason::Out);
    }
    let fasync = file.fasync();
    let (owner, fd) = (fasync.owner(), fasync.fd.load(Ordering::Relaxed));
    for reason in reasons.into_iter().flatten() {
        let info = match fasync.signal() as i32 {
            0 => SigInfo::kernel(SIGIO),
            signal => SigInfo::io(signal, reason as i32, reason.band().bits(), fd),
        };
        hooks::send_io(&owner, info);
    }
}
