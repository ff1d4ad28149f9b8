//! The backend for every host: a child `qemu-system-aarch64` that emulates the CPUs (TCG).
//!
//! Nothing of it is on disk: guest RAM and the initrd are memory files, QMP and the console are
//! socket pairs, all inherited by the child at fixed descriptor numbers (`command`). So nothing is
//! left behind however either process ends, and the child gets SIGKILL from the host's kernel when
//! the thread that started it dies (`process`). RAM is mapped here too and stays readable after
//! the child is gone.

mod command;
mod process;
mod qmp;
mod registers;

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use command::{Command, find};

use super::ram::{map, memory_file};
use super::{Card, Config, CpuRegisters, Event, Events, Initrd, Machine, Network, Start, Started};
use crate::machine::RAM_BASE;
use crate::target::{LiveRam, ProcessRam};
use process::Child;
use qapi::qmp::CpuInfoFast;
use qmp::Qmp;

/// The oldest QEMU that is known to work.
const MIN_VERSION: (i64, i64) = (7, 2);

/// The oldest QEMU that gives a guest private RAM from a file that it opens for reading only.
const READ_ONLY_VERSION: (i64, i64) = (8, 2);

/// Why QEMU could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU is not installed.
    #[error(
        "{0} not found: install QEMU 7.2 or later (Debian: apt install qemu-system-arm), or name it in $BELLJAR_QEMU"
    )]
    NotFound(String),
    /// The file is there but does not run.
    #[error("cannot start {program}: {cause}")]
    Spawn {
        /// The program.
        program: String,
        /// What the host said.
        cause: std::io::Error,
    },
    /// QEMU is older than 7.2.
    #[error("{program} is QEMU {found}: 7.2 or later is needed")]
    TooOld {
        /// The program.
        program: String,
        /// The version it states.
        found: String,
    },
    /// QEMU wants more of a snapshot's file than it needs.
    #[error(
        "{program} is QEMU {found}, which goes on only with a memory file that it may write to, though it never does: make memory.img writable, copy the snapshot, or use QEMU 8.2 or later"
    )]
    Unwritable {
        /// The program.
        program: String,
        /// The version it states.
        found: String,
    },
    /// QEMU ended before the machine was built.
    #[error("{program} did not start: {cause}")]
    Startup {
        /// The program.
        program: String,
        /// How it ended and what it printed.
        cause: String,
    },
    /// A command over QMP failed.
    #[error("QEMU refused {command}: {cause}")]
    Refused {
        /// The QMP command.
        command: &'static str,
        /// What QEMU said.
        cause: String,
    },
    /// The child's private RAM cannot be reached.
    #[error(
        "cannot look into the RAM of QEMU: {0}: belljar must be allowed to trace its own children"
    )]
    Ram(std::io::Error),
    /// A resource of the host that the child needs.
    #[error("cannot prepare QEMU: {0}")]
    Host(#[from] std::io::Error),
}

/// A child, its QMP connection and the RAM shared with it.
struct Qemu {
    command: Command,
    child: Child,
    qmp: Qmp,
    memory: Arc<dyn LiveRam>,
    console_open: Arc<AtomicBool>,
    /// See [`threads`](super::Machine::threads): asked for once.
    threads: OnceLock<Vec<i64>>,
}

/// The files behind the guest's memory.
struct GuestFiles {
    ram: File,
    /// The RAM, if it is shared with the child.
    mapped: Option<Arc<dyn LiveRam>>,
    initrd: Option<File>,
    note: Option<File>,
}

impl GuestFiles {
    fn prepare(config: &Config) -> Result<Self, super::Error> {
        match &config.start {
            Start::Boot(boot) => {
                let ram = memory_file("belljar-ram").map_err(Error::from)?;
                let mapped: Arc<dyn LiveRam> = Arc::new(map(&ram, config.memory)?);
                let initrd = match &boot.initrd {
                    Some(Initrd::Files(files)) => Some(joined(files)?),
                    Some(Initrd::Path(_)) | None => None,
                };
                Ok(Self { ram, mapped: Some(mapped), initrd, note: None })
            }
            Start::Thaw(thaw) => {
                let note = memory_file("belljar-note").map_err(Error::from)?;
                (&note).write_all(&thaw.note.1).map_err(Error::from)?;
                let ram = thaw.memory.try_clone().map_err(Error::from)?;
                Ok(Self { ram, mapped: None, initrd: None, note: Some(note) })
            }
        }
    }
}

