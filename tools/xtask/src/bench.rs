//! `cargo xtask bench`: one static program measures Debian's kernel and ours in the same QEMU.
//!
//! QEMU counts instructions (`-icount shift=0`, 1,000 of them are 1 us), so the figures repeat on a
//! noisy machine. Linux runs at its best, without what its users may have switched on for safety, since
//! anything else would flatter us. Wall time is printed beside it.

use crate::build::{Part, build};
use crate::rootfs::{Recipe, linux_program};
use crate::setup::{Need, ensure};
use crate::{exec, paths, reference};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// The package of the measuring program.
const BENCH: &str = "belljar-bench";
/// All rows, in the order of the table.
const ROWS: &[&str] = &[
    "getppid",
    "seccomp_number",
    "seccomp_argument",
    "read",
    "signal",
    "fork_exit_wait_0",
    "fork_exit_wait_16m",
    "fork_exit_wait_128m",
    "vfork_exec",
    "thread",
    "fork_exec_true",
    "fork_exec_sh",
    "ctx_2",
    "ctx_16",
    "pipe_rtt",
    "pipe_bw",
    "unix_rtt",
    "tcp_rtt",
    "fault_anon",
    "fault_cow",
    "mmap",
    "ns_cgroup",
    "ns_ipc",
    "ns_mnt",
    "ns_net",
    "ns_pid",
    "ns_time",
    "ns_user",
    "ns_uts",
    "boot_el0",
    "boot_init",
];

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Only these rows; with --kvm, only these of start, memory, console, restores, copies, binary and calls
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measure only one of the two kernels
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// Measure what saving, restoring and copying machines costs, beside QEMU's own way
    #[arg(long, conflicts_with_all = ["only", "kernel", "image"])]
    snapshots: bool,
    /// Measure what the VMM costs on KVM, in the reference machine
    #[arg(long, conflicts_with_all = ["kernel", "image", "snapshots"])]
    kvm: bool,
    /// Measure this kernel Image instead of the one that is built
    #[arg(long)]
    image: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kernel {
    /// Debian's
    Linux,
    /// Ours
    Belljar,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A table for people
    Table,
    /// JSON for programs
    Json,
}

/// One row of the result; lower values are better.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    unit: String,
    linux: Option<f64>,
    belljar: Option<f64>,
    /// Bell Jar's value over Linux's.
    ratio: Option<f64>,
    #[serde(skip)]
    wall: [Option<Duration>; 2],
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
}

/// One kernel's figure for one row.
#[derive(Clone)]
struct Figure {
    unit: String,
    value: f64,
    /// Wall time of one operation.
    wall: Duration,
}

