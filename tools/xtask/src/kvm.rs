//! `cargo xtask kvm`: `belljar` with its KVM backend, on any host.
//!
//! The reference machine with EL2: QEMU emulates a CPU with virtualisation, Debian's kernel offers
//! `/dev/kvm` on it, and a static AArch64 build of `belljar` runs there with the kernel and the images at
//! hand (`/bin/belljar` and `/belljar`).

use crate::build::{Part, build};
use crate::guest_run::{Job, RUNNER_PATH, archive, copy_console};
use crate::reference::{self, Machine};
use crate::rootfs::linux_program;
use crate::setup::{Need, ensure};
use crate::{exec, paths};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The package of the VMM.
const BELLJAR: &str = "belljar";
/// Where it stands in the machine; it finds its home beside its folder.
pub const BELLJAR_PATH: &str = "/bin/belljar";

/// Arguments of `cargo xtask kvm`.
#[derive(clap::Args)]
pub struct Args {
    /// Processors of the reference machine
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Memory of the reference machine, as QEMU writes it
    #[arg(long, default_value = "1G")]
    memory: String,
    /// A further file to put into the machine, as HOST:GUEST
    #[arg(long)]
    file: Vec<String>,
    /// Arguments of belljar; without any, a shell where belljar can be called. At a terminal it has the
    /// terminal, else nothing to read
    #[arg(last = true)]
    args: Vec<String>,
}

/// Runs `cargo xtask kvm`.
pub fn main(args: Args) -> Result<ExitCode> {
    prepare()?;
    let mut files = home(&["shell"])?;
    for file in &args.file {
        let (host, guest) = file.split_once(':').context("--file takes HOST:GUEST")?;
        files.push((guest.to_string(), PathBuf::from(host)));
    }
    let argv: Vec<String> = match (args.args.is_empty(), reference::at_terminal()) {
        (true, _) => vec!["/bin/sh".into()],
        (false, true) => [BELLJAR_PATH.into()].into_iter().chain(args.args).collect(),
        // The console is a terminal to the program, too; with nothing to read, it is not.
        (false, false) => without_input(args.args),
    };
    let machine = Machine { cpus: args.cpus, memory: &args.memory, virtualization: true };
    reference::run_on_console(&machine, &argv, &files)
}

/// `belljar` with `args` and nothing to read. The machine's console would be a terminal to it.
fn without_input(args: impl IntoIterator<Item = String>) -> Vec<String> {
    let words = ["/bin/sh", "-c", "exec belljar \"$@\" </dev/null", "belljar"];
    words.into_iter().map(String::from).chain(args).collect()
}

/// The reference machine in which `belljar` boots `plan`, an archive with the runner, on `cpus` CPUs. What
/// the runner says comes through both consoles. The machine's own archive is made in `folder`.
pub fn nested(cpus: u32, plan: &Path, folder: &Path) -> Result<Command> {
    const PLAN: &str = "/plan.cpio";
    let cpus = cpus.to_string();
    let words =
        ["run", "--backend", "kvm", "--cpus", &cpus, "--memory", "512M", PLAN, "--", RUNNER_PATH];
    let argv = without_input(words.map(String::from));
    let mut files = home(&[])?;
    files.push((PLAN.to_string(), plan.to_path_buf()));
    let initrd = folder.join("kvm.cpio");
    std::fs::write(&initrd, archive("shell", &Job::Console { argv: &argv, raw: true }, &files)?)
        .with_context(|| format!("cannot write {}", initrd.display()))?;
    let machine = Machine { cpus: 2, memory: "1536M", virtualization: true };
    Ok(machine.command(&reference::kernel()?, &initrd))
}

/// Runs the script of end-to-end tests; gives back its status, and what it printed in `out`.
pub fn end_to_end(out: &mut Vec<u8>) -> Result<Option<i32>> {
    const SCRIPT: &str = "/end_to_end.sh";
    let argv = ["/bin/sh", SCRIPT].map(String::from);
    let mut files = home(&["shell"])?;
    files.push((SCRIPT.to_string(), paths::root().join("tests/kvm/end_to_end.sh")));
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let initrd = folder.path().join("kvm.cpio");
    std::fs::write(&initrd, archive("shell", &Job::Console { argv: &argv, raw: true }, &files)?)
        .with_context(|| format!("cannot write {}", initrd.display()))?;
    let machine = Machine { cpus: 2, memory: "1G", virtualization: true };
    let mut command = machine.command(&reference::kernel()?, &initrd);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start QEMU")?;
    let mut console = child.stdout.take().context("no pipe")?;
    let status = copy_console(&mut console, out);
    let _ = child.kill();
    child.wait()?;
    status
}

/// Sets up and builds what the machine needs.
pub fn prepare() -> Result<()> {
    reference::prepare()?;
    build(&[Part::Kernel])?;
    let toolchain = ensure(&[Need::Cross])?;
    exec::run(toolchain.linux("build").args(["-p", BELLJAR]))
}

/// `belljar`, the kernel and `images`, each as its path in the machine and the file of the host.
pub fn home(images: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut files = vec![(BELLJAR_PATH.to_string(), linux_program(BELLJAR))];
    let mut add = |path: &Path| -> Result<()> {
        let inside = path.strip_prefix(paths::home()).context("not in the home")?;
        files.push((format!("/belljar/{}", inside.display()), path.to_path_buf()));
        Ok(())
    };
    add(&paths::home().join("Image"))?;
    for image in images {
        let folder = paths::home().join("images").join(image);
        add(&folder.join("rootfs.cpio"))?;
        add(&folder.join("image.toml"))?;
    }
    Ok(files)
}
