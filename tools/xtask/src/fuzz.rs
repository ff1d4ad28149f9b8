//! `cargo xtask fuzz`: the fuzz targets under libFuzzer, with the stable compiler.
//!
//! `cargo fuzz` wants a nightly compiler for its sanitizers. Coverage alone needs nothing but options
//! of code generation, so that is how the targets are built here: guided by coverage, with overflow
//! and debug assertions on, on any host with a C++ compiler for libFuzzer itself. A fuzz workspace is a
//! folder `fuzz` beside the crate that it tests; `cargo +nightly fuzz run` works there as well.
//!
//! What a target learns stays in `target/fuzz/corpus/NAME`, an input that ends it in
//! `target/fuzz/artifacts/NAME`.

use crate::setup::{Need, ensure};
use crate::toolchain::host;
use crate::{exec, paths};
use anyhow::{Context, Result, bail};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The fuzz workspaces.
const WORKSPACES: &[&str] = &["vmm/fuzz", "guest-kernel/fuzz"];

/// What makes a build report its coverage to libFuzzer.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these targets; without it, all of them
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// How far one target is taken.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// So long, with a new seed, and what it learns is kept.
    Seconds(u32),
    /// So many inputs of a fixed seed from an empty corpus, the same each time.
    Runs(u32),
}

/// A target, built.
pub struct Target {
    /// Its name.
    pub name: String,
    program: PathBuf,
}

/// Runs `cargo xtask fuzz`.
pub fn main(args: Args) -> Result<ExitCode> {
    ensure(&[Need::Fuzz])?;
    let targets = build(&args.targets)?;
    let mut all_passed = true;
    for target in &targets {
        println!("== {}", target.name);
        let mut command = target.command(Budget::Seconds(args.seconds))?;
        let passed = command.status().with_context(|| target.cannot_start())?.success();
        println!("{}: {}", target.name, if passed { "ok" } else { "FAILED" });
        all_passed &= passed;
    }
    Ok(if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds all targets, or those that are named.
pub fn build(wanted: &[String]) -> Result<Vec<Target>> {
    let triple = host_triple()?;
    let mut targets = Vec::new();
    for workspace in WORKSPACES {
        let manifest = paths::root().join(workspace).join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let names: Vec<_> = target_names(&manifest)?
            .into_iter()
            .filter(|name| wanted.is_empty() || wanted.contains(name))
            .collect();
        if names.is_empty() {
            continue;
        }
        let mut command = host("build");
        command.arg("--manifest-path").arg(&manifest);
        // With a target named, build scripts and macros are left as they are.
        command.args(["--release", "--target", &triple]).arg("--target-dir").arg(folder());
        command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
        names.iter().for_each(|name| {
            command.args(["--bin", name]);
        });
        exec::run(&mut command)?;
        let programs = folder().join(&triple).join("release");
        targets
            .extend(names.into_iter().map(|name| Target { program: programs.join(&name), name }));
    }
    if let Some(unknown) = wanted.iter().find(|name| !targets.iter().any(|t| t.name == **name)) {
        bail!("there is no fuzz target {unknown}: see [[bin]] in {}", WORKSPACES.join(", "));
    }
    Ok(targets)
}

impl Target {
    /// What runs the target. It fails if an input ends it, which then lies in the artifacts.
    fn command(&self, budget: Budget) -> Result<Command> {
        let artifacts = folder().join("artifacts").join(&self.name);
        std::fs::create_dir_all(&artifacts)
            .with_context(|| format!("cannot make {}", artifacts.display()))?;
        let mut command = Command::new(&self.program);
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        command.args(["-rss_limit_mb=2048", "-timeout=25", "-print_final_stats=1"]);
        match budget {
            Budget::Seconds(seconds) => {
                let corpus = folder().join("corpus").join(&self.name);
                std::fs::create_dir_all(&corpus)
                    .with_context(|| format!("cannot make {}", corpus.display()))?;
                command.arg(format!("-max_total_time={seconds}")).arg(corpus);
            }
            Budget::Runs(runs) => {
                command.args(["-seed=1", "-verbosity=0"]).arg(format!("-runs={runs}"));
            }
        }
        Ok(command)
    }

    fn cannot_start(&self) -> String {
        format!("cannot start {}", self.program.display())
    }
}

/// What came of a target in [`run_all`].
pub struct Outcome {
    /// The target's name.
    pub name: String,
    /// No input ended it.
    pub passed: bool,
    /// What it said.
    pub output: String,
}

/// Takes each of `targets` so far, as many at a time as there are CPUs, and tells `each` as soon as one is done.
pub fn run_all(targets: &[Target], budget: Budget, each: impl FnMut(Outcome) + Send) -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (next, each) = (AtomicUsize::new(0), Mutex::new(each));
    let some = || {
        while let Some(target) = targets.get(next.fetch_add(1, Relaxed)) {
            let output = target.command(budget)?.output();
            let output = output.with_context(|| target.cannot_start())?;
            let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
            let (name, passed) = (target.name.clone(), output.status.success());
            each.lock().expect("nobody panics")(Outcome { name, passed, output: said });
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..cpus).map(|_| scope.spawn(some)).collect();
        let ended = running.into_iter().map(|thread| thread.join().expect("it does not panic"));
        ended.collect()
    })
}

/// Where everything of the fuzzers goes.
fn folder() -> PathBuf {
    paths::target().join("fuzz")
}

/// The `[[bin]]`s of a fuzz workspace.
fn target_names(manifest: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let table: toml::Table =
        toml::from_str(&text).with_context(|| format!("in {}", manifest.display()))?;
    let bins = table.get("bin").and_then(toml::Value::as_array);
    let names = bins.into_iter().flatten().filter_map(|bin| bin.get("name")?.as_str());
    Ok(names.map(str::to_owned).collect())
}

/// The host's target, as rustc names it.
fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = exec::output(Command::new(rustc).arg("-vV"))?;
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).context("`rustc -vV` names no host")
}
