//! A running VM as its API sees it: what it is, how it does, and the few things one can do to it.
//!
//! One lock orders everything that stops or starts the CPUs, so a view that pauses the guest to read
//! it never lets a guest run that the user has paused.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::info;

use super::console::Tail;
use super::control::Control;
use super::outcome::Outcome;
use super::supervise::Message;
use crate::backend::{self, CpuRegisters, Machine};
use crate::introspect::Kernel;
use crate::metrics::{self, Family};
use crate::render::Consistency;
use crate::snapshot;
use crate::target::{LiveRam, Ram};
use crate::{checkpoint, dump};

/// What a VM is; fixed from its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub image: String,
    /// The process that keeps it.
    pub pid: u32,
    /// The process that runs its CPUs, if that is another one.
    pub backend_pid: Option<u32>,
    /// The backend.
    pub backend: String,
    /// Why that backend.
    pub backend_reason: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// RAM in bytes.
    pub memory: u64,
    /// The CPU model.
    #[serde(default)]
    pub cpu: String,
    /// Its disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<snapshot::Disk>,
    /// What its network cards are connected to.
    #[serde(default)]
    pub networks: Vec<String>,
    /// The guest takes its console for a stream of bytes, no terminal.
    #[serde(default)]
    pub raw_console: bool,
    /// When it was started, in seconds since 1970.
    pub started: u64,
}

/// How a VM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its CPUs run.
    Running,
    /// The user paused it.
    Paused,
    /// It has ended; its process is about to.
    Ended,
}

/// Why something could not be done to a VM.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has ended meanwhile.
    #[error("VM {0} has just ended")]
    Ended(String),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// No core could be written.
    #[error(transparent)]
    Dump(#[from] dump::Error),
    /// No core of a process could be made.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// Its kernel does not speak over the control port.
    #[error(
        "VM {0} cannot be frozen: its kernel does not answer on the control port: is it Bell Jar's own, and running?"
    )]
    NotListening(String),
    /// Its kernel is not there to be asked.
    #[error(
        "the kernel of VM {0} does not answer on the control port: is it Bell Jar's own, and running?"
    )]
    Silent(String),
    /// It is paused.
    #[error("VM {0} is paused, so its kernel cannot be asked: unpause it first")]
    Paused(String),
    /// A process did not come to rest.
    #[error("process {pid} cannot be taken out: {why}")]
    Hold {
        /// The process.
        pid: u32,
        /// What the kernel said.
        why: String,
    },
    /// The guest's kernel refused cores.
    #[error("the guest cannot resume: {0}")]
    Resume(String),
    /// Its kernel did not freeze.
    #[error("the guest cannot be frozen: {0}")]
    Freeze(String),
    /// The snapshot could not be written.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
}

/// A VM, shared by the supervisor and the API.
pub struct Vm {
    info: Info,
    machine: Box<dyn Machine>,
    state: Mutex<State>,
    tail: Arc<Tail>,
    outcome: Mutex<Option<Outcome>>,
    ended: Condvar,
    supervisor: Sender<Message>,
    callers: AtomicUsize,
    control: Arc<Control>,
    overdue: Mutex<Option<u32>>,
}

