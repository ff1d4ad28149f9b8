//! What a tracer asks and changes about a tracee's signals.

use alloc::vec::Vec;

use crate::errno::{Errno, Result};
use crate::process::ptrace::control::Stopped;
use crate::process::signal;
use crate::signal::{SigInfo, SigSet};

/// `PTRACE_PEEKSIGINFO_SHARED`: the signals of the process, not of the thread.
pub const PEEK_SHARED: u32 = 1;

/// PTRACE_GETSIGINFO: the signal that it stopped for; `EINVAL` if it stopped for none.
pub fn get(stopped: &Stopped<'_>) -> Result<SigInfo> {
    stopped.task().ptrace.stop.lock().info.ok_or(Errno::EINVAL)
}

/// PTRACE_SETSIGINFO.
pub fn set(stopped: &Stopped<'_>, info: SigInfo) -> Result<()> {
    let mut stop = stopped.task().ptrace.stop.lock();
    stop.info = Some(info).filter(|_| stop.info.is_some());
    stop.info.map(|_| ()).ok_or(Errno::EINVAL)
}

/// PTRACE_PEEKSIGINFO: at most `count` of the signals that wait, from the `from`th on.
pub fn peek(stopped: &Stopped<'_>, from: u64, shared: bool, count: usize) -> Result<Vec<SigInfo>> {
    /// More signals than can be of use at once.
    const MOST: usize = 128;
    let task = stopped.task();
    let mut found = Vec::new();
    found.try_reserve_exact(count.min(MOST)).map_err(|_| Errno::ENOMEM)?;
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let room = found.capacity().min(count);
    if shared {
        found.extend(task.signal.shared.lock().pending.iter().skip(from).take(room));
    } else {
        found.extend(task.sig.lock().pending.iter().skip(from).take(room));
    }
    Ok(found)
}

/// PTRACE_GETSIGMASK: what it blocks, or will once the call that it is in returns.
pub fn mask(stopped: &Stopped<'_>) -> SigSet {
    signal::mask_to_save(stopped.task())
}

/// PTRACE_SETSIGMASK.
pub fn set_mask(stopped: &Stopped<'_>, mask: SigSet) {
    let task = stopped.task();
    {
        let mut signals = task.sig.lock();
        signals.saved_mask.take();
        signals.blocked = mask.without(SigSet::UNBLOCKABLE);
    }
    signal::recalc_sigpending(task);
}
