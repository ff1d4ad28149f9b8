//! Running programs in a machine through the runner (`tools/runner`): the archive that tells it what
//! to do, and its reports read back from the console.

use crate::patient::Patient;
use crate::rootfs::{Recipe, linux_program};
use crate::{exec, paths};
use anyhow::{Context, Result};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The package of the runner.
pub const RUNNER: &str = "belljar-runner";
/// Where the runner stands in an archive.
pub const RUNNER_PATH: &str = "/.runner/init";
/// A machine that says nothing for so long hangs. The runner itself ends a program after 180 s, and waits as long again
/// for what it left.
const SILENCE: Duration = Duration::from_secs(420);
const MARK: &[u8] = b"\x1e\x1e";

/// How one program ended.
pub struct Outcome {
    /// Name of the program.
    pub name: String,
    /// Exit code, 128 + signal, or what else happened.
    pub status: String,
    /// What it printed, or the last words of the machine.
    pub output: Vec<u8>,
    /// How many times it went on in another machine.
    pub moves: usize,
    /// How long it ran, by the host's clock.
    pub took: Duration,
}

impl Outcome {
    /// Whether the program passed.
    pub fn passed(&self) -> bool {
        self.status == "0"
    }

    /// What it printed and how it ended, for people.
    pub fn told(&self) -> String {
        format!("{}\nstatus: {}", String::from_utf8_lossy(&self.output).trim_end(), self.status)
    }
}

/// What the runner is asked to do.
pub enum Job<'a> {
    /// Run one command on the console.
    Console {
        /// Its words.
        argv: &'a [String],
        /// Whether the console passes bytes unchanged.
        raw: bool,
    },
    /// Run host programs one after the other and report each.
    Plan {
        /// The programs.
        programs: &'a [PathBuf],
        /// How often the machine shall be saved while each of them runs, at random system calls.
        snapshots: u32,
    },
}

/// The machines that programs run in.
pub struct Machines<'a> {
    /// Makes the command of one that boots an archive.
    pub boot: &'a dyn Fn(&Path) -> Result<Command>,
    /// Makes the command of one in which a machine goes on that has just ended, if it does.
    pub go_on: &'a dyn Fn() -> Result<Option<Command>>,
    /// Programs of one boot: with few, what is saved is small.
    pub batch: usize,
    /// See [`Job::Plan`].
    pub snapshots: u32,
}

impl<'a> Machines<'a> {
    /// Machines that all programs run in until one takes it down.
    pub fn booting(boot: &'a dyn Fn(&Path) -> Result<Command>) -> Self {
        Self { boot, go_on: &|| Ok(None), batch: usize::MAX, snapshots: 0 }
    }
}

/// The folder of the `shell` image's recipe.
pub fn shell() -> PathBuf {
    paths::root().join("images/shell")
}

/// The folder of the recipe for a reference machine with tools: gdb, strace, readelf.
pub fn recipe_with_tools() -> PathBuf {
    paths::root().join("tests/kvm")
}

/// Makes an archive of the image whose recipe is in `base` with the runner, the job and `files` (guest
/// path, host file).
pub fn archive(base: &Path, job: &Job<'_>, files: &[(String, PathBuf)]) -> Result<Vec<u8>> {
    let mut rootfs = Recipe::read(base)?.rootfs(base)?;
    rootfs.add_file(RUNNER_PATH, 0o755, exec::read(&linux_program(RUNNER))?);
    for (guest, host) in files {
        rootfs.add_file(guest, 0o755, exec::read(host)?);
    }
    match job {
        Job::Console { argv, raw } => {
            rootfs.add_file("/.runner/argv", 0o644, argv.join("\0").into_bytes());
            if *raw {
                rootfs.add_file("/.runner/raw", 0o644, Vec::new());
            }
        }
        Job::Plan { programs, snapshots } => {
            let mut plan = String::new();
            for program in *programs {
                let path = format!("/.runner/programs/{}", name_of(program));
                rootfs.add_file(&path, 0o755, exec::read(program)?);
                plan += &format!("{path}\n");
            }
            rootfs.add_file("/.runner/plan", 0o644, plan.into_bytes());
            if *snapshots > 0 {
                let count = snapshots.to_string().into_bytes();
                rootfs.add_file("/.runner/snapshots", 0o644, count);
            }
            rootfs.add_file("/.runner/raw", 0o644, Vec::new());
        }
    }
    rootfs.to_cpio()
}

