//! /proc/belljar: what a program can know of the machine's being frozen and copied.

use super::text::Text;
use super::tree::{Entry, Kind, setting};
use crate::errno::Result;
use crate::fs::SuperBlock;
use crate::put;
use crate::suspend::{self, Role, control, forced};

/// /proc/belljar.
pub static ENTRIES: &[Entry] = &[
    setting("forced_snapshots", |_, out| put!(out, "{}\n", forced::left()), forced::arm),
    Entry {
        name: "generation",
        kind: Kind::Watched(show_generation, suspend::generation, suspend::thawed()),
    },
    setting("snapshot", show_role, control::request_snapshot),
];

/// A program that must not go on with what a copy has too, such as secrets it drew, waits for POLLPRI.
fn show_generation(_: &SuperBlock, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", suspend::generation())
}

/// `original` or `copy N`: as what the machine goes on since it was frozen last.
fn show_role(_: &SuperBlock, out: &mut Text) -> Result<()> {
    match suspend::role() {
        Role::Original => out.bytes(b"original\n"),
        Role::Copy(number) => put!(out, "copy {number}\n"),
    }
}
