//! What happens when programs have used up what they may have: all memory, or their control group's.
//!
//! This floor knows no tasks, so the choice of a victim is the task floor's: it registers a killer at
//! boot, which may use [`Mm::oom_badness`](super::Mm::oom_badness).

use super::Fault;
use super::memcg::MemGroup;
use crate::kref::Ref;
use crate::sync::Once;

/// What a killer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomOutcome {
    /// Something was killed, and has had time to go: try again.
    Retry,
    /// The caller itself is to die, or there is nobody to kill.
    Fail,
}

/// Chooses a victim, in a group or anywhere, sends it SIGKILL and waits a moment. May sleep.
pub type OomKiller = fn(Option<&Ref<MemGroup>>) -> OomOutcome;

static KILLER: Once<OomKiller> = Once::new();

/// Registers the killer, at boot.
pub fn set_killer(killer: OomKiller) {
    KILLER.set(killer);
}

fn kill(group: Option<&Ref<MemGroup>>) -> Result<(), Fault> {
    match KILLER.try_get().map(|killer| killer(group)) {
        Some(OomOutcome::Retry) => Ok(()),
        Some(OomOutcome::Fail) | None => Err(Fault::Oom),
    }
}

/// Called without locks when a fault found no frame; on success the fault is tried again.
#[cold]
pub(super) fn out_of_memory() -> Result<(), Fault> {
    let before = super::frame::available_frames();
    super::reclaim();
    if super::frame::available_frames() > before {
        return Ok(());
    }
    kill(None)
}

/// Called without spin locks when `group`, or one around it, may have no more pages; on success it is
/// worth trying again.
#[cold]
pub fn over_limit(group: Option<&Ref<MemGroup>>) -> Result<(), Fault> {
    // Without a group there is no limit any more.
    let Some(group) = group else { return Ok(()) };
    let full = &MemGroup::full(group);
    let before = full.usage();
    super::reclaim();
    if full.usage() < before {
        return Ok(());
    }
    kill(Some(full))
}

/// Has what caches hold without need given back, for a group that uses much.
pub fn reclaim() {
    super::reclaim();
}
