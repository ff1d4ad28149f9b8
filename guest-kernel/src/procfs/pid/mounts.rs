//! /proc/PID/mounts, mountinfo, mountstats: what a task's mount namespace holds (proc(5)).

use super::Subject;
use crate::errno::{Errno, Result};
use crate::fs::dentry::hold_renames;
use crate::fs::path::DELETED;
use crate::fs::{Dentry, Mount, MountFlags, Path};
use crate::kref::Ref;
use crate::procfs::text::Text;
use crate::put;

/// Bytes that would break a line of mounts.
const SPECIAL: &[u8] = b" \t\n\\#";

/// Calls `show` with every mount that the task sees below its root, and where it is.
fn for_each_mount(
    subject: &Subject,
    mut show: impl FnMut(&Ref<Mount>, &[u8]) -> Result<()>,
) -> Result<()> {
    let root = super::files::root(subject)?;
    let mounts = super::files::proxy(subject)?.mnt.clone();
    let mut i = 0;
    while let Some(mount) = mounts.mount_at(i) {
        i += 1;
        let top = Path { dentry: mount.root.clone(), mnt: mount.clone() };
        let mut buf = alloc::vec::Vec::new();
        buf.try_reserve_exact(crate::fs::PATH_MAX).map_err(|_| Errno::ENOMEM)?;
        buf.resize(crate::fs::PATH_MAX, 0);
        if let Ok((place, true)) = top.text_in(&root, &mut buf) {
            // It may show a directory that is gone, but is not itself gone.
            let removed = if mount.root.is_unlinked() { DELETED } else { b"" };
            show(&mount, place.strip_suffix(removed).unwrap_or(place))?;
        }
    }
    Ok(())
}

fn source(mount: &Mount) -> &[u8] {
    if mount.source.is_empty() { b"none" } else { mount.source.as_slice() }
}

fn options(out: &mut Text, flags: MountFlags) -> Result<()> {
    flags.show(out).map_err(|_| Errno::ENOMEM)
}

/// /proc/PID/mounts.
pub(super) fn mounts(subject: &Subject, out: &mut Text) -> Result<()> {
    for_each_mount(subject, |mount, place| {
        out.escaped(source(mount), SPECIAL)?;
        out.bytes(b" ")?;
        out.escaped(place, SPECIAL)?;
        put!(out, " {} ", mount.sb.fs_type)?;
        let mut flags = mount.flags();
        flags.set(MountFlags::RDONLY, mount.is_read_only());
        options(out, flags)?;
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
        options(out, mount.flags())?;
        let (shared, master, unbindable) = mount.propagation();
        if let Some(id) = shared {
            put!(out, " shared:{id}")?;
        }
        if let Some(id) = master {
            put!(out, " master:{id}")?;
        }
        if unbindable {
            out.bytes(b" unbindable")?;
        }
        put!(out, " - {} ", mount.sb.fs_type)?;
        out.escaped(source(mount), SPECIAL)?;
        let rw = if mount.sb.is_read_only() { "ro" } else { "rw" };
        put!(out, " {rw}")?;
        mount.sb.ops.show_options(out).map_err(|_| Errno::ENOMEM)?;
        out.bytes(b"\n")
    })
}

/// /proc/PID/mountstats.
pub(super) fn mountstats(subject: &Subject, out: &mut Text) -> Result<()> {
    for_each_mount(subject, |mount, place| {
        out.bytes(b"device ")?;
        out.escaped(source(mount), SPECIAL)?;
        out.bytes(b" mounted on ")?;
        out.escaped(place, SPECIAL)?;
        put!(out, " with fstype {}\n", mount.sb.fs_type)
    })
}

/// The path of a name from the root of its file system: what part of it a mount shows.
fn within_super(out: &mut Text, dentry: &Ref<Dentry>) -> Result<()> {
    if let Some(shown) = dentry.inode().and_then(|inode| inode.sb.ops.show_root(inode, out)) {
        return shown.map_err(|_| Errno::ENOMEM);
    }
    let mut names = alloc::vec::Vec::new();
    let mut at = dentry.clone();
    while let Some(parent) = at.parent() {
        names.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        names.push(core::mem::replace(&mut at, parent));
    }
    if names.is_empty() {
        // A namespace's file has a name that says what it is.
        let inode = dentry.require_inode()?;
        let before = out.len();
        inode.ops().pseudo_name(inode, out).map_err(|_| Errno::ENOMEM)?;
        return if out.len() == before { out.bytes(b"/") } else { Ok(()) };
    }
    for name in names.iter().rev() {
        out.bytes(b"/")?;
        out.escaped(name.name_held(&hold_renames()), SPECIAL)?;
    }
    if dentry.is_unlinked() { out.bytes(b"//deleted") } else { Ok(()) }
}
