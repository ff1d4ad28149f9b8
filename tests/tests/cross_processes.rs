//! Processes that move from one backend to the other and back while they work: taken out as cores under QEMU on
//! the host, resumed in a fresh VM under KVM in the reference machine, taken out once more there, and resumed
//! under QEMU on the host, where they end; each way once out of a running VM and once out of a snapshot on
//! disk. gdb-multiarch reads every core on the way. What they print in all machines is what they would have
//! printed in one.

use std::path::{Path, PathBuf};

use belljar_tests::gdb::{gdb, unpack};
use belljar_tests::guest::Guest;
use belljar_tests::printing::Printing;
use belljar_tests::{home, share};
use serde_json::Value;

/// Processes, and what they are expected to print and to end with.
struct Traveller {
    name: &'static str,
    /// The image, or a program.
    image: String,
    /// What the cores' processes ran, below the image's root; else it is the program.
    program: Option<&'static str>,
    cmd: Vec<String>,
    stdout: String,
    code: i32,
}

fn travellers() -> [Traveller; 3] {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let steps = (1..=96).map(|step| format!("step {step}\n"));
    // It computes where others would sleep: a program that has just begun has not even read its own header,
    // by which gdb knows it.
    let pipeline = "sleep 5 &
        (n=0; while [ $n -lt 60 ]; do
            echo line $n; n=$((n + 1)); i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done
        done) |
        while read x; do echo got $x; done; wait; echo all; exit 5";
    let bash = "declare -A square
        for i in {1..60}; do
            square[$i]=$((i * i)); echo $i; for ((j = 0; j < 1000; j++)); do :; done
        done
        echo ${square[60]} $(for i in {1..3}; do echo -n $i; done); exit 3";
    [
        Traveller {
            name: "counting",
            image: home().join("guest-tests/counting").to_str().unwrap().to_owned(),
            program: None,
            cmd: words(&["1200"]),
            stdout: steps.chain(["counted to 4800\n".to_owned()]).collect(),
            code: 0,
        },
        Traveller {
            name: "pipeline",
            image: "shell".to_owned(),
            program: Some("bin/busybox"),
            cmd: words(&["sh", "-c", pipeline]),
            stdout: (0..60).map(|n| format!("got line {n}\n")).chain(["all\n".into()]).collect(),
            code: 5,
        },
        Traveller {
            name: "bash",
            image: "bash".to_owned(),
            program: Some("bin/bash"),
            cmd: words(&["bash", "-c", bash]),
            stdout: (1..=60).map(|n| format!("{n}\n")).chain(["3600 123\n".into()]).collect(),
            code: 3,
        },
    ]
}

/// What processes are taken out of.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// A VM with one CPU, while it runs.
    Live,
    /// The snapshot of a VM with four.
    Snapshot,
}

impl Source {
    fn cpus(self) -> &'static str {
        match self {
            Self::Live => "1",
            Self::Snapshot => "4",
        }
    }

    /// Takes process 1 and its descendants out into `dir`, and their VM ends: what it still printed.
    fn take_out(self, guest: &Guest, vm: Printing, dir: &str) -> String {
        match self {
            Self::Live => {
                let done = guest.run(&["checkpoint", "--tree", "--kill", "t", "1", dir], "");
                assert_eq!(done.code, 0, "{done:?}");
                let (text, code) = vm.end();
                assert_eq!(code, 128 + 9, "process 1 was killed: {text}");
                text
            }
            Self::Snapshot => take_out_of_snapshot(guest, vm, dir),
        }
    }
}

fn take_out_of_snapshot(guest: &Guest, mut vm: Printing, dir: &str) -> String {
    let snapshot = guest.path("snapshot");
    let snapshot = snapshot.to_str().unwrap();
    let mut printed = String::new();
    loop {
        let done = guest.run(&["snapshot", "t", snapshot, "--stop"], "");
        assert_eq!(done.code, 0, "{done:?}");
        let (text, code) = vm.end();
        assert_eq!(code, 0, "it was saved: {text}");
        printed += &text;
        let done = guest.run(&["checkpoint", "--snapshot", snapshot, "--tree", "1", dir], "");
        if done.code == 0 {
            return printed;
        }
        // A thread of it may be at a point where only its kernel can go on.
        assert!(done.stderr.contains("in the middle of"), "{done:?}");
        vm = Printing::restore(guest, &[snapshot]);
        printed += &vm.read_lines(1);
    }
}

const PRINTED: &str = "printed";

/// Calls `each` for all processes and sources, with a folder of their own among what is shared: the cores are
/// in it, and beside them what was printed so far.
fn for_each(mut each: impl FnMut(&Traveller, Source, &Path)) {
    for traveller in travellers() {
        for source in [Source::Live, Source::Snapshot] {
            each(&traveller, source, &share().join(format!("cores-{}-{source:?}", traveller.name)));
        }
    }
}

