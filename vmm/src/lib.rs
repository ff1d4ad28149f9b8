//! Bell Jar: a VMM that runs unmodified AArch64 Linux programs and shows, snapshots and copies
//! every process of the guest from outside.
//!
//! The floors, from below: each module uses only those listed before it.
//!
//! - [`render`]: a view (schema, consistency, rows) as a table, JSON or CSV; knows no VM at all.

pub mod render;
