//! The table: number, name, handler. Sorted by number.

use super::Handler;

/// Numbers below this have a slot.
pub const SIZE: usize = 512;

/// A row: number, name, handler.
pub type Row = (usize, &'static str, Handler);

/// Every system call that the kernel has.
pub const ROWS: &[Row] = &[];

/// The handlers by number.
pub static HANDLERS: [Option<Handler>; SIZE] = {
    let mut handlers = [None; SIZE];
    let mut i = 0;
    while i < ROWS.len() {
        assert!(i == 0 || ROWS[i - 1].0 < ROWS[i].0, "rows are sorted by number, each once");
        handlers[ROWS[i].0] = Some(ROWS[i].2);
        i += 1;
    }
    handlers
};

/// The name of a call, for logs and tracing.
pub fn name(nr: usize) -> Option<&'static str> {
    let i = ROWS.binary_search_by_key(&nr, |row| row.0).ok()?;
    Some(ROWS[i].1)
}
