//! `cargo xtask bench --kvm`: what the VMM costs on KVM: its start, its memory, exits, snapshots, system
//! calls.
//!
//! Measured in one boot of the reference machine by `tools/kvm-bench`, beside an empty program and KVM's own
//! calls. CPUs and KVM are emulated there, so read the ratios and the counts. Before that the starts are measured in
//! a machine with one CPU whose clock counts instructions: that is the work alone, whatever the host does meanwhile,
//! without the waiting for others that KVM's own calls mostly are, and with nothing done at once.

use crate::guest_run::recipe_with_tools;
use crate::reference::{self, Machine};
use crate::rootfs::linux_program;
use crate::setup::{Need, ensure};
use crate::{exec, kvm};
use anyhow::Result;
use std::process::ExitCode;

const BENCH: &str = "belljar-kvm-bench";
const BENCH_PATH: &str = "/bin/kvm-bench";

/// Measures and prints the parts in `only`, by the names in `tools/kvm-bench`; all if there is none.
pub fn main(only: Vec<String>) -> Result<ExitCode> {
    kvm::prepare()?;
    exec::run(ensure(&[Need::Cross])?.linux("build").args(["-p", BENCH]))?;
    let mut files = kvm::home(&["shell", "hello"])?;
    files.push((BENCH_PATH.to_string(), linux_program(BENCH)));
    let run = |cpus, counted, words: &[String]| {
        let machine = Machine { cpus, memory: "2G", virtualization: true, share: None, counted };
        let argv = [&[BENCH_PATH.to_string()], words].concat();
        reference::run_on_console(&machine, &recipe_with_tools(), &argv, &files)
    };
    if only.is_empty() || only.iter().any(|part| part == "start") {
        println!("One CPU, instructions counted: 1 ms is a million of them");
        let counted = run(1, true, &["counted".to_string()])?;
        if counted != ExitCode::SUCCESS {
            return Ok(counted);
        }
    }
    println!("\nTwo CPUs, time measured");
    run(2, false, &only)
}
