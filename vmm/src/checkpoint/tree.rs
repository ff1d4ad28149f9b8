//! A process, or it and all its descendants, as a folder of cores with an index.
//!
//! Everything is described before anything is written, so what cannot be carried is refused while there is
//! nothing to take back; and the folder takes its place in one step.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::open::hash;
use super::state::clock_offset;
use super::terminals::both_sides;
use super::write::{Depth, Image, image};
use super::{Error, Result};
use crate::backend::CpuRegisters;
use crate::introspect::{Kernel, Process};
use crate::snapshot::partial::Partial;

/// The index's file.
pub(super) const INDEX: &str = "checkpoint.json";
/// What tells it from any other JSON file.
pub(super) const MAGIC: &str = "belljar checkpoint";
/// Version of its form.
pub(super) const VERSION: u32 = 2;

/// What is in the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// What it is.
    pub magic: String,
    /// Version of its form.
    pub version: u32,
    /// The cores, parents before their children.
    pub processes: Vec<Member>,
}

/// One core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Number of the process.
    pub pid: u64,
    /// Number of its parent.
    pub ppid: u64,
    /// Its name.
    pub comm: String,
    /// The core's file in the folder.
    pub file: String,
    /// BLAKE3 of that file.
    pub blake3: String,
}

/// Writes the process `pid`, and with `tree` its descendants, as cores into the folder `dir`. `now` is CLOCK_MONOTONIC,
/// if somebody knows better than what stands in memory.
pub fn checkpoint(
    kernel: &Kernel<'_>,
    cpus: &[CpuRegisters],
    pid: u32,
    tree: bool,
    dir: &Path,
    now: Option<u64>,
) -> Result<Index> {
    let now = now.map_or_else(|| clock(kernel), Ok)?;
    let mut processes = vec![];
    let mut images: Vec<Image<'_>> = vec![];
    for member in members(kernel, pid, tree)? {
        images.push(image(kernel, cpus, number_of(&member), Depth::Whole { now })?);
        processes.push(member);
    }
    unshared(kernel, &processes)?;
    same_clocks(kernel, &processes)?;
    both_ends(&processes, &images)?;
    watched(&processes, &images)?;
    pidfds(kernel, &processes, &images)?;
    sockets(&processes, &images)?;
    let ptys: Vec<_> = processes
        .iter()
        .zip(&images)
        .map(|(member, image)| (member.pid, &image.open.ptys))
        .collect();
    both_sides(&ptys)?;
    let mut carried = HashSet::new();
    for (member, image) in processes.iter().zip(&mut images) {
        image.carry(number_of(member), &mut carried)?;
    }
    let partial = Partial::create(dir, INDEX)?;
    for (member, image) in processes.iter_mut().zip(&images) {
        let mut file = partial.create_file(&member.file)?;
        let path = partial.file(&member.file);
        let failed = |cause| Error::Write { path: path.clone(), cause };
        image.write(&file).map_err(|error| match error {
            Error::Io(cause) => failed(cause),
            other => other,
        })?;
        member.blake3 = hash(&mut file).map_err(failed)?;
        file.sync_all().map_err(failed)?;
    }
    let index = Index { magic: MAGIC.to_owned(), version: VERSION, processes };
    let mut text = serde_json::to_vec_pretty(&index).map_err(std::io::Error::from)?;
    text.push(b'\n');
    partial.write_file(INDEX, &text)?;
    partial.commit()?;
    Ok(index)
}

fn number_of(member: &Member) -> u32 {
    u32::try_from(member.pid).unwrap_or(u32::MAX)
}

/// CLOCK_MONOTONIC of a machine that stands still: when it was frozen, or the last time that a CPU
/// looked at its clock.
fn clock(kernel: &Kernel<'_>) -> Result<u64> {
    let root = kernel.root();
    let mut now = if root.frozen() == 1 { root.frozen_monotonic() } else { 0 };
    for queue in kernel.run_queues()? {
        now = now.max(queue.uint("last_tick")?);
    }
    Ok(now)
}

/// Refuses processes that share what each core has for itself.
fn unshared(kernel: &Kernel<'_>, members: &[Member]) -> Result<()> {
    let inside: Vec<u64> = members.iter().map(|member| member.pid).collect();
    let parts = [("se.mm", "memory"), ("files", "descriptors"), ("fs", "directories")];
    let mut owners: HashMap<u64, u64> = HashMap::new();
    let mut shared = vec![];
    for leader in kernel.processes()? {
        let process = Process::new(leader);
        let pid = process.pid()?;
        for (field, what) in parts {
            let Some(part) = process.task().ptr(field)? else { continue };
            let other = *owners.entry(part.addr()).or_insert(pid);
            if other != pid {
                shared.push((pid, other, what));
            }
        }
    }
    match shared.iter().find(|(pid, other, _)| inside.contains(pid) || inside.contains(other)) {
        Some((pid, other, what)) => {
            let what = format!("it shares its {what} with process {other}");
            Err(Error::Refused { pid: *pid, what })
        }
        None => Ok(()),
    }
}

