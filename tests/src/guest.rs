//! The real kernel and images, as `cargo xtask build` leaves them, and a runtime folder of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::belljar;
use crate::sandbox::{Done, eventually, in_time};

/// A place to run guests from.
pub struct Guest {
    dir: TempDir,
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Guest {
    /// An empty runtime folder.
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("belljar-guest-").unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        Self { dir }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `belljar` with the built home and this runtime folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(belljar());
        command.args(args).env("XDG_RUNTIME_DIR", self.path("run"));
        command
    }

    /// Runs a command with `input` on stdin.
    pub fn run(&self, args: &[&str], input: &str) -> Done {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // The guest may answer before it has read everything.
        let writer = std::thread::spawn(move || {
            // A command that fails at once closes its end.
            let _ = stdin.write_all(input.as_bytes());
        });
        let done = Done::from(child.wait_with_output().unwrap());
        writer.join().unwrap();
        done
    }

    /// Runs a script in the `shell` image.
    pub fn sh(&self, script: &str) -> Done {
        self.run(&["run", "shell", "--", "sh", "-c", script], "")
    }

    /// The rows of a view.
    ///
    /// # Panics
    /// If the view fails.
    pub fn rows(&self, args: &[&str]) -> Vec<Value> {
        self.try_rows(args).unwrap_or_else(|done| panic!("{args:?}: {done:?}"))
    }

    /// The rows of a view, or how it failed: the kernel may not have come far enough yet.
    pub fn try_rows(&self, args: &[&str]) -> Result<Vec<Value>, Done> {
        let done = self.run(&[args, &["--format", "json"]].concat(), "");
        if done.code != 0 {
            return Err(done);
        }
        let answer: Value = serde_json::from_str(&done.stdout).unwrap();
        Ok(answer["rows"].as_array().unwrap().clone())
    }

    /// What the VM `name` says of itself.
    ///
    /// # Panics
    /// If there is none.
    pub fn vm_info(&self, name: &str) -> Value {
        let path = self.path("run/belljar").join(name).join("vm.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// The figures of the VM `name`, each by its name with its labels.
    ///
    /// # Panics
    /// If they are not served.
    pub fn metrics(&self, name: &str) -> HashMap<String, f64> {
        let socket = self.path("run/belljar").join(name).join("api.sock");
        let mut socket = UnixStream::connect(socket).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 ") && head.contains("text/plain; version=0.0.4"), "{head}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        samples.map(sample).collect()
    }

    /// The last of what the VM `name` printed; nothing if it has ended.
    pub fn console(&self, name: &str) -> String {
        self.run(&["console", name], "").stdout.replace('\r', "")
    }

    /// Waits until the VM `name` has printed `text`, and returns all that it printed.
    ///
    /// # Panics
    /// If it does not for a long time: with what the views show of it.
    pub fn wait_until_prints(&self, name: &str, text: &str) -> String {
        let mut console = String::new();
        let prints = || {
            console = self.console(name);
            console.contains(text)
        };
        if !in_time(prints) {
            let shown = self.shown(name);
            panic!("still waiting until {name} prints {text:?}\n{console}\n{shown}");
        }
        console
    }

    /// What the views show of the VM `name`, for a person who wonders why it does not come along.
    pub fn shown(&self, name: &str) -> String {
        let ask = |view: &str| {
            let done = self.run(&[view, name], "");
            format!("{view}: {}{}", done.stdout, done.stderr)
        };
        ["ps", "runq", "log"].map(ask).concat()
    }

    /// Waits until the VM `name` runs, or `child`, which keeps it, has ended.
    pub fn wait_for(&self, name: &str, child: &mut Child) {
        eventually(&format!("VM {name} runs"), || {
            let info = self.path("run/belljar").join(name).join("vm.json");
            let whole = std::fs::read(info).is_ok_and(|text| text.ends_with(b"}\n"));
            whole || child.try_wait().unwrap().is_some()
        });
    }

    /// Waits until the runtime folder is empty.
    pub fn assert_clean(&self) {
        let run = self.path("run");
        eventually("the runtime folder is empty", || {
            std::fs::read_dir(&run).unwrap().next().is_none()
        });
    }
}

/// A guest that has printed something and now waits.
pub struct Waiting {
    /// Where it runs.
    pub guest: Guest,
    child: Child,
    /// What it printed.
    pub printed: Vec<String>,
}

impl Waiting {
    /// Runs `script` in the shell image as VM `t` and reads what it prints, up to the line `END`.
    ///
    /// # Panics
    /// If the guest does not start.
    pub fn start(script: &str) -> Self {
        Self::start_in("shell", script)
    }

    /// The same in another image that has a shell.
    ///
    /// # Panics
    /// If the guest does not start.
    pub fn start_in(image: &str, script: &str) -> Self {
        let guest = Guest::new();
        let mut child = guest
            .command(&["run", "--name", "t", image, "--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let printed = lines.take_while(|line| line != "END").collect();
        Self { guest, child, printed }
    }

    /// The rows of a view of one process.
    pub fn rows(&self, view: &str, pid: u64) -> Vec<Value> {
        self.guest.rows(&[view, "t", &pid.to_string()])
    }
}

impl Drop for Guest {
    /// Ends what still runs: a VM that stands by itself outlives the test that failed in the middle.
    fn drop(&mut self) {
        let Ok(vms) = std::fs::read_dir(self.path("run/belljar")) else { return };
        for vm in vms.flatten() {
            self.run(&["kill", &vm.file_name().to_string_lossy()], "");
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.guest.run(&["kill", "t"], "");
        let _ = self.child.wait();
    }
}
