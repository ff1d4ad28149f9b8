//! mq_open(2), mq_unlink(2), mq_timedsend(2), mq_timedreceive(2), mq_notify(2), mq_getsetattr(2).

use super::super::fs::{UserPath, caller, fd_limit, fget};
use super::super::time::Timespec;
use super::super::{Args, SysResult};
use super::Who;
use crate::errno::{Errno, Result};
use crate::fs::{FMode, File, OpenFlags};
use crate::ipc::mqueue::queue::{COOKIE_LEN, Message, Notify};
use crate::ipc::mqueue::{PRIO_MAX, Size, fs};
use crate::kref::Ref;
use crate::mm::UserPtr;
use crate::net::netlink::Listener;
use crate::pod;
use crate::sched::Deadline;
use crate::signal::NSIG;
use crate::task;

/// `struct mq_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct MqAttr {
    flags: i64,
    maxmsg: i64,
    msgsize: i64,
    curmsgs: i64,
    reserved: [i64; 4],
}

/// `struct sigevent`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SigEvent {
    value: u64,
    signo: i32,
    notify: i32,
    pad: [u64; 6],
}

pod!(MqAttr, SigEvent);

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD: i32 = 2;

/// mq_open(2).
pub fn sys_mq_open(a: &mut Args) -> SysResult {
    let attr = match a.ptr::<MqAttr>(3).non_null() {
        Some(attr) => {
            let attr = attr.read()?;
            Some(Size { maxmsg: attr.maxmsg, msgsize: attr.msgsize })
        }
        None => None,
    };
    let name = UserPath::read(a.u64(0))?;
    let flags = OpenFlags::from_bits_truncate(a.u32(1));
    let who = Who::is_current();
    let slot = task::current().files().reserve(0, fd_limit(), true)?;
    let queues = (&who.ns.mq, &who.ns.common);
    let file = fs::open(caller(), queues, name.bytes(), flags, a.u32(2), attr)?;
    Ok(slot.install(file) as usize)
}

/// mq_unlink(2).
pub fn sys_mq_unlink(a: &mut Args) -> SysResult {
    let name = UserPath::read(a.u64(0))?;
    let who = Who::is_current();
    fs::unlink(caller(), (&who.ns.mq, &who.ns.common), name.bytes())?;
    Ok(0)
}

/// When to give up: never unless a time is given, and at once if the file does not wait.
fn deadline(timeout: Option<Timespec>, file: &File) -> Result<Option<Deadline>> {
    let deadline = match timeout {
        Some(time) => Deadline::realtime(time.to_ns()?),
        None => Deadline::NEVER,
    };
    Ok((!file.is_nonblocking()).then_some(deadline))
}

/// The time, if it is a possible one, and the queue's file, if it may be used so.
fn prepare(
    fd: i32,
    timeout: UserPtr<Timespec>,
    mode: FMode,
) -> Result<(Ref<File>, Option<Timespec>)> {
    let time = timeout.non_null().map(UserPtr::read).transpose()?;
    if let Some(time) = time {
        time.to_ns()?;
    }
    let file = fget(fd)?;
    fs::queue_of(&file)?;
    if !file.fmode().contains(mode) { Err(Errno::EBADF) } else { Ok((file, time)) }
}

/// mq_timedsend(2).
pub fn sys_mq_timedsend(a: &mut Args) -> SysResult {
    let (fd, from, len, priority) = (a.fd(0), a.ptr::<u8>(1), a.usize(2), a.u32(3));
    if priority >= PRIO_MAX {
        return Err(Errno::EINVAL);
    }
    let (file, time) = prepare(fd, a.ptr(4), FMode::WRITE)?;
    let queue = fs::queue_of(&file)?;
    if len as u64 > queue.size.msgsize as u64 {
        return Err(Errno::EMSGSIZE);
    }
    let text = from.read_array(len)?;
    queue.send(Message { priority, text }, deadline(time, &file)?)?;
    file.inode.touch_modified();
    Ok(0)
}

/// mq_timedreceive(2).
pub fn sys_mq_timedreceive(a: &mut Args) -> SysResult {
    let (fd, to, len, priority) = (a.fd(0), a.ptr::<u8>(1), a.usize(2), a.ptr::<u32>(3));
    let (file, time) = prepare(fd, a.ptr(4), FMode::READ)?;
    let queue = fs::queue_of(&file)?;
    if (len as u64) < queue.size.msgsize as u64 {
        return Err(Errno::EMSGSIZE);
    }
    let message = queue.receive(deadline(time, &file)?)?;
    file.inode.touch_modified();
    // A message that cannot be stored is lost, as on Linux.
    if let Some(to) = priority.non_null() {
        to.write(message.priority)?;
    }
    to.write_array(&message.text)?;
    Ok(message.text.len())
}

fn notification(event: &SigEvent) -> Result<Notify> {
    match event.notify {
        SIGEV_NONE => Ok(Notify::None),
        SIGEV_SIGNAL if (0..=NSIG as i32).contains(&event.signo) => {
            Ok(Notify::Signal(event.signo, event.value))
        }
        SIGEV_THREAD => {
            let cookie = UserPtr::<[u8; COOKIE_LEN]>::new(event.value).read()?;
            Ok(Notify::Thread(Listener::of(&*fget(event.signo)?)?, cookie))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// mq_notify(2).
pub fn sys_mq_notify(a: &mut Args) -> SysResult {
    let event = a.ptr::<SigEvent>(1).non_null().map(UserPtr::read).transpose()?;
    let how = event.as_ref().map(notification).transpose()?;
    let file = fget(a.fd(0))?;
    let queue = fs::queue_of(&file)?;
    let process = Who::is_current().pid;
    match how {
        None => queue.unwatch(&process),
        Some(how) => queue.watch(process, how)?,
    }
    Ok(0)
}

/// mq_getsetattr(2).
pub fn sys_mq_getsetattr(a: &mut Args) -> SysResult {
    let new = a.ptr::<MqAttr>(1).non_null().map(UserPtr::read).transpose()?;
    if new.is_some_and(|new| new.flags & !i64::from(OpenFlags::NONBLOCK.bits()) != 0) {
        return Err(Errno::EINVAL);
    }
    let file = fget(a.fd(0))?;
    let queue = fs::queue_of(&file)?;
    let old = MqAttr {
        flags: i64::from((file.flags() & OpenFlags::NONBLOCK).bits()),
        maxmsg: queue.size.maxmsg,
        msgsize: queue.size.msgsize,
        curmsgs: queue.len() as i64,
        reserved: [0; 4],
    };
    if let Some(new) = new {
        let rest = file.flags() - OpenFlags::NONBLOCK;
        file.set_flags(rest | OpenFlags::from_bits_truncate(new.flags as u32));
    }
    if let Some(to) = a.ptr::<MqAttr>(2).non_null() {
        to.write(old)?;
    }
    Ok(0)
}
