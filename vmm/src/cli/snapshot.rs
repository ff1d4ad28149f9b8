//! `belljar snapshot`

use std::path::{PathBuf, absolute};
use std::time::Duration;

use super::Error;
use super::run::parse_duration;
use crate::api::SnapshotRequest;
use crate::api::client::Client;

/// Save a running VM as a folder, to be restored any number of times
///
/// The guest's kernel freezes itself into its memory, the memory in use is copied, and the guest goes on.
/// A folder that holds a snapshot already is replaced once the new one is whole.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the VM
    vm: String,
    /// The folder to make
    dir: PathBuf,
    /// End the VM once the snapshot is whole, instead of letting it run on
    #[arg(long)]
    stop: bool,
    /// How long the guest's kernel may take to come to rest, such as 10, 500ms or 2m [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    // The VM's process may have another working folder.
    let dir = absolute(&args.dir)?;
    let timeout_ms = args.timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let request = SnapshotRequest { dir, stop: args.stop, timeout_ms };
    let taken = Client::open(&args.vm)?.snapshot(&request)?;
    const MIB: f64 = (1 << 20) as f64;
    println!(
        "{}: {:.1} of {:.0} MiB stored; the guest stood still for {:.1} ms, {:.1} of them to copy",
        args.dir.display(),
        taken.stored as f64 / MIB,
        taken.ram as f64 / MIB,
        taken.stood_still_us as f64 / 1000.0,
        taken.copy_us as f64 / 1000.0,
    );
    Ok(())
}
