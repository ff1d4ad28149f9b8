//! The kernel stack of a task that is not running, by frame pointers (AAPCS64 frame records).

use super::super::{Kernel, Object, Result};

/// Most frames that are followed.
const MAX_FRAMES: usize = 256;

/// The code addresses on the stack of `task`, innermost first: where `switch_to` returns to, then the
/// callers' return addresses.
pub(super) fn code_addresses(kernel: &Kernel<'_>, task: &Object<'_>) -> Result<Vec<u64>> {
    let base = task.uint("se.thread.stack.base")?;
    let size = task.uint("se.thread.stack.size")?;
    let stack = base..base.saturating_add(size);
    let mut pc = task.uint("se.thread.context.pc")?;
    let mut fp = task.uint("se.thread.context.fp")?;
    let mut addresses = vec![];
    while pc != 0 && addresses.len() < MAX_FRAMES {
        addresses.push(pc);
        // Frame records climb the stack; anything else is the end or damage.
        if fp % 8 != 0 || !stack.contains(&fp) || !stack.contains(&fp.saturating_add(15)) {
            break;
        }
        let next = kernel.space().read_u64(fp)?;
        pc = kernel.space().read_u64(fp + 8)?;
        // A record below this one would lead in circles; this return address is the last.
        fp = if next > fp { next } else { 0 };
    }
    Ok(addresses)
}

/// The address that names frame number `index`: a return address is the instruction after the call, and
/// the call is what is meant. A task that never ran yet goes on at the start of a function instead.
pub(super) fn call_site(kernel: &Kernel<'_>, index: usize, pc: u64) -> u64 {
    let fresh = index == 0 && kernel.symbols().lookup(pc).is_none_or(|l| l.offset == 0);
    if fresh { pc } else { pc.wrapping_sub(4) }
}
