//! syslog(2): the kernel's log by system call.

use core::sync::atomic::Ordering;

use super::{Args, SysResult};
use crate::drivers::klog::{self, Span};
use crate::errno::{Errno, Result};
use crate::fs::UserBuf;
use crate::sync::Mutex;
use crate::task;
use crate::wait_event_interruptible;

const CLOSE: i32 = 0;
const OPEN: i32 = 1;
const READ: i32 = 2;
const READ_ALL: i32 = 3;
const READ_CLEAR: i32 = 4;
const CLEAR: i32 = 5;
const CONSOLE_OFF: i32 = 6;
const CONSOLE_ON: i32 = 7;
const CONSOLE_LEVEL: i32 = 8;
const SIZE_UNREAD: i32 = 9;
const SIZE_BUFFER: i32 = 10;

/// The place behind what `READ` has given away, counted over all that was ever logged.
static READ_UP_TO: Mutex<u64> = Mutex::new(0);

/// syslog(2).
pub fn sys_syslog(a: &mut Args) -> SysResult {
    let (action, addr, len) = (a.i32(0), a.u64(1), a.i32(2));
    if !task::current().cred().may_read_log() {
        return Err(Errno::EPERM);
    }
    match action {
        CLOSE | OPEN => Ok(0),
        READ => {
            let mut room = room(addr, len)?;
            if room.remaining() == 0 { Ok(0) } else { read(&mut room) }
        }
        READ_ALL | READ_CLEAR => {
            let mut room = room(addr, len)?;
            let cleared = klog::CLEARED.load(Ordering::Relaxed);
            let span = klog::span(cleared).last_lines(room.remaining());
            let n = put(&span, &mut room)?;
            if action == READ_CLEAR {
                klog::CLEARED.store(span.end, Ordering::Relaxed);
            }
            Ok(n)
        }
        CLEAR => {
            klog::CLEARED.store(klog::head(), Ordering::Relaxed);
            Ok(0)
        }
        CONSOLE_OFF => {
            klog::silence_console();
            Ok(0)
        }
        CONSOLE_ON => {
            klog::restore_console();
            Ok(0)
        }
        CONSOLE_LEVEL => {
            let level = u8::try_from(len).ok().filter(|level| (1..=8).contains(level));
            klog::set_console_level(level.ok_or(Errno::EINVAL)?);
            Ok(0)
        }
        SIZE_UNREAD => Ok(klog::span(*READ_UP_TO.lock()).len()),
        SIZE_BUFFER => Ok(klog::RING_SIZE),
        _ => Err(Errno::EINVAL),
    }
}

fn room(addr: u64, len: i32) -> Result<UserBuf<'static>> {
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    if addr == 0 {
        return Err(Errno::EINVAL);
    }
    UserBuf::user(addr, len)
}

/// Waits until there is something, and gives away what fits.
fn read(room: &mut UserBuf<'_>) -> SysResult {
    loop {
        let mut read = READ_UP_TO.lock();
        let span = klog::span(*read).first_lines(room.remaining());
        if !span.is_empty() {
            let n = put(&span, room)?;
            *read = span.start + n as u64;
            return Ok(n);
        }
        drop(read);
        wait_event_interruptible!(klog::READERS, klog::head() != span.end)?;
    }
}

/// Copies a part of the log out.
fn put(span: &Span, room: &mut UserBuf<'_>) -> SysResult {
    let mut chunk = [0; 256];
    let (mut at, mut done) = (span.start, 0);
    while at < span.end {
        let n = (span.end - at).min(chunk.len() as u64) as usize;
        for (byte, place) in chunk[..n].iter_mut().zip(at..) {
            *byte = klog::byte(place);
        }
        done += room.put(&chunk[..n])?;
        at += n as u64;
    }
    Ok(done)
}
