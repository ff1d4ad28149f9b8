//! `belljar runq`: what runs on each CPU and what waits for it, in the order in which it will run.

use serde::Serialize;

use super::super::{Kernel, List, Object, Result, optional};
use super::process::Process;
use crate::render::{Column, Consistency, Kind, Schema, Shape};

pub(super) static SCHEMA: Schema = Schema {
    name: "belljar.runq.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("cpu", "CPU", Kind::Int),
        Column::new("nr_running", "NR", Kind::Int),
        Column::new("queue", "QUEUE", Kind::Text),
        Column::new("level", "LEVEL", Kind::Int),
        Column::new("pid", "PID", Kind::Int),
        Column::new("state", "S", Kind::Text),
        Column::new("policy", "POL", Kind::Text),
        Column::new("slice_ns", "SLICE", Kind::Int),
        Column::new("comm", "COMMAND", Kind::Text),
    ],
};

#[derive(Serialize)]
pub(super) struct Entry {
    cpu: u64,
    /// Runnable tasks of the CPU, the running one included.
    nr_running: u64,
    /// `running`, `rt`, `active`, `expired`.
    queue: &'static str,
    /// Level in the priority array, 0 to 139; lower runs first.
    level: i64,
    pid: u64,
    state: char,
    policy: String,
    /// What is left of the slice, in nanoseconds.
    slice_ns: Option<u64>,
    comm: String,
}

pub(super) fn rows(kernel: &Kernel<'_>) -> Result<Vec<Entry>> {
    let mut rows = vec![];
    for (cpu, rq) in (0..).zip(kernel.run_queues()?) {
        kernel.check_seq_of(&rq, "seq")?;
        // A CPU that was taken out, or never came, has nothing to run. Older kernels had one that was up.
        if optional(rq.bool("online"))? == Some(false) {
            continue;
        }
        let nr_running = rq.uint("nr_running")?;
        let entry = |entity: Object<'_>, queue| -> Result<Entry> {
            let process = Process::new(task_of(kernel, &entity)?);
            Ok(Entry {
                cpu,
                nr_running,
                queue,
                level: entity.int("prio")?,
                pid: process.pid()?,
                state: process.state()?,
                policy: process.policy()?,
                slice_ns: optional(entity.uint("time_slice"))?,
                comm: process.comm()?,
            })
        };
        let current = rq.ptr("curr")?;
        let running = current.as_ref().map(Object::addr);
        if let Some(current) = current {
            rows.push(entry(current, "running")?);
        }
        for queue in ["rt", "active", "expired"] {
            let Some(array) = optional(rq.ptr(queue))?.flatten() else { continue };
            for level in array.lists("queue")? {
                for entity in kernel.keep(level as List<'_>) {
                    if Some(entity.addr()) == running {
                        continue;
                    }
                    match entry(entity, queue) {
                        Ok(row) => rows.push(row),
                        Err(e) if e.is_absent() => return Err(e),
                        Err(_) => kernel.degrade(Consistency::Torn),
                    }
                }
            }
        }
    }
    Ok(rows)
}

/// The task whose scheduler entity this is.
fn task_of<'k>(kernel: &'k Kernel<'_>, entity: &Object<'_>) -> Result<Object<'k>> {
    let offset = Object::new(kernel, "Task", 0)?.addr_of("se")?;
    Object::new(kernel, "Task", entity.addr().wrapping_sub(offset))
}
