//! `belljar build`

use std::path::PathBuf;

use super::Error;
use crate::image::{self, Image, Program};

/// Make one bootable Image: kernel, files and program together
///
/// `belljar run FILE` boots it, and so does `qemu-system-aarch64 -M virt -cpu max -kernel FILE`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What it shall run: the same as for `belljar run`
    image: String,
    /// The first program and its arguments; for an image that is one program: its arguments
    #[arg(last = true, value_name = "CMD")]
    cmd: Vec<String>,
    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Set a variable of the first program, or pass on your own with just NAME
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Use this arm64 Image instead of Bell Jar's own kernel
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "console=ttyAMA0 quiet belljar.mounts=1")]
    append: String,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let image = Image::resolve(&args.image)?;
    let program = Program { cmd: args.cmd.clone(), env: args.env.clone(), cores: vec![] };
    image::build(image, &program, args.kernel.as_deref(), &args.append, &args.output)?;
    Ok(())
}
