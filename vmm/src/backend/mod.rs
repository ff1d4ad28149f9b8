//! What runs the guest's CPUs: one small trait, [`Machine`], and its implementations.
//!
//! Everything above this module knows a machine only through the trait: nothing outside `qemu` knows
//! QEMU, and nothing outside `kvm` KVM. A backend reports what happens to the guest through the
//! [`Events`] callback that it is started with, from whatever thread it likes, and ends with exactly
//! one [`Event::Shutdown`] or [`Event::Died`].

mod kvm;
mod qemu;
mod ram;

use std::{fmt, fs::File, os::unix::net::UnixStream, path::PathBuf, sync::Arc};

pub use kvm::Error as KvmError;
pub use qemu::Error as QemuError;
use vm_memory::GuestMemoryMmap;

use crate::devices::virtio::net::{Mac, Tap};
use crate::elfcore::regs;
use crate::metrics::Family;
use crate::target::LiveRam;

/// The guest's RAM where this process has it mapped: guest physical ranges.
pub type GuestMemory = GuestMemoryMmap<()>;

/// Everything a backend must know to build the board and to start a kernel on it.
#[derive(Debug)]
pub struct Config {
    /// Number of CPUs.
    pub cpus: u32,
    /// RAM in bytes, a multiple of [`crate::machine::MEMORY_STEP`].
    pub memory: u64,
    /// The CPUs' model: [`crate::machine::PORTABLE_CPU`] or one that the backend knows.
    pub cpu: String,
    /// What the CPUs begin with.
    pub start: Start,
    /// Disks, the first of which the guest calls /dev/vda.
    pub disks: Vec<Disk>,
    /// Network cards, the first of which the guest calls eth0.
    pub cards: Vec<Card>,
}

/// A disk of the guest.
#[derive(Debug)]
pub struct Disk {
    /// The file or block device of the host, open for what the guest may do.
    pub file: File,
    /// Its absolute path.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// The guest must not write to it.
    pub read_only: bool,
}

/// A network card of the guest.
#[derive(Debug)]
pub struct Card {
    /// Its Ethernet address.
    pub mac: Mac,
    /// What it is connected to.
    pub network: Network,
}

/// What a card is connected to.
#[derive(Debug)]
pub enum Network {
    /// A tap of the host.
    Tap(Tap),
    /// A network of the backend's own in which the guest reaches what this host's programs can reach, and
    /// nobody reaches the guest.
    User,
}

impl fmt::Display for Network {
    /// As `--net` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(tap) => write!(f, "tap={}", tap.name()),
            Self::User => f.write_str("user"),
        }
    }
}

/// What the CPUs begin with.
#[derive(Debug)]
pub enum Start {
    /// A kernel boots.
    Boot(Boot),
    /// A kernel that was frozen goes on.
    Thaw(Thaw),
}

/// A kernel to boot.
#[derive(Debug)]
pub struct Boot {
    /// The arm64 `Image`.
    pub kernel: PathBuf,
    /// The initial RAM disk, if the kernel does not carry one.
    pub initrd: Option<Initrd>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Memory of a frozen kernel. All RAM is a private mapping of a file, which is never written; the device
/// tree lies at the start of RAM, where such a kernel keeps nothing; CPU 0 starts at `entry` with its
/// MMU off and the tree's address or 0 in x0, and the other CPUs wait to be turned on.
#[derive(Debug)]
pub struct Thaw {
    /// The RAM, byte for byte.
    pub memory: File,
    /// Guest physical address where CPU 0 starts.
    pub entry: u64,
    /// Bytes that this machine's memory has instead of the file's, from a guest physical address on.
    pub note: (u64, Vec<u8>),
}

/// An initial RAM disk.
#[derive(Debug)]
pub enum Initrd {
    /// A file with a path, which is used as it is.
    Path(PathBuf),
    /// Files that follow each other in the guest's memory, each from its start.
    Files(Vec<File>),
}

/// The registers of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuRegisters {
    /// The general ones, of the exception level that it is at.
    pub general: regs::General,
    /// FP/SIMD.
    pub fp: regs::FpSimd,
    /// TPIDR_EL0, if the backend can tell.
    pub tpidr_el0: Option<u64>,
    /// VBAR_EL1, if the backend can tell.
    pub vbar_el1: Option<u64>,
}

/// What happened to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest switched itself off (`reset`: asked for a reset). Its CPUs stand still and its RAM
    /// is as it left it.
    Shutdown {
        /// Whether it asked for a reset rather than for power off.
        reset: bool,
    },
    /// The machine ended without the guest's doing: why.
    Died(String),
}

/// Where a machine reports its events.
pub type Events = Box<dyn Fn(Event) + Send>;

