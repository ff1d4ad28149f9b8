//! The short files and links of /proc/PID.

use core::sync::atomic::Ordering;

use super::Subject;
use crate::errno::{Errno, Result};
use crate::fs::dentry::hold_renames;
use crate::fs::pagecache::FileBacking;
use crate::fs::{Dentry, Mount, MountFlags, Path};
use crate::kref::Ref;
use crate::mm::frame;
use crate::ns::user::init_user_ns;
use crate::ns::{Cap, NsProxy, PidType};
use crate::procfs::nsfs::{self, Namespace};
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

pub(super) fn io(subject: &Subject, out: &mut Text) -> Result<()> {
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
    put!(out, "{:08x}\n", subject.task.personality.load(Ordering::Relaxed))
}

/// loginuid and sessionid: nobody set them.
pub(super) fn no_id(_: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{}", u32::MAX)
}

/// uid_map and gid_map of the initial user namespace.
pub(super) fn id_map(_: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{:10} {:10} {:10}\n", 0, 0, u32::MAX)
}

pub(super) fn setgroups(_: &Subject, out: &mut Text) -> Result<()> {
    out.bytes(b"allow\n")
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

// --- Mounts ---

/// Bytes that would break a line of mounts.
const SPECIAL: &[u8] = b" \t\n\\#";

/// Calls `show` with every mount that the task sees below its root, and where it is.
fn for_each_mount(
    subject: &Subject,
    mut show: impl FnMut(&Ref<Mount>, &[u8]) -> Result<()>,
) -> Result<()> {
    let root = root(subject)?;
    let mounts = proxy(subject)?.mnt.clone();
    let mut i = 0;
    while let Some(mount) = mounts.mount_at(i) {
        i += 1;
        let top = Path { dentry: mount.root.clone(), mnt: mount.clone() };
        let mut buf = alloc::vec::Vec::new();
        buf.try_reserve_exact(crate::fs::PATH_MAX).map_err(|_| Errno::ENOMEM)?;
        buf.resize(crate::fs::PATH_MAX, 0);
        if let Ok((place, true)) = top.text_in(&root, &mut buf) {
            show(&mount, place)?;
        }
    }
    Ok(())
}

fn source(mount: &Mount) -> &[u8] {
    if mount.source.is_empty() { b"none" } else { &mount.source }
}

fn options(out: &mut Text, mount: &Mount) -> Result<()> {
    let mut flags = mount.flags();
    flags.set(MountFlags::RDONLY, mount.is_read_only() || mount.sb.is_read_only());
    flags.show(out).map_err(|_| Errno::ENOMEM)
}

/// /proc/PID/mounts.
pub(super) fn mounts(subject: &Subject, out: &mut Text) -> Result<()> {
    for_each_mount(subject, |mount, place| {
        out.escaped(source(mount), SPECIAL)?;
        out.bytes(b" ")?;
        out.escaped(place, SPECIAL)?;
        put!(out, " {} ", mount.sb.fs_type)?;
        options(out, mount)?;
        mount.sb.ops.show_options(out).map_err(|_| Errno::ENOMEM)?;
        out.bytes(b" 0 0\n")
    })
}

/// /proc/PID/mountinfo.
pub(super) fn mountinfo(subject: &Subject, out: &mut Text) -> Result<()> {
    for_each_mount(subject, |mount, place| {
        let parent = mount.place().map_or(mount.id, |at| at.mnt.id);
        let dev = mount.sb.dev;
        put!(out, "{} {parent} {}:{} ", mount.id, dev.major(), dev.minor())?;
        within_super(out, &mount.root)?;
        out.bytes(b" ")?;
        out.escaped(place, SPECIAL)?;
        out.bytes(b" ")?;
        options(out, mount)?;
        put!(out, " - {} ", mount.sb.fs_type)?;
        out.escaped(source(mount), SPECIAL)?;
        let rw = if mount.sb.is_read_only() { "ro" } else { "rw" };
        put!(out, " {rw}")?;
        mount.sb.ops.show_options(out).map_err(|_| Errno::ENOMEM)?;
        out.bytes(b"\n")
    })
}

/// The path of a name from the root of its file system: what part of it a mount shows.
fn within_super(out: &mut Text, dentry: &Ref<Dentry>) -> Result<()> {
    let mut names = alloc::vec::Vec::new();
    let mut at = dentry.clone();
    while let Some(parent) = at.parent() {
        names.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        names.push(core::mem::replace(&mut at, parent));
    }
    if names.is_empty() {
        return out.bytes(b"/");
    }
    for name in names.iter().rev() {
        out.bytes(b"/")?;
        out.escaped(name.name_held(&hold_renames()), SPECIAL)?;
    }
    Ok(())
}

// --- Namespaces ---

fn proxy(subject: &Subject) -> Result<Ref<NsProxy>> {
    subject.task.nsproxy.share().ok_or(Errno::ENOENT)
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
    ns_pid_for_children, |s| Namespace::Pid(proxy(s)?.pid_for_children.clone());
    ns_time, |s| Namespace::Time(proxy(s)?.time.clone());
    ns_user, |_s| Namespace::User(init_user_ns().clone());
    ns_uts, |s| Namespace::Uts(proxy(s)?.uts.clone());
}
