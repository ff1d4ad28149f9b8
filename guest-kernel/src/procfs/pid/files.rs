//! The short files and links of /proc/PID.

use core::sync::atomic::Ordering;

use super::Subject;
use crate::errno::{Errno, Result};
use crate::fs::Path;
use crate::fs::pagecache::FileBacking;
use crate::kref::Ref;
use crate::mm::{fault_inject, frame};
use crate::ns::{Cap, Namespace, NsProxy, PidNs, PidType};
use crate::procfs::nsfs;
use crate::procfs::text::{Text, parse_number};
use crate::put;
use crate::task::rlimit::{RLIM_INFINITY, Resource};
use crate::task::{self, list};

pub(super) fn comm(subject: &Subject, out: &mut Text) -> Result<()> {
    out.bytes(subject.task.comm().as_bytes())?;
    out.bytes(b"\n")
}

pub(super) fn set_comm(subject: &Subject, data: &[u8]) -> Result<()> {
    if !subject.task.same_group(task::current()) {
        return Err(Errno::EINVAL);
    }
    // A line end belongs to the name, as on Linux.
    subject.task.set_comm(data.split(|&b| b == 0).next().unwrap_or_default());
    Ok(())
}

/// The path of the control group, as the reader's cgroup namespace has it.
pub(super) fn cgroup(subject: &Subject, out: &mut Text) -> Result<()> {
    let group = crate::process::cgroup::of(&subject.task);
    out.bytes(b"0::")?;
    let root = &task::current().nsproxy().cgroup.root;
    group.path_in(root, out).map_err(|_| Errno::ENOMEM)?;
    out.bytes(if group.is_dead() { b" (deleted)\n" } else { b"\n" })
}

pub(super) fn limits(subject: &Subject, out: &mut Text) -> Result<()> {
    let (limit, soft, hard, units) = ("Limit", "Soft Limit", "Hard Limit", "Units");
    put!(out, "{limit:<25} {soft:<20} {hard:<20} {units:<10}\n")?;
    for &resource in Resource::ALL {
        let (title, unit) = resource.title();
        let both = subject.task.signal.rlimits.get(resource);
        put!(out, "{title:<25} ")?;
        for value in [both.soft, both.hard] {
            match value {
                RLIM_INFINITY => put!(out, "{:<20} ", "unlimited")?,
                value => put!(out, "{value:<20} ")?,
            }
        }
        match unit {
            "" => out.bytes(b"\n")?,
            unit => put!(out, "{unit:<10}\n")?,
        }
    }
    Ok(())
}

/// Counts of bytes. They tell more than everybody may know, also of a program that came after the file was opened:
/// the reader is asked each time (`do_io_accounting`).
pub(super) fn io(subject: &Subject, out: &mut Text) -> Result<()> {
    subject.check_access()?;
    let task = &subject.task;
    let relaxed = Ordering::Relaxed;
    let (mut rchar, mut wchar) = (task.rchar.load(relaxed), task.wchar.load(relaxed));
    if subject.group {
        let _list = list::lock();
        let dead = &task.signal.dead;
        (rchar, wchar) = (dead.rchar.load(relaxed), dead.wchar.load(relaxed));
        for thread in task.signal.threads.iter() {
            rchar += thread.rchar.load(relaxed);
            wchar += thread.wchar.load(relaxed);
        }
    }
    put!(out, "rchar: {rchar}\nwchar: {wchar}\nsyscr: 0\nsyscw: 0\n")?;
    out.bytes(b"read_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n")
}

pub(super) fn wchan(subject: &Subject, out: &mut Text) -> Result<()> {
    let task = &subject.task;
    match task.se.wchan() {
        Some(channel) if !task.se.state().is_empty() => out.bytes(channel.name().as_bytes()),
        _ => out.bytes(b"0"),
    }
}

pub(super) fn personality(subject: &Subject, out: &mut Text) -> Result<()> {
    subject.check_access().map_err(|_| Errno::EPERM)?;
    put!(out, "{:08x}\n", subject.task.personality.load(Ordering::Relaxed))
}

/// loginuid and sessionid: nobody set them.
pub(super) fn no_id(_: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{}", u32::MAX)
}

pub(super) fn schedstat(subject: &Subject, out: &mut Text) -> Result<()> {
    let (voluntary, involuntary) = subject.task.se.context_switches();
    put!(out, "{} 0 {}\n", subject.task.se.sum_exec_runtime(), voluntary + involuntary)
}

