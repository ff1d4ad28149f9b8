//! `belljar resume`

use std::path::PathBuf;

use super::Error;
use crate::api::client::Client;

/// Let the processes of a checkpoint go on in a running VM, and print the number of the first
///
/// They keep their numbers, which must be free there, and find the files that they had by path. Their parent
/// is the VM's first process.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the VM
    vm: String,
    /// What `belljar checkpoint` wrote
    dir: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    println!("{}", Client::open(&args.vm)?.resume(&args.dir)?);
    Ok(())
}
