//! The backend for AArch64 hosts: QEMU's `virt` board, built in this process on the host's KVM.
//!
//! The pieces, from below: what of KVM's interface exists on AArch64 alone (`aarch64`; `foreign` in its
//! place on other hosts, so that all the rest compiles and is tested everywhere), the device tree
//! (`fdt`), what stands in RAM at the start (`load`), who may run (`gate`), a vCPU's thread (`vcpu`), the
//! device loop (`io`), the virtio devices (`virtio`), what is counted (`stats`, `metrics`). The interrupt controller, the timer and PSCI are KVM's; RAM is a memory file,
//! as with QEMU. Nothing is on disk and there is no child process, so nothing is left behind however
//! this process ends.
//!
//! Guest time is the virtual counter. It is read when the last vCPU has stopped and put back before
//! the first runs again, so a guest that was paused does not notice.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch;
#[cfg(not(target_arch = "aarch64"))]
#[path = "foreign.rs"]
mod arch;
mod fdt;
mod gate;
mod io;
mod load;
mod metrics;
mod stats;
mod vcpu;
mod virtio;

use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use belljar_abi::control::PORT_NAME;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm as Host, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::errno::Error as Errno;

use super::ram::{map, map_private, memory_file};
use super::{
    Config, CpuRegisters, Event, Events, GuestMemory, Initrd, Machine, Network, Start, Started,
};
use crate::devices::virtio::{Block, Console, Counters, Net, Port, Rng, block};
use crate::devices::{Bus, Line, Overlap, Pl011, Rtc};
use crate::machine::{MAX_CPUS, RAM_BASE, RTC, UART, UART_SPI};
use crate::metrics::Family;
use crate::target::{LiveRam, PrivateRam};
use gate::Gate;
use io::{Drained, Loop, Subscriber};
use load::{Layout, Loading};
use metrics::{Exits, Threads};
use stats::Stats;
use vcpu::{Idle, Shared, Vcpu};
use virtio::Virtio;

/// The version of the interface that is documented and stable.
const API_VERSION: i32 = 12;

/// Why the host's KVM cannot be used, or the machine not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host is no AArch64.
    #[error("kvm cannot run AArch64 guests on an {0} host: use --backend qemu")]
    Architecture(&'static str),
    /// No device.
    #[error(
        "this host has no /dev/kvm: load the kvm module, switch virtualisation on in the firmware, or use --backend qemu"
    )]
    NoDevice,
    /// The device may not be used.
    #[error("/dev/kvm cannot be opened ({0}): join the group kvm, or use --backend qemu")]
    Permission(std::io::Error),
    /// Another interface than the stable one.
    #[error("this host's KVM has API version {0}, not {API_VERSION}: update its kernel")]
    Version(i32),
    /// No GICv3.
    #[error(
        "this host's KVM has no virtual GICv3 ({0}): its interrupt controller must be a GICv3 or later; use --backend qemu"
    )]
    NoGic(std::io::Error),
    /// More CPUs than KVM or the board's interrupt controller can have.
    #[error("--cpus {wanted} is too many for kvm on this host: give {most} or fewer")]
    TooManyCpus {
        /// What was asked for.
        wanted: u32,
        /// What is possible.
        most: u64,
    },
    /// A call to KVM failed.
    #[error("KVM cannot {what}: {cause}")]
    Call {
        /// What was to be done.
        what: &'static str,
        /// What the host said.
        cause: std::io::Error,
    },
    /// A file to boot from cannot be read.
    #[error("cannot read {}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: std::io::Error,
    },
    /// The kernel cannot be loaded.
    #[error("cannot load the kernel {}: {cause}", .path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The RAM disk does not fit.
    #[error("the initial RAM disk ({} MiB) does not fit into {} MiB of memory: give more --memory",
        .length.div_ceil(1 << 20), .memory >> 20)]
    Initrd {
        /// Its length in bytes.
        length: u64,
        /// RAM in bytes.
        memory: u64,
    },
    /// The device tree cannot be made.
    #[error("cannot make the device tree: {0}")]
    DeviceTree(String),
    /// Two devices at one place.
    #[error(transparent)]
    Bus(#[from] Overlap),
    /// More devices than the board has transports for.
    #[error("the board has room for {0} virtio devices: give fewer")]
    TooManyDevices(u32),
    /// A file cannot be a disk.
    #[error(transparent)]
    Disk(block::Error),
    /// A network that only QEMU has.
    #[error(
        "kvm has no network of its own for --net user: make a tap (ip tuntap add NAME mode tap user \
         $USER; ip link set NAME up) and give --net tap=NAME, or use --backend qemu"
    )]
    UserNetwork,
    /// Another resource of the host.
    #[error("cannot set the machine up: {0}")]
    Host(std::io::Error),
}

