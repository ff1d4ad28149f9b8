//! What files a group has, and those of the core: `cgroup.*`.

use super::controllers::{self as c};
use super::{Opener, attach};
use crate::cgroup;
use crate::cgroup::changes::Changed;
use crate::cgroup::{Cgroup, Controllers, NO_LIMIT, Watch};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::process::cgroup as verbs;
use crate::procfs::text::{Text, parse_number};
use crate::put;

/// Writes a file's content.
pub type Show = fn(&Ref<Cgroup>, &mut Text) -> Result<()>;
/// Takes what was written to a file, without white space around it.
pub type Store = fn(&Ref<Cgroup>, &Opener, &[u8]) -> Result<()>;

/// A file that groups have.
pub struct FileSpec {
    /// Its name.
    pub name: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// The controller that it belongs to: groups have it where that is enabled.
    pub controller: Option<Controllers>,
    /// The root has it too.
    pub in_root: bool,
    /// What reading it shows.
    pub show: Option<Show>,
    /// What writing it does.
    pub store: Option<Store>,
    /// What poll(2) waits for.
    pub watch: Option<fn(&Cgroup) -> &Watch>,
    /// As what it is told of to who watches it.
    pub changes_with: Option<Changed>,
}

impl FileSpec {
    /// True if a group has the file now.
    pub fn is_shown(&self, group: &Cgroup) -> bool {
        match (&group.parent, self.controller) {
            (None, _) => self.in_root,
            (Some(_), None) => true,
            (Some(parent), Some(controller)) => parent.enabled().contains(controller),
        }
    }

    const fn in_root(mut self) -> Self {
        self.in_root = true;
        self
    }

