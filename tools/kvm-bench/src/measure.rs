//! The figures, one line each: name, value, unit.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::{guest, snapshots};

const BELLJAR: &str = "/bin/belljar";
const KERNEL: &str = "/tmp/off.img";
pub const RUNTIME: &str = "/tmp/run";
const RUNS: usize = 21;
const BYTES: u32 = 200;
const MIB: f64 = (1 << 20) as f64;

/// The start of belljar over that of the yardstick must be no more than so many times.
const START: f64 = 3.0;

/// All parts, by their names.
const PARTS: [(&str, fn()); 7] = [
    ("start", || start(Some(START))),
    ("memory", memory),
    ("console", console),
    ("restores", snapshots::restores),
    ("copies", snapshots::copies),
    ("binary", binary),
    ("calls", calls),
];

/// Measures and prints those parts of [`PARTS`] that are in `only`; all if it is empty. False if one is no part.
pub fn parts(only: &[String]) -> bool {
    let names = PARTS.map(|(name, _)| name);
    if let Some(unknown) = only.iter().find(|wanted| !names.contains(&wanted.as_str())) {
        eprintln!("{unknown} is not one of {}", names.join(", "));
        return false;
    }
    set_up();
    for (name, measure) in PARTS {
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            measure();
        }
    }
    true
}

fn binary() {
    let size = fs::metadata(BELLJAR).expect("belljar").len() as f64;
    print("binary, static and stripped", size / MIB, "MiB", Some(6.0));
}

/// Measures and prints the starts, where a clock counts instructions.
pub fn counted() {
    set_up();
    start(None);
}

fn set_up() {
    fs::create_dir_all(RUNTIME).expect("a runtime folder");
    fs::write(KERNEL, guest::image()).expect("a kernel that switches itself off");
}

pub fn print(name: &str, value: f64, unit: &str, most: Option<f64>) {
    let most = most.map_or_else(String::new, |most| format!("   (at most {most})"));
    println!("{name:<52} {value:>9.2} {unit}{most}");
}

/// How long a process took, in milliseconds: its start, to when the guest's first instruction, or the program
/// itself, read the counter, and its life until it was gone.
fn time(program: &str, args: &[&str]) -> [f64; 2] {
    let per_ms = guest::frequency() / 1e3;
    let mut command = Command::new(program);
    command.args(args).env("XDG_RUNTIME_DIR", RUNTIME).stdin(Stdio::null());
    let start = guest::counter();
    let output = command.output().expect("a process");
    let end = guest::counter();
    let first = guest::read(&output.stdout).filter(|_| output.status.success());
    let first = first.unwrap_or_else(|| panic!("{args:?}: {output:?}"));
    [(first - start) as f64 / per_ms, (end - start) as f64 / per_ms]
}

/// The first quartile of `values`, their median, and the third quartile.
pub fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// `belljar` with `args`.
pub fn belljar(args: &[&str]) -> Command {
    let mut command = Command::new(BELLJAR);
    command.args(args).env("XDG_RUNTIME_DIR", RUNTIME);
    command
}

/// `most` is what the ratio should be at most.
fn start(most: Option<f64>) {
    let this = std::env::current_exe().expect("this program");
    let this = this.to_str().expect("a name in UTF-8");
    let programs = [
        (this, &["run-empty"][..]),
        (this, &["run-calls"]),
        (BELLJAR, &["run", "--memory", "64M", "--kernel", KERNEL, "hello"]),
    ];
    // In turns: whatever else this machine's host does meets all of them. The first of each fills caches.
    let round = || programs.map(|(name, args)| time(name, args));
    round();
    let runs: Vec<_> = (0..RUNS).map(|_| round()).collect();
    let figures = |what: usize| [0, 1, 2].map(|of| quartiles(runs.iter().map(|run| run[of][what])));
    let [empty, calls, belljar] = figures(0);
    print("start of an empty program", empty[1], "ms", None);
    print("the same and KVM's own calls, to the guest", calls[1], "ms", None);
    print("start of belljar, to the guest", belljar[1], "ms", None);
    let ratio = belljar[1] / calls[1];
    print("start of belljar over that with KVM's own calls", ratio, "times", most);
    // Each start beside the yardstick of its own round.
    let [low, middle, high] = quartiles(runs.iter().map(|run| run[2][0] / run[1][0]));
    print("  round by round: median", middle, "times", None);
    print("  round by round: a quarter is below", low, "times", None);
    print("  round by round: a quarter is above", high, "times", None);
    let [[_, empty, _], [_, calls, _], [_, belljar, _]] = figures(1);
    print("an empty program until it is gone", empty, "ms", None);
    print("the same and KVM's own calls until all is gone", calls, "ms", None);
    print("belljar until all is gone", belljar, "ms", None);
}

