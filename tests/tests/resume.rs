//! Processes that are taken out of one machine as cores and go on in another: what they print there is what
//! they would have printed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use belljar_tests::guest::Guest;
use belljar_tests::sandbox::Done;

/// A guest test program, as `cargo xtask build guest-tests` leaves it.
fn program(name: &str) -> String {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../target/belljar/guest-tests", name].iter().collect();
    assert!(path.is_file(), "{} is not there: run cargo xtask build first", path.display());
    path.to_str().unwrap().to_owned()
}

/// Takes processes out; a thread may be in the middle of a system call at the first tries.
fn checkpoint(guest: &Guest, args: &[&str]) {
    for _ in 0..50 {
        let done = guest.run(&[&["checkpoint"], args].concat(), "");
        if done.code == 0 {
            return;
        }
        assert!(done.stderr.contains("try again"), "{done:?}");
    }
    panic!("no checkpoint in 50 tries");
}

/// Runs `run` as VM `t` until it prints `until`, takes process 1 and its descendants out, ends the VM, and
/// lets them go on in another one with the files of `image`. Returns what was printed until then, and
/// the rest.
fn resumed(guest: &Guest, run: &[&str], until: &str, image: &str) -> (String, Done) {
    let mut child = guest
        .command(&[&["run", "--name", "t"], run].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut before = String::new();
    while !before.ends_with(&format!("{until}\n")) {
        before += &lines.next().unwrap_or_else(|| panic!("no line {until} in {before}"));
        before.push('\n');
    }
    let dir = guest.path("cores");
    let dir = dir.to_str().unwrap();
    checkpoint(guest, &["--tree", "t", "1", dir]);
    assert_eq!(guest.run(&["kill", "t"], "").code, 0);
    let _ = child.wait();
    (before, guest.run(&["run", "--name", "u", "--resume", dir, image], ""))
}

/// What was printed after the resumption continues what was printed before.
fn assert_goes_on(before: &str, after: &Done, whole: &str, code: i32) {
    assert_eq!(after.code, code, "{after:?}");
    assert!(whole.starts_with(before), "{before} does not begin {whole}");
    assert!(whole.ends_with(&after.stdout), "{} does not end {whole}", after.stdout);
    assert!(before.len() + after.stdout.len() <= whole.len(), "{after:?} repeats {before}");
    assert!(!after.stdout.is_empty(), "nothing went on");
}

#[test]
fn shell_that_counts_goes_on() {
    let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1));
        [ $((i % 20000)) = 0 ] && echo $i; done; exit 7";
    let whole: String = (1..=15).map(|n| format!("{}\n", n * 20000)).collect();
    let guest = Guest::new();
    let (before, after) = resumed(&guest, &["shell", "--", "sh", "-c", script], "40000", "shell");
    assert_goes_on(&before, &after, &whole, 7);
    guest.assert_clean();
}

#[test]
fn threads_that_count_go_on() {
    let counting = program("counting");
    let whole: String =
        (1..=12).map(|n| format!("step {n}\n")).chain(["counted to 600\n".into()]).collect();
    for cpus in ["1", "4"] {
        let guest = Guest::new();
        let run = ["--cpus", cpus, &counting];
        let (before, after) = resumed(&guest, &run, "step 4", &counting);
        assert_goes_on(&before, &after, &whole, 0);
    }
}

#[test]
fn shell_with_a_job_and_a_pipeline_goes_on() {
    let script =
        "sleep 3 & (n=0; while [ $n -lt 30 ]; do echo line $n; n=$((n+1)); sleep 0.1; done) |
        while read x; do echo got $x; done; wait; echo all; exit 5";
    let whole: String =
        (0..30).map(|n| format!("got line {n}\n")).chain(["all\n".into()]).collect();
    let guest = Guest::new();
    let run = ["shell", "--", "sh", "-c", script];
    let (before, after) = resumed(&guest, &run, "got line 5", "shell");
    assert_goes_on(&before, &after, &whole, 5);
}

#[test]
fn damaged_and_foreign_cores_are_refused_before_a_machine_starts() {
    let guest = Guest::new();
    let dir = guest.path("cores");
    let run = |why: &str| {
        let done = guest.run(&["run", "--resume", dir.to_str().unwrap(), "shell"], "");
        assert_eq!((done.code, &*done.stdout), (125, ""), "{done:?}");
        assert!(done.stderr.contains(why), "{done:?}");
    };
    run("checkpoint.json cannot be read");
    let mut child = guest
        .command(&["run", "--name", "t", "--detach", "shell", "--", "sleep", "1000"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    guest.rows(&["ps", "t"]);
    checkpoint(&guest, &["t", "1", dir.to_str().unwrap()]);
    guest.run(&["kill", "t"], "");
    let core = dir.join("1.core");
    let whole = std::fs::read(&core).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for bytes in [&damaged[..], &whole[..whole.len() / 2], b"no core"] {
        std::fs::write(&core, bytes).unwrap();
        run("is not the one that was written");
    }
    std::fs::remove_file(&core).unwrap();
    run("its core 1.core cannot be read");
    let index = dir.join("checkpoint.json");
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, text.replace("1.core", "../1.core")).unwrap();
    run("it names a core");
    std::fs::write(&index, &text[..text.len() / 2]).unwrap();
    run("is damaged");
}