impl Error {
    /// Why, without the mend: for a choice that mends it already.
    pub(super) fn reason(&self) -> String {
        let text = self.to_string();
        text.split_once(": ").map_or(text.as_str(), |(reason, _)| reason).to_owned()
    }
}

/// For an error of the call that was to do `what`.
fn failed(what: &'static str) -> impl FnOnce(Errno) -> Error {
    move |e| Error::Call { what, cause: host_error(e) }
}

fn host_error(error: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(error.errno())
}

/// The callback of the machine's owner; the first event is the only one.
pub(super) struct EventsOnce(Mutex<Option<Events>>);

impl EventsOnce {
    fn send(&self, event: Event) {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(events) = events {
            events(event);
        }
    }
}

/// Opens KVM; says why it cannot be used.
fn open() -> Result<Host, Error> {
    arch::check_host().map_err(Error::Architecture)?;
    let host = Host::new().map_err(|e| match e.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => Error::NoDevice,
        _ => Error::Permission(host_error(e)),
    })?;
    match host.get_api_version() {
        API_VERSION => Ok(host),
        other => Err(Error::Version(other)),
    }
}

/// KVM, and a VM that can have all that the board needs, with nothing in it yet. It is its process's alone, however
/// many have the descriptor (Linux's kvm/api.rst).
pub(super) struct Ready {
    host: Host,
    vm: VmFd,
    ram: Option<Ram>,
}

/// A machine's RAM, which the thread of its boot CPU fills.
struct Ram {
    memory: Arc<GuestMemory>,
    /// The same for [`Machine::memory`].
    live: Arc<dyn LiveRam>,
    layout: Layout,
    loading: Loading,
    boot: Idle,
}

impl Ready {
    /// Begins to fill the RAM of the machine that [`start`] builds of `config`: the boot CPU's thread, which has nothing
    /// to run before, copies while this process makes everything else.
    pub(super) fn begin(&mut self, config: &Config) -> Result<(), super::Error> {
        self.ram = Some(Ram::begin(config)?);
        Ok(())
    }
}

impl Ram {
    fn begin(config: &Config) -> Result<Self, super::Error> {
        let (memory, live): (_, Arc<dyn LiveRam>) = match &config.start {
            Start::Boot(_) => {
                let file = memory_file("belljar-ram").map_err(Error::Host)?;
                let memory = Arc::new(map(&file, config.memory)?);
                (Arc::clone(&memory), memory)
            }
            Start::Thaw(thaw) => {
                let memory = Arc::new(map_private(&thaw.memory, config.memory)?);
                let live = PrivateRam::new(Arc::clone(&memory)).map_err(Error::Host)?;
                (memory, Arc::new(live))
            }
        };
        let (layout, files) = load::lay_out(&memory, config)?;
        let (loading, copy) = Loading::new(files, &memory);
        let boot = vcpu::spawn(vcpu::BOOT, copy).map_err(Error::Host)?;
        Ok(Self { memory, live, layout, loading, boot })
    }
}

