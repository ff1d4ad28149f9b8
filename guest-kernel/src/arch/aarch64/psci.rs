//! Power through PSCI, by `hvc` or `smc` as the device tree says.

use core::sync::atomic::{AtomicBool, Ordering};

use smccc::{Hvc, Smc, psci};

use crate::addr::PhysAddr;

static USE_SMC: AtomicBool = AtomicBool::new(false);

/// Sets how PSCI is called. `hvc` is the default: at EL1 of a virtual machine nothing else is there.
pub fn set_conduit(smc: bool) {
    USE_SMC.store(smc, Ordering::Relaxed);
}

/// Starts a CPU at a physical address.
pub(super) fn cpu_on(mpidr: u64, entry: PhysAddr, context: PhysAddr) -> Result<(), i32> {
    let result = if USE_SMC.load(Ordering::Relaxed) {
        psci::cpu_on::<Smc>(mpidr, entry.0, context.0)
    } else {
        psci::cpu_on::<Hvc>(mpidr, entry.0, context.0)
    };
    result.map_err(|error| i64::from(error) as i32)
}

/// Turns this CPU off. It only returns if the machine has no such call.
pub(super) fn cpu_off() {
    let _ = if USE_SMC.load(Ordering::Relaxed) {
        psci::cpu_off::<Smc>()
    } else {
        psci::cpu_off::<Hvc>()
    };
}

/// True if a CPU is off and can be started.
pub(super) fn is_off(mpidr: u64) -> bool {
    let level = psci::LowestAffinityLevel::All;
    let state = if USE_SMC.load(Ordering::Relaxed) {
        psci::affinity_info::<Smc>(mpidr, level)
    } else {
        psci::affinity_info::<Hvc>(mpidr, level)
    };
    matches!(state, Ok(psci::AffinityState::Off))
}

/// Turns the machine off.
pub fn power_off() -> ! {
    let _ = if USE_SMC.load(Ordering::Relaxed) {
        psci::system_off::<Smc>()
    } else {
        psci::system_off::<Hvc>()
    };
    halt()
}

/// Starts the machine anew.
pub fn reset() -> ! {
    let _ = if USE_SMC.load(Ordering::Relaxed) {
        psci::system_reset::<Smc>()
    } else {
        psci::system_reset::<Hvc>()
    };
    halt()
}

/// The machine has no such call: sleep for good.
pub(super) fn halt() -> ! {
    super::irq_disable();
    loop {
        super::wait_for_interrupt();
    }
}
