//! /proc/belljar: what a program can know of the machine's being frozen and copied.

use super::text::Text;
use super::tree::{Entry, setting, text};
use crate::errno::Result;
use crate::fs::SuperBlock;
use crate::put;
use crate::suspend::{self, Role, control};

/// /proc/belljar.
pub static ENTRIES: &[Entry] = &[
    text("generation", |_, out| put!(out, "{}\n", suspend::generation())),
    setting("snapshot", show_role, control::request_snapshot),
];

/// `original` or `copy N`: as what the machine goes on since it was frozen last.
fn show_role(_: &SuperBlock, out: &mut Text) -> Result<()> {
    match control::role() {
        Role::Original => out.bytes(b"original\n"),
        Role::Copy(number) => put!(out, "copy {number}\n"),
    }
}
