//! The command line: one file a subcommand, each of which parses, calls and prints.
//!
//! stdout carries answers and the guest's output only; everything that Bell Jar has to say of itself
//! is one line on stderr. The exit status is 125 if Bell Jar itself failed, wrong usage included.

mod build;
mod checkpoint;
mod console;
mod devices;
mod diff;
mod doctor;
mod dump;
mod gcore;
mod kill;
mod log;
mod ls;
mod pause;
mod restore;
mod resume;
mod run;
mod snapshot;
mod target;
mod view;
mod wait;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::render::{self, Envelope, Schema};
use crate::runtime::FAILURE;

/// Why a command failed: the one line that the user sees.
type Error = Box<dyn std::error::Error>;

/// Runs unmodified AArch64 Linux programs in a small virtual machine whose every process can be
/// seen from outside.
#[derive(Debug, Parser)]
#[command(name = "belljar", version, disable_help_subcommand = true)]
#[command(after_help = "Exit status: that of the command; 125 if belljar itself failed.")]
struct Cli {
    /// How answers are printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    #[command(flatten)]
    log: log::Args,
    #[command(subcommand)]
    command: Described,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Build(build::Args),
    Ls(ls::Args),
    #[command(flatten)]
    View(view::Views),
    Console(console::Args),
    Pause(pause::PauseArgs),
    Unpause(pause::UnpauseArgs),
    Kill(kill::Args),
    Wait(wait::Args),
    Doctor(doctor::Args),
    Dump(dump::Args),
    Diff(diff::Args),
    Gcore(gcore::Args),
    Snapshot(snapshot::Args),
    Restore(restore::RestoreArgs),
    Clone(restore::CloneArgs),
    Checkpoint(checkpoint::Args),
    Resume(resume::Args),
}

/// A subcommand as clap is told of it: what starts a VM without the others if it is the one that is called. To
/// describe all of them takes longer than most of what starts a VM.
#[derive(Debug)]
struct Described(Command);

impl FromArgMatches for Described {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Command::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Subcommand for Described {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        let first = std::env::args_os().nth(1);
        let called = match first.as_deref().and_then(|first| first.to_str()) {
            Some("run") => run::Args::augment_args(clap::Command::new("run")),
            Some("restore") => restore::RestoreArgs::augment_args(clap::Command::new("restore")),
            _ => return Command::augment_subcommands(command),
        };
        command.subcommand(called).subcommand_required(true)
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Command::augment_subcommands_for_update(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Command::has_subcommand(name)
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// One object: schema, target, consistency, rows
    Json,
    /// A heading line and one line a row
    Csv,
}

impl From<Format> for render::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Table => Self::Table,
            Format::Json => Self::Json,
            Format::Csv => Self::Csv,
        }
    }
}

/// Runs the command line `args`, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version come this way too, for stdout.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS };
        }
    };
    if let Err(error) = log::start(&cli.log) {
        complain(&error.to_string());
        return ExitCode::from(FAILURE);
    }
    let format = cli.format.into();
    let result = match cli.command.0 {
        Command::Run(args) => run::run(args),
        Command::Build(args) => build::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Ls(args) => ls::run(&args, format).map(|()| ExitCode::SUCCESS),
        Command::View(view) => view::run(&view, format).map(|()| ExitCode::SUCCESS),
        Command::Console(args) => console::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Pause(args) => pause::pause(&args).map(|()| ExitCode::SUCCESS),
        Command::Unpause(args) => pause::unpause(&args).map(|()| ExitCode::SUCCESS),
        Command::Kill(args) => kill::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Wait(args) => wait::run(&args),
        Command::Doctor(args) => doctor::run(&args, format),
        Command::Checkpoint(args) => checkpoint::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Resume(args) => resume::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Gcore(args) => gcore::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Diff(args) => diff::run(&args, format).map(|()| ExitCode::SUCCESS),
        Command::Dump(args) => dump::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Snapshot(args) => snapshot::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Restore(args) => restore::restore(args),
        Command::Clone(args) => restore::clone(&args),
    };
    result.unwrap_or_else(|error| {
        if !is_broken_pipe(&error) {
            complain(&error.to_string());
        }
        ExitCode::from(FAILURE)
    })
}

/// Tells the user something in one line.
fn complain(message: &str) {
    let line = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    // If stderr is gone there is nobody to tell.
    let _ = writeln!(io::stderr(), "belljar: {}", render::escape(&line));
}

/// Prints an answer.
fn print(schema: &Schema, envelope: &Envelope, format: render::Format) -> Result<(), Error> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    render::render(&mut out, schema, envelope, format)?;
    Ok(out.flush()?)
}

/// Whether the reader of stdout just had enough, as `head` does.
fn is_broken_pipe(error: &Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
