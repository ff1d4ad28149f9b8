//! A VM from start to end: what goes in and out, how it ends, and that nothing stays behind.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command};
use std::time::Duration;

use belljar_tests::sandbox::{Done, Sandbox, eventually, is_alive};
use belljar_tests::terminal::Terminal;
use serde_json::Value;

fn signal(name: &str, pid: u64) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// The process that runs the guest's CPUs.
fn backend_of(row: &Value) -> u64 {
    row["backend_pid"].as_u64().or(row["pid"].as_u64()).unwrap()
}

/// Ends a VM's guest in order.
fn end(mut child: Child) {
    child.stdin.take().unwrap().write_all(b"0").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn output_is_the_guests_alone_and_its_status_is_passed_on() {
    let sandbox = Sandbox::new();
    let done = sandbox.run_with_input(&["run", "small"], "abc7");
    assert_eq!((done.code, &*done.stdout, &*done.stderr), (7, "stub\nabc", ""));
    sandbox.assert_clean();
}

#[test]
fn the_end_of_input_reaches_the_guest_even_in_the_middle_of_a_line() {
    let sandbox = Sandbox::new();
    for input in ["", "a\n", "a"] {
        let done = sandbox.run_with_input(&["run", "./prog"], input);
        assert_eq!((done.code, done.stdout), (0, format!("stub\n{input}")));
    }
}

#[test]
fn a_kernel_panic_is_reported_in_one_line() {
    let sandbox = Sandbox::new();
    let done = sandbox.run_with_input(&["run", "small"], "p");
    assert_eq!((done.code, &*done.stdout), (125, "stub\n"));
    assert!(done.stderr.contains("guest kernel panicked: stub fell over"), "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    sandbox.assert_clean();
}

#[test]
fn a_kernel_panic_leaves_a_core_if_asked_to() {
    let sandbox = Sandbox::new();
    let core = sandbox.path("core");
    let done = sandbox.run_with_input(&["run", "--dump-on-panic", "core", "small"], "p");
    assert_eq!((done.code, &*done.stdout), (125, "stub\n"));
    assert!(done.stderr.contains(&format!("its core is {}", core.display())), "{done:?}");
    // The CPU stands where the stub powered off; its memory says why.
    let bytes = std::fs::read(&core).unwrap();
    assert_eq!(&bytes[..4], b"\x7fELF");
    assert!(bytes.windows(14).any(|text| text == b"stub fell over"));
    sandbox.assert_clean();
}

#[test]
fn a_kernel_that_lost_its_exception_handlers_is_reported_in_one_line() {
    for (how, why) in [
        ("j", "there is no handler at its vector (pc 0x200)"),
        ("v", "there is no handler at its vector (pc 0x2000000200)"),
        ("h", "the handler at its vector faults itself (pc 0x4020220"),
    ] {
        let sandbox = Sandbox::new();
        // With a second CPU, which is off.
        let done = sandbox.run_with_input(&["run", "--name", "t", "--cpus", "2", "small"], how);
        assert_eq!((done.code, &*done.stdout), (125, "stub\n"), "{done:?}");
        let place = format!("VM t died: CPU 0 takes exceptions without end: {why}");
        assert!(done.stderr.contains(&place), "{done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        sandbox.assert_clean();
    }
}

#[test]
fn a_reset_ends_the_vm() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run_with_input(&["run", "small"], "r").code, 0);
}

#[test]
fn timeout_ends_with_124() {
    let sandbox = Sandbox::new();
    let child = sandbox.command(&["run", "--timeout", "300ms", "small"]);
    let mut child = { child }.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let _held = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(124));
    sandbox.assert_clean();
}

#[test]
fn a_detached_vm_is_listed_paused_and_killed() {
    let sandbox = Sandbox::new();
    let done = sandbox.run(&["run", "--detach", "--name", "t", "small"]);
    assert_eq!((done.code, &*done.stdout, &*done.stderr), (0, "t\n", ""));
    let rows = sandbox.ls();
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0]["state"], &rows[0]["image"]), (&"running".into(), &"small".into()));
    assert_eq!(sandbox.run(&["pause", "t"]).code, 0);
    assert_eq!(sandbox.ls()[0]["state"], "paused");
    assert_eq!(sandbox.run(&["pause", "t"]).code, 0);
    assert_eq!(sandbox.run(&["unpause", "t"]).code, 0);
    assert_eq!(sandbox.ls()[0]["state"], "running");
    eventually("the guest has printed", || sandbox.run(&["console", "t"]).stdout == "stub\n");

    sandbox.run(&["run", "--name", "t", "small"]).assert_failed(&["t is already running"]);

    assert_eq!(sandbox.run(&["kill", "t"]).code, 0);
    // Nothing is left when kill returns.
    assert!(!sandbox.path("run/belljar/t").exists());
    eventually("every process is gone", || sandbox.processes().is_empty());
    sandbox.assert_clean();
}

