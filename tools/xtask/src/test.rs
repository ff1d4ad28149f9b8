//! `cargo xtask test`: everything that CI checks, layer by layer, with real counts.
//!
//! A layer that runs no test is a failure, so none can vanish unnoticed; `--only` is for work on one
//! layer and says at the end what it left out.

use crate::build::{self, Part};
use crate::counts::{Counts, twice};
use crate::fuzz::{self, Budget};
use crate::guest_run::{self, Machines, Outcome, RUNNER, RUNNER_PATH, name_of};
use crate::libtest::Libtest;
use crate::patient::{Patient, kill_children};
use crate::reference::{self, Machine};
use crate::setup::{ALL, ensure};
use crate::toolchain::{Toolchain, host};
use crate::{exec, kvm, paths, same, selftest};
use anyhow::{Context, Result};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these layers
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Layer>,
    /// Of the guest programs and the end-to-end tests, only those whose name contains this; in the reference
    /// machine the name of a suite in `tests/tests` is all of it
    #[arg(long)]
    filter: Option<String>,
}

/// A layer of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layer {
    /// rustfmt and clippy for every target
    Lints,
    /// Tests that run on the host alone
    Host,
    /// The fuzz targets, a fixed number of inputs each
    Fuzz,
    /// The kernel's check of its own assembly
    Selftest,
    /// Guest programs on Debian's kernel
    Reference,
    /// Guest programs on our kernel
    Guest,
    /// The command line from end to end
    E2e,
    /// Guest programs and the command line on the KVM backend, in the reference machine
    Kvm,
}

const LAYERS: &[Layer] = &[
    Layer::Lints,
    Layer::Host,
    Layer::Fuzz,
    Layer::Selftest,
    Layer::Reference,
    Layer::Guest,
    Layer::E2e,
    Layer::Kvm,
];

/// Inputs for each fuzz target: enough to find what a change broke on the beaten track. Looking for
/// more is `cargo xtask fuzz`.
const FUZZ_RUNS: u32 = 10_000;

/// A test binary that says nothing for so long hangs: each test ends much sooner, the build of images included.
const SILENCE: Duration = Duration::from_secs(600);

/// How the results on Debian's kernel are called.
const REFERENCE: &str = "reference";

