//! `belljar bt`: the kernel stack of a task, by frame pointers (AAPCS64 frame records).

use serde::Serialize;

use super::super::symbols::{SourceMap, Symbols};
use super::super::{Kernel, Result};
use super::hex;
use super::process::Process;
use crate::render::{Column, Kind, Schema, Shape};

pub(super) static SCHEMA: Schema = Schema {
    name: "belljar.bt.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("frame", "#", Kind::Int),
        Column::new("pc", "PC", Kind::Hex),
        Column::new("function", "FUNCTION", Kind::Text),
        Column::new("offset", "OFFSET", Kind::Hex),
        Column::new("source", "SOURCE", Kind::Text),
    ],
};

/// Most frames that are followed.
const MAX_FRAMES: usize = 256;

#[derive(Serialize)]
pub(super) struct Frame {
    frame: usize,
    pc: String,
    function: Option<String>,
    offset: Option<u64>,
    source: Option<String>,
}

pub(super) fn rows(
    kernel: &Kernel<'_>,
    pid: u32,
    source: Option<&SourceMap>,
) -> Result<Vec<Frame>> {
    let process = Process::find(kernel, pid)?;
    let task = process.task();
    let symbols = Symbols::read(kernel.space().ram(), kernel.root());
    if process.on_cpu()? {
        // Its registers are in the CPU, not in memory.
        let function = Some(format!("(running on CPU {})", process.cpu()?));
        return Ok(vec![Frame { frame: 0, pc: hex(0), function, offset: None, source: None }]);
    }
    let base = task.uint("se.thread.stack.base")?;
    let size = task.uint("se.thread.stack.size")?;
    let stack = base..base.saturating_add(size);
    let mut pc = task.uint("se.thread.context.pc")?;
    let mut fp = task.uint("se.thread.context.fp")?;
    let mut frames = vec![];
    while pc != 0 && frames.len() < MAX_FRAMES {
        // A return address names the instruction after the call; the call is what is meant.
        let call = if frames.is_empty() { pc } else { pc.wrapping_sub(4) };
        let location = symbols.lookup(call);
        frames.push(Frame {
            frame: frames.len(),
            pc: hex(pc),
            offset: location.as_ref().map(|l| l.offset + pc.wrapping_sub(call)),
            function: location.map(|l| l.symbol),
            source: source.and_then(|s| s.line(call)),
        });
        // Frame records climb the stack; anything else is the end or damage.
        if fp % 8 != 0 || !stack.contains(&fp) || !stack.contains(&fp.saturating_add(15)) {
            break;
        }
        let next = kernel.space().read_u64(fp)?;
        pc = kernel.space().read_u64(fp + 8)?;
        // A record below this one would lead in circles; this return address is the last.
        fp = if next > fp { next } else { 0 };
    }
    Ok(frames)
}
