//! What a VM's process says of itself: its figures at `/metrics`, and its log.

use belljar_tests::guest::{Guest, Waiting};
use belljar_tests::sandbox::eventually;
use serde_json::Value;

#[test]
fn metrics_follow_what_the_guest_does() {
    let vm = Waiting::start("echo END; while :; do :; done");
    let before = vm.guest.metrics("t");
    assert_eq!(before["belljar_vm_running"], 1.0);
    assert_eq!(before["belljar_vm_cpus"], 1.0);
    assert!(before.keys().any(|name| name.starts_with("belljar_vm_info{name=\"t\",")));
    let anonymous = "belljar_resident_memory_bytes{process=\"vmm\",kind=\"anonymous\"}";
    assert!(before[anonymous] > 0.0);
    let time = "belljar_vcpu_cpu_seconds_total{vcpu=\"0\"}";
    eventually("the busy CPU's time grows", || vm.guest.metrics("t")[time] > before[time]);
    assert_eq!(vm.guest.run(&["pause", "t"], "").code, 0);
    let paused = vm.guest.metrics("t");
    assert_eq!(paused["belljar_vm_running"], 0.0);
    // Its thread may have a few instructions left to where it waits.
    eventually("it stands still", || vm.guest.metrics("t")[time] == vm.guest.metrics("t")[time]);
}

#[test]
fn log_tells_the_life_of_a_vm_as_json_lines() {
    let guest = Guest::new();
    let file = guest.path("log");
    let log = ["--log-level", "debug", "--log-format", "json", "--log-file"];
    let log = [&log[..], &[file.to_str().unwrap()]].concat();
    let run = ["run", "--name", "t", "shell", "--", "sh", "-c", "echo hello; exit 3"];
    let done = guest.run(&[&log[..], &run].concat(), "");
    // The guest's output is the guest's alone.
    assert_eq!((done.code, &*done.stdout, &*done.stderr), (3, "hello\n", ""));
    let text = std::fs::read_to_string(file).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |message: &str| {
        let found = events.iter().position(|event| event["message"] == message);
        found.unwrap_or_else(|| panic!("no {message:?} in {text}"))
    };
    let life =
        ["starts", "backend chosen", "machine built", "thread confined", "guest runs", "ends"];
    assert!(at("starts") < at("machine built") && at("machine built") < at("guest runs"), "{text}");
    assert!(at("guest runs") < at("ends"), "{text}");
    assert!(life.iter().all(|message| at(message) < events.len()));
    assert_eq!(events[at("starts")]["vm"], "t");
    assert_eq!(events[at("starts")]["level"], "INFO");
}

#[test]
fn log_as_text_goes_to_stderr_and_levels_leave_things_out() {
    let guest = Guest::new();
    let args = ["--log-level", "info", "run", "shell", "--", "true"];
    let done = guest.run(&args, "");
    assert!(done.stderr.contains("INFO guest runs"), "{done:?}");
    assert!(!done.stderr.contains("DEBUG"), "{done:?}");
    guest
        .run(&["--log-level", "info", "--log-file", "/nowhere/log", "ls"], "")
        .assert_failed(&["/nowhere/log"]);
}

/// What only KVM tells.
mod kvm {
    use super::*;

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn log_tells_in_one_line_that_the_guest_powers_off() {
        let args = ["--log-level", "info", "run", "shell", "--", "poweroff", "-f"];
        let done = Guest::new().run(&args, "");
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(done.stderr.matches("the guest powers off").count(), 1, "{done:?}");
    }

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn metrics_count_exits_and_device_requests() {
        let vm = Waiting::start(
            "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.1; done; echo END; sleep 1000",
        );
        let seen = vm.guest.metrics("t");
        let console = "belljar_virtio_requests_total{device=\"console\"}";
        // A line each, and END; the control port has said hello.
        assert!(seen.get(console).is_some_and(|count| *count >= 10.0), "{seen:#?}");
        assert!(seen["belljar_vmm_exits_total{cause=\"mmio_read\"}"] > 0.0, "{seen:#?}");
        assert!(seen["belljar_vcpu_exits_total{vcpu=\"0\"}"] > 0.0, "{seen:#?}");
        let notified = "belljar_vcpu_exits_by_cause_total{vcpu=\"0\",cause=\"mmio_kernel\"}";
        assert!(seen[notified] >= 10.0, "{seen:#?}");
        assert_eq!(seen["belljar_mmio_unclaimed_total"], 0.0, "{seen:#?}");
    }
}
