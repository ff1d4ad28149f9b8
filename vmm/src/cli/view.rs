//! The views of a VM, running or stored: `belljar ps`, `pstree`, `task`, `maps`, `fds`, `vtop`, `runq`, `bt`,
//! `log`, `ns`.

use std::io::{self, Write};

use clap::Subcommand;

use super::Error;
use super::target::{self, Stored};
use crate::introspect::Request;
use crate::render::{self, Format};

/// One subcommand a view; each reads the guest's memory, never asks the guest.
#[derive(Debug, Subcommand)]
pub(super) enum Views {
    /// List the processes and kernel threads of a VM
    Ps(VmPs),
    /// Show the processes of a VM as a tree
    Pstree(Vm),
    /// Show the fields of one task
    Task(VmPid),
    /// Show the memory mappings of one process
    Maps(VmPid),
    /// Show the open files of one process, and who has the other ends
    Fds(VmPid),
    /// Translate a virtual address, table by table
    Vtop(VmPidAddr),
    /// Show what each CPU runs and what waits for it
    Runq(Vm),
    /// Show the kernel stack of one task
    Bt(VmPid),
    /// Print the kernel's log
    Log(Vm),
    /// List the namespaces of a VM and who is in them
    Ns(VmNs),
}

#[derive(Debug, clap::Args)]
pub(super) struct Vm {
    /// Name of the VM
    #[arg(required_unless_present_any = ["snapshot", "core"])]
    vm: Option<String>,
    #[command(flatten)]
    stored: Stored,
}

#[derive(Debug, clap::Args)]
pub(super) struct VmPs {
    #[command(flatten)]
    of: Vm,
    /// Only the processes of this namespace, by the inode that `belljar ns` shows; those of a pid
    /// namespace by the numbers that they have there
    #[arg(long, value_name = "INODE")]
    ns: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(super) struct VmNs {
    #[command(flatten)]
    of: Vm,
    /// Nest pid namespaces, and the others below the user namespaces that own them
    #[arg(long)]
    tree: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct VmPid {
    /// Name of the VM, unless something stored is looked at, and the process or thread
    #[arg(required = true, num_args = 1..=2, value_names = ["VM", "PID"])]
    words: Vec<String>,
    #[command(flatten)]
    stored: Stored,
}

#[derive(Debug, clap::Args)]
pub(super) struct VmPidAddr {
    /// Name of the VM, unless something stored is looked at, the process or thread, and the virtual
    /// address, such as 0xffff0000
    #[arg(required = true, num_args = 2..=3, value_names = ["VM", "PID", "ADDR"])]
    words: Vec<String>,
    #[command(flatten)]
    stored: Stored,
}

/// The words of a command line that begin with a VM's name, unless something stored takes its place.
pub(super) fn split<'a, const N: usize>(
    words: &'a [String],
    stored: &Stored,
    names: &str,
) -> Result<(Option<&'a str>, [&'a str; N]), Error> {
    let (vm, rest) = match stored.is_given() {
        true => (None, words),
        false => (words.first().map(String::as_str), words.get(1..).unwrap_or_default()),
    };
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    match rest.try_into() {
        Ok(rest) => Ok((vm, rest)),
        Err(_) if vm.is_some() => Err(format!("give VM {names}, or --snapshot DIR {names}").into()),
        Err(_) => Err(format!("give {names} alone beside --snapshot or --core: no VM").into()),
    }
}

pub(super) fn run(view: &Views, format: Format) -> Result<(), Error> {
    let of_vm = |of: &Vm, request| (of.vm.clone(), request);
    let of_pid = |of: &VmPid, request: fn(u32) -> Request| -> Result<_, Error> {
        let (vm, [pid]) = split(&of.words, &of.stored, "PID")?;
        Ok((vm.map(str::to_owned), request(parse_pid(pid)?)))
    };
    let (stored, (vm, request)) = match view {
        Views::Ps(VmPs { of, ns }) => {
            (&of.stored, of_vm(of, ns.map_or(Request::Ps, |ns| Request::PsNs { ns })))
        }
        Views::Pstree(of) => (&of.stored, of_vm(of, Request::Pstree)),
        Views::Task(of) => (&of.stored, of_pid(of, |pid| Request::Task { pid })?),
        Views::Maps(of) => (&of.stored, of_pid(of, |pid| Request::Maps { pid })?),
        Views::Fds(of) => (&of.stored, of_pid(of, |pid| Request::Fds { pid })?),
        Views::Vtop(of) => {
            let (vm, [pid, addr]) = split(&of.words, &of.stored, "PID ADDR")?;
            let request = Request::Vtop { pid: parse_pid(pid)?, addr: parse_address(addr)? };
            (&of.stored, (vm.map(str::to_owned), request))
        }
        Views::Runq(of) => (&of.stored, of_vm(of, Request::Runq)),
        Views::Bt(of) => (&of.stored, of_pid(of, |pid| Request::Bt { pid })?),
        Views::Log(of) => (&of.stored, of_vm(of, Request::Log)),
        Views::Ns(VmNs { of, tree }) => {
            (&of.stored, of_vm(of, if *tree { Request::NsTree } else { Request::Ns }))
        }
    };
    let envelope = target::view(vm.as_deref(), stored, &request)?;
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

pub(super) fn parse_pid(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not the number of a process"))
}

fn parse_address(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| format!("{text:?} is not an address: write 0xffff0000"))
}
