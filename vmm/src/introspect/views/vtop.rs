//! `belljar vtop`: how an address is translated, entry by entry.

use serde::Serialize;

use super::super::{Error, Kernel, Result};
use super::frames::Frames;
use super::hex;
use super::process::Process;
use crate::render::{Column, Kind, Schema, Shape};
use crate::target::walk::{Meaning, walk};

pub(super) static SCHEMA: Schema = Schema {
    name: "belljar.vtop.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("level", "LEVEL", Kind::Int),
        Column::new("table", "TABLE", Kind::Hex),
        Column::new("index", "INDEX", Kind::Int),
        Column::new("descriptor", "DESCRIPTOR", Kind::Hex),
        Column::new("type", "TYPE", Kind::Text),
        Column::new("address", "ADDRESS", Kind::Hex),
        Column::new("refcount", "REFS", Kind::Int),
        Column::new("use", "USE", Kind::Text),
        Column::new("attributes", "ATTRIBUTES", Kind::Text),
    ],
};

#[derive(Serialize)]
pub(super) struct Entry {
    level: usize,
    table: String,
    index: u64,
    descriptor: String,
    r#type: &'static str,
    /// Where it points: the next table, or the byte that the virtual address names.
    address: Option<String>,
    /// How many hold that table or frame.
    refcount: Option<u32>,
    r#use: Option<String>,
    attributes: Vec<&'static str>,
}

pub(super) fn rows(kernel: &Kernel<'_>, pid: u32, addr: u64) -> Result<Vec<Entry>> {
    // Bit 55 selects the half of the address space (ARM ARM D8.2).
    let pgd = if addr >> 55 & 1 == 1 {
        kernel.root().kernel_pgd_phys()
    } else {
        let mm = Process::find(kernel, pid)?.mm()?.ok_or(Error::NoMm { pid })?;
        kernel.check_seq_of(&mm, "seq")?;
        mm.uint("tables.root")?
    };
    let frames = Frames::new(kernel).ok();
    let walk = walk(kernel.space().ram(), pgd, addr)?;
    Ok(walk
        .steps
        .iter()
        .map(|step| {
            let (kind, address) = match step.descriptor.meaning() {
                Meaning::Invalid => ("invalid", None),
                Meaning::Table(next) => ("table", Some(next)),
                Meaning::Leaf(_) if step.descriptor.level == 3 => ("page", walk.phys),
                Meaning::Leaf(_) => ("block", walk.phys),
            };
            let frame = address.and_then(|a| frames.as_ref()?.get(a));
            Entry {
                level: step.descriptor.level,
                table: hex(step.table),
                index: step.index,
                descriptor: hex(step.descriptor.raw),
                r#type: kind,
                address: address.map(hex),
                refcount: frame.as_ref().map(|f| f.refcount),
                r#use: frame.and_then(|f| f.kind),
                attributes: step.descriptor.attributes(),
            }
        })
        .collect())
}
