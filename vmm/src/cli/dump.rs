//! `belljar dump`

use std::path::PathBuf;

use super::Error;
use crate::api::client::Client;

/// Write a VM's memory and registers as an ELF core, whatever state its kernel is in
///
/// `gdb-multiarch kernel.elf FILE` opens it, and so does every view with --core FILE. The VM stands still
/// meanwhile and goes on as before.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the VM
    vm: String,
    /// The file to write
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    Ok(Client::open(&args.vm)?.dump(&args.file)?)
}