    const fn watched(mut self, watch: fn(&Cgroup) -> &Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    const fn told_as(mut self, changed: Changed) -> Self {
        self.changes_with = Some(changed);
        self
    }

    const fn of(mut self, controller: Controllers) -> Self {
        self.controller = Some(controller);
        self
    }
}

const fn file(name: &'static str, show: Show) -> FileSpec {
    let controller = None;
    FileSpec {
        name,
        mode: 0o444,
        controller,
        in_root: false,
        show: Some(show),
        store: None,
        watch: None,
        changes_with: None,
    }
}

const fn setting(name: &'static str, show: Show, store: Store) -> FileSpec {
    FileSpec { mode: 0o644, store: Some(store), ..file(name, show) }
}

const CPU: Controllers = Controllers::CPU;
const MEMORY: Controllers = Controllers::MEMORY;
const PIDS: Controllers = Controllers::PIDS;

/// The position of cgroup.procs, whose permissions say who may move tasks.
pub const PROCS: usize = 0;

/// All files.
pub static FILES: &[FileSpec] = &[
    setting("cgroup.procs", procs, attach::write_procs).in_root(),
    setting("cgroup.threads", threads, attach::write_threads).in_root(),
    setting("cgroup.type", group_type, set_type),
    file("cgroup.controllers", controllers).in_root(),
    setting("cgroup.subtree_control", subtree_control, set_subtree_control).in_root(),
    file("cgroup.events", events).watched(|group| &group.events).told_as(Changed::EVENTS),
    setting("cgroup.max.depth", max_depth, set_max_depth).in_root(),
    setting("cgroup.max.descendants", max_descendants, set_max_descendants).in_root(),
    file("cgroup.stat", stat).in_root(),
    setting("cgroup.freeze", freeze, set_freeze),
    FileSpec { mode: 0o200, show: None, ..setting("cgroup.kill", freeze, kill) },
    file("cpu.stat", c::cpu_stat).in_root(),
    setting("cpu.max", c::cpu_max, c::set_cpu_max).of(CPU),
    setting("cpu.max.burst", c::cpu_max_burst, c::set_cpu_max_burst).of(CPU),
    setting("cpu.weight", c::cpu_weight, c::set_cpu_weight).of(CPU),
    setting("cpu.weight.nice", c::cpu_nice, c::set_cpu_nice).of(CPU),
    file("memory.current", c::memory_current).of(MEMORY),
    file("memory.peak", c::memory_peak).of(MEMORY),
    setting("memory.max", c::memory_max, c::set_memory_max).of(MEMORY),
    setting("memory.min", c::memory_min, c::set_memory_min).of(MEMORY),
    setting("memory.low", c::memory_low, c::set_memory_low).of(MEMORY),
    setting("memory.high", c::memory_high, c::set_memory_high).of(MEMORY),
    file("memory.events", c::memory_events).of(MEMORY).watched(c::memory_watch),
    file("memory.events.local", c::memory_events_local).of(MEMORY).watched(c::memory_watch),
    file("memory.stat", c::memory_stat).of(MEMORY).in_root(),
    setting("memory.oom.group", c::oom_group, c::set_oom_group).of(MEMORY),
    file("pids.current", c::pids_current).of(PIDS),
    file("pids.peak", c::pids_peak).of(PIDS),
    setting("pids.max", c::pids_max, c::set_pids_max).of(PIDS),
    file("pids.events", c::pids_events)
        .of(PIDS)
        .watched(|group| &group.pids.watch)
        .told_as(Changed::PIDS),
];

fn procs(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    // The processes of threaded groups are those of their domain.
    if group.is_threaded() {
        return Err(Errno::EOPNOTSUPP);
    }
    verbs::numbers(group, true)?.iter().try_for_each(|nr| put!(out, "{nr}\n"))
}

fn threads(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    verbs::numbers(group, false)?.iter().try_for_each(|nr| put!(out, "{nr}\n"))
}

fn group_type(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", group.group_type().name())
}

fn set_type(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    if data != b"threaded" {
        return Err(Errno::EINVAL);
    }
    group.make_threaded(&cgroup::lock_tree())
}

fn list(out: &mut Text, controllers: Controllers) -> Result<()> {
    let mut space = "";
    for (controller, name) in Controllers::NAMES {
        if controllers.contains(controller) {
            put!(out, "{space}{name}")?;
            space = " ";
        }
    }
    out.bytes(b"\n")
}

fn controllers(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    list(out, group.control())
}

fn subtree_control(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    list(out, group.enabled())
}

fn set_subtree_control(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    let (mut enable, mut disable) = (Controllers::empty(), Controllers::empty());
    for word in data.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
        let (sign, name) = word.split_first().ok_or(Errno::EINVAL)?;
        let known = Controllers::NAMES.iter().find(|(_, known)| known.as_bytes() == name);
        let controller = known.ok_or(Errno::EINVAL)?.0;
        // The last word about one counts.
        match sign {
            b'+' => {
                enable |= controller;
                disable -= controller;
            }
            b'-' => {
                disable |= controller;
                enable -= controller;
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    verbs::set_controllers(group, enable, disable)
}

fn events(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    let (populated, frozen) = (group.is_populated(), group.is_frozen());
    put!(out, "populated {}\nfrozen {}\n", u8::from(populated), u8::from(frozen))
}

fn show_limit(limit: u32, out: &mut Text) -> Result<()> {
    match limit {
        NO_LIMIT => out.bytes(b"max\n"),
        limit => put!(out, "{limit}\n"),
    }
}

fn parse_limit(data: &[u8]) -> Result<u32> {
    if data == b"max" {
        return Ok(NO_LIMIT);
    }
    let limit = parse_number(data)?;
    i32::try_from(limit).ok().and_then(|limit| u32::try_from(limit).ok()).ok_or(Errno::ERANGE)
}

fn max_depth(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    show_limit(group.max_depth(), out)
}

fn set_max_depth(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    group.set_max_depth(parse_limit(data)?);
    Ok(())
}

fn max_descendants(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    show_limit(group.max_descendants(), out)
}

fn set_max_descendants(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    group.set_max_descendants(parse_limit(data)?);
    Ok(())
}

fn stat(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    let (live, dying) = (group.nr_descendants(), group.nr_dying_descendants());
    put!(out, "nr_descendants {live}\nnr_dying_descendants {dying}\n")
}

fn freeze(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", u8::from(group.freezes()))
}

fn set_freeze(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    match parse_number(data)? {
        0 => verbs::set_freeze(group, false),
        1 => verbs::set_freeze(group, true),
        _ => Err(Errno::ERANGE),
    }
}

fn kill(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    if parse_number(data)? != 1 {
        return Err(Errno::ERANGE);
    }
    verbs::kill(group)
}
