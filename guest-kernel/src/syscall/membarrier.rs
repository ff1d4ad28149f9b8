//! membarrier(2): barriers on all CPUs that run threads of a program, so that the program's own fast path
//! needs none.
//!
//! A CPU that runs such a thread is interrupted, and executes a barrier. One that does not passes one in
//! `switch_to` before it does, and returns to EL0 by an exception return, which also synchronises what it
//! fetches.

use core::sync::atomic::{Ordering, fence};

use super::{Args, SysResult};
use crate::errno::Errno;
use crate::sched::call;
use crate::task::current_mm;

const GLOBAL: u32 = 1 << 0;
const GLOBAL_EXPEDITED: u32 = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: u32 = 1 << 2;
const PRIVATE_EXPEDITED: u32 = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: u32 = 1 << 4;
const PRIVATE_EXPEDITED_SYNC_CORE: u32 = 1 << 5;
const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: u32 = 1 << 6;
const COMMANDS: u32 = 0x7f;

/// membarrier(2).
pub fn sys_membarrier(a: &mut Args) -> SysResult {
    let (command, flags) = (a.u32(0), a.u32(1));
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let barrier = || fence(Ordering::SeqCst);
    match command {
        0 => return Ok(COMMANDS as usize),
        // The expedited one promises nothing about programs that did not register, and no less about them.
        GLOBAL | GLOBAL_EXPEDITED => call::on_cpus(!0, barrier),
        REGISTER_GLOBAL_EXPEDITED => {}
        REGISTER_PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED_SYNC_CORE => {
            current_mm()?.membarrier.fetch_or(command, Ordering::Relaxed);
        }
        PRIVATE_EXPEDITED | PRIVATE_EXPEDITED_SYNC_CORE => {
            let mm = current_mm()?;
            // Each registration is the bit above its command.
            if mm.membarrier.load(Ordering::Relaxed) & command << 1 == 0 {
                return Err(Errno::EPERM);
            }
            barrier();
            call::on_cpus(mm.active_cpus(), barrier);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