#[test]
fn a_detached_vm_runs_what_its_caller_has_as_stdin() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["run", "--detach", "--name", "t", "/proc/self/fd/0"]);
    command.stdin(File::open(sandbox.path("prog")).unwrap());
    let done: Done = command.output().unwrap().into();
    assert_eq!((done.code, &*done.stdout, &*done.stderr), (0, "t\n", ""));
    assert_eq!(sandbox.run(&["kill", "t"]).code, 0);
    sandbox.assert_clean();
}

#[test]
fn an_interrupt_ends_a_detached_start_while_it_reads_its_image() {
    let sandbox = Sandbox::new();
    // Which is a pipe that nothing is ever written to.
    let made = Command::new("mkfifo").arg(sandbox.path("image")).status();
    assert!(made.unwrap().success());
    let mut terminal = Terminal::start(sandbox.command(&["run", "--detach", "./image"]));
    let mut image = File::options();
    image.write(true).custom_flags(libc::O_NONBLOCK);
    let mut writer = None;
    eventually("the image is read", || {
        // ENXIO until somebody has opened it to read (fifo(7)).
        writer = image.open(sandbox.path("image")).ok();
        writer.is_some()
    });
    terminal.type_keys("\x03");
    eventually("both are gone", || sandbox.processes().is_empty());
    assert_eq!(terminal.exit_code(), -1);
}

#[test]
fn kill_ends_a_vm_that_does_not_answer() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.spawn(&["run", "--name", "t", "small"]);
    sandbox.wait_for("t");
    signal("STOP", child.id().into());
    let rows = sandbox.ls();
    assert_eq!((&rows[0]["name"], &rows[0]["state"]), (&"t".into(), &Value::Null));
    assert_eq!(sandbox.run(&["kill", "t"]).code, 0);
    assert!(!child.wait().unwrap().success());
    sandbox.assert_clean();
}

#[test]
fn wait_passes_the_end_of_a_detached_vm_on() {
    let sandbox = Sandbox::new();
    let args = ["run", "--detach", "--timeout", "3s", "--name", "t", "small"];
    assert_eq!(sandbox.run(&args).code, 0);
    let done = sandbox.run(&["wait", "t"]);
    assert_eq!(done.code, 124, "{done:?}");
    assert!(done.stderr.contains("VM t was ended by --timeout"), "{done:?}");
    sandbox.assert_clean();
}

#[test]
fn names_are_made_from_the_image_if_none_is_given() {
    let sandbox = Sandbox::new();
    for name in ["small\n", "small-2\n"] {
        assert_eq!(sandbox.run(&["run", "--detach", "small"]).stdout, name);
    }
    assert_eq!(sandbox.run(&["kill", "small", "small-2"]).code, 0);
    sandbox.assert_clean();
}

#[test]
fn sigterm_ends_everything_with_its_status() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.spawn(&["run", "--name", "t", "small"]);
    let row = sandbox.wait_for("t");
    let _held = child.stdin.take();
    signal("TERM", child.id().into());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert!(!is_alive(backend_of(&row)));
    sandbox.assert_clean();
}

#[test]
fn sigkill_leaves_neither_process_nor_memory_nor_file() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.spawn(&["run", "--name", "t", "small"]);
    sandbox.wait_for("t");
    // The VM's own, the one that restores the terminal, and QEMU if there is one. A memory file lives as
    // long as one of them.
    assert!(sandbox.processes().len() >= 2, "{:?}", sandbox.processes());
    signal("KILL", child.id().into());
    child.wait().unwrap();
    eventually("every process is gone", || sandbox.processes().is_empty());
    sandbox.assert_clean();
    sandbox.run(&["ps", "t"]).assert_failed(&["no VM named t"]);
}

#[test]
fn sigkill_at_any_moment_of_the_start_leaves_nothing() {
    let sandbox = Sandbox::new();
    for moment in 0..20 {
        let mut child = sandbox.spawn(&["run", "small"]);
        std::thread::sleep(Duration::from_millis(4 * moment));
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("every process is gone", || sandbox.processes().is_empty());
        let left = std::fs::read_dir(sandbox.path("run")).unwrap().next();
        assert!(left.is_none(), "killed after {} ms: {left:?}", 4 * moment);
    }
}