/// Whether this backend works here. That takes a VM to try, which need not be made again.
pub(super) fn check() -> Result<Ready, Error> {
    let host = open()?;
    let vm = host.create_vm().map_err(failed("create a VM"))?;
    arch::check_gic(&vm).map_err(|e| Error::NoGic(host_error(e)))?;
    Ok(Ready { host, vm, ram: None })
}

/// What the host's KVM gives a guest.
pub(super) fn capabilities() -> Result<String, Error> {
    let Ready { host, .. } = check()?;
    Ok(format!("/dev/kvm, GICv3, up to {} CPUs", most_cpus(&host)))
}

/// What [`start`] would build: there is no command to show.
pub(super) fn command_line(config: &Config) -> String {
    let mut text = format!(
        "# no command: this process builds the machine on /dev/kvm: {} CPUs, {} MiB at {RAM_BASE:#x}",
        config.cpus,
        config.memory >> 20,
    );
    // Writing to a string does not fail.
    let _ = match &config.start {
        Start::Boot(boot) => {
            let _ = write!(text, ", kernel {}", boot.kernel.display());
            let _ = match &boot.initrd {
                None => Ok(()),
                Some(Initrd::Path(path)) => write!(text, ", initrd {}", path.display()),
                Some(Initrd::Files(_)) => write!(text, ", initrd from open files"),
            };
            write!(text, ", command line {:?}", boot.cmdline)
        }
        Start::Thaw(thaw) => write!(text, ", from a frozen memory file at {:#x}", thaw.entry),
    };
    text
}

/// A machine on KVM.
struct Kvm {
    // Fields are dropped in this order: vCPUs and VM before the memory that they use.
    vcpus: Vec<Vcpu>,
    shared: Arc<Shared>,
    devices: Loop,
    /// What the loop serves as soon as there is a guest.
    unserved: Mutex<Option<(Vec<Subscriber>, Vec<Drained>)>>,
    _vm: Arc<VmFd>,
    /// What [`Machine::memory`] gives out.
    ram: Arc<dyn LiveRam>,
    /// What fills RAM.
    loading: Loading,
    /// The virtual counter while the machine is paused.
    counter: Mutex<Option<u64>>,
    /// The guest has opened port 0 of its console.
    console_open: Arc<AtomicBool>,
    /// What KVM counts of each vCPU.
    stats: Vec<Option<Stats>>,
    /// What each virtio device counts.
    counters: Vec<(String, Arc<Counters>)>,
    /// What the bus counts.
    unclaimed: Arc<AtomicU64>,
}

/// A shared interrupt of the machine as a line.
struct Spi {
    vm: Arc<VmFd>,
    number: u32,
}

impl Line for Spi {
    fn set(&self, high: bool) {
        // The number is one of the controller's, which is all that KVM checks.
        let _ = arch::set_spi(&self.vm, self.number, high);
    }
}

