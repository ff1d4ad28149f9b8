//! Aligned columns for people: widths are those of the widest cell, nothing is cut off.

use std::io::{self, Write};

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::{Column, Envelope, Kind, Row, Schema, Shape, plain};

/// Writes the rows, then one line with the target, the number of rows and the consistency.
pub(super) fn write(out: &mut dyn Write, schema: &Schema, envelope: &Envelope) -> io::Result<()> {
    let tree = branches(&envelope.rows);
    let cells: Vec<Vec<String>> = envelope
        .rows
        .iter()
        .zip(&tree)
        .map(|(row, branch)| schema.columns.iter().map(|c| cell(row, c, branch)).collect())
        .collect();
    match schema.shape {
        Shape::Table => write_table(out, schema.columns, &cells)?,
        Shape::Record => write_records(out, schema.columns, &cells)?,
    }
    let n = envelope.rows.len();
    let rows = if n == 1 { "row" } else { "rows" };
    let target = super::escape(&envelope.target);
    writeln!(out, "# {target}: {n} {rows}, {}", envelope.consistency.as_str())
}

fn write_table(out: &mut dyn Write, columns: &[Column], cells: &[Vec<String>]) -> io::Result<()> {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, c)| cells.iter().map(|r| r[i].width()).max().unwrap_or(0).max(c.title.width()))
        .collect();
    let titles: Vec<String> = columns.iter().map(|c| c.title.to_owned()).collect();
    for line in std::iter::once(&titles).chain(cells) {
        let mut text = String::new();
        for ((value, column), width) in line.iter().zip(columns).zip(&widths) {
            let pad = " ".repeat(width - value.width());
            match column.kind {
                Kind::Text | Kind::Tree => text.extend([value, pad.as_str(), " "]),
                _ => text.extend([pad.as_str(), value, " "]),
            }
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

fn write_records(out: &mut dyn Write, columns: &[Column], cells: &[Vec<String>]) -> io::Result<()> {
    let width = columns.iter().map(|c| c.title.width()).max().unwrap_or(0);
    for (i, record) in cells.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        for (value, column) in record.iter().zip(columns) {
            let pad = " ".repeat(width - column.title.width());
            writeln!(out, "{}", format!("{}{pad}  {value}", column.title).trim_end())?;
        }
    }
    Ok(())
}

/// One cell as text. An absent or null value shows as `-`: the kernel did not say.
fn cell(row: &Row, column: &Column, branch: &str) -> String {
    let value = row.get(column.key).unwrap_or(&Value::Null);
    if value.is_null() {
        return "-".to_owned();
    }
    match (column.kind, value.as_u64()) {
        (Kind::Hex, Some(n)) => format!("{n:#x}"),
        (Kind::KiB, Some(n)) => n.div_ceil(1024).to_string(),
        (Kind::CpuTime, Some(ns)) => {
            let hundredths = ns / 10_000_000;
            format!("{}:{:02}.{:02}", hundredths / 6000, hundredths / 100 % 60, hundredths % 100)
        }
        (Kind::Tree, _) => format!("{branch}{}", plain(row, column.key)),
        _ => plain(row, column.key),
    }
}

/// The branch drawing before each row, from the `depth` fields of rows in preorder. Depths come
/// from the guest, so they are cut at a bound.
fn branches(rows: &[Row]) -> Vec<String> {
    const DEEPEST: usize = 64;
    let depth = |row: &Row| row.get("depth").and_then(Value::as_u64).unwrap_or(0) as usize;
    let depths: Vec<usize> = rows.iter().map(|r| depth(r).min(DEEPEST)).collect();
    // open[d]: whether, below the current row, another row of depth d follows before a shallower one.
    let mut open = [false; DEEPEST + 1];
    let mut drawn = vec![String::new(); rows.len()];
    for (i, &d) in depths.iter().enumerate().rev() {
        open[d + 1..].fill(false);
        if d > 0 {
            let text = &mut drawn[i];
            for level in &open[1..d] {
                text.push_str(if *level { "│ " } else { "  " });
            }
            text.push_str(if open[d] { "├─" } else { "└─" });
        }
        open[d] = true;
    }
    drawn
}