#[test]
fn a_folder_that_nobody_cleaned_up_is_stale() {
    let sandbox = Sandbox::new();
    let stale = sandbox.path("run/belljar/t");
    std::fs::create_dir_all(&stale).unwrap();
    std::fs::write(stale.join("vm.json"), "{}").unwrap();
    use std::os::unix::fs::PermissionsExt;
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(sandbox.path("run/belljar"), private).unwrap();
    let done = sandbox.run_with_input(&["run", "--name", "t", "small"], "3");
    assert_eq!(done.code, 3, "{done:?}");
    sandbox.assert_clean();
}

#[test]
fn a_reader_that_leaves_ends_the_vm() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["run", "small"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
    sandbox.assert_clean();
}

#[test]
fn a_view_of_a_guest_without_a_kernel_says_so() {
    let sandbox = Sandbox::new();
    let child = sandbox.spawn(&["run", "--name", "t", "small"]);
    sandbox.wait_for("t");
    let done = sandbox.run(&["ps", "t"]);
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.stderr.starts_with("belljar: VM t: "), "{done:?}");
    // The guest runs on.
    assert_eq!(sandbox.ls()[0]["state"], "running");
    end(child);
}

#[test]
fn a_built_image_runs_by_itself() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(&["build", "./prog", "-o", "h.img", "--", "-v"]).code, 0);
    let done = sandbox.run_with_input(&["run", "./h.img"], "5");
    assert_eq!((done.code, &*done.stdout), (5, "stub\n"));
}

#[test]
fn vm_json_describes_the_vm() {
    let sandbox = Sandbox::new();
    let child = sandbox.spawn(&["run", "--name", "t", "--memory", "32M", "small"]);
    sandbox.wait_for("t");
    let text = std::fs::read_to_string(sandbox.path("run/belljar/t/vm.json")).unwrap();
    let info: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&info["memory"], &info["pid"]), (&(32 << 20).into(), &child.id().into()));
    end(child);
}

/// What concerns the child QEMU alone.
mod qemu {
    use super::*;

    #[test]
    fn detach_reports_why_the_vm_did_not_start() {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command(&["run", "--backend", "qemu", "--detach", "small"]);
        let output = command.env("BELLJAR_QEMU", "/nonexistent").output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent"));
        sandbox.assert_clean();
    }

    #[test]
    fn a_machine_that_dies_is_reported() {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command(&["run", "--backend", "qemu", "--name", "t", "small"]);
        command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _held = child.stdin.take();
        let row = sandbox.wait_for("t");
        signal("KILL", row["backend_pid"].as_u64().unwrap());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("VM t died") && text.contains("killed by signal 9"), "{text}");
        sandbox.assert_clean();
    }

    #[test]
    fn print_command_starts_nothing() {
        let sandbox = Sandbox::new();
        let done =
            sandbox.run(&["run", "--backend", "qemu", "--print-command", "--cpus", "2", "small"]);
        assert_eq!(done.code, 0);
        assert!(done.stdout.contains("qemu-system-aarch64 ") && done.stdout.contains(" -smp 2 "));
        sandbox.assert_clean();
    }
}

/// What concerns KVM alone.
mod kvm {
    use super::*;

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn auto_chooses_kvm_and_says_why() {
        let sandbox = Sandbox::new();
        let done = sandbox.run_with_input(&["run", "--backend", "auto", "small"], "3");
        assert_eq!(done.code, 3, "{done:?}");
        assert!(done.stderr.contains("backend kvm, because"), "{done:?}");
    }

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn an_access_that_cannot_be_emulated_ends_the_vm_and_says_where_in_one_line() {
        let sandbox = Sandbox::new();
        let done = sandbox.run_with_input(&["run", "--name", "t", "small"], "n");
        assert_eq!((done.code, &*done.stdout), (125, "stub\n"), "{done:?}");
        // The image stands 2 MiB into RAM, and the instruction is its code's 45th.
        let place = "VM t died: CPU 0 cannot go on at pc 0x402000f0: ";
        assert!(done.stderr.contains(place), "{done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        sandbox.assert_clean();
    }

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn doctor_finds_kvm_with_its_interrupt_controller() {
        let done = Sandbox::new().run(&["doctor"]);
        assert!(done.stdout.contains("GICv3, up to"), "{done:?}");
    }
}
