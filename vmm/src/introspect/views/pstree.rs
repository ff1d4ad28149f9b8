//! `belljar pstree`: every process below its parent.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::super::{Kernel, Result};
use super::ps;
use crate::render::{Column, Consistency, Kind, Schema, Shape};

pub(super) static SCHEMA: Schema = Schema {
    name: "belljar.pstree.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("pid", "PID", Kind::Int),
        Column::new("state", "S", Kind::Text),
        Column::new("comm", "COMMAND", Kind::Tree),
    ],
};

#[derive(Serialize)]
pub(super) struct Node {
    pid: u64,
    ppid: Option<u64>,
    state: char,
    comm: String,
    depth: usize,
}

pub(super) fn rows(kernel: &Kernel<'_>) -> Result<Vec<Node>> {
    let processes = ps::rows(kernel)?;
    let total = processes.len();
    let known: HashSet<u64> = processes.iter().map(|p| p.pid).collect();
    let mut children: BTreeMap<Option<u64>, Vec<ps::Process>> = BTreeMap::new();
    for process in processes {
        // Whoever has no parent among us (init, kthreadd, children of another namespace) is a root.
        let parent = process.ppid.filter(|ppid| known.contains(ppid) && *ppid != process.pid);
        children.entry(parent).or_default().push(process);
    }
    let mut rows = vec![];
    let mut stack: Vec<(usize, ps::Process)> = vec![];
    let mut next = children.remove(&None).unwrap_or_default();
    let mut depth = 0;
    loop {
        next.sort_by_key(|p| std::cmp::Reverse(p.pid));
        stack.extend(next.into_iter().map(|p| (depth, p)));
        let Some((at, process)) = stack.pop() else { break };
        next = children.remove(&Some(process.pid)).unwrap_or_default();
        depth = at + 1;
        rows.push(Node {
            pid: process.pid,
            ppid: process.ppid,
            state: process.state,
            comm: process.comm,
            depth: at,
        });
    }
    if rows.len() < total {
        // Parents that are their own descendants: no tree.
        kernel.degrade(Consistency::Torn);
    }
    Ok(rows)
}
