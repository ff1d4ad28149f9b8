//! `belljar bt`: the kernel stack of a task.

use serde::Serialize;

use super::super::symbols::SourceMap;
use super::super::{Kernel, Result};
use super::hex;
use super::process::Process;
use super::stack::{self, Start};
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
    let start = match process.on_cpu()? {
        false => Start::saved(process.task())?,
        true => {
            let cpu = process.cpu()?;
            let only = |pc, what| {
                let function = Some(format!("({what} on CPU {cpu})"));
                Ok(vec![Frame { frame: 0, pc: hex(pc), function, offset: None, source: None }])
            };
            match kernel.cpu(cpu) {
                // Its registers are in the CPU, not in memory, and nobody knows them.
                None => return only(0, "running"),
                // Nothing of it is in the kernel.
                Some(cpu) if cpu.is_user() => return only(cpu.pc, "in the program"),
                Some(cpu) => Start::of_cpu(cpu),
            }
        }
    };
    let mut frames = vec![];
    for (index, pc) in stack::code_addresses(kernel, process.task(), start)?.into_iter().enumerate()
    {
        let call = match index {
            // An instruction, not a return address.
            0 if start.on_cpu => pc,
            _ => stack::call_site(kernel, index, pc),
        };
        let mut lines = source.map(|s| s.frames(call)).unwrap_or_default();
        // The outermost is the function itself, which the symbol table knows too.
        let own = lines.pop();
        for inlined in lines {
            frames.push(Frame {
                frame: index,
                pc: hex(pc),
                function: Some(format!("{} (inlined)", inlined.function)),
                offset: None,
                source: inlined.line,
            });
        }
        let location = kernel.symbols().lookup(call);
        frames.push(Frame {
            frame: index,
            pc: hex(pc),
            offset: location.as_ref().map(|l| l.offset + pc.wrapping_sub(call)),
            function: location.map(|l| l.symbol),
            source: own.and_then(|own| own.line),
        });
    }
    Ok(frames)
}
