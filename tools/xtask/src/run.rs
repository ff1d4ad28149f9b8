//! `cargo xtask run`: build everything and boot the `shell` image.

use crate::rootfs::Recipe;
use crate::setup::{Need, ensure};
use crate::{build, paths};
use anyhow::{Context, Result, bail};
use std::io::IsTerminal;
use std::process::{Command, ExitCode};

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub struct Args {
    /// The image to boot
    #[arg(default_value = "shell")]
    image: String,
    /// Run the image's demo even if there is a terminal
    #[arg(long)]
    demo: bool,
    /// What runs as process 1 instead of the image's own
    #[arg(last = true)]
    command: Vec<String>,
}

/// Runs `cargo xtask run`.
pub fn main(args: Args) -> Result<ExitCode> {
    ensure(&[Need::Qemu])?;
    build::build(&[build::Part::Vmm, build::Part::Kernel, build::Part::Images])?;
    let mut command = Command::new(paths::belljar());
    command.args(["run", &args.image]);
    if !args.command.is_empty() {
        command.arg("--").args(&args.command);
    } else if args.demo || !std::io::stdin().is_terminal() {
        let recipe = Recipe::read(&paths::root().join("images").join(&args.image))?;
        if recipe.demo.is_empty() {
            bail!("the image {} has no demo: give it a command or a terminal", args.image);
        }
        command.arg("--").args(&recipe.demo);
    }
    let status = command.status().context("cannot start belljar")?;
    Ok(ExitCode::from(status.code().unwrap_or(125) as u8))
}
