//! Per-CPU data: one item for each CPU, side by side in an array.

use crate::arch;

pub use crate::arch::MAX_CPUS;

/// One `T` for each CPU. What keeps two contexts of the same CPU apart (preemption off, interrupts off,
/// a lock inside `T`) is the owner's business.
#[repr(C)]
pub struct PerCpu<T>([T; MAX_CPUS]);

impl<T> PerCpu<T> {
    /// From one value for each CPU: `PerCpu::new([const { X::new() }; MAX_CPUS])`.
    pub const fn new(values: [T; MAX_CPUS]) -> Self {
        Self(values)
    }

    /// The item of the CPU that runs this. It stays "this CPU's" only while preemption is off.
    #[inline]
    pub fn this(&self) -> &T {
        self.of(this_cpu())
    }

    /// The item of a CPU by number.
    #[inline]
    pub fn of(&self, cpu: usize) -> &T {
        // The mask spares the bounds check's panic path; numbers of CPUs that exist are below it.
        &self.0[cpu & (MAX_CPUS - 1)]
    }

    /// All items, by CPU number.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

const _: () = assert!(MAX_CPUS.is_power_of_two() && MAX_CPUS <= 64, "CPU masks are one word");

/// The number of the CPU that runs this; stable only while preemption is off.
#[inline]
pub fn this_cpu() -> usize {
    arch::current_thread().info.cpu()
}
