//! Processes as ELF cores: taken out of a machine, running or stored, without its help.
//!
//! A core holds what every debugger knows (registers of each thread, memory, mapped files, the auxiliary
//! vector) and, in notes of our own, what resuming needs besides ([`belljar_abi::corenote`]). Everything is read
//! from guest memory by name; registers of a thread that is on a CPU at that moment come from the
//! CPU.
//!
//! - `registers`: where the registers of a thread are.
//! - `memory`: which pages of a process are there, as segments.
//! - `notes`: Linux's notes.
//! - `write`: the file.
//! - `state`, `timers`, `files`, `nameless`, `locks`, `sockets`, `terminals`, `watches`, `sharing`: our own notes; `content`: what files hold.
//! - `tree`: a process, or it and its descendants, as a folder of cores.
//! - `open`: such a folder, checked before it is used.

mod content;
mod files;
mod filters;
mod locks;
mod memory;
mod nameless;
mod notes;
mod open;
mod registers;
mod sharing;
mod sockets;
mod state;
mod terminals;
mod timers;
mod tree;
mod watches;
mod write;

pub use open::Checkpoint;
pub use tree::{Index, Member, checkpoint};
pub use write::{Depth, Image, gcore, image};

use crate::introspect;
use crate::target;

/// Why a process cannot become a core.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest cannot be read so.
    #[error(transparent)]
    Guest(#[from] introspect::Error),
    /// Guest memory cannot be read.
    #[error(transparent)]
    Memory(#[from] target::Error),
    /// A thread whose registers are nowhere in memory.
    #[error(
        "thread {tid} runs on CPU {cpu}, whose registers are not to be had here: take a snapshot, or try again"
    )]
    OnCpu {
        /// The thread.
        tid: u64,
        /// Where.
        cpu: u64,
    },
    /// A thread that is neither at EL0 nor asleep.
    #[error("thread {tid} is in the middle of system call {syscall}: try again")]
    InSyscall {
        /// The thread.
        tid: u64,
        /// The call's number.
        syscall: u64,
    },
    /// Something that no note can carry yet.
    #[error("process {pid} cannot be taken out: {what}")]
    Refused {
        /// The process.
        pid: u64,
        /// What it has.
        what: String,
    },
    /// A folder that cannot be written.
    #[error(transparent)]
    Folder(#[from] crate::snapshot::Error),
    /// More memory than any guest has.
    #[error("process {pid} maps more than can be: its tables are damaged")]
    TooLarge {
        /// The process.
        pid: u32,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {cause} (nothing of it was kept)", .path.display())]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// What the host said.
        cause: std::io::Error,
    },
    /// A folder that is no checkpoint, or not whole.
    #[error("{} is no checkpoint that can be resumed: {why}", .dir.display())]
    BadCheckpoint {
        /// The folder.
        dir: std::path::PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The host failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The result of making a core.
pub type Result<T> = std::result::Result<T, Error>;
