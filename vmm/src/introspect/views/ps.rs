//! `belljar ps`: every process, as the kernel's own structures say.

use serde::Serialize;

use super::super::{Kernel, Result};
use super::process;
use crate::render::{Column, Consistency, Kind, Schema, Shape};

pub(super) static SCHEMA: Schema = Schema {
    name: "belljar.ps.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("pid", "PID", Kind::Int),
        Column::new("ppid", "PPID", Kind::Int),
        Column::new("pgid", "PGID", Kind::Int),
        Column::new("sid", "SID", Kind::Int),
        Column::new("state", "S", Kind::Text),
        Column::new("policy", "POL", Kind::Text),
        Column::new("prio", "PRI", Kind::Int),
        Column::new("nice", "NI", Kind::Int),
        Column::new("threads", "NLWP", Kind::Int),
        Column::new("vsz", "VSZ", Kind::KiB),
        Column::new("rss", "RSS", Kind::KiB),
        Column::new("time_ns", "TIME", Kind::CpuTime),
        Column::new("wchan", "WCHAN", Kind::Text),
        Column::new("comm", "COMMAND", Kind::Text),
    ],
};

/// One process.
#[derive(Serialize)]
pub(super) struct Process {
    pub(super) pid: u64,
    pub(super) ppid: Option<u64>,
    pgid: u64,
    sid: u64,
    pub(super) state: char,
    policy: String,
    prio: i64,
    nice: i64,
    threads: usize,
    /// Bytes of virtual memory; 0 without an address space, as ps(1) has it.
    vsz: u64,
    /// Bytes of memory.
    rss: u64,
    time_ns: u64,
    wchan: Option<String>,
    pub(super) comm: String,
}

pub(super) fn rows(kernel: &Kernel<'_>) -> Result<Vec<Process>> {
    let mut rows = vec![];
    for leader in kernel.processes()? {
        let process = process::Process::new(leader);
        match row(kernel, &process) {
            // Task 0, the idle task, is no process to anybody else either.
            Ok(Some(row)) => rows.push(row),
            Ok(None) => {}
            // An older kernel may lack a field that the view cannot do without: say which.
            Err(e) if e.is_absent() => return Err(e),
            Err(_) => kernel.degrade(Consistency::Torn),
        }
    }
    rows.sort_by_key(|r| r.pid);
    Ok(rows)
}

/// The processes of the namespace with that inode. A pid namespace calls them by its own numbers, and
/// those of the namespaces in it are seen there too.
pub(super) fn rows_in(kernel: &Kernel<'_>, inode: u32) -> Result<Vec<Process>> {
    let (ns, numbers) = super::ns::find(kernel, inode)?;
    let mut rows = vec![];
    for leader in kernel.processes()? {
        let process = process::Process::new(leader);
        let shown = if numbers {
            process.numbers_in(ns).and_then(|seen| match (seen, row(kernel, &process)?) {
                (Some([pid, ppid, pgid, sid]), Some(row)) => {
                    Ok(Some(Process { pid, ppid: Some(ppid), pgid, sid, ..row }))
                }
                _ => Ok(None),
            })
        } else if super::ns::is_member(&process, ns)? {
            row(kernel, &process)
        } else {
            Ok(None)
        };
        match shown {
            Ok(row) => rows.extend(row),
            Err(e) if e.is_absent() => return Err(e),
            Err(_) => kernel.degrade(Consistency::Torn),
        }
    }
    rows.sort_by_key(|r| r.pid);
    Ok(rows)
}

fn row(kernel: &Kernel<'_>, process: &process::Process<'_>) -> Result<Option<Process>> {
    let pid = process.pid()?;
    if pid == 0 {
        return Ok(None);
    }
    let (pgid, sid) = process.pgid_sid()?;
    let (vsz, rss) = match process.mm()? {
        Some(mm) => {
            kernel.check_seq_of(&mm, "seq")?;
            super::maps::sizes(&mm)?
        }
        None => (0, 0),
    };
    Ok(Some(Process {
        pid,
        ppid: process.ppid()?,
        pgid,
        sid,
        state: process.state()?,
        policy: process.policy()?,
        prio: process.prio()?,
        nice: process.nice()?,
        threads: process.threads()?.len(),
        vsz,
        rss,
        time_ns: process.process_runtime()?,
        wchan: process.wchan()?,
        comm: process.comm()?,
    }))
}
