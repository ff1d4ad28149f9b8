//! `--log-level`, `--log-format` and `--log-file`: what a VM's process does, as it does it.
//!
//! The events are `tracing`'s, where they happen. Without `--log-level` nothing listens, and an event costs
//! the look at one word. The file is opened here, before any thread is confined; from then on a thread
//! only writes to it.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::Error;

/// How much is logged, how and where.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Log what this process does, up to this level
    #[arg(long, global = true, value_enum, value_name = "LEVEL")]
    log_level: Option<Level>,
    /// How the log is written: lines for people, or a JSON object a line
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    /// Where the log goes, behind what is there [default: stderr]
    #[arg(long, global = true, value_name = "FILE", requires = "log_level")]
    log_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    /// What ended a VM or was lost
    Error,
    /// What its user should know of
    Warn,
    /// Start, pause, snapshot, end
    Info,
    /// Devices, threads, requests
    Debug,
    /// Every exit of a CPU
    Trace,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    /// A line an event
    #[default]
    Text,
    /// A JSON object an event
    Json,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the log {}: {cause}", .path.display())]
struct LogError {
    path: PathBuf,
    cause: io::Error,
}

/// Starts to log if `args` want it.
pub(super) fn start(args: &Args) -> Result<(), Error> {
    let Some(level) = args.log_level else { return Ok(()) };
    let format = args.log_format;
    match &args.log_file {
        None => listen(level, format, io::stderr),
        Some(path) => {
            let file = File::options().append(true).create(true).open(path);
            let file = file.map_err(|cause| LogError { path: path.clone(), cause })?;
            listen(level, format, Mutex::new(file));
        }
    }
    Ok(())
}

fn listen(
    level: Level,
    format: LogFormat,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) {
    // A terminal may be raw, and a file is no terminal: no colours.
    let lines = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(level))
        .with_ansi(false)
        .with_writer(writer);
    match format {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).with_target(false).init(),
    }
}
