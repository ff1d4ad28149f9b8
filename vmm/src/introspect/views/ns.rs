//! `belljar ns`: every namespace, whose it is and who is in it; with `--tree`, nested as pid and user
//! namespaces are.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::super::{Error, Kernel, Object, Result, optional};
use super::process::Process;
use crate::render::{Column, Consistency, Kind, Schema, Shape};

pub(super) static SCHEMA: Schema = Schema {
    name: "belljar.ns.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("inode", "NS", Kind::Int),
        Column::new("type", "TYPE", Kind::Text),
        Column::new("level", "LEVEL", Kind::Int),
        Column::new("owner", "OWNER", Kind::Int),
        Column::new("processes", "NPROCS", Kind::Int),
        Column::new("members", "MEMBERS", Kind::Text),
    ],
};

pub(super) static TREE_SCHEMA: Schema = Schema {
    name: "belljar.nstree.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("owner", "OWNER", Kind::Int),
        Column::new("processes", "NPROCS", Kind::Int),
        Column::new("name", "NAMESPACE", Kind::Tree),
        Column::new("members", "MEMBERS", Kind::Text),
    ],
};

/// The kinds that a task's `NsProxy` holds: field, and the word for the kind.
const PROXY: [(&str, &str); 6] = [
    ("uts", "uts"),
    ("ipc", "ipc"),
    ("mnt", "mnt"),
    ("net", "net"),
    ("time", "time"),
    ("cgroup", "cgroup"),
];

#[derive(Clone, Serialize)]
pub(super) struct Namespace {
    inode: u64,
    r#type: String,
    /// Nesting depth of a pid or user namespace.
    level: Option<u64>,
    /// Inode of the user namespace that owns it.
    owner: Option<u64>,
    processes: usize,
    /// Processes by their number in the initial pid namespace; in a pid namespace, by the numbers at
    /// each level from the outermost in, joined by `/`.
    members: String,
    #[serde(skip)]
    parent: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct Node {
    #[serde(flatten)]
    namespace: Namespace,
    name: String,
    depth: usize,
}

/// A namespace and its common part.
struct Found<'k> {
    kind: String,
    common: Object<'k>,
}

/// The structure that a kind's common part lies in.
fn type_of(kind: &str) -> &'static str {
    match kind {
        "user" => "UserNs",
        "pid" => "PidNs",
        "uts" => "UtsNs",
        "ipc" => "IpcNs",
        "net" => "NetNs",
        "mnt" => "MntNs",
        "time" => "TimeNs",
        _ => "CgroupNs",
    }
}

fn all<'k>(kernel: &'k Kernel<'_>) -> Result<Vec<Found<'k>>> {
    let mut found = vec![];
    for common in kernel.namespaces()? {
        match common.enum_name("kind") {
            Ok(kind) => found.push(Found { kind: kind.to_lowercase(), common }),
            Err(e) if e.is_absent() => return Err(e),
            Err(_) => kernel.degrade(Consistency::Torn),
        }
    }
    Ok(found)
}

/// The addresses of the namespaces that a process is in, each with how the process is called there.
fn memberships(process: &Process<'_>) -> Result<Vec<(u64, String)>> {
    let task = process.task();
    let number = process.pid()?.to_string();
    let mut places = vec![];
    if let Some(cred) = task.ptr("cred")?
        && let Some(user) = cred.ptr("user_ns")?
    {
        places.push((user.addr(), number.clone()));
    }
    // A process that is on its way out has left them already.
    if let Some(proxy) = task.ptr("nsproxy")? {
        for (field, _) in PROXY {
            if let Some(ns) = optional(proxy.ptr(field))?.flatten() {
                places.push((ns.addr(), number.clone()));
            }
        }
    }
    let numbers = process.numbers()?;
    if let Some((_, innermost)) = numbers.last() {
        let levels: Vec<_> = numbers.iter().map(|(nr, _)| nr.to_string()).collect();
        places.push((*innermost, levels.join("/")));
    }
    Ok(places)
}

