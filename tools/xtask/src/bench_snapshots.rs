//! `cargo xtask bench --snapshots`: what saving, restoring and copying a machine costs, beside QEMU's own
//! way of doing it (migration into a file and back) with the same guest, and an empty QEMU.
//!
//! Wall times of whole processes, medians of several runs: they hold for this host, so read the ratios.

use crate::build::{Part, build};
use crate::setup::{Need, ensure};
use crate::{exec, paths};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 7;
/// They are short, so more of them are needed.
const STARTS: usize = 15;
/// Guests of both sizes have to cost the same.
const SIZES: [&str; 2] = ["64M", "4096M"];
/// Copies that are made to see what one costs.
const COPIES: u64 = 10;
const MIB: f64 = (1 << 20) as f64;

/// Measures and prints.
pub fn main() -> Result<ExitCode> {
    ensure(&[Need::Qemu])?;
    build(&[Part::Vmm, Part::Kernel, Part::Images])?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    println!("{:<44} {:>12} {:>12}", "", SIZES[0], SIZES[1]);
    let columns = [size(folder.path(), SIZES[0])?, size(folder.path(), SIZES[1])?];
    for (row, other) in columns[0].iter().zip(&columns[1]) {
        println!("{:<44} {:>12} {:>12}", row.0, row.1, other.1);
    }
    let (private, baseline) = copies(folder.path())?;
    println!(
        "\n{COPIES} copies of an idle 256M shell: {private:.1} MiB of private guest memory each \
         (a QEMU process without guest has {baseline:.1} MiB of its own)"
    );
    Ok(ExitCode::SUCCESS)
}

/// All rows for one size of RAM.
fn size(folder: &Path, memory: &str) -> Result<Vec<(&'static str, String)>> {
    let vm = Vm::shell(folder, &format!("m{memory}"), memory)?;
    let dir = folder.join(format!("snapshot-{memory}"));
    let mut still = vec![];
    let mut copying = vec![];
    for _ in 0..RUNS {
        let taken = vm.snapshot(&dir)?;
        still.push(Duration::from_micros(taken.0));
        copying.push(Duration::from_micros(taken.1));
    }
    let stored = stored_bytes(&dir)?;
    drop(vm);
    let [empty, restore, verified] = starts(folder, memory, &dir)?;
    let file = folder.join(format!("migration-{memory}"));
    let to_file = format!("exec:cat > {}", file.display());
    let mut saver = Qemu::boot(memory)?;
    std::thread::sleep(Duration::from_secs(3));
    let start = Instant::now();
    saver.execute("migrate", json!({ "uri": to_file }))?;
    saver.wait_for("query-migrate", "completed")?;
    let migrate = start.elapsed();
    drop(saver);
    let from_file = format!("exec:cat {}", file.display());
    let incoming = median(|| {
        let start = Instant::now();
        let mut qemu = Qemu::start(&["-m", memory, "-incoming", &from_file])?;
        qemu.wait_for("query-status", "running")?;
        Ok(start.elapsed())
    })?;
    let migrated = std::fs::metadata(&file)?.len();
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    Ok(vec![
        ("belljar snapshot: the guest stands still", ms(middle(still))),
        ("  of that, copying the frames in use", ms(middle(copying))),
        ("  on disk", format!("{:.1} MiB", stored as f64 / MIB)),
        ("QEMU migrate into a file", ms(migrate)),
        ("  on disk", format!("{:.1} MiB", migrated as f64 / MIB)),
        ("an empty QEMU to its first instruction", ms(empty)),
        ("belljar restore to the guest's next", ms(verified)),
        ("  over an empty QEMU", over(verified, empty)),
        ("belljar restore --trust", ms(restore)),
        ("  over an empty QEMU", over(restore, empty)),
        ("QEMU -incoming from the file", ms(incoming)),
    ])
}

/// What an empty QEMU takes to its first instruction, and `belljar restore` with and without `--trust` to the
/// guest's next. One of each in turn, so that whatever else the host does meets all of them.
fn starts(folder: &Path, memory: &str, dir: &Path) -> Result<[Duration; 3]> {
    let dir = dir.to_string_lossy().into_owned();
    let restore = |more: &[&str]| {
        let start = Instant::now();
        let copy = Vm::start(folder, "copy", &[&["restore", &dir, "--detach"], more].concat())?;
        let took = start.elapsed();
        drop(copy);
        Ok::<_, anyhow::Error>(took)
    };
    let mut times = [vec![], vec![], vec![]];
    for _ in 0..STARTS {
        let start = Instant::now();
        let mut qemu = Qemu::start(&["-m", memory])?;
        qemu.execute("cont", json!({}))?;
        times[0].push(start.elapsed());
        drop(qemu);
        times[1].push(restore(&["--trust"])?);
        times[2].push(restore(&[])?);
    }
    Ok(times.map(middle))
}

