//! Cores of a machine and of its processes: `belljar dump` and `gcore`, read by our own views, by
//! gdb-multiarch and by readelf.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::UNIX_EPOCH;

use belljar_tests::gdb::unpack;
use belljar_tests::guest::{Guest, Waiting};
use belljar_tests::home;
use belljar_tests::sandbox::eventually;
use serde_json::Value;

/// What gdb says about the core of a process that ran the shell's BusyBox.
fn gdb(vm: &Waiting, core: &Path, commands: &[&str]) -> String {
    let root = vm.guest.path("root");
    if !root.exists() {
        unpack("shell", &root);
    }
    belljar_tests::gdb::gdb(&root, &root.join("bin/busybox"), core, commands)
}

fn pid_of(vm: &Waiting, comm: &str) -> String {
    let rows = vm.guest.rows(&["ps", "t"]);
    let found = rows.iter().find(|row| row["comm"] == comm);
    found.unwrap_or_else(|| panic!("no {comm} in {rows:?}"))["pid"].to_string()
}

#[test]
fn core_of_a_machine_shows_what_the_paused_machine_shows() {
    let vm = Waiting::start("sleep 1000 & sleep 2000 & sleep 1; echo END; while :; do :; done");
    let core = vm.guest.path("vm.core");
    let core = core.to_str().unwrap();
    assert_eq!(vm.guest.run(&["pause", "t"], "").code, 0);
    let done = vm.guest.run(&["dump", "t", core], "");
    assert_eq!(done.code, 0, "{done:?}");
    let pid = pid_of(&vm, "sleep");
    let views: [&[&str]; 8] = [
        &["ps"],
        &["pstree"],
        &["runq"],
        &["log"],
        &["task", &pid],
        &["maps", &pid],
        &["bt", &pid],
        &["vtop", &pid, "0x400000"],
    ];
    for view in views {
        let live = vm.guest.run(&[&[view[0], "--format", "csv", "t"], &view[1..]].concat(), "");
        let stored =
            vm.guest.run(&[&[view[0], "--format", "csv", "--core", core], &view[1..]].concat(), "");
        assert_eq!(live.code, 0, "{live:?}");
        assert_eq!(live.stdout, stored.stdout, "{view:?}");
    }
    // The busy shell is on the CPU: its registers are in the core, and so is a way to its own core.
    let own = vm.guest.path("sh.core");
    let done = vm.guest.run(&["gcore", "--core", core, "1", "-o", own.to_str().unwrap()], "");
    assert_eq!(done.code, 0, "{done:?}");
    let said = gdb(&vm, &own, &["info threads", "print $pc"]);
    assert!(said.contains("LWP 1"), "{said}");
}

#[test]
fn core_of_a_process_is_read_by_gdb_and_readelf() {
    let vm = Waiting::start("sleep 1000 & sleep 1; echo END; while :; do :; done");
    let (asleep, busy) = (vm.guest.path("asleep"), vm.guest.path("busy"));
    for (pid, core) in [(pid_of(&vm, "sleep"), &asleep), ("1".to_owned(), &busy)] {
        let done = vm.guest.run(&["gcore", "t", &pid, "-o", core.to_str().unwrap()], "");
        assert_eq!(done.code, 0, "{done:?}");
    }
    let said = gdb(&vm, &asleep, &["x/i $pc-4", "print $x8", "info proc", "info auxv"]);
    for wanted in ["svc\t#0x0", "= 115", "exe = 'sleep 1000'", "\"aarch64\""] {
        assert!(said.contains(wanted), "no {wanted} in {said}");
    }
    // The shell runs its loop: its code is there, its stack can be read, and so can its thread pointer.
    let said = gdb(&vm, &busy, &["x/i $pc", "x/gx $sp", "x/gx $tpidr"]);
    assert!(!said.contains("Cannot access"), "{said}");
    for core in [&asleep, &busy] {
        let readelf = Command::new("readelf").args(["-hlW"]).arg(core).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&readelf.stderr), "");
        assert!(String::from_utf8_lossy(&readelf.stdout).contains("CORE (Core file)"));
    }
    // It goes on: the shell still uses its CPU.
    let time = || vm.guest.rows(&["ps", "t"])[0]["time_ns"].as_u64().unwrap();
    let before = time();
    eventually("the shell runs on", || time() > before);
}

