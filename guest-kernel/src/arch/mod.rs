//! The machine: the only place with assembly, system registers and page-table bits.
//!
//! `arch/aarch64` is the real one. `arch/host` is the same interface over a `Vec<u8>` of "RAM", so
//! that every floor above runs under `cargo test` on any host. Nothing outside this folder may ask
//! which of the two it is.

mod thread;

#[cfg(target_os = "none")]
mod aarch64;
#[cfg(target_os = "none")]
pub use aarch64::*;

#[cfg(not(target_os = "none"))]
mod host;
#[cfg(not(target_os = "none"))]
pub use host::*;

pub use thread::{CpuContext, FpState, KernelStackRange, PtRegs, Thread, ThreadFlags, ThreadInfo};