/// Somebody whom the API is answering.
#[derive(Debug)]
pub struct Caller<'a>(&'a AtomicUsize);

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Vm {
    pub(super) fn new(
        info: Info,
        machine: Box<dyn Machine>,
        tail: Arc<Tail>,
        supervisor: Sender<Message>,
        control: Arc<Control>,
    ) -> Self {
        Self {
            info,
            machine,
            state: Mutex::new(State::Running),
            tail,
            outcome: Mutex::new(None),
            ended: Condvar::new(),
            supervisor,
            callers: AtomicUsize::new(0),
            control,
            overdue: Mutex::new(None),
        }
    }

    /// What it is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// How it does.
    pub fn state(&self) -> State {
        *self.state.lock().unwrap()
    }

    /// The last of what the guest printed.
    pub fn console_tail(&self) -> Vec<u8> {
        self.tail.bytes()
    }

    /// Stops the CPUs until [`Vm::unpause`].
    pub fn pause(&self) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap();
        match *state {
            State::Ended => return Err(self.has_ended()),
            State::Paused => {}
            State::Running => {
                self.machine.pause()?;
                info!("paused");
            }
        }
        *state = State::Paused;
        Ok(())
    }

    /// Lets the CPUs run again.
    pub fn unpause(&self) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap();
        match *state {
            State::Ended => return Err(self.has_ended()),
            State::Running => {}
            State::Paused => {
                self.machine.resume()?;
                info!("runs on");
            }
        }
        *state = State::Running;
        Ok(())
    }

    /// Asks the supervisor to end the VM.
    pub fn kill(&self) {
        self.order(Message::Kill);
    }

    /// Does `act` while the CPUs stand still.
    pub(super) fn while_paused<T>(&self, act: impl FnOnce() -> T) -> Result<T, Error> {
        let mut act = Some(act);
        self.look(|_| (act.take().map(|act| act()), true))
            .map(|done| done.expect("look calls once if it is told that all is in order"))
    }

    /// The guest's RAM, for what never changes in it.
    pub fn memory(&self) -> Arc<dyn LiveRam> {
        self.machine.memory()
    }

    /// Reads the guest while its CPUs stand still. `look` says whether what it saw was in order; if
    /// not (it met a change half done) and the VM was running, the guest runs on for a moment and
    /// `look` tries again, a few times.
    pub fn look<T>(&self, mut look: impl FnMut(&dyn Ram) -> (T, bool)) -> Result<T, Error> {
        let memory = self.machine.memory();
        self.look_at_machine(|_| look(&*memory))
    }

    /// The same, for who looks at more than memory.
    pub fn look_at_machine<T>(
        &self,
        mut look: impl FnMut(&dyn Machine) -> (T, bool),
    ) -> Result<T, Error> {
        const TRIES: u32 = 20;
        /// Long enough to finish a change, short enough not to be noticed; it grows up to the longest, as on
        /// a busy host the guest may not have run at all.
        const MOMENT: Duration = Duration::from_millis(1);
        const LONGEST: Duration = Duration::from_millis(64);
        let state = self.state.lock().unwrap();
        let running = match *state {
            State::Ended => return Err(self.has_ended()),
            State::Running => true,
            State::Paused => false,
        };
        let mut tries = TRIES;
        let mut moment = MOMENT;
        loop {
            if running {
                self.machine.pause()?;
            }
            let (seen, in_order) = look(&*self.machine);
            if running {
                self.machine.resume()?;
            }
            tries -= 1;
            if in_order || !running || tries == 0 {
                return Ok(seen);
            }
            std::thread::sleep(moment);
            moment = LONGEST.min(moment * 2);
        }
    }

    /// The registers of the CPUs at this moment, in their order; `None` if the machine stands still, or
    /// somebody is at work on it.
    pub(super) fn glance(&self) -> Option<Vec<CpuRegisters>> {
        let state = self.state.try_lock().ok()?;
        if *state != State::Running {
            return None;
        }
        self.machine.pause().ok()?;
        let registers = self.machine.registers();
        // A machine that cannot go on says so itself.
        let _ = self.machine.resume();
        registers.ok()
    }

    /// What each CPU has had of the host's time, as far as that is known.
    pub(super) fn cpu_times(&self) -> Vec<Duration> {
        let pid = self.info.backend_pid.unwrap_or(self.info.pid);
        let threads = self.machine.threads().into_iter();
        threads.map_while(|thread| metrics::cpu_time(pid, thread)).collect()
    }

    /// Writes memory and registers as an ELF core to `path`. The CPUs stand still meanwhile.
    pub fn dump(&self, path: &Path) -> Result<(), Error> {
        self.look_at_machine(|machine| (write_dump(machine, path), true))?
    }

    /// The same for a machine that has switched itself off: there is nothing to stop, and nothing goes on.
    pub(super) fn dump_ended(&self, path: &Path) -> Result<(), Error> {
        write_dump(&*self.machine, path)
    }

    /// Writes the process `pid` as an ELF core to `path`. The CPUs stand still meanwhile.
    pub fn gcore(&self, pid: u32, path: &Path) -> Result<(), Error> {
        self.take_out(|kernel, cpus| checkpoint::gcore(kernel, cpus, pid, path))
    }

    pub(super) fn take_out(
        &self,
        act: impl Fn(&Kernel<'_>, &[CpuRegisters]) -> checkpoint::Result<()>,
    ) -> Result<(), Error> {
        self.look_at_machine(|machine| {
            let memory = machine.memory();
            let done = Kernel::open(&*memory, true)
                .map_err(checkpoint::Error::from)
                .map_err(Error::from)
                .and_then(|kernel| {
                    let cpus = machine.registers()?;
                    act(&kernel, &cpus)?;
                    Ok(kernel.consistency() == Consistency::Quiesced)
                });
            let in_order = done.as_ref().is_ok_and(|quiesced| *quiesced);
            (done.map(drop), in_order)
        })?
    }

    /// What is counted, as text for Prometheus.
    pub fn metrics(&self) -> String {
        let Info { name, image, backend, cpu, .. } = &self.info;
        let labels = [("name", &**name), ("image", image), ("backend", backend), ("cpu", cpu)];
        let gauge = |name, help| Family::new(name, metrics::Kind::Gauge, help);
        let running = f64::from(u8::from(self.state() == State::Running));
        let mut processes = vec![("vmm", self.info.pid)];
        processes.extend(self.info.backend_pid.map(|pid| ("backend", pid)));
        let mut families = vec![
            gauge("belljar_vm_info", "What the VM is").with(&labels, 1.0),
            gauge("belljar_vm_running", "1 while its CPUs run, 0 while it is paused")
                .with(&[], running),
            gauge("belljar_vm_start_time_seconds", "When it was started, in seconds since 1970")
                .with(&[], self.info.started as f64),
            gauge("belljar_vm_cpus", "CPUs of the guest").with(&[], self.info.cpus.into()),
            gauge("belljar_vm_memory_bytes", "RAM of the guest").with(&[], self.info.memory as f64),
            metrics::of_process(&processes),
            metrics::of_vcpus(&self.cpu_times()),
        ];
        families.extend(self.machine.metrics());
        metrics::render(&families)
    }

    /// Waits for the end, at most `patience`.
    pub fn wait(&self, patience: Option<Duration>) -> Option<Outcome> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut outcome = self.outcome.lock().unwrap();
        while outcome.is_none() {
            outcome = match deadline {
                None => self.ended.wait(outcome).unwrap(),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    self.ended.wait_timeout(outcome, left).unwrap().0
                }
            };
        }
        outcome.clone()
    }

    /// Ends the machine for good and tells everybody who waits.
    pub(super) fn end(&self, outcome: Outcome) {
        // Whoever pauses it at this moment gets an error from the machine, not a wait.
        self.machine.quit();
        *self.state.lock().unwrap() = State::Ended;
        *self.outcome.lock().unwrap() = Some(outcome);
        self.ended.notify_all();
    }

    /// Counts a caller of the API until the guard is dropped.
    pub fn caller(&self) -> Caller<'_> {
        self.callers.fetch_add(1, Ordering::SeqCst);
        Caller(&self.callers)
    }

    /// Gives callers that wait for the end a moment to get their answers.
    pub(super) fn wait_for_callers(&self) {
        const PATIENCE: Duration = Duration::from_millis(300);
        let start = Instant::now();
        while self.callers.load(Ordering::SeqCst) > 0 && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Orders everything that stops or starts the CPUs.
    pub(super) fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The control port.
    pub(super) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// The request to freeze that was given up before the guest had come to rest.
    pub(super) fn overdue(&self) -> MutexGuard<'_, Option<u32>> {
        self.overdue.lock().unwrap()
    }

    /// Whether the VM is about to end.
    pub(super) fn outcome_is_known(&self) -> bool {
        self.outcome.lock().unwrap().is_some()
    }

    /// Tells the supervisor something.
    pub(super) fn order(&self, order: Message) {
        // A supervisor that does not listen any more is ending the VM already.
        let _ = self.supervisor.send(order);
    }

    pub(super) fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    pub(super) fn has_ended(&self) -> Error {
        Error::Ended(self.info.name.clone())
    }
}

fn write_dump(machine: &dyn Machine, path: &Path) -> Result<(), Error> {
    let registers = machine.registers()?;
    Ok(dump::dump(&*machine.memory(), &registers, path)?)
}
