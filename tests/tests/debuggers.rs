//! Debian's strace and gdbserver, unchanged, in the guest.

use belljar_tests::guest::{Guest, Waiting};
use serde_json::json;

/// What a script prints in the image with strace and gdbserver.
fn with_tools(script: &str) -> (i32, String) {
    let done = Guest::new().run(&["run", "debuggers", "--", "/bin/bash", "-c", script], "");
    assert_eq!(done.stderr, "", "{}", done.stdout);
    (done.code, done.stdout.replace('\r', ""))
}

fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn strace_follows_a_pipeline() {
    let (code, text) = with_tools(
        "strace -f -o /tmp/log bash -c 'echo hello | tr a-z A-Z; exit 3'
         echo status $?; cat /tmp/log",
    );
    assert_eq!(code, 0, "{text}");
    assert_has(
        &text,
        &[
            "HELLO\nstatus 3\n",
            "execve(\"/bin/bash\", [\"bash\", \"-c\", \"echo hello | tr a-z A-Z; exit 3\"]",
            "pipe2([3, 4], 0)",
            "clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD",
            // Another process's call may come in between call and result.
            "write(1, \"hello\\n\", 6",
            "[\"tr\", \"a-z\", \"A-Z\"]",
            "write(1, \"HELLO\\n\", 6",
            "--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=",
            "+++ exited with 3 +++",
        ],
    );
    // bash, and a child for each side.
    assert_eq!(text.matches("+++ exited with ").count(), 3, "{text}");
}

#[test]
fn strace_attaches_and_changes_what_calls_return() {
    let (code, text) = with_tools(
        "sleep 100 & pid=$!
         until grep -q 'State:.S' /proc/$pid/status; do sleep 0.1; done
         strace -o /tmp/log -p $pid 2>/dev/null & tracer=$!
         until grep -q 'TracerPid:.[1-9]' /proc/$pid/status; do sleep 0.1; done
         kill $pid; wait $tracer; wait $pid 2>/dev/null; echo ended $?; cat /tmp/log
         strace -o /tmp/log -e inject=unlinkat:error=EXDEV rm /proc/self/comm; echo status $?; cat /tmp/log
         strace -c -o /tmp/log true; grep -c execve /tmp/log",
    );
    assert_eq!(code, 0, "{text}");
    assert_has(
        &text,
        &[
            "ended 143\n",
            "--- SIGTERM {si_signo=SIGTERM, si_code=SI_USER, si_pid=",
            "+++ killed by SIGTERM +++",
            "Invalid cross-device link\nstatus 1\n",
            "= -1 EXDEV (Invalid cross-device link) (INJECTED)",
        ],
    );
    assert!(text.ends_with("\n1\n"), "{text}");
}

/// The packets of a remote debugger, each after the answer to the one before.
#[test]
fn gdbserver_steps_and_continues_a_program() {
    let packets = "$QStartNoAckMode#b0+$?#3f$s#73$s#73$g#67$c#63";
    let (code, text) = with_tools(&format!(
        "printf '%s' '{packets}' | gdbserver --once - /bin/true 2>/tmp/errors | tr '$' '\\n'; echo
         cat /tmp/errors"
    ));
    assert_eq!(code, 0, "{text}");
    let stops: Vec<&str> = text.lines().filter(|line| line.starts_with("T05")).collect();
    // A stop says where, in register 32.
    let places: Vec<&str> =
        stops.iter().filter_map(|stop| stop.split(';').find(|part| part.contains("20:"))).collect();
    assert_eq!(places.len(), 3, "{text}");
    assert!(places[0] != places[1] && places[1] != places[2], "{text}");
    assert_has(&text, &["OK#9a", "\nW00"]);
}

/// Seen from outside a tracee stands still for its tracer; cores carry neither of them.
#[test]
fn a_tracee_is_seen_from_outside_and_is_not_taken_out() {
    let vm = Waiting::start_in(
        "debuggers",
        "sleep 1000 | gdbserver --once - /bin/sleep 77 > /dev/null 2>&1 &
         # Before that gdbserver tries on a process of its own what it may do.
         until file=$(grep -l 'State:.t' $(grep -l 'Name:.sleep' /proc/[0-9]*/status 2> /dev/null)); do
            sleep 0.1
         done
         grep -E '^(Pid|TracerPid):' $file | grep -o '[0-9]*'; echo END; wait",
    );
    let numbers: Vec<u64> = vm.printed.iter().map(|line| line.trim().parse().unwrap()).collect();
    let [tracee, tracer] = numbers[..] else { panic!("{numbers:?}") };
    let rows = vm.guest.rows(&["ps", "t"]);
    let row = rows.iter().find(|row| row["pid"] == tracee).unwrap();
    assert_eq!(row["state"], json!("t"), "{row}");
    for (pid, what) in [(tracee, "is traced by another"), (tracer, "traces another")] {
        let cores = vm.guest.path(&format!("cores{pid}"));
        let args = ["checkpoint", "t", &pid.to_string(), cores.to_str().unwrap()];
        let done = vm.guest.run(&args, "");
        assert_ne!(done.code, 0, "{done:?}");
        let why = format!("thread {pid} {what}, which no core carries yet");
        assert!(done.stderr.contains(&why), "{done:?}");
    }
    // Neither was disturbed.
    let rows = vm.guest.rows(&["ps", "t"]);
    let row = rows.iter().find(|row| row["pid"] == tracee).unwrap();
    assert_eq!(row["state"], json!("t"), "{row}");
}