/// Runs `cargo xtask test`.
pub fn main(args: Args) -> Result<ExitCode> {
    let layers = if args.only.is_empty() { LAYERS } else { &args.only };
    let toolchain = ensure(ALL)?;
    let mut counts = Counts::default();
    for layer in layers {
        let before = counts.total();
        let begun = Instant::now();
        println!("== {}", title(*layer));
        let result = build_for(*layer, &toolchain).and_then(|()| match layer {
            Layer::Lints => lints(&toolchain, &mut counts),
            Layer::Host => cargo_tests(host("test").args(["--no-fail-fast"]), "host", &mut counts),
            Layer::Fuzz => fuzz_targets(&mut counts),
            Layer::Selftest => self_tests(&toolchain, &mut counts),
            Layer::Reference => reference_tests(args.filter.as_deref(), &mut counts),
            Layer::Guest => guest_tests(args.filter.as_deref(), &mut counts),
            Layer::E2e => e2e_tests(args.filter.as_deref(), &mut counts),
            Layer::Kvm => kvm_tests(args.filter.as_deref(), &mut counts),
        });
        if let Err(error) = result {
            println!("{error:#}");
            let name = format!("{} could not run", title(*layer));
            counts.add_with(&name, false, || format!("{error:#}"));
        } else if counts.total() == before {
            counts.add(&format!("{} ran no test", title(*layer)), false);
        }
        println!("== {} took {} s", title(*layer), begun.elapsed().as_secs());
    }
    counts.print();
    let left_out: Vec<_> = LAYERS.iter().filter(|layer| !layers.contains(layer)).collect();
    if !left_out.is_empty() {
        println!("not asked for: {left_out:?}");
    }
    println!("{} passed, {} failed", counts.passed(), counts.failed());
    Ok(if counts.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn title(layer: Layer) -> &'static str {
    match layer {
        Layer::Lints => "rustfmt and clippy",
        Layer::Host => "host tests",
        Layer::Fuzz => "fuzz targets",
        Layer::Selftest => "the kernel's self-test",
        Layer::Reference => "guest programs on Debian's kernel",
        Layer::Guest => "guest programs on our kernel",
        Layer::E2e => "end-to-end tests",
        Layer::Kvm => "guest programs and the command line on KVM",
    }
}

/// Builds what `layer` tests; what a layer before it built takes no time.
fn build_for(layer: Layer, toolchain: &Toolchain) -> Result<()> {
    let parts: &[Part] = match layer {
        Layer::Lints | Layer::Host | Layer::Fuzz | Layer::Selftest => return Ok(()),
        Layer::Reference => &[Part::Images, Part::GuestTests],
        Layer::Guest | Layer::E2e | Layer::Kvm => {
            &[Part::Vmm, Part::Kernel, Part::Images, Part::GuestTests]
        }
    };
    build::build(parts)?;
    if layer == Layer::Kvm {
        return kvm::prepare();
    }
    exec::run(toolchain.linux("build").args(["-p", RUNNER]))
}

/// Each check counts as one test: formatting, and clippy for the host, for the kernel's target and for
/// AArch64 Linux.
fn lints(toolchain: &Toolchain, counts: &mut Counts) -> Result<()> {
    let mut fmt = host("fmt");
    fmt.args(["--all", "--check"]);
    let mut on_host = host("clippy");
    // The guest programs are for AArch64 alone, and linted there.
    on_host.args(["--workspace", "--exclude", build::GUEST_TESTS, "--all-targets", "--keep-going"]);
    on_host.args(["--", "-D", "warnings"]);
    let mut on_kernel = toolchain.kernel("clippy");
    on_kernel.args(["--", "-D", "warnings"]);
    let mut on_linux = toolchain.linux("clippy");
    on_linux.args([
        "-p",
        "belljar",
        "-p",
        "belljar-kvm-bench",
        "-p",
        build::GUEST_TESTS,
        "-p",
        RUNNER,
    ]);
    on_linux.args(["--keep-going", "--", "-D", "warnings"]);
    let checks = [
        ("rustfmt", fmt),
        ("clippy on the host", on_host),
        ("clippy on the kernel target", on_kernel),
        ("clippy on AArch64 Linux", on_linux),
    ];
    for (name, mut command) in checks {
        let result = exec::run(&mut command);
        println!("{name}: {}", if result.is_ok() { "ok" } else { "FAILED" });
        counts.add(name, result.is_ok());
    }
    Ok(())
}

/// Runs `command`, a `cargo test`, and adds up what its test binaries say. One that hangs is killed, and the next one
/// runs.
fn cargo_tests(command: &mut Command, layer: &str, counts: &mut Counts) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child =
        command.spawn().with_context(|| format!("cannot start `{}`", exec::show(command)))?;
    let mut report = Libtest::new(layer, counts);
    let mut output = Patient::new(child.stdout.take().context("no pipe")?, SILENCE);
    while let Err(error) = std::io::copy(&mut output, &mut report) {
        if error.kind() != ErrorKind::TimedOut {
            return Err(error.into());
        }
        // What a test left behind may still hold the pipe.
        if child.try_wait()?.is_some() {
            break;
        }
        // Cargo may compile for as long as it takes.
        if report.hangs(SILENCE) {
            kill_children(child.id()).context("cannot kill a test binary that hangs")?;
        }
    }
    report.finish();
    let failed = report.failed();
    // A binary that does not compile gives no result.
    if !child.wait()?.success() && failed == 0 {
        counts.add(&format!("{layer}: `{}`", exec::show(command)), false);
    }
    Ok(())
}

fn e2e_tests(filter: Option<&str>, counts: &mut Counts) -> Result<()> {
    const LAYER: &str = "e2e";
    twice(LAYER, counts, |names, counts| {
        let mut command = host("test");
        command.args(["--no-fail-fast", "-p", kvm::TESTS, "--"]).args(chosen(names, filter));
        cargo_tests(command.env("BELLJAR", paths::belljar()), LAYER, counts)
    })
}

/// Arguments of a Rust test binary that runs the tests `names`, or if there are none, those whose names
/// contain `filter`.
fn chosen(names: &[String], filter: Option<&str>) -> Vec<String> {
    if names.is_empty() {
        return filter.into_iter().map(String::from).collect();
    }
    [&["--exact".to_owned()], names].concat()
}

fn fuzz_targets(counts: &mut Counts) -> Result<()> {
    fuzz::run_all(&fuzz::build(&[])?, Budget::Runs(FUZZ_RUNS), |outcome| {
        let fuzz::Outcome { name, passed, output } = outcome;
        println!("test fuzz/{name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            output.lines().for_each(|line| println!("  | {}", line.trim_end()));
        }
        counts.add_with(&format!("fuzz/{name}"), passed, || output);
    })
}

