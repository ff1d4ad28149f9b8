//! `belljar task`: every described field of one task.

use serde::Serialize;

use super::super::{Kernel, Result, Value, optional};
use super::hex;
use super::process::Process;
use crate::render::{Column, Kind, Schema, Shape};

pub(super) static SCHEMA: Schema = Schema {
    name: "belljar.task.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("field", "FIELD", Kind::Text),
        Column::new("value", "VALUE", Kind::Text),
        Column::new("type", "TYPE", Kind::Text),
    ],
};

#[derive(Serialize)]
pub(super) struct Field {
    /// Dotted path from the task.
    field: String,
    value: serde_json::Value,
    r#type: String,
}

pub(super) fn rows(kernel: &Kernel<'_>, pid: u32) -> Result<Vec<Field>> {
    let process = Process::find(kernel, pid)?;
    let task = process.task();
    let mut rows = vec![Field {
        field: "address".into(),
        value: hex(task.addr()).into(),
        r#type: task.ty().name.clone(),
    }];
    // One a level of pid namespaces, the outermost first.
    if let Ok(numbers) = process.numbers() {
        let numbers: Vec<u64> = numbers.into_iter().map(|(number, _)| number).collect();
        rows.push(Field { field: "numbers".into(), value: numbers.into(), r#type: "array".into() });
    }
    if let Some(path) = optional(process.cgroup())?.flatten() {
        rows.push(Field { field: "cgroup".into(), value: path.into(), r#type: "text".into() });
    }
    flatten(kernel, &mut rows, "", task.values()?);
    Ok(rows)
}

fn flatten(kernel: &Kernel<'_>, rows: &mut Vec<Field>, prefix: &str, values: Vec<(String, Value)>) {
    for (name, value) in values {
        let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Struct(inner) => flatten(kernel, rows, &path, inner),
            value => {
                let (value, ty) = show(kernel, value);
                rows.push(Field { field: path, value, r#type: ty });
            }
        }
    }
}

/// A value as JSON, and the word for its type.
fn show(kernel: &Kernel<'_>, value: Value) -> (serde_json::Value, String) {
    match value {
        Value::Uint(n) if n < 1 << 53 => (n.into(), "uint".into()),
        Value::Uint(n) => (hex(n).into(), "uint".into()),
        Value::Int(n) => (n.into(), "int".into()),
        Value::Bool(b) => (b.into(), "bool".into()),
        Value::Text(text) => (text.into(), "text".into()),
        Value::Addr(0, name) => (serde_json::Value::Null, pointer_to(&name)),
        Value::Addr(addr, name) => (hex(addr).into(), pointer_to(&name)),
        Value::Code(addr) => {
            let text = match kernel.symbols().lookup(addr) {
                Some(at) => format!("{}+{:#x}", at.symbol, at.offset),
                None => hex(addr),
            };
            (text.into(), "code".into())
        }
        Value::Enum(_, Some(name)) => (name.into(), "enum".into()),
        Value::Enum(n, None) => (n.into(), "enum".into()),
        Value::Flags(mut names, rest) => {
            if rest != 0 {
                names.push(hex(rest));
            }
            (names.join("|").into(), "flags".into())
        }
        Value::Array(items) => {
            let items: Vec<_> = items.into_iter().map(|v| show(kernel, v).0).collect();
            (items.into(), "array".into())
        }
        Value::List(name, count) => (count.into(), format!("list of {name}")),
        Value::Link(linked) => (if linked { "linked" } else { "-" }.into(), "link".into()),
        Value::Opaque(text) => (serde_json::Value::Null, text),
        Value::Struct(_) => (serde_json::Value::Null, "struct".into()),
    }
}

fn pointer_to(name: &str) -> String {
    if name.is_empty() { "addr".into() } else { format!("*{name}") }
}
