//! `belljar ls`

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Error;
use crate::api::client::Client;
use crate::render::{self, Column, Consistency, Envelope, Kind, Schema, Shape};
use crate::runtime::{State, folder};

/// List the running VMs
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

static SCHEMA: Schema = Schema {
    name: "belljar.ls.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("name", "NAME", Kind::Text),
        Column::new("image", "IMAGE", Kind::Text),
        Column::new("state", "STATE", Kind::Text),
        Column::new("pid", "PID", Kind::Int),
        Column::new("backend", "BACKEND", Kind::Text),
        Column::new("cpus", "CPUS", Kind::Int),
        Column::new("memory", "MEMORY-KIB", Kind::KiB),
        Column::new("age_s", "AGE-S", Kind::Int),
    ],
};

#[derive(Serialize)]
struct Row {
    name: String,
    image: String,
    /// Unknown if the VM does not answer: its process may be stopped.
    state: Option<State>,
    pid: u32,
    backend_pid: Option<u32>,
    backend: String,
    backend_reason: String,
    cpus: u32,
    memory: u64,
    started: u64,
    age_s: u64,
}

pub(super) fn run(_args: &Args, format: render::Format) -> Result<(), Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let rows = folder::running()?.into_iter().filter_map(|name| {
        // One that ends or starts at this moment is not listed.
        let vm = Client::open(&name).ok()?;
        let (info, state) = match vm.status() {
            Ok(status) => (status.info, Some(status.state)),
            Err(_) => (vm.info()?, None),
        };
        Some(Row {
            name: info.name,
            image: info.image,
            state,
            pid: info.pid,
            backend_pid: info.backend_pid,
            backend: info.backend,
            backend_reason: info.backend_reason,
            cpus: info.cpus,
            memory: info.memory,
            started: info.started,
            age_s: now.saturating_sub(info.started),
        })
    });
    let target = folder::root_path().display().to_string();
    let envelope = Envelope::new(&SCHEMA, target, Consistency::Quiesced, rows);
    super::print(&SCHEMA, &envelope, format)
}