/// `belljar` with a guest that runs `script`, and its console.
fn shell(script: &str) -> std::process::Child {
    let mut command = belljar(&["run", "--name", "t", "shell", "--", "sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("belljar")
}

/// The sum of the figures at `/metrics` whose line begins with one of `names`.
fn metric(names: &[&str]) -> f64 {
    let mut socket =
        UnixStream::connect(format!("{RUNTIME}/belljar/t/api.sock")).expect("the VM's socket");
    let request = b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    socket.write_all(request).expect("a request");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer");
    let lines = text.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Reads the console until `end` has come.
pub fn read_until(console: &mut dyn Read, end: &str) {
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    while !String::from_utf8_lossy(&text).contains(end) {
        let length = console.read(&mut chunk).expect("the console");
        assert_ne!(length, 0, "the guest ended: {}", String::from_utf8_lossy(&text));
        text.extend(&chunk[..length]);
    }
}

/// What is resident of `child`'s memory beside the guest's RAM, in MiB: the program itself, its heap, and the rest.
fn resident(child: &std::process::Child) -> [f64; 3] {
    // All mappings, each a line with its name and then lines with its figures (proc(5)).
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", child.id())).expect("its mappings");
    let (mut program, mut heap, mut data, mut name) = (0.0, 0.0, 0.0, "");
    for line in smaps.lines() {
        if let Some(kib) =
            line.strip_prefix("Rss:").and_then(|rest| rest.trim().strip_suffix(" kB"))
        {
            let kib: f64 = kib.parse().expect("a number");
            match name {
                name if name.contains("belljar-ram") => {}
                BELLJAR => program += kib,
                "[heap]" => heap += kib,
                _ => data += kib,
            }
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            name = line.split_whitespace().nth(5).unwrap_or_default();
        }
    }
    [program, heap, data].map(|kib| kib / 1024.0)
}

fn memory() {
    const SNAPSHOT: &str = "/tmp/measured";
    let mut child =
        shell("ls -lR / >/dev/null; dd if=/dev/zero of=/tmp/x bs=1M count=4; echo ready; read x");
    read_until(child.stdout.as_mut().expect("a pipe"), "ready");
    sleep(Duration::from_secs(1));
    let parts = resident(&child);
    let names = ["the program itself", "heap", "stacks and other data"];
    for (name, value) in names.into_iter().zip(parts) {
        print(&format!("resident beside the guest's RAM: {name}"), value, "MiB", None);
    }
    print("resident beside the guest's RAM", parts.iter().sum(), "MiB", Some(5.0));
    let after = |what: &str, commands: &[&[&str]]| {
        for args in commands {
            let output = belljar(args).output().expect("belljar");
            assert!(output.status.success(), "{args:?}: {output:?}");
        }
        print(&format!("  after {what}"), resident(&child).iter().sum(), "MiB", Some(5.0));
    };
    let on_machine = ["ps", "pstree", "runq", "log"].map(|view| [view, "t"]);
    let on_process = ["maps", "fds"].map(|view| [view, "t", "1"]);
    let views = on_machine.iter().map(|words| &words[..]);
    let views: Vec<_> = views.chain(on_process.iter().map(|words| &words[..])).collect();
    after("six views", &views);
    after("it was saved", &[&["snapshot", "t", SNAPSHOT]]);
    fs::remove_dir_all(SNAPSHOT).expect("a snapshot");
    drop(child.stdin.take());
    child.wait().expect("the VM's end");
}

/// What a byte costs that a program of the guest writes to its console.
fn console() {
    let script = format!(
        "echo ready; read x; i=0; while [ $i -lt {BYTES} ]; do printf x; i=$((i+1)); done; \
         echo done; read x"
    );
    let mut child = shell(&script);
    let mut stdin = child.stdin.take().expect("a pipe");
    let stdout = child.stdout.as_mut().expect("a pipe");
    read_until(stdout, "ready");
    sleep(Duration::from_secs(1));
    // Notifications end in the host's kernel, the others here.
    let exits = [
        "belljar_vcpu_exits_by_cause_total{vcpu=\"0\",cause=\"mmio_kernel\"}",
        "belljar_vmm_exits_total{cause=\"mmio",
    ];
    let look = || metric(&exits);
    let before = look();
    stdin.write_all(b"go\n").expect("the guest's input");
    read_until(stdout, "done");
    let each = (look() - before) / f64::from(BYTES);
    print("exits for a byte on the console", each, "", Some(1.0));
    drop(stdin);
    child.wait().expect("the VM's end");
}

/// Which system calls the start makes.
fn calls() {
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-S", "calls", BELLJAR]);
    command.args(["run", "--memory", "64M", "--no-sandbox", "--kernel", KERNEL, "hello"]);
    command.env("XDG_RUNTIME_DIR", RUNTIME).stdin(Stdio::null());
    match command.output() {
        Ok(output) => println!("\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => println!("no strace: {error}"),
    }
}
