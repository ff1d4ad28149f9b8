//! The thread `suspend`, which talks to the VMM, and snapshots that programs ask for.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::freeze::{Role, freeze};
use crate::drivers::cmdline;
use crate::errno::{Errno, Result};
use crate::process::kthread::{Kthread, kthread_create_on_cpu};
use crate::sched::{Completion, WaitQueue};
use crate::sync::SpinLock;
use crate::wait_channel;

/// A program waits until a snapshot was taken.
struct Request {
    done: Completion,
    refused: SpinLock<Option<Errno>>,
}

static REQUESTS: SpinLock<VecDeque<Arc<Request>>> = SpinLock::new(VecDeque::new());
static QUEUE: WaitQueue = WaitQueue::new();
/// As what the machine goes on since it was frozen last: 0 as the original, else one more than the copy's
/// number.
static ROLE: AtomicU64 = AtomicU64::new(0);

/// As what the machine goes on since it was frozen last.
pub fn role() -> Role {
    match ROLE.load(Relaxed) {
        0 => Role::Original,
        n => Role::Copy(n - 1),
    }
}

/// Starts the thread.
pub fn start() -> Result<()> {
    kthread_create_on_cpu("suspend", 0, serve)?.wake();
    Ok(())
}

/// Asks for a snapshot and waits until it was taken. `EOPNOTSUPP` if nobody would take it: whoever watches
/// the root page for that says so with `belljar.unattended` on the command line.
pub fn request_snapshot() -> Result<()> {
    if !cmdline::is_set("belljar.unattended") {
        return Err(Errno::EOPNOTSUPP);
    }
    let request = Arc::new(Request { done: Completion::new(), refused: SpinLock::new(None) });
    REQUESTS.lock().push_back(request.clone());
    QUEUE.wake_one();
    request.done.wait_killable(wait_channel!("snapshot"))?;
    request.refused.lock().map_or(Ok(()), Err)
}

fn serve(me: &Kthread) -> i32 {
    while !me.wait_for(&QUEUE, || !REQUESTS.lock().is_empty()) {
        let Some(request) = REQUESTS.lock().pop_front() else { continue };
        let role = match freeze() {
            Ok(role) => role,
            Err(error) => {
                *request.refused.lock() = Some(error);
                request.done.complete_all();
                continue;
            }
        };
        ROLE.store(
            match role {
                Role::Original => 0,
                Role::Copy(n) => n + 1,
            },
            Relaxed,
        );
        crate::kinfo!("went on as {role:?}, generation {}", super::generation());
        request.done.complete_all();
    }
    0
}
