//! Cores of a machine and of its processes: `belljar dump` and `gcore`, read by our own views, by
//! gdb-multiarch and by readelf.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar_tests::belljar;
use belljar_tests::guest::Waiting;
use belljar_tests::sandbox::eventually;

/// What gdb says about a core, which must be nothing by way of complaint.
fn gdb(vm: &Waiting, core: &Path, commands: &[&str]) -> String {
    let (root, program) = busybox(vm);
    let mut gdb = Command::new("gdb-multiarch");
    gdb.args(["-batch", "-nx", "-iex", &format!("set sysroot {}", root.display())]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg(program).arg(core).output().expect("the tests need gdb-multiarch");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{said}");
    said
}

/// The file that the guest's processes have mapped, out of the image, and a root for gdb to find it under.
fn busybox(vm: &Waiting) -> (PathBuf, PathBuf) {
    let root = vm.guest.path("root");
    let program = root.join("bin/busybox");
    if !program.exists() {
        std::fs::create_dir(&root).unwrap();
        let archive = belljar().parent().unwrap().join("../belljar/images/shell/rootfs.cpio");
        let mut cpio = Command::new("cpio");
        cpio.args(["-id", "--quiet", "--no-absolute-filenames", "bin/busybox"]).current_dir(&root);
        let status = cpio.stdin(File::open(archive).unwrap()).status();
        assert!(status.expect("the tests need cpio(1)").success());
    }
    (root, program)
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
    refused(&["ps", "--core", "/etc/passwd"], "no ELF file");
    refused(&["ps", "--snapshot", "/etc"], "is no snapshot");
    refused(&["task", "--core", core, "t", "1"], "no VM");
    assert!(!Path::new(core).exists());
}
