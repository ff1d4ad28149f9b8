//! What IPC asks of later floors about the caller, who install it at boot.

use crate::errno::{Errno, Result};
use crate::ipc::IpcNs;
use crate::kref::Ref;
use crate::ns::{Cred, Pid};
use crate::sync::Once;

/// What the process floor provides.
pub struct Hooks {
    /// The calling process.
    pub process: fn() -> Ref<Pid>,
    /// The number that the caller sees for a process.
    pub visible_pid: fn(&Pid) -> u32,
    /// The caller's credentials.
    pub cred: fn() -> Ref<Cred>,
    /// The caller's IPC namespace.
    pub ipc_ns: fn() -> Ref<IpcNs>,
    /// `RLIMIT_MSGQUEUE` of the caller.
    pub msgqueue_limit: fn() -> u64,
    /// Tells a process by a signal that a message came from the caller (`SI_MESGQ`).
    pub tell: fn(&Pid, i32, u64),
}

static HOOKS: Once<Hooks> = Once::new();

/// Installs the process floor's functions.
pub fn install(hooks: Hooks) {
    HOOKS.set(hooks);
}

/// The calling process; `None` without a process floor (host tests).
pub fn process() -> Option<Ref<Pid>> {
    HOOKS.try_get().map(|h| (h.process)())
}

/// The number that the caller sees for a process.
pub fn visible_pid(pid: &Pid) -> u32 {
    HOOKS.try_get().map_or(0, |h| (h.visible_pid)(pid))
}

/// The caller's credentials.
pub fn cred() -> Result<Ref<Cred>> {
    HOOKS.try_get().map(|h| (h.cred)()).ok_or(Errno::ENOSYS)
}

/// The caller's IPC namespace.
pub fn ipc_ns() -> Result<Ref<IpcNs>> {
    HOOKS.try_get().map(|h| (h.ipc_ns)()).ok_or(Errno::ENOSYS)
}

/// `RLIMIT_MSGQUEUE` of the caller.
pub fn msgqueue_limit() -> u64 {
    HOOKS.try_get().map_or(u64::MAX, |h| (h.msgqueue_limit)())
}

/// Tells a process that a message came.
pub fn tell(pid: &Pid, signal: i32, value: u64) {
    if let Some(h) = HOOKS.try_get() {
        (h.tell)(pid, signal, value);
    }
}
