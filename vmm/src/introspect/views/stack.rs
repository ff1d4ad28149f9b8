//! The kernel stack of a task, by frame pointers (AAPCS64 frame records).

use super::super::{Kernel, Object, Result};
use crate::elfcore::regs::General;

/// Most frames that are followed.
const MAX_FRAMES: usize = 256;

/// Where a walk begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pc: u64,
    fp: u64,
    /// It is from a CPU's registers.
    pub on_cpu: bool,
}

impl Start {
    /// Of a task that is not running: where `switch_to` returns to.
    pub(super) fn saved(task: &Object<'_>) -> Result<Self> {
        let (pc, fp) = (task.uint("se.thread.context.pc")?, task.uint("se.thread.context.fp")?);
        Ok(Self { pc, fp, on_cpu: false })
    }

    /// Of the task that a CPU is running, while it is in the kernel.
    pub(super) fn of_cpu(registers: &General) -> Self {
        /// The frame pointer's number (AAPCS64, 6.1.1).
        const FP: usize = 29;
        Self { pc: registers.pc, fp: registers.x[FP], on_cpu: true }
    }
}

/// The code addresses on the stack of `task`, innermost first: where it is, then the callers' return
/// addresses.
pub(super) fn code_addresses(
    kernel: &Kernel<'_>,
    task: &Object<'_>,
    start: Start,
) -> Result<Vec<u64>> {
    let base = task.uint("se.thread.stack.base")?;
    let size = task.uint("se.thread.stack.size")?;
    let stack = base..base.saturating_add(size);
    let Start { mut pc, mut fp, .. } = start;
    let mut addresses = vec![];
    // Work of an interrupt has a stack of its own, whose records lead to the task's.
    let mut elsewhere = start.on_cpu && !stack.contains(&fp);
    while pc != 0 && addresses.len() < MAX_FRAMES {
        addresses.push(pc);
        // Frame records climb a stack; anything else is the end or damage.
        let inside = stack.contains(&fp) && stack.contains(&fp.saturating_add(15));
        if fp % 8 != 0 || !(inside || elsewhere) {
            break;
        }
        let word = |at| kernel.space().read_u64(at);
        let record = word(fp).and_then(|next| Ok((next, word(fp.wrapping_add(8))?)));
        let next = match record {
            Ok((next, caller)) => {
                pc = caller;
                next
            }
            // The kernel vouches for its tasks' stacks, and for nothing else that a register holds.
            Err(_) if elsewhere => break,
            Err(error) => return Err(error.into()),
        };
        if elsewhere && stack.contains(&next) {
            elsewhere = false;
            fp = next;
        } else {
            // A record below this one would lead in circles; this return address is the last.
            fp = if next > fp { next } else { 0 };
        }
    }
    Ok(addresses)
}

/// The address that names frame number `index`: a return address is the instruction after the call, and
/// the call is what is meant. A task that never ran yet goes on at the start of a function instead.
pub(super) fn call_site(kernel: &Kernel<'_>, index: usize, pc: u64) -> u64 {
    let fresh = index == 0 && kernel.symbols().lookup(pc).is_none_or(|l| l.offset == 0);
    if fresh { pc } else { pc.wrapping_sub(4) }
}
