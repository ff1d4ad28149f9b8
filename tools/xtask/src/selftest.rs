//! The kernel's self-test: a kernel with the feature `selftest` checks the assembly that no host test can
//! run, on the machines and CPUs that it has to start on, and turns itself off. What the compiler made of it
//! is looked at, too.

use crate::toolchain::{KERNEL_PACKAGE, KERNEL_PROFILE, KERNEL_TARGET, Toolchain};
use crate::{exec, frames, kernel_image, paths};
use anyhow::{Context, Result};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Machine and CPU: both interrupt controllers, entry at EL1 and EL2, the oldest CPU and the newest.
const MACHINES: [(&str, &str); 4] = [
    ("virt", "max,pauth-impdef=on"),
    ("virt,gic-version=3", "cortex-a53"),
    ("virt,gic-version=3,virtualization=on", "max,pauth-impdef=on"),
    ("virt,virtualization=on", "cortex-a72"),
];
/// What the kernel prints when all checks held.
const PASSED: &str = "selftest: passed";
/// A machine that takes longer hangs; it needs a second or two.
const LIMIT: Duration = Duration::from_secs(120);

/// How one check went: its name, whether it passed, what it printed.
pub struct Outcome {
    /// Machine and CPU, or what was looked at.
    pub name: String,
    /// Whether the kernel said so.
    pub passed: bool,
    /// The console, or what is wrong.
    pub output: String,
}

/// Builds the kernel, looks at its stack frames and runs it on all machines.
pub fn run(toolchain: &Toolchain) -> Result<Vec<Outcome>> {
    exec::run(toolchain.kernel("build").args(["--features", "selftest"]))?;
    let elf = paths::target().join(KERNEL_TARGET).join(KERNEL_PROFILE).join(KERNEL_PACKAGE);
    let elf = exec::read(&elf)?;
    let frames = frames::too_large(&elf)?;
    let frames = Outcome {
        name: "stack frames of the kernel".into(),
        passed: frames.is_empty(),
        output: frames.iter().fold(String::new(), |text, (name, size)| {
            text + &format!("{name} takes {size} bytes of its stack\n")
        }),
    };
    let image = kernel_image::from_elf(&elf)?;
    let path = paths::home().join("Image.selftest");
    exec::write(&path, &image)?;
    let run_on = |(machine, cpu): (&str, &str)| {
        let mut qemu = Command::new("qemu-system-aarch64");
        qemu.args(["-M", machine, "-cpu", cpu, "-m", "64M", "-nographic", "-nic", "none"]);
        let output = output_of(qemu.arg("-kernel").arg(&path))?;
        let passed = output.contains(PASSED);
        Ok(Outcome { name: format!("{machine} {cpu}"), passed, output })
    };
    std::iter::once(Ok(frames)).chain(MACHINES.into_iter().map(run_on)).collect()
}

/// What the machine prints until it turns itself off, or is ended for taking too long.
fn output_of(qemu: &mut Command) -> Result<String> {
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start qemu-system-aarch64")?;
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > LIMIT {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // A few lines: they fit into the pipe while nobody reads it.
    Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
}
