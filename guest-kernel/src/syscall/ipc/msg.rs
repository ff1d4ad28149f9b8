//! msgget(2), msgsnd(2), msgrcv(2), msgctl(2).

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::super::{Args, SysResult};
use super::{Who, new_owner, shown};
use crate::errno::Errno;
use crate::ipc::sysv::abi::{
    IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT, MSG_COPY, MSG_EXCEPT, MSG_INFO, MSG_STAT,
    MSG_STAT_ANY, MSGMNB, MSGPOOL, MSGSSZ, Msginfo, Msqid64Ds,
};
use crate::ipc::sysv::msg::{self, Message, MsgQueue};
use crate::mm::UserPtr;

/// msgget(2).
pub fn sys_msgget(a: &mut Args) -> SysResult {
    let who = Who::is_current();
    Ok(msg::get(&who.caller(), a.i32(0), a.u32(1))? as usize)
}

/// msgsnd(2).
pub fn sys_msgsnd(a: &mut Args) -> SysResult {
    let (id, from, len, flags) = (a.i32(0), a.ptr::<i64>(1), a.usize(2), a.u32(3));
    let who = Who::is_current();
    let kind = from.read()?;
    if len > who.ns.limits.max_message() || id < 0 || kind < 1 {
        return Err(Errno::EINVAL);
    }
    let text: Vec<u8> = from.byte_add(size_of::<i64>()).cast::<u8>().read_array(len)?;
    msg::send(&who.caller(), id, Message { kind, text }, flags)?;
    Ok(0)
}

/// msgrcv(2).
pub fn sys_msgrcv(a: &mut Args) -> SysResult {
    let (id, to, len) = (a.i32(0), a.ptr::<i64>(1), a.i64(2));
    let (kind, flags) = (a.i64(3), a.u32(4));
    let max = usize::try_from(len).ok().filter(|_| id >= 0).ok_or(Errno::EINVAL)?;
    if flags & MSG_COPY != 0 && (flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0) {
        return Err(Errno::EINVAL);
    }
    let who = Who::is_current();
    let message = msg::receive(&who.caller(), id, max, kind, flags)?;
    let text = &message.text[..message.text.len().min(max)];
    // A message that cannot be stored is lost, as on Linux.
    to.write(message.kind)?;
    to.byte_add(size_of::<i64>()).cast::<u8>().write_array(text)?;
    Ok(text.len())
}

fn describe(who: &Who, queue: &MsgQueue) -> Msqid64Ds {
    let state = queue.shown();
    Msqid64Ds {
        perm: shown(&state.perm),
        stime: state.stime,
        rtime: state.rtime,
        ctime: state.ctime,
        cbytes: state.cbytes as u64,
        qnum: state.qnum as u64,
        qbytes: state.qbytes as u64,
        lspid: who.number_of(state.lspid.as_deref()),
        lrpid: who.number_of(state.lrpid.as_deref()),
        ..Msqid64Ds::default()
    }
}

fn info(who: &Who, cmd: u32) -> Msginfo {
    let limits = &who.ns.limits;
    let (messages, bytes) = who.ns.msg.totals();
    let (msgpool, msgmap, msgtql) = if cmd == MSG_INFO {
        (who.ns.msg.table.len() as i32, messages as i32, bytes as i32)
    } else {
        (MSGPOOL, MSGMNB, MSGMNB)
    };
    Msginfo {
        msgpool,
        msgmap,
        msgmax: limits.msgmax.load(Ordering::Relaxed),
        msgmnb: limits.msgmnb.load(Ordering::Relaxed),
        msgmni: limits.msgmni.load(Ordering::Relaxed),
        msgssz: MSGSSZ,
        msgtql,
        msgseg: 0xffff,
    }
}

/// msgctl(2).
pub fn sys_msgctl(a: &mut Args) -> SysResult {
    let (id, cmd) = (a.i32(0), a.u32(1));
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let who = Who::is_current();
    let caller = who.caller();
    let table = &who.ns.msg.table;
    let to: UserPtr<Msqid64Ds> = a.ptr(2);
    match cmd {
        IPC_INFO | MSG_INFO => {
            to.cast().write(info(&who, cmd))?;
            Ok(table.highest())
        }
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let queue = if cmd == IPC_STAT { table.get(id) } else { table.at(id) }?;
            if cmd != MSG_STAT_ANY {
                queue.check_read(&caller)?;
            }
            to.write(describe(&who, &queue))?;
            Ok(if cmd == IPC_STAT { 0 } else { queue.number() as usize })
        }
        IPC_SET => {
            let new = to.read()?;
            table.get(id)?.set(&caller, &new_owner(&new.perm)?, new.qbytes)?;
            Ok(0)
        }
        IPC_RMID => {
            table.get(id)?.remove(&caller)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
