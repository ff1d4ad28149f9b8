//! RFC 4180: a heading line of column keys, raw values, the consistency as the last column.

use std::io::{self, Write};

use super::{Envelope, Schema, plain};

/// Writes the heading and the rows; lists are joined with spaces, absent values are empty.
pub(super) fn write(out: &mut dyn Write, schema: &Schema, envelope: &Envelope) -> io::Result<()> {
    let mut csv = ::csv::Writer::from_writer(out);
    csv.write_record(schema.columns.iter().map(|c| c.key).chain(["consistency"]))?;
    for row in &envelope.rows {
        let cells = schema.columns.iter().map(|c| plain(row, c.key));
        csv.write_record(cells.chain([envelope.consistency.as_str().to_owned()]))?;
    }
    csv.flush()
}
