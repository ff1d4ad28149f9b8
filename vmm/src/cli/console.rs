//! `belljar console`

use std::io::{self, Write};

use super::Error;
use crate::api::client::Client;

/// Print the last of what a VM's guest printed
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the VM
    vm: String,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let bytes = Client::open(&args.vm)?.console()?;
    Ok(io::stdout().write_all(&bytes)?)
}
