//! `belljar run`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use super::devices::{DiskArg, NetArg, ip_word};
use super::{Error, complain};
use crate::backend::{self, Choice, Config, Initrd, Request, Start};
use crate::checkpoint::Checkpoint;
use crate::image::{Boot, Image, Program};
use crate::runtime::daemon::{self, Side};
use crate::runtime::{self, Afterwards, Console, Guard, Outcome, OwnSnapshots, Plan, terminal};
use crate::{api, machine, sandbox};

/// Run an image in a new VM
///
/// The guest's console is this terminal (Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h
/// lists these), or stdin and stdout, byte for byte, if they are no terminal. The exit status is that
/// of the guest's first program (128+N if signal N killed it), 124 after --timeout, 137 after `belljar
/// kill`, 125 if belljar or the guest's kernel failed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to run: the name of an image, a folder, a cpio or tar archive (also gzip), one AArch64 ELF
    /// program, or a bootable Image made by `belljar build`
    #[arg(default_value = "shell")]
    image: String,
    /// The first program and its arguments; for an image that is one program: its arguments
    #[arg(last = true, value_name = "CMD")]
    cmd: Vec<String>,
    /// Name of the VM, for the other commands [default: made from IMAGE]
    #[arg(long)]
    name: Option<String>,
    /// Go on with the processes of a checkpoint instead of starting a program: IMAGE has the files that they
    /// had. The exit status is that of the first of them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["cmd", "env"])]
    resume: Option<PathBuf>,
    /// Number of CPUs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(machine::MAX_CPUS)))]
    cpus: u32,
    /// Memory, such as 64M or 1G; a plain number is MiB [default: what the image asks for, or 256M]
    #[arg(long, value_name = "SIZE", value_parser = machine::parse_memory)]
    memory: Option<u64>,
    /// Set a variable of the first program, or pass on your own with just NAME
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Return when the VM runs, and print its name
    #[arg(long, short)]
    detach: bool,
    /// End the VM after this time, such as 10, 1.5s, 500ms or 2m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// What runs the guest's CPUs
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// The CPU's model: what every backend has, or one that the backend knows (QEMU: `-cpu help`)
    #[arg(long, value_name = "MODEL", default_value = machine::PORTABLE_CPU)]
    cpu: String,
    #[command(flatten)]
    own: OwnSnapshotsArgs,
    /// Boot this arm64 Image instead of Bell Jar's own kernel
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Give the guest a disk: a raw file or a block device, which it calls /dev/vda, the next one /dev/vdb
    /// and so on; with ,ro it cannot write to it
    #[arg(long, value_name = "FILE[,ro]")]
    disk: Vec<DiskArg>,
    /// Give the guest a network card, eth0, the next one eth1 and so on: on a tap of this host, or with `user`
    /// on a network of QEMU's from which the guest reaches this host (10.0.2.2) and what lies behind it, its
    /// address given. On a tap, `--append ip=CLIENT::GATEWAY:NETMASK` gives one, or the guest's own tools
    #[arg(long, value_name = "tap=NAME|user[,mac=ADDRESS]")]
    net: Vec<NetArg>,
    /// Add words to the kernel's command line
    #[arg(long, value_name = "WORDS")]
    append: Option<String>,
    /// If the guest's kernel panics, write the machine as an ELF core (see `belljar dump`)
    #[arg(long, value_name = "FILE")]
    dump_on_panic: Option<PathBuf>,
    /// Leave this process's threads free to do what they have no need of, for debugging
    #[arg(long)]
    no_sandbox: bool,
    /// Print the command that the backend would run, and do nothing
    #[arg(long)]
    print_command: bool,
}

/// Whether the guest may save itself; for a new VM and for one that goes on.
#[derive(Debug, clap::Args)]
pub(super) struct OwnSnapshotsArgs {
    /// Let the guest save itself into folders below this one, by writing a name to /proc/belljar/snapshot
    #[arg(long, value_name = "DIR")]
    snapshots: Option<PathBuf>,
    /// End the VM when the guest has saved itself, instead of letting it run on
    #[arg(long, requires = "snapshots")]
    stop_when_saved: bool,
}

