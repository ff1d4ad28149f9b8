//! Waiting for files: ppoll(2), pselect6(2), epoll(7), and eventfd2(2).

use alloc::vec::Vec;

use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::fs::epoll::{self, EpollEvent, EpollFile, EpollSet};
use crate::fs::eventfd::EventFd;
use crate::fs::poller::Poller;
use crate::fs::{File, OpenFlags, PollFlags, anon};
use crate::kref::Ref;
use crate::mm::{UserPtr, try_box};
use crate::process::signal::{restore_saved_mask, set_mask_for_call};
use crate::sched::clock::{Deadline, NSEC_PER_SEC};
use crate::signal::SigSet;
use crate::task::rlimit::Resource;
use crate::task::{self, Task};

/// `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}
crate::pod!(PollFd);

/// `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy)]
struct TimeSpec {
    sec: i64,
    nsec: i64,
}
crate::pod!(TimeSpec);

/// A timeout that a program gave, and where to leave what was left of it.
struct Timeout {
    user: Option<UserPtr<TimeSpec>>,
    deadline: Deadline,
}

impl Timeout {
    /// Reads a relative timeout; null waits for ever.
    fn read(addr: u64) -> Result<Self> {
        let Some(user) = UserPtr::<TimeSpec>::new(addr).non_null() else {
            return Ok(Self { user: None, deadline: Deadline::NEVER });
        };
        let TimeSpec { sec, nsec } = user.read()?;
        let sec = u64::try_from(sec).map_err(|_| Errno::EINVAL)?;
        let nsec = u64::try_from(nsec).map_err(|_| Errno::EINVAL)?;
        if nsec >= NSEC_PER_SEC {
            return Err(Errno::EINVAL);
        }
        let ns = sec.saturating_mul(NSEC_PER_SEC).saturating_add(nsec);
        Ok(Self { user: Some(user), deadline: Deadline::after(ns) })
    }

    /// A timeout in milliseconds; negative waits for ever.
    fn from_millis(ms: i32) -> Self {
        let deadline = match u64::try_from(ms) {
            Ok(ms) => Deadline::after(ms * 1_000_000),
            Err(_) => Deadline::NEVER,
        };
        Self { user: None, deadline }
    }

    /// Stores the time that was left. A program that made its timeout read-only gets the result of the
    /// call all the same.
    fn store_rest(&self) {
        if let Some(user) = self.user {
            let left = self.deadline.remaining();
            let rest =
                TimeSpec { sec: (left / NSEC_PER_SEC) as i64, nsec: (left % NSEC_PER_SEC) as i64 };
            let _ = user.write(rest);
        }
    }
}

/// Runs a wait with the signal mask that the program gave for its length.
fn with_mask(addr: u64, size: usize, wait: impl FnOnce() -> SysResult) -> SysResult {
    let task = task::current();
    if addr != 0 {
        if size != size_of::<SigSet>() {
            return Err(Errno::EINVAL);
        }
        set_mask_for_call(task, SigSet(UserPtr::<u64>::new(addr).read()?));
    }
    let result = wait();
    // An interrupted call leaves the mask to signal delivery, which saves the old one for the handler.
    let interrupted = matches!(result, Err(Errno::ERESTARTNOHAND | Errno::EINTR));
    if addr != 0 && !interrupted {
        restore_saved_mask(task);
    }
    result
}

/// One file of a wait: what is asked and what is true.
struct Asked {
    file: Option<Ref<File>>,
    interest: PollFlags,
    ready: PollFlags,
}

impl Asked {
    fn new(task: &Task, fd: i32, interest: PollFlags) -> Self {
        let file = if fd < 0 { None } else { task.files().get(fd).ok() };
        let missing = fd >= 0 && file.is_none();
        let ready = if missing { PollFlags::NVAL } else { PollFlags::empty() };
        Self { file, interest: interest | PollFlags::ERR | PollFlags::HUP, ready }
    }
}

/// Waits until a file is ready for what is asked, or the deadline; counts those that are.
fn wait_for_any(asked: &mut [Asked], deadline: Deadline) -> Result<usize> {
    let mut poller = Poller::new();
    let mut first = true;
    loop {
        let mut count = asked.iter().filter(|a| a.ready == PollFlags::NVAL).count();
        // Once one is ready there is no need to queue on the others.
        let wait = first && !deadline.has_passed();
        for one in asked.iter_mut() {
            if let Some(file) = &one.file {
                one.ready = poller.ask(file, one.interest, wait && count == 0) & one.interest;
                count += usize::from(!one.ready.is_empty());
            }
        }
        if count > 0 {
            return Ok(count);
        }
        if first && deadline.has_passed() {
            let interrupted = task::current().se.signal_pending();
            return if interrupted { Err(Errno::ERESTARTNOHAND) } else { Ok(0) };
        }
        first = false;
        match poller.sleep(deadline) {
            Err(Errno::ETIMEDOUT) => return Ok(last_look(asked, &mut poller)),
            Err(Errno::ERESTARTSYS) => return Err(Errno::ERESTARTNOHAND),
            result => result?,
        }
    }
}

