//! The views: one file each, from a kernel to rows.
//!
//! A view walks structures by name, says what it could not read by leaving the cell empty, and never
//! fails for the sake of one damaged process: it keeps what it has and the answer says `torn`.

mod bt;
mod fds;
mod frames;
mod log;
mod maps;
mod ns;
mod process;
mod ps;
mod pstree;
mod runq;
mod stack;
mod task;
mod vtop;

pub use fds::socket_kind;
pub use frames::{Frame, Frames};
pub use log::text as log_text;
pub use process::Process;

use serde::{Deserialize, Serialize};

use super::Kernel;
use super::error::Result;
use super::symbols::SourceMap;
use crate::render::{Consistency, Envelope, Row, Schema};

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "view", rename_all = "lowercase")]
pub enum Request {
    /// Every process.
    Ps,
    /// Every process, as a tree by parent.
    Pstree,
    /// The fields of one task.
    Task {
        /// Its number in the initial namespace.
        pid: u32,
    },
    /// The mappings of one process.
    Maps {
        /// Its number in the initial namespace.
        pid: u32,
    },
    /// The open files of one process.
    Fds {
        /// Its number in the initial namespace.
        pid: u32,
    },
    /// The stage-1 walk of one address.
    Vtop {
        /// The process in whose address space.
        pid: u32,
        /// The virtual address.
        addr: u64,
    },
    /// The run queues.
    Runq,
    /// The kernel stack of one task.
    Bt {
        /// Its number in the initial namespace.
        pid: u32,
    },
    /// The kernel log.
    Log,
    /// Every namespace.
    Ns,
    /// Every namespace, as a tree.
    #[serde(rename = "nstree")]
    NsTree,
    /// The processes of one namespace, with the numbers that they have there.
    #[serde(rename = "psns")]
    PsNs {
        /// The inode of its file in /proc/PID/ns.
        ns: u32,
    },
}

impl Request {
    /// The schema of the answer.
    pub fn schema(&self) -> &'static Schema {
        match self {
            Self::Ps => &ps::SCHEMA,
            Self::Pstree => &pstree::SCHEMA,
            Self::Task { .. } => &task::SCHEMA,
            Self::Maps { .. } => &maps::SCHEMA,
            Self::Fds { .. } => &fds::SCHEMA,
            Self::Vtop { .. } => &vtop::SCHEMA,
            Self::Runq => &runq::SCHEMA,
            Self::Bt { .. } => &bt::SCHEMA,
            Self::Log => &log::SCHEMA,
            Self::Ns => &ns::SCHEMA,
            Self::NsTree => &ns::TREE_SCHEMA,
            Self::PsNs { .. } => &ps::SCHEMA,
        }
    }
}

static SCHEMAS: [&Schema; 11] = [
    &ps::SCHEMA,
    &pstree::SCHEMA,
    &task::SCHEMA,
    &maps::SCHEMA,
    &fds::SCHEMA,
    &vtop::SCHEMA,
    &runq::SCHEMA,
    &bt::SCHEMA,
    &log::SCHEMA,
    &ns::SCHEMA,
    &ns::TREE_SCHEMA,
];

/// The schemas of all views.
pub fn schemas() -> &'static [&'static Schema] {
    &SCHEMAS
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The columns.
    pub schema: &'static Schema,
    /// How far the rows belong together. Unless it is `Quiesced`, whoever paused the guest may let it
    /// run on for a moment and ask again.
    pub consistency: Consistency,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Answer {
    /// The answer as it is sent and printed.
    pub fn envelope(self, target: impl Into<String>) -> Envelope {
        Envelope {
            schema: self.schema.name.to_owned(),
            target: target.into(),
            consistency: self.consistency,
            rows: self.rows,
        }
    }
}

/// Makes a view. `source` adds source lines where the kernel's ELF is at hand.
pub fn view(kernel: &Kernel<'_>, request: &Request, source: Option<&SourceMap>) -> Result<Answer> {
    let rows = match *request {
        Request::Ps => rows(ps::rows(kernel)?),
        Request::Pstree => rows(pstree::rows(kernel)?),
        Request::Task { pid } => rows(task::rows(kernel, pid)?),
        Request::Maps { pid } => rows(maps::rows(kernel, pid)?),
        Request::Fds { pid } => rows(fds::rows(kernel, pid)?),
        Request::Vtop { pid, addr } => rows(vtop::rows(kernel, pid, addr)?),
        Request::Runq => rows(runq::rows(kernel)?),
        Request::Bt { pid } => rows(bt::rows(kernel, pid, source)?),
        Request::Log => rows(log::rows(kernel)?),
        Request::Ns => rows(ns::rows(kernel)?),
        Request::NsTree => rows(ns::tree(kernel)?),
        Request::PsNs { ns } => rows(ps::rows_in(kernel, ns)?),
    };
    Ok(Answer { schema: request.schema(), consistency: kernel.consistency(), rows })
}

fn rows<R: Serialize>(rows: Vec<R>) -> Vec<Row> {
    // The schema is only for the message of a row type that is no object.
    Envelope::new(&ps::SCHEMA, "", Consistency::Quiesced, rows).rows
}

/// An address as JSON: text, since a number above 2^53 loses bits in most readers.
fn hex(value: u64) -> String {
    format!("{value:#x}")
}
