//! How every answer of Bell Jar is printed: one envelope, three formats.
//!
//! A view has a [`Schema`] (its name and columns, a `static` beside the code that makes the rows)
//! and an [`Envelope`] (which target, how consistent, the rows as JSON objects). The server of a VM
//! sends the envelope as JSON; the client looks the schema up and prints it. The bytes printed
//! depend on the schema and the envelope alone, never on the terminal, so the same state prints the
//! same bytes from a live VM, a snapshot or a core.
//!
//! Rows come out of guest memory and are hostile: tables and CSV escape control
//! characters, so no guest can drive the terminal of whoever looks at it.

mod csv;
mod table;

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One row of a view: an object whose keys are the schema's column keys, and maybe more that only
/// JSON shows.
pub type Row = Map<String, Value>;

/// How far the rows of an answer belong to one moment of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The vCPUs stood still and every structure read was between two changes.
    Quiesced,
    /// The vCPUs stood still, but a structure read was in the middle of a change.
    Paused,
    /// The guest ran, or a structure read contradicted itself.
    Torn,
}

impl Consistency {
    /// The word that every format uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quiesced => "quiesced",
            Self::Paused => "paused",
            Self::Torn => "torn",
        }
    }
}

/// How a table shows a column's JSON value. JSON and CSV always carry the value itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text, left-aligned.
    Text,
    /// A number, right-aligned.
    Int,
    /// A number as `0x…`, right-aligned. (Addresses are JSON *strings* `"0x…"` where they may exceed
    /// 2^53; a string is printed as it stands.)
    Hex,
    /// A number of bytes, printed in KiB as `ps` does.
    KiB,
    /// Nanoseconds of CPU time, printed as `minutes:seconds.hundredths`.
    CpuTime,
    /// Text indented to a tree: the row's `depth` (rows are in preorder) draws the branches.
    Tree,
}

/// One column of a view.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The key in a row, and the heading in CSV.
    pub key: &'static str,
    /// The heading in a table.
    pub title: &'static str,
    /// How a table shows the value.
    pub kind: Kind,
}

impl Column {
    /// A column, for use in a `static` schema.
    pub const fn new(key: &'static str, title: &'static str, kind: Kind) -> Self {
        Self { key, title, kind }
    }
}

/// How a table is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One line a row under one heading line.
    Table,
    /// One line a column, `title  value`, and an empty line between rows: for one wide record.
    Record,
}

/// What a view is called and which columns it has.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Stable name with its version, such as `belljar.ps.v1`.
    pub name: &'static str,
    /// The layout in table format.
    pub shape: Shape,
    /// The columns of the table and of CSV, in order.
    pub columns: &'static [Column],
}

/// An answer: what the API sends and what is printed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The name of the [`Schema`] of the rows.
    pub schema: String,
    /// What was read: a VM's name, a snapshot's folder, a core's path.
    pub target: String,
    /// How far the rows belong together.
    pub consistency: Consistency,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Envelope {
    /// An answer whose rows are given as anything that serialises to JSON objects.
    ///
    /// # Panics
    /// If a row does not serialise to an object: a mistake in the view's row type.
    pub fn new<R: Serialize>(
        schema: &Schema,
        target: impl Into<String>,
        consistency: Consistency,
        rows: impl IntoIterator<Item = R>,
    ) -> Self {
        let rows = rows
            .into_iter()
            .map(|row| match serde_json::to_value(row) {
                Ok(Value::Object(map)) => map,
                other => panic!("row of {} is not a JSON object: {other:?}", schema.name),
            })
            .collect();
        Self { schema: schema.name.to_owned(), target: target.into(), consistency, rows }
    }
}

/// The output format that the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// The envelope as JSON.
    Json,
    /// RFC 4180 with a heading line; the consistency is the last column.
    Csv,
}

/// Writes `envelope` to `out` in `format`, its columns taken from `schema`.
pub fn render(
    out: &mut dyn Write,
    schema: &Schema,
    envelope: &Envelope,
    format: Format,
) -> io::Result<()> {
    match format {
        Format::Table => table::write(out, schema, envelope),
        Format::Csv => csv::write(out, schema, envelope),
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, envelope)?;
            writeln!(out)
        }
    }
}

/// `text` with every control character (and each byte that could start a terminal sequence) shown
/// as an escape. Used for everything from the guest that reaches a terminal.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// The cell of `row` under `key`, as the plain text that CSV carries and tables start from.
fn plain(row: &Row, key: &str) -> String {
    match row.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(value) => plain_value(value),
    }
}

fn plain_value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => escape(s),
        Value::Array(items) => items.iter().map(plain_value).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    static SCHEMA: Schema = Schema {
        name: "belljar.test.v1",
        shape: Shape::Table,
        columns: &[
            Column::new("pid", "PID", Kind::Int),
            Column::new("rss", "RSS", Kind::KiB),
            Column::new("time_ns", "TIME", Kind::CpuTime),
            Column::new("comm", "COMMAND", Kind::Tree),
        ],
    };

    fn envelope() -> Envelope {
        Envelope::new(
            &SCHEMA,
            "t",
            Consistency::Quiesced,
            [
                json!({"pid": 1, "rss": 4096, "time_ns": 61_230_000_000u64, "comm": "init", "depth": 0}),
                json!({"pid": 20, "rss": 0, "time_ns": 0, "comm": "a\u{1b}[2J", "depth": 1}),
                json!({"pid": 300, "rss": null, "time_ns": 5, "comm": "b,\"c", "depth": 1}),
            ],
        )
    }

    fn printed(format: Format) -> String {
        let mut out = Vec::new();
        render(&mut out, &SCHEMA, &envelope(), format).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn table_aligns_and_escapes() {
        assert_eq!(
            printed(Format::Table),
            "PID RSS    TIME COMMAND\n\
             \x20 1   4 1:01.23 init\n\
             \x2020   0 0:00.00 ├─a\\x1b[2J\n\
             300   - 0:00.00 └─b,\"c\n\
             # t: 3 rows, quiesced\n"
        );
    }

    #[test]
    fn csv_carries_raw_values_and_the_consistency() {
        assert_eq!(
            printed(Format::Csv),
            "pid,rss,time_ns,comm,consistency\n\
             1,4096,61230000000,init,quiesced\n\
             20,0,0,a\\x1b[2J,quiesced\n\
             300,,5,\"b,\"\"c\",quiesced\n"
        );
    }

    #[test]
    fn json_round_trips() {
        let back: Envelope = serde_json::from_str(&printed(Format::Json)).unwrap();
        assert_eq!(back, envelope());
    }

    #[test]
    fn record_shape_prints_one_field_a_line() {
        let schema = Schema { shape: Shape::Record, ..SCHEMA };
        let mut out = Vec::new();
        let mut one = envelope();
        one.rows.truncate(1);
        render(&mut out, &schema, &one, Format::Table).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "PID      1\nRSS      4\nTIME     1:01.23\nCOMMAND  init\n# t: 1 row, quiesced\n"
        );
    }

    #[test]
    fn tree_branches_follow_the_depths() {
        let rows = [0, 1, 2, 1].map(|depth| json!({"comm": "x", "depth": depth}));
        static COLUMNS: [Column; 1] = [Column::new("comm", "C", Kind::Tree)];
        let schema = Schema { columns: &COLUMNS, ..SCHEMA };
        let mut out = Vec::new();
        let env = Envelope::new(&schema, "t", Consistency::Torn, rows);
        render(&mut out, &schema, &env, Format::Table).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "C\nx\n├─x\n│ └─x\n└─x\n# t: 4 rows, torn\n");
    }
}
