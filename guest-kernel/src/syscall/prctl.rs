//! prctl(2).

use core::sync::atomic::Ordering;

use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::mm::{Dumpable, UserPtr};
use crate::ns::cred::{SECBIT_KEEP_CAPS, SECBIT_NO_CAP_AMBIENT_RAISE};
use crate::ns::{Cap, CapSet, Cred};
use crate::process::creds::commit_creds;
use crate::signal::is_valid;
use crate::task;

/// prctl(2): the operations that concern what this kernel has; others are `EINVAL`.
pub fn sys_prctl(a: &mut Args) -> SysResult {
    let task = task::current();
    let (arg2, arg3, arg4, arg5) = (a.u64(1), a.u64(2), a.u64(3), a.u64(4));
    let flag = |value: u64| match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::EINVAL),
    };
    match a.i32(0) {
        // PR_SET_PDEATHSIG
        1 => {
            let sig = arg2 as i32;
            if sig != 0 && !is_valid(sig) {
                return Err(Errno::EINVAL);
            }
            task.pdeath_signal.store(sig, Ordering::Relaxed);
        }
        // PR_GET_PDEATHSIG
        2 => UserPtr::<i32>::new(arg2).write(task.pdeath_signal.load(Ordering::Relaxed))?,
        // PR_GET_DUMPABLE, PR_SET_DUMPABLE
        3 => return Ok(task.mm().map_or(Dumpable::No, |mm| mm.dumpable()) as usize),
        4 => {
            let to = if flag(arg2)? { Dumpable::User } else { Dumpable::No };
            if let Some(mm) = task.mm() {
                mm.set_dumpable(to);
            }
        }
        // PR_GET_KEEPCAPS, PR_SET_KEEPCAPS
        7 => return Ok(usize::from(task.cred().securebits & SECBIT_KEEP_CAPS != 0)),
        8 => {
            let keep = flag(arg2)?;
            if task.cred().securebits & SECBIT_KEEP_CAPS << 1 != 0 {
                return Err(Errno::EPERM);
            }
            change(|c| {
                c.securebits &= !SECBIT_KEEP_CAPS;
                c.securebits |= if keep { SECBIT_KEEP_CAPS } else { 0 };
            })?;
        }
        // PR_SET_NAME, PR_GET_NAME
        15 => {
            let mut name = [0; task::TASK_COMM_LEN];
            for (i, byte) in name[..task::TASK_COMM_LEN - 1].iter_mut().enumerate() {
                *byte = UserPtr::<u8>::new(arg2.wrapping_add(i as u64)).read()?;
                if *byte == 0 {
                    break;
                }
            }
            *task.comm.lock() = name;
        }
        16 => UserPtr::<[u8; 16]>::new(arg2).write(task.comm().0)?,
        // PR_CAPBSET_READ, PR_CAPBSET_DROP
        23 if arg2 <= Cap::CheckpointRestore as u64 => {
            return Ok((task.cred().cap_bounding.0 >> arg2 & 1) as usize);
        }
        24 if arg2 <= Cap::CheckpointRestore as u64 => {
            if !task.cred().own_capable(Cap::Setpcap) {
                return Err(Errno::EPERM);
            }
            change(|c| c.cap_bounding.0 &= !(1 << arg2))?;
        }
        // PR_GET_SECCOMP, PR_SET_SECCOMP
        21 => return super::seccomp::prctl_get(),
        22 => return super::seccomp::prctl_set(arg2, arg3),
        // PR_GET_SECUREBITS
        27 => return Ok(task.cred().securebits as usize),
        // PR_SET_SECUREBITS
        28 => set_securebits(arg2)?,
        // PR_GET_TIMING, PR_SET_TIMING: statistical, as the only way.
        13 => {}
        14 if arg2 == 0 => {}
        // PR_SET_TIMERSLACK, PR_GET_TIMERSLACK
        29 => {
            let default = task.default_timer_slack.load(Ordering::Relaxed);
            let slack = if arg2 as i64 <= 0 { default } else { arg2 };
            task.timer_slack.store(slack, Ordering::Relaxed);
        }
        30 => return Ok(task.timer_slack.load(Ordering::Relaxed) as usize),
        // PR_SET_THP_DISABLE, PR_GET_THP_DISABLE
        41 if arg3 | arg4 | arg5 == 0 => {
            if let Some(mm) = task.mm() {
                mm.no_huge_pages.store(arg2 != 0, Ordering::Relaxed);
            }
        }
        42 if arg2 | arg3 | arg4 | arg5 == 0 => {
            let off = task.mm().is_some_and(|mm| mm.no_huge_pages.load(Ordering::Relaxed));
            return Ok(usize::from(off));
        }
        // PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER
        36 => task.signal.is_child_subreaper.store(arg2 != 0, Ordering::Relaxed),
        37 => {
            let on = task.signal.is_child_subreaper.load(Ordering::Relaxed);
            UserPtr::<i32>::new(arg2).write(i32::from(on))?;
        }
        // PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS
        38 => {
            if arg2 != 1 || arg3 | arg4 | arg5 != 0 {
                return Err(Errno::EINVAL);
            }
            task.set_no_new_privs();
        }
        39 => {
            if arg2 | arg3 | arg4 | arg5 != 0 {
                return Err(Errno::EINVAL);
            }
            return Ok(usize::from(task.has_no_new_privs()));
        }
        // PR_GET_TID_ADDRESS
        40 => UserPtr::<u64>::new(arg2).write(task.clear_child_tid.load(Ordering::Relaxed))?,
        // PR_CAP_AMBIENT
        47 => return ambient(arg2, arg3, arg4 | arg5),
        // PR_SET_VMA (anonymous names) is optional in Linux too.
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Installs what `edit` makes of the caller's credentials.
fn change(edit: impl FnOnce(&mut Cred)) -> Result<()> {
    let task = task::current();
    let cred = task.cred().with(edit)?;
    commit_creds(task, cred);
    Ok(())
}

/// PR_SET_SECUREBITS.
fn set_securebits(raw: u64) -> Result<()> {
    let new = u32::try_from(raw).map_err(|_| Errno::EPERM)?;
    if !task::current().cred().may_set_securebits(new) {
        return Err(Errno::EPERM);
    }
    change(|c| c.securebits = new)
}

/// PR_CAP_AMBIENT: capabilities that programs without any of their own inherit (capabilities(7)).
fn ambient(what: u64, cap: u64, rest: u64) -> SysResult {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    if what == CLEAR_ALL {
        if cap | rest != 0 {
            return Err(Errno::EINVAL);
        }
        return change(|c| c.cap_ambient = CapSet::EMPTY).map(|()| 0);
    }
    if cap > Cap::CheckpointRestore as u64 || rest != 0 {
        return Err(Errno::EINVAL);
    }
    let cred = task::current().cred();
    let bit = CapSet(1 << cap);
    match what {
        IS_SET => return Ok(usize::from(bit.is_within(cred.cap_ambient))),
        RAISE => {
            let held = cred.cap_permitted.and(cred.cap_inheritable);
            if !bit.is_within(held) || cred.securebits & SECBIT_NO_CAP_AMBIENT_RAISE != 0 {
                return Err(Errno::EPERM);
            }
            change(|c| c.cap_ambient = c.cap_ambient.or(bit))?;
        }
        LOWER => change(|c| c.cap_ambient = c.cap_ambient.without(bit))?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
