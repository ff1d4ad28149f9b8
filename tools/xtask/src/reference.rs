//! `cargo xtask reference`: the reference machine, Debian's own arm64 kernel under QEMU.
//!
//! What a program does there is what it must do on our kernel. The kernel comes from Debian's package;
//! the initramfs is the `shell` image with the program and the runner (`tools/runner`) behind it.

use crate::apt::Apt;
use crate::build::{Part, build};
use crate::exec;
use crate::guest_run::{Job, RUNNER, RUNNER_PATH, archive, copy_console, name_of, shell};
use crate::setup::{Need, ensure};
use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Arguments of `cargo xtask reference`.
#[derive(clap::Args)]
pub struct Args {
    /// Processors of the machine
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Memory of the machine, as QEMU writes it
    #[arg(long, default_value = "512M")]
    memory: String,
    /// A further file to put into the machine, as HOST:GUEST
    #[arg(long)]
    file: Vec<String>,
    /// An AArch64 program of the host, or a command of the shell image, and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs `cargo xtask reference`.
pub fn main(args: Args) -> Result<ExitCode> {
    prepare()?;
    let mut argv = args.command;
    let mut files = Vec::new();
    let host = PathBuf::from(&argv[0]);
    if host.is_file() {
        let data = exec::read(&host)?;
        // e_machine of the ELF header: 183 is AArch64
        if data.starts_with(b"\x7fELF") && data.get(18..20) != Some(&[183, 0]) {
            bail!("{} is an ELF file for another machine", host.display());
        }
        argv[0] = format!("/.runner/programs/{}", name_of(&host));
        files.push((argv[0].clone(), host));
    }
    for file in &args.file {
        let (host, guest) = file.split_once(':').context("--file takes HOST:GUEST")?;
        files.push((guest.to_string(), PathBuf::from(host)));
    }
    let machine = Machine {
        cpus: args.cpus,
        memory: &args.memory,
        virtualization: false,
        share: None,
        counted: false,
    };
    run_on_console(&machine, &shell(), &argv, &files)
}

/// Whether a user sits at our standard input and output.
pub fn at_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Boots `machine` with the image of the recipe in `base` and `files` (guest path, host file), runs `argv` on its console, which is ours, and
/// passes on its exit status.
pub fn run_on_console(
    machine: &Machine<'_>,
    base: &Path,
    argv: &[String],
    files: &[(String, PathBuf)],
) -> Result<ExitCode> {
    let terminal = at_terminal();
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let initrd = folder.path().join("reference.cpio");
    std::fs::write(&initrd, archive(base, &Job::Console { argv, raw: !terminal }, files)?)?;

    let mut command = machine.command(&kernel()?, &initrd);
    let saved = if terminal { Some(Terminal::raw()?) } else { None };
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start QEMU")?;
    let mut console = child.stdout.take().context("no pipe")?;
    let status = copy_console(&mut console, &mut std::io::stdout().lock());
    let _ = child.kill();
    child.wait()?;
    drop(saved);
    match status? {
        Some(status) => Ok(ExitCode::from(status as u8)),
        None => bail!("the reference machine ended before the program did"),
    }
}

/// Sets up and builds what the reference machine needs.
pub fn prepare() -> Result<()> {
    let toolchain = ensure(&[Need::Cross, Need::Qemu, Need::Packages])?;
    build(&[Part::Images])?;
    exec::run(toolchain.linux("build").args(["-p", RUNNER]))
}

/// Debian's kernel, fetched on the first call.
pub fn kernel() -> Result<PathBuf> {
    const META: &str = "linux-image-arm64";
    let apt = Apt::open()?;
    let package = apt.depends(META)?.into_iter().find(|name| name.starts_with("linux-image-"));
    let package = package.with_context(|| format!("{META} depends on no kernel"))?;
    let version = package.trim_start_matches("linux-image-").to_string();
    let folders = apt.unpacked(&[package], false)?;
    let path = folders.iter().map(|dir| dir.join(format!("boot/vmlinuz-{version}")));
    path.into_iter().find(|path| path.is_file()).context("the kernel package holds no kernel")
}

/// Modules of Debian's kernel and all that they need, as files that the runner loads in their order.
pub fn modules(names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let kernel = kernel()?;
    let version = kernel.file_name().unwrap_or_default().to_string_lossy();
    let version = version.trim_start_matches("vmlinuz-");
    let folder = kernel.ancestors().nth(2).context("a kernel without a folder")?;
    let mut present = BTreeMap::new();
    find_modules(&folder.join("lib/modules").join(version), &mut present)?;
    let mut ordered = Vec::new();
    for name in names {
        add_module(name, &present, &mut ordered)?;
    }
    let file = |(index, path): (usize, PathBuf)| {
        (format!("/.runner/modules/{index:02}-{}", name_of(&path)), path)
    };
    Ok(ordered.into_iter().enumerate().map(file).collect())
}

/// Adds every module below `folder` to `present`, by its name.
fn find_modules(folder: &Path, present: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("no kernel modules in {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(&path, present)?;
        } else if let Some(name) = name_of(&path).strip_suffix(".ko") {
            // The kernel takes both for the same letter in a module's name.
            present.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Adds the module `name` behind those that it needs, each once.
fn add_module(
    name: &str,
    present: &BTreeMap<String, PathBuf>,
    ordered: &mut Vec<PathBuf>,
) -> Result<()> {
    let path = present.get(&name.replace('-', "_"));
    let path = path.with_context(|| format!("Debian's kernel has no module {name}"))?;
    if ordered.contains(path) {
        return Ok(());
    }
    for needed in needs_of(&exec::read(path)?).with_context(|| format!("in {}", path.display()))? {
        add_module(&needed, present, ordered)?;
    }
    ordered.push(path.clone());
    Ok(())
}

/// The modules that `module`, an ELF object, names in the section where modpost(8) puts it: strings
/// `KEY=VALUE`, one of which is `depends=` with names and commas.
fn needs_of(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("no section .modinfo")?;
    let strings = section.data()?.split(|byte| *byte == 0);
    let depends = strings.filter_map(|string| string.strip_prefix(b"depends="));
    let names = depends.flat_map(|names| names.split(|byte| *byte == b','));
    let names = names.filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// The reference machine's shape.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// Number of processors.
    pub cpus: u32,
    /// Memory as QEMU writes it.
    pub memory: &'a str,
    /// Whether its CPUs have EL2, so that Linux offers KVM.
    pub virtualization: bool,
    /// A folder of the host that programs find at [`SHARE_PATH`], if [`share_files`] are in its archive.
    pub share: Option<&'a Path>,
    /// Whether its clock counts instructions, 1,000 of which are 1 us, whatever the host does meanwhile.
    pub counted: bool,
}

/// Where the runner mounts the shared folder.
pub const SHARE_PATH: &str = "/share";

/// What the archive of a machine with a shared folder needs.
pub fn share_files() -> Result<Vec<(String, PathBuf)>> {
    modules(&["virtio_mmio", "9pnet_virtio", "9p"])
}

impl Machine<'_> {
    /// The QEMU command that boots `kernel` with `initrd`, console on standard input and output.
    pub fn command(&self, kernel: &Path, initrd: &Path) -> Command {
        let mut command = Command::new("qemu-system-aarch64");
        let el2 = if self.virtualization { "on" } else { "off" };
        command.args(["-M", &format!("virt,gic-version=3,virtualization={el2}")]);
        command.args(["-cpu", "max,pauth-impdef=on"]);
        command.args(["-smp", &self.cpus.to_string(), "-m", self.memory]);
        if self.counted {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        if let Some(share) = self.share {
            let share = format!("local,id=share,path={},security_model=none", share.display());
            command.args(["-fsdev", &share]);
            command.args(["-device", "virtio-9p-device,fsdev=share,mount_tag=share"]);
        }
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        let append = format!("console=ttyAMA0 quiet loglevel=0 panic=-1 rdinit={RUNNER_PATH}");
        command.args(["-append", &append]);
        command
    }
}

/// The user's terminal, put back as it was when dropped.
struct Terminal {
    saved: String,
}

impl Terminal {
    fn raw() -> Result<Terminal> {
        let saved = exec::output(Command::new("stty").arg("-g").stdin(Stdio::inherit()))?;
        exec::run(Command::new("stty").args(["raw", "-echo"]))?;
        Ok(Terminal { saved: saved.trim().to_string() })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = exec::run(Command::new("stty").arg(&self.saved));
    }
}
