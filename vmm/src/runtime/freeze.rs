//! Freezing a running guest and saving it: the one operation behind `snapshot` and `clone`, and behind a
//! program's write to /proc/belljar/snapshot.

use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use belljar_abi::control::Message;
use belljar_abi::hwcap;
use belljar_abi::root::RootPage;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::control::{Control, Handlers};
use super::supervise::Message as Order;
use super::terminal;
use super::vm::{Error, State, Vm};
use crate::introspect::Root;
use crate::sandbox;
use crate::snapshot::{Cpu, Facts, Save, Source, Thaw};
use crate::target::LiveRam;

/// What a snapshot cost and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Bytes of RAM.
    pub ram: u64,
    /// Bytes of the frames that are stored.
    pub stored: u64,
    /// How long the guest stood still, in microseconds.
    pub stood_still_us: u64,
    /// Of that, how long copying the frames took.
    pub copy_us: u64,
}

/// What happens to the VM afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It goes on.
    Run,
    /// It ends; if the snapshot fails it goes on.
    Stop,
}

/// How long a kernel that boots may take until it listens.
const BOOT_PATIENCE: Duration = Duration::from_secs(20);
/// How long a kernel may take to come to rest, unless the user says otherwise: block requests under way have
/// to end.
pub const FREEZE_PATIENCE: Duration = Duration::from_secs(30);

/// What is wanted of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What happens to the VM afterwards.
    pub afterwards: Afterwards,
    /// The number of the guest's own request, if it asked itself.
    pub sequence: Option<u32>,
    /// How long its kernel may take to come to rest.
    pub patience: Duration,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { afterwards: Afterwards::Run, sequence: None, patience: FREEZE_PATIENCE }
    }
}

/// That a guest may save itself, and what then.
#[derive(Clone, Debug)]
pub struct OwnSnapshots {
    /// Into folders below this one.
    pub folder: PathBuf,
    /// What happens to the VM afterwards.
    pub afterwards: Afterwards,
}

impl Vm {
    /// Saves the VM as the snapshot folder `dir`. A paused VM runs for the moment that its kernel needs to come
    /// to rest, and is paused again afterwards.
    pub fn snapshot(&self, dir: &Path, wanted: &Wanted) -> Result<Taken, Error> {
        let afterwards = wanted.afterwards;
        let save = Save::begin(dir)?;
        let copied = {
            let state = self.lock_state();
            let was = *state;
            if was == State::Ended {
                return Err(self.has_ended());
            }
            let frozen = self.freeze(was, wanted)?;
            let facts = self.facts(&frozen.root);
            let started = Instant::now();
            let copied = save.copy(&*frozen.ram, &facts);
            let copy = started.elapsed();
            let stay = afterwards == Afterwards::Stop && copied.is_ok();
            let stood_still = frozen.since.elapsed();
            if !stay {
                self.release(&frozen)?;
                if was == State::Running {
                    self.machine().resume()?;
                }
            }
            copied.map(|copied| (copied, frozen, stood_still, copy))?
        };
        let (copied, frozen, stood_still, copy) = copied;
        let saved = copied.finish();
        if afterwards == Afterwards::Stop {
            match &saved {
                Ok(_) => self.order(Order::Stop),
                Err(_) => {
                    let state = self.lock_state();
                    self.release(&frozen)?;
                    if *state == State::Running {
                        self.machine().resume()?;
                    }
                }
            }
        }
        let saved = saved?;
        info!(dir = %dir.display(), stored = saved.stored, ?stood_still, "snapshot saved");
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Ok(Taken {
            ram: saved.ram,
            stored: saved.stored,
            stood_still_us: micros(stood_still),
            copy_us: micros(copy),
        })
    }

    /// Lets the kernel freeze and stops the CPUs then.
    fn freeze(&self, was: State, wanted: &Wanted) -> Result<Frozen, Error> {
        let ram = self.memory();
        if was == State::Paused {
            self.machine().resume()?;
        }
        match self.freeze_running(&ram, wanted) {
            Ok(frozen) => {
                self.machine().pause()?;
                Ok(frozen)
            }
            Err(error) => {
                if was == State::Paused {
                    self.machine().pause()?;
                }
                Err(error)
            }
        }
    }

