//! The life of one VM in its process: start, one loop over everything that can happen, end.
//!
//! Threads report to the loop through one channel: the machine (it ended), the console (it closed),
//! signals, the API (kill) and the clock. The loop alone decides how the VM ended; then everything is
//! taken down in one place.

use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use belljar_abi::root::Console as GuestConsole;
use rustix::process::{Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;
use tracing::{debug, info};

use super::Error;
use super::console::{self, Console, Destination, Input, Tail};
use super::control::Control;
use super::folder::{self, Folder};
use super::freeze::{self, OwnSnapshots};
use super::guard::Guard;
use super::outcome::{self, Outcome};
use super::terminal::{self, RawMode};
use super::vm::{Info, Vm};
use super::watch;
use crate::backend::{self, Choice, Config, Event};
use crate::introspect::Root;
use crate::sandbox::{self, Role};
use crate::snapshot::{self, Verification};

/// What the loop waits for.
#[derive(Debug)]
pub(super) enum Message {
    /// The machine ended.
    Machine(Event),
    /// Everything that the guest printed was written out, or could not be.
    OutputDone(io::Result<()>),
    /// This process got a signal.
    Signal(i32),
    /// `belljar kill` or Ctrl-A x.
    Kill,
    /// It was saved and shall end.
    Stop,
}

/// What is to be run and how.
pub struct Plan {
    /// The VM's name, if the user gave one.
    pub name: Option<String>,
    /// What the name is made of otherwise.
    pub label: String,
    /// What `ls` shows that it runs.
    pub image: String,
    /// The backend.
    pub choice: Choice,
    /// The machine.
    pub config: Config,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// What the guest's console is.
    pub console: Console,
    /// Where the machine goes as a core if its kernel panics.
    pub dump_on_panic: Option<PathBuf>,
    /// The guest takes its console for a stream of bytes, no terminal.
    pub raw_console: bool,
    /// Whether and where the guest may save itself.
    pub snapshots: Option<OwnSnapshots>,
    /// The check of the memory that it goes on with, by threads of their own, which ends before anything of the guest's
    /// reaches this process or another. QEMU is forked meanwhile; that is safe, as both closures that run before its exec
    /// (`backend/qemu/process.rs`) only make system calls: none waits for a lock of theirs.
    pub unverified: Option<Verification>,
}

/// Runs a VM from start to end, with the `guard` that cleans up if this process cannot. `serve` gets the VM and its
/// socket as soon as the guest runs, and `ready` its name when both do.
///
/// Must be called on the main thread: a child that runs the machine dies with the thread that started it.
pub fn run(
    guard: Guard,
    plan: Plan,
    serve: impl FnOnce(Arc<Vm>, UnixListener) -> io::Result<()>,
    ready: impl FnOnce(&str),
) -> Result<(String, Outcome), Error> {
    let folder = Folder::claim(plan.name.as_deref(), &plan.label)?;
    let name = folder.name().to_owned();
    let result = run_guarded(&guard, plan, &folder, serve, ready);
    terminal::restore();
    drop(folder);
    drop(guard);
    Ok((name, result?))
}

fn run_guarded(
    guard: &Guard,
    mut plan: Plan,
    folder: &Folder,
    serve: impl FnOnce(Arc<Vm>, UnixListener) -> io::Result<()>,
    ready: impl FnOnce(&str),
) -> Result<Outcome, Error> {
    let (sender, messages) = channel();
    let signals = catch_signals().map_err(Error::Host)?;
    let socket = UnixListener::bind(folder.short_path().join(folder::SOCKET));
    let listener = socket.map_err(|cause| Error::folder(folder, cause))?;

    let (cpus, memory) = (plan.config.cpus, plan.config.memory);
    info!(vm = folder.name(), image = plan.image, cpus, memory, "starts");
    info!(backend = %plan.choice.kind, reason = plan.choice.why, "backend chosen");
    let cpu = plan.config.cpu.clone();
    let disks = plan.config.disks.iter().map(|disk| snapshot::Disk {
        path: disk.path.clone(),
        size: disk.size,
        read_only: disk.read_only,
    });
    let disks = disks.collect();
    let networks = plan.config.cards.iter().map(|card| card.network.to_string()).collect();
    let events = sender.clone();
    let on_event = Box::new(move |event| {
        // The loop is gone only if the process is about to end.
        let _ = events.send(Message::Machine(event));
    });
    let started = backend::start(&mut plan.choice, plan.config, on_event)?;
    info!(backend_pid = started.machine.pid(), "machine started");
    let info = Info {
        name: folder.name().to_owned(),
        image: plan.image,
        pid: std::process::id(),
        backend_pid: started.machine.pid(),
        backend: plan.choice.kind.to_string(),
        backend_reason: plan.choice.why,
        cpus,
        memory,
        cpu,
        disks,
        networks,
        raw_console: plan.raw_console,
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
    };
    let tail = Arc::new(Tail::default());
    let control = Control::new(started.control);
    let vm = Vm::new(info, started.machine, Arc::clone(&tail), sender.clone(), control);
    let vm = Arc::new(vm);

    let raw = match plan.console {
        Console::Terminal => {
            guard.terminal_changes();
            Some(RawMode::enter().map_err(Error::Host)?)
        }
        Console::Pipe | Console::Detached => None,
    };
    vm.machine().stand()?;
    info!("machine built");
    let unverified = plan.unverified;
    let check = || {
        let Some(verification) = unverified else { return Ok(()) };
        verification.finish()?;
        info!("memory checked");
        Ok::<_, Error>(())
    };
    // Nobody is served a machine whose RAM is not what it should be, and no such guest is answered: one that runs while
    // it is checked has looked at nothing but its memory, and nobody has looked into that.
    vm.machine().until_loaded()?;
    let resumed = if vm.machine().holds_back() {
        let resumed = vm.machine().resume();
        check()?;
        // From here on this thread starts others, cleans up and ends.
        sandbox::enter(Role::Supervisor);
        resumed
    } else {
        sandbox::enter(Role::Supervisor);
        check()?;
        vm.machine().resume()
    };
    if resumed.is_ok() {
        vm.machine().answer();
    }

    // The guest need not wait for what waits for it. These threads have at most what this one has.
    write_info(folder, vm.info()).map_err(|cause| Error::folder(folder, cause))?;
    report_signals(signals, sender.clone()).map_err(Error::Host)?;
    let handlers = freeze::handlers(Arc::downgrade(&vm), plan.snapshots);
    vm.control().listen(handlers).map_err(Error::Host)?;
    serve(Arc::clone(&vm), listener).map_err(Error::Host)?;
    let lines = Lines { console: started.console, serial: started.serial };
    connect_console(&vm, lines, plan.console, tail, &sender).map_err(Error::Host)?;
    watch::start(&vm).map_err(Error::Host)?;

    let mut life = Life {
        vm: &vm,
        messages: &messages,
        deadline: plan.timeout.map(|timeout| Instant::now() + timeout),
        raw,
        output_done: false,
        dump_on_panic: plan.dump_on_panic,
    };
    let outcome = match resumed {
        Ok(()) => {
            info!("guest runs");
            ready(folder.name());
            life.until_end()
        }
        Err(error) => life.death_behind(error)?,
    };
    info!(?outcome, "ends");
    vm.end(outcome.clone());
    let outcome = life.until_written(outcome);
    vm.wait_for_callers();
    Ok(outcome)
}

/// The lines that a guest's console may be.
struct Lines {
    /// Port 0 of the virtio console.
    console: UnixStream,
    /// The UART.
    serial: UnixStream,
}

impl Lines {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { console: self.console.try_clone()?, serial: self.serial.try_clone()? })
    }
}