fn self_tests(toolchain: &Toolchain, counts: &mut Counts) -> Result<()> {
    for outcome in selftest::run(toolchain)? {
        println!("test {} ... {}", outcome.name, if outcome.passed { "ok" } else { "FAILED" });
        if !outcome.passed {
            outcome.output.lines().for_each(|line| println!("  | {}", line.trim_end()));
        }
        let name = format!("selftest: {}", outcome.name);
        counts.add_with(&name, outcome.passed, || outcome.output);
    }
    Ok(())
}

/// The guest programs as files of the host.
fn guest_programs(filter: Option<&str>) -> Result<Vec<PathBuf>> {
    let names = build::guest_test_names()?;
    let wanted = names.iter().filter(|name| filter.is_none_or(|filter| name.contains(filter)));
    Ok(wanted.map(|name| paths::home().join("guest-tests").join(name)).collect())
}

fn reference_tests(filter: Option<&str>, counts: &mut Counts) -> Result<()> {
    run_programs(&Machines::booting(&reference_machine()?), REFERENCE, filter, counts)
}

/// Makes a machine with Debian's kernel from an archive.
fn reference_machine() -> Result<impl Fn(&Path) -> Result<Command>> {
    let kernel = reference::kernel()?;
    let machine =
        Machine { cpus: 2, memory: "512M", virtualization: false, share: None, counted: false };
    Ok(move |initrd: &Path| Ok(machine.command(&kernel, initrd)))
}

fn guest_tests(filter: Option<&str>, counts: &mut Counts) -> Result<()> {
    let machine = |initrd: &Path| {
        let mut command = Command::new(paths::belljar());
        command.args(["run", "--cpus", "2", "--memory", "512M"]).arg(initrd);
        command.args(["--", RUNNER_PATH]);
        Ok(command)
    };
    run_programs(&Machines::booting(&machine), "belljar", filter, counts)?;
    moved_guest_tests(filter, counts)
}

/// The same programs in a machine that is saved at random system calls of each, ended, and restored, of
/// which they know nothing.
fn moved_guest_tests(filter: Option<&str>, counts: &mut Counts) -> Result<()> {
    /// As each snapshot is called: guest-kernel/src/suspend/forced.rs.
    const NAME: &str = "forced";
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let options = ["--snapshots".as_ref(), folder.path().as_os_str(), "--stop-when-saved".as_ref()];
    let boot = |initrd: &Path| {
        let mut command = Command::new(paths::belljar());
        command.args(["run", "--cpus", "2", "--memory", "512M"]).args(options).arg(initrd);
        command.args(["--", RUNNER_PATH]);
        Ok(command)
    };
    let go_on = || {
        let (new, taken) = (folder.path().join(NAME), folder.path().join("taken"));
        if !new.exists() {
            return Ok(None);
        }
        if taken.exists() {
            std::fs::remove_dir_all(&taken)?;
        }
        std::fs::rename(&new, &taken)?;
        let mut command = Command::new(paths::belljar());
        command.arg("restore").arg(taken).args(options);
        Ok(Some(command))
    };
    let machines = Machines { boot: &boot, go_on: &go_on, batch: 6, snapshots: 4 };
    run_programs(&machines, "moved", filter, counts)
}

/// The guest programs on our kernel under KVM, with one CPU and with several, and the command line; each
/// in one boot of the reference machine.
fn kvm_tests(filter: Option<&str>, counts: &mut Counts) -> Result<()> {
    // Once, before both machines compare with it.
    record_missing(&guest_programs(filter)?)?;
    // Side by side: the guest with one CPU leaves one of the host to the other.
    std::thread::scope(|scope| {
        let on = |cpus| {
            scope.spawn(move || {
                let mut counts = Counts::default();
                let folder = tempfile::tempdir().context("cannot make a temporary folder");
                let result = folder.and_then(|folder| {
                    let machine = |plan: &Path| kvm::nested(cpus, plan, folder.path());
                    let machines = Machines::booting(&machine);
                    run_programs(&machines, &format!("kvm-{cpus}"), filter, &mut counts)
                });
                (counts, result)
            })
        };
        let results = [1, 4].map(on).map(|running| {
            let (ran, result) = running.join().expect("a thread that runs programs panicked");
            counts.join(ran);
            result
        });
        results.into_iter().collect::<Result<()>>()
    })?;
    kvm_end_to_end(filter, counts)
}

