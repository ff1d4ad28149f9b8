//! `belljar pause` and `belljar unpause`

use super::Error;
use crate::api::client::Client;

/// Stop the CPUs of a VM
#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    /// Name of the VM
    vm: String,
}

/// Let the CPUs of a paused VM run on
#[derive(Debug, clap::Args)]
pub(super) struct UnpauseArgs {
    /// Name of the VM
    vm: String,
}

pub(super) fn pause(args: &PauseArgs) -> Result<(), Error> {
    Ok(Client::open(&args.vm)?.pause()?)
}

pub(super) fn unpause(args: &UnpauseArgs) -> Result<(), Error> {
    Ok(Client::open(&args.vm)?.unpause()?)
}
