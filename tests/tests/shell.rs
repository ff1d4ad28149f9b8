//! The whole path with the real kernel and BusyBox: what goes in and comes out through the command line.

use std::io::Read;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use belljar_tests::guest::Guest;
use belljar_tests::sandbox::eventually;
use belljar_tests::terminal::Terminal;

#[test]
fn a_pipeline_prints_exactly_its_output_and_passes_its_status_on() {
    let guest = Guest::new();
    let done = guest.sh("echo $((6*7)) | cat; exit 7");
    assert_eq!((done.code, &*done.stdout, &*done.stderr), (7, "42\n", ""));
    guest.assert_clean();
}

#[test]
fn output_is_byte_for_byte_what_the_program_wrote() {
    let done = Guest::new().sh(r"printf 'a\r\nb\tc\001\n\n'");
    assert_eq!((done.code, &*done.stdout), (0, "a\r\nb\tc\u{1}\n\n"));
}

#[test]
fn output_that_is_read_late_is_whole() {
    let guest = Guest::new();
    let mut command = guest.command(&["run", "shell", "--", "seq", "200000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    // Every buffer on the way fills up meanwhile.
    sleep(Duration::from_secs(4));
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!((printed.len(), printed == expected), (expected.len(), true));
}

#[test]
fn input_from_a_pipe_reaches_the_program_whole_and_ends() {
    let lines: String = (0..2000).map(|n| format!("line {n}\n")).collect();
    let done = Guest::new().run(&["run", "shell", "--", "cat"], &lines);
    assert_eq!((done.code, done.stdout), (0, lines));
}

#[test]
fn a_piped_console_is_no_terminal_and_passes_any_byte() {
    let guest = Guest::new();
    let done = guest.sh("[ -t 0 ] || echo 0; [ -t 1 ] || echo 1; cat; cat; echo end");
    assert_eq!((done.code, &*done.stdout), (0, "0\n1\nend\n"));
    let bytes: String = (0..128).map(char::from).cycle().take(20_000).collect();
    let done = guest.run(&["run", "shell", "--", "cat"], &bytes);
    assert_eq!((done.code, done.stdout == bytes), (0, true));
    let done = guest.run(&["run", "shell"], "echo $((6*7))\nexit 3\n");
    assert_eq!(done.code, 3);
    assert!(done.stdout.ends_with("42\n"), "{done:?}");
}

#[test]
fn arguments_and_environment_arrive_as_they_are() {
    let script = r#"printf '[%s]' "$0" "$@" "$A" "$HOME""#;
    let args = ["run", "--env", "A=b  c", "shell", "--", "sh", "-c", script, "x y", "", "ü"];
    let done = Guest::new().run(&args, "");
    assert_eq!((done.code, &*done.stdout), (0, "[x y][][ü][b  c][/root]"));
}

#[test]
fn everyday_commands_work() {
    let script = "
        find / -xdev | wc -l | { read n; [ $n -gt 100 ] && echo find; }
        ls -l /bin | sort | head -n 3 | wc -l
        (sleep 1; echo late) & wait
        trap 'echo trapped' USR1; kill -USR1 $$
        cat <<end
here $((1+1))
end
        false; echo $?";
    let done = Guest::new().sh(script);
    assert_eq!((done.code, &*done.stdout), (0, "find\n3\nlate\ntrapped\nhere 2\n1\n"));
}

#[test]
fn many_bytes_through_pipes_are_the_right_ones() {
    let done = Guest::new().sh("yes | head -n 100000 | md5sum; yes | head -n 100000 | wc -c");
    assert_eq!(done.stdout, "eda1b2a5649ead4aaf46ae7bb418a101  -\n200000\n");
}

#[test]
fn a_pipeline_of_two_hundred_processes_passes_its_line_on() {
    let script = format!("echo through {}", "| cat ".repeat(200));
    let done = Guest::new().sh(&script);
    assert_eq!((done.code, &*done.stdout), (0, "through\n"));
}

#[test]
fn the_shell_works_in_32_megabytes() {
    let args = ["run", "--memory", "32M", "shell", "--", "sh", "-c", "ls / | wc -l; exit 9"];
    let done = Guest::new().run(&args, "");
    assert_eq!(done.code, 9, "{done:?}");
}
#[test]
fn two_cpus_are_used_and_shown() {
    let args = ["run", "--cpus", "2", "shell", "--", "nproc"];
    assert_eq!(Guest::new().run(&args, "").stdout, "2\n");
}

#[test]
fn a_timeout_ends_a_busy_guest() {
    let args = ["run", "--timeout", "5s", "shell", "--", "sh", "-c", "while :; do :; done"];
    assert_eq!(Guest::new().run(&args, "").code, 124);
}

#[test]
fn a_paused_guest_does_not_notice() {
    let guest = Guest::new();
    let script = "while :; do cut -d ' ' -f 1 /proc/uptime; sleep 0.1; done";
    let run = ["run", "--detach", "--name", "t", "shell", "--", "sh", "-c", script];
    assert_eq!(guest.run(&run, "").code, 0);
    // The guest's clock as it was last printed, and how often that was.
    let look = || -> (usize, f64) {
        let console = guest.console("t");
        let lines: Vec<f64> = console.lines().flat_map(|line| line.trim().parse()).collect();
        (lines.len(), lines.last().copied().unwrap_or(0.0))
    };
    let next = |seen: usize| -> (usize, f64) {
        let mut now = (seen, 0.0);
        eventually("the guest prints more", || {
            now = look();
            now.0 > seen
        });
        now
    };
    let (seen, _) = next(0);
    // The line after the next two was read from the clock after this.
    let start = Instant::now();
    let (_, first) = next(seen + 2);
    assert_eq!(guest.run(&["pause", "t"], "").code, 0);
    let paused = Instant::now();
    let (standing, _) = look();
    sleep(Duration::from_secs(4));
    assert_eq!(look().0, standing, "it printed while it was paused");
    assert!(!guest.rows(&["ps", "t"]).is_empty());
    let pause = paused.elapsed();
    assert_eq!(guest.run(&["unpause", "t"], "").code, 0);
    let (_, last) = next(standing);
    let ran = start.elapsed() - pause;
    assert!(
        last > first && last - first <= ran.as_secs_f64() + 0.1,
        "{first} to {last} in {ran:?}"
    );
    assert_eq!(guest.run(&["kill", "t"], "").code, 0);
    guest.assert_clean();
}

#[test]
fn a_built_image_boots_by_itself() {
    let guest = Guest::new();
    let (file, greeting) = built_hello(&guest);
    let built = guest.run(&["run", &file], "");
    assert_eq!((built.code, built.stdout.lines().next()), (0, Some(&*greeting)));
}

/// The file that `belljar build` makes of the image `hello`, and what that prints first.
fn built_hello(guest: &Guest) -> (String, String) {
    let file = guest.path("h.img").to_str().unwrap().to_owned();
    let done = guest.run(&["build", "hello", "-o", &file], "");
    assert_eq!(done.code, 0, "{done:?}");
    let alone = guest.run(&["run", "hello"], "");
    assert_eq!(alone.code, 0, "{alone:?}");
    // What follows the greeting depends on the time.
    (file, alone.stdout.lines().next().unwrap().to_owned())
}

#[test]
fn views_show_what_runs_from_outside() {
    let guest = Guest::new();
    let script = "sleep 100 & sleep 200 & wait";
    let done =
        guest.run(&["run", "--detach", "--name", "t", "shell", "--", "sh", "-c", script], "");
    assert_eq!((done.code, &*done.stdout), (0, "t\n"), "{done:?}");
    let mut rows = Vec::new();
    eventually("both sleeps sleep", || {
        rows = guest.try_rows(&["ps", "t"]).unwrap_or_default();
        let asleep = |row: &&serde_json::Value| row["comm"] == "sleep" && row["state"] == "S";
        rows.iter().filter(asleep).count() == 2
    });
    let row = |pid: u64| rows.iter().find(|row| row["pid"] == pid).unwrap();
    assert_eq!(row(1)["comm"], "sh");
    for sleeper in rows.iter().filter(|row| row["comm"] == "sleep") {
        assert_eq!(sleeper["ppid"], 1);
    }
    assert_eq!(row(2)["comm"], "[kthreadd]");

    for view in ["ps", "pstree", "runq", "log"] {
        let done = guest.run(&[view, "t"], "");
        assert_eq!(done.code, 0, "{view}: {done:?}");
        assert!(done.stdout.lines().count() > 1, "{view}: {done:?}");
    }
    for view in ["task", "maps", "bt"] {
        assert!(!guest.rows(&[view, "t", "1"]).is_empty(), "{view}");
    }
    let start = guest.rows(&["maps", "t", "1"])[0]["start"].as_str().unwrap().to_owned();
    assert!(!guest.rows(&["vtop", "t", "1", &start]).is_empty());

    // A paused guest shows the same twice, byte for byte.
    assert_eq!(guest.run(&["pause", "t"], "").code, 0);
    let once = guest.run(&["ps", "t", "--format", "csv"], "").stdout;
    assert_eq!(guest.run(&["ps", "t", "--format", "csv"], "").stdout, once);
    assert!(once.starts_with("pid,"), "{once}");
    assert_eq!(guest.run(&["kill", "t"], "").code, 0);
    guest.assert_clean();
}

#[test]
fn ps_from_outside_lists_what_ps_inside_lists() {
    let guest = Guest::new();
    let script = "sleep 100 & sleep 200 & ps -o pid,ppid | tail -n +2; echo done; wait";
    let args = ["run", "--detach", "--name", "t", "shell", "--", "sh", "-c", script];
    assert_eq!(guest.run(&args, "").code, 0);
    let mut inside = String::new();
    eventually("ps inside is done", || {
        inside = guest.console("t");
        inside.ends_with("done\n")
    });
    let mut outside = Vec::new();
    // The two processes of the pipeline go on their own.
    eventually("only the sleeps are left", || {
        outside = guest.rows(&["ps", "t"]);
        outside.iter().filter(|row| row["ppid"] == 1).count() == 2
    });
    let outside: Vec<String> =
        outside.iter().map(|row| format!("{} {}", row["pid"], row["ppid"])).collect();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let inside: Vec<String> = inside.lines().filter(|line| *line != "done").map(words).collect();
    for row in &outside {
        assert!(inside.contains(row), "{row:?} of {outside:?} is not in {inside:?}");
    }
    assert_eq!(inside.len(), outside.len() + 2, "{inside:?} {outside:?}");
    assert_eq!(guest.run(&["kill", "t"], "").code, 0);
}

/// A shell at a terminal, at its prompt.
fn at_a_prompt(guest: &Guest) -> Terminal {
    let terminal = Terminal::start(guest.command(&["run", "shell"]));
    terminal.wait_for(PROMPT);
    terminal
}

const PROMPT: &str = ":~# ";

/// Presses a key until `text` is shown: the shell must have made its job the foreground one first.
fn press_until(terminal: &mut Terminal, key: &str, text: &str) {
    eventually(&format!("{text:?} is shown"), || {
        terminal.type_keys(key);
        sleep(Duration::from_millis(200));
        terminal.shown().contains(text)
    });
}

#[test]
fn a_shell_at_a_terminal_has_job_control() {
    let guest = Guest::new();
    let mut terminal = at_a_prompt(&guest);
    terminal.type_keys("echo $((6*7))\r");
    terminal.wait_for("\r\n42\r\n");
    terminal.type_keys("sleep 1000\r");
    press_until(&mut terminal, "\x1a", "[1]+  Stopped");
    terminal.type_keys("jobs; echo listed\r");
    terminal.wait_for("\r\nlisted\r\n");
    terminal.type_keys("fg\r");
    terminal.wait_for("fg\r\nsleep 1000\r\n");
    press_until(&mut terminal, "\x03", "^C");
    terminal.type_keys("echo st$?\r");
    terminal.wait_for("\r\nst130\r\n");
    terminal.type_keys("exit 5\r");
    assert_eq!(terminal.exit_code(), 5);
    terminal.assert_restored();
    guest.assert_clean();
}

#[test]
fn full_screen_programs_work_at_a_terminal() {
    let guest = Guest::new();
    let mut terminal = at_a_prompt(&guest);
    terminal.type_keys("vi /tmp/x\r");
    terminal.wait_for("/tmp/x 1/1");
    terminal.type_keys("ihello");
    terminal.wait_for("hello");
    // Escape by itself, or it is taken for the start of a function key.
    terminal.type_keys("\x1b");
    terminal.wait_for("[Modified]");
    terminal.type_keys(":wq\r");
    terminal.wait_for("1L, 6C");
    terminal.type_keys("cat /tmp/x; echo read\r");
    terminal.wait_for("hello\r\nread\r\n");
    terminal.type_keys("top\r");
    terminal.wait_for("Load average:");
    terminal.type_keys("q");
    terminal.type_keys("exit 6\r");
    assert_eq!(terminal.exit_code(), 6);
}

/// What concerns QEMU alone.
mod qemu {
    use super::*;

    #[test]
    fn a_built_image_boots_in_plain_qemu() {
        let guest = Guest::new();
        let (file, greeting) = built_hello(&guest);
        let output = std::process::Command::new("qemu-system-aarch64")
            .args(["-M", "virt", "-cpu", "max", "-nographic", "-nic", "none", "-kernel", &file])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert!(text.contains(&greeting), "{text}");
    }
}
