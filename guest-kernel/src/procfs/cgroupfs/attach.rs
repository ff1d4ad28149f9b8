//! Moving tasks between groups: who may, and clone3(2)'s way of starting one in a group
//! (cgroup-v2.rst, "Delegation Containment").

use super::files::PROCS;
use super::{Opener, Options, file_inode, group_of, options, top};
use crate::cgroup::Cgroup;
use crate::errno::{Errno, Result};
use crate::fs::perm::{self, Access};
use crate::kref::Ref;
use crate::ns::{CgroupNs, Cred, Pid};
use crate::process::cgroup as verbs;
use crate::procfs::text::parse_number;
use crate::task::{self, Task, list};

/// Who writes to the cgroup.procs of a group may move tasks there from groups that have with it an
/// ancestor whose cgroup.procs they may write too, and with `nsdelegate` only within what they see.
fn may_move(from: &Cgroup, to: &Cgroup, cred: &Cred, ns: &CgroupNs) -> Result<()> {
    let common = from.levels().find(|group| to.is_within(group)).ok_or(Errno::ENOENT)?;
    may_write_procs(&common.to_ref(), cred)?;
    let sees = from.is_within(&ns.root) && to.is_within(&ns.root);
    if options().contains(Options::NSDELEGATE) && !sees {
        return Err(Errno::ENOENT);
    }
    Ok(())
}

fn may_write_procs(group: &Ref<Cgroup>, cred: &Cred) -> Result<()> {
    let inode = file_inode(&top()?.require_inode()?.sb, group, PROCS)?;
    perm::permission(&inode, Access::WRITE, cred)
}

fn find(data: &[u8]) -> Result<Ref<Task>> {
    let number = i32::try_from(parse_number(data)?).map_err(|_| Errno::ERANGE)?;
    let number = u32::try_from(number).map_err(|_| Errno::EINVAL)?;
    if number == 0 {
        return Ok(task::current_ref());
    }
    let pid = Pid::find(number, task::current().thread_pid.own().ns()).ok_or(Errno::ESRCH)?;
    list::lock().thread_of(&pid).map(Task::to_ref).ok_or(Errno::ESRCH)
}

fn write(group: &Ref<Cgroup>, opener: &Opener, data: &[u8], process: bool) -> Result<()> {
    let mut task = find(data)?;
    if process && !task.is_leader() {
        let _list = list::lock();
        task = task.leader().to_ref();
    }
    if task.is_kthread() {
        return Err(Errno::EINVAL);
    }
    let may = |from: &Cgroup, to: &Cgroup| may_move(from, to, &opener.cred, &opener.ns);
    verbs::migrate(&task, group, process, may)
}

/// cgroup.procs.
pub(super) fn write_procs(group: &Ref<Cgroup>, opener: &Opener, data: &[u8]) -> Result<()> {
    write(group, opener, data, true)
}

/// cgroup.threads.
pub(super) fn write_threads(group: &Ref<Cgroup>, opener: &Opener, data: &[u8]) -> Result<()> {
    write(group, opener, data, false)
}

/// The group whose directory the caller has open as `fd`, for `CLONE_INTO_CGROUP`: the same rules as for
/// moving a process there (`thread`: a thread), and its cgroup.procs must be writable.
pub fn into_cgroup(fd: i32, thread: bool) -> Result<Ref<Cgroup>> {
    let task = task::current();
    let file = task.files().get_any(fd)?;
    let group = group_of(&file).ok_or(Errno::EBADF)?;
    if group.is_dead() {
        return Err(Errno::ENOENT);
    }
    may_write_procs(group, task.cred())?;
    let from = verbs::of(task);
    may_move(&from, group, task.cred(), &task.nsproxy().cgroup)?;
    verbs::vet_move(&from, group, !thread)?;
    Ok(group.clone())
}
