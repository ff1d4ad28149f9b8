//! Calls about credentials: user and group ids, supplementary groups, capabilities.

use super::ids::{self, kgid, kuid};
use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::ns::{Cap, CapSet, Cred};
use crate::process::creds::commit_creds;
use crate::task::{self, list};

/// "Leave unchanged" in the `setre*` and `setres*` calls.
const KEEP: u32 = u32::MAX;

/// Most supplementary groups (`NGROUPS_MAX`).
const NGROUPS_MAX: usize = 65536;

/// Installs what `change` makes of the caller's credentials.
fn change(change: impl FnOnce(&mut Cred, &Cred) -> Result<()>) -> SysResult {
    let task = task::current();
    let old = task.cred().clone();
    let mut new = old.try_clone()?;
    change(&mut new, &old)?;
    let new = crate::kref::Ref::try_new(new)?;
    commit_creds(task, new);
    Ok(0)
}

/// Translates the ids that are not left unchanged.
fn given<const N: usize>(to_kernel: fn(u32) -> Result<u32>, mut ids: [u32; N]) -> Result<[u32; N]> {
    for id in ids.iter_mut().filter(|id| **id != KEEP) {
        *id = to_kernel(*id)?;
    }
    Ok(ids)
}

/// getuid(2).
pub fn sys_getuid(_: &mut Args) -> SysResult {
    Ok(ids::uid(task::current().cred().uid) as usize)
}

/// geteuid(2).
pub fn sys_geteuid(_: &mut Args) -> SysResult {
    Ok(ids::uid(task::current().cred().euid) as usize)
}

/// getgid(2).
pub fn sys_getgid(_: &mut Args) -> SysResult {
    Ok(ids::gid(task::current().cred().gid) as usize)
}

/// getegid(2).
pub fn sys_getegid(_: &mut Args) -> SysResult {
    Ok(ids::gid(task::current().cred().egid) as usize)
}

/// setuid(2).
pub fn sys_setuid(a: &mut Args) -> SysResult {
    let uid = kuid(a.u32(0))?;
    change(|new, old| {
        if old.own_capable(Cap::Setuid) {
            (new.uid, new.suid) = (uid, uid);
        } else if uid != old.uid && uid != old.suid {
            return Err(Errno::EPERM);
        }
        (new.euid, new.fsuid) = (uid, uid);
        new.fix_caps_after_setuid(old);
        Ok(())
    })
}

/// setgid(2).
pub fn sys_setgid(a: &mut Args) -> SysResult {
    let gid = kgid(a.u32(0))?;
    change(|new, old| {
        if old.own_capable(Cap::Setgid) {
            (new.gid, new.sgid) = (gid, gid);
        } else if gid != old.gid && gid != old.sgid {
            return Err(Errno::EPERM);
        }
        (new.egid, new.fsgid) = (gid, gid);
        Ok(())
    })
}

