//! A whole VM as a folder: `manifest.json` says what it is, `memory.img` is its RAM.
//!
//! The memory file is sparse: the byte at offset *n* is the byte at physical address RAM base + *n*,
//! and frames that are free or all zeros are holes. The manifest names every stored frame and carries a
//! BLAKE3 of each chunk of them and of itself, so nothing of a snapshot is decoded before it was found
//! to be what was saved. The state of CPUs and devices is not here: a frozen kernel has put all of it
//! into RAM (the thaw facts say where it goes on).
//!
//! - [`Save`] writes one: [`Save::copy`] while the guest stands still, the rest while it runs on.
//! - [`Snapshot::open`] checks one and gives out its memory file, to be mapped privately or read. What is known to be
//!   the kernel that stands in a [`KernelImage`] is compared with that, the rest hashed.
//!
//! A save is written beside its folder, synced and moved into its place in one step: an interrupted one
//! leaves the former snapshot as it was.

pub mod diff;
#[cfg(any(test, feature = "synthetic"))]
#[doc(hidden)]
pub mod fuzz;
mod known;
mod manifest;
mod open;
pub(crate) mod partial;
mod save;
#[cfg(test)]
mod tests;
mod verify;

pub use known::KernelImage;
pub use manifest::{
    Board, CHUNK, Chunk, Cpu, Disk, Kernel, MAGIC, MANIFEST, MEMORY, Manifest, Memory, Source,
    TaskRow, Tasks, Thaw, VERSION,
};
pub use open::{Snapshot, Trust};
pub use save::{Copied, Facts, Save, Saved, save};
pub use verify::Verification;

use std::io;
use std::path::{Path, PathBuf};

use crate::introspect;
use crate::target;

/// Why a snapshot could not be written or is not one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder that the host does not give.
    #[error("cannot {action} {}: {cause}", .path.display())]
    Io {
        /// What was tried: "read", "write", …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// No room for what is being saved.
    #[error(
        "no space left for the snapshot {}: {needed} more bytes of memory are to be stored: free some, or save elsewhere (nothing of it was kept)",
        .dir.display()
    )]
    NoSpace {
        /// The folder that was to be.
        dir: PathBuf,
        /// Bytes of the guest's memory that were not written yet, at least.
        needed: u64,
    },
    /// Another save into the same folder runs.
    #[error("another snapshot is being saved as {} at this moment", .dir.display())]
    Busy {
        /// The folder.
        dir: PathBuf,
    },
    /// Something else stands where the snapshot shall be.
    #[error("{} is there and is no snapshot: name another folder, or remove it", .path.display())]
    InTheWay {
        /// What.
        path: PathBuf,
    },
    /// A path that no folder can have.
    #[error("{} is no name for a snapshot folder", .path.display())]
    BadName {
        /// The path.
        path: PathBuf,
    },
    /// A folder that is none.
    #[error("{} is no snapshot: it has no {MANIFEST}", .dir.display())]
    NotASnapshot {
        /// The folder.
        dir: PathBuf,
    },
    /// A manifest of somebody else.
    #[error("{} is no manifest of a Bell Jar snapshot", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A manifest of another version.
    #[error("{} has version {found}, this belljar reads up to {VERSION}: use a later belljar", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A manifest that was changed or cut.
    #[error("the manifest {} is damaged: {what}", .path.display())]
    BadManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A memory file that is no plain file.
    #[error("{} is no regular file", .path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// A memory file of another length.
    #[error("the memory file {} has {found} bytes instead of {wanted}: it is {}", .path.display(),
        if .found < .wanted { "cut short" } else { "not the one of this snapshot" })]
    Size {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length that the manifest names.
        wanted: u64,
    },
    /// Stored frames that are not what was saved.
    #[error(
        "the memory file {} is damaged: bytes {start:#x} to {end:#x} are not what was saved (BLAKE3 {found} instead of {wanted})",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the chunk.
        start: u64,
        /// Its end.
        end: u64,
        /// The hash found.
        found: String,
        /// The hash in the manifest.
        wanted: String,
    },
    /// Data where nothing was saved.
    #[error(
        "the memory file {} is damaged: there are data at {offset:#x}, where the manifest has a hole",
        .path.display()
    )]
    DataInHole {
        /// The file.
        path: PathBuf,
        /// Offset of the first byte that is not 0.
        offset: u64,
    },
    /// RAM that no snapshot can be made of.
    #[error("the guest's RAM cannot be saved: {what}")]
    Ram {
        /// Why.
        what: String,
    },
    /// A guest whose kernel cannot be made out.
    #[error(transparent)]
    Guest(#[from] introspect::Error),
    /// Guest memory that cannot be read.
    #[error(transparent)]
    Memory(#[from] target::Error),
}

impl Error {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |cause| Self::Io { action, path: path.to_owned(), cause }
    }
}

/// The result of saving or opening.
pub type Result<T> = std::result::Result<T, Error>;
