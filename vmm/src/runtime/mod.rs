//! Running VMs: one process each, a folder where others find it, and everything that happens between
//! start and end.
//!
//! [`supervise::run`] is the life of a VM in the process that keeps it. [`Vm`] is what its API serves.
//! [`folder`] is where every other command looks. Nothing is left behind on any way out: orderly ends
//! and errors run through destructors, SIGKILL is covered by `guard`.

mod console;
mod control;
pub mod daemon;
pub mod folder;
mod freeze;
mod guard;
mod heap;
mod outcome;
mod processes;
mod supervise;
pub mod terminal;
mod vm;
mod watch;

use std::io;
use std::path::PathBuf;

pub use console::{Console, KEYS_HELP};
pub use freeze::{Afterwards, FREEZE_PATIENCE, OwnSnapshots, Taken, Wanted};
pub use guard::Guard;
pub use heap::trim as trim_heap;
pub use outcome::{FAILURE, Outcome, TIMEOUT};
pub use processes::Then;
pub use supervise::{Plan, run};
pub use vm::{Error as VmError, Info, State, Vm};

use crate::{backend, snapshot};
use folder::Folder;

/// Why a VM could not be run or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another VM has the name.
    #[error(
        "a VM named {name} is already running: choose another --name, or end it with belljar kill {name}"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A name that cannot be a file name.
    #[error("{0:?} cannot be a VM's name: use up to 64 letters, digits, and -_. inside")]
    BadName(String),
    /// No such VM.
    #[error("no VM named {name} is running: {known}")]
    NoVm {
        /// The name.
        name: String,
        /// Which ones there are, as the end of the sentence.
        known: String,
    },
    /// The runtime folder cannot be used.
    #[error("cannot use the runtime folder {}: {cause}: set $XDG_RUNTIME_DIR to a folder of yours", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// The runtime folder belongs to somebody else or is open to others.
    #[error("the runtime folder {} is not yours alone: remove it, or set $XDG_RUNTIME_DIR", .0.display())]
    NotOurs(PathBuf),
    /// The host failed.
    #[error("cannot start the VM: {0}")]
    Host(io::Error),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The snapshot that it was to go on with is damaged.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
}

impl Error {
    fn folder(folder: &Folder, cause: io::Error) -> Self {
        Self::Folder { path: folder.path().to_owned(), cause }
    }
}