#[test]
fn core_holds_the_headers_of_its_program_even_if_that_has_none_in_memory() {
    let guest = Guest::new();
    let program = home().join("guest-tests/file_pages");
    let start = ["run", "--detach", "--name", "t", program.to_str().unwrap(), "--", "wait"];
    let start = guest.run(&start, "");
    assert_eq!(start.code, 0, "{start:?}");
    guest.wait_until_prints("t", "waits");
    let (core, root) = (guest.path("core"), guest.path("root"));
    std::fs::create_dir_all(root.join("bin")).unwrap();
    let copies = [root.join("bin/file_pages"), root.join("copy")];
    for copy in &copies {
        std::fs::copy(&program, copy).unwrap();
        File::options().write(true).open(copy).unwrap().set_modified(UNIX_EPOCH).unwrap();
    }
    let done = guest.run(&["gcore", "t", "1", "-o", core.to_str().unwrap()], "");
    assert_eq!(done.code, 0, "{done:?}");
    // The names differ: by the build id, which the headers lead to, gdb knows that this is the program.
    let start = guest.rows(&["maps", "t", "1"])[0]["start"].as_str().unwrap().to_owned();
    let look = format!("x/s {start}");
    let said = belljar_tests::gdb::gdb(&root, &copies[1], &core, &[&look]);
    assert!(said.contains("ELF"), "{said}");
}

#[test]
fn core_that_a_signal_left_is_read_by_gdb_and_readelf() {
    let guest = Guest::new();
    let program = home().join("guest-tests/core_dumps");
    let done = guest.run(&["run", program.to_str().unwrap(), "--", "emit"], "");
    assert_eq!(done.code, 0, "{done:?}");
    let mut bytes = vec![];
    for (at, piece) in done.stdout.lines().filter_map(|line| line.split_once(' ')) {
        bytes.resize(usize::from_str_radix(at, 16).unwrap(), 0);
        let digits: Vec<char> = piece.trim_end().chars().collect();
        let byte = |two: &[char]| two.iter().fold(0, |b, c| b << 4 | c.to_digit(16).unwrap() as u8);
        bytes.extend(digits.chunks(2).map(byte));
    }
    let (core, root) = (guest.path("core"), guest.path("root"));
    std::fs::write(&core, bytes).unwrap();
    std::fs::create_dir_all(root.join("bin")).unwrap();
    let copy = root.join("bin/core_dumps");
    std::fs::copy(&program, &copy).unwrap();
    File::options().write(true).open(&copy).unwrap().set_modified(UNIX_EPOCH).unwrap();
    let look = ["x/i $pc", "print $_siginfo.si_signo", "info threads"];
    let said = belljar_tests::gdb::gdb(&root, &copy, &core, &look);
    for wanted in ["str\tx", "= 11", "  4    LWP"] {
        assert!(said.contains(wanted), "no {wanted} in {said}");
    }
    // All others sleep in their system calls, and none got there any other way than the second.
    let said = belljar_tests::gdb::gdb(&root, &copy, &core, &["thread apply 2-4 bt"]);
    let frames = |thread: &str| {
        let from = said.find(thread).unwrap_or_else(|| panic!("no {thread} in {said}"));
        let bt = said[from..].lines().skip(1).take_while(|line| line.starts_with('#'));
        bt.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(frames("Thread 2").len() > 3, "{said}");
    assert_eq!(frames("Thread 2"), frames("Thread 3"));
    assert_eq!(frames("Thread 2"), frames("Thread 4"));
    let readelf = Command::new("readelf").args(["-hlW"]).arg(&core).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&readelf.stderr), "");
    assert!(String::from_utf8_lossy(&readelf.stdout).contains("CORE (Core file)"));
}

