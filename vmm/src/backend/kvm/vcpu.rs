//! One vCPU: a thread that enters the guest, answers its exits, and says why it stopped.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use kvm_ioctls::{VcpuExit, VcpuFd};
use tracing::{error, info, trace};

use super::gate::{Gate, Kickable};
use super::metrics::{Exits, Threads};
use super::{EventsOnce, arch};
use crate::backend::Event;
use crate::devices::Bus;
use crate::sandbox::{self, Role};
use crate::thread;

/// `kvm_run.system_event.type` (Linux's uapi/linux/kvm.h).
const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
const SYSTEM_EVENT_RESET: u32 = 2;
const SYSTEM_EVENT_CRASH: u32 = 3;

/// The vCPU that starts; the others wait until the guest turns them on.
pub(super) const BOOT: u32 = 0;

/// What every vCPU thread shares with the machine.
pub(super) struct Shared {
    pub gate: Gate,
    /// Set once every thread of this process is confined and the guest's memory is checked: no exit is answered before.
    /// The guest's first instructions need not wait for that. `false` if the machine ends without that.
    pub answered: OnceLock<bool>,
    /// Of each vCPU: set once its thread is confined, or has ended.
    pub confined: Vec<OnceLock<()>>,
    /// Set when all threads shall confine themselves that have not yet; those in the guest are kicked after that.
    pub confine: AtomicBool,
    pub events: EventsOnce,
    pub exits: Exits,
    pub threads: Threads,
}

/// A vCPU. Its lock is held while it runs.
pub(super) type Vcpu = Arc<Mutex<VcpuFd>>;

/// What a vCPU's thread is told while the machine is built.
enum Step {
    /// This is its vCPU: KVM has initialised it and made the interrupt controller.
    Prepare(Vcpu, Arc<Shared>),
    /// This is what the guest can reach.
    Serve(Arc<Bus>),
}

/// The thread of a vCPU that may not exist yet. It ends if this is dropped.
pub(super) struct Idle {
    thread: JoinHandle<()>,
    steps: Sender<Step>,
}

/// The thread of a vCPU that has nothing to reach yet. It ends if this is dropped.
pub(super) struct Prepared(Sender<Step>);

/// Starts the thread of vCPU `index`, which does what comes `first` and then waits for its vCPU.
pub(super) fn spawn(index: u32, first: impl FnOnce() + Send + 'static) -> io::Result<Idle> {
    let (tell, steps) = channel();
    let thread = thread::named(format!("vcpu-{index}")).spawn(move || {
        first();
        life(index, &steps);
    })?;
    Ok(Idle { thread, steps: tell })
}

impl Idle {
    /// Gives the thread its vCPU, and makes it known to the gate.
    pub(super) fn prepare(self, vcpu: &Vcpu, shared: &Arc<Shared>) -> Prepared {
        // A thread that panicked before has said so.
        let _ = self.steps.send(Step::Prepare(Arc::clone(vcpu), Arc::clone(shared)));
        shared.gate.add(self.thread);
        Prepared(self.steps)
    }
}

impl Prepared {
    /// Gives the thread what its guest can reach: from here on it stands until the gate opens. The threads alone own the
    /// bus: when they have ended, the devices go, and with them their ends of the streams.
    pub(super) fn serve(self, bus: &Arc<Bus>) {
        // See above.
        let _ = self.0.send(Step::Serve(Arc::clone(bus)));
    }
}

/// The sandbox of a vCPU's thread: [`Shared::confined`] of that vCPU. Nobody waits for a thread that has ended.
struct Confinement<'a>(&'a OnceLock<()>);

impl Confinement<'_> {
    /// Enters it, once.
    fn enter(&self) {
        self.0.get_or_init(|| sandbox::enter(Role::Vcpu));
    }
}

impl Drop for Confinement<'_> {
    fn drop(&mut self) {
        // Unless it was entered.
        let _ = self.0.set(());
    }
}

/// What the thread of vCPU `index` does from when it waits for its vCPU.
fn life(index: u32, steps: &Receiver<Step>) {
    let Ok(Step::Prepare(vcpu, shared)) = steps.recv() else { return };
    let lock = || vcpu.lock().unwrap_or_else(PoisonError::into_inner);
    let confinement = Confinement(&shared.confined[index as usize]);
    // The guest waits for its boot CPU's thread, which confines itself when it comes back from the guest.
    if index != BOOT {
        confinement.enter();
    }
    prepare(&mut lock());
    let Ok(Step::Serve(bus)) = steps.recv() else { return };
    shared.threads.enter(index);
    let immediate_exit = &raw mut lock().get_kvm_run().immediate_exit;
    // SAFETY: the page is mapped as long as the vCPU's descriptor lives, which `vcpu` keeps.
    let _kickable = unsafe { Kickable::new(immediate_exit) };
    while shared.gate.pass() {
        let end = run(index, &confinement, &mut lock(), &bus, &shared);
        shared.gate.stand();
        if let Some(event) = end {
            shared.gate.end();
            shared.events.send(event);
            return;
        }
    }
}