pub(super) fn rows(kernel: &Kernel<'_>) -> Result<Vec<Namespace>> {
    let mut members: HashMap<u64, Vec<String>> = HashMap::new();
    for leader in kernel.processes()? {
        let process = Process::new(leader);
        if process.pid()? == 0 {
            continue;
        }
        match memberships(&process) {
            Ok(places) => {
                for (ns, name) in places {
                    members.entry(ns).or_default().push(name);
                }
            }
            Err(e) if e.is_absent() => return Err(e),
            Err(_) => kernel.degrade(Consistency::Torn),
        }
    }
    let mut rows = vec![];
    for found in all(kernel)? {
        match row(kernel, &found, &members) {
            Ok(row) => rows.push(row),
            Err(e) if e.is_absent() => return Err(e),
            Err(_) => kernel.degrade(Consistency::Torn),
        }
    }
    rows.sort_by_key(|row| row.inode);
    Ok(rows)
}

fn row(
    kernel: &Kernel<'_>,
    found: &Found<'_>,
    members: &HashMap<u64, Vec<String>>,
) -> Result<Namespace> {
    let Found { kind, common } = found;
    let owner = match common.ptr("owner")? {
        Some(owner) => Some(owner.embedded("common")?.uint("inum")?),
        None => None,
    };
    // The common part comes first in each structure.
    let whole = Object::new(kernel, type_of(kind), common.addr())?;
    let nests = matches!(kind.as_str(), "user" | "pid");
    let parent = match kind.as_str() {
        "pid" => match whole.ptr("parent")? {
            Some(parent) => Some(parent.embedded("common")?.uint("inum")?),
            None => None,
        },
        _ => owner,
    };
    let inside = members.get(&common.addr());
    Ok(Namespace {
        inode: common.uint("inum")?,
        r#type: kind.clone(),
        level: if nests { Some(whole.uint("level")?) } else { None },
        owner,
        processes: inside.map_or(0, Vec::len),
        members: inside.map(|names| names.join(" ")).unwrap_or_default(),
        parent,
    })
}

/// Pid namespaces below pid namespaces, all others below the user namespace that owns them.
pub(super) fn tree(kernel: &Kernel<'_>) -> Result<Vec<Node>> {
    let rows = rows(kernel)?;
    let total = rows.len();
    let mut children: BTreeMap<Option<u64>, Vec<Namespace>> = BTreeMap::new();
    for row in rows {
        children.entry(row.parent.filter(|parent| *parent != row.inode)).or_default().push(row);
    }
    let mut nodes = vec![];
    let mut stack: Vec<(usize, Namespace)> = vec![];
    let mut next = children.remove(&None).unwrap_or_default();
    let mut depth = 0;
    loop {
        next.sort_by_key(|ns| std::cmp::Reverse(ns.inode));
        stack.extend(next.into_iter().map(|ns| (depth, ns)));
        let Some((at, namespace)) = stack.pop() else { break };
        next = children.remove(&Some(namespace.inode)).unwrap_or_default();
        depth = at + 1;
        let name = format!("{}:[{}]", namespace.r#type, namespace.inode);
        nodes.push(Node { namespace, name, depth: at });
    }
    if nodes.len() < total {
        // Namespaces that nest in themselves: no tree.
        kernel.degrade(Consistency::Torn);
    }
    Ok(nodes)
}

/// A namespace by its inode: its address, and whether it numbers processes.
pub(super) fn find(kernel: &Kernel<'_>, inode: u32) -> Result<(u64, bool)> {
    for found in all(kernel)? {
        if found.common.uint("inum")? == u64::from(inode) {
            return Ok((found.common.addr(), found.kind == "pid"));
        }
    }
    Err(Error::NoNamespace { inode })
}

/// True if a process is in the namespace at `addr`, of whichever kind.
pub(super) fn is_member(process: &Process<'_>, addr: u64) -> Result<bool> {
    Ok(memberships(process)?.iter().any(|(ns, _)| *ns == addr))
}
