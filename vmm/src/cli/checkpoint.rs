//! `belljar checkpoint`

use std::path::PathBuf;

use super::Error;
use super::target::Stored;
use super::view::{parse_pid, split};
use crate::api::client::Client;
use crate::checkpoint;
use crate::introspect::Kernel;

/// Write a process as an ELF core with all that resuming it needs
///
/// The folder gets one core a process, which gdb opens, and an index. What cannot be carried is
/// refused before anything is written.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the VM, unless something stored is looked at, the process, and the folder to write
    #[arg(required = true, num_args = 2..=3, value_names = ["VM", "PID", "DIR"])]
    words: Vec<String>,
    #[command(flatten)]
    stored: Stored,
    /// Take its descendants too
    #[arg(long)]
    tree: bool,
    /// Let it go on: what is done without --kill
    #[arg(long, conflicts_with = "kill")]
    leave_running: bool,
    /// End it once its cores are written
    #[arg(long)]
    kill: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let (vm, [pid, dir]) = split(&args.words, &args.stored, "PID DIR")?;
    let (pid, dir) = (parse_pid(pid)?, PathBuf::from(dir));
    if let Some(vm) = vm {
        return Ok(Client::open(vm)?.checkpoint(pid, args.tree, args.kill, &dir)?);
    }
    if args.kill {
        return Err("--kill is for a VM that runs: a snapshot keeps what it holds".into());
    }
    let stored = args.stored.open()?.ok_or("name a VM, or --snapshot DIR, or --core FILE")?;
    let kernel = Kernel::open(&*stored.ram, true)?;
    checkpoint::checkpoint(&kernel, &stored.cpus, pid, args.tree, &dir, None)?;
    Ok(())
}
