//! Processes that are taken out of one machine as cores and go on in another: what they print there is what
//! they would have printed.

use std::path::PathBuf;
use std::process::Stdio;

use belljar_tests::guest::Guest;
use belljar_tests::home;
use belljar_tests::printing::Printing;
use belljar_tests::sandbox::{Done, eventually};
use belljar_tests::terminal::Terminal;

/// A guest test program, as `cargo xtask build guest-tests` leaves it.
fn program(name: &str) -> String {
    let path = home().join("guest-tests").join(name);
    assert!(path.is_file(), "{} is not there: run cargo xtask build first", path.display());
    path.to_str().unwrap().to_owned()
}

/// Takes processes out.
fn checkpoint(guest: &Guest, args: &[&str]) {
    let done = guest.run(&[&["checkpoint"], args].concat(), "");
    assert_eq!(done.code, 0, "{done:?}");
}

/// Runs `run` as VM `t` until it prints `until`, takes process 1 and its descendants out and ends them, and lets
/// them go on in another VM with the files of `image`. Returns what was printed by the first, and by the
/// second.
fn resumed(guest: &Guest, run: &[&str], until: &str, image: &str) -> (String, Done) {
    let mut vm = Printing::run(guest, run);
    let before = vm.read_until(until);
    let dir = guest.path("cores");
    let dir = dir.to_str().unwrap();
    checkpoint(guest, &["--tree", "--kill", "t", "1", dir]);
    let (rest, code) = vm.end();
    // Process 1 was killed, and the machine ends with it.
    assert_eq!(code, 128 + 9);
    (before + &rest, guest.run(&["run", "--name", "u", "--resume", dir, image], ""))
}

/// What was printed after the resumption continues what was printed before.
fn assert_goes_on(before: &str, after: &Done, whole: &str, code: i32) {
    assert_eq!(after.code, code, "{after:?}");
    assert_eq!(before.to_owned() + &after.stdout, whole);
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
fn children_that_ended_are_waited_for_after_the_resumption() {
    // The zombie is there when the line is printed, and its status is asked for later.
    let script = "(exit 3) & first=$!; sleep 0.5; echo ready; i=0;
        while [ $i -lt 200000 ]; do i=$((i+1)); done; wait $first; echo status $?; kill -TERM $$";
    let guest = Guest::new();
    let run = ["shell", "--", "sh", "-c", script];
    let (before, after) = resumed(&guest, &run, "ready", "shell");
    assert_eq!((&*before, &*after.stdout), ("ready\n", "status 3\n"), "{after:?}");
}

#[test]
fn process_of_a_running_machine_moves_into_another_running_machine() {
    let guest = Guest::new();
    // Its number is beyond what the other machine has given to anybody.
    let script = "i=0; while [ $i -lt 40 ]; do (:); i=$((i+1)); done; echo forked
        (n=0; while [ $n -lt 400000 ]; do n=$((n+1)); done; echo counted $n) & sleep 1000";
    let mut vm = Printing::run(&guest, &["shell", "--", "sh", "-c", script]);
    vm.read_until("forked");
    let job = || {
        let rows = guest.rows(&["ps", "t"]);
        let job = rows.iter().find(|row| row["comm"] == "sh" && row["ppid"] == 1);
        job.map(|row| row["pid"].to_string())
    };
    eventually("the job runs", || job().is_some());
    let (pid, dir) = (job().unwrap(), guest.path("cores"));
    let dir = dir.to_str().unwrap();
    checkpoint(&guest, &["t", &pid, dir, "--kill"]);
    let alive = |row: &serde_json::Value| {
        row["pid"].as_u64() == pid.parse().ok() && row["state"].as_str() != Some("Z")
    };
    eventually("the job is gone", || !guest.rows(&["ps", "t"]).iter().any(alive));
    vm.kill(&guest);
    let script = "echo up; while :; do sleep 1; done";
    let mut vm = Printing::run(&guest, &["shell", "--", "sh", "-c", script]);
    vm.read_until("up");
    let done = guest.run(&["resume", "t", dir], "");
    assert_eq!((done.code, done.stdout.trim()), (0, &*pid), "{done:?}");
    // A second one of that number cannot be, and says so.
    let done = guest.run(&["resume", "t", dir], "");
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.stderr.contains(&format!("number {pid} is somebody else's")), "{done:?}");
    assert_eq!(vm.read_until("counted 400000"), "counted 400000\n");
    vm.kill(&guest);
}