/// Builds the machine, its vCPUs standing, in `ready` if there is one.
pub(super) fn start(
    config: &Config,
    events: Events,
    ready: Option<Ready>,
) -> Result<Started, super::Error> {
    let ready = ready.map_or_else(check, Ok)?;
    let Ready { host, vm, ram } = ready;
    check_cpus(&host, config.cpus)?;
    let Ram { memory, live, layout, loading, boot } = ram.map_or_else(|| Ram::begin(config), Ok)?;
    let vm = Arc::new(vm);
    give_memory(&vm, &memory)?;

    let vcpus = (0..config.cpus)
        .map(|index| vm.create_vcpu(index.into()).map(|vcpu| Arc::new(Mutex::new(vcpu))))
        .collect::<Result<Vec<Vcpu>, _>>()
        .map_err(failed("create a vCPU"))?;
    let shared = Arc::new(Shared {
        gate: Gate::new(vcpus.len()).map_err(Error::Host)?,
        events: EventsOnce(Mutex::new(Some(events))),
        answered: OnceLock::new(),
        confined: vcpus.iter().map(|_| OnceLock::new()).collect(),
        confine: AtomicBool::new(false),
        exits: Exits::default(),
        threads: Threads::new(vcpus.len()),
    });
    let others = (1..config.cpus).map(|index| vcpu::spawn(index, || ()));
    let threads = std::iter::once(Ok(boot)).chain(others);
    let threads: Vec<_> = threads.collect::<Result<_, _>>().map_err(Error::Host)?;
    // The controller counts the vCPUs at this moment. It lives as long as the VM.
    arch::create_gic(&vm).map_err(failed("create the interrupt controller"))?;
    for (index, vcpu) in (0..).zip(&vcpus) {
        let vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
        arch::init_vcpu(&host, &vm, &vcpu, index == vcpu::BOOT).map_err(failed("reset a vCPU"))?;
    }
    let threads = threads.into_iter().zip(&vcpus);
    let threads: Vec<_> = threads.map(|(thread, vcpu)| thread.prepare(vcpu, &shared)).collect();

    let (serial, guest_serial) = UnixStream::pair().map_err(Error::Host)?;
    let (console, guest_console) = UnixStream::pair().map_err(Error::Host)?;
    let (control, guest_control) = UnixStream::pair().map_err(Error::Host)?;
    let line = Arc::new(Spi { vm: Arc::clone(&vm), number: UART_SPI });
    let uart = Arc::new(Mutex::new(Pl011::new(guest_serial, line).map_err(Error::Host)?));
    let mut bus = Bus::default();
    bus.attach(UART, uart.clone()).map_err(Error::from)?;
    bus.attach(RTC, Arc::new(Mutex::new(Rtc::default()))).map_err(Error::from)?;

    let mut virtio = Virtio::new(&vm, &mut bus, &memory);
    let terminal = Port::console(guest_console).map_err(Error::Host)?;
    let console_open = terminal.ever_open();
    let control_port = Port::named(PORT_NAME, guest_control).map_err(Error::Host)?;
    virtio.attach(|_| Ok(Box::new(Console::new(vec![terminal, control_port], None))))?;
    virtio.attach(|report| Ok(Box::new(Rng::new(report))))?;
    for disk in &config.disks {
        let file = disk.file.try_clone().map_err(Error::Host)?;
        virtio.attach(|report| {
            let block = Block::new(file, &disk.path, disk.read_only, report);
            Ok(Box::new(block.map_err(Error::Disk)?))
        })?;
    }
    for card in &config.cards {
        let Network::Tap(tap) = &card.network else { return Err(Error::UserNetwork.into()) };
        virtio.attach(|report| {
            Ok(Box::new(Net::open(tap, card.mac, report).map_err(Error::Host)?))
        })?;
    }
    let Virtio { transports, mut subscribers, mut drained, counters, .. } = virtio;

    let entry = layout.describe(&memory, config, &transports)?;
    {
        let vcpu = vcpus[vcpu::BOOT as usize].lock().unwrap_or_else(PoisonError::into_inner);
        arch::set_entry(&vcpu, entry).map_err(failed("reset a vCPU"))?;
    }

    subscribers.push(uart.clone());
    drained
        .push(Box::new(move || uart.lock().unwrap_or_else(PoisonError::into_inner).is_drained()));
    let stats = vcpus
        .iter()
        .map(|vcpu| Stats::of(&vcpu.lock().unwrap_or_else(PoisonError::into_inner)))
        .collect();
    let machine = Kvm {
        vcpus,
        shared,
        devices: Loop::new().map_err(Error::Host)?,
        unserved: Mutex::new(Some((subscribers, drained))),
        _vm: vm,
        ram: live,
        counter: Mutex::new(None),
        loading,
        console_open,
        stats,
        counters,
        unclaimed: bus.unclaimed(),
    };
    let bus = Arc::new(bus);
    threads.into_iter().for_each(|thread| thread.serve(&bus));
    Ok(Started { machine: Box::new(machine), console, serial, control })
}