impl OwnSnapshotsArgs {
    /// What was asked for. The folder gets an absolute path: a detached VM lives in another one.
    pub(super) fn get(&self) -> Result<Option<OwnSnapshots>, Error> {
        let afterwards = if self.stop_when_saved { Afterwards::Stop } else { Afterwards::Run };
        let folder = self.snapshots.as_deref().map(std::path::absolute).transpose()?;
        Ok(folder.map(|folder| OwnSnapshots { folder, afterwards }))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Backend {
    /// kvm where it can work, else qemu; naming it says which one and why
    #[default]
    Auto,
    /// A child qemu-system-aarch64, on any host
    Qemu,
    /// The host's virtualisation, on AArch64 hosts
    Kvm,
}

/// Why a VM of the wanted size cannot run the image.
#[derive(Debug, thiserror::Error)]
enum SizeError {
    /// Less than any guest needs.
    #[error("--memory {}M is too small: give {}M or more", .0 >> 20, machine::MIN_MEMORY >> 20)]
    BelowMinimum(u64),
    /// Less than this guest needs.
    #[error("--memory {}M is too small for image {image}, which takes {}M to boot: give {}M or more",
        .memory >> 20, .footprint >> 20, .enough >> 20)]
    BelowImage { memory: u64, image: String, footprint: u64, enough: u64 },
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    if args.print_command {
        let plan = plan(args)?;
        println!("{}", backend::command_line(plan.choice.kind, &plan.config)?);
        return Ok(ExitCode::SUCCESS);
    }
    let (detach, no_sandbox) = (args.detach, args.no_sandbox);
    let plan = || {
        let mut plan = plan(args)?;
        confine(no_sandbox)?;
        backend::begin(&mut plan.choice, &plan.config)?;
        Ok(plan)
    };
    match detach {
        true => detached(plan),
        false => attached(plan),
    }
}

/// Turns the sandbox on, for a process that is about to start a machine.
pub(super) fn confine(no_sandbox: bool) -> Result<(), Error> {
    match no_sandbox {
        true => Ok(()),
        false => Ok(sandbox::enable()?),
    }
}

/// What `args` ask for.
fn plan(args: Args) -> Result<Plan, Error> {
    let choice = choose(args.backend)?;
    if let Some(memory) = args.memory.filter(|memory| *memory < machine::MIN_MEMORY) {
        return Err(SizeError::BelowMinimum(memory).into());
    }
    let image = Image::resolve(&args.image)?;
    let name = image.name.clone();
    let memory = args.memory.or(image.memory()).unwrap_or(machine::DEFAULT_MEMORY);
    let cores = match &args.resume {
        Some(dir) => Checkpoint::open(dir)?.cores,
        None => vec![],
    };
    let program = Program { cmd: args.cmd.clone(), env: args.env.clone(), cores };
    let boot = image.boot(&program, args.kernel.as_deref())?;
    check_size(memory, &name, &boot)?;
    let console = match args.detach {
        true => Console::Detached,
        false => Console::of_stdio(),
    };
    let disks = args.disk.iter().map(DiskArg::open).collect::<Result<_, _>>()?;
    let cards: Vec<_> = args.net.iter().map(NetArg::open).collect::<Result<_, _>>()?;
    let start = Start::Boot(backend::Boot {
        kernel: boot.kernel,
        initrd: boot.initrd.map(Initrd::Files),
        cmdline: cmdline(console, ip_word(&cards), args.append.as_deref()),
    });
    let config = Config { cpus: args.cpus, memory, cpu: args.cpu, start, disks, cards };
    // A detached VM lives in another folder.
    let dump_on_panic = args.dump_on_panic.map(std::path::absolute).transpose()?;
    Ok(Plan {
        name: args.name,
        label: name.clone(),
        image: name,
        choice,
        config,
        timeout: args.timeout,
        console,
        dump_on_panic,
        raw_console: console == Console::Pipe,
        snapshots: args.own.get()?,
        unverified: None,
    })
}

/// Decides which backend runs the guest, and says why if the user asked for `auto` by name: a choice that
/// nobody questioned is not worth a line.
pub(super) fn choose(backend: Backend) -> Result<Choice, Error> {
    let asked_auto =
        std::env::args().any(|arg| arg == "--backend" || arg.starts_with("--backend="));
    let choice = backend::choose(match backend {
        Backend::Auto => Request::Auto,
        Backend::Qemu => Request::Qemu,
        Backend::Kvm => Request::Kvm,
    })?;
    if asked_auto && backend == Backend::Auto {
        complain(&format!("backend {}, because {}", choice.kind, choice.why));
    }
    Ok(choice)
}

