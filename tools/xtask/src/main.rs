//! `cargo xtask`: set up, build, run, test and measure Bell Jar.
//!
//! One file a subcommand; the files beside them are what the subcommands share. Every subcommand
//! calls [`setup::ensure`] for just what it needs, so that a fresh machine needs no other step, and
//! a second call finds everything in place by looking at a few files.
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod bench_kvm;
mod bench_snapshots;
mod build;
mod counts;
mod exec;
mod frames;
mod fuzz;
mod guest_run;
mod kernel_image;
mod kvm;
mod libtest;
mod paths;
mod patient;
mod reference;
mod rootfs;
mod run;
mod same;
mod selftest;
mod setup;
mod test;
mod toolchain;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Build, run, test and measure Bell Jar.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing for all other commands, saying what first
    Setup(setup::Args),
    /// Build the VMM, the kernel, the images and the guest programs
    Build(build::Args),
    /// Build, then boot the shell image; without a terminal, run its demo and exit
    Run(run::Args),
    /// Check everything that CI checks and print the counts
    Test(test::Args),
    /// Run an AArch64 program on Debian's own kernel
    Reference(reference::Args),
    /// Run `belljar ARGS` with the KVM backend, in the reference machine
    Kvm(kvm::Args),
    /// Measure Debian's kernel and ours with the same program
    Bench(bench::Args),
    /// Run the fuzz targets under libFuzzer
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::main(args),
        Command::Build(args) => build::main(args),
        Command::Run(args) => run::main(args),
        Command::Test(args) => test::main(args),
        Command::Reference(args) => reference::main(args),
        Command::Kvm(args) => kvm::main(args),
        Command::Bench(args) => bench::main(args),
        Command::Fuzz(args) => fuzz::main(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