#[test]
fn what_a_process_wrote_before_a_snapshot_is_printed_once() {
    // On four CPUs it writes while the machine comes to rest; at a terminal the line's driver has it then.
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; exit 4";
    let whole: String = (1..=20000).map(|n| format!("line {n}\n")).collect();
    let guest = Guest::new();
    let (snapshot, dir) = (guest.path("snapshot"), guest.path("cores"));
    let (snapshot, dir) = (snapshot.to_str().unwrap(), dir.to_str().unwrap());
    let run = ["--cpus", "4", "shell", "--", "sh", "-c", script];
    let mut vm = Printing::run(&guest, &run);
    let mut printed = vm.read_lines(100);
    for _ in 0..5 {
        let text = loop {
            let done = guest.run(&["snapshot", "t", snapshot, "--stop"], "");
            assert_eq!(done.code, 0, "{done:?}");
            let (text, code) = vm.end();
            assert_eq!(code, 0, "it was saved: {text}");
            let done = guest.run(&["checkpoint", "--snapshot", snapshot, "1", dir], "");
            if done.code == 0 {
                break text;
            }
            // It may be at a point where only its kernel can go on.
            assert!(done.stderr.contains("in the middle of"), "{done:?}");
            printed += &text;
            vm = Printing::restore(&guest, &[snapshot]);
            printed += &vm.read_lines(1);
        };
        printed += &text;
        assert!(whole.starts_with(&printed), "{printed}");
        vm = Printing::run(&guest, &["--cpus", "4", "--resume", dir, "shell"]);
        printed += &vm.read_lines(100);
    }
    let (text, code) = vm.end();
    assert_eq!((printed + &text, code), (whole, 4));
}

#[test]
fn threads_of_a_snapshot_on_disk_go_on() {
    let counting = program("counting");
    // So long that it still runs after several snapshots on a slow machine.
    let mut whole: String = (1..=160).map(|n| format!("step {n}\n")).collect();
    whole += "counted to 8000\n";
    let guest = Guest::new();
    let mut vm = Printing::run(&guest, &[&counting, "--", "2000"]);
    vm.read_until("step 3");
    let (snapshot, dir) = (guest.path("snapshot"), guest.path("cores"));
    let (snapshot, dir) = (snapshot.to_str().unwrap(), dir.to_str().unwrap());
    // A thread may have been in the middle of a system call.
    let taken = (0..20).any(|_| {
        let done = guest.run(&["snapshot", "t", snapshot], "");
        assert_eq!(done.code, 0, "{done:?}");
        let done = guest.run(&["checkpoint", "--snapshot", snapshot, "1", dir], "");
        assert!(done.code == 0 || done.stderr.contains("in the middle of"), "{done:?}");
        done.code == 0
    });
    assert!(taken);
    vm.kill(&guest);
    let core = format!("{dir}/1.core");
    let mut gdb = std::process::Command::new("gdb-multiarch");
    gdb.args(["-batch", "-nx", "-ex", "info threads", "-ex", "thread apply all bt 2"]);
    let output = gdb.args([&*counting, &core]).output().expect("the tests need gdb-multiarch");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("\nThread ").count(), 5, "{said}");
    assert!(said.matches("#1 ").count() >= 4, "{said}");
    let after = guest.run(&["run", "--resume", dir, &counting], "");
    assert_eq!(after.code, 0, "{after:?}");
    assert!(whole.ends_with(&after.stdout) && after.stdout.contains("step 159\n"), "{after:?}");
}

/// A guest program of the name `moved_…` finds everything as it was after it was moved.
fn assert_moves(name: &str, says: &str) {
    let program = program(name);
    let guest = Guest::new();
    let (before, after) = resumed(&guest, &[&program, "--", "wait"], "ready", &program);
    assert_eq!((&*before, after.code), ("ready\n", 0), "{after:?}");
    assert_eq!(after.stdout, says, "{after:?}");
    guest.assert_clean();
}

#[test]
fn timers_and_cpu_time_go_on() {
    assert_moves("moved_timers", "timers are as they were\n");
}

#[test]
fn timerfds_signalfds_and_epoll_sets_go_on() {
    assert_moves("moved_events", "events are as they were\n");
}

#[test]
fn fifos_pidfds_and_locks_go_on() {
    assert_moves("moved_files", "files are as they were\n");
}

#[test]
fn unix_sockets_go_on_with_what_is_queued() {
    assert_moves("moved_sockets", "sockets are as they were\n");
}

#[test]
fn files_without_a_name_go_on_with_what_they_hold() {
    assert_moves("moved_nameless", "files without a name are as they were\n");
}