/// Lets KVM do what it does when a vCPU runs for the first time, which takes a while (it puts the interrupt controller
/// on its bus, and waits for the readers of that). The guest is not entered.
fn prepare(vcpu: &mut VcpuFd) {
    vcpu.set_kvm_immediate_exit(1);
    // It says EINTR. If something else is wrong, that is so when the guest shall run, too.
    let _ = vcpu.run();
    vcpu.set_kvm_immediate_exit(0);
}

/// Runs the guest until the gate closes; or until the machine has come to its end, which is returned.
fn run(
    index: u32,
    confinement: &Confinement<'_>,
    vcpu: &mut VcpuFd,
    bus: &Bus,
    shared: &Shared,
) -> Option<Event> {
    let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
    let exits = &shared.exits;
    vcpu.set_kvm_immediate_exit(0);
    // The handler of a kick writes the same byte.
    compiler_fence(Ordering::SeqCst);
    // A kick before this line found the gate closed first.
    if !shared.gate.is_open() {
        return None;
    }
    // And one for this found it set.
    if shared.confine.load(Ordering::SeqCst) {
        confinement.enter();
    }
    let cause = loop {
        let exit = vcpu.run();
        confinement.enter();
        if !matches!(&exit, Err(error) if error.errno() == libc::EINTR) && !shared.answered.wait() {
            return None;
        }
        match exit {
            Ok(VcpuExit::MmioRead(address, data)) => {
                count(&exits.mmio_read);
                bus.read(address, data);
                trace!(vcpu = index, address, ?data, "MMIO read");
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                count(&exits.mmio_write);
                trace!(vcpu = index, address, ?data, "MMIO write");
                bus.write(address, data);
            }
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, _)) => {
                count(&exits.system_event);
                info!(vcpu = index, "the guest powers off");
                return Some(Event::Shutdown { reset: false });
            }
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _)) => {
                count(&exits.system_event);
                info!(vcpu = index, "the guest asks for a reset");
                return Some(Event::Shutdown { reset: true });
            }
            Err(e) if e.errno() == libc::EINTR => {
                count(&exits.interrupted);
                trace!(vcpu = index, "kicked");
                vcpu.set_kvm_immediate_exit(0);
                if !shared.gate.is_open() {
                    return None;
                }
            }
            // A signal while KVM waited for memory, or nothing to run yet.
            Err(e) if e.errno() == libc::EAGAIN => {}
            Ok(exit) => break cause_of(&exit),
            // A data abort outside RAM without a decoded instruction (no valid ESR_EL2.ISS).
            Err(e) if e.errno() == libc::ENOSYS => {
                break "the guest touched what is no RAM with an instruction that KVM cannot decode"
                    .to_owned();
            }
            Err(e) => break format!("KVM_RUN failed: {}", io::Error::from_raw_os_error(e.errno())),
        }
    };
    count(&exits.failed);
    error!(vcpu = index, cause, "cannot go on");
    let place = arch::pc(vcpu).map_or_else(String::new, |pc| format!(" at pc {pc:#x}"));
    Some(Event::Died(format!("CPU {index} cannot go on{place}: {cause}")))
}

/// What an exit that nothing can be done about means.
fn cause_of(exit: &VcpuExit<'_>) -> String {
    match exit {
        VcpuExit::SystemEvent(SYSTEM_EVENT_CRASH, _) => "the guest reported a crash".to_owned(),
        VcpuExit::SystemEvent(kind, _) => format!("system event {kind} is not known"),
        VcpuExit::FailEntry(reason, cpu) => {
            format!("KVM could not enter the guest on host CPU {cpu} (reason {reason:#x})")
        }
        VcpuExit::InternalError => "KVM reports an internal error".to_owned(),
        VcpuExit::MemoryFault { gpa, size, .. } => {
            format!("the host cannot give the {size} bytes of memory at {gpa:#x}")
        }
        other => format!("KVM left the guest for an unknown reason ({other:?})"),
    }
}
