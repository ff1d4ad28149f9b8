//! What happens when programs have used up what they may have.
//!
//! This floor knows no tasks, so the choice of a victim is the task floor's: it registers a killer at
//! boot, which may use [`Mm::oom_badness`](super::Mm::oom_badness).

use super::Fault;
use crate::sync::Once;

/// What a killer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomOutcome {
    /// Something was killed, and has had time to go: try again.
    Retry,
    /// The caller itself is to die.
    Fail,
}

/// Chooses a victim, sends it SIGKILL and waits a moment. May sleep.
pub type OomKiller = fn() -> OomOutcome;

static KILLER: Once<OomKiller> = Once::new();

/// Registers the killer, at boot.
pub fn set_killer(killer: OomKiller) {
    KILLER.set(killer);
}

/// Called without locks when a fault found no frame; on success the fault is tried again.
#[cold]
pub(super) fn out_of_memory() -> Result<(), Fault> {
    let before = super::frame::available_frames();
    super::reclaim();
    if super::frame::available_frames() > before {
        return Ok(());
    }
    match KILLER.try_get().map(|killer| killer()) {
        Some(OomOutcome::Retry) => Ok(()),
        Some(OomOutcome::Fail) | None => Err(Fault::Oom),
    }
}