/// Starts the threads between the guest's console and ours. A detached guest hears nothing.
fn connect_console(
    vm: &Arc<Vm>,
    lines: Lines,
    ours: Console,
    tail: Arc<Tail>,
    sender: &Sender<Message>,
) -> io::Result<()> {
    let out: Option<Box<dyn Write + Send>> = match ours {
        Console::Terminal | Console::Pipe => Some(Box::new(unbuffered_stdout()?)),
        Console::Detached => None,
    };
    let attached = out.is_some();
    let done = sender.clone();
    let Lines { console, serial } = lines.try_clone()?;
    console::pump_output([console, serial], out, tail, move |result| {
        // See above.
        let _ = done.send(Message::OutputDone(result));
    })?;
    if attached {
        let quit = sender.clone();
        let on_quit = move || {
            // See above.
            let _ = quit.send(Message::Kill);
        };
        let vm = Arc::clone(vm);
        console::pump_input(move || input_of(vm, lines, ours), on_quit)?;
    }
    Ok(())
}

/// Waits until the guest's kernel says which line its console is, and decides how input is sent. A
/// foreign kernel does not say: its console is the virtio port from when it opens that.
fn input_of(vm: Arc<Vm>, lines: Lines, ours: Console) -> (Input, Destination) {
    const MOMENT: Duration = Duration::from_millis(1);
    let ram = vm.machine().memory();
    let foreign = outcome::is_foreign(&*ram);
    let own = || Root::find(&*ram).map_or(GuestConsole::Uart, |root| root.console());
    let kind = match foreign {
        true => GuestConsole::None,
        false => loop {
            match own() {
                GuestConsole::None => thread::sleep(MOMENT),
                kind => break kind,
            }
        },
    };
    let (console, serial) = (Arc::new(lines.console), Arc::new(lines.serial));
    let raw = vm.info().raw_console;
    let destination: Destination = Box::new(move || {
        let virtio = match kind {
            GuestConsole::None => vm.machine().console_is_open(),
            kind => kind == GuestConsole::Virtio,
        };
        Arc::clone(if virtio { &console } else { &serial })
    });
    let input = match ours {
        Console::Terminal => Input::Keys,
        _ if foreign || !raw => Input::Plain,
        _ => Input::Framed,
    };
    (input, destination)
}