/// The command line on KVM: what a test prepares on the host, the suites in the machine, and what a test
/// judges on the host afterwards. They share a folder.
fn kvm_end_to_end(filter: Option<&str>, counts: &mut Counts) -> Result<()> {
    let share = tempfile::tempdir().context("cannot make a temporary folder")?;
    let on_host = |suites: Option<&str>, module: &str, counts: &mut Counts| {
        let Some(suites) = suites else { return Ok(()) };
        let mut command = host("test");
        command.args(["--no-fail-fast", "-p", kvm::TESTS, "--test", suites, "--", "--ignored"]);
        command.arg(module).env("BELLJAR", paths::belljar()).env(kvm::SHARE, share.path());
        cargo_tests(&mut command, "kvm-e2e on the host", counts)
    };
    let suites = kvm::suites()?;
    // The name of a suite stands for all that is in it.
    let suite = filter.filter(|filter| suites.iter().any(|(name, _)| name == filter));
    let (suites, filter): (Vec<_>, _) = match suite {
        Some(suite) => (suites.into_iter().filter(|(name, _)| name == suite).collect(), None),
        None => (suites, filter),
    };
    // What the host does before and after belongs together: one test alone has neither, and no unit test.
    let on_both_sides = suite.or(filter.is_none().then_some("*"));
    let on_both_sides = on_both_sides.filter(|suite| *suite != kvm::BELLJAR);
    on_host(on_both_sides, "before_kvm::", counts)?;
    const LAYER: &str = "kvm-e2e";
    twice(LAYER, counts, |names, counts| {
        let mut report = Libtest::new(LAYER, counts);
        let chosen = chosen(names, filter);
        let status = kvm::end_to_end(&suites, &chosen, share.path(), &mut report);
        report.finish();
        let failed = report.failed();
        match status? {
            Some(0) => {}
            None => counts.add("the reference machine died", false),
            Some(_) if failed > 0 => {}
            Some(status) => counts.add(&format!("the suites ended with {status}"), false),
        }
        Ok(())
    })?;
    on_host(on_both_sides, "after_kvm::", counts)
}

/// Runs the guest programs on one kernel. What a `same_…` program prints on Debian's is kept, and on ours
/// it is compared with that.
fn run_programs(
    machines: &Machines<'_>,
    kernel: &str,
    filter: Option<&str>,
    counts: &mut Counts,
) -> Result<()> {
    let is_reference = kernel == REFERENCE;
    let mut finish = |outcome: &mut Outcome| {
        // The first snapshot comes soon, the last one perhaps behind the end.
        if outcome.passed() && outcome.moves < machines.snapshots.min(1) as usize {
            outcome.status = "it was not moved".to_owned();
        }
        if outcome.passed() && same::is_compared(&outcome.name) {
            if is_reference { same::record(outcome)? } else { same::compare(outcome)? }
        }
        print_outcome(kernel, outcome);
        Ok(())
    };
    let programs = guest_programs(filter)?;
    if !is_reference {
        record_missing(&programs)?;
    }
    twice(kernel, counts, |names, counts| {
        let mut programs = programs.clone();
        programs.retain(|program| names.is_empty() || names.contains(&name_of(program)));
        let outcomes = guest_run::run_plan(machines, &programs, &mut finish)?;
        for outcome in &outcomes {
            let name = format!("{kernel}/{}", outcome.name);
            counts.add_with(&name, outcome.passed(), || outcome.told());
        }
        debug_assert!(outcomes.iter().zip(&programs).all(|(o, p)| o.name == name_of(p)));
        Ok(())
    })
}

/// Asks Debian's kernel for the answers that are not known; after the reference layer all are.
fn record_missing(programs: &[PathBuf]) -> Result<()> {
    let missing: Vec<_> =
        programs.iter().filter(|path| same::lacks_record(path)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let record = |outcome: &mut Outcome| same::record(outcome);
    guest_run::run_plan(&Machines::booting(&reference_machine()?), &missing, record).map(drop)
}

fn print_outcome(kernel: &str, outcome: &Outcome) {
    let result = if outcome.passed() { "ok" } else { "FAILED" };
    let moved = if outcome.moves > 0 { &*format!(", moved {} times", outcome.moves) } else { "" };
    // In one piece: another machine may be running programs, too.
    let seconds = outcome.took.as_secs_f32();
    let mut text = format!("test {kernel}/{} ... {result}{moved}, {seconds:.1} s\n", outcome.name);
    if !outcome.passed() {
        let told = outcome.told();
        let lines: Vec<_> = told.lines().collect();
        for line in &lines[lines.len().saturating_sub(40)..] {
            text += &format!("  | {}\n", line.trim_end());
        }
    }
    print!("{text}");
    let _ = std::io::stdout().flush();
}
