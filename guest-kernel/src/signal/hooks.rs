//! How floors below the process floor raise signals: the process floor installs these at boot.

use super::SigInfo;
use crate::errno::Result;
use crate::kref::Ref;
use crate::ns::{Pid, PidType};
use crate::sync::Once;

/// Who gets the signals of a file (fcntl(2), `F_SETOWN`), and by whose right.
#[derive(Clone)]
pub struct IoOwner {
    /// `None` for nobody.
    pub pid: Option<Ref<Pid>>,
    /// Whether that is a thread, a process or a process group.
    pub kind: PidType,
    /// The real user who said so.
    pub uid: u32,
    /// The effective user who said so.
    pub euid: u32,
}

/// What the process floor provides.
pub struct Hooks {
    /// Sends to the calling thread itself (`SIGPIPE`, `SIGXFSZ`).
    pub send_current: fn(i32),
    /// Sends to a process group; `ESRCH` if it has no member.
    pub send_pgrp: fn(&Pid, SigInfo) -> Result<()>,
    /// Sends to every group of a session's leader and its foreground (tty hangup).
    pub send_session_leader: fn(&Pid, SigInfo) -> Result<()>,
    /// Sends to a file's owner what that may know.
    pub send_io: fn(&IoOwner, SigInfo),
    /// True if the caller blocks or ignores the signal (background access to a tty).
    pub current_blocks_or_ignores: fn(i32) -> bool,
    /// True if the caller's process group is orphaned.
    pub current_pgrp_is_orphaned: fn() -> bool,
}

static HOOKS: Once<Hooks> = Once::new();

/// Installs the process floor's functions.
pub fn install(hooks: Hooks) {
    HOOKS.set(hooks);
}

/// The functions; without a process floor (host tests of lower floors) there is nobody to signal.
fn hooks() -> Option<&'static Hooks> {
    HOOKS.try_get()
}

/// Sends to the calling thread itself, as if it had done so: `SIGPIPE` and `SIGXFSZ` are such signals.
pub fn send_current(sig: i32) {
    if let Some(h) = hooks() {
        (h.send_current)(sig);
    }
}

/// Sends to all of a process group.
pub fn send_pgrp(pgrp: &Pid, sig: i32) -> Result<()> {
    hooks().map_or(Ok(()), |h| (h.send_pgrp)(pgrp, SigInfo::kernel(sig)))
}

/// Sends to the leader of a session.
pub fn send_session_leader(session: &Pid, sig: i32) -> Result<()> {
    hooks().map_or(Ok(()), |h| (h.send_session_leader)(session, SigInfo::kernel(sig)))
}

/// Says to a file's owner that I/O is possible.
pub fn send_io(owner: &IoOwner, info: SigInfo) {
    if let Some(h) = hooks() {
        (h.send_io)(owner, info);
    }
}

/// True if the caller blocks or ignores `sig`.
pub fn current_blocks_or_ignores(sig: i32) -> bool {
    hooks().is_some_and(|h| (h.current_blocks_or_ignores)(sig))
}

/// True if the caller's process group is orphaned.
pub fn current_pgrp_is_orphaned() -> bool {
    hooks().is_some_and(|h| (h.current_pgrp_is_orphaned)())
}
