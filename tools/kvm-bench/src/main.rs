//! Measures `belljar` with KVM from outside, on the machine that it runs on: `cargo xtask bench --kvm` starts
//! this in the reference machine.
//!
//! The yardstick stands in the same program: `run-empty` does nothing, and `run-calls` builds a machine with KVM's
//! calls alone and runs the same guest. Each is a process of its own, as `belljar` is. The guest's first
//! instruction reads the machine's counter, which this program reads before it makes the process: the
//! difference is the start, to the instruction.

#[cfg(target_arch = "aarch64")]
mod calls;
#[cfg(target_arch = "aarch64")]
mod guest;
#[cfg(target_arch = "aarch64")]
mod measure;
#[cfg(target_arch = "aarch64")]
mod snapshots;
#[cfg(target_arch = "aarch64")]
mod trace;

#[cfg(target_arch = "aarch64")]
use std::process::ExitCode;

#[cfg(target_arch = "aarch64")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("run-empty") => println!("{}", guest::letters(guest::counter())),
        Some("run-calls") => calls::run(),
        Some("counted") => measure::counted(),
        _ if !measure::parts(&args) => return ExitCode::FAILURE,
        _ => {}
    }
    ExitCode::SUCCESS
}

#[cfg(not(target_arch = "aarch64"))]
fn main() {
    eprintln!("this measures KVM on AArch64: cargo xtask bench --kvm");
}
