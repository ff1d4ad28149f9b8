//! The machine comes to rest.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64};

use belljar_abi::root::RootPage;

use super::shown::Shown;
use super::thaw;
use crate::arch;
use crate::drivers::tty::console;
use crate::drivers::{pl031, virtio};
use crate::errno::Result;
use crate::introspect::ROOT;
use crate::process::smp;
use crate::sched;
use crate::sync::{IrqGuard, PreemptGuard};

/// As what the machine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The machine that was frozen.
    Original,
    /// Another machine with its memory; which one of several, as its VMM counts.
    Copy(u64),
}

/// [`role`]: 0 as the original, else one more than the copy's number.
static ROLE: AtomicU64 = AtomicU64::new(0);

/// As what the machine goes on since it was frozen last.
pub fn role() -> Role {
    match ROLE.load(Relaxed) {
        0 => Role::Original,
        n => Role::Copy(n - 1),
    }
}

/// Freezes the machine for the VMM's request `sequence`; returns in every machine that goes on, or at once
/// with why it cannot be.
///
/// Called by a kernel thread that is bound to CPU 0, which may sleep.
pub fn freeze(sequence: u32) -> Result<Role> {
    FROZEN_FOR.store(sequence, Relaxed);
    // Before the devices are quiet, so that they take what was written.
    console::stop_writers();
    virtio::quiesce();
    let parked = smp::park_secondary_cpus().inspect_err(|_| {
        virtio::resume();
        console::let_writers_go_on();
    })?;
    let offline = secondary_cpus() & !parked.mask;
    let role = stop_cpu();
    let online = parked.mask;
    parked.start(match role {
        Role::Original => online,
        // Whatever this machine has, but for those that were taken offline on purpose.
        Role::Copy(_) => secondary_cpus() & !offline,
    });
    console::let_writers_go_on();
    Ok(role)
}

/// All CPUs of the machine but CPU 0, a bit each.
fn secondary_cpus() -> u64 {
    (1 << arch::cpu_count()) - 2
}

/// The part that runs on CPU 0 alone, with interrupts masked.
fn stop_cpu() -> Role {
    let _preempt = PreemptGuard::new();
    let _irq = IrqGuard::new();
    arch::stop_timer();
    let rtc = pl031::read_seconds();
    note_state(&ROOT);
    // SAFETY: a kernel thread on CPU 0, interrupts masked, the others off.
    let tree = unsafe { arch::suspend(stand_still) };
    let role = match tree {
        None => {
            virtio::resume();
            Role::Original
        }
        Some(tree) => thaw::rebuild(tree, rtc),
    };
    // Before any task runs: who sees the new generation sees this, too.
    ROLE.store(
        match role {
            Role::Original => 0,
            Role::Copy(number) => number.saturating_add(1),
        },
        Relaxed,
    );
    sched::timer::reprogram();
    role
}

/// What whoever goes on has to know.
fn note_state(root: &RootPage) {
    root.thaw_entry.store(arch::thaw_address().0, Relaxed);
    root.frozen_monotonic.store(sched::monotonic_ns(), Relaxed);
    root.frozen_realtime.store(sched::realtime_ns(), Relaxed);
    root.counter_frequency.store(arch::counter_frequency(), Relaxed);
    // What was shown to any program since boot.
    let (hwcap, hwcap2) = arch::hwcaps();
    root.hwcap.fetch_or(hwcap, Relaxed);
    root.hwcap2.fetch_or(hwcap2, Relaxed);
    Shown::note(root);
    root.freezes.fetch_add(1, Relaxed);
}

/// The request that the machine freezes for: one at a time.
static FROZEN_FOR: AtomicU32 = AtomicU32::new(0);

/// The context is saved: memory is complete from here on, and does not change any more. If the VMM has given
/// the request up meanwhile it is released already.
extern "C" fn stand_still() {
    let sequence = FROZEN_FOR.load(Relaxed);
    ROOT.frozen.store(1, Release);
    while ROOT.release.load(Acquire) != sequence {
        arch::cpu_relax();
    }
    ROOT.frozen.store(0, Release);
}
