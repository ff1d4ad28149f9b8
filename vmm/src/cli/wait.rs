//! `belljar wait`

use std::process::ExitCode;

use super::{Error, complain};
use crate::api::client::Client;

/// Wait until a VM ends
///
/// The exit status is the one that `belljar run` would have had in the foreground.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the VM
    vm: String,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let outcome = Client::open(&args.vm)?.wait()?;
    if let Some(complaint) = outcome.complaint(&args.vm) {
        complain(&complaint);
    }
    Ok(ExitCode::from(outcome.exit_status()))
}