pub(super) fn oom_score(subject: &Subject, out: &mut Text) -> Result<()> {
    let pages = subject.with_mm(|mm| mm.oom_badness()).unwrap_or(0) as i64;
    let total = (frame::total_frames() as i64).max(1);
    let adj = i64::from(subject.task.signal.oom_score_adj.load(Ordering::Relaxed));
    // As Linux scales it: 0 to 2000, 1000 more by the bias.
    let points = pages + adj * total / 1000;
    let score = ((1000 + points * 1000 / total) * 2 / 3).clamp(0, 2000);
    put!(out, "{score}\n")
}

pub(super) fn oom_score_adj(subject: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", subject.task.signal.oom_score_adj.load(Ordering::Relaxed))
}

pub(super) fn set_oom_score_adj(subject: &Subject, data: &[u8]) -> Result<()> {
    let new = parse_number(data)?;
    if !(-1000..=1000).contains(&new) {
        return Err(Errno::EINVAL);
    }
    let adj = &subject.task.signal.oom_score_adj;
    // Making oneself safer is a privilege.
    let lower = new < i64::from(adj.load(Ordering::Relaxed));
    if lower && !task::current().cred().capable(Cap::SysResource) {
        return Err(Errno::EACCES);
    }
    adj.store(new as i32, Ordering::Relaxed);
    Ok(())
}

/// How many more allocations there are until one fails; see [`fault_inject`].
pub(super) fn fail_nth(subject: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", fault_inject::fail_nth(&subject.task.se.thread.info))
}

pub(super) fn set_fail_nth(subject: &Subject, data: &[u8]) -> Result<()> {
    let n = parse_number(data)?.try_into().map_err(|_| Errno::EINVAL)?;
    fault_inject::set_fail_nth(&subject.task.se.thread.info, n);
    Ok(())
}

/// The numbers of the children, each with a space behind it.
pub(super) fn children(subject: &Subject, out: &mut Text) -> Result<()> {
    let list = list::lock();
    let shown = subject
        .task
        .children
        .iter()
        .map(|child| child.nr_of(PidType::Tgid, &subject.ns))
        .filter(|&nr| nr != 0)
        .try_for_each(|nr| put!(out, "{nr} "));
    drop(list);
    shown
}

pub(super) fn cwd(subject: &Subject) -> Result<Path> {
    Ok(subject.task.fs.share().ok_or(Errno::ENOENT)?.cwd())
}

pub(super) fn root(subject: &Subject) -> Result<Path> {
    Ok(subject.task.fs.share().ok_or(Errno::ENOENT)?.root())
}

pub(super) fn exe(subject: &Subject) -> Result<Path> {
    let exe = subject.with_mm(|mm| mm.exe()).flatten().ok_or(Errno::ENOENT)?;
    let backing = exe.backing().as_any().downcast_ref::<FileBacking>();
    Ok(backing.ok_or(Errno::ENOENT)?.file.path.clone())
}

// --- Namespaces ---

pub(super) fn proxy(subject: &Subject) -> Result<Ref<NsProxy>> {
    subject.task.nsproxy.share().ok_or(Errno::ENOENT)
}

/// A pid namespace that was prepared for children; none before the first of them is there.
fn pid_for_children(subject: &Subject) -> Result<Ref<PidNs>> {
    let ns = proxy(subject)?.pid_for_children.clone();
    if ns.child_reaper.load(Ordering::Acquire).is_null() { Err(Errno::ENOENT) } else { Ok(ns) }
}

macro_rules! namespaces {
    ($($place:ident, |$subject:ident| $namespace:expr;)*) => {
        $(pub(super) fn $place($subject: &Subject) -> Result<Path> {
            nsfs::place($namespace)
        })*
    };
}

namespaces! {
    ns_cgroup, |s| Namespace::Cgroup(proxy(s)?.cgroup.clone());
    ns_ipc, |s| Namespace::Ipc(proxy(s)?.ipc.clone());
    ns_mnt, |s| Namespace::Mnt(proxy(s)?.mnt.clone());
    ns_net, |s| Namespace::Net(proxy(s)?.net.clone());
    ns_pid, |s| Namespace::Pid(s.task.active_pid_ns());
    ns_pid_for_children, |s| Namespace::Pid(pid_for_children(s)?);
    ns_time, |s| Namespace::Time(proxy(s)?.time.clone());
    ns_time_for_children, |s| Namespace::Time(proxy(s)?.time_for_children.clone());
    ns_user, |s| Namespace::User(s.task.cred.share().user_ns.clone());
    ns_uts, |s| Namespace::Uts(proxy(s)?.uts.clone());
}
