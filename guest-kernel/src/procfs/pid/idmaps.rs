//! /proc/PID/uid_map, gid_map, projid_map, setgroups (user_namespaces(7)) and timens_offsets
//! (time_namespaces(7)): how a task's namespaces translate ids and clocks, written by who made them.

use alloc::vec::Vec;

use super::Subject;
use super::files::proxy;
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::idmap::parse_extents;
use crate::ns::time::OffsetClock;
use crate::ns::user::IdKind;
use crate::ns::{Cap, UserNs};
use crate::procfs::text::Text;
use crate::put;
use crate::sched::NSEC_PER_SEC;
use crate::task;

fn user_ns(subject: &Subject) -> Ref<UserNs> {
    subject.task.cred.share().user_ns.clone()
}

/// What ids stand for is told in those of the opener's namespace; to one inside, of the one around it.
fn show(subject: &Subject, kind: IdKind, out: &mut Text) -> Result<()> {
    let ns = user_ns(subject);
    let opener = &subject.opener.user_ns;
    let seen_from = match ns.parent() {
        Some(parent) if Ref::ptr_eq(opener, &ns) => parent,
        _ => opener,
    };
    for extent in ns.ids(kind).extents.iter() {
        let lower = seen_from.ids(kind).from_kernel(extent.lower).unwrap_or(u32::MAX);
        put!(out, "{:10} {:10} {:10}\n", extent.first, lower, extent.count)?;
    }
    Ok(())
}

fn store(subject: &Subject, kind: IdKind, data: &[u8]) -> Result<()> {
    if data.len() >= PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    let ns = user_ns(subject);
    // Whether it may be written at all is told before what is wrong with the text.
    if !ns.ids(kind).is_empty() {
        return Err(Errno::EPERM);
    }
    let extents = parse_extents(data)?;
    ns.write_map(kind, extents, &subject.opener, task::current().cred())
}

pub(super) fn uid_map(subject: &Subject, out: &mut Text) -> Result<()> {
    show(subject, IdKind::Uid, out)
}

pub(super) fn set_uid_map(subject: &Subject, data: &[u8]) -> Result<()> {
    store(subject, IdKind::Uid, data)
}

pub(super) fn gid_map(subject: &Subject, out: &mut Text) -> Result<()> {
    show(subject, IdKind::Gid, out)
}

pub(super) fn set_gid_map(subject: &Subject, data: &[u8]) -> Result<()> {
    store(subject, IdKind::Gid, data)
}

pub(super) fn projid_map(subject: &Subject, out: &mut Text) -> Result<()> {
    show(subject, IdKind::Projid, out)
}

pub(super) fn set_projid_map(subject: &Subject, data: &[u8]) -> Result<()> {
    store(subject, IdKind::Projid, data)
}

pub(super) fn setgroups(subject: &Subject, out: &mut Text) -> Result<()> {
    let allowed = user_ns(subject).setgroups_setting();
    out.bytes(if allowed { b"allow\n" } else { b"deny\n" })
}

pub(super) fn set_setgroups(subject: &Subject, data: &[u8]) -> Result<()> {
    let ns = user_ns(subject);
    if !subject.opener.ns_capable(&ns, Cap::SysAdmin) {
        return Err(Errno::EACCES);
    }
    match data.trim_ascii_end() {
        b"allow" => ns.set_setgroups(true),
        b"deny" => ns.set_setgroups(false),
        _ => Err(Errno::EINVAL),
    }
}

const CLOCKS: [(&str, &str, OffsetClock); 2] =
    [("monotonic", "1", OffsetClock::Monotonic), ("boottime", "7", OffsetClock::Boottime)];

/// The offsets of the task's children's clocks, in seconds and nanoseconds.
pub(super) fn timens_offsets(subject: &Subject, out: &mut Text) -> Result<()> {
    let ns = proxy(subject)?.time_for_children.clone();
    let second = NSEC_PER_SEC as i64;
    CLOCKS.iter().try_for_each(|&(name, _, clock)| {
        let offset = ns.offset(clock);
        put!(out, "{name:<10} {:>10} {:>9}\n", offset.div_euclid(second), offset.rem_euclid(second))
    })
}

/// Lines of clock, seconds, nanoseconds. All are checked before any is set.
pub(super) fn set_timens_offsets(subject: &Subject, data: &[u8]) -> Result<()> {
    let ns = proxy(subject)?.time_for_children.clone();
    if !task::current().cred().ns_capable(ns.common.user_ns(), Cap::SysTime) {
        return Err(Errno::EPERM);
    }
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let mut offsets = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().ok_or(Errno::EINVAL);
        let name = word()?;
        let known = CLOCKS.iter().find(|(text, number, _)| name == *text || name == *number);
        let &(_, _, clock) = known.ok_or(Errno::EINVAL)?;
        let seconds: i64 = word()?.parse().map_err(|_| Errno::EINVAL)?;
        let rest: i64 = word()?.parse().map_err(|_| Errno::EINVAL)?;
        if !(0..NSEC_PER_SEC as i64).contains(&rest) || offsets.len() == CLOCKS.len() {
            return Err(Errno::EINVAL);
        }
        let offset = seconds.checked_mul(NSEC_PER_SEC as i64).and_then(|ns| ns.checked_add(rest));
        let now = i64::try_from(crate::sched::monotonic_ns()).unwrap_or(i64::MAX);
        // Clocks neither begin before zero nor end within the next 146 years.
        let shown = offset.and_then(|offset| now.checked_add(offset));
        let shown = shown.filter(|shown| (0..i64::MAX / 2).contains(shown));
        let offset = offset.filter(|_| shown.is_some()).ok_or(Errno::ERANGE)?;
        offsets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        offsets.push((clock, offset));
    }
    offsets.into_iter().try_for_each(|(clock, offset)| ns.set_offset(clock, offset))
}
