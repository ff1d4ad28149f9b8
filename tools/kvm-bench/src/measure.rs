//! The figures, one line each: name, value, unit.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::snapshots;

/// What the guest does: PSCI SYSTEM_OFF.
pub const OFF: [u32; 3] = [
    0xd2b0_8000, // mov  x0, #0x84000000
    0xf280_0100, // movk x0, #8
    0xd400_0002, // hvc  #0
];

const BELLJAR: &str = "/bin/belljar";
const KERNEL: &str = "/tmp/off.img";
pub const RUNTIME: &str = "/tmp/run";
const RUNS: usize = 21;
const BYTES: u32 = 200;
const MIB: f64 = (1 << 20) as f64;

/// Measures and prints everything.
pub fn all() {
    fs::create_dir_all(RUNTIME).expect("a runtime folder");
    fs::write(KERNEL, image()).expect("a kernel that switches itself off");
    start();
    memory();
    console();
    snapshots::all();
    let size = fs::metadata(BELLJAR).expect("belljar").len() as f64;
    print("binary, static and stripped", size / MIB, "MiB", Some(6.0));
    calls();
}

pub fn print(name: &str, value: f64, unit: &str, most: Option<f64>) {
    let most = most.map_or_else(String::new, |most| format!("   (at most {most})"));
    println!("{name:<52} {value:>9.2} {unit}{most}");
}

/// An arm64 `Image` (Linux's arch/arm64/booting.rst) of [`OFF`].
fn image() -> Vec<u8> {
    let mut image = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0x1400_0010_u32.to_le_bytes()); // b 64
    put(16, &0x1000_u64.to_le_bytes()); // image_size
    put(24, &0xa_u64.to_le_bytes()); // little endian, 4 KiB pages, anywhere
    put(56, b"ARM\x64");
    OFF.iter().enumerate().for_each(|(i, word)| put(64 + 4 * i, &word.to_le_bytes()));
    image
}

/// The median of the times from before a process is made until it is gone.
fn time(program: &str, args: &[&str]) -> f64 {
    let once = || {
        let mut command = Command::new(program);
        command.args(args).env("XDG_RUNTIME_DIR", RUNTIME).stdin(Stdio::null());
        let start = Instant::now();
        let output = command.output().expect("a process");
        assert!(output.status.success(), "{args:?}: {output:?}");
        start.elapsed().as_secs_f64() * 1e3
    };
    median(RUNS, once)
}

/// The median of so many runs.
pub fn median(runs: usize, mut run: impl FnMut() -> f64) -> f64 {
    let mut times: Vec<f64> = (0..runs).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    times[runs / 2]
}

/// `belljar` with `args`.
pub fn belljar(args: &[&str]) -> Command {
    let mut command = Command::new(BELLJAR);
    command.args(args).env("XDG_RUNTIME_DIR", RUNTIME);
    command
}

fn start() {
    let this = std::env::current_exe().expect("this program");
    let this = this.to_str().expect("a name in UTF-8");
    let empty = time(this, &["empty"]);
    let calls = time(this, &["calls"]);
    let belljar = time(BELLJAR, &["run", "--memory", "64M", "--kernel", KERNEL, "hello"]);
    print("an empty program", empty, "ms", None);
    print("KVM's own calls and that guest, as a program", calls, "ms", None);
    print("belljar and that guest", belljar, "ms", None);
    print(
        "belljar over an empty program and KVM's calls",
        belljar / (empty + calls),
        "times",
        Some(3.0),
    );
}

/// `belljar` with a guest that runs `script`, and its console.
fn guest(script: &str) -> std::process::Child {
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

fn memory() {
    let mut child = guest("echo ready; read x");
    read_until(child.stdout.as_mut().expect("a pipe"), "ready");
    sleep(Duration::from_secs(1));
    // All mappings but the guest's RAM, each a line with its name and then lines with its figures (proc(5)).
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", child.id())).expect("its mappings");
    let (mut program, mut data, mut name) = (0.0, 0.0, "");
    for line in smaps.lines() {
        if let Some(kib) =
            line.strip_prefix("Rss:").and_then(|rest| rest.trim().strip_suffix(" kB"))
        {
            let kib: f64 = kib.parse().expect("a number");
            match name {
                name if name.contains("belljar-ram") => {}
                BELLJAR => program += kib,
                _ => data += kib,
            }
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            name = line.split_whitespace().nth(5).unwrap_or_default();
        }
    }
    print("resident beside the guest's RAM: the program itself", program / 1024.0, "MiB", None);
    print("resident beside the guest's RAM: data", data / 1024.0, "MiB", None);
    print("resident beside the guest's RAM", (program + data) / 1024.0, "MiB", Some(5.0));
    drop(child.stdin.take());
    child.wait().expect("the VM's end");
}

/// What a byte costs that a program of the guest writes to its console.
fn console() {
    let script = format!(
        "echo ready; read x; i=0; while [ $i -lt {BYTES} ]; do printf x; i=$((i+1)); done; \
         echo done; read x"
    );
    let mut child = guest(&script);
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
