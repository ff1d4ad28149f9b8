//! `cargo xtask bench --kvm`: what the VMM costs on KVM: its start, its memory, exits, snapshots, system
//! calls.
//!
//! Measured in one boot of the reference machine by `tools/kvm-bench`, beside an empty program and KVM's own
//! calls. CPUs and KVM are emulated there, so read the ratios and the counts.

use crate::guest_run::recipe_with_tools;
use crate::reference::{self, Machine};
use crate::rootfs::linux_program;
use crate::setup::{Need, ensure};
use crate::{exec, kvm};
use anyhow::Result;
use std::process::ExitCode;

const BENCH: &str = "belljar-kvm-bench";
const BENCH_PATH: &str = "/bin/kvm-bench";

/// Measures and prints.
pub fn main() -> Result<ExitCode> {
    kvm::prepare()?;
    exec::run(ensure(&[Need::Cross])?.linux("build").args(["-p", BENCH]))?;
    let mut files = kvm::home(&["shell", "hello"])?;
    files.push((BENCH_PATH.to_string(), linux_program(BENCH)));
    let machine = Machine { cpus: 2, memory: "2G", virtualization: true, share: None };
    reference::run_on_console(&machine, &recipe_with_tools(), &[BENCH_PATH.to_string()], &files)
}