/// Makes a plan and runs it in this process, from start to end.
pub(super) fn attached(plan: impl FnOnce() -> Result<Plan, Error>) -> Result<ExitCode, Error> {
    let guard = Guard::attached()?;
    finish(runtime::run(guard, plan()?, api::server::serve, |_| ())?)
}

/// Makes a plan and runs it in a process of its own; returns when the guest runs, or there, when it has ended.
pub(super) fn detached(plan: impl FnOnce() -> Result<Plan, Error>) -> Result<ExitCode, Error> {
    match detach(plan)? {
        Detached::Started(name) => {
            println!("{name}");
            Ok(ExitCode::SUCCESS)
        }
        Detached::Ended(status) => Ok(status),
    }
}

/// What [`detach`] returns.
pub(super) enum Detached {
    /// To the caller: the name of the VM that runs.
    Started(String),
    /// In the VM's own process: what it has to end with.
    Ended(ExitCode),
}

/// Makes a plan and runs it in a process of its own. Returns twice.
pub(super) fn detach(plan: impl FnOnce() -> Result<Plan, Error>) -> Result<Detached, Error> {
    let report = match daemon::detach()? {
        Side::Caller(Ok(name)) => return Ok(Detached::Started(name)),
        Side::Caller(Err(why)) => return Err(why.into()),
        Side::Keeper(report) => report,
    };
    let guarded = Guard::detached().map_err(Error::from).and_then(|guard| {
        let plan = plan()?;
        report.leave_caller()?;
        Ok((guard, plan))
    });
    let mut report = Some(report);
    let ended = guarded.and_then(|(guard, plan)| {
        let ready = |name: &str| {
            if let Some(report) = report.take() {
                report.ready(name);
            }
        };
        Ok(runtime::run(guard, plan, api::server::serve, ready)?)
    });
    Ok(Detached::Ended(match (ended, report) {
        (Ok(end), _) => finish(end)?,
        (Err(error), Some(report)) => {
            report.failed(&error.to_string());
            ExitCode::from(runtime::FAILURE)
        }
        // The caller has long been told that the VM runs.
        (Err(_), None) => ExitCode::from(runtime::FAILURE),
    }))
}

fn finish((name, outcome): (String, Outcome)) -> Result<ExitCode, Error> {
    if let Some(complaint) = outcome.complaint(&name) {
        complain(&complaint);
    }
    Ok(ExitCode::from(outcome.exit_status()))
}

/// What the kernel is told: where its console is (the last of these that it has) and how it shall treat
/// it, and its address. Of two words that say the same, the last one, which is the user's, counts.
fn cmdline(console: Console, address: Option<String>, more: Option<&str>) -> String {
    let words = ["console=ttyAMA0", "console=hvc0", "quiet", "belljar.mounts=1"];
    let mut words = words.map(str::to_owned).to_vec();
    match console {
        // Bytes pass as they are, and what is sent is not shown again.
        Console::Pipe => words.push("belljar.console=raw".into()),
        Console::Terminal => words.extend(
            terminal::size().map(|(rows, columns)| format!("belljar.winsize={rows}x{columns}")),
        ),
        Console::Detached => {}
    }
    words.extend(address);
    words.extend(more.map(str::to_owned));
    words.join(" ")
}

/// Refuses what cannot boot before anything starts.
fn check_size(memory: u64, image: &str, boot: &Boot) -> Result<(), SizeError> {
    /// What the kernel and a small program need beside that.
    const WORKING: u64 = 6 << 20;
    let footprint = boot.footprint + WORKING;
    if footprint <= memory {
        return Ok(());
    }
    let enough = (footprint + WORKING).next_multiple_of(16 << 20);
    Err(SizeError::BelowImage { memory, image: image.to_owned(), footprint, enough })
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("unknown unit {unit:?}: write 10s, 500ms or 2m")),
    };
    let number: f64 =
        digits.parse().map_err(|_| "not a time: write 10s, 500ms or 2m".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "-1", "5d", "nan"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
