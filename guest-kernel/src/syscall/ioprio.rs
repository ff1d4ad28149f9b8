//! ioprio_set(2), ioprio_get(2).

use core::sync::atomic::Ordering;

use super::sched::for_each;
use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::ns::Cap;
use crate::sched::Policy;
use crate::task::{self, Task};

/// Bits below the class.
const CLASS_SHIFT: u32 = 13;
const CLASS_MASK: u32 = 7;
/// Of these, what is the level; the others are hints, which nobody needs to take.
const LEVEL_MASK: u32 = 7;
/// `IOPRIO_CLASS_*`.
const NONE: u32 = 0;
const REAL_TIME: u32 = 1;
const BEST_EFFORT: u32 = 2;
const IDLE: u32 = 3;

/// `which` of these calls is that of setpriority(2) and one more (`IOPRIO_WHO_*`).
const PROCESS: u32 = 1;

/// What setpriority(2) calls it; `EINVAL` if there is no such.
fn which(a: &Args) -> Result<u32> {
    a.u32(0).checked_sub(PROCESS).ok_or(Errno::EINVAL)
}

fn check(priority: u32) -> Result<()> {
    let (class, level) = ((priority >> CLASS_SHIFT) & CLASS_MASK, priority & LEVEL_MASK);
    match class {
        REAL_TIME => {
            let cred = task::current().cred();
            if !cred.capable(Cap::SysAdmin) && !cred.capable(Cap::SysNice) {
                return Err(Errno::EPERM);
            }
        }
        NONE if level != 0 => return Err(Errno::EINVAL),
        BEST_EFFORT | IDLE | NONE => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// ioprio_set(2).
pub fn sys_ioprio_set(a: &mut Args) -> SysResult {
    // Linux keeps sixteen bits.
    let priority = u32::from(a.u32(2) as u16);
    check(priority)?;
    let mut result = Ok(0);
    for_each(which(a)?, a.i32(1), |target| {
        let cred = task::current().cred();
        let same = target.cred.with(|t| t.uid == cred.euid || t.uid == cred.uid);
        if result.is_err() {
            // The first that refuses ends it.
        } else if same || cred.capable(Cap::SysNice) {
            target.io_priority.store(priority, Ordering::Relaxed);
        } else {
            result = Err(Errno::EPERM);
        }
    })?;
    result
}

/// How urgent a task's I/O is: what it set, or what its scheduling says.
fn effective(task: &Task) -> u32 {
    let own = task.io_priority.load(Ordering::Relaxed);
    if own >> CLASS_SHIFT != NONE {
        return own;
    }
    let class = match task.se.policy() {
        Policy::Idle => IDLE,
        policy if policy.is_rt() => REAL_TIME,
        _ => BEST_EFFORT,
    };
    (class << CLASS_SHIFT) | ((task.se.nice() + 20) as u32 / 5)
}

/// ioprio_get(2): of a process what was set, of several the most urgent.
pub fn sys_ioprio_get(a: &mut Args) -> SysResult {
    let which = which(a)?;
    let mut best = u32::MAX;
    for_each(which, a.i32(1), |target| {
        let one = match which {
            0 => target.io_priority.load(Ordering::Relaxed),
            _ => effective(target),
        };
        best = best.min(one);
    })?;
    Ok(best as usize)
}
