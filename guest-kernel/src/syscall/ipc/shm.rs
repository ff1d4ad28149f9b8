//! shmget(2), shmat(2), shmdt(2), shmctl(2).

use core::sync::atomic::Ordering;

use super::super::{Args, SysResult};
use super::{Who, new_owner, shown};
use crate::arch::untagged;
use crate::errno::Errno;
use crate::ipc::sysv::abi::{
    IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, SHM_INFO, SHM_LOCK, SHM_STAT, SHM_STAT_ANY, SHM_UNLOCK,
    ShmInfo, Shmid64Ds, Shminfo64,
};
use crate::ipc::sysv::shm::{self, Segment};
use crate::task::current_mm;
use crate::task::rlimit::Resource;

/// shmget(2).
pub fn sys_shmget(a: &mut Args) -> SysResult {
    let who = Who::is_current();
    let thread = who.task.thread_pid.share();
    Ok(shm::get(&who.caller(), thread, a.i32(0), a.u64(1), a.u32(2))? as usize)
}

/// shmat(2).
pub fn sys_shmat(a: &mut Args) -> SysResult {
    let who = Who::is_current();
    let mm = current_mm()?;
    Ok(shm::attach(&who.caller(), mm, a.i32(0), untagged(a.u64(1)), a.u32(2))? as usize)
}

/// shmdt(2).
pub fn sys_shmdt(a: &mut Args) -> SysResult {
    shm::detach(current_mm()?, untagged(a.u64(0)))?;
    Ok(0)
}

fn describe(who: &Who, segment: &Segment) -> Shmid64Ds {
    let state = segment.state();
    Shmid64Ds {
        perm: shown(&state.perm),
        segsz: segment.size,
        atime: state.atime,
        dtime: state.dtime,
        ctime: state.ctime,
        cpid: who.number_of(Some(&state.cpid)),
        lpid: who.number_of(state.lpid.as_deref()),
        nattch: state.nattch,
        ..Shmid64Ds::default()
    }
}

/// shmctl(2).
pub fn sys_shmctl(a: &mut Args) -> SysResult {
    let (id, cmd) = (a.i32(0), a.u32(1));
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let who = Who::is_current();
    let caller = who.caller();
    let segments = &who.ns.shm;
    match cmd {
        IPC_INFO => {
            let limits = &who.ns.limits;
            let shmmni = limits.shmmni.load(Ordering::Relaxed) as u64;
            a.ptr(2).write(Shminfo64 {
                shmmax: limits.shmmax.load(Ordering::Relaxed),
                shmmin: 1,
                shmmni,
                shmseg: shmmni,
                shmall: limits.shmall.load(Ordering::Relaxed),
                ..Shminfo64::default()
            })?;
            Ok(segments.table.highest())
        }
        SHM_INFO => {
            a.ptr::<ShmInfo>(2).write(segments.info())?;
            Ok(segments.table.highest())
        }
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let segment =
                if cmd == IPC_STAT { segments.table.get(id) } else { segments.table.at(id) }?;
            if cmd != SHM_STAT_ANY {
                segment.check_read(&caller)?;
            }
            a.ptr(2).write(describe(&who, &segment))?;
            Ok(if cmd == IPC_STAT { 0 } else { segment.number() as usize })
        }
        IPC_SET => {
            let new = a.ptr::<Shmid64Ds>(2).read()?;
            segments.table.get(id)?.set(&caller, &new_owner(&new.perm)?)?;
            Ok(0)
        }
        IPC_RMID => {
            segments.table.get(id)?.remove(&caller)?;
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => {
            let memlock = who.task.signal.rlimits.soft(Resource::Memlock);
            segments.table.get(id)?.set_locked(&caller, cmd == SHM_LOCK, memlock)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
