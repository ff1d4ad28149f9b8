//! The views of a running VM: `belljar ps`, `pstree`, `task`, `maps`, `vtop`, `runq`, `bt`, `log`.

use std::io::{self, Write};

use clap::Subcommand;

use super::Error;
use crate::api::client::Client;
use crate::introspect::Request;
use crate::render::{self, Format};

/// One subcommand a view; each reads the guest's memory, never asks the guest.
#[derive(Debug, Subcommand)]
pub(super) enum Views {
    /// List the processes and kernel threads of a VM
    Ps(Vm),
    /// Show the processes of a VM as a tree
    Pstree(Vm),
    /// Show the fields of one task
    Task(VmPid),
    /// Show the memory mappings of one process
    Maps(VmPid),
    /// Translate a virtual address, table by table
    Vtop {
        #[command(flatten)]
        of: VmPid,
        /// The virtual address, such as 0xffff0000
        #[arg(value_parser = parse_address)]
        addr: u64,
    },
    /// Show what each CPU runs and what waits for it
    Runq(Vm),
    /// Show the kernel stack of one task
    Bt(VmPid),
    /// Print the kernel's log
    Log(Vm),
}

#[derive(Debug, clap::Args)]
pub(super) struct Vm {
    /// Name of the VM
    vm: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct VmPid {
    /// Name of the VM
    vm: String,
    /// The process or thread
    pid: u32,
}

pub(super) fn run(view: &Views, format: Format) -> Result<(), Error> {
    let (vm, request) = match view {
        Views::Ps(of) => (&of.vm, Request::Ps),
        Views::Pstree(of) => (&of.vm, Request::Pstree),
        Views::Task(of) => (&of.vm, Request::Task { pid: of.pid }),
        Views::Maps(of) => (&of.vm, Request::Maps { pid: of.pid }),
        Views::Vtop { of, addr } => (&of.vm, Request::Vtop { pid: of.pid, addr: *addr }),
        Views::Runq(of) => (&of.vm, Request::Runq),
        Views::Bt(of) => (&of.vm, Request::Bt { pid: of.pid }),
        Views::Log(of) => (&of.vm, Request::Log),
    };
    let envelope = Client::open(vm)?.view(&request)?;
    if matches!((&request, format), (Request::Log, Format::Table)) {
        // A log is text, not a table.
        let mut out = io::BufWriter::new(io::stdout().lock());
        for row in &envelope.rows {
            let line = row.get("text").and_then(|text| text.as_str()).unwrap_or_default();
            writeln!(out, "{}", render::escape(line))?;
        }
        return Ok(out.flush()?);
    }
    super::print(request.schema(), &envelope, format)
}

fn parse_address(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| "not an address: write 0xffff0000".to_owned())
}
