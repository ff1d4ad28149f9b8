//! `belljar kill`

use super::Error;
use crate::api::client::Client;

/// End VMs at once, and return when nothing of them is left
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names of the VMs
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    args.vms.iter().try_for_each(|vm| Ok(Client::open(vm)?.kill()?))
}