/// What is in `files` in one memory file: QEMU takes one.
fn joined(files: &[File]) -> Result<File, Error> {
    let mut all = memory_file("belljar-initrd")?;
    for mut file in files {
        file.rewind()?;
        // File to file: the kernel copies, nothing passes through this process.
        std::io::copy(&mut file, &mut all)?;
    }
    Ok(all)
}

/// A descriptor for the child of each card's tap.
fn taps(config: &Config) -> std::io::Result<Vec<Option<OwnedFd>>> {
    let tap = |card: &Card| match &card.network {
        Network::Tap(tap) => tap.file().map(Some),
        Network::User => Ok(None),
    };
    config.cards.iter().map(tap).collect()
}

/// Which QEMU there is.
pub(super) fn check() -> Result<String, super::Error> {
    let command = Command { program: find()?, args: vec![] };
    let program = command.program.display().to_string();
    match command.version() {
        Some(found) if too_old(&found) => {
            let found = format!("{}.{}", found.0, found.1);
            Err(Error::TooOld { program, found }.into())
        }
        Some((major, minor)) => Ok(format!("QEMU {major}.{minor}, {program}")),
        None => {
            Err(Error::Startup { program, cause: "it does not state its version".into() }.into())
        }
    }
}

/// The command that [`start`] runs.
pub(super) fn command_line(config: &Config) -> Result<String, super::Error> {
    Ok(Command::new(find()?, config).to_string())
}

/// Starts QEMU with the guest's CPUs standing still. Does not wait for it: QEMU needs longer to build its machine
/// than we do for all that is left to do, so that is done meanwhile.
pub(super) fn start(config: Config, events: Events) -> Result<Started, super::Error> {
    let program = find()?;
    check_writable(&program, &config)?;
    let files = GuestFiles::prepare(&config)?;
    let (monitor, child_monitor) = UnixStream::pair().map_err(Error::from)?;
    let (serial, child_serial) = UnixStream::pair().map_err(Error::from)?;
    let (console, child_console) = UnixStream::pair().map_err(Error::from)?;
    let (control, child_control) = UnixStream::pair().map_err(Error::from)?;

    let command = Command::new(program, &config);
    let inherited = command::Files {
        qmp: child_monitor.into(),
        serial: child_serial.into(),
        ram: files.ram.try_clone().map_err(Error::from)?.into(),
        console: child_console.into(),
        control: child_control.into(),
        initrd: files.initrd.map(Into::into),
        note: files.note.map(Into::into),
        taps: taps(&config).map_err(Error::from)?,
    };
    let child = process::spawn(&command, inherited)?;

    // The reader thread needs the machine to say how the child ended, and the machine needs the
    // connection that the reader serves: the machine comes last.
    let handle: Arc<OnceLock<Child>> = Arc::new(OnceLock::new());
    let console_open = Arc::new(AtomicBool::new(false));
    let on_event = {
        let handle = Arc::clone(&handle);
        let console_open = Arc::clone(&console_open);
        let events = Mutex::new(Some(events));
        move |event| match event {
            // Once open it counts as open: a driver that starts again opens it again.
            qmp::Event::Port { id, open } => {
                console_open.fetch_or(open && id == command::CONSOLE_ID, Ordering::AcqRel);
            }
            qmp::Event::Shutdown { reset } => report(Event::Shutdown { reset }, &events),
            qmp::Event::Closed => report(died(&handle), &events),
        }
    };
    let _ = handle.set(child.clone());
    let qmp = qmp::connect(monitor, on_event).map_err(Error::from)?;
    let memory: Arc<dyn LiveRam> = match files.mapped {
        Some(memory) => memory,
        None => Arc::new(
            ProcessRam::open(child.pid(), files.ram, RAM_BASE)
                .map_err(Error::Ram)
                .inspect_err(|_| child.kill())?,
        ),
    };
    let machine =
        Box::new(Qemu { command, child, qmp, memory, console_open, threads: OnceLock::new() });
    Ok(Started { machine, console, serial, control })
}

