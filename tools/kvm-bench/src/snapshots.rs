//! What going on with a snapshot costs, beside a fresh boot of the same image, and what copies share.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::measure::{RUNTIME, belljar, print, quartiles, read_until};
use crate::trace::{self, Trace};

const SNAPSHOT: &str = "/tmp/snapshot";
/// Where a guest saves itself, and as what.
const OWN: &str = "/tmp/own";
const ROUNDS: usize = 11;
const COPIES: usize = 100;

/// Measures and prints what a restore takes.
pub fn restores() {
    let trace = trace::start();
    idle();
    saves_itself();
    let own = format!("{OWN}/s");
    // In turns: whatever else this machine's host does meets all of them.
    let round = |_| {
        let boot = to_output(&["run", "--memory", "256M", "shell", "--", "echo", "up"]);
        let (checked, trusted) = (restore(&trace, &[]), restore(&trace, &["--trust"]));
        let output = to_output(&["restore", &own]);
        [boot, checked[0], checked[1], trusted[0], trusted[1], output, nothing()]
    };
    let rounds: Vec<_> = (0..ROUNDS).map(round).collect();
    let median = |what: usize| quartiles(rounds.iter().map(|round| round[what]))[1];
    let boot = median(0);
    print("a fresh boot of shell to its first output", boot, "ms", None);
    for (what, (name, most)) in (1..).zip([
        ("restore of an idle shell to its next instruction", Some(0.1)),
        ("  until the command returns", None),
        ("restore --trust to its next instruction", Some(0.1)),
        ("  until the command returns", None),
        ("restore of a shell to its next output", None),
        ("a belljar that starts nothing (--version)", None),
    ]) {
        print(name, median(what), "ms", None);
        print("    over a fresh boot", median(what) / boot, "times", most);
    }
}

/// What every command takes, in ms.
fn nothing() -> f64 {
    let start = Instant::now();
    run(&["--version"]);
    ms(start.elapsed())
}

/// From before the process is made until the guest has printed "up", in ms.
fn to_output(args: &[&str]) -> f64 {
    let start = Instant::now();
    let mut command = belljar(args);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("belljar");
    read_until(child.stdout.as_mut().expect("a pipe"), "up");
    let took = start.elapsed();
    child.wait().expect("the VM's end");
    ms(took)
}

/// Saves a VM with a shell that waits for somebody to type.
fn idle() {
    run(&["run", "--detach", "--name", "t", "--memory", "256M", "shell"]);
    sleep(Duration::from_secs(3));
    run(&["snapshot", "t", SNAPSHOT, "--stop"]);
}

/// Saves a VM at a point from where it prints at once.
fn saves_itself() {
    fs::create_dir_all(OWN).expect("a folder");
    let script = "echo s > /proc/belljar/snapshot; echo up";
    let own = ["--snapshots", OWN, "--stop-when-saved"];
    let args = [&["run", "--memory", "256M"], &own[..], &["shell", "--", "sh", "-c", script]];
    run(&args.concat());
}

/// From before the process is made until the guest's CPU runs, and until the command has returned, in ms.
fn restore(trace: &Trace, options: &[&str]) -> [f64; 2] {
    trace.clear();
    let start = trace::now();
    run(&[&["restore", SNAPSHOT, "--detach", "--name", "r"], options].concat());
    let returned = trace::now();
    let entered = trace.first_entry();
    run(&["kill", "r"]);
    [entered - start, returned - start]
}

/// What each of many copies has for itself.
pub fn copies() {
    idle();
    let start = Instant::now();
    let names = run(&["clone", SNAPSHOT, "-n", &COPIES.to_string()]);
    let each = ms(start.elapsed()) / COPIES as f64;
    // What they do once after they were thawed.
    sleep(Duration::from_secs(10));
    let copies: Vec<Copy> = names.lines().map(Copy::of).collect();
    assert_eq!(copies.len(), COPIES);
    let sum: f64 = copies.iter().map(|copy| copy.private).sum();
    let most = copies.iter().map(|copy| copy.private).fold(0.0, f64::max);
    let guest: f64 = copies.iter().map(|copy| copy.guest).sum();
    let shared = copies.iter().all(|copy| copy.file == copies[0].file);
    print("time to make one of 100 copies", each, "ms", None);
    print("private memory of a copy, mean", sum / COPIES as f64, "MiB", Some(6.0));
    print("private memory of a copy, most", most, "MiB", Some(6.0));
    print("  of that, its guest's, mean", guest / COPIES as f64, "MiB", None);
    println!("all copies map the same memory file: {shared}");
    for name in names.lines() {
        run(&["kill", name]);
    }
}

/// What one of them has.
struct Copy {
    /// Memory that it shares with nobody, in MiB.
    private: f64,
    /// The part of that which is its guest's RAM.
    guest: f64,
    /// Device and inode number of its memory file.
    file: String,
}

impl Copy {
    fn of(name: &str) -> Self {
        let info = fs::read_to_string(format!("{RUNTIME}/belljar/{name}/vm.json"));
        let info = info.expect("the VM's folder");
        let pid = info.split("\"pid\": ").nth(1).and_then(|rest| rest.split(',').next());
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", pid.expect("its process")));
        // Each mapping is a line with its name and then lines with its figures (proc(5)).
        let mut copy = Self { private: 0.0, guest: 0.0, file: String::new() };
        let mut is_guest = false;
        for line in smaps.expect("its mappings").lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("Private_Clean:" | "Private_Dirty:") => {
                    let kib: f64 = words.next().and_then(|n| n.parse().ok()).expect("a number");
                    copy.private += kib / 1024.0;
                    copy.guest += if is_guest { kib / 1024.0 } else { 0.0 };
                }
                Some(range) if range.contains('-') => {
                    is_guest = line.contains("memory.img");
                    if is_guest {
                        copy.file = words.skip(2).take(2).collect::<Vec<_>>().join(" ");
                    }
                }
                _ => {}
            }
        }
        copy
    }
}

/// Runs `belljar` to its end: what it printed.
fn run(args: &[&str]) -> String {
    let output = belljar(args).stdin(Stdio::null()).output().expect("belljar");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