/// Runs `cargo xtask bench`.
pub fn main(args: Args) -> Result<ExitCode> {
    if args.kvm {
        return crate::bench_kvm::main(args.only);
    }
    if args.snapshots {
        return crate::bench_snapshots::main();
    }
    if let Some(unknown) = args.only.iter().find(|name| !ROWS.contains(&name.as_str())) {
        bail!("there is no row `{unknown}`; the rows are {}", ROWS.join(", "));
    }
    let toolchain = ensure(&[Need::Cross, Need::Qemu, Need::Packages])?;
    exec::run(toolchain.linux("build").args(["-p", BENCH]))?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let initrd = folder.path().join("bench.cpio");
    std::fs::write(&initrd, archive(&args.only)?)?;

    let on_linux = "rdinit=/bin/bench console=ttyAMA0 quiet loglevel=0 panic=-1 nokaslr \
                    mitigations=off kpti=off arm64.nopauth audit=0 apparmor=0 cryptomgr.notests";
    let on_ours = "init=/bin/bench belljar.mounts quiet";
    let mut linux = HashMap::new();
    if args.kernel != Some(Kernel::Belljar) {
        linux = measure(&reference::kernel()?, &initrd, on_linux)?;
    }
    let mut belljar = HashMap::new();
    if args.kernel != Some(Kernel::Linux) {
        let image = match args.image {
            Some(image) => image,
            None => {
                build(&[Part::Kernel])?;
                paths::home().join("Image")
            }
        };
        belljar = measure(&image, &initrd, on_ours)?;
    }

    let mut report = Report { rows: Vec::new() };
    for &name in ROWS
        .iter()
        .filter(|name| args.only.is_empty() || args.only.iter().any(|wanted| wanted == *name))
    {
        let figures = [linux.get(name), belljar.get(name)];
        let [linux, belljar] = figures.map(|figure| figure.map(|figure| figure.value));
        let ratio = linux.zip(belljar).map(|(linux, belljar)| belljar / linux);
        let unit = figures.iter().flatten().next().map_or("us", |figure| &figure.unit).to_string();
        let wall = figures.map(|figure| figure.map(|figure| figure.wall));
        report.rows.push(Row { name, unit, linux, belljar, ratio, wall });
    }
    match args.format {
        Format::Table => print_table(&report),
        Format::Json => println!("{}", serde_json::to_string(&report)?),
    }
    let complete = report.rows.iter().all(|row| match args.kernel {
        Some(_) => row.linux.or(row.belljar).is_some(),
        None => row.ratio.is_some(),
    });
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The `shell` image with the measuring program in it.
fn archive(rows: &[String]) -> Result<Vec<u8>> {
    let dir = paths::root().join("images/shell");
    let mut rootfs = Recipe::read(&dir)?.rootfs(&dir)?;
    rootfs.add_file("/bin/bench", 0o755, exec::read(&linux_program(BENCH))?);
    if !rows.is_empty() {
        rootfs.add_file("/.bench/rows", 0o644, rows.join(" ").into_bytes());
    }
    rootfs.to_cpio()
}

/// Boots `kernel` in a QEMU that counts instructions, and gathers the figures by name.
fn measure(kernel: &Path, initrd: &Path, append: &str) -> Result<HashMap<String, Figure>> {
    /// No row takes so long; a machine that is silent for it is stuck.
    const LIMIT: &str = "900";
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", LIMIT, "qemu-system-aarch64"]);
    command.args(["-M", "virt,gic-version=3", "-cpu", "cortex-a72", "-smp", "1", "-m", "512M"]);
    command.args(["-icount", "shift=0,sleep=off", "-nodefaults", "-display", "none", "-no-reboot"]);
    command.args(["-serial", "stdio", "-append", append]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start QEMU")?;
    let mut figures = HashMap::new();
    let power_on = Instant::now();
    let mut began = power_on;
    let mut done = false;
    let mut last_words = Vec::new();
    for line in BufReader::new(child.stdout.take().context("no pipe")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_string();
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["begin", name] => {
                began = if name.starts_with("boot_") { power_on } else { Instant::now() };
            }
            ["end", name, unit, value, operations] => {
                let operations: u32 = operations.parse().unwrap_or(1);
                let value = value.parse().with_context(|| format!("`{line}`"))?;
                let wall = began.elapsed() / operations.max(1);
                figures.insert(name.to_string(), Figure { unit: unit.to_string(), value, wall });
            }
            ["failed", name, ..] => eprintln!("{name}: {line}"),
            ["done"] => done = true,
            _ => last_words.push(line),
        }
    }
    let status = child.wait()?;
    if !done {
        let from = last_words.len().saturating_sub(30);
        last_words[from..].iter().for_each(|line| eprintln!("| {line}"));
        eprintln!("the machine ended before the last row ({status})");
    }
    Ok(figures)
}

fn print_table(report: &Report) {
    let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.3}"));
    let wall = |wall: Option<Duration>| {
        wall.map_or("-".to_string(), |wall| format!("{:.1}", wall.as_secs_f64() * 1e6))
    };
    println!(
        "{:<20} {:<7} {:>12} {:>12} {:>7} {:>14} {:>14}",
        "row", "unit", "linux", "belljar", "ratio", "linux wall us", "belljar wall us"
    );
    for row in &report.rows {
        println!(
            "{:<20} {:<7} {:>12} {:>12} {:>7} {:>14} {:>14}",
            row.name,
            row.unit,
            number(row.linux),
            number(row.belljar),
            number(row.ratio),
            wall(row.wall[0]),
            wall(row.wall[1]),
        );
    }
}
