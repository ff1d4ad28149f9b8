//! The virtual counter, and its value at the program's first instruction.

use std::arch::{asm, global_asm};
use std::sync::atomic::{AtomicU64, Ordering};

/// Written by `bench_start` before the C library's own start code runs.
#[unsafe(no_mangle)]
static BENCH_FIRST_INSTRUCTION: AtomicU64 = AtomicU64::new(0);

// x0 carries what _start wants; x9 and x10 are free at process entry.
global_asm!(
    ".global bench_start",
    "bench_start:",
    "mrs x9, cntvct_el0",
    "adrp x10, BENCH_FIRST_INSTRUCTION",
    "str x9, [x10, #:lo12:BENCH_FIRST_INSTRUCTION]",
    "b _start",
);

/// The counter at the program's first instruction.
pub fn first_instruction() -> u64 {
    BENCH_FIRST_INSTRUCTION.load(Ordering::Relaxed)
}

/// The counter now.
pub fn now() -> u64 {
    let ticks;
    // SAFETY: reads a counter that every kernel opens to user space; no memory is touched.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack)) };
    ticks
}

/// Converts ticks of the counter.
pub fn microseconds(ticks: u64) -> f64 {
    let frequency: u64;
    // SAFETY: reads a constant register; no memory is touched.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    ticks as f64 * 1e6 / frequency as f64
}
