//! `belljar restore` and `belljar clone`: VMs that go on with the memory of a snapshot.

mod disks;

use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use belljar_abi::root::{COPY_SEED_SIZE, CopyNote, RootPage};

use super::devices::{DiskArg, NetArg};
use super::run::{self, Backend, OwnSnapshotsArgs};
use super::{Error, complain};
use crate::api::SnapshotRequest;
use crate::api::client::Client;
use crate::backend::{Card, Config, Disk, Start, Thaw};
use crate::image::Home;
use crate::runtime::{Console, Plan};
use crate::snapshot::{KernelImage, Snapshot, Trust};
use crate::{machine, random, render};

/// Go on with a snapshot in a new VM
///
/// The memory file is mapped, not read: what the VM does not touch costs nothing, and what it writes stays
/// its own. Its programs go on where they were; CLOCK_MONOTONIC too, CLOCK_REALTIME as the RTC says.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// The snapshot's folder
    dir: PathBuf,
    /// Name of the VM [default: made from the name of the one that was saved]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    how: How,
    /// Return when the VM runs, and print its name
    #[arg(long, short)]
    detach: bool,
}

/// Make several running copies of a VM or of a snapshot
///
/// All of them share the memory that none has written. Prints their names, one a line.
#[derive(Debug, clap::Args)]
pub(super) struct CloneArgs {
    /// Name of a running VM, or a snapshot's folder (with a slash in it, or no VM has that name)
    from: String,
    /// How many
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    number: u32,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    /// What runs the guest's CPUs
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Number of CPUs [default: as many as it had]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(machine::MAX_CPUS)))]
    cpus: Option<u32>,
    /// The CPU's model, as for `run` [default: the one that it had]
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// Give the guest its disk again, or a copy of it: those that it had, in the same order. In the name, {n}
    /// stands for the copy's number
    #[arg(long, value_name = "FILE[,ro]")]
    disk: Vec<DiskArg>,
    /// Connect the guest's network card, as for `run`; without, its link is down
    #[arg(long, value_name = "tap=NAME|user[,mac=ADDRESS]")]
    net: Vec<NetArg>,
    /// Do not check the stored memory against its hashes
    #[arg(long)]
    trust: bool,
    /// Do not confine this process to the system calls and files that it needs
    #[arg(long)]
    no_sandbox: bool,
    #[command(flatten)]
    own: OwnSnapshotsArgs,
}

/// Why a snapshot cannot be restored.
#[derive(Debug, thiserror::Error)]
enum Misfit {
    /// Its kernel was not frozen.
    #[error("{0} can be looked at but not restored: its kernel was not frozen when it was saved")]
    NotFrozen(String),
    /// It is of a machine that this version cannot build.
    #[error(
        "{dir} needs a {board:?} machine with RAM at {base:#x}: this belljar builds \"virt\" with RAM at {:#x}",
        machine::RAM_BASE
    )]
    Board { dir: String, board: String, base: u64 },
}

pub(super) fn restore(args: RestoreArgs) -> Result<ExitCode, Error> {
    match args.detach {
        true => run::detached(|| plan_of_one(args)),
        false => run::attached(|| plan_of_one(args)),
    }
}

fn plan_of_one(args: RestoreArgs) -> Result<Plan, Error> {
    warn_of_trust(&args.dir, &args.how);
    let snapshot = Snapshot::open(&args.dir, Trust::Trust)?;
    // From here on, while the machine is built.
    let verification = (!args.how.trust).then(|| {
        let kernel = Home::find().and_then(|home| home.kernel()).ok();
        snapshot.verification(kernel.and_then(|path| KernelImage::open(&path)))
    });
    let raw = snapshot.manifest().thaw.as_ref().is_some_and(|thaw| thaw.raw_console);
    let console = match args.detach {
        true => Console::Detached,
        // Its console is no terminal, whatever ours is.
        false if raw => Console::Pipe,
        false => Console::of_stdio(),
    };
    let disks = args.how.disks(&snapshot, 1)?;
    let mut plan = plan(&snapshot, &args.how, args.name, 1, console, disks)?;
    plan.unverified = verification;
    run::confine(args.how.no_sandbox)?;
    Ok(plan)
}

