//! The API of a running VM: HTTP/1.1 and JSON over the Unix socket in its runtime folder.
//!
//! `openapi.yaml` beside this crate's manifest describes it. [`server`] runs in the VM's process,
//! [`client`] in every other command. Errors are `{"error": "one line"}` with a 4xx or 5xx status.

pub mod client;
pub mod server;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::runtime::{Info, State};

/// The answer to `GET /v1/vm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What the VM is.
    #[serde(flatten)]
    pub info: Info,
    /// How it does.
    pub state: State,
}

/// The body of `POST /v1/dump`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpTo {
    /// The file to write, an absolute path.
    pub path: PathBuf,
}

/// The body of `POST /v1/gcore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcoreTo {
    /// The process.
    pub pid: u32,
    /// The file to write, an absolute path.
    pub path: PathBuf,
}

/// The body of `POST /v1/snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// The folder to make: an absolute path.
    pub dir: PathBuf,
    /// End the VM once the snapshot is whole.
    #[serde(default)]
    pub stop: bool,
    /// How long the guest's kernel may take to come to rest, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// The body of `POST /v1/checkpoint`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointTo {
    /// The process.
    pub pid: u32,
    /// Its descendants too.
    pub tree: bool,
    /// They end once they are written.
    #[serde(default)]
    pub kill: bool,
    /// The folder to write, an absolute path.
    pub dir: PathBuf,
}

/// The body of `POST /v1/resume`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeFrom {
    /// The folder of a checkpoint, an absolute path.
    pub dir: PathBuf,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumedProcess {
    /// The number of the first process.
    pub pid: u32,
}

/// The answer to anything that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line for the user.
    pub error: String,
}
