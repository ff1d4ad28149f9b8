//! Starting programs and waiting for them.

use crate::console::Console;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long one program of a plan may take.
const TIMEOUT: Duration = Duration::from_secs(60);

nix::ioctl_write_int_bad!(
    /// Makes a terminal the controlling terminal of the caller's session.
    set_controlling_terminal,
    0x540e
);

/// Runs the command whose words stand NUL-separated in `argv` on the console; gives back its status.
pub fn run_on_console(argv: &[u8], console: &Console) -> i32 {
    let mut words = argv.split(|byte| *byte == 0).map(std::ffi::OsStr::from_bytes);
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(program);
    command.args(words).env_clear().envs(ENVIRONMENT).current_dir("/");
    let stream = || console.file().try_clone().map_or(Stdio::null(), Stdio::from);
    command.stdin(stream()).stdout(stream()).stderr(stream());
    // SAFETY: between fork and exec the closure makes two system calls and touches no memory that
    // another thread could hold; the runner has no other thread.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            set_controlling_terminal(0, 0)?;
            Ok(())
        });
    }
    match command.status() {
        Ok(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        Err(error) => {
            console.print(&format!("{}: {error}\n", program.to_string_lossy()));
            if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
        }
    }
}

/// Runs every program of `plan`, one after the other, and reports each.
pub fn run_plan(plan: &str, console: &Console) {
    for path in plan.lines().filter(|line| !line.is_empty()) {
        let name = path.rsplit('/').next().unwrap_or(path);
        console.print(&format!("\x1e\x1ebegin {name}\n"));
        let (status, output) = run_alone(path, name);
        console.print(&format!("\x1e\x1eend {name} {status} {}\n", output.len()));
        console.write(&output);
        console.print("\n");
    }
}

fn run_alone(path: &str, name: &str) -> (String, Vec<u8>) {
    let folder = Path::new("/tmp").join(name);
    let output = Path::new("/tmp").join(format!("{name}.output"));
    let status = match start(path, &folder, &output) {
        Ok(pid) => wait(pid),
        Err(error) => format!("start-failed:{}", error.raw_os_error().unwrap_or(0)),
    };
    let text = fs::read(&output).unwrap_or_default();
    let _ = fs::remove_file(&output);
    (status, text)
}

fn start(path: &str, folder: &Path, output: &Path) -> io::Result<Pid> {
    fs::create_dir_all(folder)?;
    let file = File::create(output)?;
    let mut command = Command::new(path);
    command.env_clear().envs(ENVIRONMENT).current_dir(folder);
    command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file);
    // SAFETY: the closure makes one system call.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            Ok(())
        });
    }
    Ok(Pid::from_raw(command.spawn()?.id() as i32))
}

/// Waits for `pid`, reaping every orphan that comes along, then ends whatever it left running.
fn wait(pid: Pid) -> String {
    let start = Instant::now();
    let mut status = None;
    while status.is_none() {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(who, code)) if who == pid => status = Some(code.to_string()),
            Ok(WaitStatus::Signaled(who, signal, _)) if who == pid => {
                status = Some((128 + signal as i32).to_string());
            }
            Ok(WaitStatus::StillAlive) if start.elapsed() > TIMEOUT => {
                status = Some("timeout".to_string());
            }
            Ok(WaitStatus::StillAlive) => sleep(Duration::from_millis(2)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => status = Some(format!("wait-failed:{}", error as i32)),
        }
    }
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while start.elapsed() < 2 * TIMEOUT {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => break,
            Ok(WaitStatus::StillAlive) => sleep(Duration::from_millis(2)),
            _ => {}
        }
    }
    status.unwrap_or_default()
}

const ENVIRONMENT: [(&str, &str); 3] =
    [("PATH", "/bin:/sbin:/usr/bin:/usr/sbin"), ("HOME", "/"), ("TERM", "vt100")];