impl Machine for Qemu {
    fn stand(&self) -> Result<(), super::Error> {
        let version = match self.qmp.version() {
            Ok(version) => version,
            Err(cause) => return Err(failed_start(&self.command, &self.child, &cause).into()),
        };
        if too_old(&version) {
            self.child.kill();
            let program = self.command.program.display().to_string();
            let found = format!("{}.{}", version.0, version.1);
            return Err(Error::TooOld { program, found }.into());
        }
        Ok(())
    }

    fn resume(&self) -> Result<(), super::Error> {
        self.qmp.execute(qapi::qmp::cont {})?;
        Ok(())
    }

    fn pause(&self) -> Result<(), super::Error> {
        self.qmp.execute(qapi::qmp::stop {})?;
        Ok(())
    }

    fn quit(&self) {
        self.child.kill();
    }

    fn memory(&self) -> Arc<dyn LiveRam> {
        // A child that never had the memory is asked for none.
        let _ = self.qmp.version();
        self.memory.clone()
    }

    fn registers(&self) -> Result<Vec<CpuRegisters>, super::Error> {
        Ok(registers::read(&self.qmp)?)
    }

    fn threads(&self) -> Vec<i64> {
        let ask = || {
            // A machine that has ended has no threads to ask for.
            let cpus = self.qmp.execute(qapi::qmp::query_cpus_fast {}).unwrap_or_default();
            let threads = cpus.iter().filter_map(|cpu| match cpu {
                CpuInfoFast::aarch64(cpu) => Some(cpu.thread_id),
                _ => None,
            });
            threads.collect()
        };
        self.threads.get_or_init(ask).clone()
    }

    fn pid(&self) -> Option<u32> {
        Some(self.child.pid())
    }

    fn console_is_open(&self) -> bool {
        // Events come on the same connection as answers: behind one, everything before it is known.
        self.console_open.load(Ordering::Acquire)
            || self.qmp.execute(qapi::qmp::query_status {}).is_ok()
                && self.console_open.load(Ordering::Acquire)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.child.kill();
    }
}

/// Passes the first final event on; the end of the connection after it is expected.
fn report(event: Event, events: &Mutex<Option<Events>>) {
    if let Some(send) = events.lock().unwrap().take() {
        send(event);
    }
}

fn died(child: &OnceLock<Child>) -> Event {
    let how = child.get().map_or_else(|| "it is gone".to_owned(), Child::how_it_ended);
    Event::Died(format!("qemu-system-aarch64 {how}"))
}

/// Why the child closed its monitor before the handshake: mostly an option that it does not know.
fn failed_start(command: &Command, child: &Child, cause: &str) -> Error {
    let program = command.program.display().to_string();
    if let Some(found) = command.version().filter(too_old) {
        return Error::TooOld { program, found: format!("{}.{}", found.0, found.1) };
    }
    let how = child.how_it_ended();
    Error::Startup { program, cause: format!("it {how} ({cause})") }
}

fn too_old(version: &(i64, i64)) -> bool {
    *version < MIN_VERSION
}

/// Refuses a memory file that this QEMU could not open.
fn check_writable(program: &Path, config: &Config) -> Result<(), Error> {
    let Start::Thaw(thaw) = &config.start else { return Ok(()) };
    if command::is_writable(&thaw.memory) {
        return Ok(());
    }
    let command = Command { program: program.to_owned(), args: vec![] };
    match command.version() {
        Some(found) if found < READ_ONLY_VERSION => {
            let found = format!("{}.{}", found.0, found.1);
            Err(Error::Unwritable { program: program.display().to_string(), found })
        }
        _ => Ok(()),
    }
}
