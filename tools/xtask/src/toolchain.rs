//! Which Rust toolchain cross-builds the kernel and the AArch64 Linux programs.
//!
//! There are two. With rustup online the targets are rustup targets with a ready-made `core`. Where
//! rustup cannot fetch them, Debian's `rustc-web` builds `core` from `rust-web-src`, and its
//! `libstd-rust-web-dev:arm64` has the AArch64 Linux `std`. The first one that works is remembered in
//! a marker file; `BELLJAR_TOOLCHAIN=rustup|debian` decides by hand. Host crates are always built
//! with the cargo and rustc that run xtask.

use crate::paths;
use anyhow::{Result, bail};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Command;

/// The target of the kernel.
pub const KERNEL_TARGET: &str = "aarch64-unknown-none-softfloat";
/// The target of guest programs, and of `belljar` on AArch64 hosts.
pub const LINUX_TARGET: &str = "aarch64-unknown-linux-gnu";
/// The cargo profile of the kernel.
pub const KERNEL_PROFILE: &str = "kernel";
/// The cargo profile of AArch64 Linux programs.
pub const GUEST_PROFILE: &str = "guest";
/// The cargo profile of `belljar` for AArch64 hosts.
pub const STATIC_PROFILE: &str = "static";
/// The cargo package of the kernel and its binary.
pub const KERNEL_PACKAGE: &str = "belljar-kernel";

/// Where the cross targets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// rustup targets of the running toolchain.
    Rustup,
    /// Debian's `rustc-web` packages.
    Debian,
}

impl Source {
    /// The name used in `BELLJAR_TOOLCHAIN` and in the marker file.
    pub fn name(self) -> &'static str {
        match self {
            Source::Rustup => "rustup",
            Source::Debian => "debian",
        }
    }

    fn parse(text: &str) -> Result<Source> {
        match text.trim() {
            "rustup" => Ok(Source::Rustup),
            "debian" => Ok(Source::Debian),
            other => bail!("BELLJAR_TOOLCHAIN is `{other}`: it takes rustup or debian"),
        }
    }
}

/// What was chosen by hand or found to work earlier.
pub fn chosen() -> Result<Option<Source>> {
    if let Ok(name) = std::env::var("BELLJAR_TOOLCHAIN") {
        return Source::parse(&name).map(Some);
    }
    Ok(std::fs::read_to_string(marker()).ok().and_then(|name| Source::parse(&name).ok()))
}

/// Remembers `source` for the next call.
pub fn remember(source: Source) -> Result<()> {
    crate::exec::write(&marker(), source.name().as_bytes())
}

fn marker() -> PathBuf {
    paths::cache().join("toolchain")
}

/// How cargo is called for the cross targets.
pub struct Toolchain {
    cargo: OsString,
    env: Vec<(&'static str, &'static str)>,
    kernel_args: &'static [&'static str],
    clippy: Clippy,
}

/// How clippy is called: as cargo's own subcommand, or as another toolchain's binary.
enum Clippy {
    Subcommand,
    Binary(&'static str),
}

impl Toolchain {
    /// The toolchain that takes its targets from `source`.
    pub fn new(source: Source) -> Toolchain {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        match source {
            Source::Rustup => {
                Toolchain { cargo, env: vec![], kernel_args: &[], clippy: Clippy::Subcommand }
            }
            Source::Debian => Toolchain {
                cargo,
                env: vec![
                    ("RUSTC", "/usr/bin/rustc"),
                    // -Zbuild-std is a cargo option that only a nightly cargo offers otherwise.
                    ("RUSTC_BOOTSTRAP", "1"),
                    ("CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_LINKER", "ld.lld"),
                ],
                kernel_args: &[
                    "-Zbuild-std=core,alloc",
                    "-Zbuild-std-features=compiler-builtins-mem",
                ],
                clippy: Clippy::Binary("/usr/bin/cargo-clippy"),
            },
        }
    }

    /// `cargo SUBCOMMAND` for the kernel binary.
    pub fn kernel(&self, subcommand: &str) -> Command {
        let mut command = self.command(subcommand);
        command.args(["-p", KERNEL_PACKAGE, "--profile", KERNEL_PROFILE]);
        command.args(["--target", KERNEL_TARGET]).args(self.kernel_args);
        command
    }

    /// `cargo SUBCOMMAND` for AArch64 Linux programs; the caller names the packages.
    pub fn linux(&self, subcommand: &str) -> Command {
        self.linux_with(GUEST_PROFILE, subcommand)
    }

    /// The same with another profile.
    pub fn linux_with(&self, profile: &str, subcommand: &str) -> Command {
        let mut command = self.command(subcommand);
        command.args(["--profile", profile, "--target", LINUX_TARGET]);
        command
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = match (subcommand, &self.clippy) {
            ("clippy", Clippy::Binary(path)) => Command::new(path),
            _ => Command::new(&self.cargo),
        };
        command.arg(subcommand).current_dir(paths::root()).env("CARGO", &self.cargo);
        quieten(&mut command);
        command.envs(self.env.iter().copied());
        command
    }
}

/// `cargo SUBCOMMAND` for host crates, with the toolchain that runs xtask.
pub fn host(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(paths::root());
    quieten(&mut command);
    command
}

/// On a terminal cargo shows how far it is; a log wants only what went wrong.
fn quieten(command: &mut Command) {
    if !std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_QUIET", "true");
    }
}