/// Runs `programs` in `machines` and gives back one outcome each, in order. When a program takes its
/// machine down, the others go on in a new one.
pub fn run_plan(
    machines: &Machines<'_>,
    programs: &[PathBuf],
    mut progress: impl FnMut(&mut Outcome) -> Result<()>,
) -> Result<Vec<Outcome>> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let path = folder.path().join("plan.cpio");
    let mut outcomes = Vec::new();
    while outcomes.len() < programs.len() {
        let rest = &programs[outcomes.len()..];
        let rest = &rest[..rest.len().min(machines.batch)];
        let job = Job::Plan { programs: rest, snapshots: machines.snapshots };
        std::fs::write(&path, archive(&shell(), &job, &[])?)?;
        let before = outcomes.len();
        let report = &mut |mut outcome| {
            progress(&mut outcome)?;
            outcomes.push(outcome);
            Ok(())
        };
        let last_words = run_machine((machines.boot)(&path)?, machines.go_on, report)?;
        let Some((started, output)) = last_words else { continue };
        let status = if started { "the machine died" } else { "the machine did not start" };
        let none_ran = outcomes.len() == before && !started;
        let victims = if none_ran { rest.len() } else { 1 };
        for program in rest.iter().skip(outcomes.len() - before).take(victims) {
            let (name, status) = (name_of(program), status.to_string());
            let output = output.clone();
            let mut outcome = Outcome { name, status, output, moves: 0, took: Duration::ZERO };
            progress(&mut outcome)?;
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

/// A machine whose console is read.
struct Running {
    child: Child,
    console: Patient,
}

impl Running {
    fn start(mut command: Command, stderr: &std::fs::File) -> Result<Self> {
        let words = exec::show(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr.try_clone()?);
        let mut child = command.spawn().with_context(|| format!("cannot start `{words}`"))?;
        let console = Patient::new(child.stdout.take().context("no pipe")?, SILENCE);
        Ok(Self { child, console })
    }
}

/// Runs one machine to its end, and those in which it goes on. `None` if the runner said goodbye, else
/// whether a program was running and what the machine said last.
fn run_machine(
    command: Command,
    go_on: &dyn Fn() -> Result<Option<Command>>,
    report: &mut dyn FnMut(Outcome) -> Result<()>,
) -> Result<Option<(bool, Vec<u8>)>> {
    let mut stderr = tempfile::tempfile()?;
    let mut machine = Running::start(command, &stderr)?;
    let mut chunk = [0; 65536];
    let mut stream = Stream::default();
    let mut running = false;
    let mut began = Instant::now();
    let mut said_goodbye = false;
    let mut hung = false;
    let mut moves = 0;
    loop {
        match machine.console.read(&mut chunk) {
            Ok(0) => {
                machine.child.wait()?;
                let Some(command) = go_on()? else { break };
                machine = Running::start(command, &stderr)?;
                moves += 1;
            }
            Ok(length) => stream.feed(&chunk[..length]),
            Err(_) => {
                hung = true;
                let _ = machine.child.kill();
                break;
            }
        }
        while let Some(event) = stream.next() {
            match event {
                Event::Begin => (running, began) = (true, Instant::now()),
                Event::End(outcome) => {
                    running = false;
                    let took = began.elapsed();
                    if let Err(error) = report(Outcome { moves, took, ..outcome }) {
                        let _ = machine.child.kill();
                        let _ = machine.child.wait();
                        return Err(error);
                    }
                    moves = 0;
                }
                Event::Exit(_) => said_goodbye = true,
            }
        }
    }
    machine.child.wait()?;
    if said_goodbye {
        return Ok(None);
    }
    let mut words = stream.noise;
    std::io::Seek::rewind(&mut stderr)?;
    stderr.read_to_end(&mut words)?;
    if hung {
        words.extend(format!("\nno word for {} s\n", SILENCE.as_secs()).bytes());
    }
    Ok(Some((running, words)))
}

/// The name of a program: its file name.
pub fn name_of(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What the runner reports.
enum Event {
    Begin,
    End(Outcome),
    Exit(i32),
}

/// The console's bytes, taken apart into reports and the rest.
#[derive(Default)]
struct Stream {
    pending: Vec<u8>,
    noise: Vec<u8>,
}

impl Stream {
    fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend(bytes);
    }

    fn next(&mut self) -> Option<Event> {
        let Some(at) = find(&self.pending, MARK) else {
            let keep = usize::from(self.pending.last() == Some(&MARK[0]));
            let noise = self.pending.drain(..self.pending.len() - keep);
            self.noise.extend(noise);
            return None;
        };
        self.noise.extend(self.pending.drain(..at));
        let end = find(&self.pending, b"\n")?;
        let line = String::from_utf8_lossy(&self.pending[MARK.len()..end]).into_owned();
        let words: Vec<_> = line.split_whitespace().collect();
        let event = match words[..] {
            ["begin", _] => Event::Begin,
            ["exit", status] => Event::Exit(status.parse().unwrap_or(-1)),
            ["end", name, status, length] => {
                let length: usize = length.parse().unwrap_or(0);
                let output = self.pending.get(end + 1..end + 1 + length)?.to_vec();
                self.pending.drain(end + 1..end + 1 + length);
                Event::End(Outcome {
                    name: name.to_string(),
                    status: status.to_string(),
                    output,
                    moves: 0,
                    took: Duration::ZERO,
                })
            }
            _ => Event::Begin,
        };
        self.pending.drain(..=end);
        self.noise.clear();
        Some(event)
    }
}

/// Copies a console to `out` without the runner's goodbye, and gives back the status that it names;
/// `None` if the machine ended without one.
pub fn copy_console(console: &mut dyn Read, out: &mut dyn std::io::Write) -> Result<Option<i32>> {
    let mut stream = Stream::default();
    let mut status = None;
    let mut chunk = [0; 65536];
    while let length @ 1.. = console.read(&mut chunk)? {
        stream.feed(&chunk[..length]);
        while let Some(at) = find(&stream.pending, MARK) {
            out.write_all(&stream.pending[..at])?;
            stream.pending.drain(..at);
            match stream.next() {
                Some(Event::Exit(code)) => status = Some(code),
                Some(_) => {}
                None => break,
            }
        }
        if find(&stream.pending, MARK).is_none() {
            let keep = usize::from(stream.pending.last() == Some(&MARK[0]));
            let end = stream.pending.len() - keep;
            out.write_all(&stream.pending[..end])?;
            stream.pending.drain(..end);
        }
        out.flush()?;
    }
    out.write_all(&stream.pending)?;
    out.flush()?;
    Ok(status)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &[u8] =
        b"noise\n\x1e\x1ebegin a\n\x1e\x1eend a 7 5\nx\n\x1e\x1e\n\x1e\x1eexit 0\n";

    #[test]
    fn stream_cut_anywhere_gives_the_same_reports() {
        for cut in 0..SESSION.len() {
            let mut stream = Stream::default();
            let mut outcomes = Vec::new();
            let mut exits = 0;
            for part in [&SESSION[..cut], &SESSION[cut..]] {
                stream.feed(part);
                while let Some(event) = stream.next() {
                    match event {
                        Event::Begin => {}
                        Event::End(outcome) => outcomes.push((outcome.status, outcome.output)),
                        Event::Exit(status) => exits += 1 + status,
                    }
                }
            }
            assert_eq!(outcomes, [("7".to_string(), b"x\n\x1e\x1e\n".to_vec())], "cut at {cut}");
            assert_eq!(exits, 1);
        }
    }

    #[test]
    fn copy_console_hides_the_goodbye_only() {
        let mut out = Vec::new();
        let mut console = &b"a\x1eb\n\x1e\x1eexit 3\nlate"[..];
        assert_eq!(copy_console(&mut console, &mut out).unwrap(), Some(3));
        assert_eq!(out, b"a\x1eb\nlate");
        assert_eq!(copy_console(&mut &b"died"[..], &mut out).unwrap(), None);
    }
}