/// A last look when the time is over; counts those that are ready.
fn last_look(asked: &mut [Asked], poller: &mut Poller) -> usize {
    for one in asked.iter_mut() {
        if let Some(file) = &one.file {
            one.ready = poller.ask(file, one.interest, false) & one.interest;
        }
    }
    asked.iter().filter(|a| !a.ready.is_empty()).count()
}

/// ppoll(2): fds, nfds, timeout, sigmask, size of the mask.
pub fn sys_ppoll(a: &mut Args) -> SysResult {
    let (fds, n) = (UserPtr::<PollFd>::new(a.u64(0)), a.u32(1) as usize);
    let timeout = Timeout::read(a.u64(2))?;
    let result = with_mask(a.u64(3), a.usize(4), || {
        let task = task::current();
        if n as u64 > task.signal.rlimits.soft(Resource::Nofile) {
            return Err(Errno::EINVAL);
        }
        let polled = fds.read_array(n)?;
        let mut asked = Vec::new();
        asked.try_reserve_exact(n).map_err(|_| Errno::ENOMEM)?;
        for p in &polled {
            let interest = PollFlags::from_bits_truncate(u32::from(p.events as u16));
            asked.push(Asked::new(task, p.fd, interest));
        }
        let count = wait_for_any(&mut asked, timeout.deadline)?;
        for (i, one) in asked.iter().enumerate() {
            fds.add(i).byte_add(6).cast::<i16>().write(one.ready.bits() as i16)?;
        }
        Ok(count)
    });
    timeout.store_rest();
    result
}

/// What makes a descriptor "readable", "writable" and "exceptional" to select(2).
const SELECT_EVENTS: [PollFlags; 3] = [
    PollFlags::READABLE.union(PollFlags::RDBAND).union(PollFlags::HUP).union(PollFlags::ERR),
    PollFlags::WRITABLE.union(PollFlags::WRBAND).union(PollFlags::ERR),
    PollFlags::PRI,
];

/// pselect6(2): nfds, three sets, timeout, pointer to the mask and its size.
pub fn sys_pselect6(a: &mut Args) -> SysResult {
    let n = usize::try_from(a.i32(0)).map_err(|_| Errno::EINVAL)?;
    let sets = [a.u64(1), a.u64(2), a.u64(3)].map(UserPtr::<u64>::new);
    let timeout = Timeout::read(a.u64(4))?;
    let (mask, size) = match UserPtr::<[u64; 2]>::new(a.u64(5)).non_null() {
        Some(pair) => pair.read().map(|[mask, size]| (mask, size as usize))?,
        None => (0, 0),
    };
    let result = with_mask(mask, size, || select(n, sets, timeout.deadline));
    timeout.store_rest();
    result
}

fn select(n: usize, sets: [UserPtr<u64>; 3], deadline: Deadline) -> SysResult {
    let task = task::current();
    let n = n.min(task.files().capacity());
    let words = n.div_ceil(64);
    let mut wanted: [Vec<u64>; 3] = Default::default();
    for (set, words_of) in sets.iter().zip(&mut wanted) {
        if !set.is_null() {
            *words_of = set.read_array(words)?;
        }
    }
    let has = |set: &[u64], fd: usize| set.get(fd / 64).is_some_and(|w| w & 1 << (fd % 64) != 0);
    let mut fds = Vec::new();
    let mut asked = Vec::new();
    for fd in 0..n {
        let mut interest = PollFlags::empty();
        for (set, events) in wanted.iter().zip(SELECT_EVENTS) {
            if has(set, fd) {
                interest |= events;
            }
        }
        if interest.is_empty() {
            continue;
        }
        let one = Asked::new(task, fd as i32, interest);
        if one.file.is_none() {
            return Err(Errno::EBADF);
        }
        fds.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        asked.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        fds.push(fd);
        // Errors and hangups count only where the sets say so.
        asked.push(Asked { interest, ..one });
    }
    wait_for_any(&mut asked, deadline)?;
    let mut count = 0;
    for ((user, set), events) in sets.iter().zip(&mut wanted).zip(SELECT_EVENTS) {
        if user.is_null() {
            continue;
        }
        for (&fd, one) in fds.iter().zip(&asked) {
            if has(set, fd) {
                if (one.ready & events).is_empty() {
                    set[fd / 64] &= !(1 << (fd % 64));
                } else {
                    count += 1;
                }
            }
        }
        // Bits from `n` on, which share the last word, are cleared.
        if !n.is_multiple_of(64)
            && let Some(last) = set.last_mut()
        {
            *last &= (1 << (n % 64)) - 1;
        }
        user.write_array(set)?;
    }
    Ok(count)
}