    fn freeze_running(&self, ram: &Arc<dyn LiveRam>, wanted: &Wanted) -> Result<Frozen, Error> {
        let control = self.control();
        let mut overdue = self.overdue();
        if let Some(former) = *overdue {
            // It would stand still for one of the two that nobody waits for.
            if !control.wait_until_done_with(former, wanted.patience) {
                return Err(Error::Freeze("it has not come to rest since the last time".into()));
            }
            *overdue = None;
        }
        if !control.wait_until_it_listens(BOOT_PATIENCE) {
            return Err(Error::NotListening(self.info().name.clone()));
        }
        let sent = match wanted.sequence {
            Some(sequence) => control.answer(sequence, &Message::Freeze).map(|()| sequence),
            None => control.send(&Message::Freeze),
        };
        let sequence = sent.map_err(|_| self.has_ended())?;
        let since = Instant::now();
        loop {
            let root = Root::find(&**ram).map_err(|e| Error::Freeze(e.to_string()))?;
            let frozen = root.frozen() == 1;
            let state = Frozen { root, ram: Arc::clone(ram), sequence, since };
            if frozen {
                return Ok(state);
            }
            if let Some(why) = control.refusal(sequence) {
                return Err(Error::Freeze(why));
            }
            if self.outcome_is_known() {
                return Err(self.has_ended());
            }
            if since.elapsed() > wanted.patience {
                // If it comes to rest later it goes on at once.
                self.release(&state)?;
                *overdue = Some(sequence);
                return Err(Error::Freeze("it did not come to rest".to_owned()));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Lets the frozen kernel go on as the original once its CPUs run.
    fn release(&self, frozen: &Frozen) -> Result<(), Error> {
        let word = frozen.root.phys() + offset_of!(RootPage, release) as u64;
        frozen
            .ram
            .write(word, &frozen.sequence.to_le_bytes())
            .map_err(|e| Error::Freeze(e.to_string()))
    }

    fn facts(&self, root: &Root) -> Facts {
        let info = self.info();
        Facts {
            source: Source {
                vm: info.name.clone(),
                image: info.image.clone(),
                backend: info.backend.clone(),
            },
            cpus: info.cpus,
            networks: info.networks.clone(),
            cpu: Cpu {
                model: info.cpu.clone(),
                features: hwcap::names(root.hwcap()).map(str::to_owned).collect(),
            },
            disks: info.disks.clone(),
            thaw: Some(Thaw {
                entry: root.thaw_entry(),
                counter_frequency: root.counter_frequency(),
                generation: root.generation(),
                raw_console: info.raw_console,
            }),
        }
    }
}

/// What is done when the guest of `vm` speaks of its own accord; `snapshots` says whether and where it may save
/// itself.
pub(super) fn handlers(vm: Weak<Vm>, snapshots: Option<OwnSnapshots>) -> Handlers {
    let folder = snapshots.as_ref().map(|own| own.folder.clone());
    let wanted = move |control: &Arc<Control>, sequence: u32, name: &str| {
        let refuse = |why: &str| {
            // A guest that is gone does not want to know.
            let _ = control.answer(sequence, &Message::SnapshotRefused(why));
        };
        let Some(OwnSnapshots { folder, afterwards }) = &snapshots else {
            return refuse("this VM was started without --snapshots");
        };
        let Some(dir) = folder_of(folder, name) else {
            return refuse("that is no name: use up to 64 letters, digits, and -_. inside");
        };
        let Some(vm) = vm.upgrade() else {
            return refuse("it is about to end");
        };
        let thread_control = Arc::clone(control);
        let wanted =
            Wanted { afterwards: *afterwards, sequence: Some(sequence), patience: FREEZE_PATIENCE };
        // This thread has to go on reading: the kernel may refuse to freeze.
        let spawned = crate::thread::named("snapshot").spawn(move || {
            // A guest that has ended meanwhile does not want to know.
            let _ = match vm.snapshot(&dir, &wanted) {
                Ok(_) => thread_control.answer(sequence, &Message::SnapshotTaken),
                Err(error) => {
                    let why = error.to_string();
                    thread_control.answer(sequence, &Message::SnapshotRefused(&why))
                }
            };
        });
        if let Err(error) = spawned {
            refuse(&error.to_string());
        }
    };
    let confine = move || {
        // Beside its frames it asks the terminal for its size, and its threads write snapshots: all that the
        // supervisor may do, which started it.
        sandbox::only_files(&[], folder.as_deref().as_slice());
    };
    Handlers {
        confine: Box::new(confine),
        hello: Box::new(send_window_size),
        wanted: Box::new(wanted),
    }
}

/// Tells the guest how large our terminal is, if there is one: it may be another one than at its boot, and
/// its window may have changed.
pub(super) fn send_window_size(control: &Control) {
    if let Some((rows, columns)) = terminal::size() {
        let size = Message::WindowSize { rows, columns, x_pixels: 0, y_pixels: 0 };
        let _ = control.offer(&size);
    }
}

/// The folder for a snapshot that the guest calls `name`.
fn folder_of(parent: &Path, name: &str) -> Option<PathBuf> {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match name {
        "" => Some(parent.join("snapshot")),
        _ if name.len() > 64 || name.starts_with('.') || !name.chars().all(inside) => None,
        _ => Some(parent.join(name)),
    }
}

/// A guest whose kernel is frozen and whose CPUs stand still.
struct Frozen {
    root: Root,
    ram: Arc<dyn LiveRam>,
    /// The request that it froze for.
    sequence: u32,
    since: Instant,
}
