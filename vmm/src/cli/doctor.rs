//! `belljar doctor`

use std::process::ExitCode;

use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::Error;
use crate::backend::{self, Kind};
use crate::image::Home;
use crate::render::{self, Column, Consistency, Envelope, Schema, Shape};
use crate::runtime::{FAILURE, folder};
use crate::sandbox;

/// Check what this host has for running VMs, and say how to mend what is missing
///
/// The exit status is 0 if a VM can run: with at least one backend, a kernel, and a runtime folder.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

static SCHEMA: Schema = Schema {
    name: "belljar.doctor.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("check", "CHECK", render::Kind::Text),
        Column::new("state", "STATE", render::Kind::Text),
        Column::new("detail", "DETAIL", render::Kind::Text),
    ],
};

#[derive(Serialize)]
struct Row {
    check: &'static str,
    state: &'static str,
    detail: String,
}

/// A finding: what is there, or what is missing and how to mend it.
fn row(check: &'static str, found: Result<String, String>) -> Row {
    let state = if found.is_ok() { "ok" } else { "missing" };
    Row { check, state, detail: found.unwrap_or_else(|missing| missing) }
}

pub(super) fn run(_args: &Args, format: render::Format) -> Result<ExitCode, Error> {
    let backends =
        [Kind::Kvm, Kind::Qemu].map(|kind| backend::check(kind).map_err(|e| e.to_string()));
    let runs = backends.iter().any(Result::is_ok);
    let [kvm, qemu] = backends;
    let kernel = Home::find().and_then(|home| home.kernel());
    let kernel = kernel.map(|path| path.display().to_string()).map_err(|e| e.to_string());
    let running = folder::running().map_err(|e| e.to_string());
    let running =
        running.map(|names| format!("{}, {} running", folder::root_path().display(), names.len()));
    let usable = runs && kernel.is_ok() && running.is_ok();
    let rows = [
        row("kvm", kvm),
        row("qemu", qemu),
        row("kernel", kernel),
        row("runtime folder", running),
        row("sandbox", sandbox::check().map(|()| "seccomp".to_owned()).map_err(|e| e.to_string())),
        row("locked memory", Ok(locked_memory())),
    ];
    let target = std::env::consts::ARCH.to_owned();
    let envelope = Envelope::new(&SCHEMA, target, Consistency::Quiesced, rows);
    super::print(&SCHEMA, &envelope, format)?;
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

/// How much a process may lock; guest memory is not locked, so nothing depends on it.
fn locked_memory() -> String {
    match getrlimit(Resource::Memlock).current {
        Some(bytes) => format!("up to {} KiB (ulimit -l)", bytes >> 10),
        None => "without limit".to_owned(),
    }
}