/// Puts a file without a name into the caller's table.
fn install(file: Ref<File>, cloexec: bool) -> SysResult {
    let task = task::current();
    let limit = task.signal.rlimits.soft(Resource::Nofile) as usize;
    Ok(task.files().install(file, 0, limit, cloexec)? as usize)
}

/// eventfd2(2).
pub fn sys_eventfd2(a: &mut Args) -> SysResult {
    const EFD_SEMAPHORE: u32 = 1;
    let (count, raw) = (a.u32(0), a.u32(1));
    let flags = OpenFlags::from_bits_truncate(raw & !EFD_SEMAPHORE);
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    if raw & !EFD_SEMAPHORE & !allowed.bits() != 0 {
        return Err(Errno::EINVAL);
    }
    let ops = EventFd::new(count.into(), raw & EFD_SEMAPHORE != 0);
    let flags = flags | OpenFlags::RDWR;
    let file = anon::new_file("[eventfd]", try_box(ops)?, flags)?;
    install(file, flags.contains(OpenFlags::CLOEXEC))
}

/// epoll_create1(2).
pub fn sys_epoll_create1(a: &mut Args) -> SysResult {
    let flags = a.u32(0);
    if flags & !OpenFlags::CLOEXEC.bits() != 0 {
        return Err(Errno::EINVAL);
    }
    let ops = EpollFile::new(EpollSet::new()?);
    let file = anon::new_file("[eventpoll]", try_box(ops)?, OpenFlags::RDWR)?;
    install(file, flags != 0)
}

/// epoll_ctl(2): epfd, op, fd, event.
pub fn sys_epoll_ctl(a: &mut Args) -> SysResult {
    const EPOLL_CTL_ADD: i32 = 1;
    const EPOLL_CTL_DEL: i32 = 2;
    const EPOLL_CTL_MOD: i32 = 3;
    let (op, fd) = (a.i32(1), a.fd(2));
    let event = match op {
        EPOLL_CTL_DEL => EpollEvent::default(),
        _ => UserPtr::<EpollEvent>::new(a.u64(3)).read()?,
    };
    let files = task::current().files();
    let epfile = files.get(a.fd(0))?;
    let file = files.get(fd)?;
    let set = epoll::set_of(&epfile).ok_or(Errno::EINVAL)?;
    if Ref::ptr_eq(&epfile, &file) {
        return Err(Errno::EINVAL);
    }
    if !file.ops().is_pollable() {
        return Err(Errno::EPERM);
    }
    match op {
        EPOLL_CTL_ADD => set.add(fd, &file, event)?,
        EPOLL_CTL_DEL => set.delete(fd, &file)?,
        EPOLL_CTL_MOD => set.modify(fd, &file, event)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn epoll_wait(fd: i32, events: u64, max: i32, deadline: Deadline) -> SysResult {
    let max = usize::try_from(max).ok().filter(|&n| n > 0).ok_or(Errno::EINVAL)?;
    let file = task::current().files().get(fd)?;
    let set = epoll::set_of(&file).ok_or(Errno::EINVAL)?;
    let user = UserPtr::<EpollEvent>::new(events);
    set.wait(max, deadline, &mut |i, event| user.add(i).write(event))
}

/// epoll_pwait(2): epfd, events, maxevents, timeout in milliseconds, sigmask, its size.
pub fn sys_epoll_pwait(a: &mut Args) -> SysResult {
    let timeout = Timeout::from_millis(a.i32(3));
    with_mask(a.u64(4), a.usize(5), || epoll_wait(a.fd(0), a.u64(1), a.i32(2), timeout.deadline))
}

/// epoll_pwait2(2): as epoll_pwait(2) with a `struct timespec`.
pub fn sys_epoll_pwait2(a: &mut Args) -> SysResult {
    let timeout = Timeout::read(a.u64(3))?;
    with_mask(a.u64(4), a.usize(5), || epoll_wait(a.fd(0), a.u64(1), a.i32(2), timeout.deadline))
}
