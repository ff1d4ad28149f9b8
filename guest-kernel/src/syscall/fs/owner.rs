//! Whom a file tells by signals that I/O is possible (fcntl(2), `F_SETOWN` and `F_SETOWN_EX`; ioctl(2), `FIOSETOWN`).

use super::SysResult;
use crate::drivers::tty::foreground_of;
use crate::errno::{Errno, Result};
use crate::fs::{File, FileKind, fasync};
use crate::kref::Ref;
use crate::mm::UserPtr;
use crate::ns::{Pid, PidType};
use crate::signal::hooks::IoOwner;
use crate::task::{self, list};

/// `struct f_owner_ex`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OwnerEx {
    kind: i32,
    pid: i32,
}
crate::pod!(OwnerEx);

/// Kinds of [`OwnerEx`], by their numbers: thread, process, process group.
const KINDS: [PidType; 3] = [PidType::Pid, PidType::Tgid, PidType::Pgid];

fn set_owner(file: &File, kind: PidType, nr: u32) -> SysResult {
    let task = task::current();
    let pid = match nr {
        0 => None,
        nr => Some(Pid::find(nr, task.thread_pid.own().ns()).ok_or(Errno::ESRCH)?),
    };
    let cred = task.cred();
    file.fasync().set_owner(IoOwner { pid, kind, uid: cred.uid, euid: cred.euid });
    Ok(0)
}

/// Sets it: a process, or a process group by its number below 0; 0 for nobody.
pub fn set(file: &File, who: i32) -> SysResult {
    if who == i32::MIN {
        return Err(Errno::EINVAL);
    }
    let kind = if who < 0 { PidType::Pgid } else { PidType::Tgid };
    set_owner(file, kind, who.unsigned_abs())
}

/// The owner as the caller's namespace sees it; 0 for none.
fn shown(owner: &IoOwner) -> i32 {
    let Some(pid) = &owner.pid else { return 0 };
    let list = list::lock();
    let alive = match owner.kind {
        PidType::Pid => list.thread_of(pid).is_some(),
        PidType::Tgid => list.process_of(pid).is_some(),
        kind => list.members(pid, kind).next().is_some(),
    };
    if alive { pid.nr_in(task::current().thread_pid.own().ns()) as i32 } else { 0 }
}

/// As [`set`] takes it.
pub fn get(file: &File) -> i32 {
    let owner = file.fasync().owner();
    let nr = shown(&owner);
    if owner.kind == PidType::Pgid { -nr } else { nr }
}

/// `F_SETOWN_EX`.
pub fn set_ex(file: &File, from: UserPtr<OwnerEx>) -> SysResult {
    let owner = from.read()?;
    let kind = usize::try_from(owner.kind).ok().and_then(|kind| KINDS.get(kind));
    let kind = *kind.ok_or(Errno::EINVAL)?;
    set_owner(file, kind, u32::try_from(owner.pid).map_err(|_| Errno::ESRCH)?)
}

/// `F_GETOWN_EX`.
pub fn get_ex(file: &File, to: UserPtr<OwnerEx>) -> SysResult {
    let owner = file.fasync().owner();
    let kind = KINDS.iter().position(|kind| *kind == owner.kind).unwrap_or_default();
    to.write(OwnerEx { kind: kind as i32, pid: shown(&owner) })?;
    Ok(0)
}

/// Turns the signals on, or off. A terminal without an owner gets its foreground process group; a master, which has none,
/// the caller.
pub fn set_async(file: &File, fd: i32, on: bool) -> Result<()> {
    let terminal = matches!(file.kind, FileKind::Tty | FileKind::PtyMaster);
    if on && terminal && file.fasync().owner().pid.is_none() {
        let task = task::current();
        let (pid, kind): (Option<Ref<Pid>>, _) = match foreground_of(file) {
            Some(group) => (Some(group), PidType::Pgid),
            None => (task.signal.pid(PidType::Tgid), PidType::Tgid),
        };
        let cred = task.cred();
        file.fasync().set_owner(IoOwner { pid, kind, uid: cred.uid, euid: cred.euid });
    }
    fasync::set(file, fd, on)
}
