//! The board: what every backend builds, so that one kernel and one snapshot serve all of them.
//!
//! The addresses are those of QEMU's `virt` board. The guest learns them from its device tree; they
//! stand here for whoever must find something in the guest's memory without asking the guest.

/// Where RAM starts (guest physical).
pub const RAM_BASE: u64 = 0x4000_0000;
/// Where a boot loader puts an `Image` whose header asks for no offset: RAM base + 2 MiB.
pub const KERNEL_BASE: u64 = RAM_BASE + 0x20_0000;
/// The least memory that the kernel and a small image run in.
pub const MIN_MEMORY: u64 = 16 << 20;
/// The most memory that the board's address map has room for, low devices included.
pub const MAX_MEMORY: u64 = 128 << 30;
/// The most CPUs that the board's interrupt controller serves in its first redistributor region.
pub const MAX_CPUS: u32 = 8;
/// RAM is given out in such steps.
pub const MEMORY_STEP: u64 = 1 << 20;
