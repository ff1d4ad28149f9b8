//! What epoll sets watch: hooked up once all files of all processes are there, before anything of them runs.

use belljar_abi::corenote::Watch;

use super::Failure;
use super::objects::{Map, Objects};
use super::plan::Plan;
use super::state::Parts;
use crate::errno::{Errno, Result};
use crate::fs::epoll::{EpollEvent, set_of};
use crate::fs::{File, FileKind, PollTable};
use crate::kref::Ref;
use crate::process::signalfd::SignalFd;
use crate::task::{SignalStruct, Task};

/// Hooks them up. With `becomes`, the first process is the caller.
#[inline(never)]
pub(super) fn restore(
    caller: &Task,
    plans: &[Plan<'_>],
    parts: &[Parts],
    objects: &Objects,
    becomes: bool,
) -> Result<(), Failure> {
    // A set that several processes have open is in the core of each.
    let mut owners: Map<usize> = Map::default();
    for (index, plan) in plans.iter().enumerate() {
        for watch in &plan.watches {
            let failed = |errno| {
                let fd = watch.fd;
                Failure::new(plan, errno, format_args!("descriptor {fd} in its epoll set: {errno}"))
            };
            if owners.get(watch.set).is_none() {
                owners.insert(watch.set, index).map_err(failed)?;
            }
            if owners.get(watch.set) != Some(&index) {
                continue;
            }
            let signal = plans
                .iter()
                .position(|plan| plan.process.pid == watch.pid)
                .map(|at| if becomes && at == 0 { &caller.signal } else { &parts[at].signal });
            hook(objects, watch, signal).map_err(failed)?;
        }
    }
    for (index, plan) in plans.iter().enumerate() {
        let own = plan.watches.iter().filter(|watch| owners.get(watch.set) == Some(&index));
        for watch in own {
            let (Some(set), Some(file)) =
                (objects.files.get(watch.set), objects.files.get(watch.file))
            else {
                continue;
            };
            let Some(set) = set_of(set) else { continue };
            // A terminal is this machine's, and what waits there is not what waited then.
            if watch.ready != 0 || file.kind == FileKind::Tty {
                set.resume(watch.fd as i32, file);
            }
        }
    }
    Ok(())
}

fn hook(objects: &Objects, watch: &Watch, signal: Option<&Ref<SignalStruct>>) -> Result<()> {
    let set = objects.files.get(watch.set).and_then(|file| set_of(file)).ok_or(Errno::EBADF)?;
    let file = objects.files.get(watch.file).ok_or(Errno::EBADF)?;
    if !file.ops().is_pollable() {
        return Err(Errno::EPERM);
    }
    let event = EpollEvent { events: watch.events as u32, pad: 0, data: watch.data };
    set.restore(watch.fd as i32, file, event, |table| name_queues(file, signal, table))
}

/// Names the queues that a file is waited for on. Those of a signalfd are the queues of whoever watches it.
fn name_queues(file: &File, signal: Option<&Ref<SignalStruct>>, table: &mut PollTable<'_>) {
    match (file.ops_as::<SignalFd>(), signal) {
        (Some(signals), Some(signal)) => signals.poll_as(signal, table),
        (Some(_), None) => {}
        (None, _) => {
            file.ops().poll(file, table);
        }
    }
}
