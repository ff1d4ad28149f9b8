//! `cargo xtask setup`, and [`ensure`], which every other command calls for what it needs.
//!
//! What is there is found out by looking for files, so a call that has nothing to do takes no time
//! and starts no process. What is missing is named, with the command that brings it, before it is
//! installed.

use crate::toolchain::{self, KERNEL_TARGET, LINUX_TARGET, Source, Toolchain};
use crate::{apt, exec};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Only say what is missing; exit status 1 if something is
    #[arg(long)]
    check: bool,
}

/// Something that a command needs on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A Rust toolchain for the kernel and for AArch64 Linux, and its C linker.
    Cross,
    /// QEMU for AArch64.
    Qemu,
    /// Debian's arm64 packages, fetched and unpacked without root.
    Packages,
    /// rustfmt and clippy.
    Lints,
    /// Programs that the end-to-end tests start.
    EndToEnd,
    /// A C++ compiler, for libFuzzer.
    Fuzz,
}

/// Everything, for `setup` and `test`.
pub const ALL: &[Need] =
    &[Need::Cross, Need::Qemu, Need::Packages, Need::Lints, Need::EndToEnd, Need::Fuzz];

/// Runs `cargo xtask setup`.
pub fn main(args: Args) -> Result<ExitCode> {
    if args.check {
        let source = toolchain::chosen()?.unwrap_or(Source::Rustup);
        let missing = missing_packages(ALL, source);
        let targets = missing_targets(ALL, source)?;
        missing.iter().for_each(|package| println!("missing: package {}", package.name));
        targets.iter().for_each(|target| println!("missing: rustup target {target}"));
        let complete = missing.is_empty() && targets.is_empty();
        return Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    ensure(ALL)?;
    println!("everything is in place");
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing of `needs` and gives back the toolchain for the cross targets.
pub fn ensure(needs: &[Need]) -> Result<Toolchain> {
    let source = match toolchain::chosen()? {
        Some(source) => source,
        None if needs.contains(&Need::Cross) => choose_source()?,
        None => Source::Rustup,
    };
    let missing = missing_packages(needs, source);
    if !missing.is_empty() {
        install(&missing)?;
    }
    let targets = missing_targets(needs, source)?;
    if !targets.is_empty() && !rustup_add("target", &targets) {
        bail!("rustup cannot fetch {}; BELLJAR_TOOLCHAIN=debian uses Debian's", targets.join(", "));
    }
    if needs.contains(&Need::Lints) {
        ensure_lints()?;
    }
    Ok(Toolchain::new(source))
}

/// Takes rustup where it has the targets or can fetch them, else Debian's packages, and remembers it.
fn choose_source() -> Result<Source> {
    let source = match rustup_toolchain() {
        None => Source::Debian,
        Some(_) => {
            let targets = missing_targets(&[Need::Cross], Source::Rustup)?;
            if targets.is_empty() || rustup_add("target", &targets) {
                Source::Rustup
            } else {
                eprintln!("rustup cannot fetch the targets: Debian's packages are used instead");
                Source::Debian
            }
        }
    };
    toolchain::remember(source)?;
    Ok(source)
}

/// A Debian package, and a file or program whose presence shows that it is installed.
struct Package {
    name: &'static str,
    probe: Probe,
}

enum Probe {
    Program(&'static str),
    File(&'static str),
}

impl Package {
    fn is_there(&self) -> bool {
        match self.probe {
            Probe::Program(name) => exec::find(name).is_some(),
            Probe::File(path) => Path::new(path).exists(),
        }
    }

    /// Whether the package is of the guest's architecture and not of the host's.
    fn is_foreign(&self) -> bool {
        self.name.ends_with(":arm64") && std::env::consts::ARCH != "aarch64"
    }
}

fn missing_packages(needs: &[Need], source: Source) -> Vec<Package> {
    let program = |name, program| Package { name, probe: Probe::Program(program) };
    let file = |name, path| Package { name, probe: Probe::File(path) };
    let mut packages = Vec::new();
    for need in needs {
        match need {
            Need::Cross => {
                packages.push(program("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc"));
                if std::env::consts::ARCH != "aarch64" {
                    let libc = "/usr/aarch64-linux-gnu/lib/libc.a";
                    packages.push(file("libc6-dev-arm64-cross", libc));
                }
                if source == Source::Debian {
                    let std = "/usr/lib/rustlib/aarch64-unknown-linux-gnu/lib";
                    packages.extend([
                        program("lld", "ld.lld"),
                        file("rustc-web", "/usr/bin/rustc"),
                        file("rust-web-src", "/usr/lib/rustlib/src/rust/library/core"),
                        file("libstd-rust-web-dev:arm64", std),
                    ]);
                }
            }
            Need::Qemu => {
                packages.push(program("qemu-system-arm", "qemu-system-aarch64"));
                // Plain `-M virt` has a network card, whose ROM the distribution may keep apart.
                if exec::find("apt-get").is_some() {
                    packages.push(file("ipxe-qemu", "/usr/lib/ipxe/qemu/efi-virtio.rom"));
                }
            }
            Need::Packages => {
                packages.push(program("dpkg", "dpkg-deb"));
                packages.push(file("debian-archive-keyring", apt::KEYRING));
            }
            Need::Lints if source == Source::Debian => {
                packages.push(file("rust-web-clippy", "/usr/bin/cargo-clippy"));
            }
            Need::Lints => {}
            Need::EndToEnd => {
                packages.extend([program("cpio", "cpio"), program("procps", "kill")]);
                packages.push(program("gdb-multiarch", "gdb-multiarch"));
                packages.push(program("binutils", "readelf"));
            }
            Need::Fuzz => packages.push(program("g++", "c++")),
        }
    }
    packages.retain(|package| !package.is_there());
    packages
}

fn install(missing: &[Package]) -> Result<()> {
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    if exec::find("apt-get").is_none() {
        bail!("missing: {}; install them with this system's package manager", names.join(", "));
    }
    let foreign = missing.iter().any(Package::is_foreign);
    println!("Installing Debian packages: {}", names.join(" "));
    if foreign {
        println!("  dpkg --add-architecture arm64");
    }
    println!("  apt-get update && apt-get install --no-install-recommends {}", names.join(" "));
    if foreign {
        exec::run(as_root("dpkg").args(["--add-architecture", "arm64"]))?;
    }
    exec::run(as_root("apt-get").args(["-q", "update"]))?;
    let install = ["-q", "-y", "--no-install-recommends", "install"];
    let plan = exec::output(as_root("apt-get").arg("--simulate").args(install).args(&names))?;
    let removed = removals(&plan);
    if !removed.is_empty() {
        println!("This removes packages that do not go with them: {}", removed.join(" "));
    }
    exec::run(as_root("apt-get").args(install).args(&names))?;
    match missing.iter().find(|package| !package.is_there()) {
        Some(package) => bail!("{} is installed but what it should bring is absent", package.name),
        None => Ok(()),
    }
}

/// The packages that a simulated installation would take away, from its lines `Remv NAME [VERSION]`.
fn removals(plan: &str) -> Vec<&str> {
    let lines = plan.lines().filter_map(|line| line.strip_prefix("Remv "));
    lines.filter_map(|line| line.split_whitespace().next()).collect()
}

fn as_root(program: &str) -> Command {
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
    if is_root {
        let mut command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    } else {
        let mut command = Command::new("sudo");
        command.args(["env", "DEBIAN_FRONTEND=noninteractive", program]);
        command
    }
}

/// The rustup toolchain that runs xtask, if rustup manages it.
fn rustup_toolchain() -> Option<String> {
    exec::find("rustup")?;
    std::env::var("RUSTUP_TOOLCHAIN").ok()
}

/// The folder of the running toolchain: `CARGO` is its `bin/cargo`.
fn sysroot() -> Result<PathBuf> {
    let cargo = PathBuf::from(std::env::var_os("CARGO").context("call this as `cargo xtask`")?);
    let sysroot = cargo.ancestors().nth(2).context("CARGO names no toolchain")?;
    Ok(sysroot.to_path_buf())
}

fn missing_targets(needs: &[Need], source: Source) -> Result<Vec<&'static str>> {
    if source != Source::Rustup || !needs.contains(&Need::Cross) {
        return Ok(Vec::new());
    }
    let rustlib = sysroot()?.join("lib/rustlib");
    let targets = [KERNEL_TARGET, LINUX_TARGET];
    Ok(targets.into_iter().filter(|target| !rustlib.join(target).join("lib").is_dir()).collect())
}

/// Rustfmt and clippy belong to the toolchain that runs xtask.
fn ensure_lints() -> Result<()> {
    let bin = sysroot()?.join("bin");
    let components = [("rustfmt", "rustfmt"), ("clippy", "cargo-clippy")];
    let missing: Vec<_> = components
        .into_iter()
        .filter(|(_, program)| !bin.join(program).exists() && exec::find(program).is_none())
        .map(|(component, _)| component)
        .collect();
    if !missing.is_empty() && !rustup_add("component", &missing) {
        bail!("missing: {}, which belong to the Rust toolchain", missing.join(", "));
    }
    Ok(())
}

/// Runs `rustup KIND add`, and says whether it worked.
fn rustup_add(kind: &str, names: &[&str]) -> bool {
    let Some(toolchain) = rustup_toolchain() else { return false };
    println!("Installing with rustup: {} ({kind}s of {toolchain})", names.join(" "));
    let mut command = Command::new("rustup");
    command.args([kind, "add", "--toolchain", &toolchain]).args(names);
    exec::run(&mut command).inspect_err(|error| eprintln!("{error:#}")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_the_names_that_apt_would_take_away() {
        let plan = "Reading package lists...\nRemv qemu-utils [1:10.0.2]\n\
                    Inst ipxe-qemu (1.0.0 Debian:12.1/oldstable [all])\nRemv a [1] []\n";
        assert_eq!(removals(plan), ["qemu-utils", "a"]);
    }
}