pub(super) fn clone(args: &CloneArgs) -> Result<ExitCode, Error> {
    let from = Path::new(&args.from);
    // A folder of a snapshot that lives only as long as the copies need to open it.
    let mut made = None;
    let snapshot = match Client::open(&args.from) {
        Ok(vm) if !args.from.contains('/') => {
            let folder = Temporary::beside_large_files(&args.from)?;
            let dir = folder.0.clone();
            vm.snapshot(&SnapshotRequest { dir, stop: false, timeout_ms: None })?;
            let snapshot = Snapshot::open(&folder.0, Trust::Trust)?;
            made = Some(folder);
            snapshot
        }
        Err(error) if !from.is_dir() => return Err(error.into()),
        Ok(_) | Err(_) => open(from, &args.how)?,
    };
    let numbers = 1..=u64::from(args.number);
    let disks = numbers.clone().map(|number| args.how.disks(&snapshot, number));
    let disks = disks.collect::<Result<Vec<_>, _>>()?;
    // The VM that was asked goes on; the one that a folder is of has ended, as far as we know.
    let of_original = if made.is_some() { &*snapshot.manifest().disks } else { &[] };
    disks::check_copies(&disks, of_original)?;
    run::confine(args.how.no_sandbox)?;
    for (number, disks) in numbers.zip(disks) {
        let plan = || plan(&snapshot, &args.how, None, number, Console::Detached, disks);
        match run::detach(plan)? {
            run::Detached::Started(name) => println!("{name}"),
            // This is the process that kept a copy, and that copy has ended.
            run::Detached::Ended(status) => {
                std::mem::forget(made);
                return Ok(status);
            }
        }
    }
    drop(made);
    Ok(ExitCode::SUCCESS)
}

impl How {
    /// The disks of the copy `number`.
    fn disks(&self, snapshot: &Snapshot, number: u64) -> Result<Vec<Disk>, disks::Error> {
        let given: Vec<_> = self.disk.iter().map(|disk| disk.of_copy(number)).collect();
        disks::open(&snapshot.manifest().disks, &given)
    }
}

/// Opens what several copies are made of: checked once for all of them.
fn open(dir: &Path, how: &How) -> Result<Snapshot, Error> {
    warn_of_trust(dir, how);
    Ok(Snapshot::open(dir, if how.trust { Trust::Trust } else { Trust::Verify })?)
}

fn warn_of_trust(dir: &Path, how: &How) {
    if how.trust {
        complain(&format!("{} is not checked against its hashes", dir.display()));
    }
}

fn plan(
    snapshot: &Snapshot,
    how: &How,
    name: Option<String>,
    number: u64,
    console: Console,
    disks: Vec<Disk>,
) -> Result<Plan, Error> {
    let manifest = snapshot.manifest();
    let dir = || snapshot.dir().display().to_string();
    let Some(thaw) = &manifest.thaw else { return Err(Misfit::NotFrozen(dir()).into()) };
    let board = &manifest.board;
    if board.name != "virt" || board.ram_base != machine::RAM_BASE {
        let (board, base) = (board.name.clone(), board.ram_base);
        return Err(Misfit::Board { dir: dir(), board, base }.into());
    }
    let note = manifest.kernel.root_page + offset_of!(RootPage, copy) as u64;
    let mut seed = [0; COPY_SEED_SIZE];
    random::fill(&mut seed)?;
    let start = Start::Thaw(Thaw {
        memory: snapshot.memory().try_clone()?,
        entry: thaw.entry,
        note: (note, CopyNote::bytes(number, &seed).to_vec()),
    });
    let cards = cards(&how.net, &manifest.board.networks)?;
    let cpu = how.cpu.clone().unwrap_or_else(|| manifest.cpu.model.clone());
    Ok(Plan {
        name,
        label: manifest.source.vm.clone(),
        image: manifest.source.image.clone(),
        choice: run::choose(how.backend)?,
        config: Config {
            cpus: how.cpus.unwrap_or(board.cpus),
            memory: board.ram_size,
            cpu,
            start,
            disks,
            cards,
        },
        timeout: None,
        console,
        raw_console: thaw.raw_console,
        dump_on_panic: None,
        snapshots: how.own.get()?,
        unverified: None,
    })
}

/// The cards that `given` asks for; says what becomes of those that the guest `had` beyond them.
fn cards(given: &[NetArg], had: &[String]) -> Result<Vec<Card>, Error> {
    let cards = given.iter().map(NetArg::open).collect::<Result<Vec<_>, _>>()?;
    for (i, network) in had.iter().enumerate().skip(cards.len()) {
        complain(&format!(
            "the guest's eth{i} was on {} and has no link now: give --net to connect it",
            render::escape(network)
        ));
    }
    Ok(cards)
}

/// A folder that is removed when it is dropped.
struct Temporary(PathBuf);

impl Temporary {
    /// Where large temporary files belong (file-hierarchy(7)): memory files are too large for `/tmp`.
    fn beside_large_files(vm: &str) -> std::io::Result<Self> {
        let parent = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
        Ok(Self(parent.join(format!("belljar-clone-{vm}-{}", std::process::id()))))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // If it stays, the user sees its name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
