//! What a running VM's process may do: every thread is confined unless the user says otherwise, and the
//! child QEMU is not in that sandbox.

use std::fs;

use belljar_tests::sandbox::{Sandbox, eventually};
use serde_json::Value;

/// A field of every thread's status (proc(5)), by the thread's name.
fn of_threads(pid: u64, field: &str) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = tasks.filter_map(|task| {
        let path = task.ok()?.path();
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let name = fs::read_to_string(path.join("comm")).ok()?;
        Some((name.trim().to_owned(), line.trim_start_matches(':').trim().to_owned()))
    });
    threads.collect()
}

fn pid(vm: &Value) -> u64 {
    vm["pid"].as_u64().unwrap()
}

#[test]
fn every_thread_of_a_vm_is_confined() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.spawn(&["run", "--name", "vm", "small"]);
    let vm = sandbox.wait_for("vm");
    // "2" is SECCOMP_MODE_FILTER. The last thread is confined when the guest starts.
    eventually("every thread is confined", || {
        let threads = of_threads(pid(&vm), "Seccomp");
        threads.len() > 3 && threads.iter().all(|(_, mode)| mode == "2")
    });
    assert!(of_threads(pid(&vm), "NoNewPrivs").iter().all(|(_, set)| set == "1"));
    // What it must do it can.
    for command in ["pause", "unpause", "kill"] {
        let done = sandbox.run(&[command, "vm"]);
        assert_eq!(done.code, 0, "{command}: {done:?}");
    }
    assert_eq!(child.wait().unwrap().code(), Some(137));
    sandbox.assert_clean();
}

#[test]
fn no_sandbox_leaves_every_thread_free() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.spawn(&["run", "--no-sandbox", "--name", "vm", "small"]);
    let vm = sandbox.wait_for("vm");
    let modes = of_threads(pid(&vm), "Seccomp");
    assert!(!modes.is_empty() && modes.iter().all(|(_, mode)| mode == "0"), "{modes:?}");
    assert_eq!(sandbox.run(&["kill", "vm"]).code, 0);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

/// What concerns the child QEMU alone.
mod qemu {
    use super::*;

    #[test]
    fn a_child_qemu_is_not_in_our_sandbox() {
        let sandbox = Sandbox::new();
        let mut child = sandbox.spawn(&["run", "--backend", "qemu", "--name", "vm", "small"]);
        sandbox.wait_for("vm");
        let pid = child.id();
        let children = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let is_qemu = |pid: &u64| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.starts_with("qemu-system")
        };
        let children = children();
        let qemu = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_qemu);
        let modes = of_threads(qemu.expect("a child QEMU"), "Seccomp");
        assert!(modes.iter().all(|(_, mode)| mode == "0"), "{modes:?}");
        assert_eq!(sandbox.run(&["kill", "vm"]).code, 0);
        assert_eq!(child.wait().unwrap().code(), Some(137));
    }
}