/// A guest that was built and may run.
pub trait Machine: Send + Sync {
    /// Waits until the machine is built, for a backend that builds it while this process does other things.
    fn stand(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Waits until all that the guest begins with is in its RAM, for a backend that copies it while this process does
    /// other things. After an error the CPUs never run.
    fn until_loaded(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Lets the CPUs run, for the first time or after [`Machine::pause`].
    fn resume(&self) -> Result<(), Error>;
    /// Tells a machine whose guest runs that its memory is what it should be and the calling thread is confined, as are
    /// all that it starts from here on. A backend that answers the guest in this process waits for that, and for its own
    /// threads: where one thread can be turned against us, all others are within reach. A machine that ends before this
    /// does nothing of what its guest asked for.
    fn answer(&self) {}
    /// Whether nothing of the guest's reaches this process before [`answer`](Self::answer), so that the guest may run
    /// before the calling thread is confined and its memory is checked.
    fn holds_back(&self) -> bool {
        false
    }
    /// Stops every CPU; on return none of them changes memory any more.
    fn pause(&self) -> Result<(), Error>;
    /// Ends the machine at once and waits until it is gone. May be called more than once.
    fn quit(&self);
    /// The guest's RAM. Whether it can still be read when the machine is gone is the backend's affair.
    fn memory(&self) -> Arc<dyn LiveRam>;
    /// The registers of every CPU while they stand still, in the order of the CPUs; empty if this
    /// backend cannot tell.
    fn registers(&self) -> Result<Vec<CpuRegisters>, Error> {
        Ok(vec![])
    }
    /// What this backend has counted of the machine.
    fn metrics(&self) -> Vec<Family> {
        vec![]
    }
    /// The threads that run the guest's CPUs, in the order of the CPUs, as far as they have started.
    fn threads(&self) -> Vec<i64>;
    /// The process that the host accounts the guest's CPU time to, if it is not this one.
    fn pid(&self) -> Option<u32>;
    /// Whether the guest has ever opened port 0 of its virtio console, as far as it did so before this
    /// call.
    fn console_is_open(&self) -> bool;
}

/// A machine, built or about to be, still paused, and the other ends of its lines. What the guest sends can be
/// read there, and what is written there it receives, once its driver takes it.
pub struct Started {
    /// The machine.
    pub machine: Box<dyn Machine>,
    /// Port 0 of the virtio console, the terminal. It holds what is written until the guest opens the port.
    pub console: UnixStream,
    /// The UART: messages of the kernel, and the console of a kernel that drives no virtio.
    pub serial: UnixStream,
    /// The virtio console's port `org.belljar.control`.
    pub control: UnixStream,
}

/// What the user may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Request {
    /// KVM where it can work, else QEMU.
    #[default]
    Auto,
    /// A child `qemu-system-aarch64` that emulates the CPU.
    Qemu,
    /// The host's own virtualisation.
    Kvm,
}

/// The backends there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// See [`Request::Qemu`].
    Qemu,
    /// See [`Request::Kvm`].
    Kvm,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qemu => "qemu",
            Self::Kvm => "kvm",
        })
    }
}

/// Which backend was chosen, and why.
pub struct Choice {
    /// The backend.
    pub kind: Kind,
    /// The reason, as the end of a sentence: "qemu, because …".
    pub why: String,
    /// What was made to find out, and since.
    kvm: Option<kvm::Ready>,
}

/// Why a machine could not be built or driven.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest's RAM could not be set up.
    #[error("cannot set up {} MiB of guest memory: {cause}: give less --memory", .size >> 20)]
    Memory {
        /// How much was asked for, in bytes.
        size: u64,
        /// What the host said.
        cause: String,
    },
    /// The QEMU backend failed.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// The KVM backend failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// Decides which backend serves `request` on this host.
pub fn choose(request: Request) -> Result<Choice, Error> {
    let asked = "it was asked for".to_owned();
    Ok(match (request, kvm::check) {
        (Request::Qemu, _) => Choice { kind: Kind::Qemu, why: asked, kvm: None },
        (Request::Kvm, check) => Choice { kind: Kind::Kvm, why: asked, kvm: Some(check()?) },
        (Request::Auto, check) => match check() {
            Ok(ready) => {
                let why = "this host's KVM can run the guest".to_owned();
                Choice { kind: Kind::Kvm, why, kvm: Some(ready) }
            }
            Err(why) => Choice { kind: Kind::Qemu, why: why.reason(), kvm: None },
        },
    })
}

/// What there is for `kind` on this host, in a few words; the error says how to mend what is missing.
pub fn check(kind: Kind) -> Result<String, Error> {
    match kind {
        Kind::Qemu => qemu::check(),
        Kind::Kvm => Ok(kvm::capabilities()?),
    }
}

/// What [`start`] would run, as one line for a shell.
pub fn command_line(kind: Kind, config: &Config) -> Result<String, Error> {
    match kind {
        Kind::Qemu => qemu::command_line(config),
        Kind::Kvm => Ok(kvm::command_line(config)),
    }
}

/// Begins with what takes long of what [`start`] does, where the backend can do so in a thread of its own: not needed, but
/// the sooner the better.
pub fn begin(choice: &mut Choice, config: &Config) -> Result<(), Error> {
    choice.kvm.as_mut().map_or(Ok(()), |ready| ready.begin(config))
}

/// Begins to build a machine of the kind that was chosen, its CPUs still standing; [`Machine::stand`] waits for
/// the rest.
pub fn start(choice: &mut Choice, config: Config, events: Events) -> Result<Started, Error> {
    match choice.kind {
        Kind::Qemu => qemu::start(config, events),
        Kind::Kvm => kvm::start(&config, events, choice.kvm.take()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choose_auto_takes_kvm_where_it_works_and_names_a_reason() {
        let choice = choose(Request::Auto).map_err(|e| e.to_string()).unwrap();
        assert_eq!(choice.kind == Kind::Kvm, check(Kind::Kvm).is_ok());
        assert!(!choice.why.is_empty() && !choice.why.contains("--backend"), "{}", choice.why);
    }

    #[test]
    fn choose_kvm_where_it_does_not_work_is_refused_with_a_mend() {
        match choose(Request::Kvm) {
            Ok(choice) => assert_eq!(choice.kind, Kind::Kvm),
            Err(error) => assert!(error.to_string().contains("--backend qemu"), "{error}"),
        }
    }
}
