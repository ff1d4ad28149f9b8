//! A place of its own for each test: a home with the stub guest, a runtime folder, and the proof at
//! the end that nothing is left in it.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::{belljar, stub};

/// How long anything may take before the test calls it stuck. Not a measure of speed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A temporary folder and the environment that points `belljar` into it.
pub struct Sandbox {
    dir: TempDir,
}

/// What a command left.
#[derive(Debug)]
pub struct Done {
    /// Its exit status.
    pub code: i32,
    /// Its output.
    pub stdout: String,
    /// Its complaints.
    pub stderr: String,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// A sandbox with a home (the stub as kernel, an image `small`) and a program `prog`.
    pub fn new() -> Self {
        let sandbox = Self { dir: TempDir::with_prefix("belljar-e2e-").unwrap() };
        for folder in ["run", "home/images/small", "work/bin"] {
            fs::create_dir_all(sandbox.path(folder)).unwrap();
        }
        fs::write(sandbox.path("home/Image"), stub::image()).unwrap();
        stub::write_program(&sandbox.path("prog"), stub::AARCH64);
        stub::write_program(&sandbox.path("work/bin/init"), stub::AARCH64);
        let recipe = "cmd = ['/bin/init']\n";
        fs::write(sandbox.path("home/images/small/image.toml"), recipe).unwrap();
        let archive = fs::File::create(sandbox.path("home/images/small/rootfs.cpio")).unwrap();
        let program = fs::read(sandbox.path("work/bin/init")).unwrap();
        let mut archive = Some(archive);
        for (name, mode, data) in [("bin", 0o40755, &[][..]), ("bin/init", 0o100755, &program)] {
            let builder = cpio::newc::Builder::new(name).mode(mode).nlink(1);
            let mut writer = builder.write(archive.take().unwrap(), data.len() as u32);
            writer.write_all(data).unwrap();
            archive = Some(writer.finish().unwrap());
        }
        cpio::newc::trailer(archive.unwrap()).unwrap();
        sandbox
    }

    /// A path in the sandbox.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `belljar` with its environment set, in the sandbox's folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(belljar());
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("BELLJAR_HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env_remove("BELLJAR_QEMU");
        command
    }

    /// Runs a command without input.
    pub fn run(&self, args: &[&str]) -> Done {
        self.run_with_input(args, "")
    }

    /// Runs a command with `input` on stdin.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Done {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that fails at once closes its end.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap().into()
    }

    /// Starts a command that goes on, its stdin held open and its output discarded.
    pub fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// The rows of `belljar ls`.
    pub fn ls(&self) -> Vec<Value> {
        let done = self.run(&["ls", "--format", "json"]);
        assert_eq!(done.code, 0, "{done:?}");
        let answer: Value = serde_json::from_str(&done.stdout).unwrap();
        answer["rows"].as_array().unwrap().clone()
    }

    /// Waits until the VM `name` runs and returns its row.
    pub fn wait_for(&self, name: &str) -> Value {
        let mut row = None;
        eventually(&format!("VM {name} runs"), || {
            row = self.ls().into_iter().find(|row| row["name"] == name);
            row.is_some()
        });
        row.unwrap()
    }

    /// The processes that were started here and have not ended, whoever their parent is.
    pub fn processes(&self) -> Vec<u64> {
        let ours = [b"XDG_RUNTIME_DIR=", self.path("run").as_os_str().as_bytes()].concat();
        let here = |pid: &u64| {
            // A zombie has no environment any more.
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == ours)
        };
        let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.to_str()?.parse().ok()).filter(here).collect()
    }

    /// Waits until the runtime folder is empty.
    pub fn assert_clean(&self) {
        eventually("the runtime folder is empty", || is_empty(&self.path("run")));
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    /// Checks that Bell Jar itself failed, with one line that contains all of `parts`.
    pub fn assert_failed(&self, parts: &[&str]) {
        assert_eq!(self.code, 125, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("belljar: "), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {self:?}");
        }
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not for a long time.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(in_time(condition), "still waiting until {what}");
}

/// Waits until `condition` holds; `false` if it does not for a long time.
#[must_use]
pub fn in_time(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: u64) -> bool {
    !matches!(state_of(pid), None | Some('Z' | 'X'))
}

/// A process's state letter, as in proc(5).
pub fn state_of(pid: u64) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}
