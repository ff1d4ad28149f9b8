//! `belljar gcore`

use std::path::PathBuf;

use super::Error;
use super::target::Stored;
use super::view::{parse_pid, split};
use crate::api::client::Client;
use crate::checkpoint;
use crate::introspect::Kernel;

/// Write a process as an ELF core, as gcore(1) does; it goes on undisturbed
///
/// `gdb-multiarch PROGRAM FILE` opens it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the VM, unless something stored is looked at, and the process
    #[arg(required = true, num_args = 1..=2, value_names = ["VM", "PID"])]
    words: Vec<String>,
    #[command(flatten)]
    stored: Stored,
    /// The file to write [default: core.PID]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let (vm, [pid]) = split(&args.words, &args.stored, "PID")?;
    let pid = parse_pid(pid)?;
    let output = args.output.clone().unwrap_or_else(|| format!("core.{pid}").into());
    if let Some(vm) = vm {
        return Ok(Client::open(vm)?.gcore(pid, &output)?);
    }
    let stored = args.stored.open()?.ok_or("name a VM, or --snapshot DIR, or --core FILE")?;
    let kernel = Kernel::open(&*stored.ram, true)?;
    Ok(checkpoint::gcore(&kernel, &stored.cpus, pid, &output)?)
}