/// Stdout without the line buffer of the standard library: the guest's bytes pass as they come.
fn unbuffered_stdout() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

fn write_info(folder: &Folder, info: &Info) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(info)?;
    text.push(b'\n');
    std::fs::write(folder.path().join(folder::INFO), text)
}

/// The loop's view of the VM.
struct Life<'a> {
    vm: &'a Vm,
    messages: &'a Receiver<Message>,
    deadline: Option<Instant>,
    /// While the terminal is raw.
    raw: Option<RawMode>,
    output_done: bool,
    /// See [`Plan`].
    dump_on_panic: Option<PathBuf>,
}

impl Life<'_> {
    /// Waits until something ends the VM.
    fn until_end(&mut self) -> Outcome {
        loop {
            match self.next(self.deadline) {
                None => return Outcome::TimedOut,
                Some(Message::Machine(Event::Shutdown { .. })) => {
                    let outcome = Outcome::of_guest(&*self.vm.machine().memory());
                    return match (&self.dump_on_panic, outcome) {
                        (Some(path), Outcome::Panicked { message }) => {
                            let note = match self.vm.dump_ended(path) {
                                Ok(()) => format!("its core is {}", path.display()),
                                Err(e) => format!("no core was written: {e}"),
                            };
                            Outcome::Panicked { message: format!("{message} ({note})") }
                        }
                        (_, outcome) => outcome,
                    };
                }
                Some(Message::Machine(Event::Died(cause))) => return Outcome::Died { cause },
                Some(Message::Kill) => return Outcome::Killed,
                Some(Message::Stop) => return Outcome::Saved,
                Some(Message::Signal(SIGTSTP)) => self.stop_like_a_job(),
                Some(Message::Signal(SIGWINCH)) => freeze::send_window_size(self.vm.control()),
                Some(Message::Signal(signal)) => {
                    return Outcome::Interrupted { signal: signal as u8 };
                }
                Some(Message::OutputDone(result)) => {
                    self.output_done = true;
                    if let Err(cause) = result {
                        return Outcome::of_output_error(&cause);
                    }
                }
            }
        }
    }

    /// If the machine failed us because it died, how it died says more than the error.
    fn death_behind(&self, error: backend::Error) -> Result<Outcome, backend::Error> {
        const PATIENCE: Duration = Duration::from_secs(3);
        let deadline = Instant::now() + PATIENCE;
        while let Some(message) = self.next(Some(deadline)) {
            if let Message::Machine(Event::Died(cause)) = message {
                return Ok(Outcome::Died { cause });
            }
        }
        Err(error)
    }

    /// Waits until the guest's last output is written. After an orderly end that takes as long as the
    /// reader takes, unless a signal or the timeout says otherwise; and an end whose output was lost is
    /// no orderly one.
    fn until_written(&mut self, outcome: Outcome) -> Outcome {
        const PATIENCE: Duration = Duration::from_secs(1);
        let orderly = matches!(
            outcome,
            Outcome::Exited { .. }
                | Outcome::Signalled { .. }
                | Outcome::Panicked { .. }
                | Outcome::Saved
        );
        let deadline = if orderly { self.deadline } else { Some(Instant::now() + PATIENCE) };
        while !self.output_done {
            match self.next(deadline) {
                Some(Message::Signal(SIGWINCH | SIGTSTP) | Message::Machine(_)) => {}
                None if orderly => return Outcome::TimedOut,
                Some(Message::Kill) if orderly => return Outcome::Killed,
                Some(Message::Signal(signal)) if orderly => {
                    return Outcome::Interrupted { signal: signal as u8 };
                }
                None | Some(Message::Signal(_) | Message::Kill | Message::Stop) => break,
                Some(Message::OutputDone(Err(cause))) if orderly => {
                    return Outcome::of_output_error(&cause);
                }
                Some(Message::OutputDone(_)) => self.output_done = true,
            }
        }
        outcome
    }

    /// The next message, or `None` if `deadline` passes first.
    fn next(&self, deadline: Option<Instant>) -> Option<Message> {
        // The API holds a sender as long as the VM lives, so the channel never closes.
        let Some(deadline) = deadline else { return self.messages.recv().ok() };
        let left = deadline.saturating_duration_since(Instant::now());
        self.messages.recv_timeout(left).ok()
    }

    /// What Ctrl-Z means to a program that caught it: tidy up, stop, and go on when continued. The
    /// guest stands still meanwhile.
    fn stop_like_a_job(&mut self) {
        let was_raw = self.raw.take().is_some();
        let stop = || kill_process(rustix::process::getpid(), Signal::STOP);
        if self.vm.while_paused(stop).is_err() {
            return;
        }
        if was_raw {
            // If the terminal is gone, its SIGHUP says so.
            self.raw = RawMode::enter().ok();
            // Whoever had the terminal meanwhile heard of a new size, and we did not.
            freeze::send_window_size(self.vm.control());
        }
    }
}

/// Catches signals, except those that our parent had ignored (nohup(1), `&`).
fn catch_signals() -> io::Result<Signals> {
    let wanted = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH];
    Signals::new(wanted.into_iter().filter(|signal| !is_ignored(*signal)))
}

/// Starts a thread that reports what is caught.
fn report_signals(mut signals: Signals, sender: Sender<Message>) -> io::Result<()> {
    crate::thread::named("signals").spawn(move || {
        sandbox::enter(Role::Pump);
        for signal in signals.forever() {
            debug!(signal, "got a signal");
            if sender.send(Message::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Whether this process ignores `signal`.
fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the one there is, all of whose fields may be zero.
    let action = unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signal_that_is_ignored_is_left_alone() {
        // The standard library ignores it before main.
        assert!(is_ignored(libc::SIGPIPE));
        assert!(!is_ignored(libc::SIGTSTP));
    }
}