#[test]
fn cores_that_cannot_be_are_refused_and_leave_no_file() {
    let vm = Waiting::start("echo END; sleep 1000");
    let core = vm.guest.path("core");
    let core = core.to_str().unwrap();
    let refused = |args: &[&str], why: &str| {
        let done = vm.guest.run(args, "");
        assert_eq!(done.code, 125, "{done:?}");
        assert!(done.stderr.contains(why), "{done:?}");
    };
    refused(&["gcore", "t", "2", "-o", core], "kernel thread");
    refused(&["gcore", "t", "31000", "-o", core], "no process 31000");
    refused(&["gcore", "t", "1", "-o", "/nowhere/core"], "/nowhere/core");
    refused(&["dump", "t", "/nowhere/core"], "/nowhere/core");
    refused(&["ps", "--core", "/proc/self/exe"], "no core of an AArch64 machine");
    let text = home().join("images/shell/image.toml");
    refused(&["ps", "--core", text.to_str().unwrap()], "no ELF file");
    refused(&["ps", "--snapshot", "/proc"], "is no snapshot");
    refused(&["task", "--core", core, "t", "1"], "no VM");
    assert!(!Path::new(core).exists());
}

#[test]
fn checkpoint_of_a_tree_holds_every_process_and_what_is_in_its_pipes() {
    let vm = Waiting::start(
        "(echo in the pipe; sleep 1000) | sleep 2000 &
         sleep 1; cd /tmp; umask 027; echo END; while :; do :; done",
    );
    let dir = vm.guest.path("checkpoint");
    let dir_name = dir.to_str().unwrap();
    let done = vm.guest.run(&["checkpoint", "t", "1", dir_name, "--tree"], "");
    assert_eq!(done.code, 0, "{done:?}");
    let index: Value =
        serde_json::from_slice(&std::fs::read(dir.join("checkpoint.json")).unwrap()).unwrap();
    let members = index["processes"].as_array().unwrap();
    assert_eq!(members[0]["pid"], 1);
    let comms: Vec<&str> = members.iter().map(|m| m["comm"].as_str().unwrap()).collect();
    assert_eq!(comms.iter().filter(|comm| **comm == "sleep").count(), 2, "{comms:?}");
    let mut with_pipe = 0;
    for member in members {
        let core = dir.join(member["file"].as_str().unwrap());
        let said = gdb(&vm, &core, &["info threads"]);
        assert!(said.contains(&format!("LWP {}", member["pid"])), "{said}");
        let bytes = std::fs::read(&core).unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        with_pipe += usize::from(has(b"in the pipe\n/dev/") || has(b"/dev/nullin the pipe\n"));
        assert!(has(b"/dev/console"));
    }
    assert!(with_pipe >= 1, "nobody has the pipe's bytes among its descriptors");
    // Once more, over the former one, from the dump of the machine.
    let (core, again) = (vm.guest.path("vm.core"), vm.guest.path("again"));
    assert_eq!(vm.guest.run(&["dump", "t", core.to_str().unwrap()], "").code, 0);
    for _ in 0..2 {
        let args = ["checkpoint", "--core", core.to_str().unwrap(), "1", again.to_str().unwrap()];
        let done = vm.guest.run(&args, "");
        assert_eq!(done.code, 0, "{done:?}");
    }
    assert!(again.join("1.core").exists() && !again.join("2.core").exists());
}

#[test]
fn checkpoint_refuses_what_it_cannot_carry_before_it_writes() {
    let vm = Waiting::start("mkfifo /tmp/x; exec 7<>/tmp/x; rm /tmp/x; echo END; sleep 1000");
    let dir = vm.guest.path("checkpoint");
    let done = vm.guest.run(&["checkpoint", "t", "1", dir.to_str().unwrap()], "");
    assert_eq!(done.code, 125, "{done:?}");
    for wanted in ["process 1", "descriptor 7", "without a name any more (/tmp/x)"] {
        assert!(done.stderr.contains(wanted), "{done:?}");
    }
    assert!(!dir.exists());
}