#[test]
fn pseudoterminals_go_on_with_what_is_under_way() {
    assert_moves("moved_terminals", "terminals are as they were\n");
}

#[test]
fn seccomp_filters_go_on() {
    assert_moves("moved_seccomp", "filters are as they were\n");
}

/// Resumes a shell at a terminal that has a `sleep 1000` behind and a `cat` before it: they can be typed to, stopped
/// and brought back. `asks`, typed at the shell, `shows` something.
fn jobs_go_on(guest: &Guest, dir: &str, image: &str, asks: &str, shows: &[&str]) {
    let mut after = Terminal::start(guest.command(&["run", "--name", "t", "--resume", dir, image]));
    let has_cat = |rows: Vec<serde_json::Value>| rows.iter().any(|row| row["comm"] == "cat");
    eventually("cat goes on", || guest.try_rows(&["ps", "t"]).is_ok_and(has_cat));
    // The foreground is still that of cat, and the shell learns when it stops.
    after.type_keys("again\r");
    after.wait_for("again\r\nagain\r\n");
    after.type_keys("\x1a");
    after.wait_for("Stopped");
    after.type_keys(&format!("{asks}\r"));
    shows.iter().for_each(|shown| after.wait_for(shown));
    after.type_keys("kill %1; echo go; fg %2\r");
    after.wait_for("\r\ngo\r\n");
    after.type_keys("back\r");
    after.wait_for("back\r\nback\r\n");
    after.type_keys("\x04exit 3\r");
    assert_eq!(after.exit_code(), 3);
}

#[test]
fn shell_at_a_terminal_goes_on_with_its_jobs() {
    let guest = Guest::new();
    let mut before = Terminal::start(guest.command(&["run", "--name", "t", "shell"]));
    before.wait_for("# ");
    before.type_keys("sleep 1000 &\r");
    before.wait_for("1000 &");
    before.type_keys("echo go; cat\r");
    before.wait_for("\r\ngo\r\n");
    before.type_keys("once\r");
    before.wait_for("once\r\nonce\r\n");
    let dir = guest.path("cores");
    let dir = dir.to_str().unwrap();
    checkpoint(&guest, &["t", "1", dir, "--tree", "--kill"]);
    assert_eq!(before.exit_code(), 128 + 9);
    jobs_go_on(&guest, dir, "shell", "jobs", &["sleep 1000"]);
}

/// Waits that a signal would end are not ended by a process's being taken out, however it meets them.
#[test]
fn waits_of_a_process_that_is_taken_out_end_by_their_time_alone() {
    let guest = Guest::new();
    let program = program("short_waits");
    let mut vm = Printing::run(&guest, &["--cpus", "2", &program, "--", "for-ever"]);
    vm.read_until("ready");
    for number in 0..30 {
        let dir = guest.path(&format!("cores-{number}"));
        checkpoint(&guest, &["t", "1", dir.to_str().unwrap()]);
    }
    vm.kill(&guest);
    guest.assert_clean();
}

#[test]
fn what_no_core_carries_is_refused_and_goes_on() {
    let guest = Guest::new();
    let script = "(mkfifo /tmp/f; exec 9<>/tmp/f; rm /tmp/f; echo removed; sleep 1000) &
        sleep 0.5; (sleep 1000; echo) | sleep 2000 & sleep 0.5;
        exec 9<>/tmp/g; ln /tmp/g /tmp/h; rm /tmp/g; sleep 1000 & echo $!; exec 9>&-;
        echo ready; sleep 1000";
    let mut vm = Printing::run(&guest, &["shell", "--", "sh", "-c", script]);
    let text = vm.read_until("ready");
    let dir = guest.path("cores");
    let dir = dir.to_str().unwrap();
    let refused = |args: &[&str], why: &str| {
        let done = guest.run(&[&["checkpoint"], args].concat(), "");
        assert_eq!(done.code, 125, "{done:?}");
        assert!(done.stderr.contains(why), "{done:?}");
    };
    refused(&["t", "1", dir, "--tree", "--kill"], "is a FIFO without a name any more (/tmp/f)");
    let rows = guest.rows(&["ps", "t"]);
    let end = rows.iter().rfind(|row| row["comm"] == "sleep" && row["ppid"] == 1).unwrap();
    let other = rows.iter().find(|row| row["comm"] == "sh" && row["ppid"] == 1).unwrap();
    assert!(end["pid"] != other["pid"]);
    refused(&["t", "31000", dir], "no process 31000");
    refused(&["t", "2", dir], "kernel thread");
    let linked = text.lines().rev().nth(1).unwrap();
    refused(&["t", linked, dir], "is a file with another name than it had (/tmp/g)");
    assert!(!PathBuf::from(dir).exists());
    // Nobody was killed, and nobody stands still.
    assert!(guest.rows(&["ps", "t"]).iter().all(|row| row["state"] != "t"));
    vm.kill(&guest);
}