/// Refuses processes whose clocks are not the first one's: they go on in one time namespace.
fn same_clocks(kernel: &Kernel<'_>, members: &[Member]) -> Result<()> {
    let mut first = None;
    for member in members {
        let process = Process::find(kernel, u32::try_from(member.pid).unwrap_or(u32::MAX))?;
        let offset = clock_offset(process.task())?;
        if offset != *first.get_or_insert(offset) {
            let of = members.first().map_or(0, |first| first.pid);
            let what = format!("its time namespace is not that of process {of}");
            return Err(Error::Refused { pid: member.pid, what });
        }
    }
    Ok(())
}

/// Refuses pipes that somebody outside has open too: what comes through them would be lost.
fn both_ends(members: &[Member], images: &[Image<'_>]) -> Result<()> {
    let mut open: HashMap<u64, [u64; 2]> = HashMap::new();
    let mut seen = HashSet::new();
    for end in images.iter().flat_map(|image| &image.open.pipes) {
        if seen.insert(end.file) {
            let count = open.entry(end.pipe.0).or_default();
            count.iter_mut().zip(end.ends).for_each(|(count, is)| *count += u64::from(is));
        }
    }
    for (member, image) in members.iter().zip(images) {
        let half = image.open.pipes.iter().find(|end| open.get(&end.pipe.0) != Some(&end.pipe.1));
        if let Some(end) = half {
            let what = format!(
                "descriptor {} is a pipe that a process outside the checkpoint has open too",
                end.fd
            );
            return Err(Error::Refused { pid: member.pid, what });
        }
    }
    Ok(())
}

/// Refuses sockets that are connected to somebody outside, or hold what somebody outside sent.
fn sockets(members: &[Member], images: &[Image<'_>]) -> Result<()> {
    let inside = |id| images.iter().any(|image| image.open.sockets.known.contains(&id));
    for (member, image) in members.iter().zip(images) {
        if let Some((fd, _)) = image.open.sockets.others.iter().find(|(_, other)| !inside(*other)) {
            let what = format!(
                "descriptor {fd} is a Unix socket whose other end only somebody outside the checkpoint has open"
            );
            return Err(Error::Refused { pid: member.pid, what });
        }
    }
    Ok(())
}

/// Refuses pidfds of processes that are not in the checkpoint.
fn pidfds(kernel: &Kernel<'_>, members: &[Member], images: &[Image<'_>]) -> Result<()> {
    if images.iter().all(|image| image.open.pidfds.is_empty()) {
        return Ok(());
    }
    let inside = |pid| members.iter().any(|member| member.pid == pid);
    let mut known = HashSet::new();
    for leader in kernel.processes()? {
        let process = Process::new(leader);
        // A zombie is in its parent's core.
        let is_zombie = process.task().uint("exit_state")? != 0;
        let carried = if is_zombie { process.ppid()? } else { Some(process.pid()?) };
        if carried.is_some_and(inside)
            && let Some(pid) = process.task().ptr("thread_pid")?
        {
            known.insert(pid.addr());
        }
    }
    for (member, image) in members.iter().zip(images) {
        let foreign = image.open.pidfds.iter().find(|(_, _, at)| !known.contains(at));
        if let Some((fd, number, _)) = foreign {
            let what = format!(
                "descriptor {fd} is of the kind PidFd, of process {number}, which is not in the checkpoint"
            );
            return Err(Error::Refused { pid: member.pid, what });
        }
    }
    Ok(())
}

/// Refuses epoll sets that watch files that nobody of the checkpoint has open: they are still open elsewhere.
fn watched(members: &[Member], images: &[Image<'_>]) -> Result<()> {
    let is_open = |file| images.iter().any(|image| image.open.files.contains(&file));
    for (member, image) in members.iter().zip(images) {
        if let Some(watch) = image.open.watches.iter().find(|watch| !is_open(watch.file)) {
            let fd = watch.fd;
            let what = format!(
                "an epoll set watches what was its descriptor {fd}, which only somebody else has open now"
            );
            return Err(Error::Refused { pid: member.pid, what });
        }
    }
    Ok(())
}

/// The processes that belong to it, parents before their children.
fn members(kernel: &Kernel<'_>, pid: u32, tree: bool) -> Result<Vec<Member>> {
    let first = Process::find(kernel, pid)?;
    let first = match first.task().ptr("group_leader")? {
        Some(leader) => Process::new(leader),
        None => first,
    };
    let mut found = vec![member(&first)?];
    if !tree {
        return Ok(found);
    }
    let mut children: HashMap<u64, Vec<Member>> = HashMap::new();
    for leader in kernel.processes()? {
        let process = Process::new(leader);
        // A zombie is in its parent's core.
        if process.task().uint("exit_state")? == 0 {
            let member = member(&process)?;
            children.entry(member.ppid).or_default().push(member);
        }
    }
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        if let Some(mut own) = children.remove(&parent.pid) {
            own.sort_by_key(|member| member.pid);
            found.extend(own);
        }
        next += 1;
    }
    Ok(found)
}

fn member(process: &Process<'_>) -> Result<Member> {
    let pid = process.pid()?;
    Ok(Member {
        pid,
        ppid: process.ppid()?.unwrap_or(0),
        comm: process.task().text("comm")?,
        file: format!("{pid}.core"),
        blake3: String::new(),
    })
}
