//! Snapshots that go wrong: whoever asked for one learns it, the guest goes on, and what was saved before
//! stays.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use belljar_tests::guest::Guest;
use belljar_tests::sandbox::Done;

/// `belljar` with `args`, for which a file that is too large is an error and no signal.
fn command(guest: &Guest, args: &[&str]) -> Command {
    let mut command = guest.command(args);
    // SAFETY: the call is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            Ok(())
        });
    }
    command.stdin(Stdio::null());
    command
}

/// Small, for a quick copy.
const RAM: &str = "64M";

/// A shell that shows that it goes on.
const TICKS: &str = "i=0; while true; do i=$((i + 1)); echo tick $i; sleep 0.05; done";

#[test]
fn a_program_learns_that_its_snapshot_could_not_be_kept() {
    let guest = Guest::new();
    let folder = guest.path("snapshots");
    std::fs::create_dir(&folder).unwrap();
    let options = ["--memory", RAM, "--snapshots", folder.to_str().unwrap()];
    let script = "
        echo ready; read go
        echo first > /proc/belljar/snapshot && echo kept || echo lost
        cat /proc/belljar/snapshot; echo goes on; sleep 1000";
    let shell = ["shell", "--", "sh", "-c", script];
    let args = [&["run", "--name", "t"], &options[..], &shell].concat();
    let mut child: Child =
        command(&guest, &args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    guest.wait_until_prints("t", "ready");
    // From here on the VM's process can write no byte to a file.
    limit_file_size(child.id(), 4096);
    use std::io::Write;
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let printed = guest.wait_until_prints("t", "goes on");
    assert!(printed.contains("lost\noriginal\n"), "{printed}");
    assert!(!folder.join("first").exists());
    let log = guest.run(&["log", "t"], "").stdout;
    assert!(log.contains("snapshot \"first\" failed: "), "{log}");
    assert_eq!(guest.run(&["kill", "t"], "").code, 0);
    child.wait().unwrap();
    guest.assert_clean();
}

/// Sets the limit of a process that runs.
fn limit_file_size(pid: u32, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a whole limit; the former one is not wanted.
    let done = unsafe {
        libc::prlimit(pid.cast_signed(), libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut())
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Starts `t`, which counts; what it may store is limited later.
fn run_unlimited(guest: &Guest) {
    let shell = ["shell", "--", "sh", "-c", TICKS];
    let args = [&["run", "--detach", "--name", "t", "--memory", RAM], &shell[..]].concat();
    let done = Done::from(command(guest, &args).output().unwrap());
    assert_eq!(done.code, 0, "{done:?}");
    guest.wait_until_prints("t", "tick 2\n");
}

#[test]
fn a_vm_that_could_not_be_saved_goes_on_even_if_it_was_to_stop() {
    let guest = Guest::new();
    run_unlimited(&guest);
    let dir = guest.path("s");
    let name = dir.to_str().unwrap();
    assert_eq!(guest.run(&["snapshot", "t", name], "").code, 0);
    let pid = guest.vm_info("t")["pid"].as_u64().unwrap();
    limit_file_size(pid as u32, 4096);
    for stop in [&["--stop"][..], &[]] {
        let failed = guest.run(&[&["snapshot", "t", name], stop].concat(), "");
        failed.assert_failed(&["memory.img"]);
    }
    let ticks = guest.console("t").lines().count();
    guest.wait_until_prints("t", &format!("tick {}\n", ticks + 3));
    // The former snapshot is whole.
    let rows = guest.rows(&["ps", "--snapshot", name]);
    assert!(rows.iter().any(|row| row["comm"] == "sh"), "{rows:?}");
    assert_eq!(std::fs::read_dir(guest.path("")).unwrap().count(), 2, "run and s");
    assert_eq!(guest.run(&["kill", "t"], "").code, 0);
    guest.assert_clean();
}

#[test]
fn processes_that_could_not_be_saved_go_on_even_if_they_were_to_end() {
    let guest = Guest::new();
    run_unlimited(&guest);
    let dir = guest.path("cores");
    let name = dir.to_str().unwrap();
    let checkpoint = ["checkpoint", "t", "1", name, "--tree"];
    // What a process left that died in the middle of it is in nobody's way.
    let left = guest.path(".cores.partial");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("1.core"), "half of a core").unwrap();
    let done = guest.run(&checkpoint, "");
    assert_eq!(done.code, 0, "{done:?}");
    let former = std::fs::read(dir.join("checkpoint.json")).unwrap();
    let pid = guest.vm_info("t")["pid"].as_u64().unwrap();
    limit_file_size(pid as u32, 4096);
    for kill in [&["--kill"][..], &[]] {
        guest.run(&[&checkpoint[..], kill].concat(), "").assert_failed(&["1.core"]);
    }
    let ticks = guest.console("t").lines().count();
    guest.wait_until_prints("t", &format!("tick {}\n", ticks + 3));
    assert_eq!(guest.run(&["kill", "t"], "").code, 0);
    // The former cores are whole, and nothing lies beside them.
    assert_eq!(std::fs::read(dir.join("checkpoint.json")).unwrap(), former);
    assert_eq!(std::fs::read_dir(guest.path("")).unwrap().count(), 2, "run and cores");
    let again = ["run", "--detach", "--name", "u", "--memory", RAM, "--resume", name, "shell"];
    let done = guest.run(&again, "");
    assert_eq!(done.code, 0, "{done:?}");
    guest.wait_until_prints("u", "tick");
    assert_eq!(guest.run(&["kill", "u"], "").code, 0);
    guest.assert_clean();
}

mod qemu {
    use super::*;

    fn signal(pid: u64, signal: i32) {
        // SAFETY: a plain call about a process of this test.
        assert_eq!(unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) }, 0);
    }

    /// Runs `script` as VM `t`.
    fn run_under_qemu(guest: &Guest, script: &str) {
        let run = ["run", "--backend", "qemu", "--detach", "--name", "t"];
        let done = guest.run(&[&run[..], &["shell", "--", "sh", "-c", script]].concat(), "");
        assert_eq!(done.code, 0, "{done:?}");
    }

    #[test]
    fn a_guest_that_comes_to_rest_too_late_goes_on() {
        let guest = Guest::new();
        run_under_qemu(&guest, TICKS);
        guest.wait_until_prints("t", "tick 2\n");
        let machine = guest.vm_info("t")["backend_pid"].as_u64().unwrap();
        signal(machine, libc::SIGSTOP);
        let dir = guest.path("s");
        let snapshot = ["snapshot", "t", dir.to_str().unwrap(), "--timeout", "500ms"];
        guest.run(&snapshot, "").assert_failed(&["did not come to rest"]);
        // Nor is another one begun, for which the guest would stand still a second time.
        guest.run(&snapshot, "").assert_failed(&["since the last time"]);
        signal(machine, libc::SIGCONT);
        let ticks = guest.console("t").lines().count();
        guest.wait_until_prints("t", &format!("tick {}\n", ticks + 3));
        let saved = guest.run(&["snapshot", "t", dir.to_str().unwrap()], "");
        assert_eq!(saved.code, 0, "{saved:?}");
        let ticks = guest.console("t").lines().count();
        guest.wait_until_prints("t", &format!("tick {}\n", ticks + 3));
        assert_eq!(guest.run(&["kill", "t"], "").code, 0);
        // What was saved is whole and goes on, too.
        let restored =
            guest.run(&["restore", "--detach", "--name", "r", dir.to_str().unwrap()], "");
        assert_eq!(restored.code, 0, "{restored:?}");
        guest.wait_until_prints("r", "tick ");
        assert_eq!(guest.run(&["kill", "r"], "").code, 0);
        guest.assert_clean();
    }

    #[test]
    fn a_machine_or_its_keeper_lost_during_a_save_leaves_the_former_snapshot() {
        let guest = Guest::new();
        // Enough memory for a save that takes a while.
        let script = "head -c 90m /dev/urandom > /tmp/much; echo ready; sleep 1000";
        run_under_qemu(&guest, script);
        guest.wait_until_prints("t", "ready");
        let dir = guest.path("s");
        let name = dir.to_str().unwrap();
        assert_eq!(guest.run(&["snapshot", "t", name, "--stop"], "").code, 0);
        for (victim, delay) in [("backend_pid", 5), ("backend_pid", 60), ("pid", 20), ("pid", 100)]
        {
            let restore = ["restore", "--backend", "qemu", "--detach", "--name", "r", name];
            let restored = guest.run(&restore, "");
            assert_eq!(restored.code, 0, "after {victim} {delay}: {restored:?}");
            let victim = guest.vm_info("r")[victim].as_u64().unwrap();
            let mut save: Command = guest.command(&["snapshot", "r", name]);
            let mut save = save.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(delay));
            signal(victim, libc::SIGKILL);
            save.wait().unwrap();
            guest.assert_clean();
        }
        // Verified, and with everything in it.
        let rows = guest.rows(&["ps", "--snapshot", name]);
        assert!(rows.iter().any(|row| row["comm"] == "sleep"), "{rows:?}");
    }
}