/// As many CPUs as KVM can run and the board's interrupt controller serve.
fn most_cpus(host: &Host) -> u64 {
    u64::from(MAX_CPUS).min(host.get_max_vcpus() as u64)
}

fn check_cpus(host: &Host, wanted: u32) -> Result<(), Error> {
    let most = most_cpus(host);
    if u64::from(wanted) > most {
        return Err(Error::TooManyCpus { wanted, most });
    }
    Ok(())
}

/// Makes `memory` the RAM of `vm`.
fn give_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), Error> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region stays mapped as long as the machine lives, which keeps `memory` and drops
        // the VM first; guest memory is only ever accessed as memory that others change.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(failed("give the guest its memory"))?;
    }
    Ok(())
}

impl Kvm {
    /// Does `act` with a vCPU, none of which runs. On a machine that has ended it finds one, too.
    fn with_standing<T>(
        &self,
        what: &'static str,
        act: impl FnOnce(&kvm_ioctls::VcpuFd) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        let vcpu = self.vcpus[0].lock().unwrap_or_else(PoisonError::into_inner);
        act(&vcpu).map_err(failed(what))
    }

    fn take_unserved(&self) -> Option<(Vec<Subscriber>, Vec<Drained>)> {
        self.unserved.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Machine for Kvm {
    fn until_loaded(&self) -> Result<(), super::Error> {
        Ok(self.loading.finish(&self.shared.gate)?)
    }

    fn resume(&self) -> Result<(), super::Error> {
        self.until_loaded()?;
        let mut counter = self.counter.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = counter.take() {
            self.with_standing("set the guest's clock", |vcpu| arch::set_counter(vcpu, value))?;
        }
        self.shared.gate.open();
        // On a host with one CPU to spare, the guest goes before those who serve it.
        std::thread::yield_now();
        if let Some((devices, drained)) = self.take_unserved() {
            self.devices.serve(devices, drained).map_err(Error::Host)?;
        }
        Ok(())
    }

    fn holds_back(&self) -> bool {
        true
    }

    fn answer(&self) {
        self.devices.until_confined();
        self.shared.confine.store(true, Ordering::SeqCst);
        for (index, thread) in self.shared.confined.iter().enumerate() {
            if thread.get().is_none() {
                self.shared.gate.kick(index);
            }
            thread.wait();
        }
        // Unless the machine has ended.
        let _ = self.shared.answered.set(true);
    }

    fn pause(&self) -> Result<(), super::Error> {
        let mut counter = self.counter.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.gate.pause();
        if counter.is_none() {
            *counter = Some(self.with_standing("read the guest's clock", arch::counter)?);
        }
        Ok(())
    }

    fn quit(&self) {
        // A vCPU whose exit has no answer yet would never stand. It gets none.
        let _ = self.shared.answered.set(false);
        self.take_unserved();
        self.shared.gate.end();
        self.shared.gate.join();
        self.devices.finish();
    }

    fn memory(&self) -> Arc<dyn LiveRam> {
        Arc::clone(&self.ram)
    }

    fn registers(&self) -> Result<Vec<CpuRegisters>, super::Error> {
        let read = |vcpu: &Vcpu| {
            let vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
            arch::registers(&vcpu).map_err(failed("read the registers of a CPU"))
        };
        Ok(self.vcpus.iter().map(read).collect::<Result<_, _>>()?)
    }

    fn metrics(&self) -> Vec<Family> {
        metrics::of(self)
    }

    fn threads(&self) -> Vec<i64> {
        self.shared.threads.known()
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn console_is_open(&self) -> bool {
        self.console_open.load(Ordering::Acquire)
    }
}

impl Drop for Kvm {
    fn drop(&mut self) {
        self.quit();
    }
}

#[cfg(test)]
mod tests;
