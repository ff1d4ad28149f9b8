//! `belljar diff`

use std::path::PathBuf;

use super::Error;
use super::target::Stored;
use crate::render::{self, Consistency, Envelope};
use crate::snapshot::diff::{SCHEMA, diff};

/// Show what differs between two stored machines: processes, their mappings, frames
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The earlier one: a snapshot's folder, or the core of a machine
    before: PathBuf,
    /// The later one
    after: PathBuf,
    /// Do not check whether the snapshots' memory is what was saved
    #[arg(long)]
    trust: bool,
}

pub(super) fn run(args: &Args, format: render::Format) -> Result<(), Error> {
    let open = |path: &PathBuf| {
        let is_folder = path.is_dir();
        let stored = Stored {
            snapshot: is_folder.then(|| path.clone()),
            core: (!is_folder).then(|| path.clone()),
            trust: args.trust && is_folder,
        };
        Ok::<_, Error>(stored.open()?.expect("one of them was named"))
    };
    let (before, after) = (open(&args.before)?, open(&args.after)?);
    let found = diff(&*before.ram, &*after.ram)?;
    let target = format!("{} {}", args.before.display(), args.after.display());
    let envelope = Envelope::new(&SCHEMA, target, Consistency::Quiesced, found);
    super::print(&SCHEMA, &envelope, format)
}
