//! What can be wrong with a guest that is looked at.

use crate::target;

/// Why a view could not be made. The texts name the thing and, where there is one, the mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No Image header and no root page.
    #[error("no Bell Jar kernel found in the guest's memory: has it booted?")]
    NoRoot,
    /// A root page of another version.
    #[error(
        "the kernel's root page has version {found}, this belljar reads {}: use the belljar that the kernel was built with",
        belljar_abi::root::VERSION
    )]
    RootVersion {
        /// The version found.
        found: u32,
    },
    /// A layout note of another version.
    #[error(
        "the kernel's layout note has version {found}, this belljar reads {}: use the belljar that the kernel was built with",
        belljar_abi::layout::VERSION
    )]
    NoteVersion {
        /// The version found.
        found: u32,
    },
    /// The kernel has not come far enough.
    #[error("the kernel has not booted far enough: {what} is not there yet")]
    TooEarly {
        /// What is missing.
        what: &'static str,
    },
    /// The layout note contradicts itself.
    #[error("the kernel's layout note is damaged: {what}")]
    BadNote {
        /// What is wrong.
        what: String,
    },
    /// A type that the kernel does not describe.
    #[error("this kernel does not describe the type `{name}`")]
    NoType {
        /// Its name.
        name: String,
    },
    /// A field that the kernel does not describe.
    #[error("this kernel's `{owner}` has no field `{field}`")]
    NoField {
        /// The type.
        owner: String,
        /// The field.
        field: String,
    },
    /// A field of another kind than the view needs.
    #[error("`{owner}.{field}` is {found}, not {wanted}")]
    WrongKind {
        /// The type.
        owner: String,
        /// The field.
        field: String,
        /// What the note says.
        found: String,
        /// What the view needs.
        wanted: &'static str,
    },
    /// A structure that contradicts itself or has no end.
    #[error("{what} is damaged, or was read in the middle of a change")]
    Damaged {
        /// The structure.
        what: String,
    },
    /// A process that does not exist.
    #[error("no process {pid} in this guest")]
    NoProcess {
        /// The number asked for.
        pid: u32,
    },
    /// A namespace that does not exist.
    #[error("no namespace {inode} in this guest: belljar ns lists those that there are")]
    NoNamespace {
        /// The inode asked for.
        inode: u32,
    },
    /// A process without an address space.
    #[error("process {pid} is a kernel thread or a zombie: it has no address space")]
    NoMm {
        /// The number asked for.
        pid: u32,
    },
    /// Memory that cannot be read.
    #[error(transparent)]
    Memory(#[from] target::Error),
}

impl Error {
    /// True if the kernel just does not have what was asked for, as an older one may.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NoField { .. } | Self::NoType { .. })
    }
}

/// The result of looking.
pub type Result<T> = std::result::Result<T, Error>;

/// A field of an older kernel that is not there is `None`; everything else stays an error.
pub fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_absent() => Ok(None),
        Err(e) => Err(e),
    }
}
