//! Starting programs and waiting for them.
//!
//! By fork and execve and nothing else: the standard library's `Command` wants sockets as soon as the
//! child has something to do before it executes, and a young kernel need not have them.

use crate::console::Console;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, setsid,
};
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long one program of a plan may take: far longer than any does, on a busy host under two emulations, too.
const TIMEOUT: Duration = Duration::from_secs(180);

nix::ioctl_write_int_bad!(
    /// Makes a terminal the controlling terminal of the caller's session.
    set_controlling_terminal,
    0x540e
);

/// Runs the command whose words stand NUL-separated in `argv` on the console; gives back its status.
pub fn run_on_console(argv: &[u8], console: &Console) -> i32 {
    let words = argv.split(|byte| *byte == 0).map(CString::new).collect::<Result<Vec<_>, _>>();
    let words = words.unwrap_or_default();
    let started = start(&words, || {
        // SAFETY: an ioctl on a descriptor that is open; it takes a number and no memory.
        unsafe { set_controlling_terminal(std::os::fd::AsRawFd::as_raw_fd(console.file()), 0) }?;
        dup2_stdin(console.file())?;
        dup2_stdout(console.file())?;
        dup2_stderr(console.file())
    });
    let status = started.and_then(|pid| waitpid(pid, None));
    match status {
        Ok(WaitStatus::Exited(_, code)) => code,
        Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
        Ok(_) => 125,
        Err(error) => {
            console.print(&format!("runner: {error}\n"));
            125
        }
    }
}

/// Runs every program of `plan`, one after the other, and reports each; `snapshots` times while it runs the
/// machine is saved.
pub fn run_plan(plan: &str, snapshots: Option<&str>, console: &Console) {
    for path in plan.lines().filter(|line| !line.is_empty()) {
        let name = path.rsplit('/').next().unwrap_or(path);
        console.print(&format!("\x1e\x1ebegin {name}\n"));
        let (status, output) = run_alone(path, name, snapshots);
        console.print(&format!("\x1e\x1eend {name} {status} {}\n", output.len()));
        console.write(&output);
        console.print("\n");
    }
}

fn run_alone(path: &str, name: &str, snapshots: Option<&str>) -> (String, Vec<u8>) {
    let folder = Path::new("/tmp").join(name);
    let output = Path::new("/tmp").join(format!("{name}.output"));
    let forced = snapshots.map(|count| format!("{} {count}", seed(name)));
    let status = match start_alone(path, &folder, &output, forced.as_deref()) {
        Ok(pid) => wait(pid),
        Err(error) => format!("start-failed:{}", error as i32),
    };
    let text = fs::read(&output).unwrap_or_default();
    let _ = fs::remove_file(&output);
    (status, text)
}

/// A number that stands for a name (FNV-1a).
fn seed(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Starts `path` in the new folder `folder`, with nothing to read and its output in a file; the words in
/// `forced` go to /proc/belljar/forced_snapshots.
fn start_alone(path: &str, folder: &Path, output: &Path, forced: Option<&str>) -> nix::Result<Pid> {
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    fs::create_dir_all(folder).map_err(errno)?;
    let output = File::create(output).map_err(errno)?;
    let input = File::open("/dev/null").map_err(errno)?;
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    start(&[path], || {
        chdir(folder)?;
        dup2_stdin(&input)?;
        dup2_stdout(&output)?;
        dup2_stderr(&output)?;
        match forced {
            Some(words) => fs::write("/proc/belljar/forced_snapshots", words).map_err(errno),
            None => Ok(()),
        }
    })
}

/// Starts a program in a session of its own, after `prepare`. A name without a slash is looked for in
/// [`PATH`]. If it cannot be executed, the child says so and exits with 127 or 126, like a shell's.
fn start(argv: &[CString], prepare: impl FnOnce() -> nix::Result<()>) -> nix::Result<Pid> {
    // SAFETY: the runner has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let error = setsid().and_then(|_| prepare()).and_then(|()| execute(argv)).unwrap_err();
            let name = argv.first().map(|name| name.to_string_lossy()).unwrap_or_default();
            eprintln!("{name}: {}", error.desc());
            std::process::exit(if error == Errno::ENOENT { 127 } else { 126 })
        }
    }
}

fn execute(argv: &[CString]) -> nix::Result<()> {
    let program = argv.first().ok_or(Errno::ENOENT)?;
    let environment = [CString::from(c"HOME=/"), CString::from(c"TERM=vt100"), path_variable()];
    if program.as_bytes().contains(&b'/') {
        execve(program, argv, &environment)?;
    }
    let mut last = Errno::ENOENT;
    for folder in PATH {
        let path = [folder.to_bytes(), b"/", program.as_bytes()].concat();
        let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
        match execve(&path, argv, &environment) {
            Ok(never) => match never {},
            Err(Errno::ENOENT) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn path_variable() -> CString {
    let folders = PATH.map(|folder| folder.to_string_lossy()).join(":");
    CString::new(format!("PATH={folders}")).unwrap_or_default()
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

const PATH: [&CStr; 4] = [c"/bin", c"/sbin", c"/usr/bin", c"/usr/sbin"];