/// setreuid(2).
pub fn sys_setreuid(a: &mut Args) -> SysResult {
    let [ruid, euid] = given(kuid, [a.u32(0), a.u32(1)])?;
    change(|new, old| {
        let privileged = old.own_capable(Cap::Setuid);
        if ruid != KEEP {
            if !privileged && ruid != old.uid && ruid != old.euid {
                return Err(Errno::EPERM);
            }
            new.uid = ruid;
        }
        if euid != KEEP {
            if !privileged && euid != old.uid && euid != old.euid && euid != old.suid {
                return Err(Errno::EPERM);
            }
            new.euid = euid;
        }
        if ruid != KEEP || euid != KEEP && euid != old.uid {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        new.fix_caps_after_setuid(old);
        Ok(())
    })
}

/// setregid(2).
pub fn sys_setregid(a: &mut Args) -> SysResult {
    let [rgid, egid] = given(kgid, [a.u32(0), a.u32(1)])?;
    change(|new, old| {
        let privileged = old.own_capable(Cap::Setgid);
        if rgid != KEEP {
            if !privileged && rgid != old.gid && rgid != old.egid {
                return Err(Errno::EPERM);
            }
            new.gid = rgid;
        }
        if egid != KEEP {
            if !privileged && egid != old.gid && egid != old.egid && egid != old.sgid {
                return Err(Errno::EPERM);
            }
            new.egid = egid;
        }
        if rgid != KEEP || egid != KEEP && egid != old.gid {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(())
    })
}

/// setresuid(2).
pub fn sys_setresuid(a: &mut Args) -> SysResult {
    let ids = given(kuid, [a.u32(0), a.u32(1), a.u32(2)])?;
    change(|new, old| {
        let own = [old.uid, old.euid, old.suid];
        if !old.own_capable(Cap::Setuid) && ids.iter().any(|id| *id != KEEP && !own.contains(id)) {
            return Err(Errno::EPERM);
        }
        for (slot, id) in [&mut new.uid, &mut new.euid, &mut new.suid].into_iter().zip(ids) {
            if id != KEEP {
                *slot = id;
            }
        }
        new.fsuid = new.euid;
        new.fix_caps_after_setuid(old);
        Ok(())
    })
}

/// setresgid(2).
pub fn sys_setresgid(a: &mut Args) -> SysResult {
    let ids = given(kgid, [a.u32(0), a.u32(1), a.u32(2)])?;
    change(|new, old| {
        let own = [old.gid, old.egid, old.sgid];
        if !old.own_capable(Cap::Setgid) && ids.iter().any(|id| *id != KEEP && !own.contains(id)) {
            return Err(Errno::EPERM);
        }
        for (slot, id) in [&mut new.gid, &mut new.egid, &mut new.sgid].into_iter().zip(ids) {
            if id != KEEP {
                *slot = id;
            }
        }
        new.fsgid = new.egid;
        Ok(())
    })
}

fn write_three(a: &Args, ids: [u32; 3]) -> SysResult {
    for (i, id) in ids.into_iter().enumerate() {
        a.ptr::<u32>(i).write(id)?;
    }
    Ok(0)
}

/// getresuid(2).
pub fn sys_getresuid(a: &mut Args) -> SysResult {
    let cred = task::current().cred();
    write_three(a, [cred.uid, cred.euid, cred.suid].map(ids::uid))
}

/// getresgid(2).
pub fn sys_getresgid(a: &mut Args) -> SysResult {
    let cred = task::current().cred();
    write_three(a, [cred.gid, cred.egid, cred.sgid].map(ids::gid))
}

/// setfsuid(2): returns the old id, whether or not it changed.
pub fn sys_setfsuid(a: &mut Args) -> SysResult {
    let old = task::current().cred().fsuid;
    let wanted = kuid(a.u32(0));
    let _ = change(|new, old| {
        let uid = wanted?;
        if !old.own_capable(Cap::Setuid) && ![old.uid, old.euid, old.suid, old.fsuid].contains(&uid)
        {
            return Err(Errno::EPERM);
        }
        new.fsuid = uid;
        new.fix_caps_after_setfsuid(old);
        Ok(())
    });
    Ok(ids::uid(old) as usize)
}

/// setfsgid(2).
pub fn sys_setfsgid(a: &mut Args) -> SysResult {
    let old = task::current().cred().fsgid;
    let wanted = kgid(a.u32(0));
    let _ = change(|new, old| {
        let gid = wanted?;
        if !old.own_capable(Cap::Setgid) && ![old.gid, old.egid, old.sgid, old.fsgid].contains(&gid)
        {
            return Err(Errno::EPERM);
        }
        new.fsgid = gid;
        Ok(())
    });
    Ok(ids::gid(old) as usize)
}

/// getgroups(2).
pub fn sys_getgroups(a: &mut Args) -> SysResult {
    let groups = &task::current().cred().groups;
    let size = a.i32(0);
    if size < 0 {
        return Err(Errno::EINVAL);
    }
    if size > 0 {
        if (size as usize) < groups.len() {
            return Err(Errno::EINVAL);
        }
        let mut shown = groups.try_clone()?;
        shown.iter_mut().for_each(|group| *group = ids::gid(*group));
        a.ptr::<u32>(1).write_array(&shown)?;
    }
    Ok(groups.len())
}

/// setgroups(2).
pub fn sys_setgroups(a: &mut Args) -> SysResult {
    let n = a.usize(0);
    let cred = task::current().cred();
    if !cred.own_capable(Cap::Setgid) || !cred.user_ns.allows_setgroups() {
        return Err(Errno::EPERM);
    }
    if n > NGROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let wanted = a.ptr::<u32>(1).read_array(n)?;
    change(|new, _| {
        new.groups.clear();
        new.groups.try_reserve(wanted.len())?;
        for gid in wanted {
            new.groups.try_push(kgid(gid)?)?;
        }
        Ok(())
    })
}

const CAP_VERSION_1: u32 = 0x1998_0330;
const CAP_VERSION_2: u32 = 0x2007_1026;
const CAP_VERSION_3: u32 = 0x2008_0522;

/// Checks `cap_user_header_t` and returns how many words each set has, and the pid. A version that is
/// not known is answered with the preferred one.
fn cap_header(addr: u64) -> Result<(usize, i32)> {
    let header = UserPtr::<[u32; 2]>::new(addr);
    let [version, pid] = header.read()?;
    match version {
        CAP_VERSION_1 => Ok((1, pid as i32)),
        CAP_VERSION_2 | CAP_VERSION_3 => Ok((2, pid as i32)),
        _ => {
            header.write([CAP_VERSION_3, pid])?;
            Err(Errno::EINVAL)
        }
    }
}

/// capget(2).
pub fn sys_capget(a: &mut Args) -> SysResult {
    let data = a.u64(1);
    let (words, pid) = match cap_header(a.u64(0)) {
        Err(Errno::EINVAL) if data == 0 => return Ok(0),
        other => other?,
    };
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    if data == 0 {
        return Ok(0);
    }
    let caller = task::current();
    let target = if pid == 0 {
        caller.to_ref()
    } else {
        list::find_thread(pid as u32, &caller.active_pid_ns()).ok_or(Errno::ESRCH)?
    };
    let sets = target.cred.with(|c| [c.cap_effective.0, c.cap_permitted.0, c.cap_inheritable.0]);
    for word in 0..words {
        let triple = sets.map(|set| (set >> (32 * word)) as u32);
        UserPtr::<[u32; 3]>::new(data.wrapping_add(12 * word as u64)).write(triple)?;
    }
    Ok(0)
}

/// capset(2): of the caller only.
pub fn sys_capset(a: &mut Args) -> SysResult {
    let (words, pid) = cap_header(a.u64(0))?;
    let task = task::current();
    if pid != 0 && pid as u32 != task.pid_nr(task.thread_pid.own().ns()) {
        return Err(Errno::EPERM);
    }
    let mut sets = [0_u64; 3];
    for word in 0..words {
        let triple = UserPtr::<[u32; 3]>::new(a.u64(1).wrapping_add(12 * word as u64)).read()?;
        for (set, bits) in sets.iter_mut().zip(triple) {
            *set |= u64::from(bits) << (32 * word);
        }
    }
    let [effective, permitted, inheritable] = sets.map(|s| CapSet(s).and(CapSet::FULL));
    change(|new, old| {
        let inheritable_ok = inheritable.is_within(old.cap_inheritable.or(old.cap_permitted))
            || old.own_capable(Cap::Setpcap);
        let bounded = inheritable.is_within(old.cap_inheritable.or(old.cap_bounding));
        if !inheritable_ok
            || !bounded
            || !permitted.is_within(old.cap_permitted)
            || !effective.is_within(permitted)
        {
            return Err(Errno::EPERM);
        }
        new.cap_effective = effective;
        new.cap_permitted = permitted;
        new.cap_inheritable = inheritable;
        new.cap_ambient = new.cap_ambient.and(permitted).and(inheritable);
        Ok(())
    })
}
