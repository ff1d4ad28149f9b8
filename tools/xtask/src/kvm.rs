//! `cargo xtask kvm`: `belljar` with its KVM backend, on any host.
//!
//! The reference machine with EL2: QEMU emulates a CPU with virtualisation, Debian's kernel offers
//! `/dev/kvm` on it, and a static AArch64 build of `belljar` runs there with the kernel and the images at
//! hand (`/bin/belljar` and `/belljar`).

use crate::build::{self, Part, build};
use crate::guest_run::{Job, RUNNER_PATH, archive, copy_console, recipe_with_tools, shell};
use crate::patient::Patient;
use crate::reference::{self, Machine, SHARE_PATH};
use crate::setup::{Need, ensure};
use crate::toolchain::{LINUX_TARGET, STATIC_PROFILE};
use crate::{exec, paths};
use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// The package of the end-to-end tests.
pub const TESTS: &str = "belljar-tests";
/// The package of the VMM, and the suite of its unit tests.
pub const BELLJAR: &str = "belljar";
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
    let machine = Machine {
        cpus: args.cpus,
        memory: &args.memory,
        virtualization: true,
        share: None,
        counted: false,
    };
    reference::run_on_console(&machine, &shell(), &argv, &files)
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
    std::fs::write(&initrd, archive(&shell(), &Job::Console { argv: &argv, raw: true }, &files)?)
        .with_context(|| format!("cannot write {}", initrd.display()))?;
    let machine =
        Machine { cpus: 2, memory: "1536M", virtualization: true, share: None, counted: false };
    Ok(machine.command(&reference::kernel()?, &initrd))
}

/// Runs the end-to-end tests that concern KVM, and those unit tests of the VMM that are about its machine, in
/// one boot of the reference machine, what they print in `out`: of `suites` (name and program) the tests that the
/// arguments `chosen` name, or all. `share` is the machine's [`reference::SHARE_PATH`]. Gives back 0 if all passed, and nothing if the machine died.
pub fn end_to_end(
    suites: &[(String, PathBuf)],
    chosen: &[String],
    share: &Path,
    out: &mut dyn Write,
) -> Result<Option<i32>> {
    /// A single test may take that long in a machine that is emulated.
    const SILENCE: Duration = Duration::from_secs(420);
    // The console is a terminal to the suites, but not one that shows colours.
    let script = format!(
        "export BELLJAR={BELLJAR_PATH} {SHARE}={SHARE_PATH}; status=0
         for suite in /tests/*; do
             echo; echo \"     Running $suite\"
             names=
             [ $# = 0 ] && [ $suite = /tests/{BELLJAR} ] && names='{UNITS}'
             $suite --color never --include-ignored {SKIP_HOST} $names \"$@\" </dev/null || status=1
         done
         exit $status"
    );
    let mut argv = ["/bin/sh", "-c", &script, "suites"].map(String::from).to_vec();
    argv.extend_from_slice(chosen);
    let mut files = home(&["shell", "hello", "bash", "namespaces", "debuggers"])?;
    files.push(("/belljar/kernel.elf".into(), paths::home().join("kernel.elf")));
    for name in build::guest_test_names()? {
        let program = paths::home().join("guest-tests").join(&name);
        files.push((format!("/belljar/guest-tests/{name}"), program));
    }
    files.extend(suites.iter().map(|(name, file)| (format!("/tests/{name}"), file.clone())));
    files.extend(reference::modules(&["tun"])?);
    files.extend(reference::share_files()?);

    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let initrd = folder.path().join("kvm.cpio");
    let base = recipe_with_tools();
    std::fs::write(&initrd, archive(&base, &Job::Console { argv: &argv, raw: true }, &files)?)
        .with_context(|| format!("cannot write {}", initrd.display()))?;
    let machine =
        Machine { cpus: 2, memory: "2G", virtualization: true, share: Some(share), counted: false };
    let mut command = machine.command(&reference::kernel()?, &initrd);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start QEMU")?;
    let mut console = Patient::new(child.stdout.take().context("no pipe")?, SILENCE);
    let status = copy_console(&mut console, out);
    let _ = child.kill();
    child.wait()?;
    status
}

/// The variable that names the shared folder to a test.
pub const SHARE: &str = "BELLJAR_SHARE";
/// Of the VMM's unit tests, those of the modules that do other things on an AArch64 host, or are confined there by
/// other lists of system calls.
const UNITS: &str = "backend:: devices:: sandbox::";
/// Which tests do not run in the machine, by their modules: there is no QEMU in it, and what prepares
/// or judges the tests there runs on the host.
const SKIP_HOST: &str = "--skip qemu:: --skip before_kvm:: --skip after_kvm::";

/// Sets up and builds what the machine needs.
pub fn prepare() -> Result<()> {
    reference::prepare()?;
    build(&[Part::Kernel])?;
    let toolchain = ensure(&[Need::Cross])?;
    exec::run(toolchain.linux_with(STATIC_PROFILE, "build").args(["-p", BELLJAR]))
}

/// Builds the suites of end-to-end tests and the VMM's unit tests for the machine: name and program of each.
pub fn suites() -> Result<Vec<(String, PathBuf)>> {
    let toolchain = ensure(&[Need::Cross])?;
    let mut suites = Vec::new();
    for targets in [&["-p", TESTS, "--test", "*"][..], &["-p", BELLJAR, "--lib"]] {
        let mut command = toolchain.linux("test");
        command.args(["--no-run", "--message-format", "json"]).args(targets);
        for line in exec::output(&mut command)?.lines() {
            let message: serde_json::Value = serde_json::from_str(line)?;
            let name = message["target"]["name"].as_str();
            if let (Some(name), Some(program)) = (name, message["executable"].as_str()) {
                suites.push((name.to_string(), PathBuf::from(program)));
            }
        }
    }
    suites.sort();
    Ok(suites)
}

/// `belljar`, the kernel and `images`, each as its path in the machine and the file of the host.
pub fn home(images: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let belljar = paths::target().join(LINUX_TARGET).join(STATIC_PROFILE).join(BELLJAR);
    let mut files = vec![(BELLJAR_PATH.to_string(), belljar)];
    let mut add = |path: &Path| -> Result<()> {
        let inside = path.strip_prefix(paths::home()).context("not in the home")?;
        files.push((format!("/belljar/{}", inside.display()), path.to_path_buf()));
        Ok(())
    };
    add(&paths::home().join("Image"))?;
    add(&paths::home().join("Image.blake3"))?;
    for image in images {
        let folder = paths::home().join("images").join(image);
        add(&folder.join("rootfs.cpio"))?;
        add(&folder.join("image.toml"))?;
    }
    Ok(files)
}
