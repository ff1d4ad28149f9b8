//! Freezing a running guest and saving it: the one operation behind `snapshot` and `clone`, and behind a
//! program's write to /proc/belljar/snapshot.

use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use belljar_abi::control::Message;
use belljar_abi::hwcap;
use belljar_abi::root::RootPage;
use serde::{Deserialize, Serialize};

use super::control::{Control, Handlers};
use super::supervise::Message as Order;
use super::terminal;
use super::vm::{Error, State, Vm};
use crate::introspect::Root;
use crate::sandbox::{self, Role};
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
/// How long a kernel may take to come to rest: block requests under way have to end.
const FREEZE_PATIENCE: Duration = Duration::from_secs(30);

impl Vm {
    /// Saves the VM as the snapshot folder `dir`. A paused VM runs for the moment that its kernel needs to come
    /// to rest, and is paused again afterwards. `sequence` is that of the guest's own request, if it
    /// asked itself.
    pub fn snapshot(
        &self,
        dir: &Path,
        afterwards: Afterwards,
        sequence: Option<u32>,
    ) -> Result<Taken, Error> {
        let save = Save::begin(dir)?;
        let copied = {
            let state = self.lock_state();
            let was = *state;
            if was == State::Ended {
                return Err(self.has_ended());
            }
            let frozen = self.freeze(was, sequence)?;
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
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Ok(Taken {
            ram: saved.ram,
            stored: saved.stored,
            stood_still_us: micros(stood_still),
            copy_us: micros(copy),
        })
    }

    /// Lets the kernel freeze and stops the CPUs then.
    fn freeze(&self, was: State, sequence: Option<u32>) -> Result<Frozen, Error> {
        let ram = self.memory();
        if was == State::Paused {
            self.machine().resume()?;
        }
        let frozen = self.freeze_running(&*ram, sequence);
        match frozen {
            Ok((root, since)) => {
                self.machine().pause()?;
                Ok(Frozen { root, ram, since })
            }
            Err(error) => {
                if was == State::Paused {
                    self.machine().pause()?;
                }
                Err(error)
            }
        }
    }

    fn freeze_running(
        &self,
        ram: &dyn LiveRam,
        sequence: Option<u32>,
    ) -> Result<(Root, Instant), Error> {
        let control = self.control();
        if !control.wait_until_it_listens(BOOT_PATIENCE) {
            return Err(Error::NotListening(self.info().name.clone()));
        }
        let sent = match sequence {
            Some(sequence) => control.answer(sequence, &Message::Freeze).map(|()| sequence),
            None => control.send(&Message::Freeze),
        };
        let sequence = sent.map_err(|_| self.has_ended())?;
        let since = Instant::now();
        loop {
            let root = Root::find(ram).map_err(|e| Error::Freeze(e.to_string()))?;
            if root.frozen() == 1 {
                return Ok((root, since));
            }
            if let Some(why) = control.refusal(sequence) {
                return Err(Error::Freeze(why));
            }
            if self.outcome_is_known() {
                return Err(self.has_ended());
            }
            if since.elapsed() > FREEZE_PATIENCE {
                return Err(Error::Freeze("it did not come to rest".to_owned()));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Lets the frozen kernel go on as the original once its CPUs run.
    fn release(&self, frozen: &Frozen) -> Result<(), Error> {
        let word = frozen.root.phys() + offset_of!(RootPage, release) as u64;
        frozen.ram.write(word, &1_u32.to_le_bytes()).map_err(|e| Error::Freeze(e.to_string()))
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
            cpu: Cpu {
                model: info.cpu.clone(),
                features: hwcap::names(root.hwcap()).map(str::to_owned).collect(),
            },
            thaw: Some(Thaw {
                entry: root.thaw_entry(),
                counter_frequency: root.counter_frequency(),
                generation: root.generation(),
                raw_console: info.raw_console,
            }),
        }
    }
}

/// What is done when the guest speaks of its own accord. `vm` is known once it runs; `snapshots` is where
/// the guest may save itself.
pub(super) fn handlers(vm: Arc<OnceLock<Weak<Vm>>>, snapshots: Option<PathBuf>) -> Handlers {
    let folder = snapshots.clone();
    let wanted = move |control: &Arc<Control>, sequence: u32, name: &str| {
        let refuse = |why: &str| {
            // A guest that is gone does not want to know.
            let _ = control.answer(sequence, &Message::SnapshotRefused(why));
        };
        let Some(folder) = &snapshots else {
            return refuse("this VM was started without --snapshots");
        };
        let Some(dir) = folder_of(folder, name) else {
            return refuse("that is no name: use up to 64 letters, digits, and -_. inside");
        };
        let Some(vm) = vm.get().and_then(Weak::upgrade) else {
            return refuse("it is about to end");
        };
        let thread_control = Arc::clone(control);
        // This thread has to go on reading: the kernel may refuse to freeze.
        let spawned = std::thread::Builder::new().name("snapshot".into()).spawn(move || {
            if let Err(error) = vm.snapshot(&dir, Afterwards::Run, Some(sequence)) {
                let why = error.to_string();
                let _ = thread_control.answer(sequence, &Message::SnapshotRefused(&why));
            }
        });
        if let Err(error) = spawned {
            refuse(&error.to_string());
        }
    };
    let confine = move || {
        // Beside its frames it asks the terminal for its size, and its threads write snapshots.
        sandbox::enter(Role::Supervisor);
        sandbox::only_files(&[], folder.as_deref().as_slice());
    };
    Handlers {
        confine: Box::new(confine),
        hello: Box::new(send_window_size),
        wanted: Box::new(wanted),
    }
}

/// Tells the guest how large our terminal is, if there is one: it may be another one than at its boot.
pub(super) fn send_window_size(control: &Control) {
    if let Some((rows, columns)) = terminal::size() {
        let size = Message::WindowSize { rows, columns, x_pixels: 0, y_pixels: 0 };
        let _ = control.send(&size);
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
    since: Instant,
}