/// Lets `vm` print a little, takes its processes out and puts them where the next machine finds them.
fn hand_over(guest: &Guest, mut vm: Printing, source: Source, printed: &str, place: &Path) {
    let mut printed = printed.to_owned() + &vm.read_lines(3);
    let dir = guest.path("cores");
    printed += &source.take_out(guest, vm, dir.to_str().unwrap());
    if place.exists() {
        // What the machine before left.
        std::fs::remove_dir_all(place).unwrap();
    }
    copy_files(&dir, place);
    std::fs::write(place.join(PRINTED), printed).unwrap();
}

/// Takes the cores over into a folder of their own, with what was printed.
fn take_over(guest: &Guest, place: &Path) -> (PathBuf, String) {
    let dir = guest.path("arrived");
    copy_files(place, &dir);
    let printed = std::fs::read_to_string(dir.join(PRINTED)).unwrap();
    (dir, printed)
}

/// Copies the files of a folder into a new one.
fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Whether gdb finds in the cores what was there: the right threads, and how each came to where it is.
fn assert_gdb_reads(traveller: &Traveller, dir: &Path, guest: &Guest) {
    let root = guest.path("root");
    std::fs::create_dir(&root).unwrap();
    let program = match traveller.program {
        None => {
            let program = root.join("bin/counting");
            std::fs::create_dir(root.join("bin")).unwrap();
            std::fs::copy(&traveller.image, &program).unwrap();
            let old = std::fs::File::options().write(true).open(&program).unwrap();
            old.set_modified(std::time::UNIX_EPOCH).unwrap();
            program
        }
        Some(program) => {
            unpack(&traveller.image, &root);
            root.join(program)
        }
    };
    let index = std::fs::read(dir.join("checkpoint.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let members = index["processes"].as_array().unwrap();
    for member in members {
        let core = dir.join(member["file"].as_str().unwrap());
        let said = gdb(&root, &program, &core, &["info threads", "thread apply all bt"]);
        assert!(said.contains(&format!("[New LWP {}]", member["pid"])), "{said}");
        let stacks: Vec<&str> = said.split("\nThread ").skip(1).collect();
        let threads = if traveller.name == "counting" { 5 } else { 1 };
        assert_eq!(stacks.len(), threads, "{said}");
        for stack in &stacks {
            // BusyBox has no tables for unwinding.
            let frames = if traveller.name == "pipeline" { "\n#1 " } else { "\n#4 " };
            assert!(stack.contains(frames), "{said}");
        }
        if traveller.name == "bash" {
            let called = ["main ()", "parse_and_execute ()", "execute_command"];
            assert!(called.iter().all(|name| said.contains(name)), "{said}");
        }
    }
    if traveller.name == "pipeline" {
        // And the job, if it still sleeps.
        assert!(members.len() >= 3, "the shell and both sides of the pipe: {index}");
    }
}

mod before_kvm {
    use super::*;

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn processes_leave_qemu_as_cores_that_gdb_reads() {
        for_each(|traveller, source, place| {
            let guest = Guest::new();
            let cmd: Vec<&str> = traveller.cmd.iter().map(String::as_str).collect();
            let run = ["--backend", "qemu", "--cpus", source.cpus(), &traveller.image, "--"];
            let vm = Printing::run(&guest, &[&run[..], &cmd].concat());
            hand_over(&guest, vm, source, "", place);
            assert_gdb_reads(traveller, place, &guest);
        });
    }
}

mod kvm {
    use super::*;

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn processes_of_qemu_go_on_and_leave_again() {
        for_each(|traveller, source, place| {
            let guest = Guest::new();
            let (dir, printed) = take_over(&guest, place);
            let (dir, image) = (dir.to_str().unwrap(), &traveller.image);
            let run = ["--backend", "kvm", "--cpus", source.cpus(), "--resume", dir, image];
            hand_over(&guest, Printing::run(&guest, &run), source, &printed, place);
        });
    }
}

mod after_kvm {
    use super::*;

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn processes_of_kvm_end_under_qemu_as_if_nothing_had_been() {
        for_each(|traveller, source, place| {
            let guest = Guest::new();
            let (dir, printed) = take_over(&guest, place);
            assert_gdb_reads(traveller, &dir, &guest);
            let dir = dir.to_str().unwrap();
            let run = ["--backend", "qemu", "--cpus", source.cpus(), "--resume", dir];
            let (text, code) =
                Printing::run(&guest, &[&run[..], &[&traveller.image]].concat()).end();
            assert!(!text.is_empty(), "{} out of {source:?}: nothing went on", traveller.name);
            assert_eq!(code, traveller.code, "{} out of {source:?}: {text}", traveller.name);
            assert_eq!(printed + &text, traveller.stdout, "{} out of {source:?}", traveller.name);
        });
    }
}
