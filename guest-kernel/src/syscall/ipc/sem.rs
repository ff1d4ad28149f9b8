//! semget(2), semop(2), semtimedop(2), semctl(2).

use super::super::time::Timespec;
use super::super::{Args, SysResult};
use super::{Who, new_owner, shown};
use crate::errno::{Errno, Result};
use crate::ipc::sysv::abi::{
    GETALL, GETNCNT, GETPID, GETVAL, GETZCNT, IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, SEM_INFO,
    SEM_STAT, SEM_STAT_ANY, SEMAEM, SEMUSZ, SEMVMX, SETALL, SETVAL, Sembuf, Semid64Ds, Seminfo,
};
use crate::ipc::sysv::sem::{self, SemSet};
use crate::mm::UserPtr;
use crate::process::sysv::undo_list;
use crate::sched::Deadline;

/// semget(2).
pub fn sys_semget(a: &mut Args) -> SysResult {
    let who = Who::is_current();
    Ok(sem::get(&who.caller(), a.i32(0), a.i32(1), a.u32(2))? as usize)
}

fn operate(id: i32, ops: UserPtr<Sembuf>, n: u32, timeout: UserPtr<Timespec>) -> SysResult {
    let who = Who::is_current();
    // Linux reads the time first.
    let timeout = timeout.non_null().map(UserPtr::read).transpose()?;
    if n < 1 || id < 0 {
        return Err(Errno::EINVAL);
    }
    let [_, _, max_ops, _] = who.ns.limits.sem();
    if n as usize > max_ops {
        return Err(Errno::E2BIG);
    }
    let ops = ops.read_array(n as usize)?;
    let deadline = match timeout {
        Some(timeout) => Deadline::after(timeout.to_ns()?),
        None => Deadline::NEVER,
    };
    sem::operate(&who.caller(), id, ops, deadline, || undo_list(who.task))?;
    Ok(0)
}

/// semop(2).
pub fn sys_semop(a: &mut Args) -> SysResult {
    operate(a.i32(0), a.ptr(1), a.u32(2), UserPtr::new(0))
}

/// semtimedop(2).
pub fn sys_semtimedop(a: &mut Args) -> SysResult {
    operate(a.i32(0), a.ptr(1), a.u32(2), a.ptr(3))
}

fn describe(set: &SemSet) -> Semid64Ds {
    let state = set.shown();
    Semid64Ds {
        perm: shown(&state.perm),
        otime: state.otime,
        ctime: state.ctime,
        nsems: state.nsems as u64,
        ..Semid64Ds::default()
    }
}

fn info(who: &Who, cmd: u32) -> Seminfo {
    let [semmsl, semmns, semopm, semmni] = who.ns.limits.sem().map(|n| n as i32);
    let (semusz, semaem) = if cmd == SEM_INFO {
        (who.ns.sem.table.len() as i32, who.ns.sem.used() as i32)
    } else {
        (SEMUSZ, SEMAEM)
    };
    // The rest are Linux's words for what has no limit.
    let all = 32000 * 32000;
    Seminfo {
        semmap: all,
        semmni,
        semmns,
        semmnu: all,
        semmsl,
        semopm,
        semume: 500,
        semusz,
        semvmx: SEMVMX,
        semaem,
    }
}

/// semctl(2).
pub fn sys_semctl(a: &mut Args) -> SysResult {
    let (id, num, cmd) = (a.i32(0), a.i32(1), a.u32(2));
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let who = Who::is_current();
    let caller = who.caller();
    let table = &who.ns.sem.table;
    let get = || -> Result<_> { table.get(id) };
    match cmd {
        IPC_INFO | SEM_INFO => {
            a.ptr(3).write(info(&who, cmd))?;
            Ok(table.highest())
        }
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let set = if cmd == IPC_STAT { table.get(id) } else { table.at(id) }?;
            if cmd != SEM_STAT_ANY {
                set.check_read(&caller)?;
            }
            a.ptr(3).write(describe(&set))?;
            Ok(if cmd == IPC_STAT { 0 } else { set.number() as usize })
        }
        GETALL => {
            let values = get()?.values(&caller)?;
            a.ptr::<u16>(3).write_array(&values)?;
            Ok(0)
        }
        GETVAL => Ok(get()?.value(&caller, num)? as usize),
        GETPID => {
            let pid = get()?.last_pid(&caller, num)?;
            Ok(who.number_of(pid.as_deref()) as usize)
        }
        GETNCNT | GETZCNT => get()?.waiting(&caller, num, cmd == GETZCNT),
        SETALL => {
            let set = get()?;
            set.check_write(&caller)?;
            let values = a.ptr::<u16>(3).read_array(set.len())?;
            set.set_values(&caller, &values)?;
            Ok(0)
        }
        SETVAL => {
            let value = a.i32(3);
            if !(0..=SEMVMX).contains(&value) {
                return Err(Errno::ERANGE);
            }
            get()?.set_value(&caller, num, value)?;
            Ok(0)
        }
        IPC_SET => {
            let new = a.ptr::<Semid64Ds>(3).read()?;
            get()?.set(&caller, &new_owner(&new.perm)?)?;
            Ok(0)
        }
        IPC_RMID => {
            get()?.remove(&caller)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
