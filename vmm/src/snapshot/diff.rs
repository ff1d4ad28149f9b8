//! What differs between two stored machines: processes, their mappings, frames by their use.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::Result;
use crate::introspect::{self, Frames, Kernel, Request};
use crate::render::{Column, Kind, Row, Schema, Shape};
use crate::target::{PAGE_SIZE, Ram};

/// How the answer of `belljar diff` looks.
pub static SCHEMA: Schema = Schema {
    name: "belljar.diff.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("kind", "KIND", Kind::Text),
        Column::new("change", "CHANGE", Kind::Text),
        Column::new("pid", "PID", Kind::Int),
        Column::new("name", "NAME", Kind::Text),
        Column::new("field", "FIELD", Kind::Text),
        Column::new("before", "BEFORE", Kind::Text),
        Column::new("after", "AFTER", Kind::Text),
    ],
};

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `process`, `mapping` or `frames`.
    kind: &'static str,
    /// `added`, `removed` or `changed`.
    change: &'static str,
    /// The process.
    pid: Option<u64>,
    /// Its name; the mapping's first address and name; the use of the frames.
    name: String,
    /// What of it changed.
    field: Option<&'static str>,
    before: Value,
    after: Value,
}

/// Fields of a process that say what it does; how long it has run comes with all of them.
const PROCESS: &[&str] =
    &["ppid", "pgid", "sid", "state", "policy", "nice", "threads", "vsz", "rss", "time_ns", "comm"];
/// Fields of a mapping.
const MAPPING: &[&str] = &["end", "perms", "offset", "inode", "rss", "shared", "cow"];

/// Compares two machines, processes first, then their mappings, then the frames.
pub fn diff(before: &dyn Ram, after: &dyn Ram) -> Result<Vec<Difference>> {
    let kernels = [Kernel::open(before, true)?, Kernel::open(after, true)?];
    let [old, new] = [&kernels[0], &kernels[1]].map(|kernel| by_key(kernel, &Request::Ps, "pid"));
    let (old, new) = (old?, new?);
    let mut found = vec![];
    compare("process", PROCESS, None, &old, &new, |row| text(row, "comm"), &mut found);
    for (pid, row) in &new {
        let has_memory = |row: &Row| row.get("vsz").and_then(Value::as_u64).is_some_and(|v| v > 0);
        let both = old.get(pid).is_some_and(has_memory) && has_memory(row);
        let Some(number) = row.get("pid").and_then(Value::as_u64).filter(|_| both) else {
            continue;
        };
        let request = Request::Maps { pid: u32::try_from(number).unwrap_or(u32::MAX) };
        let (old, new) =
            (by_key(&kernels[0], &request, "start")?, by_key(&kernels[1], &request, "start")?);
        let name = |row: &Row| format!("{} {}", text(row, "start"), text(row, "name"));
        compare("mapping", MAPPING, Some(number), &old, &new, name, &mut found);
    }
    frames(&kernels, [before, after], &mut found)?;
    Ok(found)
}

/// The rows of a view by one of their fields. Numbers sort as numbers.
fn by_key(
    kernel: &Kernel<'_>,
    request: &Request,
    key: &str,
) -> Result<BTreeMap<(u64, String), Row>> {
    let answer = introspect::view(kernel, request, None)?;
    let key_of = |row: &Row| {
        let value = row.get(key).cloned().unwrap_or_default();
        let hex = value.as_str().and_then(|text| text.strip_prefix("0x"));
        let number = hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()).or(value.as_u64());
        (number.unwrap_or(0), value.to_string())
    };
    Ok(answer.rows.into_iter().map(|row| (key_of(&row), row)).collect())
}

fn text(row: &Row, key: &str) -> String {
    row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn compare(
    kind: &'static str,
    fields: &'static [&'static str],
    pid: Option<u64>,
    old: &BTreeMap<(u64, String), Row>,
    new: &BTreeMap<(u64, String), Row>,
    name: impl Fn(&Row) -> String,
    found: &mut Vec<Difference>,
) {
    let difference = |row: &Row, change, field, before, after| Difference {
        kind,
        change,
        pid: pid.or_else(|| row.get("pid").and_then(Value::as_u64)),
        name: name(row),
        field,
        before,
        after,
    };
    for (key, row) in old {
        if !new.contains_key(key) {
            found.push(difference(row, "removed", None, Value::Null, Value::Null));
        }
    }
    for (key, row) in new {
        let Some(former) = old.get(key) else {
            found.push(difference(row, "added", None, Value::Null, Value::Null));
            continue;
        };
        for field in fields {
            let (before, after) = (former.get(*field), row.get(*field));
            if before != after {
                let value = |v: Option<&Value>| v.cloned().unwrap_or_default();
                let (before, after) = (value(before), value(after));
                found.push(difference(row, "changed", Some(field), before, after));
            }
        }
    }
}

/// Counts the frames whose bytes differ by what they are used for, before and after.
fn frames(
    kernels: &[Kernel<'_>; 2],
    rams: [&dyn Ram; 2],
    found: &mut Vec<Difference>,
) -> Result<()> {
    let tables = [Frames::new(&kernels[0])?, Frames::new(&kernels[1])?];
    let mut changed: BTreeMap<[String; 2], u64> = BTreeMap::new();
    let mut populated = rams[0].populated();
    populated.extend(rams[1].populated());
    populated.sort_by_key(|range| range.start);
    let mut next = 0;
    for range in populated {
        let mut at = range.start.max(next) / PAGE_SIZE * PAGE_SIZE;
        while at < range.end {
            let mut pages = [[0; PAGE_SIZE as usize]; 2];
            // What only one of them has counts as zeros in the other.
            for (ram, page) in rams.iter().zip(&mut pages) {
                let _ = ram.read(at, page);
            }
            if pages[0] != pages[1] {
                let kind = |table: &Frames<'_>| {
                    table.get(at).and_then(|frame| frame.kind).unwrap_or_else(|| "?".to_owned())
                };
                *changed.entry([kind(&tables[0]), kind(&tables[1])]).or_default() += 1;
            }
            at += PAGE_SIZE;
        }
        next = next.max(range.end);
    }
    for ([before, after], count) in changed {
        let name = if before == after { before } else { format!("{before} -> {after}") };
        found.push(Difference {
            kind: "frames",
            change: "changed",
            pid: None,
            name,
            field: Some("count"),
            before: Value::Null,
            after: count.into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::introspect::synthetic::Guest;

    fn shown(found: &[Difference]) -> Vec<String> {
        let show = |d: &Difference| {
            format!("{} {} {:?} {} {:?}", d.kind, d.change, d.pid, d.name, d.field)
        };
        found.iter().map(show).collect()
    }

    #[test]
    fn equal_machines_do_not_differ() {
        let guest = Guest::new();
        assert_eq!(diff(&guest.target(), &guest.target()).unwrap(), []);
    }

    #[test]
    fn changed_processes_and_frames_are_named() {
        let (old, mut new) = (Guest::new(), Guest::new());
        new.set_task(new.tasks[1], "se.sum_exec_runtime", 7_000_000_000);
        new.set_task(new.tasks[4], "pid", 8);
        let found = shown(&diff(&old.target(), &new.target()).unwrap());
        assert_eq!(
            found[..3],
            [
                "process removed Some(7) gone None",
                "process changed Some(1) init Some(\"time_ns\")",
                "process added Some(8) gone None",
            ]
        );
        assert_eq!(found[3..], ["frames changed None Reserved Some(\"count\")"]);
    }
}