/// Private guest memory of one of several copies, and what a QEMU has without a guest, in MiB.
fn copies(folder: &Path) -> Result<(f64, f64)> {
    let vm = Vm::shell(folder, "original", "256M")?;
    let number = COPIES.to_string();
    let out = exec::output(belljar(folder).args(["clone", &vm.name, "-n", &number]))?;
    let copies: Vec<Vm> = out.lines().map(|name| Vm::named(folder, name)).collect();
    // What they do once after they were thawed.
    std::thread::sleep(Duration::from_secs(3));
    let mut guest = 0;
    for copy in &copies {
        guest += private_bytes(copy.qemu_pid()?, Some("memory.img"))?;
    }
    let mut qemu = Qemu::start(&["-m", "256M"])?;
    qemu.execute("query-status", json!({}))?;
    let own = private_bytes(u64::from(qemu.child.id()), None)?;
    Ok((guest as f64 / MIB / copies.len() as f64, own as f64 / MIB))
}

/// Bytes that a process shares with nobody (proc(5), smaps), in all mappings or those of one file.
fn private_bytes(pid: u64, file: Option<&str>) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut wanted = false;
    let mut sum = 0;
    for line in text.lines() {
        if line.split_once(' ').is_some_and(|(range, _)| range.contains('-')) {
            wanted = file.is_none_or(|file| line.contains(file));
        } else if let (true, Some(rest)) = (wanted, line.strip_prefix("Private_Dirty:")) {
            let kib: u64 = rest.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            sum += kib << 10;
        }
    }
    Ok(sum)
}

fn stored_bytes(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut blocks = 0;
    for entry in std::fs::read_dir(dir)? {
        blocks += entry?.metadata()?.blocks();
    }
    Ok(blocks * 512)
}

fn belljar(folder: &Path) -> Command {
    let mut command = Command::new(paths::belljar());
    command.env("XDG_RUNTIME_DIR", folder);
    command
}

/// A VM that is killed when this is dropped.
struct Vm<'a> {
    folder: &'a Path,
    name: String,
}

impl<'a> Vm<'a> {
    /// A shell that waits for somebody to type, and has had the time to start.
    fn shell(folder: &'a Path, name: &str, memory: &str) -> Result<Self> {
        let vm = Self::start(folder, name, &["run", "--detach", "--memory", memory, "shell"])?;
        std::thread::sleep(Duration::from_secs(3));
        Ok(vm)
    }

    fn start(folder: &'a Path, name: &str, args: &[&str]) -> Result<Self> {
        exec::output(belljar(folder).args(args).args(["--name", name]))?;
        Ok(Self::named(folder, name))
    }

    fn named(folder: &'a Path, name: &str) -> Self {
        Self { folder, name: name.to_owned() }
    }

    /// Microseconds that the guest stood still and that copying took: the API says them.
    fn snapshot(&self, dir: &Path) -> Result<(u64, u64)> {
        let text = exec::output(belljar(self.folder).args(["snapshot", &self.name]).arg(dir))?;
        let millis = |before: &str| {
            let number = text.split(before).nth(1)?.split(' ').next()?;
            Some((number.parse::<f64>().ok()? * 1000.0) as u64)
        };
        millis("still for ").zip(millis(" ms, ")).context("snapshot says no times")
    }

    fn qemu_pid(&self) -> Result<u64> {
        let file = self.folder.join("belljar").join(&self.name).join("vm.json");
        let info: Value = serde_json::from_slice(&exec::read(&file)?)?;
        info["backend_pid"].as_u64().context("the VM has no process of its own")
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        // It may have ended.
        let _ = belljar(self.folder).args(["kill", &self.name]).status();
    }
}

/// A QEMU of its own, driven over QMP, with the same board.
struct Qemu {
    child: Child,
    to: ChildStdin,
    from: BufReader<std::process::ChildStdout>,
}

impl Qemu {
    fn start(args: &[&str]) -> Result<Self> {
        let mut command = Command::new("qemu-system-aarch64");
        command.args(["-M", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on", "-nodefaults"]);
        command.args(["-display", "none", "-qmp", "stdio"]).args(args);
        if !args.contains(&"-incoming") {
            command.arg("-S");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start qemu-system-aarch64")?;
        let to = child.stdin.take().context("no stdin")?;
        let from = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut qemu = Self { child, to, from };
        qemu.line()?;
        qemu.execute("qmp_capabilities", json!({}))?;
        Ok(qemu)
    }

    /// Our own kernel with the shell image.
    fn boot(memory: &str) -> Result<Self> {
        let image = paths::home().join("Image");
        let rootfs = paths::home().join("images/shell/rootfs.cpio");
        let mut qemu = Self::start(&[
            "-m",
            memory,
            "-kernel",
            &image.to_string_lossy(),
            "-initrd",
            &rootfs.to_string_lossy(),
            "-append",
            "belljar.mounts=1",
        ])?;
        qemu.execute("cont", json!({}))?;
        Ok(qemu)
    }

    fn line(&mut self) -> Result<Value> {
        let mut text = String::new();
        if self.from.read_line(&mut text)? == 0 {
            bail!("QEMU ended");
        }
        Ok(serde_json::from_str(&text)?)
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        writeln!(self.to, "{}", json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    fn wait_for(&mut self, query: &str, status: &str) -> Result<()> {
        loop {
            let answer = self.execute(query, json!({}))?;
            match answer["status"].as_str() {
                Some(now) if now == status => return Ok(()),
                Some("failed") => bail!("QEMU's migration failed: {answer}"),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn over(time: Duration, other: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() / other.as_secs_f64())
}

fn median(mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    Ok(middle((0..RUNS).map(|_| run()).collect::<Result<_>>()?))
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