#[test]
fn seccomp_filters_that_somebody_listens_to_are_refused_by_name() {
    let guest = Guest::new();
    let mut vm = Printing::run(&guest, &[&program("moved_seccomp"), "--", "listen"]);
    vm.read_until("ready");
    let dir = guest.path("cores");
    let done = guest.run(&["checkpoint", "t", "1", dir.to_str().unwrap()], "");
    assert_eq!(done.code, 125, "{done:?}");
    assert!(
        done.stderr.contains("process 1 cannot be taken out: somebody listens to a filter"),
        "{done:?}"
    );
    let task = guest.rows(&["task", "t", "1"]);
    let value =
        |field: &str| task.iter().find(|row| row["field"] == field).unwrap()["value"].clone();
    assert_eq!((value("seccomp.mode"), value("seccomp.filter_count")), ("Filter".into(), 1.into()));
    vm.kill(&guest);
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
        .command(&[
            "run",
            "--name",
            "t",
            "--detach",
            "shell",
            "--",
            "sh",
            "-c",
            "sleep 1000 & wait",
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    let child = || {
        let rows = guest.try_rows(&["ps", "t"]).ok()?;
        rows.into_iter().find(|row| row["ppid"] == 1)
    };
    eventually("the shell has a child", || child().is_some());
    let other = format!("{}.core", child().unwrap()["pid"]);
    checkpoint(&guest, &["t", "1", dir.to_str().unwrap(), "--tree"]);
    guest.run(&["kill", "t"], "");
    let core = dir.join("1.core");
    let whole = std::fs::read(&core).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for bytes in [&damaged[..], &whole[..whole.len() / 2], b"no core"] {
        std::fs::write(&core, bytes).unwrap();
        run("is not the one that was written");
    }
    // Both are whole, and each is in the other's place.
    std::fs::copy(dir.join(&other), &core).unwrap();
    std::fs::write(dir.join(&other), &whole).unwrap();
    run("is not the one that was written");
    std::fs::remove_file(&core).unwrap();
    run("its core 1.core cannot be read");
    let index = dir.join("checkpoint.json");
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, text.replace("1.core", "../1.core")).unwrap();
    run("it names a core");
    std::fs::write(&index, text.replace("\"version\": 2", "\"version\": 9")).unwrap();
    run("it has version 9");
    std::fs::write(&index, text.replace("belljar checkpoint", "another program")).unwrap();
    run("is something else");
    std::fs::write(&index, &text[..text.len() / 2]).unwrap();
    run("is damaged");
}

/// With an image that the machine with KVM lacks, or a program of the host's.
mod qemu {
    use super::*;

    #[test]
    fn debians_bash_goes_on_with_its_script() {
        let script = "declare -A square
        for i in {1..60}; do square[$i]=$((i * i)); echo $i; sleep 0.05; done
        echo ${square[60]} $(for i in {1..3}; do sleep 0.1; echo -n $i; done)";
        let whole: String =
            (1..=60).map(|n| format!("{n}\n")).chain(["3600 123\n".into()]).collect();
        let guest = Guest::new();
        let (before, after) = resumed(&guest, &["bash", "--", "bash", "-c", script], "10", "bash");
        assert_goes_on(&before, &after, &whole, 0);
    }

    /// A shell with jobs, on the pseudoterminal of Debian's script(1).
    fn shell_under_script_goes_on(stored: bool) {
        let guest = Guest::new();
        let script = ["script", "-q", "-e", "-c", "bash --norc -i", "/dev/null"];
        let run = [&["run", "--name", "t", "bash", "--"], &script[..]].concat();
        let mut before = Terminal::start(guest.command(&run));
        before.wait_for("# ");
        before.type_keys("sleep 1000 &\r");
        before.wait_for("1000 &");
        before.type_keys("tty; cat\r");
        before.wait_for("\r\n/dev/pts/0\r\n");
        before.type_keys("once\r");
        before.wait_for("once\r\nonce\r\n");
        let (dir, snapshot) = (guest.path("cores"), guest.path("snapshot"));
        let (dir, snapshot) = (dir.to_str().unwrap(), snapshot.to_str().unwrap());
        // Without its master the terminal is nobody's.
        let rows = guest.rows(&["ps", "t"]);
        let shell = rows.iter().find(|row| row["comm"] == "bash").unwrap()["pid"].to_string();
        let done = guest.run(&["checkpoint", "--tree", "t", &shell, dir], "");
        assert_eq!(done.code, 125, "{done:?}");
        let why = format!(
            "process {shell} cannot be taken out: descriptor 0 is of the kind Tty, a pseudoterminal whose master"
        );
        assert!(done.stderr.contains(&why), "{done:?}");
        if stored {
            let done = guest.run(&["snapshot", "t", snapshot, "--stop"], "");
            assert_eq!(done.code, 0, "{done:?}");
            assert_eq!(before.exit_code(), 0);
            checkpoint(&guest, &["--snapshot", snapshot, "--tree", "1", dir]);
        } else {
            checkpoint(&guest, &["t", "1", dir, "--tree", "--kill"]);
            assert_eq!(before.exit_code(), 128 + 9);
        }
        jobs_go_on(&guest, dir, "bash", "jobs; tty", &["sleep 1000", "\r\n/dev/pts/0\r\n"]);
        guest.assert_clean();
    }

    #[test]
    fn shell_under_script_goes_on_out_of_a_running_machine() {
        shell_under_script_goes_on(false);
    }

    #[test]
    fn shell_under_script_goes_on_out_of_a_snapshot() {
        shell_under_script_goes_on(true);
    }

    /// The files of the shell image, as a folder.
    fn shell_folder(guest: &Guest) -> PathBuf {
        let root = guest.path("root");
        std::fs::create_dir(&root).unwrap();
        let archive = home().join("images/shell/rootfs.cpio");
        let mut cpio = std::process::Command::new("cpio");
        cpio.args(["-idm", "--quiet", "--no-absolute-filenames", "bin/*", "etc/*"])
            .current_dir(&root);
        let status = cpio.stdin(std::fs::File::open(archive).unwrap()).status();
        assert!(status.expect("the tests need cpio(1)").success());
        root
    }

    #[test]
    fn program_that_execs_a_core_becomes_its_process() {
        let guest = Guest::new();
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1));
        [ $((i % 20000)) = 0 ] && echo $i; done; echo pid $$; exit 7";
        let mut vm = Printing::run(&guest, &["shell", "--", "sh", "-c", script]);
        vm.read_until("20000");
        let dir = guest.path("cores");
        checkpoint(&guest, &["t", "1", dir.to_str().unwrap(), "--kill"]);
        vm.end();
        // An image that has the core as a program, and what it had mapped.
        let root = shell_folder(&guest);
        add_core(&root, dir.join("1.core"));
        let run = |command: &str| {
            guest.run(&["run", root.to_str().unwrap(), "--", "/bin/sh", "-c", command], "")
        };
        // A child that becomes it has its descriptors, and the number that it execs with.
        let done = run("(exec /bin/core); echo status $?");
        assert_eq!(done.code, 0, "{done:?}");
        assert!(done.stdout.ends_with("180000\n200000\npid 1\nstatus 7\n"), "{done:?}");
        let done = run("exec /bin/core");
        assert_eq!(done.code, 7, "{done:?}");
        assert!(done.stdout.ends_with("180000\n200000\npid 1\n"), "{done:?}");
        // Whoever may not become anybody may not become its process.
        let done = run("exec su -s /bin/sh nobody -c 'exec /bin/core'");
        assert!(done.code == 126 && done.stdout.contains("not permitted"), "{done:?}");
    }

    /// Puts a core into a folder of files as a program.
    fn add_core(root: &std::path::Path, core: PathBuf) {
        let program = root.join("bin/core");
        std::fs::copy(core, &program).unwrap();
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, everybody).unwrap();
    }

    #[test]
    fn program_that_leads_no_session_takes_no_terminal_with_a_core() {
        let guest = Guest::new();
        let root = shell_folder(&guest);
        std::fs::copy(program("moved_leader"), root.join("bin/moved_leader")).unwrap();
        let image = root.to_str().unwrap();
        let mut vm = Printing::run(&guest, &[image, "--", "/bin/moved_leader", "wait"]);
        let text = vm.read_until("ready");
        let pid = text.lines().next().unwrap().strip_prefix("leader ").unwrap();
        let dir = guest.path("cores");
        checkpoint(&guest, &["t", pid, dir.to_str().unwrap()]);
        vm.kill(&guest);
        add_core(&root, dir.join(format!("{pid}.core")));
        let run = |command: &str| guest.run(&["run", image, "--", "/bin/sh", "-c", command], "");
        // Process 1 leads the session of the console: number of the terminal, foreground group.
        let shows = "cut -d' ' -f7,8 /proc/1/stat";
        let before = run(shows).stdout;
        let done = run(&format!("(exec /bin/core); echo status $?; {shows}"));
        let says = format!("it has no terminal of its own\nstatus 0\n{before}");
        assert!(done.stdout.ends_with(&says), "{done:?} after {before}");
        let done = run("exec /bin/core");
        assert!(done.stdout.ends_with("it leads the session of its terminal\n"), "{done:?}");
    }

    #[test]
    fn core_of_a_tree_is_refused_alone_if_another_holds_its_file() {
        let guest = Guest::new();
        let script =
            "exec 9>/tmp/f; echo kept >&9; rm /tmp/f; sleep 1000 & echo $!; echo ready; wait";
        let mut vm = Printing::run(&guest, &["shell", "--", "sh", "-c", script]);
        let text = vm.read_until("ready");
        let child = text.lines().next().unwrap();
        let dir = guest.path("cores");
        checkpoint(&guest, &["t", "1", dir.to_str().unwrap(), "--tree", "--kill"]);
        vm.end();
        let root = shell_folder(&guest);
        add_core(&root, dir.join(format!("{child}.core")));
        let run = ["run", root.to_str().unwrap(), "--", "/bin/sh", "-c", "exec /bin/core"];
        let done = guest.run(&run, "");
        assert!(done.code == 126 && done.stdout.contains("No data available"), "{done:?}");
    }

    #[test]
    fn file_that_changed_is_named_and_nothing_goes_on() {
        let guest = Guest::new();
        let script =
            "cat /etc/passwd > /tmp/x; exec 7</tmp/x; read -r a <&7; echo ready; sleep 1000";
        let mut vm = Printing::run(&guest, &["shell", "--", "sh", "-c", script]);
        vm.read_until("ready");
        let dir = guest.path("cores");
        let dir = dir.to_str().unwrap();
        checkpoint(&guest, &["t", "1", dir, "--tree"]);
        vm.kill(&guest);
        // Another machine has no /tmp/x.
        let done = guest.run(&["run", "--resume", dir, "shell"], "");
        assert_eq!(done.code, 125, "{done:?}");
        assert!(done.stderr.contains("process 1: descriptor 7: /tmp/x: ENOENT"), "{done:?}");
        // Another image has another shell at that path, or none.
        let done = guest.run(&["run", "--resume", dir, "bash"], "");
        assert_eq!(done.code, 125, "{done:?}");
        assert!(done.stderr.contains("process 1: "), "{done:?}");
    }

    #[test]
    fn file_of_other_content_or_size_is_refused() {
        let guest = Guest::new();
        let root = shell_folder(&guest);
        let (data, wait) = (root.join("data"), root.join("wait"));
        std::fs::write(&data, "first\nsecond\n").unwrap();
        std::fs::write(&wait, "").unwrap();
        let script = "exec 7</data; read -r a <&7; echo ready
            while [ -e /wait ]; do sleep 0.1; done; cat <&7; exit 4";
        let image = root.to_str().unwrap();
        let mut vm = Printing::run(&guest, &[image, "--", "/bin/sh", "-c", script]);
        vm.read_until("ready");
        let dir = guest.path("cores");
        let dir = dir.to_str().unwrap();
        checkpoint(&guest, &["t", "1", dir, "--kill"]);
        vm.end();
        std::fs::remove_file(&wait).unwrap();
        for (content, why) in [
            ("first\nSECOND\n", "descriptor 7: /data does not hold what it held"),
            ("first\n", "descriptor 7: /data has 6 bytes, and had 13"),
        ] {
            std::fs::write(&data, content).unwrap();
            let done = guest.run(&["run", "--resume", dir, image], "");
            assert_eq!(done.code, 125, "{done:?}");
            assert!(done.stderr.contains(&format!("process 1: {why}")), "{done:?}");
        }
        std::fs::write(&data, "first\nsecond\n").unwrap();
        // As often as one likes: a checkpoint is not used up.
        for _ in 0..2 {
            let done = guest.run(&["run", "--resume", dir, image], "");
            assert_eq!((done.code, &*done.stdout), (4, "second\n"), "{done:?}");
        }
    }
}
