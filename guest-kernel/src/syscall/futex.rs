//! Calls about futexes: futex, futex_waitv, and the robust list.

use core::sync::atomic::Ordering;

use super::time::Timespec;
use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::ipc::futex::{self, BITSET_ANY};
use crate::ipc::futex_pi;
use crate::mm::UserPtr;
use crate::ns::time::WallClock;
use crate::process::access::{AccessMode, may_access};
use crate::process::clocks::time_ns;
use crate::sched::{ClockBase, Deadline, RestartBlock};
use crate::task::{self, list};
use crate::uapi::{
    FUTEX_CLOCK_REALTIME, FUTEX_CMP_REQUEUE, FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_PRIVATE_FLAG,
    FUTEX_REQUEUE, FUTEX_TRYLOCK_PI, FUTEX_UNLOCK_PI, FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAKE,
    FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};

/// The deadline that a futex call's timeout means: relative for `FUTEX_WAIT`, absolute else.
fn deadline(timeout: UserPtr<Timespec>, relative: bool, clock: ClockBase) -> Result<Deadline> {
    let Some(timeout) = timeout.non_null() else {
        return Ok(Deadline::NEVER);
    };
    let ns = timeout.read()?.to_ns()?;
    Ok(if relative {
        Deadline { clock, ns: clock.now().saturating_add(ns) }
    } else {
        // A time of the caller's time namespace; the wall clock is everybody's.
        let ns = match clock {
            ClockBase::Monotonic => time_ns().to_machine(WallClock::MONOTONIC, ns),
            ClockBase::Realtime => ns,
        };
        Deadline { clock, ns }
    })
}

/// Waits; an interrupted wait that had a deadline goes on through `restart_syscall`.
fn wait(addr: u64, flags: u32, value: u32, bitset: u32, deadline: Deadline) -> SysResult {
    let private = flags & FUTEX_PRIVATE_FLAG != 0;
    let limited = deadline != Deadline::NEVER;
    if limited {
        task::current().set_restart(RestartBlock::futex_wait(deadline, addr, value, flags, bitset));
    }
    match futex::wait(addr, private, value, bitset, deadline) {
        Err(Errno::ERESTARTSYS) if limited => Err(Errno::ERESTART_RESTARTBLOCK),
        result => {
            if limited {
                task::current().set_restart(RestartBlock::default());
            }
            result.map(|()| 0)
        }
    }
}

/// What `restart_syscall` does for an interrupted wait.
pub(super) fn restart(block: &RestartBlock) -> SysResult {
    wait(block.address, block.flags, block.value, block.bitset, block.deadline())
}

/// The calls about locks with priority inheritance.
fn pi(addr: u64, private: bool, command: u32, deadline: Result<Deadline>) -> SysResult {
    let me = task::current();
    let ns = me.thread_pid.own().ns();
    let tid = me.pid_nr(ns);
    if command == FUTEX_UNLOCK_PI {
        futex_pi::unlock(addr, private, tid)?;
        return Ok(0);
    }
    // Valid while the lock that `futex_pi` holds is held: the thread has not begun to exit.
    let owner = |nr| {
        let task = list::find_thread(nr, ns).filter(|t| !t.is_exiting()).ok_or(Errno::ESRCH)?;
        if task.is_kthread() {
            return Err(Errno::EPERM);
        }
        Ok(core::ptr::from_ref(&task.se))
    };
    let try_only = command == FUTEX_TRYLOCK_PI;
    let deadline = if try_only { Deadline::NEVER } else { deadline? };
    futex_pi::lock(addr, private, tid, deadline, try_only, owner)?;
    Ok(0)
}

/// futex(2).
pub fn sys_futex(a: &mut Args) -> SysResult {
    let (addr, op, value) = (a.u64(0), a.u32(1), a.u32(2));
    let (addr2, value3) = (a.u64(4), a.u32(5));
    let private = op & FUTEX_PRIVATE_FLAG != 0;
    let realtime = op & FUTEX_CLOCK_REALTIME != 0;
    let clock = if realtime { ClockBase::Realtime } else { ClockBase::Monotonic };
    let command = op & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    let takes_clock = [FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_LOCK_PI2];
    if realtime && !takes_clock.contains(&command) {
        return Err(Errno::ENOSYS);
    }
    // A negative count wakes one, as on Linux; larger ones than there are waiters wake all.
    let count = |n: u32| if (n as i32) < 1 { 1 } else { n };
    let requeue = |expected| {
        let (wake, requeue) = (a.i32(2), a.i32(3));
        if wake < 0 || requeue < 0 {
            return Err(Errno::EINVAL);
        }
        futex::requeue(addr, addr2, private, wake as u32, requeue as u32, expected)
    };
    let n = match command {
        FUTEX_WAIT => {
            let deadline = deadline(a.ptr(3), true, clock)?;
            return wait(addr, op, value, BITSET_ANY, deadline);
        }
        FUTEX_WAIT_BITSET => {
            let deadline = deadline(a.ptr(3), false, clock)?;
            return wait(addr, op, value, value3, deadline);
        }
        FUTEX_WAKE => futex::wake(addr, private, count(value), BITSET_ANY)?,
        FUTEX_WAKE_BITSET => futex::wake(addr, private, count(value), value3)?,
        FUTEX_REQUEUE => requeue(None)?,
        FUTEX_CMP_REQUEUE => requeue(Some(value3))?,
        FUTEX_WAKE_OP => {
            futex::wake_op(addr, addr2, private, count(value), count(a.u32(3)), value3)?
        }
        FUTEX_LOCK_PI | FUTEX_LOCK_PI2 | FUTEX_TRYLOCK_PI | FUTEX_UNLOCK_PI => {
            let old = command == FUTEX_LOCK_PI;
            let clock = if old { ClockBase::Realtime } else { clock };
            return pi(addr, private, command, deadline(a.ptr(3), false, clock));
        }
        _ => return Err(Errno::ENOSYS),
    };
    Ok(n as usize)
}

/// Bytes of `struct robust_list_head`.
const ROBUST_LIST_HEAD_SIZE: usize = 24;

/// set_robust_list(2).
pub fn sys_set_robust_list(a: &mut Args) -> SysResult {
    if a.usize(1) != ROBUST_LIST_HEAD_SIZE {
        return Err(Errno::EINVAL);
    }
    task::current().robust_list.store(a.u64(0), Ordering::Relaxed);
    Ok(0)
}

/// get_robust_list(2).
pub fn sys_get_robust_list(a: &mut Args) -> SysResult {
    let me = task::current();
    let head = match a.i32(0) {
        0 => me.robust_list.load(Ordering::Relaxed),
        pid => {
            let pid = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
            let target = list::find_thread(pid, me.thread_pid.own().ns()).ok_or(Errno::ESRCH)?;
            if !may_access(&target, AccessMode::RealCreds) {
                return Err(Errno::EPERM);
            }
            target.robust_list.load(Ordering::Relaxed)
        }
    };
    a.ptr::<usize>(2).write(ROBUST_LIST_HEAD_SIZE)?;
    a.ptr::<u64>(1).write(head)?;
    Ok(0)
}
